#include "clusterctl/show.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lib/net.h"
#include "lib/str.h"
#include "lib/units.h"

static const char *const host_columns[] = {
	"NAME", "STATE", "GUESTS", "READY", "MEMORY", "CPUS", "ADDRESS", "MTU", "AGE"};
static const char *const host_wide[] = {"NAME", "STATE", "GUESTS", "READY", "MEMORY", "CPUS",
	"ADDRESS", "MTU", "AGE", "DISK FREE", "LABELS", "TAINTS", "AGENT", "KERNEL", "SEEN"};
static const char *const guest_columns[] = {
	"NAME", "HOST", "STATE", "READY", "ADDRESSES", "RESTARTS", "AGE", "REASON"};
static const char *const guest_wide[] = {"NAME", "HOST", "STATE", "READY", "ADDRESSES", "RESTARTS",
	"AGE", "REASON", "IMAGE", "KERNEL", "MEMORY", "CPUS", "EPOCH", "UID", "DISK"};
static const char *const network_columns[] = {
	"NAME", "SUBNET", "SUBNET6", "GATEWAY", "MTU", "MEMBERS", "HOSTS", "VNI"};
static const char *const network_wide[] = {"NAME", "SUBNET", "SUBNET6", "GATEWAY", "MTU", "MEMBERS",
	"HOSTS", "VNI", "GATEWAY6", "SPOOFING"};
static const char *const artefact_columns[] = {
	"NAME", "SIZE", "ALLOCATED", "HOSTS", "USED BY", "AGE", "ID"};
static const char *const kernel_columns[] = {
	"NAME", "RELEASE", "SIZE", "MODULES", "HOSTS", "USED BY", "AGE", "FEATURES"};
static const char *const kernel_wide[] = {
	"NAME", "RELEASE", "SIZE", "MODULES", "HOSTS", "USED BY", "AGE", "FEATURES", "ID"};
static const char *const deployment_columns[] = {
	"NAME", "READY", "GUESTS", "NETWORKS", "REVISION", "AGE", "STATE"};
static const char *const migration_columns[] = {"GUEST", "FROM", "TO", "STATE", "ROUND", "DONE",
	"LEFT", "RATE", "DOWNTIME", "AGE", "REASON"};
static const char *const migration_wide[] = {"GUEST", "FROM", "TO", "STATE", "ROUND", "DONE",
	"LEFT", "RATE", "DOWNTIME", "AGE", "REASON", "NUMBER", "ON THE WIRE", "TOOK", "DRAIN"};
static const char *const orphan_columns[] = {
	"GUEST", "HOST", "STATE", "SIZE", "AGE", "EPOCH", "REASON"};
static const char *const orphan_wide[] = {
	"GUEST", "HOST", "STATE", "SIZE", "AGE", "EPOCH", "REASON", "UID", "RUNS", "DISK", "BASE"};
static const char *const event_columns[] = {"AGE", "TYPE", "OBJECT", "HOST", "REASON", "MESSAGE"};

#define FEATURES_SHOWN 3
#define N(a) (sizeof(a) / sizeof((a)[0]))

static const struct kind kinds[] = {
	{UM__KIND__KIND_HOSTS, {"hosts", "host", "h", NULL}, host_columns, host_wide,
		N(host_columns), N(host_wide)},
	{UM__KIND__KIND_GUESTS, {"guests", "guest", "g", NULL}, guest_columns, guest_wide,
		N(guest_columns), N(guest_wide)},
	{UM__KIND__KIND_NETWORKS, {"networks", "network", "net", NULL}, network_columns,
		network_wide, N(network_columns), N(network_wide)},
	{UM__KIND__KIND_IMAGES, {"images", "image", "img", NULL}, artefact_columns,
		artefact_columns, N(artefact_columns), N(artefact_columns)},
	{UM__KIND__KIND_KERNELS, {"kernels", "kernel", "k", NULL}, kernel_columns, kernel_wide,
		N(kernel_columns), N(kernel_wide)},
	{UM__KIND__KIND_DEPLOYMENTS, {"deployments", "deployment", "dep", NULL}, deployment_columns,
		deployment_columns, N(deployment_columns), N(deployment_columns)},
	{UM__KIND__KIND_EVENTS, {"events", "event", "ev", NULL}, event_columns, event_columns,
		N(event_columns), N(event_columns)},
	{UM__KIND__KIND_MIGRATIONS, {"migrations", "migration", "mig", NULL}, migration_columns,
		migration_wide, N(migration_columns), N(migration_wide)},
	{UM__KIND__KIND_ORPHANS, {"orphans", "orphan", "orph", NULL}, orphan_columns, orphan_wide,
		N(orphan_columns), N(orphan_wide)},
};

const struct kind *kind_find(const char *name)
{
	for (size_t i = 0; i < N(kinds); i++)
		for (size_t k = 0; kinds[i].names[k]; k++)
			if (strcmp(kinds[i].names[k], name) == 0)
				return &kinds[i];
	return NULL;
}

int kind_unknown(const struct ctl *ctl, const char *name)
{
	const char *all[4 * N(kinds)], *near;
	size_t n = 0;

	for (size_t i = 0; i < N(kinds); i++)
		for (size_t k = 0; kinds[i].names[k]; k++)
			all[n++] = kinds[i].names[k];
	near = str_nearest(name, all, n);
	return ctl_usage(ctl, "'%s' is none of %s%s%s%s", name, kind_names(),
		near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

const char *kind_names(void)
{
	return "hosts, guests, networks, images, kernels, deployments, events, migrations, "
	       "orphans";
}

size_t show_count(const Um__GetReply *r, Um__Kind kind)
{
	switch (kind) {
	case UM__KIND__KIND_HOSTS:
		return r->n_hosts;
	case UM__KIND__KIND_GUESTS:
		return r->n_guests;
	case UM__KIND__KIND_NETWORKS:
		return r->n_networks;
	case UM__KIND__KIND_IMAGES:
	case UM__KIND__KIND_KERNELS:
		return r->n_artefacts;
	case UM__KIND__KIND_DEPLOYMENTS:
		return r->n_deployments;
	case UM__KIND__KIND_EVENTS:
		return r->n_events;
	case UM__KIND__KIND_MIGRATIONS:
		return r->n_migrations;
	case UM__KIND__KIND_ORPHANS:
		return r->n_orphans;
	default:
		return 0;
	}
}

const char *show_name(const Um__GetReply *r, Um__Kind kind, size_t i)
{
	switch (kind) {
	case UM__KIND__KIND_HOSTS:
		return r->hosts[i]->name;
	case UM__KIND__KIND_GUESTS:
		return r->guests[i]->name;
	case UM__KIND__KIND_NETWORKS:
		return r->networks[i]->name;
	case UM__KIND__KIND_IMAGES:
	case UM__KIND__KIND_KERNELS:
		return r->artefacts[i]->name;
	case UM__KIND__KIND_DEPLOYMENTS:
		return r->deployments[i]->name;
	case UM__KIND__KIND_EVENTS:
		return r->events[i]->name;
	case UM__KIND__KIND_MIGRATIONS:
		return r->migrations[i]->guest;
	case UM__KIND__KIND_ORPHANS:
		return r->orphans[i]->disk->name;
	default:
		return "";
	}
}

void show_key(const Um__GetReply *r, Um__Kind kind, size_t i, char key[128])
{
	if (kind == UM__KIND__KIND_GUESTS)
		(void)str_format(key, 128, "%016" PRIx64, r->guests[i]->uid);
	else if (kind == UM__KIND__KIND_MIGRATIONS)
		(void)str_format(key, 128, "%016" PRIx64, r->migrations[i]->move);
	else if (kind == UM__KIND__KIND_ORPHANS)
		(void)str_format(key, 128, "%016" PRIx64, r->orphans[i]->disk->epoch);
	else
		(void)str_copy(key, 128, show_name(r, kind, i));
}

static const char *addr_text(char buf[NET_ADDR_TEXT], const ProtobufCBinaryData *data)
{
	struct net_addr addr;

	buf[0] = 0;
	if (net_addr_from(data->data, data->len, &addr) == 0)
		(void)net_addr_text(buf, &addr);
	return buf;
}

static const char *mac_text(char buf[NET_ADDR_TEXT], const ProtobufCBinaryData *data)
{
	struct net_mac mac;

	buf[0] = 0;
	if (data->len == 6) {
		memcpy(mac.bytes, data->data, 6);
		(void)net_mac_text(buf, &mac);
	}
	return buf;
}

const char *show_meta(const Um__ArtefactInfo *a, const char *key)
{
	for (size_t i = 0; i < a->n_meta; i++)
		if (strcmp(a->meta[i]->key, key) == 0)
			return a->meta[i]->value;
	return "";
}

static void id_text(char out[65], const ProtobufCBinaryData *id)
{
	out[0] = 0;
	if (id->len == 32)
		str_hex(out, id->data, 32);
}

/* ---------------------------------------------------------------- tables */

static void host_cells(const Um__HostInfo *h, bool wide, struct table *t)
{
	char a[UNITS_TEXT], b[UNITS_TEXT], age[32];
	struct buf labels;

	table_add(t, h->name);
	table_add(t, h->state);
	table_addf(t, "%u", h->guests);
	table_addf(t, "%u", h->guests_ready);
	table_addf(t, "%s/%s", units_size(a, h->memory_reserved), units_size(b, h->memory_bytes));
	table_addf(t, "%s/%s", units_cpus(a, h->cpu_reserved), units_cpus(b, h->cpu_milli));
	table_add(t, h->vtep);
	table_addf(t, "%u", h->underlay_mtu);
	table_add(t, out_age(age, h->joined_at));
	if (!wide)
		return;
	buf_init(&labels);
	for (size_t i = 0; i < h->n_labels; i++)
		buf_printf(
			&labels, "%s%s=%s", i ? "," : "", h->labels[i]->key, h->labels[i]->value);
	table_add(t, units_size(a, h->disk_free));
	table_add(t, buf_text(&labels));
	labels.size = 0;
	for (size_t i = 0; i < h->n_taints; i++)
		buf_printf(&labels, "%s%s", i ? "," : "", h->taints[i]);
	table_add(t, buf_text(&labels));
	table_add(t, h->agent_version);
	table_add(t, h->kernel_release);
	table_add(t, out_age(age, h->last_seen));
	buf_free(&labels);
}

static void guest_cells(const Um__GuestInfo *g, bool wide, struct table *t)
{
	char text[NET_ADDR_TEXT], size[UNITS_TEXT], age[32];
	struct buf list;

	buf_init(&list);
	for (size_t i = 0; i < g->n_nics; i++) {
		const char *a = addr_text(text, &g->nics[i]->ip4);

		if (!*a)
			a = addr_text(text, &g->nics[i]->ip6);
		buf_printf(&list, "%s%s", i ? "," : "", a);
	}
	table_add(t, g->name);
	table_add(t, g->host);
	table_add(t, g->state);
	table_add(t, g->ready ? "yes" : "no");
	table_add(t, buf_text(&list));
	table_addf(t, "%u", g->restarts);
	table_add(t, out_age(age, g->started_at));
	table_add(t, g->ready ? "" : g->reason);
	buf_free(&list);
	if (!wide)
		return;
	table_add(t, g->image);
	table_add(t, g->kernel);
	table_add(t, units_size(size, g->memory_bytes));
	table_add(t, units_cpus(size, g->cpu_milli));
	table_addf(t, "%" PRIu64, g->epoch);
	table_addf(t, "%016" PRIx64, g->uid);
	table_add(t, units_size(size, g->cow_bytes));
}

static const char *spoofing(const Um__NetworkInfo *n)
{
	return n->spoofing == UM__SPOOFING__SPOOFING_DENY ? "deny" : "allow";
}

static void network_cells(const Um__NetworkInfo *n, bool wide, struct table *t)
{
	table_add(t, n->name);
	table_add(t, n->subnet);
	table_add(t, n->subnet6);
	table_add(t, n->gateway);
	table_addf(t, "%u", n->mtu);
	table_addf(t, "%u", n->members);
	table_addf(t, "%u", n->hosts);
	table_addf(t, "%u", n->vni);
	if (!wide)
		return;
	table_add(t, n->gateway6);
	table_add(t, spoofing(n));
}

/* The first few, and how many more there are. */
static void features_cell(const char *features, bool wide, struct table *t)
{
	const char *p = strchr(features, ',');
	size_t more = 1;

	for (int i = 1; i < FEATURES_SHOWN && p; i++)
		p = strchr(p + 1, ',');
	if (!*features || wide || !p) {
		table_add(t, *features ? features : "-");
		return;
	}
	for (const char *c = p + 1; *c; c++)
		more += *c == ',';
	table_addf(t, "%.*s +%zu", (int)(p - features), features, more);
}

static void artefact_cells(const Um__ArtefactInfo *a, bool kernel, bool wide, struct table *t)
{
	char size[UNITS_TEXT], age[32], id[65];

	table_add(t, a->name);
	if (kernel)
		table_add(t, show_meta(a, "release"));
	table_add(t, units_size(size, a->size));
	table_add(t, kernel ? a->modules_id.len ? "yes" : "no" : units_size(size, a->allocated));
	table_addf(t, "%u", a->hosts);
	table_addf(t, "%u", a->used_by);
	table_add(t, out_age(age, a->created_at));
	if (kernel)
		features_cell(show_meta(a, "features"), wide, t);
	if (kernel && !wide)
		return;
	id_text(id, &a->id);
	table_addf(t, "%.12s", id);
}

static void deployment_cells(const Um__DeploymentInfo *d, struct table *t)
{
	char age[32];

	table_add(t, d->name);
	table_addf(t, "%u/%u", d->ready, d->guests);
	table_addf(t, "%u", d->guests);
	table_addf(t, "%u", d->networks);
	table_addf(t, "%" PRIu64, d->revision);
	table_add(t, out_age(age, d->created_at));
	table_add(t, d->deleting ? "deleting" : d->ready == d->guests ? "ready" : "changing");
}

static void event_cells(const Um__EventInfo *e, struct table *t)
{
	char age[32];

	table_add(t, out_age(age, e->time));
	table_add(t, e->warning ? "warning" : "normal");
	table_addf(t, "%s %s", e->kind, e->name);
	table_add(t, e->host);
	table_add(t, e->reason);
	table_add(t, e->message);
}

bool show_cells(const Um__GetReply *r, Um__Kind kind, size_t i, bool wide, struct table *t)
{
	if (i >= show_count(r, kind))
		return false;
	switch (kind) {
	case UM__KIND__KIND_HOSTS:
		host_cells(r->hosts[i], wide, t);
		break;
	case UM__KIND__KIND_GUESTS:
		guest_cells(r->guests[i], wide, t);
		break;
	case UM__KIND__KIND_NETWORKS:
		network_cells(r->networks[i], wide, t);
		break;
	case UM__KIND__KIND_IMAGES:
		artefact_cells(r->artefacts[i], false, wide, t);
		break;
	case UM__KIND__KIND_KERNELS:
		artefact_cells(r->artefacts[i], true, wide, t);
		break;
	case UM__KIND__KIND_DEPLOYMENTS:
		deployment_cells(r->deployments[i], t);
		break;
	case UM__KIND__KIND_EVENTS:
		event_cells(r->events[i], t);
		break;
	case UM__KIND__KIND_MIGRATIONS:
		show_move_cells(r->migrations[i], wide, t);
		break;
	case UM__KIND__KIND_ORPHANS:
		show_orphan_cells(r->orphans[i], wide, t);
		break;
	default:
		return false;
	}
	return true;
}

/* ---------------------------------------------------------------- JSON */

void show_time_json(struct json *j, const char *key, uint64_t when)
{
	char text[40];

	json_str(j, key, when ? out_time(text, when) : NULL);
}

static void drain_json(const Um__HostDrain *d, struct json *j)
{
	json_object(j, "drain");
	json_u64(j, "guests_at_start", d->total);
	json_u64(j, "moving", d->moving);
	json_u64(j, "stuck", d->stuck);
	json_str(j, "reason", *d->reason ? d->reason : NULL);
	json_u64(j, "parallel", d->parallel);
	json_u64(j, "rate", d->rate);
	show_time_json(j, "started_at", d->started_at);
	show_time_json(j, "ended_at", d->ended_at);
	show_time_json(j, "retry_at", d->retry_at);
	json_end(j);
}

static void host_json(const Um__HostInfo *h, struct json *j)
{
	json_str(j, "name", h->name);
	json_str(j, "state", h->state);
	json_u64(j, "memory_bytes", h->memory_bytes);
	json_u64(j, "memory_reserved_bytes", h->memory_reserved);
	json_u64(j, "memory_used_bytes", h->memory_used);
	json_double(j, "cpus", h->cpu_milli / 1000.0);
	json_double(j, "cpus_reserved", h->cpu_reserved / 1000.0);
	json_u64(j, "disk_bytes", h->disk_bytes);
	json_u64(j, "disk_free_bytes", h->disk_free);
	json_u64(j, "guests", h->guests);
	json_u64(j, "guests_ready", h->guests_ready);
	json_str(j, "address", h->vtep);
	json_u64(j, "underlay_mtu", h->underlay_mtu);
	json_object(j, "labels");
	for (size_t i = 0; i < h->n_labels; i++)
		json_str(j, h->labels[i]->key, h->labels[i]->value);
	json_end(j);
	json_array(j, "taints");
	for (size_t i = 0; i < h->n_taints; i++)
		json_str(j, NULL, h->taints[i]);
	json_end(j);
	if (h->drain)
		drain_json(h->drain, j);
	json_str(j, "agent_version", h->agent_version);
	json_str(j, "kernel_release", h->kernel_release);
	show_time_json(j, "joined_at", h->joined_at);
	show_time_json(j, "last_seen", h->last_seen);
}

static void guest_json(const Um__GuestInfo *g, struct json *j)
{
	char text[NET_ADDR_TEXT], uid[20];

	json_str(j, "name", g->name);
	json_str(j, "host", *g->host ? g->host : NULL);
	json_str(j, "state", g->state);
	json_bool(j, "ready", g->ready);
	json_str(j, "reason", g->reason);
	json_str(j, "image", g->image);
	json_str(j, "kernel", g->kernel);
	json_u64(j, "memory_bytes", g->memory_bytes);
	json_double(j, "cpus", g->cpu_milli / 1000.0);
	json_array(j, "networks");
	for (size_t i = 0; i < g->n_nics; i++) {
		json_object(j, NULL);
		json_str(j, "network", g->nics[i]->network);
		json_str(j, "address",
			g->nics[i]->ip4.len ? addr_text(text, &g->nics[i]->ip4) : NULL);
		if (g->nics[i]->ip6.len)
			json_str(j, "address6", addr_text(text, &g->nics[i]->ip6));
		json_str(j, "mac", mac_text(text, &g->nics[i]->mac));
		json_end(j);
	}
	json_end(j);
	json_u64(j, "epoch", g->epoch);
	json_u64(j, "restarts", g->restarts);
	show_time_json(j, "started_at", g->started_at);
	show_time_json(j, "created_at", g->created_at);
	(void)str_format(uid, sizeof(uid), "%016" PRIx64, g->uid);
	json_str(j, "uid", uid);
	json_str(j, "desired", g->desired);
	json_i64(j, "exit_status", g->exit_status);
	json_bool(j, "final", g->final);
	json_str(j, "placed_because", g->placed_because);
	json_u64(j, "disk_used_bytes", g->cow_bytes);
}

void show_features(struct json *j, const char *features)
{
	json_array(j, "features");
	for (const char *p = features; *p; p += strcspn(p, ","), p += *p == ',')
		json_strn(j, NULL, p, strcspn(p, ","));
	json_end(j);
}

void show_artefact(const Um__ArtefactInfo *a, struct json *j)
{
	char id[65];

	json_str(j, "name", a->name);
	id_text(id, &a->id);
	json_str(j, "id", id);
	json_u64(j, "size_bytes", a->size);
	json_u64(j, "allocated_bytes", a->allocated);
	if (a->kind == UM__ARTEFACT_KIND__ARTEFACT_KERNEL) {
		json_str(j, "release", show_meta(a, "release"));
		json_bool(j, "modules", a->modules_id.len > 0);
		show_features(j, show_meta(a, "features"));
	}
	json_object(j, "meta");
	for (size_t i = 0; i < a->n_meta; i++)
		if (strcmp(a->meta[i]->key, "config") != 0)
			json_str(j, a->meta[i]->key, a->meta[i]->value);
	json_end(j);
	json_u64(j, "hosts", a->hosts);
	json_u64(j, "used_by", a->used_by);
	show_time_json(j, "created_at", a->created_at);
}

static void other_json(const Um__GetReply *r, Um__Kind kind, size_t i, struct json *j)
{
	if (kind == UM__KIND__KIND_NETWORKS) {
		const Um__NetworkInfo *n = r->networks[i];

		json_str(j, "name", n->name);
		json_u64(j, "vni", n->vni);
		json_str(j, "subnet", *n->subnet ? n->subnet : NULL);
		json_str(j, "subnet6", *n->subnet6 ? n->subnet6 : NULL);
		json_str(j, "gateway", *n->gateway ? n->gateway : NULL);
		json_str(j, "gateway6", *n->gateway6 ? n->gateway6 : NULL);
		json_u64(j, "mtu", n->mtu);
		json_str(j, "spoofing", spoofing(n));
		json_u64(j, "members", n->members);
		json_u64(j, "hosts", n->hosts);
	} else if (kind == UM__KIND__KIND_DEPLOYMENTS) {
		const Um__DeploymentInfo *d = r->deployments[i];

		json_str(j, "name", d->name);
		json_u64(j, "guests", d->guests);
		json_u64(j, "ready", d->ready);
		json_u64(j, "networks", d->networks);
		json_u64(j, "revision", d->revision);
		json_bool(j, "deleting", d->deleting);
		show_time_json(j, "created_at", d->created_at);
		show_time_json(j, "changed_at", d->changed_at);
	} else {
		const Um__EventInfo *e = r->events[i];

		json_u64(j, "seq", e->seq);
		show_time_json(j, "time", e->time);
		json_str(j, "kind", e->kind);
		json_str(j, "name", e->name);
		json_str(j, "host", *e->host ? e->host : NULL);
		json_str(j, "reason", e->reason);
		json_str(j, "message", e->message);
		json_bool(j, "warning", e->warning);
	}
}

bool show_json(const Um__GetReply *r, Um__Kind kind, size_t i, struct json *j)
{
	if (i >= show_count(r, kind))
		return false;
	json_object(j, NULL);
	switch (kind) {
	case UM__KIND__KIND_HOSTS:
		host_json(r->hosts[i], j);
		break;
	case UM__KIND__KIND_GUESTS:
		guest_json(r->guests[i], j);
		break;
	case UM__KIND__KIND_IMAGES:
	case UM__KIND__KIND_KERNELS:
		show_artefact(r->artefacts[i], j);
		break;
	case UM__KIND__KIND_MIGRATIONS:
		show_move_json(r->migrations[i], j);
		break;
	case UM__KIND__KIND_ORPHANS:
		show_orphan_json(r->orphans[i], j);
		break;
	default:
		other_json(r, kind, i, j);
		break;
	}
	json_end(j);
	return true;
}
