#include "lib/memuse.h"

#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/buf.h"
#include "lib/fs.h"
#include "lib/str.h"

#define TEXT_MAX (256u << 10)
#define STEP (256u << 20) /* bytes of a file that are looked at in one go */

/* The number after KEY at the beginning of a line; 0 when it is not there. */
static uint64_t field(const char *text, const char *key)
{
	size_t size = strlen(key);

	for (const char *line = text; *line;) {
		if (strncmp(line, key, size) == 0)
			return strtoull(line + size, NULL, 10);
		line += strcspn(line, "\n");
		line += *line == '\n';
	}
	return 0;
}

void memuse_parse(const char *smaps, const char *status, struct memuse *use)
{
	use->shmem += field(smaps, "Pss_Shmem:") << 10;
	use->own += (field(smaps, "Pss_Anon:") + field(smaps, "Pss_File:")) << 10;
	use->tables += (field(status, "VmPTE:") << 10) + field(status, "Threads:") * MEMUSE_STACK;
	use->processes++;
}

static int read_proc(pid_t pid, const char *name, struct buf *out, struct err *err)
{
	char path[80];

	(void)str_format(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	return fs_read(path, TEXT_MAX, out, err);
}

int memuse_add(pid_t pid, struct memuse *use, struct err *err)
{
	struct buf smaps, status;
	int rc;

	buf_init(&smaps);
	buf_init(&status);
	rc = read_proc(pid, "smaps_rollup", &smaps, err);
	if (rc >= 0)
		rc = read_proc(pid, "status", &status, err);
	if (rc >= 0 && !smaps.size)
		rc = err_set(err, -ESRCH, "process %d has ended", (int)pid);
	if (rc == -ENOENT)
		rc = err_set(err, -ESRCH, "there is no process %d", (int)pid);
	if (rc >= 0)
		memuse_parse(buf_text(&smaps), buf_text(&status), use);
	buf_free(&smaps);
	buf_free(&status);
	return rc < 0 ? rc : 0;
}

struct list {
	pid_t *pids;
	size_t count, room;
};

static int list_add(struct list *l, pid_t pid, struct err *err)
{
	if (l->count >= MEMUSE_TREE_MAX)
		return err_set(err, -E2BIG, "more than %u processes", MEMUSE_TREE_MAX);
	if (l->count == l->room) {
		size_t room = l->room ? l->room * 2 : 64;
		pid_t *pids = realloc(l->pids, room * sizeof(*pids));

		if (!pids)
			return err_set(err, -ENOMEM, "memory is short");
		l->pids = pids;
		l->room = room;
	}
	l->pids[l->count++] = pid;
	return 0;
}

/* The children of one thread: "12 13 ". */
static int add_children(struct list *l, pid_t pid, const char *thread, struct err *err)
{
	char name[64];
	struct buf text;
	char *at, *end;
	int rc = 0;

	buf_init(&text);
	(void)str_format(name, sizeof(name), "task/%.20s/children", thread);
	if (read_proc(pid, name, &text, NULL) >= 0) {
		at = (char *)(uintptr_t)buf_text(&text);
		for (long child = strtol(at, &end, 10); rc == 0 && end != at;
			at = end, child = strtol(at, &end, 10))
			rc = list_add(l, (pid_t)child, err);
	}
	buf_free(&text);
	return rc;
}

static int add_below(struct list *l, pid_t pid, struct err *err)
{
	char path[64];
	struct dirent *e;
	DIR *dir;
	int rc = 0;

	(void)str_format(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return 0; /* it has ended */
	while (rc == 0 && (e = readdir(dir)))
		if (e->d_name[0] != '.')
			rc = add_children(l, pid, e->d_name, err);
	(void)closedir(dir);
	return rc;
}

int memuse_tree(pid_t pid, memuse_fn *fn, void *arg, struct err *err)
{
	struct list l = {.pids = NULL};
	int rc = list_add(&l, pid, err);

	for (size_t i = 0; rc == 0 && i < l.count; i++) {
		rc = fn(arg, l.pids[i]);
		if (rc == 0)
			rc = add_below(&l, l.pids[i], err);
	}
	free(l.pids);
	return rc;
}

/* Of the SIZE bytes at OFFSET. */
static int cached_step(int fd, off_t offset, size_t size, uint64_t *out)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (size + page - 1) / page;
	unsigned char *there = malloc(pages);
	void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, offset);
	int rc = there && map != MAP_FAILED && mincore(map, size, there) == 0 ? 0 : -errno;

	for (size_t i = 0; rc == 0 && i < pages; i++)
		/* mincore() has filled it. NOLINTNEXTLINE(clang-analyzer-core.*) */
		*out += there[i] & 1 ? page : 0;
	if (map != MAP_FAILED)
		(void)munmap(map, size);
	free(there);
	return rc;
}

int memuse_cached(const char *path, uint64_t *out, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), rc = 0;
	struct stat st;

	*out = 0;
	if (fd < 0)
		return err_errno(err, errno, "%s", path);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		rc = err_set(err, -EINVAL, "%s is no file", path);
	for (off_t at = 0; rc == 0 && at < st.st_size; at += STEP) {
		rc = cached_step(
			fd, at, (size_t)(st.st_size - at < STEP ? st.st_size - at : STEP), out);
		if (rc < 0)
			rc = err_errno(err, -rc, "%s", path);
	}
	(void)close(fd);
	return rc;
}
