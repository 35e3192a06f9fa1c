#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "scheduler/serve/serve_int.h"

#define BLOCK 16384u

struct arena_block {
	struct arena_block *next;
	size_t used, size;
	_Alignas(16) uint8_t data[];
};

void *arena_get(struct arena *a, size_t size)
{
	struct arena_block *b = a->blocks;
	void *p;

	size = (size + 15) & ~(size_t)15;
	if (!b || b->size - b->used < size) {
		size_t room = size > BLOCK ? size : BLOCK;

		b = malloc(sizeof(*b) + room);
		if (!b) {
			log_error("memory is short; ending, the state is in the store");
			abort();
		}
		b->used = 0;
		b->size = room;
		b->next = a->blocks;
		a->blocks = b;
	}
	p = b->data + b->used;
	b->used += size;
	memset(p, 0, size);
	return p;
}

char *arena_str(struct arena *a, const char *text)
{
	size_t n = strlen(text) + 1;
	char *copy = arena_get(a, n);

	memcpy(copy, text, n);
	return copy;
}

ProtobufCBinaryData arena_bytes(struct arena *a, const void *data, size_t size)
{
	ProtobufCBinaryData b = {.len = 0};
	uint8_t *copy;

	if (!size)
		return b;
	copy = arena_get(a, size);
	memcpy(copy, data, size);
	b.data = copy;
	b.len = size;
	return b;
}

void **arena_list(struct arena *a, size_t n)
{
	return arena_get(a, (n ? n : 1) * sizeof(void *));
}

void arena_free(struct arena *a)
{
	while (a->blocks) {
		struct arena_block *b = a->blocks;

		a->blocks = b->next;
		free(b);
	}
}
