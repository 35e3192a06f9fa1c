/* A guest but for its networks. */
#include "spec/spec_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/units.h"

/* What Umlaut sets itself, or what reaches out of the guest: the beginnings of
 * options, because the kernel too compares only those. */
static const char *const owned_args[] = {"mem=", "iomem", "ubd", "udb", "fake_ide", "con", "ssl",
	"xterm", "vec", "eth", "mconsole", "umid", "uml_dir", "initrd", "noinitrd", "rdinit",
	"init=", "root", "hostfs", "virtio_uml", "noreboot", "time-travel=ext", "gdb", "jail",
	"umlaut"};

bool spec_is_artefact_id(const char *name)
{
	uint8_t id[32];

	return str_starts(name, "sha256:") && str_unhex(id, sizeof(id), name + 7) == 0;
}

int spec_check_artefact(const char *what, const char *name, struct err *err)
{
	size_t n = strnlen(name, STR_FULLNAME_MAX + 1);

	if (!n)
		return err_set(err, -EINVAL, "%s is missing", what);
	if (spec_is_artefact_id(name))
		return 0;
	if (str_starts(name, "sha256:"))
		return err_set(err, -EINVAL,
			"%s '%.80s': after sha256: there must be 64 hex digits", what, name);
	if (n > STR_FULLNAME_MAX)
		return err_set(err, -EINVAL, "%s '%.20s...' is longer than %d characters", what,
			name, STR_FULLNAME_MAX);
	for (size_t i = 0; i < n; i++) {
		char ch = name[i];
		bool alnum = (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9');

		if (!alnum && (i == 0 || !strchr("._:-", ch)))
			return err_set(err, -EINVAL,
				"%s '%s' may only have a-z, 0-9, '.', '_', ':' and '-', and must "
				"start "
				"with a letter or digit",
				what, name);
	}
	return 0;
}

int spec_check_kernel_args(const char *args, const char **text, size_t *length, struct err *err)
{
	*text = NULL;
	*length = 0;
	if (strlen(args) > SPEC_KERNEL_ARGS_MAX)
		return err_set(err, -EINVAL, "longer than %d bytes", SPEC_KERNEL_ARGS_MAX);
	for (const char *p = args; *p; p++)
		if (*p < ' ' || *p > '~' || strchr("\"'\\", *p))
			return err_set(err, -EINVAL,
				"byte %zu is not allowed: only printable ASCII without quotes and "
				"backslashes, on one line",
				(size_t)(p - args) + 1);
	for (const char *p = args + strspn(args, " "); *p; p += strspn(p, " ")) {
		size_t n = strcspn(p, " ");

		for (size_t i = 0; i < sizeof(owned_args) / sizeof(owned_args[0]); i++) {
			if (!str_starts(p, owned_args[i]))
				continue;
			*text = p;
			*length = n;
			return err_set(err, -EINVAL,
				"'%.*s' is not allowed: options that start with '%s' are set by "
				"Umlaut",
				(int)n, p, owned_args[i]);
		}
		p += n;
	}
	return 0;
}

static void check_range(struct check *c, const char *where, const char *field, uint64_t v,
	uint64_t min, uint64_t max, uint64_t step)
{
	char at[SPEC_WHERE], a[UNITS_TEXT], b[UNITS_TEXT], d[UNITS_TEXT];

	check_at(at, where, field);
	if (v < min || v > max)
		spec_errors_add(c->out, at, "%s is not within %s to %s", units_size(a, v),
			units_size(b, min), units_size(d, max));
	else if (v % step)
		spec_errors_add(c->out, at, "%" PRIu64 " bytes are not a multiple of %s", v,
			units_size(a, step));
}

static void check_size(struct check *c, const Um__GuestSpec *g, const char *where)
{
	char at[SPEC_WHERE], a[UNITS_TEXT], b[UNITS_TEXT], d[UNITS_TEXT];

	check_range(c, where, "memory", g->memory_bytes, SPEC_MEMORY_MIN, SPEC_MEMORY_MAX,
		SPEC_MEMORY_STEP);
	if (g->disk_bytes)
		check_range(c, where, "disk", g->disk_bytes, SPEC_DISK_MIN, SPEC_DISK_MAX,
			SPEC_DISK_STEP);
	if (g->cpu_milli < SPEC_CPU_MIN || g->cpu_milli > SPEC_CPU_MAX)
		spec_errors_add(c->out, check_at(at, where, "cpus"),
			"%s CPUs are not within %s to %s", units_cpus(a, g->cpu_milli),
			units_cpus(b, SPEC_CPU_MIN), units_cpus(d, SPEC_CPU_MAX));
}

static bool env_name(const char *s)
{
	if (!*s || (*s >= '0' && *s <= '9'))
		return false;
	for (; *s; s++)
		if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') ||
			    (*s >= '0' && *s <= '9') || *s == '_'))
			return false;
	return true;
}

static void check_env(struct check *c, const Um__GuestSpec *g, const char *where)
{
	char path[SPEC_WHERE], at[SPEC_WHERE];
	struct seen seen;
	size_t bytes = 0;

	check_at(path, where, "env");
	if (g->n_env > SPEC_ENV_MAX) {
		spec_errors_add(
			c->out, path, "%zu variables are more than %d", g->n_env, SPEC_ENV_MAX);
		return;
	}
	seen_init(&seen);
	for (size_t i = 0; i < g->n_env; i++) {
		const char *key = g->env[i]->key;
		bool first;

		bytes += strlen(key) + strlen(g->env[i]->value) + 2;
		if (!env_name(key))
			spec_errors_add(c->out, check_at(at, path, key),
				"'%.80s' is not a variable's name (letters, digits and '_', not "
				"starting with a digit)",
				key);
		(void)seen_put(&seen, key, 0, &first);
		if (!first)
			spec_errors_add(
				c->out, check_at(at, path, key), "'%.80s' is given twice", key);
	}
	c->out->failed |= seen.failed;
	seen_free(&seen);
	if (bytes > SPEC_ENV_BYTES)
		spec_errors_add(c->out, path, "%zu bytes of variables are more than %u", bytes,
			SPEC_ENV_BYTES);
}

/* An absolute path that names a file: no empty, "." or ".." part. */
static bool file_path(const char *p)
{
	if (*p != '/' || strlen(p) > SPEC_PATH_MAX)
		return false;
	while (*p == '/') {
		size_t n = strcspn(++p, "/");

		if (!n || n > 255 || (n == 1 && *p == '.') ||
			(n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		p += n;
	}
	return true;
}

static void check_files(struct check *c, const Um__GuestSpec *g, const char *where)
{
	char path[SPEC_WHERE], at[SPEC_WHERE];
	struct seen seen;
	uint64_t bytes = 0;

	if (g->n_files > SPEC_FILES_MAX) {
		spec_errors_add(c->out, check_at(path, where, "files"),
			"%zu files are more than %d", g->n_files, SPEC_FILES_MAX);
		return;
	}
	seen_init(&seen);
	for (size_t i = 0; i < g->n_files; i++) {
		const Um__FileSpec *f = g->files[i];
		uint64_t other;
		bool first;

		check_at_index(path, where, "files", i);
		bytes += f->content.len;
		if (!given(f->path))
			spec_errors_add(c->out, path, "the path of the file is missing");
		else if (!file_path(f->path))
			spec_errors_add(c->out, check_at(at, path, "path"),
				"'%.80s' must be an absolute path of a file, without '.', '..' or "
				"'//', at most %d bytes",
				f->path, SPEC_PATH_MAX);
		other = seen_put(&seen, f->path, i, &first);
		if (!first && given(f->path))
			spec_errors_add(c->out, check_at(at, path, "path"),
				"'%.80s' is also the path of files[%" PRIu64 "]", f->path, other);
		if (f->mode > 07777)
			spec_errors_add(c->out, check_at(at, path, "mode"),
				"%#o is not a file mode (0 to 07777)", f->mode);
	}
	c->out->failed |= seen.failed;
	seen_free(&seen);
	if (bytes > SPEC_FILES_BYTES)
		spec_errors_add(c->out, check_at(path, where, "files"),
			"%" PRIu64 " bytes of files are more than %u; put them into the image",
			bytes, SPEC_FILES_BYTES);
}

static void check_ready(struct check *c, const Um__ReadyProbe *r, const char *where)
{
	char at[SPEC_WHERE];
	size_t bytes = 0;

	for (size_t i = 0; i < r->n_exec; i++)
		bytes += strlen(r->exec[i]) + 1;
	if (r->n_exec > SPEC_EXEC_MAX || bytes > SPEC_EXEC_BYTES)
		spec_errors_add(c->out, check_at(at, where, "exec"),
			"a command is at most %d words and %d bytes", SPEC_EXEC_MAX,
			SPEC_EXEC_BYTES);
	else if (r->n_exec && !given(r->exec[0]))
		spec_errors_add(c->out, check_at(at, where, "exec"), "the command is empty");
	if (r->interval_ms &&
		(r->interval_ms < SPEC_READY_MIN_INTERVAL || r->interval_ms > SPEC_READY_MAX_MS))
		spec_errors_add(c->out, check_at(at, where, "interval"),
			"%u ms are not within %u ms to 1d", r->interval_ms,
			SPEC_READY_MIN_INTERVAL);
	if (r->timeout_ms > SPEC_READY_MAX_MS)
		spec_errors_add(c->out, check_at(at, where, "timeout"), "longer than 1d");
}

/* Host names: RFC 1123, also with dots; what sethostname(2) takes. */
static void check_hostname(
	struct check *c, const Um__GroupSpec *group, const char *name, const char *where)
{
	char at[SPEC_WHERE];
	size_t n = strlen(name);
	bool good = n <= SPEC_HOSTNAME_MAX && name[0] != '.' && name[0] != '-';

	if (!n)
		return;
	check_at(at, where, "hostname");
	for (size_t i = 0; good && i < n; i++)
		good = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= 'A' && name[i] <= 'Z') ||
		       (name[i] >= '0' && name[i] <= '9') ||
		       ((name[i] == '-' || name[i] == '.') && i + 1 < n && name[i + 1] != '.');
	if (!good)
		spec_errors_add(c->out, at,
			"'%.80s' is not a host name (at most %d letters, digits, '-' and '.')",
			name, SPEC_HOSTNAME_MAX);
	if (group->count_set && group->count != 1)
		spec_errors_add(c->out, at,
			"a group of %u guests cannot share one host name; leave it out, and each "
			"has "
			"its own name",
			group->count);
}

static bool is_feature(const char *name)
{
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-");

	return n && !name[n] && n <= SPEC_FEATURE_MAX;
}

static void check_features(struct check *c, const Um__GuestSpec *g, const char *where)
{
	char at[SPEC_WHERE];

	check_at(at, where, "kernel_features");
	if (g->n_kernel_features > SPEC_FEATURES_MAX)
		spec_errors_add(c->out, at, "%zu features are more than %d", g->n_kernel_features,
			SPEC_FEATURES_MAX);
	for (size_t i = 0; i < g->n_kernel_features && i < SPEC_FEATURES_MAX; i++) {
		char name[32];

		(void)str_format(name, sizeof(name), "kernel_features[%zu]", i);
		if (!is_feature(g->kernel_features[i]))
			spec_errors_add(c->out, check_at(at, where, name),
				"'%.40s' is no feature ('clusterctl kernel inspect NAME' lists "
				"those of a kernel)",
				g->kernel_features[i]);
	}
}

static void check_texts(struct check *c, const Um__GuestSpec *g, const char *where)
{
	struct err err = ERR_INIT;
	char at[SPEC_WHERE];
	const char *word;
	size_t n;

	if (spec_check_artefact("image", g->image, &err) < 0)
		check_add(c, where, "image", &err);
	if (given(g->kernel) && spec_check_artefact("kernel", g->kernel, &err) < 0)
		check_add(c, where, "kernel", &err);
	if (spec_check_kernel_args(g->kernel_args, &word, &n, &err) < 0)
		check_add(c, where, "kernel_args", &err);
	if (given(g->init) && strcmp(g->init, "auto") != 0 && strcmp(g->init, "image") != 0 &&
		strcmp(g->init, "umlaut") != 0)
		spec_errors_add(c->out, check_at(at, where, "init"),
			"'%.40s' is unknown (auto, image, umlaut)", g->init);
	if (strlen(g->run) > SPEC_RUN_BYTES)
		spec_errors_add(c->out, check_at(at, where, "run"),
			"a script of %zu bytes is longer than %u", strlen(g->run), SPEC_RUN_BYTES);
	if (g->restart != UM__RESTART_POLICY__RESTART_ALWAYS &&
		g->restart != UM__RESTART_POLICY__RESTART_ON_FAILURE &&
		g->restart != UM__RESTART_POLICY__RESTART_NEVER)
		spec_errors_add(c->out, check_at(at, where, "restart"),
			"policy %d is unknown (always, on-failure, never)", (int)g->restart);
	if (g->stop_timeout_ms > SPEC_STOP_TIMEOUT_MAX)
		spec_errors_add(c->out, check_at(at, where, "stop_timeout"), "longer than 1h");
}

Um__OnHostLoss spec_on_loss(const Um__GuestSpec *g)
{
	return g->on_host_loss != UM__ON_HOST_LOSS__LOSS_DEFAULT ? g->on_host_loss
								 : UM__ON_HOST_LOSS__LOSS_WAIT;
}

static void check_loss(struct check *c, const Um__GuestSpec *g, const char *where)
{
	char at[SPEC_WHERE];

	check_at(at, where, "on_host_loss");
	if ((unsigned)g->on_host_loss > UM__ON_HOST_LOSS__LOSS_NONE)
		spec_errors_add(c->out, at, "policy %d is unknown (restart, wait, none)",
			(int)g->on_host_loss);
	else if (g->persistent && g->on_host_loss == UM__ON_HOST_LOSS__LOSS_RESTART)
		spec_errors_add(c->out, at,
			"a guest whose disk is persistent is not started elsewhere without it: "
			"say wait or none, or leave out 'persistent'");
}

void check_guest(struct check *c, size_t group, const char *where)
{
	const Um__GuestSpec *g = c->spec->groups[group]->guest;
	char at[SPEC_WHERE];
	struct seen seen;

	check_texts(c, g, where);
	check_features(c, g, where);
	check_loss(c, g, where);
	check_size(c, g, where);
	check_hostname(c, c->spec->groups[group], g->hostname, where);
	check_nics(c, group, where);
	check_routes(c, g, where);
	check_env(c, g, where);
	check_files(c, g, where);
	if (g->ready)
		check_ready(c, g->ready, check_at(at, where, "ready"));
	if (g->placement)
		check_placement(c, group, check_at(at, where, "placement"));
	check_at(at, where, "labels");
	if (g->n_labels > SPEC_LABELS_MAX)
		spec_errors_add(
			c->out, at, "%zu labels are more than %d", g->n_labels, SPEC_LABELS_MAX);
	seen_init(&seen);
	for (size_t i = 0; i < g->n_labels && i < SPEC_LABELS_MAX; i++)
		check_labels(c, at, g->labels[i]->key, g->labels[i]->value, &seen);
	c->out->failed |= seen.failed;
	seen_free(&seen);
}
