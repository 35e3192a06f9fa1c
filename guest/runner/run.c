#include "guest/runner/run.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/mconsole.h"
#include "guest/runner/config.h"
#include "guest/runner/console.h"
#include "guest/runner/line.h"
#include "guest/runner/reason.h"
#include "guest/runner/record.h"
#include "guest/runner/serve.h"
#include "guest/runner/stream.h"
#include "guest/runnerdir.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/str.h"

#define SEED_SIZE 64
#define BOOT_ID_MAX 64
#define TELL_MS 2000 /* a step of the start-up that takes longer is told */
#define SWEEP_MS 20  /* between attempts to remove the control group */
#define SWEEP_ATTEMPTS 500
#define FLUSH_MS 700 /* for sysrq to write a guest's disks */
#define PANIC_TAIL (8u << 10)

#define STATES(X)                           \
	X(BOOTING, UM__PHASE__STARTING)     \
	X(CONFIGURING, UM__PHASE__STARTING) \
	X(RUNNING, UM__PHASE__RUNNING)      \
	X(STOPPING, UM__PHASE__STOPPING)    \
	X(SWEEPING, UM__PHASE__STOPPING)    \
	X(ENDED, UM__PHASE__STOPPED)

#define EVENTS(X)                                                       \
	X(HELLO)      /* GuestHello */                                  \
	X(CONFIGURED) /* GuestProgress: step "init", or ready */        \
	X(READY)      /* GuestProgress: ready */                        \
	X(FAILURE)    /* GuestProgress: failed */                       \
	X(STOP)	      /* asked to end cleanly */                        \
	X(FORCE)      /* asked to end at once */                        \
	X(DEADLINE)   /* of a stop, or of a guest that failed */        \
	X(EXIT)	      /* the kernel and all its processes have ended */ \
	X(SWEPT)      /* its control group is gone */

enum state {
#define X(name, phase) ST_##name,
	STATES(X)
#undef X
		ST_COUNT
};

enum event {
#define X(name) EV_##name,
	EVENTS(X)
#undef X
		EV_COUNT
};

static const struct {
	const char *name;
	Um__Phase phase;
} states[ST_COUNT] = {
#define X(name, phase) {#name, phase},
	STATES(X)
#undef X
};

static const char *const events[EV_COUNT] = {
#define X(name) #name,
	EVENTS(X)
#undef X
};

struct run {
	struct loop *loop;
	const char *dir;
	Um__RunnerSpec *spec; /* without `config`, which is read again when it is sent */
	enum state state;
	struct boot boot;
	struct loop_fd *exit_watch;
	struct loop_timer *deadline, *tell, *sweep;
	struct line *line;
	struct console *console;
	struct streams *streams;
	struct serve *serve;
	struct mconsole *mconsole;
	/* status */
	bool ready, by_request, forgotten, heard, killed, config_failed;
	char reason[RUN_REASON];
	uint64_t started_at;
	int exit_status;
	uint32_t boots;
	uint8_t boot_id[BOOT_ID_MAX];
	size_t boot_id_size;
	Um__Phase end_phase;
	uint32_t stop_ms;
	uint64_t stop_by; /* loop time */
	unsigned sweeps;
	struct log_rate rate;
};

static void fire(struct run *run, enum event event);

const char *run_state_name(const struct run *run)
{
	return states[run->state].name;
}

static void set_reason(struct run *run, const char *text)
{
	reason_clean(run->reason, sizeof(run->reason), text);
}

static void tell(struct run *run)
{
	loop_timer_disarm(run->tell);
	if (run->serve)
		serve_status(run->serve);
}

/* ---------------------------------------------------------------- configuring */

static int config_collect(struct run *run, struct buf *frames, struct err *err)
{
	uint8_t seed[SEED_SIZE];
	struct config_now now = {.time_ms = proc_wall_ms(),
		.seed = seed,
		.seed_size = sizeof(seed),
		.first_boot = run->boots == 1};
	Um__RunnerSpec *spec = NULL;
	int rc;

	proc_random(seed, sizeof(seed));
	rc = record_spec(run->dir, &spec, err);
	if (rc >= 0 && !spec->config)
		rc = err_set(err, -EBADMSG, "runner.pb: no configuration");
	if (rc >= 0)
		rc = config_frames(spec->config, &now, frames, err);
	if (spec)
		um__runner_spec__free_unpacked(spec, NULL);
	if (rc >= 0)
		rc = record_hosts_read(run->dir, frames, err);
	explicit_bzero(seed, sizeof(seed));
	return rc;
}

static void act_configure(struct run *run)
{
	struct err err = ERR_INIT;
	struct buf frames;
	int rc;

	streams_guest(run->streams, false, "the guest rebooted");
	line_reset(run->line);
	run->ready = false;
	set_reason(run, "configuring");
	buf_init(&frames);
	rc = config_collect(run, &frames, &err);
	if (rc >= 0)
		rc = line_send_frames(run->line, &frames, &err);
	buf_free(&frames);
	if (rc < 0) {
		log_error("the guest cannot be configured", LOG_ERR(&err));
		(void)snprintf(
			run->reason, sizeof(run->reason), "configuration: %.150s", err_msg(&err));
		run->config_failed = true;
		jail_kill(&run->boot.jail);
	}
	loop_timer_arm(run->tell, TELL_MS);
}

static void act_running(struct run *run)
{
	set_reason(run, "");
	streams_guest(run->streams, true, NULL);
	tell(run);
}

static void act_ready(struct run *run)
{
	run->ready = true;
	set_reason(run, "");
	tell(run);
}

/* Not configured: of no use.  It powers off by itself, or is made to. */
static void act_config_failed(struct run *run)
{
	run->config_failed = true;
	loop_timer_arm(run->deadline, RUN_FAIL_MS);
	tell(run);
}

static void act_not_ready(struct run *run)
{
	run->ready = false;
	tell(run);
}

/* ---------------------------------------------------------------- stopping */

static void send_shutdown(struct run *run)
{
	Um__Envelope env = wire_env(0);
	Um__GuestShutdown shutdown = UM__GUEST_SHUTDOWN__INIT;
	struct err err = ERR_INIT;
	uint64_t now = loop_now(run->loop);

	shutdown.timeout_ms = run->stop_by > now ? (uint32_t)(run->stop_by - now) : 1;
	env.body_case = UM__ENVELOPE__BODY_GUEST_SHUTDOWN;
	env.guest_shutdown = &shutdown;
	if (line_send(run->line, &env, &err) < 0)
		log_warn("the guest was not asked to stop", LOG_ERR(&err));
}

static void kill_all(struct run *run)
{
	struct err err = ERR_INIT;

	run->killed = true;
	jail_kill(&run->boot.jail);
	if (run->boot.cgroup && cgroup_kill(run->boot.cgroup, &err) < 0)
		log_warn("the control group was not killed", LOG_ERR(&err));
}

static void on_sysrq(void *arg, const struct err *err, const char *text)
{
	(void)arg;
	(void)text;
	if (err)
		log_debug("sysrq", LOG_ERR(err));
}

/* No agent of ours in the guest: write its disks, remount them read-only, kill. */
static void flush_and_kill(struct run *run)
{
	char socket[PATH_MAX], reply[PATH_MAX];
	struct mconsole_config config = {
		.root_fd = run->boot.root_fd, .socket = socket, .reply_dir = reply};
	struct err err = ERR_INIT;
	int rc;

	rc = boot_mconsole_paths(run->spec, run->dir, socket, reply, sizeof(socket), &err);
	if (rc >= 0 && !run->mconsole)
		rc = mconsole_open(run->loop, &config, &run->mconsole, &err);
	if (rc >= 0)
		rc = mconsole_request(run->mconsole, "sysrq s", FLUSH_MS, on_sysrq, NULL, &err);
	if (rc >= 0)
		rc = mconsole_request(run->mconsole, "sysrq u", FLUSH_MS, on_sysrq, NULL, &err);
	if (rc < 0) {
		log_warn("the guest's disks are not flushed", LOG_ERR(&err));
		kill_all(run);
		return;
	}
	loop_timer_arm(run->deadline, FLUSH_MS);
}

static void begin_stop(struct run *run)
{
	run->stop_by = loop_now(run->loop) + run->stop_ms;
	loop_timer_arm(run->deadline, run->stop_ms);
	set_reason(run, "stopping");
}

static void act_stop(struct run *run)
{
	begin_stop(run);
	if (run->heard)
		send_shutdown(run);
	else if (run->spec->initrd[0])
		kill_all(run); /* it waits for us and has touched nothing */
	else
		flush_and_kill(run);
	tell(run);
}

/* Asked again: with another deadline, or for the boot that came after a reboot. */
static void act_stop_again(struct run *run)
{
	begin_stop(run);
	if (run->heard)
		send_shutdown(run);
}

static void act_hello_stopping(struct run *run)
{
	send_shutdown(run);
}

static void act_kill(struct run *run)
{
	kill_all(run);
	tell(run);
}

static void act_deadline(struct run *run)
{
	log_warn("the guest did not end in time and is killed", LOG_U64("ms", run->stop_ms));
	kill_all(run);
}

/* ---------------------------------------------------------------- the end */

static bool out_of_memory(struct run *run)
{
	struct cgroup_usage usage;

	return run->boot.cgroup && cgroup_usage(run->boot.cgroup, &usage, NULL) == 0 &&
	       usage.oom_kills > 0;
}

static bool panicked(struct run *run, char *text, size_t size)
{
	char tail[PANIC_TAIL];
	uint64_t end = console_end(run->console), lost = 0;
	uint64_t pos = end > sizeof(tail) ? end - sizeof(tail) : 0;
	size_t n = console_read(run->console, &pos, tail, sizeof(tail), &lost);

	return reason_panic(text, size, tail, n);
}

/* Phase and reason of the end. */
static void conclude(struct run *run)
{
	char text[RUN_REASON];
	bool clean = run->exit_status == 0;

	run->end_phase = UM__PHASE__FAILED;
	if (run->by_request) {
		run->end_phase = UM__PHASE__STOPPED;
		set_reason(run, run->killed ? "killed on request" : "stopped on request");
		if (run->killed && run->stop_ms && loop_now(run->loop) >= run->stop_by)
			set_reason(run, "did not stop in time and was killed");
	} else if (run->config_failed) {
		; /* the reason is there */
	} else if (clean) {
		run->end_phase = UM__PHASE__STOPPED;
		set_reason(run, "the guest powered off");
	} else if (out_of_memory(run)) {
		set_reason(run, "killed by the host: out of memory (limit of its control group)");
	} else if (panicked(run, text, sizeof(text))) {
		set_reason(run, text);
	} else {
		reason_end(text, sizeof(text), run->exit_status);
		set_reason(run, text);
	}
}

static void act_exit(struct run *run)
{
	loop_fd_close(run->exit_watch);
	run->exit_watch = NULL;
	loop_timer_disarm(run->deadline);
	run->exit_status = jail_reap(&run->boot.jail);
	run->ready = false;
	console_finish(run->console);
	conclude(run);
	log_info("the guest has ended", LOG_I64("status", run->exit_status),
		LOG_STR("reason", run->reason));
	run->sweeps = 0;
	loop_timer_arm(run->sweep, 0);
}

static void act_ended(struct run *run)
{
	Um__RunnerStatus status = UM__RUNNER_STATUS__INIT;
	struct err err = ERR_INIT;

	run_fill_status(run, &status);
	if (record_exit(run->dir, &status, &err) < 0)
		log_error("the guest's end is not recorded", LOG_ERR(&err));
	tell(run);
	streams_ended(run->streams, "the guest has ended");
	if (!run->serve || serve_peers(run->serve) == 0)
		loop_stop(run->loop);
}

static void on_sweep(void *arg)
{
	struct run *run = arg;
	struct err err = ERR_INIT;
	int rc = 0;

	if (run->boot.cgroup) {
		rc = cgroup_remove(run->boot.cgroup, &err);
		if (rc == -EBUSY && ++run->sweeps < SWEEP_ATTEMPTS) {
			(void)cgroup_kill(run->boot.cgroup, NULL);
			loop_timer_arm(run->sweep, SWEEP_MS);
			return;
		}
	}
	if (rc < 0)
		log_error("the control group is left over", LOG_ERR(&err));
	boot_remove_dirs(run->dir);
	fire(run, EV_SWEPT);
}

/* ---------------------------------------------------------------- the table */

static void act_nothing(struct run *run)
{
	(void)run;
}

static const struct {
	enum state state;
	enum event event;
	enum state next;
	void (*act)(struct run *run);
} table[] = {
	{ST_BOOTING, EV_HELLO, ST_CONFIGURING, act_configure},
	{ST_BOOTING, EV_STOP, ST_STOPPING, act_stop},
	{ST_BOOTING, EV_FORCE, ST_STOPPING, act_kill},
	{ST_BOOTING, EV_EXIT, ST_SWEEPING, act_exit},

	{ST_CONFIGURING, EV_HELLO, ST_CONFIGURING, act_configure},
	{ST_CONFIGURING, EV_CONFIGURED, ST_RUNNING, act_running},
	{ST_CONFIGURING, EV_FAILURE, ST_CONFIGURING, act_config_failed},
	{ST_CONFIGURING, EV_DEADLINE, ST_CONFIGURING, act_kill},
	{ST_CONFIGURING, EV_STOP, ST_STOPPING, act_stop},
	{ST_CONFIGURING, EV_FORCE, ST_STOPPING, act_kill},
	{ST_CONFIGURING, EV_EXIT, ST_SWEEPING, act_exit},

	{ST_RUNNING, EV_HELLO, ST_CONFIGURING, act_configure},
	{ST_RUNNING, EV_CONFIGURED, ST_RUNNING, act_nothing},
	{ST_RUNNING, EV_READY, ST_RUNNING, act_ready},
	{ST_RUNNING, EV_FAILURE, ST_RUNNING, act_not_ready},
	{ST_RUNNING, EV_STOP, ST_STOPPING, act_stop},
	{ST_RUNNING, EV_FORCE, ST_STOPPING, act_kill},
	{ST_RUNNING, EV_EXIT, ST_SWEEPING, act_exit},

	{ST_STOPPING, EV_HELLO, ST_STOPPING, act_hello_stopping},
	{ST_STOPPING, EV_STOP, ST_STOPPING, act_stop_again},
	{ST_STOPPING, EV_FORCE, ST_STOPPING, act_kill},
	{ST_STOPPING, EV_DEADLINE, ST_STOPPING, act_deadline},
	{ST_STOPPING, EV_EXIT, ST_SWEEPING, act_exit},

	{ST_SWEEPING, EV_SWEPT, ST_ENDED, act_ended},
};

/* An event that has no row in a state means nothing there (READY while stopping). */
static void fire(struct run *run, enum event event)
{
	size_t i;

	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (table[i].state != run->state || table[i].event != event)
			continue;
		log_debug("event", LOG_STR("event", events[event]),
			LOG_STR("from", states[run->state].name),
			LOG_STR("to", states[table[i].next].name));
		run->state = table[i].next;
		table[i].act(run);
		return;
	}
}

/* ---------------------------------------------------------------- what comes in */

static void on_exit_fd(void *arg, unsigned unused)
{
	(void)unused;
	fire(arg, EV_EXIT);
}

static void on_deadline(void *arg)
{
	fire(arg, EV_DEADLINE);
}

static void on_tell(void *arg)
{
	tell(arg);
}

static void guest_hello(struct run *run, const Um__GuestHello *hello)
{
	size_t n = hello->boot_id.len < BOOT_ID_MAX ? hello->boot_id.len : BOOT_ID_MAX;
	bool same = run->heard && n && n == run->boot_id_size &&
		    memcmp(run->boot_id, hello->boot_id.data, n) == 0;

	/* Said again, in the same boot: it did not hear us. */
	if (same && run->state != ST_CONFIGURING)
		return;
	if (run->heard && !same)
		run->boots++;
	run->heard = true;
	run->boot_id_size = n;
	if (n)
		memcpy(run->boot_id, hello->boot_id.data, n);
	log_info("the guest's agent is there", LOG_U64("boot", run->boots));
	fire(run, EV_HELLO);
}

static void guest_progress(struct run *run, const Um__GuestProgress *progress)
{
	bool up = run->state == ST_CONFIGURING || run->state == ST_RUNNING;

	if (up && progress->failed) {
		(void)snprintf(run->reason, sizeof(run->reason), "%.40s: %.150s", progress->step,
			progress->message);
		set_reason(run, strdupa(run->reason));
		fire(run, EV_FAILURE);
	} else if (run->state == ST_CONFIGURING && !progress->ready &&
		   strcmp(progress->step, "init") != 0) {
		(void)snprintf(
			run->reason, sizeof(run->reason), "configuring: %.40s", progress->step);
		set_reason(run, strdupa(run->reason));
	} else if (run->state == ST_CONFIGURING) {
		fire(run, EV_CONFIGURED);
	}
	if (progress->ready)
		fire(run, EV_READY);
}

static void on_line_message(void *arg, const Um__Envelope *env)
{
	struct run *run = arg;

	if (env->body_case == UM__ENVELOPE__BODY_GUEST_HELLO)
		guest_hello(run, env->guest_hello);
	else if (env->body_case == UM__ENVELOPE__BODY_GUEST_PROGRESS)
		guest_progress(run, env->guest_progress);
	else if (env->id)
		streams_from_guest(run->streams, env);
	else if (log_rate_pass(&run->rate))
		log_warn("the guest sent what it should not",
			LOG_STR("message", wire_body_name(env->body_case)));
}

static void on_line_close(void *arg, const struct err *err)
{
	(void)arg;
	log_debug("the guest's line is closed", LOG_ERR(err));
}

static void on_console_output(void *arg)
{
	struct run *run = arg;

	if (run->streams)
		streams_console_output(run->streams);
}

static void on_console_input(void *arg, size_t size)
{
	struct run *run = arg;

	streams_console_input(run->streams, size);
}

static const struct line_ops line_ops = {.on_message = on_line_message, .on_close = on_line_close};
static const struct console_ops console_ops = {
	.on_output = on_console_output, .on_input = on_console_input};

/* ---------------------------------------------------------------- for serve.c */

void run_fill_hello(const struct run *run, Um__RunnerHello *hello)
{
	static char version[] = UMLAUT_VERSION;

	hello->uid = run->spec->uid;
	hello->epoch = run->spec->epoch;
	hello->generation = run->spec->generation;
	hello->version = version;
	hello->pid = getpid();
}

void run_fill_status(const struct run *run, Um__RunnerStatus *status)
{
	status->phase = run->state == ST_ENDED ? run->end_phase : states[run->state].phase;
	status->ready = run->ready;
	status->reason = (char *)(uintptr_t)run->reason;
	status->started_at = run->started_at;
	status->exit_status = run->exit_status;
	status->boots = run->boots;
	status->by_request = run->by_request;
}

int run_stop(struct run *run, uint32_t timeout_ms, bool force, bool by_request, struct err *err)
{
	if (run->state >= ST_SWEEPING)
		return 0;
	if (run->boot.jail.pid == 0)
		return err_set(err, -ESRCH, "the guest has ended");
	run->by_request = run->by_request || by_request;
	if (!force)
		run->stop_ms = timeout_ms ? timeout_ms : RUN_STOP_MS;
	log_info("stopping", LOG_BOOL("force", force), LOG_U64("timeout_ms", run->stop_ms));
	fire(run, force ? EV_FORCE : EV_STOP);
	return 0;
}

int run_forget(struct run *run, struct err *err)
{
	if (run->state != ST_ENDED)
		return err_set(
			err, -EBUSY, "the guest has not ended (%s)", states[run->state].name);
	run->forgotten = true;
	loop_stop(run->loop);
	return 0;
}

int run_hosts(struct run *run, const Um__HostsUpdate *update, struct err *err)
{
	struct buf frames;
	int rc;

	buf_init(&frames);
	rc = config_hosts_frames(update, &frames, err);
	if (rc >= 0)
		rc = record_hosts(run->dir, &frames, update->full, err);
	if (rc >= 0 && (run->state == ST_CONFIGURING || run->state == ST_RUNNING))
		rc = line_send_frames(run->line, &frames, err);
	buf_free(&frames);
	return rc;
}

void run_no_agents(struct run *run)
{
	if (run->state == ST_ENDED)
		loop_stop(run->loop);
}

/* ---------------------------------------------------------------- open and close */

static int open_parts(struct run *run, struct err *err)
{
	const struct console_config config = {
		.dir = run->dir, .max_bytes = run->spec->console_max_bytes};
	int rc;

	rc = loop_timer_open(run->loop, "deadline", on_deadline, run, &run->deadline, err);
	if (rc >= 0)
		rc = loop_timer_open(run->loop, "tell", on_tell, run, &run->tell, err);
	if (rc >= 0)
		rc = loop_timer_open(run->loop, "sweep", on_sweep, run, &run->sweep, err);
	if (rc >= 0)
		rc = console_open(run->loop, run->boot.console_fd, &config, &console_ops, run,
			&run->console, err);
	if (rc < 0)
		return rc;
	run->boot.console_fd = -1;
	rc = line_open(run->loop, run->boot.line_fd, &line_ops, run, &run->line, err);
	if (rc < 0)
		return rc;
	run->boot.line_fd = -1;
	rc = loop_fd_open(
		run->loop, "kernel", run->boot.jail.pidfd, on_exit_fd, run, &run->exit_watch, err);
	if (rc >= 0)
		rc = loop_fd_want(run->exit_watch, LOOP_READ);
	if (rc >= 0)
		rc = streams_new(run->dir, run->line, run->console, &run->streams, err);
	if (rc >= 0)
		rc = serve_open(run->loop, run->dir, run, run->streams, &run->serve, err);
	return rc;
}

int run_open(struct loop *loop, const char *dir, struct run **out, struct err *err)
{
	struct run *run = calloc(1, sizeof(*run));
	int rc;

	if (!run)
		return err_set(err, -ENOMEM, "out of memory");
	run->loop = loop;
	run->dir = dir;
	run->boot = BOOT_INIT;
	run->boots = 1;
	run->exit_status = -1;
	record_hosts_clear(dir);
	record_remove(dir, RUNNERDIR_EXIT);
	rc = record_spec(dir, &run->spec, err);
	if (rc >= 0)
		rc = boot_start(run->spec, dir, &run->boot, err);
	if (rc >= 0) {
		run->started_at = proc_wall_ms();
		set_reason(run, "the kernel boots");
		/* Megabytes of files are not kept for the day the guest reboots. */
		um__guest_config__free_unpacked(run->spec->config, NULL);
		run->spec->config = NULL;
		rc = open_parts(run, err);
	}
	if (rc < 0) {
		run_close(run);
		return rc;
	}
	*out = run;
	return 0;
}

void run_close(struct run *run)
{
	if (!run)
		return;
	serve_close(run->serve);
	run->serve = NULL;
	mconsole_close(run->mconsole);
	streams_free(run->streams);
	line_close(run->line);
	console_close(run->console);
	loop_fd_close(run->exit_watch);
	loop_timer_close(run->deadline);
	loop_timer_close(run->tell);
	loop_timer_close(run->sweep);
	boot_undo(&run->boot, run->dir);
	if (run->forgotten) {
		record_remove(run->dir, RUNNERDIR_EXIT);
		record_remove(run->dir, RUNNERDIR_SPEC);
	}
	record_hosts_clear(run->dir);
	if (run->spec)
		um__runner_spec__free_unpacked(run->spec, NULL);
	free(run);
}
