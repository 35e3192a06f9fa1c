#include "guest/runner/run_int.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "guest/runner/config.h"
#include "guest/runner/reason.h"
#include "guest/runner/record.h"
#include "lib/proc.h"

#define SEED_SIZE 64
#define TELL_MS 2000 /* a step of the start-up that takes longer is told */
#define SWEEP_MS 20  /* between attempts to remove the control group */
#define SWEEP_ATTEMPTS 500
#define FLUSH_MS 700 /* for sysrq to write a guest's disks */
#define PANIC_TAIL (8u << 10)

void act_nothing(struct run *run)
{
	(void)run;
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

void act_configure(struct run *run)
{
	struct err err = ERR_INIT;
	struct buf frames;
	int rc;

	streams_guest(run->streams, false, "the guest rebooted");
	line_reset(run->line);
	run->ready = run->final = false;
	run_set_reason(run, "configuring");
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

void act_running(struct run *run)
{
	if (run->pings)
		pulse_start(run->pulse);
	run_set_reason(run, "");
	streams_guest(run->streams, true, NULL);
	run_tell(run);
}

void act_ready(struct run *run)
{
	run->ready = true;
	run_set_reason(run, "");
	run_tell(run);
}

/* Not configured: of no use.  It powers off by itself, or is made to. */
void act_config_failed(struct run *run)
{
	run->config_failed = true;
	loop_timer_arm(run->deadline, RUN_FAIL_MS);
	run_tell(run);
}

void act_not_ready(struct run *run)
{
	run->ready = false;
	run->final = true;
	run_tell(run);
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

int run_mconsole(struct run *run, struct err *err)
{
	char socket[PATH_MAX], reply[PATH_MAX];
	struct mconsole_config config = {
		.root_fd = run->boot.root_fd, .socket = socket, .reply_dir = reply};
	int rc;

	if (run->mconsole)
		return 0;
	rc = boot_mconsole_paths(run->spec, run->dir, socket, reply, sizeof(socket), err);
	return rc < 0 ? rc : mconsole_open(run->loop, &config, &run->mconsole, err);
}

/* No agent of ours in the guest: write its disks, remount them read-only, kill. */
static void flush_and_kill(struct run *run)
{
	struct err err = ERR_INIT;
	int rc = run_mconsole(run, &err);

	if (rc >= 0)
		rc = mconsole_request(run->mconsole, "sysrq s", FLUSH_MS, on_sysrq, NULL, &err);
	if (rc >= 0)
		rc = mconsole_request(run->mconsole, "sysrq u", FLUSH_MS, on_sysrq, NULL, &err);
	if (rc < 0) {
		log_warn("the guest's disks are not flushed", LOG_ERR(&err));
		kill_all(run);
		return;
	}
	run->flushed = true;
	loop_timer_arm(run->deadline, FLUSH_MS);
}

static void begin_stop(struct run *run)
{
	run->stop_by = loop_now(run->loop) + run->stop_ms;
	loop_timer_arm(run->deadline, run->stop_ms);
	run_set_reason(run, "stopping");
}

void act_stop(struct run *run)
{
	begin_stop(run);
	if (run->heard)
		send_shutdown(run);
	else if (run->spec->initrd[0])
		kill_all(run); /* it waits for us and has touched nothing */
	else
		flush_and_kill(run);
	run_tell(run);
}

/* Asked again: with another deadline, or for the boot that came after a reboot. */
void act_stop_again(struct run *run)
{
	begin_stop(run);
	if (run->heard)
		send_shutdown(run);
}

void act_hello_stopping(struct run *run)
{
	send_shutdown(run);
}

void act_kill(struct run *run)
{
	kill_all(run);
	run_tell(run);
}

void act_deadline(struct run *run)
{
	if (!run->flushed)
		log_warn(
			"the guest did not end in time and is killed", LOG_U64("ms", run->stop_ms));
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
		run_set_reason(run, run->flushed  ? "stopped on request, disks flushed"
				    : run->killed ? "killed on request"
						  : "stopped on request");
		if (run->killed && !run->flushed && run->stop_ms &&
			loop_now(run->loop) >= run->stop_by)
			run_set_reason(run, "did not stop in time and was killed");
	} else if (run->config_failed) {
		; /* the reason is there */
	} else if (run->hangs) {
		run_set_reason(run, run->hangs);
	} else if (clean) {
		run->end_phase = UM__PHASE__STOPPED;
		run_set_reason(run, "the guest powered off");
	} else if (out_of_memory(run)) {
		run_set_reason(
			run, "killed by the host: out of memory (limit of its control group)");
	} else if (panicked(run, text, sizeof(text))) {
		run_set_reason(run, text);
	} else {
		reason_end(text, sizeof(text), run->exit_status);
		run_set_reason(run, text);
	}
}

void act_exit(struct run *run)
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

void act_ended(struct run *run)
{
	Um__RunnerStatus status = UM__RUNNER_STATUS__INIT;
	struct err err = ERR_INIT;

	run_fill_status(run, &status);
	if (record_exit(run->dir, &status, &err) < 0)
		log_error("the guest's end is not recorded", LOG_ERR(&err));
	run_tell(run);
	streams_ended(run->streams, "the guest has ended");
	if (!run->serve || serve_peers(run->serve) == 0)
		loop_stop(run->loop);
}

void act_sweep(struct run *run)
{
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
	run_fire(run, EV_SWEPT);
}
