/* drain: everything off a host. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clusterctl/ctl.h"
#include "clusterctl/show.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "lib/units.h"

#define CALL_MS 60000u

struct drain {
	struct ctl *ctl;
	const char *host;
	bool dry_run, cancel, wait;
	uint32_t guests; /* there when asked */
	/* While it is waited for: */
	struct loop_timer *late;
	uint64_t watch; /* id of the request for moves; 0: none */
	uint64_t *shown;
	size_t shown_count;
	uint32_t moved;
	uint64_t started_at; /* wall clock of the scheduler */
	char line[256];
	bool over, cancelled, patient, stuck;
	/* Passes after which nobody of these can leave. */
	uint64_t pass;
	uint32_t passes, left;
	int rc;
};

#define PASSES 2u /* by which nobody got away, before waiting ends */

/* ---------------------------------------------------------------- the answer */

static int on_answer(void *arg, const Um__Envelope *env)
{
	struct drain *d = arg;
	const Um__DrainReply *r = env->drain_reply;

	if (env->body_case != UM__ENVELOPE__BODY_DRAIN_REPLY)
		return -EPROTO;
	d->guests = r->guests;
	for (size_t i = 0; i < r->n_items; i++) {
		const Um__MigrateItem *item = r->items[i];

		if (item->error)
			d->rc = ctl_fail(EXIT_FAILED, "%s", item->error->message);
		else
			(void)printf(
				"%s would move from %s to %s\n", item->guest, item->from, item->to);
	}
	if (d->cancel)
		(void)printf("%s is not emptied any more; it stays cordoned (guests there: %u)\n",
			d->host, r->guests);
	else if (!d->dry_run && !d->wait)
		(void)printf(
			"%s is being emptied (guests there: %u); see 'clusterctl get migrations'\n",
			d->host, r->guests);
	return 0;
}

/* ---------------------------------------------------------------- news */

static bool is_new(struct drain *d, uint64_t number)
{
	uint64_t *more;

	for (size_t i = 0; i < d->shown_count; i++)
		if (d->shown[i] == number)
			return false;
	more = reallocarray(d->shown, d->shown_count + 1, sizeof(*more));
	if (!more)
		abort();
	d->shown = more;
	d->shown[d->shown_count++] = number;
	return true;
}

static void take_moves(struct drain *d, const Um__GetReply *r)
{
	for (size_t i = 0; i < r->n_migrations; i++) {
		const Um__MigrationInfo *m = r->migrations[i];

		if (!m->drain || !m->ended_at || strcmp(m->from, d->host) != 0 ||
			m->started_at < d->started_at || !is_new(d, m->move))
			continue;
		if (strcmp(m->state, "done") == 0) {
			d->moved++;
			show_moved(m);
		} else {
			(void)fprintf(stderr, "%s stays on %s: %s\n", m->guest, m->from, m->reason);
		}
	}
	(void)fflush(stdout);
}

static void on_moves(void *arg, const Um__Envelope *env, const void *bulk, size_t bulk_size,
	const struct err *err)
{
	struct drain *d = arg;

	(void)bulk;
	(void)bulk_size;
	if (err || env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		d->watch = 0; /* the other one tells */
	else if (d->started_at)
		take_moves(d, env->get_reply);
}

static int on_last_moves(void *arg, const Um__Envelope *env)
{
	if (env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		return -EPROTO;
	take_moves(arg, env->get_reply);
	return 0;
}

static Um__Envelope moves_request(Um__GetRequest *r, bool watch)
{
	Um__Envelope env = wire_env(0);

	um__get_request__init(r);
	r->kind = UM__KIND__KIND_MIGRATIONS;
	r->watch = watch;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = r;
	return env;
}

static void watch_moves(void *arg)
{
	struct drain *d = arg;
	Um__GetRequest r;
	Um__Envelope env = moves_request(&r, true);

	if (d->watch)
		rpc_cancel(d->ctl->rpc, d->watch);
	d->watch = env.id = rpc_add(d->ctl->rpc, 0, on_moves, d);
	if (env.id && ctl_send(d->ctl, &env, NULL) < 0) {
		rpc_cancel(d->ctl->rpc, env.id);
		d->watch = 0;
	}
}

/* Nobody moves, and no host took any of them, again and again: without a time to wait for
 * it, that may be so for ever. */
static bool is_stuck(struct drain *d, const Um__HostInfo *h)
{
	const Um__HostDrain *r = h->drain;

	if (h->guests != d->left)
		d->passes = 0;
	d->left = h->guests;
	if (d->patient || r->moving || r->stuck < h->guests || !r->retry_at ||
		r->retry_at == d->pass || strcmp(h->state, "lost") == 0)
		return false;
	d->pass = r->retry_at;
	return ++d->passes >= PASSES;
}

/* True when there is nothing more to wait for. */
static bool take_host(struct drain *d, const Um__HostInfo *h)
{
	char line[sizeof(d->line)];

	if (!h->drain) {
		d->cancelled = true;
		return true;
	}
	d->started_at = h->drain->started_at;
	if (h->drain->ended_at)
		return true;
	(void)str_format(line, sizeof(line), "%s: %u left, %u moving%s", d->host, h->guests,
		h->drain->moving, strcmp(h->state, "lost") == 0 ? "; the host is lost" : "");
	if (h->drain->stuck)
		(void)str_format(line + strlen(line), sizeof(line) - strlen(line),
			", %u cannot leave: %.150s", h->drain->stuck, h->drain->reason);
	if (strcmp(line, d->line) != 0)
		(void)fprintf(stderr, "%s\n", line);
	(void)str_copy(d->line, sizeof(d->line), line);
	d->stuck = is_stuck(d, h);
	return d->stuck;
}

static int on_host(void *arg, const Um__Envelope *env)
{
	struct drain *d = arg;

	if (env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		return -EPROTO;
	for (size_t i = 0; i < env->get_reply->n_hosts; i++)
		d->over = d->over || take_host(d, env->get_reply->hosts[i]);
	d->cancelled = d->cancelled || env->get_reply->n_deleted;
	return d->over || d->cancelled ? 1 : 0;
}

/* ---------------------------------------------------------------- waiting */

static void on_late(void *arg)
{
	struct drain *d = arg;

	d->ctl->interrupted = true;
	d->rc = EXIT_TIMEOUT;
	loop_stop(d->ctl->loop);
}

static int on_look(void *arg, const Um__Envelope *env)
{
	(void)arg;
	if (env->body_case != UM__ENVELOPE__BODY_DRAIN_REPLY)
		return -EPROTO;
	for (size_t i = 0; i < env->drain_reply->n_items; i++)
		if (env->drain_reply->items[i]->error)
			(void)fprintf(stderr, "%s\n", env->drain_reply->items[i]->error->message);
	return 0;
}

/* Who cannot leave, each with its reason. */
static int say_stuck(struct drain *d)
{
	Um__DrainRequest r = UM__DRAIN_REQUEST__INIT;
	Um__Envelope env = wire_env(0);

	r.host = (char *)(uintptr_t)d->host;
	r.dry_run = true;
	env.body_case = UM__ENVELOPE__BODY_DRAIN_REQUEST;
	env.drain_request = &r;
	(void)ctl_call(d->ctl, &env, CALL_MS, on_look, NULL, NULL);
	return ctl_fail(EXIT_FAILED,
		"%s is not empty: %u moved, %u cannot leave; they run on and are tried again "
		"('clusterctl drain %s --cancel' ends that)",
		d->host, d->moved, d->left, d->host);
}

static int how_it_ended(struct drain *d, uint64_t began)
{
	char took[UNITS_TEXT];

	if (d->stuck)
		return say_stuck(d);
	if (d->cancelled)
		return ctl_fail(EXIT_FAILED,
			"%s is not emptied any more: somebody else asked for it", d->host);
	(void)printf("%s is empty: %u moved, in %s\n", d->host, d->moved,
		units_duration(took, proc_mono_ms() - began));
	return EXIT_OK;
}

static int wait_for(struct drain *d, uint64_t timeout_ms)
{
	char *names[] = {(char *)(uintptr_t)d->host};
	Um__GetRequest r = UM__GET_REQUEST__INIT, last;
	Um__Envelope env = wire_env(0), moves;
	struct err err = ERR_INIT;
	uint64_t began = proc_mono_ms();
	int rc = 0;

	if (timeout_ms)
		rc = loop_timer_open(d->ctl->loop, "drain", on_late, d, &d->late, &err);
	if (rc < 0)
		return ctl_fail_err(&err);
	if (timeout_ms)
		loop_timer_arm(d->late, timeout_ms);
	r.kind = UM__KIND__KIND_HOSTS;
	r.names = names;
	r.n_names = 1;
	r.watch = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &r;
	watch_moves(d);
	rc = ctl_watch(d->ctl, &env, on_host, watch_moves, d, &err);
	loop_timer_close(d->late);
	if (rc == -EINTR)
		return ctl_fail(d->rc ? d->rc : 130,
			"%s is not empty yet%s%s; the moves go on ('clusterctl drain %s --cancel' "
			"stops them)",
			d->host, *d->line ? ": " : "", *d->line ? d->line : "", d->host);
	if (rc < 0)
		return ctl_fail_err(&err);
	/* What came with the last change. */
	moves = moves_request(&last, false);
	(void)ctl_call(d->ctl, &moves, CALL_MS, on_last_moves, d, NULL);
	return how_it_ended(d, began);
}

/* ---------------------------------------------------------------- the verb */

int cmd_drain(struct ctl *ctl, int argc, char **argv)
{
	const char *parallel = NULL, *rate = NULL, *downtime = NULL, *timeout = NULL;
	struct drain d = {.ctl = ctl};
	const struct opt opts[] = {
		{OPT_TEXT, "parallel", 0, &parallel},
		{OPT_TEXT, "rate", 0, &rate},
		{OPT_TEXT, "max-downtime", 0, &downtime},
		{OPT_TEXT, "timeout", 0, &timeout},
		{OPT_FLAG, "dry-run", 0, &d.dry_run},
		{OPT_FLAG, "cancel", 0, &d.cancel},
		{OPT_FLAG, "wait", 'w', &d.wait},
		OPT_LAST,
	};
	Um__DrainRequest r = UM__DRAIN_REQUEST__INIT;
	Um__Envelope env = wire_env(0);
	struct err err = ERR_INIT;
	uint64_t ms = 0, timeout_ms = 0, many = 0;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	if (n != 2)
		return ctl_usage(ctl, n < 2 ? "which host?" : "one host at a time");
	if (d.cancel && (parallel || rate || downtime || d.dry_run || d.wait || timeout))
		return ctl_usage(ctl, "--cancel goes with no other option");
	if (parallel && str_u64(parallel, 1, 64, &many) < 0)
		return ctl_usage(ctl, "--parallel '%s' is not a number from 1 to 64", parallel);
	if (rate && show_parse_rate(rate, &r.rate, &err) < 0)
		return ctl_usage(ctl, "--rate: %s", err_msg(&err));
	if (downtime && (units_parse_duration(downtime, &ms, &err) < 0 || !ms || ms > UINT32_MAX))
		return ctl_usage(ctl, "--max-downtime '%s' is not a duration", downtime);
	if (timeout && (units_parse_duration(timeout, &timeout_ms, &err) < 0 || !timeout_ms))
		return ctl_usage(ctl, "--timeout '%s' is not a duration", timeout);
	if (timeout && !d.wait)
		return ctl_usage(ctl, "--timeout goes with --wait");
	d.patient = timeout != NULL;
	rc = ctl_connect(ctl);
	if (rc)
		return rc;
	d.host = argv[1];
	r.host = argv[1];
	r.parallel = (uint32_t)many;
	r.max_downtime_ms = (uint32_t)ms;
	r.dry_run = d.dry_run;
	r.cancel = d.cancel;
	env.body_case = UM__ENVELOPE__BODY_DRAIN_REQUEST;
	env.drain_request = &r;
	rc = ctl_call(ctl, &env, CALL_MS, on_answer, &d, &err);
	if (rc < 0)
		rc = ctl_fail_err(&err);
	else
		rc = d.wait && !d.dry_run ? wait_for(&d, timeout_ms) : d.rc;
	free(d.shown);
	return rc;
}
