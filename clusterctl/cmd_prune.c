/* prune: removes the disks that guests left on hosts that were lost; and how they are
 * shown. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "clusterctl/show.h"
#include "lib/str.h"
#include "lib/units.h"

#define CALL_MS 60000u

void show_orphan_cells(const Um__OrphanInfo *o, bool wide, struct table *t)
{
	char text[UNITS_TEXT], age[32];

	table_add(t, o->disk->name);
	table_add(t, o->host);
	table_add(t, o->state);
	table_add(t, units_size(text, o->disk->cow_bytes));
	table_add(t, out_age(age, o->disk->since));
	table_addf(t, "%" PRIu64, o->disk->epoch);
	table_add(t, o->disk->reason);
	if (!wide)
		return;
	table_addf(t, "%016" PRIx64, o->disk->uid);
	table_addf(t, "%" PRIu64, o->disk->runs);
	table_add(t, o->disk->path);
	table_add(t, o->disk->base_path);
}

void show_orphan_json(const Um__OrphanInfo *o, struct json *j)
{
	char text[40], hex[65] = "";

	json_str(j, "guest", o->disk->name);
	json_str(j, "host", o->host);
	json_str(j, "state", o->state);
	(void)str_format(text, sizeof(text), "%016" PRIx64, o->disk->uid);
	json_str(j, "uid", text);
	json_u64(j, "epoch", o->disk->epoch);
	json_str(j, "since", o->disk->since ? out_time(text, o->disk->since) : NULL);
	json_str(j, "reason", o->disk->reason);
	json_u64(j, "runs", o->disk->runs);
	json_u64(j, "disk_used_bytes", o->disk->cow_bytes);
	json_u64(j, "disk_used_blocks", o->disk->cow_bytes / 512);
	json_str(j, "disk", *o->disk->path ? o->disk->path : NULL);
	json_str(j, "base", *o->disk->base_path ? o->disk->base_path : NULL);
	if (o->disk->image_id.len == 32)
		str_hex(hex, o->disk->image_id.data, 32);
	json_str(j, "image_id", *hex ? hex : NULL);
}

static int on_pruned(void *arg, const Um__Envelope *env)
{
	const Um__PruneReply *r = env->prune_reply;
	const bool *dry_run = arg;
	char text[UNITS_TEXT];

	if (env->body_case != UM__ENVELOPE__BODY_PRUNE_REPLY)
		return -EPROTO;
	for (size_t i = 0; i < r->n_orphans; i++) {
		const Um__OrphanInfo *o = r->orphans[i];
		const char *what = *dry_run ? "would go" : "goes";

		(void)printf("%s: its old disk on %s (epoch %" PRIu64 ", %s) %s%s\n", o->disk->name,
			o->host, o->disk->epoch, units_size(text, o->disk->cow_bytes), what,
			str_starts(o->state, "kept") ? "" : " when that is back");
	}
	if (!r->n_orphans)
		(void)fprintf(stderr, "no orphans\n");
	return 0;
}

int cmd_prune(struct ctl *ctl, int argc, char **argv)
{
	const char *host = "", *older = NULL;
	bool all = false, dry_run = false;
	const struct opt opts[] = {
		{OPT_TEXT, "host", 0, &host},
		{OPT_FLAG, "all", 0, &all},
		{OPT_TEXT, "older-than", 0, &older},
		{OPT_FLAG, "dry-run", 0, &dry_run},
		OPT_LAST,
	};
	Um__PruneRequest r = UM__PRUNE_REQUEST__INIT;
	Um__Envelope env = wire_env(0);
	struct err err = ERR_INIT;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	if (n < 2 && !all)
		return ctl_usage(ctl, "which orphans? (DEPLOYMENT/GUEST, an epoch, or --all)");
	if (n > 1 && all)
		return ctl_usage(ctl, "--all goes with no names");
	if (older && units_parse_duration(older, &r.older_ms, &err) < 0)
		return ctl_usage(ctl, "--older-than: %s", err_msg(&err));
	rc = ctl_connect(ctl);
	if (rc)
		return rc;
	r.names = argv + 1;
	r.n_names = (size_t)(n - 1);
	r.host = (char *)(uintptr_t)host;
	r.dry_run = dry_run;
	env.body_case = UM__ENVELOPE__BODY_PRUNE_REQUEST;
	env.prune_request = &r;
	return ctl_call(ctl, &env, CALL_MS, on_pruned, &dry_run, &err) < 0 ? ctl_fail_err(&err)
									   : EXIT_OK;
}
