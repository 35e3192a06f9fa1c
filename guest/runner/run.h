/* run: the life of one guest in its runner.
 *
 *   state        meaning                                      left by
 *   BOOTING      the kernel runs, its agent was not heard     HELLO, STOP, EXIT
 *   CONFIGURING  GuestConfig was sent; the guest sets itself  CONFIGURED, STOP, EXIT
 *                up; a guest that failed gets RUN_FAIL_MS to
 *                end by itself
 *   RUNNING      configured, exec and copies are served;      HELLO (it rebooted), STOP, EXIT
 *                `ready` once its probe passed
 *   STOPPING     asked to end, with a deadline                EXIT
 *   SWEEPING     the kernel has ended; its group is cleared   SWEPT
 *   ENDED        exit.pb is written, agents are told          run_forget(); or no agent is there
 *
 * The table of (state, event, next state, action) is in run.c.  What an agent is told:
 *
 *   BOOTING, CONFIGURING -> STARTING     STOPPING, SWEEPING -> STOPPING
 *   RUNNING              -> RUNNING      ENDED -> STOPPED, or FAILED: a kernel that
 *                                        ended with a status or by a signal unasked,
 *                                        or a guest that could not be configured
 *
 * A clean stop is asked for over the guest's line (GuestShutdown).  A guest that
 * has our agent but was not heard yet has touched no disk and is simply killed; one
 * without our agent has its disks flushed and remounted by sysrq over mconsole
 * first.  At the deadline, or by force, the jail's reaper is killed, and with it all.
 *
 * A reboot inside the guest (the kernel re-executes itself) is seen by a GuestHello
 * with another boot id: streams end, the configuration is sent again.
 *
 * When the guest has ended and no agent is connected the runner ends too: exit.pb
 * tells.  If one is, it stays for RunnerForget.
 */
#ifndef UMLAUT_GUEST_RUNNER_RUN_H
#define UMLAUT_GUEST_RUNNER_RUN_H

#include "guest/runner/boot.h"
#include "lib/loop.h"
#include "lib/wire.h"

#define RUN_STOP_MS 10000 /* when RunnerStop names no time */
#define RUN_FAIL_MS 10000
#define RUN_REASON 200

struct run;

/* DIR is borrowed.  Starts the kernel and listens: afterwards the guest runs.
 * BEGAN_US: when this program began, wall clock. */
int run_open(
	struct loop *loop, const char *dir, uint64_t began_us, struct run **out, struct err *err);
/* Kills what still runs, and frees all.  Removes the files of a forgotten guest. */
void run_close(struct run *run);

/* For serve.c: what connections ask. */
void run_fill_hello(const struct run *run, Um__RunnerHello *hello);
void run_fill_status(const struct run *run, Um__RunnerStatus *status);
/* BY_REQUEST false: the host ends, not the user's wish. */
int run_stop(struct run *run, uint32_t timeout_ms, bool force, bool by_request, struct err *err);
int run_forget(struct run *run, struct err *err);
int run_hosts(struct run *run, const Um__HostsUpdate *update, struct err *err);
/* The host is short of memory: a guest that runs gives up its caches. */
void run_trim(struct run *run);
void run_no_agents(struct run *run); /* the last connection is gone */

/* Names for logs and tests. */
const char *run_state_name(const struct run *run);

#endif
