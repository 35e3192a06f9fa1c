/* apply and delete, with their plan and progress. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clusterctl/ctl.h"
#include "clusterctl/lab.h"
#include "clusterctl/waiting.h"
#include "lib/units.h"

#define CALL_MS 120000u
#define WAIT_DEFAULT_MS 300000u

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
		rc = waiting_ready(ctl, labs.items[i].spec->name, timeout_ms);
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
					rc = waiting_gone(ctl, name, timeout_ms);
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
