/* image: making, adding, removing. */
#include <limits.h>
#include <string.h>

#include "clusterctl/artefact.h"
#include "guest/image/busybox.h"
#include "guest/image/import.h"
#include "lib/fs.h"
#include "lib/str.h"
#include "lib/units.h"

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
	char dir[ARTEFACT_FOLDER], file[PATH_MAX];
	struct err err = ERR_INIT;
	enum import_kind kind;
	uint8_t id[32];
	int rc;

	if (from && import_kind(from, &kind, &err) < 0)
		return ctl_fail_err(&err);
	rc = ctl_connect(ctl);
	if (rc == 0)
		rc = artefact_temp(dir);
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
		metas[0] = artefact_meta(&origin, "origin", from ? from : "busybox");
		info.meta = metas;
		info.n_meta = 1;
		rc = artefact_send(
			ctl, from && kind == IMPORT_RAW ? from : file, &info, replace, id);
	}
	(void)fs_remove_tree(dir, NULL);
	return rc;
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
		return artefact_list(ctl, "images", format);
	if (n >= 2 && strcmp(argv[1], "rm") == 0)
		return artefact_remove(ctl, n, argv, UM__ARTEFACT_KIND__ARTEFACT_IMAGE, force);
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
