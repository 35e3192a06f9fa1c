/* Moves of guests: as rows, as JSON, as a line of progress. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "clusterctl/show.h"
#include "lib/str.h"
#include "lib/units.h"

static uint64_t between(uint64_t from, uint64_t to)
{
	return from && to > from ? to - from : 0;
}

int show_parse_rate(const char *text, uint64_t *out, struct err *err)
{
	int rc = units_parse_size(text, out, err);

	if (rc == 0 && *out < SHOW_RATE_MIN)
		rc = err_set(err, -ERANGE,
			"'%.40s' is too little to get anywhere: at least 64K (a second), or leave "
			"it out for no limit",
			text);
	return rc;
}

bool show_move_ended(const Um__MigrationInfo *m)
{
	return strcmp(m->state, "done") == 0 || strcmp(m->state, "failed") == 0 ||
	       strcmp(m->state, "cancelled") == 0;
}

static bool is_copying(const Um__MigrationInfo *m)
{
	return strcmp(m->state, "copying") == 0 && m->round;
}

void show_move_line(const Um__MigrationInfo *m, char *out, size_t size)
{
	char sent[UNITS_TEXT], left[UNITS_TEXT], rate[UNITS_TEXT], time[UNITS_TEXT];
	struct buf text;

	buf_init(&text);
	buf_printf(&text, "%s: %s", m->guest, m->state);
	if (is_copying(m)) {
		buf_printf(&text, ", round %u: %s sent, ~%s left", m->round,
			units_size(sent, m->bytes_done), units_size(left, m->bytes_left));
		if (m->rate)
			buf_printf(&text, ", %s/s, %s", units_size(rate, m->rate),
				units_duration(time, m->bytes_left * 1000 / m->rate));
		if (m->expected_ms)
			buf_printf(&text, "; downtime ~%s", units_duration(time, m->expected_ms));
	}
	if (*m->reason)
		buf_printf(&text, ": %s", m->reason);
	(void)snprintf(out, size, "%s", buf_text(&text));
	buf_free(&text);
}

void show_moved(const Um__MigrationInfo *m)
{
	char whole[UNITS_TEXT], stopped[UNITS_TEXT], sent[UNITS_TEXT];

	(void)printf("%s moved from %s to %s in %s, stopped for %s, %s sent\n", m->guest, m->from,
		m->to, units_duration(whole, between(m->started_at, m->running_at)),
		units_duration(stopped, between(m->frozen_at, m->running_at)),
		units_size(sent, m->wire_bytes));
}

/* What it was away, or, with a ~, will be. */
static void downtime_cell(const Um__MigrationInfo *m, struct table *t)
{
	char text[UNITS_TEXT];

	if (between(m->frozen_at, m->running_at))
		table_add(t, units_duration(text, between(m->frozen_at, m->running_at)));
	else if (m->expected_ms && !show_move_ended(m))
		table_addf(t, "~%s", units_duration(text, m->expected_ms));
	else
		table_add(t, "-");
}

void show_move_cells(const Um__MigrationInfo *m, bool wide, struct table *t)
{
	bool ended = show_move_ended(m);
	char text[UNITS_TEXT], age[32];

	table_add(t, m->guest);
	table_add(t, m->from);
	table_add(t, m->to);
	table_add(t, m->state);
	table_addf(t, "%u", m->round);
	table_add(t, units_size(text, m->bytes_total));
	table_add(t, ended ? "-" : units_size(text, m->bytes_left));
	if (is_copying(m) && m->rate)
		table_addf(t, "%s/s", units_size(text, m->rate));
	else
		table_add(t, "-");
	downtime_cell(m, t);
	table_add(t, out_age(age, m->started_at));
	table_add(t, m->reason);
	if (!wide)
		return;
	table_addf(t, "%" PRIu64, m->move);
	table_add(t, units_size(text, m->wire_bytes));
	table_add(t, m->ended_at ? units_duration(text, between(m->started_at, m->ended_at)) : "-");
	table_add(t, m->drain ? "yes" : "no");
}

void show_move_json(const Um__MigrationInfo *m, struct json *j)
{
	json_u64(j, "number", m->move);
	json_str(j, "guest", m->guest);
	json_str(j, "from", m->from);
	json_str(j, "to", m->to);
	json_str(j, "state", m->state);
	json_str(j, "reason", m->reason);
	json_u64(j, "round", m->round);
	json_u64(j, "round_bytes", m->bytes_done);
	json_u64(j, "left_bytes", m->bytes_left);
	json_u64(j, "total_bytes", m->bytes_total);
	json_u64(j, "wire_bytes", m->wire_bytes);
	json_u64(j, "rate", m->rate);
	json_u64(j, "expected_ms", m->expected_ms);
	show_time_json(j, "started_at", m->started_at);
	show_time_json(j, "frozen_at", m->frozen_at);
	show_time_json(j, "running_at", m->running_at);
	show_time_json(j, "ended_at", m->ended_at);
	json_u64(j, "downtime_ms", between(m->frozen_at, m->running_at));
	json_bool(j, "drain", m->drain);
}
