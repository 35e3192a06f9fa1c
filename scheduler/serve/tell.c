/* What agents are told: the actions of one event as Desired messages, one list for each
 * host, or everything that a host is to have. */
#include <stdlib.h>
#include <string.h>

#include "scheduler/core/move.h"
#include "scheduler/core/orphan.h"
#include "scheduler/core/tables.h"
#include "scheduler/serve/serve_int.h"

/* What one agent is told by one event. */
struct told {
	struct agent *agent;
	bool full;
	struct core_action *actions;
	size_t count, room;
	struct told *next;
	UT_hash_handle hh;
};

struct tell {
	struct serve *s;
	struct told *list; /* by agent */
};

struct tell *tell_begin(struct serve *s)
{
	struct tell *t = calloc(1, sizeof(*t));

	if (!t)
		abort();
	t->s = s;
	return t;
}

static struct told *told_for(struct tell *t, struct agent *agent)
{
	struct told *told;

	HASH_FIND_PTR(t->list, &agent, told);
	if (!told) {
		told = calloc(1, sizeof(*told));
		if (!told)
			abort();
		told->agent = agent;
		HASH_ADD_PTR(t->list, agent, told);
	}
	return told;
}

void tell_action(struct tell *t, const struct core_action *action)
{
	struct agent *agent = agents_by_host(t->s, action->host);
	struct told *told;

	/* One that is away is told everything when it says hello. */
	if (!agent)
		return;
	told = told_for(t, agent);
	if (action->kind == CORE_TELL_FULL)
		told->full = true;
	if (told->full)
		return;
	if (told->count == told->room) {
		size_t room = told->room ? told->room * 2 : 16;
		struct core_action *actions = realloc(told->actions, room * sizeof(*actions));

		if (!actions)
			abort();
		told->actions = actions;
		told->room = room;
	}
	told->actions[told->count++] = *action;
}

/* A Desired being filled; goes out when it is large enough. */
struct part {
	struct serve *s;
	struct agent *agent;
	struct arena a;
	Um__Desired d;
	size_t guest_room, net_room, removed_room, vni_room, prune_room;
	size_t in_room, out_room, ended_room; /* moves */
	size_t bytes;
	tell_fn *fn;
	void *arg;
};

static void part_reset(struct part *p)
{
	arena_free(&p->a);
	um__desired__init(&p->d);
	p->guest_room = p->net_room = p->removed_room = p->vni_room = p->prune_room = 0;
	p->in_room = p->out_room = p->ended_room = 0;
	p->bytes = 0;
}

static void part_send(struct part *p, bool full, bool more)
{
	Um__Envelope env = wire_env(0);

	p->d.seq = ++p->agent->seq;
	p->d.full = full;
	p->d.more = more;
	env.body_case = UM__ENVELOPE__BODY_DESIRED;
	env.desired = &p->d;
	p->fn(p->arg, p->agent, &env);
	part_reset(p);
}

/* Room for one more pointer in an array that lives in the arena. */
static void *more_room(struct part *p, void *array, size_t count, size_t *room, size_t each)
{
	void *bigger;

	if (count < *room)
		return array;
	*room = *room ? *room * 2 : 32;
	bigger = arena_get(&p->a, *room * each);
	if (count)
		memcpy(bigger, array, count * each);
	return bigger;
}

static void add_remove(struct part *p, uint64_t uid, uint64_t epoch);

/* NULL: it is on its way out. */
static Um__GuestAssign *assign(struct part *p, const struct core_guest *g)
{
	Um__GroupSpec *group =
		g->group ? labs_group(p->s, g->deployment->name, g->group->spec.name) : NULL;
	static const uint8_t none[CORE_ID];
	const Um__ArtefactInfo *kernel;
	Um__GuestAssign *a;

	if (!group || g->evicted)
		return NULL;
	a = arena_get(&p->a, sizeof(*a));
	um__guest_assign__init(a);
	a->uid = g->uid;
	a->name = arena_str(&p->a, g->name);
	a->epoch = g->epoch;
	a->run = g->want_run && !(g->move && core_move_recalled(g->move));
	a->generation = g->generation;
	a->disk_generation = g->disk_generation;
	a->from_move = g->from_move;
	a->spec = group->guest;
	a->fenced = g->group->spec.on_loss == CORE_LOSS_RESTART;
	a->boot = boots_asked(p->s, g, &p->a);
	a->n_nics = g->nic_count;
	a->nics = (Um__Nic **)arena_list(&p->a, g->nic_count);
	for (uint32_t i = 0; i < g->nic_count; i++)
		a->nics[i] = view_nic(&g->nics[i], &p->a);
	a->image = artefacts_ref(p->s, g->group->spec.image_id, p->agent->host, &p->a);
	a->kernel = artefacts_ref(p->s, g->group->spec.kernel_id, p->agent->host, &p->a);
	if (memcmp(g->group->spec.modules_id, none, CORE_ID) != 0)
		a->modules = artefacts_ref(p->s, g->group->spec.modules_id, p->agent->host, &p->a);
	kernel = artefacts_kernel(p->s, g->group->spec.kernel, NULL);
	for (size_t i = 0; kernel && i < kernel->n_meta; i++)
		if (strcmp(kernel->meta[i]->key, "release") == 0)
			a->kernel_release = kernel->meta[i]->value;
	p->bytes += um__guest_assign__get_packed_size(a);
	return a;
}

static void add_guest(struct part *p, const struct core_guest *g)
{
	Um__GuestAssign *a = assign(p, g);

	/* What is being removed is named: its agent may have told that nothing is left
	 * just when the connection was lost, and tells it again. */
	if (!a) {
		add_remove(p, g->uid, g->epoch);
		return;
	}
	p->d.guests =
		more_room(p, p->d.guests, p->d.n_guests, &p->guest_room, sizeof(*p->d.guests));
	p->d.guests[p->d.n_guests++] = a;
}

/* The move as it is to be on this host. */
static void add_move(struct part *p, uint64_t number)
{
	const struct core_move *m = core_move(p->s->core, number);
	Um__GuestAssign *a;

	if (m && core_move_out_of(m, p->agent->host)) {
		p->d.moves_out = more_room(
			p, p->d.moves_out, p->d.n_moves_out, &p->out_room, sizeof(*p->d.moves_out));
		p->d.moves_out[p->d.n_moves_out++] = moves_source_view(p->s, m, &p->a);
	} else if (m && core_move_into(m, p->agent->host)) {
		a = assign(p, m->guest);
		if (!a)
			return;
		p->d.moves_in = more_room(
			p, p->d.moves_in, p->d.n_moves_in, &p->in_room, sizeof(*p->d.moves_in));
		p->d.moves_in[p->d.n_moves_in++] = moves_target_view(p->s, m, a, &p->a);
	} else {
		p->d.moves_ended = more_room(p, p->d.moves_ended, p->d.n_moves_ended,
			&p->ended_room, sizeof(*p->d.moves_ended));
		p->d.moves_ended[p->d.n_moves_ended++] = number;
	}
	p->bytes += 200;
}

static Um__NetMember *member(struct part *p, const struct core_nic *nic)
{
	Um__NetMember *m = arena_get(&p->a, sizeof(*m));
	const struct core_guest *g = nic->guest;
	const char *slash = strchr(g->name, '/');
	char text[NET_ADDR_TEXT];

	um__net_member__init(m);
	m->mac = arena_bytes(&p->a, nic->mac.bytes, 6);
	m->ip4 = arena_bytes(&p->a, nic->ip4.bytes, net_addr_size(&nic->ip4));
	m->ip6 = arena_bytes(&p->a, nic->ip6.bytes, net_addr_size(&nic->ip6));
	m->name = arena_str(&p->a, slash ? slash + 1 : g->name);
	m->vtep = arena_str(&p->a, g->host ? net_addr_text(text, &g->host->vtep) : "");
	m->uid = g->uid;
	p->bytes += 80;
	return m;
}

static Um__NetState *net_state(struct part *p, const struct core_network *n, bool full)
{
	Um__NetState *state;

	/* Changes of one network in a row share a message. */
	if (!full && p->d.n_networks) {
		state = p->d.networks[p->d.n_networks - 1];
		if (state->vni == n->vni && !state->full)
			return state;
	}
	state = arena_get(&p->a, sizeof(*state));
	um__net_state__init(state);
	state->vni = n->vni;
	state->name = arena_str(&p->a, n->name);
	state->mtu = n->mtu;
	if (n->spec.guarded) {
		state->guard = arena_get(&p->a, sizeof(*state->guard));
		um__guard__init(state->guard);
		state->guard->free4 = arena_bytes(
			&p->a, n->spec.gateway4.bytes, net_addr_size(&n->spec.gateway4));
		state->guard->free6 = arena_bytes(
			&p->a, n->spec.gateway6.bytes, net_addr_size(&n->spec.gateway6));
	}
	state->full = full;
	p->d.networks =
		more_room(p, p->d.networks, p->d.n_networks, &p->net_room, sizeof(*p->d.networks));
	p->d.networks[p->d.n_networks++] = state;
	p->bytes += 64;
	return state;
}

static void add_net(struct part *p, const struct core_network *n)
{
	Um__NetState *state = net_state(p, n, true);
	const struct core_nic *nic;

	state->members = (Um__NetMember **)arena_list(&p->a, n->member_count);
	DL_FOREACH (n->members, nic)
		state->members[state->n_members++] = member(p, nic);
}

static void add_member(struct part *p, const struct core_action *action)
{
	const struct core_network *n = core_network(p->s->core, action->vni);
	const struct core_guest *g = core_guest(p->s->core, action->uid);
	Um__NetState *state;
	Um__NetMember **members;

	if (!n || !g || action->nic >= g->nic_count || g->nics[action->nic].network != n)
		return;
	state = net_state(p, n, false);
	/* Grown by doubling: the room is the next power of two. */
	if (!(state->n_members & (state->n_members - 1))) {
		members = (Um__NetMember **)arena_list(
			&p->a, state->n_members ? state->n_members * 2 : 1);
		if (state->n_members)
			memcpy(members, state->members, state->n_members * sizeof(void *));
		state->members = members;
	}
	state->members[state->n_members++] = member(p, &g->nics[action->nic]);
}

static void add_member_gone(struct part *p, const struct core_action *action)
{
	const struct core_network *n = core_network(p->s->core, action->vni);
	ProtobufCBinaryData *macs;
	Um__NetState *state;

	if (!n)
		return;
	state = net_state(p, n, false);
	macs = arena_get(&p->a, (state->n_removed_macs + 1) * sizeof(*macs));
	if (state->n_removed_macs)
		memcpy(macs, state->removed_macs, state->n_removed_macs * sizeof(*macs));
	macs[state->n_removed_macs++] = arena_bytes(&p->a, action->mac.bytes, 6);
	state->removed_macs = macs;
}

static bool is_large(const struct part *p)
{
	return p->d.n_guests >= SERVE_PART || p->bytes >= SERVE_PART_BYTES;
}

static Um__GuestRemove *removal(struct part *p, uint64_t uid, uint64_t epoch)
{
	Um__GuestRemove *r = arena_get(&p->a, sizeof(*r));

	um__guest_remove__init(r);
	r->uid = uid;
	r->epoch = epoch;
	p->bytes += 32;
	return r;
}

/* Whoever says that it must go says also whether its disk stays. */
static void add_remove(struct part *p, uint64_t uid, uint64_t epoch)
{
	const struct core_orphan *o = core_orphan_expected(p->s->core, uid, p->agent->host, epoch);
	Um__GuestRemove *r = removal(p, uid, epoch);

	r->keep_disk = o != NULL;
	if (o)
		r->reason = arena_str(&p->a, o->facts.reason);
	p->d.removed =
		more_room(p, p->d.removed, p->d.n_removed, &p->removed_room, sizeof(*p->d.removed));
	p->d.removed[p->d.n_removed++] = r;
}

static void add_prune(struct part *p, uint64_t uid, uint64_t epoch)
{
	p->d.prune = more_room(p, p->d.prune, p->d.n_prune, &p->prune_room, sizeof(*p->d.prune));
	p->d.prune[p->d.n_prune++] = removal(p, uid, epoch);
}

/* What is to become one, and what is to go: the host may have been away. */
static void add_orphans(struct part *p)
{
	for (const struct core_orphan *o = core_orphans(p->s->core); o; o = o->hh.next) {
		if (strcmp(o->host, p->agent->host) != 0)
			continue;
		if (o->state == CORE_ORPHAN_PRUNED)
			add_prune(p, o->facts.uid, o->epoch);
		if (o->state != CORE_ORPHAN_KEPT)
			add_remove(p, o->facts.uid, o->epoch);
		if (is_large(p))
			part_send(p, true, true);
	}
}

static void add_net_gone(struct part *p, uint32_t vni)
{
	p->d.removed_vnis = more_room(p, p->d.removed_vnis, p->d.n_removed_vnis, &p->vni_room,
		sizeof(*p->d.removed_vnis));
	p->d.removed_vnis[p->d.n_removed_vnis++] = vni;
}

/* A host may have lost its last member of a network and got another in one event:
 * what counts is whether there is one now, not what came last. */
static const struct core_network *net_there(const struct part *p, uint32_t vni)
{
	const struct core_network *n = core_network(p->s->core, vni);
	const struct core_host *host = core_host(p->s->core, p->agent->host);

	return n && host && counts_of(&n->hosts, host->order) ? n : NULL;
}

static void tell_changes(struct part *p, const struct told *told)
{
	for (size_t i = 0; i < told->count; i++) {
		const struct core_action *action = &told->actions[i];
		const struct core_guest *g;
		const struct core_network *n;

		switch (action->kind) {
		case CORE_TELL_GUEST:
			g = core_guest(p->s->core, action->uid);
			if (g && g->host && strcmp(g->host->name, action->host) == 0)
				add_guest(p, g);
			break;
		case CORE_TELL_REMOVE:
			add_remove(p, action->uid, action->epoch);
			break;
		case CORE_TELL_PRUNE:
			add_prune(p, action->uid, action->epoch);
			break;
		case CORE_TELL_NET:
			n = net_there(p, action->vni);
			if (n)
				add_net(p, n);
			break;
		case CORE_TELL_MEMBER:
			if (net_there(p, action->vni))
				add_member(p, action);
			break;
		case CORE_TELL_MEMBER_GONE:
			if (net_there(p, action->vni))
				add_member_gone(p, action);
			break;
		case CORE_TELL_NET_GONE:
			if (!net_there(p, action->vni))
				add_net_gone(p, action->vni);
			break;
		case CORE_TELL_MOVE:
			add_move(p, action->move);
			break;
		case CORE_TELL_FULL:
			break;
		}
		if (is_large(p))
			part_send(p, false, false);
	}
	if (p->d.n_guests || p->d.n_removed || p->d.n_networks || p->d.n_removed_vnis ||
		p->d.n_moves_in || p->d.n_moves_out || p->d.n_moves_ended || p->d.n_prune)
		part_send(p, false, false);
}

struct seen_vni {
	uint32_t vni;
	UT_hash_handle hh;
};

static void add_peer_keys(struct part *p)
{
	size_t n = 0;

	p->d.peers_full = true;
	p->d.peer_keys = arena_get(&p->a, (HASH_COUNT(p->s->agents) + 1) * sizeof(*p->d.peer_keys));
	for (struct agent *a = p->s->agents; a; a = a->hh.next)
		if (a != p->agent)
			p->d.peer_keys[n++] = arena_bytes(&p->a, a->pubkey, CURVE_KEY);
	p->d.n_peer_keys = n;
}

static void tell_everything(struct part *p)
{
	const struct core_host *host = core_host(p->s->core, p->agent->host);
	struct seen_vni *seen = NULL, *at, *next;
	const struct core_guest *g;

	if (!host)
		return;
	add_peer_keys(p);
	/* Networks first, whole: a guest's addresses are known before it comes.  Also
	 * those of guests on their way out: the core counts the host as a member. */
	DL_FOREACH2(host->guests, g, host_next)
	{
		for (uint32_t i = 0; i < g->nic_count; i++) {
			uint32_t vni = g->nics[i].network->vni;

			HASH_FIND(hh, seen, &vni, sizeof(vni), at);
			if (at)
				continue;
			at = calloc(1, sizeof(*at));
			if (!at)
				abort();
			at->vni = vni;
			HASH_ADD(hh, seen, vni, sizeof(at->vni), at);
			add_net(p, g->nics[i].network);
			if (is_large(p))
				part_send(p, true, true);
		}
	}
	HASH_ITER (hh, seen, at, next) {
		HASH_DEL(seen, at);
		free(at);
	}
	DL_FOREACH2(host->guests, g, host_next)
	{
		add_guest(p, g);
		if (is_large(p))
			part_send(p, true, true);
	}
	add_orphans(p);
	for (const struct core_move *m = core_moves(p->s->core); m; m = m->hh.next) {
		/* One that is put back is named: its end is what is waited for. */
		if (core_move_out_of(m, host->name) || core_move_into(m, host->name) ||
			(m->phase == CORE_MOVE_BACK && strcmp(m->target, host->name) == 0))
			add_move(p, m->number);
		if (is_large(p))
			part_send(p, true, true);
	}
	part_send(p, true, false);
	p->agent->full_due = false;
}

void tell_end(struct tell *t, tell_fn *fn, void *arg)
{
	struct told *told, *next;

	HASH_ITER (hh, t->list, told, next) {
		struct part p = {.s = t->s, .agent = told->agent, .fn = fn, .arg = arg};

		part_reset(&p);
		if (told->full)
			tell_everything(&p);
		else
			tell_changes(&p, told);
		arena_free(&p.a);
		HASH_DEL(t->list, told);
		free(told->actions);
		free(told);
	}
	free(t);
}
