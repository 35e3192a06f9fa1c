#include "node-agent/simulate.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "lib/lease.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "node-agent/guests.h"

#define HELLO_ID 1u
#define HEARTBEAT_ID 2u
#define HELLO_MS 2000u
#define PART 512u /* guests in a report */
#define SEND_HWM 100000

struct simguest {
	uint64_t uid, epoch, generation, disk_generation, started_at;
	Um__Phase phase;
	bool ready, run, gone, noted;
	uint64_t due; /* loop time; 0: nothing is to happen */
	uint64_t mark;
	struct simguest *due_prev, *due_next;
	struct simguest *noted_next;
	UT_hash_handle hh;
};

struct simhost {
	struct simulate *sim;
	char name[64];
	char vtep[24];
	struct zsock *sock;
	struct loop_timer *timer, *boots;
	struct loop_defer *tell;
	bool up;
	uint64_t session, beat, seq, mark, heard_at, full_asked_at;
	bool complete; /* a whole Desired has been seen */
	struct simguest *guests, *due, *noted, *noted_last;
};

struct simulate {
	struct loop *loop;
	struct agentconf config;
	struct simhost *hosts;
	uint32_t count;
	uint32_t heartbeat_ms, lease_ms;
	uint64_t running, told; /* for the log */
	struct loop_timer *progress;
};

/* ---------------------------------------------------------------- reports */

static void note(struct simhost *h, struct simguest *g)
{
	if (g->noted)
		return;
	g->noted = true;
	g->noted_next = NULL;
	if (h->noted_last)
		h->noted_last->noted_next = g;
	else
		h->noted = g;
	h->noted_last = g;
	loop_defer_run(h->tell);
}

static void observe(const struct simguest *g, Um__GuestObserved *out)
{
	um__guest_observed__init(out);
	out->uid = g->uid;
	out->epoch = g->epoch;
	out->generation = g->generation;
	out->disk_generation = g->disk_generation;
	out->phase = g->phase;
	out->ready = g->ready;
	out->gone = g->gone;
	out->started_at = g->started_at;
	out->exit_status = -1;
}

static void drop(struct simhost *h, struct simguest *g)
{
	HASH_DEL(h->guests, g);
	free(g);
}

static void tell(void *arg)
{
	struct simhost *h = arg;
	Um__GuestObserved list[PART], *pointers[PART];
	Um__Envelope env = wire_env(0);
	Um__Observed observed = UM__OBSERVED__INIT;
	struct simguest *first = h->noted, *g = first;
	size_t n = 0;

	if (!h->up)
		return;
	for (; g && n < PART; g = g->noted_next) {
		observe(g, &list[n]);
		pointers[n] = &list[n];
		n++;
	}
	observed.guests = pointers;
	observed.n_guests = n;
	env.body_case = UM__ENVELOPE__BODY_OBSERVED;
	env.observed = &observed;
	/* A full queue: they stay noted, and are told with the next heartbeat. */
	if (n == 0 || zsock_send(h->sock, NULL, &env, NULL, 0, NULL) < 0)
		return;
	h->sim->told += n;
	while (n--) {
		h->noted = first->noted_next;
		first->noted = false;
		if (first->gone)
			drop(h, first);
		first = h->noted;
	}
	if (!h->noted)
		h->noted_last = NULL;
	else
		loop_defer_run(h->tell);
}

/* ---------------------------------------------------------------- guests */

static void boots_arm(struct simhost *h)
{
	uint64_t now = loop_now(h->sim->loop);

	if (h->due)
		loop_timer_arm(h->boots, h->due->due > now ? h->due->due - now : 0);
}

static void undue(struct simhost *h, struct simguest *g)
{
	if (!g->due)
		return;
	g->due = 0;
	DL_DELETE2(h->due, g, due_prev, due_next);
}

/* All boots take the same time: the list is in order by itself. */
static void boot(struct simhost *h, struct simguest *g)
{
	undue(h, g);
	g->phase = UM__PHASE__STARTING;
	g->ready = false;
	g->due = loop_now(h->sim->loop) + h->sim->config.simulate_boot_ms + 1;
	DL_APPEND2(h->due, g, due_prev, due_next);
	note(h, g);
	if (h->due == g)
		boots_arm(h);
}

static void booted(void *arg)
{
	struct simhost *h = arg;
	uint64_t now = loop_now(h->sim->loop);

	while (h->due && h->due->due <= now) {
		struct simguest *g = h->due;

		undue(h, g);
		g->phase = UM__PHASE__RUNNING;
		g->ready = true;
		g->started_at = proc_wall_ms();
		h->sim->running++;
		note(h, g);
	}
	boots_arm(h);
}

static struct simguest *find(struct simhost *h, uint64_t uid)
{
	struct simguest *g;

	HASH_FIND(hh, h->guests, &uid, sizeof(uid), g);
	return g;
}

static struct simguest *get(struct simhost *h, uint64_t uid)
{
	struct simguest *g = find(h, uid);

	if (g)
		return g;
	g = calloc(1, sizeof(*g));
	if (!g)
		abort();
	g->uid = uid;
	HASH_ADD(hh, h->guests, uid, sizeof(g->uid), g);
	return g;
}

static void end(struct simhost *h, uint64_t uid, uint64_t epoch)
{
	struct simguest *g = get(h, uid);

	if (epoch < g->epoch)
		return;
	undue(h, g);
	h->sim->running -= g->phase == UM__PHASE__RUNNING;
	g->epoch = epoch;
	g->phase = UM__PHASE__STOPPED;
	g->ready = false;
	g->gone = true;
	note(h, g);
}

static void assign(struct simhost *h, const Um__GuestAssign *a)
{
	struct simguest *g = get(h, a->uid);
	bool same = g->epoch == a->epoch && g->generation == a->generation && g->run == a->run &&
		    g->disk_generation == a->disk_generation && !g->gone;

	g->mark = h->mark;
	if (a->epoch < g->epoch || same)
		return;
	h->sim->running -= g->phase == UM__PHASE__RUNNING;
	g->gone = false;
	g->epoch = a->epoch;
	g->generation = a->generation;
	g->disk_generation = a->disk_generation;
	g->run = a->run;
	if (a->run) {
		boot(h, g);
		return;
	}
	undue(h, g);
	g->phase = UM__PHASE__STOPPED;
	g->ready = false;
	note(h, g);
}

/* ---------------------------------------------------------------- the scheduler's words */

static void resync(struct simhost *h)
{
	Um__Envelope env = wire_env(0);
	Um__ResyncRequest request = UM__RESYNC_REQUEST__INIT;

	request.have_seq = h->seq;
	env.body_case = UM__ENVELOPE__BODY_RESYNC_REQUEST;
	env.resync_request = &request;
	h->full_asked_at = loop_now(h->sim->loop);
	(void)zsock_send(h->sock, NULL, &env, NULL, 0, NULL);
}

static void desired(struct simhost *h, const Um__Desired *d)
{
	if (!h->up)
		return;
	if (d->full && !h->complete && !h->mark)
		h->mark = proc_wall_ms();
	if (!d->full && (!h->complete || d->seq != h->seq + 1)) {
		if (h->complete) {
			h->complete = false;
			resync(h);
		}
		return;
	}
	h->seq = d->seq;
	if (d->full && h->complete) {
		/* Anew, in one part or several. */
		h->complete = false;
		h->mark++;
	}
	for (size_t i = 0; i < d->n_guests; i++)
		assign(h, d->guests[i]);
	for (size_t i = 0; i < d->n_removed; i++)
		end(h, d->removed[i]->uid, d->removed[i]->epoch);
	if (d->full && !d->more) {
		struct simguest *g, *next;

		HASH_ITER (hh, h->guests, g, next)
			if (g->mark != h->mark && !g->gone)
				end(h, g->uid, g->epoch);
		h->complete = true;
	}
}

static void hello(struct simhost *h)
{
	const struct agentconf *c = &h->sim->config;
	Um__Envelope env = wire_env(HELLO_ID);
	Um__AgentHello m = UM__AGENT_HELLO__INIT;
	Um__HostFacts facts = UM__HOST_FACTS__INIT;
	size_t count = HASH_COUNT(h->guests), n = 0;
	Um__GuestObserved *list = calloc(count + 1, sizeof(*list));
	Um__GuestObserved **pointers = calloc(count + 1, sizeof(*pointers));
	uint8_t boot_id[16] = {1};

	if (!list || !pointers)
		abort();
	for (struct simguest *g = h->guests; g; g = g->hh.next) {
		observe(g, &list[n]);
		pointers[n] = &list[n];
		n++;
	}
	facts.memory_bytes = c->memory ? c->memory : 64ull << 30;
	facts.cpu_milli = c->cpu_milli ? c->cpu_milli : 64000;
	facts.disk_bytes = facts.disk_free_bytes = 4ull << 40;
	facts.vtep = h->vtep;
	facts.underlay_mtu = 1500;
	facts.agent_version = (char *)(uintptr_t)UMLAUT_VERSION;
	facts.kernel_release = (char *)(uintptr_t) "simulated";
	m.host = h->name;
	m.instance = (uint64_t)(uintptr_t)h;
	m.boot_id = (ProtobufCBinaryData){.len = sizeof(boot_id), .data = boot_id};
	m.facts = &facts;
	m.guests = pointers;
	m.n_guests = n;
	env.body_case = UM__ENVELOPE__BODY_AGENT_HELLO;
	env.agent_hello = &m;
	(void)zsock_send(h->sock, NULL, &env, NULL, 0, NULL);
	free(list);
	free(pointers);
}

static void heartbeat(struct simhost *h)
{
	Um__Envelope env = wire_env(HEARTBEAT_ID);
	Um__Heartbeat beat = UM__HEARTBEAT__INIT;
	Um__HostUsage usage = UM__HOST_USAGE__INIT;

	usage.disk_free_bytes = 4ull << 40;
	beat.session = h->session;
	beat.seq = ++h->beat;
	beat.desired_seq = h->seq;
	beat.usage = &usage;
	env.body_case = UM__ENVELOPE__BODY_HEARTBEAT;
	env.heartbeat = &beat;
	(void)zsock_send(h->sock, NULL, &env, NULL, 0, NULL);
}

static void lost(struct simhost *h)
{
	h->up = h->complete = false;
	h->mark++;
	hello(h);
	loop_timer_arm(h->timer, HELLO_MS);
}

static void tick(void *arg)
{
	struct simhost *h = arg;
	uint64_t now = loop_now(h->sim->loop);

	if (!h->up || now - h->heard_at > 2ull * h->sim->lease_ms) {
		lost(h);
		return;
	}
	heartbeat(h);
	if (!h->complete && now - h->full_asked_at > HELLO_MS)
		resync(h);
	if (h->noted)
		loop_defer_run(h->tell);
	loop_timer_arm(h->timer, h->sim->heartbeat_ms);
}

static void welcome(struct simhost *h, const Um__AgentWelcome *w)
{
	uint64_t now = loop_now(h->sim->loop);
	struct err err = ERR_INIT;

	if (lease_told(w->lease_ms, w->heartbeat_ms, &err) < 0) {
		log_error("the scheduler's welcome is refused", LOG_ERR(&err));
		return;
	}
	h->session = w->session;
	h->up = true;
	h->complete = false;
	h->mark++;
	h->heard_at = h->full_asked_at = now;
	h->sim->heartbeat_ms = w->heartbeat_ms;
	h->sim->lease_ms = w->lease_ms;
	tick(h);
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct simhost *h = arg;

	(void)sock;
	(void)peer;
	(void)bulk;
	(void)bulk_size;
	switch ((int)env->body_case) {
	case UM__ENVELOPE__BODY_AGENT_WELCOME:
		welcome(h, env->agent_welcome);
		break;
	case UM__ENVELOPE__BODY_HEARTBEAT_REPLY:
		h->heard_at = loop_now(h->sim->loop);
		break;
	case UM__ENVELOPE__BODY_DESIRED:
		desired(h, env->desired);
		break;
	case UM__ENVELOPE__BODY_ERROR:
		log_warn("the scheduler refuses", LOG_STR("host", h->name),
			LOG_STR("why", env->error->message));
		if (env->id == HEARTBEAT_ID)
			lost(h);
		break;
	default:
		break;
	}
}

/* ---------------------------------------------------------------- life */

static void progress(void *arg)
{
	struct simulate *sim = arg;
	uint32_t up = 0;

	for (uint32_t i = 0; i < sim->count; i++)
		up += sim->hosts[i].up;
	log_info("simulated", LOG_U64("hosts_up", up), LOG_U64("guests_running", sim->running),
		LOG_U64("reports", sim->told));
	loop_timer_arm(sim->progress, 5000);
}

static int host_open(struct simulate *sim, uint32_t i, struct zctx *zctx, struct err *err)
{
	static const struct zsock_ops ops = {.on_message = on_message};
	const struct zsock_config config = {
		.type = ZSOCK_DEALER, .name = "simulated", .send_hwm = SEND_HWM};
	struct simhost *h = &sim->hosts[i];
	int rc;

	h->sim = sim;
	rc = str_format(h->name, sizeof(h->name), "%.50s-%u", sim->config.name, i + 1);
	if (rc >= 0)
		rc = str_format(h->vtep, sizeof(h->vtep), "10.%u.%u.%u", 100 + (i >> 16),
			i >> 8 & 255, i & 255);
	if (rc < 0)
		return err_set(err, rc, "the name is too long");
	rc = zsock_open(sim->loop, zctx, &config, &ops, h, &h->sock, err);
	if (rc == 0)
		rc = zsock_connect(h->sock, sim->config.scheduler, err);
	if (rc == 0)
		rc = loop_timer_open(sim->loop, "simulated host", tick, h, &h->timer, err);
	if (rc == 0)
		rc = loop_timer_open(sim->loop, "simulated boots", booted, h, &h->boots, err);
	if (rc == 0)
		rc = loop_defer_open(sim->loop, "simulated reports", tell, h, &h->tell, err);
	if (rc == 0)
		lost(h);
	return rc;
}

int simulate_open(const struct agentconf *config, struct loop *loop, struct zctx *zctx,
	struct simulate **out, struct err *err)
{
	struct simulate *sim;
	int rc = 0;

	if (!str_starts(config->scheduler, "ipc://"))
		return err_set(err, -EINVAL,
			"--simulate works on the scheduler's machine: give its local socket, "
			"--scheduler ipc:///run/umlaut/scheduler.sock");
	sim = calloc(1, sizeof(*sim));
	if (!sim)
		return err_set(err, -ENOMEM, "memory is short");
	sim->loop = loop;
	sim->config = *config;
	sim->hosts = calloc(config->simulate, sizeof(*sim->hosts));
	if (!sim->hosts)
		rc = err_set(err, -ENOMEM, "memory is short");
	for (uint32_t i = 0; rc == 0 && i < config->simulate; i++) {
		sim->count++;
		rc = host_open(sim, i, zctx, err);
	}
	if (rc == 0)
		rc = loop_timer_open(loop, "simulation", progress, sim, &sim->progress, err);
	if (rc == 0)
		loop_timer_arm(sim->progress, 1000);
	*out = sim;
	return rc;
}

void simulate_stop(struct simulate *sim)
{
	if (!sim)
		return;
	loop_timer_close(sim->progress);
	for (uint32_t i = 0; i < sim->count; i++) {
		struct simhost *h = &sim->hosts[i];

		if (h->sock)
			zsock_close(h->sock, 0);
		loop_timer_close(h->timer);
		loop_timer_close(h->boots);
		loop_defer_close(h->tell);
	}
}

void simulate_free(struct simulate *sim)
{
	if (!sim)
		return;
	for (uint32_t i = 0; i < sim->count; i++) {
		struct simguest *g, *next;

		HASH_ITER (hh, sim->hosts[i].guests, g, next)
			drop(&sim->hosts[i], g);
	}
	free(sim->hosts);
	free(sim);
}
