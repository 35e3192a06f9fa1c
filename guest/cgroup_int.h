/* cgroup_int: between cgroup.c (hierarchies, life of a group) and its two
 * back-ends.  A back-end knows the files of one version; it gets the folder of
 * the group in one hierarchy. */
#ifndef UMLAUT_GUEST_CGROUP_INT_H
#define UMLAUT_GUEST_CGROUP_INT_H

#include "guest/cgroup.h"

/* What a hierarchy serves for; bits. */
#define CGROUP_HAS_MEMORY 1u
#define CGROUP_HAS_CPU 2u
#define CGROUP_HAS_PIDS 4u
#define CGROUP_HAS_KILL 8u
#define CGROUP_HAS_CPUACCT 16u

struct cgroup_backend {
	/* Sets the limits that HAS serves for. */
	int (*limit)(
		const char *dir, unsigned has, const struct cgroup_limits *limits, struct err *err);
	/* One round: every process in DIR gets SIGKILL. */
	int (*kill)(const char *dir, struct err *err);
	void (*usage)(const char *dir, unsigned has, struct cgroup_usage *out);
};

extern const struct cgroup_backend cgroup_v1;
extern const struct cgroup_backend cgroup_v2;

/* The folders of a group, one for each hierarchy. */
size_t cgroup_dir_count(const struct cgroup *cg);
const struct cgroup_backend *cgroup_dir(const struct cgroup *cg, size_t i, char *dir, size_t size);

/* Writes TEXT to DIR/FILE in one write(2); -ENOENT when there is no such file. */
int cgroup_write(const char *dir, const char *file, const char *text, struct err *err);
/* Reads DIR/FILE as text, cut at SIZE - 1. */
int cgroup_read(const char *dir, const char *file, char *buf, size_t size, struct err *err);
/* The number in DIR/FILE (KEY NULL), or after "KEY " at the start of a line. */
int cgroup_read_u64(const char *dir, const char *file, const char *key, uint64_t *out);
/* SIGKILL for each pid in DIR/cgroup.procs.  The group is frozen, or the caller
 * repeats until it is empty.  Returns how many there were. */
int cgroup_signal_all(const char *dir, struct err *err);
/* Polls DIR/FILE until it contains TEXT, at most MS. */
bool cgroup_await(const char *dir, const char *file, const char *text, unsigned ms);
void cgroup_pause(unsigned us);

#endif
