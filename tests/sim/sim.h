/* sim: the whole cluster in one thread and in virtual time, from a seed.
 *
 * The scheduler (scheduler/serve over scheduler/core and scheduler/store) and the
 * agents (node-agent) are the real ones.  What they stand on is replaced at link time:
 *
 *   lib/loop      simloop.c    timers, deferred calls and the pool, as events of one queue
 *   lib/zsock     simnet.c     sockets; messages late, lost, twice, in another order; cuts
 *   lib/fs ...    simfs.c      files of each machine; what was not synced may be lost
 *   lib/proc      simproc.c    clocks of each machine, random numbers from the seed
 *   store backend simstore.c   the durable store
 *   image/        simimage.c   artefacts without content
 *   driver        simdriver.c  pretended guests, which outlive their agent
 *
 * A run: simplan_make() draws from the seed what users and fate will do (simplan.h); the
 * events are carried out in the order of virtual time; after each, check.c looks at the
 * invariants.  At the end everything is healed, and what can run must run.
 *
 * Processes may die between any two steps: each durable write, message and order to a
 * guest is a step (sim_step()).  One that has died has no effect any more; what it held
 * in memory is freed by its own closing functions, whose effects are ignored.
 *
 * Everything random is a function of the seed and of what it is for (sim_draw()), so
 * leaving out a part of a plan changes the rest as little as may be: shrink.c.
 */
#ifndef UMLAUT_TESTS_SIM_SIM_H
#define UMLAUT_TESTS_SIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <uthash.h>

#include "lib/loop.h"

#define SIM_SECOND UINT64_C(1000000) /* virtual microseconds */
#define SIM_MS UINT64_C(1000)
#define SIM_SCHEDULER 0u /* machine 0 */

struct sim_event;
struct sim_node;
struct sim_store;
struct sim_conn;
struct sim_runner;
struct zsock;
struct agent;
struct serve;

typedef void sim_fn(void *arg);

enum sim_kind { SIM_PROC_SCHEDULER, SIM_PROC_AGENT, SIM_PROC_CLIENT };

/* A process; also one that has died, until it is cleared away. */
struct sim_proc {
	enum sim_kind kind;
	uint32_t machine;
	struct loop *loop;
	bool dead;
	uint64_t steps, die_at;	  /* dies at that step; 0: goes on */
	uint64_t paused_until;	  /* stopped as by SIGSTOP, until then */
	struct sim_event *reaper; /* clears it away */
	struct agent *agent;
	struct serve *serve;
	void *extra; /* the zctx of an agent */
};

/* A machine: disks, clocks, guests.  It outlives its processes. */
struct sim_machine {
	uint32_t index;
	char name[16];
	uint64_t boots; /* of the machine */
	int64_t ppm;	/* its clock's error */
	uint64_t mono_base;
	int64_t wall_skew_ms;
	bool powered;
	bool kept_off; /* by its user, who has made sure of it */
	bool disk_full, disk_bad, slow;
	uint32_t memory_mb, cpu_milli;
	const char *zone;
	struct sim_proc *proc; /* scheduler or agent; NULL: down */
	struct sim_node *files;
	struct sim_undo *undo; /* what a power loss would take back */
	struct sim_runner *runners;
	struct sim_net *nets;	 /* what the driver was told of networks */
	struct sim_event *lease; /* the fencer's; NULL: never renewed */
	uint64_t draws[24];
};

struct sim_plan;
struct sim_client;

struct sim_options {
	bool trace;
	const char *bug; /* NULL: none */
	uint32_t hosts;	 /* 0: by the seed */
};

struct sim {
	struct sim_options options;
	uint64_t seed, now, end; /* now: microseconds since the beginning */
	uint64_t next_seq;
	struct sim_event **heap;
	size_t heap_count, heap_room;
	uint64_t events;  /* carried out */
	uint64_t history; /* hash of all that happened */
	struct sim_proc *cur;
	struct sim_machine *machines;
	size_t machine_count; /* the scheduler's included */
	struct sim_store *store;
	struct sim_plan *plan;
	struct sim_client *client;
	struct zsock *socks;
	struct sim_conn *conns;
	uint64_t next_conn;
	uint64_t draws[24];
	bool healed;		      /* fate rests; all goes on as in good times */
	double lose, repeat, reorder; /* shares of messages */
	uint64_t latency_max;
	bool failed, busy_queue;
	char failure[512];
	/* Once given, for good: see check.c. */
	struct sim_given *uids, *epochs, *newest, *recovered;
	struct sim_disk *disks; /* what was written on each */
	struct sim_left *left;	/* by epoch (keep.c) */
	uint64_t starts, applies, crashes;
};

extern struct sim *sim; /* the one that runs */

/* ---------------------------------------------------------------- world.c */

/* What a draw is for: each has numbers of its own. */
enum sim_what {
	DRAW_PLAN,
	DRAW_LATENCY,
	DRAW_FATE,
	DRAW_POOL,
	DRAW_CONNECT,
	DRAW_ID,
	DRAW_BOOT,
	DRAW_FETCH,
	DRAW_POWER,
	DRAW_CLIENT,
	DRAW_SHAPE,
	DRAW_CRASH,
	DRAW_WHATS
};
/* The next random number of that kind; of a machine's own row when M is given. */
uint64_t sim_draw(struct sim_machine *m, enum sim_what what);
/* FROM .. TO, both included. */
uint64_t sim_between(struct sim_machine *m, enum sim_what what, uint64_t from, uint64_t to);
bool sim_chance(struct sim_machine *m, enum sim_what what, double share);

/* FN(ARG) in AFTER microseconds, as PROC (NULL: fate); not when PROC has died by then. */
struct sim_event *sim_after(uint64_t after, struct sim_proc *proc, sim_fn *fn, void *arg);
void sim_cancel(struct sim_event *event); /* NULL, or one that has run: not allowed but NULL */
/* A process takes a step with an effect outside.  False: it has died, no effect. */
bool sim_step(const char *what);
bool sim_alive(void);
void sim_kill(struct sim_proc *proc);
/* This run has failed: SAY how, once. */
void sim_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* A line of the story. */
void sim_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void sim_hash(const void *data, size_t size);
struct sim_machine *sim_here(void); /* of the process that runs */
uint64_t sim_mono_us(const struct sim_machine *m);
uint64_t sim_wall_us(const struct sim_machine *m);
/* Virtual time that M's clock takes to go on by US. */
uint64_t sim_stretch(const struct sim_machine *m, uint64_t us);
/* Clears away a process that has died or ends. */
void sim_reap(struct sim_proc *proc);
struct sim_proc *sim_proc_new(enum sim_kind kind, uint32_t machine);
/* One whole run.  True when it held. */
bool sim_run(uint64_t seed, const struct sim_options *options, struct sim_plan *plan);

/* ---------------------------------------------------------------- machines (hosts.c) */

void machine_power_on(struct sim_machine *m);
void machine_power_off(struct sim_machine *m);
/* Its administrator takes all of Umlaut off it, and sets it up as a new host. */
void machine_purge(struct sim_machine *m);
void machine_start(struct sim_machine *m); /* its scheduler or agent, when it is down */
/* That process is not there any more: it is started again some time later. */
void machine_gone(struct sim_machine *m);
bool net_reaches(uint32_t from, uint32_t to);
void net_cut(uint32_t a, uint32_t b, bool cut); /* both ways; UINT32_MAX: all */
void net_heal(void);
void net_drop_all(struct sim_proc *proc); /* its sockets vanish */
void net_free(void);
void fs_machine_free(struct sim_machine *m);
void fs_power_loss(struct sim_machine *m);
bool fs_exists(const struct sim_machine *m, const char *path);
/* A power loss now would leave it as it is. */
bool fs_synced(const struct sim_machine *m, const char *path);
/* What is in a file, whatever fate has in store; NULL. */
const void *fs_peek(const struct sim_machine *m, const char *path, size_t *size);
/* A guest writes to its disk, and syncs it. */
void fs_guest_write(struct sim_machine *m, const char *path, const void *data, size_t size);
/* How many folders are in PATH. */
size_t fs_folders(const struct sim_machine *m, const char *path);
/* Where PATH belongs: paths are "/sim/NAME/..." */
struct sim_machine *fs_machine(const char *path);

/* ---------------------------------------------------------------- guests (simdriver.c) */

struct driver;
void driver_sim(struct sim_machine *m, struct driver *out);
void driver_power_loss(struct sim_machine *m);
void driver_free(struct sim_machine *m);
/* Something happens to the Nth guest that runs there. */
void driver_kill_runner(struct sim_machine *m, uint64_t n);
void driver_end_guest(struct sim_machine *m, uint64_t n, int status);

/* ---------------------------------------------------------------- store (simstore.c) */

struct sim_store *store_sim_new(void);
void store_sim_free(struct sim_store *store);
/* The value of KEY as it is durable; NULL. */
const void *store_sim_get(const struct sim_store *store, const char *key, size_t *size);

/* ---------------------------------------------------------------- check.c */

/* After every event of a scheduler. */
void check_core(struct serve *serve);
void check_told(const void *desired); /* an Um__Desired that is being sent */
/* Its user has recovered it from a machine that is off, where it has this epoch. */
void check_recovered(uint64_t uid, uint64_t epoch);
void check_started(struct sim_machine *m, uint64_t uid, uint64_t epoch, const char *name);
/* It is started, and found so many runs counted on its disk. */
void check_disk(struct sim_machine *m, uint64_t uid, uint64_t generation, uint64_t epoch,
	uint64_t found, const char *name);
/* How often it was started, on whatever host. */
uint64_t check_disk_runs(uint64_t uid, uint64_t generation);
void check_loaded(struct serve *serve);
void check_end(void);
void check_free(void);

/* ---------------------------------------------------------------- bugs.c */

/* True when that bug was asked for (--bug). */
bool bug(const char *name);
struct bug_text {
	const char *name, *what;
};
const struct bug_text *bug_list(size_t *count);

/* ---------------------------------------------------------------- the user (client.c) */

struct sim_client *client_new(void);
void client_free(struct sim_client *client);
void client_do(uint32_t what, uint32_t lab, uint32_t variant);
void client_settle(uint32_t emptied); /* machine; 0: none */
bool client_idle(void);
/* For check_end(): the deployment as the user knows it. */
enum client_sure { CLIENT_UNSURE, CLIENT_GONE, CLIENT_THERE };
enum client_sure client_knows(uint32_t lab, uint32_t *variant);
/* That machine's host is being emptied, as the user was told. */
enum client_sure client_knows_drain(uint32_t machine);

#endif
