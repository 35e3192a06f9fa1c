/* get: lists, once or as they change. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "clusterctl/show.h"
#include "clusterctl/sorted.h"
#include "clusterctl/yamlout.h"
#include "lib/str.h"

#define LIST_MS 60000u

enum format { TABLE, WIDE, JSON, YAML, NAME };

/* While watching: what is gone is told by its number, and shown by its name. */
struct shown {
	char *key, *name;
	UT_hash_handle hh;
};

struct get {
	struct ctl *ctl;
	const struct kind *kind;
	enum format format;
	struct table *table;
	struct json json;
	struct buf out, row;
	size_t rows;
	bool watch, synced, header;
	struct shown *shown;
	const char *sort; /* NULL: as they come */
	struct sorted sorted;
	struct err err; /* of ours */
	char **names;	/* asked for */
	size_t name_count;
	bool *found;
};

static int flush_out(struct get *g)
{
	if (g->out.size && fwrite(g->out.data, 1, g->out.size, stdout) != g->out.size)
		return -EPIPE;
	g->out.size = 0;
	return 0;
}

static void remember(struct get *g, const char *key, const char *name)
{
	struct shown *s;

	HASH_FIND_STR(g->shown, key, s);
	if (s)
		return;
	s = calloc(1, sizeof(*s));
	if (s) {
		s->key = str_dup(key);
		s->name = str_dup(name);
	}
	if (!s || !s->key || !s->name)
		abort();
	HASH_ADD_KEYPTR(hh, g->shown, s->key, strlen(s->key), s);
}

static void forget(struct get *g, struct shown *s)
{
	HASH_DEL(g->shown, s); /* NOLINT: uthash unlinks it */
	free(s->key);
	free(s->name);
	free(s);
}

static void forget_all(struct get *g)
{
	while (g->shown)
		forget(g, g->shown); /* NOLINT: uthash unlinks it */
}

/* "dep/guest" was asked for by that name, or by "guest". */
static void mark_found(struct get *g, const char *name)
{
	const char *slash = strchr(name, '/');

	for (size_t i = 0; i < g->name_count; i++)
		if (strcmp(g->names[i], name) == 0 ||
			(slash && strcmp(g->names[i], slash + 1) == 0))
			g->found[i] = true;
}

static int print_row(struct get *g, const Um__GetReply *r, size_t i)
{
	struct err err = ERR_INIT;
	Um__Kind kind = g->kind->kind;

	switch (g->format) {
	case TABLE:
	case WIDE:
		(void)show_cells(r, kind, i, g->format == WIDE, g->table);
		break;
	case NAME:
		buf_printf(&g->out, "%s\n", show_name(r, kind, i));
		break;
	case JSON:
		if (g->watch) /* one object a line */
			json_init(&g->json, &g->out, 0);
		(void)show_json(r, kind, i, &g->json);
		if (g->watch)
			buf_add_byte(&g->out, '\n');
		break;
	case YAML:
		g->row.size = 0;
		json_init(&g->json, &g->row, 0);
		(void)show_json(r, kind, i, &g->json);
		if (yamlout((const char *)g->row.data, g->row.size, true, &g->out, &err) < 0)
			return err.code;
		break;
	}
	return 0;
}

static void print_deleted(struct get *g, const char *key)
{
	struct json j;
	struct shown *s;

	HASH_FIND_STR(g->shown, key, s);
	if (!s)
		return; /* not of this list */
	if (g->format == JSON) {
		json_init(&j, &g->out, 0);
		json_object(&j, NULL);
		json_str(&j, "name", s->name);
		json_bool(&j, "deleted", true);
		json_end(&j);
		buf_add_byte(&g->out, '\n');
	} else if (g->format == YAML) {
		buf_printf(&g->out, "- name: %s\n  deleted: true\n", s->name);
	} else {
		buf_printf(&g->out, "%s is gone\n", s->name);
	}
	forget(g, s);
}

static int on_reply(void *arg, const Um__Envelope *env)
{
	struct get *g = arg;
	const Um__GetReply *r = env->get_reply;
	int rc = 0;

	if (env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		return -EPROTO;
	for (size_t i = 0; i < show_count(r, g->kind->kind) && rc == 0; i++) {
		char key[STR_FULLNAME_MAX + 1];

		g->rows++;
		mark_found(g, show_name(r, g->kind->kind, i));
		if (g->watch) {
			show_key(r, g->kind->kind, i, key);
			remember(g, key, show_name(r, g->kind->kind, i));
		}
		if (!g->sort)
			rc = print_row(g, r, i);
	}
	if (g->sort && rc == 0)
		rc = sorted_add(&g->sorted, r, &g->err);
	if (!g->watch || rc < 0)
		return rc < 0 ? rc : flush_out(g);
	g->synced |= r->synced;
	if (g->synced && (g->format == TABLE || g->format == WIDE)) {
		table_print(g->table, !g->header);
		g->header = true;
		table_clear(g->table);
	}
	for (size_t i = 0; i < r->n_deleted; i++)
		print_deleted(g, r->deleted[i]);
	rc = flush_out(g);
	return rc < 0 || fflush(stdout) != 0 ? -EPIPE : 0;
}

static void on_again(void *arg)
{
	struct get *g = arg;

	g->synced = false;
	forget_all(g);
}

static int parse_format(struct ctl *ctl, const char *text, enum format *out)
{
	static const char *const names[] = {"table", "wide", "json", "yaml", "name"};

	for (size_t i = 0; i < 5; i++) {
		if (strcmp(text, names[i]) == 0) {
			*out = (enum format)i;
			return 0;
		}
	}
	return ctl_usage(ctl, "-o '%s' is none of table, wide, json, yaml, name", text);
}

static void finish(struct get *g)
{
	switch (g->format) {
	case TABLE:
	case WIDE:
		if (g->rows)
			table_print(g->table, true);
		else if (!g->name_count)
			(void)fprintf(stderr, "no %s\n", g->kind->names[0]);
		break;
	case NAME:
		break;
	case JSON:
		json_end(&g->json);
		buf_add_byte(&g->out, '\n');
		break;
	case YAML:
		if (!g->rows)
			buf_add_str(&g->out, "[]\n");
		break;
	}
	(void)flush_out(g);
}

static int print_sorted(void *arg, const Um__GetReply *r, size_t i)
{
	return print_row(arg, r, i);
}

static int fetch(struct get *g, Um__GetRequest *r)
{
	Um__Envelope env = wire_env(0);
	struct err err = ERR_INIT;
	int rc;

	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = r;
	if (g->format == JSON && !g->watch) {
		json_init(&g->json, &g->out, 2);
		json_array(&g->json, NULL);
	}
	rc = g->watch ? ctl_watch(g->ctl, &env, on_reply, on_again, g, &err)
		      : ctl_call(g->ctl, &env, LIST_MS, on_reply, g, &err);
	if (rc == -EINTR)
		return 130;
	if (rc == -EPIPE)
		return EXIT_FAILED;
	if (rc < 0 && g->err.code == -EINVAL)
		return ctl_usage(g->ctl, "%s", err_msg(&g->err));
	if (rc < 0)
		return ctl_fail_err(g->err.code ? &g->err : &err);
	if (g->sort && sorted_each(&g->sorted, print_sorted, g) < 0)
		return EXIT_FAILED;
	finish(g);
	rc = EXIT_OK;
	for (size_t i = 0; i < g->name_count; i++)
		if (!g->found[i])
			rc = ctl_fail(EXIT_NOT_FOUND, "no %s '%s'", g->kind->names[1], g->names[i]);
	return rc;
}

static void release(struct get *g)
{
	forget_all(g);
	sorted_free(&g->sorted);
	table_free(g->table);
	buf_free(&g->out);
	buf_free(&g->row);
	free(g->found);
}

int cmd_get(struct ctl *ctl, int argc, char **argv)
{
	const char *format = "table", *deployment = "", *host = "", *state = "", *limit = "0";
	struct get g = {.ctl = ctl};
	const struct opt opts[] = {
		{OPT_TEXT, "output", 'o', &format},
		{OPT_FLAG, "watch", 'w', &g.watch},
		{OPT_TEXT, "deployment", 'd', &deployment},
		{OPT_TEXT, "host", 0, &host},
		{OPT_TEXT, "state", 0, &state},
		{OPT_TEXT, "limit", 'n', &limit},
		{OPT_TEXT, "sort", 's', &g.sort},
		OPT_LAST,
	};
	Um__GetRequest r = UM__GET_REQUEST__INIT;
	uint64_t most;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	if (n < 2)
		return ctl_usage(ctl, "get what? (%s)", kind_names());
	g.kind = kind_find(argv[1]);
	if (!g.kind)
		return kind_unknown(ctl, argv[1]);
	if (str_u64(limit, 0, 1000000, &most) < 0)
		return ctl_usage(ctl, "--limit '%s' is not a number", limit);
	if (g.sort && g.watch)
		return ctl_usage(ctl, "--sort and --watch: changes come as they come");
	sorted_init(&g.sorted, g.kind->kind, g.sort ? g.sort : "");
	rc = parse_format(ctl, format, &g.format);
	if (rc == 0)
		rc = ctl_connect(ctl);
	if (rc)
		return rc;
	r.kind = g.kind->kind;
	r.names = g.names = argv + 2;
	r.n_names = g.name_count = (size_t)(n - 2);
	r.deployment = (char *)(uintptr_t)deployment;
	r.host = (char *)(uintptr_t)host;
	r.state = (char *)(uintptr_t)state;
	r.watch = g.watch;
	r.limit = (uint32_t)most;
	buf_init(&g.out);
	buf_init(&g.row);
	g.found = calloc(g.name_count + 1, sizeof(*g.found));
	g.table = table_new(g.format == WIDE ? g.kind->wide : g.kind->columns,
		g.format == WIDE ? g.kind->wide_count : g.kind->column_count);
	if (!g.found)
		abort();
	rc = fetch(&g, &r);
	release(&g);
	return rc;
}
