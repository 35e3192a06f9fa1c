/* The life of guests under a whole agent, with a pretended driver and scheduler. */
#include "tests/unit/node-agent/schedkit.h"

static bool has_phase(struct world *w, void *arg)
{
	return told_of(w, 1)->phase == *(Um__Phase *)arg;
}

static void until_phase(struct world *w, Um__Phase phase)
{
	if (!within(w, KIT_MS, has_phase, &phase))
		fail_msg(
			"phase %d, not %d: %s", told_of(w, 1)->phase, phase, told_of(w, 1)->reason);
}

/* One guest that runs. */
static struct kit_runner *one(struct world *w)
{
	until(w, is_here, NULL);
	(void)want(w, 0);
	say_all(w);
	until(w, is_ready, UID(1));
	return fake_runner(&w->fake, 1);
}

static void test_start(void **state)
{
	struct world *w = *state;
	struct kit_runner *r = one(w);

	assert_non_null(r);
	assert_int_equal(w->fake.starts, 1);
	assert_int_equal(w->fake.fresh, 1);
	assert_int_equal(w->chunks, 2); /* image and kernel, a chunk each */
	assert_int_equal(told_of(w, 1)->epoch, 10);
	assert_int_equal(told_of(w, 1)->disk_generation, 1);
	assert_true(w->blobs_added >= 2);
	/* Said again: nothing happens. */
	say_all(w);
	assert_false(within(w, 200, never, NULL));
	assert_int_equal(w->fake.starts, 1);
	assert_int_equal(w->fake.stops, 0);
	assert_true(link_lease(w->agent->link) > 0);
}

/* The end is told before the runner has gone. */
static bool is_over(struct world *w, void *arg)
{
	(void)arg;
	return !fake_runner(&w->fake, 1) || !fake_runner(&w->fake, 1)->alive;
}

static void test_stop_and_start(void **state)
{
	struct world *w = *state;

	(void)one(w);
	w->guests[0].run = false;
	say_guests(w, false, 0, 1);
	until_phase(w, UM__PHASE__STOPPED);
	assert_int_equal(w->fake.stops, 1);
	assert_int_equal(w->fake.forced, 0);
	until(w, is_over, NULL);
	w->guests[0].run = true;
	say_guests(w, false, 0, 1);
	until(w, is_ready, UID(1));
	assert_int_equal(w->fake.starts, 2);
	assert_int_equal(w->fake.fresh, 1);	      /* the same disk */
	assert_int_equal(told_of(w, 1)->restarts, 0); /* not by policy */
}

static bool is_known(struct world *w, void *arg)
{
	return guests_find(w->agent->guests, *(uint64_t *)arg);
}

/* The lease ended while the agent stood still: it finds out by its clock, and its timer
 * is armed anew before it ran. What was not started meanwhile starts then. */
static void test_lease_ends_unseen(void **state)
{
	struct world *w = *state;
	uint64_t uid = 1;

	until(w, is_here, NULL);
	say_all(w);
	(void)want(w, 0);
	w->guests[0].fenced = true;
	w->mute = true;
	w->fake.lease_until = 1;
	say_guests(w, false, 0, 1);
	until(w, is_known, &uid);
	w->mute = false;
	until(w, is_ready, UID(1));
}

static bool generation_is(struct world *w, void *arg)
{
	return told_of(w, 1)->generation == *(uint64_t *)arg && is_ready(w, UID(1));
}

static void test_generations(void **state)
{
	struct world *w = *state;
	uint64_t generation = 2;

	(void)one(w);
	w->guests[0].generation = 2;
	say_guests(w, false, 0, 1);
	until(w, generation_is, &generation);
	assert_int_equal(w->fake.starts, 2);
	assert_int_equal(w->fake.fresh, 1);
	generation = 3;
	w->guests[0].generation = 3;
	w->guests[0].disk_generation = 2;
	w->images[0].id.data = w->image2;
	say_guests(w, false, 0, 1);
	until(w, generation_is, &generation);
	assert_int_equal(w->fake.fresh, 2);
	assert_int_equal(told_of(w, 1)->disk_generation, 2);
	assert_int_equal(told_of(w, 1)->restarts, 0);
}

static bool restarted(struct world *w, void *arg)
{
	return told_of(w, 1)->restarts == *(uint32_t *)arg && is_ready(w, UID(1));
}

/* With the scheduler away, too. */
static void test_crash_restarts(void **state)
{
	struct world *w = *state;
	uint32_t n = 1;
	uint64_t before;

	fake_end(one(w), 256 + 9, false);
	before = proc_mono_ms();
	until_phase(w, UM__PHASE__FAILED);
	assert_non_null(strstr(told_of(w, 1)->reason, "it ended; starts again within"));
	assert_int_equal(told_of(w, 1)->exit_status, 256 + 9);
	until(w, restarted, &n);
	assert_true(proc_mono_ms() - before >= 900);
	assert_int_equal(w->fake.fresh, 1);
	/* Away: the runner itself is killed. */
	sched_close(w);
	fake_die(fake_runner(&w->fake, 1));
	assert_false(within(w, 2800, never, NULL));
	assert_int_equal(w->fake.starts, 3);
	sched_open(w);
	n = 2;
	until(w, restarted, &n);
}

static void test_restart_policies(void **state)
{
	struct world *w = *state;

	until(w, is_here, NULL);
	want(w, 0)->spec->restart = UM__RESTART_POLICY__RESTART_NEVER;
	want(w, 1)->spec->restart = UM__RESTART_POLICY__RESTART_ON_FAILURE;
	say_all(w);
	until(w, is_ready, UID(1));
	until(w, is_ready, UID(2));
	fake_end(fake_runner(&w->fake, 1), 1, false);
	fake_end(fake_runner(&w->fake, 2), 0, false);
	until_phase(w, UM__PHASE__FAILED);
	assert_false(within(w, 1300, never, NULL));
	assert_int_equal(w->fake.starts, 2);
	assert_int_equal(told_of(w, 2)->phase, UM__PHASE__STOPPED);
	assert_true(told_of(w, 1)->final && told_of(w, 2)->final);
	/* It stays so over a restart of the agent. */
	restart_all(w);
	until(w, is_here, NULL);
	say_all(w);
	assert_false(within(w, 300, never, NULL));
	assert_int_equal(w->fake.starts, 2);
	assert_int_equal(told_of(w, 1)->phase, UM__PHASE__FAILED);
	assert_string_equal(told_of(w, 1)->reason, "it ended");
	assert_true(told_of(w, 1)->final);
	/* Another generation is another start. */
	w->guests[0].generation = 2;
	say_guests(w, false, 0, 1);
	until(w, is_ready, UID(1));
	assert_false(told_of(w, 1)->final);
}

static bool epoch_runs(struct world *w, void *epoch)
{
	struct kit_runner *r = fake_runner(&w->fake, 1);

	return r && r->alive && r->epoch == (uint64_t)(uintptr_t)epoch && is_ready(w, UID(1));
}

static void test_epochs(void **state)
{
	struct world *w = *state;

	(void)one(w);
	w->guests[0].epoch = 9;
	w->guests[0].generation = 7;
	say_guests(w, false, 0, 1);
	until_phase(w, UM__PHASE__FAILED); /* what is said of epoch 9 */
	assert_non_null(strstr(told_of(w, 1)->reason, "older than 10"));
	assert_int_equal(w->fake.stops, 0);
	w->guests[0].epoch = 11;
	w->guests[0].generation = 1;
	say_guests(w, false, 0, 1);
	until(w, epoch_runs, UID(11));
	assert_int_equal(w->fake.starts, 2);
	/* A removal under an old epoch is none. */
	{
		Um__Desired d = UM__DESIRED__INIT;
		Um__GuestRemove r = UM__GUEST_REMOVE__INIT, *list = &r;

		r.uid = 1;
		r.epoch = 10;
		d.removed = &list;
		d.n_removed = 1;
		say(w, &d);
		assert_false(within(w, 200, never, NULL));
		assert_true(is_ready(w, UID(1)));
		r.epoch = 11;
		say(w, &d);
		until(w, is_gone, UID(1));
	}
	/* The fence outlives the guest, and the agent. */
	restart_all(w);
	until(w, is_here, NULL);
	w->guests[0].epoch = 10;
	say_all(w);
	until_phase(w, UM__PHASE__FAILED);
	assert_non_null(strstr(told_of(w, 1)->reason, "older than 11"));
	assert_int_equal(w->fake.starts, 2);
}

static bool epoch_told(struct world *w, void *epoch)
{
	return told_of(w, 1)->epoch == (uint64_t)(uintptr_t)epoch;
}

/* What is told of an older epoch comes before what is told of the guest as it is, also in
 * one message: who hears it last believes it. */
static void test_refused_before(void **state)
{
	struct world *w = *state;

	until(w, is_here, NULL);
	want(w, 0)->run = false;
	say_all(w);
	until_phase(w, UM__PHASE__STOPPED);
	assert_false(within(w, 100, never, NULL));
	w->guests[0].epoch = 9;
	say_guests(w, false, 0, 1);
	w->guests[0].epoch = 11;
	say_guests(w, false, 0, 1);
	until(w, epoch_told, UID(11));
	assert_false(within(w, 100, never, NULL));
	assert_int_equal(told_of(w, 1)->epoch, 11);
	assert_int_equal(told_of(w, 1)->phase, UM__PHASE__STOPPED);
}

static bool folder_exists(struct world *w, const char *kind)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/%s/0000000000000001", w->config.state, kind);
	return access(path, F_OK) == 0;
}

static void test_removed(void **state)
{
	struct world *w = *state;

	(void)one(w);
	assert_true(folder_exists(w, "guests"));
	w->guest_count = 0;
	say_all(w); /* a full state without it */
	until(w, is_gone, UID(1));
	assert_false(folder_exists(w, "guests"));
	assert_int_equal(w->fake.forced, 1);
	assert_null(fake_runner(&w->fake, 1));
	/* What was never here is gone, too. */
	{
		Um__Desired d = UM__DESIRED__INIT;
		Um__GuestRemove r = UM__GUEST_REMOVE__INIT, *list = &r;

		r.uid = 5;
		r.epoch = 3;
		d.removed = &list;
		d.n_removed = 1;
		say(w, &d);
		until(w, is_gone, UID(5));
	}
}

static void say_removed(struct world *w, uint64_t epoch, bool keep, bool prune)
{
	Um__Desired d = UM__DESIRED__INIT;
	Um__GuestRemove r = UM__GUEST_REMOVE__INIT, *list = &r;

	r.uid = 1;
	r.epoch = epoch;
	r.keep_disk = keep;
	r.reason = (char *)(uintptr_t) "it went on elsewhere";
	d.removed = d.prune = &list;
	d.n_removed = !prune;
	d.n_prune = prune;
	say(w, &d);
}

static bool orphan_there(struct world *w, void *epoch)
{
	return w->orphan.there && w->orphan.epoch == (uint64_t)(uintptr_t)epoch;
}

static bool orphan_gone(struct world *w, void *arg)
{
	(void)arg;
	return w->orphan.gone;
}

static void read_disk(const struct world *w, char out[256])
{
	struct buf data;
	struct err err = ERR_INIT;

	buf_init(&data);
	assert_int_equal(fs_read(w->orphan.path, 4096, &data, &err), 0);
	(void)str_format(out, 256, "%.*s", (int)data.size, (const char *)data.data);
	buf_free(&data);
}

/* Its disk is kept, over restarts, and no guest takes it, until it is pruned. */
static void test_orphan(void **state)
{
	struct world *w = *state;
	struct imgstore_info info;
	char text[256], before[256], log[PATH_MAX];

	(void)one(w);
	(void)str_format(
		log, sizeof(log), "%s/guests/0000000000000001/console.log", w->config.state);
	assert_int_equal(fs_write_atomic(log, "said", 4, 0600, NULL), 0);
	say_removed(w, 10, true, false);
	until(w, is_gone, UID(1));
	/* At once: it runs elsewhere, under the same addresses. */
	assert_int_equal(w->fake.forced, 1);
	until(w, orphan_there, (void *)10);
	assert_false(folder_exists(w, "guests"));
	assert_int_equal(w->orphan.uid, 1);
	assert_true(w->orphan.bytes > 0);
	assert_string_equal(w->orphan.reason, "it went on elsewhere");
	assert_non_null(strstr(w->orphan.path, "/orphans/000000000000000a/cow"));
	assert_int_equal(access(w->orphan.base, R_OK), 0);
	read_disk(w, before);
	(void)str_format(
		log, sizeof(log), "%s/orphans/000000000000000a/console.log", w->config.state);
	assert_int_equal(access(log, R_OK), 0);
	/* Its base image is held by nobody else. */
	assert_int_equal(imgstore_info(w->agent->store, w->image, &info, NULL), 0);
	assert_int_equal(info.holds, 1);
	/* The guest is placed here again: from its image. */
	w->guests[0].epoch = 13;
	w->guests[0].disk_generation = 2;
	told_of(w, 1)->phase = 0;
	say_guests(w, false, 0, 1);
	until(w, is_ready, UID(1));
	assert_int_equal(w->fake.fresh, 2);
	memset(&w->orphan, 0, sizeof(w->orphan));
	restart_all(w);
	until(w, is_here, NULL);
	say_all(w);
	until(w, is_ready, UID(1));
	assert_true(orphan_there(w, (void *)10));
	read_disk(w, text);
	assert_string_equal(text, before);
	/* Another's epoch, and one that is not there. */
	say_removed(w, 11, false, true);
	until(w, orphan_gone, NULL);
	assert_int_equal(access(log, R_OK), 0);
	memset(&w->orphan, 0, sizeof(w->orphan));
	say_removed(w, 10, false, true);
	until(w, orphan_gone, NULL);
	assert_int_equal(w->orphan.epoch, 10);
	assert_int_equal(access(log, R_OK), -1);
	assert_true(folder_exists(w, "guests"));
	assert_int_equal(w->fake.starts, 2);
}

/* Lost and placed again where it was, and the scheduler says only that: the old disk is
 * set aside first. */
static void test_set_aside(void **state)
{
	struct world *w = *state;
	char before[256];

	(void)one(w);
	w->guests[0].epoch = 12;
	w->guests[0].disk_generation = 2;
	say_guests(w, false, 0, 1);
	until(w, orphan_there, (void *)10);
	until(w, is_gone, UID(1));
	read_disk(w, before);
	assert_non_null(strstr(before, "number 1"));
	/* Told again, as it says that nothing of the old one is left. */
	say_guests(w, false, 0, 1);
	until(w, is_ready, UID(1));
	assert_int_equal(w->fake.fresh, 2);
	assert_int_equal(told_of(w, 1)->epoch, 12);
}

/* One that has never been started leaves nothing to look into. */
static void test_orphan_unused(void **state)
{
	struct world *w = *state;

	until(w, is_here, NULL);
	(void)want(w, 0);
	w->guests[0].run = false;
	say_all(w);
	until_phase(w, UM__PHASE__STOPPED);
	say_removed(w, 10, true, false);
	until(w, is_gone, UID(1));
	assert_false(within(w, 100, never, NULL));
	assert_false(w->orphan.there);
	assert_false(folder_exists(w, "guests"));
}

/* Its ports go with a guest also when an agent before this one made them: a port that
 * stays would keep its address here after a move. */
static void test_ports_after_restart(void **state)
{
	struct world *w = *state;

	w->with_nics = true;
	(void)one(w);
	assert_int_equal(w->fake.ports[0], 1);
	w->guests[0].run = false;
	say_guests(w, false, 0, 1);
	until_phase(w, UM__PHASE__STOPPED);
	restart_all(w);
	until(w, is_here, NULL);
	w->guest_count = 0;
	say_all(w);
	until(w, is_gone, UID(1));
	assert_int_equal(w->fake.ports[0], 0);
}

static bool has_trouble(struct world *w, void *arg)
{
	(void)arg;
	return strstr(told_of(w, 1)->reason, "no more descriptors");
}

/* The agent ends when the port is made and the runner not started: nothing says that it is
 * there, and it goes with the guest all the same. */
static void test_ports_half_started(void **state)
{
	struct world *w = *state;

	w->with_nics = true;
	until(w, is_here, NULL);
	(void)want(w, 0);
	w->fake.fail_start = 1000;
	say_all(w);
	until(w, has_trouble, NULL);
	assert_int_equal(w->fake.ports[0], 1);
	restart_all(w);
	w->guest_count = 0;
	w->fake.fail_port = 1000; /* not again */
	until(w, is_here, NULL);
	say_all(w);
	until(w, is_gone, UID(1));
	assert_int_equal(w->fake.ports[0], 0);
}

static void test_agent_restart(void **state)
{
	struct world *w = *state;
	struct kit_runner *r = one(w);
	uint64_t started_at = r->started_at;
	struct told before = *told_of(w, 1);

	restart_all(w);
	until(w, is_here, NULL);
	say_all(w);
	until(w, is_ready, UID(1));
	assert_int_equal(w->fake.starts, 1);
	assert_int_equal(w->fake.adopts, 1);
	assert_int_equal(w->fake.stops, 0);
	assert_int_equal(told_of(w, 1)->started_at, started_at);
	assert_int_equal(told_of(w, 1)->restarts, before.restarts);
	assert_int_equal(told_of(w, 1)->epoch, before.epoch);
	/* It ended while the agent was away: restarted by policy, counted once. */
	loop_down(w);
	fake_end(r, 256 + 11, false);
	assert_false(r->alive);
	loop_up(w);
	agent_up(w);
	until(w, is_here, NULL);
	say_all(w);
	{
		uint32_t n = 1;

		until(w, restarted, &n);
	}
	assert_int_equal(w->fake.starts, 2);
	/* The count stays. */
	restart_all(w);
	until(w, is_here, NULL);
	assert_int_equal(told_of(w, 1)->restarts, 1);
}

/* The agent dies at each event of a start, a crash and a stop in turn: it always
 * gets there, and never starts a guest twice for one reason. */
static void test_dies_anywhere(void **state)
{
	struct world *w = *state;
	unsigned crashes = 0;

	for (unsigned k = 1; k < 40; k++) {
		size_t i = k % 32; /* another guest each time */
		void *uid = UID(i + 1);

		until(w, is_here, NULL);
		want(w, i)->epoch = 100 + k;
		w->guest_count = i + 1;
		w->fake.starts = 0;
		w->fake.crash_at = w->fake.events + k;
		say_guests(w, true, i, 1);
		if (w->hellos == 0)
			fail();
		/* What is waited for and the crash may come in one turn of the loop. */
		if (!within(w, KIT_MS, is_ready, uid) || w->fake.crashed) {
			assert_true(w->fake.crashed);
			crashes++;
			restart_all(w);
			until(w, is_here, NULL);
			say_guests(w, true, i, 1);
			until(w, is_ready, uid);
		}
		w->fake.crash_at = 0;
		assert_int_equal(w->fake.starts, 1);
		/* And away with it, dying on the way. */
		w->fake.crash_at = w->fake.events + (k % 12) + 1;
		say_guests(w, true, i, 0);
		if (!within(w, KIT_MS, is_gone, uid) || w->fake.crashed) {
			assert_true(w->fake.crashed);
			crashes++;
			restart_all(w);
			until(w, is_here, NULL);
			say_guests(w, true, i, 0);
			if (guests_find(w->agent->guests, i + 1))
				until(w, is_gone, uid);
		}
		w->fake.crash_at = 0;
		for (size_t n = 0; n < KIT_MAX; n++)
			assert_false(w->fake.runners[n].alive);
		told_of(w, i + 1)->phase = 0;
		told_of(w, i + 1)->gone = false;
	}
	assert_true(crashes > 10);
}

/* What needs no restart reaches the guest that runs, and counts at its next end. */
static void test_live_change(void **state)
{
	struct world *w = *state;
	uint32_t n = 1;

	until(w, is_here, NULL);
	want(w, 0)->spec->restart = UM__RESTART_POLICY__RESTART_NEVER;
	say_all(w);
	until(w, is_ready, UID(1));
	w->specs[0].restart = UM__RESTART_POLICY__RESTART_ALWAYS;
	say_guests(w, false, 0, 1);
	assert_false(within(w, 300, never, NULL));
	assert_int_equal(w->fake.stops, 0);
	assert_int_equal(w->fake.starts, 1);
	/* It holds also for the next agent. */
	restart_all(w);
	until(w, is_here, NULL);
	fake_end(fake_runner(&w->fake, 1), 1, false);
	until(w, restarted, &n);
	say_all(w);
	/* Back: now it stays ended; and is started when that is changed again. */
	w->specs[0].restart = UM__RESTART_POLICY__RESTART_NEVER;
	say_guests(w, false, 0, 1);
	assert_false(within(w, 300, never, NULL));
	fake_end(fake_runner(&w->fake, 1), 1, false);
	until_phase(w, UM__PHASE__FAILED);
	assert_false(within(w, 2300, never, NULL));
	assert_int_equal(w->fake.starts, 2);
	w->specs[0].restart = UM__RESTART_POLICY__RESTART_ALWAYS;
	say_guests(w, false, 0, 1);
	until(w, is_ready, UID(1));
	assert_int_equal(w->fake.fresh, 1);
}

static bool has_reason(struct world *w, void *text)
{
	return strstr(told_of(w, 1)->reason, text) != NULL;
}

static bool not_saved(struct world *w, void *arg)
{
	(void)arg;
	return guests_find(w->agent->guests, 1)->save_failed && told_of(w, 1)->generation == 0;
}

/* A new generation is told when it is on disk: a death of the agent before would bring the older
 * one back, with another size. */
static void test_durable_generation(void **state)
{
	struct world *w = *state;
	char spec[PATH_MAX], kept[PATH_MAX + 8];
	uint64_t generation = 2;

	until(w, is_here, NULL);
	(void)want(w, 0);
	w->guests[0].run = false;
	say_all(w);
	until_phase(w, UM__PHASE__STOPPED);
	assert_int_equal(told_of(w, 1)->generation, 1);
	(void)str_format(spec, sizeof(spec), "%s/guests/0000000000000001/spec.pb", w->config.state);
	(void)str_format(kept, sizeof(kept), "%s.kept", spec);
	assert_int_equal(rename(spec, kept), 0);
	assert_int_equal(mkdir(spec, 0700), 0); /* nothing can be renamed to it */
	w->guests[0].generation = generation;
	say_guests(w, false, 0, 1);
	until(w, not_saved, NULL);
	assert_int_equal(rmdir(spec), 0);
	w->guests[0].run = true;
	say_guests(w, false, 0, 1);
	until(w, generation_is, &generation);
}

static void test_troubles(void **state)
{
	struct world *w = *state;

	until(w, is_here, NULL);
	w->with_nics = true;
	(void)want(w, 0);
	w->fake.fail_disk = 1;
	w->fake.fail_port = 1;
	w->fake.fail_start = 1;
	say_all(w);
	until(w, has_reason, (void *)(uintptr_t) "disk: the disk is full; tried again");
	until(w, has_reason, (void *)(uintptr_t) "eth0: no bridge; tried again");
	until(w, has_reason, (void *)(uintptr_t) "no more descriptors; tried again");
	until(w, is_ready, UID(1));
	assert_int_equal(w->fake.starts, 1);
	assert_string_equal(told_of(w, 1)->reason, "");
}

static bool none_fetched(struct world *w, void *arg)
{
	(void)arg;
	return told_of(w, 1)->phase == UM__PHASE__FETCHING &&
	       strstr(told_of(w, 1)->reason, "image: artefact");
}

static void test_missing_image(void **state)
{
	struct world *w = *state;
	uint8_t nothing[MANIFEST_HASH] = {1};

	until(w, is_here, NULL);
	(void)want(w, 0);
	w->images[0].id.data = nothing;
	say_all(w);
	until(w, none_fetched, NULL);
	/* The lab is changed to an image that there is. */
	w->images[0].id.data = w->image;
	w->guests[0].generation = 2;
	say_guests(w, false, 0, 1);
	until(w, is_ready, UID(1));
}

static bool some_started(struct world *w, void *count)
{
	return w->fake.starts == (unsigned)(uintptr_t)count;
}

static bool all_said(struct world *w, void *arg)
{
	unsigned waiting = 0;

	(void)arg;
	for (uint64_t uid = 1; uid <= 6; uid++)
		waiting += strcmp(told_of(w, uid)->reason, "waiting for a boot slot") == 0;
	return waiting == 4;
}

static void test_boot_slots(void **state)
{
	struct world *w = *state;

	/* Two at once. */
	loop_down(w);
	w->config.boots = 2;
	w->fake.manual = true;
	loop_up(w);
	agent_up(w);
	until(w, is_here, NULL);
	for (size_t i = 0; i < 6; i++)
		(void)want(w, i);
	say_all(w);
	until(w, some_started, UID(2));
	until(w, all_said, NULL);
	for (unsigned done = 0; done < 6; done++) {
		for (uint64_t uid = 1; uid <= 6; uid++) {
			struct kit_runner *r = fake_runner(&w->fake, uid);

			if (r && r->phase == UM__PHASE__STARTING) {
				fake_run_up(r);
				until(w, is_ready, UID(uid));
				break;
			}
		}
	}
	assert_int_equal(w->fake.starts, 6);
	assert_int_equal(w->fake.starting_max, 2);
}

/* A runner that does not stop is killed in the end. */
static bool was_killed(struct world *w, void *arg)
{
	(void)arg;
	return w->fake.kills > 0;
}

static void test_deaf_runner(void **state)
{
	struct world *w = *state;

	(void)one(w);
	w->fake.deaf = true;
	w->guest_count = 0;
	say_all(w); /* by force: no time to end cleanly */
	until(w, was_killed, NULL);
	until(w, is_gone, UID(1));
}

#define T(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_start),
		T(test_stop_and_start),
		T(test_lease_ends_unseen),
		T(test_generations),
		T(test_crash_restarts),
		T(test_restart_policies),
		T(test_epochs),
		T(test_refused_before),
		T(test_removed),
		T(test_orphan),
		T(test_set_aside),
		T(test_orphan_unused),
		T(test_ports_after_restart),
		T(test_ports_half_started),
		T(test_agent_restart),
		T(test_dies_anywhere),
		T(test_live_change),
		T(test_durable_generation),
		T(test_troubles),
		T(test_missing_image),
		T(test_boot_slots),
		T(test_deaf_runner),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
