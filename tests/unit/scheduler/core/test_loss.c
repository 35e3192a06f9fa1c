/* Hosts that are lost: what becomes of their guests, and when. */
#include "scheduler/core/orphan.h"
#include "tests/unit/scheduler/core/corekit.h"

static void silence(struct world *w, uint64_t ms)
{
	w->now += ms;
	assert_int_equal(core_heartbeat(w->core, "h2", 0, w->now, w->now, &w->out), 0);
	(void)core_tick(w->core, w->now, w->now, &w->out);
	check(w);
}

/* h1 with the guest; h2 goes on. */
static const struct core_guest *one(struct world *w, struct lab *lab, enum core_on_loss on_loss)
{
	const struct core_guest *g;

	world_open(w);
	host_up(w, "h1", 1ull << 30);
	lab_init(lab, "lab", 1);
	lab->groups[0].on_loss = on_loss;
	assert_int_equal(apply(w, lab, false, NULL), 0);
	g = core_guest_named(w->core, "lab/web-1");
	observe(w, g, CORE_RUNNING, true);
	host_up(w, "h2", 1ull << 30);
	return g;
}

static void hello(struct world *w, const struct core_observed *seen)
{
	struct core_hostfacts facts = {.memory = 1ull << 30, .disk = 1ull << 40, .cpu = 4000};

	(void)str_copy(facts.name, sizeof(facts.name), "h1");
	core_out_reset(&w->out);
	unit_ok(core_host_hello(w->core, &facts, seen, 1, w->now, w->now, &w->out, &w->err),
		&w->err);
	check(w);
}

static void back(struct world *w, uint64_t uid, uint64_t epoch, enum core_phase phase)
{
	const struct core_observed seen = {
		.uid = uid, .epoch = epoch, .generation = 1, .phase = phase, .reason = ""};

	hello(w, &seen);
}

static void test_restart(void **state)
{
	const struct core_guest *g;
	uint64_t epoch, disk;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_RESTART);
	epoch = g->epoch;
	disk = g->disk_generation;
	silence(&w, 4999);
	assert_string_equal(g->host->name, "h1");
	silence(&w, 1);
	assert_int_equal(g->phase, CORE_LOST);
	assert_string_equal(g->host->name, "h1");
	/* Not before its agent has surely ended it. */
	silence(&w, 499);
	assert_string_equal(g->host->name, "h1");
	silence(&w, 1);
	assert_string_equal(g->host->name, "h2");
	assert_true(g->epoch > epoch);
	assert_int_equal(g->disk_generation, disk + 1);
	/* The old host comes back with the old one: it must go, and once. */
	back(&w, g->uid, epoch, CORE_RUNNING);
	assert_int_equal(actions(&w, CORE_TELL_REMOVE), 1);
	assert_string_equal(g->host->name, "h2");
	world_close(&w);
}

static void test_wait_and_recover(void **state)
{
	const struct core_guest *g;
	uint64_t epoch;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_WAIT);
	epoch = g->epoch;
	assert_int_equal(
		core_guest_verb(w.core, g->uid, CORE_RECOVER, w.now, &w.out, &w.err), -EBUSY);
	silence(&w, 5000);
	assert_int_equal(
		core_guest_verb(w.core, g->uid, CORE_RECOVER, w.now, &w.out, &w.err), -EBUSY);
	silence(&w, 4000);
	silence(&w, 600000);
	assert_string_equal(g->host->name, "h1");
	assert_int_equal(g->phase, CORE_LOST);
	back(&w, g->uid, epoch, CORE_RUNNING);
	assert_int_equal(g->phase, CORE_RUNNING);
	silence(&w, 4000);
	silence(&w, 4000);
	unit_ok(core_guest_verb(w.core, g->uid, CORE_RECOVER, w.now, &w.out, &w.err), &w.err);
	check(&w);
	assert_string_equal(g->host->name, "h2");
	world_close(&w);
}

/* As serve does: what it has of guests, then of orphans. */
static void back_with(struct world *w, uint64_t uid, uint64_t epoch, uint64_t orphan)
{
	struct core_orphan_facts facts = {
		.uid = uid, .epoch = orphan, .name = "lab/web-1", .bytes = 4096};

	back(w, uid, epoch, CORE_RUNNING);
	core_orphans_observed(w->core, "h1", &facts, orphan > 0, true, &w->out);
	check(w);
}

static void say_orphan(struct world *w, uint64_t uid, uint64_t epoch, bool gone)
{
	struct core_orphan_facts facts = {
		.uid = uid, .epoch = epoch, .name = "lab/web-1", .bytes = 4096, .gone = gone};
	struct core_observed seen = {.uid = uid, .epoch = epoch, .gone = true, .reason = ""};

	core_out_reset(&w->out);
	unit_ok(core_observe(w->core, "h1", &seen, 1, w->now, &w->out, &w->err), &w->err);
	core_orphans_observed(w->core, "h1", &facts, 1, false, &w->out);
	check(w);
}

static void delete_lab(struct world *w)
{
	struct core_plan plan = {0};

	core_out_reset(&w->out);
	unit_ok(core_delete(w->core, "lab", false, w->now, &plan, &w->out, &w->err), &w->err);
	core_plan_free(&plan);
	check(w);
}

/* Its host cannot read whose it was: what was known of it stays. */
static void say_unread(struct world *w, uint64_t epoch)
{
	const struct core_orphan_facts facts = {.epoch = epoch,
		.name = "unknown/7",
		.bytes = 4096,
		.reason = "its record cannot be read"};
	const struct core_orphan *o;

	core_out_reset(&w->out);
	core_orphans_observed(w->core, "h1", &facts, 1, true, &w->out);
	check(w);
	o = core_orphan(w->core, epoch);
	assert_non_null(o);
	assert_int_equal(o->state, CORE_ORPHAN_KEPT);
	assert_string_equal(o->facts.name, "lab/web-1");
	assert_string_equal(o->facts.reason, "its record cannot be read");
	assert_true(o->facts.uid > 0);
}

static bool wanted(const struct world *w, uint64_t epoch)
{
	const struct core_orphan *o = core_orphan(w->core, epoch);

	return o && o->state == CORE_ORPHAN_EXPECTED;
}

/* Lost, and placed again where it was, which still has it under *EPOCH. */
static const struct core_guest *one_back(struct world *w, struct lab *lab, uint64_t *epoch)
{
	const struct core_guest *g = one(w, lab, CORE_LOSS_RESTART);

	*epoch = g->epoch;
	unit_ok(core_cordon(w->core, "h2", true, w->now, &w->out, &w->err), &w->err);
	silence(w, 4000);
	silence(w, 1500);
	assert_null(g->host);
	back_with(w, g->uid, *epoch, 0);
	assert_string_equal(g->host->name, "h1");
	return g;
}

static void test_orphan(void **state)
{
	const struct core_orphan *o;
	const struct core_guest *g;
	uint64_t epoch, reserved;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_RESTART);
	epoch = g->epoch;
	assert_null(core_orphans(w.core));
	silence(&w, 4000);
	silence(&w, 1500);
	o = core_orphan(w.core, epoch);
	assert_non_null(o);
	assert_int_equal(o->state, CORE_ORPHAN_EXPECTED);
	assert_string_equal(o->host, "h1");
	assert_true(wanted(&w, epoch));
	assert_false(wanted(&w, g->epoch));
	/* It is back, and still has it as a guest; then as an orphan. */
	back_with(&w, g->uid, epoch, 0);
	assert_int_equal(core_orphan(w.core, epoch)->state, CORE_ORPHAN_EXPECTED);
	reserved = core_host(w.core, "h1")->disk_reserved;
	say_orphan(&w, g->uid, epoch, false);
	assert_int_equal(core_orphan(w.core, epoch)->state, CORE_ORPHAN_KEPT);
	assert_int_equal(core_host(w.core, "h1")->disk_reserved, reserved + 4096);
	say_unread(&w, epoch);
	/* Another hello; the user deletes the guest: what is kept stays. */
	back_with(&w, 0, 0, epoch);
	delete_lab(&w);
	assert_non_null(core_orphan(w.core, epoch));
	assert_int_equal(core_prune(w.core, 99, &w.out, &w.err), -ENOENT);
	core_out_reset(&w.out);
	unit_ok(core_prune(w.core, epoch, &w.out, &w.err), &w.err);
	assert_int_equal(actions(&w, CORE_TELL_PRUNE), 1);
	assert_int_equal(core_host(w.core, "h1")->disk_reserved, reserved + 4096);
	/* Told again for as long as it is there. */
	say_orphan(&w, g->uid, epoch, false);
	assert_true(actions(&w, CORE_TELL_PRUNE) > 0);
	say_orphan(&w, g->uid, epoch, true);
	assert_null(core_orphan(w.core, epoch));
	assert_int_equal(core_host(w.core, "h1")->disk_reserved, reserved);
	world_close(&w);
}

/* Deleted before its host is back: nobody wants its disk.  And one that its host never had
 * is forgotten. */
static void test_orphan_not_wanted(void **state)
{
	const struct core_guest *g;
	uint64_t epoch;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_RESTART);
	epoch = g->epoch;
	silence(&w, 4000);
	silence(&w, 1500);
	assert_true(wanted(&w, epoch));
	delete_lab(&w);
	assert_null(core_orphan(w.core, epoch));
	world_close(&w);
	g = one(&w, &lab, CORE_LOSS_RESTART);
	epoch = g->epoch;
	silence(&w, 4000);
	silence(&w, 1500);
	back_with(&w, 77, 1, 0);
	assert_null(core_orphan(w.core, epoch));
	world_close(&w);
}

/* Placed again where it was: told of it when its host has made way. */
static void test_back_where_it_was(void **state)
{
	const struct core_guest *g;
	uint64_t epoch;
	struct world w;
	struct lab lab;

	(void)state;
	g = one_back(&w, &lab, &epoch);
	assert_true(wanted(&w, epoch));
	say_orphan(&w, g->uid, epoch, false);
	assert_int_equal(actions(&w, CORE_TELL_GUEST), 1);
	world_close(&w);
}

/* Pruned before its host made it an orphan, and the guest is deleted there meanwhile: its host
 * has nothing of it, and is asked whether the old disk has gone as well. */
static void test_pruned_and_deleted(void **state)
{
	struct core_observed seen = {.gone = true, .reason = ""};
	const struct core_guest *g;
	uint64_t epoch;
	struct world w;
	struct lab lab;

	(void)state;
	g = one_back(&w, &lab, &epoch);
	unit_ok(core_prune(w.core, epoch, &w.out, &w.err), &w.err);
	seen.uid = g->uid;
	seen.epoch = g->epoch;
	delete_lab(&w);
	core_out_reset(&w.out);
	unit_ok(core_observe(w.core, "h1", &seen, 1, w.now, &w.out, &w.err), &w.err);
	check(&w);
	assert_null(core_guest(w.core, seen.uid));
	assert_int_equal(actions(&w, CORE_TELL_PRUNE), 1);
	say_orphan(&w, seen.uid, epoch, true);
	assert_null(core_orphan(w.core, epoch));
	world_close(&w);
}

/* It comes back to where it was, where nothing had been written yet: nothing is expected
 * of that host any more. */
static void test_back_with_nothing(void **state)
{
	const struct core_guest *g;
	uint64_t epoch;
	struct world w;
	struct lab lab;

	(void)state;
	g = one_back(&w, &lab, &epoch);
	observe(&w, g, CORE_STARTING, false);
	assert_true(wanted(&w, epoch));
	observe(&w, g, CORE_RUNNING, false);
	assert_null(core_orphan(w.core, epoch));
	/* Its host tells of it after all. */
	say_orphan(&w, g->uid, epoch, false);
	assert_int_equal(core_orphan(w.core, epoch)->state, CORE_ORPHAN_KEPT);
	world_close(&w);
}

/* A predecessor may have granted a longer lease: that is waited for, once. */
static void test_longer_lease(void **state)
{
	const struct core_guest *g;
	struct core_meta meta;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_RESTART);
	core_meta(w.core, &meta);
	meta.lease_ms = 20000;
	core_load_meta(w.core, &meta);
	core_out_reset(&w.out);
	unit_ok(core_loaded(w.core, w.now, w.now, &w.out, &w.err), &w.err);
	silence(&w, 4000);
	silence(&w, 2000);
	assert_int_equal(core_host(w.core, "h1")->state, CORE_HOST_LOST);
	assert_string_equal(g->host->name, "h1");
	for (unsigned ms = 6000; ms < 21000; ms += 1000) {
		silence(&w, 1000);
		assert_string_equal(g->host->name, "h1");
	}
	silence(&w, 999);
	assert_string_equal(g->host->name, "h1");
	silence(&w, 1);
	assert_string_equal(g->host->name, "h2");
	/* From now on ours is the longest. */
	core_meta(w.core, &meta);
	assert_int_equal(meta.lease_ms, 5000);
	/* A shorter one before us is nothing to wait for; ours is noted before it is granted. */
	meta.lease_ms = 1000;
	core_load_meta(w.core, &meta);
	core_out_reset(&w.out);
	unit_ok(core_loaded(w.core, w.now, w.now, &w.out, &w.err), &w.err);
	core_meta(w.core, &meta);
	assert_int_equal(meta.lease_ms, 5000);
	assert_int_equal(w.out.dirty_count, 1);
	assert_int_equal(w.out.dirty[0].kind, CORE_KIND_META);
	world_close(&w);
}

/* Time in which the scheduler stood still is nobody's silence. */
static void test_slept(void **state)
{
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_RESTART);
	silence(&w, 1000);
	w.now += 60000;
	core_slept(w.core, 59500, w.now);
	(void)core_tick(w.core, w.now, w.now, &w.out);
	check(&w);
	assert_int_equal(core_host(w.core, "h1")->state, CORE_HOST_UP);
	assert_int_equal(core_host(w.core, "h2")->state, CORE_HOST_UP);
	silence(&w, 3400);
	assert_int_equal(core_host(w.core, "h1")->state, CORE_HOST_SUSPECT);
	silence(&w, 100);
	assert_int_equal(core_host(w.core, "h1")->state, CORE_HOST_LOST);
	silence(&w, 500);
	assert_string_equal(g->host->name, "h2");
	world_close(&w);
}

/* It never comes back: its guests start elsewhere, whatever their policy. */
static void test_remove_by_force(void **state)
{
	const struct core_guest *g;
	uint64_t epoch;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_WAIT);
	epoch = g->epoch;
	assert_int_equal(core_host_remove(w.core, "h1", true, w.now, &w.out, &w.err), -EBUSY);
	silence(&w, 4000);
	silence(&w, 1000);
	assert_int_equal(core_host_remove(w.core, "h1", true, w.now, &w.out, &w.err), -EBUSY);
	silence(&w, 500);
	assert_int_equal(core_host_remove(w.core, "h1", false, w.now, &w.out, &w.err), -EBUSY);
	unit_says(&w.err, "lab/web-1");
	core_out_reset(&w.out);
	unit_ok(core_host_remove(w.core, "h1", true, w.now, &w.out, &w.err), &w.err);
	check(&w);
	assert_null(core_host(w.core, "h1"));
	assert_string_equal(g->host->name, "h2");
	assert_true(g->epoch > epoch);
	assert_null(core_orphans(w.core));
	world_close(&w);
}

/* One that may only be late after a start of the scheduler is not given up, also when it has
 * nothing: its key would be good for nothing any more. */
static void test_remove_joining(void **state)
{
	const struct core_hostfacts facts = {.name = "h1", .memory = 1ull << 30};
	struct world w;

	(void)state;
	world_open(&w);
	unit_ok(core_load_host(w.core, &facts, false, w.now, &w.err), &w.err);
	unit_ok(core_loaded(w.core, w.now, w.now, &w.out, &w.err), &w.err);
	assert_int_equal(core_host(w.core, "h1")->state, CORE_HOST_JOINING);
	assert_int_equal(core_host_removable(w.core, "h1", true, &w.err), -EBUSY);
	assert_int_equal(core_host_remove(w.core, "h1", true, w.now, &w.out, &w.err), -EBUSY);
	unit_ok(core_host_remove(w.core, "h1", false, w.now, &w.out, &w.err), &w.err);
	assert_int_equal(core_host_removable(w.core, "h1", false, &w.err), -ENOENT);
	world_close(&w);
}

/* A host with old disks is not forgotten as if it had nothing. */
static void test_remove_with_orphans(void **state)
{
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_RESTART);
	silence(&w, 4000);
	silence(&w, 1500);
	assert_string_equal(g->host->name, "h2");
	assert_int_equal(core_host_remove(w.core, "h1", false, w.now, &w.out, &w.err), -EBUSY);
	unit_says(&w.err, "1 old disks");
	core_out_reset(&w.out);
	unit_ok(core_host_remove(w.core, "h1", true, w.now, &w.out, &w.err), &w.err);
	check(&w);
	assert_null(core_orphans(w.core));
	world_close(&w);
}

static void test_none(void **state)
{
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_NONE);
	silence(&w, 4000);
	silence(&w, 4000);
	assert_int_equal(g->phase, CORE_LOST);
	/* Still running there: it goes on.  Not running: left to its user. */
	back(&w, g->uid, g->epoch, CORE_RUNNING);
	assert_true(g->want_run);
	silence(&w, 4000);
	silence(&w, 4000);
	back(&w, g->uid, g->epoch, CORE_STARTING);
	assert_false(g->want_run);
	assert_true(actions(&w, CORE_TELL_GUEST) > 0);
	world_close(&w);
}

/* Its host's agent has started it again before it heard of anything: that is another run. */
static void test_none_started_again(void **state)
{
	struct core_observed seen = {.generation = 1, .phase = CORE_RUNNING, .reason = ""};
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_NONE);
	seen.uid = g->uid;
	seen.epoch = g->epoch;
	seen.started_at = 1000;
	unit_ok(core_observe(w.core, "h1", &seen, 1, w.now, &w.out, &w.err), &w.err);
	assert_true(g->want_run);
	silence(&w, 4000);
	silence(&w, 4000);
	hello(&w, &seen); /* it has gone on */
	assert_true(g->want_run);
	silence(&w, 4000);
	silence(&w, 4000);
	seen.started_at = 2000;
	hello(&w, &seen);
	assert_false(g->want_run);
	world_close(&w);
}

/* What runs was started under `wait`: its agent does not end it with the lease. */
static void test_policy_changed_just_now(void **state)
{
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_WAIT);
	lab.groups[0].on_loss = CORE_LOSS_RESTART;
	lab.groups[0].boot_hash = 2;
	assert_int_equal(apply(&w, &lab, false, NULL), 0);
	assert_true(g->unfenced);
	silence(&w, 4000);
	silence(&w, 4000);
	assert_string_equal(g->host->name, "h1");
	back(&w, g->uid, g->epoch, CORE_RUNNING);
	observe(&w, g, CORE_RUNNING, true); /* under the new one */
	assert_false(g->unfenced);
	silence(&w, 4000);
	silence(&w, 4000);
	assert_string_equal(g->host->name, "h2");
	world_close(&w);
}

/* One that was stopped stays with its disk; started while its host is lost, it moves. */
static void test_stopped(void **state)
{
	const struct core_guest *g;
	struct world w;
	struct lab lab;

	(void)state;
	g = one(&w, &lab, CORE_LOSS_RESTART);
	unit_ok(core_guest_verb(w.core, g->uid, CORE_STOP, w.now, &w.out, &w.err), &w.err);
	silence(&w, 4000);
	silence(&w, 4000);
	assert_string_equal(g->host->name, "h1");
	unit_ok(core_guest_verb(w.core, g->uid, CORE_START, w.now, &w.out, &w.err), &w.err);
	check(&w);
	assert_string_equal(g->host->name, "h2");
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_restart),
		cmocka_unit_test(test_wait_and_recover),
		cmocka_unit_test(test_orphan),
		cmocka_unit_test(test_orphan_not_wanted),
		cmocka_unit_test(test_back_where_it_was),
		cmocka_unit_test(test_back_with_nothing),
		cmocka_unit_test(test_pruned_and_deleted),
		cmocka_unit_test(test_longer_lease),
		cmocka_unit_test(test_slept),
		cmocka_unit_test(test_remove_by_force),
		cmocka_unit_test(test_remove_with_orphans),
		cmocka_unit_test(test_remove_joining),
		cmocka_unit_test(test_none),
		cmocka_unit_test(test_none_started_again),
		cmocka_unit_test(test_policy_changed_just_now),
		cmocka_unit_test(test_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
