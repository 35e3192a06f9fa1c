/* memory: what guests, agents and the scheduler hold of their hosts' memory. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clusterctl/stream.h"
#include "lib/json.h"
#include "lib/str.h"

#define CALL_MS 60000u
#define GUESTS_MAX 100000u
#define REPLY_MAX (64u << 10)
#define ANSWER_MS 10000u /* of one guest; it may be hostile, and say nothing for ever */

struct row {
	char name[STR_FULLNAME_MAX + 1], host[STR_NAME_MAX + 1], image[STR_FULLNAME_MAX + 1];
	uint64_t guest, kernel, runner, tables, disk, cache, agent, total;
	/* What the guest itself says of its memory (--inside). */
	bool inside;
	uint64_t programs, files, own;
};

struct memory {
	struct row *rows;
	size_t count, room;
	uint64_t scheduler;
	struct buf reply; /* of the stream under way */
	int bad;	  /* exit code of the last guest that did not tell */
};

static int on_guests(void *arg, const Um__Envelope *env)
{
	struct memory *m = arg;
	const Um__GetReply *reply = env->get_reply;

	if (env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		return -EPROTO;
	for (size_t i = 0; i < reply->n_guests && m->count < GUESTS_MAX; i++) {
		const Um__GuestInfo *g = reply->guests[i];
		struct row *row;

		if (m->count == m->room) {
			size_t room = m->room ? m->room * 2 : 64;
			struct row *rows = realloc(m->rows, room * sizeof(*rows));

			if (!rows)
				return -ENOMEM;
			m->rows = rows;
			m->room = room;
		}
		row = &m->rows[m->count++];
		*row = (struct row){.guest = 0};
		(void)str_copy(row->name, sizeof(row->name), g->name);
		(void)str_copy(row->host, sizeof(row->host), g->host);
		(void)str_copy(row->image, sizeof(row->image), g->image);
	}
	return 0;
}

static void on_data(void *arg, struct stream *s, uint32_t channel, const uint8_t *data, size_t size)
{
	struct memory *m = arg;

	if (channel == 1 && m->reply.size + size <= REPLY_MAX)
		buf_add(&m->reply, data, size);
	stream_consumed(s, size);
}

struct late {
	struct ctl *ctl;
	bool passed;
};

static void on_late(void *arg)
{
	struct late *late = arg;

	late->passed = true;
	loop_stop(late->ctl->loop);
}

/* Runs the stream to its end; what it said is in m->reply. */
static int ask(struct ctl *ctl, struct memory *m, Um__StreamOpen *open, struct err *err)
{
	static const struct stream_ops ops = {.data = on_data};
	struct late late = {.ctl = ctl};
	struct loop_timer *timer = NULL;
	struct stream s = {.state = STREAM_ENDED};
	int rc;

	m->reply.size = 0;
	rc = loop_timer_open(ctl->loop, "memory", on_late, &late, &timer, err);
	if (rc < 0)
		return rc;
	loop_timer_arm(timer, ANSWER_MS);
	rc = stream_open(&s, ctl, open, &ops, m, err);
	while (rc == 0 && s.state != STREAM_ENDED) {
		(void)loop_run(ctl->loop, NULL);
		if (late.passed)
			rc = err_set(err, -ETIMEDOUT, "%s has not answered in %u s",
				*open->guest ? open->guest : "the scheduler", ANSWER_MS / 1000);
		else if (ctl->interrupted)
			rc = err_set(err, -EINTR, "interrupted");
		else if (s.state != STREAM_ENDED && s.downs != ctl->downs)
			rc = err_set(err, -ECONNRESET, "the connection to the scheduler was lost");
	}
	if (rc == 0 && s.err.code)
		rc = err_set(err, s.err.code, "%s", err_msg(&s.err));
	stream_close(&s);
	loop_timer_close(timer);
	return rc;
}

static int ask_report(struct ctl *ctl, struct memory *m, const char *guest, Um__MemoryReport **out,
	struct err *err)
{
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	int rc;

	open.kind = UM__STREAM_KIND__STREAM_MEMORY;
	open.guest = (char *)(uintptr_t)guest;
	rc = ask(ctl, m, &open, err);
	if (rc < 0)
		return rc;
	*out = um__memory_report__unpack(NULL, m->reply.size, m->reply.data);
	return *out ? 0 : err_set(err, -EPROTO, "the report on memory is broken");
}

/* ---------------------------------------------------------------- inside */

static uint64_t meminfo(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	uint64_t kib = at ? strtoull(at + strlen(key), NULL, 10) : 0;

	return kib < UINT64_C(1) << 40 ? kib << 10 : 0;
}

/* Of what the guest has touched: its programs' memory, files that it keeps, and the rest,
 * which is its kernel's and what is free in it. */
static void ask_inside(struct ctl *ctl, struct memory *m, struct row *row)
{
	char *argv[] = {(char[]){"cat"}, (char[]){"/proc/meminfo"}};
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	struct err err = ERR_INIT;
	const char *text;
	uint64_t shmem, files;

	open.kind = UM__STREAM_KIND__STREAM_EXEC;
	open.guest = row->name;
	open.argv = argv;
	open.n_argv = 2;
	if (ask(ctl, m, &open, &err) < 0)
		return;
	text = buf_text(&m->reply);
	if (!str_starts(text, "MemTotal:"))
		return;
	/* A guest may say what it likes; it has not more than it holds. */
	shmem = meminfo(text, "\nShmem:");
	files = meminfo(text, "\nCached:") + meminfo(text, "\nBuffers:");
	row->programs = meminfo(text, "\nAnonPages:") + shmem;
	if (row->programs > row->guest)
		row->programs = row->guest;
	row->files = files > shmem ? files - shmem : 0;
	if (row->files > row->guest - row->programs)
		row->files = row->guest - row->programs;
	row->own = row->guest - row->programs - row->files;
	row->inside = true;
}

static int ask_row(struct ctl *ctl, struct memory *m, struct row *row, bool inside)
{
	struct err err = ERR_INIT;
	Um__MemoryReport *r = NULL;
	int rc = ask_report(ctl, m, row->name, &r, &err);

	if (rc < 0) {
		m->bad = ctl_fail_err(&err);
		*row->name = '\0';
		return rc == -EINTR || rc == -ECONNRESET ? rc : 0;
	}
	row->guest = r->guest;
	row->kernel = r->kernel;
	row->runner = r->runner;
	row->tables = r->tables;
	row->disk = r->disk;
	row->cache = r->image;
	row->agent = r->agent;
	row->total = r->guest + r->kernel + r->runner + r->tables;
	um__memory_report__free_unpacked(r, NULL);
	if (inside)
		ask_inside(ctl, m, row);
	return 0;
}

static int ask_all(struct ctl *ctl, struct memory *m, bool inside)
{
	struct err err = ERR_INIT;
	Um__MemoryReport *r = NULL;
	size_t n = 0;

	for (size_t i = 0; i < m->count; i++)
		if (ask_row(ctl, m, &m->rows[i], inside) < 0)
			return -1;
	for (size_t i = 0; i < m->count; i++)
		if (*m->rows[i].name)
			m->rows[n++] = m->rows[i];
	m->count = n;
	if (ask_report(ctl, m, "", &r, &err) < 0)
		return m->bad = ctl_fail_err(&err), -1;
	m->scheduler = r->scheduler + r->tables;
	um__memory_report__free_unpacked(r, NULL);
	return 0;
}

/* ---------------------------------------------------------------- output */

static int by_host(const void *a, const void *b)
{
	const struct row *x = a, *y = b;
	int rc = strcmp(x->host, y->host);

	rc = rc ? rc : strcmp(x->image, y->image);
	return rc ? rc : strcmp(x->name, y->name);
}

/* Sums the host whose rows begin at I; an image counts once.  Returns where the next begins. */
static size_t host_sum(const struct memory *m, size_t i, struct row *sum, size_t *guests)
{
	const struct row *r = m->rows;
	size_t k = i;

	*sum = (struct row){.agent = r[i].agent};
	for (; k < m->count && strcmp(r[k].host, r[i].host) == 0; k++) {
		sum->total += r[k].total;
		sum->disk += r[k].disk;
		if (k == i || strcmp(r[k].image, r[k - 1].image) != 0)
			sum->cache += r[k].cache;
	}
	*guests = k - i;
	sum->total += sum->agent;
	return k;
}

static void add_mib(struct table *t, uint64_t bytes)
{
	table_addf(t, "%.2f", (double)bytes / (1 << 20));
}

static void print_tables(const struct memory *m, bool inside)
{
	static const char *const guests[] = {"GUEST", "HOST", "MIB", "MEMORY", "KERNEL", "RUNNER",
		"TABLES", "DISK CACHE", "PROGRAMS", "FILES", "OWN"};
	static const char *const hosts[] = {
		"HOST", "GUESTS", "MIB", "AGENT", "IMAGE CACHE", "DISK CACHE"};
	struct table *t = table_new(guests, inside ? 11 : 8);

	for (size_t i = 0; i < m->count; i++) {
		const struct row *r = &m->rows[i];
		const uint64_t parts[] = {
			r->total, r->guest, r->kernel, r->runner, r->tables, r->disk};
		const uint64_t within[] = {r->programs, r->files, r->own};

		table_add(t, r->name);
		table_add(t, r->host);
		for (size_t k = 0; k < 6; k++)
			add_mib(t, parts[k]);
		for (size_t k = 0; inside && k < 3; k++)
			if (r->inside)
				add_mib(t, within[k]);
			else
				table_add(t, "-");
	}
	table_print(t, true);
	table_free(t);
	(void)putchar('\n');
	t = table_new(hosts, 6);
	for (size_t i = 0; i < m->count;) {
		struct row sum;
		size_t n, next = host_sum(m, i, &sum, &n);

		table_add(t, m->rows[i].host);
		table_addf(t, "%zu", n);
		add_mib(t, sum.total);
		add_mib(t, sum.agent);
		add_mib(t, sum.cache);
		add_mib(t, sum.disk);
		i = next;
	}
	table_print(t, true);
	table_free(t);
	(void)printf("\nscheduler: %.2f MiB\n", (double)m->scheduler / (1 << 20));
}

static void json_row(struct json *j, const struct row *r)
{
	json_object(j, NULL);
	json_str(j, "name", r->name);
	json_str(j, "host", r->host);
	json_u64(j, "total_bytes", r->total);
	json_u64(j, "memory_bytes", r->guest);
	json_u64(j, "kernel_bytes", r->kernel);
	json_u64(j, "runner_bytes", r->runner);
	json_u64(j, "tables_bytes", r->tables);
	json_u64(j, "disk_cache_bytes", r->disk);
	if (r->inside) {
		json_u64(j, "programs_bytes", r->programs);
		json_u64(j, "files_bytes", r->files);
		json_u64(j, "own_bytes", r->own);
	}
	json_end(j);
}

static void print_json(const struct memory *m)
{
	struct buf out;
	struct json j;

	buf_init(&out);
	json_init(&j, &out, 2);
	json_object(&j, NULL);
	json_array(&j, "guests");
	for (size_t i = 0; i < m->count; i++)
		json_row(&j, &m->rows[i]);
	json_end(&j);
	json_array(&j, "hosts");
	for (size_t i = 0; i < m->count;) {
		struct row sum;
		size_t n, next = host_sum(m, i, &sum, &n);

		json_object(&j, NULL);
		json_str(&j, "name", m->rows[i].host);
		json_u64(&j, "guests", n);
		json_u64(&j, "total_bytes", sum.total);
		json_u64(&j, "agent_bytes", sum.agent);
		json_u64(&j, "image_cache_bytes", sum.cache);
		json_u64(&j, "disk_cache_bytes", sum.disk);
		json_end(&j);
		i = next;
	}
	json_end(&j);
	json_u64(&j, "scheduler_bytes", m->scheduler);
	json_end(&j);
	buf_add_byte(&out, '\n');
	(void)fputs(buf_text(&out), stdout);
	buf_free(&out);
}

static int list_guests(struct ctl *ctl, struct memory *m, Um__GetRequest *r)
{
	Um__Envelope env = wire_env(0);
	struct err err = ERR_INIT;

	r->kind = UM__KIND__KIND_GUESTS;
	/* Of those that are not named, who runs. */
	if (!r->n_names)
		r->state = (char *)(uintptr_t) "running";
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = r;
	if (ctl_call(ctl, &env, CALL_MS, on_guests, m, &err) < 0)
		return ctl_fail_err(&err);
	if (!m->count && r->n_names)
		return ctl_fail(EXIT_NOT_FOUND, "no such guest");
	return 0;
}

int cmd_memory(struct ctl *ctl, int argc, char **argv)
{
	const char *format = "table", *deployment = "", *host = "";
	bool inside = false;
	const struct opt opts[] = {
		{OPT_TEXT, "output", 'o', &format},
		{OPT_TEXT, "deployment", 'd', &deployment},
		{OPT_TEXT, "host", 0, &host},
		{OPT_FLAG, "inside", 'i', &inside},
		OPT_LAST,
	};
	Um__GetRequest r = UM__GET_REQUEST__INIT;
	struct memory m = {.rows = NULL};
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;
	bool json = strcmp(format, "json") == 0;

	if (n < 0)
		return -n;
	if (!json && strcmp(format, "table") != 0)
		return ctl_usage(ctl, "-o '%s' is none of table, json", format);
	rc = ctl_connect(ctl);
	if (rc)
		return rc;
	buf_init(&m.reply);
	r.names = argv + 1;
	r.n_names = (size_t)(n - 1);
	r.deployment = (char *)(uintptr_t)deployment;
	r.host = (char *)(uintptr_t)host;
	rc = list_guests(ctl, &m, &r);
	if (rc == 0 && ask_all(ctl, &m, inside) < 0)
		rc = m.bad;
	if (rc == 0) {
		if (m.count)
			qsort(m.rows, m.count, sizeof(*m.rows), by_host);
		if (json)
			print_json(&m);
		else
			print_tables(&m, inside);
		rc = m.bad;
	}
	buf_free(&m.reply);
	free(m.rows);
	return rc;
}
