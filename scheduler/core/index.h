/* index: the hosts that take guests, in classes and in order.
 *
 * Hosts that no rule can tell apart are of one class: they have the same taints,
 * and the same values of those labels that some rule names ("used keys").  What a
 * group asks of labels and taints is so decided once a class, not once a host.
 * Within a class its hosts stand in two orders, each a treap with the most free
 * memory, CPU and disk of every subtree: the best host that has room is found in
 * the logarithm of the hosts.
 *
 *   by_share  the share of the memory that is free: spread takes from its end
 *   by_free   the free memory itself: pack takes the least that suffices
 *
 * A domain is a value of a used key ("zone=a"); it stays at its address as long
 * as the core lives, and groups count their guests by it.
 */
#ifndef UMLAUT_SCHEDULER_CORE_INDEX_H
#define UMLAUT_SCHEDULER_CORE_INDEX_H

#include "scheduler/core/core.h"

struct index_domain {
	UT_hash_handle hh;
	uint32_t id; /* from 1 */
	char key[CORE_NAME];
	char value[CORE_NAME];
};

struct index_key {
	UT_hash_handle hh;
	char key[CORE_NAME];
};

struct index_class {
	UT_hash_handle hh;
	struct index_domain **domains; /* of the used keys that its hosts have */
	size_t domain_count;
	struct core_taints taints;
	struct core_hostnode *by_share, *by_free;
	uint32_t host_count;
	uint32_t mark; /* of the run that looked at it */
	char *name;
};

struct index {
	struct index_class *classes;
	struct index_domain *domains;
	struct index_key *keys;
};

/* What a guest needs of a host's room. */
struct index_need {
	uint64_t memory, disk, cpu;
};

/* What is free on HOST for guests, over-commitment counted in. */
struct index_need index_free(const struct core *core, const struct core_host *host);
/* The same of an empty host. */
struct index_need index_total(const struct core *core, const struct core_host *host);

/* Makes KEY one that classes differ by.  -ENOMEM.  Proportional to the cluster
 * when it is new, so it is done once for each label that any lab ever names. */
int index_use(struct core *core, const char *key, struct err *err);
/* State, cordon, labels or taints of HOST changed, or it is new.  Its groups'
 * counts follow its labels.  -ENOMEM. */
int index_put(struct core *core, struct core_host *host, struct err *err);
void index_take(struct core *core, struct core_host *host);
/* What is reserved on HOST changed. */
void index_moved(struct core *core, struct core_host *host);
void index_free_all(struct core *core);

/* The class's value of KEY; NULL when its hosts do not have it, or it is not used. */
const struct index_domain *index_value(const struct index_class *class, const char *key);
/* The value of KEY of any host; "host" is its name.  NULL: it has none. */
const char *index_label(const struct core_host *host, const char *key);

/* The hosts with room for NEED, best first: AFTER is the one before, or NULL.
 * Spread: the largest free share; pack: the least free memory. */
struct core_host *index_next_spread(const struct index_class *class, const struct index_need *need,
	const struct core_host *after);
struct core_host *index_next_pack(const struct index_class *class, const struct index_need *need,
	const struct core_host *after);
/* The most that any host of the class has free, each for itself. */
struct index_need index_most(const struct index_class *class);

/* Every node where it belongs, and every sum right: for core_check(). */
int index_check(const struct core *core, struct err *err);

#endif
