#include "clusterctl/artefact.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/upload.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "lib/units.h"

#define CALL_MS 120000u

struct upload {
	struct ctl *ctl;
	const char *name;
	bool done, tty;
	struct err err;
	uint64_t shown;
};

static void on_progress(
	void *arg, struct imgupload *up, const char *step, uint64_t done, uint64_t total)
{
	struct upload *u = arg;
	uint64_t now = proc_mono_ms();
	char a[UNITS_TEXT], b[UNITS_TEXT];

	(void)up;
	if (!u->tty || now - u->shown < 100)
		return;
	u->shown = now;
	(void)fprintf(stderr, "\r\033[K%s: %s %s of %s", u->name, step, units_size(a, done),
		units_size(b, total));
}

static void on_done(void *arg, struct imgupload *up, const struct err *err)
{
	struct upload *u = arg;

	(void)up;
	u->done = true;
	if (err)
		u->err = *err;
	loop_stop(u->ctl->loop);
}

int artefact_send(
	struct ctl *ctl, const char *file, Um__ArtefactInfo *info, bool replace, uint8_t id[32])
{
	static const struct imgupload_ops ops = {.on_progress = on_progress, .on_done = on_done};
	struct upload u = {.ctl = ctl, .name = info->name, .tty = isatty(STDERR_FILENO)};
	struct imgupload *up = NULL;
	struct err err = ERR_INIT;
	struct stat st;

	if (imgupload_start(ctl->loop, ctl_via(ctl), file, info, replace, &ops, &u, &up, &err) < 0)
		return ctl_fail_err(&err);
	while (!u.done && !ctl->interrupted)
		(void)loop_run(ctl->loop, NULL);
	if (u.tty)
		(void)fprintf(stderr, "\r\033[K");
	if (u.done && !u.err.code) {
		char size[UNITS_TEXT];

		memcpy(id, imgupload_id(up), 32);
		(void)printf("%s is in the cluster (%s)\n", info->name,
			units_size(size, stat(file, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0));
	}
	imgupload_close(up);
	if (ctl->interrupted)
		return 130;
	return u.err.code ? ctl_fail_err(&u.err) : EXIT_OK;
}

int artefact_temp(char path[ARTEFACT_FOLDER])
{
	const char *tmp = getenv("TMPDIR"); /* NOLINT: one thread */

	if (str_format(path, ARTEFACT_FOLDER, "%s/umlaut-image.XXXXXX",
		    tmp && *tmp ? tmp : "/tmp") < 0 ||
		!mkdtemp(path))
		return ctl_fail(
			EXIT_FAILED, "a temporary folder cannot be made in %s", tmp ? tmp : "/tmp");
	return 0;
}

Um__ArtefactInfo__MetaEntry *artefact_meta(
	Um__ArtefactInfo__MetaEntry *entry, const char *key, const char *value)
{
	um__artefact_info__meta_entry__init(entry);
	entry->key = (char *)(uintptr_t)key;
	entry->value = (char *)(uintptr_t)value;
	return entry;
}

int artefact_remove(struct ctl *ctl, int n, char **argv, Um__ArtefactKind kind, bool force)
{
	struct err err = ERR_INIT;
	int rc;

	if (n < 3)
		return ctl_usage(ctl, "rm NAME...");
	rc = ctl_connect(ctl);
	for (int i = 2; rc == 0 && i < n; i++) {
		Um__Envelope env = wire_env(0);
		Um__ArtefactRemove r = UM__ARTEFACT_REMOVE__INIT;

		r.name = argv[i];
		r.kind = kind;
		r.force = force;
		env.body_case = UM__ENVELOPE__BODY_ARTEFACT_REMOVE;
		env.artefact_remove = &r;
		if (ctl_call(ctl, &env, CALL_MS, NULL, NULL, &err) < 0)
			rc = ctl_fail_err(&err);
	}
	return rc;
}

int artefact_list(struct ctl *ctl, const char *kind, const char *format)
{
	char get[] = "get", o[] = "-o", what[16], how[16];
	char *argv[] = {get, what, o, how, NULL};

	if (str_copy(what, sizeof(what), kind) < 0 || str_copy(how, sizeof(how), format) < 0)
		return ctl_usage(ctl, "-o '%s' is none of table, wide, json, yaml, name", format);
	return cmd_get(ctl, 4, argv);
}
