#include "node-agent/movesend.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/crash.h"
#include "lib/str.h"
#include "node-agent/movesend_int.h"

#define RETRY_MS 200
#define RATE_MS 200 /* of a round, before its rate says something */

static void shut(struct movesend *s)
{
	zsock_close(s->sock, 0);
	s->sock = NULL;
}

void movesend_fail(struct movesend *s, const struct err *err)
{
	if (s->st.state == MS_FAILED || s->st.state == MS_SEALED)
		return;
	s->st.state = MS_FAILED;
	loop_timer_disarm(s->quiet);
	loop_timer_disarm(s->pace);
	s->ops->on_failed(s->arg, err);
}

bool movesend_over(const struct movesend *s)
{
	return s->closed || s->st.state == MS_FAILED || s->st.state == MS_SEALED;
}

static int send_env(struct movesend *s, Um__Envelope *env, const void *bulk, size_t size)
{
	struct err err = ERR_INIT;

	return zsock_send(s->sock, NULL, env, bulk, size, &err);
}

/* ---------------------------------------------------------------- the session */

static void begin_again(struct movesend *s)
{
	uint32_t patience = s->last_asked ? s->config.last_patience_ms : s->config.patience_ms;
	struct err err = ERR_INIT;

	if (movesend_over(s))
		return;
	s->st.breaks++;
	if (s->heard)
		s->tries++;
	if (s->tries > MOVESEND_TRIES || loop_now(s->loop) - s->heard_at >= patience) {
		(void)err_set(&err, -ETIMEDOUT, "the target at %s %s", s->endpoint,
			s->unavailable		    ? "does not expect this guest"
			: s->tries > MOVESEND_TRIES ? "breaks off again and again"
						    : "does not answer");
		movesend_fail(s, &err);
		return;
	}
	s->restart = true;
	movesend_advance(s);
}

static void send_offer(struct movesend *s)
{
	Um__Envelope env = wire_env(++s->request);
	Um__MoveOffer offer = UM__MOVE_OFFER__INIT;

	offer.move = s->config.move;
	offer.epoch = s->config.epoch;
	offer.disk_size = moveout_size(s->out);
	offer.disk_generation = s->config.disk_generation;
	offer.image_id = (ProtobufCBinaryData){.len = sizeof(s->image_id), .data = s->image_id};
	offer.data_bytes = s->data_bytes;
	offer.anew = s->anew;
	env.body_case = UM__ENVELOPE__BODY_MOVE_OFFER;
	env.move_offer = &offer;
	/* Not connected yet: sent then (on_state()). */
	s->offered = send_env(s, &env, NULL, 0) >= 0;
	loop_timer_arm(s->quiet, s->config.quiet_ms);
	if (!s->offered)
		return;
	crash_point("move-offer");
}

static void reset(struct movesend *s)
{
	s->restart = false;
	moveout_close(s->out);
	s->out = NULL;
	movelog_close(s->log);
	s->log = NULL;
	memset(&s->st.progress, 0, sizeof(s->st.progress));
	s->have_all = s->batch_over = s->seal_sent = s->batch_waits = false;
	s->offered = s->heard = s->piece_waits = s->logs_over = false;
	s->sent = s->acked = 0;
	moverate_anew(&s->rate);
	memset(&s->log_mark, 0, sizeof(s->log_mark));
	s->st.state = MS_CONNECT;
	movesend_run(s, OPENING);
}

static void send_piece(struct movesend *s)
{
	Um__Envelope env = wire_env(s->request);

	env.body_case = UM__ENVELOPE__BODY_MOVE_LOG;
	env.move_log = &s->piece.log;
	s->piece_waits = false;
	s->piece.log.seq = ++s->sent;
	(void)send_env(s, &env, s->piece.bulk, s->piece.bulk_size);
	loop_timer_arm(s->quiet, s->config.quiet_ms);
}

static void send_batch(struct movesend *s)
{
	Um__Envelope env = wire_env(s->request);
	uint64_t now = loop_now(s->loop);

	env.body_case = UM__ENVELOPE__BODY_MOVE_BLOCKS;
	env.move_blocks = &s->batch.blocks;
	s->batch_waits = false;
	s->batch.blocks.seq = ++s->sent;
	(void)send_env(s, &env, s->batch.bulk, s->batch.bulk_size);
	loop_timer_arm(s->quiet, s->config.quiet_ms);
	moverate_sent(&s->rate, now, s->batch.blocks.raw_size);
	crash_point("move-batch");
}

static void send_seal(struct movesend *s)
{
	Um__Envelope env = wire_env(s->request);
	Um__MoveSeal seal = UM__MOVE_SEAL__INIT;
	struct err err = ERR_INIT;

	if (s->st.state == MS_LAST) {
		if (moveout_digest(s->out, s->digest, &err) < 0) {
			movesend_fail(s, &err);
			return;
		}
		seal.digest = (ProtobufCBinaryData){.len = MOVE_DIGEST, .data = s->digest};
		seal.restarts = s->restarts;
		seal.runs = s->runs;
		seal.ended = s->ended.phase ? &s->ended : NULL;
		seal.ended_generation = s->ended_generation;
	}
	seal.move = s->config.move;
	seal.round = s->st.progress.round;
	env.body_case = UM__ENVELOPE__BODY_MOVE_SEAL;
	env.move_seal = &seal;
	s->seal_sent = true;
	(void)send_env(s, &env, NULL, 0);
	loop_timer_arm(s->quiet, s->config.quiet_ms);
	if (s->st.state == MS_LAST)
		crash_point("move-seal");
}

/* The target reads its copy while this side looks for the last difference. */
static void send_last(struct movesend *s)
{
	Um__Envelope env = wire_env(s->request);
	Um__MoveSeal seal = UM__MOVE_SEAL__INIT;

	seal.move = s->config.move;
	seal.round = s->st.progress.round;
	seal.last = true;
	env.body_case = UM__ENVELOPE__BODY_MOVE_SEAL;
	env.move_seal = &seal;
	(void)send_env(s, &env, NULL, 0);
	loop_timer_arm(s->quiet, s->config.quiet_ms);
}

static void begin_round(struct movesend *s)
{
	struct err err = ERR_INIT;

	s->batch_over = s->seal_sent = s->logs_over = false;
	s->round_began = loop_now(s->loop);
	s->rate.free = s->last_asked;
	moverate_round(&s->rate, s->round_began);
	if (s->last_asked) {
		s->st.state = MS_LAST;
		crash_point("move-last");
		send_last(s);
		movesend_run(s, ENDING);
		return;
	}
	s->st.state = MS_ROUND;
	if (moveout_round(s->out, &err) < 0)
		movesend_fail(s, &err);
	else
		movesend_run(s, BATCHING);
}

/* Everything of the round is at the target, durably. */
static void round_end(struct movesend *s)
{
	const struct moveout_progress *p = &s->st.progress;
	struct err err = ERR_INIT;
	int more = moverate_end(&s->rate, loop_now(s->loop), p->round == 1, p->round_bytes, &err);

	s->st.rate = s->rate.measured;
	s->st.expected_ms = s->rate.expected_ms;
	crash_point("move-round");
	if (s->last_asked || more > 0) {
		begin_round(s);
		return;
	}
	if (more < 0) {
		movesend_fail(s, &err);
		return;
	}
	s->st.state = MS_READY;
	s->ready_at = loop_now(s->loop);
	loop_timer_disarm(s->quiet);
	s->ops->on_ready(s->arg);
}

/* What was read is sent when the window and the rate let it; false: not yet. */
static bool send_waiting(struct movesend *s)
{
	uint64_t wait;

	if (!s->batch_waits && !s->piece_waits)
		return true;
	if (s->sent - s->acked >= MOVE_WINDOW)
		return false;
	wait = moverate_wait(&s->rate, loop_now(s->loop), s->sent == s->acked);
	if (wait) {
		loop_timer_arm(s->pace, wait);
		return false;
	}
	if (s->batch_waits)
		send_batch(s);
	else
		send_piece(s);
	return true;
}

void movesend_advance(struct movesend *s)
{
	if (movesend_over(s) || s->busy != IDLE)
		return;
	if (s->restart) {
		reset(s);
		return;
	}
	if (s->st.state == MS_CONNECT) {
		if (s->have_all)
			begin_round(s);
		else
			send_offer(s);
		return;
	}
	if (s->st.state == MS_READY)
		return;
	if (!send_waiting(s))
		return;
	if (!s->batch_over)
		movesend_run(s, BATCHING);
	else if (s->logs[0] && !s->logs_over)
		movesend_run(s, LOGGING);
	else if (!s->seal_sent && s->sent == s->acked)
		send_seal(s);
}

/* ---------------------------------------------------------------- what comes */

static void on_ack(struct movesend *s, const Um__MoveAck *ack)
{
	if (ack->seq > s->sent || ack->seq < s->acked ||
		(s->st.state != MS_ROUND && s->st.state != MS_LAST))
		return;
	if (ack->seq > s->acked)
		s->tries = 0;
	s->acked = ack->seq;
	if (s->sent == s->acked && !s->seal_sent)
		loop_timer_disarm(s->quiet);
	if (ack->durable && s->seal_sent && s->st.state == MS_ROUND)
		round_end(s);
	else
		movesend_advance(s);
}

static void on_sealed(struct movesend *s, const Um__MoveSealed *sealed)
{
	struct err err = ERR_INIT;

	if (s->st.state != MS_LAST || !s->seal_sent)
		return;
	if (sealed->digest.len != MOVE_DIGEST ||
		memcmp(sealed->digest.data, s->digest, MOVE_DIGEST) != 0) {
		(void)err_set(&err, -EBADMSG, "the target sealed another disk");
		movesend_fail(s, &err);
		return;
	}
	s->st.state = MS_SEALED;
	loop_timer_disarm(s->quiet);
	s->ops->on_sealed(s->arg, s->digest);
}

static void on_error(struct movesend *s, const Um__Error *error)
{
	struct err err = ERR_INIT;

	/* Differs after all, for the first time: what the target really has tells which cells. */
	if (error->code == UM__ERROR_CODE__CONFLICT && s->seal_sent && s->st.state == MS_LAST &&
		!s->differed) {
		s->differed = true;
		begin_again(s);
		return;
	}
	if (error->code == UM__ERROR_CODE__UNAVAILABLE && s->st.state == MS_CONNECT) {
		s->unavailable = true;
		loop_timer_arm(s->quiet, RETRY_MS);
		return;
	}
	(void)err_set(&err, wire_errno_from_code(error->code), "the target: %s", error->message);
	movesend_fail(s, &err);
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct movesend *s = arg;
	struct err err = ERR_INIT;

	(void)sock;
	(void)peer;
	(void)bulk;
	(void)bulk_size;
	/* An answer to a session that is over. */
	if (movesend_over(s) || s->restart || env->id != s->request)
		return;
	if (env->body_case == UM__ENVELOPE__BODY_ERROR) {
		on_error(s, env->error);
		return;
	}
	s->heard_at = loop_now(s->loop);
	s->heard = true;
	s->unavailable = false;
	if (loop_timer_armed(s->quiet))
		loop_timer_arm(s->quiet, s->config.quiet_ms);
	if (env->body_case == UM__ENVELOPE__BODY_MOVE_HAVE && s->st.state == MS_CONNECT &&
		s->busy == IDLE) {
		loop_timer_arm(s->quiet, s->config.quiet_ms);
		if (moveout_have(s->out, env->move_have, &err) < 0) {
			movesend_fail(s, &err);
			return;
		}
		s->have_all = !env->more;
		if (s->have_all) {
			s->anew = false;
			crash_point("move-have");
			movesend_advance(s);
		}
	} else if (env->body_case == UM__ENVELOPE__BODY_MOVE_ACK) {
		on_ack(s, env->move_ack);
	} else if (env->body_case == UM__ENVELOPE__BODY_MOVE_SEALED) {
		on_sealed(s, env->move_sealed);
	}
}

static void on_state(void *arg, struct zsock *sock, bool up, const char *detail)
{
	struct movesend *s = arg;
	bool was = s->up;

	(void)sock;
	(void)detail;
	s->up = up;
	/* What was on its way is lost; READY has nothing on its way. */
	if (up && s->st.state == MS_CONNECT && !s->offered)
		movesend_advance(s);
	if (was && !up && s->st.state == MS_READY)
		s->restart = true;
	else if (was && !up)
		begin_again(s);
}

static void on_quiet(void *arg)
{
	begin_again(arg);
}

static void on_pace(void *arg)
{
	movesend_advance(arg);
}

/* ---------------------------------------------------------------- life */

static int open_parts(struct movesend *s, struct err *err)
{
	static const struct zsock_ops ops = {.on_message = on_message, .on_state = on_state};
	struct zsock_config config = {.type = ZSOCK_DEALER,
		.name = "move",
		.secret_key = s->config.secret_key,
		.public_key = s->config.public_key,
		.server_key = s->config.server_key};
	int rc = loop_timer_open(s->loop, "move-quiet", on_quiet, s, &s->quiet, err);

	if (rc >= 0)
		rc = loop_timer_open(s->loop, "move-pace", on_pace, s, &s->pace, err);
	if (rc >= 0)
		rc = zsock_open(s->loop, s->zctx, &config, &ops, s, &s->sock, err);
	if (rc >= 0)
		rc = zsock_connect(s->sock, s->endpoint, err);
	/* The caller's keys were only borrowed. */
	s->config.secret_key = s->config.public_key = s->config.server_key = NULL;
	return rc;
}

int movesend_open(struct loop *loop, struct zctx *zctx, const struct movesend_config *config,
	const struct movesend_ops *ops, void *arg, struct movesend **out, struct err *err)
{
	struct movesend *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_set(err, -ENOMEM, "memory is short");
	s->loop = loop;
	s->zctx = zctx;
	s->config = *config;
	if (!s->config.quiet_ms)
		s->config.quiet_ms = MOVESEND_QUIET_MS;
	if (!s->config.patience_ms)
		s->config.patience_ms = MOVESEND_PATIENCE_MS;
	if (!s->config.last_patience_ms)
		s->config.last_patience_ms = MOVESEND_LAST_PATIENCE_MS;
	moverate_init(&s->rate, config->rate, config->max_downtime_ms, config->strict);
	s->heard_at = loop_now(loop);
	s->ops = ops;
	s->arg = arg;
	s->st.expected_ms = UINT32_MAX;
	if (config->image_id)
		memcpy(s->image_id, config->image_id, sizeof(s->image_id));
	if (str_copy(s->cow, sizeof(s->cow), config->cow) < 0 ||
		str_copy(s->logs, sizeof(s->logs), config->logs ? config->logs : "") < 0 ||
		str_copy(s->endpoint, sizeof(s->endpoint), config->endpoint) < 0)
		rc = err_set(err, -ENAMETOOLONG, "a path or endpoint is too long");
	else
		rc = open_parts(s, err);
	if (rc < 0) {
		movesend_close(s);
		return rc;
	}
	reset(s);
	*out = s;
	return 0;
}

void movesend_ended(struct movesend *send, const Um__RunnerStatus *last, uint64_t generation)
{
	send->ended = *last;
	(void)str_format(send->ended_reason, sizeof(send->ended_reason), "%.200s", last->reason);
	send->ended.reason = send->ended_reason;
	send->ended_generation = generation;
}

void movesend_last(struct movesend *send, uint32_t restarts, uint64_t runs)
{
	if (movesend_over(send) || send->last_asked)
		return;
	send->last_asked = true;
	send->restarts = restarts;
	send->runs = runs;
	/* While all waited for the guest nothing was to be heard. */
	send->heard_at = loop_now(send->loop);
	send->rate.free = true;
	loop_timer_disarm(send->pace);
	if (send->busy != IDLE)
		return;
	/* In the middle of a round: it ends first, as fast as it can. */
	if (send->st.state == MS_READY && !send->restart)
		begin_round(send);
	else if (send->restart || send->st.state == MS_ROUND)
		movesend_advance(send);
}

bool movesend_fresh(const struct movesend *send)
{
	return send->st.state == MS_READY && send->up && !send->restart &&
	       loop_now(send->loop) - send->ready_at < MOVESEND_FRESH_MS;
}

void movesend_again(struct movesend *send)
{
	if (movesend_over(send) || send->st.state != MS_READY || send->busy != IDLE ||
		movesend_fresh(send))
		return;
	send->heard_at = loop_now(send->loop);
	moverate_anew(&send->rate);
	if (send->restart)
		movesend_advance(send);
	else
		begin_round(send);
}

void movesend_set_rate(struct movesend *send, uint64_t rate)
{
	moverate_set(&send->rate, rate);
	loop_timer_disarm(send->pace);
	if (send->batch_waits)
		movesend_advance(send);
}

void movesend_status(const struct movesend *send, struct movesend_status *out)
{
	uint64_t ms = loop_now(send->loop) - send->round_began;

	*out = send->st;
	if (send->st.state == MS_ROUND && ms >= RATE_MS)
		out->rate = send->st.progress.round_bytes * 1000 / ms;
}

void movesend_close(struct movesend *send)
{
	if (!send || send->closed)
		return;
	send->closed = true;
	shut(send);
	loop_timer_close(send->quiet);
	loop_timer_close(send->pace);
	send->quiet = send->pace = NULL;
	if (send->busy == IDLE)
		movesend_release(send);
}
