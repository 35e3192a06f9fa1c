/* get and describe. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clusterctl/show.h"
#include "lib/str.h"

#define LIST_MS 60000u

enum format { TABLE, WIDE, JSON, YAML, NAME };

struct get {
	struct ctl *ctl;
	const struct kind *kind;
	enum format format;
	struct table *table;
	struct json json;
	struct buf out;
	size_t rows;
	bool watch, synced;
};

static int flush_out(struct get *g)
{
	if (g->out.size && fwrite(g->out.data, 1, g->out.size, stdout) != g->out.size)
		return -EPIPE;
	g->out.size = 0;
	return 0;
}

/* JSON is YAML's flow style; block style is easier on the eye.  Written from the
 * JSON text, whose strings are valid YAML in double quotes. */
static void yaml_from_json(const char *p, FILE *to)
{
	unsigned depth = 0;
	bool first = true;

	for (; *p; p++) {
		if (*p == '"') {
			do {
				if (*p == '\\')
					(void)fputc(*p++, to);
				(void)fputc(*p++, to);
			} while (*p && *p != '"');
			(void)fputc('"', to);
			if (p[1] == ':') {
				(void)fputs(": ", to);
				p++;
			}
			continue;
		}
		if (*p == '{' || *p == '[') {
			if (p[1] == '}' || p[1] == ']') {
				(void)fputc(*p, to);
				(void)fputc(*++p, to);
				continue;
			}
			depth++;
		}
		if (*p == '}' || *p == ']') {
			depth--;
			continue;
		}
		if (*p == '{' || *p == '[' || *p == ',') {
			/* A list's items begin with "- ", and so does an object in one. */
			const char *q = p;
			bool item;

			while (*q == '{' || *q == '[' || *q == ',')
				q++;
			item = *p == '[' || (*p == ',' && *q != '"') || (*p == ',' && p[1] == '{');
			if (!first || *p == ',')
				(void)fprintf(to, "\n%*s", (int)(depth * 2 - 2), "");
			if (item)
				(void)fputs("- ", to);
			if (p[1] == '{' && item) {
				p++;
				depth++;
			}
			first = false;
			continue;
		}
		(void)fputc(*p, to);
	}
	(void)fputc('\n', to);
}

static int print_rows(struct get *g, const Um__GetReply *r)
{
	size_t n = show_count(r, g->kind->kind);
	bool wide = g->format == WIDE;

	for (size_t i = 0; i < n; i++) {
		g->rows++;
		switch (g->format) {
		case TABLE:
		case WIDE:
			(void)show_cells(r, g->kind->kind, i, wide, g->table);
			break;
		case NAME:
			buf_printf(&g->out, "%s\n", show_name(r, g->kind->kind, i));
			break;
		case JSON:
		case YAML:
			if (g->watch) {
				/* One object a line. */
				json_init(&g->json, &g->out, 0);
				(void)show_json(r, g->kind->kind, i, &g->json);
				buf_add_byte(&g->out, '\n');
			} else {
				(void)show_json(r, g->kind->kind, i, &g->json);
			}
			break;
		}
	}
	return g->watch ? flush_out(g) : 0;
}

static void new_table(struct get *g)
{
	bool wide = g->format == WIDE;

	g->table = table_new(wide ? g->kind->wide : g->kind->columns,
		wide ? g->kind->wide_count : g->kind->column_count);
}

static int on_reply(void *arg, const Um__Envelope *env)
{
	struct get *g = arg;
	const Um__GetReply *r = env->get_reply;
	bool header;

	if (env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		return -EPROTO;
	if (print_rows(g, r) < 0)
		return -EPIPE;
	for (size_t i = 0; g->watch && i < r->n_deleted; i++) {
		if (g->format == JSON || g->format == YAML)
			(void)printf("{\"deleted\":\"%s\"}\n", r->deleted[i]);
		else
			(void)printf("%s is gone\n", r->deleted[i]);
	}
	if (!g->watch)
		return 0;
	if ((g->format == TABLE || g->format == WIDE) && (r->synced || g->synced)) {
		header = !g->synced;
		table_print(g->table, header);
		table_free(g->table);
		new_table(g);
	}
	g->synced |= r->synced;
	return fflush(stdout) == 0 ? 0 : -EPIPE;
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
	if (g->watch)
		return;
	switch (g->format) {
	case TABLE:
	case WIDE:
		if (g->rows)
			table_print(g->table, true);
		else
			(void)fprintf(stderr, "no %s\n", g->kind->names[0]);
		break;
	case NAME:
		break;
	case JSON:
		json_end(&g->json);
		buf_add_byte(&g->out, '\n');
		break;
	case YAML:
		json_end(&g->json);
		if (g->rows)
			yaml_from_json(buf_text(&g->out), stdout);
		else
			(void)puts("[]");
		g->out.size = 0;
		break;
	}
	(void)flush_out(g);
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
		OPT_LAST,
	};
	Um__Envelope env = wire_env(0);
	Um__GetRequest r = UM__GET_REQUEST__INIT;
	struct err err = ERR_INIT;
	uint64_t most;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	if (n < 2)
		return ctl_usage(ctl, "get what? (%s)", kind_names());
	g.kind = kind_find(argv[1]);
	if (!g.kind)
		return ctl_usage(ctl, "'%s' is none of %s", argv[1], kind_names());
	if (str_u64(limit, 0, 1000000, &most) < 0)
		return ctl_usage(ctl, "--limit '%s' is not a number", limit);
	rc = parse_format(ctl, format, &g.format);
	if (rc)
		return rc;
	rc = ctl_connect(ctl);
	if (rc)
		return rc;
	r.kind = g.kind->kind;
	r.names = argv + 2;
	r.n_names = (size_t)(n - 2);
	r.deployment = (char *)(uintptr_t)deployment;
	r.host = (char *)(uintptr_t)host;
	r.state = (char *)(uintptr_t)state;
	r.watch = g.watch;
	r.limit = (uint32_t)most;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &r;
	buf_init(&g.out);
	new_table(&g);
	json_init(&g.json, &g.out, g.format == JSON ? 2 : 0);
	if (!g.watch && (g.format == JSON || g.format == YAML))
		json_array(&g.json, NULL);
	rc = ctl_call(ctl, &env, g.watch ? 0 : LIST_MS, on_reply, &g, &err);
	if (rc == 0)
		finish(&g);
	table_free(g.table);
	buf_free(&g.out);
	if (rc == -EINTR)
		return 130;
	if (rc == -EPIPE)
		return EXIT_FAILED;
	if (rc < 0)
		return ctl_fail_err(&err);
	/* One that was named and is not there. */
	if (!g.watch && r.n_names && !g.rows)
		return ctl_fail(EXIT_NOT_FOUND, "no %s '%s'", g.kind->names[1], argv[2]);
	return EXIT_OK;
}

/* ---------------------------------------------------------------- describe */

struct describe {
	const struct kind *kind;
	struct buf out;
	struct json json;
	struct table *events;
	size_t rows;
};

static int on_described(void *arg, const Um__Envelope *env)
{
	struct describe *d = arg;
	const Um__GetReply *r = env->get_reply;

	if (env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		return -EPROTO;
	for (size_t i = 0; i < show_count(r, d->kind->kind); i++) {
		d->rows++;
		json_init(&d->json, &d->out, 0);
		(void)show_json(r, d->kind->kind, i, &d->json);
		yaml_from_json(buf_text(&d->out), stdout);
		d->out.size = 0;
		if (d->kind->kind == UM__KIND__KIND_GUESTS && r->guests[i]->spec) {
			const Um__GuestSpec *spec = r->guests[i]->spec;

			if (*spec->run)
				(void)printf("run: |\n  %s\n", spec->run);
			for (size_t k = 0; k < spec->n_env; k++)
				(void)printf("env %s=%s\n", spec->env[k]->key, spec->env[k]->value);
			for (size_t k = 0; k < spec->n_files; k++)
				(void)printf("file %s (%zu bytes)\n", spec->files[k]->path,
					spec->files[k]->content.len);
		}
	}
	return 0;
}

static int on_events(void *arg, const Um__Envelope *env)
{
	struct describe *d = arg;

	if (env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		return -EPROTO;
	for (size_t i = 0; i < env->get_reply->n_events; i++)
		(void)show_cells(env->get_reply, UM__KIND__KIND_EVENTS, i, false, d->events);
	return 0;
}

int cmd_describe(struct ctl *ctl, int argc, char **argv)
{
	const struct opt opts[] = {OPT_LAST};
	struct describe d = {0};
	const struct kind *events = kind_find("events");
	Um__GetRequest r = UM__GET_REQUEST__INIT;
	Um__Envelope env = wire_env(0);
	struct err err = ERR_INIT;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	if (n != 3)
		return ctl_usage(ctl, "describe KIND NAME (kinds: %s)", kind_names());
	d.kind = kind_find(argv[1]);
	if (!d.kind || d.kind->kind == UM__KIND__KIND_EVENTS)
		return ctl_usage(ctl, "'%s' cannot be described", argv[1]);
	rc = ctl_connect(ctl);
	if (rc)
		return rc;
	r.kind = d.kind->kind;
	r.names = argv + 2;
	r.n_names = 1;
	r.detail = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &r;
	rc = ctl_call(ctl, &env, LIST_MS, on_described, &d, &err);
	if (rc == 0 && !d.rows)
		rc = err_set(&err, -ENOENT, "no %s '%s'", d.kind->names[1], argv[2]);
	if (rc == 0) {
		d.events = table_new(events->columns, events->column_count);
		r.kind = UM__KIND__KIND_EVENTS;
		r.limit = 20;
		env = wire_env(0);
		env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
		env.get_request = &r;
		rc = ctl_call(ctl, &env, LIST_MS, on_events, &d, &err);
		(void)puts("\nevents:");
		table_print(d.events, true);
		table_free(d.events);
	}
	buf_free(&d.out);
	return rc < 0 ? ctl_fail_err(&err) : EXIT_OK;
}
