/* pulse: does a guest that runs still live?  Every PULSE_MS the runner asks it for a sign
 * (GuestPing), unless it has sent something by itself meanwhile.
 *
 *   found                                            then
 *   an answer, or anything else from the guest       it lives
 *   no answer within PULSE_MS, and                   (the kernel is stopped or frozen: not judged)
 *     a process of its kernel is a zombie            the end: somebody killed it from outside, and
 *                                                    what ran there is lost or stuck
 *     its kernel answers on mconsole                 the end, if it said on the console that it
 *                                                    lost such a process; else its agent is gone or
 * starved: not ready, with the reason; ready again when it answers its kernel does not, PULSE_DEAF
 * times          the end: the kernel hangs
 *
 * The end is a crash like any other: the policy of the guest restarts it.  User-Mode
 * Linux keeps each process of the guest in a process of the host (uml-userspace, under
 * ptrace); when that is killed from outside the kernel learns of it only when it runs
 * it next, and may wait for ever.
 */
#ifndef UMLAUT_GUEST_RUNNER_PULSE_H
#define UMLAUT_GUEST_RUNNER_PULSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"
#include "lib/loop.h"

#define PULSE_MS 30000u
#define PULSE_MCONSOLE_MS 10000u
#define PULSE_DEAF 3u
#define PULSE_KILLED "a process of its kernel was killed from outside"

struct pulse_ops {
	void (*ping)(void *arg);
	/* How many messages have come from the guest so far. */
	uint64_t (*heard)(void *arg);
	/* Asks the kernel; the answer is told by pulse_kernel().  False: it cannot be asked. */
	bool (*ask_kernel)(void *arg, uint32_t timeout_ms);
	/* The guest's agent does not answer, or (GONE false) does so again. */
	void (*agent_gone)(void *arg, bool gone);
	/* The guest hangs, for the reason WHY. */
	void (*hangs)(void *arg, const char *why);
};

struct pulse;

/* EVERY_MS: 0 is PULSE_MS.  REAPER: the parent of the kernel's process. */
int pulse_open(struct loop *loop, uint32_t every_ms, pid_t reaper, const struct pulse_ops *ops,
	void *arg, struct pulse **out, struct err *err);
void pulse_close(struct pulse *p); /* NULL is fine */
/* From when the guest runs, until it does not any more. */
void pulse_start(struct pulse *p);
void pulse_stop(struct pulse *p);
void pulse_kernel(struct pulse *p, bool answered);

/* The state of a process as /proc/PID/stat has it ('R', 'S', 'T', 'Z' ...), or 0. */
char pulse_state(pid_t pid);
/* Fills LIST with at most MOST children of PID, the oldest first; how many. */
size_t pulse_children(pid_t pid, pid_t *list, size_t most);

#endif
