/* image and kernel: making, adding, removing. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clusterctl/ctl.h"
#include "guest/image/busybox.h"
#include "guest/image/import.h"
#include "guest/image/modules.h"
#include "guest/kernelinfo.h"
#include "image/upload.h"
#include "lib/fs.h"
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

/* Sends FILE under INFO's name; fills ID (32 bytes). */
static int send_file(
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

#define FOLDER_MAX (PATH_MAX - 16)

static int temp_folder(char path[FOLDER_MAX])
{
	const char *tmp = getenv("TMPDIR"); /* NOLINT: one thread */

	if (str_format(path, FOLDER_MAX, "%s/umlaut-image.XXXXXX", tmp && *tmp ? tmp : "/tmp") <
			0 ||
		!mkdtemp(path))
		return ctl_fail(
			EXIT_FAILED, "a temporary folder cannot be made in %s", tmp ? tmp : "/tmp");
	return 0;
}

static Um__ArtefactInfo__MetaEntry *meta(
	Um__ArtefactInfo__MetaEntry *entry, const char *key, const char *value)
{
	um__artefact_info__meta_entry__init(entry);
	entry->key = (char *)(uintptr_t)key;
	entry->value = (char *)(uintptr_t)value;
	return entry;
}

static int parse_size(struct ctl *ctl, const char *text, uint64_t *out)
{
	struct err err = ERR_INIT;

	*out = 0;
	if (text && units_parse_size(text, out, &err) < 0)
		return ctl_usage(ctl, "--size: %s", err_msg(&err));
	return 0;
}

static int make_and_send(
	struct ctl *ctl, const char *name, const char *from, uint64_t size, bool replace)
{
	Um__ArtefactInfo info = UM__ARTEFACT_INFO__INIT;
	Um__ArtefactInfo__MetaEntry origin, *metas[1];
	char dir[FOLDER_MAX], file[PATH_MAX];
	struct err err = ERR_INIT;
	enum import_kind kind;
	uint8_t id[32];
	int rc;

	if (from && import_kind(from, &kind, &err) < 0)
		return ctl_fail_err(&err);
	rc = ctl_connect(ctl);
	if (rc == 0)
		rc = temp_folder(dir);
	if (rc)
		return rc;
	(void)str_format(file, sizeof(file), "%s/image", dir);
	if (!from)
		rc = busybox_build(NULL, size, file, &err);
	else if (kind == IMPORT_RAW)
		rc = 0;
	else
		rc = import_image(from, size, name, file, &err);
	if (rc < 0)
		rc = ctl_fail_err(&err);
	if (rc == 0) {
		info.name = (char *)(uintptr_t)name;
		info.kind = UM__ARTEFACT_KIND__ARTEFACT_IMAGE;
		metas[0] = meta(&origin, "origin", from ? from : "busybox");
		info.meta = metas;
		info.n_meta = 1;
		rc = send_file(ctl, from && kind == IMPORT_RAW ? from : file, &info, replace, id);
	}
	(void)fs_remove_tree(dir, NULL);
	return rc;
}

static int remove_one(struct ctl *ctl, int n, char **argv, Um__ArtefactKind kind, bool force)
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

static int list(struct ctl *ctl, const char *kind, const char *format)
{
	char get[] = "get", o[] = "-o", what[16], how[16];
	char *argv[] = {get, what, o, how, NULL};

	if (str_copy(what, sizeof(what), kind) < 0 || str_copy(how, sizeof(how), format) < 0)
		return ctl_usage(ctl, "-o '%s' is none of table, wide, json, yaml, name", format);
	return cmd_get(ctl, 4, argv);
}

int cmd_image(struct ctl *ctl, int argc, char **argv)
{
	const char *from = NULL, *size_text = NULL, *name = NULL, *format = "table";
	bool replace = false, force = false;
	const struct opt opts[] = {
		{OPT_TEXT, "from", 0, &from},
		{OPT_TEXT, "size", 0, &size_text},
		{OPT_TEXT, "name", 0, &name},
		{OPT_TEXT, "output", 'o', &format},
		{OPT_FLAG, "replace", 0, &replace},
		{OPT_FLAG, "force", 0, &force},
		OPT_LAST,
	};
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;
	uint64_t size;

	if (n < 0)
		return -n;
	rc = parse_size(ctl, size_text, &size);
	if (rc)
		return rc;
	if (n >= 2 && strcmp(argv[1], "ls") == 0)
		return list(ctl, "images", format);
	if (n >= 2 && strcmp(argv[1], "rm") == 0)
		return remove_one(ctl, n, argv, UM__ARTEFACT_KIND__ARTEFACT_IMAGE, force);
	if (n == 3 && strcmp(argv[1], "build") == 0) {
		if (strcmp(argv[2], "busybox") != 0)
			return ctl_usage(ctl,
				"'%s' cannot be built (busybox can; other images: image add)",
				argv[2]);
		return make_and_send(ctl, name ? name : "busybox", NULL, size, replace);
	}
	if (n >= 3 && strcmp(argv[1], "add") == 0) {
		if (!from && n == 4)
			from = argv[3];
		if (!from)
			return ctl_usage(ctl, "image add NAME --from FOLDER|TAR|RAW");
		return make_and_send(ctl, argv[2], from, size, replace);
	}
	return ctl_usage(ctl, "image build busybox | add NAME --from WHAT | ls | rm NAME");
}

/* ---------------------------------------------------------------- kernels */

static int send_modules(struct ctl *ctl, const char *name, const char *folder, const char *release,
	bool replace, uint8_t id[32])
{
	Um__ArtefactInfo info = UM__ARTEFACT_INFO__INIT;
	char dir[FOLDER_MAX], file[PATH_MAX], text[160];
	struct err err = ERR_INIT;
	int rc = temp_folder(dir);

	if (rc)
		return rc;
	(void)str_format(file, sizeof(file), "%s/modules", dir);
	if (modules_build(folder, release, file, &err) < 0) {
		rc = ctl_fail_err(&err);
	} else {
		(void)str_format(text, sizeof(text), "%.100s-modules", name);
		info.name = text;
		info.kind = UM__ARTEFACT_KIND__ARTEFACT_MODULES;
		rc = send_file(ctl, file, &info, replace, id);
	}
	(void)fs_remove_tree(dir, NULL);
	return rc;
}

static int add_kernel(
	struct ctl *ctl, const char *name, const char *path, const char *modules, bool replace)
{
	Um__ArtefactInfo info = UM__ARTEFACT_INFO__INIT;
	Um__ArtefactInfo__MetaEntry entries[3], *metas[3];
	struct kernelinfo kernel;
	struct err err = ERR_INIT;
	uint8_t id[32], modules_id[32];
	char full[PATH_MAX];
	int rc;

	if (!realpath(path, full))
		return ctl_fail(EXIT_NOT_FOUND, "%s: no such file", path);
	if (kernelinfo_read(full, (uid_t)-1, KERNELINFO_TIMEOUT_MS, &kernel, &err) < 0 ||
		kernelinfo_usable(&kernel, &err) < 0)
		return ctl_fail_err(&err);
	rc = ctl_connect(ctl);
	if (rc == 0 && modules) {
		rc = send_modules(ctl, name, modules, kernel.release, replace, modules_id);
		info.modules_id.data = modules_id;
		info.modules_id.len = rc == 0 ? 32 : 0;
	}
	if (rc == 0) {
		info.name = (char *)(uintptr_t)name;
		info.kind = UM__ARTEFACT_KIND__ARTEFACT_KERNEL;
		metas[0] = meta(&entries[0], "release", kernel.release);
		metas[1] = meta(&entries[1], "origin", full);
		info.meta = metas;
		info.n_meta = 2;
		rc = send_file(ctl, full, &info, replace, id);
	}
	return rc;
}

int cmd_kernel(struct ctl *ctl, int argc, char **argv)
{
	const char *modules = NULL, *format = "table";
	bool replace = false, force = false;
	const struct opt opts[] = {
		{OPT_TEXT, "modules", 0, &modules},
		{OPT_TEXT, "output", 'o', &format},
		{OPT_FLAG, "replace", 0, &replace},
		{OPT_FLAG, "force", 0, &force},
		OPT_LAST,
	};
	int n = opt_parse(ctl, argc, argv, opts, NULL);

	if (n < 0)
		return -n;
	if (n >= 2 && strcmp(argv[1], "ls") == 0)
		return list(ctl, "kernels", format);
	if (n >= 2 && strcmp(argv[1], "rm") == 0)
		return remove_one(ctl, n, argv, UM__ARTEFACT_KIND__ARTEFACT_KERNEL, force);
	if (n == 4 && strcmp(argv[1], "add") == 0)
		return add_kernel(ctl, argv[2], argv[3], modules, replace);
	return ctl_usage(ctl, "kernel add NAME FILE [--modules FOLDER] | ls | rm NAME");
}
