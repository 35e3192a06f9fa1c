/* What must hold, after each event and in the end (docs/simulation.md has the list). */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/drain.h"
#include "scheduler/core/move.h"
#include "scheduler/serve/serve_int.h"
#include "tests/sim/guests.h"
#include "tests/sim/hosts.h"
#include "tests/sim/keep.h"
#include "tests/sim/labs.h"
#include "tests/sim/simplan.h"

struct sim_given {
	uint64_t number, to;
	char name[CORE_FULLNAME];
	UT_hash_handle hh;
};

/* ---------------------------------------------------------------- after each event */

/* A number is given to one guest, for good. */
static void given(
	struct sim_given **table, const char *what, uint64_t number, uint64_t to, const char *name)
{
	struct sim_given *g;

	HASH_FIND(hh, *table, &number, sizeof(number), g);
	if (!g) {
		g = calloc(1, sizeof(*g));
		if (!g)
			abort();
		g->number = number;
		g->to = to;
		(void)str_copy(g->name, sizeof(g->name), name);
		HASH_ADD(hh, *table, number, sizeof(g->number), g);
	} else if (g->to != to || strcmp(g->name, name) != 0) {
		sim_fail("%s %" PRIu64 " was given to %s and again to %s", what, number, g->name,
			name);
	}
}

/* Few guests: after each event; many: now and then. */
void check_core(struct serve *s)
{
	struct err err = ERR_INIT;
	size_t count;

	if (!s || !s->core)
		return;
	keep_heard(s);
	count = core_guest_count(s->core);
	if (count > 40 && sim->events % (count / 4))
		return;
	if (core_check(s->core, &err) < 0)
		sim_fail("%s", err_msg(&err));
}

static bool durable_guest(uint64_t uid, Um__StoredGuest **out)
{
	char key[32];
	const void *data;
	size_t size;

	(void)str_format(key, sizeof(key), "guest/%016" PRIx64, uid);
	data = store_sim_get(sim->store, key, &size);
	*out = data ? um__stored_guest__unpack(NULL, size, data) : NULL;
	return *out;
}

void check_told(const void *message)
{
	const Um__Desired *d = message;

	for (size_t i = 0; i < d->n_guests; i++) {
		const Um__GuestAssign *a = d->guests[i];
		Um__StoredGuest *g;

		/* One that has been deleted meanwhile has been durable before. */
		if (!durable_guest(a->uid, &g)) {
			struct sim_given *known;

			HASH_FIND(hh, sim->uids, &a->uid, sizeof(a->uid), known);
			if (!known)
				sim_fail("%s is told of before it is durable", a->name);
			continue;
		}
		if (g->epoch < a->epoch)
			sim_fail("epoch %" PRIu64 " of %s is told of before it is durable",
				a->epoch, a->name);
		um__stored_guest__free_unpacked(g, NULL);
		given(&sim->uids, "uid", a->uid, a->uid, a->name);
		given(&sim->epochs, "epoch", a->epoch, a->uid, a->name);
	}
}

static bool live(const struct sim_runner *r)
{
	return r->alive && !r->ended;
}

static void each_runner(
	void (*fn)(void *arg, struct sim_machine *m, struct sim_runner *r), void *arg)
{
	for (size_t i = 1; i < sim->machine_count; i++) {
		struct sim_runner *r;

		DL_FOREACH (sim->machines[i].runners, r)
			if (live(r))
				fn(arg, &sim->machines[i], r);
	}
}

void check_recovered(uint64_t uid, uint64_t epoch)
{
	struct sim_given *g;

	HASH_FIND(hh, sim->recovered, &uid, sizeof(uid), g);
	if (!g) {
		g = calloc(1, sizeof(*g));
		if (!g)
			abort();
		g->number = uid;
		HASH_ADD(hh, sim->recovered, number, sizeof(g->number), g);
	}
	g->to = epoch > g->to ? epoch : g->to;
}

/* Of a guest that its user has recovered from a host that was off: what that has of it may
 * start when it boots, and ends when it hears of it. */
static bool excused(uint64_t uid, uint64_t epoch)
{
	const struct sim_given *g;

	HASH_FIND(hh, sim->recovered, &uid, sizeof(uid), g);
	return g && epoch <= g->to;
}

struct started {
	struct sim_machine *m;
	uint64_t uid, epoch, memory;
	const char *name;
};

static void compare(void *arg, struct sim_machine *m, struct sim_runner *r)
{
	struct started *s = arg;

	if (m == s->m)
		s->memory += r->memory;
	if (r->uid == s->uid && m != s->m && !excused(r->uid, r->epoch) &&
		!excused(s->uid, s->epoch))
		sim_fail("%s runs on %s under epoch %" PRIu64
			 " and is started on %s under %" PRIu64,
			s->name, m->name, r->epoch, s->m->name, s->epoch);
}

void check_started(struct sim_machine *m, uint64_t uid, uint64_t epoch, const char *name)
{
	struct started s = {.m = m, .uid = uid, .epoch = epoch, .name = name};
	struct sim_given *newest;

	each_runner(compare, &s);
	if (s.memory > (uint64_t)m->memory_mb << 20)
		sim_fail("%s has %" PRIu64 " MiB for guests and runs %" PRIu64 " MiB of them",
			m->name, (uint64_t)m->memory_mb, s.memory >> 20);
	/* Fencing: once started under an epoch, never again under an older one. */
	HASH_FIND(hh, sim->newest, &uid, sizeof(uid), newest);
	if (!newest) {
		newest = calloc(1, sizeof(*newest));
		if (!newest)
			abort();
		newest->number = uid;
		HASH_ADD(hh, sim->newest, number, sizeof(newest->number), newest);
	}
	if (epoch < newest->to && excused(uid, epoch))
		return;
	if (epoch < newest->to)
		sim_fail("%s is started under epoch %" PRIu64 " after %" PRIu64, name, epoch,
			newest->to);
	newest->to = epoch;
}

struct sim_disk {
	struct {
		uint64_t uid, generation;
	} id;
	uint64_t runs;
	uint64_t epoch, before; /* of the last of them; runs before those under that epoch */
	UT_hash_handle hh;
};

static bool may_be(const struct sim_disk *d, uint64_t found)
{
	return found == d->runs ||
	       (found == d->before && keep_given_back(d->id.uid, d->id.generation, d->epoch));
}

void check_disk(struct sim_machine *m, uint64_t uid, uint64_t generation, uint64_t epoch,
	uint64_t found, const char *name)
{
	struct sim_disk *d, key = {.id = {.uid = uid, .generation = generation}};

	HASH_FIND(hh, sim->disks, &key.id, sizeof(key.id), d);
	if (!d) {
		d = calloc(1, sizeof(*d));
		if (!d)
			abort();
		d->id = key.id;
		HASH_ADD(hh, sim->disks, id, sizeof(d->id), d);
	}
	if (!may_be(d, found))
		sim_fail("%s: disk %" PRIu64 " of %s has counted %" PRIu64 " runs of %" PRIu64,
			m->name, generation, name, found, d->runs);
	if (d->epoch != epoch)
		d->before = found;
	d->epoch = epoch;
	d->runs = found + 1;
}

uint64_t check_disk_runs(uint64_t uid, uint64_t generation)
{
	struct sim_disk *d, key = {.id = {.uid = uid, .generation = generation}};

	HASH_FIND(hh, sim->disks, &key.id, sizeof(key.id), d);
	return d ? d->runs : 0;
}

/* What users were told of is there after every start of the scheduler. */
void check_loaded(struct serve *s)
{
	for (uint32_t lab = 0; lab < LABS_MAX; lab++) {
		const struct core_deployment *d;
		char name[16];

		(void)str_format(name, sizeof(name), "lab%u", lab);
		d = core_deployment(s->core, name);
		if (client_knows(lab, NULL) == CLIENT_THERE && (!d || d->deleting))
			sim_fail("%s was applied, the user was told so, and it is lost", name);
		if (client_knows(lab, NULL) == CLIENT_GONE && d && !d->deleting)
			sim_fail("%s was deleted, the user was told so, and it is back", name);
	}
	for (uint32_t i = 1; i < sim->machine_count; i++) {
		const struct core_host *h = core_host(s->core, sim->machines[i].name);

		if (client_knows_drain(i) == CLIENT_THERE && (!h || !h->drain))
			sim_fail("the drain of %s was begun, and is forgotten",
				sim->machines[i].name);
		if (client_knows_drain(i) == CLIENT_GONE && h && h->drain)
			sim_fail("the drain of %s was ended, and is back", sim->machines[i].name);
	}
}

/* ---------------------------------------------------------------- in the end */

struct missing {
	char *why;
	size_t size;
	bool any;
};

static bool miss(struct missing *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool miss(struct missing *m, const char *fmt, ...)
{
	va_list ap;

	if (m->why && !m->any) {
		va_start(ap, fmt);
		(void)vsnprintf(m->why, m->size, fmt, ap);
		va_end(ap);
	}
	m->any = true;
	return false;
}

static struct sim_runner *runs_at(const struct core_guest *g)
{
	struct sim_runner *r, *found = NULL;

	for (size_t i = 1; i < sim->machine_count && g->host; i++) {
		if (strcmp(sim->machines[i].name, g->host->name) != 0)
			continue;
		DL_FOREACH (sim->machines[i].runners, r)
			if (live(r) && r->uid == g->uid)
				found = r;
	}
	return found;
}

/* Plain needs, looked at host by host, by none of the core's own means. */
static const struct core_host *host_for(const struct serve *s, const struct core_guest *g)
{
	const struct core_groupspec *spec = &g->group->spec;

	if (spec->rules || *spec->host || g->deployment->gang)
		return NULL;
	for (const struct core_host *h = core_hosts(s->core); h; h = h->hh.next) {
		const struct core_guest *other;
		uint32_t same = 0;

		if (h->state != CORE_HOST_UP || h->cordoned || h->avoid_until)
			continue;
		DL_FOREACH2(h->guests, other, host_next)
		same += other->group == g->group;
		if (h->memory_reserved + spec->memory <= h->memory &&
			h->disk_reserved + spec->disk <= h->disk &&
			h->cpu_reserved + spec->cpu <= h->cpu * 8 &&
			(!spec->max_per_host || same < spec->max_per_host))
			return h;
	}
	return NULL;
}

static uint32_t group_on(
	const struct core_host *h, const struct core_deployment *d, const char *name)
{
	const struct core_guest *g;
	uint32_t count = 0;

	DL_FOREACH2(h->guests, g, host_next)
	count += g->deployment == d && g->group && strcmp(g->group->spec.name, name) == 0;
	return count;
}

/* Where a lab was changed they may be apart, and stay so. */
static bool is_beside(const struct core_host *h, const struct core_group *group, const char *other)
{
	uint32_t own = group_on(h, group->deployment, group->spec.name),
		 there = group_on(h, group->deployment, other);

	return !own || there > (strcmp(group->spec.name, other) == 0 ? 1u : 0u);
}

/* Of guests that want nothing but to be with one another: one that takes all of the
 * deployment that are on FROM. */
static const struct core_host *host_for_all(const struct serve *s, const struct core_guest *g)
{
	const struct core_guest *other;
	const struct core_host *from = g->host;
	uint64_t memory = 0, disk = 0, cpu = 0;

	for (const struct core_group *group = g->deployment->groups; group; group = group->next) {
		const struct core_rules *r = group->spec.rules;

		if (*group->spec.host || group->spec.max_per_host ||
			(r && (r->expr_count || r->spread_count || r->exclusive)))
			return NULL;
		for (size_t i = 0; r && i < r->affinity_count; i++)
			if (r->affinities[i].apart || *r->affinities[i].over ||
				!is_beside(from, group, r->affinities[i].guest))
				return NULL;
	}
	DL_FOREACH2(from->guests, other, host_next)
	if (other->deployment == g->deployment) {
		memory += other->memory;
		disk += other->disk;
		cpu += other->cpu;
	}
	for (const struct core_host *h = core_hosts(s->core); h; h = h->hh.next)
		if (h != from && h->state == CORE_HOST_UP && !h->cordoned && !h->avoid_until &&
			h->memory_reserved + memory <= h->memory &&
			h->disk_reserved + disk <= h->disk && h->cpu_reserved + cpu <= h->cpu * 8)
			return h;
	return NULL;
}

static bool guest_settled(const struct serve *s, const struct core_guest *g, struct missing *m)
{
	struct sim_runner *r = runs_at(g);

	if (g->deleting)
		return miss(m, "%s is still being deleted", g->name);
	if (!g->want_run)
		return !r || miss(m, "%s should be stopped and runs", g->name);
	if (!g->host) {
		const struct core_host *h = host_for(s, g);

		if (!*g->placed_because && !*g->reason)
			return miss(m, "%s waits without a reason", g->name);
		return !h || miss(m, "%s waits (%s) though %s has room", g->name, g->placed_because,
				     h->name);
	}
	if (g->phase != CORE_RUNNING || !g->ready)
		return miss(m, "%s on %s is %s%s (%s), not ready; %s there", g->name, g->host->name,
			core_phase_name(g->phase), g->evicted ? ", evicted" : "", g->reason,
			r ? "it runs" : "nothing runs");
	if (!r || r->epoch != g->epoch)
		return miss(
			m, "%s is said to be ready and does not run on %s", g->name, g->host->name);
	if (r->generation != g->generation)
		return miss(m, "%s runs with an old spec", g->name);
	return true;
}

/* Who stays on a host that is being emptied cannot leave it: by the core's own judgement,
 * and, for plain needs, by none of its means. */
static bool drain_settled(const struct serve *s, const struct sim_machine *m, struct missing *miss_)
{
	const struct core_migrate how = {.to = "", .dry_run = true};
	const struct core_host *h = core_host(s->core, m->name), *to;
	const struct core_guest *g;

	if (!h->drain)
		return m->index != simplan_emptied(sim->plan) ||
		       miss(miss_, "%s is not being emptied", m->name);
	if (!h->cordoned)
		return miss(miss_, "%s is being emptied and takes guests", m->name);
	if (h->drain->ended_at && (h->guests || h->held_count))
		return miss(miss_, "%s is said to be empty and has guests", m->name);
	if (!h->drain->ended_at && !h->guests && !h->held_count)
		return miss(miss_, "%s is empty, and nobody says so", m->name);
	DL_FOREACH2(h->guests, g, host_next)
	{
		struct core_migrate_plan plan = {0};
		struct core_out out = {0};
		struct err err = ERR_INIT;

		if (core_migrate(s->core, g->uid, &how, 0, &plan, &out, &err) == 0) {
			core_migrate_plan_free(&plan);
			core_migrate_rehearsed(s->core);
			return miss(miss_,
				"%s is still on %s, which is emptied, though %s has room", g->name,
				m->name, plan.to);
		}
		/* Where others are to be with it, it does not leave alone. */
		to = g->deployment->withs ? NULL : host_for(s, g);
		to = to ? to : host_for_all(s, g);
		if (to)
			return miss(miss_,
				"%s stays on %s, which is emptied (%s), though %s has room",
				g->name, m->name, err_msg(&err), to->name);
	}
	return true;
}

static bool files_settled(const struct serve *s, const struct sim_machine *m, struct missing *miss_)
{
	char path[64];
	size_t there = 0;
	const struct core_host *h = core_host(s->core, m->name);

	for (const struct core_guest *g = core_guests(s->core); g; g = g->hh.next) {
		(void)str_format(
			path, sizeof(path), "/sim/%s/state/guests/%016" PRIx64, m->name, g->uid);
		if (g->host != h && fs_exists(m, path))
			return miss(miss_, "%s has a folder of %s, which is elsewhere", m->name,
				g->name);
		there += g->host == h;
	}
	(void)str_format(path, sizeof(path), "/sim/%s/state/guests", m->name);
	if (fs_folders(m, path) > there)
		return miss(miss_, "%s has %zu guest folders for %zu guests", m->name,
			fs_folders(m, path), there);
	(void)str_format(path, sizeof(path), "/sim/%s/state/moves", m->name);
	if (fs_folders(m, path))
		return miss(miss_, "%s still has the copy of a move", m->name);
	return true;
}

bool check_settled(char *why, size_t size)
{
	struct missing m = {.why = why, .size = size};
	struct serve *s =
		sim->machines[SIM_SCHEDULER].proc ? sim->machines[SIM_SCHEDULER].proc->serve : NULL;

	if (!s)
		return miss(&m, "the scheduler does not run");
	for (size_t i = 1; i < sim->machine_count; i++) {
		const struct core_host *h = core_host(s->core, sim->machines[i].name);

		if (!h || h->state != CORE_HOST_UP)
			return miss(&m, "%s is not in the cluster", sim->machines[i].name);
		/* Then it takes what waits, or moves. */
		if (h->avoid_until)
			return miss(&m, "%s gets no guests for a while", sim->machines[i].name);
	}
	for (const struct core_guest *g = core_guests(s->core); g; g = g->hh.next)
		if (!guest_settled(s, g, &m))
			return false;
	for (const struct core_move *v = core_moves(s->core); v; v = v->hh.next)
		if (core_move_active(v))
			return miss(&m, "%s still moves from %s to %s (%s)", v->name, v->source,
				v->target, core_move_phase_name(v->phase));
	for (size_t i = 1; i < sim->machine_count; i++)
		if (!files_settled(s, &sim->machines[i], &m) ||
			!keep_settled(s, &sim->machines[i], why, size) ||
			!drain_settled(s, &sim->machines[i], &m))
			return false;
	return true;
}

static void no_stranger(void *arg, struct sim_machine *m, struct sim_runner *r)
{
	const struct serve *s = arg;
	const struct core_guest *g = core_guest(s->core, r->uid);

	if (!g || !g->host || strcmp(g->host->name, m->name) != 0 || g->epoch != r->epoch)
		sim_fail("in the end %s (epoch %" PRIu64 ") runs on %s and should not", r->name,
			r->epoch, m->name);
}

static void check_nets(const struct serve *s, const struct sim_machine *m)
{
	const struct core_host *here = core_host(s->core, m->name);

	for (const struct core_network *n = core_networks(s->core); n; n = n->hh_vni.next) {
		const struct core_nic *nic;
		struct sim_net *net;
		bool member = false;

		HASH_FIND(hh, m->nets, &n->vni, sizeof(n->vni), net);
		DL_FOREACH (n->members, nic)
			member |= nic->guest->host == here;
		if (!member && net) {
			sim_fail("in the end network %s is left on %s", n->name, m->name);
			return;
		}
		if (!member)
			continue;
		DL_FOREACH (n->members, nic) {
			struct sim_member *known = NULL;
			const struct core_host *at = nic->guest->host;

			if (net)
				HASH_FIND(hh, net->members, &nic->mac, sizeof(nic->mac), known);
			if (at && at != here &&
				(!known || !net_addr_equal(&known->vtep, &at->vtep))) {
				sim_fail("in the end %s does not know the way to %s in %s on %s",
					m->name, nic->guest->name, n->name, at->name);
				return;
			}
		}
	}
}

void check_end(void)
{
	char why[400];
	struct serve *s;

	if (!client_idle()) {
		sim_fail("in the end the user still waits for an answer");
		return;
	}
	if (!check_settled(why, sizeof(why))) {
		sim_fail("in the end %s", why);
		return;
	}
	s = sim->machines[SIM_SCHEDULER].proc->serve;
	check_loaded(s);
	each_runner(no_stranger, s);
	for (size_t i = 1; i < sim->machine_count && !sim->failed; i++)
		check_nets(s, &sim->machines[i]);
}

static void free_given(struct sim_given **table)
{
	struct sim_given *g, *next;

	HASH_ITER (hh, *table, g, next) {
		HASH_DEL(*table, g);
		free(g);
	}
}

void check_free(void)
{
	free_given(&sim->uids);
	free_given(&sim->epochs);
	struct sim_disk *d, *next;

	free_given(&sim->newest);
	free_given(&sim->recovered);
	keep_free();
	HASH_ITER (hh, sim->disks, d, next) {
		HASH_DEL(sim->disks, d);
		free(d);
	}
}
