/* store: where the cluster's state is durable: a small key-value interface with
 * revisions, compare-and-swap transactions and watches.
 *
 * Keys are text, at most STORE_KEY_MAX bytes; values are bytes, at most
 * STORE_VALUE_MAX.  The store has one revision, which grows with every
 * transaction that changes something; each key remembers the revision that
 * last changed it (0: it is not there).  That is etcd's model, so that an
 * etcd back-end needs no other contract.
 *
 * Transactions are asynchronous: they are carried out in the order of their
 * store_txn() calls, and a callback runs on the loop when the result is durable
 * (SQLite: WAL with synchronous=FULL), also in that order.  What is queued while
 * one commit is under way goes to the disk together with one sync.
 *
 * A full disk is waited out: a reserve (a file beside the database) is given up first,
 * so that what is under way goes through; when that is used up too, the transactions
 * are kept, in their order, and tried again each second.  store_health() tells, and
 * the owner takes nothing new meanwhile.  Any other failure is for good: everything
 * queued behind it fails too, so that nothing is lost in the middle; the owner ends.
 *
 * One implementation is chosen at store_open(); all pass tests/unit/scheduler/store.
 */
#ifndef UMLAUT_SCHEDULER_STORE_STORE_H
#define UMLAUT_SCHEDULER_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/loop.h"

#define STORE_KEY_MAX 255
#define STORE_VALUE_MAX (16u << 20)

struct store;

/* A condition: KEY was last changed at REVISION (0: is not there). */
struct store_compare {
	const char *key;
	uint64_t revision;
};

struct store_op {
	const char *key;
	const void *value; /* NULL: delete */
	size_t size;
};

/* RC 0: durable, at REVISION.  -ESTALE: a condition does not hold, nothing was
 * done.  Others: the store is broken, ERR says how; -ENOSPC only at store_close(). */
typedef void store_done_fn(void *arg, int rc, uint64_t revision, const struct err *err);
/* For store_range(): not 0 ends the walk and is returned.  VALUE is borrowed. */
typedef int store_each_fn(
	void *arg, const char *key, const void *value, size_t size, uint64_t revision);
/* A change that is durable.  VALUE NULL: deleted.  In the order of revisions. */
typedef void store_watch_fn(
	void *arg, const char *key, const void *value, size_t size, uint64_t revision);

/* URL: "sqlite:PATH" or "memory:".  Takes the store for this process alone:
 * -EBUSY when another scheduler has it.  Blocking (start-up). */
int store_open(struct loop *loop, const char *url, struct store **out, struct err *err);
/* Writes what is queued, also what callbacks queue meanwhile; all callbacks have run. */
void store_close(struct store *store);

/* Every key that begins with PREFIX, in order.  Blocking: for start-up, before the
 * first transaction. */
int store_range(
	struct store *store, const char *prefix, store_each_fn *fn, void *arg, struct err *err);
/* Queues one transaction (all copied): all OPS if all COMPARES hold.  FN may be
 * NULL.  After a negative return FN is not called. */
int store_txn(struct store *store, const struct store_compare *compares, size_t compare_count,
	const struct store_op *ops, size_t op_count, store_done_fn *fn, void *arg, struct err *err);
/* LOW: the disk is about full, the reserve is used up: take only what cannot wait.
 * STUCK: nothing becomes durable until there is room. */
enum store_health { STORE_WELL, STORE_LOW, STORE_STUCK };
/* *WHY (may be NULL): what is the matter, for a person; borrowed, "" when well. */
enum store_health store_health(const struct store *store, const char **why);
/* FN is called on the loop after each change of health. */
typedef void store_health_fn(void *arg, enum store_health health, const char *why);
void store_on_health(struct store *store, store_health_fn *fn, void *arg);
/* Transactions queued and not yet durable. */
size_t store_pending(const struct store *store);
uint64_t store_revision(const struct store *store);

/* Changes of keys that begin with PREFIX from now on. */
struct store_watch;
int store_watch_open(struct store *store, const char *prefix, store_watch_fn *fn, void *arg,
	struct store_watch **out, struct err *err);
void store_watch_close(struct store_watch *watch);

#endif
