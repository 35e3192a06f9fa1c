/* What clients are shown, made from the core's state. */
#include <stdio.h>
#include <string.h>

#include "scheduler/core/drain.h"
#include "scheduler/serve/serve_int.h"

/* A type cannot stand in parentheses. NOLINTBEGIN(bugprone-macro-parentheses) */
#define NEW(a, Type, INIT)                               \
	({                                               \
		Type *p_ = arena_get((a), sizeof(Type)); \
		*p_ = (Type)INIT;                        \
		p_;                                      \
	})
/* NOLINTEND(bugprone-macro-parentheses) */

Um__Nic *view_nic(const struct core_nic *nic, struct arena *a)
{
	Um__Nic *out = NEW(a, Um__Nic, UM__NIC__INIT);
	const struct core_network *n = nic->network;

	out->index = nic->index;
	out->vni = n->vni;
	out->network = arena_str(a, n->spec.name);
	out->mac = arena_bytes(a, nic->mac.bytes, 6);
	out->ip4 = arena_bytes(a, nic->ip4.bytes, net_addr_size(&nic->ip4));
	out->ip6 = arena_bytes(a, nic->ip6.bytes, net_addr_size(&nic->ip6));
	out->prefix4 = n->spec.prefix4.len;
	out->prefix6 = n->spec.prefix6.len;
	out->mtu = n->mtu;
	out->announce = nic->announce;
	/* The gateway itself has none. */
	if (!net_addr_equal(&n->spec.gateway4, &nic->ip4))
		out->gateway4 =
			arena_bytes(a, n->spec.gateway4.bytes, net_addr_size(&n->spec.gateway4));
	if (!net_addr_equal(&n->spec.gateway6, &nic->ip6))
		out->gateway6 =
			arena_bytes(a, n->spec.gateway6.bytes, net_addr_size(&n->spec.gateway6));
	return out;
}

Um__GuestInfo *view_guest(
	const struct serve *s, const struct core_guest *g, bool detail, struct arena *a)
{
	Um__GuestInfo *out = NEW(a, Um__GuestInfo, UM__GUEST_INFO__INIT);
	Um__GroupSpec *group = NULL;

	out->name = arena_str(a, g->name);
	out->host = arena_str(a, g->host ? g->host->name : "");
	out->state = arena_str(a, g->deleting ? "deleting" : core_phase_name(g->phase));
	out->ready = g->ready;
	out->reason = arena_str(a, g->reason);
	if (g->group) {
		out->image = arena_str(a, g->group->spec.image);
		out->kernel = arena_str(a, g->group->spec.kernel);
		group = labs_group(s, g->deployment->name, g->group->spec.name);
	}
	out->memory_bytes = g->memory;
	out->cpu_milli = g->cpu;
	out->n_nics = g->nic_count;
	out->nics = (Um__Nic **)arena_list(a, g->nic_count);
	for (uint32_t i = 0; i < g->nic_count; i++)
		out->nics[i] = view_nic(&g->nics[i], a);
	out->epoch = g->epoch;
	out->restarts = g->restarts;
	out->started_at = g->started_at;
	out->uid = g->uid;
	out->desired = arena_str(a, g->deleting ? "gone" : g->want_run ? "running" : "stopped");
	out->exit_status = g->exit_status;
	out->placed_because = arena_str(a, g->placed_because);
	out->cow_bytes = g->cow_bytes;
	out->created_at = g->created_at;
	out->final = g->final;
	if (detail && group)
		out->spec = group->guest;
	if (detail)
		out->boot = boots_view(s, g->uid, a);
	return out;
}

static const char *drained(const struct core_host *h)
{
	return h->drain->ended_at ? "drained" : "draining";
}

Um__HostInfo *view_host(const struct serve *s, const struct core_host *h, struct arena *a)
{
	Um__HostInfo *out = NEW(a, Um__HostInfo, UM__HOST_INFO__INIT);
	struct agent *agent = agents_by_host(s, h->name);
	char text[NET_ADDR_TEXT], taint[FACTS_TAINT];

	out->name = arena_str(a, h->name);
	out->state = arena_str(a, h->state != CORE_HOST_UP ? core_host_state_name(h->state)
				  : h->drain		   ? drained(h)
				  : h->cordoned		   ? "cordoned"
				  : h->avoid_until	   ? "avoided"
							   : "up");
	out->memory_bytes = h->memory;
	out->memory_reserved = h->memory_reserved;
	out->cpu_milli = h->cpu;
	out->cpu_reserved = h->cpu_reserved;
	out->disk_bytes = h->disk;
	out->disk_free = h->disk_free;
	out->guests = h->guest_count;
	out->guests_ready = h->ready_count;
	out->vtep = arena_str(a, net_addr_text(text, &h->vtep));
	out->underlay_mtu = h->underlay_mtu;
	out->last_seen = h->last_seen;
	out->joined_at = h->joined_at;
	out->avoid_until = h->avoid_until;
	out->drain = drains_view(h, a);
	out->n_labels = h->labels.count;
	out->labels = (Um__HostInfo__LabelsEntry **)arena_list(a, h->labels.count);
	for (size_t i = 0; i < h->labels.count; i++) {
		out->labels[i] =
			NEW(a, Um__HostInfo__LabelsEntry, UM__HOST_INFO__LABELS_ENTRY__INIT);
		out->labels[i]->key = arena_str(a, h->labels.items[i].key);
		out->labels[i]->value = arena_str(a, h->labels.items[i].value);
	}
	out->taints = (char **)arena_list(a, h->taints.count);
	for (size_t i = 0; i < h->taints.count; i++) {
		facts_taint_text(&h->taints.items[i], taint);
		out->taints[out->n_taints++] = arena_str(a, taint);
	}
	if (agent) {
		out->agent_version = arena_str(a, agent->facts->agent_version);
		out->kernel_release = arena_str(a, agent->facts->kernel_release);
		out->memory_used = agent->memory_used;
	}
	return out;
}

Um__NetworkInfo *view_network(const struct core_network *n, struct arena *a)
{
	Um__NetworkInfo *out = NEW(a, Um__NetworkInfo, UM__NETWORK_INFO__INIT);
	char text[NET_ADDR_TEXT];

	out->name = arena_str(a, n->name);
	out->vni = n->vni;
	out->subnet = arena_str(a, net_prefix_text(text, &n->spec.prefix4));
	out->subnet6 = arena_str(a, net_prefix_text(text, &n->spec.prefix6));
	out->gateway = arena_str(a, net_addr_text(text, &n->spec.gateway4));
	out->gateway6 = arena_str(a, net_addr_text(text, &n->spec.gateway6));
	out->mtu = n->mtu;
	out->spoofing =
		n->spec.guarded ? UM__SPOOFING__SPOOFING_DENY : UM__SPOOFING__SPOOFING_ALLOW;
	out->members = n->member_count;
	out->hosts = n->hosts.used;
	return out;
}

Um__DeploymentInfo *view_deployment(
	const struct serve *s, const struct core_deployment *d, bool detail, struct arena *a)
{
	Um__DeploymentInfo *out = NEW(a, Um__DeploymentInfo, UM__DEPLOYMENT_INFO__INIT);

	out->name = arena_str(a, d->name);
	out->guests = d->guest_count;
	out->ready = d->ready_count;
	out->networks = d->network_count;
	out->revision = d->revision;
	out->created_at = d->created_at;
	out->changed_at = d->changed_at;
	out->deleting = d->deleting;
	if (detail)
		out->spec = labs_spec(s, d->name);
	return out;
}
