#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/core_int.h"

void core_meta(const struct core *core, struct core_meta *out)
{
	*out = core->meta;
}

void core_load_meta(struct core *core, const struct core_meta *meta)
{
	core->meta = *meta;
}

int core_load_host(struct core *core, const struct core_hostfacts *facts, bool cordoned,
	uint64_t joined_at, struct err *err)
{
	struct core_host *host;
	int rc;

	if (host_get(core, facts->name))
		return err_set(err, -EPROTO, "host %s is stored twice", facts->name);
	rc = host_new(core, facts, &host, err);
	if (rc < 0)
		return rc;
	host->cordoned = cordoned;
	host->joined_at = joined_at;
	host->state = CORE_HOST_JOINING;
	return 0;
}

static const struct core_netspec *spec_named(const struct core_apply *apply, const char *name)
{
	for (size_t i = 0; i < apply->network_count; i++)
		if (strcmp(apply->networks[i].name, name) == 0)
			return &apply->networks[i];
	return NULL;
}

int core_load_deployment(struct core *core, const struct core_apply *apply, bool deleting,
	uint64_t revision, uint64_t created_at, uint64_t changed_at,
	const struct core_load_network *networks, size_t count, struct err *err)
{
	struct core_deployment *deployment;
	int rc;

	HASH_FIND_STR(core->deployments, apply->name, deployment);
	if (deployment)
		return err_set(err, -EPROTO, "deployment %s is stored twice", apply->name);
	deployment = calloc(1, sizeof(*deployment));
	if (!deployment)
		return err_set(err, -ENOMEM, "memory is short for deployment %s", apply->name);
	deployment->core = core;
	deployment->gang = apply->gang;
	(void)str_copy(deployment->name, sizeof(deployment->name), apply->name);
	deployment->deleting = deleting;
	deployment->revision = revision;
	deployment->created_at = created_at;
	deployment->changed_at = changed_at;
	HASH_ADD_STR(core->deployments, name, deployment);
	for (size_t i = 0; i < count; i++) {
		const struct core_netspec *spec = spec_named(apply, networks[i].name);
		struct core_network *network;

		if (!spec)
			continue;
		rc = network_new(
			core, deployment, spec, networks[i].vni, networks[i].mtu, &network, err);
		if (rc < 0)
			return rc;
		network->cursor4 = networks[i].cursor4;
		network->cursor6 = networks[i].cursor6;
		if (network->vni > core->vni_cursor)
			core->vni_cursor = network->vni;
	}
	for (size_t i = 0; i < apply->group_count; i++) {
		if (!group_new(core, deployment, &apply->groups[i], err))
			return err->code;
	}
	return 0;
}

/* The network of a NIC: by its VNI, as a lab may have dropped a network and have a new
 * one of that name.  One that left the lab lives on in the guests on their way out: its
 * VNI must go to nobody else while a host still has it. */
static int nic_network(struct core_guest *guest, const struct core_load_guest *load, size_t i,
	struct core_network **out, struct err *err)
{
	const struct core_load_nic *nic = &load->nics[i];
	struct core *core = guest->deployment->core;
	struct core_netspec spec = {0};
	struct core_network *network;
	int rc;

	*out = deployment_network(guest->deployment, nic->network);
	if (*out && (!nic->vni || (*out)->vni == nic->vni))
		return 0;
	if (!load->deleting || !nic->vni)
		return err_set(err, -EPROTO, "guest %s: network '%s' is not stored", load->name,
			nic->network);
	HASH_FIND(hh_vni, core->by_vni, &nic->vni, sizeof(nic->vni), network);
	if (network && network->leaving && network->deployment == guest->deployment) {
		*out = network;
		return 0;
	}
	(void)str_copy(spec.name, sizeof(spec.name), nic->network);
	rc = network_new(core, guest->deployment, &spec, nic->vni, 0, &network, err);
	if (rc < 0)
		return rc;
	network_leave(network);
	if (network->vni > core->vni_cursor)
		core->vni_cursor = network->vni;
	*out = network;
	return 0;
}

static int load_nics(struct core_guest *guest, const struct core_load_guest *load, struct err *err)
{
	if (!load->nic_count)
		return 0;
	guest->nics = calloc(load->nic_count, sizeof(*guest->nics));
	if (!guest->nics)
		return err_set(err, -ENOMEM, "memory is short for guest %s", load->name);
	for (size_t i = 0; i < load->nic_count; i++) {
		struct core_network *network = NULL;
		struct core_nic *nic = &guest->nics[guest->nic_count];
		int rc = nic_network(guest, load, i, &network, err);

		if (rc < 0)
			return rc;
		nic->guest = guest;
		nic->index = (uint32_t)i;
		rc = alloc_restore(nic, network, &load->nics[i], err);
		if (rc < 0)
			return rc;
		guest->nic_count++;
	}
	return 0;
}

int core_load_guest(struct core *core, const struct core_load_guest *load, struct err *err)
{
	struct core_deployment *deployment;
	struct core_group *group = NULL;
	struct core_guest *guest;
	struct core_host *host = NULL;
	struct core_out none = {0};
	int rc;

	HASH_FIND_STR(core->deployments, load->deployment, deployment);
	if (!deployment)
		return err_set(err, -EPROTO, "guest %s: its deployment is not stored", load->name);
	if (!load->deleting) {
		group = deployment_group(deployment, load->group);
		if (!group)
			return err_set(err, -EPROTO, "guest %s: its group '%s' is not stored",
				load->name, load->group);
	}
	if (*load->host) {
		host = host_get(core, load->host);
		if (!host)
			return err_set(err, -EPROTO, "guest %s: its host '%s' is not stored",
				load->name, load->host);
	}
	if (core_guest(core, load->uid) || load->uid > core->meta.next_uid)
		return err_set(err, -EPROTO,
			"guest %s: uid %llu is stored twice or from the future", load->name,
			(unsigned long long)load->uid);
	guest = guest_new(core, deployment, group, load->number, load->name, load->uid, err);
	if (!guest)
		return err->code;
	guest->want_run = load->want_run;
	guest->deleting = load->deleting;
	guest->phase = load->phase;
	guest->epoch = load->epoch;
	guest->generation = load->generation;
	guest->disk_generation = load->disk_generation;
	guest->started_at = load->started_at;
	guest->created_at = load->created_at;
	guest->memory = load->memory;
	guest->disk = load->disk;
	guest->cpu = load->cpu;
	guest->restarts = load->restarts;
	guest->exit_status = load->exit_status;
	guest->evicted = load->evicted;
	guest->unfenced = load->unfenced;
	guest->from_move = load->from_move;
	guest_set_reason(guest, load->reason);
	text_set(core, &guest->placed_because, load->placed_because);
	rc = load_nics(guest, load, err);
	if (rc < 0)
		return rc;
	if (host) {
		guest_attach_host(guest, host);
		guest_set_ready(guest, load->ready);
		/* The host is told everything when it says hello. */
		netplan_placed(guest, &none);
		core_out_free(&none);
		if (none.failed)
			return err_set(err, -ENOMEM, "memory is short");
	} else if (!guest->deleting && guest->want_run) {
		guest_pend(core, guest);
	}
	return 0;
}

int core_loaded(
	struct core *core, uint64_t now, uint64_t mono, struct core_out *out, struct err *err)
{
	struct core_deployment *deployment, *next;
	struct core_guest *guest, *next_guest;
	struct core_host *host;
	uint64_t lease = core->config.lease_ms;

	(void)now;
	(void)err;
	drain_loaded(core);
	orphan_loaded(core);
	if (core->meta.lease_ms < lease) {
		core->meta.lease_ms = (uint32_t)lease;
		out_dirty(out, CORE_KIND_META, "meta");
	}
	/* With the same share of margin as ours. */
	core->granted_until = mono + core->meta.lease_ms +
			      core->meta.lease_ms * (uint64_t)core->config.margin_ms / lease;
	DL_FOREACH (core->host_list, host)
		host->seen_mono = mono;
	/* What was being removed and had no host is gone by now. */
	HASH_ITER (hh, core->deployments, deployment, next) {
		bool last = deployment->deleting && !deployment->guest_count;

		if (last) {
			out_dirty(out, CORE_KIND_DEPLOYMENT, deployment->name);
			deployment_free(core, deployment);
			continue;
		}
		uint32_t count = deployment->guest_count;

		DL_FOREACH_SAFE2(deployment->leaving, guest, next_guest, group_next)
		{
			if (guest->host)
				continue;
			count--;
			guest_gone(core, guest, out);
			if (!count)
				break;
		}
	}
	return 0;
}
