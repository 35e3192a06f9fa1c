/* The durable store: what "sqlite:" opens.  A group of transactions is there after its
 * commit, whatever happens then, and not at all before. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "lib/str.h"
#include "scheduler/store/backend.h"
#include "tests/sim/event.h"

struct item {
	char *key;
	void *value; /* NULL in `group`: deleted */
	size_t size;
	uint64_t revision;
	UT_hash_handle hh;
};

struct sim_store {
	struct item *items;
	uint64_t revision;
	bool locked;
};

struct backend {
	struct sim_store *store;
	struct item *group; /* begun, not committed */
};

static void item_put(
	struct item **items, const char *key, const void *value, size_t size, uint64_t revision)
{
	struct item *item;

	HASH_FIND_STR(*items, key, item);
	if (!item) {
		item = calloc(1, sizeof(*item));
		if (!item || !(item->key = strdup(key)))
			abort();
		HASH_ADD_KEYPTR(hh, *items, item->key, strlen(item->key), item);
	}
	free(item->value);
	item->value = NULL;
	if (value) {
		item->value = malloc(size + 1);
		if (!item->value)
			abort();
		memcpy(item->value, value, size);
	}
	item->size = size;
	item->revision = revision;
}

static void item_drop(struct item **items, struct item *item)
{
	HASH_DEL(*items, item);
	free(item->key);
	free(item->value);
	free(item);
}

static void drop_all(struct item **items)
{
	while (*items)
		item_drop(items, *items);
}

struct sim_store *store_sim_new(void)
{
	struct sim_store *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	return s;
}

void store_sim_free(struct sim_store *s)
{
	drop_all(&s->items);
	free(s);
}

const void *store_sim_get(const struct sim_store *s, const char *key, size_t *size)
{
	struct item *item;

	HASH_FIND_STR(s->items, key, item);
	if (item && size)
		*size = item->size;
	return item ? item->value : NULL;
}

static int open_it(const char *path, struct backend **out, uint64_t *revision, struct err *err)
{
	struct backend *b = calloc(1, sizeof(*b));

	(void)path;
	if (!b)
		abort();
	b->store = sim->store;
	if (b->store->locked) {
		free(b);
		return err_set(err, -EBUSY, "another scheduler has the store");
	}
	b->store->locked = true;
	*revision = b->store->revision;
	*out = b;
	return 0;
}

static void close_it(struct backend *b)
{
	b->store->locked = false;
	drop_all(&b->group);
	free(b);
}

static int by_key(const struct item *a, const struct item *b)
{
	return strcmp(a->key, b->key);
}

static int range(
	struct backend *b, const char *prefix, store_each_fn *fn, void *arg, struct err *err)
{
	struct item *item, *next;
	int rc = 0;

	(void)err;
	HASH_SRT(hh, b->store->items, by_key);
	HASH_ITER (hh, b->store->items, item, next)
		if (rc == 0 && str_starts(item->key, prefix))
			rc = fn(arg, item->key, item->value, item->size, item->revision);
	return rc;
}

static int begin(struct backend *b, struct err *err)
{
	(void)b;
	if (!sim_step("store: begin"))
		return err_set(err, -EIO, "dead");
	return 0;
}

static int revision_of(struct backend *b, const char *key, uint64_t *revision, struct err *err)
{
	struct item *item;

	(void)err;
	HASH_FIND_STR(b->group, key, item);
	if (!item)
		HASH_FIND_STR(b->store->items, key, item);
	*revision = item && item->value ? item->revision : 0;
	return 0;
}

static int apply(struct backend *b, const struct store_op *op, uint64_t revision, struct err *err)
{
	(void)err;
	item_put(&b->group, op->key, op->value, op->size, revision);
	return 0;
}

static int commit(struct backend *b, uint64_t revision, struct err *err)
{
	struct item *item, *next;

	if (sim->machines[SIM_SCHEDULER].disk_full)
		return err_set(err, -ENOSPC, "the disk is full");
	if (!sim_step("store: commit"))
		return err_set(err, -EIO, "dead");
	/* Says that it is durable when it is not. */
	if (bug("store-lies") && sim_chance(NULL, DRAW_FATE, 0.05)) {
		drop_all(&b->group);
		b->store->revision = revision;
		return 0;
	}
	HASH_ITER (hh, b->group, item, next) {
		struct item *have;

		sim_hash(item->key, strlen(item->key));
		if (item->value) {
			item_put(&b->store->items, item->key, item->value, item->size, revision);
			continue;
		}
		HASH_FIND_STR(b->store->items, item->key, have);
		if (have)
			item_drop(&b->store->items, have);
	}
	drop_all(&b->group);
	b->store->revision = revision;
	return 0;
}

static void rollback(struct backend *b)
{
	drop_all(&b->group);
}

#define OPS                                                                         \
	{                                                                           \
		.open = open_it, .close = close_it, .range = range, .begin = begin, \
		.revision_of = revision_of, .apply = apply, .commit = commit,       \
		.rollback = rollback,                                               \
	}
const struct backend_ops backend_sqlite = OPS;
const struct backend_ops backend_memory = OPS;
