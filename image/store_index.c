#include "image/store_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t key_of(const uint8_t hash[MANIFEST_HASH])
{
	uint32_t key;

	memcpy(&key, hash, sizeof(key));
	return key;
}

static void put(struct chunkindex *ix, uint32_t key, uint32_t slot, uint32_t chunk)
{
	size_t i = key & (ix->capacity - 1);

	while (ix->entries[i].slot)
		i = (i + 1) & (ix->capacity - 1);
	ix->entries[i] = (struct chunkindex_entry){.key = key, .slot = slot + 1, .chunk = chunk};
	ix->used++;
}

static void put_all(struct chunkindex *ix, const struct artefact *a)
{
	for (uint32_t i = 0; i < a->m->count; i++)
		if (!manifest_is_hole(a->m, i))
			put(ix, key_of(manifest_hash(a->m, i)), a->slot, i);
}

/* Makes room for MORE entries at a load of at most a half; leaves out what was
 * removed, and numbers the slots anew. */
static int rebuild(struct chunkindex *ix, size_t more, struct err *err)
{
	size_t live = more, capacity = 1024, n = 0;
	struct chunkindex_entry *entries;

	for (size_t i = 0; i < ix->slot_count; i++)
		if (ix->slots[i])
			live += ix->slots[i]->m->count;
	while (capacity < 2 * live)
		capacity *= 2;
	entries = calloc(capacity, sizeof(*entries));
	if (!entries)
		return err_set(err, -ENOMEM, "chunk index: memory is short");
	free(ix->entries);
	ix->entries = entries;
	ix->capacity = capacity;
	ix->used = 0;
	for (size_t i = 0; i < ix->slot_count; i++) {
		if (!ix->slots[i])
			continue;
		ix->slots[n] = ix->slots[i];
		ix->slots[n]->slot = (uint32_t)n;
		put_all(ix, ix->slots[n++]);
	}
	ix->slot_count = n;
	return 0;
}

int chunkindex_add(struct chunkindex *ix, struct artefact *a, struct err *err)
{
	if (ix->slot_count == ix->slot_capacity) {
		size_t capacity = ix->slot_capacity ? 2 * ix->slot_capacity : 16;
		struct artefact **slots = realloc(ix->slots, capacity * sizeof(*slots));

		if (!slots)
			return err_set(err, -ENOMEM, "chunk index: memory is short");
		ix->slots = slots;
		ix->slot_capacity = capacity;
	}
	if (2 * (ix->used + a->m->count) > ix->capacity) {
		int rc = rebuild(ix, a->m->count, err);

		if (rc < 0)
			return rc;
	}
	a->slot = (uint32_t)ix->slot_count;
	ix->slots[ix->slot_count++] = a;
	put_all(ix, a);
	return 0;
}

void chunkindex_remove(struct chunkindex *ix, const struct artefact *a)
{
	ix->slots[a->slot] = NULL;
}

struct artefact *chunkindex_find(const struct chunkindex *ix, const uint8_t hash[MANIFEST_HASH],
	uint32_t size, uint32_t *chunk)
{
	uint32_t key = key_of(hash);

	if (!ix->capacity)
		return NULL;
	for (size_t i = key & (ix->capacity - 1); ix->entries[i].slot;
		i = (i + 1) & (ix->capacity - 1)) {
		const struct chunkindex_entry *e = &ix->entries[i];
		struct artefact *a = ix->slots[e->slot - 1];

		if (e->key != key || !a || manifest_chunk_size(a->m, e->chunk) != size ||
			memcmp(manifest_hash(a->m, e->chunk), hash, MANIFEST_HASH) != 0)
			continue;
		*chunk = e->chunk;
		return a;
	}
	return NULL;
}

void chunkindex_free(struct chunkindex *ix)
{
	free(ix->entries);
	free(ix->slots);
	memset(ix, 0, sizeof(*ix));
}
