/* jail_int: the steps of jail.h, between jail.c (process tree), jail_root.c
 * (mounts) and jail_priv.c (identity, capabilities, seccomp).  All run in the
 * jail's reaper. */
#ifndef UMLAUT_GUEST_JAIL_INT_H
#define UMLAUT_GUEST_JAIL_INT_H

#include "guest/jail.h"

/* root and pivot_root: afterwards "/" and the working directory are the jail's. */
int jail_root_enter(const struct jail_spec *spec, struct err *err);

/* For `none`: only /proc is mounted anew, for the new PID namespace, and the working
 * directory is "/". */
int jail_root_proc(struct err *err);

int jail_limits(const struct jail_spec *spec, struct err *err);
/* identity, capabilities, no_new_privs, seccomp. */
int jail_drop(const struct jail_spec *spec, struct err *err);

#endif
