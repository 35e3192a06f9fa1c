/* runnerkit: what the runner's tests share: a guest folder with a busybox disk and
 * our initrd, a runner started in it by runnerctl, and waiting for what it tells,
 * always with a deadline.  Header only. */
#ifndef UMLAUT_TESTS_RUNNERKIT_H
#define UMLAUT_TESTS_RUNNERKIT_H

#include <dirent.h>
#include <libgen.h>
#include <limits.h>
#include <sys/mount.h>

#include "tests/unit/guest/umlkit.h"

#include "guest/cow.h"
#include "guest/image/busybox.h"
#include "guest/initrd.h"
#include "guest/runnerctl.h"
#include "guest/runnerdir.h"
#include "lib/boottimes.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/loop.h"
#include "lib/proc.h"
#include "lib/str.h"

#define RK_UID 718281u
#define RK_WAIT_MS 90000 /* a boot under a sanitizer on a busy machine */

struct rk {
	char dir[256], guest[300], image[300], initrd[300], program[PATH_MAX];
	struct loop *loop;
	struct runnerctl *rc;
	struct loop_timer *tick;
	uint64_t deadline;
	bool (*until)(struct rk *rk);
	/* what the runner told */
	bool final;
	uint64_t wait_end;
	bool hello, gone, timed_out;
	unsigned hellos, losts, statuses;
	int32_t runner_pid;
	pid_t kernel_pid;
	Um__Phase phase, last_phase;
	bool ready, by_request;
	char reason[256];
	int32_t exit_status;
	uint32_t boots;
	struct boottimes times;
	/* of the stream or request `id` */
	uint64_t id;
	struct buf out;
	bool opened, ended;
	int32_t end_status;
	char end_error[256];
	uint64_t credit;
	uint64_t other_id, other_credit; /* a stream in the background */
	Um__GuestStats stats;
	bool has_stats, has_ok;
};

static inline void rk_check(struct rk *rk)
{
	if (rk->until && rk->until(rk))
		loop_stop(rk->loop);
}

static inline void rk_note(struct rk *rk, const Um__RunnerStatus *status)
{
	rk->phase = status->phase;
	rk->ready = status->ready;
	rk->by_request = status->by_request;
	rk->final = status->final;
	rk->exit_status = status->exit_status;
	rk->boots = status->boots;
	memset(&rk->times, 0, sizeof(rk->times));
	boottimes_add(&rk->times, status->boot);
	(void)snprintf(rk->reason, sizeof(rk->reason), "%s", status->reason);
}

static inline void rk_on_hello(void *arg, struct runnerctl *rc, const Um__RunnerHello *hello)
{
	struct rk *rk = arg;

	(void)rc;
	rk->hello = true;
	rk->hellos++;
	rk->runner_pid = hello->pid;
	rk_check(rk);
}

static inline void rk_on_status(void *arg, struct runnerctl *rc, const Um__RunnerStatus *status)
{
	struct rk *rk = arg;

	(void)rc;
	rk->statuses++;
	rk_note(rk, status);
	rk_check(rk);
}

static inline void rk_grant(struct rk *rk, uint32_t bytes)
{
	Um__Envelope env = wire_env(rk->id);
	Um__StreamCredit credit = UM__STREAM_CREDIT__INIT;

	credit.bytes = bytes;
	credit.channel = 1;
	env.body_case = UM__ENVELOPE__BODY_STREAM_CREDIT;
	env.stream_credit = &credit;
	(void)runnerctl_send(rk->rc, &env, NULL);
}

static inline void rk_on_message(void *arg, struct runnerctl *rc, const Um__Envelope *env)
{
	struct rk *rk = arg;

	(void)rc;
	if (env->id == rk->other_id && env->body_case == UM__ENVELOPE__BODY_STREAM_CREDIT)
		rk->other_credit += env->stream_credit->bytes;
	if (env->id != rk->id)
		return;
	switch ((int)env->body_case) {
	case UM__ENVELOPE__BODY_STREAM_OPENED:
		rk->opened = true;
		break;
	case UM__ENVELOPE__BODY_STREAM_DATA:
		buf_add(&rk->out, env->stream_data->data.data, env->stream_data->data.len);
		if (env->stream_data->data.len)
			rk_grant(rk, (uint32_t)env->stream_data->data.len);
		break;
	case UM__ENVELOPE__BODY_STREAM_CREDIT:
		rk->credit += env->stream_credit->bytes;
		break;
	case UM__ENVELOPE__BODY_STREAM_END:
		rk->ended = true;
		rk->end_status = env->stream_end->exit_status;
		if (env->stream_end->error)
			(void)snprintf(rk->end_error, sizeof(rk->end_error), "%s",
				env->stream_end->error->message);
		break;
	case UM__ENVELOPE__BODY_ERROR:
		rk->ended = true;
		(void)snprintf(rk->end_error, sizeof(rk->end_error), "%s", env->error->message);
		break;
	case UM__ENVELOPE__BODY_OK:
		rk->has_ok = true;
		break;
	case UM__ENVELOPE__BODY_GUEST_STATS:
		rk->stats = *env->guest_stats;
		rk->has_stats = true;
		break;
	default:
		break;
	}
	rk_check(rk);
}

static inline void rk_on_lost(void *arg, struct runnerctl *rc, const struct err *err)
{
	struct rk *rk = arg;

	(void)rc;
	(void)err;
	rk->hello = false;
	rk->losts++;
	rk_check(rk);
}

static inline void rk_on_gone(void *arg, struct runnerctl *rc, const Um__RunnerStatus *last)
{
	struct rk *rk = arg;

	(void)rc;
	rk->gone = true;
	rk_note(rk, last);
	rk_check(rk);
}

static const struct runnerctl_ops rk_ops = {
	.on_hello = rk_on_hello,
	.on_status = rk_on_status,
	.on_message = rk_on_message,
	.on_lost = rk_on_lost,
	.on_gone = rk_on_gone,
};

static inline void rk_tick(void *arg)
{
	struct rk *rk = arg;

	if (proc_mono_ms() > rk->deadline) {
		rk->timed_out = true;
		loop_stop(rk->loop);
		return;
	}
	loop_timer_arm(rk->tick, 20);
	rk_check(rk);
}

/* The runner's own words and the guest's, when a test fails. */
static inline void rk_dump(struct rk *rk)
{
	static const char *const names[] = {RUNNERDIR_LOG, RUNNERDIR_CONSOLE};

	for (size_t i = 0; i < 2; i++) {
		char path[400];
		struct buf text;

		(void)snprintf(path, sizeof(path), "%s/%s", rk->guest, names[i]);
		buf_init(&text);
		if (fs_read(path, 8u << 20, &text, NULL) >= 0) {
			size_t from = text.size > 3000 ? text.size - 3000 : 0;

			(void)fprintf(stderr, "--- %s\n%s\n", names[i], buf_text(&text) + from);
		}
		buf_free(&text);
	}
}

static inline bool rk_wait_ms(struct rk *rk, bool (*until)(struct rk *rk), uint64_t ms)
{
	struct err err = ERR_INIT;

	if (until(rk))
		return true;
	rk->until = until;
	rk->timed_out = false;
	rk->deadline = proc_mono_ms() + ms;
	loop_timer_arm(rk->tick, 20);
	assert_true(loop_run(rk->loop, &err) >= 0);
	loop_timer_disarm(rk->tick);
	rk->until = NULL;
	return !rk->timed_out;
}

#define rk_wait(rk, until)                                                               \
	do {                                                                             \
		if (!rk_wait_ms((rk), (until), RK_WAIT_MS)) {                            \
			rk_dump(rk);                                                     \
			fail_msg("waited in vain for %s: phase %d, reason '%s'", #until, \
				(int)(rk)->phase, (rk)->reason);                         \
		}                                                                        \
	} while (0)

static inline bool rk_is_ready(struct rk *rk)
{
	return rk->gone || rk->ready || rk->phase == UM__PHASE__FAILED ||
	       rk->phase == UM__PHASE__STOPPED;
}
static inline bool rk_has_ended(struct rk *rk)
{
	return rk->phase == UM__PHASE__FAILED || rk->phase == UM__PHASE__STOPPED;
}
static inline bool rk_is_gone(struct rk *rk)
{
	return rk->gone;
}
static inline bool rk_is_up(struct rk *rk)
{
	return rk->hello && rk->statuses;
}
static inline bool rk_stream_ended(struct rk *rk)
{
	return rk->ended || rk->gone;
}

/* build/.../unit/guest/runner/test_x -> build/.../bin/NAME */
static inline void rk_program(char *path, size_t size, const char *name)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	assert_true(n > 0);
	self[n] = '\0';
	for (int up = 0; up < 4; up++)
		*strrchr(self, '/') = '\0';
	assert_true(snprintf(path, size, "%s/bin/%s", self, name) < (int)size);
	if (access(path, X_OK) < 0)
		fail_msg("%s is not built", path);
}

static inline int rk_setup(void **state)
{
	struct rk *rk = calloc(1, sizeof(*rk));
	struct log_config log = {
		.program = "test", .instance = "", .level = LOG_ERROR, .fd = STDERR_FILENO};
	char init[PATH_MAX];
	struct err err = ERR_INIT;

	assert_non_null(rk);
	log_init(&log);
	(void)sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
	(void)snprintf(rk->dir, sizeof(rk->dir), "/tmp/umlaut-run-XXXXXX");
	assert_non_null(mkdtemp(rk->dir));
	(void)snprintf(rk->image, sizeof(rk->image), "%s/image", rk->dir);
	rk_program(rk->program, sizeof(rk->program), "umlaut-guest");
	rk_program(init, sizeof(init), "umlaut-init");
	if (busybox_build(NULL, 0, rk->image, &err) < 0 || chmod(rk->image, 0444) < 0 ||
		initrd_make(init, rk->dir, rk->initrd, sizeof(rk->initrd), &err) < 0)
		fail_msg("%s", err_msg(&err));
	assert_int_equal(loop_new(&rk->loop, &err), 0);
	assert_int_equal(loop_timer_open(rk->loop, "tick", rk_tick, rk, &rk->tick, &err), 0);
	buf_init(&rk->out);
	*state = rk;
	return 0;
}

static inline int rk_teardown(void **state)
{
	struct rk *rk = *state;

	runnerctl_close(rk->rc);
	loop_timer_close(rk->tick);
	assert_int_equal(loop_free(rk->loop), 0);
	buf_free(&rk->out);
	(void)fs_remove_tree(rk->dir, NULL);
	free(rk);
	return 0;
}

/* A fresh guest folder with a COW file of its own. */
static inline void rk_new_guest(struct rk *rk, const char *name)
{
	char cow[400];
	struct stat st;
	struct err err = ERR_INIT;
	struct cow_spec spec = {
		.backing = RUNNERCTL_BASE, .mode = 0600, .uid = RK_UID, .gid = RK_UID};

	(void)snprintf(rk->guest, sizeof(rk->guest), "%s/%s", rk->dir, name);
	assert_int_equal(mkdir(rk->guest, 0700), 0);
	assert_int_equal(stat(rk->image, &st), 0);
	spec.size = (uint64_t)st.st_size;
	spec.mtime = (uint32_t)st.st_mtime;
	(void)snprintf(cow, sizeof(cow), "%s/cow", rk->guest);
	if (cow_create(cow, &spec, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

static inline void rk_forget_told(struct rk *rk)
{
	rk->hello = rk->gone = rk->ready = rk->by_request = false;
	rk->hellos = rk->losts = rk->statuses = 0;
	rk->phase = UM__PHASE__PHASE_UNKNOWN;
	rk->exit_status = -99;
	rk->reason[0] = '\0';
	rk->boots = 0;
}

struct rk_options {
	const char *isolation;
	const char *run;
	uint64_t console_max;
	uint32_t pulse_ms;
	bool no_initrd;
	const char *kernel;
	uint32_t jail_uid;
	const char *kernel_args;
	const char *netns, *tap; /* a NIC, 10.9.8.7/24 */
};

static inline void rk_start(struct rk *rk, const struct rk_options *o)
{
	Um__RunnerSpec spec = UM__RUNNER_SPEC__INIT;
	Um__GuestConfig config = UM__GUEST_CONFIG__INIT;
	char cow[400], cgroup[64], name[] = "test/guest", host[] = "guest", root[] = "/dev/ubda";
	char isolation[16], run[4096] = "", kernel[256], args[256] = "";
	struct err err = ERR_INIT;

	(void)snprintf(cow, sizeof(cow), "%s/cow", rk->guest);
	(void)snprintf(cgroup, sizeof(cgroup), "test-%d/%s", (int)getpid(), basename(rk->guest));
	(void)snprintf(isolation, sizeof(isolation), "%s", o->isolation ? o->isolation : "");
	(void)snprintf(run, sizeof(run), "%s", o->run ? o->run : "");
	(void)snprintf(kernel, sizeof(kernel), "%s", o->kernel ? o->kernel : KIT_KERNEL);
	(void)snprintf(args, sizeof(args), "%s", o->kernel_args ? o->kernel_args : "");
	config.hostname = host;
	config.root_device = root;
	config.run = run;
	config.first_boot = true;
	spec.uid = 7;
	spec.name = name;
	spec.epoch = 3;
	spec.generation = 5;
	spec.kernel = kernel;
	if (!o->no_initrd)
		spec.initrd = rk->initrd;
	spec.backing = rk->image;
	spec.cow = cow;
	spec.memory_bytes = 64u << 20;
	spec.cpu_milli = 1000;
	spec.jail_uid = o->jail_uid ? o->jail_uid : RK_UID;
	spec.cgroup = cgroup;
	spec.pids_max = 500;
	spec.console_max_bytes = o->console_max;
	spec.pulse_ms = o->pulse_ms;
	spec.isolation = isolation;
	spec.kernel_args = args;
	spec.config = &config;
	uint8_t mac[6] = {0x02, 0, 0, 0, 0, 7}, ip[4] = {10, 9, 8, 7};
	char netns[128], ifname[16], network[] = "lan";
	Um__Tap tap = UM__TAP__INIT, *taps[1] = {&tap};
	Um__Nic nic = UM__NIC__INIT, *nics[1] = {&nic};

	if (o->netns) {
		(void)snprintf(netns, sizeof(netns), "%s", o->netns);
		(void)snprintf(ifname, sizeof(ifname), "%s", o->tap);
		spec.netns = netns;
		spec.taps = taps;
		spec.n_taps = 1;
		tap.ifname = ifname;
		tap.mac.data = nic.mac.data = mac;
		tap.mac.len = nic.mac.len = 6;
		nic.network = network;
		nic.ip4.data = ip;
		nic.ip4.len = 4;
		nic.prefix4 = 24;
		nic.mtu = 1400;
		config.nics = nics;
		config.n_nics = 1;
	}
	rk_forget_told(rk);
	if (runnerctl_start(rk->loop, rk->program, rk->guest, &spec, &rk_ops, rk, &rk->rc, &err) <
		0)
		fail_msg("%s", err_msg(&err));
}

static inline void rk_boot(struct rk *rk, const char *name, const struct rk_options *o)
{
	rk_new_guest(rk, name);
	rk_start(rk, o);
	rk_wait(rk, rk_is_ready);
	if (!rk->ready) {
		rk_dump(rk);
		fail_msg("not ready: phase %d, %s", (int)rk->phase, rk->reason);
	}
}

/* Notes the end as an agent does, and waits until nothing is left. */
static inline void rk_finish(struct rk *rk)
{
	struct err err = ERR_INIT;

	rk_wait(rk, rk_has_ended);
	assert_int_equal(runnerctl_forget(rk->rc, &err), 0);
	rk_wait(rk, rk_is_gone);
	runnerctl_close(rk->rc);
	rk->rc = NULL;
}

static inline void rk_open(struct rk *rk, Um__StreamOpen *open)
{
	Um__Envelope env;
	struct err err = ERR_INIT;

	rk->id = runnerctl_id(rk->rc);
	rk->out.size = 0;
	rk->opened = rk->ended = rk->has_ok = rk->has_stats = false;
	rk->end_status = -99;
	rk->end_error[0] = '\0';
	rk->credit = WIRE_STREAM_WINDOW;
	env = wire_env(rk->id);
	env.body_case = UM__ENVELOPE__BODY_STREAM_OPEN;
	env.stream_open = open;
	if (runnerctl_send(rk->rc, &env, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

static inline void rk_open_exec(struct rk *rk, const char *command)
{
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	char sh[] = "/bin/sh", c[] = "-c", text[4096];
	char *argv[] = {sh, c, text};

	(void)snprintf(text, sizeof(text), "%s", command);
	open.kind = UM__STREAM_KIND__STREAM_EXEC;
	open.argv = argv;
	open.n_argv = 3;
	rk_open(rk, &open);
}

/* Runs COMMAND in the guest; its output is in rk->out, its status is returned. */
static inline int rk_exec(struct rk *rk, const char *command)
{
	rk_open_exec(rk, command);
	rk_wait(rk, rk_stream_ended);
	if (rk->end_error[0])
		fail_msg("exec: %s", rk->end_error);
	return rk->end_status;
}

static inline void rk_send_data(struct rk *rk, const void *data, size_t size, bool eof)
{
	Um__Envelope env = wire_env(rk->id);
	Um__StreamData body = UM__STREAM_DATA__INIT;
	struct err err = ERR_INIT;
	union {
		const void *c;
		uint8_t *p;
	} u = {.c = data};

	body.data.data = u.p;
	body.data.len = size;
	body.eof = eof;
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &body;
	if (runnerctl_send(rk->rc, &env, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

/* The kernel's main process: the child of the reaper, which is the runner's child. */
static inline bool rk_find_kernel(struct rk *rk)
{
	char path[100];
	struct buf text;

	rk->kernel_pid = rk->runner_pid;
	for (int depth = 0; depth < 2; depth++) {
		(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)rk->kernel_pid,
			(int)rk->kernel_pid);
		buf_init(&text);
		rk->kernel_pid = 0;
		if (fs_read(path, 4096, &text, NULL) >= 0)
			rk->kernel_pid = (pid_t)strtol(buf_text(&text), NULL, 10);
		buf_free(&text);
		if (rk->kernel_pid <= 0)
			return false;
	}
	return true;
}

/* ---------------------------------------------------------------- what is left over */

/* Processes on this host that run as the jail's user. */
static inline int rk_processes(pid_t *one)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	int count = 0;

	assert_non_null(proc);
	while ((e = readdir(proc))) {
		char path[300];
		struct stat st;
		uint64_t pid;

		if (str_u64(e->d_name, 1, INT_MAX, &pid) < 0)
			continue;
		(void)snprintf(path, sizeof(path), "/proc/%s/status", e->d_name);
		struct buf text;

		buf_init(&text);
		(void)st;
		if (fs_read(path, 65536, &text, NULL) >= 0) {
			const char *uid = strstr(buf_text(&text), "\nUid:\t");

			if (uid && strtoul(uid + 6, NULL, 10) == RK_UID &&
				!strstr(buf_text(&text), "State:\tZ")) {
				count++;
				if (one)
					*one = (pid_t)pid;
			}
		}
		buf_free(&text);
	}
	closedir(proc);
	return count;
}

static inline int rk_cgroups(void)
{
	static const char *const roots[] = {"memory", "cpu", "pids", "unified", ""};
	int count = 0;

	for (size_t i = 0; i < sizeof(roots) / sizeof(roots[0]); i++) {
		char path[200];

		(void)snprintf(path, sizeof(path), "/sys/fs/cgroup/%s/umlaut/test-%d", roots[i],
			(int)getpid());
		count += access(path, F_OK) == 0;
	}
	return count;
}

static inline int rk_mounts(struct rk *rk)
{
	struct buf text;
	int count = 0;

	buf_init(&text);
	assert_true(fs_read("/proc/self/mountinfo", 1u << 20, &text, NULL) >= 0);
	count = strstr(buf_text(&text), rk->dir) != NULL;
	buf_free(&text);
	return count;
}

static inline bool rk_nothing_left(struct rk *rk)
{
	return rk_processes(NULL) == 0 && rk_cgroups() == 0 && rk_mounts(rk) == 0;
}

static inline void rk_assert_clean(struct rk *rk)
{
	if (!rk_wait_ms(rk, rk_nothing_left, 5000))
		fail_msg("left over: %d processes, %d cgroups, %d mounts", rk_processes(NULL),
			rk_cgroups(), rk_mounts(rk));
}

#endif
