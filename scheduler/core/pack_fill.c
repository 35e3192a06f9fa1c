/* Fills one bin as far as the items that are left allow. */
#include <string.h>

#include "scheduler/core/pack_int.h"

/* For one bin; then the best found so far is taken. */
#define FILL_STEPS 20000u

/* Sizes in one bin, beside each other: bounds the recursion. */
#define FILL_DEPTH 4096u

/* So many items are looked at to find the hardest. */
#define ANCHORS 8u

struct fill {
	struct pack *p;
	uint64_t least; /* left empty, by the best so far */
	uint32_t depth, best_depth;
	uint32_t *at, *best; /* pairs: a number in live, how many of it */
	uint32_t steps, turn;
};

/* The first from FROM on that is not larger than REST. */
static uint32_t first_fitting(const struct pack *p, uint32_t from, uint64_t rest)
{
	uint32_t to = (uint32_t)p->live_count;

	while (from < to) {
		uint32_t mid = from + (to - from) / 2;

		if (p->in->sizes[p->live[mid]].size > rest)
			from = mid + 1;
		else
			to = mid;
	}
	return from;
}

static bool fill_rest(struct fill *f, uint32_t from, uint64_t rest);

/* With as many as go in of live's number J, then with fewer. */
static bool fill_with(struct fill *f, uint32_t j, uint64_t rest)
{
	uint64_t size = f->p->in->sizes[f->p->live[j]].size;
	uint32_t most = f->p->left[f->p->live[j]];
	bool done = false;

	if (rest / size < most)
		most = (uint32_t)(rest / size);
	for (uint32_t n = most; n && !done; n--) {
		f->at[2 * f->depth] = j;
		f->at[2 * f->depth + 1] = n;
		f->depth++;
		done = fill_rest(f, j + 1, rest - n * size);
		f->depth--;
	}
	return done;
}

/* With at most REST more from number FROM on.  True when it cannot get better. */
static bool fill_rest(struct fill *f, uint32_t from, uint64_t rest)
{
	struct pack *p = f->p;
	uint64_t smallest = p->in->sizes[p->live[p->live_count - 1]].size;
	uint32_t first, n;

	if (rest < f->least) {
		f->least = rest;
		f->best_depth = f->depth;
		memcpy(f->best, f->at, 2 * f->depth * sizeof(*f->at));
	}
	if (!f->least || !f->steps)
		return true;
	if (rest < smallest || f->depth == FILL_DEPTH)
		return false;
	first = first_fitting(p, from, rest);
	n = (uint32_t)p->live_count - first;
	/* The first choice is taken by turns: each attempt finds others. */
	for (uint32_t k = 0; k < n; k++) {
		uint32_t j = f->depth == 1 ? first + (k + f->turn) % n : first + k;

		if (!f->steps)
			return true;
		f->steps--;
		if (f->depth > 1 && rest - f->least >= p->tail[j])
			return false; /* all that follow are not enough */
		if (!p->left[p->live[j]])
			continue;
		if (fill_with(f, j, rest))
			return true;
		if (f->depth > 1 && rest < 2 * smallest)
			return false; /* only one goes in: the largest was the best */
	}
	return false;
}

/* How many pairs fill up a bin of which REST is left. */
static uint32_t pairs(const struct pack *p, uint64_t rest)
{
	uint32_t low = 0, high = (uint32_t)p->live_count - 1, n = 0;

	/* LOW goes to smaller ones, HIGH to larger ones. */
	while (low <= high) {
		uint64_t sum = p->in->sizes[p->live[low]].size + p->in->sizes[p->live[high]].size;

		n += sum == rest && (low < high || p->left[p->live[low]] > 1);
		if (sum >= rest)
			low++;
		if (sum <= rest && high-- == 0)
			break;
	}
	return n;
}

/* Of some the one that the fewest pairs go with. */
static uint32_t hardest(struct pack *p, uint64_t room, uint32_t first)
{
	uint32_t best = first, least = UINT32_MAX;

	for (uint32_t i = 0; i < ANCHORS; i++) {
		uint32_t n, j = first;

		if (i)
			j += (uint32_t)((pack_random(p) >> 33) % (p->live_count - first));
		n = pairs(p, room - p->in->sizes[p->live[j]].size);
		if (n && n < least) {
			best = j;
			least = n;
		}
	}
	pack_spend(p, p->live_count * ANCHORS / 2);
	return best;
}

void pack_fill(struct pack *p, uint32_t bin)
{
	uint32_t first, steps = p->steps < FILL_STEPS ? (uint32_t)p->steps : FILL_STEPS;
	struct fill f = {
		.p = p, .at = p->scratch, .best = p->stack, .steps = steps, .least = UINT64_MAX};
	uint64_t size;

	pack_live(p);
	first = first_fitting(p, 0, p->room[bin]);
	if (first == p->live_count)
		return;
	if (p->by_pairs)
		first = hardest(p, p->room[bin], first);
	f.turn = (uint32_t)(pack_random(p) >> 33);
	size = p->in->sizes[p->live[first]].size;
	p->left[p->live[first]]--;
	f.at[0] = first;
	f.at[1] = 1;
	f.depth = 1;
	(void)fill_rest(&f, p->by_pairs ? 0 : first, p->room[bin] - size);
	p->left[p->live[first]]++;
	for (uint32_t i = 0; i < f.best_depth; i++)
		pack_put(p, bin, p->live[f.best[2 * i]], f.best[2 * i + 1]);
	pack_spend(p, p->live_count / 4 + steps - f.steps);
}
