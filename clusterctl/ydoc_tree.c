/* The tree itself: its memory, reading and joining. */
#include "clusterctl/ydoc_int.h"

#include <stdlib.h>
#include <string.h>

/* ---- memory that goes as one ---- */

#define CHUNK 65536u

struct chunk {
	struct chunk *next;
	size_t used, size;
	max_align_t data[];
};

void *ydoc_take(struct ydoc *doc, size_t size)
{
	struct chunk *c = doc->chunks;
	void *p;

	size = (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
	if (!c || c->size - c->used < size) {
		size_t room = size > CHUNK ? size : CHUNK;

		c = malloc(sizeof(*c) + room);
		if (!c)
			return NULL;
		c->used = 0;
		c->size = room;
		c->next = doc->chunks;
		doc->chunks = c;
	}
	p = (char *)c->data + c->used;
	c->used += size;
	return p;
}

static int by_key(const void *a, const void *b)
{
	const struct ypair *const *x = a, *const *y = b;

	return strcmp((*x)->key->text, (*y)->key->text);
}

const struct ypair **ypairs_sorted(const struct ypair *pairs, size_t count)
{
	const struct ypair **list = malloc((count + 1) * sizeof(void *));

	for (size_t i = 0; list && i < count; i++)
		list[i] = &pairs[i];
	if (list)
		qsort(list, count, sizeof(void *), by_key);
	return list;
}

size_t ypairs_add(struct ypair *out, size_t count, const struct ynode *from)
{
	const struct ypair **have = ypairs_sorted(out, count);
	size_t n = count;

	for (size_t i = 0; have && i < from->count; i++) {
		const struct ypair *p = &from->pairs[i];

		if (!count || !bsearch(&p, have, count, sizeof(void *), by_key))
			out[n++] = *p;
	}
	free(have);
	return have ? n : SIZE_MAX;
}

void ydoc_free(struct ydoc *doc)
{
	struct chunk *c, *next;

	if (!doc)
		return;
	for (c = doc->chunks; c; c = next) {
		next = c->next;
		free(c);
	}
	free(doc->roots);
	free(doc);
}

/* ---- reading ---- */

size_t ydoc_count(const struct ydoc *doc)
{
	return doc->count;
}

const struct ynode *ydoc_root(const struct ydoc *doc, size_t i)
{
	return doc->roots[i];
}

const struct ynode *ynode_get(const struct ynode *map, const char *key, const struct ypair **pair)
{
	if (!map || map->kind != YNODE_MAP)
		return NULL;
	for (size_t i = 0; i < map->count; i++) {
		if (strcmp(map->pairs[i].key->text, key) != 0)
			continue;
		if (pair)
			*pair = &map->pairs[i];
		return map->pairs[i].value;
	}
	return NULL;
}

bool ynode_is_null(const struct ynode *node)
{
	return node->kind == YNODE_SCALAR && node->plain &&
	       (!*node->text || strcmp(node->text, "~") == 0 || strcmp(node->text, "null") == 0);
}

const char *ynode_kind_text(const struct ynode *node)
{
	if (node->kind == YNODE_LIST)
		return "a list";
	if (node->kind == YNODE_MAP)
		return "a map";
	return ynode_is_null(node) ? "nothing" : "a text";
}

size_t ynode_columns(const char *text, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < size; i++)
		n += ((unsigned char)text[i] & 0xc0) != 0x80;
	return n;
}

struct mark ynode_at(const struct ynode *node, size_t offset)
{
	struct mark mark = node->mark;

	if (node->kind == YNODE_SCALAR && node->column && offset <= node->size)
		mark.column = node->column + (uint32_t)ynode_columns(node->text, offset);
	return mark;
}

static bool among(const char *const *list, const char *word)
{
	for (; list && *list; list++)
		if (strcmp(*list, word) == 0)
			return true;
	return false;
}

const struct ynode *ydoc_join(struct ydoc *doc, const struct ynode *upper,
	const struct ynode *lower, const char *const *deep)
{
	struct ynode *out = ydoc_take(doc, sizeof(*out));
	size_t n = 0;

	if (!out)
		return NULL;
	*out = *upper;
	out->pairs = ydoc_take(doc, (upper->count + lower->count + 1) * sizeof(*out->pairs));
	if (!out->pairs)
		return NULL;
	for (size_t i = 0; i < upper->count; i++) {
		struct ypair p = upper->pairs[i];
		const struct ynode *below = NULL;

		if (among(deep, p.key->text))
			below = ynode_get(lower, p.key->text, NULL);
		if (below && below->kind == YNODE_MAP && p.value->kind == YNODE_MAP) {
			const struct ynode *joined = ydoc_join(doc, p.value, below, NULL);

			if (!joined)
				return NULL;
			/* Only this file makes nodes; out of it they are const. */
			memcpy(&p.value, &joined, sizeof(void *));
		}
		out->pairs[n++] = p;
	}
	out->count = n;
	n = ypairs_add(out->pairs, n, lower);
	if (n == SIZE_MAX)
		return NULL;
	out->count = n;
	return out;
}
