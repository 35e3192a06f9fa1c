/* via: how to ask the other side, for fetch and upload: a connection that the
 * caller has (the agent's to the scheduler), or one made here (a DEALER).
 */
#ifndef UMLAUT_IMAGE_VIA_H
#define UMLAUT_IMAGE_VIA_H

#include "lib/curve.h"
#include "lib/rpc.h"
#include "lib/zsock.h"

struct imgvia {
	/* Sends ENV (with a BULK part) as a request: fills in its id, and has FN called
	 * for each reply, or with ENV NULL on failure or timeout (see lib/rpc.h).
	 * Returns the id; 0 when it cannot be sent now (ERR says why; -EAGAIN: the queue
	 * is full, try again): FN is not called then. */
	uint64_t (*request)(void *arg, Um__Envelope *env, const void *bulk, size_t bulk_size,
		uint64_t timeout_ms, rpc_fn *fn, void *fn_arg, struct err *err);
	/* FN will not be called any more. */
	void (*cancel)(void *arg, uint64_t id);
	void *arg;
};

struct imgvia_dealer;

/* Connects to ENDPOINT.  KEYS and SERVER_KEY NULL: no CURVE (ipc only).  VIA is
 * valid until imgvia_dealer_close(), which calls no callbacks. */
int imgvia_dealer_open(struct loop *loop, struct zctx *zctx, const char *endpoint,
	const uint8_t *server_key, const struct curve_pair *keys, struct imgvia_dealer **out,
	struct err *err);
const struct imgvia *imgvia_dealer_via(struct imgvia_dealer *dealer);
void imgvia_dealer_close(struct imgvia_dealer *dealer);

#endif
