/* movesend_int: what the parts of a session share: movesend.c (messages, states) and
 * movesend_jobs.c (what runs in the pool). */
#ifndef UMLAUT_NODE_AGENT_MOVESEND_INT_H
#define UMLAUT_NODE_AGENT_MOVESEND_INT_H

#include "node-agent/movelog.h"
#include "node-agent/moverate.h"
#include "node-agent/movesend.h"

struct movesend {
	struct loop *loop;
	struct zctx *zctx;
	struct movesend_config config;
	const struct movesend_ops *ops;
	void *arg;
	char cow[COW_PATH_MAX], logs[COW_PATH_MAX], endpoint[160];
	uint8_t image_id[32];
	struct movesend_status st;
	struct zsock *sock;
	struct loop_timer *quiet, *pace;
	bool closed, last_asked, restart, differed;
	bool anew, was_anew; /* the target's copy: to be made anew with the next offer; it was */
	uint32_t restarts;
	uint64_t runs;
	Um__RunnerStatus ended; /* how it ended by itself; phase 0: it did not */
	char ended_reason[MOVESEND_REASON];
	uint64_t ended_generation;
	uint64_t heard_at; /* loop time of the target's last word */
	/* The job in the pool; one at a time. */
	enum { IDLE, OPENING, BATCHING, ENDING, LOGGING } busy;
	int job_rc;
	struct err job_err;
	/* The session. */
	struct moveout *out;
	uint64_t data_bytes; /* of its disk, as it was opened */
	struct moveout_batch batch;
	struct movelog *log;
	struct movelog_mark log_mark;
	struct movelog_piece piece;
	bool have_all, offered, up, heard, unavailable, batch_over, seal_sent, batch_waits,
		piece_waits, logs_over;
	uint64_t request, sent, acked, tries;
	struct moverate rate;
	uint64_t round_began, ready_at;
	uint8_t digest[MOVE_DIGEST];
};

bool movesend_over(const struct movesend *s);
void movesend_fail(struct movesend *s, const struct err *err);
/* Does what can be done now. */
void movesend_advance(struct movesend *s);

/* OPENING .. LOGGING; then movesend_advance(). */
void movesend_run(struct movesend *s, int what);
void movesend_release(struct movesend *s);

#endif
