#include "guest/runner/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PART_BYTES (40u << 10) /* of items in a frame; the rest is room for the envelope */
#define ITEM_COST 16u	       /* tags and lengths around an item, at most */

static int send_part(Um__GuestConfig *part, bool more, struct buf *out, struct err *err)
{
	Um__Envelope env = wire_env(0);

	part->more = more;
	env.body_case = UM__ENVELOPE__BODY_GUEST_CONFIG;
	env.guest_config = part;
	return wire_frame(&env, WIRE_LINE_MAX, out, err);
}

/* How many of COUNT items from FIRST go into one part: at least one. */
static size_t take(
	size_t first, size_t count, size_t (*cost)(const void *items, size_t i), const void *items)
{
	size_t n = 0, bytes = 0;

	while (first + n < count) {
		bytes += cost(items, first + n) + ITEM_COST;
		if (n && bytes > PART_BYTES)
			break;
		n++;
	}
	return n;
}

static size_t host_cost(const void *items, size_t i)
{
	Um__HostEntry *const *hosts = items;

	return strlen(hosts[i]->name) + hosts[i]->ip.len;
}

static size_t route_cost(const void *items, size_t i)
{
	Um__RouteSpec *const *routes = items;

	return strlen(routes[i]->to) + strlen(routes[i]->via);
}

static size_t env_cost(const void *items, size_t i)
{
	Um__GuestConfig__EnvEntry *const *env = items;

	return strlen(env[i]->key) + strlen(env[i]->value);
}

/* Lists whose items are small: slices of the original arrays. */
static int send_lists(const Um__GuestConfig *config, struct buf *out, struct err *err)
{
	size_t i, n;
	int rc = 0;

	for (i = 0; rc >= 0 && i < config->n_routes; i += n) {
		Um__GuestConfig part = UM__GUEST_CONFIG__INIT;

		n = take(i, config->n_routes, route_cost, config->routes);
		part.routes = config->routes + i;
		part.n_routes = n;
		rc = send_part(&part, true, out, err);
	}
	for (i = 0; rc >= 0 && i < config->n_hosts; i += n) {
		Um__GuestConfig part = UM__GUEST_CONFIG__INIT;

		n = take(i, config->n_hosts, host_cost, config->hosts);
		part.hosts = config->hosts + i;
		part.n_hosts = n;
		rc = send_part(&part, true, out, err);
	}
	for (i = 0; rc >= 0 && i < config->n_env; i += n) {
		Um__GuestConfig part = UM__GUEST_CONFIG__INIT;

		n = take(i, config->n_env, env_cost, config->env);
		part.env = config->env + i;
		part.n_env = n;
		rc = send_part(&part, true, out, err);
		if (rc == -EMSGSIZE)
			return err_set(
				err, rc, "env %.64s is too long for a guest", config->env[i]->key);
	}
	return rc;
}

static int send_run(const char *run, struct buf *out, struct err *err)
{
	char *piece = malloc(PART_BYTES + 1);
	size_t left = strlen(run);
	int rc = piece ? 0 : err_set(err, -ENOMEM, "out of memory for the guest's script");

	while (rc >= 0 && left) {
		Um__GuestConfig part = UM__GUEST_CONFIG__INIT;
		size_t n = left < PART_BYTES ? left : PART_BYTES;

		memcpy(piece, run, n);
		piece[n] = '\0';
		part.run = piece;
		rc = send_part(&part, true, out, err);
		run += n;
		left -= n;
	}
	free(piece);
	return rc;
}

/* A file too large for a part goes on under the same path in the next. */
static int send_file(const Um__FileSpec *file, struct buf *out, struct err *err)
{
	size_t at = 0;
	int rc;

	do {
		Um__GuestConfig part = UM__GUEST_CONFIG__INIT;
		Um__FileSpec piece = *file, *list = &piece;
		size_t n = file->content.len - at;

		piece.content.data = file->content.data + at;
		piece.content.len = n < PART_BYTES ? n : PART_BYTES;
		part.files = &list;
		part.n_files = 1;
		rc = send_part(&part, true, out, err);
		at += piece.content.len;
	} while (rc >= 0 && at < file->content.len);
	return rc;
}

int config_frames(const Um__GuestConfig *config, const struct config_now *now, struct buf *out,
	struct err *err)
{
	/* Scalars come in the last part, so that the time is fresh. */
	Um__GuestConfig last = *config;
	char empty[1] = "";
	size_t i;
	int rc = send_lists(config, out, err);

	if (rc >= 0)
		rc = send_run(config->run, out, err);
	for (i = 0; rc >= 0 && i < config->n_files; i++)
		rc = send_file(config->files[i], out, err);
	if (rc < 0)
		return rc;
	last.n_routes = last.n_hosts = last.n_env = last.n_files = 0;
	last.run = empty;
	last.time_ms = now->time_ms;
	last.seed.data = (uint8_t *)(uintptr_t)now->seed;
	last.seed.len = now->seed_size;
	last.first_boot = config->first_boot && now->first_boot;
	rc = send_part(&last, false, out, err);
	return rc < 0 ? rc : 0;
}

static int send_hosts(Um__HostsUpdate *part, struct buf *out, struct err *err)
{
	Um__Envelope env = wire_env(0);

	env.body_case = UM__ENVELOPE__BODY_HOSTS_UPDATE;
	env.hosts_update = part;
	return wire_frame(&env, WIRE_LINE_MAX, out, err);
}

/* As take(), but the entries of a name are not parted. */
static size_t take_hosts(const Um__HostsUpdate *update, size_t first)
{
	size_t n = take(first, update->n_hosts, host_cost, update->hosts), all = n;

	if (first + n == update->n_hosts)
		return n;
	while (n && strcmp(update->hosts[first + n - 1]->name, update->hosts[first + n]->name) == 0)
		n--;
	return n ? n : all;
}

int config_hosts_frames(const Um__HostsUpdate *update, struct buf *out, struct err *err)
{
	size_t i = 0, gone = 0, n;
	bool first = true;
	int rc = 0;

	while (rc >= 0 && (first || gone < update->n_removed || i < update->n_hosts)) {
		Um__HostsUpdate part = UM__HOSTS_UPDATE__INIT;
		size_t bytes = 0;

		part.full = first && update->full;
		first = false;
		part.removed = update->removed + gone;
		while (gone < update->n_removed && bytes < PART_BYTES / 2) {
			bytes += strlen(update->removed[gone++]) + ITEM_COST;
			part.n_removed++;
		}
		if (gone == update->n_removed && bytes < PART_BYTES / 4) {
			n = take_hosts(update, i);
			part.hosts = update->hosts + i;
			part.n_hosts = n;
			i += n;
		}
		rc = send_hosts(&part, out, err);
	}
	return rc < 0 ? rc : 0;
}
