/* What the tests of the whole agent share: a pretended driver, whose runners
 * outlive an agent, and a small scheduler, all on one loop. */
#ifndef UMLAUT_TESTS_UNIT_NODE_AGENT_AGENTKIT_H
#define UMLAUT_TESTS_UNIT_NODE_AGENT_AGENTKIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/serve.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "node-agent/agent.h"
#include "node-agent/guests.h"
#include "node-agent/link.h"

#define KIT_MAX 64
#define KIT_MS 20000 /* for anything to happen */

/* ---------------------------------------------------------------- the pretended driver */

struct kit_runner {
	char dir[256];
	bool used, alive; /* `alive`: the runner process */
	bool ended, noted_end;
	bool up_sent, told;
	Um__Phase phase;
	bool ready, by_request;
	int exit_status;
	uint64_t started_at, epoch, generation;
	uint32_t hosts_updates, hosts_full;
	char last_hosts[512];
	uint64_t stream;	/* last id from the agent */
	struct driver_run *run; /* whoever is connected */
};

struct driver_run {
	struct fake *fake;
	struct kit_runner *r;
	const struct driver_events *events;
	void *arg;
	struct loop_timer *pump;
	bool up;
	uint64_t next_id;
};

struct fake {
	struct overlay_guard guard; /* the last one that was asked for */
	struct kit_runner runners[KIT_MAX];
	bool manual;   /* guests stay STARTING until told otherwise */
	bool deaf;     /* runners do not stop when asked */
	int fail_disk; /* so many times */
	int fail_start, fail_port;
	unsigned starts, adopts, disks, fresh, kills, stops, forced;
	uint32_t ports[KIT_MAX]; /* of each slot: a bit per NIC; they outlive the agent */
	unsigned starting_max;	 /* most that were starting at once */
	unsigned events;	 /* of all kinds, for crashes at each of them */
	unsigned crash_at;	 /* the loop stops at that event; 0: never */
	bool crashed;
	struct loop *loop;
	uint64_t lease_until; /* 0: none yet */
	char opened[16];
	unsigned data_bytes;
	unsigned locked; /* starts that found the disk locked: movekit.h */
};

static inline void fake_event(struct fake *f)
{
	if (++f->events == f->crash_at) {
		f->crashed = true;
		loop_stop(f->loop);
	}
}

static inline struct kit_runner *fake_find(struct fake *f, const char *dir)
{
	for (size_t i = 0; i < KIT_MAX; i++)
		if (f->runners[i].used && strcmp(f->runners[i].dir, dir) == 0)
			return &f->runners[i];
	return NULL;
}

/* The runner of a guest, by uid; NULL. */
static inline struct kit_runner *fake_runner(struct fake *f, uint64_t uid)
{
	char tail[32];

	(void)snprintf(tail, sizeof(tail), "/%016" PRIx64, uid);
	for (size_t i = 0; i < KIT_MAX; i++)
		if (f->runners[i].used && strstr(f->runners[i].dir, tail))
			return &f->runners[i];
	return NULL;
}

static inline void fake_status(const struct kit_runner *r, Um__RunnerStatus *out)
{
	um__runner_status__init(out);
	out->phase = r->phase;
	out->ready = r->ready;
	out->reason = (char *)(uintptr_t)(r->ended ? "it ended" : "");
	out->started_at = r->started_at;
	out->exit_status = r->exit_status;
	out->by_request = r->by_request;
	out->boots = 1;
}

static inline void fake_poke(struct kit_runner *r)
{
	r->told = false;
	if (r->run)
		loop_timer_arm(r->run->pump, 0);
}

/* The guest ends; the runner waits to be forgotten. */
static inline void fake_end(struct kit_runner *r, int exit_status, bool by_request)
{
	r->ended = true;
	r->ready = false;
	r->by_request = by_request;
	r->exit_status = exit_status;
	r->phase = exit_status && !by_request ? UM__PHASE__FAILED : UM__PHASE__STOPPED;
	/* Without an agent it goes, and leaves word. */
	if (!r->run)
		r->alive = false;
	fake_poke(r);
}

/* The runner itself is killed. */
static inline void fake_die(struct kit_runner *r)
{
	r->alive = false;
	if (!r->ended) {
		r->ended = true;
		r->phase = UM__PHASE__FAILED;
		r->exit_status = -1;
	}
	fake_poke(r);
}

static inline void fake_run_up(struct kit_runner *r)
{
	r->phase = UM__PHASE__RUNNING;
	r->ready = true;
	fake_poke(r);
}

static inline void fake_pump(void *arg)
{
	struct driver_run *run = arg;
	struct kit_runner *r = run->r;
	Um__RunnerStatus status;

	fake_event(run->fake);
	if (run->fake->crashed)
		return;
	fake_status(r, &status);
	if (!r->alive) {
		run->up = false;
		run->events->on_gone(run->arg, &status);
		return;
	}
	if (!run->up) {
		run->up = true;
		r->told = false;
		run->events->on_hello(run->arg);
		loop_timer_arm(run->pump, 0);
		return;
	}
	if (!r->told) {
		r->told = true;
		run->events->on_status(run->arg, &status);
	}
}

static inline int fake_look(void *self, const char *dir, enum runnerctl_found *found,
	Um__RunnerStatus **last, struct err *err)
{
	struct kit_runner *r = fake_find(self, dir);
	Um__RunnerStatus status;
	uint8_t packed[512];

	(void)err;
	*found = !r ? RUNNERCTL_NONE : r->alive ? RUNNERCTL_ALIVE : RUNNERCTL_ENDED;
	if (*found == RUNNERCTL_ENDED) {
		fake_status(r, &status);
		*last = um__runner_status__unpack(
			NULL, um__runner_status__pack(&status, packed), packed);
	}
	return 0;
}

static inline int fake_connect(struct fake *f, struct loop *loop, struct kit_runner *r,
	const struct driver_events *events, void *arg, struct driver_run **out)
{
	struct driver_run *run = calloc(1, sizeof(*run));

	assert_non_null(run);
	assert_null(r->run); /* never two agents on one runner */
	run->fake = f;
	run->r = r;
	run->events = events;
	run->arg = arg;
	assert_int_equal(loop_timer_open(loop, "fake", fake_pump, run, &run->pump, NULL), 0);
	r->run = run;
	loop_timer_arm(run->pump, 1);
	*out = run;
	return 0;
}

static inline unsigned fake_starting(const struct fake *f)
{
	unsigned n = 0;

	for (size_t i = 0; i < KIT_MAX; i++)
		n += f->runners[i].used && f->runners[i].alive &&
		     f->runners[i].phase == UM__PHASE__STARTING;
	return n;
}

/* What must be on disk before a guest is started. */
static inline void fake_check_durable(const char *dir, const Um__RunnerSpec *spec)
{
	char path[PATH_MAX];
	Um__GuestAssign *assign;
	struct buf data;

	buf_init(&data);
	assert_int_equal(fs_join(path, sizeof(path), dir, "spec.pb", NULL), 0);
	assert_int_equal(fs_read(path, 1 << 20, &data, NULL), 0);
	assign = um__guest_assign__unpack(NULL, data.size, data.data);
	assert_non_null(assign);
	assert_int_equal(assign->uid, spec->uid);
	assert_int_equal(assign->epoch, spec->epoch);
	assert_int_equal(assign->generation, spec->generation);
	assert_true(assign->run);
	um__guest_assign__free_unpacked(assign, NULL);
	buf_free(&data);
	assert_int_equal(fs_join(path, sizeof(path), dir, "cow", NULL), 0);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(access(spec->backing, R_OK), 0);
	assert_int_equal(access(spec->kernel, R_OK), 0);
}

static inline int fake_start(void *self, struct loop *loop, const char *dir,
	const Um__RunnerSpec *spec, const struct driver_events *events, void *arg,
	struct driver_run **out, struct err *err)
{
	struct fake *f = self;
	struct kit_runner *r = fake_find(f, dir);
	char path[PATH_MAX];
	uint8_t *packed;
	size_t size;

	fake_event(f);
	fake_check_durable(dir, spec);
	if (f->fail_start > 0) {
		f->fail_start--;
		return err_set(err, -EMFILE, "no more descriptors");
	}
	if (r && r->alive)
		return err_set(err, -EBUSY, "a runner lives there");
	for (size_t i = 0; !r && i < KIT_MAX; i++)
		if (!f->runners[i].used)
			r = &f->runners[i];
	assert_non_null(r);
	memset(r, 0, sizeof(*r));
	(void)str_copy(r->dir, sizeof(r->dir), dir);
	r->used = r->alive = true;
	r->phase = UM__PHASE__STARTING;
	r->epoch = spec->epoch;
	r->generation = spec->generation;
	r->started_at = proc_wall_ms();
	packed = malloc(um__runner_spec__get_packed_size(spec) + 1);
	size = um__runner_spec__pack(spec, packed);
	(void)fs_join(path, sizeof(path), dir, "runner.pb", NULL);
	assert_int_equal(fs_write_atomic(path, packed, size, 0600, NULL), 0);
	free(packed);
	f->starts++;
	if (fake_starting(f) > f->starting_max)
		f->starting_max = fake_starting(f);
	(void)fake_connect(f, loop, r, events, arg, out);
	if (!f->manual)
		fake_run_up(r);
	loop_timer_arm((*out)->pump, 1);
	return 0;
}

static inline int fake_adopt(void *self, struct loop *loop, const char *dir,
	const struct driver_events *events, void *arg, struct driver_run **out, struct err *err)
{
	struct fake *f = self;
	struct kit_runner *r = fake_find(f, dir);

	if (!r || !r->alive)
		return err_set(err, -ESRCH, "no runner");
	f->adopts++;
	return fake_connect(f, loop, r, events, arg, out);
}

static inline void fake_close(struct driver_run *run)
{
	run->r->run = NULL;
	/* A guest that has ended and that nobody looks after: its runner goes. */
	if (run->r->ended)
		run->r->alive = false;
	loop_timer_close(run->pump);
	free(run);
}

static inline bool fake_is_up(const struct driver_run *run)
{
	return run->up;
}

static inline int fake_stop(
	struct driver_run *run, uint32_t timeout_ms, bool force, struct err *err)
{
	(void)timeout_ms;
	fake_event(run->fake);
	if (!run->up)
		return err_set(err, -ENOTCONN, "not connected");
	run->fake->stops++;
	run->fake->forced += force;
	if (!run->fake->deaf && !run->r->ended)
		fake_end(run->r, 0, true);
	return 0;
}

static inline int fake_forget(struct driver_run *run, struct err *err)
{
	fake_event(run->fake);
	if (!run->up)
		return err_set(err, -ENOTCONN, "not connected");
	assert_true(run->r->ended);
	run->r->alive = false;
	loop_timer_arm(run->pump, 0);
	return 0;
}

static inline int fake_hosts(struct driver_run *run, const Um__HostsUpdate *update, struct err *err)
{
	struct kit_runner *r = run->r;
	size_t at = 0;

	if (!run->up)
		return err_set(err, -ENOTCONN, "not connected");
	r->hosts_updates++;
	if (update->full)
		r->hosts_full++;
	r->last_hosts[0] = '\0';
	for (size_t i = 0; i < update->n_hosts; i++)
		at += (size_t)snprintf(r->last_hosts + at, sizeof(r->last_hosts) - at, "+%s/%u ",
			update->hosts[i]->name, update->hosts[i]->ip.data[3]);
	for (size_t i = 0; i < update->n_removed; i++)
		at += (size_t)snprintf(
			r->last_hosts + at, sizeof(r->last_hosts) - at, "-%s ", update->removed[i]);
	return 0;
}

static inline uint64_t fake_id(struct driver_run *run)
{
	return ++run->next_id + 1000;
}

/* Opens any stream and echoes what comes in. */
static inline int fake_send(struct driver_run *run, Um__Envelope *env, struct err *err)
{
	Um__Envelope out = wire_env(env->id);
	Um__StreamOpened opened = UM__STREAM_OPENED__INIT;

	(void)err;
	run->r->stream = env->id;
	if (env->body_case == UM__ENVELOPE__BODY_STREAM_OPEN) {
		out.body_case = UM__ENVELOPE__BODY_STREAM_OPENED;
		out.stream_opened = &opened;
		run->events->on_message(run->arg, &out);
	} else if (env->body_case == UM__ENVELOPE__BODY_STREAM_DATA) {
		run->events->on_message(run->arg, env);
	}
	return 0;
}

static inline int fake_kill(void *self, const char *dir, struct err *err)
{
	struct kit_runner *r = fake_find(self, dir);

	(void)err;
	((struct fake *)self)->kills++;
	if (r && r->alive)
		fake_die(r);
	return 0;
}

/* Pool. */
static inline int fake_discard(void *self, const char *dir, struct err *err)
{
	struct kit_runner *r = fake_find(self, dir);

	if (r && r->alive)
		return err_set(err, -EBUSY, "the runner lives");
	if (r)
		r->used = false;
	return 0;
}

/* Pool. */
static inline int fake_disk(void *self, const struct driver_disk *disk, struct err *err)
{
	struct fake *f = self;
	char text[PATH_MAX];
	int n;

	f->disks++;
	if (f->fail_disk > 0) {
		f->fail_disk--;
		return err_set(err, -ENOSPC, "the disk is full");
	}
	if (!disk->fresh)
		return access(disk->path, F_OK) < 0 ? err_set(err, -ENOENT, "no disk") : 0;
	f->fresh++;
	n = snprintf(text, sizeof(text), "cow of %s, number %u", disk->backing, f->fresh);
	return fs_write_atomic(disk->path, text, (size_t)n, 0600, err);
}

static inline const char *fake_netns(void *self)
{
	(void)self;
	return "/dev/null";
}

static inline int fake_net(
	void *self, uint32_t vni, const char *name, uint32_t mtu, struct err *err)
{
	(void)self;
	(void)vni;
	(void)name;
	(void)mtu;
	(void)err;
	return 0;
}

static inline int fake_guard(
	void *self, uint32_t vni, const struct overlay_guard *guard, struct err *err)
{
	struct fake *fake = self;

	(void)vni;
	(void)err;
	fake->guard = *guard;
	return 0;
}

static inline int fake_net_remove(void *self, uint32_t vni, struct err *err)
{
	(void)self;
	(void)vni;
	(void)err;
	return 0;
}

static inline int fake_members(void *self, uint32_t vni, bool full,
	const struct overlay_member *members, size_t count, const struct net_mac *removed,
	size_t removed_count, struct err *err)
{
	(void)self;
	(void)vni;
	(void)full;
	(void)members;
	(void)count;
	(void)removed;
	(void)removed_count;
	(void)err;
	return 0;
}

static inline int fake_port(void *self, uint32_t vni, uint32_t slot, uint32_t nic, uid_t uid,
	const struct overlay_member *member, char ifname[OVERLAY_IFNAME], struct err *err)
{
	struct fake *f = self;

	(void)vni;
	(void)uid;
	(void)member;
	if (f->fail_port > 0) {
		f->fail_port--;
		return err_set(err, -ENODEV, "no bridge");
	}
	assert_true(slot < KIT_MAX && nic < 32);
	f->ports[slot] |= 1u << nic;
	(void)snprintf(ifname, OVERLAY_IFNAME, "t%u.%u", slot % 65536, nic % 32);
	return 0;
}

static inline int fake_port_remove(void *self, uint32_t slot, uint32_t nic, struct err *err)
{
	struct fake *f = self;

	(void)err;
	assert_true(slot < KIT_MAX && nic < 32);
	f->ports[slot] &= ~(1u << nic);
	return 0;
}

static inline int fake_keep_only(void *self, const uint32_t *vnis, size_t vni_count,
	const uint32_t *slots, size_t slot_count, struct err *err)
{
	(void)self;
	(void)vnis;
	(void)vni_count;
	(void)slots;
	(void)slot_count;
	(void)err;
	return 0;
}

static inline int fake_lease(void *self, struct loop *loop, uint64_t until, struct err *err)
{
	struct fake *f = self;

	(void)loop;
	(void)err;
	f->lease_until = until;
	return 0;
}

static inline uint64_t fake_lease_left(void *self)
{
	struct fake *f = self;
	uint64_t now = proc_boot_ms();

	return f->lease_until > now ? f->lease_until - now : 0;
}

static inline int fake_usage(void *self, struct driver_usage *out, struct err *err)
{
	(void)self;
	(void)err;
	out->memory_bytes = 12345;
	return 0;
}

static const struct driver_ops fake_ops = {
	.look = fake_look,
	.start = fake_start,
	.adopt = fake_adopt,
	.close = fake_close,
	.up = fake_is_up,
	.stop = fake_stop,
	.forget = fake_forget,
	.hosts = fake_hosts,
	.id = fake_id,
	.send = fake_send,
	.kill = fake_kill,
	.discard = fake_discard,
	.disk = fake_disk,
	.netns = fake_netns,
	.net = fake_net,
	.guard = fake_guard,
	.net_remove = fake_net_remove,
	.members = fake_members,
	.port = fake_port,
	.port_remove = fake_port_remove,
	.keep_only = fake_keep_only,
	.lease = fake_lease,
	.lease_left = fake_lease_left,
	.usage = fake_usage,
};

#endif
