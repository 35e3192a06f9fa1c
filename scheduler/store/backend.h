/* backend: what an implementation of the store provides.  Its functions run on a
 * pool thread, one at a time; store.c queues, groups and reports. */
#ifndef UMLAUT_SCHEDULER_STORE_BACKEND_H
#define UMLAUT_SCHEDULER_STORE_BACKEND_H

#include "scheduler/store/store.h"

struct backend;

struct backend_ops {
	int (*open)(const char *path, struct backend **out, uint64_t *revision, struct err *err);
	void (*close)(struct backend *backend);
	int (*range)(struct backend *backend, const char *prefix, store_each_fn *fn, void *arg,
		struct err *err);
	/* A group of transactions becomes durable with commit(), all or none. */
	int (*begin)(struct backend *backend, struct err *err);
	/* The revision that last changed KEY, 0: not there. */
	int (*revision_of)(
		struct backend *backend, const char *key, uint64_t *revision, struct err *err);
	int (*apply)(struct backend *backend, const struct store_op *op, uint64_t revision,
		struct err *err);
	int (*commit)(struct backend *backend, uint64_t revision, struct err *err);
	void (*rollback)(struct backend *backend);
	/* NULL: has none.  WANTED: sees to it that space is set aside, -ENOSPC when there is
	 * too little.  Otherwise gives it up: 1, or 0 when there was none. */
	int (*reserve)(struct backend *backend, bool wanted, struct err *err);
};

extern const struct backend_ops backend_sqlite, backend_memory;

#endif
