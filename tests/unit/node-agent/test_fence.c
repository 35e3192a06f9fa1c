/* The end of the lease, and of the membership, as the agent sees it.
 */
#include "tests/unit/node-agent/schedkit.h"

/* One guest that runs. */
static void one(struct world *w, bool fenced)
{
	until(w, is_here, NULL);
	want(w, 0)->fenced = fenced;
	say_all(w);
	until(w, is_ready, UID(1));
	assert_int_equal(w->fake.starts, 1);
}

/* What it cannot keep to it does not agree to. */
static void test_lease_refused(void **state)
{
	struct world *w = *state;

	w->lease_ms = 90; /* with a heartbeat each 50 ms */
	until(w, is_here, NULL);
	assert_false(within(w, 200, never, NULL));
	assert_false(link_up(w->agent->link));
	assert_int_equal(w->beats, 0);
	w->lease_ms = 300;
	one(w, true);
}

#define T(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_lease_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
