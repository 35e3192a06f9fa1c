/* why: why a guest is where it is, or why no host takes it. */
#include "clusterctl/why.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "clusterctl/yamlout.h"
#include "lib/json.h"
#include "lib/str.h"

#define CALL_MS 60000u

enum format { TABLE, JSON, YAML };

static void print_line(const char *before, const char *text)
{
	(void)fputs(before, stdout);
	/* Reasons may come from guests: they must not steer the terminal. */
	for (const unsigned char *p = (const unsigned char *)text; *p; p++)
		(void)putchar(*p < ' ' || *p == 0x7f ? '?' : *p);
	(void)putchar('\n');
}

void why_print(const Um__WhyReply *r)
{
	static const char *const columns[] = {"REASON", "HOSTS", "NEAREST", "DETAIL"};
	struct table *t = table_new(columns, 4);

	for (size_t i = 0; i < r->n_items; i++) {
		const Um__WhyItem *item = r->items[i];

		table_add(t, item->what);
		table_addf(t, "%u", item->hosts);
		table_add(t, *item->example ? item->example : "-");
		table_add(t, item->detail);
	}
	if (r->n_items)
		table_print(t, true);
	table_free(t);
	if (r->n_help)
		(void)puts("\nwhat would help:");
	for (size_t i = 0; i < r->n_help; i++)
		print_line("  - ", r->help[i]);
}

static void print_text(const Um__WhyReply *r)
{
	const char *because = r->because;
	char line[1024];

	if (!*r->host && str_starts(because, "no host: "))
		because += strlen("no host: ");
	if (*r->host)
		(void)str_format(line, sizeof(line), "%.128s is on %.64s%s%.600s", r->guest,
			r->host, *because ? ": " : "", because);
	else
		(void)str_format(line, sizeof(line), "%.128s has no host%s%.600s", r->guest,
			*because ? ": " : "", because);
	print_line("", line);
	if (r->n_items)
		(void)putchar('\n');
	why_print(r);
}

static void write_json(const Um__WhyReply *r, struct json *j)
{
	json_object(j, NULL);
	json_str(j, "guest", r->guest);
	json_str(j, "host", *r->host ? r->host : NULL);
	json_str(j, "because", r->because);
	json_array(j, "reasons");
	for (size_t i = 0; i < r->n_items; i++) {
		const Um__WhyItem *item = r->items[i];

		json_object(j, NULL);
		json_str(j, "reason", item->what);
		json_u64(j, "hosts", item->hosts);
		json_str(j, "nearest", *item->example ? item->example : NULL);
		json_str(j, "detail", item->detail);
		json_end(j);
	}
	json_end(j);
	json_array(j, "help");
	for (size_t i = 0; i < r->n_help; i++)
		json_str(j, NULL, r->help[i]);
	json_end(j);
	json_end(j);
}

static int print_data(const Um__WhyReply *r, enum format format)
{
	struct err err = ERR_INIT;
	struct buf json, out;
	struct json j;
	int rc = 0;

	buf_init(&json);
	buf_init(&out);
	json_init(&j, &json, format == JSON ? 2 : 0);
	write_json(r, &j);
	if (format == JSON)
		buf_printf(&out, "%s\n", buf_text(&json));
	else
		rc = yamlout((const char *)json.data, json.size, false, &out, &err);
	if (rc == 0 && fwrite(out.data, 1, out.size, stdout) != out.size)
		rc = -EPIPE;
	buf_free(&json);
	buf_free(&out);
	return rc;
}

int why_ask(struct ctl *ctl, const char *guest, ctl_reply_fn *fn, void *arg, struct err *err)
{
	Um__Envelope env = wire_env(0);
	Um__WhyRequest r = UM__WHY_REQUEST__INIT;

	r.guest = (char *)(uintptr_t)guest;
	env.body_case = UM__ENVELOPE__BODY_WHY_REQUEST;
	env.why_request = &r;
	return ctl_call(ctl, &env, CALL_MS, fn, arg, err);
}

static int on_reply(void *arg, const Um__Envelope *env)
{
	const enum format *format = arg;

	if (env->body_case != UM__ENVELOPE__BODY_WHY_REPLY)
		return -EPROTO;
	if (*format != TABLE)
		return print_data(env->why_reply, *format);
	print_text(env->why_reply);
	return 0;
}

int cmd_why(struct ctl *ctl, int argc, char **argv)
{
	static const char *const names[] = {"table", "json", "yaml"};
	const char *text = "table";
	const struct opt opts[] = {{OPT_TEXT, "output", 'o', &text}, OPT_LAST};
	enum format format = TABLE;
	struct err err = ERR_INIT;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	if (n != 2)
		return ctl_usage(ctl, "which guest? (DEPLOYMENT/GUEST)");
	while (format <= YAML && strcmp(text, names[format]) != 0)
		format++;
	if (format > YAML)
		return ctl_usage(ctl, "-o '%s' is none of table, json, yaml", text);
	rc = ctl_connect(ctl);
	if (rc)
		return rc;
	rc = why_ask(ctl, argv[1], on_reply, &format, &err);
	if (rc == -EINTR)
		return 130;
	return rc < 0 ? ctl_fail_err(&err) : EXIT_OK;
}
