/* fencelist: what agent and fencer share, in memory that both map (<state>/lease): until
 * when this host is believed in, and which processes end when it is not any more.  The
 * fencer has it locked in memory, so it needs no disk to do its work: one that hangs must
 * not keep guests alive.
 *
 * One agent writes, one fencer reads, without a lock.  What is read of a run is whole, as a
 * process is what its pid and its start say together (lib/proc.h): of two halves there is
 * no process.
 */
#ifndef UMLAUT_NODE_AGENT_FENCELIST_H
#define UMLAUT_NODE_AGENT_FENCELIST_H

#include <stddef.h>

#include "lib/proc.h"

/* More are found by their folders alone. */
#define FENCELIST_MAX 4096u

struct fencelist;

/* Maps <STATE>/lease.  WRITES: makes it when there is none, and forgets what is of another
 * boot of this machine; else it is only read, and stays in memory. */
int fencelist_open(const char *state, bool writes, struct fencelist **out, struct err *err);
void fencelist_close(struct fencelist *list);

/* The end of the lease, proc_boot_ms(); 0: there was none. */
uint64_t fencelist_until(const struct fencelist *list);
void fencelist_set_until(struct fencelist *list, uint64_t until);

/* The runner PID of guest UID ends with the lease.  -ENOSPC: they are too many. */
int fencelist_add(struct fencelist *list, uint64_t uid, pid_t pid, struct err *err);
void fencelist_drop(struct fencelist *list, uint64_t uid);
/* The run at place AT, below FENCELIST_MAX; false: none is there. */
bool fencelist_get(const struct fencelist *list, size_t at, struct proc_id *out);

#endif
