/* move_int: what the parts of moves share. */
#ifndef UMLAUT_SCHEDULER_CORE_MOVE_INT_H
#define UMLAUT_SCHEDULER_CORE_MOVE_INT_H

#include <string.h>

#include "scheduler/core/core_int.h"

static inline bool move_before_handover(const struct core_move *m)
{
	return m->phase <= CORE_MOVE_LAST;
}

static inline bool move_names(const char *a, const char *b)
{
	return strcmp(a, b) == 0;
}

/* The oldest of those that have ended make room. */
void move_trim(struct core *core, struct core_out *out);
/* Or was removed from the cluster. */
static inline bool move_lost(const struct core *core, const char *name)
{
	const struct core_host *host = host_get(core, name);

	return !host || host->state == CORE_HOST_LOST;
}

struct core_move *move_find(const struct core *core, uint64_t number);
void move_dirty(const struct core_move *m, struct core_out *out);
/* Its progress: for those who watch. */
void move_shown(const struct core_move *m, struct core_out *out);
void move_tell(const struct core_move *m, const char *host, struct core_out *out);
void move_say(const struct core_move *m, const char *reason, bool warning, struct core_out *out);
/* The guest is free. */
void move_let_go(struct core *core, struct core_move *m);
/* Reserves on HOST what the guest needs: ALL of it, or its disk. */
void move_hold(struct core *core, struct core_move *m, struct core_host *host, bool all);
void move_release(struct core *core, struct core_move *m);
/* The rules of others see the guest where it is held for too, until it is settled where it
 * is. */
void move_count_coming(struct core_move *m);
void move_uncount_coming(struct core_move *m);
/* One that moves together with M was handed over: NULL: none. */
const struct core_move *move_handed_over(const struct core *core, const struct core_move *m);
/* Those whose targets are ready begin to copy, as far as it is their turn; those of a drain
 * take the turns of that (drain.c). */
void move_queue(struct core *core, struct core_out *out);
/* PREPARE -> COPY. */
void move_copy(struct core_move *m, struct core_out *out);
/* LAST -> START, or, where the digests differ, BACK. */
void move_hand_over(struct core *core, struct core_move *m, uint64_t now, struct core_out *out);
/* START: the target is told not to start the guest; it is given back when that has said so. */
void move_recall(struct core_move *m, struct core_out *out, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* START -> BACK: the guest is the source's again, under a newer epoch. */
void move_give_back(struct core *core, struct core_move *m, struct core_out *out);
/* START -> FAILED: both hosts are lost. */
void move_abandon(struct core *core, struct core_move *m, struct core_out *out);
/* To BACK, and why. */
void move_back(struct core *core, struct core_move *m, uint64_t now, struct core_out *out,
	const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* To DROP: what the source has is told to go, under the newest epoch. */
void move_drop(struct core *core, struct core_move *m, uint64_t now, struct core_out *out);
/* Its rate, another one: its source is told. */
void move_set_rate(struct core_move *m, uint64_t rate, struct core_out *out);
/* DROP and BACK: nothing is waited for any more. */
void move_finish(struct core *core, struct core_move *m, uint64_t now, struct core_out *out);

/* ---------------------------------------------------------------- together.c */

/* Guests of one host that move to another one, which has room for all of them. */
struct move_set {
	struct core_guest **guests; /* the one that was asked for first; owned */
	size_t count;
	struct core_host *host; /* where to */
};
/* The guest, and who has to go with it; to TO, or ("") where they fit best.  -EHOSTUNREACH. */
int move_choose(struct core *core, struct core_guest *guest, const char *to, struct move_set *set,
	struct err *err);
void move_set_free(struct move_set *set);

#endif
