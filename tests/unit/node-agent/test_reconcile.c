/* What to do next for a guest: the whole table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "node-agent/reconcile.h"

#define NOW 100000

/* Wanted: to run, under epoch 5, generation 3, disk 2, always; or as said. */
#define WANT_AS(r, e, g, policy) \
	.run = (r), .epoch = (e), .generation = (g), .disk_generation = 2, .restart = (policy)
#define WANT WANT_AS(true, 5, 3, RECONCILE_ALWAYS)
#define STOPPED WANT_AS(false, 5, 3, RECONCILE_ALWAYS)
/* A runner just as wanted. */
#define RUNS_AS(e, g, d) \
	.runner = true, .run_epoch = (e), .run_generation = (g), .run_disk_generation = (d)
#define RUNS RUNS_AS(5, 3, 2)
/* Ready to start. */
#define READY .artefacts = true, .disk_generation = 2, .disk_checked = true, .slot = true
#define ENDED .end = true, .end_epoch = 5, .end_generation = 3

static const struct row {
	const char *what;
	struct reconcile_want want;
	struct reconcile_have have;
	enum reconcile_step step;
} rows[] = {
	{"something is under way", {WANT}, {.busy = true, .runner = true}, RECONCILE_NOTHING},

	{"new", {WANT}, {0}, RECONCILE_SAVE},
	{"new, saved", {WANT}, {.saved = true}, RECONCILE_FETCH},
	{"fetched", {WANT}, {.saved = true, .artefacts = true}, RECONCILE_DISK},
	{"disk of another generation", {WANT},
		{.saved = true, .artefacts = true, .disk_checked = true, .disk_generation = 1},
		RECONCILE_DISK},
	{"disk not seen to yet", {WANT}, {.saved = true, .artefacts = true, .disk_generation = 2},
		RECONCILE_DISK},
	{"disk there", {WANT},
		{.saved = true, .artefacts = true, .disk_generation = 2, .disk_checked = true},
		RECONCILE_QUEUE},
	{"its turn", {WANT}, {.saved = true, READY}, RECONCILE_START},
	{"its turn, but the spec is not on disk", {WANT}, {READY}, RECONCILE_SAVE},
	{"starts are held", {WANT}, {.saved = true, .hold = true, READY}, RECONCILE_NOTHING},
	{"a step failed a moment ago", {WANT}, {.saved = true, .retry_at = NOW + 1, READY},
		RECONCILE_WAIT},
	{"a step failed a while ago", {WANT}, {.saved = true, .retry_at = NOW, READY},
		RECONCILE_START},

	{"the disk was full a moment ago", {WANT}, {.save_failed = true, .retry_at = NOW + 1},
		RECONCILE_WAIT},
	{"the disk was full a while ago", {WANT}, {.save_failed = true, .retry_at = NOW},
		RECONCILE_SAVE},
	{"a back-off is no full disk", {WANT}, {.retry_at = NOW + 1}, RECONCILE_SAVE},
	{"runs, and the disk was full", {STOPPED}, {.save_failed = true, .retry_at = NOW + 1, RUNS},
		RECONCILE_WAIT},
	{"ended, and the disk was full", {WANT},
		{.saved = true, .save_failed = true, .retry_at = NOW + 1, .ended = true, RUNS},
		RECONCILE_WAIT},
	{"ended, and a back-off", {WANT}, {.saved = true, .retry_at = NOW + 1, .ended = true, RUNS},
		RECONCILE_NOTE},

	{"is to go, and the disk is full", {.gone = true}, {.save_failed = true, RUNS},
		RECONCILE_STOP},
	{"has ended and is to go, and the disk is full", {.gone = true},
		{.save_failed = true, .retry_at = NOW + 1, .ended = true, RUNS}, RECONCILE_FORGET},

	{"runs", {WANT}, {.saved = true, RUNS}, RECONCILE_NOTHING},
	{"runs, held or not", {WANT}, {.saved = true, .hold = true, RUNS}, RECONCILE_NOTHING},
	{"runs, the spec is not on disk", {WANT}, {RUNS}, RECONCILE_SAVE},
	{"of an older epoch", {WANT}, {.saved = true, RUNS_AS(4, 3, 2)}, RECONCILE_STOP},
	{"of an older generation", {WANT}, {.saved = true, RUNS_AS(5, 2, 2)}, RECONCILE_STOP},
	{"on an older disk", {WANT}, {.saved = true, RUNS_AS(5, 3, 1)}, RECONCILE_STOP},
	{"stop is saved first", {STOPPED}, {RUNS}, RECONCILE_SAVE},
	{"to be stopped", {STOPPED}, {.saved = true, RUNS}, RECONCILE_STOP},
	{"stopping", {STOPPED}, {.saved = true, RUNS, .stop_asked = true}, RECONCILE_NOTHING},
	{"gone", {WANT, .gone = true}, {.saved = true, RUNS}, RECONCILE_STOP},
	{"gone, not saved", {WANT, .gone = true}, {RUNS}, RECONCILE_SAVE},
	{"gone, stopping", {WANT, .gone = true}, {.saved = true, RUNS, .stop_asked = true},
		RECONCILE_NOTHING},

	{"ended", {WANT}, {.saved = true, RUNS, .ended = true}, RECONCILE_NOTE},
	{"ended, noted", {WANT}, {.saved = true, RUNS, .ended = true, .noted = true},
		RECONCILE_FORGET},
	{"ended, forgotten", {WANT},
		{.saved = true, RUNS, .ended = true, .noted = true, .forgot = true},
		RECONCILE_NOTHING},
	{"ended as asked, gone", {WANT, .gone = true},
		{.saved = true, RUNS, .stop_asked = true, .ended = true}, RECONCILE_NOTE},

	{"stopped", {STOPPED}, {.saved = true}, RECONCILE_NOTHING},
	{"stopped, new", {STOPPED}, {0}, RECONCILE_SAVE},
	{"stopped, then started again", {WANT},
		{.saved = true, READY, ENDED, .end_by_request = true}, RECONCILE_START},
	{"crashed, always", {WANT}, {.saved = true, READY, ENDED}, RECONCILE_START},
	{"crashed, always, backing off", {WANT},
		{.saved = true, READY, ENDED, .retry_at = NOW + 500}, RECONCILE_WAIT},
	{"ended well, always", {WANT}, {.saved = true, READY, ENDED, .end_success = true},
		RECONCILE_START},
	{"crashed, on failure", {WANT_AS(true, 5, 3, RECONCILE_ON_FAILURE)},
		{.saved = true, READY, ENDED}, RECONCILE_START},
	{"ended well, on failure", {WANT_AS(true, 5, 3, RECONCILE_ON_FAILURE)},
		{.saved = true, READY, ENDED, .end_success = true}, RECONCILE_NOTHING},
	{"crashed, never", {WANT_AS(true, 5, 3, RECONCILE_NEVER)}, {.saved = true, READY, ENDED},
		RECONCILE_NOTHING},
	{"crashed, never, but a new generation is wanted", {WANT_AS(true, 5, 4, RECONCILE_NEVER)},
		{.saved = true, READY, ENDED}, RECONCILE_START},
	{"crashed, never, but a new epoch is wanted", {WANT_AS(true, 6, 3, RECONCILE_NEVER)},
		{.saved = true, READY, ENDED}, RECONCILE_START},

	{"stopped, never ran, is to move", {STOPPED}, {.saved = true, .moves = true},
		RECONCILE_FETCH},
	{"stopped, never ran, is to move, not saved", {STOPPED}, {.moves = true}, RECONCILE_SAVE},
	{"stopped, never ran, is to move, fetched", {STOPPED},
		{.saved = true, .moves = true, .artefacts = true}, RECONCILE_DISK},
	{"stopped, never ran, is to move, starts are held", {STOPPED},
		{.saved = true, .moves = true, .hold = true, .artefacts = true}, RECONCILE_DISK},
	{"stopped, never ran, is to move, the disk failed", {STOPPED},
		{.saved = true, .moves = true, .retry_at = NOW + 1}, RECONCILE_WAIT},
	{"stopped, is to move", {STOPPED}, {.saved = true, .moves = true, READY},
		RECONCILE_NOTHING},
	{"stopped, is to move, an older disk", {STOPPED},
		{.saved = true, .moves = true, .artefacts = true, .disk_generation = 1},
		RECONCILE_NOTHING},
	{"runs, is to move", {WANT}, {.saved = true, .moves = true, RUNS}, RECONCILE_NOTHING},
	{"crashed, never, is to move", {WANT_AS(true, 5, 3, RECONCILE_NEVER)},
		{.saved = true, .moves = true, READY, ENDED}, RECONCILE_NOTHING},
	{"gone, was to move", {WANT, .gone = true}, {.saved = true, .moves = true},
		RECONCILE_REMOVE},

	{"gone, nothing runs", {WANT, .gone = true}, {.saved = true, ENDED}, RECONCILE_REMOVE},
	{"gone, not saved", {WANT, .gone = true}, {0}, RECONCILE_SAVE},
	{"gone, removing failed", {WANT, .gone = true}, {.saved = true, .retry_at = NOW + 1},
		RECONCILE_WAIT},
	{"gone, while starts are held", {WANT, .gone = true}, {.saved = true, .hold = true},
		RECONCILE_REMOVE},
};

static void test_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		enum reconcile_step step = reconcile_next(&rows[i].want, &rows[i].have, NOW);

		if (step != rows[i].step)
			fail_msg("%s: %s, expected %s", rows[i].what, reconcile_name(step),
				reconcile_name(rows[i].step));
	}
}

/* Each step, once done, leads on: no state of a guest is stuck or loops. */
static void test_converges(void **state)
{
	(void)state;
	for (unsigned bits = 0; bits < 1u << 13; bits++) {
		struct reconcile_want want = {.gone = bits & 1,
			.run = bits & 2,
			.epoch = 5,
			.generation = 3,
			.disk_generation = 2,
			.restart = bits >> 2 & 1 ? 2 : 0};
		struct reconcile_have h = {.saved = bits & 8,
			.runner = bits & 16,
			.stop_asked = bits & 32,
			.ended = bits & 64,
			.noted = bits & 128,
			.end = bits & 256,
			.end_epoch = 5,
			.end_generation = 3,
			.artefacts = bits & 512,
			.slot = bits & 1024,
			.run_epoch = bits & 2048 ? 5 : 4,
			.run_generation = 3,
			.run_disk_generation = 2,
			.disk_generation = bits & 4096 ? 2 : 1};
		enum reconcile_step step;
		unsigned n = 0;

		while ((step = reconcile_next(&want, &h, NOW)) != RECONCILE_NOTHING) {
			assert_true(n++ < 12);
			if (step == RECONCILE_REMOVE)
				break;
			h.saved |= step == RECONCILE_SAVE;
			h.noted |= step == RECONCILE_NOTE;
			h.artefacts |= step == RECONCILE_FETCH;
			h.slot |= step == RECONCILE_QUEUE;
			if (step == RECONCILE_DISK) {
				h.disk_checked = true;
				h.disk_generation = want.disk_generation;
			}
			if (step == RECONCILE_STOP || step == RECONCILE_FORGET)
				h.runner = h.ended = h.noted = false;
			if (step == RECONCILE_STOP)
				h.end = h.end_by_request = true;
			if (step == RECONCILE_START) {
				h.runner = true;
				h.stop_asked = h.end = false;
				h.run_epoch = want.epoch;
				h.run_generation = want.generation;
				h.run_disk_generation = want.disk_generation;
			}
		}
		if (!want.gone || (h.runner && (h.stop_asked || h.ended)))
			continue;
		assert_int_equal(step, RECONCILE_REMOVE);
	}
}

static void test_backoff(void **state)
{
	(void)state;
	assert_int_equal(reconcile_backoff(0), 1000);
	assert_int_equal(reconcile_backoff(1), 1000);
	assert_int_equal(reconcile_backoff(2), 2000);
	assert_int_equal(reconcile_backoff(6), 32000);
	assert_int_equal(reconcile_backoff(7), 60000);
	assert_int_equal(reconcile_backoff(UINT32_MAX), 60000);
	assert_true(reconcile_restarts(RECONCILE_ALWAYS, true));
	assert_true(reconcile_restarts(RECONCILE_ON_FAILURE, false));
	assert_false(reconcile_restarts(RECONCILE_ON_FAILURE, true));
	assert_false(reconcile_restarts(RECONCILE_NEVER, false));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_converges),
		cmocka_unit_test(test_backoff),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
