/* cgroup: one control group per guest, on cgroup v2 and v1.
 *
 * A host offers up to four things we use, each from v1 or v2, whichever has it:
 *
 *   controller  v2 files                        v1 files
 *   memory      memory.max, memory.oom.group    memory.limit_in_bytes
 *   cpu         cpu.weight, cpu.max             cpu.shares, cpu.cfs_quota_us
 *   pids        pids.max                        pids.max
 *   kill        cgroup.kill (else cgroup.freeze and SIGKILL)   freezer.state and SIGKILL
 *
 * What a host lacks is skipped, with a reason that cgroup_missing() gives.  A v2
 * hierarchy without controllers (a hybrid host) still serves to kill.
 *
 * A guest's group is "<hierarchy>/umlaut/<name>" in each hierarchy that is used.
 * NAME is one or more components of [A-Za-z0-9._-] with '/' between them.
 *
 * Memory: the limit is not the guest's memory alone, as more is charged to its
 * group than its RAM file: the kernel's own image and heap, a host process with
 * kernel stack and page tables for each guest process, sockets, and the page
 * cache of its COW file (which the host reclaims first).  See cgroup_memory_limit().
 *
 * Sources: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of the kernel.
 * Blocking: small files of kernel file systems; cgroup_end() waits as said.
 */
#ifndef UMLAUT_GUEST_CGROUP_H
#define UMLAUT_GUEST_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include <sys/types.h>

#include "lib/err.h"

enum cgroup_controller { CGROUP_MEMORY, CGROUP_CPU, CGROUP_PIDS, CGROUP_KILL, CGROUP_CONTROLLERS };

struct cgroup_host; /* what this host offers; read once */
struct cgroup;	    /* one guest's group */

struct cgroup_limits {
	uint64_t memory_bytes; /* 0: none */
	uint32_t cpu_milli;    /* 1000 is one CPU; weight and quota; 0: none */
	uint32_t pids_max;     /* 0: none */
};

struct cgroup_usage {
	uint64_t memory_bytes;
	uint64_t cpu_us;
	uint64_t pids;
	uint64_t oom_kills;
	bool has_memory, has_cpu, has_pids;
};

/* ROOTS empty: finds the mounts in /proc/self/mountinfo.  Otherwise each is
 * "v2=FOLDER" or "CONTROLLER=FOLDER" (v1: memory, cpu, cpuacct, pids, freezer).
 * A host with no cgroups at all is no failure: everything is missing then. */
int cgroup_probe(const char *const *roots, size_t count, struct cgroup_host **out, struct err *err);
void cgroup_host_free(struct cgroup_host *host);
/* "memory", "cpu", "pids", "kill". */
const char *cgroup_controller_name(enum cgroup_controller which);
/* Why it is not there, for a person; NULL when it is. */
const char *cgroup_missing(const struct cgroup_host *host, enum cgroup_controller which);

/* Guest memory, and 64 MiB, and an eighth of it for page tables and stacks. */
uint64_t cgroup_memory_limit(uint64_t guest_bytes);

/* Creates (or adopts) the group and sets the limits.  HOST must outlive it. */
int cgroup_create(const struct cgroup_host *host, const char *name,
	const struct cgroup_limits *limits, struct cgroup **out, struct err *err);
/* The group as it may be left over; creates nothing. */
int cgroup_find(
	const struct cgroup_host *host, const char *name, struct cgroup **out, struct err *err);
void cgroup_free(struct cgroup *cg); /* forgets it; the group stays */
/* What cgroup_create() had to leave out although the host has it (a v2 controller
 * that could not be enabled), or "". */
const char *cgroup_note(const struct cgroup *cg);

int cgroup_add(struct cgroup *cg, pid_t pid, struct err *err);

/* A way in for a process that is about to be made.  To move another process, or one
 * with threads, the host's kernel waits for an RCU grace period (cgroup_threadgroup_rwsem):
 * 10 to 20 ms on an idle host.  A child that is born in its group (v2, CLONE_INTO_CGROUP),
 * or a single thread that moves itself (v1, "0" to `tasks`; cgroup_procs_write_start() in
 * kernel/cgroup/cgroup.c since 5.5), does not wait. */
#define CGROUP_DOORS 8
struct cgroup_door {
	int born; /* of the v2 group, for clone3(2); -1: none */
	int self[CGROUP_DOORS];
	bool v2[CGROUP_DOORS];
	size_t count;
};
#define CGROUP_DOOR_INIT ((struct cgroup_door){.born = -1})
int cgroup_door_open(struct cgroup *cg, struct cgroup_door *door, struct err *err);
/* In the child, which must have one thread.  BORN: it is in `born` already. */
int cgroup_door_enter(const struct cgroup_door *door, bool born, struct err *err);
void cgroup_door_close(struct cgroup_door *door);

/* Sends SIGKILL to every process in it, without waiting.  A group that is not
 * there is success. */
int cgroup_kill(struct cgroup *cg, struct err *err);
/* Number of processes, 0 when the group is not there. */
int cgroup_count(struct cgroup *cg, struct err *err);
/* Removes the empty group and its empty parents below "umlaut".  -EBUSY while
 * processes are in it.  Success when it is not there. */
int cgroup_remove(struct cgroup *cg, struct err *err);
/* Kill, wait until it is empty (at most TIMEOUT_MS: -ETIMEDOUT), remove. */
int cgroup_end(struct cgroup *cg, uint32_t timeout_ms, struct err *err);
int cgroup_usage(struct cgroup *cg, struct cgroup_usage *out, struct err *err);

#endif
