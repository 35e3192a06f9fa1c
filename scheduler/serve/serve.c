#include "scheduler/serve/serve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fs.h"
#include "lib/lease.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "scheduler/serve/serve_int.h"

#define RETRY_MS 200u

static void arm_tick(struct serve *s, uint64_t ms)
{
	s->tick_due = proc_mono_ms() + ms;
	loop_timer_arm(s->tick, ms);
}

/* A process that was stopped, or whose machine was, wakes to its timers first: what its
 * agents sent is still to be read. */
static void check_slept(struct serve *s)
{
	uint64_t now = proc_mono_ms(), late = now > s->tick_due ? now - s->tick_due : 0;

	if (late < s->config.lease_ms / 4)
		return;
	log_warn("the scheduler stood still: that is not counted as silence of hosts",
		LOG_U64("ms", late));
	core_slept(s->core, late, now);
}

static void on_tick(void *arg)
{
	struct serve *s = arg;
	uint64_t next;

	check_slept(s);
	if (s->stuck) {
		arm_tick(s, 1000);
		return;
	}
	s->asked_us = proc_wall_us();
	next = core_tick(s->core, proc_wall_ms(), proc_mono_ms(), &s->out);
	if (s->out.dirty_count || s->out.log_count || s->out.action_count)
		commit_event(s, NULL, NULL, NULL, 0);
	agents_resync(s);
	watch_catch_up(s);
	arm_tick(s, next < 10000 ? next : 10000);
}

void serve_tick_soon(struct serve *s)
{
	arm_tick(s, RETRY_MS);
}

static const struct zsock_ops sock_ops = {.on_message = api_message, .on_bad = api_bad};

static int open_local(struct serve *s, const char *option, const char *endpoint, struct err *err)
{
	const struct zsock_config config = {
		.type = ZSOCK_ROUTER, .name = "local", .send_hwm = 10000, .recv_hwm = 10000};
	char run[600], *slash;
	int rc = 0;

	if (!str_starts(endpoint, "ipc://") || str_format(run, sizeof(run), "%s", endpoint + 6) < 0)
		return err_set(
			err, -EINVAL, "--%s takes ipc://PATH, not '%.80s'", option, endpoint);
	slash = strrchr(run, '/');
	if (slash && slash != run) {
		*slash = 0;
		rc = fs_mkdirs(run, 0755, err);
	}
	if (rc == 0)
		rc = zsock_open(
			s->loop, s->zctx, &config, &sock_ops, s, &s->socks[s->sock_count], err);
	if (rc == 0)
		rc = zsock_bind(s->socks[s->sock_count++], endpoint, err);
	return rc;
}

static int open_sockets(struct serve *s, struct err *err)
{
	const struct serve_config *c = &s->config;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < c->listen_count; i++) {
		const struct zsock_config config = {.type = ZSOCK_ROUTER,
			.name = "scheduler",
			.server = true,
			.secret_key = s->keys.secret_key,
			.public_key = s->keys.public_key,
			.send_hwm = 10000,
			.recv_hwm = 10000};

		rc = zsock_open(
			s->loop, s->zctx, &config, &sock_ops, s, &s->socks[s->sock_count], err);
		if (rc == 0)
			rc = zsock_bind(s->socks[s->sock_count++], c->listen[i], err);
	}
	if (rc == 0 && c->local)
		rc = open_local(s, "local", c->local, err);
	if (rc == 0 && c->local_agents)
		rc = open_local(s, "local-agents", c->local_agents, err);
	return rc;
}

static int open_state(struct serve *s, struct err *err)
{
	const struct core_config config = {.lease_ms = s->config.lease_ms};
	char path[600], url[640];
	uint8_t random[16];
	const char *why;
	bool fresh;
	int rc;

	rc = fs_mkdirs(s->state_dir, 0700, err);
	if (rc < 0)
		return rc;
	if (str_format(path, sizeof(path), "%s/scheduler.key", s->state_dir) < 0 ||
		str_format(url, sizeof(url), "sqlite:%s/cluster.db", s->state_dir) < 0)
		return err_set(err, -ENAMETOOLONG, "the state folder's path is too long");
	rc = curve_load_or_make(path, &s->keys, err);
	if (rc == 0)
		rc = store_open(s->loop, s->config.store ? s->config.store : url, &s->store, err);
	if (rc == 0) {
		store_on_health(s->store, frozen_health, s);
		if (store_health(s->store, &why) != STORE_WELL)
			frozen_health(s, STORE_LOW, why);
	}
	if (rc == 0)
		rc = core_new(&config, &s->core, err);
	if (rc == 0)
		rc = artefacts_open(s, err);
	if (rc == 0)
		rc = records_load(s, err);
	if (rc < 0)
		return rc;
	fresh = !*s->cluster_id;
	if (fresh) {
		proc_random(random, sizeof(random));
		str_hex(s->cluster_id, random, sizeof(random));
	}
	rc = core_loaded(s->core, proc_wall_ms(), proc_mono_ms(), &s->out, err);
	if (rc == 0) {
		if (fresh) {
			struct arena a = {0};
			const struct core_dirty meta = {.kind = CORE_KIND_META, .key = "meta"};
			struct store_op op;

			records_op(s, &meta, &a, &op);
			commit_event(s, NULL, NULL, &op, 1);
			arena_free(&a);
		} else {
			commit_event(s, NULL, NULL, NULL, 0);
		}
		rc = auth_first_keys(s, err);
	}
	return rc;
}

int serve_open(
	struct loop *loop, const struct serve_config *config, struct serve **out, struct err *err)
{
	struct serve *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_set(err, -ENOMEM, "memory is short");
	s->loop = loop;
	s->config = *config;
	s->started_at = proc_wall_ms();
	s->next_session = proc_random_u64() >> 8;
	s->next_stream = proc_random_u64() >> 8;
	rc = lease_choose(&s->config.lease_ms, &s->config.heartbeat_ms, err);
	if (rc < 0)
		goto fail;
	if (config->listen_count > SERVE_SOCKS_MAX - 1) {
		rc = err_set(err, -EINVAL, "more than %d --listen endpoints", SERVE_SOCKS_MAX - 1);
		goto fail;
	}
	if (config->advertise || config->listen_count)
		(void)str_format(s->advertise, sizeof(s->advertise), "%s",
			config->advertise ? config->advertise : config->listen[0]);
	rc = str_copy(s->state_dir, sizeof(s->state_dir), config->state_dir);
	if (rc < 0) {
		(void)err_set(err, rc, "the state folder's path is too long");
		goto fail;
	}
	rc = zctx_new(&s->zctx, err);
	if (rc == 0)
		rc = loop_timer_open(loop, "leases", on_tick, s, &s->tick, err);
	if (rc == 0)
		rc = open_state(s, err);
	if (rc == 0)
		rc = auth_open(s, err);
	if (rc == 0)
		rc = open_sockets(s, err);
	if (rc < 0)
		goto fail;
	arm_tick(s, s->config.lease_ms / 2);
	*out = s;
	return 0;
fail:
	serve_close(s);
	return rc;
}

void serve_close(struct serve *s)
{
	if (!s)
		return;
	/* What is decided becomes durable, and is told, first. */
	store_close(s->store);
	s->store = NULL;
	artefacts_close(s);
	for (size_t i = 0; i < s->sock_count; i++)
		zsock_close(s->socks[i], 200);
	if (s->sock_count < SERVE_SOCKS_MAX)
		zsock_close(s->socks[s->sock_count], 0);
	loop_timer_close(s->tick);
	streams_free(s);
	watch_free(s);
	agents_free(s);
	events_free(s);
	boots_free(s);
	auth_free(s);
	while (s->labs)
		labs_drop(s, s->labs->name);
	core_free(s->core);
	core_out_free(&s->out);
	zctx_free(s->zctx);
	/* After the last work in the pool that may use it. */
	imgstore_close(s->images);
	curve_wipe(&s->keys);
	free(s);
}
