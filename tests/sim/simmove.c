/* node-agent/movesend.h and moverecv.h over pretended disks: the sessions between two
 * agents, with the real messages over the pretended network, but one message with the
 * whole disk in the place of all blocks.  What is read and written is simfs's, so the
 * guests' count of their runs (check_disk()) tells whether the disk arrived.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/buf.h"
#include "lib/fs.h"
#include "lib/str.h"
#include "node-agent/moverecv.h"
#include "node-agent/movesend.h"
#include "tests/sim/event.h"

#define AGAIN_MS 1000
#define PATIENCE_MS 60000
#define LAST_PATIENCE_MS 15000

struct movesend {
	struct movesend_config config;
	const struct movesend_ops *ops;
	void *arg;
	char cow[256];
	uint8_t image_id[32];
	struct zsock *sock;
	struct loop_timer *timer;
	struct loop *loop;
	enum movesend_state state;
	bool welcome, last, closed;
	uint32_t restarts;
	uint64_t runs, heard;
	Um__RunnerStatus ended;
	uint64_t ended_generation;
};

static void digest_of(const void *data, size_t size, uint8_t digest[MOVE_DIGEST])
{
	memset(digest, 0, MOVE_DIGEST);
	memcpy(digest, data, size < MOVE_DIGEST ? size : MOVE_DIGEST);
}

static void fail(struct movesend *s, int code, const char *why)
{
	struct err err = ERR_INIT;

	s->state = MS_FAILED;
	loop_timer_disarm(s->timer);
	(void)err_set(&err, code, "%s", why);
	s->ops->on_failed(s->arg, &err);
}

static void offer(struct movesend *s)
{
	Um__Envelope env = wire_env(1);
	Um__MoveOffer m = UM__MOVE_OFFER__INIT;

	m.move = s->config.move;
	m.epoch = s->config.epoch;
	m.disk_generation = s->config.disk_generation;
	m.image_id = (ProtobufCBinaryData){.len = 32, .data = s->image_id};
	m.disk_size = 4096;
	env.body_case = UM__ENVELOPE__BODY_MOVE_OFFER;
	env.move_offer = &m;
	(void)zsock_send(s->sock, NULL, &env, NULL, 0, NULL);
}

static void send_disk(struct movesend *s)
{
	Um__Envelope env = wire_env(1);
	Um__MoveSeal m = UM__MOVE_SEAL__INIT;
	struct sim_machine *machine = fs_machine(s->cow);
	uint8_t digest[MOVE_DIGEST];
	size_t size;
	const void *data = fs_peek(machine, s->cow, &size);

	if (!data || (machine->disk_bad && sim_chance(machine, DRAW_FATE, 0.3))) {
		fail(s, -EIO, "the disk cannot be read");
		return;
	}
	digest_of(data, size, digest);
	m.move = s->config.move;
	m.round = 2;
	m.restarts = s->restarts;
	m.runs = s->runs;
	m.ended = s->ended.phase ? &s->ended : NULL;
	m.ended_generation = s->ended_generation;
	m.digest = (ProtobufCBinaryData){.len = MOVE_DIGEST, .data = digest};
	env.body_case = UM__ENVELOPE__BODY_MOVE_SEAL;
	env.move_seal = &m;
	(void)zsock_send(s->sock, NULL, &env, data, size, NULL);
}

/* What is due, again and again until it is answered. */
static void on_timer(void *arg)
{
	struct movesend *s = arg;
	uint64_t quiet = loop_now(s->loop) - s->heard;

	if (s->state == MS_SEALED || s->state == MS_FAILED)
		return;
	if (quiet > (s->last ? LAST_PATIENCE_MS : PATIENCE_MS)) {
		fail(s, -ETIMEDOUT, "the target does not answer");
		return;
	}
	loop_timer_arm(s->timer, AGAIN_MS);
	if (!s->welcome) {
		offer(s);
	} else if (s->last) {
		s->state = MS_LAST;
		send_disk(s);
	} else if (s->state != MS_READY) {
		/* A round has gone by. */
		s->state = MS_READY;
		s->ops->on_ready(s->arg);
	}
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct movesend *s = arg;

	(void)sock;
	(void)peer;
	(void)bulk;
	(void)bulk_size;
	if (s->state == MS_SEALED || s->state == MS_FAILED)
		return;
	s->heard = loop_now(s->loop);
	switch ((int)env->body_case) {
	case UM__ENVELOPE__BODY_MOVE_HAVE:
		s->welcome = true;
		if (s->state == MS_CONNECT)
			s->state = MS_ROUND;
		loop_timer_arm(s->timer, sim_between(sim_here(), DRAW_POOL, 5, 3000));
		break;
	case UM__ENVELOPE__BODY_MOVE_SEALED:
		if (!s->last)
			break;
		s->state = MS_SEALED;
		loop_timer_disarm(s->timer);
		s->ops->on_sealed(s->arg, env->move_sealed->digest.data);
		break;
	case UM__ENVELOPE__BODY_ERROR:
		/* Not expected there yet: tried again. */
		if (env->error->code != UM__ERROR_CODE__UNAVAILABLE)
			fail(s, wire_errno_from_code(env->error->code), env->error->message);
		break;
	default:
		break;
	}
}

static void on_state(void *arg, struct zsock *sock, bool up, const char *detail)
{
	struct movesend *s = arg;

	(void)sock;
	(void)detail;
	s->welcome = false;
	if (up && s->state != MS_SEALED && s->state != MS_FAILED)
		offer(s);
}

int movesend_open(struct loop *loop, struct zctx *zctx, const struct movesend_config *config,
	const struct movesend_ops *ops, void *arg, struct movesend **out, struct err *err)
{
	static const struct zsock_ops zops = {.on_message = on_message, .on_state = on_state};
	const struct zsock_config zconfig = {.type = ZSOCK_DEALER,
		.name = "move",
		.secret_key = config->secret_key,
		.public_key = config->public_key,
		.server_key = config->server_key};
	struct movesend *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	s->config = *config;
	(void)str_copy(s->cow, sizeof(s->cow), config->cow);
	memcpy(s->image_id, config->image_id, sizeof(s->image_id));
	s->ops = ops;
	s->arg = arg;
	s->loop = loop;
	s->heard = loop_now(loop);
	(void)loop_timer_open(loop, "move", on_timer, s, &s->timer, err);
	(void)zsock_open(loop, zctx, &zconfig, &zops, s, &s->sock, err);
	(void)zsock_connect(s->sock, config->endpoint, err);
	loop_timer_arm(s->timer, AGAIN_MS);
	*out = s;
	return 0;
}

void movesend_ended(struct movesend *s, const Um__RunnerStatus *last, uint64_t generation)
{
	static char reason[] = "it ended";

	s->ended = *last;
	s->ended.reason = reason;
	s->ended_generation = generation;
}

void movesend_last(struct movesend *s, uint32_t restarts, uint64_t runs)
{
	s->last = true;
	s->restarts = restarts;
	s->runs = runs;
	s->heard = loop_now(s->loop);
	if (s->state != MS_FAILED)
		loop_timer_arm(s->timer, 1);
}

bool movesend_fresh(const struct movesend *s)
{
	return s->state == MS_READY && s->welcome;
}

void movesend_again(struct movesend *s)
{
	if (s->state != MS_READY || movesend_fresh(s))
		return;
	s->state = MS_ROUND;
	s->heard = loop_now(s->loop);
}

void movesend_set_rate(struct movesend *s, uint64_t rate)
{
	s->config.rate = rate;
}

void movesend_status(const struct movesend *s, struct movesend_status *out)
{
	memset(out, 0, sizeof(*out));
	out->state = s->state;
	out->expected_ms = 10;
}

void movesend_close(struct movesend *s)
{
	const struct movesend_ops *ops = s ? s->ops : NULL;
	void *arg = s ? s->arg : NULL;

	if (!s)
		return;
	zsock_close(s->sock, 0);
	loop_timer_close(s->timer);
	free(s);
	if (ops->on_released)
		ops->on_released(arg);
}

/* ---------------------------------------------------------------- the target */

struct moverecv {
	struct moverecv_config config;
	const struct moverecv_ops *ops;
	void *arg;
	char path[256], dir[256];
	uint8_t image_id[32], digest[MOVE_DIGEST];
	bool sealed;
	uint64_t written;
};

int moverecv_open(struct loop *loop, const struct moverecv_config *config,
	const struct moverecv_ops *ops, void *arg, struct moverecv **out, struct err *err)
{
	struct moverecv *r = calloc(1, sizeof(*r));

	(void)loop;
	(void)err;
	if (!r)
		abort();
	r->config = *config;
	(void)str_copy(r->path, sizeof(r->path), config->path);
	(void)str_copy(r->dir, sizeof(r->dir), config->dir ? config->dir : "");
	memcpy(r->image_id, config->image_id, sizeof(r->image_id));
	if (config->sealed) {
		r->sealed = true;
		memcpy(r->digest, config->sealed, MOVE_DIGEST);
	}
	r->ops = ops;
	r->arg = arg;
	*out = r;
	return 0;
}

static void refuse(
	struct zsock *sock, const struct zpeer *peer, Um__ErrorCode code, const char *why)
{
	Um__Envelope env = wire_env(1);
	Um__Error error = UM__ERROR__INIT;

	error.code = code;
	error.message = (char *)(uintptr_t)why;
	env.body_case = UM__ENVELOPE__BODY_ERROR;
	env.error = &error;
	(void)zsock_send(sock, peer, &env, NULL, 0, NULL);
}

static int keep(struct moverecv *r, const Um__MoveSeal *seal, const void *data, size_t size,
	struct err *err)
{
	char path[PATH_MAX];
	uint8_t packed[512];
	int rc;

	if (r->sealed)
		return memcmp(r->digest, seal->digest.data, MOVE_DIGEST) == 0
			       ? 0
			       : err_set(err, -ESTALE, "it was sealed with another digest");
	rc = fs_write_atomic(r->path, data, size, 0600, err);
	if (rc == 0)
		rc = fs_join(path, sizeof(path), r->dir, MOVERECV_SEALED, err);
	if (rc == 0)
		rc = fs_write_atomic(path, packed, um__move_seal__pack(seal, packed), 0600, err);
	if (rc < 0)
		return rc;
	r->sealed = true;
	r->written += size;
	memcpy(r->digest, seal->digest.data, MOVE_DIGEST);
	return 0;
}

bool moverecv_message(struct moverecv *r, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	Um__Envelope reply = wire_env(env->id);
	Um__MoveHave have = UM__MOVE_HAVE__INIT;
	Um__MoveSealed sealed = UM__MOVE_SEALED__INIT;
	struct err err = ERR_INIT;
	bool was = r->sealed;

	if (env->body_case == UM__ENVELOPE__BODY_MOVE_OFFER &&
		env->move_offer->move == r->config.move) {
		if (env->move_offer->epoch != r->config.epoch ||
			env->move_offer->disk_generation != r->config.disk_generation) {
			refuse(sock, peer, UM__ERROR_CODE__CONFLICT, "not what was announced");
			return true;
		}
		have.move = r->config.move;
		reply.body_case = UM__ENVELOPE__BODY_MOVE_HAVE;
		reply.move_have = &have;
		(void)zsock_send(sock, peer, &reply, NULL, 0, NULL);
		return true;
	}
	if (env->body_case != UM__ENVELOPE__BODY_MOVE_SEAL ||
		env->move_seal->move != r->config.move || !bulk)
		return false;
	if (keep(r, env->move_seal, bulk, bulk_size, &err) < 0) {
		if (r->ops->on_trouble)
			r->ops->on_trouble(r->arg, &err);
		refuse(sock, peer, UM__ERROR_CODE__NO_SPACE, err_msg(&err));
		return true;
	}
	sealed.move = r->config.move;
	sealed.digest = (ProtobufCBinaryData){.len = MOVE_DIGEST, .data = r->digest};
	reply.body_case = UM__ENVELOPE__BODY_MOVE_SEALED;
	reply.move_sealed = &sealed;
	(void)zsock_send(sock, peer, &reply, NULL, 0, NULL);
	if (!was)
		r->ops->on_sealed(r->arg, r->digest);
	return true;
}

uint64_t moverecv_written(const struct moverecv *r)
{
	return r->written;
}

void moverecv_close(struct moverecv *r)
{
	const struct moverecv_ops *ops = r ? r->ops : NULL;
	void *arg = r ? r->arg : NULL;

	free(r);
	if (ops && ops->on_released)
		ops->on_released(arg);
}
