#include "guest/image/modules.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/image/ext4.h"
#include "guest/image/tool.h"
#include "lib/buf.h"
#include "lib/fs.h"
#include "lib/str.h"

static bool is_dir(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool exists(const char *dir, const char *name)
{
	char path[PATH_MAX];

	return str_format(path, sizeof(path), "%s/%s", dir, name) > 0 && access(path, F_OK) == 0;
}

/* A folder of modules has their list or the "kernel" folder. */
static bool is_release(const char *dir)
{
	return exists(dir, "modules.dep") || exists(dir, "modules.order") || exists(dir, "kernel");
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static int missing(const char *folder, const char *release, struct err *err)
{
	DIR *dir = opendir(folder);
	char path[PATH_MAX];
	struct dirent *d;
	struct buf have;
	int rc;

	if (!dir)
		return err_errno(err, errno, "modules folder %s", folder);
	buf_init(&have);
	have.limit = 256;
	while ((d = readdir(dir)))
		if (d->d_name[0] != '.' &&
			str_format(path, sizeof(path), "%s/%s", folder, d->d_name) > 0 &&
			is_release(path))
			buf_printf(&have, "%s%s", have.size ? ", " : "", d->d_name);
	closedir(dir);
	rc = err_set(err, -ENOENT, "%s has no modules of kernel %s (it has: %s)", folder, release,
		have.size ? buf_text(&have) : "none");
	buf_free(&have);
	return rc;
}

static int find_release(
	const char *folder, const char *release, char path[PATH_MAX], struct err *err)
{
	const char *const places[] = {"", "lib/modules/", "usr/lib/modules/"};
	char plain[PATH_MAX];
	size_t len, i;

	if (!*release || strchr(release, '/') || strcmp(release, "..") == 0)
		return err_set(err, -EINVAL, "'%s' is not a kernel's release", release);
	if (!is_dir(folder))
		return err_set(err, -ENOENT, "modules folder %s: not there", folder);
	for (i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		if (str_format(path, PATH_MAX, "%s/%s%s", folder, places[i], release) > 0 &&
			is_dir(path) && is_release(path))
			return 0;
	if (str_copy(plain, sizeof(plain), folder))
		return err_set(err, -ENAMETOOLONG, "modules folder: path too long");
	for (len = strlen(plain); len > 1 && plain[len - 1] == '/';)
		plain[--len] = '\0';
	if (is_release(plain)) {
		if (strcmp(base_name(plain), release) != 0)
			return err_set(err, -ENOENT, "%s has the modules of %s, the kernel is %s",
				folder, base_name(plain), release);
		return str_copy(path, PATH_MAX, plain);
	}
	return missing(folder, release, err);
}

/* A copy with its lists made: depmod wants BASE/lib/modules/RELEASE. */
static int make_lists(const char *path, const char *release, char base[PATH_MAX], struct err *err)
{
	const char *tmp = getenv("TMPDIR");
	char lib[PATH_MAX];
	const char *cp[] = {"cp", "-a", "--", path, lib, NULL};
	const char *depmod[] = {"depmod", "-b", base, release, NULL};
	struct tool copy = {.argv = cp}, make = {.argv = depmod};
	int rc;

	if (str_format(base, PATH_MAX, "%s/umlaut-modules.XXXXXX",
		    tmp && *tmp == '/' ? tmp : "/tmp") < 0 ||
		!mkdtemp(base)) {
		rc = err_errno(err, errno, "temporary folder %s", base);
		base[0] = '\0';
		return rc;
	}
	if (str_format(lib, sizeof(lib), "%s/lib/modules", base) < 0)
		return err_set(err, -ENAMETOOLONG, "temporary folder: path too long");
	rc = fs_mkdirs(lib, 0755, err);
	if (!rc)
		rc = tool_run(&copy, err);
	if (!rc)
		rc = tool_run(&make, err);
	return rc;
}

int modules_build(const char *folder, const char *release, const char *out, struct err *err)
{
	char path[PATH_MAX], base[PATH_MAX] = "", made[PATH_MAX];
	struct ext4_spec spec = {
		.tree = path, .out = out, .label = "umlaut-modules", .read_only = true};
	int rc = find_release(folder, release, path, err);

	if (rc)
		return rc;
	if (!exists(path, "modules.dep")) {
		rc = make_lists(path, release, base, err);
		if (!rc && str_format(made, sizeof(made), "%s/lib/modules/%s", base, release) < 0)
			rc = err_set(err, -ENAMETOOLONG, "temporary folder: path too long");
		spec.tree = made;
	}
	if (!rc)
		rc = ext4_build(&spec, err);
	if (*base)
		(void)fs_remove_tree(base, NULL);
	return rc ? err_wrap(err, "modules of kernel %s", release) : 0;
}
