#include "node-agent/nets.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "node-agent/agent.h"
#include "node-agent/hosts.h"

#define FILE_NAME "networks.pb"
#define FILE_BYTES_MAX (512u << 20)
#define SAVE_MS 1000
#define MEMBERS_MAX (1u << 20)

struct nets {
	struct agent *agent;
	struct net *all;
	struct loop_timer *save;
	bool saving, again, stopped;
};

/* ---------------------------------------------------------------- one network */

static void name_add(struct net *net, struct net_member *m)
{
	struct net_name *n = nets_name(net, m->name);

	m->same_name = NULL;
	if (!n) {
		n = calloc(1, sizeof(*n));
		if (!n)
			return; /* a name less, until it changes */
		memcpy(n->name, m->name, sizeof(n->name));
		HASH_ADD_STR(net->names, name, n);
	}
	m->same_name = n->first;
	n->first = m;
}

static void name_remove(struct net *net, struct net_member *m)
{
	struct net_name *n = nets_name(net, m->name);
	struct net_member **at;

	if (!n)
		return;
	for (at = &n->first; *at && *at != m; at = &(*at)->same_name)
		;
	if (*at)
		*at = m->same_name;
	if (!n->first) {
		HASH_DEL(net->names, n);
		free(n);
	}
}

static void drop_member(struct nets *nets, struct net *net, struct net_member *m)
{
	HASH_DEL(net->members, m);
	name_remove(net, m);
	hosts_changed(nets->agent->hosts, net, m->name);
	free(m);
}

static void free_net(struct nets *nets, struct net *net)
{
	struct net_member *m, *next;
	struct net_name *n, *nnext;

	HASH_DEL(nets->all, net);
	HASH_ITER (hh, net->members, m, next) {
		HASH_DEL(net->members, m);
		free(m);
	}
	HASH_ITER (hh, net->names, n, nnext) {
		HASH_DEL(net->names, n);
		free(n);
	}
	free(net);
}

struct net *nets_find(struct nets *nets, uint32_t vni)
{
	struct net *net = NULL;

	HASH_FIND(hh, nets->all, &vni, sizeof(vni), net);
	return net;
}

struct net_member *nets_member(struct net *net, const struct net_mac *mac)
{
	struct net_member *m = NULL;

	HASH_FIND(hh, net->members, mac, sizeof(*mac), m);
	return m;
}

struct net_name *nets_name(struct net *net, const char *name)
{
	struct net_name *n = NULL;

	HASH_FIND_STR(net->names, name, n);
	return n;
}

size_t nets_count(const struct nets *nets)
{
	return HASH_COUNT(nets->all);
}

/* ---------------------------------------------------------------- members */

static int parse_member(const Um__NetMember *from, struct net_member *to)
{
	*to = (struct net_member){.same_name = NULL};
	if (from->mac.len != sizeof(to->mac.bytes))
		return -EINVAL;
	memcpy(to->mac.bytes, from->mac.data, sizeof(to->mac.bytes));
	if (!net_mac_is_unicast(&to->mac) ||
		net_addr_from(from->ip4.data, from->ip4.len, &to->ip4) < 0 ||
		net_addr_from(from->ip6.data, from->ip6.len, &to->ip6) < 0 ||
		str_check_name("member", from->name, NULL) < 0 ||
		(from->vtep[0] && net_addr_parse(from->vtep, &to->vtep, NULL) < 0))
		return -EINVAL;
	if (to->ip4.family == 6 || to->ip6.family == 4)
		return -EINVAL;
	return str_copy(to->name, sizeof(to->name), from->name);
}

static bool same_names(const struct net_member *a, const struct net_member *b)
{
	return strcmp(a->name, b->name) == 0 && net_addr_equal(&a->ip4, &b->ip4) &&
	       net_addr_equal(&a->ip6, &b->ip6);
}

static struct net_member *set_member(
	struct nets *nets, struct net *net, const struct net_member *value)
{
	struct net_member *m = nets_member(net, &value->mac), saved;

	if (m && same_names(m, value)) {
		m->vtep = value->vtep;
		return m;
	}
	if (m) {
		name_remove(net, m);
		hosts_changed(nets->agent->hosts, net, m->name);
		saved = *m;
		*m = *value;
		m->hh = saved.hh;
	} else {
		if (HASH_COUNT(net->members) >= MEMBERS_MAX)
			return NULL;
		m = malloc(sizeof(*m));
		if (!m)
			return NULL;
		*m = *value;
		HASH_ADD(hh, net->members, mac, sizeof(m->mac), m);
	}
	name_add(net, m);
	hosts_changed(nets->agent->hosts, net, m->name);
	return m;
}

static void to_overlay(const struct net_member *m, struct overlay_member *out)
{
	*out = (struct overlay_member){
		.mac = m->mac, .ip4 = m->ip4, .ip6 = m->ip6, .vtep = m->vtep};
}

/* ---------------------------------------------------------------- the overlay */

static void in_trouble(struct net *net, const struct err *err)
{
	net->trouble = true;
	log_error("a network is not as it should be; tried again", LOG_STR("network", net->name),
		LOG_U64("vni", net->vni), LOG_ERR(err));
}

/* Everything we know of it. */
static int program_all(struct nets *nets, struct net *net, struct err *err)
{
	const struct driver *d = &nets->agent->driver;
	size_t count = HASH_COUNT(net->members), i = 0;
	struct overlay_member *list;
	int rc = d->ops->net(d->self, net->vni, net->name, net->mtu, err);

	if (rc == 0)
		rc = d->ops->guard(d->self, net->vni, &net->guard, err);
	if (rc < 0)
		return rc;
	list = calloc(count + 1, sizeof(*list));
	if (!list)
		return err_set(err, -ENOMEM, "memory is short");
	for (struct net_member *m = net->members; m; m = m->hh.next)
		to_overlay(m, &list[i++]);
	rc = d->ops->members(d->self, net->vni, true, list, count, NULL, 0, err);
	free(list);
	if (rc == 0)
		net->trouble = false;
	return rc;
}

int nets_ensure(struct nets *nets, uint32_t vni, struct err *err)
{
	struct net *net = nets_find(nets, vni);

	if (!net)
		return err_set(err, -ENOENT, "network %u is not known here yet", vni);
	return net->trouble ? program_all(nets, net, err) : 0;
}

/* ---------------------------------------------------------------- Desired */

static struct net *get_net(struct nets *nets, const Um__NetState *state)
{
	struct net *net = nets_find(nets, state->vni);

	if (net)
		return net;
	net = calloc(1, sizeof(*net));
	if (!net)
		return NULL;
	net->vni = state->vni;
	net->trouble = true; /* not programmed yet */
	HASH_ADD(hh, nets->all, vni, sizeof(net->vni), net);
	return net;
}

/* Members that a full list does not have. */
static void drop_others(struct nets *nets, struct net *net, const Um__NetState *state)
{
	struct seen {
		struct net_mac mac;
		UT_hash_handle hh;
	} *seen = NULL, *list = calloc(state->n_members + 1, sizeof(*list)), *s;
	struct net_member *m, *next;

	if (!list)
		return;
	for (size_t i = 0; i < state->n_members; i++) {
		if (state->members[i]->mac.len != sizeof(list[i].mac))
			continue;
		memcpy(&list[i].mac, state->members[i]->mac.data, sizeof(list[i].mac));
		HASH_FIND(hh, seen, &list[i].mac, sizeof(list[i].mac), s);
		if (!s)
			HASH_ADD(hh, seen, mac, sizeof(list[i].mac), &list[i]);
	}
	HASH_ITER (hh, net->members, m, next) {
		HASH_FIND(hh, seen, &m->mac, sizeof(m->mac), s);
		if (!s)
			drop_member(nets, net, m);
	}
	HASH_CLEAR(hh, seen);
	free(list);
}

static void apply_removed(struct nets *nets, struct net *net, const Um__NetState *state)
{
	struct net_mac mac;

	for (size_t i = 0; i < state->n_removed_macs; i++) {
		struct net_member *m;

		if (state->removed_macs[i].len != sizeof(mac))
			continue;
		memcpy(&mac, state->removed_macs[i].data, sizeof(mac));
		m = nets_member(net, &mac);
		if (m)
			drop_member(nets, net, m);
	}
}

/* Only the difference goes to the overlay. */
static int program_delta(struct nets *nets, struct net *net, const Um__NetState *state,
	const struct overlay_member *list, size_t count, struct err *err)
{
	const struct driver *d = &nets->agent->driver;
	struct net_mac *removed = calloc(state->n_removed_macs + 1, sizeof(*removed));
	size_t n = 0;
	int rc;

	if (!removed)
		return err_set(err, -ENOMEM, "memory is short");
	for (size_t i = 0; i < state->n_removed_macs; i++)
		if (state->removed_macs[i].len == sizeof(*removed))
			memcpy(&removed[n++], state->removed_macs[i].data, sizeof(*removed));
	rc = d->ops->members(d->self, net->vni, false, list, count, removed, n, err);
	free(removed);
	return rc;
}

static void save_soon(struct nets *nets)
{
	if (!nets->stopped && !loop_timer_armed(nets->save))
		loop_timer_arm(nets->save, SAVE_MS);
}

static bool same_guard(const struct overlay_guard *a, const struct overlay_guard *b)
{
	return a->on == b->on && net_addr_equal(&a->free4, &b->free4) &&
	       net_addr_equal(&a->free6, &b->free6);
}

/* What makes no sense frees nobody. */
static void parse_guard(const Um__Guard *from, struct overlay_guard *to)
{
	*to = (struct overlay_guard){.on = from != NULL};
	if (!from)
		return;
	if (net_addr_from(from->free4.data, from->free4.len, &to->free4) < 0)
		to->free4 = (struct net_addr){0};
	if (net_addr_from(from->free6.data, from->free6.len, &to->free6) < 0)
		to->free6 = (struct net_addr){0};
}

void nets_apply(struct nets *nets, const Um__NetState *state, uint64_t mark)
{
	struct net *net;
	struct overlay_member *list = calloc(state->n_members + 1, sizeof(*list));
	struct overlay_guard guard;
	struct err err = ERR_INIT;
	size_t count = 0;
	bool all;
	int rc;

	if (!list || !state->vni || state->vni >= 1u << 24 ||
		strlen(state->name) > STR_FULLNAME_MAX || state->mtu > 65535 ||
		(net = get_net(nets, state)) == NULL) {
		log_error("a network that makes no sense is not made", LOG_U64("vni", state->vni));
		free(list);
		return;
	}
	(void)str_copy(net->name, sizeof(net->name), state->name);
	net->mark = mark;
	parse_guard(state->guard, &guard);
	all = net->trouble || state->full || net->mtu != state->mtu ||
	      !same_guard(&net->guard, &guard);
	net->mtu = state->mtu;
	net->guard = guard;
	apply_removed(nets, net, state);
	if (state->full)
		drop_others(nets, net, state);
	for (size_t i = 0; i < state->n_members; i++) {
		struct net_member value, *m;

		if (parse_member(state->members[i], &value) < 0) {
			log_error("a member that makes no sense is left out",
				LOG_STR("network", net->name),
				LOG_STR("member", state->members[i]->name));
			continue;
		}
		m = set_member(nets, net, &value);
		if (m)
			to_overlay(m, &list[count++]);
	}
	rc = all ? program_all(nets, net, &err)
		 : program_delta(nets, net, state, list, count, &err);
	if (rc < 0)
		in_trouble(net, &err);
	free(list);
	save_soon(nets);
}

void nets_remove(struct nets *nets, uint32_t vni)
{
	const struct driver *d = &nets->agent->driver;
	struct net *net = nets_find(nets, vni);
	struct err err = ERR_INIT;

	if (d->ops->net_remove(d->self, vni, &err) < 0)
		log_error("a network cannot be removed", LOG_U64("vni", vni), LOG_ERR(&err));
	hosts_net_gone(nets->agent->hosts, vni);
	if (net)
		free_net(nets, net);
	save_soon(nets);
}

void nets_keep(struct nets *nets, uint64_t mark)
{
	struct agent *agent = nets->agent;
	size_t vnis = 0, slots = 0;
	uint32_t *list = calloc(nets_count(nets) + guests_count(agent->guests) + 1, sizeof(*list));
	struct net *net, *next;
	struct err err = ERR_INIT;

	HASH_ITER (hh, nets->all, net, next)
		if (net->mark != mark)
			nets_remove(nets, net->vni);
	if (!list)
		return;
	HASH_ITER (hh, nets->all, net, next)
		list[vnis++] = net->vni;
	for (struct guest *g = guests_first(agent->guests); g; g = guests_next(g))
		if (g->slot < GUESTS_SLOTS)
			list[vnis + slots++] = g->slot;
	if (agent->driver.ops->keep_only(agent->driver.self, list, vnis, list + vnis, slots, &err) <
		0)
		log_error("left-over devices cannot be removed", LOG_ERR(&err));
	free(list);
}

/* ---------------------------------------------------------------- on disk */

struct save_job {
	struct nets *nets;
	char path[PATH_MAX];
	uint8_t *data;
	size_t size;
	int rc;
	struct err err;
};

static void save_work(void *arg)
{
	struct save_job *job = arg;

	job->rc = fs_write_atomic(job->path, job->data, job->size, 0600, &job->err);
}

static struct save_job *new_job(struct nets *nets);

static void free_job(struct save_job *job)
{
	free(job->data);
	free(job);
}

static void save_done(void *arg, bool cancelled)
{
	struct save_job *job = arg;
	struct nets *nets = job->nets;

	nets->saving = false;
	/* The agent ends before the pool came to it, or while it was at an older state:
	 * nobody is kept waiting any more. */
	if (nets->stopped && nets->again) {
		free_job(job);
		job = new_job(nets);
		cancelled = true;
	}
	if (job && cancelled)
		save_work(job);
	if (job && job->rc < 0)
		log_error("the networks cannot be saved", LOG_ERR(&job->err));
	/* There is none only when stopped. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
	if (!nets->stopped && (nets->again || job->rc < 0))
		save_soon(nets);
	nets->again = false;
	if (job)
		free_job(job);
}

static void fill_member(const struct net_member *m, Um__NetMember *out, char *vtep)
{
	um__net_member__init(out);
	out->mac = (ProtobufCBinaryData){.len = 6, .data = (uint8_t *)(uintptr_t)m->mac.bytes};
	out->ip4 = (ProtobufCBinaryData){
		.len = net_addr_size(&m->ip4), .data = (uint8_t *)(uintptr_t)m->ip4.bytes};
	out->ip6 = (ProtobufCBinaryData){
		.len = net_addr_size(&m->ip6), .data = (uint8_t *)(uintptr_t)m->ip6.bytes};
	out->name = (char *)(uintptr_t)m->name;
	if (m->vtep.family)
		out->vtep = (char *)(uintptr_t)net_addr_text(vtep, &m->vtep);
}

/* Appends the network as field `networks` of a Desired: a part of a message is one. */
static bool pack_net(struct net *net, struct buf *out)
{
	size_t count = HASH_COUNT(net->members), i = 0;
	Um__NetMember *members = calloc(count + 1, sizeof(*members));
	Um__NetMember **pointers = calloc(count + 1, sizeof(*pointers));
	char(*vteps)[NET_ADDR_TEXT] = calloc(count + 1, sizeof(*vteps));
	Um__NetState state = UM__NET_STATE__INIT, *list = &state;
	Um__Guard guard = UM__GUARD__INIT;
	Um__Desired desired = UM__DESIRED__INIT;
	bool ok = members && pointers && vteps;

	for (struct net_member *m = ok ? net->members : NULL; m; m = m->hh.next, i++) {
		fill_member(m, &members[i], vteps[i]);
		pointers[i] = &members[i];
	}
	state.vni = net->vni;
	state.name = net->name;
	state.mtu = net->mtu;
	guard.free4 = (ProtobufCBinaryData){
		.len = net_addr_size(&net->guard.free4), .data = net->guard.free4.bytes};
	guard.free6 = (ProtobufCBinaryData){
		.len = net_addr_size(&net->guard.free6), .data = net->guard.free6.bytes};
	state.guard = net->guard.on ? &guard : NULL;
	state.full = true;
	state.members = pointers;
	state.n_members = i;
	desired.networks = &list;
	desired.n_networks = 1;
	if (ok && buf_reserve(out, um__desired__get_packed_size(&desired)))
		out->size += um__desired__pack(&desired, out->data + out->size);
	else
		ok = false;
	free(members);
	free(pointers);
	free(vteps);
	return ok;
}

/* All as it is now.  NULL: memory is short. */
static struct save_job *new_job(struct nets *nets)
{
	struct save_job *job;
	struct net *net, *next;
	struct buf out;
	bool ok = true;

	buf_init(&out);
	HASH_ITER (hh, nets->all, net, next)
		ok = ok && pack_net(net, &out);
	job = calloc(1, sizeof(*job));
	if (!ok || !job || agent_path(nets->agent, FILE_NAME, job->path, NULL) < 0) {
		buf_free(&out);
		free(job);
		return NULL;
	}
	job->nets = nets;
	job->data = buf_steal(&out, &job->size);
	return job;
}

static void save_now(void *arg)
{
	struct nets *nets = arg;
	struct save_job *job;

	if (nets->saving) {
		nets->again = true;
		return;
	}
	job = new_job(nets);
	if (!job) {
		save_soon(nets);
		return;
	}
	nets->saving = true;
	if (loop_work_run(nets->agent->loop, "networks", save_work, save_done, job, &job->err) <
		0) {
		job->rc = job->err.code;
		save_done(job, false);
	}
}

static void load(struct nets *nets)
{
	char path[PATH_MAX];
	struct err err = ERR_INIT;
	Um__Desired *desired = NULL;
	struct buf data;

	buf_init(&data);
	if (agent_path(nets->agent, FILE_NAME, path, &err) < 0 || access(path, F_OK) < 0 ||
		fs_read(path, FILE_BYTES_MAX, &data, &err) < 0) {
		if (err.code)
			log_warn("the networks are not known", LOG_ERR(&err));
	} else {
		desired = um__desired__unpack(NULL, data.size, data.data);
		if (!desired)
			log_warn("the networks are not known: the file is damaged",
				LOG_STR("file", path));
	}
	for (size_t i = 0; desired && i < desired->n_networks; i++)
		nets_apply(nets, desired->networks[i], 0);
	if (desired)
		um__desired__free_unpacked(desired, NULL);
	buf_free(&data);
	loop_timer_disarm(nets->save);
}

int nets_open(struct agent *agent, struct nets **out, struct err *err)
{
	struct nets *nets = calloc(1, sizeof(*nets));
	int rc;

	if (!nets)
		return err_set(err, -ENOMEM, "memory is short");
	nets->agent = agent;
	rc = loop_timer_open(agent->loop, "networks", save_now, nets, &nets->save, err);
	if (rc < 0) {
		free(nets);
		return rc;
	}
	agent->nets = nets;
	load(nets);
	*out = nets;
	return 0;
}

void nets_stop(struct nets *nets)
{
	if (!nets || nets->stopped)
		return;
	if (loop_timer_armed(nets->save))
		save_now(nets);
	nets->stopped = true;
	loop_timer_close(nets->save);
}

void nets_free(struct nets *nets)
{
	struct net *net, *next;

	if (!nets)
		return;
	HASH_ITER (hh, nets->all, net, next)
		free_net(nets, net);
	free(nets);
}
