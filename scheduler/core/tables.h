/* tables: small hash tables with open addressing (linear probing, deletion by
 * shifting back: Knuth, TAOCP 3, 6.4, algorithm R), at most three quarters full. */
#ifndef UMLAUT_SCHEDULER_CORE_TABLES_H
#define UMLAUT_SCHEDULER_CORE_TABLES_H

#include "scheduler/core/core.h"

/* Adds BY (it may be negative) to the count at ID (not 0); what comes to 0 is
 * forgotten.  -ENOMEM. */
int counts_add(struct core_counts *counts, uint32_t id, int by);
uint32_t counts_of(const struct core_counts *counts, uint32_t id);
void counts_free(struct core_counts *counts);
/* The next entry from *POS on (begin with 0); NULL at the end. */
const struct core_count *counts_next(const struct core_counts *counts, uint32_t *pos);

/* NICs by address; V6 says which of the two.  -ENOMEM. */
int addrs_add(struct core_addrs *addrs, struct core_nic *nic, bool v6);
void addrs_remove(struct core_addrs *addrs, struct core_nic *nic, bool v6);
struct core_nic *addrs_find(const struct core_addrs *addrs, const struct net_addr *addr, bool v6);
void addrs_free(struct core_addrs *addrs);

#endif
