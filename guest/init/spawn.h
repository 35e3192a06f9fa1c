/* spawn: programs of the image, started from the agent.
 *
 * Each child is the leader of a session and process group of its own, so that
 * kill(-pid) reaches all that it did not set apart.  It starts with default
 * signal dispositions, no blocked signals, and only descriptors 0 to 2.
 * vfork(): in a UML guest a fork of page tables costs more than all the rest.
 */
#ifndef UMLAUT_GUEST_INIT_SPAWN_H
#define UMLAUT_GUEST_INIT_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "lib/err.h"
#include "proto/umlaut.pb-c.h"

struct spawn {
	char *const *argv; /* argv[0] is searched in envp's PATH unless it has a '/' */
	char *const *envp;
	const char *cwd; /* NULL or "": / */
	int fds[3];	 /* become 0, 1, 2; borrowed */
	bool tty;	 /* fds[0] is a terminal: becomes the controlling one */
};

/* The child's pid, or -errno with the reason: -ENOENT no such program, -EACCES
 * not executable, -ENOTDIR/-ENOENT for the folder, and so on. */
pid_t spawn_start(const struct spawn *spawn, struct err *err);

/* An environment: defaults, then the guest's, then EXTRA ("A=b", later wins).
 * One allocation-owning list; env_free() takes NULL.  NULL when memory is short. */
char **env_make(Um__GuestConfig__EnvEntry *const *entries, size_t count, char *const *extra,
	size_t extra_count);
void env_free(char **env);

#endif
