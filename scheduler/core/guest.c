#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "scheduler/core/core_int.h"

void guest_name(char out[CORE_FULLNAME], const char *deployment, const struct core_groupspec *spec,
	uint32_t number)
{
	if (spec->count_set)
		(void)snprintf(out, CORE_FULLNAME, "%s/%s-%u", deployment, spec->name, number);
	else
		(void)snprintf(out, CORE_FULLNAME, "%s/%s", deployment, spec->name);
}

struct core_guest *guest_new(struct core *core, struct core_deployment *deployment,
	struct core_group *group, uint32_t number, const char *name, uint64_t uid, struct err *err)
{
	size_t name_size = strlen(name) + 1;
	struct core_guest *guest = calloc(1, sizeof(*guest) + name_size);

	if (!guest) {
		(void)err_set(err, -ENOMEM, "memory is short for guest %s", name);
		return NULL;
	}
	guest->uid = uid;
	guest->deployment = deployment;
	guest->group = group;
	guest->number = number;
	/* The name is behind the struct: one piece of memory a guest. */
	memcpy(guest + 1, name, name_size);
	guest->name = (const char *)(guest + 1);
	guest->reason = guest->placed_because = text_none;
	guest->want_run = true;
	guest->phase = CORE_PENDING;
	guest->generation = guest->disk_generation = 1;
	guest->exit_status = -1;
	HASH_ADD(hh, core->guests, uid, sizeof(guest->uid), guest);
	if (group) {
		guest->memory = group->spec.memory;
		guest->cpu = group->spec.cpu;
		guest->disk = group->spec.disk;
		guest->exclusive = group->spec.rules && group->spec.rules->exclusive;
		HASH_ADD_KEYPTR(
			hh_name, core->by_name, guest->name, (unsigned)strlen(guest->name), guest);
		DL_APPEND2(group->guests, guest, group_prev, group_next);
		group->guest_count++;
	} else {
		DL_APPEND2(deployment->leaving, guest, group_prev, group_next);
	}
	deployment->guest_count++;
	return guest;
}

void guest_set_ready(struct core_guest *guest, bool ready)
{
	if (guest->ready == ready)
		return;
	guest->ready = ready;
	if (ready) {
		guest->deployment->ready_count++;
		if (guest->host)
			guest->host->ready_count++;
	} else {
		guest->deployment->ready_count--;
		if (guest->host)
			guest->host->ready_count--;
	}
}

void guest_set_reason(struct core_guest *guest, const char *reason)
{
	char text[CORE_REASON];

	(void)snprintf(text, sizeof(text), "%s", reason);
	text_set(guest->deployment->core, &guest->reason, text);
}

void guest_set_phase(struct core_guest *guest, enum core_phase phase, const char *reason)
{
	guest->phase = phase;
	guest->final = false;
	if (reason)
		guest_set_reason(guest, reason);
	if (phase != CORE_RUNNING)
		guest_set_ready(guest, false);
}

void group_count_at(struct core_group *group, const struct core_host *host, int by)
{
	/* Counts only steer: where memory is short for one, invariant 13 tells. */
	(void)counts_add(&group->on_hosts, host->order, by);
	for (size_t i = 0; i < host->domain_count; i++)
		(void)counts_add(&group->on_domains, host->domains[i]->id, by);
}

/* Counts by host, by domain and by priority follow its place. */
void guest_count_place(struct core_guest *guest, int by)
{
	struct core_group *group = guest->group;
	struct core *core = guest->deployment->core;
	struct core_host *host = guest->host;

	if (!group)
		return;
	group_count_at(group, host, by);
	(void)counts_add(&core->priorities, place_priority_id(group->spec.priority), by);
}

void guest_attach_host(struct core_guest *guest, struct core_host *host)
{
	guest->host = host;
	DL_APPEND2(host->guests, guest, host_prev, host_next);
	host->guest_count++;
	host->ready_count += guest->ready;
	host->memory_reserved += guest->memory;
	host->cpu_reserved += guest->cpu;
	host->disk_reserved += guest->disk;
	host->exclusive_count += guest->exclusive;
	guest_count_place(guest, 1);
	index_moved(guest->deployment->core, host);
}

void guest_detach_host(struct core_guest *guest)
{
	struct core_host *host = guest->host;

	if (!host)
		return;
	guest_count_place(guest, -1);
	drain_left(guest->deployment->core, guest);
	DL_DELETE2(host->guests, guest, host_prev, host_next);
	host->guest_count--;
	host->ready_count -= guest->ready;
	host->memory_reserved -= guest->memory;
	host->cpu_reserved -= guest->cpu;
	host->disk_reserved -= guest->disk;
	host->exclusive_count -= guest->exclusive;
	guest->host = NULL;
	index_moved(guest->deployment->core, host);
}

static void reserve(
	struct core *core, struct core_guest *guest, uint64_t memory, uint32_t cpu, uint64_t disk)
{
	struct core_host *host = guest->host;

	if (host) {
		host->memory_reserved += memory - guest->memory;
		host->cpu_reserved += cpu - guest->cpu;
		host->disk_reserved += disk - guest->disk;
	}
	guest->memory = memory;
	guest->cpu = cpu;
	guest->disk = disk;
	if (host)
		index_moved(core, host);
}

#define LARGER(a, b) ((a) > (b) ? (a) : (b))

void guest_reserve(struct core *core, struct core_guest *guest, const struct core_groupspec *spec)
{
	bool exclusive = spec->rules && spec->rules->exclusive;

	if (guest->host)
		guest->host->exclusive_count += (uint32_t)exclusive - (uint32_t)guest->exclusive;
	guest->exclusive = exclusive;
	/* What runs there now may be larger: it keeps its room until it has ended. */
	if (guest->host)
		reserve(core, guest, LARGER(spec->memory, guest->memory),
			LARGER(spec->cpu, guest->cpu), LARGER(spec->disk, guest->disk));
	else
		reserve(core, guest, spec->memory, spec->cpu, spec->disk);
	if (guest->move)
		move_resized(core, guest->move);
}

void guest_settle(struct core *core, struct core_guest *guest)
{
	const struct core_groupspec *spec = &guest->group->spec;

	if (guest->memory == spec->memory && guest->cpu == spec->cpu && guest->disk == spec->disk)
		return;
	reserve(core, guest, spec->memory, spec->cpu, spec->disk);
	core->place_due = true;
}

void guest_unplace(
	struct core *core, struct core_guest *guest, const char *reason, struct core_out *out)
{
	move_off(core, guest, reason, out);
	netplan_leaving(guest, out);
	guest_set_ready(guest, false);
	guest_detach_host(guest);
	guest->evicted = false;
	/* What it wrote stays where it was. */
	guest->disk_generation++;
	guest->cow_bytes = 0;
	text_set(core, &guest->placed_because, "");
	for (uint32_t i = 0; i < guest->nic_count; i++)
		netplan_member(&guest->nics[i], out);
	if (guest->want_run) {
		guest_set_phase(guest, CORE_PENDING, reason);
		guest_pend(core, guest);
	} else {
		guest_set_phase(guest, CORE_STOPPED, reason);
	}
	core->place_due = true;
	out_dirty_guest(out, guest);
}

void guest_pend(struct core *core, struct core_guest *guest)
{
	struct core_group *group = guest->group;

	if (guest->pending || !group)
		return;
	guest_settle(core, guest);
	guest->pending = true;
	DL_APPEND2(group->pending, guest, pending_prev, pending_next);
	group->pending_count++;
	place_wait(core, group);
}

void guest_unpend(struct core *core, struct core_guest *guest)
{
	if (!guest->pending)
		return;
	guest->pending = false;
	DL_DELETE2(guest->group->pending, guest, pending_prev, pending_next);
	guest->group->pending_count--;
	place_wait(core, guest->group);
}

int guest_make_nics(struct core_guest *guest, const struct core_groupspec *spec, struct err *err)
{
	if (!spec->nic_count)
		return 0;
	guest->nics = calloc(spec->nic_count, sizeof(*guest->nics));
	if (!guest->nics)
		return err_set(err, -ENOMEM, "memory is short for guest %s", guest->name);
	for (size_t i = 0; i < spec->nic_count; i++) {
		struct core_nic *nic = &guest->nics[i];
		struct core_network *network =
			deployment_network(guest->deployment, spec->nics[i].network);
		int rc;

		if (!network)
			return err_set(err, -EINVAL, "guest %s: no network '%s'", guest->name,
				spec->nics[i].network);
		nic->guest = guest;
		nic->index = (uint32_t)i;
		rc = alloc_nic(nic, network, &spec->nics[i], err);
		if (rc < 0)
			return rc;
		guest->nic_count++;
	}
	return 0;
}

void guest_drop_nics(struct core *core, struct core_guest *guest, struct core_out *out)
{
	for (uint32_t i = 0; i < guest->nic_count; i++) {
		struct core_nic *nic = &guest->nics[i];

		if (out && nic->network)
			netplan_member_gone(nic->network, &nic->mac, out);
		alloc_release(core, nic);
	}
	free(guest->nics);
	guest->nics = NULL;
	guest->nic_count = 0;
}

void guest_free(struct core *core, struct core_guest *guest)
{
	struct core_deployment *deployment = guest->deployment;

	guest_set_ready(guest, false);
	orphan_guest_freed(guest);
	guest_drop_nics(core, guest, NULL);
	guest_unpend(core, guest);
	guest_detach_host(guest);
	HASH_DEL(core->guests, guest);
	text_set(core, &guest->reason, "");
	text_set(core, &guest->placed_because, "");
	if (guest->group) {
		HASH_DELETE(hh_name, core->by_name, guest);
		DL_DELETE2(guest->group->guests, guest, group_prev, group_next);
		guest->group->guest_count--;
	} else {
		DL_DELETE2(deployment->leaving, guest, group_prev, group_next);
	}
	deployment->guest_count--;
	free(guest);
}

void guest_delete(struct core *core, struct core_guest *guest, struct core_out *out)
{
	struct core_deployment *deployment = guest->deployment;

	if (guest->deleting)
		return;
	guest->deleting = true;
	guest->want_run = false;
	move_off(core, guest, "the guest was deleted", out);
	orphan_forget(core, guest, out);
	guest_unpend(core, guest);
	if (guest->host)
		guest_count_place(guest, -1);
	HASH_DELETE(hh_name, core->by_name, guest);
	DL_DELETE2(guest->group->guests, guest, group_prev, group_next);
	guest->group->guest_count--;
	guest->group = NULL;
	DL_APPEND2(deployment->leaving, guest, group_prev, group_next);
	out_dirty_guest(out, guest);
	if (!guest->host) {
		guest_gone(core, guest, out);
		return;
	}
	guest_set_ready(guest, false);
	guest_set_reason(guest, "is being removed");
	out_tell_remove(out, guest->host->name, guest->uid, guest->epoch);
}

void guest_gone(struct core *core, struct core_guest *guest, struct core_out *out)
{
	struct core_deployment *deployment = guest->deployment;

	out_dirty_guest(out, guest);
	out_log(out, "guest", guest->name, "Removed", false, guest->host ? guest->host->name : "",
		"nothing of it is left");
	if (guest->host)
		netplan_leaving(guest, out);
	guest_drop_nics(core, guest, out);
	guest_free(core, guest);
	core->place_due = true;
	if (deployment->deleting && !deployment->guest_count) {
		out_dirty(out, CORE_KIND_DEPLOYMENT, deployment->name);
		out_log(out, "deployment", deployment->name, "Deleted", false, "", "all is gone");
		deployment_free(core, deployment);
	}
}

int core_guest_verb(struct core *core, uint64_t uid, enum core_verb verb, uint64_t now,
	struct core_out *out, struct err *err)
{
	struct core_guest *guest;

	(void)now;
	HASH_FIND(hh, core->guests, &uid, sizeof(uid), guest);
	if (!guest || guest->deleting)
		return err_set(err, -ENOENT, "no such guest");
	switch (verb) {
	case CORE_START:
		/* A guest that has failed for good is tried anew as well. */
		if (guest->want_run && guest->phase != CORE_FAILED)
			return 0;
		if (guest->phase == CORE_FAILED)
			guest->generation++;
		guest->want_run = true;
		break;
	case CORE_STOP:
		if (!guest->want_run)
			return 0;
		guest->want_run = false;
		break;
	case CORE_RESTART:
		guest->want_run = true;
		guest->generation++;
		break;
	case CORE_RECOVER:
		if (loss_recover(core, guest, out, err) < 0)
			return err->code;
		break;
	}
	loss_started(core, guest, out);
	guest->final = false;
	out_dirty_guest(out, guest);
	if (guest->host) {
		out_tell_guest(out, guest);
	} else if (guest->want_run) {
		guest_set_phase(guest, CORE_PENDING, "");
		guest_pend(core, guest);
	} else {
		guest_unpend(core, guest);
		guest_set_phase(guest, CORE_STOPPED, "stopped before it had a host");
	}
	out_log(out, "guest", guest->name,
		verb == CORE_START     ? "Start"
		: verb == CORE_STOP    ? "Stop"
		: verb == CORE_RECOVER ? "Recover"
				       : "Restart",
		false, guest->host ? guest->host->name : "", "asked for by a user");
	place_pending(core, now, out);
	return 0;
}
