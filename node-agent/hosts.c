#include "node-agent/hosts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "node-agent/agent.h"

struct changed_name {
	char name[STR_NAME_MAX + 1];
	UT_hash_handle hh;
};

/* A network: which guests here have a NIC in it, and the names that changed. */
struct hosts_net {
	uint32_t vni;
	struct guest **guests;
	size_t count, capacity;
	struct changed_name *changed;
	UT_hash_handle hh;
};

struct hosts {
	struct agent *agent;
	struct hosts_net *all;
	struct loop_timer *delay;
};

static struct hosts_net *find(struct hosts *hosts, uint32_t vni)
{
	struct hosts_net *n = NULL;

	HASH_FIND(hh, hosts->all, &vni, sizeof(vni), n);
	return n;
}

static void clear_changed(struct hosts_net *n)
{
	struct changed_name *c, *next;

	HASH_ITER (hh, n->changed, c, next) {
		HASH_DEL(n->changed, c);
		free(c);
	}
}

static void free_net(struct hosts *hosts, struct hosts_net *n)
{
	clear_changed(n);
	HASH_DEL(hosts->all, n);
	free(n->guests);
	free(n);
}

/* ---------------------------------------------------------------- lists */

static bool add_entry(struct hosts_list *list, const char *name, const struct net_addr *ip)
{
	Um__HostEntry *e;

	if (!ip->family)
		return true;
	if (list->count == list->capacity) {
		size_t capacity = list->capacity ? 2 * list->capacity : 32;
		Um__HostEntry *more = realloc(list->entries, capacity * sizeof(*more));

		if (!more)
			return false;
		list->entries = more;
		list->capacity = capacity;
	}
	e = &list->entries[list->count++];
	um__host_entry__init(e);
	e->name = (char *)(uintptr_t)name;
	e->ip.data = (uint8_t *)(uintptr_t)ip->bytes;
	e->ip.len = net_addr_size(ip);
	return true;
}

/* All addresses of NAME that the guest can have to do with: in all its networks. */
static bool add_name(struct guest *g, struct hosts_list *list, const char *name)
{
	bool ok = true;

	for (size_t i = 0; ok && i < g->assign->n_nics; i++) {
		struct net *net = nets_find(g->agent->nets, g->assign->nics[i]->vni);
		struct net_name *n = net ? nets_name(net, name) : NULL;

		for (struct net_member *m = n ? n->first : NULL; ok && m; m = m->same_name)
			ok = add_entry(list, n->name, &m->ip4) && add_entry(list, n->name, &m->ip6);
	}
	return ok;
}

static int point(struct hosts_list *list, struct err *err)
{
	list->pointers = calloc(list->count + 1, sizeof(*list->pointers));
	if (!list->pointers)
		return err_set(err, -ENOMEM, "memory is short");
	for (size_t i = 0; i < list->count; i++)
		list->pointers[i] = &list->entries[i];
	return 0;
}

/* Is NAME in a network of a NIC before NIC? */
static bool named_before(struct guest *g, size_t nic, const char *name)
{
	for (size_t i = 0; i < nic; i++) {
		struct net *net = nets_find(g->agent->nets, g->assign->nics[i]->vni);

		if (net && nets_name(net, name))
			return true;
	}
	return false;
}

int hosts_list(struct guest *g, struct hosts_list *out, struct err *err)
{
	*out = (struct hosts_list){.count = 0};
	for (size_t i = 0; i < g->assign->n_nics; i++) {
		struct net *net = nets_find(g->agent->nets, g->assign->nics[i]->vni);

		for (struct net_name *n = net ? net->names : NULL; n; n = n->hh.next) {
			if (named_before(g, i, n->name))
				continue;
			if (!add_name(g, out, n->name)) {
				hosts_list_free(out);
				return err_set(err, -ENOMEM, "memory is short");
			}
		}
	}
	if (point(out, err) < 0) {
		hosts_list_free(out);
		return -ENOMEM;
	}
	return 0;
}

void hosts_list_free(struct hosts_list *list)
{
	free(list->entries);
	free(list->pointers);
	*list = (struct hosts_list){.count = 0};
}

/* ---------------------------------------------------------------- telling */

static void send(struct guest *g, Um__HostsUpdate *update, struct hosts_list *list)
{
	struct err err = ERR_INIT;

	update->hosts = list->pointers;
	update->n_hosts = list->count;
	g->hosts_stale = g->agent->driver.ops->hosts(g->run, update, &err) < 0;
	if (g->hosts_stale)
		log_debug("names are told later", LOG_STR("guest", g->assign->name), LOG_ERR(&err));
}

void hosts_connected(struct guest *g)
{
	Um__HostsUpdate update = UM__HOSTS_UPDATE__INIT;
	struct hosts_list list;
	struct err err = ERR_INIT;

	if (!g->hosts_stale || !g->assign || !g->assign->n_nics)
		return;
	if (hosts_list(g, &list, &err) < 0)
		return;
	update.full = true;
	send(g, &update, &list);
	hosts_list_free(&list);
}

/* The names that changed in any of its networks, each once. */
static int tell_changes(struct guest *g, struct err *err)
{
	struct hosts *hosts = g->agent->hosts;
	Um__HostsUpdate update = UM__HOSTS_UPDATE__INIT;
	struct hosts_list list = {.count = 0};
	size_t room = 1;
	char **removed;
	bool ok = true;

	for (size_t i = 0; i < g->assign->n_nics; i++) {
		struct hosts_net *n = find(hosts, g->assign->nics[i]->vni);

		room += n ? HASH_COUNT(n->changed) : 0;
	}
	removed = calloc(room, sizeof(*removed));
	if (!removed)
		return err_set(err, -ENOMEM, "memory is short");
	for (size_t i = 0; i < g->assign->n_nics; i++) {
		struct hosts_net *n = find(hosts, g->assign->nics[i]->vni);

		for (struct changed_name *c = n ? n->changed : NULL; ok && c; c = c->hh.next) {
			size_t before = list.count;
			struct changed_name *twice = NULL;

			for (size_t k = 0; k < i && !twice; k++) {
				struct hosts_net *other = find(hosts, g->assign->nics[k]->vni);

				if (other)
					HASH_FIND_STR(other->changed, c->name, twice);
			}
			if (twice)
				continue;
			ok = add_name(g, &list, c->name);
			if (list.count == before)
				removed[update.n_removed++] = c->name;
		}
	}
	update.removed = removed;
	if (ok && point(&list, err) == 0 && (list.count || update.n_removed))
		send(g, &update, &list);
	hosts_list_free(&list);
	free(removed);
	return ok ? 0 : err_set(err, -ENOMEM, "memory is short");
}

static void flush(void *arg)
{
	struct hosts *hosts = arg;
	struct hosts_net *n, *next;

	HASH_ITER (hh, hosts->all, n, next) {
		for (size_t i = 0; n->changed && i < n->count; i++) {
			struct guest *g = n->guests[i];

			if (!g->assign || !g->run || g->hosts_told)
				continue;
			g->hosts_told = true; /* in this round */
			if (!g->agent->driver.ops->up(g->run) || tell_changes(g, NULL) < 0)
				g->hosts_stale = true;
		}
	}
	HASH_ITER (hh, hosts->all, n, next) {
		for (size_t i = 0; n->changed && i < n->count; i++)
			n->guests[i]->hosts_told = false;
		clear_changed(n);
		if (!n->count)
			free_net(hosts, n);
	}
}

void hosts_changed(struct hosts *hosts, struct net *net, const char *name)
{
	struct hosts_net *n = find(hosts, net->vni);
	struct changed_name *c = NULL;

	if (!n)
		return; /* nobody to tell */
	HASH_FIND_STR(n->changed, name, c);
	if (c)
		return;
	c = calloc(1, sizeof(*c));
	if (!c)
		return;
	(void)str_copy(c->name, sizeof(c->name), name);
	HASH_ADD_STR(n->changed, name, c);
	if (!loop_timer_armed(hosts->delay))
		loop_timer_arm(hosts->delay, HOSTS_DELAY_MS);
}

void hosts_net_gone(struct hosts *hosts, uint32_t vni)
{
	struct hosts_net *n = find(hosts, vni);

	if (n)
		clear_changed(n);
}

/* ---------------------------------------------------------------- who is to be told */

static int add_guest(struct hosts_net *n, struct guest *g, struct err *err)
{
	for (size_t i = 0; i < n->count; i++)
		if (n->guests[i] == g)
			return 0;
	if (n->count == n->capacity) {
		size_t capacity = n->capacity ? 2 * n->capacity : 8;
		struct guest **more = realloc(n->guests, capacity * sizeof(struct guest *));

		if (!more)
			return err_set(err, -ENOMEM, "memory is short");
		n->guests = more;
		n->capacity = capacity;
	}
	n->guests[n->count++] = g;
	return 0;
}

void hosts_add(struct guest *g, struct err *err)
{
	struct hosts *hosts = g->agent->hosts;

	for (size_t i = 0; i < g->assign->n_nics; i++) {
		uint32_t vni = g->assign->nics[i]->vni;
		struct hosts_net *n = find(hosts, vni);

		if (!n) {
			n = calloc(1, sizeof(*n));
			if (!n) {
				(void)err_set(err, -ENOMEM, "memory is short");
				return;
			}
			n->vni = vni;
			HASH_ADD(hh, hosts->all, vni, sizeof(n->vni), n);
		}
		if (add_guest(n, g, err) < 0)
			return;
	}
}

void hosts_forget(struct guest *g)
{
	struct hosts *hosts = g->agent->hosts;

	if (!g->assign)
		return;
	for (size_t i = 0; i < g->assign->n_nics; i++) {
		struct hosts_net *n = find(hosts, g->assign->nics[i]->vni);

		for (size_t k = 0; n && k < n->count; k++)
			if (n->guests[k] == g)
				n->guests[k--] = n->guests[--n->count];
		if (n && !n->count)
			free_net(hosts, n);
	}
}

int hosts_open(struct agent *agent, struct hosts **out, struct err *err)
{
	struct hosts *hosts = calloc(1, sizeof(*hosts));
	int rc;

	if (!hosts)
		return err_set(err, -ENOMEM, "memory is short");
	hosts->agent = agent;
	rc = loop_timer_open(agent->loop, "hosts", flush, hosts, &hosts->delay, err);
	if (rc < 0) {
		free(hosts);
		return rc;
	}
	*out = hosts;
	return 0;
}

void hosts_stop(struct hosts *hosts)
{
	if (!hosts)
		return;
	loop_timer_close(hosts->delay);
	hosts->delay = NULL;
}

void hosts_free(struct hosts *hosts)
{
	struct hosts_net *n, *next;

	if (!hosts)
		return;
	HASH_ITER (hh, hosts->all, n, next)
		free_net(hosts, n);
	free(hosts);
}
