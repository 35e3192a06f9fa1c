#include "scheduler/store/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "lib/str.h"
#include "scheduler/store/backend.h"

struct txn {
	struct store_compare *compares;
	size_t compare_count;
	struct store_op *ops;
	size_t op_count;
	store_done_fn *fn;
	void *arg;
	int rc;
	uint64_t revision;
	struct txn *next;
};

struct store_watch {
	struct store *store;
	char *prefix;
	store_watch_fn *fn;
	void *arg;
	bool closed;
	struct store_watch *prev, *next;
};

#define RETRY_MS 1000u

struct store {
	struct loop *loop;
	const struct backend_ops *ops;
	struct backend *backend;
	struct txn *queue, **queue_tail; /* waiting */
	struct txn *group;		 /* on its way to the disk */
	bool busy, closing, delivering;
	size_t pending;
	uint64_t revision;	/* durable */
	uint64_t next_revision; /* of the pool thread, while busy */
	struct err broken;
	struct err stuck, low; /* .code: it is so */
	enum store_health told;
	store_health_fn *on_health;
	void *health_arg;
	struct loop_defer *start;
	struct loop_timer *retry;
	struct store_watch *watches;
};

static void txn_free(struct txn *txn)
{
	for (size_t i = 0; i < txn->compare_count; i++)
		free((void *)(uintptr_t)txn->compares[i].key);
	for (size_t i = 0; i < txn->op_count; i++) {
		free((void *)(uintptr_t)txn->ops[i].key);
		free((void *)(uintptr_t)txn->ops[i].value);
	}
	free(txn->compares);
	free(txn->ops);
	free(txn);
}

/* ---------------------------------------------------------------- on the pool's thread */

static int run_txn(struct store *store, struct txn *txn, struct err *err)
{
	txn->rc = 0;
	for (size_t i = 0; i < txn->compare_count; i++) {
		uint64_t have;
		int rc = store->ops->revision_of(store->backend, txn->compares[i].key, &have, err);

		if (rc < 0)
			return rc;
		if (have != txn->compares[i].revision) {
			txn->rc = -ESTALE;
			return 0;
		}
	}
	if (!txn->op_count) {
		txn->revision = store->next_revision;
		return 0;
	}
	store->next_revision++;
	txn->revision = store->next_revision;
	for (size_t i = 0; i < txn->op_count; i++) {
		int rc = store->ops->apply(store->backend, &txn->ops[i], store->next_revision, err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

static int run_group(struct store *store, struct err *err)
{
	struct txn *txn;
	int rc;

	store->next_revision = store->revision;
	rc = store->ops->begin(store->backend, err);
	for (txn = store->group; rc == 0 && txn; txn = txn->next)
		rc = run_txn(store, txn, err);
	if (rc == 0)
		rc = store->ops->commit(store->backend, store->next_revision, err);
	if (rc == 0)
		return 0;
	store->ops->rollback(store->backend);
	return err->code ? err->code : err_set(err, rc, "the store does not take a change");
}

static void work(void *arg)
{
	struct store *store = arg;
	struct err low = ERR_INIT;
	bool any = false, given_up = false;
	int rc = 0;

	store->next_revision = store->revision;
	for (struct txn *txn = store->group; txn; txn = txn->next)
		any |= txn->op_count || txn->compare_count;
	/* Nothing to write: only a place in the order. */
	if (any) {
		rc = run_group(store, &store->broken);
		if (rc == -ENOSPC && store->ops->reserve &&
			store->ops->reserve(store->backend, false, NULL) > 0) {
			given_up = true;
			store->broken = ERR_INIT;
			rc = run_group(store, &store->broken);
		}
	}
	/* Not at once again: what took the space is likely still taking it. */
	if (given_up)
		(void)err_set(&low, -ENOSPC, "the disk with the cluster's state is full");
	else if (rc == 0 && store->ops->reserve)
		(void)store->ops->reserve(store->backend, true, &low);
	store->low = low;
}

/* ---------------------------------------------------------------- on the loop */

static void tell_watches(struct store *store, const struct txn *txn)
{
	struct store_watch *watch, *next;

	for (size_t i = 0; i < txn->op_count; i++) {
		DL_FOREACH_SAFE (store->watches, watch, next) {
			const struct store_op *op = &txn->ops[i];

			if (!watch->closed && str_starts(op->key, watch->prefix))
				watch->fn(watch->arg, op->key, op->value, op->size, txn->revision);
		}
	}
}

static void sweep_watches(struct store *store)
{
	struct store_watch *watch, *next;

	DL_FOREACH_SAFE (store->watches, watch, next) {
		if (!watch->closed)
			continue;
		DL_DELETE(store->watches, watch);
		free(watch->prefix);
		free(watch);
	}
}

static void deliver(struct store *store, struct txn *list)
{
	store->delivering = true;
	while (list) {
		struct txn *txn = list;
		int rc = store->broken.code ? store->broken.code : txn->rc;

		list = txn->next;
		store->pending--;
		if (rc == 0)
			tell_watches(store, txn);
		if (txn->fn)
			txn->fn(txn->arg, rc, txn->revision,
				store->broken.code ? &store->broken : NULL);
		txn_free(txn);
	}
	store->delivering = false;
	sweep_watches(store);
}

enum store_health store_health(const struct store *store, const char **why)
{
	const struct err *err = store->stuck.code ? &store->stuck
				: store->low.code ? &store->low
						  : NULL;

	if (why)
		*why = err ? err_msg(err) : "";
	return store->stuck.code ? STORE_STUCK : store->low.code ? STORE_LOW : STORE_WELL;
}

void store_on_health(struct store *store, store_health_fn *fn, void *arg)
{
	store->on_health = fn;
	store->health_arg = arg;
}

static void tell_health(struct store *store)
{
	const char *why;
	enum store_health health = store_health(store, &why);

	if (health != STORE_WELL && !store->closing)
		loop_timer_arm(store->retry, RETRY_MS);
	if (health == store->told)
		return;
	store->told = health;
	if (store->on_health && !store->closing)
		store->on_health(store->health_arg, health, why);
}

/* Before what was queued meanwhile: tried again as they are. */
static void put_back(struct store *store, struct txn *group)
{
	struct txn **tail = &group->next;

	while (*tail)
		tail = &(*tail)->next;
	*tail = store->queue;
	if (!store->queue)
		store->queue_tail = tail;
	store->queue = group;
}

static void done(void *arg, bool cancelled)
{
	struct store *store = arg;
	struct txn *group = store->group;

	if (cancelled && !store->broken.code)
		(void)err_set(&store->broken, -ECANCELED, "the store was closed");
	store->group = NULL;
	store->busy = false;
	store->stuck = ERR_INIT;
	if (store->broken.code == -ENOSPC && group && !store->closing) {
		store->stuck = store->broken;
		store->broken = ERR_INIT;
		put_back(store, group);
		tell_health(store);
		return;
	}
	tell_health(store);
	if (!store->broken.code)
		store->revision = store->next_revision;
	/* The next group goes to the disk while this one's callbacks run. */
	if (store->queue && !store->broken.code && !store->closing)
		loop_defer_run(store->start);
	deliver(store, group);
	if (store->broken.code && store->queue && !store->closing)
		loop_defer_run(store->start);
}

static void begin(struct store *store)
{
	struct err err = ERR_INIT;

	store->group = store->queue;
	store->queue = NULL;
	store->queue_tail = &store->queue;
	if (store->broken.code) {
		struct txn *group = store->group;

		store->group = NULL;
		deliver(store, group);
		return;
	}
	store->busy = true;
	if (loop_work_run(store->loop, "store", work, done, store, &err) < 0) {
		store->broken = err;
		done(store, false);
	}
}

static void start(void *arg)
{
	struct store *store = arg;

	if (!store->busy && store->queue && !store->stuck.code)
		begin(store);
}

/* Is there room now?  Also when nothing waits: for the reserve. */
static void on_retry(void *arg)
{
	struct store *store = arg;

	if (store->busy)
		loop_timer_arm(store->retry, RETRY_MS);
	else
		begin(store);
}

int store_open(struct loop *loop, const char *url, struct store **out, struct err *err)
{
	struct store *store = calloc(1, sizeof(*store));
	const char *path = "";
	int rc;

	if (!store)
		return err_set(err, -ENOMEM, "memory is short for the store");
	store->loop = loop;
	store->queue_tail = &store->queue;
	if (str_starts(url, "sqlite:")) {
		store->ops = &backend_sqlite;
		path = url + 7;
	} else if (strcmp(url, "memory:") == 0) {
		store->ops = &backend_memory;
	} else {
		free(store);
		return err_set(err, -EINVAL, "store '%.80s' is none (sqlite:PATH, memory:)", url);
	}
	rc = loop_defer_open(loop, "store", start, store, &store->start, err);
	if (rc == 0)
		rc = loop_timer_open(loop, "store", on_retry, store, &store->retry, err);
	if (rc == 0)
		rc = store->ops->open(path, &store->backend, &store->revision, err);
	if (rc == 0 && store->ops->reserve &&
		store->ops->reserve(store->backend, true, &store->low) < 0)
		tell_health(store);
	if (rc < 0) {
		loop_timer_close(store->retry);
		loop_defer_close(store->start);
		free(store);
		return rc;
	}
	*out = store;
	return 0;
}

void store_close(struct store *store)
{
	if (!store)
		return;
	/* What is queued is written here and now: nobody waits for a loop any more. */
	store->closing = true;
	loop_run_while(store->loop, &store->busy);
	while (store->queue) {
		struct txn *group = store->queue;

		store->group = group;
		store->queue = NULL;
		store->queue_tail = &store->queue;
		if (!store->broken.code) {
			work(store);
			if (!store->broken.code)
				store->revision = store->next_revision;
		}
		store->group = NULL;
		/* Those who hear of it may queue more. */
		deliver(store, group);
	}
	loop_timer_close(store->retry);
	loop_defer_close(store->start);
	store->ops->close(store->backend);
	while (store->watches) {
		store->watches->closed = true;
		sweep_watches(store);
	}
	free(store);
}

int store_range(
	struct store *store, const char *prefix, store_each_fn *fn, void *arg, struct err *err)
{
	return store->ops->range(store->backend, prefix, fn, arg, err);
}

static void *copy(const void *data, size_t size)
{
	void *p = malloc(size ? size : 1);

	if (p && size)
		memcpy(p, data, size);
	return p;
}

static int fill(struct txn *txn, const struct store_compare *compares, size_t compare_count,
	const struct store_op *ops, size_t op_count, struct err *err)
{
	txn->compares = calloc(compare_count + 1, sizeof(*txn->compares));
	txn->ops = calloc(op_count + 1, sizeof(*txn->ops));
	if (!txn->compares || !txn->ops)
		goto short_of_memory;
	for (size_t i = 0; i < compare_count; i++) {
		txn->compares[i].revision = compares[i].revision;
		txn->compares[i].key = str_dup(compares[i].key);
		txn->compare_count++;
		if (!txn->compares[i].key)
			goto short_of_memory;
	}
	for (size_t i = 0; i < op_count; i++) {
		size_t n = strnlen(ops[i].key, STORE_KEY_MAX + 1);

		if (!n || n > STORE_KEY_MAX || ops[i].size > STORE_VALUE_MAX)
			return err_set(err, -EINVAL,
				"key '%.60s': key or value of %zu bytes is too large", ops[i].key,
				ops[i].size);
		txn->ops[i].size = ops[i].size;
		txn->ops[i].key = str_dup(ops[i].key);
		txn->ops[i].value = ops[i].value ? copy(ops[i].value, ops[i].size) : NULL;
		txn->op_count++;
		if (!txn->ops[i].key || (ops[i].value && !txn->ops[i].value))
			goto short_of_memory;
	}
	return 0;
short_of_memory:
	return err_set(err, -ENOMEM, "memory is short for a change of the store");
}

int store_txn(struct store *store, const struct store_compare *compares, size_t compare_count,
	const struct store_op *ops, size_t op_count, store_done_fn *fn, void *arg, struct err *err)
{
	struct txn *txn = calloc(1, sizeof(*txn));
	int rc;

	if (!txn)
		return err_set(err, -ENOMEM, "memory is short for a change of the store");
	rc = fill(txn, compares, compare_count, ops, op_count, err);
	if (rc < 0) {
		txn_free(txn);
		return rc;
	}
	txn->fn = fn;
	txn->arg = arg;
	*store->queue_tail = txn;
	store->queue_tail = &txn->next;
	store->pending++;
	if (!store->busy)
		loop_defer_run(store->start);
	return 0;
}

size_t store_pending(const struct store *store)
{
	return store->pending;
}

uint64_t store_revision(const struct store *store)
{
	return store->revision;
}

int store_watch_open(struct store *store, const char *prefix, store_watch_fn *fn, void *arg,
	struct store_watch **out, struct err *err)
{
	struct store_watch *watch = calloc(1, sizeof(*watch));

	if (watch)
		watch->prefix = str_dup(prefix);
	if (!watch || !watch->prefix) {
		free(watch);
		return err_set(err, -ENOMEM, "memory is short for a watch");
	}
	watch->store = store;
	watch->fn = fn;
	watch->arg = arg;
	DL_APPEND(store->watches, watch);
	*out = watch;
	return 0;
}

void store_watch_close(struct store_watch *watch)
{
	if (!watch)
		return;
	watch->closed = true;
	if (!watch->store->delivering)
		sweep_watches(watch->store);
}
