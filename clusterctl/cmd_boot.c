/* boot-report: where the time of a boot went. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clusterctl/ctl.h"
#include "lib/boottimes.h"
#include "lib/json.h"
#include "lib/str.h"

#define CALL_MS 60000u
#define BAR 32
#define GUESTS_MAX 100000u

/* The phase that ends with a step, and who has it in hand. */
static const struct {
	const char *name, *where, *what;
} phases[BOOTTIMES_STEPS] = {
	[UM__BOOT_STEP__BOOT_ASKED] = {"asked", "scheduler", ""},
	[UM__BOOT_STEP__BOOT_PLACED] = {"placed", "scheduler", "checked, a host chosen"},
	[UM__BOOT_STEP__BOOT_ACCEPTED] = {"accepted", "agent", "stored, sent, heard"},
	[UM__BOOT_STEP__BOOT_SAVED] = {"saved", "agent", "written to the host's disk"},
	[UM__BOOT_STEP__BOOT_FETCHED] = {"fetched", "agent", "image, kernel, modules"},
	[UM__BOOT_STEP__BOOT_DISK] = {"disk", "agent", "COW file made"},
	[UM__BOOT_STEP__BOOT_SLOT] = {"slot", "agent", "waited for other boots"},
	[UM__BOOT_STEP__BOOT_NETWORK] = {"network", "agent", "ports and names"},
	[UM__BOOT_STEP__BOOT_RUNNER] = {"runner", "runner", "process started"},
	[UM__BOOT_STEP__BOOT_KERNEL] = {"jail", "runner", "jail made, kernel started"},
	[UM__BOOT_STEP__BOOT_USERSPACE] = {"kernel", "guest", "kernel to user space"},
	[UM__BOOT_STEP__BOOT_HELLO] = {"hello", "guest", "line opened, runner told"},
	[UM__BOOT_STEP__BOOT_CONFIG] = {"config", "guest", "configuration received"},
	[UM__BOOT_STEP__BOOT_ROOT] = {"root", "guest", "root mounted"},
	[UM__BOOT_STEP__BOOT_NICS] = {"nics", "guest", "addresses and routes"},
	[UM__BOOT_STEP__BOOT_FILES] = {"files", "guest", "names and files written"},
	[UM__BOOT_STEP__BOOT_INIT] = {"init", "guest", "init started"},
	[UM__BOOT_STEP__BOOT_READY] = {"ready", "guest", "run and probe"},
};

/* One guest's, or the medians of many; microseconds.  took < 0: not passed. */
struct report {
	char name[STR_FULLNAME_MAX + 1];
	int64_t at[BOOTTIMES_STEPS], took[BOOTTIMES_STEPS], worst[BOOTTIMES_STEPS];
	int64_t total;
	uint64_t began;
	bool ready;
};

struct reports {
	struct report *list;
	size_t count, room, silent;
};

/* Clocks of two hosts may differ: no step is before the one that caused it. */
static bool report_fill(struct report *r, const Um__GuestInfo *g)
{
	uint64_t last = 0;
	struct boottimes times = {{0}};

	*r = (struct report){.total = 0};
	(void)str_format(r->name, sizeof(r->name), "%s", g->name);
	boottimes_add(&times, g->boot);
	for (size_t i = 0; i < BOOTTIMES_STEPS; i++) {
		uint64_t at = times.at[i];

		r->at[i] = r->took[i] = -1;
		if (!at)
			continue;
		if (!r->began)
			r->began = last = at;
		if (at < last)
			at = last;
		r->at[i] = (int64_t)(at - r->began);
		r->took[i] = (int64_t)(at - last);
		last = at;
		r->total = r->at[i];
	}
	r->ready = times.at[UM__BOOT_STEP__BOOT_READY] != 0;
	return r->began != 0;
}

static int on_guests(void *arg, const Um__Envelope *env)
{
	struct reports *rs = arg;
	const Um__GetReply *reply = env->get_reply;

	if (env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		return -EPROTO;
	for (size_t i = 0; i < reply->n_guests && rs->count < GUESTS_MAX; i++) {
		if (rs->count == rs->room) {
			size_t room = rs->room ? rs->room * 2 : 16;
			struct report *list = realloc(rs->list, room * sizeof(*list));

			if (!list)
				return -ENOMEM;
			rs->list = list;
			rs->room = room;
		}
		if (report_fill(&rs->list[rs->count], reply->guests[i]))
			rs->count++;
		else
			rs->silent++;
	}
	return 0;
}

/* ---------------------------------------------------------------- many guests */

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

/* Median and worst of one step, over those that passed it. */
static void column(const struct reports *rs, size_t step, int64_t *values, struct report *out)
{
	size_t n = 0;

	for (size_t i = 0; i < rs->count; i++)
		if (rs->list[i].took[step] >= 0)
			values[n++] = rs->list[i].took[step];
	out->took[step] = out->worst[step] = out->at[step] = -1;
	if (!n)
		return;
	qsort(values, n, sizeof(*values), by_value);
	out->took[step] = values[n / 2];
	out->worst[step] = values[n - 1];
	out->at[step] = out->total;
	out->total += values[n / 2];
}

static int summarise(const struct reports *rs, struct report *out)
{
	int64_t *values = calloc(rs->count + 1, sizeof(*values));

	*out = (struct report){.ready = true};
	if (!values)
		return ctl_fail(EXIT_FAILED, "memory is short");
	for (size_t step = 0; step < BOOTTIMES_STEPS; step++)
		column(rs, step, values, out);
	free(values);
	return 0;
}

/* ---------------------------------------------------------------- output */

static void bar(char out[BAR * 3 + 1], int64_t from, int64_t took, int64_t total)
{
	static const char block[] = "█";
	int64_t whole = total > 0 ? total : 1;
	int begin = (int)(from * BAR / whole), end = (int)((from + took) * BAR / whole);
	size_t n = 0;

	if (end == begin && took * BAR * 4 > whole)
		end++;
	for (int i = 0; i < begin && i < BAR; i++)
		out[n++] = ' ';
	for (int i = begin; i < end && i < BAR; i++, n += sizeof(block) - 1)
		memcpy(out + n, block, sizeof(block) - 1);
	out[n] = '\0';
}

static void print_table(const struct report *r, bool many)
{
	static const char *const one[] = {"PHASE", "WHERE", "MS", "SHARE", "AT", "", "WHAT"};
	static const char *const all[] = {
		"PHASE", "WHERE", "MEDIAN MS", "SHARE", "WORST", "", "WHAT"};
	struct table *t = table_new(many ? all : one, 7);
	char text[BAR * 3 + 1];

	for (size_t i = 0; i < BOOTTIMES_STEPS; i++) {
		int64_t from = many ? r->at[i] : r->at[i] - r->took[i];

		if (r->took[i] < 0 || (i == 0 && !r->took[i]))
			continue;
		table_add(t, phases[i].name);
		table_add(t, phases[i].where);
		table_addf(t, "%.1f", (double)r->took[i] / 1000);
		table_addf(
			t, "%.0f%%", r->total ? 100 * (double)r->took[i] / (double)r->total : 0.0);
		table_addf(t, "%.1f", (double)(many ? r->worst[i] : r->at[i]) / 1000);
		bar(text, from, r->took[i], r->total);
		table_add(t, text);
		table_add(t, phases[i].what);
	}
	table_print(t, true);
	table_free(t);
}

static void print_one(const struct report *r)
{
	print_table(r, false);
	(void)printf("%s %s after %.1f ms\n", r->name, r->ready ? "was ready" : "is not ready",
		(double)r->total / 1000);
}

static int print_many(const struct reports *rs)
{
	struct report sum;
	int64_t *totals = calloc(rs->count + 1, sizeof(*totals));
	size_t n = 0, middle;
	int rc;

	if (!totals)
		return ctl_fail(EXIT_FAILED, "memory is short");
	rc = summarise(rs, &sum);
	if (rc == 0) {
		print_table(&sum, true);
		for (size_t i = 0; i < rs->count; i++)
			if (rs->list[i].ready)
				totals[n++] = rs->list[i].total;
		qsort(totals, n, sizeof(*totals), by_value);
		middle = n / 2;
		(void)printf("%zu guests, %zu ready", rs->count, n);
		if (n)
			(void)printf(", after %.1f ms (median), %.1f ms (worst)",
				(double)totals[middle] / 1000, (double)totals[n - 1] / 1000);
		(void)putchar('\n');
	}
	free(totals);
	return rc;
}

static void print_json(const struct reports *rs)
{
	struct buf out;
	struct json j;

	buf_init(&out);
	json_init(&j, &out, 2);
	json_array(&j, NULL);
	for (size_t i = 0; i < rs->count; i++) {
		const struct report *r = &rs->list[i];
		char when[40];

		json_object(&j, NULL);
		json_str(&j, "name", r->name);
		json_str(&j, "began_at", out_time(when, r->began / 1000));
		json_bool(&j, "ready", r->ready);
		json_double(&j, "total_ms", (double)r->total / 1000);
		json_array(&j, "phases");
		for (size_t k = 0; k < BOOTTIMES_STEPS; k++) {
			if (r->took[k] < 0)
				continue;
			json_object(&j, NULL);
			json_str(&j, "phase", phases[k].name);
			json_str(&j, "where", phases[k].where);
			json_double(&j, "ms", (double)r->took[k] / 1000);
			json_double(&j, "at_ms", (double)r->at[k] / 1000);
			json_end(&j);
		}
		json_end(&j);
		json_end(&j);
	}
	json_end(&j);
	buf_add_byte(&out, '\n');
	(void)fputs(buf_text(&out), stdout);
	buf_free(&out);
}

static int show(const struct reports *rs, bool json)
{
	if (json) {
		print_json(rs);
		return EXIT_OK;
	}
	if (rs->count == 1) {
		print_one(&rs->list[0]);
		return EXIT_OK;
	}
	return print_many(rs);
}

int cmd_boot_report(struct ctl *ctl, int argc, char **argv)
{
	const char *format = "table", *deployment = "";
	const struct opt opts[] = {
		{OPT_TEXT, "output", 'o', &format},
		{OPT_TEXT, "deployment", 'd', &deployment},
		OPT_LAST,
	};
	Um__Envelope env = wire_env(0);
	Um__GetRequest r = UM__GET_REQUEST__INIT;
	struct reports rs = {.list = NULL};
	struct err err = ERR_INIT;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;
	bool json = strcmp(format, "json") == 0;

	if (n < 0)
		return -n;
	if (n < 2 && !*deployment)
		return ctl_usage(ctl, "boot-report GUEST... | -d DEPLOYMENT");
	if (!json && strcmp(format, "table") != 0)
		return ctl_usage(ctl, "-o '%s' is none of table, json", format);
	rc = ctl_connect(ctl);
	if (rc)
		return rc;
	r.kind = UM__KIND__KIND_GUESTS;
	r.names = argv + 1;
	r.n_names = (size_t)(n - 1);
	r.deployment = (char *)(uintptr_t)deployment;
	r.detail = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &r;
	if (ctl_call(ctl, &env, CALL_MS, on_guests, &rs, &err) < 0)
		rc = ctl_fail_err(&err);
	else if (!rs.count && !rs.silent)
		rc = ctl_fail(EXIT_NOT_FOUND, "no such guest");
	else if (!rs.count)
		rc = ctl_fail(EXIT_FAILED, "no boot is known: the guest was not started yet");
	else
		rc = show(&rs, json);
	free(rs.list);
	return rc;
}
