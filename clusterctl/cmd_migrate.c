/* migrate: guests to other hosts, with their disks. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clusterctl/ctl.h"
#include "clusterctl/show.h"
#include "clusterctl/stream.h"
#include "lib/str.h"
#include "lib/units.h"

#define CALL_MS 60000u

struct moving {
	uint64_t number;
	uint32_t round;
	char guest[128], state[16];
	bool ended;
	bool listed; /* in the list that is being heard */
};

struct migrate {
	struct ctl *ctl;
	bool dry_run, cancel, wait;
	bool live, shown; /* on a terminal: one line, which is there now */
	bool synced;	  /* the list is complete, what follows are changes */
	struct loop_timer *late;
	bool timed_out;
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
	if (item->move) {
		struct moving *at = &m->moves[m->count++];

		at->number = item->move;
		(void)str_copy(at->guest, sizeof(at->guest), item->guest);
	}
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

/* The line on the terminal goes away, also before anything else is printed. */
static void line_clear(struct migrate *m)
{
	if (m->shown)
		(void)fputs("\r\033[K", stderr);
	m->shown = false;
}

static void line_show(struct migrate *m, const Um__MigrationInfo *i)
{
	char text[256];
	uint32_t rows, cols;
	size_t had = 0;

	line_clear(m);
	if (m->left > 1)
		had = (size_t)snprintf(text, sizeof(text), "(%zu moving) ", m->left);
	show_move_line(i, text + had, sizeof(text) - had);
	tty_size(&rows, &cols);
	/* A line that the terminal breaks could not be taken away. */
	(void)fprintf(stderr, "%.*s", (int)cols - 1, text);
	m->shown = true;
}

static void show_end(struct migrate *m, const Um__MigrationInfo *i)
{
	line_clear(m);
	if (strcmp(i->state, "done") == 0)
		show_moved(i);
	else
		m->rc = ctl_fail(EXIT_FAILED, "%s stays on %s: %s", i->guest, i->from, i->reason);
}

static void take_news(struct migrate *m, struct moving *at, const Um__MigrationInfo *i)
{
	char text[256];

	at->listed = true;
	if (at->ended)
		return;
	if (show_move_ended(i)) {
		at->ended = true;
		m->left--;
		show_end(m, i);
		return;
	}
	if (m->live) {
		line_show(m, i);
		return;
	}
	/* In a log, a line for each step is enough. */
	if (strcmp(at->state, i->state) == 0 && at->round == i->round)
		return;
	(void)str_format(at->state, sizeof(at->state), "%.15s", i->state);
	at->round = i->round;
	show_move_line(i, text, sizeof(text));
	(void)fprintf(stderr, "%s\n", text);
}

/* The scheduler remembers only the last of those that have ended. */
static void forgotten(struct migrate *m, struct moving *at)
{
	if (at->ended)
		return;
	at->ended = true;
	m->left--;
	line_clear(m);
	m->rc = ctl_fail(EXIT_FAILED,
		"%s: its move has ended, and what came of it is not known any more; 'clusterctl "
		"get guests %s' tells where it is",
		at->guest, at->guest);
}

static void take_gone(struct migrate *m, const Um__GetReply *r)
{
	for (size_t k = 0; k < m->count; k++)
		for (size_t i = 0; i < r->n_deleted; i++)
			if (strtoull(r->deleted[i], NULL, 16) == m->moves[k].number)
				forgotten(m, &m->moves[k]);
	if (m->synced || !r->synced)
		return;
	m->synced = true;
	for (size_t k = 0; k < m->count; k++)
		if (!m->moves[k].listed)
			forgotten(m, &m->moves[k]);
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
	take_gone(m, r);
	(void)fflush(stdout);
	return m->left ? 0 : 1;
}

static void on_again(void *arg)
{
	struct migrate *m = arg;

	m->synced = false;
	for (size_t k = 0; k < m->count; k++)
		m->moves[k].listed = false;
}

static void on_late(void *arg)
{
	struct migrate *m = arg;

	m->ctl->interrupted = m->timed_out = true;
	loop_stop(m->ctl->loop);
}

static int interrupted(const struct migrate *m)
{
	(void)fprintf(stderr,
		"clusterctl: %sit goes on: 'clusterctl get migrations' shows it, "
		"'clusterctl migrate --cancel",
		m->timed_out ? "not over yet; " : "");
	for (size_t i = 0; i < m->count; i++)
		if (!m->moves[i].ended)
			(void)fprintf(stderr, " %s", m->moves[i].guest);
	(void)fputs("' puts back what still can be\n", stderr);
	return m->timed_out ? EXIT_TIMEOUT : 130;
}

static int wait_for(struct ctl *ctl, struct migrate *m, uint64_t timeout_ms)
{
	Um__GetRequest r = UM__GET_REQUEST__INIT;
	Um__Envelope env = wire_env(0);
	struct err err = ERR_INIT;
	int rc = 0;

	if (!m->left)
		return m->rc;
	if (timeout_ms)
		rc = loop_timer_open(ctl->loop, "migrate", on_late, m, &m->late, &err);
	if (rc < 0)
		return ctl_fail_err(&err);
	if (timeout_ms)
		loop_timer_arm(m->late, timeout_ms);
	r.kind = UM__KIND__KIND_MIGRATIONS;
	r.watch = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &r;
	m->live = isatty(STDERR_FILENO);
	rc = ctl_watch(ctl, &env, on_news, on_again, m, &err);
	loop_timer_close(m->late);
	line_clear(m);
	if (rc == -EINTR)
		return interrupted(m);
	return rc < 0 ? ctl_fail_err(&err) : m->rc;
}

/* ---------------------------------------------------------------- the verb */

int cmd_migrate(struct ctl *ctl, int argc, char **argv)
{
	const char *to = "", *rate = NULL, *downtime = NULL, *timeout = NULL;
	struct migrate m = {.ctl = ctl, .rc = EXIT_OK};
	const struct opt opts[] = {
		{OPT_TEXT, "to", 't', &to},
		{OPT_TEXT, "rate", 0, &rate},
		{OPT_TEXT, "max-downtime", 0, &downtime},
		{OPT_TEXT, "timeout", 0, &timeout},
		{OPT_FLAG, "dry-run", 0, &m.dry_run},
		{OPT_FLAG, "cancel", 0, &m.cancel},
		{OPT_FLAG, "wait", 'w', &m.wait},
		OPT_LAST,
	};
	Um__MigrateRequest r = UM__MIGRATE_REQUEST__INIT;
	Um__Envelope env = wire_env(0);
	struct err err = ERR_INIT;
	uint64_t ms = 0, timeout_ms = 0;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	if (n < 2)
		return ctl_usage(ctl, "which guest? (DEPLOYMENT/GUEST)");
	if (m.cancel && (*to || rate || downtime || timeout || m.dry_run || m.wait))
		return ctl_usage(ctl, "--cancel goes with no other option");
	if (rate && show_parse_rate(rate, &r.rate, &err) < 0)
		return ctl_usage(ctl, "--rate: %s", err_msg(&err));
	if (downtime && (units_parse_duration(downtime, &ms, &err) < 0 || !ms || ms > UINT32_MAX))
		return ctl_usage(ctl, "--max-downtime '%s' is not a duration", downtime);
	if (timeout && (units_parse_duration(timeout, &timeout_ms, &err) < 0 || !timeout_ms))
		return ctl_usage(ctl, "--timeout '%s' is not a duration", timeout);
	if (timeout && !m.wait)
		return ctl_usage(ctl, "--timeout goes with --wait");
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
		rc = m.wait ? wait_for(ctl, &m, timeout_ms) : m.rc;
	free(m.moves);
	return rc;
}
