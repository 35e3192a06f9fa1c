/* runnerctl: the agent's side of a runner (umlaut-guest): start one for a guest
 * folder, or adopt the one that runs there; command it; relay its streams; learn
 * of the guest's end, also when the runner itself was killed or the agent was away.
 *
 * The guest folder DIR (absolute path) belongs to agent and runner:
 *
 *   file            written by   meaning
 *   runner.pb       runnerctl    Um__RunnerSpec of the runner last started
 *   runner.lock     runner       held (fcntl OFD lock) while a runner lives: never two
 *   runner.id       runner       its identity, lib/proc.h proc_text()
 *   runner.sock     runner       where it listens
 *   runner.log      runner       its own messages (bounded)
 *   exit.pb         runner       Um__RunnerStatus of the end, durable until forgotten
 *   console.log[.1] runner       the guest's console; kept for the agent to remove
 *   hosts.log       runner       HostsUpdates since the start
 *   uml/ mc/ root/  runner       uml_dir (mconsole), its replies, the jail's mount point
 *   cow             agent        owned by uid and gid spec->jail_uid, mode 0600; a COW file
 *                                names RUNNERCTL_BASE, where the jail shows spec->backing
 *
 * Life of one `struct runnerctl`:
 *
 *   state       meaning                                left by
 *   STARTING    runner spawned, not yet ready          "ok" -> CONNECTING; "error" -> SWEEPING
 *   CONNECTING  runner lives, no connection (retried)  connected -> UP; process gone -> SWEEPING
 *   UP          RunnerHello and a status came          connection lost -> CONNECTING, or SWEEPING
 *   SWEEPING    process gone; its cgroup is cleared    -> GONE (on_gone)
 *   GONE        nothing of the runner is left          runnerctl_close()
 *
 * How the agent uses it:
 *   at its start, for each guest folder: runnerctl_look();
 *     ALIVE -> runnerctl_adopt(); ENDED -> note the end, then runnerctl_discard();
 *   to run a guest: make the cow, taps, folder; runnerctl_start();
 *   on_status with an ended phase (STOPPED, FAILED): note it durably, then
 *     runnerctl_forget(); the runner exits; on_gone; runnerctl_close().
 *   on_gone without an ended status before it: `last` is the end to note (FAILED,
 *     exit_status -1, and the reason); then runnerctl_discard().
 *
 * Everything here runs on the loop's thread and does not block, except where
 * said.  Ids of streams and requests are the caller's, unique per runnerctl
 * (runnerctl_id()).  Borrowed messages are valid for the call.
 */
#ifndef UMLAUT_GUEST_RUNNERCTL_H
#define UMLAUT_GUEST_RUNNERCTL_H

#include "lib/loop.h"
#include "lib/wire.h"

/* The backing path to write into a COW's header (isolation "none" sees the host's
 * path instead; the kernel then rewrites the header). */
#define RUNNERCTL_BASE "/base"

struct runnerctl;

struct runnerctl_ops {
	/* Connected (again).  Streams of an earlier connection are dead: see on_lost. */
	void (*on_hello)(void *arg, struct runnerctl *rc, const Um__RunnerHello *hello);
	/* The first after on_hello is the state as it is, then each change.  Phases:
	 * STARTING, RUNNING, STOPPING; STOPPED (ended by request, or by itself with
	 * exit status 0) and FAILED end it, with exit_status. */
	void (*on_status)(void *arg, struct runnerctl *rc, const Um__RunnerStatus *status);
	/* StreamOpened, StreamData, StreamCredit, StreamEnd of a stream, and Ok, Error,
	 * GuestStats as replies to what runnerctl_send() asked: env->id says which. */
	void (*on_message)(void *arg, struct runnerctl *rc, const Um__Envelope *env);
	/* The connection broke: every stream and request of it is dead.  The runner
	 * may well live; runnerctl connects again by itself.  May be NULL. */
	void (*on_lost)(void *arg, struct runnerctl *rc, const struct err *err);
	/* The send queue has room again after runnerctl_send() gave -ENOBUFS, or
	 * runnerctl_queued() was high.  May be NULL. */
	void (*on_drain)(void *arg, struct runnerctl *rc);
	/* Once: the runner process is gone and nothing of the guest runs any more
	 * (its cgroup was killed and removed).  LAST is how the guest ended: what the
	 * runner noted, else FAILED with exit_status -1 and a reason (a runner that
	 * could not start: its error text).  Only runnerctl_close() is left to do. */
	void (*on_gone)(void *arg, struct runnerctl *rc, const Um__RunnerStatus *last);
};

/* Writes runner.pb, removes what an ended runner left, and spawns
 * PROGRAM (absolute path of umlaut-guest), which detaches itself.  -EBUSY when a
 * runner lives in DIR.  Paths in SPEC are absolute.  SPEC is not kept. */
int runnerctl_start(struct loop *loop, const char *program, const char *dir,
	const Um__RunnerSpec *spec, const struct runnerctl_ops *ops, void *arg,
	struct runnerctl **out, struct err *err);

/* Connects to the runner that lives in DIR.  -ESRCH when none does. */
int runnerctl_adopt(struct loop *loop, const char *dir, const struct runnerctl_ops *ops, void *arg,
	struct runnerctl **out, struct err *err);

/* Lets go: the runner and its guest go on.  NULL is fine; safe in callbacks. */
void runnerctl_close(struct runnerctl *rc);

/* True between on_hello and on_lost or on_gone. */
bool runnerctl_up(const struct runnerctl *rc);

/* Commands; -ENOTCONN unless up.  RunnerStop is idempotent, a later one with
 * force, or a shorter deadline, overrides. */
int runnerctl_stop(struct runnerctl *rc, uint32_t timeout_ms, bool force, struct err *err);
/* The end was noted: the runner removes exit.pb and its other files and exits
 * (on_gone follows).  The runner refuses it while the guest lives (CONFLICT). */
int runnerctl_forget(struct runnerctl *rc, struct err *err);
int runnerctl_hosts(struct runnerctl *rc, const Um__HostsUpdate *update, struct err *err);

/* A fresh id for a stream or request, never 0. */
uint64_t runnerctl_id(struct runnerctl *rc);
/* Sends ENV as it is (StreamOpen, StreamData, StreamCredit, StreamControl,
 * StreamEnd, GuestStatsRequest, GuestSync, GuestTrim) with env->id.  -ENOTCONN; -ENOBUFS:
 * the queue is full, try again at on_drain (cannot happen to a peer that keeps
 * to its credits). */
int runnerctl_send(struct runnerctl *rc, Um__Envelope *env, struct err *err);
size_t runnerctl_queued(const struct runnerctl *rc);

/* What is in DIR, from its files alone (a few small reads).  For ENDED, *LAST is
 * how (caller: um__runner_status__free_unpacked(last, NULL)); never NULL then. */
enum runnerctl_found { RUNNERCTL_NONE, RUNNERCTL_ALIVE, RUNNERCTL_ENDED };
int runnerctl_look(
	const char *dir, enum runnerctl_found *found, Um__RunnerStatus **last, struct err *err);

/* Removes what a dead runner left: processes, cgroup, runner.*, exit.pb, uml/.
 * -EBUSY when the runner lives.  Blocks for milliseconds (up to 10 s when
 * processes hang in the kernel): run it in the pool when guests may be left over. */
int runnerctl_discard(const char *dir, struct err *err);

/* Fencing: kills the runner in DIR (SIGKILL, by its identity); its guest dies
 * with it.  1: it was alive; 0: none lives.  Does not wait; on_gone tells.  One that is just
 * being started cannot be told yet: -ENOENT, tried again. */
int runnerctl_kill(const char *dir, struct err *err);

#endif
