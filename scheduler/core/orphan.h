/* orphan: disks that guests left on hosts that were lost, when they were started elsewhere
 * from their images; kept for inspection until they are pruned.
 *
 *   state     meaning                              left by
 *   EXPECTED  the guest left; its host has not     its host is back: what it has becomes an
 *             been heard of since                  orphan -> KEPT; it has none, or the guest
 *                                                  runs there again -> forgotten
 *   KEPT      its host has it                      prune -> PRUNED; its host has it no more
 *                                                  -> forgotten
 *   PRUNED    wanted no more; its host may be      its host: nothing is left -> forgotten
 *             away
 *
 * An epoch is of one guest on one host: it is the orphan's number.  A guest that is deleted
 * takes with it what is EXPECTED of it: its user wants nothing of it any more.  What is
 * KEPT was seen by its user, and stays until it is pruned.
 *
 * What is KEPT counts among what is reserved of its host's disk.
 */
#ifndef UMLAUT_SCHEDULER_CORE_ORPHAN_H
#define UMLAUT_SCHEDULER_CORE_ORPHAN_H

#include "scheduler/core/core.h"

#define CORE_ORPHAN_PATH 320

/* Stored: numbers stay. */
enum core_orphan_state { CORE_ORPHAN_EXPECTED = 0, CORE_ORPHAN_KEPT = 1, CORE_ORPHAN_PRUNED = 2 };

struct core_orphan_facts {
	uint64_t uid, epoch;
	char name[CORE_FULLNAME]; /* of the guest */
	uint64_t since;		  /* wall clock */
	char reason[CORE_REASON];
	uint64_t bytes, runs, disk_bytes;
	uint8_t image_id[CORE_ID];
	bool has_image;
	char path[CORE_ORPHAN_PATH], base[CORE_ORPHAN_PATH]; /* on its host; "": not known */
	bool gone;					     /* as its host says */
};

struct core_orphan {
	uint64_t epoch;
	char host[CORE_NAME];
	enum core_orphan_state state;
	struct core_orphan_facts facts;
	uint64_t reserved;	  /* of its host's disk */
	bool seen;		  /* in the hello that is being heard */
	struct core_guest *guest; /* on whose list it is, unless it is KEPT; NULL: on none */
	struct core_orphan *guest_prev, *guest_next;
	UT_hash_handle hh; /* by epoch */
};
const struct core_orphan *core_orphan(const struct core *core, uint64_t epoch);
const struct core_orphan *core_orphans(const struct core *core); /* ->hh.next */
/* What the disk of the guest that HOST is to lose under EPOCH is expected as, under that epoch or
 * an older one: then it is to be kept.  NULL: it is not. */
const struct core_orphan *core_orphan_expected(
	const struct core *core, uint64_t uid, const char *host, uint64_t epoch);

/* ---------------------------------------------------------------- events */

/* What HOST said; HELLO: all that it has, after core_host_hello(). */
void core_orphans_observed(struct core *core, const char *host,
	const struct core_orphan_facts *seen, size_t count, bool hello, struct core_out *out);
/* It is wanted no more.  -ENOENT. */
int core_prune(struct core *core, uint64_t epoch, struct core_out *out, struct err *err);
/* After the hosts. */
int core_load_orphan(struct core *core, const char *host, enum core_orphan_state state,
	const struct core_orphan_facts *facts, struct err *err);

/* ---------------------------------------------------------------- within the core */

/* The guest leaves its host, which is lost and has its disk. */
void orphan_expect(struct core *core, const struct core_guest *guest, struct core_out *out);
/* The same of any host that has a disk of it, of that epoch. */
void orphan_expect_on(struct core *core, const struct core_guest *guest,
	const struct core_host *host, uint64_t epoch, const char *why, struct core_out *out);
/* HOST has nothing of a guest under this epoch (any more): what was expected is not there. */
void orphan_absent(
	struct core *core, const struct core_host *host, uint64_t epoch, struct core_out *out);
/* HOST said hello with these guests. */
void orphan_hello(struct core *core, const struct core_host *host,
	const struct core_observed *observed, size_t count);
/* HOST has the guest on another disk, or nothing of it any more, under EPOCH: what was expected
 * there under older ones was never written, or its host tells of it. */
void orphan_absent_before(struct core *core, const struct core_guest *guest,
	const struct core_host *host, uint64_t epoch, struct core_out *out);
/* The guest is deleted. */
void orphan_forget(struct core *core, const struct core_guest *guest, struct core_out *out);
/* The guest's memory goes. */
void orphan_guest_freed(struct core_guest *guest);
/* All that was loaded is there. */
void orphan_loaded(struct core *core);
/* The host is removed from the cluster, with all that is there. */
void orphan_host_gone(struct core *core, const struct core_host *host, struct core_out *out);
void orphan_free_all(struct core *core);

#endif
