/* describe: all that is known of one thing. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "clusterctl/show.h"
#include "clusterctl/why.h"
#include "clusterctl/yamlout.h"
#include "lib/str.h"
#include "spec/spec.h"

#define CALL_MS 60000u
#define EVENTS 20

struct describe {
	const struct kind *kind;
	struct buf json_text, out;
	struct table *events;
	size_t rows, event_rows;
	char name[STR_FULLNAME_MAX + 1];
};

static void spec_text(const Um__GuestSpec *spec, struct buf *out)
{
	if (*spec->run) {
		buf_add_str(out, "run: |\n");
		for (const char *line = spec->run; *line; line += strcspn(line, "\n") + 1) {
			buf_printf(out, "  %.*s\n", (int)strcspn(line, "\n"), line);
			if (!line[strcspn(line, "\n")])
				break;
		}
	}
	if (spec->n_env)
		buf_add_str(out, "env:\n");
	for (size_t i = 0; i < spec->n_env; i++)
		buf_printf(out, "  %s: '%s'\n", spec->env[i]->key, spec->env[i]->value);
	if (spec->n_files)
		buf_add_str(out, "files:\n");
	for (size_t i = 0; i < spec->n_files; i++)
		buf_printf(out, "  - %s (%zu bytes, mode %04o)\n", spec->files[i]->path,
			spec->files[i]->content.len, spec->files[i]->mode);
	spec_placement_text(spec->placement, out);
	if (*spec->kernel_args)
		buf_printf(out, "kernel_args: %s\n", spec->kernel_args);
}

/* What comes from guests and labs must not steer the terminal. */
static void print_clean(const struct buf *text)
{
	for (size_t i = 0; i < text->size; i++) {
		unsigned char c = text->data[i];

		(void)putchar((c < ' ' && c != '\n' && c != '\t') || c == 0x7f ? '?' : c);
	}
}

static int on_described(void *arg, const Um__Envelope *env)
{
	struct describe *d = arg;
	const Um__GetReply *r = env->get_reply;
	struct err err = ERR_INIT;

	if (env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		return -EPROTO;
	for (size_t i = 0; i < show_count(r, d->kind->kind); i++) {
		struct json j;

		if (d->rows++)
			buf_add_str(&d->out, "\n");
		(void)str_copy(d->name, sizeof(d->name), show_name(r, d->kind->kind, i));
		d->json_text.size = 0;
		json_init(&j, &d->json_text, 0);
		(void)show_json(r, d->kind->kind, i, &j);
		if (yamlout((const char *)d->json_text.data, d->json_text.size, false, &d->out,
			    &err) < 0)
			return err.code;
		if (d->kind->kind == UM__KIND__KIND_GUESTS && r->guests[i]->spec)
			spec_text(r->guests[i]->spec, &d->out);
	}
	return 0;
}

static int on_events(void *arg, const Um__Envelope *env)
{
	struct describe *d = arg;

	if (env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		return -EPROTO;
	for (size_t i = 0; i < env->get_reply->n_events; i++, d->event_rows++)
		(void)show_cells(env->get_reply, UM__KIND__KIND_EVENTS, i, false, d->events);
	return 0;
}

/* Where it is stands in the description already. */
static int on_why(void *arg, const Um__Envelope *env)
{
	(void)arg;
	if (env->body_case != UM__ENVELOPE__BODY_WHY_REPLY || *env->why_reply->host ||
		!env->why_reply->n_items)
		return 0;
	(void)puts("\nwhy it has no host:");
	why_print(env->why_reply);
	return 0;
}

static int ask(
	struct ctl *ctl, struct describe *d, Um__GetRequest *r, ctl_reply_fn *fn, struct err *err)
{
	Um__Envelope env = wire_env(0);

	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = r;
	return ctl_call(ctl, &env, CALL_MS, fn, d, err);
}

static int describe(struct ctl *ctl, struct describe *d, char *name, struct err *err)
{
	const struct kind *events = kind_find("events");
	Um__GetRequest r = UM__GET_REQUEST__INIT;
	char *full = d->name;
	int rc;

	r.kind = d->kind->kind;
	r.names = &name;
	r.n_names = 1;
	r.detail = true;
	rc = ask(ctl, d, &r, on_described, err);
	if (rc < 0)
		return rc;
	if (!d->rows)
		return err_set(err, -ENOENT, "no %s '%.120s'", d->kind->names[1], name);
	print_clean(&d->out);
	if (d->kind->kind == UM__KIND__KIND_GUESTS) {
		/* A guest that has gone meanwhile has been described all the same. */
		struct err ignored = ERR_INIT;

		rc = why_ask(ctl, full, on_why, NULL, &ignored);
		if (rc == -EINTR)
			return rc;
	}
	d->events = table_new(events->columns, events->column_count);
	r.kind = UM__KIND__KIND_EVENTS;
	r.names = &full;
	r.limit = EVENTS;
	r.detail = false;
	rc = ask(ctl, d, &r, on_events, err);
	if (rc == 0 && d->event_rows) {
		(void)puts("\nevents:");
		table_print(d->events, true);
	}
	table_free(d->events);
	return rc;
}

int cmd_describe(struct ctl *ctl, int argc, char **argv)
{
	const struct opt opts[] = {OPT_LAST};
	struct describe d = {.rows = 0};
	struct err err = ERR_INIT;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	if (n != 3)
		return ctl_usage(ctl, "describe KIND NAME (kinds: %s)", kind_names());
	d.kind = kind_find(argv[1]);
	if (!d.kind)
		return kind_unknown(ctl, argv[1]);
	if (d.kind->kind == UM__KIND__KIND_EVENTS)
		return ctl_usage(ctl, "events cannot be described; get them");
	rc = ctl_connect(ctl);
	if (rc)
		return rc;
	buf_init(&d.json_text);
	buf_init(&d.out);
	rc = describe(ctl, &d, argv[2], &err);
	buf_free(&d.json_text);
	buf_free(&d.out);
	if (rc == -EINTR)
		return 130;
	return rc < 0 ? ctl_fail_err(&err) : EXIT_OK;
}
