/* A small hash table of texts. */
#include "spec/spec_int.h"

#include <stdlib.h>
#include <string.h>

void seen_init(struct seen *seen)
{
	memset(seen, 0, sizeof(*seen));
}

void seen_free(struct seen *seen)
{
	for (size_t i = 0; i < seen->capacity; i++)
		free(seen->slots[i].key);
	free(seen->slots);
	seen_init(seen);
}

/* FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/ */
static uint64_t hash(const char *key)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (const unsigned char *p = (const unsigned char *)key; *p; p++)
		h = (h ^ *p) * UINT64_C(0x100000001b3);
	return h ^ h >> 29;
}

static struct seen_slot *slot_of(const struct seen *seen, const char *key)
{
	size_t mask = seen->capacity - 1;

	for (size_t i = (size_t)hash(key) & mask;; i = (i + 1) & mask) {
		struct seen_slot *s = &seen->slots[i];

		if (!s->key || strcmp(s->key, key) == 0)
			return s;
	}
}

static bool grow(struct seen *seen)
{
	struct seen bigger = {.capacity = seen->capacity ? 2 * seen->capacity : 64};

	bigger.slots = calloc(bigger.capacity, sizeof(*bigger.slots));
	if (!bigger.slots)
		return false;
	for (size_t i = 0; i < seen->capacity; i++)
		if (seen->slots[i].key)
			*slot_of(&bigger, seen->slots[i].key) = seen->slots[i];
	bigger.count = seen->count;
	free(seen->slots);
	*seen = bigger;
	return true;
}

uint64_t seen_put(struct seen *seen, const char *key, uint64_t value, bool *first)
{
	struct seen_slot *s;

	*first = true;
	if (2 * seen->count >= seen->capacity && !grow(seen)) {
		seen->failed = true;
		return value;
	}
	s = slot_of(seen, key);
	if (s->key) {
		*first = false;
		return s->value;
	}
	s->key = str_dup(key);
	if (!s->key) {
		seen->failed = true;
		return value;
	}
	s->value = value;
	seen->count++;
	return value;
}

bool seen_get(const struct seen *seen, const char *key, uint64_t *value)
{
	const struct seen_slot *s = seen->capacity ? slot_of(seen, key) : NULL;

	if (!s || !s->key)
		return false;
	*value = s->value;
	return true;
}
