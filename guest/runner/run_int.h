/* run_int: between run.c (the table of states, what comes in, open and close) and
 * act.c (what is done on each transition). */
#ifndef UMLAUT_GUEST_RUNNER_RUN_INT_H
#define UMLAUT_GUEST_RUNNER_RUN_INT_H

#include "guest/mconsole.h"
#include "guest/runner/console.h"
#include "guest/runner/line.h"
#include "guest/runner/pulse.h"
#include "guest/runner/run.h"
#include "guest/runner/serve.h"
#include "guest/runner/stream.h"
#include "lib/boottimes.h"
#include "lib/log.h"

/* name, what the agent is told; see run.h */
#define RUN_STATES(X)                       \
	X(BOOTING, UM__PHASE__STARTING)     \
	X(CONFIGURING, UM__PHASE__STARTING) \
	X(RUNNING, UM__PHASE__RUNNING)      \
	X(STOPPING, UM__PHASE__STOPPING)    \
	X(SWEEPING, UM__PHASE__STOPPING)    \
	X(ENDED, UM__PHASE__STOPPED)

#define RUN_EVENTS(X)                                                   \
	X(HELLO)      /* GuestHello */                                  \
	X(CONFIGURED) /* GuestProgress: step "init", or ready */        \
	X(READY)      /* GuestProgress: ready */                        \
	X(FAILURE)    /* GuestProgress: failed */                       \
	X(STOP)	      /* asked to end cleanly */                        \
	X(FORCE)      /* asked to end at once */                        \
	X(DEADLINE)   /* of a stop, or of a guest that failed */        \
	X(EXIT)	      /* the kernel and all its processes have ended */ \
	X(SWEPT)      /* its control group is gone */

enum run_state {
#define X(name, phase) ST_##name,
	RUN_STATES(X)
#undef X
		ST_COUNT
};

enum run_event {
#define X(name) EV_##name,
	RUN_EVENTS(X)
#undef X
		EV_COUNT
};

#define RUN_BOOT_ID_MAX 64

struct run {
	struct loop *loop;
	const char *dir;
	Um__RunnerSpec *spec; /* without `config`, which is read again when it is sent */
	enum run_state state;
	struct boot boot;
	struct loop_fd *exit_watch;
	struct loop_timer *deadline, *tell, *sweep;
	struct line *line;
	struct console *console;
	struct streams *streams;
	struct serve *serve;
	struct mconsole *mconsole;
	struct pulse *pulse;
	bool pings;	/* the guest answers GuestPing */
	uint64_t ping;	/* number of the last one */
	bool was_ready; /* these two before its agent did not answer any more */
	char was_reason[RUN_REASON];
	const char *hangs; /* why it was killed as one that hangs, or NULL; static */
	/* status */
	bool final; /* the script or the probe has failed */
	bool ready, by_request, forgotten, heard, killed, flushed, config_failed;
	char reason[RUN_REASON];
	uint64_t started_at;
	struct boottimes times;
	uint64_t hello_us;	     /* of the guest's clock, at BOOT_HELLO */
	Um__BootTimes times_message; /* shows `times` */
	int exit_status;
	uint32_t boots;
	uint8_t boot_id[RUN_BOOT_ID_MAX];
	size_t boot_id_size;
	Um__Phase end_phase;
	uint32_t stop_ms;
	uint64_t stop_by; /* loop time */
	unsigned sweeps;
	struct log_rate rate;
};

void run_fire(struct run *run, enum run_event event);
/* The agent is told how it is. */
void run_tell(struct run *run);
void run_set_reason(struct run *run, const char *text);

/* For pulse.h; act_pulse.c */
extern const struct pulse_ops run_pulse_ops;
/* The kernel's management console, opened when it is needed first. */
int run_mconsole(struct run *run, struct err *err);

/* The actions of the table, by name. */
void act_nothing(struct run *run);
void act_configure(struct run *run);
void act_running(struct run *run);
void act_ready(struct run *run);
void act_config_failed(struct run *run);
void act_not_ready(struct run *run);
void act_stop(struct run *run);
void act_stop_again(struct run *run);
void act_hello_stopping(struct run *run);
void act_kill(struct run *run);
void act_deadline(struct run *run);
void act_exit(struct run *run);
void act_ended(struct run *run);
/* The timer of SWEEPING. */
void act_sweep(struct run *run);

#endif
