/* rpc: requests with ids and timeouts over a zsock (DEALER) or a conn.
 *
 * A table of what is awaited: rpc_add() gives a fresh id, the owner sends the
 * Envelope with it, and passes each incoming Envelope to rpc_deliver().  The
 * callback of a request runs for each reply; a reply without `more` ends it,
 * as does the timeout (ENV NULL, err -ETIMEDOUT) and rpc_fail_all() (ENV NULL).
 * One timer for all requests; O(log n) per request.
 */
#ifndef UMLAUT_LIB_RPC_H
#define UMLAUT_LIB_RPC_H

#include "lib/loop.h"
#include "lib/wire.h"

struct rpc;
typedef void rpc_fn(void *arg, const Um__Envelope *env, const void *bulk, size_t bulk_size,
	const struct err *err);

int rpc_new(struct loop *loop, struct rpc **out, struct err *err);
/* TIMEOUT_MS 0: none (streams).  Returns the id (never 0), or 0 when memory is
 * short.  Replies with `more` restart the timeout. */
uint64_t rpc_add(struct rpc *rpc, uint64_t timeout_ms, rpc_fn *fn, void *arg);
/* True when the id was awaited here.  An Error body reaches the callback as
 * ENV and as a filled ERR. */
bool rpc_deliver(struct rpc *rpc, const Um__Envelope *env, const void *bulk, size_t bulk_size);
void rpc_cancel(struct rpc *rpc, uint64_t id); /* no callback */
void rpc_fail_all(struct rpc *rpc, const struct err *err);
size_t rpc_pending(const struct rpc *rpc);
void rpc_free(struct rpc *rpc); /* no callbacks; safe inside one */

#endif
