#include "node-agent/moves.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/crash.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "node-agent/desired.h"
#include "node-agent/moves_int.h"
#include "node-agent/report.h"

struct move *moves_find(const struct moves *moves, uint64_t number)
{
	struct move *m = NULL;

	HASH_FIND(hh, moves->all, &number, sizeof(number), m);
	return m;
}

struct move *moves_add(struct moves *moves, uint64_t number, uint64_t uid, Um__MoveSide side)
{
	struct move *m = HASH_COUNT(moves->all) < MOVES_MAX ? calloc(1, sizeof(*m)) : NULL;

	if (!m) {
		log_error("a move cannot be taken", LOG_U64("move", number));
		return NULL;
	}
	m->moves = moves;
	m->number = number;
	m->uid = uid;
	m->side = side;
	HASH_ADD(hh, moves->all, number, sizeof(m->number), m);
	return m;
}

static void step(struct move *m)
{
	if (m->moves->stopped || m->gone)
		return;
	if (m->side == UM__MOVE_SIDE__MOVE_SOURCE)
		move_out_step(m);
	else
		move_in_step(m);
}

static void close_parts(struct move *m)
{
	if (m->side == UM__MOVE_SIDE__MOVE_SOURCE)
		move_out_close(m);
	else
		move_in_close(m);
}

static void drop(struct move *m)
{
	close_parts(m);
	HASH_DEL(m->moves->all, m);
	if (m->source)
		um__move_source__free_unpacked(m->source, NULL);
	if (m->target)
		um__move_target__free_unpacked(m->target, NULL);
	free(m);
}

/* ---------------------------------------------------------------- states */

void moves_news(struct move *m)
{
	m->dirty = true;
	report_moves(m->moves->agent->report);
}

void moves_state(struct move *m, Um__MoveState state)
{
	static const char *const names[] = {
		"preparing", "ready", "copying", "small", "frozen", "sealed", "failed"};

	if (m->state == state)
		return;
	m->state = state;
	log_info("move", LOG_U64("move", m->number),
		LOG_STR("side", m->side == UM__MOVE_SIDE__MOVE_SOURCE ? "source" : "target"),
		LOG_STR("state", names[state]), LOG_STR("reason", m->reason));
	moves_news(m);
}

void moves_fail(struct move *m, const struct err *err)
{
	(void)snprintf(m->reason, sizeof(m->reason), "%s", err_msg(err));
	moves_state(m, UM__MOVE_STATE__MOVE_FAILED);
	close_parts(m);
}

void moves_released(struct move *m)
{
	struct moves *moves = m->moves;
	struct guest *g;

	/* Of one that could not be opened. */
	if (!m->holding)
		return;
	m->holding = false;
	moves->closing--;
	if (moves->stopped)
		return;
	g = guests_find(moves->agent->guests, m->uid);
	if (g)
		guests_touch(g);
	loop_defer_run(moves->sweep);
}

void moves_gone(struct move *m)
{
	m->gone = true;
	close_parts(m);
	log_info("move ended", LOG_U64("move", m->number));
	moves_news(m);
}

/* ---------------------------------------------------------------- what is wanted */

void moves_source(struct moves *moves, const Um__MoveSource *want, uint64_t mark)
{
	struct move *m = moves_find(moves, want->move);
	struct guest *g = guests_find(moves->agent->guests, want->uid);
	Um__MoveSource *copy = wire_copy(&want->base);

	if (copy && !m && want->move)
		m = moves_add(moves, want->move, want->uid, UM__MOVE_SIDE__MOVE_SOURCE);
	if (!copy || !m || m->side != UM__MOVE_SIDE__MOVE_SOURCE || m->uid != want->uid ||
		m->gone) {
		if (copy)
			um__move_source__free_unpacked(copy, NULL);
		return;
	}
	if (m->source)
		um__move_source__free_unpacked(m->source, NULL);
	m->source = copy;
	m->mark = mark;
	if (g) {
		g->moving = true;
		guests_touch(g); /* it may have no disk yet */
	}
	moves_news(m);
	step(m);
}

void moves_target(struct moves *moves, const Um__MoveTarget *want, uint64_t mark)
{
	struct move *m = moves_find(moves, want->move);
	struct err err = ERR_INIT;

	if (m && m->side == UM__MOVE_SIDE__MOVE_TARGET) {
		m->mark = mark;
		moves_news(m);
		return; /* what a move is does not change */
	}
	if (m || !want->move || !want->guest)
		return;
	m = moves_add(moves, want->move, want->guest->uid, UM__MOVE_SIDE__MOVE_TARGET);
	if (!m)
		return;
	m->mark = mark;
	m->target = wire_copy(&want->base);
	if (!m->target)
		(void)err_set(&err, -ENOMEM, "memory is short");
	else if (want->source_key.len != CURVE_KEY)
		(void)err_set(
			&err, -EINVAL, "the source's key has %zu bytes", want->source_key.len);
	else
		(void)desired_check(want->guest, &err);
	if (err.code)
		moves_fail(m, &err);
	else
		moves_news(m);
	step(m);
}

static void thaw(struct guest *g)
{
	log_info("a guest is no longer frozen", LOG_STR("guest", g->assign ? g->assign->name : ""),
		LOG_U64("move", g->frozen_move));
	g->frozen_move = g->frozen_epoch = 0;
	g->retry_at = 0;
	g->revision++;
	report_guest(g);
	crash_point("move-thaw");
	guests_touch(g);
}

static void thaw_of(struct moves *moves, uint64_t number)
{
	for (struct guest *g = guests_first(moves->agent->guests); g; g = guests_next(g))
		if (g->frozen_move == number)
			thaw(g);
}

static void end(struct move *m)
{
	struct guest *g = guests_find(m->moves->agent->guests, m->uid);

	if (m->ended)
		return;
	m->ended = true;
	if (g && g->frozen_move == m->number)
		thaw(g);
	step(m);
}

void moves_end(struct moves *moves, uint64_t number)
{
	struct move *m = moves_find(moves, number);

	if (m) {
		end(m);
		return;
	}
	/* Told so again, or after a restart: there is nothing, which is what is to be told. */
	thaw_of(moves, number);
	m = moves_add(moves, number, 0, UM__MOVE_SIDE__MOVE_SOURCE);
	if (!m)
		return;
	m->ended = true;
	moves_gone(m);
}

void moves_keep(struct moves *moves, uint64_t mark)
{
	struct move *m, *next;

	HASH_ITER (hh, moves->all, m, next)
		if (m->mark != mark)
			end(m);
	for (struct guest *g = guests_first(moves->agent->guests); g; g = guests_next(g))
		if (g->frozen_move && !moves_find(moves, g->frozen_move))
			thaw(g);
}

bool moves_holds(struct moves *moves, const struct guest *g, uint64_t mark)
{
	struct move *m = g->frozen_move ? moves_find(moves, g->frozen_move) : NULL;

	return m && m->side == UM__MOVE_SIDE__MOVE_SOURCE && m->mark == mark && !m->ended;
}

/* ---------------------------------------------------------------- guests */

bool guest_frozen(const struct guest *g)
{
	return g->frozen_move && g->assign && g->frozen_epoch == g->assign->epoch;
}

bool guest_takes(const struct guest *g)
{
	return g->assign && !g->gone && g->assign->from_move &&
	       g->taken_move != g->assign->from_move;
}

bool moves_busy(const struct guest *g)
{
	struct moves *moves = g->agent->moves;

	if (!moves->closing)
		return false;
	for (struct move *m = moves->all; m; m = m->hh.next)
		if (m->uid == g->uid && m->holding && !m->send && !m->recv)
			return true;
	return false;
}

void moves_guest(struct guest *g)
{
	struct moves *moves = g->agent->moves;
	struct move *m, *next;
	bool any = false;

	/* From now on no source may touch what it takes. */
	m = guest_takes(g) ? moves_find(moves, g->assign->from_move) : NULL;
	if (m)
		step(m);
	if (!g->moving && !g->frozen_move)
		return;
	HASH_ITER (hh, moves->all, m, next)
		if (m->uid == g->uid && m->side == UM__MOVE_SIDE__MOVE_SOURCE && !m->gone) {
			any = true;
			step(m);
		}
	g->moving = any;
}

void moves_removed(struct moves *moves, uint64_t uid)
{
	struct move *m, *next;

	HASH_ITER (hh, moves->all, m, next)
		if (m->uid == uid)
			step(m);
}

void moves_taken(struct guest *g)
{
	struct move *m = moves_find(g->agent->moves, g->taken_move);

	if (m)
		step(m);
}

void moves_again(struct moves *moves)
{
	moves->sweep_blobs = true;
	if (!moves->stopped)
		loop_defer_run(moves->sweep);
}

void moves_blob(struct moves *moves)
{
	moves_again(moves);
}

static bool done_with(const struct move *m)
{
	return m->gone && !m->dirty && !m->busy && !m->holding;
}

static void on_sweep(void *arg)
{
	struct moves *moves = arg;
	struct move *m, *next;
	bool blobs = moves->sweep_blobs;

	moves->sweep_blobs = false;
	HASH_ITER (hh, moves->all, m, next) {
		if (done_with(m))
			drop(m);
		else if (blobs && m->side == UM__MOVE_SIDE__MOVE_TARGET &&
			 m->state == UM__MOVE_STATE__MOVE_PREPARING)
			step(m);
	}
}

/* ---------------------------------------------------------------- telling */

struct row {
	Um__MoveObserved observed;
	char reason[GUESTS_REASON];
	uint8_t digest[MOVE_DIGEST];
};

static void observe(struct move *m, struct row *row)
{
	Um__MoveObserved *o = &row->observed;

	um__move_observed__init(o);
	o->move = m->number;
	o->uid = m->uid;
	o->side = m->side;
	o->state = m->state;
	o->gone = m->gone;
	o->frozen_at = m->frozen_at;
	memcpy(row->reason, m->reason, sizeof(row->reason));
	o->reason = row->reason;
	if (m->state == UM__MOVE_STATE__MOVE_SEALED) {
		memcpy(row->digest, m->digest, sizeof(row->digest));
		o->digest = (ProtobufCBinaryData){.len = MOVE_DIGEST, .data = row->digest};
	}
	if (m->side == UM__MOVE_SIDE__MOVE_SOURCE)
		move_out_observe(m, o);
}

size_t moves_observe(struct moves *moves, bool all, Um__MoveObserved ***list)
{
	size_t count = HASH_COUNT(moves->all), n = 0;
	struct move *m, *next;
	struct row *rows;

	*list = NULL;
	if (!count)
		return 0;
	*list = malloc(count * (sizeof(void *) + sizeof(struct row)) + _Alignof(struct row));
	if (!*list)
		return 0;
	rows = (struct row *)(void *)((uint8_t *)*list +
				      (count * sizeof(void *) + _Alignof(struct row) - 1) /
					      _Alignof(struct row) * _Alignof(struct row));
	HASH_ITER (hh, moves->all, m, next) {
		if (!all && !m->dirty)
			continue;
		observe(m, &rows[n]);
		(*list)[n] = &rows[n].observed;
		n++;
	}
	return n;
}

void moves_told(struct moves *moves)
{
	struct move *m, *next;

	HASH_ITER (hh, moves->all, m, next) {
		m->dirty = false;
		if (done_with(m))
			drop(m);
	}
}

/* ---------------------------------------------------------------- life */

int moves_open(struct agent *agent, struct moves **out, struct err *err)
{
	struct moves *moves = calloc(1, sizeof(*moves));

	if (!moves)
		return err_set(err, -ENOMEM, "memory is short");
	moves->agent = agent;
	if (loop_defer_open(agent->loop, "moves", on_sweep, moves, &moves->sweep, err) < 0) {
		free(moves);
		return err->code;
	}
	*out = moves;
	return 0;
}

void moves_stop(struct moves *moves)
{
	struct move *m, *next;

	if (!moves || moves->stopped)
		return;
	moves->stopped = true;
	HASH_ITER (hh, moves->all, m, next)
		close_parts(m);
	loop_defer_close(moves->sweep);
}

void moves_free(struct moves *moves)
{
	struct move *m, *next;

	if (!moves)
		return;
	HASH_ITER (hh, moves->all, m, next)
		drop(m);
	free(moves);
}
