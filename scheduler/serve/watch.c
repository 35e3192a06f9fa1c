/* GetRequest: lists, in parts; and for those who watch, changes as they become
 * durable.  A watcher whose queue is full misses nothing: it gets the whole list
 * again when there is room. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/core/move.h"
#include "scheduler/core/orphan.h"
#include "scheduler/serve/serve_int.h"

#define WATCHERS_MAX 1024u

/* A reply that is filled row by row and sent when it has SERVE_PART rows. */
struct listing {
	struct serve *s;
	const struct peer *to;
	uint64_t id;
	const Um__GetRequest *r;
	struct arena a;
	Um__GetReply reply;
	size_t rows;
	int rc;
};

static void listing_reset(struct listing *l)
{
	arena_free(&l->a);
	um__get_reply__init(&l->reply);
	l->rows = 0;
}

static void listing_send(struct listing *l, bool more, bool synced)
{
	Um__Envelope env = wire_env(l->id);

	l->reply.synced = synced;
	env.more = more;
	env.body_case = UM__ENVELOPE__BODY_GET_REPLY;
	env.get_reply = &l->reply;
	if (l->rc == 0)
		l->rc = zsock_send(l->to->sock, &l->to->z, &env, NULL, 0, NULL);
	listing_reset(l);
}

/* Puts ROW at the end of an array of the reply. */
#define ADD(l, field, row)                                                                  \
	do {                                                                                \
		if (!(l)->reply.field)                                                      \
			(l)->reply.field = arena_get(&(l)->a, SERVE_PART * sizeof(void *)); \
		(l)->reply.field[(l)->reply.n_##field++] = (row);                           \
		if (++(l)->rows == SERVE_PART)                                              \
			listing_send((l), true, false);                                     \
	} while (0)

static bool wanted_name(const Um__GetRequest *r, const char *name)
{
	const char *slash = strchr(name, '/');

	if (!r->n_names)
		return true;
	for (size_t i = 0; i < r->n_names; i++)
		if (strcmp(r->names[i], name) == 0 ||
			(slash && !strchr(r->names[i], '/') && strcmp(r->names[i], slash + 1) == 0))
			return true;
	return false;
}

static bool of_deployment(const Um__GetRequest *r, const char *deployment)
{
	return !*r->deployment || strcmp(r->deployment, deployment) == 0;
}

static bool guest_wanted(const Um__GetRequest *r, const struct core_guest *g)
{
	if (!of_deployment(r, g->deployment->name) || !wanted_name(r, g->name))
		return false;
	if (*r->host && (!g->host || strcmp(r->host, g->host->name) != 0))
		return false;
	if (*r->state &&
		strcmp(r->state, g->deleting ? "deleting" : core_phase_name(g->phase)) != 0)
		return strcmp(r->state, "ready") == 0 && g->ready;
	return true;
}

static void add_guest(struct listing *l, const struct core_guest *g)
{
	if (guest_wanted(l->r, g))
		ADD(l, guests, view_guest(l->s, g, l->r->detail, &l->a));
}

static void list_guests(struct listing *l)
{
	const struct core_deployment *d;
	const struct core_group *group;
	const struct core_guest *g;

	/* One named in full is looked up. */
	if (l->r->n_names == 1 && strchr(l->r->names[0], '/')) {
		g = core_guest_named(l->s->core, l->r->names[0]);
		if (g)
			add_guest(l, g);
		return;
	}
	for (d = core_deployments(l->s->core); d; d = d->hh.next) {
		if (!of_deployment(l->r, d->name))
			continue;
		DL_FOREACH (d->groups, group)
			DL_FOREACH2(group->guests, g, group_next)
		add_guest(l, g);
		DL_FOREACH2(d->leaving, g, group_next)
		add_guest(l, g);
	}
}

static void add_host(struct listing *l, const struct core_host *h)
{
	Um__HostInfo *row;

	if (!wanted_name(l->r, h->name) || (*l->r->host && strcmp(l->r->host, h->name) != 0))
		return;
	row = view_host(l->s, h, &l->a);
	if (!*l->r->state || strcmp(l->r->state, row->state) == 0)
		ADD(l, hosts, row);
}

static void list_networks(struct listing *l)
{
	for (const struct core_deployment *d = core_deployments(l->s->core); d; d = d->hh.next) {
		const struct core_network *n;

		if (!of_deployment(l->r, d->name))
			continue;
		DL_FOREACH (d->networks, n)
			if (!n->leaving && wanted_name(l->r, n->name))
				ADD(l, networks, view_network(n, &l->a));
	}
}

/* A kernel's whole configuration is only for who asks for details. */
static void leave_out_config(Um__ArtefactInfo *row, struct arena *a)
{
	Um__ArtefactInfo__MetaEntry **kept =
		(Um__ArtefactInfo__MetaEntry **)arena_list(a, row->n_meta);
	size_t n = 0;

	for (size_t i = 0; i < row->n_meta; i++)
		if (strcmp(row->meta[i]->key, "config") != 0)
			kept[n++] = row->meta[i];
	row->meta = kept;
	row->n_meta = n;
}

static void list_artefacts(struct listing *l, Um__ArtefactKind kind)
{
	for (struct artefact *art = l->s->artefacts; art; art = art->hh.next) {
		struct blob *blob;
		Um__ArtefactInfo *row;

		if (art->info->kind != kind || !wanted_name(l->r, art->info->name))
			continue;
		row = arena_get(&l->a, sizeof(*row));
		*row = *art->info;
		if (!l->r->detail)
			leave_out_config(row, &l->a);
		HASH_FIND(hh, l->s->blobs, row->id.data, CORE_ID, blob);
		row->hosts = blob ? (uint32_t)blob->host_count : 0;
		for (const struct core_deployment *d = core_deployments(l->s->core); d;
			d = d->hh.next) {
			const struct core_group *g;

			DL_FOREACH (d->groups, g)
				if (memcmp(g->spec.image_id, row->id.data, CORE_ID) == 0 ||
					memcmp(g->spec.kernel_id, row->id.data, CORE_ID) == 0)
					row->used_by += g->guest_count;
		}
		ADD(l, artefacts, row);
	}
}

static bool event_wanted(const Um__GetRequest *r, const Um__EventInfo *e)
{
	size_t n = strlen(r->deployment);

	if (n && !(strncmp(e->name, r->deployment, n) == 0 &&
			 (e->name[n] == '/' || e->name[n] == 0)))
		return false;
	if (*r->host && strcmp(e->host, r->host) != 0)
		return false;
	return wanted_name(r, e->name);
}

static void list_events(struct listing *l)
{
	struct serve *s = l->s;
	uint64_t limit = l->r->limit ? l->r->limit : SERVE_EVENTS_MAX, found = 0;
	uint64_t oldest = s->event_seq > SERVE_EVENTS_MAX ? s->event_seq - SERVE_EVENTS_MAX + 1 : 1;
	uint64_t from = s->event_seq + 1;

	/* Back from the newest until there are enough, then in order. */
	while (from > oldest && found < limit) {
		const Um__EventInfo *e = s->events[--from % SERVE_EVENTS_MAX];

		found += e && e->seq == from && event_wanted(l->r, e);
	}
	for (uint64_t seq = from; seq <= s->event_seq && s->event_seq; seq++) {
		Um__EventInfo *e = s->events[seq % SERVE_EVENTS_MAX];

		if (e && e->seq == seq && event_wanted(l->r, e))
			ADD(l, events, e);
	}
}

static void add_move(struct listing *l, const struct core_move *m)
{
	const Um__GetRequest *r = l->r;
	size_t n = strlen(r->deployment);

	if (!wanted_name(r, m->name) ||
		(n && (strncmp(m->name, r->deployment, n) != 0 || m->name[n] != '/')) ||
		(*r->host && strcmp(r->host, m->source) != 0 && strcmp(r->host, m->target) != 0) ||
		(*r->state && strcmp(r->state, core_move_phase_name(m->phase)) != 0))
		return;
	ADD(l, migrations, moves_view(m, &l->a));
}

static void add_orphan(struct listing *l, const struct core_orphan *o)
{
	const Um__GetRequest *r = l->r;
	size_t n = strlen(r->deployment);
	Um__OrphanInfo *row;

	if (!wanted_name(r, o->facts.name) ||
		(n && (strncmp(o->facts.name, r->deployment, n) != 0 || o->facts.name[n] != '/')) ||
		(*r->host && strcmp(r->host, o->host) != 0))
		return;
	row = orphans_view(l->s, o, &l->a);
	if (!*r->state || strcmp(r->state, row->state) == 0)
		ADD(l, orphans, row);
}

static void list(struct listing *l)
{
	const struct core_deployment *d;
	const struct core_host *h;

	switch (l->r->kind) {
	case UM__KIND__KIND_HOSTS:
		for (h = core_hosts(l->s->core); h; h = h->hh.next)
			add_host(l, h);
		break;
	case UM__KIND__KIND_GUESTS:
		list_guests(l);
		break;
	case UM__KIND__KIND_NETWORKS:
		list_networks(l);
		break;
	case UM__KIND__KIND_IMAGES:
		list_artefacts(l, UM__ARTEFACT_KIND__ARTEFACT_IMAGE);
		break;
	case UM__KIND__KIND_KERNELS:
		list_artefacts(l, UM__ARTEFACT_KIND__ARTEFACT_KERNEL);
		break;
	case UM__KIND__KIND_DEPLOYMENTS:
		for (d = core_deployments(l->s->core); d; d = d->hh.next)
			if (wanted_name(l->r, d->name) && of_deployment(l->r, d->name))
				ADD(l, deployments, view_deployment(l->s, d, l->r->detail, &l->a));
		break;
	case UM__KIND__KIND_EVENTS:
		list_events(l);
		break;
	case UM__KIND__KIND_MIGRATIONS:
		for (const struct core_move *m = core_moves(l->s->core); m; m = m->hh.next)
			add_move(l, m);
		break;
	case UM__KIND__KIND_ORPHANS:
		for (const struct core_orphan *o = core_orphans(l->s->core); o; o = o->hh.next)
			add_orphan(l, o);
		break;
	default:
		break;
	}
}

static void drop(struct serve *s, struct watcher *w)
{
	DL_DELETE(s->watchers, w);
	um__get_request__free_unpacked(w->request, NULL);
	free(w);
}

static int send_list(struct serve *s, const struct peer *to, uint64_t id, const Um__GetRequest *r)
{
	struct listing l = {.s = s, .to = to, .id = id, .r = r};

	listing_reset(&l);
	list(&l);
	listing_send(&l, r->watch, true);
	arena_free(&l.a);
	return l.rc;
}

void watch_get(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	const Um__GetRequest *r = env->get_request;
	struct watcher *w, *count;
	size_t n = 0;

	if (!r->watch) {
		(void)send_list(s, from, env->id, r);
		return;
	}
	DL_COUNT(s->watchers, count, n);
	if (n >= WATCHERS_MAX) {
		serve_refuse(s, from, env->id, UM__ERROR_CODE__UNAVAILABLE,
			"too many watchers already (%u)", WATCHERS_MAX);
		return;
	}
	w = calloc(1, sizeof(*w));
	if (!w)
		abort();
	w->request = wire_copy(&r->base);
	if (!w->request)
		abort();
	w->peer = *from;
	w->id = env->id;
	DL_APPEND(s->watchers, w);
	if (send_list(s, from, env->id, r) < 0)
		w->behind = true;
}

/* ---------------------------------------------------------------- changes */

static bool tell(struct serve *s, struct watcher *w, struct listing *l)
{
	Um__Envelope env = wire_env(w->id);
	int rc;

	if (!l->rows)
		return true;
	env.more = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REPLY;
	env.get_reply = &l->reply;
	rc = zsock_send(w->peer.sock, &w->peer.z, &env, NULL, 0, NULL);
	if (rc == -EHOSTUNREACH) {
		drop(s, w);
		return false;
	}
	if (rc < 0) {
		w->behind = true;
		serve_tick_soon(s);
	}
	return true;
}

/* The row of KEY, or its name among the deleted. */
static void fill(struct listing *l, enum core_kind kind, const char *key)
{
	const struct core_deployment *d;
	const struct core_guest *g;
	const struct core_host *h;
	const struct core_move *m;
	const struct core_orphan *o;
	char **deleted;

	if (kind == CORE_KIND_HOST && l->r->kind == UM__KIND__KIND_HOSTS) {
		h = core_host(l->s->core, key);
		if (h) {
			add_host(l, h);
			return;
		}
	} else if (kind == CORE_KIND_GUEST && l->r->kind == UM__KIND__KIND_GUESTS) {
		g = core_guest(l->s->core, strtoull(key, NULL, 16));
		if (g) {
			add_guest(l, g);
			return;
		}
	} else if (kind == CORE_KIND_DEPLOYMENT && l->r->kind == UM__KIND__KIND_DEPLOYMENTS) {
		d = core_deployment(l->s->core, key);
		if (d) {
			if (wanted_name(l->r, d->name) && of_deployment(l->r, d->name))
				ADD(l, deployments, view_deployment(l->s, d, false, &l->a));
			return;
		}
	} else if (kind == CORE_KIND_MOVE && l->r->kind == UM__KIND__KIND_MIGRATIONS) {
		m = core_move(l->s->core, strtoull(key, NULL, 16));
		if (m) {
			add_move(l, m);
			return;
		}
	} else if (kind == CORE_KIND_ORPHAN && l->r->kind == UM__KIND__KIND_ORPHANS) {
		o = core_orphan(l->s->core, strtoull(key, NULL, 16));
		if (o) {
			add_orphan(l, o);
			return;
		}
	} else {
		return;
	}
	deleted = arena_get(&l->a, sizeof(*deleted));
	deleted[0] = arena_str(&l->a, key);
	l->reply.deleted = deleted;
	l->reply.n_deleted = 1;
	l->rows++;
}

void watch_changed(struct serve *s, enum core_kind kind, const char *key)
{
	struct watcher *w, *next;

	DL_FOREACH_SAFE (s->watchers, w, next) {
		struct listing l = {.s = s, .to = &w->peer, .id = w->id, .r = w->request};

		if (w->behind)
			continue;
		listing_reset(&l);
		fill(&l, kind, key);
		(void)tell(s, w, &l);
		arena_free(&l.a);
	}
}

void watch_event(struct serve *s, const Um__EventInfo *event)
{
	struct watcher *w, *next;

	if (!event)
		return;
	DL_FOREACH_SAFE (s->watchers, w, next) {
		struct listing l = {.s = s, .to = &w->peer, .id = w->id, .r = w->request};

		if (w->behind || w->request->kind != UM__KIND__KIND_EVENTS ||
			!event_wanted(w->request, event))
			continue;
		listing_reset(&l);
		ADD(&l, events, (Um__EventInfo *)(uintptr_t)event);
		(void)tell(s, w, &l);
		arena_free(&l.a);
	}
}

void watch_catch_up(struct serve *s)
{
	struct watcher *w, *next;

	DL_FOREACH_SAFE (s->watchers, w, next) {
		int rc;

		if (!w->behind)
			continue;
		rc = send_list(s, &w->peer, w->id, w->request);
		w->behind = rc < 0;
		if (rc == -EHOSTUNREACH)
			drop(s, w);
	}
}

void watch_cancel(struct serve *s, const struct peer *from, uint64_t id)
{
	struct watcher *w, *next;

	DL_FOREACH_SAFE (s->watchers, w, next)
		if (w->id == id && w->peer.z.id_size == from->z.id_size &&
			memcmp(w->peer.z.id, from->z.id, from->z.id_size) == 0)
			drop(s, w);
}

void watch_free(struct serve *s)
{
	while (s->watchers)
		drop(s, s->watchers);
}
