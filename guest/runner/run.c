#include "guest/runner/run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/runner/config.h"
#include "guest/runner/reason.h"
#include "guest/runner/record.h"
#include "guest/runner/run_int.h"
#include "guest/runnerdir.h"
#include "lib/proc.h"

#define RUN_BOOT_US (600u * 1000000u) /* what a guest says of its clock is bounded */

static const struct {
	const char *name;
	Um__Phase phase;
} states[ST_COUNT] = {
#define X(name, phase) {#name, phase},
	RUN_STATES(X)
#undef X
};

static const char *const events[EV_COUNT] = {
#define X(name) #name,
	RUN_EVENTS(X)
#undef X
};

const char *run_state_name(const struct run *run)
{
	return states[run->state].name;
}

void run_set_reason(struct run *run, const char *text)
{
	reason_clean(run->reason, sizeof(run->reason), text);
}

void run_tell(struct run *run)
{
	loop_timer_disarm(run->tell);
	if (run->serve)
		serve_status(run->serve);
}

/* ---------------------------------------------------------------- the table */

static const struct {
	enum run_state state;
	enum run_event event;
	enum run_state next;
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
void run_fire(struct run *run, enum run_event event)
{
	size_t i;

	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (table[i].state != run->state || table[i].event != event)
			continue;
		log_debug("event", LOG_STR("event", events[event]),
			LOG_STR("from", states[run->state].name),
			LOG_STR("to", states[table[i].next].name));
		if (run->state == ST_RUNNING && table[i].next != ST_RUNNING)
			pulse_stop(run->pulse);
		run->state = table[i].next;
		table[i].act(run);
		return;
	}
}

/* ---------------------------------------------------------------- what comes in */

static void on_exit_fd(void *arg, unsigned unused)
{
	(void)unused;
	run_fire(arg, EV_EXIT);
}

static void on_deadline(void *arg)
{
	run_fire(arg, EV_DEADLINE);
}

static void on_sweep(void *arg)
{
	act_sweep(arg);
}

static void on_tell(void *arg)
{
	run_tell(arg);
}

/* The guest's own clock began with its kernel: what counts is the difference. */
static void mark_hello(struct run *run, const Um__GuestHello *hello)
{
	uint64_t *at = run->times.at, ago = 0;

	if (run->boots > 1) {
		memset(&run->times, 0, sizeof(run->times));
		at[UM__BOOT_STEP__BOOT_KERNEL] =
			proc_wall_us() - (hello->uptime_us < RUN_BOOT_US ? hello->uptime_us : 0);
	}
	if (!at[UM__BOOT_STEP__BOOT_HELLO])
		run->hello_us = hello->uptime_us;
	boottimes_mark(&run->times, UM__BOOT_STEP__BOOT_HELLO);
	if (hello->uptime_us > hello->started_us)
		ago = hello->uptime_us - hello->started_us;
	if (!hello->started_us || at[UM__BOOT_STEP__BOOT_USERSPACE])
		return;
	at[UM__BOOT_STEP__BOOT_USERSPACE] =
		at[UM__BOOT_STEP__BOOT_HELLO] - (ago < RUN_BOOT_US ? ago : 0);
	if (at[UM__BOOT_STEP__BOOT_USERSPACE] < at[UM__BOOT_STEP__BOOT_KERNEL])
		at[UM__BOOT_STEP__BOOT_USERSPACE] = at[UM__BOOT_STEP__BOOT_KERNEL];
}

/* Several steps may arrive together: the guest's clock tells them apart. */
static void mark_step(struct run *run, Um__BootStep step, uint64_t uptime_us)
{
	uint64_t *at = run->times.at, hello = at[UM__BOOT_STEP__BOOT_HELLO], then;

	if (at[step])
		return;
	boottimes_mark(&run->times, step);
	then = hello + uptime_us - run->hello_us;
	if (hello && uptime_us > run->hello_us && uptime_us - run->hello_us < RUN_BOOT_US &&
		then < at[step])
		at[step] = then;
}

static void mark_progress(struct run *run, const Um__GuestProgress *progress)
{
	static const struct {
		const char *name;
		Um__BootStep step;
	} steps[] = {
		{"config", UM__BOOT_STEP__BOOT_CONFIG},
		{"root", UM__BOOT_STEP__BOOT_ROOT},
		{"network", UM__BOOT_STEP__BOOT_NICS},
		{"files", UM__BOOT_STEP__BOOT_FILES},
		{"init", UM__BOOT_STEP__BOOT_INIT},
		{"ready", UM__BOOT_STEP__BOOT_READY},
	};

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		if (strcmp(progress->step, steps[i].name) == 0 && !progress->failed)
			mark_step(run, steps[i].step, progress->uptime_us);
}

static void guest_hello(struct run *run, const Um__GuestHello *hello)
{
	size_t n = hello->boot_id.len < RUN_BOOT_ID_MAX ? hello->boot_id.len : RUN_BOOT_ID_MAX;
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
	mark_hello(run, hello);
	run->pings = hello->pings;
	log_info("the guest's agent is there", LOG_U64("boot", run->boots));
	run_fire(run, EV_HELLO);
}

static void guest_progress(struct run *run, const Um__GuestProgress *progress)
{
	bool up = run->state == ST_CONFIGURING || run->state == ST_RUNNING;

	mark_progress(run, progress);
	if (up && progress->failed) {
		(void)snprintf(run->reason, sizeof(run->reason), "%.40s: %.150s", progress->step,
			progress->message);
		run_set_reason(run, strdupa(run->reason));
		run_fire(run, EV_FAILURE);
	} else if (run->state == ST_CONFIGURING && !progress->ready &&
		   strcmp(progress->step, "init") != 0) {
		(void)snprintf(
			run->reason, sizeof(run->reason), "configuring: %.40s", progress->step);
		run_set_reason(run, strdupa(run->reason));
	} else if (run->state == ST_CONFIGURING) {
		run_fire(run, EV_CONFIGURED);
	}
	if (progress->ready)
		run_fire(run, EV_READY);
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
	else if (env->body_case == UM__ENVELOPE__BODY_GUEST_PING)
		; /* that it came was counted */
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
	status->final = run->final && run->state == ST_RUNNING;
	status->reason = (char *)(uintptr_t)run->reason;
	status->started_at = run->started_at;
	status->exit_status = run->exit_status;
	status->boots = run->boots;
	status->by_request = run->by_request;
	status->boot = (Um__BootTimes *)(uintptr_t)&run->times_message;
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
	run_fire(run, force ? EV_FORCE : EV_STOP);
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

void run_trim(struct run *run)
{
	Um__Envelope env = wire_env(0);
	Um__GuestTrim body = UM__GUEST_TRIM__INIT;

	env.body_case = UM__ENVELOPE__BODY_GUEST_TRIM;
	env.guest_trim = &body;
	/* One that is busy otherwise is asked another time. */
	if (run->state == ST_RUNNING)
		(void)line_send(run->line, &env, NULL);
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
	line_bulk(run->line, run->boot.bulk_fd);
	rc = loop_fd_open(
		run->loop, "kernel", run->boot.jail.pidfd, on_exit_fd, run, &run->exit_watch, err);
	if (rc >= 0)
		rc = loop_fd_want(run->exit_watch, LOOP_READ);
	if (rc >= 0)
		rc = streams_new(run->dir, run->line, run->console, &run->streams, err);
	if (rc >= 0)
		rc = pulse_open(run->loop, run->spec->pulse_ms, run->boot.jail.pid, &run_pulse_ops,
			run, &run->pulse, err);
	if (rc >= 0)
		rc = serve_open(run->loop, run->dir, run, run->streams, &run->serve, err);
	return rc;
}

int run_open(
	struct loop *loop, const char *dir, uint64_t began_us, struct run **out, struct err *err)
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
	run->times.at[UM__BOOT_STEP__BOOT_RUNNER] = began_us;
	boottimes_fill(&run->times, &run->times_message);
	record_hosts_clear(dir);
	record_remove(dir, RUNNERDIR_EXIT);
	rc = record_spec(dir, &run->spec, err);
	if (rc >= 0)
		rc = boot_start(run->spec, dir, &run->boot, err);
	if (rc >= 0) {
		boottimes_mark(&run->times, UM__BOOT_STEP__BOOT_KERNEL);
		boottimes_add(&run->times, run->spec->boot);
		run->started_at = proc_wall_ms();
		run_set_reason(run, "the kernel boots");
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
	pulse_close(run->pulse);
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
