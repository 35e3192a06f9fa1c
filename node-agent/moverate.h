/* moverate: how fast a disk is sent, and when it was copied often enough
 * (docs/migration.md, "When to stop copying").  Pure: times are the caller's, milliseconds
 * of one clock.
 */
#ifndef UMLAUT_NODE_AGENT_MOVERATE_H
#define UMLAUT_NODE_AGENT_MOVERATE_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

#define MOVERATE_ROUNDS 10 /* at most, before the guest is stopped */

struct moverate {
	/* The caller's. */
	uint64_t rate;	 /* bytes a second; 0: no limit */
	uint32_t max_ms; /* of the last difference */
	bool strict;	 /* that is a user's wish, no habit of ours */
	bool free;	 /* the guest stands still: nothing is held back */
	/* To be read. */
	uint64_t measured;    /* bytes a second, of the last round that had enough; 0: none yet */
	uint32_t expected_ms; /* of the last difference; UINT32_MAX: not known yet */
	/* Inside. */
	unsigned rounds;
	uint64_t began, last_bytes, last_ms, next_at, idle_since, idle, link;
};

void moverate_init(struct moverate *r, uint64_t rate, uint32_t max_ms, bool strict);
void moverate_set(struct moverate *r, uint64_t rate);
/* The session begins anew, or the caller has waited: rounds are counted from here. */
void moverate_anew(struct moverate *r);
void moverate_round(struct moverate *r, uint64_t now);
/* How long the next batch has to wait; IDLE: nothing is on its way meanwhile. */
uint64_t moverate_wait(struct moverate *r, uint64_t now, bool idle);
void moverate_sent(struct moverate *r, uint64_t now, uint64_t bytes);
/* A round of BYTES has ended: 1: another one; 0: stop the guest now; -ETIMEDOUT: the
 * user's limit cannot be kept.  FIRST: it was the session's first. */
int moverate_end(struct moverate *r, uint64_t now, bool first, uint64_t bytes, struct err *err);

#endif
