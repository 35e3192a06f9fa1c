/* core_int: what the files of the core share. */
#ifndef UMLAUT_SCHEDULER_CORE_CORE_INT_H
#define UMLAUT_SCHEDULER_CORE_CORE_INT_H

#include "scheduler/core/core.h"

struct core {
	struct core_config config;
	struct core_host *hosts;     /* by name */
	struct core_host *host_list; /* the longest unheard first */
	struct core_deployment *deployments;
	struct core_guest *guests;  /* by uid */
	struct core_guest *by_name; /* without those that are being deleted */
	struct core_network *by_vni;
	struct core_guest *pending, *pending_last;
	uint32_t vni_cursor;
	struct core_meta meta;
	bool place_due; /* capacity or demand changed: try the pending ones */
};

/* out.c */
void out_dirty(struct core_out *out, enum core_kind kind, const char *key);
void out_dirty_guest(struct core_out *out, const struct core_guest *guest);
void out_action(struct core_out *out, const struct core_action *action);
void out_tell_guest(struct core_out *out, const struct core_guest *guest);
void out_tell_remove(struct core_out *out, const char *host, uint64_t uid, uint64_t epoch);
void out_log(struct core_out *out, const char *kind, const char *name, const char *reason,
	bool warning, const char *host, const char *fmt, ...) __attribute__((format(printf, 7, 8)));

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
void guest_set_phase(struct core_guest *guest, enum core_phase phase, const char *reason);
void guest_attach_host(struct core_guest *guest, struct core_host *host);
void guest_detach_host(struct core_guest *guest);
void guest_pend(struct core *core, struct core_guest *guest);
void guest_unpend(struct core *core, struct core_guest *guest);
/* Leaves its group; told to its host to go, or gone at once when it has none. */
void guest_delete(struct core *core, struct core_guest *guest, struct core_out *out);
/* Nothing of it is left: forgets it, and its deployment with the last one. */
void guest_gone(struct core *core, struct core_guest *guest, struct core_out *out);
void guest_name(char out[CORE_FULLNAME], const char *deployment, const struct core_groupspec *spec,
	uint32_t number);

/* deployment.c */
void deployment_free(struct core *core, struct core_deployment *deployment);
struct core_network *deployment_network(const struct core_deployment *deployment, const char *name);
struct core_group *deployment_group(const struct core_deployment *deployment, const char *name);
int network_new(struct core *core, struct core_deployment *deployment,
	const struct core_netspec *spec, uint32_t vni, uint32_t mtu, struct core_network **out,
	struct err *err);
void network_free(struct core *core, struct core_network *network);
/* What the hosts' underlays allow (the smallest less the encapsulation). */
uint32_t network_auto_mtu(const struct core *core);

/* netplan.c: who must know of a guest's place */
void netplan_placed(struct core_guest *guest, struct core_out *out);
void netplan_leaving(struct core_guest *guest, struct core_out *out);
/* Members (names, addresses) of a network changed. */
void netplan_member(const struct core_nic *nic, struct core_out *out);
void netplan_member_gone(
	const struct core_network *network, const struct net_mac *mac, struct core_out *out);

/* place.c */
struct place_need {
	const struct core_groupspec *spec;
	const struct core_group *group; /* NULL in a dry run of a new one */
};
struct core_host *place_choose(
	struct core *core, const struct place_need *need, char because[CORE_REASON]);
void place_pending(struct core *core, uint64_t now, struct core_out *out);
/* "" when COUNT more guests of SPEC fit beside what is there. */
void place_fit(struct core *core, const struct core_apply *apply, char warning[CORE_REASON * 2]);

/* host.c */
struct core_host *host_get(const struct core *core, const char *name);
int host_new(struct core *core, const struct core_hostfacts *facts, struct core_host **out,
	struct err *err);
void host_free(struct core *core, struct core_host *host);

#endif
