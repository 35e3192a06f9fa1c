/* The scheduler's records in the store:
 *
 *   meta                    StoredMeta
 *   host/NAME               StoredHost
 *   deployment/NAME         StoredDeployment
 *   guest/UID16             StoredGuest
 *   move/NUMBER16           StoredMove
 *   orphan/EPOCH16          StoredOrphan
 *   key/PUBKEYHEX           StoredKey
 *   artefact/KIND/NAME      ArtefactInfo
 *   event/SEQ16             EventInfo
 */
#include <errno.h>
#include <stdarg.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/proc.h"
#include "scheduler/serve/serve_int.h"

static char *keyf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static char *keyf(struct arena *a, const char *fmt, ...)
{
	char text[STORE_KEY_MAX + 1];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return arena_str(a, text);
}

static void put(struct arena *a, struct store_op *op, const ProtobufCMessage *message)
{
	size_t size = protobuf_c_message_get_packed_size(message);
	/* An empty record is still a record. */
	uint8_t *data = arena_get(a, size ? size : 1);

	(void)protobuf_c_message_pack(message, data);
	op->value = data;
	op->size = size;
}

static void host_op(struct serve *s, const char *name, struct arena *a, struct store_op *op)
{
	const struct core_host *h = core_host(s->core, name);
	struct agent *agent = agents_by_host(s, name);
	Um__StoredHost record = UM__STORED_HOST__INIT;
	Um__HostFacts facts = UM__HOST_FACTS__INIT;

	op->key = keyf(a, "host/%s", name);
	if (!h)
		return;
	record.name = arena_str(a, h->name);
	record.cordoned = h->cordoned;
	record.joined_at = h->joined_at;
	record.drain = drains_view(h, a);
	record.facts = agent ? agent->facts : &facts;
	if (!agent)
		facts_of(h, &facts, a);
	put(a, op, &record.base);
}

static void deployment_op(struct serve *s, const char *name, struct arena *a, struct store_op *op)
{
	const struct core_deployment *d = core_deployment(s->core, name);
	Um__StoredDeployment record = UM__STORED_DEPLOYMENT__INIT;
	Um__DeploymentSpec empty = UM__DEPLOYMENT_SPEC__INIT;
	const struct core_network *n;
	const struct core_group *g;
	size_t networks = 0, groups = 0;

	op->key = keyf(a, "deployment/%s", name);
	if (!d)
		return;
	record.spec = labs_spec(s, name);
	if (!record.spec) {
		empty.name = arena_str(a, name);
		record.spec = &empty;
	}
	record.deleting = d->deleting;
	record.revision = d->revision;
	record.created_at = d->created_at;
	record.changed_at = d->changed_at;
	DL_FOREACH (d->networks, n)
		networks += !n->leaving;
	DL_FOREACH (d->groups, g)
		groups++;
	record.networks = (Um__StoredNetwork **)arena_list(a, networks);
	record.groups = (Um__StoredGroup **)arena_list(a, groups);
	DL_FOREACH (d->networks, n) {
		Um__StoredNetwork *r;

		if (n->leaving)
			continue;
		r = arena_get(a, sizeof(*r));
		um__stored_network__init(r);
		r->name = arena_str(a, n->spec.name);
		r->vni = n->vni;
		r->mtu = n->mtu;
		r->cursor4 = n->cursor4;
		r->cursor6 = n->cursor6;
		record.networks[record.n_networks++] = r;
	}
	DL_FOREACH (d->groups, g) {
		Um__StoredGroup *r = arena_get(a, sizeof(*r));

		um__stored_group__init(r);
		r->name = arena_str(a, g->spec.name);
		r->image_id = arena_bytes(a, g->spec.image_id, CORE_ID);
		r->kernel_id = arena_bytes(a, g->spec.kernel_id, CORE_ID);
		r->modules_id = arena_bytes(a, g->spec.modules_id, CORE_ID);
		r->boot_hash = g->spec.boot_hash;
		r->disk_hash = g->spec.disk_hash;
		r->kernel = arena_str(a, g->spec.kernel);
		r->disk_bytes = g->spec.disk;
		record.groups[record.n_groups++] = r;
	}
	put(a, op, &record.base);
}

static void guest_op(struct serve *s, const char *hex, struct arena *a, struct store_op *op)
{
	uint64_t uid = strtoull(hex, NULL, 16);
	const struct core_guest *g = core_guest(s->core, uid);
	Um__StoredGuest record = UM__STORED_GUEST__INIT;

	op->key = keyf(a, "guest/%s", hex);
	if (!g)
		return;
	record.uid = g->uid;
	record.deployment = arena_str(a, g->deployment->name);
	record.group = arena_str(a, g->group ? g->group->spec.name : "");
	record.number = g->number;
	record.name = arena_str(a, g->name);
	record.want_run = g->want_run;
	record.deleting = g->deleting;
	record.evicted = g->evicted;
	record.unfenced = g->unfenced;
	record.from_move = g->from_move;
	record.phase = (Um__Phase)g->phase;
	record.ready = g->ready;
	record.host = arena_str(a, g->host ? g->host->name : "");
	record.epoch = g->epoch;
	record.generation = g->generation;
	record.disk_generation = g->disk_generation;
	record.started_at = g->started_at;
	record.created_at = g->created_at;
	record.memory = g->memory;
	record.disk = g->disk;
	record.cpu = g->cpu;
	record.restarts = g->restarts;
	record.exit_status = g->exit_status;
	record.reason = arena_str(a, g->reason);
	record.placed_because = arena_str(a, g->placed_because);
	record.nics = (Um__Nic **)arena_list(a, g->nic_count);
	for (uint32_t i = 0; i < g->nic_count; i++)
		record.nics[record.n_nics++] = view_nic(&g->nics[i], a);
	put(a, op, &record.base);
}

static void move_op(struct serve *s, const char *hex, struct arena *a, struct store_op *op)
{
	Um__StoredMove *record = moves_record(s, strtoull(hex, NULL, 16), a);

	op->key = keyf(a, "move/%s", hex);
	if (record)
		put(a, op, &record->base);
}

static void orphan_op(struct serve *s, const char *hex, struct arena *a, struct store_op *op)
{
	Um__StoredOrphan *record = orphans_record_of(s, strtoull(hex, NULL, 16), a);

	op->key = keyf(a, "orphan/%s", hex);
	if (record)
		put(a, op, &record->base);
}

void records_op(
	struct serve *s, const struct core_dirty *dirty, struct arena *a, struct store_op *op)
{
	memset(op, 0, sizeof(*op));
	switch (dirty->kind) {
	case CORE_KIND_META: {
		Um__StoredMeta record = UM__STORED_META__INIT;
		struct core_meta meta;

		core_meta(s->core, &meta);
		record.next_uid = meta.next_uid;
		record.next_epoch = meta.next_epoch;
		record.lease_ms = meta.lease_ms;
		record.cluster_id = s->cluster_id;
		op->key = "meta";
		put(a, op, &record.base);
		break;
	}
	case CORE_KIND_HOST:
		host_op(s, dirty->key, a, op);
		break;
	case CORE_KIND_DEPLOYMENT:
		deployment_op(s, dirty->key, a, op);
		break;
	case CORE_KIND_GUEST:
		guest_op(s, dirty->key, a, op);
		break;
	case CORE_KIND_MOVE:
		move_op(s, dirty->key, a, op);
		break;
	case CORE_KIND_ORPHAN:
		orphan_op(s, dirty->key, a, op);
		break;
	}
}

void records_key(struct serve *s, const struct key *key, struct arena *a, struct store_op *op)
{
	Um__StoredKey record = UM__STORED_KEY__INIT;
	char hex[2 * CURVE_KEY + 1];

	(void)s;
	str_hex(hex, key->pubkey, CURVE_KEY);
	memset(op, 0, sizeof(*op));
	op->key = keyf(a, "key/%s", hex);
	record.pubkey = arena_bytes(a, key->pubkey, CURVE_KEY);
	record.role = arena_str(a, auth_role_name(key->role));
	record.name = arena_str(a, key->name);
	record.created_at = key->created_at;
	record.expires_at = key->expires_at;
	put(a, op, &record.base);
}

void records_artefact(const Um__ArtefactInfo *info, struct arena *a, struct store_op *op)
{
	records_artefact_gone(info, a, op);
	put(a, op, &info->base);
}

void records_artefact_gone(const Um__ArtefactInfo *info, struct arena *a, struct store_op *op)
{
	memset(op, 0, sizeof(*op));
	op->key = keyf(a, "artefact/%d/%s", (int)info->kind, info->name);
}

void records_event(const Um__EventInfo *event, struct arena *a, struct store_op *op)
{
	records_event_gone(event->seq, a, op);
	put(a, op, &event->base);
}

void records_event_gone(uint64_t seq, struct arena *a, struct store_op *op)
{
	memset(op, 0, sizeof(*op));
	op->key = keyf(a, "event/%016" PRIx64, seq);
}

/* ---------------------------------------------------------------- loading */

struct loading {
	struct serve *s;
	struct err *err;
};

static int bad(struct loading *l, const char *key)
{
	return err_set(l->err, -EBADMSG,
		"the record '%s' of the store cannot be read: restore the store from a backup",
		key);
}

static int load_meta(void *arg, const char *key, const void *value, size_t size, uint64_t revision)
{
	struct loading *l = arg;
	struct core_meta meta;
	Um__StoredMeta *r;

	(void)revision;
	if (strcmp(key, "meta") != 0)
		return 0;
	r = um__stored_meta__unpack(NULL, size, value);
	if (!r)
		return bad(l, key);
	meta.next_uid = r->next_uid;
	meta.next_epoch = r->next_epoch;
	meta.lease_ms = r->lease_ms;
	core_load_meta(l->s->core, &meta);
	(void)str_copy(l->s->cluster_id, sizeof(l->s->cluster_id), r->cluster_id);
	um__stored_meta__free_unpacked(r, NULL);
	return 0;
}

static int load_host(void *arg, const char *key, const void *value, size_t size, uint64_t revision)
{
	struct loading *l = arg;
	Um__StoredHost *r = um__stored_host__unpack(NULL, size, value);
	struct core_hostfacts facts = {0};
	int rc;

	(void)revision;
	if (!r || !r->facts || str_copy(facts.name, sizeof(facts.name), r->name) < 0) {
		um__stored_host__free_unpacked(r, NULL);
		return bad(l, key);
	}
	facts.memory = r->facts->memory_bytes;
	facts.cpu = r->facts->cpu_milli;
	facts.disk = r->facts->disk_bytes;
	facts.disk_free = r->facts->disk_free_bytes;
	facts.underlay_mtu = r->facts->underlay_mtu;
	(void)net_addr_parse(r->facts->vtep, &facts.vtep, NULL);
	rc = facts_convert(r->facts, &facts, l->err);
	if (rc == 0)
		rc = core_load_host(l->s->core, &facts, r->cordoned, r->joined_at, l->err);
	if (rc == 0 && r->drain)
		rc = drains_restore(l->s, r->name, r->drain, l->err);
	facts_free(&facts);
	um__stored_host__free_unpacked(r, NULL);
	return rc;
}

static void stored_groups(const Um__StoredDeployment *r, struct core_apply *apply)
{
	for (size_t i = 0; i < apply->group_count; i++) {
		struct core_groupspec *g = &apply->groups[i];

		for (size_t k = 0; k < r->n_groups; k++) {
			/* They are stored in the lab's order, as a rule. */
			const Um__StoredGroup *sg = r->groups[(i + k) % r->n_groups];

			if (strcmp(sg->name, g->name) != 0)
				continue;
			if (*sg->kernel)
				(void)str_copy(g->kernel, sizeof(g->kernel), sg->kernel);
			if (!g->disk)
				g->disk = sg->disk_bytes;
			if (sg->image_id.len == CORE_ID)
				memcpy(g->image_id, sg->image_id.data, CORE_ID);
			if (sg->kernel_id.len == CORE_ID)
				memcpy(g->kernel_id, sg->kernel_id.data, CORE_ID);
			if (sg->modules_id.len == CORE_ID)
				memcpy(g->modules_id, sg->modules_id.data, CORE_ID);
			g->boot_hash = sg->boot_hash;
			g->disk_hash = sg->disk_hash;
			break;
		}
	}
}

static int load_deployment(
	void *arg, const char *key, const void *value, size_t size, uint64_t revision)
{
	struct loading *l = arg;
	Um__StoredDeployment *r = um__stored_deployment__unpack(NULL, size, value);
	struct core_load_network *networks = NULL;
	struct core_apply apply = {0};
	int rc;

	(void)revision;
	if (!r || !r->spec) {
		um__stored_deployment__free_unpacked(r, NULL);
		return bad(l, key);
	}
	networks = calloc(r->n_networks + 1, sizeof(*networks));
	/* Images may have gone from the catalogue since: the stored ids count. */
	rc = networks ? labs_convert(NULL, r->spec, &apply, l->err) : -ENOMEM;
	if (rc == 0) {
		stored_groups(r, &apply);
		for (size_t i = 0; i < r->n_networks; i++)
			networks[i] = (struct core_load_network){.name = r->networks[i]->name,
				.vni = r->networks[i]->vni,
				.mtu = r->networks[i]->mtu,
				.cursor4 = r->networks[i]->cursor4,
				.cursor6 = r->networks[i]->cursor6};
		rc = core_load_deployment(l->s->core, &apply, r->deleting, r->revision,
			r->created_at, r->changed_at, networks, r->n_networks, l->err);
	}
	labs_apply_free(&apply);
	free(networks);
	if (rc == 0) {
		rc = labs_set(l->s, r->spec, l->err);
		r->spec = NULL;
	}
	um__stored_deployment__free_unpacked(r, NULL);
	return rc;
}

static int load_guest(void *arg, const char *key, const void *value, size_t size, uint64_t revision)
{
	struct loading *l = arg;
	Um__StoredGuest *r = um__stored_guest__unpack(NULL, size, value);
	struct core_load_guest g = {0};
	int rc = 0;

	(void)revision;
	if (!r || r->n_nics > CORE_NICS_MAX ||
		str_copy(g.deployment, sizeof(g.deployment), r->deployment) < 0 ||
		str_copy(g.group, sizeof(g.group), r->group) < 0 ||
		str_copy(g.name, sizeof(g.name), r->name) < 0 ||
		str_copy(g.host, sizeof(g.host), r->host) < 0) {
		um__stored_guest__free_unpacked(r, NULL);
		return bad(l, key);
	}
	g.uid = r->uid;
	g.number = r->number;
	g.want_run = r->want_run;
	g.deleting = r->deleting;
	g.unfenced = r->unfenced;
	g.from_move = r->from_move;
	g.evicted = r->evicted;
	g.phase = (enum core_phase)r->phase;
	g.ready = r->ready;
	g.epoch = r->epoch;
	g.generation = r->generation;
	g.disk_generation = r->disk_generation;
	g.started_at = r->started_at;
	g.created_at = r->created_at;
	g.memory = r->memory;
	g.disk = r->disk;
	g.cpu = r->cpu;
	g.restarts = r->restarts;
	g.exit_status = r->exit_status;
	(void)snprintf(g.reason, sizeof(g.reason), "%s", r->reason);
	(void)snprintf(g.placed_because, sizeof(g.placed_because), "%s", r->placed_because);
	for (size_t i = 0; rc == 0 && i < r->n_nics; i++) {
		struct core_load_nic *nic = &g.nics[g.nic_count++];

		if (str_copy(nic->network, sizeof(nic->network), r->nics[i]->network) < 0 ||
			r->nics[i]->mac.len != 6 ||
			net_addr_from(r->nics[i]->ip4.data, r->nics[i]->ip4.len, &nic->ip4) < 0 ||
			net_addr_from(r->nics[i]->ip6.data, r->nics[i]->ip6.len, &nic->ip6) < 0)
			rc = bad(l, key);
		else
			memcpy(nic->mac.bytes, r->nics[i]->mac.data, 6);
		nic->vni = r->nics[i]->vni;
		nic->announce = r->nics[i]->announce;
	}
	if (rc == 0)
		rc = core_load_guest(l->s->core, &g, l->err);
	um__stored_guest__free_unpacked(r, NULL);
	return rc;
}

static int load_move(void *arg, const char *key, const void *value, size_t size, uint64_t revision)
{
	struct loading *l = arg;
	Um__StoredMove *r = um__stored_move__unpack(NULL, size, value);
	int rc = r ? moves_restore(l->s, r, l->err) : bad(l, key);

	(void)revision;
	um__stored_move__free_unpacked(r, NULL);
	return rc;
}

static int load_orphan(
	void *arg, const char *key, const void *value, size_t size, uint64_t revision)
{
	struct loading *l = arg;
	Um__StoredOrphan *r = um__stored_orphan__unpack(NULL, size, value);
	int rc = r ? orphans_restore(l->s, r, l->err) : bad(l, key);

	(void)revision;
	um__stored_orphan__free_unpacked(r, NULL);
	return rc;
}

static int load_key(void *arg, const char *key, const void *value, size_t size, uint64_t revision)
{
	struct loading *l = arg;
	Um__StoredKey *r = um__stored_key__unpack(NULL, size, value);
	struct key *out;
	enum role role;
	int rc;

	(void)revision;
	if (!r || r->pubkey.len != CURVE_KEY || auth_role_parse(r->role, &role, NULL) < 0)
		rc = bad(l, key);
	else
		rc = auth_add(l->s, r->pubkey.data, role, r->name, r->expires_at, &out, l->err);
	if (rc == 0)
		out->created_at = r->created_at;
	um__stored_key__free_unpacked(r, NULL);
	return rc;
}

static int load_artefact(
	void *arg, const char *key, const void *value, size_t size, uint64_t revision)
{
	struct loading *l = arg;
	Um__ArtefactInfo *r = um__artefact_info__unpack(NULL, size, value);

	(void)revision;
	if (!r || r->id.len != CORE_ID) {
		um__artefact_info__free_unpacked(r, NULL);
		return bad(l, key);
	}
	return artefacts_put(l->s, r, l->err);
}

static int load_event(void *arg, const char *key, const void *value, size_t size, uint64_t revision)
{
	struct loading *l = arg;
	Um__EventInfo *r = um__event_info__unpack(NULL, size, value);

	(void)revision;
	if (!r)
		return bad(l, key);
	events_load(l->s, r);
	return 0;
}

int records_load(struct serve *s, struct err *err)
{
	struct loading l = {.s = s, .err = err};
	const struct {
		const char *prefix;
		store_each_fn *fn;
	} steps[] = {
		{"meta", load_meta},
		{"key/", load_key},
		{"artefact/", load_artefact},
		{"host/", load_host},
		{"deployment/", load_deployment},
		{"guest/", load_guest},
		{"move/", load_move},
		{"orphan/", load_orphan},
		{"event/", load_event},
	};
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < sizeof(steps) / sizeof(steps[0]); i++)
		rc = store_range(s->store, steps[i].prefix, steps[i].fn, &l, err);
	return rc;
}
