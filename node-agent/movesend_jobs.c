/* What a session does in the pool: one job at a time, and never for long. */
#include "node-agent/movesend_int.h"

#include <errno.h>
#include <stdlib.h>

void movesend_release(struct movesend *s)
{
	const struct movesend_ops *ops = s->ops;
	void *arg = s->arg;

	moveout_close(s->out);
	movelog_close(s->log);
	free(s);
	if (ops->on_released)
		ops->on_released(arg);
}

static void account(struct movesend *s)
{
	struct moveout_progress p;

	if (!s->out)
		return;
	moveout_progress(s->out, &p);
	s->st.bytes += p.bytes - s->st.progress.bytes;
	s->st.wire_bytes += p.wire_bytes - s->st.progress.wire_bytes;
	s->st.progress = p;
}

static int work_open(struct movesend *s)
{
	int rc = moveout_open(s->cow, s->config.move, &s->out, &s->job_err);

	if (rc < 0)
		return rc;
	moveout_slice(s->out, MOVE_SLICE_MS);
	return moveout_data(s->out, &s->data_bytes, &s->job_err);
}

static int work_log(struct movesend *s)
{
	int rc = s->log ? 0
			: movelog_open(s->logs, s->config.move, &s->log_mark, &s->log, &s->job_err);

	if (rc >= 0)
		rc = movelog_next(s->log, &s->piece);
	if (rc > 0)
		return rc;
	/* The next round looks again. */
	movelog_close(s->log);
	s->log = NULL;
	return rc;
}

static void work(void *arg)
{
	struct movesend *s = arg;

	s->job_err = ERR_INIT;
	if (s->busy == OPENING)
		s->job_rc = work_open(s);
	else if (s->busy == ENDING)
		s->job_rc = moveout_last(s->out, &s->job_err);
	else if (s->busy == LOGGING)
		s->job_rc = work_log(s);
	else
		s->job_rc = moveout_batch(s->out, &s->batch, &s->job_err);
}

/* The target's copy has what was never here.  Made anew, but no guest stands still for long
 * for it: then the move is put back, and its copy goes. */
static bool make_anew(struct movesend *s)
{
	if (s->was_anew || s->job_rc != -ESTALE || s->busy != BATCHING)
		return false;
	account(s);
	if (s->last_asked && s->st.progress.known * MOVE_CELL > MOVESEND_ANEW)
		return false;
	s->anew = s->was_anew = s->restart = true;
	return true;
}

static void take_result(struct movesend *s, int was)
{
	if (was == BATCHING)
		account(s);
	if (was == BATCHING && s->job_rc == 0)
		s->batch_over = true;
	if (was == LOGGING && s->job_rc == 0)
		s->logs_over = true;
	s->batch_waits = was == BATCHING && s->job_rc == 1;
	s->piece_waits = was == LOGGING && s->job_rc > 0;
}

static void work_done(void *arg, bool cancelled)
{
	struct movesend *s = arg;
	int was = (int)s->busy;

	if (s->closed || cancelled) {
		s->busy = IDLE;
		if (s->closed)
			movesend_release(s);
		return;
	}
	if (s->job_rc < 0 && !s->restart && !make_anew(s)) {
		s->busy = IDLE;
		movesend_fail(s, &s->job_err);
		return;
	}
	s->busy = IDLE;
	if (!s->restart)
		take_result(s, was);
	movesend_advance(s);
}

void movesend_run(struct movesend *s, int what)
{
	struct err err = ERR_INIT;
	int rc;

	s->busy = (unsigned)what;
	/* A guest that stands still waits for no other disk. */
	rc = s->last_asked ? loop_work_run(s->loop, "move", work, work_done, s, &err)
			   : loop_heavy_run(s->loop, "move", work, work_done, s, &err);
	if (rc < 0) {
		s->busy = IDLE;
		movesend_fail(s, &err);
	}
}
