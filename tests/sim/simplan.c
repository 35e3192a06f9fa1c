#include "tests/sim/simplan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/event.h"
#include "tests/sim/labs.h"

enum what {
	DO_USER,  /* a user's wish */
	DO_CRASH, /* a process dies at its Nth step from now */
	DO_POWER,
	DO_CUT,	   /* a machine from all others */
	DO_CUT_TO, /* its messages do not come through, those to it do */
	DO_PAUSE,
	DO_SLOW,
	DO_DISK_FULL,
	DO_DISK_BAD,
	DO_LOSE,
	DO_REPEAT,
	DO_REORDER,
	DO_BUSY,
	DO_KILL_RUNNER,
	DO_END_GUEST,
	DO_WALL,
	DO_COUNT
};

struct item {
	uint64_t at, lasts;
	enum what what;
	uint32_t machine;
	uint64_t n;
	uint32_t verb, lab, variant; /* of a user */
	bool out;		     /* left out */
	struct sim_event begins, ends;
};

struct sim_plan {
	uint64_t seed;
	uint32_t hosts;
	uint64_t end;
	uint32_t emptied; /* in the end */
	struct item *items;
	size_t count, room;
	struct plan_outcome outcome;
	int64_t *ppm, *skew;
	uint32_t *memory_mb, *cpu;
};

/* ---------------------------------------------------------------- making one */

struct dice {
	uint64_t state;
};

static uint64_t roll(struct dice *d)
{
	uint64_t x = d->state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static uint64_t range(struct dice *d, uint64_t from, uint64_t to)
{
	return from + roll(d) % (to - from + 1);
}

static struct item *add(struct sim_plan *p, struct dice *d, enum what what)
{
	struct item *i;

	if (p->count == p->room) {
		p->room = p->room ? p->room * 2 : 64;
		p->items = realloc(p->items, p->room * sizeof(*p->items));
		if (!p->items)
			abort();
	}
	i = &p->items[p->count++];
	memset(i, 0, sizeof(*i));
	i->what = what;
	i->at = range(d, 3 * SIM_SECOND, p->end - SIM_SECOND);
	i->machine = (uint32_t)range(d, 0, p->hosts);
	i->lasts = range(d, 100 * SIM_MS, 15 * SIM_SECOND);
	/* Mostly soon: that is in the middle of something. */
	i->n = range(d, 1, range(d, 0, 3) ? 12 : 200);
	return i;
}

static void users(struct sim_plan *p, struct dice *d, uint64_t count, uint32_t labs)
{
	bool movers = range(d, 0, 2) == 0;

	for (uint64_t i = 0; i < count; i++) {
		struct item *item = add(p, d, DO_USER);
		uint64_t roll_ = range(d, 0, 99);

		item->lab = (uint32_t)range(d, 0, labs - 1);
		item->variant = (uint32_t)range(d, 0, LAB_VARIANTS - 1);
		item->verb = roll_ < 50	  ? USER_APPLY
			     : roll_ < 62 ? USER_DELETE
			     : roll_ < 70 ? USER_STOP
			     : roll_ < 78 ? USER_START
			     : roll_ < 81 ? USER_RESTART
			     : roll_ < 85 ? USER_MIGRATE
			     : roll_ < 86 ? USER_STAY
			     : roll_ < 91 ? USER_CORDON
			     : roll_ < 97 ? USER_UNCORDON
					  : USER_HOST_REMOVE;
		item->machine = (uint32_t)range(d, 1, p->hosts);
		/* Some users move guests all day. */
		if (movers && item->verb < USER_CORDON && range(d, 0, 1))
			item->verb = range(d, 0, 5) ? USER_MIGRATE : USER_STAY;
		if (i < labs) {
			item->verb = USER_APPLY;
			item->at = range(d, 2 * SIM_SECOND, 8 * SIM_SECOND);
			item->lab = (uint32_t)i;
		}
	}
}

/* Some users empty hosts, and change their minds. */
static void drainers(struct sim_plan *p, struct dice *d)
{
	uint64_t count = range(d, 0, 2) ? 0 : range(d, 1, 8);

	if (p->hosts < 2 || p->hosts >= 50)
		return;
	for (uint64_t i = 0; i < count; i++) {
		struct item *item = add(p, d, DO_USER);
		uint64_t roll_ = range(d, 0, 5);

		item->verb = roll_ < 3 ? USER_DRAIN : roll_ == 3 ? USER_DRAIN_STOP : USER_UNCORDON;
		item->variant = (uint32_t)range(d, 0, LAB_VARIANTS - 1);
		/* Mostly one and the same. */
		item->machine = range(d, 0, 2) ? 1 : (uint32_t)range(d, 1, p->hosts);
	}
	if (count || range(d, 0, 3) == 0)
		p->emptied = (uint32_t)range(d, 1, p->hosts);
}

/* Some prune, and give hosts up that do not come back. */
static void sweepers(struct sim_plan *p, struct dice *d)
{
	uint64_t count = range(d, 0, 1) ? 0 : range(d, 1, 6);

	for (uint64_t i = 0; i < count; i++) {
		struct item *item = add(p, d, DO_USER), *away;
		uint64_t roll_;

		item->variant = (uint32_t)range(d, 0, LAB_VARIANTS - 1);
		item->lab = (uint32_t)range(d, 0, LABS_MAX - 1);
		roll_ = range(d, 0, 3);
		item->verb = roll_ < 2 ? USER_PRUNE : roll_ == 2 ? USER_HOST_GIVE_UP : USER_RECOVER;
		item->machine = (uint32_t)range(d, 1, p->hosts);
		if (item->verb == USER_PRUNE)
			continue;
		if (item->at < 16 * SIM_SECOND)
			item->at += 8 * SIM_SECOND;
		/* Only one that is lost can be. */
		away = add(p, d, range(d, 0, 1) ? DO_POWER : DO_CUT);
		item = away - 1;
		away->machine = item->machine;
		away->at = item->at > 14 * SIM_SECOND ? item->at - 12 * SIM_SECOND : 2 * SIM_SECOND;
		away->lasts = range(d, 10, 20) * SIM_SECOND;
	}
}

/* A link that is overloaded, and then breaks: the last answers are old when they come. */
static void slow_before(struct sim_plan *p, struct dice *d, uint32_t machine, uint64_t at)
{
	struct item *slow = add(p, d, DO_SLOW);
	uint64_t before = range(d, 1, 4) * SIM_SECOND;

	slow->machine = machine;
	slow->at = at > before + SIM_SECOND ? at - before : SIM_SECOND;
	slow->lasts = before + SIM_SECOND;
}

/* Each run has a character of its own: some kinds of trouble often, others never. */
static void fate(struct sim_plan *p, struct dice *d, uint64_t count)
{
	unsigned weight[DO_COUNT] = {0}, all = 0;

	for (unsigned what = DO_CRASH; what < DO_COUNT; what++) {
		weight[what] = range(d, 0, 2) ? 0 : (unsigned)range(d, 1, 10);
		if (what == DO_CRASH)
			weight[what] += 6;
		all += weight[what];
	}
	for (uint64_t i = 0; i < count; i++) {
		uint64_t pick = range(d, 0, all - 1);
		unsigned what = DO_CRASH;
		struct item *item;

		while (pick >= weight[what])
			pick -= weight[what++];
		item = add(p, d, what);
		/* The scheduler is one of many, but what happens to it matters most. */
		if (what <= DO_SLOW && range(d, 0, 3) == 0)
			item->machine = 0;
		if ((what == DO_DISK_BAD || what == DO_KILL_RUNNER || what == DO_END_GUEST) &&
			!item->machine)
			item->machine = 1;
		if (what == DO_CUT && item->machine && range(d, 0, 1))
			slow_before(p, d, item->machine, item->at);
	}
}

struct sim_plan *simplan_make(uint64_t seed, const struct sim_options *options)
{
	struct dice d = {.state = seed * UINT64_C(0x2545f4914f6cdd1d) + 7};
	struct sim_plan *p = calloc(1, sizeof(*p));
	uint64_t size = range(&d, 0, 199);

	if (!p)
		abort();
	p->seed = seed;
	/* Few hosts, often: more meets on each. */
	p->hosts = (uint32_t)(size == 0	  ? range(&d, 300, 1500)
			      : size < 4  ? range(&d, 20, 80)
			      : size < 20 ? 1
					  : range(&d, 2, 7));
	if (options->hosts)
		p->hosts = options->hosts;
	p->end = range(&d, 12, size == 0 ? 20 : 60) * SIM_SECOND;
	p->ppm = calloc(p->hosts + 1, sizeof(*p->ppm));
	p->skew = calloc(p->hosts + 1, sizeof(*p->skew));
	p->memory_mb = calloc(p->hosts + 1, sizeof(*p->memory_mb));
	p->cpu = calloc(p->hosts + 1, sizeof(*p->cpu));
	if (!p->ppm || !p->skew || !p->memory_mb || !p->cpu)
		abort();
	for (uint32_t i = 0; i <= p->hosts; i++) {
		/* Half a per cent; in some runs all that is said to be borne. */
		p->ppm[i] = ((int64_t)range(&d, 0, 10000) - 5000) * (seed % 4 ? 1 : 2);
		p->skew[i] = (int64_t)range(&d, 0, 7200000) - 3600000;
		p->memory_mb[i] = (uint32_t)range(&d, 2, 16) * 64;
		p->cpu[i] = 1000 * (uint32_t)range(&d, 1, 4);
	}
	users(p, &d, range(&d, 2, 25), (uint32_t)range(&d, 1, 4));
	fate(p, &d, range(&d, 0, 3) ? range(&d, 0, 30) : 0);
	drainers(p, &d);
	sweepers(p, &d);
	return p;
}

void simplan_free(struct sim_plan *p)
{
	if (!p)
		return;
	free(p->items);
	free(p->ppm);
	free(p->skew);
	free(p->memory_mb);
	free(p->cpu);
	free(p);
}

/* ---------------------------------------------------------------- carrying it out */

static const char *const verbs[] = {"apply", "delete", "stop", "start", "restart",
	"migrate a guest of", "cancel the move of a guest of", "prune old disks of", "cordon",
	"uncordon", "host rm", "drain", "end the drain of", "host rm --force",
	"recover a guest of"};

static const char *machine_name(uint32_t machine, char text[16])
{
	(void)snprintf(text, 16, machine ? "h%u" : "s", machine);
	return text;
}

static void describe(const struct item *i, char *out, size_t size)
{
	char name[16];
	const char *m = machine_name(i->machine, name);
	double s = (double)i->lasts / 1e6;

	switch (i->what) {
	case DO_USER:
		if (i->verb >= USER_CORDON)
			(void)snprintf(out, size, "user: %s %s", verbs[i->verb], m);
		else
			(void)snprintf(out, size, "user: %s lab%u%s%.0d", verbs[i->verb], i->lab,
				i->verb == USER_APPLY ? " variant " : "",
				i->verb == USER_APPLY ? (int)i->variant + 1 : 0);
		break;
	case DO_CRASH:
		(void)snprintf(
			out, size, "%s: its process will die %" PRIu64 " steps from here", m, i->n);
		break;
	case DO_POWER:
		(void)snprintf(out, size, "%s: power loss for %.1f s", m, s);
		break;
	case DO_CUT:
		(void)snprintf(out, size, "%s: cut from all others for %.1f s", m, s);
		break;
	case DO_CUT_TO:
		(void)snprintf(out, size, "%s: can hear but not be heard for %.1f s", m, s);
		break;
	case DO_PAUSE:
		(void)snprintf(out, size, "%s: its process stands still for %.1f s", m, s);
		break;
	case DO_SLOW:
		(void)snprintf(out, size, "%s: slow for %.1f s", m, s);
		break;
	case DO_DISK_FULL:
		(void)snprintf(out, size, "%s: disk full for %.1f s", m, s);
		break;
	case DO_DISK_BAD:
		(void)snprintf(out, size, "%s: I/O errors for %.1f s", m, s);
		break;
	case DO_LOSE:
		(void)snprintf(out, size, "messages are lost for %.1f s", s);
		break;
	case DO_REPEAT:
		(void)snprintf(out, size, "messages come twice for %.1f s", s);
		break;
	case DO_REORDER:
		(void)snprintf(out, size, "messages overtake one another for %.1f s", s);
		break;
	case DO_BUSY:
		(void)snprintf(out, size, "queues are full at times for %.1f s", s);
		break;
	case DO_KILL_RUNNER:
		(void)snprintf(out, size, "%s: a runner is killed", m);
		break;
	case DO_END_GUEST:
		(void)snprintf(out, size, "%s: a guest ends by itself", m);
		break;
	case DO_WALL:
		(void)snprintf(out, size, "%s: wall clock set", m);
		break;
	default:
		*out = '\0';
	}
}

static struct sim_machine *machine(const struct item *i)
{
	return &sim->machines[i->machine < sim->machine_count ? i->machine : 0];
}

static void end(void *arg)
{
	struct item *i = arg;
	struct sim_machine *m = machine(i);

	switch (i->what) {
	case DO_POWER:
		machine_power_on(m);
		break;
	case DO_CUT:
		net_cut(m->index, UINT32_MAX, false);
		net_cut(UINT32_MAX, m->index, false);
		break;
	case DO_CUT_TO:
		net_cut(m->index, UINT32_MAX, false);
		break;
	case DO_SLOW:
		m->slow = false;
		break;
	case DO_DISK_FULL:
		m->disk_full = false;
		break;
	case DO_DISK_BAD:
		m->disk_bad = false;
		break;
	case DO_LOSE:
		sim->lose = 0;
		break;
	case DO_REPEAT:
		sim->repeat = 0;
		break;
	case DO_REORDER:
		sim->reorder = 0;
		break;
	case DO_BUSY:
		sim->busy_queue = false;
		break;
	default:
		break;
	}
}

static void begin(void *arg)
{
	struct item *i = arg;
	struct sim_machine *m = machine(i);
	double share = (double)(i->n % 10 + 1) / 20;
	char text[128];

	describe(i, text, sizeof(text));
	sim_note("* %s", text);
	switch (i->what) {
	case DO_USER:
		client_do(i->verb, i->verb >= USER_CORDON ? i->machine : i->lab, i->variant);
		break;
	case DO_CRASH:
		if (m->proc)
			m->proc->die_at = m->proc->steps + i->n;
		break;
	case DO_POWER:
		machine_power_off(m);
		break;
	case DO_CUT:
		net_cut(m->index, UINT32_MAX, true);
		net_cut(UINT32_MAX, m->index, true);
		break;
	case DO_CUT_TO:
		net_cut(m->index, UINT32_MAX, true);
		break;
	case DO_PAUSE:
		if (m->proc)
			m->proc->paused_until = sim->now + i->lasts;
		break;
	case DO_SLOW:
		m->slow = true;
		break;
	case DO_DISK_FULL:
		m->disk_full = true;
		break;
	case DO_DISK_BAD:
		m->disk_bad = true;
		break;
	case DO_LOSE:
		sim->lose = share;
		break;
	case DO_REPEAT:
		sim->repeat = share;
		break;
	case DO_REORDER:
		sim->reorder = share;
		break;
	case DO_BUSY:
		sim->busy_queue = true;
		break;
	case DO_KILL_RUNNER:
		driver_kill_runner(m, i->n);
		break;
	case DO_END_GUEST:
		driver_end_guest(m, i->n, i->n % 3 ? (int)i->n : 0);
		break;
	case DO_WALL:
		m->wall_skew_ms += (int64_t)(i->n * 1000) - 6000;
		break;
	default:
		break;
	}
	if (i->what >= DO_POWER && i->what <= DO_BUSY && i->what != DO_PAUSE)
		sim_event_add(&i->ends, sim->now + i->lasts);
}

void simplan_begin(struct sim_plan *p)
{
	static const char *const zones[] = {"a", "b", "c"};

	sim->machine_count = p->hosts + 1;
	sim->machines = calloc(sim->machine_count, sizeof(*sim->machines));
	if (!sim->machines)
		abort();
	sim->latency_max = 20 * SIM_MS;
	for (uint32_t i = 0; i <= p->hosts; i++) {
		struct sim_machine *m = &sim->machines[i];

		m->index = i;
		(void)machine_name(i, m->name);
		m->ppm = p->ppm[i];
		m->wall_skew_ms = p->skew[i];
		m->mono_base = (uint64_t)(i + 1) * 1000 * SIM_SECOND;
		m->powered = true;
		m->boots = 1;
		m->memory_mb = p->memory_mb[i];
		m->cpu_milli = p->cpu[i];
		m->zone = zones[i % 3];
		machine_gone(m); /* started soon */
	}
	sim->client = client_new();
	for (size_t i = 0; i < p->count; i++) {
		struct item *item = &p->items[i];

		item->begins = (struct sim_event){.fn = begin, .arg = item};
		item->ends = (struct sim_event){.fn = end, .arg = item};
		if (!item->out)
			sim_event_add(&item->begins, item->at);
	}
}

uint32_t simplan_emptied(const struct sim_plan *p)
{
	return p->emptied;
}

uint64_t simplan_end(const struct sim_plan *p)
{
	return p->end;
}

void simplan_heal(void)
{
	struct sim_plan *p = sim->plan;

	for (size_t i = 0; i < p->count; i++) {
		sim_event_remove(&p->items[i].begins);
		sim_event_remove(&p->items[i].ends);
	}
	net_heal();
	sim->lose = sim->repeat = sim->reorder = 0;
	sim->busy_queue = false;
	for (size_t i = 0; i < sim->machine_count; i++) {
		struct sim_machine *m = &sim->machines[i];

		m->disk_full = m->disk_bad = m->slow = false;
		if (m->proc) {
			m->proc->die_at = 0;
			m->proc->paused_until = 0;
		}
		machine_power_on(m);
	}
}

/* ---------------------------------------------------------------- what came of it */

void simplan_result(struct sim_plan *p, const struct sim *world)
{
	p->outcome = (struct plan_outcome){.held = !world->failed,
		.at = world->now,
		.events = world->events,
		.history = world->history,
		.starts = world->starts,
		.applies = world->applies,
		.crashes = world->crashes,
		.hosts = p->hosts};
	memcpy(p->outcome.failure, world->failure, sizeof(world->failure));
}

const struct plan_outcome *simplan_outcome(const struct sim_plan *p)
{
	return &p->outcome;
}

/* Two failures are the same when their texts are, but for numbers. */
static bool alike(const char *a, const char *b)
{
	while (*a && *b) {
		bool da = strchr("0123456789abcdef", *a), db = strchr("0123456789abcdef", *b);

		if (da && db) {
			a += strspn(a, "0123456789abcdef");
			b += strspn(b, "0123456789abcdef");
		} else if (*a++ != *b++) {
			return false;
		}
	}
	return !*a && !*b;
}

static bool still_fails(
	uint64_t seed, struct sim_plan *p, const struct sim_options *options, const char *failure)
{
	struct sim_options quiet = *options;

	quiet.trace = false;
	return !sim_run(seed, &quiet, p) && alike(p->outcome.failure, failure);
}

/* Delta debugging (Zeller, Hildebrandt 2002), halves first. */
void simplan_shrink(
	uint64_t seed, struct sim_plan *p, const struct sim_options *options, unsigned limit)
{
	char failure[sizeof(p->outcome.failure)];
	size_t chunk = p->count / 2;

	memcpy(failure, p->outcome.failure, sizeof(failure));
	for (; chunk; chunk = chunk > 1 ? chunk / 2 : 0) {
		bool again = true;

		while (again && limit) {
			again = false;
			for (size_t at = 0; at < p->count && limit; at += chunk) {
				size_t end_at = at + chunk < p->count ? at + chunk : p->count,
				       live = 0;
				bool *was = calloc(end_at - at, sizeof(bool));

				if (!was)
					abort();
				for (size_t i = at; i < end_at; i++) {
					was[i - at] = p->items[i].out;
					live += !p->items[i].out;
					p->items[i].out = true;
				}
				if (live) {
					limit--;
					if (still_fails(seed, p, options, failure)) {
						again = chunk == 1;
					} else {
						for (size_t i = at; i < end_at; i++)
							p->items[i].out = was[i - at];
					}
				}
				free(was);
			}
		}
	}
	(void)still_fails(seed, p, options, failure);
}

static int by_time(const void *a, const void *b)
{
	const struct item *x = *(const struct item *const *)a, *y = *(const struct item *const *)b;

	return x->at < y->at ? -1 : x->at > y->at;
}

void simplan_print(const struct sim_plan *p, FILE *out)
{
	const struct item **list = calloc(p->count + 1, sizeof(*list));
	size_t n = 0;

	if (!list)
		abort();
	for (size_t i = 0; i < p->count; i++)
		if (!p->items[i].out)
			list[n++] = &p->items[i];
	qsort(list, n, sizeof(*list), by_time);
	(void)fprintf(out, "%u hosts; %zu things happen:\n", p->hosts, n);
	for (size_t i = 0; i < n; i++) {
		char text[128];

		describe(list[i], text, sizeof(text));
		(void)fprintf(out, "%10.3f  %s\n", (double)list[i]->at / 1e6, text);
	}
	(void)fprintf(out, "%10.3f  all is healed", (double)p->end / 1e6);
	if (p->emptied)
		(void)fprintf(out, "; then h%u is drained", p->emptied);
	(void)fprintf(out, "\n");
	free(list);
}
