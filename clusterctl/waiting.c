#include "clusterctl/waiting.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uthash.h>

#include "clusterctl/stream.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "lib/units.h"

#define NAMED 20u	 /* guests that a report names */
#define CONSOLES 3u	 /* and of which it shows the console's end */
#define CONSOLE_LINES 8u /* of each */
#define CONSOLE_MS 5000u /* for all of them */

enum outcome { UNDER_WAY, DONE, FAILED };

struct seen {
	uint64_t uid;
	char name[128], state[16], reason[200];
	bool ready;
	uint32_t restarts; /* when it was first seen */
	enum outcome outcome;
	UT_hash_handle hh;
};

struct wait {
	struct ctl *ctl;
	const char *deployment;
	struct seen *guests;
	bool gone; /* until all is */
	bool synced, tty;
	uint64_t started, shown; /* when; shown: the last line on a pipe */
	uint64_t give_up;	 /* when, after a failure; 0: none */
	uint64_t deadline;
	bool passed;
	struct loop_timer *timer;
	char last[200];
};

/* ---------------------------------------------------------------- what is known */

static void forget(struct wait *w, uint64_t uid)
{
	struct seen *s;

	HASH_FIND(hh, w->guests, &uid, sizeof(uid), s);
	if (s) {
		HASH_DEL(w->guests, s);
		free(s);
	}
}

static void forget_all(struct wait *w)
{
	struct seen *s, *next;

	HASH_ITER (hh, w->guests, s, next) {
		HASH_DEL(w->guests, s); /* NOLINT: uthash unlinks it */
		free(s);
	}
}

static enum outcome judge(const struct seen *s, const Um__GuestInfo *g)
{
	bool stopped = strcmp(g->state, "stopped") == 0;

	if (strcmp(g->state, "deleting") == 0)
		return UNDER_WAY;
	if (g->ready || (stopped && strcmp(g->desired, "stopped") == 0))
		return DONE;
	if (g->final)
		return stopped ? DONE : FAILED;
	return strcmp(g->state, "failed") == 0 && g->restarts >= s->restarts + WAITING_TRIES
		       ? FAILED
		       : UNDER_WAY;
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
		s->restarts = g->restarts;
		HASH_ADD(hh, w->guests, uid, sizeof(s->uid), s);
	}
	(void)str_format(s->name, sizeof(s->name), "%.127s", g->name);
	(void)str_format(s->state, sizeof(s->state), "%.15s", g->state);
	(void)str_format(s->reason, sizeof(s->reason), "%.199s", g->reason);
	s->ready = g->ready;
	/* A new placement counts from the beginning. */
	if (g->restarts < s->restarts)
		s->restarts = g->restarts;
	s->outcome = judge(s, g);
}

static unsigned count_of(const struct wait *w, enum outcome outcome)
{
	unsigned n = 0;

	for (const struct seen *s = w->guests; s; s = s->hh.next)
		n += s->outcome == outcome;
	return n;
}

static bool done(const struct wait *w)
{
	if (w->gone)
		return !w->guests;
	return count_of(w, UNDER_WAY) == 0 || (w->give_up && proc_mono_ms() >= w->give_up);
}

/* ---------------------------------------------------------------- progress */

/* "lab: 12/20 ready, 5 starting, 3 fetching  (4s)" */
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

static void arm(struct wait *w)
{
	uint64_t now = proc_mono_ms(), at = now + 1000;

	at = w->deadline < at ? w->deadline : at;
	at = w->give_up && w->give_up < at ? w->give_up : at;
	loop_timer_arm(w->timer, at > now ? at - now : 1);
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
	if (w->gone || !count_of(w, FAILED)) {
		w->give_up = 0; /* another took it up again */
	} else if (!w->give_up) {
		w->give_up = proc_mono_ms() + WAITING_GRACE_MS;
		arm(w);
	}
	show(w);
	return done(w) ? 1 : 0;
}

/* Asked anew: what went away meanwhile is not told. */
static void on_again(void *arg)
{
	struct wait *w = arg;

	forget_all(w);
	w->synced = false;
}

static void on_timer(void *arg)
{
	struct wait *w = arg;

	w->passed = proc_mono_ms() >= w->deadline;
	if (w->passed || (w->synced && done(w))) {
		w->ctl->interrupted = true;
		loop_stop(w->ctl->loop);
		return;
	}
	/* The time shown goes on. */
	if (w->synced)
		show(w);
	arm(w);
}

/* ---------------------------------------------------------------- reports */

static int by_name(const void *a, const void *b)
{
	const struct seen *const *x = a, *const *y = b;

	return strverscmp((*x)->name, (*y)->name);
}

/* Those of this outcome by name; the caller frees. */
static struct seen **sorted(const struct wait *w, enum outcome outcome, size_t *count)
{
	struct seen **list = calloc(HASH_COUNT(w->guests) + 1, sizeof(struct seen *));

	*count = 0;
	if (!list)
		abort();
	for (struct seen *s = w->guests; s; s = s->hh.next)
		if (w->gone || s->outcome == outcome)
			list[(*count)++] = s;
	qsort(list, *count, sizeof(struct seen *), by_name);
	return list;
}

static void print_guests(struct seen *const *list, size_t count)
{
	for (size_t i = 0; i < count && i < NAMED; i++)
		(void)fprintf(stderr, "  %s: %s%s%s\n", list[i]->name, list[i]->state,
			*list[i]->reason ? ", " : "", list[i]->reason);
	if (count > NAMED)
		(void)fprintf(stderr, "  and %zu more\n", count - NAMED);
}

struct tail {
	struct buf text;
};

static void on_tail(void *arg, struct stream *s, uint32_t channel, const uint8_t *data, size_t size)
{
	struct tail *t = arg;

	(void)channel;
	buf_add(&t->text, data, size);
	stream_consumed(s, size);
}

static void on_tail_late(void *arg)
{
	struct ctl *ctl = arg;

	ctl->interrupted = true;
	loop_stop(ctl->loop);
}

/* Behind an escape sequence (ECMA-48) that begins at P. */
static const char *skip_escape(const char *p)
{
	p++;
	if (*p != '[')
		return *p ? p + 1 : p;
	do
		p++;
	while (*p && (*p < '@' || *p > '~'));
	return *p ? p + 1 : p;
}

/* The console of a guest is what the guest wrote: only text of it reaches ours. */
static void print_tail(const char *name, struct buf *text)
{
	const char *p = buf_text(text);
	bool begun = false;

	(void)fprintf(stderr, "the end of the console of %s:\n", name);
	while (*p) {
		if (*p == 0x1b) {
			p = skip_escape(p);
			continue;
		}
		if (*p == '\n' && begun)
			(void)fputc('\n', stderr);
		if (*p == '\n' || *p == '\r') {
			begun = begun && *p != '\n';
			p++;
			continue;
		}
		if (!begun)
			(void)fputs("  | ", stderr);
		begun = true;
		(void)fputc(*p == '\t' || (*p >= ' ' && *p < 0x7f) ? *p : '?', stderr);
		p++;
	}
	if (begun)
		(void)fputc('\n', stderr);
}

/* What cannot be had is left out: the reasons were told. */
static void print_console(struct ctl *ctl, const char *name)
{
	static const struct stream_ops ops = {.data = on_tail};
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	struct tail tail;
	struct stream stream;
	struct err err = ERR_INIT;

	buf_init(&tail.text);
	tail.text.limit = 64u << 10;
	open.kind = UM__STREAM_KIND__STREAM_LOGS;
	open.guest = (char *)(uintptr_t)name;
	open.tail = CONSOLE_LINES;
	if (stream_open(&stream, ctl, &open, &ops, &tail, &err) == 0)
		while (stream.state != STREAM_ENDED && !ctl->interrupted)
			(void)loop_run(ctl->loop, NULL);
	stream_close(&stream);
	if (tail.text.size)
		print_tail(name, &tail.text);
	buf_free(&tail.text);
}

static void print_consoles(struct wait *w, struct seen *const *list, size_t count)
{
	struct loop_timer *late = NULL;

	w->ctl->interrupted = false;
	if (loop_timer_open(w->ctl->loop, "consoles", on_tail_late, w->ctl, &late, NULL) < 0)
		return;
	loop_timer_arm(late, CONSOLE_MS);
	for (size_t i = 0; i < count && i < CONSOLES && !w->ctl->interrupted; i++)
		print_console(w->ctl, list[i]->name);
	loop_timer_close(late);
}

static int report_failed(struct wait *w)
{
	unsigned done_count = count_of(w, DONE), all = HASH_COUNT(w->guests);
	size_t count;
	struct seen **list = sorted(w, FAILED, &count);
	int rc =
		ctl_fail(EXIT_FAILED, "%zu of the %u guests of %s %s failed and will not get ready",
			count, all, w->deployment, count == 1 ? "has" : "have");

	print_guests(list, count);
	print_consoles(w, list, count);
	(void)fprintf(stderr,
		"The lab goes on (%u of %u guests are as they should be). To see more:\n"
		"  clusterctl logs %s; clusterctl describe guest %s\n"
		"Then mend the lab and apply it again, or try the guest once more:\n"
		"  clusterctl restart %s\n",
		done_count, all, list[0]->name, list[0]->name, list[0]->name);
	free(list);
	return rc;
}

static int report_late(struct wait *w)
{
	size_t count;
	struct seen **list;
	int rc = ctl_fail(EXIT_TIMEOUT, w->gone ? "not all is gone after the timeout"
						: "not all guests are ready after the timeout");

	list = sorted(w, UNDER_WAY, &count);
	print_guests(list, count);
	free(list);
	(void)fprintf(stderr, "It goes on: clusterctl get guests --deployment %s --watch\n",
		w->deployment);
	return rc;
}

/* Ctrl-C ends the waiting, not what is waited for. */
static int report_interrupted(const struct wait *w)
{
	char text[200];

	if (w->synced) {
		summary(w, text, sizeof(text), false);
		(void)fprintf(stderr, "clusterctl: no longer waiting; %s goes on (%s)\n",
			w->gone ? "the deletion" : "the lab", text);
	} else {
		(void)fprintf(stderr, "clusterctl: no longer waiting; %s of %s goes on\n",
			w->gone ? "the deletion" : "the start", w->deployment);
	}
	(void)fprintf(
		stderr, "  see it: clusterctl get guests --deployment %s --watch\n", w->deployment);
	if (!w->gone)
		(void)fprintf(stderr, "  end it: clusterctl delete %s\n", w->deployment);
	return 130;
}

/* ---------------------------------------------------------------- the wait */

static int wait_for(struct ctl *ctl, const char *deployment, bool gone, uint64_t timeout_ms)
{
	struct wait w = {.ctl = ctl,
		.deployment = deployment,
		.gone = gone,
		.tty = isatty(STDERR_FILENO),
		.started = proc_mono_ms(),
		.deadline = proc_mono_ms() + timeout_ms};
	Um__GetRequest r = UM__GET_REQUEST__INIT;
	Um__Envelope env = wire_env(0);
	struct err err = ERR_INIT;
	int rc;

	r.kind = UM__KIND__KIND_GUESTS;
	r.deployment = (char *)(uintptr_t)deployment;
	r.watch = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &r;
	rc = loop_timer_open(ctl->loop, "waiting", on_timer, &w, &w.timer, &err);
	if (rc == 0) {
		arm(&w);
		rc = ctl_watch(ctl, &env, on_change, on_again, &w, &err);
	}
	loop_timer_close(w.timer);
	if (w.tty)
		(void)fputc('\n', stderr);
	/* What was heard last counts, also when the timer or Ctrl-C came with it. */
	if (rc == 1 || (rc == -EINTR && w.synced && done(&w)))
		rc = !gone && count_of(&w, FAILED) ? report_failed(&w) : EXIT_OK;
	else if (w.passed)
		rc = report_late(&w);
	else if (rc == -EINTR)
		rc = report_interrupted(&w);
	else
		rc = ctl_fail_err(&err);
	forget_all(&w);
	ctl->interrupted = false;
	return rc;
}

int waiting_ready(struct ctl *ctl, const char *deployment, uint64_t timeout_ms)
{
	return wait_for(ctl, deployment, false, timeout_ms);
}

int waiting_gone(struct ctl *ctl, const char *deployment, uint64_t timeout_ms)
{
	return wait_for(ctl, deployment, true, timeout_ms);
}
