/* migrate: guests to other hosts, with their disks. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clusterctl/ctl.h"
#include "clusterctl/show.h"
#include "lib/str.h"
#include "lib/units.h"

#define CALL_MS 60000u

struct moving {
	uint64_t number;
	uint32_t round;
	char state[16];
	bool ended;
};

struct migrate {
	bool dry_run, cancel, wait;
	struct moving *moves;
	size_t count, left;
	int rc;
};

/* ---------------------------------------------------------------- the answer */

static void take_item(struct migrate *m, const Um__MigrateItem *item)
{
	if (item->error) {
		m->rc = ctl_fail(item->error->code == UM__ERROR_CODE__NOT_FOUND ? EXIT_NOT_FOUND
										: EXIT_FAILED,
			"%s", item->error->message);
		return;
	}
	if (m->dry_run)
		(void)printf("%s would move from %s to %s\n", item->guest, item->from, item->to);
	else if (m->cancel)
		(void)printf("%s stays on %s\n", item->guest, item->from);
	else if (!m->wait)
		(void)printf("%s moves from %s to %s\n", item->guest, item->from, item->to);
	if (item->move)
		m->moves[m->count++].number = item->move;
}

static int on_answer(void *arg, const Um__Envelope *env)
{
	struct migrate *m = arg;
	const Um__MigrateReply *r = env->migrate_reply;

	if (env->body_case != UM__ENVELOPE__BODY_MIGRATE_REPLY)
		return -EPROTO;
	m->moves = calloc(r->n_items + 1, sizeof(*m->moves));
	if (!m->moves)
		abort();
	for (size_t i = 0; i < r->n_items; i++)
		take_item(m, r->items[i]);
	m->left = m->count;
	return 0;
}

/* ---------------------------------------------------------------- waiting */

static void show_end(const Um__MigrationInfo *i)
{
	if (strcmp(i->state, "done") != 0) {
		(void)ctl_fail(EXIT_FAILED, "%s stays on %s: %s", i->guest, i->from, i->reason);
		return;
	}
	show_moved(i);
}

static void show_step(const Um__MigrationInfo *i)
{
	char done[UNITS_TEXT], left[UNITS_TEXT];

	(void)fprintf(stderr, "%s: %s", i->guest, i->state);
	if (strcmp(i->state, "copying") == 0 && i->round)
		(void)fprintf(stderr, ", round %u: %s sent, about %s left", i->round,
			units_size(done, i->bytes_done), units_size(left, i->bytes_left));
	(void)fprintf(stderr, "%s%s\n", *i->reason ? ": " : "", i->reason);
}

static bool has_ended(const char *state)
{
	return strcmp(state, "done") == 0 || strcmp(state, "failed") == 0 ||
	       strcmp(state, "cancelled") == 0;
}

static void take_news(struct migrate *m, struct moving *at, const Um__MigrationInfo *i)
{
	if (at->ended)
		return;
	if (has_ended(i->state)) {
		at->ended = true;
		m->left--;
		show_end(i);
		if (strcmp(i->state, "done") != 0)
			m->rc = EXIT_FAILED;
		return;
	}
	if (strcmp(at->state, i->state) == 0 && at->round == i->round)
		return;
	(void)str_format(at->state, sizeof(at->state), "%.15s", i->state);
	at->round = i->round;
	show_step(i);
}

static int on_news(void *arg, const Um__Envelope *env)
{
	struct migrate *m = arg;
	const Um__GetReply *r = env->get_reply;

	if (env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		return -EPROTO;
	for (size_t i = 0; i < r->n_migrations; i++)
		for (size_t k = 0; k < m->count; k++)
			if (m->moves[k].number == r->migrations[i]->move)
				take_news(m, &m->moves[k], r->migrations[i]);
	(void)fflush(stdout);
	return m->left ? 0 : 1;
}

static void on_again(void *arg)
{
	(void)arg;
}

static int wait_for(struct ctl *ctl, struct migrate *m)
{
	Um__GetRequest r = UM__GET_REQUEST__INIT;
	Um__Envelope env = wire_env(0);
	struct err err = ERR_INIT;
	int rc;

	if (!m->left)
		return m->rc;
	r.kind = UM__KIND__KIND_MIGRATIONS;
	r.watch = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &r;
	rc = ctl_watch(ctl, &env, on_news, on_again, m, &err);
	if (rc == -EINTR) {
		(void)fprintf(stderr, "clusterctl: the moves go on: see 'clusterctl get "
				      "migrations'\n");
		return 130;
	}
	return rc < 0 ? ctl_fail_err(&err) : m->rc;
}

/* ---------------------------------------------------------------- the verb */

int cmd_migrate(struct ctl *ctl, int argc, char **argv)
{
	const char *to = "", *rate = NULL, *downtime = NULL;
	struct migrate m = {.rc = EXIT_OK};
	const struct opt opts[] = {
		{OPT_TEXT, "to", 't', &to},
		{OPT_TEXT, "rate", 0, &rate},
		{OPT_TEXT, "max-downtime", 0, &downtime},
		{OPT_FLAG, "dry-run", 0, &m.dry_run},
		{OPT_FLAG, "cancel", 0, &m.cancel},
		{OPT_FLAG, "wait", 'w', &m.wait},
		OPT_LAST,
	};
	Um__MigrateRequest r = UM__MIGRATE_REQUEST__INIT;
	Um__Envelope env = wire_env(0);
	struct err err = ERR_INIT;
	uint64_t ms = 0;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	if (n < 2)
		return ctl_usage(ctl, "which guest? (DEPLOYMENT/GUEST)");
	if (m.cancel && (*to || rate || downtime || m.dry_run || m.wait))
		return ctl_usage(ctl, "--cancel goes with no other option");
	if (rate && units_parse_size(rate, &r.rate, &err) < 0)
		return ctl_usage(ctl, "--rate: %s", err_msg(&err));
	if (downtime && (units_parse_duration(downtime, &ms, &err) < 0 || !ms || ms > UINT32_MAX))
		return ctl_usage(ctl, "--max-downtime '%s' is not a duration", downtime);
	rc = ctl_connect(ctl);
	if (rc)
		return rc;
	r.guests = argv + 1;
	r.n_guests = (size_t)(n - 1);
	r.to = (char *)(uintptr_t)to;
	r.max_downtime_ms = (uint32_t)ms;
	r.dry_run = m.dry_run;
	r.cancel = m.cancel;
	env.body_case = UM__ENVELOPE__BODY_MIGRATE_REQUEST;
	env.migrate_request = &r;
	rc = ctl_call(ctl, &env, CALL_MS, on_answer, &m, &err);
	if (rc < 0)
		rc = ctl_fail_err(&err);
	else
		rc = m.wait ? wait_for(ctl, &m) : m.rc;
	free(m.moves);
	return rc;
}
