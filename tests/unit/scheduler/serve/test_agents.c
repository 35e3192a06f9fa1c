/* The serving loop and an agent that loses its connection at a bad moment. */
#include "scheduler/serve/serve_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

#include "lib/fs.h"
#include "lib/proc.h"
#include "tests/unit/unit.h"

#define WAIT_MS 20000

struct world {
	struct loop *loop;
	struct zctx *zctx;
	struct serve *serve;
	struct zsock *agent;
	struct loop_timer *check;
	uint64_t deadline, seq;
	uint64_t boot, instance; /* of the agent's machine, and its own */
	char dir[64], local[96];
	/* Of the last Desired. */
	unsigned welcomes, fulls, refusals, beats, lists;
	char refusal[ERR_MSG_SIZE];
	bool on_disk;
	uint64_t session, numbered;
	size_t networks, networks_gone;
	size_t guests, removed;
	uint64_t uid, epoch;
	bool (*done)(struct world *w);
	bool happened, up;
};

static void on_broken(void *arg, const struct err *err)
{
	(void)arg;
	fail_msg("the store broke: %s", err_msg(err));
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct world *w = arg;

	(void)sock;
	(void)peer;
	(void)bulk;
	(void)bulk_size;
	if (env->body_case == UM__ENVELOPE__BODY_AGENT_WELCOME) {
		w->welcomes++;
		w->seq = 0;
		w->session = env->agent_welcome->session;
	}
	w->refusals += env->body_case == UM__ENVELOPE__BODY_ERROR;
	if (env->body_case == UM__ENVELOPE__BODY_ERROR)
		(void)snprintf(w->refusal, sizeof(w->refusal), "%s", env->error->message);
	w->lists += env->body_case == UM__ENVELOPE__BODY_GET_REPLY;
	w->beats += env->body_case == UM__ENVELOPE__BODY_HEARTBEAT_REPLY;
	if (env->body_case != UM__ENVELOPE__BODY_DESIRED)
		return;
	if (w->seq)
		assert_int_equal(env->desired->seq, w->seq + 1);
	w->seq = env->desired->seq;
	w->fulls += env->desired->full && !env->desired->more;
	w->guests = env->desired->n_guests;
	w->removed = env->desired->n_removed;
	w->networks = env->desired->n_networks;
	w->networks_gone = env->desired->n_removed_vnis;
	if (w->guests) {
		w->uid = env->desired->guests[0]->uid;
		w->epoch = env->desired->guests[0]->epoch;
	}
	if (w->removed) {
		assert_int_equal(env->desired->removed[0]->uid, w->uid);
		assert_int_equal(env->desired->removed[0]->epoch, w->epoch);
	}
}

static void on_state(void *arg, struct zsock *sock, bool up, const char *detail)
{
	struct world *w = arg;

	(void)sock;
	(void)detail;
	w->up = up;
}

static void on_check(void *arg)
{
	struct world *w = arg;

	w->happened = w->done(w);
	if (w->happened || proc_mono_ms() > w->deadline)
		loop_stop(w->loop);
	else
		loop_timer_arm(w->check, 5);
}

static void until(struct world *w, bool (*done)(struct world *w))
{
	struct err err = ERR_INIT;

	w->done = done;
	w->deadline = proc_mono_ms() + WAIT_MS;
	loop_timer_arm(w->check, 0);
	unit_ok(loop_run(w->loop, &err), &err);
	assert_true(w->happened);
}

static void world_open(struct world *w)
{
	static const struct zsock_ops ops = {.on_message = on_message, .on_state = on_state};
	const struct zsock_config agent = {.type = ZSOCK_DEALER, .name = "agent"};
	struct serve_config config = {
		.state_dir = w->dir, .store = "memory:", .local = w->local, .on_broken = on_broken};
	struct err err = ERR_INIT;
	bool on_disk = w->on_disk;

	memset(w, 0, sizeof(*w));
	w->on_disk = on_disk;
	(void)str_copy(w->dir, sizeof(w->dir), "/tmp/umlaut-serve.XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	if (on_disk) {
		config.store = NULL;
		assert_int_equal(mount("none", w->dir, "tmpfs", 0, "size=40m"), 0);
	}
	(void)str_format(w->local, sizeof(w->local), "ipc://%s/sock", w->dir);
	unit_ok(loop_new(&w->loop, &err), &err);
	unit_ok(zctx_new(&w->zctx, &err), &err);
	unit_ok(serve_open(w->loop, &config, &w->serve, &err), &err);
	unit_ok(zsock_open(w->loop, w->zctx, &agent, &ops, w, &w->agent, &err), &err);
	unit_ok(zsock_connect(w->agent, w->local, &err), &err);
	unit_ok(loop_timer_open(w->loop, "check", on_check, w, &w->check, &err), &err);
}

static void world_close(struct world *w)
{
	struct err err = ERR_INIT;

	zsock_close(w->agent, 0);
	serve_close(w->serve);
	loop_timer_close(w->check);
	assert_int_equal(loop_free(w->loop), 0);
	zctx_free(w->zctx);
	if (w->on_disk)
		assert_int_equal(umount(w->dir), 0);
	unit_ok(fs_remove_tree(w->dir, &err), &err);
}

/* With the guest, when it was heard of. */
static void hello(struct world *w)
{
	Um__Envelope env = wire_env(7);
	Um__AgentHello m = UM__AGENT_HELLO__INIT;
	Um__HostFacts facts = UM__HOST_FACTS__INIT;
	Um__GuestObserved seen = UM__GUEST_OBSERVED__INIT, *list = &seen;
	struct err err = ERR_INIT;
	char host[] = "h1", vtep[] = "10.0.0.1";
	uint8_t boot_id[16] = {(uint8_t)(w->boot + 1)};

	facts.memory_bytes = 1ull << 30;
	facts.cpu_milli = 4000;
	facts.disk_bytes = facts.disk_free_bytes = 1ull << 40;
	facts.vtep = vtep;
	facts.underlay_mtu = 1500;
	m.host = host;
	m.instance = w->instance + 1;
	m.number = w->numbered;
	m.boot_id = (ProtobufCBinaryData){.len = sizeof(boot_id), .data = boot_id};
	m.facts = &facts;
	if (w->uid) {
		seen.uid = w->uid;
		seen.epoch = w->epoch;
		seen.phase = UM__PHASE__RUNNING;
		m.guests = &list;
		m.n_guests = 1;
	}
	env.body_case = UM__ENVELOPE__BODY_AGENT_HELLO;
	env.agent_hello = &m;
	unit_ok(zsock_send(w->agent, NULL, &env, NULL, 0, &err), &err);
}

/* A lab of one guest, as a user's apply makes it; images do not matter here. */
static void apply(struct world *w)
{
	Um__GroupSpec group = UM__GROUP_SPEC__INIT, *groups = &group;
	Um__GuestSpec guest = UM__GUEST_SPEC__INIT;
	Um__DeploymentSpec from = UM__DEPLOYMENT_SPEC__INIT;
	struct core_groupspec *g = calloc(1, sizeof(*g));
	struct core_apply apply = {.groups = g, .group_count = 1};
	struct core_plan plan = {0};
	struct err err = ERR_INIT;
	char lab[] = "lab", web[] = "web";

	assert_non_null(g);
	group.name = web;
	group.guest = &guest;
	from.name = lab;
	from.groups = &groups;
	from.n_groups = 1;
	unit_ok(labs_set(w->serve, wire_copy(&from.base), &err), &err);
	(void)str_copy(apply.name, sizeof(apply.name), lab);
	(void)str_copy(g->name, sizeof(g->name), web);
	g->memory = 64ull << 20;
	unit_ok(core_apply(w->serve->core, &apply, false, 1, &plan, &w->serve->out, &err), &err);
	commit_event(w->serve, NULL, NULL, NULL, 0);
	core_plan_free(&plan);
	free(g);
}

static bool is_up(struct world *w)
{
	return w->up;
}

static bool is_welcome(struct world *w)
{
	return w->welcomes && w->fulls == w->welcomes;
}

static bool has_guest(struct world *w)
{
	return w->guests == 1;
}

static bool is_told_to_remove(struct world *w)
{
	return w->removed == 1;
}

static bool second_full(struct world *w)
{
	return w->fulls == 2;
}

/* It has removed the guest just when the connection was lost, after its hello was
 * made: the whole state names the guest, so that it says once more that it is gone. */
static void test_removed_while_away(void **state)
{
	struct core_plan plan = {0};
	struct err err = ERR_INIT;
	struct world w = {0};

	(void)state;
	world_open(&w);
	until(&w, is_up);
	hello(&w);
	until(&w, is_welcome);
	apply(&w);
	until(&w, has_guest);
	unit_ok(core_delete(w.serve->core, "lab", false, 1, &plan, &w.serve->out, &err), &err);
	commit_event(w.serve, NULL, NULL, NULL, 0);
	core_plan_free(&plan);
	until(&w, is_told_to_remove);
	w.removed = 0;
	hello(&w);
	until(&w, second_full);
	assert_int_equal(w.guests, 0);
	assert_int_equal(w.removed, 1);
	world_close(&w);
}

static void beat(struct world *w, uint64_t desired, uint64_t observed)
{
	Um__Envelope env = wire_env(9);
	Um__Heartbeat m = UM__HEARTBEAT__INIT;
	struct err err = ERR_INIT;

	m.session = w->session;
	m.seq = 1;
	m.desired_seq = desired;
	m.observed_seq = observed;
	env.body_case = UM__ENVELOPE__BODY_HEARTBEAT;
	env.heartbeat = &m;
	unit_ok(zsock_send(w->agent, NULL, &env, NULL, 0, &err), &err);
}

static void report(struct world *w, uint64_t seq, Um__Phase phase)
{
	Um__Envelope env = wire_env(0);
	Um__Observed m = UM__OBSERVED__INIT;
	Um__GuestObserved seen = UM__GUEST_OBSERVED__INIT, *list = &seen;
	struct err err = ERR_INIT;

	seen.uid = w->uid;
	seen.epoch = w->epoch;
	seen.phase = phase;
	m.guests = &list;
	m.n_guests = 1;
	m.seq = seq;
	m.session = w->session;
	env.body_case = UM__ENVELOPE__BODY_OBSERVED;
	env.observed = &m;
	unit_ok(zsock_send(w->agent, NULL, &env, NULL, 0, &err), &err);
}

static bool is_refused(struct world *w)
{
	return w->refusals == 1;
}

static bool beat_again(struct world *w)
{
	return w->beats == 1;
}

static void until_beat(struct world *w, uint64_t desired, uint64_t observed)
{
	w->beats = 0;
	beat(w, desired, observed);
	until(w, beat_again);
}

static void one(struct world *w)
{
	world_open(w);
	until(w, is_up);
	hello(w);
	until(w, is_welcome);
	apply(w);
	until(w, has_guest);
}

/* A Desired that never came is noticed by the heartbeats; a slow agent that takes one
 * step after the other is left alone. */
static void test_desired_lost(void **state)
{
	struct world w = {0};

	(void)state;
	one(&w);
	until_beat(&w, 1, 0);
	until_beat(&w, 2, 0);
	until_beat(&w, 2, 0);
	assert_int_equal(w.fulls, 1);
	until_beat(&w, 1, 0); /* as if the guest had never been told */
	until_beat(&w, 1, 0);
	until_beat(&w, 1, 0);
	beat(&w, 1, 0);
	until(&w, second_full);
	assert_int_equal(w.guests, 1);
	world_close(&w);
}

/* A report that never came: the agent is sent to say hello, which tells everything.  Old
 * and repeated ones change nothing. */
static void test_report_lost(void **state)
{
	struct world w = {0};
	const struct core_guest *g;

	(void)state;
	one(&w);
	g = core_guest(w.serve->core, w.uid);
	report(&w, 1, UM__PHASE__STARTING);
	report(&w, 2, UM__PHASE__RUNNING);
	report(&w, 1, UM__PHASE__STARTING);
	until_beat(&w, 2, 2);
	assert_int_equal(g->phase, CORE_RUNNING);
	report(&w, 4, UM__PHASE__STOPPING);
	beat(&w, 2, 4);
	until(&w, is_refused);
	world_close(&w);
	one(&w);
	for (int i = 0; i < 2; i++)
		until_beat(&w, 2, 1);
	beat(&w, 2, 1);
	until(&w, is_refused);
	world_close(&w);
}

static bool has_guest_again(struct world *w)
{
	return w->guests == 1 && w->fulls == 2;
}

/* A hello that a newer one has overtaken says what is no longer so. */
static void test_old_hello(void **state)
{
	struct world w = {0};
	uint64_t uid;

	(void)state;
	one(&w);
	w.numbered = 2;
	hello(&w);
	until(&w, has_guest_again);
	uid = w.uid;
	w.numbered = 1;
	w.uid = 0;
	hello(&w);
	w.uid = uid;
	until_beat(&w, 1, 0);
	assert_int_equal(w.welcomes, 2);
	assert_int_equal(w.fulls, 2);
	world_close(&w);
}

/* The guest's NICs change: its host leaves the network and joins it, in one event. */
static void test_network_left_and_joined(void **state)
{
	struct core_groupspec *g = calloc(1, sizeof(*g));
	struct core_netspec lan = {.name = "lan"};
	struct core_apply lab = {
		.groups = g, .group_count = 1, .networks = &lan, .network_count = 1};
	struct core_plan plan = {0};
	struct err err = ERR_INIT;
	struct world w = {0};

	(void)state;
	assert_non_null(g);
	one(&w);
	(void)net_prefix_parse("10.1.0.0/24", &lan.prefix4, NULL);
	(void)str_copy(lab.name, sizeof(lab.name), "lab");
	(void)str_copy(g->name, sizeof(g->name), "web");
	(void)str_copy(g->nics[0].network, CORE_NAME, "lan");
	g->memory = 64ull << 20;
	g->nic_count = 1;
	for (int i = 0; i < 2; i++) {
		w.guests = w.networks = w.networks_gone = 0;
		(void)net_addr_parse(i ? "10.1.0.9" : "10.1.0.8", &g->nics[0].ip4, NULL);
		unit_ok(core_apply(w.serve->core, &lab, false, 1, &plan, &w.serve->out, &err),
			&err);
		commit_event(w.serve, NULL, NULL, NULL, 0);
		core_plan_free(&plan);
		memset(&plan, 0, sizeof(plan));
		until(&w, has_guest);
		assert_true(w.networks > 0);
		assert_int_equal(w.networks_gone, 0);
	}
	free(g);
	world_close(&w);
}

static void fill_up(const struct world *w)
{
	char path[128], block[4096] = "";
	int fd;

	(void)snprintf(path, sizeof(path), "%s/filler", w->dir);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	while (write(fd, block, sizeof(block)) > 0)
		;
	assert_int_equal(errno, ENOSPC);
	(void)close(fd);
}

static void make_room(const struct world *w)
{
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/filler", w->dir);
	assert_int_equal(unlink(path), 0);
}

static bool is_well(struct world *w)
{
	return store_health(w->serve->store, NULL) == STORE_WELL;
}

static bool is_listed(struct world *w)
{
	return w->lists > 0;
}

static bool is_welcome_again(struct world *w)
{
	return w->welcomes == 2;
}

static bool is_gone(struct world *w)
{
	return w->removed == 1;
}

static void ask_delete(struct world *w)
{
	Um__Envelope env = wire_env(11);
	Um__DeleteRequest m = UM__DELETE_REQUEST__INIT;
	struct err err = ERR_INIT;
	char lab[] = "lab";

	m.deployment = lab;
	env.body_case = UM__ENVELOPE__BODY_DELETE_REQUEST;
	env.delete_request = &m;
	unit_ok(zsock_send(w->agent, NULL, &env, NULL, 0, &err), &err);
}

static void ask_list(struct world *w)
{
	Um__Envelope env = wire_env(12);
	Um__GetRequest m = UM__GET_REQUEST__INIT;
	struct err err = ERR_INIT;

	m.kind = UM__KIND__KIND_GUESTS;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &m;
	unit_ok(zsock_send(w->agent, NULL, &env, NULL, 0, &err), &err);
}

/* The scheduler's disk is full: leases and lists go on, also for an agent that comes
 * back; changes are refused; what was reported meanwhile is asked for again. */
static void test_frozen(void **state)
{
	struct world w = {.on_disk = true};
	struct core_host *host;
	uint64_t seq = 0;

	(void)state;
	one(&w);
	for (unsigned i = 0; i < 500 && !w.serve->stuck; i++) {
		fill_up(&w);
		report(&w, ++seq, i % 2 ? UM__PHASE__RUNNING : UM__PHASE__STARTING);
		until_beat(&w, 2, seq);
	}
	assert_true(w.serve->stuck);
	assert_int_equal(w.refusals, 0);
	ask_delete(&w);
	until(&w, is_refused);
	assert_non_null(strstr(w.refusal, "this was not done: the scheduler has no room"));
	assert_non_null(strstr(w.refusal, "the disk is full"));
	assert_non_null(core_deployment(w.serve->core, "lab"));
	ask_list(&w);
	until(&w, is_listed);
	report(&w, seq + 2, UM__PHASE__RUNNING);
	for (int i = 0; i < 5; i++)
		until_beat(&w, 1, seq + 9);
	/* As after a restart of the scheduler. */
	host = (struct core_host *)(uintptr_t)core_host(w.serve->core, "h1");
	host->state = CORE_HOST_JOINING;
	w.numbered = 2;
	hello(&w);
	until(&w, is_welcome_again);
	until_beat(&w, 0, 0);
	assert_int_equal(w.refusals, 1);
	assert_int_equal(w.fulls, 1);
	/* One that was given up has no lease; its guests may be elsewhere. */
	host->state = CORE_HOST_LOST;
	w.refusals = 0;
	beat(&w, 0, 0);
	until(&w, is_refused);
	assert_non_null(strstr(w.refusal, "given up"));
	host->state = CORE_HOST_UP;
	make_room(&w);
	until(&w, is_well);
	assert_false(w.serve->stuck);
	w.refusals = 0;
	beat(&w, 0, 0);
	until(&w, is_refused);
	assert_non_null(strstr(w.refusal, "say hello again"));
	w.numbered = 3;
	w.guests = 0;
	hello(&w);
	until(&w, has_guest);
	ask_delete(&w);
	until(&w, is_gone);
	world_close(&w);
}

static bool is_answered(struct world *w)
{
	return w->refusals || w->welcomes;
}

/* A copy of a machine, with its key and its name: it is not let in while the other one is
 * heard.  An agent that is started again is at once, and so is a machine after a while. */
static void test_copy(void **state)
{
	struct world w = {.on_disk = false};
	uint64_t end;

	(void)state;
	world_open(&w);
	until(&w, is_up);
	hello(&w);
	until(&w, is_welcome);
	w.boot = w.instance = 1;
	hello(&w);
	until(&w, is_refused);
	assert_non_null(strstr(w.refusal, "another machine is host 'h1'"));
	assert_int_equal(w.welcomes, 1);
	w.boot = 0;
	w.instance = 2;
	w.welcomes = w.fulls = 0;
	hello(&w);
	until(&w, is_welcome);
	/* The machine was started again: heard when its old self is not any more. */
	w.boot = 1;
	w.instance = 3;
	w.welcomes = 0;
	end = proc_mono_ms() + WAIT_MS;
	while (!w.welcomes && proc_mono_ms() < end) {
		(void)poll(NULL, 0, 100);
		w.refusals = 0;
		hello(&w);
		until(&w, is_answered);
	}
	assert_int_equal(w.welcomes, 1);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_removed_while_away),
		cmocka_unit_test(test_desired_lost),
		cmocka_unit_test(test_report_lost),
		cmocka_unit_test(test_old_hello),
		cmocka_unit_test(test_copy),
		cmocka_unit_test(test_network_left_and_joined),
		cmocka_unit_test(test_frozen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
