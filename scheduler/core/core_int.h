/* core_int: what the files of the core share. */
#ifndef UMLAUT_SCHEDULER_CORE_CORE_INT_H
#define UMLAUT_SCHEDULER_CORE_CORE_INT_H

#include "scheduler/core/core.h"
#include "scheduler/core/drain.h"
#include "scheduler/core/index.h"
#include "scheduler/core/move.h"
#include "scheduler/core/orphan.h"
#include "scheduler/core/tables.h"
#include "scheduler/core/text.h"

struct core_text;

struct core {
	struct core_config config;
	struct core_host *hosts;     /* by name */
	struct core_host *host_list; /* the longest unheard first */
	struct core_deployment *deployments;
	struct core_guest *guests;  /* by uid */
	struct core_guest *by_name; /* without those that are being deleted */
	struct core_network *by_vni;
	struct index index;
	struct core_host **by_order;	 /* by host->order; NULL: free */
	uint32_t order_room, order_hint; /* none below the hint is free */
	struct core_text *texts;
	struct core_counts priorities; /* of placed guests: priority + 2^31 + 1 */
	/* Groups with pending guests.  Those FRESH were not tried yet; the others, the
	 * highest priority first, are tried in turns when room becomes free. */
	struct core_group *fresh;
	uint32_t fresh_count;
	uint64_t run_serial;
	struct core_group *waiting;
	uint32_t waiting_count;
	uint32_t retry_left; /* so many of them have not been tried since */
	struct core_group *retry_at;
	struct core_network *bulk; /* whose hosts are told at the end of the event */
	uint32_t vni_cursor;
	uint32_t auto_mtu; /* 0: to be computed */
	struct core_meta meta;
	uint64_t granted_until; /* monotonic: leases of our predecessors have ended by then */
	bool place_due;		/* room became free: try those that wait */
	struct core_host *avoided;
	struct core_move *moves;
	uint32_t moves_ended;	    /* of them */
	uint64_t rehearsed;	    /* of them, in dry runs */
	bool moves_due;		    /* it may be the turn of some that wait */
	struct core_host *draining; /* by drain->next */
	bool drain_due;		    /* look at them at the end of the event */
	struct core_orphan *orphans;
};

/* out.c */
void out_dirty(struct core_out *out, enum core_kind kind, const char *key);
void out_dirty_guest(struct core_out *out, const struct core_guest *guest);
/* What is not stored of it changed: those who watch are told. */
void out_shown(struct core_out *out, enum core_kind kind, const char *key);
void out_action(struct core_out *out, const struct core_action *action);
void out_tell_guest(struct core_out *out, const struct core_guest *guest);
void out_tell_remove(struct core_out *out, const char *host, uint64_t uid, uint64_t epoch);
void out_log(struct core_out *out, const char *kind, const char *name, const char *reason,
	bool warning, const char *host, const char *fmt, ...) __attribute__((format(printf, 7, 8)));

/* loss.c: a host that was not heard of.  Returns the milliseconds until it should be
 * looked at again. */
uint64_t loss_tick(struct core *core, struct core_host *host, uint64_t silent, uint64_t now,
	uint64_t mono, struct core_out *out);
/* Heard of again.  RAN_SINCE: what its host said before the loss, 0: it had not started. */
void loss_back(
	struct core_guest *guest, enum core_phase before, uint64_t ran_since, struct core_out *out);
int loss_recover(
	struct core *core, struct core_guest *guest, struct core_out *out, struct err *err);
/* Stopped on a host that is lost since, and now to run. */
void loss_started(struct core *core, struct core_guest *guest, struct core_out *out);

/* avoid.c: back-off of hosts.  A guest could not be started there; one came up; the host
 * goes.  The tick returns the milliseconds until the next. */
void avoid_failed(struct core *core, struct core_host *host, const struct core_guest *guest,
	uint64_t now, struct core_out *out);
void avoid_fine(struct core *core, struct core_host *host, struct core_out *out);
void avoid_forget(struct core *core, struct core_host *host);
uint64_t avoid_tick(struct core *core, uint64_t now, struct core_out *out);

/* alloc.c: addresses, MACs, VNIs */
int alloc_vni(struct core *core, uint32_t *vni);
/* Gives NIC its MAC and addresses: those asked for, else the next free ones, and
 * makes it a member of NETWORK. -EADDRINUSE, -ENOSPC. */
int alloc_nic(struct core_nic *nic, struct core_network *network, const struct core_nicspec *want,
	struct err *err);
void alloc_release(struct core *core, struct core_nic *nic);
/* Takes back exactly what was given before (loading). */
int alloc_restore(struct core_nic *nic, struct core_network *network,
	const struct core_load_nic *load, struct err *err);

/* guest.c */
struct core_guest *guest_new(struct core *core, struct core_deployment *deployment,
	struct core_group *group, uint32_t number, const char *name, uint64_t uid, struct err *err);
void guest_free(struct core *core, struct core_guest *guest);
int guest_make_nics(struct core_guest *guest, const struct core_groupspec *spec, struct err *err);
void guest_drop_nics(struct core *core, struct core_guest *guest, struct core_out *out);
void guest_set_ready(struct core_guest *guest, bool ready);
/* REASON NULL: as it is. */
void guest_set_phase(struct core_guest *guest, enum core_phase phase, const char *reason);
void guest_set_reason(struct core_guest *guest, const char *reason);
void guest_attach_host(struct core_guest *guest, struct core_host *host);
void guest_detach_host(struct core_guest *guest);
/* Its group's counts on its host. */
void guest_count_place(struct core_guest *guest, int by);
/* Of GROUP on HOST and in its domains. */
void group_count_at(struct core_group *group, const struct core_host *host, int by);
void guest_pend(struct core *core, struct core_guest *guest);
void guest_unpend(struct core *core, struct core_guest *guest);
/* Nothing of it is on its host any more: it waits for a place again, from its image. */
void guest_unplace(
	struct core *core, struct core_guest *guest, const char *reason, struct core_out *out);
/* What is reserved for it becomes that of SPEC. */
void guest_reserve(struct core *core, struct core_guest *guest, const struct core_groupspec *spec);
/* Nothing of an older spec runs any more: it has what its spec says, no more. */
void guest_settle(struct core *core, struct core_guest *guest);
/* Leaves its group; told to its host to go, or gone at once when it has none. */
void guest_delete(struct core *core, struct core_guest *guest, struct core_out *out);
/* Nothing of it is left: forgets it, and its deployment with the last one. */
void guest_gone(struct core *core, struct core_guest *guest, struct core_out *out);
void guest_name(char out[CORE_FULLNAME], const char *deployment, const struct core_groupspec *spec,
	uint32_t number);

/* deployment.c */
void deployment_free(struct core *core, struct core_deployment *deployment);
/* With a copy of its rules; the labels that they name are put to use. */
struct core_group *group_new(struct core *core, struct core_deployment *deployment,
	const struct core_groupspec *spec, struct err *err);
int group_set_spec(struct core *core, struct core_group *group, const struct core_groupspec *spec,
	struct err *err);
void group_free(struct core *core, struct core_group *group);
struct core_network *deployment_network(const struct core_deployment *deployment, const char *name);
struct core_group *deployment_group(const struct core_deployment *deployment, const char *name);
int network_new(struct core *core, struct core_deployment *deployment,
	const struct core_netspec *spec, uint32_t vni, uint32_t mtu, struct core_network **out,
	struct err *err);
/* No longer wanted: its name is free, it goes with its last member. */
void network_leave(struct core_network *network);
void network_forget_name(struct core_network *network);
void network_free(struct core *core, struct core_network *network);
/* What the hosts' underlays allow (the smallest less the encapsulation). */
uint32_t network_auto_mtu(struct core *core);

/* netplan.c: who must know of a guest's place */
void netplan_placed(struct core_guest *guest, struct core_out *out);
void netplan_leaving(struct core_guest *guest, struct core_out *out);
/* Members (names, addresses) of a network changed. */
void netplan_member(const struct core_nic *nic, struct core_out *out);
void netplan_member_gone(
	const struct core_network *network, const struct net_mac *mac, struct core_out *out);
/* From now to the end of the event changes of NETWORK are gathered: each of its hosts
 * is then told the whole network, once. */
void netplan_bulk(struct core *core, struct core_network *network);
void netplan_bulk_end(struct core *core, struct core_out *out);

/* place.c */
/* Gives a place to those that wait, as far as there is room. */
void place_pending(struct core *core, uint64_t now, struct core_out *out);
/* The host where a guest of GROUP would go, but not AVOID (or NULL); NULL and why. */
struct core_host *place_choose(struct core *core, struct core_group *group,
	const struct core_host *avoid, char because[CORE_REASON]);

/* On the list of groups that wait, or off it, as its pending guests say. */
void place_wait(struct core *core, struct core_group *group);
/* Stable. */
void place_sort(struct core_group **groups, size_t n, int (*cmp)(const void *, const void *));
/* GROUP has another priority than BEFORE. */
void place_priority_changed(struct core *core, struct core_group *group, int32_t before);
uint32_t place_priority_id(int32_t priority); /* for core->priorities */

/* fit.c: fills in plan->warning and shorts: what does not fit beside what is there. */
void fit_check(struct core *core, const struct core_apply *apply, struct core_plan *plan);
/* The same after the fact: of those that wait. */
void fit_pending(const struct core_deployment *deployment, struct core_plan *plan);

/* host.c */
struct core_host *host_get(const struct core *core, const char *name);
int host_new(struct core *core, const struct core_hostfacts *facts, struct core_host **out,
	struct err *err);
void host_free(struct core *core, struct core_host *host);

#endif
