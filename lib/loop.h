/* loop: the event loop of a program.  One per program, over libuv; only the
 * lib/ files name uv_*, zmq_*, curl_*.
 *
 * Everything that lives on a loop is made by a function that takes the loop
 * and ended by its _close function, which is safe from inside its own callback
 * and takes NULL; memory is released by the loop later, never before the
 * close callback of libuv has run.  After a failed _open the callback is never
 * called.  Callbacks run on the loop's thread only.
 *
 * loop_free() proves that nothing dangles: it names every handle still open
 * (by the `name` given at its making), closes it, and returns the count of them.
 */
#ifndef UMLAUT_LIB_LOOP_H
#define UMLAUT_LIB_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"
#include "lib/proc.h"

struct loop;
struct loop_timer;
struct loop_fd;
struct loop_signal;
struct loop_work;
struct loop_child;
struct loop_defer;

int loop_new(struct loop **out, struct err *err);
/* Runs until loop_stop(), or (when ONCE_IDLE in tests) nothing is left to do. */
int loop_run(struct loop *loop, struct err *err);
void loop_stop(struct loop *loop);
/* Runs the loop as long as *BUSY is true: for a clean end, where work in the pool
 * must be waited for. */
void loop_run_while(struct loop *loop, const bool *busy);
/* Number of handles that were still open (logged by name at LOG_ERROR). */
unsigned loop_free(struct loop *loop);
/* Monotonic milliseconds, cached per iteration, and refreshed on demand. */
uint64_t loop_now(const struct loop *loop);
/* For lib/ files and tests: the uv_loop_t. */
void *loop_uv(struct loop *loop);

/* Timers.  A timer fires once; arm it again for the next. */
typedef void loop_timer_fn(void *arg);
int loop_timer_open(struct loop *loop, const char *name, loop_timer_fn *fn, void *arg,
	struct loop_timer **out, struct err *err);
void loop_timer_arm(struct loop_timer *timer, uint64_t ms); /* re-arms */
void loop_timer_disarm(struct loop_timer *timer);
bool loop_timer_armed(const struct loop_timer *timer);
void loop_timer_close(struct loop_timer *timer);

/* File descriptors (one watcher per fd; the fd stays the caller's, and must
 * outlive the watcher). */
#define LOOP_READ 1u
#define LOOP_WRITE 2u
#define LOOP_HUP 4u /* only reported */
#define LOOP_PRI 8u /* exceptional: POLLPRI of poll(2) */
typedef void loop_fd_fn(void *arg, unsigned events);
int loop_fd_open(struct loop *loop, const char *name, int fd, loop_fd_fn *fn, void *arg,
	struct loop_fd **out, struct err *err);
int loop_fd_want(struct loop_fd *watch, unsigned events); /* 0 pauses */
void loop_fd_close(struct loop_fd *watch);

typedef void loop_signal_fn(void *arg, int signum);
int loop_signal_open(struct loop *loop, int signum, loop_signal_fn *fn, void *arg,
	struct loop_signal **out, struct err *err);
void loop_signal_close(struct loop_signal *sig);

/* Runs FN once in this iteration after all I/O callbacks, for batching ("mark,
 * then sweep").  Scheduling twice before it runs is one run. */
typedef void loop_defer_fn(void *arg);
int loop_defer_open(struct loop *loop, const char *name, loop_defer_fn *fn, void *arg,
	struct loop_defer **out, struct err *err);
void loop_defer_run(struct loop_defer *defer);
void loop_defer_close(struct loop_defer *defer);

/* Heavy or blocking work in the pool: WORK runs on a pool thread and touches
 * only ARG; DONE runs on the loop.  DONE is always called (cancelled true when
 * the loop is being freed before it ran). */
typedef void loop_work_fn(void *arg);
typedef void loop_done_fn(void *arg, bool cancelled);
int loop_work_run(struct loop *loop, const char *name, loop_work_fn *work, loop_done_fn *done,
	void *arg, struct err *err);
/* The same for work that is long, or comes in many pieces one after the other: at most
 * LOOP_HEAVY of these are in the pool at once, which has 4 threads, so that short work
 * never waits for them.  The others wait in order. */
#define LOOP_HEAVY 2
int loop_heavy_run(struct loop *loop, const char *name, loop_work_fn *work, loop_done_fn *done,
	void *arg, struct err *err);

/* Children.  `status` is the exit status, or 256 + signal.  They get the
 * descriptors of `fds` and no others. */
typedef void loop_child_fn(void *arg, int status);
struct loop_child_spec {
	const char *name;	 /* for logs */
	const char *const *argv; /* argv[0] is the absolute path */
	const char *const *envp; /* NULL: empty environment plus PATH */
	const int *fds;		 /* fds[i] becomes descriptor i in the child; -1: /dev/null */
	size_t fd_count;	 /* at least 3 are made (missing: /dev/null) */
	bool detach;		 /* setsid; the child outlives us */
	const char *cwd;
};
/* FN may be NULL.  With `detach` and a closed handle the child goes on. */
int loop_child_open(struct loop *loop, const struct loop_child_spec *spec, loop_child_fn *fn,
	void *arg, struct loop_child **out, struct err *err);
pid_t loop_child_pid(const struct loop_child *child);
int loop_child_kill(struct loop_child *child, int signum);
void loop_child_close(struct loop_child *child); /* stops watching; does not kill */

/* The end of a process that is not our child (pidfd). FN once. */
typedef void loop_exit_fn(void *arg);
int loop_exit_open(struct loop *loop, const struct proc_id *id, loop_exit_fn *fn, void *arg,
	struct loop_fd **out, struct err *err);
/* closes the pidfd too */
void loop_exit_close(struct loop_fd *watch);

#endif
