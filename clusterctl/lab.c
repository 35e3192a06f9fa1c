#include "clusterctl/lab.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clusterctl/lab_schema.h"
#include "clusterctl/ydoc.h"
#include "lib/fs.h"

static const struct mark whole_file;

void labs_free(struct labs *labs)
{
	for (size_t i = 0; i < labs->count; i++) {
		free(labs->items[i].file);
		um__deployment_spec__free_unpacked(labs->items[i].spec, NULL);
	}
	free(labs->items);
	*labs = (struct labs){0};
}

/* Takes over SPEC. */
static int add_lab(struct labs *labs, const char *file, struct mark mark, Um__DeploymentSpec *spec)
{
	struct lab *items = realloc(labs->items, (labs->count + 1) * sizeof(*items));
	struct lab lab = {.mark = mark, .spec = spec};

	if (items)
		labs->items = items;
	lab.file = str_dup(file);
	if (!items || !lab.file) {
		free(lab.file);
		um__deployment_spec__free_unpacked(spec, NULL);
		return -ENOMEM;
	}
	labs->items[labs->count++] = lab;
	return 0;
}

/* Checks the meaning of what was read. */
static int check(struct lab_ctx *ctx, Um__DeploymentSpec *spec)
{
	struct spec_errors errors;
	struct err err = ERR_INIT;
	int rc = spec_defaults(spec, &err);

	if (rc < 0)
		return rc;
	spec_errors_init(&errors);
	rc = spec_check(spec, &errors);
	for (size_t i = 0; i < errors.count; i++) {
		bool bad;
		struct mark mark = lab_where(ctx, errors.items[i].path, &bad);

		if (!bad)
			diag_add(ctx->diags, ctx->file, mark, "%s: %s", errors.items[i].path,
				errors.items[i].message);
	}
	ctx->diags->dropped += errors.dropped;
	spec_errors_free(&errors);
	return rc < 0 ? rc : 0;
}

static int read_document(struct lab_ctx *ctx, struct labs *out)
{
	size_t before = ctx->diags->count + ctx->diags->dropped;
	Um__DeploymentSpec *spec = malloc(sizeof(*spec));
	struct mark mark = ctx->root->mark;
	const struct ynode *name;
	int rc = 0;

	if (!spec)
		return -ENOMEM;
	um__deployment_spec__init(spec);
	if (ctx->root->kind != YNODE_MAP) {
		diag_add(ctx->diags, ctx->file, ctx->root->mark,
			"a lab is a map with name, networks and guests, not %s",
			ynode_kind_text(ctx->root));
	} else {
		ctx->defaults = ynode_get(ctx->root, "defaults", NULL);
		if (ctx->defaults && ctx->defaults->kind != YNODE_MAP)
			ctx->defaults = NULL;
		lab_read(ctx, ctx->root, &lab_top, spec);
		rc = ctx->failed ? -ENOMEM : check(ctx, spec);
		name = ynode_get(ctx->root, "name", NULL);
		if (name)
			mark = name->mark;
	}
	if (rc == 0 && ctx->diags->count + ctx->diags->dropped > before)
		rc = -EINVAL;
	if (rc == 0)
		return add_lab(out, ctx->file, mark, spec);
	um__deployment_spec__free_unpacked(spec, NULL);
	return rc; /* NOLINT: add_lab() keeps the spec */
}

static int document(struct ydoc *doc, size_t i, const char *file, const char *dir, struct labs *out,
	struct diags *diags)
{
	struct lab_ctx ctx = {.file = file, .dir = dir, .diags = diags, .doc = doc};
	int rc;

	ctx.root = ydoc_root(doc, i);
	rc = read_document(&ctx, out);
	free(ctx.bad);
	free(ctx.guests);
	return rc;
}

int lab_parse(const char *file, const char *dir, const void *data, size_t size, struct labs *out,
	struct diags *diags)
{
	struct err err = ERR_INIT;
	struct ydoc *doc;
	struct mark mark;
	int worst = 0, rc = ydoc_parse(data, size, &doc, &mark, &err);

	if (rc < 0) {
		diag_add(diags, file, mark, "%s", err_msg(&err));
		return rc == -ENOMEM ? rc : -EINVAL;
	}
	if (!ydoc_count(doc)) {
		diag_add(diags, file, whole_file, "there is no lab in this file");
		worst = -EINVAL;
	}
	for (size_t i = 0; i < ydoc_count(doc); i++) {
		rc = document(doc, i, file, dir, out, diags);
		if (rc < 0 && worst != -ENOMEM)
			worst = rc;
	}
	ydoc_free(doc);
	return worst;
}

/* ---- files ---- */

static int read_stdin(struct buf *out, struct err *err)
{
	for (;;) {
		ssize_t n;

		if (!buf_reserve(out, 65536))
			return err_set(err, -ENOMEM, "memory is short");
		n = read(0, out->data + out->size, 65536);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, errno, "read standard input");
		if (!n)
			return 0;
		out->size += (size_t)n;
		if (out->size > YDOC_SIZE_MAX)
			return err_set(err, -EFBIG, "larger than %u MiB", YDOC_SIZE_MAX >> 20);
	}
}

static int load_file(const char *path, struct labs *out, struct diags *diags)
{
	struct err err = ERR_INIT;
	char dir[PATH_MAX] = "";
	const char *slash = strrchr(path, '/');
	struct buf data;
	int rc;

	buf_init(&data);
	diags_next_file(diags);
	if (strcmp(path, "-") == 0)
		rc = read_stdin(&data, &err);
	else
		rc = fs_read(path, YDOC_SIZE_MAX, &data, &err);
	if (rc < 0) {
		diag_add(diags, path, whole_file, "%s",
			rc == -EFBIG ? "larger than 16 MiB" : err_msg(&err));
	} else {
		if (slash && (size_t)(slash - path) < sizeof(dir) - 1) {
			/* "/lab.yaml" lies in "/" */
			memcpy(dir, path, (size_t)(slash - path) + (slash == path));
			dir[slash - path + (slash == path)] = 0;
		}
		rc = lab_parse(path, dir, data.data, data.size, out, diags);
	}
	buf_free(&data);
	return rc;
}

static int is_lab_file(const struct dirent *entry)
{
	const char *dot = strrchr(entry->d_name, '.');

	return dot && entry->d_name[0] != '.' &&
	       (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0);
}

static int load_folder(const char *path, struct labs *out, struct diags *diags)
{
	struct dirent **list = NULL;
	int n = scandir(path, &list, is_lab_file, alphasort), worst = 0;

	if (n < 0) {
		int code = -errno;

		diag_add(diags, path, whole_file, "%s", strerror(-code));
		return code;
	}
	if (!n) {
		diag_add(diags, path, whole_file, "there is no .yaml file in this folder");
		worst = -ENOENT;
	}
	for (int i = 0; i < n; i++) {
		char file[PATH_MAX];
		int rc = fs_join(file, sizeof(file), path, list[i]->d_name, NULL);

		if (rc == 0)
			rc = load_file(file, out, diags);
		if (rc < 0)
			worst = rc;
		free(list[i]);
	}
	free(list);
	return worst;
}

static int by_name(const void *a, const void *b)
{
	const struct lab *const *x = a, *const *y = b;
	int rc = strcmp((*x)->spec->name, (*y)->spec->name);

	return rc ? rc : *x < *y ? -1 : *x > *y;
}

static int check_names(const struct labs *labs, struct diags *diags)
{
	const struct lab **sorted = calloc(labs->count + 1, sizeof(void *));
	int rc = 0;

	if (!sorted)
		return -ENOMEM;
	for (size_t i = 0; i < labs->count; i++)
		sorted[i] = &labs->items[i];
	qsort(sorted, labs->count, sizeof(void *), by_name);
	for (size_t i = 1; i < labs->count; i++) {
		const struct lab *a = sorted[i - 1], *b = sorted[i];

		if (strcmp(a->spec->name, b->spec->name) != 0)
			continue;
		diag_add(diags, b->file, b->mark, "deployment '%s' is also defined in %s:%u",
			b->spec->name, a->file, a->mark.line);
		rc = -EINVAL;
	}
	free(sorted);
	return rc;
}

int labs_load(const char *const *paths, size_t count, struct labs *out, struct diags *diags)
{
	struct labs labs = {0};
	int worst = 0;

	for (size_t i = 0; i < count; i++) {
		struct stat st;
		bool folder = strcmp(paths[i], "-") != 0 && stat(paths[i], &st) == 0 &&
			      S_ISDIR(st.st_mode);
		int rc = folder ? load_folder(paths[i], &labs, diags)
				: load_file(paths[i], &labs, diags);

		if (rc < 0)
			worst = rc;
	}
	if (worst == 0)
		worst = check_names(&labs, diags);
	if (worst < 0) {
		labs_free(&labs);
		return worst;
	}
	*out = labs;
	return 0;
}
