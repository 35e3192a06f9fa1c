/* Rows in the order of a field, and the line that tells how far a copy is. */
#include "clusterctl/sorted.h"

#include <errno.h>

#include "clusterctl/progress.h"
#include "tests/unit/unit.h"

struct told {
	char names[256];
};

static int tell(void *arg, const Um__GetReply *r, size_t i)
{
	struct told *t = arg;
	size_t used = strlen(t->names);

	(void)snprintf(t->names + used, sizeof(t->names) - used, "%s ", r->guests[i]->name);
	return 0;
}

static void expect(const char *by, const char *want)
{
	static const struct {
		const char *name, *host;
		uint64_t memory;
		uint32_t restarts;
	} rows[] = {{"l/web-10", "h2", 64, 0}, {"l/web-2", "h10", 1000, 7}, {"l/web-1", "", 9, 0},
		{"l/\"q\"", "h2", 128, 7}};
	struct told told = {""};
	struct err err = ERR_INIT;
	struct sorted s;

	sorted_init(&s, UM__KIND__KIND_GUESTS, by);
	/* In two parts, as lists come. */
	for (size_t part = 0; part < 2; part++) {
		Um__GetReply r = UM__GET_REPLY__INIT;
		Um__GuestInfo info[2], *list[2] = {&info[0], &info[1]};

		for (size_t i = 0; i < 2; i++) {
			um__guest_info__init(&info[i]);
			info[i].name = (char *)(uintptr_t)rows[part * 2 + i].name;
			info[i].host = (char *)(uintptr_t)rows[part * 2 + i].host;
			info[i].memory_bytes = rows[part * 2 + i].memory;
			info[i].restarts = rows[part * 2 + i].restarts;
		}
		r.guests = list;
		r.n_guests = 2;
		unit_ok(sorted_add(&s, &r, &err), &err);
	}
	assert_int_equal(sorted_each(&s, tell, &told), 0);
	assert_string_equal(told.names, want);
	sorted_free(&s);
}

static void test_sorted(void **state)
{
	Um__GetReply r = UM__GET_REPLY__INIT;
	Um__GuestInfo info = UM__GUEST_INFO__INIT, *list[] = {&info};
	struct err err = ERR_INIT;
	struct sorted s;

	(void)state;
	expect("name", "l/\"q\" l/web-1 l/web-2 l/web-10 ");
	expect("-name", "l/web-10 l/web-2 l/web-1 l/\"q\" ");
	expect("memory_bytes", "l/web-1 l/web-10 l/\"q\" l/web-2 ");
	expect("-memory_bytes", "l/web-2 l/\"q\" l/web-10 l/web-1 ");
	/* No host first; equal ones as they came, in both directions. */
	expect("host", "l/web-1 l/web-10 l/\"q\" l/web-2 ");
	expect("restarts", "l/web-10 l/web-1 l/web-2 l/\"q\" ");
	expect("-restarts", "l/web-2 l/\"q\" l/web-10 l/web-1 ");
	expect("networks", "l/web-10 l/web-2 l/web-1 l/\"q\" ");

	r.guests = list;
	r.n_guests = 1;
	sorted_init(&s, UM__KIND__KIND_GUESTS, "nam");
	assert_int_equal(sorted_add(&s, &r, &err), -EINVAL);
	unit_says(&err, "--sort 'nam' is none of name, host, state, ready");
	sorted_free(&s);
}

static void says(uint64_t done, uint64_t whole, uint64_t ms, const char *want)
{
	struct progress p = {.done = done, .whole = whole};
	char text[160];

	progress_text(&p, ms, text, sizeof(text));
	assert_string_equal(text, want);
}

static void test_progress(void **state)
{
	(void)state;
	says(0, 0, 0, "0, 0/s");
	says(3u << 20, 0, 2000, "3M, 1.5M/s");
	says(1u << 20, 4u << 20, 1000, "1M of 4M, 25%, 1M/s, 4s left");
	says(0, 4u << 20, 1000, "0 of 4M, 0%, 0/s");
	says((4u << 20) + 1024, 4u << 20, 1000, "4M of 4M, 100%, 4.0M/s, 1s left");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sorted),
		cmocka_unit_test(test_progress),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
