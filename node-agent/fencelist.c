#include "node-agent/fencelist.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/fs.h"

#define LEASE_FILE "lease"
#define HOUR_MS 3600000u

struct run {
	_Atomic uint64_t uid; /* 0: free */
	_Atomic uint64_t pid, start_ticks;
};

/* As mapped; the first word is as old as the file. */
struct shared {
	_Atomic uint64_t until;
	uint8_t boot_id[16];
	struct run runs[FENCELIST_MAX];
};

struct fencelist {
	struct shared *shared;
	uint8_t boot_id[16];
};

static int map_file(const char *state, bool writes, struct shared **out, struct err *err)
{
	const int prot = writes ? PROT_READ | PROT_WRITE : PROT_READ;
	char path[PATH_MAX];
	void *at;
	int fd, rc = fs_join(path, sizeof(path), state, LEASE_FILE, err);

	if (rc < 0)
		return rc;
	fd = open(path, (writes ? O_RDWR | O_CREAT : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_errno(err, errno, "%s", path);
	/* Allocated: a full disk later on must not spoil it. */
	rc = writes ? posix_fallocate(fd, 0, sizeof(struct shared)) : 0;
	if (rc)
		rc = err_errno(err, rc, "%s", path);
	if (rc == 0) {
		at = mmap(NULL, sizeof(struct shared), prot, MAP_SHARED, fd, 0);
		if (at == MAP_FAILED)
			rc = err_errno(err, errno, "map %s", path);
		else
			*out = at;
	}
	(void)close(fd);
	return rc;
}

/* The clock and the processes of another boot mean nothing.  A file without a boot id is
 * that of an agent without a list. */
static void forget_old(struct fencelist *list)
{
	static const uint8_t none[16];
	struct shared *s = list->shared;
	struct proc_id id;

	if (memcmp(s->boot_id, list->boot_id, 16) != 0) {
		if (memcmp(s->boot_id, none, 16) != 0)
			atomic_store(&s->until, 0);
		for (size_t i = 0; i < FENCELIST_MAX; i++)
			atomic_store(&s->runs[i].uid, 0);
		memcpy(s->boot_id, list->boot_id, 16);
	}
	if (atomic_load(&s->until) > proc_boot_ms() + HOUR_MS)
		atomic_store(&s->until, 0);
	for (size_t i = 0; i < FENCELIST_MAX; i++)
		if (fencelist_get(list, i, &id) && !proc_alive(&id))
			atomic_store(&s->runs[i].uid, 0);
}

int fencelist_open(const char *state, bool writes, struct fencelist **out, struct err *err)
{
	struct fencelist *list = calloc(1, sizeof(*list));
	int rc = list ? proc_boot_id(list->boot_id, err) : err_set(err, -ENOMEM, "memory is short");

	if (rc == 0)
		rc = map_file(state, writes, &list->shared, err);
	if (rc < 0) {
		fencelist_close(list);
		return rc;
	}
	if (writes)
		forget_old(list);
	else
		(void)mlock(list->shared, sizeof(*list->shared)); /* as far as we may */
	*out = list;
	return 0;
}

void fencelist_close(struct fencelist *list)
{
	if (list && list->shared)
		(void)munmap(list->shared, sizeof(*list->shared));
	free(list);
}

uint64_t fencelist_until(const struct fencelist *list)
{
	return atomic_load(&list->shared->until);
}

void fencelist_set_until(struct fencelist *list, uint64_t until)
{
	atomic_store(&list->shared->until, until);
}

/* Its own place, or a free one. */
static struct run *place_of(struct fencelist *list, uint64_t uid, bool make)
{
	struct run *free_one = NULL;

	for (size_t i = 0; i < FENCELIST_MAX; i++) {
		struct run *r = &list->shared->runs[i];
		uint64_t has = atomic_load(&r->uid);

		if (has == uid)
			return r;
		if (!has && !free_one)
			free_one = r;
	}
	return make ? free_one : NULL;
}

int fencelist_add(struct fencelist *list, uint64_t uid, pid_t pid, struct err *err)
{
	struct proc_id id;
	int rc = proc_identify(pid, &id, err);
	struct run *r = rc < 0 ? NULL : place_of(list, uid, true);

	if (rc < 0)
		return rc;
	if (!r)
		return err_set(
			err, -ENOSPC, "more than %u guests that end with the lease", FENCELIST_MAX);
	atomic_store(&r->uid, 0);
	atomic_store(&r->pid, (uint64_t)id.pid);
	atomic_store(&r->start_ticks, id.start_ticks);
	atomic_store(&r->uid, uid);
	return 0;
}

void fencelist_drop(struct fencelist *list, uint64_t uid)
{
	struct run *r = place_of(list, uid, false);

	if (r)
		atomic_store(&r->uid, 0);
}

bool fencelist_get(const struct fencelist *list, size_t at, struct proc_id *out)
{
	struct run *r = &list->shared->runs[at];

	if (!atomic_load(&r->uid))
		return false;
	*out = (struct proc_id){
		.pid = (pid_t)atomic_load(&r->pid), .start_ticks = atomic_load(&r->start_ticks)};
	memcpy(out->boot_id, list->boot_id, sizeof(out->boot_id));
	return true;
}
