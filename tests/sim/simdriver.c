/* node-agent/driver.h over pretended guests.  A runner and its guest live on the
 * machine, not in the agent: they go on when it dies, and are adopted again.
 *
 * What must hold is checked as it happens: see check_started().
 */
#include "node-agent/driver.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "lib/fs.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "tests/sim/keep.h"
#include "tests/sim/event.h"
#include "tests/sim/guests.h"

struct driver_run {
	struct sim_machine *m;
	struct sim_runner *r;
	const struct driver_events *events;
	void *arg;
	struct loop_timer *pump;
	bool up;
	uint64_t next_id;
};

static struct sim_runner *find(struct sim_machine *m, const char *dir)
{
	struct sim_runner *r;

	DL_FOREACH (m->runners, r)
		if (strcmp(r->dir, dir) == 0)
			return r;
	return NULL;
}

static void poke(struct sim_runner *r)
{
	r->told = false;
	if (r->run)
		loop_timer_arm(r->run->pump, sim_between(r->machine, DRAW_BOOT, 0, 5));
}

static void fill(const struct sim_runner *r, Um__RunnerStatus *out)
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

static void guest_ends(struct sim_runner *r, int status, bool by_request)
{
	if (r->ended)
		return;
	sim_event_remove(&r->event);
	r->ended = true;
	r->ready = false;
	r->by_request = by_request;
	r->exit_status = status;
	r->phase = status && !by_request ? UM__PHASE__FAILED : UM__PHASE__STOPPED;
	/* Without an agent the runner leaves word and goes. */
	if (!r->run)
		r->alive = false;
	poke(r);
}

static void runner_dies(struct sim_runner *r)
{
	if (!r->ended)
		guest_ends(r, -1, false);
	r->alive = false;
	poke(r);
}

/* The guest's next step: up, or it crashes while booting. */
static void guest_turn(void *arg)
{
	struct sim_runner *r = arg;

	if (r->ended)
		return;
	if (r->stopping) {
		guest_ends(r, 0, true);
		return;
	}
	if (!sim->healed && sim_chance(r->machine, DRAW_BOOT, 0.03)) {
		sim_note(
			"%s: guest %016" PRIx64 " crashes while booting", r->machine->name, r->uid);
		guest_ends(r, 139, false);
		return;
	}
	r->phase = UM__PHASE__RUNNING;
	r->ready = true;
	poke(r);
}

static void pump(void *arg)
{
	struct driver_run *run = arg;
	struct sim_runner *r = run->r;
	Um__RunnerStatus status;

	fill(r, &status);
	if (!r->alive) {
		run->up = false;
		run->events->on_gone(run->arg, &status);
		return;
	}
	if (!run->up) {
		run->up = true;
		r->told = false;
		loop_timer_arm(run->pump, 0);
		run->events->on_hello(run->arg);
		return;
	}
	if (!r->told) {
		r->told = true;
		run->events->on_status(run->arg, &status);
	}
}

/* ---------------------------------------------------------------- runners */

static int look(void *self, const char *dir, enum runnerctl_found *found, Um__RunnerStatus **last,
	struct err *err)
{
	struct sim_runner *r = find(self, dir);
	Um__RunnerStatus status;
	uint8_t packed[512];

	(void)err;
	*found = !r ? RUNNERCTL_NONE : r->alive ? RUNNERCTL_ALIVE : RUNNERCTL_ENDED;
	if (*found == RUNNERCTL_ENDED) {
		fill(r, &status);
		*last = um__runner_status__unpack(
			NULL, um__runner_status__pack(&status, packed), packed);
	}
	return 0;
}

static int attach(struct sim_runner *r, struct loop *loop, const struct driver_events *events,
	void *arg, struct driver_run **out)
{
	struct driver_run *run = calloc(1, sizeof(*run));

	if (!run)
		abort();
	if (r->run)
		sim_fail("%s: two hands on the runner of %016" PRIx64, r->machine->name, r->uid);
	run->m = r->machine;
	run->r = r;
	run->events = events;
	run->arg = arg;
	(void)loop_timer_open(loop, "runner", pump, run, &run->pump, NULL);
	r->run = run;
	loop_timer_arm(run->pump, 1);
	*out = run;
	return 0;
}

/* What must be on the disk before a guest is started. */
static void check_durable(struct sim_machine *m, const char *dir, const Um__RunnerSpec *spec,
	uint64_t *disk_generation)
{
	char path[PATH_MAX];
	Um__GuestAssign *a = NULL;
	const void *data;
	size_t size;

	(void)fs_join(path, sizeof(path), dir, "spec.pb", NULL);
	data = fs_peek(m, path, &size);
	if (data)
		a = um__guest_assign__unpack(NULL, size, data);
	if (!fs_synced(m, path))
		sim_fail("%s: guest %016" PRIx64 " is started but its record is not synced",
			m->name, spec->uid);
	if (!a || a->uid != spec->uid || a->epoch != spec->epoch ||
		a->generation != spec->generation)
		sim_fail("%s: guest %016" PRIx64 " is started but its record is not on the disk",
			m->name, spec->uid);
	if (a)
		*disk_generation = a->disk_generation;
	um__guest_assign__free_unpacked(a, NULL);
	(void)fs_join(path, sizeof(path), dir, "cow", NULL);
	if (!fs_exists(m, path))
		sim_fail("%s: guest %016" PRIx64 " is started without a disk", m->name, spec->uid);
}

static int write_spec(const char *dir, const Um__RunnerSpec *spec, struct err *err)
{
	char path[PATH_MAX];
	size_t size = um__runner_spec__get_packed_size(spec);
	uint8_t *packed = malloc(size + 1);
	int rc;

	if (!packed)
		abort();
	(void)um__runner_spec__pack(spec, packed);
	(void)fs_join(path, sizeof(path), dir, "runner.pb", NULL);
	rc = fs_write_atomic(path, packed, size, 0600, err);
	free(packed);
	return rc;
}

static void count_run(struct sim_machine *m, const Um__RunnerSpec *spec, uint64_t disk_generation);

static int start(void *self, struct loop *loop, const char *dir, const Um__RunnerSpec *spec,
	const struct driver_events *events, void *arg, struct driver_run **out, struct err *err)
{
	struct sim_machine *m = self;
	struct sim_runner *r = find(m, dir);
	uint64_t disk_generation = 0;
	int rc;

	if (!sim_step("start guest"))
		return err_set(err, -EIO, "dead");
	if (r && r->alive)
		return err_set(err, -EBUSY, "a runner lives there");
	if (!sim->healed && sim_chance(m, DRAW_BOOT, 0.02))
		return err_set(err, -EMFILE, "no more descriptors");
	check_durable(m, dir, spec, &disk_generation);
	rc = write_spec(dir, spec, err);
	if (rc < 0)
		return rc;
	if (!r) {
		r = calloc(1, sizeof(*r));
		if (!r)
			abort();
		DL_APPEND(m->runners, r);
	} else {
		sim_event_remove(&r->event);
		if (r->run)
			sim_fail("%s: a guest is started while its last run is in hand", m->name);
	}
	r->machine = m;
	(void)str_copy(r->dir, sizeof(r->dir), dir);
	(void)str_copy(r->name, sizeof(r->name), spec->name);
	r->uid = spec->uid;
	r->epoch = spec->epoch;
	r->generation = spec->generation;
	r->memory = spec->memory_bytes;
	r->fenced = spec->fenced;
	r->alive = true;
	r->ended = r->ready = r->stopping = r->by_request = r->told = false;
	r->exit_status = 0;
	r->phase = UM__PHASE__STARTING;
	r->started_at = proc_wall_ms();
	r->event.fn = guest_turn;
	r->event.arg = r;
	sim_event_add(&r->event,
		sim->now + sim_between(m, DRAW_BOOT, 30 * SIM_MS, (m->slow ? 4000 : 400) * SIM_MS));
	sim->starts++;
	sim_note("%s: starts %s, uid %" PRIu64 " epoch %" PRIu64 " generation %" PRIu64, m->name,
		spec->name, spec->uid, spec->epoch, spec->generation);
	check_started(m, spec->uid, spec->epoch, spec->name);
	count_run(m, spec, disk_generation);
	return attach(r, loop, events, arg, out);
}

static int adopt(void *self, struct loop *loop, const char *dir, const struct driver_events *events,
	void *arg, struct driver_run **out, struct err *err)
{
	struct sim_runner *r = find(self, dir);

	if (!r || !r->alive)
		return err_set(err, -ESRCH, "no runner");
	return attach(r, loop, events, arg, out);
}

static void close_run(struct driver_run *run)
{
	run->r->run = NULL;
	if (run->r->ended)
		run->r->alive = false;
	loop_timer_close(run->pump);
	free(run);
}

static bool is_up(const struct driver_run *run)
{
	return run->up;
}

static int stop(struct driver_run *run, uint32_t timeout_ms, bool force, struct err *err)
{
	struct sim_runner *r = run->r;

	if (!sim_step("stop guest"))
		return err_set(err, -EIO, "dead");
	if (!run->up)
		return err_set(err, -ENOTCONN, "not connected");
	if (r->ended)
		return 0;
	r->stopping = true;
	if (r->phase != UM__PHASE__STOPPING || force) {
		r->phase = UM__PHASE__STOPPING;
		r->ready = false;
		sim_event_remove(&r->event);
		sim_event_add(&r->event, sim->now + (force ? SIM_MS
							   : sim_between(run->m, DRAW_BOOT, 1,
								     timeout_ms ? timeout_ms : 1) *
									    SIM_MS / 4));
		poke(r);
	}
	return 0;
}

static int forget(struct driver_run *run, struct err *err)
{
	if (!sim_step("forget guest"))
		return err_set(err, -EIO, "dead");
	if (!run->up)
		return err_set(err, -ENOTCONN, "not connected");
	if (!run->r->ended) {
		sim_fail("%s: a guest that lives is to be forgotten", run->m->name);
		return 0;
	}
	run->r->alive = false;
	loop_timer_arm(run->pump, 0);
	return 0;
}

static int hosts(struct driver_run *run, const Um__HostsUpdate *update, struct err *err)
{
	(void)update;
	return run->up ? 0 : err_set(err, -ENOTCONN, "not connected");
}

static uint64_t next_id(struct driver_run *run)
{
	return ++run->next_id;
}

static int send(struct driver_run *run, Um__Envelope *env, struct err *err)
{
	Um__Envelope out = wire_env(env->id);
	Um__Ok ok = UM__OK__INIT;

	if (!run->up)
		return err_set(err, -ENOTCONN, "not connected");
	if (env->body_case != UM__ENVELOPE__BODY_GUEST_SYNC)
		return 0;
	out.body_case = UM__ENVELOPE__BODY_OK;
	out.ok = &ok;
	run->events->on_message(run->arg, &out);
	return 0;
}

static int kill_it(void *self, const char *dir, struct err *err)
{
	struct sim_runner *r = find(self, dir);

	if (!sim_step("kill runner"))
		return err_set(err, -EIO, "dead");
	if (r && r->alive)
		runner_dies(r);
	return 0;
}

static int discard(void *self, const char *dir, struct err *err)
{
	struct sim_machine *m = self;
	struct sim_runner *r = find(m, dir);

	if (!sim_step("discard runner"))
		return err_set(err, -EIO, "dead");
	if (r && r->alive)
		return err_set(err, -EBUSY, "the runner lives");
	if (r && r->run)
		return 0; /* its end is being told */
	if (r) {
		sim_event_remove(&r->event);
		DL_DELETE(m->runners, r);
		free(r);
	}
	return 0;
}

static int disk(void *self, const struct driver_disk *d, struct err *err)
{
	struct sim_machine *m = self;

	if (!d->fresh)
		return fs_exists(m, d->path) ? 0 : err_set(err, -ENOENT, "no disk");
	return fs_write_atomic(d->path, "0", 1, 0600, err);
}

/* A guest counts its runs on its disk, and syncs.  What it finds there must be what it
 * wrote last on this disk: a fresh one begins with 0. */
static void count_run(struct sim_machine *m, const Um__RunnerSpec *spec, uint64_t disk_generation)
{
	size_t size;
	const char *data = fs_peek(m, spec->cow, &size);
	struct keep_disk found;
	char text[80];

	if (!keep_read(data, size, &found))
		sim_fail("%s: the disk of %s is not one", m->name, spec->name);
	check_disk(m, spec->uid, disk_generation, spec->epoch, found.runs, spec->name);
	found.runs++;
	found.generation = disk_generation;
	found.epoch = spec->epoch;
	keep_write(&found, text);
	fs_guest_write(m, spec->cow, text, strlen(text));
}

/* ---------------------------------------------------------------- networks */

static const char *netns(void *self)
{
	(void)self;
	return "/dev/null";
}

static struct sim_net *find_net(struct sim_machine *m, uint32_t vni)
{
	struct sim_net *n;

	HASH_FIND(hh, m->nets, &vni, sizeof(vni), n);
	return n;
}

static int net(void *self, uint32_t vni, const char *name, uint32_t mtu, struct err *err)
{
	struct sim_machine *m = self;
	struct sim_net *n = find_net(m, vni);

	(void)name;
	(void)mtu;
	if (!sim_step("network"))
		return err_set(err, -EIO, "dead");
	if (!n) {
		n = calloc(1, sizeof(*n));
		if (!n)
			abort();
		n->vni = vni;
		HASH_ADD(hh, m->nets, vni, sizeof(n->vni), n);
	}
	return 0;
}

static void drop_member(struct sim_net *n, struct sim_member *member)
{
	HASH_DEL(n->members, member);
	free(member);
}

static void drop_net(struct sim_machine *m, struct sim_net *n)
{
	while (n->members)
		drop_member(n, n->members);
	HASH_DEL(m->nets, n);
	free(n);
}

static int guard(void *self, uint32_t vni, const struct overlay_guard *how, struct err *err)
{
	(void)how;
	return find_net(self, vni) ? 0 : err_set(err, -ENOENT, "no such network");
}

static int net_remove(void *self, uint32_t vni, struct err *err)
{
	struct sim_net *n = find_net(self, vni);

	if (!sim_step("network goes"))
		return err_set(err, -EIO, "dead");
	if (n)
		drop_net(self, n);
	return 0;
}

static int members(void *self, uint32_t vni, bool full, const struct overlay_member *list,
	size_t count, const struct net_mac *removed, size_t removed_count, struct err *err)
{
	struct sim_net *n = find_net(self, vni);
	struct sim_member *m;

	if (!sim_step("members"))
		return err_set(err, -EIO, "dead");
	if (!n)
		return err_set(err, -ENOENT, "no such network");
	while (full && n->members)
		drop_member(n, n->members);
	for (size_t i = 0; i < removed_count; i++) {
		HASH_FIND(hh, n->members, &removed[i], sizeof(removed[i]), m);
		if (m)
			drop_member(n, m);
	}
	for (size_t i = 0; i < count; i++) {
		HASH_FIND(hh, n->members, &list[i].mac, sizeof(list[i].mac), m);
		if (!m) {
			m = calloc(1, sizeof(*m));
			if (!m)
				abort();
			m->mac = list[i].mac;
			HASH_ADD(hh, n->members, mac, sizeof(m->mac), m);
		}
		m->vtep = list[i].vtep;
	}
	return 0;
}

static int port(void *self, uint32_t vni, uint32_t slot, uint32_t nic, uid_t uid,
	const struct overlay_member *member, char ifname[OVERLAY_IFNAME], struct err *err)
{
	(void)uid;
	(void)member;
	if (!find_net(self, vni))
		return err_set(err, -ENODEV, "no bridge");
	(void)str_format(ifname, OVERLAY_IFNAME, "t%u.%u", slot % 65536, nic % 32);
	return 0;
}

static int port_remove(void *self, uint32_t slot, uint32_t nic, struct err *err)
{
	(void)self;
	(void)slot;
	(void)nic;
	(void)err;
	return 0;
}

static int keep_only(void *self, const uint32_t *vnis, size_t vni_count, const uint32_t *slots,
	size_t slot_count, struct err *err)
{
	struct sim_machine *m = self;
	struct sim_net *n, *next;

	(void)slots;
	(void)slot_count;
	(void)err;
	HASH_ITER (hh, m->nets, n, next) {
		bool keep = false;

		for (size_t i = 0; i < vni_count; i++)
			keep |= vnis[i] == n->vni;
		if (!keep)
			drop_net(m, n);
	}
	return 0;
}

/* The fencer: of the machine, not of the agent. */
static void lease_ends(void *arg)
{
	struct sim_machine *m = arg;
	struct sim_runner *r;

	DL_FOREACH (m->runners, r)
		if (r->alive && r->fenced && !bug("lease-unkept")) {
			sim_note("%s: the lease ends, %s is killed", m->name, r->name);
			runner_dies(r);
		}
}

static int lease(void *self, struct loop *loop, uint64_t until, struct err *err)
{
	struct sim_machine *m = self;
	uint64_t now = proc_boot_ms();

	(void)loop;
	if (!sim_step("renew lease"))
		return err_set(err, -EIO, "dead");
	if (!m->lease) {
		m->lease = calloc(1, sizeof(*m->lease));
		if (!m->lease)
			abort();
		m->lease->fn = lease_ends;
		m->lease->arg = m;
	}
	sim_event_remove(m->lease);
	sim_event_add(
		m->lease, sim->now + sim_stretch(m, (until > now ? until - now : 0) * SIM_MS));
	return 0;
}

static uint64_t lease_left(void *self)
{
	struct sim_machine *m = self;

	return m->lease && m->lease->queued ? (m->lease->at - sim->now) / SIM_MS : 0;
}

static int usage(void *self, struct driver_usage *out, struct err *err)
{
	(void)self;
	(void)err;
	out->memory_bytes = 1 << 20;
	return 0;
}

static const struct driver_ops ops = {
	.look = look,
	.start = start,
	.adopt = adopt,
	.close = close_run,
	.up = is_up,
	.stop = stop,
	.forget = forget,
	.hosts = hosts,
	.id = next_id,
	.send = send,
	.kill = kill_it,
	.discard = discard,
	.disk = disk,
	.netns = netns,
	.net = net,
	.guard = guard,
	.net_remove = net_remove,
	.members = members,
	.port = port,
	.port_remove = port_remove,
	.keep_only = keep_only,
	.lease = lease,
	.lease_left = lease_left,
	.usage = usage,
};

void driver_sim(struct sim_machine *m, struct driver *out)
{
	out->ops = &ops;
	out->self = m;
}

/* ---------------------------------------------------------------- fate */

void driver_free(struct sim_machine *m)
{
	if (m->lease)
		sim_event_remove(m->lease);
	free(m->lease);
	m->lease = NULL;
	while (m->nets)
		drop_net(m, m->nets);
	while (m->runners) {
		struct sim_runner *r = m->runners;

		sim_event_remove(&r->event);
		DL_DELETE(m->runners, r);
		free(r);
	}
}

void driver_power_loss(struct sim_machine *m)
{
	struct sim_runner *r, *next;

	while (m->nets)
		drop_net(m, m->nets);
	/* Their processes are gone; what runnerctl_look() finds is an end without word. */
	DL_FOREACH_SAFE (m->runners, r, next) {
		sim_event_remove(&r->event);
		if (!r->ended) {
			r->ended = true;
			r->phase = UM__PHASE__FAILED;
			r->exit_status = -1;
		}
		r->ready = r->alive = false;
		if (!fs_exists(m, r->dir) && !r->run) {
			DL_DELETE(m->runners, r);
			free(r);
		}
	}
}

static struct sim_runner *nth(struct sim_machine *m, uint64_t n)
{
	struct sim_runner *r;
	uint64_t count = 0;

	DL_FOREACH (m->runners, r)
		count += r->alive && !r->ended;
	if (!count)
		return NULL;
	n %= count;
	DL_FOREACH (m->runners, r)
		if (r->alive && !r->ended && n-- == 0)
			return r;
	return NULL;
}

void driver_kill_runner(struct sim_machine *m, uint64_t n)
{
	struct sim_runner *r = nth(m, n);

	if (!r)
		return;
	sim_note("%s: the runner of %s is killed", m->name, r->name);
	runner_dies(r);
}

void driver_end_guest(struct sim_machine *m, uint64_t n, int status)
{
	struct sim_runner *r = nth(m, n);

	if (!r)
		return;
	sim_note("%s: %s ends with %d", m->name, r->name, status);
	guest_ends(r, status, false);
}
