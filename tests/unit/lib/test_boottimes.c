/* Steps of a boot: marked once, merged, carried over the wire. */
#include "lib/boottimes.h"

#include "lib/proc.h"
#include "tests/unit/unit.h"

static void test_mark(void **state)
{
	struct boottimes t = {{0}};
	uint64_t before = proc_wall_us(), first;

	(void)state;
	assert_true(boottimes_empty(&t));
	boottimes_mark(&t, UM__BOOT_STEP__BOOT_DISK);
	first = t.at[UM__BOOT_STEP__BOOT_DISK];
	assert_true(first >= before && first <= proc_wall_us());
	assert_false(boottimes_empty(&t));
	t.at[UM__BOOT_STEP__BOOT_DISK] = 7;
	boottimes_mark(&t, UM__BOOT_STEP__BOOT_DISK);
	assert_int_equal(t.at[UM__BOOT_STEP__BOOT_DISK], 7);
	/* What comes from elsewhere may name a step of the future. */
	boottimes_mark(&t, (Um__BootStep)1000);
	boottimes_mark(&t, (Um__BootStep)-1);
}

/* Over the wire and back; a longer list than we know, a shorter one, none. */
static void test_carry(void **state)
{
	struct boottimes from = {{0}}, to = {{0}};
	Um__BootTimes message, *back;
	uint8_t packed[512];
	uint64_t longer[BOOTTIMES_STEPS + 5] = {0};
	size_t size;

	(void)state;
	from.at[UM__BOOT_STEP__BOOT_ASKED] = 1;
	from.at[UM__BOOT_STEP__BOOT_READY] = UINT64_C(1795469801000000);
	boottimes_fill(&from, &message);
	assert_true(um__boot_times__get_packed_size(&message) <= sizeof(packed));
	size = um__boot_times__pack(&message, packed);
	back = um__boot_times__unpack(NULL, size, packed);
	assert_non_null(back);
	to.at[UM__BOOT_STEP__BOOT_DISK] = 5;
	boottimes_add(&to, back);
	um__boot_times__free_unpacked(back, NULL);
	assert_int_equal(to.at[UM__BOOT_STEP__BOOT_ASKED], 1);
	assert_int_equal(to.at[UM__BOOT_STEP__BOOT_DISK], 5);
	assert_int_equal(to.at[UM__BOOT_STEP__BOOT_READY], UINT64_C(1795469801000000));
	boottimes_add(&to, NULL);
	longer[BOOTTIMES_STEPS + 4] = 9;
	longer[0] = 2;
	um__boot_times__init(&message);
	message.at_us = longer;
	message.n_at_us = BOOTTIMES_STEPS + 5;
	boottimes_add(&to, &message);
	assert_int_equal(to.at[0], 2);
	message.n_at_us = 1;
	longer[0] = 3;
	boottimes_add(&to, &message);
	assert_int_equal(to.at[0], 3);
	assert_int_equal(to.at[UM__BOOT_STEP__BOOT_DISK], 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mark),
		cmocka_unit_test(test_carry),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
