/* run: finds hosts for guests of one group, one after the other.
 *
 *   run_begin()            once: classes are judged, nothing is searched
 *   run_next()             the best host for the next guest, or NULL
 *   (the caller puts the guest there: reservations and counts change)
 *   run_placed()           after each: that host stands elsewhere now
 *   run_end()
 *
 * Between begin and end nothing else may change the hosts.  For K guests it costs
 * O(classes + K log hosts), beside the hosts that already have guests of the group
 * (at most LOOKS of them are looked at for one guest, unless a rule refuses them).
 *
 * The order of hosts.  What is preferred counts first.  Spread: fewest of the group
 * on the host, then the largest free share of memory.  Pack: the least free memory
 * that suffices (best fit).  Ties go to the host that joined first.
 */
#ifndef UMLAUT_SCHEDULER_CORE_RUN_H
#define UMLAUT_SCHEDULER_CORE_RUN_H

#include "scheduler/core/core_int.h"

/* Why a host refuses, the first that applies. */
enum refusal {
	FITS,
	NOT_UP,
	IS_CORDONED,
	IS_AVOIDED,
	OTHER_HOST,
	TAINTED,
	LABELS,
	WAITS_FOR, /* the guests it is to be beside have no place yet */
	BESIDE,
	APART,
	SKEW,
	MAX_PER_HOST,
	EXCLUSIVE,
	PROMISED, /* room is being made there for others */
	MTU,
	NO_MEMORY,
	NO_CPU,
	NO_DISK,
	TORN,	   /* others that are to be with those that move would be left behind */
	DISK_FULL, /* what is free of its disk as it says, not by what is reserved */
	REFUSALS,
};
const char *refusal_text(enum refusal refusal);

struct run_cost {
	uint32_t penalty, count;
	uint64_t key; /* smaller is better */
};

struct run_candidate {
	struct core_host *host;
	struct run_cost cost;
};

struct run_class {
	struct index_class *class;
	enum refusal refusal; /* by labels and taints */
	uint32_t penalty;
	struct core_host *next; /* in the index's order, not yet a candidate */
	struct run_candidate *heap;
	size_t count, room;
};

struct run {
	struct core *core;
	struct core_group *group;
	const struct core_groupspec *spec;
	const struct core_rules *rules; /* never NULL */
	const struct core_host *avoid;
	struct index_need need;
	uint64_t bytes; /* of a disk that comes along; 0: none */
	bool by_count;	/* how many of the group are on a host counts */
	uint64_t serial;
	struct run_class *classes;
	size_t class_count;
	/* Only these hosts come into question, when a rule names them. */
	struct core_host **list;
	size_t list_count;
	bool listed;
	/* Other groups' rules to be apart from this one. */
	struct run_foe {
		const struct core_group *group;
		const char *over;
	} * foes;
	size_t foe_count;
	uint32_t least[CORE_SPREADS_MAX]; /* in any domain, for each spread */
	struct run_class *taken;	  /* where the last one came from; NULL: the list */
	bool failed;			  /* memory was short */
};

void run_begin(struct run *run, struct core *core, struct core_group *group,
	const struct core_host *avoid);
/* COST may be NULL. */
struct core_host *run_next(struct run *run, struct run_cost *cost);
void run_placed(struct run *run);
void run_end(struct run *run);

/* All that a host may have against the group, of any state; PENALTY: preferences
 * that it does not meet. */
enum refusal run_judge(struct run *run, const struct core_host *host, uint32_t *penalty);
/* The same, of everything but room; NOTHING but the host's own. */
enum refusal run_judge_rules(struct run *run, const struct core_host *host, uint32_t *penalty);
/* Room alone. */
enum refusal run_room(const struct run *run, const struct core_host *host);
/* In numbers, what is asked of HOST and what it has; "" where there are none. */
void run_describe(const struct run *run, const struct core_host *host, enum refusal refusal,
	char text[CORE_REASON]);
/* One line on why no host takes it: "no host: 2 hosts: not enough memory (...)". */
void run_explain(struct run *run, char text[CORE_REASON]);
/* The same of hosts that were judged: so many for each refusal; MEMORY is needed. */
void run_refusals(const uint32_t count[REFUSALS], uint64_t memory, char text[CORE_REASON]);

/* rules.c */
extern const struct core_rules rules_none;
/* By labels and taints: the same for all hosts of a class. */
enum refusal rules_class(const struct run *run, const struct core_host *host, uint32_t *penalty);
/* By what is in the domains of HOST, which changes with each guest. */
enum refusal rules_domain(const struct run *run, const struct core_host *host, uint32_t *penalty);
/* By what is on HOST itself. */
enum refusal rules_host(const struct run *run, const struct core_host *host, uint32_t *penalty);
/* Fills in run->foes.  -ENOMEM. */
int rules_foes(struct run *run);
/* Fills in run->least. */
void rules_least(struct run *run);
/* The group that an affinity names; NULL when it is not in the deployment. */
struct core_group *rules_target(const struct run *run, const struct core_affinity *affinity);
/* True when AFFINITY (required, beside) asks for nothing: the first of its kind. */
bool rules_first(const struct run *run, const struct core_affinity *affinity);

#endif
