/* core: every decision of the cluster, as a pure library.
 *
 * A `struct core` is the state of the whole cluster.  Each function below that
 * changes it is one event: it takes the state, what happened and `now`, and
 * appends to a `struct core_out`
 *   - what changed (`dirty`): records to be made durable, in this order;
 *   - what to do (`actions`): only after those records are durable;
 *   - what to tell people (`logs`).
 * Actions are level-triggered and may be repeated harmlessly: "tell host H about
 * guest G" means: as the state is when it is told.
 *
 * Pure: no clock, no I/O, no randomness, no globals (proved by the linker,
 * tests/check/purity.txt).  `now` is the wall clock in milliseconds; `mono` the
 * monotonic clock, used for leases only.  A failed event leaves no trace.
 *
 * Life of a host:
 *   JOINING  known from the store, not heard of since we started
 *   UP       its lease is good: may be given guests
 *   SUSPECT  no heartbeat for half a lease: nothing new is placed there
 *   LOST     no heartbeat for a lease: its guests are shown as lost; after the margin
 *            those whose policy says so are placed again (loss.c)
 * and the events: hello, heartbeat -> UP; tick -> SUSPECT, LOST.
 * Cordoned is a mark beside the state: nothing new is placed there.
 *
 * Life of a guest: see enum core_phase.  PENDING -> PLACED here; all others but
 * LOST are what its agent observed.  An epoch is given at each placement and
 * only grows: an agent that answers for an older one is told to remove it.
 *
 * Ownership: all structs below belong to the core and are for reading; pointers
 * stay good until the next event.  Strings passed in are copied.
 */
#ifndef UMLAUT_SCHEDULER_CORE_CORE_H
#define UMLAUT_SCHEDULER_CORE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>

#include "lib/err.h"
#include "lib/net.h"
#include "lib/str.h"

#define CORE_NAME (STR_NAME_MAX + 1)
#define CORE_FULLNAME (STR_FULLNAME_MAX + 1)
#define CORE_REASON 160
#define CORE_ID 32 /* an artefact's id */
#define CORE_NICS_MAX 32
#define CORE_VNI_MIN 1u
#define CORE_VNI_MAX 0xfffffeu

/* ---------------------------------------------------------------- state, for reading */

enum core_host_state { CORE_HOST_JOINING, CORE_HOST_UP, CORE_HOST_SUSPECT, CORE_HOST_LOST };

/* The numbers are those of Phase in proto/umlaut.proto. */
enum core_phase {
	CORE_UNKNOWN = 0,
	CORE_PENDING = 1,  /* no host yet; `placed_because` says why */
	CORE_PLACED = 2,   /* host chosen, agent not heard yet */
	CORE_FETCHING = 3, /* the host gets image or kernel */
	CORE_STARTING = 4, /* kernel started or waits for its turn */
	CORE_RUNNING = 5,  /* configured; `ready` when its probe passed */
	CORE_MIGRATING = 6,
	CORE_STOPPING = 7,
	CORE_STOPPED = 8,
	CORE_FAILED = 9,
	CORE_LOST = 10, /* its host is lost */
};

struct core_label {
	char key[CORE_NAME];
	char value[CORE_NAME];
};

struct core_labels {
	struct core_label *items;
	size_t count;
};

/* Guests keep off, unless they tolerate it; PREFERRED: if they can. */
struct core_taint {
	char key[CORE_NAME];
	char value[CORE_NAME]; /* or "" */
	bool preferred;
};

struct core_taints {
	struct core_taint *items;
	size_t count;
};

/* Capacity counts as so many thousandths of what is there; 0: as configured. */
struct core_overcommit {
	uint32_t memory, cpu, disk;
};

struct core_guest;
struct core_move;
struct core_drain;
struct core_orphan;
struct core_network;
struct core_group;
struct core_deployment;
struct core_nic;
struct index_class;
struct index_domain;

/* How many there are at a place: of a group on a host or in a domain (a value of a
 * label), of a network on a host.  Open addressing; empty slots have the id 0.  Small,
 * because there is one entry for nearly each guest. */
struct core_count {
	uint32_t id; /* host->order, or the domain's id */
	uint32_t count;
};
struct core_counts {
	struct core_count *slots;
	uint32_t room, used;
};

/* The NICs of a network by their address. */
struct core_addrs {
	struct core_nic **slots;
	uint32_t room, used;
};

/* A host's place in one of the two orders of its class (index.c). */
struct core_hostnode {
	struct core_hostnode *left, *right;
	struct core_host *host;
	uint64_t key;
	uint64_t memory, disk, cpu; /* the most that is free below, each for itself */
	uint32_t weight;
};

struct core_host {
	char name[CORE_NAME];
	enum core_host_state state;
	bool cordoned;
	struct core_drain *drain; /* it is being emptied, owned; NULL: not (drain.h) */
	bool released;		  /* lost, and what may be started elsewhere has left it */
	uint64_t lost_at;	  /* wall clock */
	uint32_t order;		  /* of joining, from 1: ties are broken by it */
	uint32_t exclusive_count; /* guests here that want no others */
	struct core_taints taints;
	struct core_overcommit overcommit;
	struct index_class *index_class; /* NULL: takes no guests now */
	struct index_domain **domains;	 /* its values of the labels that rules name */
	size_t domain_count;
	struct core_hostnode by_share, by_free;
	uint64_t free_memory, free_disk, free_cpu; /* as in the index */
	uint32_t troubles, avoided; /* in a row: guests that failed to start; times avoided */
	uint64_t trouble_uid;	    /* the last of them */
	uint64_t avoid_until;	    /* wall clock, 0: not avoided (avoid.c) */
	struct core_host *avoid_prev, *avoid_next;
	uint64_t looked_at;		    /* the run that has it among its candidates */
	const struct core_group *nominated; /* room is being made here for a guest of it */
	uint64_t memory, disk, disk_free;   /* bytes */
	uint32_t cpu;			    /* milli-CPUs */
	uint64_t memory_reserved, disk_reserved;
	uint32_t cpu_reserved;
	struct net_addr vtep;
	uint32_t underlay_mtu;
	struct core_labels labels;
	uint32_t guest_count, ready_count;
	uint32_t held_count;		/* moves that something is reserved for here */
	uint32_t copies_out, copies_in; /* as move_queue() counts them */
	uint64_t joined_at, last_seen;	/* wall clock */
	uint64_t seen_mono;		/* monotonic, for the lease */
	struct core_guest *guests;	/* list by host_prev/host_next */
	struct core_host *prev, *next;	/* all hosts, the longest unheard first */
	UT_hash_handle hh;
};

struct core_nic {
	struct core_guest *guest;
	struct core_network *network;
	uint32_t index;
	struct net_mac mac;
	struct net_addr ip4, ip6;     /* family 0: none */
	bool fixed4, fixed6;	      /* asked for by the user */
	bool announce;		      /* others may remember an address of it as another's */
	struct core_nic *prev, *next; /* members of the network */
};

struct core_netspec {
	char name[CORE_NAME];
	struct net_prefix prefix4, prefix6; /* addr.family 0: none */
	struct net_addr gateway4, gateway6; /* family 0: none */
	uint32_t mtu;			    /* 0: automatic */
	bool guarded;			    /* members send only from their own addresses */
};

struct core_network {
	struct core_deployment *deployment;
	struct core_netspec spec;
	char name[CORE_FULLNAME]; /* deployment/network */
	uint32_t vni;
	uint32_t mtu; /* in force */
	struct core_nic *members;
	uint32_t member_count;
	struct core_addrs by4, by6;
	uint64_t cursor4, cursor6; /* where the next search for a free address begins */
	struct core_counts hosts;  /* with members */
	bool leaving;		   /* no longer wanted; goes with its last member */
	bool bulk;		   /* changes are gathered: its hosts are told once */
	struct core_network *bulk_next;
	struct core_network *prev, *next; /* of the deployment */
	UT_hash_handle hh, hh_vni;	  /* by name in the deployment; by VNI */
};

struct core_nicspec {
	char network[CORE_NAME];
	struct net_addr ip4, ip6; /* family 0: automatic */
	struct net_mac mac;	  /* all zero: automatic */
};

enum core_strategy { CORE_SPREAD, CORE_PACK };
/* When its host is lost: started elsewhere from its image; comes back with its host;
 * stays as it is until a user acts. */
enum core_on_loss { CORE_LOSS_RESTART, CORE_LOSS_WAIT, CORE_LOSS_NONE };

/* What a guest asks of its host beyond room.  Preferred ones are broken where
 * nothing else is left.  The label "host" is the host's name. */
#define CORE_RULES_MAX 16
#define CORE_SPREADS_MAX 4
#define CORE_VALUES_MAX 16
enum core_cmp { CORE_IN, CORE_NOT_IN, CORE_EXISTS, CORE_ABSENT, CORE_AT_LEAST, CORE_AT_MOST };
struct core_expr {
	char key[CORE_NAME];
	enum core_cmp op;
	bool preferred;
	uint32_t value_count;
	char (*values)[CORE_NAME]; /* owned by the rules */
	int64_t number;
};
struct core_toleration {
	char key[CORE_NAME]; /* "": all taints */
	char value[CORE_NAME];
	bool any_value;
};
/* Beside, or apart from, guests of the group called GUEST in the same deployment.
 * To be apart, required, holds both ways: neither is put where the other is. */
struct core_affinity {
	char guest[CORE_NAME];
	char over[CORE_NAME]; /* a host label; "": the same host */
	bool apart, preferred;
};
/* Between the values of a label, its guests differ by MAX_SKEW at most. */
struct core_spread {
	char over[CORE_NAME]; /* "host": the hosts themselves */
	uint32_t max_skew;
	bool preferred;
};
struct core_rules {
	struct core_expr exprs[CORE_RULES_MAX];
	struct core_toleration tolerations[CORE_RULES_MAX];
	struct core_affinity affinities[CORE_RULES_MAX];
	struct core_spread spreads[CORE_SPREADS_MAX];
	size_t expr_count, toleration_count, affinity_count, spread_count;
	bool exclusive;
};
/* With all that it owns; NULL is fine. */
void core_rules_free(struct core_rules *rules);

/* What the scheduler must know of a group of guests alike.  The rest (files,
 * environment, scripts) stays with the caller; its hashes say what changed. */
struct core_groupspec {
	char name[CORE_NAME];
	bool count_set;
	uint32_t count;
	uint64_t memory, disk; /* bytes */
	uint32_t cpu;	       /* milli-CPUs */
	char image[CORE_FULLNAME], kernel[CORE_FULLNAME];
	uint8_t image_id[CORE_ID], kernel_id[CORE_ID], modules_id[CORE_ID];
	uint64_t boot_hash; /* another value: guests are restarted */
	uint64_t disk_hash; /* another value: guests get a new disk */
	struct core_nicspec nics[CORE_NICS_MAX];
	size_t nic_count;
	enum core_strategy strategy;
	char host[CORE_NAME];  /* fixed host, or "" */
	uint32_t max_per_host; /* 0: no limit */
	int32_t priority;
	enum core_on_loss on_loss;
	bool persistent; /* its disk stays: it is never evicted */
	/* NULL: none.  In a core_apply it is the caller's; a group has its own copy. */
	struct core_rules *rules;
};

struct core_group {
	struct core_deployment *deployment;
	struct core_groupspec spec;
	struct core_guest *guests;
	uint32_t guest_count;
	/* Of those placed, and of those that move, at their targets as well. */
	struct core_counts on_hosts, on_domains;
	uint32_t coming; /* the latter; as many are on their way from somewhere */
	struct core_guest *pending, *pending_last; /* by pending_next */
	uint32_t pending_count;
	/* While it has pending guests: not tried yet, or waiting for room. */
	enum { CORE_NO_LIST, CORE_FRESH, CORE_WAITING } list;
	struct core_group *wait_prev, *wait_next;
	struct core_group *apart_prev, *apart_next;
	struct core_group *with_prev, *with_next;
	bool apart, with;	   /* on those lists */
	bool marked;		   /* while a set is gathered (together.c) */
	struct core_host *nominee; /* where room is being made for it */
	const char *why;	   /* as its guests were told */
	struct core_group *prev, *next;
	UT_hash_handle hh;
};

struct core_deployment {
	struct core *core;
	char name[CORE_NAME];
	struct core_network *networks;
	struct core_group *groups;
	struct core_group *groups_by_name;
	struct core_group *aparts; /* groups with a required rule to be apart, by apart_next */
	struct core_group *withs;  /* and with one to be with others, by with_next */
	struct core_network *networks_by_name; /* without those leaving */
	uint32_t guest_count, ready_count, network_count;
	bool deleting, gang;
	uint64_t revision, created_at, changed_at;
	struct core_guest *leaving; /* removed from their groups, not yet gone (group list) */
	UT_hash_handle hh;
};

struct core_guest {
	uint64_t uid;
	struct core_deployment *deployment;
	struct core_group *group; /* NULL while deleting */
	uint32_t number;	  /* within the group, from 1 */
	const char *name;	  /* deployment/guest */
	bool want_run, deleting;
	bool evicted; /* leaves its host for one of higher priority, then waits again */
	/* What runs was started under a policy by which its agent does not end it when the
	 * lease does: it must not be started elsewhere. */
	bool unfenced;
	enum core_phase phase;
	bool ready;
	bool final;		/* as its host says: it will not become ready by itself */
	struct core_host *host; /* NULL: pending */
	uint64_t epoch, generation, disk_generation;
	uint32_t restarts;
	int32_t exit_status;
	uint64_t started_at, created_at, cow_bytes;
	uint64_t memory, disk; /* reserved on the host */
	uint32_t cpu;
	const char *reason; /* never NULL; guest_set_reason() */
	const char *placed_because;
	struct core_nic *nics;
	uint32_t nic_count;
	struct core_move *move;	     /* of it, under way; NULL: none (move.h) */
	struct core_orphan *orphans; /* of it, all but those KEPT, by guest_next (orphan.h) */
	uint64_t from_move;	     /* its disk came by this move, and it has not run since */
	bool pending;		     /* on its group's list of those that wait for a host */
	uint8_t troubles;
	bool exclusive;
	bool marked; /* while a set is looked at (together.c) */
	struct core_guest *group_prev, *group_next;
	struct core_guest *host_prev, *host_next;
	struct core_guest *pending_prev, *pending_next;
	UT_hash_handle hh, hh_name;
};

/* ---------------------------------------------------------------- out */

enum core_kind {
	CORE_KIND_META,
	CORE_KIND_HOST,
	CORE_KIND_DEPLOYMENT,
	CORE_KIND_GUEST,
	CORE_KIND_MOVE,
	CORE_KIND_ORPHAN,
};

/* A record to be written, or deleted when it is no longer there. */
struct core_dirty {
	enum core_kind kind;
	char key[CORE_NAME]; /* host or deployment name; guests' uids, moves' numbers, orphans'
			      * epochs: 16 hex digits */
	bool shown_only;     /* nothing of the record: only what users are shown of it */
};

enum core_action_kind {
	CORE_TELL_FULL,	       /* everything, anew: host */
	CORE_TELL_GUEST,       /* the guest as it is to be: host, uid */
	CORE_TELL_REMOVE,      /* must not be there: host, uid, epoch */
	CORE_TELL_PRUNE,       /* its old disk is wanted no more: host, uid, epoch */
	CORE_TELL_NET,	       /* the whole network: host, vni */
	CORE_TELL_MEMBER,      /* one member is new or has moved: host, vni, uid, nic */
	CORE_TELL_MEMBER_GONE, /* host, vni, mac */
	CORE_TELL_NET_GONE,    /* host, vni */
	CORE_TELL_MOVE,	       /* the move as it is to be: host, move */
};

struct core_action {
	enum core_action_kind kind;
	char host[CORE_NAME];
	uint64_t uid, epoch, move;
	uint32_t vni, nic;
	struct net_mac mac;
};

struct core_log {
	const char *kind;   /* "guest", "host", "deployment"; static */
	const char *reason; /* one word, "Placed"; static */
	bool warning;
	char name[CORE_FULLNAME];
	char host[CORE_NAME];
	char message[CORE_REASON + 96];
};

/* Growing arrays, reused: core_out_reset() empties them. */
struct core_out {
	struct core_dirty *dirty;
	size_t dirty_count, dirty_room;
	struct core_action *actions;
	size_t action_count, action_room;
	struct core_log *logs;
	size_t log_count, log_room;
	bool failed; /* memory was short: the caller must not go on (exit, and load anew) */
};
void core_out_reset(struct core_out *out);
void core_out_free(struct core_out *out);

/* ---------------------------------------------------------------- events */

struct core_config {
	uint32_t lease_ms;  /* 0: 5000 */
	uint32_t margin_ms; /* after the lease; 0: a tenth of it (docs/availability.md) */
	/* 0: memory and disk 1000, CPU 8000 */
	struct core_overcommit overcommit;
};

struct core;
int core_new(const struct core_config *config, struct core **out, struct err *err);
void core_free(struct core *core);

struct core_hostfacts {
	char name[CORE_NAME];
	uint64_t memory, disk, disk_free;
	uint32_t cpu, underlay_mtu;
	struct net_addr vtep;
	struct core_labels labels; /* borrowed */
	struct core_taints taints; /* borrowed */
	struct core_overcommit overcommit;
};

struct core_observed {
	uint64_t uid, epoch, generation, disk_generation;
	enum core_phase phase;
	bool ready, gone, final;
	bool ran;	    /* its kernel was started under this epoch, or may have been */
	const char *reason; /* borrowed, cut to CORE_REASON */
	uint32_t restarts;
	int32_t exit_status;
	uint64_t started_at, cow_bytes;
	uint32_t troubles; /* in a row, for the host's own reasons */
};

/* A host (re)connected, with all that it has.  Followed by CORE_TELL_FULL. */
int core_host_hello(struct core *core, const struct core_hostfacts *facts,
	const struct core_observed *observed, size_t count, uint64_t now, uint64_t mono,
	struct core_out *out, struct err *err);
/* -ENOENT for a host that has not said hello since we started. */
int core_heartbeat(struct core *core, const char *host, uint64_t disk_free, uint64_t now,
	uint64_t mono, struct core_out *out);
/* What changed on a host. */
int core_observe(struct core *core, const char *host, const struct core_observed *observed,
	size_t count, uint64_t now, struct core_out *out, struct err *err);
/* Leases.  Returns the milliseconds until it should be called next. */
uint64_t core_tick(struct core *core, uint64_t now, uint64_t mono, struct core_out *out);
/* We stood still for MS up to MONO (stopped, suspended): what hosts said meanwhile is not
 * read yet, so that time is not counted as their silence. */
void core_slept(struct core *core, uint64_t ms, uint64_t mono);
int core_cordon(struct core *core, const char *host, bool cordoned, uint64_t now,
	struct core_out *out, struct err *err);
/* Only a lost or joining host without guests and orphans; FORCE: one that was lost, and its
 * margin is over, with what it has, its guests are placed again, from their images.  -EBUSY,
 * -ENOENT. */
int core_host_remove(struct core *core, const char *host, bool force, uint64_t now,
	struct core_out *out, struct err *err);
/* Would it be?  The same errors. */
int core_host_removable(const struct core *core, const char *host, bool force, struct err *err);

enum core_op { CORE_UNCHANGED, CORE_CREATE, CORE_CHANGE, CORE_REPLACE, CORE_DELETE };
struct core_plan_item {
	enum core_op op;
	bool network; /* else a guest */
	char name[CORE_NAME];
	char detail[CORE_REASON]; /* "memory: 64M -> 128M; restarts" */
};
struct core_plan {
	struct core_plan_item *items; /* without those unchanged */
	size_t count, room;
	uint32_t unchanged;
	/* What does not fit now: "" or a sentence; and group by group. */
	char warning[CORE_REASON * 2];
	struct core_short {
		char group[CORE_NAME];
		uint32_t wanted, missing;
		char why[CORE_REASON * 2];
	} shorts[8];
	size_t short_count, short_more; /* groups that are told, and those beyond */
};
void core_plan_free(struct core_plan *plan);

struct core_apply {
	char name[CORE_NAME];
	struct core_netspec *networks;
	size_t network_count;
	struct core_groupspec *groups;
	size_t group_count;
	bool gang; /* its guests are placed all together or not at all */
};
/* Plans, and unless DRY_RUN carries out.  The spec was validated (spec/); what
 * depends on the cluster is checked here.  -EEXIST, -EBUSY, -EINVAL, -ERANGE. */
int core_apply(struct core *core, const struct core_apply *apply, bool dry_run, uint64_t now,
	struct core_plan *plan, struct core_out *out, struct err *err);
int core_delete(struct core *core, const char *deployment, bool dry_run, uint64_t now,
	struct core_plan *plan, struct core_out *out, struct err *err);

/* RECOVER: one whose host is lost is started elsewhere, with a new disk. */
enum core_verb { CORE_START, CORE_STOP, CORE_RESTART, CORE_RECOVER };
int core_guest_verb(struct core *core, uint64_t uid, enum core_verb verb, uint64_t now,
	struct core_out *out, struct err *err);

/* ---------------------------------------------------------------- loading */

/* On start, in this order: meta, hosts, deployments (with their networks' VNIs
 * and MTUs), guests, moves (move.h); then core_loaded(). */
struct core_meta {
	uint64_t next_uid, next_epoch;
	/* The longest lease that an agent may have been granted and still count on: durable
	 * before it is granted. */
	uint32_t lease_ms;
};
void core_meta(const struct core *core, struct core_meta *out);
void core_load_meta(struct core *core, const struct core_meta *meta);
int core_load_host(struct core *core, const struct core_hostfacts *facts, bool cordoned,
	uint64_t joined_at, struct err *err);
struct core_load_network {
	const char *name;
	uint32_t vni, mtu;
	/* An address is given again as late as can be: others remember whose it was. */
	uint64_t cursor4, cursor6;
};
int core_load_deployment(struct core *core, const struct core_apply *apply, bool deleting,
	uint64_t revision, uint64_t created_at, uint64_t changed_at,
	const struct core_load_network *networks, size_t count, struct err *err);
struct core_load_nic {
	char network[CORE_NAME];
	uint32_t vni; /* 0: of that name */
	struct net_mac mac;
	struct net_addr ip4, ip6;
	bool announce;
};
struct core_load_guest {
	uint64_t uid;
	char deployment[CORE_NAME], group[CORE_NAME]; /* group "": deleting */
	uint32_t number;
	char name[CORE_FULLNAME];
	bool want_run, deleting;
	enum core_phase phase;
	bool evicted, unfenced;
	char host[CORE_NAME];
	uint64_t epoch, generation, disk_generation, started_at, created_at, memory, disk;
	uint64_t from_move;
	uint32_t restarts, cpu;
	int32_t exit_status;
	bool ready;
	char reason[CORE_REASON], placed_because[CORE_REASON];
	struct core_load_nic nics[CORE_NICS_MAX];
	size_t nic_count;
};
int core_load_guest(struct core *core, const struct core_load_guest *load, struct err *err);
/* Nobody is lost before a full lease has passed from here. */
int core_loaded(
	struct core *core, uint64_t now, uint64_t mono, struct core_out *out, struct err *err);

/* ---------------------------------------------------------------- reading */

const struct core_host *core_host(const struct core *core, const char *name);
const struct core_host *core_hosts(const struct core *core); /* first; then ->hh.next */
const struct core_deployment *core_deployment(const struct core *core, const char *name);
const struct core_deployment *core_deployments(const struct core *core); /* ->hh.next */
const struct core_guest *core_guest(const struct core *core, uint64_t uid);
const struct core_guest *core_guest_named(const struct core *core, const char *name);
const struct core_guest *core_guests(const struct core *core); /* ->hh.next */
size_t core_guest_count(const struct core *core);
const struct core_network *core_network(const struct core *core, uint32_t vni);
const struct core_network *core_networks(const struct core *core); /* ->hh_vni.next */
const char *core_phase_name(enum core_phase phase);		   /* "running" */
const char *core_host_state_name(enum core_host_state state);

/* Why a guest is where it is; or, of one that waits, why each host refuses it, the
 * one nearest to fitting for each reason, and what would help.  Proportional to
 * the number of hosts. */
#define CORE_WHYS 16
struct core_why {
	const struct core_host *host; /* NULL: it waits */
	char because[CORE_REASON * 2];
	struct core_why_item {
		const char *what; /* static */
		uint32_t hosts;
		char example[CORE_NAME];
		char detail[CORE_REASON];
	} items[CORE_WHYS];
	size_t count;
	char help[4][CORE_REASON];
	size_t help_count;
};
int core_why(struct core *core, uint64_t uid, struct core_why *out, struct err *err);

/* All invariants of docs/invariants.md.  -EPROTO with its number and what breaks
 * it.  Proportional to the cluster: for tests and the simulator. */
int core_check(const struct core *core, struct err *err);

#endif
