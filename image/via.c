#include "image/via.h"

#include <errno.h>
#include <stdlib.h>

struct imgvia_dealer {
	struct imgvia via;
	struct zsock *sock;
	struct rpc *rpc;
};

static uint64_t dealer_request(void *arg, Um__Envelope *env, const void *bulk, size_t bulk_size,
	uint64_t timeout_ms, rpc_fn *fn, void *fn_arg, struct err *err)
{
	struct imgvia_dealer *d = arg;

	env->id = rpc_add(d->rpc, timeout_ms, fn, fn_arg);
	if (!env->id) {
		(void)err_set(err, -ENOMEM, "memory is short for a request");
		return 0;
	}
	if (zsock_send(d->sock, NULL, env, bulk, bulk_size, err) < 0) {
		rpc_cancel(d->rpc, env->id);
		return 0;
	}
	return env->id;
}

static void dealer_cancel(void *arg, uint64_t id)
{
	struct imgvia_dealer *d = arg;

	rpc_cancel(d->rpc, id);
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct imgvia_dealer *d = arg;

	(void)sock;
	(void)peer;
	(void)rpc_deliver(d->rpc, env, bulk, bulk_size);
}

int imgvia_dealer_open(struct loop *loop, struct zctx *zctx, const char *endpoint,
	const uint8_t *server_key, const struct curve_pair *keys, struct imgvia_dealer **out,
	struct err *err)
{
	static const struct zsock_ops ops = {.on_message = on_message};
	struct zsock_config config = {.type = ZSOCK_DEALER, .name = "artefact source"};
	struct imgvia_dealer *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return err_set(err, -ENOMEM, "memory is short for a connection");
	if (server_key && keys) {
		config.server_key = server_key;
		config.public_key = keys->public_key;
		config.secret_key = keys->secret_key;
	}
	d->via = (struct imgvia){.request = dealer_request, .cancel = dealer_cancel, .arg = d};
	rc = rpc_new(loop, &d->rpc, err);
	if (rc == 0)
		rc = zsock_open(loop, zctx, &config, &ops, d, &d->sock, err);
	if (rc == 0)
		rc = zsock_connect(d->sock, endpoint, err);
	if (rc < 0) {
		imgvia_dealer_close(d);
		return rc;
	}
	*out = d;
	return 0;
}

const struct imgvia *imgvia_dealer_via(struct imgvia_dealer *dealer)
{
	return &dealer->via;
}

void imgvia_dealer_close(struct imgvia_dealer *dealer)
{
	if (!dealer)
		return;
	if (dealer->sock)
		zsock_close(dealer->sock, 0);
	rpc_free(dealer->rpc);
	free(dealer);
}
