/* kernel: adding, building, looking into, removing. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clusterctl/artefact.h"
#include "clusterctl/recipe.h"
#include "clusterctl/show.h"
#include "guest/image/modules.h"
#include "guest/kernelinfo.h"
#include "lib/fs.h"
#include "lib/str.h"
#include "lib/units.h"
#include "spec/spec.h"

#define CALL_MS 60000u
#define KERNEL_NAME 64

/* ---------------------------------------------------------------- add */

static int send_modules(struct ctl *ctl, const char *name, const char *folder, const char *release,
	bool replace, uint8_t id[32])
{
	Um__ArtefactInfo info = UM__ARTEFACT_INFO__INIT;
	char dir[ARTEFACT_FOLDER], file[PATH_MAX], text[160];
	struct err err = ERR_INIT;
	int rc = artefact_temp(dir);

	if (rc)
		return rc;
	(void)str_format(file, sizeof(file), "%s/modules", dir);
	if (modules_build(folder, release, file, &err) < 0) {
		rc = ctl_fail_err(&err);
	} else {
		(void)str_format(text, sizeof(text), "%.100s-modules", name);
		info.name = text;
		info.kind = UM__ARTEFACT_KIND__ARTEFACT_MODULES;
		rc = artefact_send(ctl, file, &info, replace, id);
	}
	(void)fs_remove_tree(dir, NULL);
	return rc;
}

/* "linux-NAME" is NAME; anything else is named by its release. */
static void default_name(const char *path, const char *release, char out[KERNEL_NAME])
{
	const char *slash = strrchr(path, '/');
	const char *base = slash ? slash + 1 : path;

	if (strncmp(base, "linux-", 6) == 0 && str_copy(out, KERNEL_NAME, base + 6) >= 0 &&
		spec_check_artefact("name", out, NULL) == 0)
		return;
	(void)str_format(out, KERNEL_NAME, "linux-%.50s", release);
	for (char *p = out; *p; p++)
		if (!isalnum((unsigned char)*p))
			*p = '-';
		else
			*p = (char)tolower((unsigned char)*p);
}

/* A copy in memory that nobody changes: what was looked into is what is sent. */
struct binary {
	char path[PATH_MAX]; /* absolute; where it came from */
	int fd;
	char copy[32]; /* the copy's path, for this process */
	struct kernelinfo info;
	struct buf config;
};

static int binary_copy(struct binary *b, struct err *err)
{
	int in = open(b->path, O_RDONLY | O_CLOEXEC), rc = 0;
	ssize_t n = 1;

	if (in < 0)
		return err_errno(err, errno, "%s", b->path);
	b->fd = memfd_create("kernel", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (b->fd < 0 || fchmod(b->fd, 0555) < 0)
		rc = err_errno(err, errno, "memory for a copy of %s", b->path);
	while (rc == 0 && n > 0) {
		n = sendfile(b->fd, in, NULL, 1u << 20);
		if (n < 0)
			rc = err_errno(err, errno, "read %s", b->path);
	}
	if (rc == 0 && fcntl(b->fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW) < 0)
		rc = err_errno(err, errno, "seal the copy of %s", b->path);
	(void)close(in);
	(void)str_format(b->copy, sizeof(b->copy), "/proc/self/fd/%d", b->fd);
	return rc;
}

static int binary_read(const char *path, struct binary *b)
{
	struct err err = ERR_INIT;

	*b = (struct binary){.fd = -1};
	buf_init(&b->config);
	if (!realpath(path, b->path))
		return ctl_fail(EXIT_NOT_FOUND, "%s: no such file", path);
	if (kernelinfo_check(b->path, &err) < 0 || binary_copy(b, &err) < 0)
		return ctl_fail_err(&err);
	if (kernelinfo_read(b->copy, (uid_t)-1, KERNELINFO_TIMEOUT_MS, &b->info, &err) < 0 ||
		kernelinfo_config(b->copy, (uid_t)-1, KERNELINFO_TIMEOUT_MS, &b->config, &err) < 0)
		return ctl_fail(EXIT_FAILED, "%s: %s", path, err_msg(&err));
	return 0;
}

static void binary_free(struct binary *b)
{
	if (b->fd >= 0)
		(void)close(b->fd);
	buf_free(&b->config);
}

static int add_kernel(
	struct ctl *ctl, const char *name, const char *path, const char *modules, bool replace)
{
	Um__ArtefactInfo info = UM__ARTEFACT_INFO__INIT;
	Um__ArtefactInfo__MetaEntry entries[4], *metas[4];
	struct binary b;
	struct err err = ERR_INIT;
	uint8_t id[32], modules_id[32];
	char derived[KERNEL_NAME];
	int rc = binary_read(path, &b);

	if (rc == 0 && kernelinfo_usable(&b.info, &err) < 0)
		rc = ctl_fail_err(&err);
	if (rc == 0 && !name) {
		default_name(b.path, b.info.release, derived);
		name = derived;
	}
	if (rc == 0)
		rc = ctl_connect(ctl);
	if (rc == 0 && modules) {
		rc = send_modules(ctl, name, modules, b.info.release, replace, modules_id);
		info.modules_id.data = modules_id;
		info.modules_id.len = rc == 0 ? 32 : 0;
	}
	if (rc == 0) {
		info.name = (char *)(uintptr_t)name;
		info.kind = UM__ARTEFACT_KIND__ARTEFACT_KERNEL;
		metas[0] = artefact_meta(&entries[0], "release", b.info.release);
		metas[1] = artefact_meta(&entries[1], "origin", b.path);
		metas[2] = artefact_meta(&entries[2], "features", b.info.features);
		metas[3] = artefact_meta(&entries[3], "config", buf_text(&b.config));
		info.meta = metas;
		info.n_meta = 4;
		rc = artefact_send(ctl, b.copy, &info, replace, id);
	}
	binary_free(&b);
	return rc;
}

/* ---------------------------------------------------------------- inspect */

static void config_json(struct json *j, const char *config)
{
	json_object(j, "config");
	for (const char *p = config; *p; p += strcspn(p, "\n"), p += *p == '\n') {
		size_t len = strcspn(p, "\n"), name = strcspn(p, "=");
		char key[128];

		if (name >= len || name >= sizeof(key))
			continue;
		memcpy(key, p, name);
		key[name] = '\0';
		json_strn(j, key, p + name + 1, len - name - 1);
	}
	json_end(j);
}

static void features_text(const char *features)
{
	for (const char *p = features; *p; p++) {
		if (*p == ',')
			(void)fputs(", ", stdout);
		else
			(void)putchar(*p);
	}
	(void)putchar('\n');
}

static void config_text(const char *config, bool whole)
{
	size_t n = 0;

	for (const char *p = config; *p; p++)
		n += *p == '\n';
	(void)printf("config:    %zu options%s\n", n, whole || !n ? "" : " (--config shows them)");
	if (whole)
		(void)printf("\n%s", config);
}

struct inspect {
	bool json, config;
	bool found;
};

static int print_json(struct buf *out)
{
	buf_add_byte(out, '\n');
	(void)fputs(buf_text(out), stdout);
	buf_free(out);
	return EXIT_OK;
}

static int inspect_file(const char *path, const struct inspect *how)
{
	struct binary b;
	struct err err = ERR_INIT;
	struct buf out;
	struct json j;
	int rc = binary_read(path, &b);

	if (rc) {
		binary_free(&b);
		return rc;
	}
	(void)kernelinfo_usable(&b.info, &err);
	if (how->json) {
		buf_init(&out);
		json_init(&j, &out, 2);
		json_object(&j, NULL);
		json_str(&j, "file", b.path);
		json_str(&j, "release", b.info.release);
		show_features(&j, b.info.features);
		json_bool(&j, "usable", err.code == 0);
		json_str(&j, "lacks", err.code ? err_msg(&err) : NULL);
		config_json(&j, buf_text(&b.config));
		json_end(&j);
		rc = print_json(&out);
	} else {
		(void)printf("file:      %s\nrelease:   %s\nfeatures:  ", b.path, b.info.release);
		features_text(b.info.features);
		(void)printf("usable:    %s\n", err.code ? err_msg(&err) : "yes");
		config_text(buf_text(&b.config), how->config);
	}
	binary_free(&b);
	return rc;
}

static void inspect_text(const Um__ArtefactInfo *a, const struct inspect *how)
{
	char size[UNITS_TEXT], age[32], id[65];

	str_hex(id, a->id.data, a->id.len == 32 ? 32 : 0);
	(void)printf("name:      %s\nrelease:   %s\nfeatures:  ", a->name, show_meta(a, "release"));
	features_text(show_meta(a, "features"));
	(void)printf("modules:   %s\n", a->modules_id.len ? "yes" : "no");
	(void)printf("size:      %s\n", units_size(size, a->size));
	(void)printf("origin:    %s\n", show_meta(a, "origin"));
	(void)printf("id:        %s\nage:       %s\n", id, out_age(age, a->created_at));
	(void)printf("hosts:     %u hold it\nused by:   %u guests\n", a->hosts, a->used_by);
	config_text(show_meta(a, "config"), how->config);
}

static int on_kernel(void *arg, const Um__Envelope *env)
{
	struct inspect *how = arg;
	const Um__GetReply *r = env->get_reply;
	struct buf out;
	struct json j;

	if (env->body_case != UM__ENVELOPE__BODY_GET_REPLY)
		return -EPROTO;
	for (size_t i = 0; i < r->n_artefacts; i++) {
		how->found = true;
		if (!how->json) {
			inspect_text(r->artefacts[i], how);
			continue;
		}
		buf_init(&out);
		json_init(&j, &out, 2);
		json_object(&j, NULL);
		show_artefact(r->artefacts[i], &j);
		config_json(&j, show_meta(r->artefacts[i], "config"));
		json_end(&j);
		(void)print_json(&out);
	}
	return 0;
}

static int inspect_name(struct ctl *ctl, char *name, struct inspect *how)
{
	Um__Envelope env = wire_env(0);
	Um__GetRequest r = UM__GET_REQUEST__INIT;
	struct err err = ERR_INIT;
	int rc = ctl_connect(ctl);

	if (rc)
		return rc;
	r.kind = UM__KIND__KIND_KERNELS;
	r.names = &name;
	r.n_names = 1;
	r.detail = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &r;
	if (ctl_call(ctl, &env, CALL_MS, on_kernel, how, &err) < 0)
		return ctl_fail_err(&err);
	if (!how->found)
		return ctl_fail(EXIT_NOT_FOUND,
			"no kernel '%s' in the cluster (a file is named with its folder: ./%s)",
			name, name);
	return EXIT_OK;
}

static int inspect(struct ctl *ctl, char *what, const char *format, bool config)
{
	struct inspect how = {.json = strcmp(format, "json") == 0, .config = config};

	if (!how.json && strcmp(format, "table") != 0)
		return ctl_usage(ctl, "inspect -o takes table or json");
	/* Names of the cluster have neither. */
	if (strchr(what, '/') || strchr(what, '.'))
		return inspect_file(what, &how);
	return inspect_name(ctl, what, &how);
}

/* ---------------------------------------------------------------- build */

static int build(struct ctl *ctl, const char *name, const struct recipe_options *o)
{
	char file[PATH_MAX];
	int rc = recipe_find(o->out, file);

	/* That there is no scheduler is said before the minutes of a build, not after. */
	if (rc == 0)
		rc = ctl_connect(ctl);
	ctl_close(ctl);
	if (rc == 0)
		rc = recipe_run(o, file);
	return rc ? rc : add_kernel(ctl, name ? name : "fast", file, NULL, true);
}

/* ---------------------------------------------------------------- the verb */

struct options {
	const char *modules, *format, *name;
	struct recipe_options recipe;
	bool replace, force, config;
};

static int run_verb(struct ctl *ctl, int n, char **argv, const struct options *o)
{
	const char *what = n >= 2 ? argv[1] : "";

	if (strcmp(what, "ls") == 0)
		return artefact_list(ctl, "kernels", o->format);
	if (strcmp(what, "rm") == 0)
		return artefact_remove(ctl, n, argv, UM__ARTEFACT_KIND__ARTEFACT_KERNEL, o->force);
	if (n == 3 && strcmp(what, "inspect") == 0)
		return inspect(ctl, argv[2], o->format, o->config);
	if (n == 2 && strcmp(what, "build") == 0)
		return build(ctl, o->name, &o->recipe);
	if (n == 3 && strcmp(what, "add") == 0)
		return add_kernel(ctl, o->name, argv[2], o->modules, o->replace);
	if (n == 4 && strcmp(what, "add") == 0 && !o->name)
		return add_kernel(ctl, argv[2], argv[3], o->modules, o->replace);
	return ctl_usage(
		ctl, "kernel add FILE [--name NAME] | inspect NAME|FILE | build | ls | rm NAME");
}

int cmd_kernel(struct ctl *ctl, int argc, char **argv)
{
	struct options o = {.format = "table"};
	const struct opt opts[] = {
		{OPT_TEXT, "modules", 0, &o.modules},
		{OPT_TEXT, "output", 'o', &o.format},
		{OPT_TEXT, "name", 0, &o.name},
		{OPT_TEXT, "source", 0, &o.recipe.source},
		{OPT_TEXT, "jobs", 'j', &o.recipe.jobs},
		{OPT_TEXT, "out", 0, &o.recipe.out},
		{OPT_FLAG, "newest", 0, &o.recipe.newest},
		{OPT_FLAG, "replace", 0, &o.replace},
		{OPT_FLAG, "force", 0, &o.force},
		{OPT_FLAG, "config", 0, &o.config},
		OPT_LAST,
	};
	int n = opt_parse(ctl, argc, argv, opts, NULL);

	return n < 0 ? -n : run_verb(ctl, n, argv, &o);
}
