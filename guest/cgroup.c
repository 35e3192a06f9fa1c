#include "guest/cgroup.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest/cgroup_int.h"
#include "lib/fs.h"
#include "lib/proc.h"
#include "lib/str.h"

#define OWN "umlaut"
#define HIERARCHIES 8
#define DIR_MAX 512
#define REASON_MAX 160

struct hierarchy {
	char dir[DIR_MAX];
	const struct cgroup_backend *backend;
	unsigned has;
};

struct cgroup_host {
	struct hierarchy h[HIERARCHIES];
	size_t count;
	char missing[CGROUP_CONTROLLERS][REASON_MAX];
};

struct cgroup {
	const struct cgroup_host *host;
	char name[DIR_MAX];
	char note[REASON_MAX];
	unsigned has[HIERARCHIES]; /* what could be enabled in each */
};

static const struct {
	const char *name;
	unsigned bit;
} controllers[CGROUP_CONTROLLERS] = {
	[CGROUP_MEMORY] = {"memory", CGROUP_HAS_MEMORY},
	[CGROUP_CPU] = {"cpu", CGROUP_HAS_CPU},
	[CGROUP_PIDS] = {"pids", CGROUP_HAS_PIDS},
	[CGROUP_KILL] = {"kill", CGROUP_HAS_KILL},
};

const char *cgroup_controller_name(enum cgroup_controller which)
{
	return which < CGROUP_CONTROLLERS ? controllers[which].name : "unknown";
}

const char *cgroup_missing(const struct cgroup_host *host, enum cgroup_controller which)
{
	return host->missing[which][0] ? host->missing[which] : NULL;
}

uint64_t cgroup_memory_limit(uint64_t guest_bytes)
{
	return guest_bytes + guest_bytes / 8 + (64u << 20);
}

/* ---------------------------------------------------------------- small files */

int cgroup_write(const char *dir, const char *file, const char *text, struct err *err)
{
	char path[PATH_MAX];
	size_t size = strlen(text);
	int fd, rc = 0;

	if (str_format(path, sizeof(path), "%s/%s", dir, file) < 0)
		return err_set(err, -ENAMETOOLONG, "cgroup path too long: %s/%s", dir, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, errno, "open %s", path);
	if (write(fd, text, size) != (ssize_t)size)
		rc = err_errno(err, errno, "write '%s' to %s", text, path);
	(void)close(fd);
	return rc;
}

int cgroup_read(const char *dir, const char *file, char *buf, size_t size, struct err *err)
{
	char path[PATH_MAX];
	size_t used = 0;
	int fd, rc = 0;

	buf[0] = '\0';
	if (str_format(path, sizeof(path), "%s/%s", dir, file) < 0)
		return err_set(err, -ENAMETOOLONG, "cgroup path too long: %s/%s", dir, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, errno, "open %s", path);
	while (used + 1 < size) {
		ssize_t n = read(fd, buf + used, size - 1 - used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = err_errno(err, errno, "read %s", path);
		if (n <= 0)
			break;
		used += (size_t)n;
	}
	buf[used] = '\0';
	(void)close(fd);
	return rc;
}

int cgroup_read_u64(const char *dir, const char *file, const char *key, uint64_t *out)
{
	char text[4096], *line, *save = NULL;
	int rc = cgroup_read(dir, file, text, sizeof(text), NULL);

	if (rc < 0)
		return rc;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (!key)
			return str_u64(line, 0, UINT64_MAX, out);
		size_t n = strlen(key);
		if (strncmp(line, key, n) == 0 && line[n] == ' ')
			return str_u64(line + n + 1, 0, UINT64_MAX, out);
	}
	return -ENOENT;
}

void cgroup_pause(unsigned us)
{
	struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};

	(void)nanosleep(&ts, NULL);
}

bool cgroup_await(const char *dir, const char *file, const char *text, unsigned ms)
{
	uint64_t end = proc_mono_ms() + ms;
	char now[256];

	for (;;) {
		if (cgroup_read(dir, file, now, sizeof(now), NULL) < 0)
			return false;
		if (strstr(now, text))
			return true;
		if (proc_mono_ms() >= end)
			return false;
		cgroup_pause(200);
	}
}

/* Calls FN for each pid in DIR/cgroup.procs; the number of them, 0 when there is
 * no such group. */
static int each_pid(const char *dir, void (*fn)(pid_t pid), struct err *err)
{
	struct buf text;
	char path[PATH_MAX], *save = NULL, *line;
	int rc, count = 0;

	if (str_format(path, sizeof(path), "%s/cgroup.procs", dir) < 0)
		return err_set(err, -ENAMETOOLONG, "cgroup path too long: %s", dir);
	buf_init(&text);
	rc = fs_read(path, 16u << 20, &text, err);
	if (rc < 0) {
		buf_free(&text);
		return rc == -ENOENT || rc == -ENODEV ? 0 : rc;
	}
	buf_add_byte(&text, '\0');
	if (text.failed) {
		buf_free(&text);
		return err_set(err, -ENOMEM, "out of memory for %s", path);
	}
	for (line = strtok_r((char *)text.data, "\n", &save); line;
		line = strtok_r(NULL, "\n", &save)) {
		uint64_t pid;

		if (str_u64(line, 1, INT_MAX, &pid) < 0)
			continue; /* 0: a process of a pid namespace we do not see */
		count++;
		if (fn)
			fn((pid_t)pid);
	}
	buf_free(&text);
	return count;
}

static void kill_pid(pid_t pid)
{
	(void)kill(pid, SIGKILL);
}

int cgroup_signal_all(const char *dir, struct err *err)
{
	return each_pid(dir, kill_pid, err);
}

/* ---------------------------------------------------------------- what the host has */

static int host_add(struct cgroup_host *host, const char *dir, const struct cgroup_backend *backend,
	unsigned has, struct err *err)
{
	struct hierarchy *h;

	if (host->count == HIERARCHIES)
		return err_set(err, -E2BIG, "more than %d cgroup hierarchies", HIERARCHIES);
	h = &host->h[host->count];
	if (str_copy(h->dir, sizeof(h->dir), dir) < 0)
		return err_set(err, -ENAMETOOLONG, "cgroup folder '%s' is too long", dir);
	h->backend = backend;
	h->has = has;
	host->count++;
	return 0;
}

static unsigned bit_of(const char *name)
{
	static const struct {
		const char *name;
		unsigned bit;
	} names[] = {
		{"memory", CGROUP_HAS_MEMORY},
		{"cpu", CGROUP_HAS_CPU},
		{"pids", CGROUP_HAS_PIDS},
		{"freezer", CGROUP_HAS_KILL},
		{"cpuacct", CGROUP_HAS_CPUACCT},
	};
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i].name) == 0)
			return names[i].bit;
	return 0;
}

/* Bits for the words of TEXT, which is cut up at SEPARATORS. */
static unsigned bits_of(char *text, const char *separators)
{
	char *save = NULL, *word;
	unsigned bits = 0;

	for (word = strtok_r(text, separators, &save); word;
		word = strtok_r(NULL, separators, &save))
		bits |= bit_of(word);
	return bits;
}

static int add_v2(struct cgroup_host *host, const char *dir, struct err *err)
{
	char text[512];
	unsigned has = CGROUP_HAS_KILL;

	/* A mount we may not read has no controllers for us. */
	if (cgroup_read(dir, "cgroup.controllers", text, sizeof(text), NULL) == 0)
		has |= bits_of(text, " \n");
	return host_add(host, dir, &cgroup_v2, has, err);
}

/* A line of mountinfo, see proc_pid_mountinfo(5):
 *   31 23 0:28 / /sys/fs/cgroup rw,relatime shared:1 - cgroup cgroup rw,memory */
static int add_mount(struct cgroup_host *host, char *line, struct err *err)
{
	char *dash = strstr(line, " - "), *save = NULL, *word, *point = NULL, *type, *options;
	int field = 0;
	unsigned has;

	if (!dash)
		return 0;
	*dash = '\0';
	for (word = strtok_r(line, " ", &save); word; word = strtok_r(NULL, " ", &save))
		if (++field == 5)
			point = word;
	type = strtok_r(dash + 3, " ", &save);
	if (!point || !type || strchr(point, '\\')) /* escaped blanks: not a place of cgroups */
		return 0;
	if (strcmp(type, "cgroup2") == 0)
		return add_v2(host, point, err);
	if (strcmp(type, "cgroup") != 0)
		return 0;
	(void)strtok_r(NULL, " ", &save); /* source */
	options = strtok_r(NULL, " ", &save);
	has = options ? bits_of(options, ",") : 0;
	return has ? host_add(host, point, &cgroup_v1, has, err) : 0;
}

static int add_mounts(struct cgroup_host *host, struct err *err)
{
	struct buf text;
	char *save = NULL, *line;
	int rc;

	buf_init(&text);
	rc = fs_read("/proc/self/mountinfo", 16u << 20, &text, err);
	if (rc >= 0) {
		buf_add_byte(&text, '\0');
		rc = text.failed ? err_set(err, -ENOMEM, "out of memory for mountinfo") : 0;
	}
	if (rc >= 0)
		for (line = strtok_r((char *)text.data, "\n", &save); line && rc >= 0;
			line = strtok_r(NULL, "\n", &save))
			rc = add_mount(host, line, err);
	buf_free(&text);
	return rc < 0 ? rc : 0;
}

static int add_root(struct cgroup_host *host, const char *root, struct err *err)
{
	const char *equals = strchr(root, '=');
	char name[16];
	unsigned has;

	if (!equals || (size_t)(equals - root) >= sizeof(name) || equals[1] != '/')
		return err_set(err, -EINVAL,
			"cgroup root '%s': expected v2=/FOLDER or "
			"CONTROLLER=/FOLDER",
			root);
	memcpy(name, root, (size_t)(equals - root));
	name[equals - root] = '\0';
	if (strcmp(name, "v2") == 0)
		return add_v2(host, equals + 1, err);
	has = bit_of(name);
	if (!has)
		return err_set(err, -EINVAL,
			"cgroup root '%s': '%s' is none of v2, memory, cpu, "
			"cpuacct, pids, freezer",
			root, name);
	return host_add(host, equals + 1, &cgroup_v1, has, err);
}

/* Each thing from one hierarchy only: the first that has it, but killing and CPU
 * time rather from v2, where they cost no further group.  Unused ones go. */
static void settle(struct cgroup_host *host)
{
	unsigned seen = 0;
	size_t i, kept = 0;

	for (i = 0; i < host->count; i++)
		if (host->h[i].backend == &cgroup_v2)
			seen |= CGROUP_HAS_KILL | CGROUP_HAS_CPUACCT;
	for (i = 0; i < host->count; i++) {
		struct hierarchy *h = &host->h[i];
		unsigned own = h->backend == &cgroup_v2 ? CGROUP_HAS_KILL : 0;

		h->has &= ~seen | own;
		seen |= h->has;
		if (h->has)
			host->h[kept++] = *h;
	}
	host->count = kept;
	for (i = 0; i < CGROUP_CONTROLLERS; i++) {
		if (seen & controllers[i].bit)
			continue;
		(void)str_format(host->missing[i], sizeof(host->missing[i]),
			i == CGROUP_KILL ? "no cgroup2 and no %s hierarchy is mounted"
					 : "no mounted cgroup hierarchy has the %s controller",
			i == CGROUP_KILL ? "freezer" : controllers[i].name);
	}
}

int cgroup_probe(const char *const *roots, size_t count, struct cgroup_host **out, struct err *err)
{
	struct cgroup_host *host = calloc(1, sizeof(*host));
	size_t i;
	int rc = 0;

	if (!host)
		return err_set(err, -ENOMEM, "out of memory");
	if (count == 0)
		rc = add_mounts(host, err);
	for (i = 0; i < count && rc >= 0; i++)
		rc = add_root(host, roots[i], err);
	if (rc < 0) {
		free(host);
		return rc;
	}
	settle(host);
	*out = host;
	return 0;
}

void cgroup_host_free(struct cgroup_host *host)
{
	free(host);
}

/* ---------------------------------------------------------------- a group */

static int check_name(const char *name, struct err *err)
{
	const char *p;
	bool start = true;

	for (p = name; *p; p++) {
		if (start && (*p == '/' || *p == '.'))
			break;
		if (*p != '/' && !isalnum((unsigned char)*p) && !strchr("._-", *p))
			break;
		start = *p == '/';
	}
	if (*p || start || p - name > 200)
		return err_set(err, -EINVAL, "'%.200s' is not a cgroup name", name);
	return 0;
}

static int dir_of(const struct cgroup *cg, size_t i, char *dir, size_t size)
{
	return str_format(dir, size, "%s/" OWN "/%s", cg->host->h[i].dir, cg->name);
}

static int group_new(
	const struct cgroup_host *host, const char *name, struct cgroup **out, struct err *err)
{
	struct cgroup *cg;
	char dir[DIR_MAX + 256];
	size_t i;
	int rc = check_name(name, err);

	if (rc < 0)
		return rc;
	cg = calloc(1, sizeof(*cg));
	if (!cg)
		return err_set(err, -ENOMEM, "out of memory");
	cg->host = host;
	(void)str_copy(cg->name, sizeof(cg->name), name);
	for (i = 0; i < host->count; i++) {
		cg->has[i] = host->h[i].has;
		if (dir_of(cg, i, dir, sizeof(dir)) < 0) {
			free(cg);
			return err_set(err, -ENAMETOOLONG, "cgroup name '%s' is too long", name);
		}
	}
	*out = cg;
	return 0;
}

/* On v2 a group hands a controller to its children by cgroup.subtree_control;
 * DIR is the parent.  What it refuses is left out and noted. */
static void enable_v2(struct cgroup *cg, size_t i, const char *dir)
{
	size_t c;

	for (c = 0; c < CGROUP_CONTROLLERS; c++) {
		char text[16];
		struct err err = ERR_INIT;

		if (c == CGROUP_KILL || !(cg->has[i] & controllers[c].bit))
			continue;
		(void)str_format(text, sizeof(text), "+%s", controllers[c].name);
		if (cgroup_write(dir, "cgroup.subtree_control", text, &err) == 0)
			continue;
		cg->has[i] &= ~controllers[c].bit;
		(void)snprintf(cg->note, sizeof(cg->note), "%s not limited: %s",
			controllers[c].name, err_msg(&err));
	}
}

/* Makes DIR's components below the hierarchy's own folder, one by one.  A parent
 * may be removed by another guest's end at any moment: then again. */
static int make_dir(struct cgroup *cg, size_t i, const char *dir, struct err *err)
{
	const struct hierarchy *h = &cg->host->h[i];
	bool v2 = h->backend == &cgroup_v2;
	char part[DIR_MAX + 256];
	size_t at;
	int attempt;

	for (attempt = 0; attempt < 20; attempt++) {
		at = strlen(h->dir);
		if (str_copy(part, sizeof(part), dir) < 0)
			return err_set(err, -ENAMETOOLONG, "cgroup '%s' is too long", dir);
		while (dir[at]) {
			part[at] = '\0';
			if (v2)
				enable_v2(cg, i, part);
			part[at] = '/';
			at += 1 + strcspn(dir + at + 1, "/");
			part[at] = '\0';
			if (mkdir(part, 0755) < 0 && errno != EEXIST)
				break;
			part[at] = dir[at];
		}
		if (!dir[at])
			return 0;
		if (errno != ENOENT)
			break;
	}
	return err_errno(err, errno, "create cgroup %s", dir);
}

int cgroup_create(const struct cgroup_host *host, const char *name,
	const struct cgroup_limits *limits, struct cgroup **out, struct err *err)
{
	struct cgroup *cg = NULL;
	char dir[DIR_MAX + 256];
	size_t i;
	int rc = group_new(host, name, &cg, err);

	if (rc < 0)
		return rc;
	for (i = 0; i < host->count; i++) {
		(void)dir_of(cg, i, dir, sizeof(dir));
		rc = make_dir(cg, i, dir, err);
		if (rc >= 0)
			rc = host->h[i].backend->limit(dir, cg->has[i], limits, err);
		if (rc < 0) {
			(void)cgroup_remove(cg, NULL);
			cgroup_free(cg);
			return rc;
		}
	}
	*out = cg;
	return 0;
}

int cgroup_find(
	const struct cgroup_host *host, const char *name, struct cgroup **out, struct err *err)
{
	return group_new(host, name, out, err);
}

void cgroup_free(struct cgroup *cg)
{
	free(cg);
}

const char *cgroup_note(const struct cgroup *cg)
{
	return cg->note;
}

int cgroup_add(struct cgroup *cg, pid_t pid, struct err *err)
{
	char dir[DIR_MAX + 256], text[16];
	size_t i;

	(void)str_format(text, sizeof(text), "%d", (int)pid);
	for (i = 0; i < cg->host->count; i++) {
		(void)dir_of(cg, i, dir, sizeof(dir));
		int rc = cgroup_write(dir, "cgroup.procs", text, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

size_t cgroup_dir_count(const struct cgroup *cg)
{
	return cg->host->count;
}

const struct cgroup_backend *cgroup_dir(const struct cgroup *cg, size_t i, char *dir, size_t size)
{
	(void)dir_of(cg, i, dir, size);
	return cg->host->h[i].backend;
}

int cgroup_kill(struct cgroup *cg, struct err *err)
{
	char dir[DIR_MAX + 256];
	size_t i, pass;

	/* The hierarchy that can do it best; without one, any. */
	for (pass = 0; pass < 2; pass++)
		for (i = 0; i < cg->host->count; i++) {
			if (pass == 0 && !(cg->host->h[i].has & CGROUP_HAS_KILL))
				continue;
			(void)dir_of(cg, i, dir, sizeof(dir));
			if (access(dir, F_OK) < 0)
				continue;
			return cg->host->h[i].backend->kill(dir, err);
		}
	return 0;
}

int cgroup_count(struct cgroup *cg, struct err *err)
{
	char dir[DIR_MAX + 256];
	size_t i;
	int most = 0;

	for (i = 0; i < cg->host->count; i++) {
		(void)dir_of(cg, i, dir, sizeof(dir));
		int n = each_pid(dir, NULL, err);
		if (n < 0)
			return n;
		most = n > most ? n : most;
	}
	return most;
}

int cgroup_remove(struct cgroup *cg, struct err *err)
{
	char dir[DIR_MAX + 256], *slash;
	size_t i;
	int rc = 0;

	for (i = 0; i < cg->host->count; i++) {
		(void)dir_of(cg, i, dir, sizeof(dir));
		if (rmdir(dir) < 0 && errno != ENOENT) {
			rc = err_errno(err, errno, "remove cgroup %s", dir);
			continue;
		}
		/* Parents that others still use refuse; "umlaut" itself goes with the last. */
		while ((slash = strrchr(dir, '/')) &&
			(size_t)(slash - dir) > strlen(cg->host->h[i].dir)) {
			*slash = '\0';
			if (rmdir(dir) < 0 && errno != ENOENT)
				break;
		}
	}
	return rc;
}

int cgroup_end(struct cgroup *cg, uint32_t timeout_ms, struct err *err)
{
	uint64_t end = proc_mono_ms() + timeout_ms;
	unsigned us = 500;
	int rc;

	for (;;) {
		rc = cgroup_kill(cg, err);
		if (rc < 0)
			return rc;
		rc = cgroup_remove(cg, err);
		if (rc != -EBUSY)
			return rc;
		if (proc_mono_ms() >= end)
			return err_set(err, -ETIMEDOUT, "cgroup %s: %d processes do not end",
				cg->name, cgroup_count(cg, NULL));
		cgroup_pause(us);
		us = us < 50000 ? us * 2 : us;
	}
}

int cgroup_usage(struct cgroup *cg, struct cgroup_usage *out, struct err *err)
{
	char dir[DIR_MAX + 256];
	size_t i;
	bool found = false;

	memset(out, 0, sizeof(*out));
	for (i = 0; i < cg->host->count; i++) {
		(void)dir_of(cg, i, dir, sizeof(dir));
		if (access(dir, F_OK) < 0)
			continue;
		found = true;
		cg->host->h[i].backend->usage(dir, cg->has[i], out);
	}
	return found ? 0 : err_set(err, -ENOENT, "cgroup %s does not exist", cg->name);
}
