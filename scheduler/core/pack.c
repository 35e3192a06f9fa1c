#include "scheduler/core/pack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/core/pack_int.h"

/* Of one search of the last bins. */
#define COVER_STEPS 400000u

/* ---------------------------------------------------------------- shared */

uint64_t pack_random(struct pack *p)
{
	p->seed ^= p->seed >> 12;
	p->seed ^= p->seed << 25;
	p->seed ^= p->seed >> 27;
	return p->seed * 2685821657736338717ull;
}

void pack_spend(struct pack *p, uint64_t steps)
{
	p->steps = p->steps > steps ? p->steps - steps : 0;
}

void pack_put(struct pack *p, uint32_t bin, uint32_t size, uint32_t count)
{
	uint64_t bytes = p->in->sizes[size].size * count;

	p->left[size] -= count;
	p->left_bytes -= bytes;
	p->room[bin] -= bytes;
	p->puts[p->put_count++] = (struct pack_put){.bin = bin, .size = size, .count = count};
}

void pack_live(struct pack *p)
{
	uint64_t sum = 0;

	p->live_count = 0;
	for (uint32_t i = p->fitting; i < p->zero; i++)
		if (p->left[i])
			p->live[p->live_count++] = i;
	for (size_t j = p->live_count; j--;) {
		sum += p->in->sizes[p->live[j]].size * p->left[p->live[j]];
		p->tail[j] = sum;
	}
}

void pack_sort(uint32_t *ids, uint32_t *scratch, size_t n, const uint64_t *key)
{
	size_t half = n / 2, i = 0, k = half, o = 0;

	if (n < 2)
		return;
	pack_sort(ids, scratch, half, key);
	pack_sort(ids + half, scratch, n - half, key);
	memcpy(scratch, ids, n * sizeof(*ids));
	while (i < half && k < n)
		ids[o++] = key[scratch[k]] < key[scratch[i]] ? scratch[k++] : scratch[i++];
	while (i < half)
		ids[o++] = scratch[i++];
	while (k < n)
		ids[o++] = scratch[k++];
}

/* ---------------------------------------------------------------- best fit */

/* The number in SORTED of the first bin that has room for SIZE. */
static size_t fullest(const struct pack *p, uint64_t size)
{
	size_t from = 0, to = p->in->bin_count;

	while (from < to) {
		size_t mid = from + (to - from) / 2;

		if (p->room[p->sorted[mid]] < size)
			from = mid + 1;
		else
			to = mid;
	}
	return from;
}

/* Of bins with the same room the first comes first. */
static bool before(const struct pack *p, uint32_t a, uint32_t b)
{
	return p->room[a] != p->room[b] ? p->room[a] < p->room[b] : a < b;
}

/* Bin AT of SORTED has less room than before: back to where it belongs. */
static void resort(struct pack *p, size_t at)
{
	uint32_t bin = p->sorted[at];
	size_t from = 0, to = at;

	while (from < to) {
		size_t mid = from + (to - from) / 2;

		if (before(p, p->sorted[mid], bin))
			from = mid + 1;
		else
			to = mid;
	}
	memmove(&p->sorted[from + 1], &p->sorted[from], (at - from) * sizeof(bin));
	p->sorted[from] = bin;
}

/* All that is left, the largest first. */
static void best_fit(struct pack *p)
{
	for (uint32_t i = 0; i < p->in->bin_count; i++)
		p->sorted[i] = i;
	pack_sort(p->sorted, p->scratch, p->in->bin_count, p->room);
	for (uint32_t s = p->fitting; s < p->zero; s++) {
		uint64_t size = p->in->sizes[s].size;

		while (p->left[s]) {
			size_t at = fullest(p, size);

			if (at == p->in->bin_count)
				break;
			pack_put(p, p->sorted[at], s, 1);
			resort(p, at);
		}
	}
}

/* ---------------------------------------------------------------- bound */

/* The bin that has the most room but for N. */
static const struct pack_bin *large(const struct pack *p, size_t n)
{
	return &p->in->bins[p->by_room[p->in->bin_count - 1 - n]];
}

/* L2 of Martello & Toth for items of at least K; N: how many sizes are larger than
 * room - K. */
static uint64_t bound_over(const struct pack *p, uint64_t room, uint64_t k)
{
	uint64_t bins = 0, halves = 0, half_bytes = 0, rest = 0, spare;

	for (uint32_t i = p->fitting; i < p->zero; i++) {
		const struct pack_size *s = &p->in->sizes[i];

		if (s->size < k)
			break;
		if (s->size > room - k) {
			bins += s->count;
		} else if (s->size > room / 2) {
			halves += s->count;
			half_bytes += s->size * s->count;
		} else {
			rest += s->size * s->count;
		}
	}
	spare = halves * room - half_bytes;
	return bins + halves + (rest > spare ? (rest - spare + room - 1) / room : 0);
}

/* Those used before whose room is enough for the smallest item. */
static bool takes(const struct pack *p, const struct pack_bin *bin)
{
	return p->zero > p->fitting && bin->room >= p->in->sizes[p->zero - 1].size;
}

/* Unused bins that are needed at least. */
static uint32_t lower_bound(const struct pack *p)
{
	uint64_t room = large(p, 0)->room, sum = p->left_bytes, used = 0, l2 = 0;
	uint32_t opened = 0;
	uint64_t tries = 0;

	for (size_t i = 0; i < p->in->bin_count; i++) {
		const struct pack_bin *bin = large(p, i);

		if (!bin->used || !takes(p, bin))
			continue;
		used++;
		sum -= bin->room < sum ? bin->room : sum;
	}
	for (size_t i = 0; sum && i < p->in->bin_count; i++) {
		const struct pack_bin *bin = large(p, i);

		if (bin->used)
			continue;
		opened++;
		sum -= bin->room < sum ? bin->room : sum;
	}
	/* Each threshold gives a bound; a few thousand are looked at. */
	for (uint32_t i = p->zero; i-- > p->fitting && tries < 1000; tries++) {
		uint64_t l;

		if (p->in->sizes[i].size > room / 2 + 1)
			break;
		l = bound_over(p, room, p->in->sizes[i].size);
		l2 = l > l2 ? l : l2;
	}
	if (room) {
		uint64_t l = bound_over(p, room, 0);

		l2 = l > l2 ? l : l2;
	}
	return l2 > used && l2 - used > opened ? (uint32_t)(l2 - used) : opened;
}

/* ---------------------------------------------------------------- attempts */

static bool cheaper(const struct pack_cost *a, const struct pack_cost *b)
{
	return a->unplaced != b->unplaced ? a->unplaced < b->unplaced : a->opened < b->opened;
}

static void restart(struct pack *p)
{
	p->put_count = 0;
	p->left_bytes = 0;
	for (size_t i = 0; i < p->in->size_count; i++) {
		p->left[i] = p->in->sizes[i].count;
		if (i >= p->fitting)
			p->left_bytes += p->in->sizes[i].size * p->in->sizes[i].count;
	}
	for (size_t i = 0; i < p->in->bin_count; i++)
		p->room[i] = p->in->bins[i].room;
}

/* What the attempt is worth; the best is kept. */
static void judge(struct pack *p)
{
	struct pack_cost cost = {0};

	for (size_t i = 0; i < p->in->size_count; i++)
		if (i < p->zero)
			cost.unplaced += p->left[i];
	for (size_t i = 0; i < p->in->bin_count; i++)
		cost.opened += !p->in->bins[i].used && p->room[i] < p->in->bins[i].room;
	if (!cheaper(&cost, &p->cost))
		return;
	p->cost = cost;
	p->best_count = p->put_count;
	memcpy(p->best, p->puts, p->put_count * sizeof(*p->puts));
}

/* All bins used before, and OPENED others, the largest first. */
static void choose_bins(struct pack *p, uint32_t opened)
{
	uint64_t room = 0;

	p->order_count = 0;
	for (size_t i = 0; i < p->in->bin_count; i++) {
		const struct pack_bin *bin = large(p, i);

		if (!takes(p, bin) || (!bin->used && !opened))
			continue;
		opened -= !bin->used;
		room += bin->room;
		p->order[p->order_count++] = (uint32_t)(bin - p->in->bins);
	}
	p->waste = room > p->left_bytes ? room - p->left_bytes : 0;
}

static void attempt(struct pack *p, uint32_t opened, size_t last)
{
	size_t filled = 0, rest;

	restart(p);
	choose_bins(p, opened);
	rest = last < p->order_count ? last : p->order_count;
	for (bool all = false; !all && p->left_bytes && p->steps;) {
		for (; filled + rest < p->order_count && p->left_bytes && p->steps; filled++)
			pack_fill(p, p->order[filled]);
		all = !rest || pack_cover(p, rest, COVER_STEPS);
		if (!all)
			rest = rest * 3 / 4;
	}
	best_fit(p);
	judge(p);
	pack_spend(p, 1000 + p->in->bin_count);
}

/* As few bins as the bound says for half of the budget, then one fewer than the best;
 * or all, as long as not all items have a place. */
static void improve(struct pack *p, uint32_t bound)
{
	static const uint8_t last[] = {20, 24, 16, 28, 32, 40};
	uint64_t half = p->steps / 2;

	for (uint32_t n = 0; p->steps && (p->cost.unplaced > p->misfits || p->cost.opened > bound);
		n++) {
		uint32_t opened = bound;

		if (p->steps < half)
			opened = p->cost.unplaced > p->misfits ? PACK_NONE : p->cost.opened - 1;
		p->by_pairs = n & 1;
		attempt(p, opened, last[n / 2 % sizeof(last)]);
	}
}

/* True when more may be reached than best fit did. */
static bool hopeful(const struct pack *p, uint32_t bound)
{
	uint64_t room = 0, sum = 0;

	for (size_t i = 0; i < p->in->bin_count; i++)
		room += takes(p, &p->in->bins[i]) ? p->in->bins[i].room : 0;
	for (uint32_t i = p->fitting; i < p->zero; i++)
		sum += p->in->sizes[i].size * p->in->sizes[i].count;
	return sum <= room && (p->cost.unplaced > p->misfits || p->cost.opened > bound);
}

/* ---------------------------------------------------------------- plan */

static bool is_valid(const struct pack_in *in, size_t *items)
{
	uint64_t count = 0, bytes = 0;

	if (in->size_count > PACK_ITEMS_MAX || in->bin_count > PACK_BINS_MAX)
		return false;
	for (size_t i = 0; i < in->size_count; i++) {
		count += in->sizes[i].count;
		if (!in->sizes[i].count || (i && in->sizes[i].size >= in->sizes[i - 1].size))
			return false;
	}
	/* No sum of what fits in a bin runs over. */
	for (size_t i = 0; i < in->bin_count; i++)
		bytes = in->bins[i].room > bytes ? in->bins[i].room : bytes;
	if (count > PACK_ITEMS_MAX || bytes > UINT64_MAX / 2 / (PACK_BINS_MAX + PACK_ITEMS_MAX))
		return false;
	*items = (size_t)count;
	return true;
}

static void free_all(struct pack *p)
{
	free(p->left);
	free(p->room);
	free(p->puts);
	free(p->order);
	free(p->by_room);
	free(p->live);
	free(p->tail);
	free(p->best);
	free(p->sorted);
	free(p->scratch);
	free(p->stack);
	pack_cover_free(p);
}

static int make_all(struct pack *p, size_t items)
{
	size_t sizes = p->in->size_count + 1, bins = p->in->bin_count + 1;
	size_t most = bins > 2 * sizes ? bins : 2 * sizes;

	p->left = calloc(sizes, sizeof(*p->left));
	p->room = calloc(bins, sizeof(*p->room));
	p->puts = calloc(items + 1, sizeof(*p->puts));
	p->best = calloc(items + 1, sizeof(*p->best));
	p->order = calloc(bins, sizeof(*p->order));
	p->by_room = calloc(bins, sizeof(*p->by_room));
	p->live = calloc(sizes, sizeof(*p->live));
	p->tail = calloc(sizes, sizeof(*p->tail));
	p->sorted = calloc(bins, sizeof(*p->sorted));
	p->scratch = calloc(most, sizeof(*p->scratch));
	p->stack = calloc(most, sizeof(*p->stack));
	return p->left && p->room && p->puts && p->best && p->order && p->by_room && p->live &&
			       p->tail && p->sorted && p->scratch && p->stack
		       ? 0
		       : -ENOMEM;
}

/* From the best attempt: the bin of each item, in the order of the sizes.  True when
 * a bin is opened for nothing but items of no size. */
static bool answer(struct pack *p, size_t items, uint32_t *to)
{
	const struct pack_in *in = p->in;
	uint32_t at = 0, open = 0;

	for (size_t i = 0; i < items; i++)
		to[i] = PACK_NONE;
	for (size_t i = 0; i < in->size_count; i++) {
		p->left[i] = at;
		at += in->sizes[i].count;
	}
	for (size_t i = 0; i < p->best_count; i++) {
		const struct pack_put *put = &p->best[i];

		for (uint32_t n = 0; n < put->count; n++)
			to[p->left[put->size]++] = put->bin;
	}
	if (p->zero == in->size_count || !in->bin_count)
		return false;
	/* Items of no size go where something is. */
	if (p->best_count)
		open = p->best[0].bin;
	for (uint32_t i = 0; !p->best_count && i < in->bin_count; i++)
		if (in->bins[i].used)
			open = i;
	while (p->left[p->zero] < items)
		to[p->left[p->zero]++] = open;
	return !p->best_count && !in->bins[open].used;
}

int pack_plan(const struct pack_in *in, uint32_t *to, struct pack_plan *plan)
{
	struct pack p = {.in = in, .steps = in->steps, .seed = 0x9e3779b97f4a7c15ull};
	uint64_t steps = in->steps;
	uint32_t bound;
	size_t items;
	int rc = -EINVAL;

	if (!is_valid(in, &items))
		return -EINVAL;
	rc = make_all(&p, items);
	if (rc < 0)
		goto out;
	restart(&p);
	for (uint32_t i = 0; i < in->bin_count; i++)
		p.by_room[i] = i;
	pack_sort(p.by_room, p.scratch, in->bin_count, p.room);
	p.zero = (uint32_t)in->size_count;
	if (p.zero && !in->sizes[p.zero - 1].size)
		p.zero--;
	while (p.fitting < p.zero &&
		(!in->bin_count || in->sizes[p.fitting].size > large(&p, 0)->room))
		p.misfits += in->sizes[p.fitting++].count;
	p.cost.unplaced = PACK_NONE;
	restart(&p);
	bound = in->bin_count ? lower_bound(&p) : 0;
	best_fit(&p);
	judge(&p);
	plan->best_fit = p.cost;
	if (p.steps && hopeful(&p, bound)) {
		rc = pack_cover_new(&p);
		if (rc < 0)
			goto out;
		improve(&p, bound);
	}
	if (answer(&p, items, to))
		p.cost.opened = plan->best_fit.opened = 1;
	plan->cost = p.cost;
	plan->bound = bound;
	plan->steps = steps - p.steps;
out:
	free_all(&p);
	return rc;
}
