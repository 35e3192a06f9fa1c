/* fencer: the end of guests whose agent cannot see to it any more.
 *
 * <state>/lease holds, in memory that agent and fencer map (fencelist.h), until when this
 * host is believed in by its scheduler (CLOCK_BOOTTIME, so that a suspended machine counts),
 * and the runners of guests that may be started elsewhere (RunnerSpec.fenced).  The agent
 * moves it on; the fencer, a small process of its own that outlives the agent, sleeps until
 * then, looks again, and when nobody has moved it, kills them: first those of the list, for
 * which it needs no disk, then those that it finds in the guests' folders, where what cannot
 * be read counts as one.  It does so until none has been seen alive for 2 s, or the lease is
 * good again, and ends.  One timer for a whole host, one wake-up in a lease.
 * docs/availability.md
 *
 * The fencer is found by the lock on <state>/fencer.lock; the agent starts one when it
 * renews a lease and none lives.
 */
#ifndef UMLAUT_NODE_AGENT_FENCER_H
#define UMLAUT_NODE_AGENT_FENCER_H

#include <stdint.h>

#include "lib/err.h"
#include "lib/loop.h"

struct fencer;

/* Maps the lease's file below STATE; makes it when there is none (no lease). */
int fencer_open(const char *state, struct fencer **out, struct err *err);
/* The lease goes on until UNTIL (proc_boot_ms()); a fencer is started when none lives (LOOP
 * waits for its end).  Cheap: a store. */
int fencer_renew(struct fencer *fencer, struct loop *loop, uint64_t until, struct err *err);
/* Milliseconds left; 0: none. */
uint64_t fencer_left(const struct fencer *fencer);
/* The runner PID of guest UID is one that ends with the lease; it is none any more. */
int fencer_add(struct fencer *fencer, uint64_t uid, pid_t pid, struct err *err);
void fencer_drop(struct fencer *fencer, uint64_t uid);
/* Was the runner in the guest's folder DIR started as such a one?  Reads its runner.pb. */
bool fencer_is_fenced(const char *dir);
/* Before the loop is freed: the process goes on, nobody waits for its end. */
void fencer_stop(struct fencer *fencer);
/* Of a host that is purged: the process ends now. */
void fencer_end(const char *state);
/* The process goes on. */
void fencer_close(struct fencer *fencer);

/* The process itself: returns its exit status. */
int fencer_main(const char *state);

#endif
