/* The user: wishes are carried out one after the other, each asked again until there is
 * an answer, as people do.  What was answered is remembered: it must hold (check.c).
 */
#include <stdlib.h>
#include <string.h>

#include "lib/str.h"
#include "lib/wire.h"
#include "lib/zsock.h"
#include "scheduler/serve/serve_int.h"
#include "tests/sim/event.h"
#include "tests/sim/hosts.h"
#include "tests/sim/labs.h"

#define ANSWER_MS 5000 /* then asked again */
#define AGAIN_MS 700   /* after "not now" */
#define WISHES_MAX 512
#define TRIES_MAX 40
#define T(text) ((char *)(uintptr_t)(text))

struct wish {
	bool artefact, settling;
	uint32_t verb, target, variant, tries;
};

struct sim_client {
	struct sim_proc *proc;
	struct zctx *zctx;
	struct zsock *sock;
	struct loop_timer *timer;
	bool up, waiting;
	uint64_t id;
	struct wish list[WISHES_MAX];
	size_t count, at;
	struct knowledge {
		enum client_sure sure;
		uint32_t variant; /* last asked for */
		bool wanted;
	} labs[LABS_MAX];
	enum client_sure *drains; /* of each machine */
	bool *given_up;		  /* asked for, and not known to be done */
};

static void next(struct sim_client *c);

/* ---------------------------------------------------------------- what is asked */

struct request {
	Um__DeploymentSpec spec;
	Um__NetworkSpec nets[2], *net_list[2];
	Um__GroupSpec groups[3], *group_list[3];
	Um__GuestSpec guests[3];
	Um__NicSpec nics[3][2], *nic_list[3][2];
	Um__Placement placements[3];
	Um__LabelExpr expr, *exprs;
	Um__Affinity affinities[2], *affinity_list[2];
	Um__SpreadOver spread, *spreads;
	char *values[1];
	char name[16], subnet[2][32], address[32];
	Um__ApplyRequest apply;
	Um__DeleteRequest del;
	Um__GuestAction action;
	Um__HostAction host;
	Um__MigrateRequest migrate;
	Um__DrainRequest drain;
	Um__PruneRequest prune;
	Um__ArtefactInfo info;
	Um__ArtefactCommit commit;
	uint8_t artefact_id[32];
	char target[24], *targets[1];
};

static Um__GuestSpec *add_group(struct request *r, const char *name, uint32_t count, unsigned nics)
{
	size_t n = r->spec.n_groups++;
	Um__GroupSpec *g = &r->groups[n];
	Um__GuestSpec *s = &r->guests[n];

	um__group_spec__init(g);
	um__guest_spec__init(s);
	um__placement__init(&r->placements[n]);
	r->group_list[n] = g;
	g->name = T(name);
	g->count_set = count > 0;
	g->count = count;
	g->guest = s;
	s->image = T("busybox");
	s->memory_bytes = 64u << 20;
	s->cpu_milli = 200;
	s->placement = &r->placements[n];
	s->nics = r->nic_list[n];
	for (unsigned i = 0; i < nics; i++) {
		um__nic_spec__init(&r->nics[n][i]);
		r->nics[n][i].network = i ? T("wan") : T("lan");
		r->nic_list[n][i] = &r->nics[n][i];
	}
	s->n_nics = nics;
	return s;
}

static void be_with(struct request *r, size_t group, const char *other)
{
	um__affinity__init(&r->affinities[group]);
	r->affinities[group].guest = T(other);
	r->affinity_list[group] = &r->affinities[group];
	r->placements[group].affinity = &r->affinity_list[group];
	r->placements[group].n_affinity = 1;
}

/* All of a group; two groups with each other; one with the other. */
static void fill_together(struct request *r, uint32_t variant, unsigned nets)
{
	(void)add_group(r, "a", variant == LAB_TOGETHER ? 3 : 2, nets);
	be_with(r, 0, variant == LAB_TOGETHER ? "a" : "b");
	if (variant == LAB_TOGETHER)
		r->guests[0].on_host_loss = UM__ON_HOST_LOSS__LOSS_RESTART;
	else
		(void)add_group(r, "b", 1, 1);
	if (variant == LAB_TOGETHER + 1)
		be_with(r, 1, "a");
}

static void fill_spec(struct request *r, uint32_t lab, uint32_t variant)
{
	unsigned nets = variant % 2 ? 2 : 1;
	Um__GuestSpec *g;

	um__deployment_spec__init(&r->spec);
	(void)str_format(r->name, sizeof(r->name), "lab%u", lab);
	r->spec.name = r->name;
	r->spec.networks = r->net_list;
	r->spec.groups = r->group_list;
	for (unsigned i = 0; i < nets; i++) {
		um__network_spec__init(&r->nets[i]);
		r->net_list[i] = &r->nets[i];
		r->nets[i].name = i ? T("wan") : T("lan");
		(void)str_format(r->subnet[i], sizeof(r->subnet[i]), "10.%u.%u.0/24", lab, i);
		r->nets[i].subnet = r->subnet[i];
	}
	r->spec.n_networks = nets;
	if (variant >= LAB_TOGETHER) {
		fill_together(r, variant, nets);
		return;
	}
	g = add_group(r, "a", 1 + variant % 4, nets);
	if (variant / 4 % 2)
		g->memory_bytes = 128u << 20;
	if (variant == 7)
		r->spec.gang = true;
	if (variant % 3 == 1) {
		(void)add_group(r, "b", 2 + lab, 1);
		r->placements[1].max_per_host = 1;
	} else if (variant % 3 == 2) {
		(void)add_group(r, "b", 3, nets);
		um__spread_over__init(&r->spread);
		r->spread.over = T("zone");
		r->spread.max_skew = 1;
		r->spreads = &r->spread;
		r->placements[1].spread = &r->spreads;
		r->placements[1].n_spread = 1;
	}
	if (variant % 2 == 0) {
		size_t n = r->spec.n_groups;

		(void)add_group(r, "gw", 0, 1);
		(void)str_format(r->address, sizeof(r->address), "10.%u.0.200", lab);
		r->nics[n][0].address = r->address;
		r->placements[n].priority = (int32_t)lab;
	}
	/* Some wait for their host, some for their user. */
	if (variant != 7)
		r->guests[0].on_host_loss = UM__ON_HOST_LOSS__LOSS_RESTART;
	if (variant == 5)
		r->guests[0].on_host_loss = UM__ON_HOST_LOSS__LOSS_DEFAULT;
	if (variant == 5)
		r->guests[0].persistent = true;
	if (variant == 8)
		r->guests[0].on_host_loss = UM__ON_HOST_LOSS__LOSS_WAIT;
	if (variant == 11)
		r->guests[0].on_host_loss = UM__ON_HOST_LOSS__LOSS_NONE;
	if (variant == 10) {
		um__label_expr__init(&r->expr);
		r->expr.key = T("zone");
		r->expr.op = UM__LABEL_OP__LABEL_NOT_IN;
		r->values[0] = T("b");
		r->expr.values = r->values;
		r->expr.n_values = 1;
		r->exprs = &r->expr;
		r->placements[0].where = &r->exprs;
		r->placements[0].n_where = 1;
	}
}

static void fill_artefact(struct request *r, bool kernel)
{
	um__artefact_info__init(&r->info);
	um__artefact_commit__init(&r->commit);
	memset(r->artefact_id, kernel ? 0xbb : 0xaa, sizeof(r->artefact_id));
	r->info.name = kernel ? T("debian") : T("busybox");
	r->info.kind =
		kernel ? UM__ARTEFACT_KIND__ARTEFACT_KERNEL : UM__ARTEFACT_KIND__ARTEFACT_IMAGE;
	r->info.id.data = r->artefact_id;
	r->info.id.len = sizeof(r->artefact_id);
	r->info.size = 64u << 20;
	r->commit.info = &r->info;
	r->commit.replace = true;
}

static void fill_drain(struct request *r, const struct wish *w)
{
	um__drain_request__init(&r->drain);
	(void)str_format(r->target, sizeof(r->target), "h%u", w->target);
	r->drain.host = r->target;
	r->drain.cancel = w->verb == USER_DRAIN_STOP;
	r->drain.parallel = r->drain.cancel ? 0 : w->variant % 4;
	r->drain.rate = r->drain.cancel || w->variant % 3 ? 0 : 1u << 20;
}

static bool is_drain(const struct wish *w)
{
	return w->verb == USER_DRAIN || w->verb == USER_DRAIN_STOP;
}

/* The user has looked where its guests are: one whose host is lost, which is off. */
static void fill_recover(struct request *r, const struct wish *w)
{
	struct sim_proc *p = sim->machines[SIM_SCHEDULER].proc;
	const struct core_host *h =
		p && p->serve ? core_host(p->serve->core, sim->machines[w->target].name) : NULL;
	const struct core_guest *g = h && h->state == CORE_HOST_LOST ? h->guests : NULL;

	for (uint32_t i = 0; g && i < w->variant % 3 && g->host_next; i++)
		g = g->host_next;
	(void)str_format(r->target, sizeof(r->target), "%s", g ? g->name : "lab0/none");
	um__guest_action__init(&r->action);
	r->action.guests = r->targets;
	r->action.n_guests = 1;
	r->action.verb = UM__GUEST_VERB__GUEST_RECOVER;
	/* It is asked for again until it is done: the guest may be elsewhere by then. */
	r->action.host = sim->machines[w->target].name;
	if (g)
		check_recovered(g->uid, g->epoch);
}

static void fill_target(struct request *r, const struct wish *w)
{
	r->targets[0] = r->target;
	if (w->verb == USER_RECOVER) {
		fill_recover(r, w);
		return;
	}
	if (w->verb >= USER_CORDON) {
		um__host_action__init(&r->host);
		(void)str_format(r->target, sizeof(r->target), "h%u", w->target);
		r->host.hosts = r->targets;
		r->host.n_hosts = 1;
		r->host.verb = w->verb == USER_CORDON	  ? UM__HOST_VERB__HOST_CORDON
			       : w->verb == USER_UNCORDON ? UM__HOST_VERB__HOST_UNCORDON
							  : UM__HOST_VERB__HOST_REMOVE;
		r->host.force = w->verb == USER_HOST_GIVE_UP;
		return;
	}
	if (w->verb == USER_MIGRATE || w->verb == USER_STAY) {
		um__migrate_request__init(&r->migrate);
		(void)str_format(r->target, sizeof(r->target), "lab%u/%s", w->target,
			w->variant % 4 == 0   ? "gw"
			: w->variant % 4 == 1 ? "b-1"
			: w->variant % 4 == 2 ? "a-2"
					      : "a-1");
		r->migrate.guests = r->targets;
		r->migrate.n_guests = 1;
		r->migrate.cancel = w->verb == USER_STAY;
		return;
	}
	if (w->verb == USER_PRUNE) {
		um__prune_request__init(&r->prune);
		(void)str_format(r->target, sizeof(r->target), "lab%u/a-1", w->target);
		r->prune.names = r->targets;
		r->prune.n_names = w->variant % 3 == 0;
		r->prune.older_ms = w->variant % 3 == 1 ? 3000 : 0;
		return;
	}
	um__guest_action__init(&r->action);
	(void)str_format(
		r->target, sizeof(r->target), "lab%u/%s", w->target, w->variant % 3 ? "*" : "a-1");
	r->action.guests = r->targets;
	r->action.n_guests = 1;
	r->action.verb = w->verb == USER_STOP	 ? UM__GUEST_VERB__GUEST_STOP
			 : w->verb == USER_START ? UM__GUEST_VERB__GUEST_START
						 : UM__GUEST_VERB__GUEST_RESTART;
}

static void ask(struct sim_client *c, const struct wish *w)
{
	struct request *r = calloc(1, sizeof(*r));
	Um__Envelope env = wire_env(++c->id);

	if (!r)
		abort();
	/* Before it is asked for: only one that is off is recovered from. */
	if (!w->artefact && w->verb == USER_RECOVER) {
		machine_power_off(&sim->machines[w->target]);
		sim->machines[w->target].kept_off = true;
	}
	if (w->artefact) {
		fill_artefact(r, w->target);
		env.body_case = UM__ENVELOPE__BODY_ARTEFACT_COMMIT;
		env.artefact_commit = &r->commit;
	} else if (w->verb == USER_APPLY) {
		fill_spec(r, w->target, w->variant);
		um__apply_request__init(&r->apply);
		r->apply.spec = &r->spec;
		env.body_case = UM__ENVELOPE__BODY_APPLY_REQUEST;
		env.apply_request = &r->apply;
	} else if (w->verb == USER_DELETE) {
		um__delete_request__init(&r->del);
		(void)str_format(r->name, sizeof(r->name), "lab%u", w->target);
		r->del.deployment = r->name;
		env.body_case = UM__ENVELOPE__BODY_DELETE_REQUEST;
		env.delete_request = &r->del;
	} else {
		if (is_drain(w))
			fill_drain(r, w);
		else
			fill_target(r, w);
		if (is_drain(w)) {
			env.body_case = UM__ENVELOPE__BODY_DRAIN_REQUEST;
			env.drain_request = &r->drain;
		} else if (w->verb == USER_MIGRATE || w->verb == USER_STAY) {
			env.body_case = UM__ENVELOPE__BODY_MIGRATE_REQUEST;
			env.migrate_request = &r->migrate;
		} else if (w->verb == USER_PRUNE) {
			env.body_case = UM__ENVELOPE__BODY_PRUNE_REQUEST;
			env.prune_request = &r->prune;
		} else if (w->verb >= USER_CORDON && w->verb != USER_RECOVER) {
			env.body_case = UM__ENVELOPE__BODY_HOST_ACTION;
			env.host_action = &r->host;
		} else {
			env.body_case = UM__ENVELOPE__BODY_GUEST_ACTION;
			env.guest_action = &r->action;
		}
	}
	/* Whoever gives a host up has made sure that it is dead. */
	if (!w->artefact && w->verb == USER_HOST_GIVE_UP) {
		c->given_up[w->target] = true;
		machine_power_off(&sim->machines[w->target]);
	}
	c->waiting = true;
	if (!w->artefact && w->verb <= USER_DELETE)
		c->labs[w->target].sure = CLIENT_UNSURE;
	if (!w->artefact && w->verb >= USER_UNCORDON && w->verb != USER_RECOVER)
		c->drains[w->target] = CLIENT_UNSURE;
	(void)zsock_send(c->sock, NULL, &env, NULL, 0, NULL);
	loop_timer_arm(c->timer, ANSWER_MS);
	free(r);
}

/* ---------------------------------------------------------------- and answered */

/* The host was given up, or not; an answer that did not come is found out by the next. */
static bool given_up(
	struct sim_client *c, const struct wish *w, bool refused, const Um__Error *error)
{
	struct sim_machine *m = &sim->machines[w->target];
	bool asked = w->verb == USER_HOST_GIVE_UP;
	bool again = asked && refused && error->code == UM__ERROR_CODE__CONFLICT && w->tries < 5;

	if (!refused || error->code == UM__ERROR_CODE__NOT_FOUND) {
		c->given_up[w->target] = false;
		machine_purge(m);
	} else if (asked && !again) {
		machine_power_on(m);
	}
	return !again;
}

static void set_up(void *arg)
{
	machine_power_on(arg);
}

/* Until it is done, or cannot be, the host stays off. */
static bool recovered(const struct wish *w, bool refused)
{
	struct sim_machine *m = &sim->machines[w->target];

	if (refused && w->tries < 5)
		return false;
	m->kept_off = false;
	(void)sim_after(sim_between(m, DRAW_CLIENT, SIM_SECOND, 6 * SIM_SECOND), NULL, set_up, m);
	return true;
}

static bool settled_by(struct sim_client *c, const struct wish *w, const Um__Envelope *env)
{
	struct knowledge *k = w->verb < USER_CORDON ? &c->labs[w->target] : NULL;
	bool refused = env->body_case == UM__ENVELOPE__BODY_ERROR;

	if (refused && sim->options.trace)
		sim_note("  user: refused: %s", env->error->message);
	if (w->artefact)
		return !refused;
	if (w->verb == USER_APPLY && !refused) {
		sim->applies++;
		k->sure = CLIENT_THERE;
		k->variant = w->variant;
		k->wanted = true;
		return true;
	}
	if (w->verb == USER_DELETE && (!refused || env->error->code == UM__ERROR_CODE__NOT_FOUND)) {
		k->sure = CLIENT_GONE;
		k->wanted = false;
		return true;
	}
	if (w->verb == USER_RECOVER)
		return recovered(w, refused);
	if (w->verb >= USER_UNCORDON && !refused)
		c->drains[w->target] = w->verb == USER_DRAIN ? CLIENT_THERE : CLIENT_GONE;
	if (w->verb == USER_HOST_GIVE_UP ||
		(w->verb == USER_UNCORDON && refused && c->given_up[w->target]))
		return given_up(c, w, refused, env->error);
	/* It has to be so in the end: the host may not be back yet. */
	if (w->verb == USER_DRAIN && w->settling)
		return !refused;
	/* Being deleted, or no such lab: it may become possible. */
	return refused && w->verb <= USER_DELETE ? false : true;
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct sim_client *c = arg;
	struct wish *w = &c->list[c->at];

	(void)sock;
	(void)peer;
	(void)bulk;
	(void)bulk_size;
	if (!c->waiting || env->id != c->id || env->more)
		return;
	c->waiting = false;
	if (settled_by(c, w, env) || ++w->tries >= (w->settling || w->artefact ? TRIES_MAX : 6u)) {
		c->at++;
		loop_timer_disarm(c->timer);
		next(c);
		return;
	}
	loop_timer_arm(c->timer, AGAIN_MS);
}

static void on_timer(void *arg)
{
	next(arg);
}

static void next(struct sim_client *c)
{
	if (c->at < c->count && c->up)
		ask(c, &c->list[c->at]);
	else
		loop_timer_arm(c->timer, ANSWER_MS);
}

static void on_state(void *arg, struct zsock *sock, bool up, const char *detail)
{
	struct sim_client *c = arg;

	(void)sock;
	(void)detail;
	c->up = up;
	c->waiting = false;
	if (up)
		next(c);
}

static void push(const struct wish *w)
{
	struct sim_client *c = sim->client;
	bool idle = c->at == c->count;

	if (c->count == WISHES_MAX)
		return;
	c->list[c->count++] = *w;
	if (idle && c->up)
		loop_timer_arm(c->timer, 0);
}

struct sim_client *client_new(void)
{
	static const struct zsock_ops ops = {.on_message = on_message, .on_state = on_state};
	const struct zsock_config config = {.type = ZSOCK_DEALER, .name = "user"};
	struct sim_client *c = calloc(1, sizeof(*c));
	struct err err = ERR_INIT;

	if (!c)
		abort();
	c->proc = sim_proc_new(SIM_PROC_CLIENT, SIM_SCHEDULER);
	sim->cur = c->proc;
	sim->client = c;
	(void)loop_new(&c->proc->loop, &err);
	(void)zctx_new(&c->zctx, &err);
	(void)zsock_open(c->proc->loop, c->zctx, &config, &ops, c, &c->sock, &err);
	(void)zsock_connect(c->sock, SIM_LOCAL, &err);
	(void)loop_timer_open(c->proc->loop, "user", on_timer, c, &c->timer, &err);
	sim->cur = NULL;
	for (uint32_t kernel = 0; kernel < 2; kernel++)
		push(&(struct wish){.artefact = true, .target = kernel});
	for (size_t i = 0; i < LABS_MAX; i++)
		c->labs[i].sure = CLIENT_GONE;
	c->drains = calloc(sim->machine_count, sizeof(*c->drains));
	c->given_up = calloc(sim->machine_count, sizeof(*c->given_up));
	if (!c->drains || !c->given_up)
		abort();
	for (size_t i = 0; i < sim->machine_count; i++)
		c->drains[i] = CLIENT_GONE;
	return c;
}

void client_free(struct sim_client *c)
{
	if (!c)
		return;
	sim->cur = c->proc;
	c->proc->dead = true;
	zsock_close(c->sock, 0);
	loop_timer_close(c->timer);
	(void)loop_free(c->proc->loop);
	zctx_free(c->zctx);
	sim->cur = NULL;
	free(c->proc);
	free(c->drains);
	free(c->given_up);
	free(c);
}

void client_do(uint32_t verb, uint32_t target, uint32_t variant)
{
	push(&(struct wish){.verb = verb, .target = target, .variant = variant});
}

/* Whatever was left open is asked once more, and hosts are let in again, but one in some
 * runs: that is to be empty in the end. */
void client_settle(uint32_t emptied)
{
	struct sim_client *c = sim->client;

	for (size_t i = 1; i < sim->machine_count; i++)
		if (sim->machine_count < 50)
			push(&(struct wish){.verb = USER_UNCORDON, .target = (uint32_t)i});
	for (size_t i = c->at; i < c->count; i++)
		c->list[i].settling = true;
	for (uint32_t i = 0; i < LABS_MAX; i++)
		push(&(struct wish){.verb = c->labs[i].wanted ? USER_APPLY : USER_DELETE,
			.target = i,
			.variant = c->labs[i].variant,
			.settling = true});
	if (emptied)
		push(&(struct wish){.verb = USER_DRAIN, .target = emptied, .settling = true});
}

bool client_idle(void)
{
	return sim->client->at == sim->client->count;
}

enum client_sure client_knows(uint32_t lab, uint32_t *variant)
{
	if (variant)
		*variant = sim->client->labs[lab].variant;
	return sim->client->labs[lab].sure;
}

enum client_sure client_knows_drain(uint32_t machine)
{
	return sim->client->drains[machine];
}
