/* A store that forgets: for tests and the simulator. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "lib/str.h"
#include "scheduler/store/backend.h"

struct item {
	char *key;
	void *value;
	size_t size;
	uint64_t revision;
	UT_hash_handle hh;
};

struct backend {
	struct item *items;
};

static int memory_open(const char *path, struct backend **out, uint64_t *revision, struct err *err)
{
	struct backend *b = calloc(1, sizeof(*b));

	(void)path;
	if (!b)
		return err_set(err, -ENOMEM, "memory is short for the store");
	*revision = 0;
	*out = b;
	return 0;
}

static void drop(struct backend *b, struct item *item)
{
	HASH_DEL(b->items, item);
	free(item->key);
	free(item->value);
	free(item);
}

static void memory_close(struct backend *b)
{
	struct item *item, *next;

	HASH_ITER (hh, b->items, item, next)
		drop(b, item);
	free(b);
}

static int by_key(const struct item *a, const struct item *b)
{
	return strcmp(a->key, b->key);
}

static int memory_range(
	struct backend *b, const char *prefix, store_each_fn *fn, void *arg, struct err *err)
{
	struct item *item, *next;
	int rc = 0;

	(void)err;
	HASH_SRT(hh, b->items, by_key);
	HASH_ITER (hh, b->items, item, next)
		if (rc == 0 && str_starts(item->key, prefix))
			rc = fn(arg, item->key, item->value, item->size, item->revision);
	return rc;
}

static int memory_begin(struct backend *b, struct err *err)
{
	(void)b;
	(void)err;
	return 0;
}

static int memory_revision_of(
	struct backend *b, const char *key, uint64_t *revision, struct err *err)
{
	struct item *item;

	(void)err;
	HASH_FIND_STR(b->items, key, item);
	*revision = item ? item->revision : 0;
	return 0;
}

static int memory_apply(
	struct backend *b, const struct store_op *op, uint64_t revision, struct err *err)
{
	struct item *item;
	void *value;

	HASH_FIND_STR(b->items, op->key, item);
	if (!op->value) {
		if (item)
			drop(b, item);
		return 0;
	}
	value = malloc(op->size ? op->size : 1);
	if (value && !item) {
		item = calloc(1, sizeof(*item));
		if (item)
			item->key = str_dup(op->key);
		if (item && item->key) {
			HASH_ADD_KEYPTR(hh, b->items, item->key, strlen(item->key), item);
		} else {
			free(item);
			item = NULL;
		}
	}
	if (!value || !item) {
		free(value);
		return err_set(err, -ENOMEM, "memory is short for the store");
	}
	if (op->size)
		memcpy(value, op->value, op->size);
	free(item->value);
	item->value = value;
	item->size = op->size;
	item->revision = revision;
	return 0;
}

static int memory_commit(struct backend *b, uint64_t revision, struct err *err)
{
	(void)b;
	(void)revision;
	(void)err;
	return 0;
}

static void memory_rollback(struct backend *b)
{
	(void)b;
}

const struct backend_ops backend_memory = {
	.open = memory_open,
	.close = memory_close,
	.range = memory_range,
	.begin = memory_begin,
	.revision_of = memory_revision_of,
	.apply = memory_apply,
	.commit = memory_commit,
	.rollback = memory_rollback,
};
