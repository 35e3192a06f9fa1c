#include "node-agent/peers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "image/serve.h"
#include "lib/log.h"
#include "lib/str.h"
#include "node-agent/moves.h"

struct peer_key {
	uint8_t key[CURVE_KEY];
	UT_hash_handle hh;
};

struct peers {
	struct agent *agent;
	struct zsock *sock;
	struct curve_zap *zap;
	struct imgserve *serve;
	struct peer_key *keys;
	struct log_rate rate;
	char endpoint[160];
};

static int allow(void *arg, const uint8_t pubkey[CURVE_KEY], const char *address, char user[64])
{
	struct peers *peers = arg;
	struct peer_key *k = NULL;

	HASH_FIND(hh, peers->keys, pubkey, CURVE_KEY, k);
	if (!k && !moves_key(peers->agent->moves, pubkey)) {
		if (log_rate_pass(&peers->rate))
			log_warn("an unknown key is refused", LOG_STR("address", address));
		return -EACCES;
	}
	str_hex(user, pubkey, 16);
	return 0;
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct peers *peers = arg;
	Um__Envelope out = wire_env(env->id);
	Um__Error error = UM__ERROR__INIT;

	if (imgserve_message(peers->serve, sock, peer, env) ||
		moves_message(peers->agent->moves, sock, peer, env, bulk, bulk_size))
		return;
	error.code = UM__ERROR_CODE__DENIED;
	error.message = (char *)(uintptr_t) "agents may only fetch artefacts and send disks here";
	out.body_case = UM__ENVELOPE__BODY_ERROR;
	out.error = &error;
	(void)zsock_send(sock, peer, &out, NULL, 0, NULL);
}

static int listen_on(struct peers *peers, struct err *err)
{
	static const struct zsock_ops ops = {.on_message = on_message};
	struct agent *agent = peers->agent;
	const struct agentconf *c = &agent->config;
	struct zsock_config config = {.type = ZSOCK_ROUTER,
		.name = "peers",
		.server = true,
		.secret_key = agent->keys.secret_key,
		.public_key = agent->keys.public_key};
	int rc = curve_zap_open(agent->loop, agent->zctx, allow, peers, &peers->zap, err);

	if (rc == 0)
		rc = imgserve_new(agent->loop, agent->store, &peers->serve, err);
	if (rc == 0)
		rc = zsock_open(agent->loop, agent->zctx, &config, &ops, peers, &peers->sock, err);
	if (rc == 0)
		rc = zsock_bind(peers->sock, c->peer_listen, err);
	if (rc < 0)
		return rc;
	return str_copy(peers->endpoint, sizeof(peers->endpoint),
		c->peer_advertise[0] ? c->peer_advertise : zsock_endpoint(peers->sock));
}

int peers_open(struct agent *agent, struct peers **out, struct err *err)
{
	struct peers *peers = calloc(1, sizeof(*peers));
	int rc;

	if (!peers)
		return err_set(err, -ENOMEM, "memory is short");
	peers->agent = agent;
	rc = agent->config.peer_listen[0] ? listen_on(peers, err) : 0;
	if (rc < 0) {
		peers_stop(peers);
		peers_free(peers);
		return rc;
	}
	*out = peers;
	return 0;
}

void peers_stop(struct peers *peers)
{
	if (!peers)
		return;
	imgserve_free(peers->serve);
	peers->serve = NULL;
	if (peers->sock)
		zsock_close(peers->sock, 0);
	peers->sock = NULL;
	if (peers->zap)
		curve_zap_close(peers->zap);
	peers->zap = NULL;
}

static void clear(struct peers *peers)
{
	struct peer_key *k, *next;

	HASH_ITER (hh, peers->keys, k, next) {
		HASH_DEL(peers->keys, k);
		free(k);
	}
}

void peers_free(struct peers *peers)
{
	if (!peers)
		return;
	clear(peers);
	free(peers);
}

void peers_allow(struct peers *peers, const ProtobufCBinaryData *keys, size_t count, bool full)
{
	if (full)
		clear(peers);
	for (size_t i = 0; i < count; i++) {
		struct peer_key *k = NULL;

		if (keys[i].len != CURVE_KEY)
			continue;
		HASH_FIND(hh, peers->keys, keys[i].data, CURVE_KEY, k);
		if (k)
			continue;
		k = calloc(1, sizeof(*k));
		if (!k)
			return;
		memcpy(k->key, keys[i].data, CURVE_KEY);
		HASH_ADD(hh, peers->keys, key, CURVE_KEY, k);
	}
}

const char *peers_endpoint(const struct peers *peers)
{
	return peers->endpoint;
}
