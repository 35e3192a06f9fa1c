/* The planner of packing: feasible and never worse than best fit whatever it is given,
 * optimal where the optimum is known, within 2 % of the bound on the classic classes. */
#include "tests/unit/scheduler/core/corekit.h"

#include <stdlib.h>

#include "scheduler/core/pack.h"

#define ITEMS 1000u
#define BINS 1000u

struct problem {
	struct pack_size sizes[ITEMS];
	struct pack_bin bins[BINS];
	struct pack_in in;
	uint32_t items, to[ITEMS];
	uint64_t item_size[ITEMS];
	struct pack_plan plan;
};

static int larger_first(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? 1 : x > y ? -1 : 0;
}

static struct problem *problem_new(uint64_t steps)
{
	struct problem *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	p->in = (struct pack_in){.sizes = p->sizes, .bins = p->bins, .steps = steps};
	return p;
}

static void bins(struct problem *p, size_t count, uint64_t room, bool used)
{
	for (size_t i = 0; i < count; i++)
		p->bins[p->in.bin_count++] = (struct pack_bin){.room = room, .used = used};
}

static void item(struct problem *p, uint64_t size)
{
	p->item_size[p->items++] = size;
}

/* Sorts the items into sizes, plans, and checks all that holds of any plan. */
static void solve(struct problem *p)
{
	uint64_t *left = calloc(BINS, sizeof(*left));
	bool *has = calloc(BINS, sizeof(*has));
	struct pack_cost cost = {0};
	size_t n = 0;

	assert_true(left && has);
	qsort(p->item_size, p->items, sizeof(uint64_t), larger_first);
	for (uint32_t i = 0; i < p->items; i++) {
		if (!n || p->sizes[n - 1].size != p->item_size[i])
			p->sizes[n++] = (struct pack_size){.size = p->item_size[i]};
		p->sizes[n - 1].count++;
	}
	p->in.size_count = n;
	assert_int_equal(pack_plan(&p->in, p->to, &p->plan), 0);
	for (size_t i = 0; i < p->in.bin_count; i++)
		left[i] = p->bins[i].room;
	for (uint32_t i = 0; i < p->items; i++) {
		uint32_t to = p->to[i];

		if (to == PACK_NONE) {
			cost.unplaced++;
			continue;
		}
		assert_true(to < p->in.bin_count);
		assert_true(left[to] >= p->item_size[i]);
		left[to] -= p->item_size[i];
		cost.opened += !p->bins[to].used && !has[to];
		has[to] = true;
	}
	assert_int_equal(cost.unplaced, p->plan.cost.unplaced);
	assert_int_equal(cost.opened, p->plan.cost.opened);
	assert_true(cost.unplaced <= p->plan.best_fit.unplaced);
	if (cost.unplaced == p->plan.best_fit.unplaced)
		assert_true(cost.opened <= p->plan.best_fit.opened);
	if (!cost.unplaced)
		assert_true(cost.opened >= p->plan.bound);
	assert_true(p->plan.steps <= p->in.steps);
	free(left);
	free(has);
}

static void expect(struct problem *p, uint32_t opened, uint32_t unplaced)
{
	solve(p);
	assert_int_equal(p->plan.cost.opened, opened);
	assert_int_equal(p->plan.cost.unplaced, unplaced);
	free(p);
}

static void test_nothing(void **state)
{
	struct problem *p = problem_new(PACK_STEPS);

	(void)state;
	expect(p, 0, 0);
	p = problem_new(PACK_STEPS);
	item(p, 5);
	expect(p, 0, 1);
	p = problem_new(PACK_STEPS);
	bins(p, 3, 10, false);
	expect(p, 0, 0);
	p = problem_new(PACK_STEPS);
	bins(p, 3, 0, false);
	item(p, 1);
	expect(p, 0, 1);
}

static void test_refused(void **state)
{
	struct pack_size sizes[] = {{.size = 5, .count = 1}, {.size = 5, .count = 1}};
	struct pack_bin bin = {.room = 10};
	struct pack_in in = {.sizes = sizes, .size_count = 2, .bins = &bin, .bin_count = 1};
	struct pack_plan plan;
	uint32_t to[2];

	(void)state;
	assert_int_equal(pack_plan(&in, to, &plan), -EINVAL); /* twice the same */
	sizes[1].size = 6;
	assert_int_equal(pack_plan(&in, to, &plan), -EINVAL); /* not in order */
	sizes[1].size = 4;
	sizes[0].count = 0;
	assert_int_equal(pack_plan(&in, to, &plan), -EINVAL);
	sizes[0].count = PACK_ITEMS_MAX;
	assert_int_equal(pack_plan(&in, to, &plan), -EINVAL); /* too many */
	sizes[0].count = 1;
	bin.room = UINT64_MAX;
	assert_int_equal(pack_plan(&in, to, &plan), -EINVAL); /* sums run over */
	bin.room = 10;
	assert_int_equal(pack_plan(&in, to, &plan), 0);
}

/* No size, sizes that fit nowhere, and the largest that there are. */
static void test_zero_and_huge(void **state)
{
	struct problem *p = problem_new(PACK_STEPS);

	(void)state;
	bins(p, 2, 10, false);
	item(p, 0);
	item(p, 0);
	expect(p, 1, 0);
	p = problem_new(PACK_STEPS);
	bins(p, 2, 10, false);
	bins(p, 1, 0, true);
	item(p, 0);
	expect(p, 0, 0);
	p = problem_new(PACK_STEPS);
	bins(p, 4, 10, false);
	item(p, UINT64_MAX);
	item(p, UINT64_MAX - 1);
	item(p, 11);
	item(p, 10);
	item(p, 6);
	item(p, 4);
	item(p, 0);
	expect(p, 2, 3);
	p = problem_new(PACK_STEPS);
	bins(p, 3, 1ull << 44, false);
	for (int i = 0; i < 3; i++) {
		item(p, (1ull << 43) + 1);
		item(p, (1ull << 43) - 1);
	}
	expect(p, 3, 0);
}

/* Best fit decreasing needs one more than is possible. */
static void test_known(void **state)
{
	static const uint64_t classic[] = {44, 24, 24, 22, 21, 17, 8, 8, 6, 6};
	static const uint64_t halves[] = {6, 5, 5, 4, 4, 4, 3, 3, 3, 3};
	struct problem *p = problem_new(PACK_STEPS);

	(void)state;
	/* 44 and 24 + 8 + 6 + 6; or so: 180 in bins of 60. */
	for (size_t i = 0; i < sizeof(classic) / sizeof(classic[0]); i++)
		item(p, classic[i]);
	bins(p, 10, 60, false);
	expect(p, 3, 0);
	p = problem_new(PACK_STEPS);
	for (size_t i = 0; i < sizeof(halves) / sizeof(halves[0]); i++)
		item(p, halves[i]);
	bins(p, 10, 10, false);
	solve(p);
	assert_int_equal(p->plan.best_fit.opened, 5);
	assert_int_equal(p->plan.cost.opened, 4);
	free(p);
	/* All larger than half: the bound knows, and nothing is searched. */
	p = problem_new(PACK_STEPS);
	for (uint64_t i = 0; i < 100; i++)
		item(p, 501 + i);
	bins(p, 100, 1000, false);
	solve(p);
	assert_int_equal(p->plan.cost.opened, 100);
	assert_int_equal(p->plan.bound, 100);
	assert_int_equal(p->plan.steps, 0);
	free(p);
}

/* More is asked for than there is room: as many as best fit places, and no search. */
static void test_too_few_bins(void **state)
{
	struct problem *p = problem_new(PACK_STEPS);

	(void)state;
	bins(p, 3, 100, false);
	for (uint64_t i = 0; i < 60; i++)
		item(p, 20 + i);
	solve(p);
	assert_true(p->plan.cost.unplaced > 40);
	assert_int_equal(p->plan.cost.opened, 3);
	assert_int_equal(p->plan.steps, 0);
	free(p);
	/* Exactly enough: best fit leaves one out, the plan does not. */
	p = problem_new(PACK_STEPS);
	bins(p, 4, 10, true);
	for (int i = 0; i < 4; i++)
		item(p, 3);
	for (int i = 0; i < 3; i++)
		item(p, 4);
	item(p, 5);
	item(p, 5);
	item(p, 6);
	solve(p);
	assert_int_equal(p->plan.best_fit.unplaced, 1);
	assert_int_equal(p->plan.cost.unplaced, 0);
	free(p);
}

static void test_unequal_bins(void **state)
{
	struct problem *p = problem_new(PACK_STEPS);

	(void)state;
	/* Those in use are filled first; the largest of the others do. */
	bins(p, 2, 7, true);
	bins(p, 5, 10, false);
	bins(p, 2, 30, false);
	item(p, 4);
	item(p, 4);
	item(p, 3);
	item(p, 3);
	expect(p, 0, 0);
	p = problem_new(PACK_STEPS);
	bins(p, 5, 10, false);
	bins(p, 1, 30, false);
	for (int i = 0; i < 3; i++) {
		item(p, 6);
		item(p, 4);
	}
	solve(p);
	assert_int_equal(p->plan.cost.opened, 1);
	assert_true(p->plan.best_fit.opened > 1);
	free(p);
	/* The same in the reverse order of bins. */
	p = problem_new(PACK_STEPS);
	bins(p, 1, 30, false);
	bins(p, 5, 10, false);
	for (int i = 0; i < 3; i++) {
		item(p, 6);
		item(p, 4);
	}
	expect(p, 1, 0);
}

/* Many of few sizes, and one bin that takes a thousand. */
static void test_many_in_one(void **state)
{
	struct problem *p = problem_new(PACK_STEPS);

	(void)state;
	bins(p, 3, 100000, false);
	for (uint64_t i = 0; i < ITEMS; i++)
		item(p, 100 + i % 7 * 13 + (i == 0));
	solve(p);
	assert_int_equal(p->plan.cost.unplaced, 0);
	assert_int_equal(p->plan.cost.opened, 2);
	free(p);
	p = problem_new(PACK_STEPS);
	bins(p, 20, 50000, false);
	for (uint64_t i = 0; i < ITEMS; i++)
		item(p, 500 + i);
	solve(p);
	assert_true(p->plan.cost.opened <= p->plan.bound + 1);
	free(p);
}

static void test_same_again(void **state)
{
	struct problem *a = problem_new(1000000), *b = problem_new(1000000);
	uint64_t seed = 7;

	(void)state;
	bins(a, 200, 997, false);
	bins(b, 200, 997, false);
	for (int i = 0; i < 200; i++) {
		uint64_t size = 200 + next_random(&seed) % 300;

		item(a, size);
		item(b, size);
	}
	solve(a);
	solve(b);
	assert_memory_equal(a->to, b->to, sizeof(a->to));
	free(a);
	free(b);
}

/* The fewest unplaced, then the fewest opened, of all ways that there are. */
static void brute(const struct problem *p, uint32_t at, uint64_t left[], struct pack_cost now,
	struct pack_cost *best)
{
	if (now.unplaced > best->unplaced)
		return;
	if (at == p->items) {
		now.opened = 0;
		for (size_t i = 0; i < p->in.bin_count; i++)
			now.opened += !p->bins[i].used && left[i] < p->bins[i].room;
		if (now.unplaced < best->unplaced || now.opened < best->opened)
			*best = now;
		return;
	}
	for (size_t i = 0; i < p->in.bin_count; i++) {
		if (left[i] < p->item_size[at])
			continue;
		left[i] -= p->item_size[at];
		brute(p, at + 1, left, now, best);
		left[i] += p->item_size[at];
	}
	now.unplaced++;
	brute(p, at + 1, left, now, best);
}

static void test_against_brute_force(void **state)
{
	uint32_t optimal = 0, better = 0, all = 0;
	uint64_t seed = 42;

	(void)state;
	for (int round = 0; round < 1500; round++) {
		struct problem *p = problem_new(60000);
		struct pack_cost best = {.unplaced = UINT32_MAX, .opened = UINT32_MAX};
		bool equal = round % 2 == 0;
		uint64_t left[8];

		for (uint64_t i = 2 + next_random(&seed) % 3; i--;)
			bins(p, 1, equal ? 20 : 5 + next_random(&seed) % 25,
				next_random(&seed) % 4 == 0);
		for (uint64_t i = 1 + next_random(&seed) % 7; i--;)
			item(p, 1 + next_random(&seed) % 14);
		solve(p);
		for (size_t i = 0; i < p->in.bin_count; i++)
			left[i] = p->bins[i].room;
		brute(p, 0, left, (struct pack_cost){0}, &best);
		assert_true(p->plan.cost.unplaced >= best.unplaced);
		if (!best.unplaced) {
			assert_true(p->plan.bound <= best.opened);
			assert_int_equal(p->plan.cost.unplaced, 0);
			assert_int_equal(p->plan.cost.opened, best.opened);
		}
		if (p->plan.cost.unplaced == best.unplaced)
			assert_true(p->plan.cost.opened >= best.opened);
		optimal += p->plan.cost.unplaced == best.unplaced &&
			   p->plan.cost.opened == best.opened;
		better += p->plan.cost.unplaced < p->plan.best_fit.unplaced ||
			  p->plan.cost.opened < p->plan.best_fit.opened;
		all++;
		free(p);
	}
	print_message("%u of %u optimal, %u better than best fit\n", optimal, all, better);
	assert_true(better > 0);
	assert_true(optimal * 100 >= all * 90);
}

/* Uneven rooms, some in use, large and small items: what solve() asserts. */
static void test_random(void **state)
{
	uint64_t seed = 99;

	(void)state;
	for (int round = 0; round < 150; round++) {
		struct problem *p = problem_new(200000);
		uint64_t span = 1 + next_random(&seed) % 400;

		for (uint64_t i = next_random(&seed) % 60; i--;)
			bins(p, 1, next_random(&seed) % 1000, next_random(&seed) % 2);
		bins(p, next_random(&seed) % 60, 1000, false);
		for (uint64_t i = next_random(&seed) % 300; i--;)
			item(p, next_random(&seed) % span);
		solve(p);
		free(p);
	}
}

/* Falkenauer's triplets (1996): three go into each bin of 1000, and nothing is left. */
static void triplets(struct problem *p, uint32_t items, uint64_t *seed)
{
	for (uint32_t i = 0; i < items; i += 3) {
		uint64_t a = 380 + next_random(seed) % 111, rest = 1000 - a;
		uint64_t b = 250 + next_random(seed) % (rest / 2 - 250);

		item(p, a);
		item(p, b);
		item(p, rest - b);
	}
	bins(p, items, 1000, false);
}

static void test_triplets(void **state)
{
	static const uint32_t items[] = {60, 120, 249, 501};
	uint64_t seed = 1996;

	(void)state;
	for (size_t c = 0; c < sizeof(items) / sizeof(items[0]); c++) {
		uint32_t opened = 0, bound = 0, best_fit = 0;

		for (int i = 0; i < 4; i++) {
			struct problem *p = problem_new(PACK_STEPS);

			triplets(p, items[c], &seed);
			solve(p);
			assert_int_equal(p->plan.bound, items[c] / 3);
			opened += p->plan.cost.opened;
			bound += p->plan.bound;
			best_fit += p->plan.best_fit.opened;
			free(p);
		}
		print_message(
			"t%u: %u, bound %u, best fit %u\n", items[c], opened, bound, best_fit);
		assert_true(opened * 100 <= bound * 102);
	}
}

/* His uniform class: 20 to 100 in bins of 150. */
static void test_uniform(void **state)
{
	static const uint32_t items[] = {120, 250, 500, 1000};
	uint64_t seed = 1996;

	(void)state;
	for (size_t c = 0; c < sizeof(items) / sizeof(items[0]); c++) {
		uint32_t opened = 0, bound = 0;

		for (int i = 0; i < 10; i++) {
			struct problem *p = problem_new(PACK_STEPS / 4);

			for (uint32_t k = 0; k < items[c]; k++)
				item(p, 20 + next_random(&seed) % 81);
			bins(p, items[c], 150, false);
			solve(p);
			opened += p->plan.cost.opened;
			bound += p->plan.bound;
			free(p);
		}
		print_message("u%u: %u, bound %u\n", items[c], opened, bound);
		assert_true(opened * 100 <= bound * 102);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_zero_and_huge),
		cmocka_unit_test(test_known),
		cmocka_unit_test(test_too_few_bins),
		cmocka_unit_test(test_unequal_bins),
		cmocka_unit_test(test_many_in_one),
		cmocka_unit_test(test_same_again),
		cmocka_unit_test(test_against_brute_force),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_triplets),
		cmocka_unit_test(test_uniform),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
