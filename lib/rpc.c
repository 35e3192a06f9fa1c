#include "lib/rpc.h"

#include <errno.h>
#include <stdlib.h>
#include <uthash.h>

/* Requests lie in a hash by id and, those with a deadline, in a binary heap by
 * time, so that one timer serves all. */
struct call {
	uint64_t id;
	uint64_t deadline, timeout; /* timeout 0: none, not in the heap */
	size_t slot;		    /* in the heap, from 1 */
	rpc_fn *fn;
	void *arg;
	UT_hash_handle hh;
};

struct rpc {
	struct loop *loop;
	struct loop_timer *timer;
	struct call *calls;
	struct call **heap;
	size_t heap_size, heap_room;
	uint64_t next_id;
	unsigned depth; /* loops over callbacks on the stack */
	bool freed;	/* by a callback; the last of those loops releases it */
};

static void release(struct rpc *rpc)
{
	free(rpc->heap);
	free(rpc);
}

static void leave(struct rpc *rpc)
{
	if (--rpc->depth == 0 && rpc->freed)
		release(rpc);
}

static void place(struct rpc *rpc, size_t slot, struct call *call)
{
	rpc->heap[slot] = call;
	call->slot = slot;
}

static void sift_up(struct rpc *rpc, size_t slot)
{
	struct call *call = rpc->heap[slot];

	while (slot > 1 && rpc->heap[slot / 2]->deadline > call->deadline) {
		place(rpc, slot, rpc->heap[slot / 2]);
		slot /= 2;
	}
	place(rpc, slot, call);
}

static void sift_down(struct rpc *rpc, size_t slot)
{
	struct call *call = rpc->heap[slot];

	for (;;) {
		size_t child = slot * 2;

		if (child > rpc->heap_size)
			break;
		if (child < rpc->heap_size &&
			rpc->heap[child + 1]->deadline < rpc->heap[child]->deadline)
			child++;
		if (rpc->heap[child]->deadline >= call->deadline)
			break;
		place(rpc, slot, rpc->heap[child]);
		slot = child;
	}
	place(rpc, slot, call);
}

static bool heap_add(struct rpc *rpc, struct call *call)
{
	if (rpc->heap_size + 2 > rpc->heap_room) {
		size_t room = rpc->heap_room ? rpc->heap_room * 2 : 16;
		struct call **heap = realloc(rpc->heap, room * sizeof(*heap));

		if (!heap)
			return false;
		rpc->heap = heap;
		rpc->heap_room = room;
	}
	rpc->heap[++rpc->heap_size] = call;
	sift_up(rpc, rpc->heap_size);
	return true;
}

static void heap_remove(struct rpc *rpc, struct call *call)
{
	size_t slot = call->slot;
	struct call *last;

	if (!slot)
		return;
	call->slot = 0;
	last = rpc->heap[rpc->heap_size--];
	if (last == call)
		return;
	place(rpc, slot, last);
	sift_up(rpc, slot);
	sift_down(rpc, last->slot);
}

static void arm(struct rpc *rpc)
{
	uint64_t now = loop_now(rpc->loop);

	if (!rpc->heap_size)
		loop_timer_disarm(rpc->timer);
	else if (rpc->heap[1]->deadline <= now)
		loop_timer_arm(rpc->timer, 0);
	else
		loop_timer_arm(rpc->timer, rpc->heap[1]->deadline - now);
}

static void drop(struct rpc *rpc, struct call *call)
{
	heap_remove(rpc, call);
	HASH_DEL(rpc->calls, call);
	free(call);
}

static void expire(void *arg)
{
	struct rpc *rpc = arg;
	uint64_t now = loop_now(rpc->loop);
	struct err err;

	rpc->depth++;
	/* Each callback may add or cancel others: look at the top anew each time. */
	while (rpc->heap_size && rpc->heap[1]->deadline <= now) {
		struct call *call = rpc->heap[1];
		rpc_fn *fn = call->fn;
		void *fn_arg = call->arg;

		(void)err_set(&err, -ETIMEDOUT, "no answer within %llu ms",
			(unsigned long long)call->timeout);
		drop(rpc, call);
		fn(fn_arg, NULL, NULL, 0, &err);
	}
	if (!rpc->freed)
		arm(rpc);
	leave(rpc);
}

int rpc_new(struct loop *loop, struct rpc **out, struct err *err)
{
	struct rpc *rpc = calloc(1, sizeof(*rpc));
	int rc;

	if (!rpc)
		return err_set(err, -ENOMEM, "memory is short");
	rpc->loop = loop;
	rpc->next_id = 1;
	rc = loop_timer_open(loop, "rpc", expire, rpc, &rpc->timer, err);
	if (rc < 0) {
		free(rpc);
		return rc;
	}
	*out = rpc;
	return 0;
}

uint64_t rpc_add(struct rpc *rpc, uint64_t timeout_ms, rpc_fn *fn, void *arg)
{
	struct call *call = calloc(1, sizeof(*call));

	if (!call)
		return 0;
	call->id = rpc->next_id++;
	call->fn = fn;
	call->arg = arg;
	call->timeout = timeout_ms;
	if (timeout_ms) {
		call->deadline = loop_now(rpc->loop) + timeout_ms;
		if (!heap_add(rpc, call)) {
			free(call);
			return 0;
		}
		if (call->slot == 1)
			arm(rpc);
	}
	HASH_ADD(hh, rpc->calls, id, sizeof(call->id), call);
	return call->id;
}

bool rpc_deliver(struct rpc *rpc, const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct err err = ERR_INIT;
	struct call *call;
	rpc_fn *fn;
	void *arg;

	HASH_FIND(hh, rpc->calls, &env->id, sizeof(env->id), call);
	if (!call)
		return false;
	fn = call->fn;
	arg = call->arg;
	if (env->body_case == UM__ENVELOPE__BODY_ERROR)
		(void)err_set(&err, wire_errno_from_code(env->error->code), "%s",
			env->error->message && *env->error->message ? env->error->message
								    : "refused without a reason");
	if (!env->more) {
		drop(rpc, call);
	} else if (call->timeout) {
		call->deadline = loop_now(rpc->loop) + call->timeout;
		sift_down(rpc, call->slot);
	}
	fn(arg, env, bulk, bulk_size, err.code ? &err : NULL);
	return true;
}

void rpc_cancel(struct rpc *rpc, uint64_t id)
{
	struct call *call;

	HASH_FIND(hh, rpc->calls, &id, sizeof(id), call);
	if (call)
		drop(rpc, call);
}

void rpc_fail_all(struct rpc *rpc, const struct err *err)
{
	/* Requests added by the callbacks are new ones: not failed here. */
	uint64_t until = rpc->next_id;
	struct call *call, *next;
	bool again = true;

	rpc->depth++;
	while (again) {
		again = false;
		HASH_ITER (hh, rpc->calls, call, next) {
			rpc_fn *fn = call->fn;
			void *arg = call->arg;

			if (call->id >= until)
				break;
			drop(rpc, call);
			fn(arg, NULL, NULL, 0, err);
			/* The table may have changed under us. */
			again = true;
			break;
		}
	}
	if (!rpc->freed)
		arm(rpc);
	leave(rpc);
}

size_t rpc_pending(const struct rpc *rpc)
{
	return HASH_COUNT(rpc->calls);
}

void rpc_free(struct rpc *rpc)
{
	struct call *call, *next;

	if (!rpc || rpc->freed)
		return;
	HASH_ITER (hh, rpc->calls, call, next)
		drop(rpc, call);
	loop_timer_close(rpc->timer);
	rpc->freed = true;
	if (rpc->depth == 0)
		release(rpc);
}
