/* The queue of events, random numbers, processes, and one run from seed to verdict. */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "lib/str.h"
#include "tests/sim/event.h"
#include "tests/sim/hosts.h"
#include "tests/sim/simplan.h"

struct sim *sim;

/* ---------------------------------------------------------------- random numbers */

/* splitmix64, https://prng.di.unimi.it/splitmix64.c (public domain), as a hash. */
static uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

uint64_t sim_draw(struct sim_machine *m, enum sim_what what)
{
	uint64_t *row = m ? m->draws : sim->draws;
	uint64_t who = m ? m->index + 1 : 0;

	return mix(mix(mix(sim->seed) ^ (who << 8 | (uint64_t)what)) + row[what]++);
}

uint64_t sim_between(struct sim_machine *m, enum sim_what what, uint64_t from, uint64_t to)
{
	return to <= from ? from : from + sim_draw(m, what) % (to - from + 1);
}

bool sim_chance(struct sim_machine *m, enum sim_what what, double share)
{
	return share > 0 && (double)(sim_draw(m, what) >> 11) < share * 9007199254740992.0;
}

/* ---------------------------------------------------------------- the queue */

static bool before(const struct sim_event *a, const struct sim_event *b)
{
	return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

static void put(size_t at, struct sim_event *e)
{
	sim->heap[at] = e;
	e->place = at;
}

static void up(size_t at)
{
	struct sim_event *e = sim->heap[at];

	for (; at && before(e, sim->heap[(at - 1) / 2]); at = (at - 1) / 2)
		put(at, sim->heap[(at - 1) / 2]);
	put(at, e);
}

static void down(size_t at)
{
	struct sim_event *e = sim->heap[at];

	for (;;) {
		size_t child = 2 * at + 1;

		if (child + 1 < sim->heap_count && before(sim->heap[child + 1], sim->heap[child]))
			child++;
		if (child >= sim->heap_count || !before(sim->heap[child], e))
			break;
		put(at, sim->heap[child]);
		at = child;
	}
	put(at, e);
}

static void take(size_t at)
{
	struct sim_event *last = sim->heap[--sim->heap_count];

	if (at == sim->heap_count)
		return;
	put(at, last);
	up(at);
	down(last->place);
}

void sim_event_add(struct sim_event *e, uint64_t at)
{
	if (sim->heap_count == sim->heap_room) {
		sim->heap_room = sim->heap_room ? sim->heap_room * 2 : 1024;
		sim->heap = realloc(sim->heap, sim->heap_room * sizeof(struct sim_event *));
		if (!sim->heap)
			abort();
	}
	e->at = at;
	e->seq = sim->next_seq++;
	e->queued = true;
	sim->heap[sim->heap_count] = e;
	e->place = sim->heap_count++;
	up(e->place);
}

void sim_event_remove(struct sim_event *e)
{
	if (!e->queued)
		return;
	e->queued = false;
	take(e->place);
}

struct sim_event *sim_after(uint64_t after, struct sim_proc *proc, sim_fn *fn, void *arg)
{
	struct sim_event *e = calloc(1, sizeof(*e));

	if (!e)
		abort();
	e->fn = fn;
	e->arg = arg;
	e->proc = proc;
	e->own = true;
	sim_event_add(e, sim->now + after);
	return e;
}

void sim_cancel(struct sim_event *e)
{
	if (!e)
		return;
	sim_event_remove(e);
	if (e->own)
		free(e);
}

/* ---------------------------------------------------------------- processes */

struct sim_proc *sim_proc_new(enum sim_kind kind, uint32_t machine)
{
	struct sim_proc *p = calloc(1, sizeof(*p));

	if (!p)
		abort();
	p->kind = kind;
	p->machine = machine;
	return p;
}

struct sim_machine *sim_here(void)
{
	return sim->cur ? &sim->machines[sim->cur->machine] : &sim->machines[SIM_SCHEDULER];
}

bool sim_alive(void)
{
	return !sim->cur || !sim->cur->dead;
}

static void reap(void *arg)
{
	struct sim_proc *p = arg;

	p->reaper = NULL;
	sim_reap(p);
}

void sim_kill(struct sim_proc *p)
{
	if (!p || p->dead)
		return;
	p->dead = true;
	sim->crashes++;
	net_drop_all(p);
	p->reaper = sim_after(0, NULL, reap, p);
}

bool sim_step(const char *what)
{
	struct sim_proc *p = sim->cur;

	if (!p)
		return true;
	if (p->dead)
		return false;
	p->steps++;
	sim_hash(what, strlen(what));
	if (!p->die_at || p->steps < p->die_at)
		return true;
	sim_note("%s dies before its step %" PRIu64 ": %s",
		p->kind == SIM_PROC_SCHEDULER ? "scheduler" : sim->machines[p->machine].name,
		p->steps, what);
	sim_kill(p);
	return false;
}

uint64_t sim_mono_us(const struct sim_machine *m)
{
	int64_t now = (int64_t)sim->now;

	return m->mono_base +
	       (uint64_t)(now + now / 1000000 * m->ppm + now % 1000000 * m->ppm / 1000000);
}

uint64_t sim_wall_us(const struct sim_machine *m)
{
	/* 2026-11-23 */
	return (uint64_t)((int64_t)UINT64_C(1795392000000000) + m->wall_skew_ms * 1000) +
	       sim_mono_us(m) - m->mono_base;
}

uint64_t sim_stretch(const struct sim_machine *m, uint64_t us)
{
	int64_t t = (int64_t)us;

	return (uint64_t)(t - t / 1000000 * m->ppm - t % 1000000 * m->ppm / 1000000);
}

/* ---------------------------------------------------------------- the story */

void sim_hash(const void *data, size_t size)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < size; i++)
		sim->history = (sim->history ^ p[i]) * UINT64_C(1099511628211);
}

void sim_note(const char *fmt, ...)
{
	char text[400];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	sim_hash(&sim->now, sizeof(sim->now));
	sim_hash(text, strlen(text));
	if (sim->options.trace)
		printf("%10.3f  %s\n", (double)sim->now / 1e6, text);
}

void sim_fail(const char *fmt, ...)
{
	va_list ap;

	if (sim->failed)
		return;
	sim->failed = true;
	va_start(ap, fmt);
	(void)vsnprintf(sim->failure, sizeof(sim->failure), fmt, ap);
	va_end(ap);
	sim_note("FAILED: %s", sim->failure);
}

/* ---------------------------------------------------------------- a run */

static void carry_out(struct sim_event *e)
{
	struct sim_proc *p = e->proc;
	bool own = e->own;

	sim->cur = p;
	if (p && p->dead) {
		/* Its closing functions free what it holds; nothing runs any more. */
		if (own)
			free(e);
		return;
	}
	if (p && p->paused_until > sim->now) {
		sim_event_add(e, p->paused_until);
		return;
	}
	sim->events++;
	e->fn(e->arg);
	if (own)
		free(e);
	if (p && !p->dead)
		sim_loop_deferred(p->loop);
	if (p && !p->dead && p->kind == SIM_PROC_SCHEDULER)
		check_core(p->serve);
	sim->cur = NULL;
}

static void until(uint64_t time)
{
	while (!sim->failed && sim->heap_count && sim->heap[0]->at <= time) {
		struct sim_event *e = sim->heap[0];

		e->queued = false;
		take(0);
		if (e->at > sim->now)
			sim->now = e->at;
		carry_out(e);
	}
	if (!sim->failed && time > sim->now)
		sim->now = time;
}

static void free_world(void)
{
	/* From here on nothing has an effect. */
	sim->failed = true;
	for (size_t i = 0; i < sim->machine_count; i++) {
		struct sim_proc *p = sim->machines[i].proc;

		if (!p)
			continue;
		p->dead = true;
		net_drop_all(p);
		sim_reap(p);
	}
	client_free(sim->client);
	for (size_t i = 0; i < sim->heap_count; i++) {
		struct sim_event *e = sim->heap[i];

		e->queued = false;
		if (e->fn == reap) {
			((struct sim_proc *)e->arg)->reaper = NULL;
			sim->heap[i] = NULL;
			sim_reap(e->arg);
			free(e);
		}
	}
	net_free();
	/* Those that are part of something else go with it. */
	for (size_t i = 0; i < sim->heap_count; i++)
		if (sim->heap[i] && sim->heap[i]->own)
			free(sim->heap[i]);
	for (size_t i = 0; i < sim->machine_count; i++) {
		driver_free(&sim->machines[i]);
		fs_machine_free(&sim->machines[i]);
	}
	store_sim_free(sim->store);
	check_free();
	hosts_bury();
	free(sim->heap);
	free(sim->machines);
}

/* What can run runs in the end: however long it takes, but not longer than this. */
#define SETTLE (240 * SIM_SECOND)
#define LOOK (2 * SIM_SECOND)

static void settle(void)
{
	uint64_t limit;

	sim->healed = true;
	simplan_heal();
	sim_note("all is healed");
	until(sim->now + 5 * SIM_SECOND);
	client_settle(simplan_emptied(sim->plan));
	limit = sim->now + SETTLE;
	while (!sim->failed && sim->now < limit) {
		until(sim->now + LOOK);
		if (client_idle() && check_settled(NULL, 0))
			break;
	}
	if (sim->failed)
		return;
	/* Nothing moves any more, and stays so. */
	until(sim->now + 2 * LOOK);
	check_end();
}

bool sim_run(uint64_t seed, const struct sim_options *options, struct sim_plan *plan)
{
	struct sim world = {.options = *options,
		.seed = seed,
		.plan = plan,
		.history = UINT64_C(14695981039346656037)};
	bool held;

	sim = &world;
	world.store = store_sim_new();
	simplan_begin(plan);
	until(simplan_end(plan));
	if (!world.failed)
		settle();
	held = !world.failed;
	simplan_result(plan, &world);
	free_world();
	sim = NULL;
	return held;
}
