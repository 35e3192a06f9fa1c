/* runnerctl_int: between runnerctl.c (connection, life) and runnerctl_files.c
 * (what a guest's folder says). */
#ifndef UMLAUT_GUEST_RUNNERCTL_INT_H
#define UMLAUT_GUEST_RUNNERCTL_INT_H

#include "guest/runnerctl.h"

/* Whether a runner holds the folder's lock.  Negative: cannot tell. */
int runnerctl_locked(const char *dir, struct err *err);
/* runner.id. -ENOENT. */
int runnerctl_id_read(const char *dir, struct proc_id *out, struct err *err);
/* Kills and removes what a dead runner left of its guest (processes, control
 * group, folders, sockets), not exit.pb and runner.pb.  Blocks, see
 * runnerctl_discard(). */
int runnerctl_sweep(const char *dir, struct err *err);
/* exit.pb, -ENOENT. */
int runnerctl_exit_read(const char *dir, Um__RunnerStatus **out, struct err *err);
/* FAILED, exit_status -1, REASON.  NULL when memory is short. */
Um__RunnerStatus *runnerctl_failed(const char *reason);

#endif
