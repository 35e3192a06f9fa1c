/* jail: where a guest's kernel process lives.
 *
 * jail_start() makes this tree and returns when the program runs:
 *
 *   caller (the runner)
 *     `- reaper   PID 1 of a PID namespace of its own; does nothing but wait.  A UML
 *          |      kernel must not be PID 1: it would spin instead of aborting
 *          `- program and all it starts
 *
 * The steps, in order, each in the reaper before it starts the program:
 *
 *   step         what it does                               what is left afterwards
 *   clone        new PID, mount, IPC, UTS namespaces        sees no other process or IPC
 *   admit, join  the caller puts it into its cgroup, or it  limits hold for all that follows
 *                is born there or goes there by itself
 *   die with us  PDEATHSIG SIGKILL; a closed pipe when the  nothing outlives the caller:
 *                caller was already gone                    PID 1's death ends the namespace
 *   memory       oom_score_adj is JAIL_OOM_MORE more        ends before the host's programs do
 *   network      enters `netns`, or a new empty one         the host's network is out of reach
 *   root         tmpfs: /dev/{null,zero,random,urandom,     sees no file of the host but
 *                net/tun}, a fresh /proc with the host's    `mounts`; only /tmp (exec, size
 *                knobs covered, /tmp, `mounts`; read-only   bound) and what says so are writable
 *   pivot_root   the host's root is unmounted               no way back by path or descriptor
 *   limits       core 0, nofile, fsize, memlock, msgqueue   cannot fill the disk by one file
 *   identity     no groups, gid, uid                        owns its COW and taps, nothing else
 *   capabilities none, also none in the bounding set        nor can it get any
 *   no_new_privs set                                        set-user-ID has no effect
 *   seccomp      deny-list, jail_priv.c has it by name      no mounts, namespaces, modules, bpf,
 *                                                           keys, perf, io_uring, foreign sockets
 *   descriptors  only `fds`; no address randomisation (UML  holds nothing by accident
 *                restarts itself without it anyway)
 *
 * ptrace stays allowed: UML runs its guest's processes under it, and sees none
 * but its own.  `none` (debugging) takes only clone (PID, and mount for the
 * matching /proc), admit, die with us, memory, network when netns is given, limits (core,
 * nofile, fsize) and descriptors: the program then runs as the caller's user on
 * the host's files, but still leaves nothing over at its end.
 *
 * The caller must be single-threaded at jail_start() (the child runs C code after
 * a bare clone) and needs the privileges for the steps (root).  Sources:
 * namespaces(7), pivot_root(2), capabilities(7), seccomp(2).
 */
#ifndef UMLAUT_GUEST_JAIL_H
#define UMLAUT_GUEST_JAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

/* proc_pid_oom_score_adj(5): -1000 to 1000; as if it had 30 % more of the host's memory. */
#define JAIL_OOM_MORE 300

/* A file or folder of the host shown in the jail (bind mount: nosuid, nodev;
 * writable ones also noexec). */
struct jail_mount {
	const char *source; /* on the host */
	const char *target; /* absolute, in the jail; parents are made */
	bool writable;
};

struct jail_spec {
	bool none;
	const char *root; /* an empty folder of the host; the jail is mounted there, unseen by it */
	uid_t uid;	  /* 0 is refused */
	gid_t gid;
	const char *netns;    /* path of a network namespace; NULL or "": new and empty */
	const char *hostname; /* NULL: "guest" */
	const struct jail_mount *mounts;
	size_t mount_count;
	uint64_t tmp_bytes;	 /* size of /tmp */
	uint64_t file_max;	 /* bytes of the largest file it may write; 0: no limit */
	const char *const *argv; /* argv[0]: absolute path in the jail */
	const char *const *envp;
	const int *fds; /* fds[i] becomes descriptor i; -1: /dev/null */
	size_t fd_count;
	/* Called in the caller's process before the program runs; fails the start. */
	int (*admit)(void *arg, pid_t pid, struct err *err);
	void *admit_arg;
	/* A v2 control group's folder to be born in, > 0; tried without when refused. */
	int cgroup_fd;
	/* Called in the reaper, first of all; BORN: it is in cgroup_fd. */
	int (*join)(void *arg, bool born, struct err *err);
	void *join_arg;
};

struct jail {
	pid_t pid; /* the reaper's, in the caller's namespace; 0: none */
	int pidfd; /* readable when all of the tree has ended */
	int status_fd;
};
#define JAIL_INIT ((struct jail){.pid = 0, .pidfd = -1, .status_fd = -1})

/* Returns when the program has been executed, or with the step that failed. */
int jail_start(const struct jail_spec *spec, struct jail *out, struct err *err);
/* SIGKILL for the whole tree; does not wait. */
void jail_kill(const struct jail *jail);
/* Reaps; call it when pidfd is readable (else it blocks).  Returns the program's exit status,
 * 256 + signal, or 256 + SIGKILL after jail_kill().  *JAIL is JAIL_INIT then. */
int jail_reap(struct jail *jail);

/* The system calls the filter refuses, for tests and docs; NULL after the last. */
const char *jail_denied(size_t i);

#endif
