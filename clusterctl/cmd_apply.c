/* apply and delete, with their plan and progress. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uthash.h>

#include "clusterctl/ctl.h"
#include "clusterctl/lab.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "lib/units.h"

#define CALL_MS 120000u
#define WAIT_DEFAULT_MS 300000u

/* ---------------------------------------------------------------- progress */

struct seen {
	uint64_t uid;
	char name[128], state[16], reason[200];
	bool ready, settled;
	UT_hash_handle hh;
};

struct wait {
	struct ctl *ctl;
	const char *deployment;
	struct seen *guests;
	bool synced, gone, tty;
	uint64_t started, shown; /* when; shown: the last line on a pipe */
	char last[200];
};

static void forget(struct wait *w, uint64_t uid)
{
	struct seen *s;

	HASH_FIND(hh, w->guests, &uid, sizeof(uid), s);
	if (s) {
		HASH_DEL(w->guests, s);
		free(s);
	}
}

static void note(struct wait *w, const Um__GuestInfo *g)
{
	struct seen *s;

	HASH_FIND(hh, w->guests, &g->uid, sizeof(g->uid), s);
	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s)
			abort();
		s->uid = g->uid;
		HASH_ADD(hh, w->guests, uid, sizeof(s->uid), s);
	}
	(void)str_format(s->name, sizeof(s->name), "%.127s", g->name);
	(void)str_format(s->state, sizeof(s->state), "%.15s", g->state);
	(void)str_format(s->reason, sizeof(s->reason), "%.199s", g->reason);
	s->ready = g->ready;
	/* What should be stopped and is, or has ended well by itself, is done. */
	s->settled = g->ready || strcmp(g->state, "stopped") == 0;
}

/* "12/20 ready, 5 starting, 3 fetching  (4s)" */
static void summary(const struct wait *w, char *out, size_t size, bool with_time)
{
	static const char *const order[] = {"running", "starting", "fetching", "placed", "pending",
		"stopping", "stopped", "failed", "lost", "deleting"};
	unsigned count[10] = {0}, ready = 0, all = 0;
	char age[UNITS_TEXT];
	size_t used;

	for (const struct seen *s = w->guests; s; s = s->hh.next) {
		all++;
		ready += s->ready;
		for (size_t i = 0; !s->ready && i < 10; i++)
			count[i] += strcmp(s->state, order[i]) == 0;
	}
	used = (size_t)snprintf(out, size, "%s: %u/%u ready", w->deployment, ready, all);
	for (size_t i = 0; i < 10 && used < size; i++)
		if (count[i])
			used += (size_t)snprintf(
				out + used, size - used, ", %u %s", count[i], order[i]);
	if (with_time && used < size)
		(void)snprintf(out + used, size - used, "  (%s)",
			units_duration(age, (proc_mono_ms() - w->started) / 1000 * 1000));
}

static bool done(const struct wait *w)
{
	for (const struct seen *s = w->guests; s; s = s->hh.next)
		if (w->gone || !s->settled || strcmp(s->state, "deleting") == 0)
			return false;
	return true;
}

static void show(struct wait *w)
{
	char text[200];

	summary(w, text, sizeof(text), w->tty);
	/* On a pipe at most a line a second, but the last one always. */
	if (strcmp(text, w->last) == 0 || (!w->tty && proc_mono_ms() - w->shown < 1000 && !done(w)))
		return;
	w->shown = proc_mono_ms();
	(void)str_copy(w->last, sizeof(w->last), text);
	if (w->tty)
		(void)fprintf(stderr, "\r\033[K%s", text);
	else
		(void)fprintf(stderr, "%s\n", text);
}

static int on_change(void *arg, const Um__Envelope *env)
{
	struct wait *w = arg;
	const Um__GetReply *r = env->get_reply;

	if (env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		return -EPROTO;
	for (size_t i = 0; i < r->n_guests; i++)
		note(w, r->guests[i]);
	for (size_t i = 0; i < r->n_deleted; i++)
		forget(w, strtoull(r->deleted[i], NULL, 16));
	w->synced |= r->synced;
	if (!w->synced)
		return 0;
	show(w);
	return done(w) ? 1 : 0;
}

/* Asked anew: what went away meanwhile is not told. */
static void on_again(void *arg)
{
	struct wait *w = arg;
	struct seen *s, *next;

	HASH_ITER (hh, w->guests, s, next) {
		HASH_DEL(w->guests, s); /* NOLINT: uthash unlinks it */
		free(s);
	}
	w->synced = false;
}

struct deadline {
	struct ctl *ctl;
	struct wait *wait;
	struct loop_timer *timer;
	uint64_t at;
	bool passed;
};

static void on_second(void *arg)
{
	struct deadline *d = arg;
	uint64_t now = proc_mono_ms();

	if (now >= d->at) {
		d->passed = true;
		d->ctl->interrupted = true;
		loop_stop(d->ctl->loop);
		return;
	}
	/* The time shown goes on. */
	if (d->wait->synced)
		show(d->wait);
	loop_timer_arm(d->timer, d->at - now < 1000 ? d->at - now : 1000);
}

static int wait_for(struct ctl *ctl, const char *deployment, bool gone, uint64_t timeout_ms)
{
	struct wait w = {.ctl = ctl,
		.deployment = deployment,
		.gone = gone,
		.tty = isatty(STDERR_FILENO),
		.started = proc_mono_ms()};
	struct deadline d = {.ctl = ctl, .wait = &w, .at = proc_mono_ms() + timeout_ms};
	Um__GetRequest r = UM__GET_REQUEST__INIT;
	Um__Envelope env = wire_env(0);
	struct err err = ERR_INIT;
	struct seen *s, *next;
	unsigned shown = 0, left = 0;
	int rc;

	r.kind = UM__KIND__KIND_GUESTS;
	r.deployment = (char *)(uintptr_t)deployment;
	r.watch = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &r;
	rc = loop_timer_open(ctl->loop, "deadline", on_second, &d, &d.timer, &err);
	if (rc == 0) {
		loop_timer_arm(d.timer, timeout_ms < 1000 ? timeout_ms : 1000);
		rc = ctl_watch(ctl, &env, on_change, on_again, &w, &err);
	}
	loop_timer_close(d.timer);
	if (w.tty)
		(void)fputc('\n', stderr);
	if (rc == 1)
		rc = EXIT_OK;
	else if (d.passed)
		rc = ctl_fail(EXIT_TIMEOUT, gone ? "not all is gone after the timeout"
						 : "not all guests are ready after the timeout");
	else if (rc == -EINTR)
		rc = 130;
	else
		rc = ctl_fail_err(&err);
	HASH_ITER (hh, w.guests, s, next) {
		if (rc != EXIT_OK && rc != 130 && !(s->settled && !gone)) {
			if (shown++ < 20)
				(void)fprintf(stderr, "  %s: %s%s%s\n", s->name, s->state,
					*s->reason ? ", " : "", s->reason);
			else
				left++;
		}
		HASH_DEL(w.guests, s); /* NOLINT: uthash unlinks it */
		free(s);
	}
	if (left)
		(void)fprintf(stderr, "  and %u more\n", left);
	ctl->interrupted = false;
	return rc;
}

/* ---------------------------------------------------------------- plans */

static int print_plan(void *arg, const Um__Envelope *env)
{
	static const char marks[] = {' ', '+', '~', '!', '-'};
	static const char *const colours[] = {"", "\033[32m", "\033[33m", "\033[35m", "\033[31m"};
	const Um__Plan *p = env->plan;
	bool colour = out_colour(STDOUT_FILENO);
	unsigned count[5] = {0};

	(void)arg;
	if (env->body_case != UM__ENVELOPE__BODY_PLAN)
		return -EPROTO;
	for (size_t i = 0; i < p->n_items; i++) {
		const Um__PlanItem *item = p->items[i];
		unsigned op = item->op <= 4 ? (unsigned)item->op : 0;

		count[op]++;
		/* A thousand guests alike are one line each up to a screenful. */
		if (p->n_items > 60 && i >= 50) {
			if (i == 50)
				(void)printf("  ... and %zu more\n", p->n_items - 50);
			continue;
		}
		(void)printf("%s%c %s %s%s", colour ? colours[op] : "", marks[op], item->kind,
			item->name, colour ? "\033[0m" : "");
		for (size_t k = 0; k < item->n_details; k++)
			(void)printf("%s%s", k ? "; " : "  (", item->details[k]);
		(void)printf("%s\n", item->n_details ? ")" : "");
	}
	(void)printf(
		"%s: %u to create, %u to change, %u to replace, %u to delete, %u unchanged%s\n",
		p->deployment, count[1], count[2], count[3], count[4], p->unchanged,
		p->applied ? "" : " (nothing was done)");
	(void)fflush(stdout);
	for (size_t i = 0; i < p->n_warnings; i++)
		(void)fprintf(stderr, "clusterctl: warning: %s\n", p->warnings[i]);
	return 0;
}

/* What the scheduler refused, with places where it says so. */
static int refused(void *arg, const Um__Envelope *env)
{
	const char *file = arg;

	if (env->body_case != UM__ENVELOPE__BODY_ERROR)
		return print_plan(NULL, env);
	for (size_t i = 0; i < env->error->n_details; i++)
		(void)fprintf(stderr, "%s: %s: %s\n", file, env->error->details[i]->path,
			env->error->details[i]->message);
	return 0;
}

static int parse_timeout(struct ctl *ctl, const char *text, uint64_t *out)
{
	struct err err = ERR_INIT;

	*out = WAIT_DEFAULT_MS;
	if (text && units_parse_duration(text, out, &err) < 0)
		return ctl_usage(ctl, "--timeout: %s", err_msg(&err));
	return 0;
}

static int load(struct ctl *ctl, const struct opt_list *files, struct labs *labs)
{
	struct diags diags;
	struct buf text;
	int rc;

	if (!files->count)
		return ctl_usage(
			ctl, "-f FILE is missing (a file, a folder, or - for standard input)");
	diags_init(&diags);
	rc = labs_load(files->items, files->count, labs, &diags);
	if (rc < 0) {
		buf_init(&text);
		diags_text(&diags, &text);
		(void)fputs(buf_text(&text), stderr);
		buf_free(&text);
		rc = ctl_fail(EXIT_FAILED, "nothing was applied: the lab is not valid");
	}
	diags_free(&diags);
	return rc;
}

int cmd_apply(struct ctl *ctl, int argc, char **argv)
{
	struct opt_list files = {.count = 0};
	bool dry_run = false, wait = false;
	const char *timeout = NULL;
	const struct opt opts[] = {
		{OPT_LIST, "file", 'f', &files},
		{OPT_FLAG, "dry-run", 0, &dry_run},
		{OPT_FLAG, "wait", 0, &wait},
		{OPT_TEXT, "timeout", 0, &timeout},
		OPT_LAST,
	};
	struct labs labs = {0};
	struct err err = ERR_INIT;
	uint64_t timeout_ms;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	if (n > 1)
		return ctl_usage(ctl, "'%s' is no option (the lab is given with -f)", argv[1]);
	rc = parse_timeout(ctl, timeout, &timeout_ms);
	if (rc == 0)
		rc = load(ctl, &files, &labs);
	if (rc == 0)
		rc = ctl_connect(ctl);
	for (size_t i = 0; rc == 0 && i < labs.count; i++) {
		Um__Envelope env = wire_env(0);
		Um__ApplyRequest r = UM__APPLY_REQUEST__INIT;

		r.spec = labs.items[i].spec;
		r.dry_run = dry_run;
		env.body_case = UM__ENVELOPE__BODY_APPLY_REQUEST;
		env.apply_request = &r;
		if (ctl_call(ctl, &env, CALL_MS, refused, labs.items[i].file, &err) < 0)
			rc = ctl_fail_err(&err);
	}
	for (size_t i = 0; rc == 0 && wait && !dry_run && i < labs.count; i++)
		rc = wait_for(ctl, labs.items[i].spec->name, false, timeout_ms);
	labs_free(&labs);
	return rc;
}

int cmd_delete(struct ctl *ctl, int argc, char **argv)
{
	struct opt_list files = {.count = 0};
	bool dry_run = false, wait = false;
	const char *timeout = NULL;
	const struct opt opts[] = {
		{OPT_LIST, "file", 'f', &files},
		{OPT_FLAG, "dry-run", 0, &dry_run},
		{OPT_FLAG, "wait", 0, &wait},
		{OPT_TEXT, "timeout", 0, &timeout},
		OPT_LAST,
	};
	struct labs labs = {0};
	struct err err = ERR_INIT;
	uint64_t timeout_ms;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;
	size_t total;

	if (n < 0)
		return -n;
	if (n < 2 && !files.count)
		return ctl_usage(ctl, "delete which deployment? (a name, or -f FILE)");
	rc = parse_timeout(ctl, timeout, &timeout_ms);
	if (rc == 0 && files.count)
		rc = load(ctl, &files, &labs);
	if (rc == 0)
		rc = ctl_connect(ctl);
	total = (size_t)(n - 1) + labs.count;
	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = 0; rc == 0 && i < total; i++) {
			char *name = i < (size_t)(n - 1)
					     ? argv[i + 1]
					     : labs.items[i - (size_t)(n - 1)].spec->name;
			Um__Envelope env = wire_env(0);
			Um__DeleteRequest r = UM__DELETE_REQUEST__INIT;

			if (pass == 1) {
				if (wait && !dry_run)
					rc = wait_for(ctl, name, true, timeout_ms);
				continue;
			}
			r.deployment = name;
			r.dry_run = dry_run;
			env.body_case = UM__ENVELOPE__BODY_DELETE_REQUEST;
			env.delete_request = &r;
			if (ctl_call(ctl, &env, CALL_MS, print_plan, NULL, &err) < 0)
				rc = ctl_fail_err(&err);
		}
	}
	labs_free(&labs);
	return rc;
}
