/* The last bins of an attempt, all together: which completions (patterns) of low waste
 * hold all items that are left, each exactly once?  The size with the fewest patterns
 * is decided first; a pattern that was tried is not tried again below its siblings. */
#include <stdlib.h>
#include <string.h>

#include "scheduler/core/pack_int.h"

#define PATTERNS 6000u
#define PARTS 8u    /* sizes in one pattern */
#define CLASSES 16u /* bins of one room are one class */
#define LISTS (PATTERNS * 16)
#define BINS PACK_COVER_BINS

struct part {
	uint32_t size, count;
};

struct pattern {
	struct part parts[PARTS];
	uint64_t waste, bytes;
	uint32_t part_count, class;
};

struct pack_cover {
	struct pack *p;
	struct pattern patterns[PATTERNS];
	uint64_t waste_of[PATTERNS]; /* for sorting */
	uint32_t pattern_count;
	bool full; /* there are more patterns than room for them */
	struct {
		uint64_t room;
		uint32_t left; /* bins */
	} classes[CLASSES];
	uint32_t class_count;
	uint32_t lists[LISTS], scratch[PATTERNS]; /* those still possible, at each depth */
	uint64_t waste;				  /* still to be given away */
	uint64_t limit;				  /* steps left */
	uint32_t chosen[BINS], best[BINS];
	uint32_t depth, best_depth;
	uint64_t left_bytes, least; /* not covered; by the best */
	uint32_t *seen;		    /* by size: patterns that have it */
	struct pattern draft;
};

int pack_cover_new(struct pack *p)
{
	p->cover = calloc(1, sizeof(*p->cover));
	if (!p->cover)
		return -1;
	p->cover->p = p;
	p->cover->seen = calloc(p->in->size_count + 1, sizeof(uint32_t));
	return p->cover->seen ? 0 : -1;
}

void pack_cover_free(struct pack *p)
{
	if (p->cover)
		free(p->cover->seen);
	free(p->cover);
	p->cover = NULL;
}

static bool spend(struct pack_cover *c, uint64_t steps)
{
	c->limit = c->limit > steps ? c->limit - steps : 0;
	return c->limit > 0;
}

/* ---------------------------------------------------------------- patterns */

static void pattern_keep(struct pack_cover *c, uint64_t waste)
{
	if (c->pattern_count == PATTERNS) {
		c->full = true;
		return;
	}
	c->draft.waste = waste;
	c->draft.bytes = c->classes[c->draft.class].room - waste;
	c->waste_of[c->pattern_count] = waste;
	c->patterns[c->pattern_count++] = c->draft;
}

/* All that fill REST from number FROM of live on, but for MOST. */
static void patterns_of(struct pack_cover *c, uint32_t from, uint64_t rest, uint64_t most)
{
	struct pack *p = c->p;

	if (rest <= most && c->draft.part_count)
		pattern_keep(c, rest);
	if (c->draft.part_count == PARTS)
		return;
	for (uint32_t j = from; j < p->live_count && !c->full; j++) {
		uint64_t size = p->in->sizes[p->live[j]].size;
		uint32_t n = p->left[p->live[j]];
		struct part *part = &c->draft.parts[c->draft.part_count];

		if (!spend(c, 1) || (rest > most && rest - most > p->tail[j]))
			return;
		if (size > rest)
			continue;
		c->draft.part_count++;
		if (rest / size < n)
			n = (uint32_t)(rest / size);
		for (; n && !c->full; n--) {
			*part = (struct part){.size = p->live[j], .count = n};
			patterns_of(c, j + 1, rest - n * size, most);
		}
		c->draft.part_count--;
	}
}

/* The bins by their room; false when they are of too many kinds. */
static bool classes_of(struct pack_cover *c, const uint32_t *bins, size_t count)
{
	const struct pack *p = c->p;

	c->class_count = 0;
	for (size_t i = 0; i < count; i++) {
		uint64_t room = p->room[bins[i]];

		if (!c->class_count || c->classes[c->class_count - 1].room != room) {
			if (c->class_count == CLASSES)
				return false;
			c->classes[c->class_count].room = room;
			c->classes[c->class_count++].left = 0;
		}
		c->classes[c->class_count - 1].left++;
	}
	return true;
}

/* Those of at most MOST waste each, or of less when there are too many. */
static void make_patterns(struct pack_cover *c, uint64_t most)
{
	for (;; most /= 4) {
		c->pattern_count = 0;
		c->full = false;
		for (uint32_t k = 0; k < c->class_count && !c->full; k++) {
			c->draft.class = k;
			c->draft.part_count = 0;
			patterns_of(c, 0, c->classes[k].room, most);
		}
		if (!c->full || !most || !c->limit)
			break;
	}
}

/* ---------------------------------------------------------------- search */

static bool possible(const struct pack_cover *c, const struct pattern *q)
{
	if (q->waste > c->waste || !c->classes[q->class].left)
		return false;
	for (uint32_t i = 0; i < q->part_count; i++)
		if (c->p->left[q->parts[i].size] < q->parts[i].count)
			return false;
	return true;
}

static void choose(struct pack_cover *c, uint32_t pattern, bool take)
{
	const struct pattern *q = &c->patterns[pattern];

	for (uint32_t i = 0; i < q->part_count; i++)
		c->p->left[q->parts[i].size] += take ? -q->parts[i].count : q->parts[i].count;
	if (take) {
		c->waste -= q->waste;
		c->classes[q->class].left--;
		c->left_bytes -= q->bytes;
		c->chosen[c->depth++] = pattern;
	} else {
		c->waste += q->waste;
		c->classes[q->class].left++;
		c->left_bytes += q->bytes;
		c->depth--;
	}
}

/* The size left that the fewest of LIST have; PACK_NONE when one has none. */
static uint32_t rarest(struct pack_cover *c, const uint32_t *list, uint32_t count)
{
	const struct pack *p = c->p;
	uint32_t best = PACK_NONE, least = UINT32_MAX;

	for (size_t i = 0; i < p->live_count; i++)
		c->seen[p->live[i]] = 0;
	for (uint32_t i = 0; i < count; i++) {
		const struct pattern *q = &c->patterns[list[i]];

		for (uint32_t k = 0; k < q->part_count; k++)
			c->seen[q->parts[k].size]++;
	}
	for (size_t i = 0; i < p->live_count; i++) {
		uint32_t size = p->live[i];

		if (!p->left[size] || c->seen[size] >= least)
			continue;
		best = size;
		least = c->seen[size];
	}
	return least ? best : PACK_NONE;
}

static bool has(const struct pattern *q, uint32_t size)
{
	for (uint32_t i = 0; i < q->part_count; i++)
		if (q->parts[i].size == size)
			return true;
	return false;
}

/* True when all is covered, or the steps are used up. */
static bool search(struct pack_cover *c, uint32_t *list, uint32_t count)
{
	uint32_t size, left = count;

	if (c->left_bytes < c->least) {
		c->least = c->left_bytes;
		c->best_depth = c->depth;
		memcpy(c->best, c->chosen, c->depth * sizeof(c->chosen[0]));
	}
	if (!c->least || !spend(c, count + c->p->live_count / 2))
		return true;
	if (c->depth == BINS || list + count + count > c->lists + LISTS)
		return false;
	size = rarest(c, list, count);
	if (size == PACK_NONE)
		return false;
	for (uint32_t i = 0; i < left;) {
		uint32_t pattern = list[i], n = 0;
		uint32_t *next = list + count;

		if (!has(&c->patterns[pattern], size)) {
			i++;
			continue;
		}
		choose(c, pattern, true);
		for (uint32_t k = 0; k < left; k++)
			if (possible(c, &c->patterns[list[k]]))
				next[n++] = list[k];
		if (search(c, next, n))
			return true;
		choose(c, pattern, false);
		/* Tried: not again here or below. */
		memmove(list + i, list + i + 1, (left - i - 1) * sizeof(*list));
		left--;
		if (!spend(c, left))
			return true;
	}
	return false;
}

/* Those of equal waste in another order at each attempt. */
static void shuffle(struct pack_cover *c)
{
	for (uint32_t i = 0; i < c->pattern_count; i++)
		c->lists[i] = i;
	for (uint32_t i = c->pattern_count; i > 1; i--) {
		uint32_t k = (uint32_t)((pack_random(c->p) >> 32) % i), t = c->lists[i - 1];

		c->lists[i - 1] = c->lists[k];
		c->lists[k] = t;
	}
	pack_sort(c->lists, c->scratch, c->pattern_count, c->waste_of);
}

bool pack_cover(struct pack *p, size_t count, uint64_t limit)
{
	const uint32_t *bins = p->order + p->order_count - count;
	struct pack_cover *c = p->cover;
	uint64_t room = 0;

	pack_live(p);
	for (size_t i = 0; i < count; i++)
		room += p->room[bins[i]];
	if (count > BINS || !classes_of(c, bins, count))
		return false;
	c->limit = limit < p->steps ? limit : p->steps;
	limit = c->limit;
	c->left_bytes = c->least = p->left_bytes;
	c->waste = room > c->left_bytes ? room - c->left_bytes : 0;
	c->depth = c->best_depth = 0;
	make_patterns(c, c->waste);
	if (c->full) {
		pack_spend(p, limit - c->limit);
		return false;
	}
	shuffle(c);
	(void)search(c, c->lists, c->pattern_count);
	while (c->depth)
		choose(c, c->chosen[c->depth - 1], false);
	/* Of each class the bins are taken from its first on. */
	for (uint32_t i = 0; i < c->best_depth; i++) {
		const struct pattern *q = &c->patterns[c->best[i]];
		size_t b = 0;

		while (b + 1 < count && p->room[bins[b]] != c->classes[q->class].room)
			b++;
		for (uint32_t k = 0; k < q->part_count; k++)
			pack_put(p, bins[b], q->parts[k].size, q->parts[k].count);
	}
	pack_spend(p, limit - c->limit);
	return true;
}
