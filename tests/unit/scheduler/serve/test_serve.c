/* The real serving loop over ipc, with a scripted agent and scripted clients, on the
 * memory store and on SQLite.
 *
 * LDFLAGS: -Wl,--wrap=store_txn
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <unistd.h>

#include "image/store.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/zsock.h"
#include "scheduler/serve/serve_int.h"

#define TEST_MS 20000
#define T(text) ((char *)(uintptr_t)(text))

/* A peer of the scheduler; what came in last, by kind. */
struct end {
	struct world *w;
	struct zsock *sock;
	Um__Envelope *last; /* but Desired and heartbeats */
	unsigned answers, desired, fulls, guests, removed;
	uint64_t seq, uid, epoch, generation, stream;
	Um__RestartPolicy restart;
	size_t nics;
	bool up;
	unsigned rows, deleted, synced, data;
};

struct world {
	char dir[64], endpoint[128];
	struct loop *loop;
	struct zctx *zctx;
	struct loop_timer *deadline;
	struct serve *serve;
	struct end agent, client;
	uint8_t image[CORE_ID], kernel[CORE_ID];
	uint64_t next_id, asked;
	bool waiting, broken, pausing;
	bool (*done)(struct world *w);
};

static const char *store_url; /* NULL: SQLite */

static void on_deadline(void *arg)
{
	struct world *w = arg;

	if (!w->pausing)
		fail_msg("the test took too long");
	w->waiting = false;
}

static void keep(struct end *e, const Um__Envelope *env)
{
	uint8_t *data = malloc(um__envelope__get_packed_size(env) + 1);
	size_t size = um__envelope__pack(env, data);

	if (e->last)
		um__envelope__free_unpacked(e->last, NULL);
	e->last = um__envelope__unpack(NULL, size, data);
	free(data);
}

static void on_desired(struct end *e, const Um__Desired *d)
{
	e->desired++;
	e->fulls += d->full && !d->more;
	e->seq = d->seq;
	e->guests += (unsigned)d->n_guests;
	e->removed += (unsigned)d->n_removed;
	for (size_t i = 0; i < d->n_guests; i++) {
		e->uid = d->guests[i]->uid;
		e->epoch = d->guests[i]->epoch;
		e->generation = d->guests[i]->generation;
		e->restart = d->guests[i]->spec->restart;
		e->nics = d->guests[i]->n_nics;
	}
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct end *e = arg;

	(void)sock;
	(void)peer;
	(void)bulk;
	(void)bulk_size;
	if (env->body_case == UM__ENVELOPE__BODY_DESIRED) {
		on_desired(e, env->desired);
	} else {
		if (env->body_case == UM__ENVELOPE__BODY_GET_REPLY) {
			e->rows += (unsigned)(env->get_reply->n_guests + env->get_reply->n_hosts);
			e->deleted += (unsigned)env->get_reply->n_deleted;
			e->synced += env->get_reply->synced ? 1 : 0;
		}
		if (env->body_case == UM__ENVELOPE__BODY_STREAM_OPEN)
			e->stream = env->id;
		e->data += env->body_case == UM__ENVELOPE__BODY_STREAM_DATA;
		e->answers++;
		keep(e, env);
	}
	if (e->w->done && e->w->done(e->w))
		e->w->waiting = false;
}

static void until(struct world *w, bool (*done)(struct world *w))
{
	w->done = done;
	w->waiting = !done(w);
	loop_timer_arm(w->deadline, TEST_MS);
	loop_run_while(w->loop, &w->waiting);
	w->done = NULL;
}

static void on_state(void *arg, struct zsock *sock, bool up, const char *detail)
{
	struct end *e = arg;

	(void)sock;
	(void)detail;
	e->up = up;
	e->w->waiting &= !up;
}

static void end_open(struct world *w, struct end *e)
{
	static const struct zsock_ops ops = {.on_message = on_message, .on_state = on_state};
	const struct zsock_config config = {.type = ZSOCK_DEALER, .name = "peer"};
	struct err err = ERR_INIT;

	*e = (struct end){.w = w};
	unit_ok(zsock_open(w->loop, w->zctx, &config, &ops, e, &e->sock, &err), &err);
	w->waiting = true;
	unit_ok(zsock_connect(e->sock, w->endpoint, &err), &err);
	loop_timer_arm(w->deadline, TEST_MS);
	loop_run_while(w->loop, &w->waiting);
	assert_true(e->up);
}

static void end_close(struct end *e)
{
	zsock_close(e->sock, 0);
	if (e->last)
		um__envelope__free_unpacked(e->last, NULL);
	*e = (struct end){.w = e->w};
}

static void send_on(struct end *e, Um__Envelope *env)
{
	struct err err = ERR_INIT;

	unit_ok(zsock_send(e->sock, NULL, env, NULL, 0, &err), &err);
}

static bool answered(struct world *w)
{
	return w->client.last && w->client.last->id == w->asked && !w->client.last->more;
}

/* Asks as the client and waits for the last answer. */
static const Um__Envelope *ask(struct world *w, Um__Envelope *env)
{
	env->id = w->asked = ++w->next_id;
	send_on(&w->client, env);
	until(w, answered);
	return w->client.last;
}

static void on_broken(void *arg, const struct err *err)
{
	struct world *w = arg;

	(void)err;
	w->broken = true;
	w->waiting = false;
}

static void serve_up(struct world *w)
{
	struct serve_config config = {.state_dir = w->dir,
		.store = store_url,
		.local = w->endpoint,
		.lease_ms = 60000,
		.on_broken = on_broken,
		.arg = w};
	struct err err = ERR_INIT;

	unit_ok(serve_open(w->loop, &config, &w->serve, &err), &err);
}

static void add_artefact(struct world *w, Um__ArtefactKind kind, const char *name, uint8_t *id)
{
	Um__ArtefactInfo *info = calloc(1, sizeof(*info));
	struct err err = ERR_INIT;
	struct arena a = {0};
	struct store_op op;
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", w->dir, name);
	unit_ok(fs_write_atomic(path, name, strlen(name), 0600, &err), &err);
	unit_ok(imgstore_add_file(w->serve->images, path, id, &err), &err);
	um__artefact_info__init(info);
	info->name = strdup(name);
	info->kind = kind;
	info->id.data = malloc(CORE_ID);
	info->id.len = CORE_ID;
	memcpy(info->id.data, id, CORE_ID);
	info->size = strlen(name);
	records_artefact(info, &a, &op);
	unit_ok(artefacts_put(w->serve, info, &err), &err);
	commit_event(w->serve, NULL, NULL, &op, 1);
	arena_free(&a);
}

static int setup(void **state)
{
	static const struct log_config quiet = {
		.program = "test", .instance = "", .level = LOG_ERROR, .fd = 2};
	struct world *w = calloc(1, sizeof(*w));
	struct err err = ERR_INIT;

	log_init(&quiet);
	assert_non_null(w);
	unit_dir_make(w->dir);
	w->next_id = UINT64_C(1) << 40; /* no byte flip makes one of them */
	(void)snprintf(w->endpoint, sizeof(w->endpoint), "ipc://%s/sock", w->dir);
	unit_ok(loop_new(&w->loop, &err), &err);
	unit_ok(zctx_new(&w->zctx, &err), &err);
	unit_ok(loop_timer_open(w->loop, "deadline", on_deadline, w, &w->deadline, &err), &err);
	serve_up(w);
	add_artefact(w, UM__ARTEFACT_KIND__ARTEFACT_IMAGE, "busybox", w->image);
	add_artefact(w, UM__ARTEFACT_KIND__ARTEFACT_KERNEL, "debian", w->kernel);
	end_open(w, &w->client);
	end_open(w, &w->agent);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	end_close(&w->client);
	end_close(&w->agent);
	serve_close(w->serve);
	loop_timer_close(w->deadline);
	assert_int_equal(loop_free(w->loop), 0);
	zctx_free(w->zctx);
	unit_dir_remove(w->dir);
	free(w);
	return 0;
}

/* ---------------------------------------------------------------- the script */

static bool told_all(struct world *w)
{
	return w->agent.fulls > 0;
}

static void hello(struct world *w, Um__GuestObserved *observed)
{
	Um__Envelope env = wire_env(7);
	Um__AgentHello h = UM__AGENT_HELLO__INIT;
	Um__HostFacts facts = UM__HOST_FACTS__INIT;

	facts.memory_bytes = 8ull << 30;
	facts.cpu_milli = 8000;
	facts.disk_bytes = facts.disk_free_bytes = 100ull << 30;
	facts.vtep = T("10.9.0.1");
	facts.underlay_mtu = 1500;
	h.host = T("h1");
	h.facts = &facts;
	h.guests = &observed;
	h.n_guests = observed != NULL;
	env.body_case = UM__ENVELOPE__BODY_AGENT_HELLO;
	env.agent_hello = &h;
	w->agent.fulls = 0;
	send_on(&w->agent, &env);
	until(w, told_all);
}

static void observe(struct world *w, bool gone)
{
	Um__Envelope env = wire_env(0);
	Um__Observed o = UM__OBSERVED__INIT;
	Um__GuestObserved g = UM__GUEST_OBSERVED__INIT, *list = &g;

	g.uid = w->agent.uid;
	g.epoch = w->agent.epoch;
	g.generation = w->agent.generation;
	g.disk_generation = 1;
	g.phase = gone ? UM__PHASE__STOPPED : UM__PHASE__RUNNING;
	g.ready = !gone;
	g.gone = gone;
	g.reason = T("");
	o.guests = &list;
	o.n_guests = 1;
	env.body_case = UM__ENVELOPE__BODY_OBSERVED;
	env.observed = &o;
	send_on(&w->agent, &env);
}

static void send_apply(struct world *w, Um__RestartPolicy restart, bool dry_run, bool wait)
{
	Um__Envelope env = wire_env(0);
	Um__ApplyRequest r = UM__APPLY_REQUEST__INIT;
	Um__DeploymentSpec d = UM__DEPLOYMENT_SPEC__INIT;
	Um__NetworkSpec net = UM__NETWORK_SPEC__INIT, *nets = &net;
	Um__GroupSpec group = UM__GROUP_SPEC__INIT, *groups = &group;
	Um__GuestSpec guest = UM__GUEST_SPEC__INIT;
	Um__NicSpec nic = UM__NIC_SPEC__INIT, *nics = &nic;

	d.name = T("lab");
	net.name = nic.network = T("net");
	net.subnet = T("10.1.0.0/24");
	group.name = T("web");
	group.guest = &guest;
	guest.image = T("busybox");
	guest.memory_bytes = 64 << 20;
	guest.cpu_milli = 100;
	guest.restart = restart;
	guest.nics = &nics;
	guest.n_nics = 1;
	d.networks = &nets;
	d.groups = &groups;
	d.n_networks = d.n_groups = 1;
	r.spec = &d;
	r.dry_run = dry_run;
	env.body_case = UM__ENVELOPE__BODY_APPLY_REQUEST;
	env.apply_request = &r;
	if (!wait) {
		env.id = w->asked = ++w->next_id;
		send_on(&w->client, &env);
		return;
	}
	(void)ask(w, &env);
	if (w->client.last->body_case != UM__ENVELOPE__BODY_PLAN)
		fail_msg("%s", w->client.last->error->message);
	assert_int_equal(w->client.last->plan->applied, !dry_run);
}

static const Um__GetReply *get_guests(struct world *w)
{
	Um__Envelope env = wire_env(0);
	Um__GetRequest r = UM__GET_REQUEST__INIT;

	r.kind = UM__KIND__KIND_GUESTS;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &r;
	(void)ask(w, &env);
	assert_int_equal(w->client.last->body_case, UM__ENVELOPE__BODY_GET_REPLY);
	return w->client.last->get_reply;
}

static bool told_guest(struct world *w)
{
	return w->agent.guests > 0;
}

/* A host, and one guest that runs there. */
static void one(struct world *w)
{
	hello(w, NULL);
	send_apply(w, UM__RESTART_POLICY__RESTART_ALWAYS, false, true);
	until(w, told_guest);
	observe(w, false);
	while (!get_guests(w)->guests[0]->ready)
		;
}

/* ---------------------------------------------------------------- tests */

static void test_apply(void **state)
{
	struct world *w = *state;
	const Um__GuestInfo *g;
	const Um__Plan *p;

	hello(w, NULL);
	send_apply(w, UM__RESTART_POLICY__RESTART_ALWAYS, true, true);
	p = w->client.last->plan;
	assert_int_equal(p->n_items, 2);
	assert_int_equal(get_guests(w)->n_guests, 0);
	assert_int_equal(w->agent.guests, 0);
	one(w);
	assert_int_equal(w->agent.nics, 1);
	g = get_guests(w)->guests[0];
	assert_string_equal(g->name, "lab/web");
	assert_string_equal(g->host, "h1");
	assert_string_equal(g->state, "running");
	send_apply(w, UM__RESTART_POLICY__RESTART_ALWAYS, false, true);
	assert_int_equal(w->client.last->plan->n_items, 0);
	assert_int_equal(w->client.last->plan->unchanged, 2);
	assert_int_equal(w->agent.guests, 1);
}

static bool told_never(struct world *w)
{
	return w->agent.restart == UM__RESTART_POLICY__RESTART_NEVER;
}

/* What needs no restart reaches the agent, with the same generation. */
static void test_live(void **state)
{
	struct world *w = *state;
	uint64_t generation;

	one(w);
	generation = w->agent.generation;
	send_apply(w, UM__RESTART_POLICY__RESTART_NEVER, false, true);
	until(w, told_never);
	assert_int_equal(w->agent.guests, 2);
	assert_int_equal(w->agent.generation, generation);
	assert_true(get_guests(w)->guests[0]->ready);
}

static bool synced(struct world *w)
{
	return w->client.synced > 0;
}

static bool told_removed(struct world *w)
{
	return w->agent.removed > 0;
}

static bool seen_deleted(struct world *w)
{
	return w->client.deleted > 0;
}

static void test_watch_and_delete(void **state)
{
	struct world *w = *state;
	Um__Envelope env = wire_env(4711);
	Um__GetRequest r = UM__GET_REQUEST__INIT;
	Um__DeleteRequest d = UM__DELETE_REQUEST__INIT;

	one(w);
	r.kind = UM__KIND__KIND_GUESTS;
	r.watch = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &r;
	send_on(&w->client, &env);
	until(w, synced);
	d.deployment = T("lab");
	env.body_case = UM__ENVELOPE__BODY_DELETE_REQUEST;
	env.delete_request = &d;
	env.id = ++w->next_id;
	send_on(&w->client, &env);
	until(w, told_removed);
	assert_int_equal(w->client.deleted, 0);
	observe(w, true);
	until(w, seen_deleted);
	assert_int_equal(get_guests(w)->n_guests, 0);
}

static bool stream_open(struct world *w)
{
	return w->agent.stream != 0;
}

static bool agent_credit(struct world *w)
{
	return w->agent.last && w->agent.last->body_case == UM__ENVELOPE__BODY_STREAM_CREDIT;
}

static bool client_data(struct world *w)
{
	return w->client.data > 0;
}

static bool client_end(struct world *w)
{
	return w->client.last && w->client.last->body_case == UM__ENVELOPE__BODY_STREAM_END;
}

static void test_exec(void **state)
{
	struct world *w = *state;
	Um__Envelope env = wire_env(99);
	Um__StreamOpen open = UM__STREAM_OPEN__INIT;
	Um__StreamCredit credit = UM__STREAM_CREDIT__INIT;
	Um__StreamData data = UM__STREAM_DATA__INIT;
	Um__StreamEnd end = UM__STREAM_END__INIT;

	one(w);
	open.guest = T("lab/web");
	env.body_case = UM__ENVELOPE__BODY_STREAM_OPEN;
	env.stream_open = &open;
	send_on(&w->client, &env);
	until(w, stream_open);
	assert_int_equal(w->agent.last->stream_open->uid, w->agent.uid);
	assert_int_equal(w->agent.last->stream_open->epoch, w->agent.epoch);
	credit.bytes = 5;
	env.body_case = UM__ENVELOPE__BODY_STREAM_CREDIT;
	env.stream_credit = &credit;
	send_on(&w->client, &env);
	until(w, agent_credit);
	assert_int_equal(w->agent.last->stream_credit->bytes, 5);
	env.id = w->agent.stream;
	data.channel = 1;
	data.data = (ProtobufCBinaryData){.len = 2, .data = (uint8_t *)T("hi")};
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &data;
	send_on(&w->agent, &env);
	until(w, client_data);
	assert_int_equal(w->client.last->id, 99);
	end.exit_status = 3;
	env.body_case = UM__ENVELOPE__BODY_STREAM_END;
	env.stream_end = &end;
	send_on(&w->agent, &env);
	until(w, client_end);
	assert_int_equal(w->client.last->stream_end->exit_status, 3);
	assert_null(w->serve->streams);
}

static bool resynced(struct world *w)
{
	return w->agent.fulls == 2;
}

static void test_resync(void **state)
{
	struct world *w = *state;
	Um__Envelope env = wire_env(0);
	Um__ResyncRequest r = UM__RESYNC_REQUEST__INIT;
	uint64_t seq;

	one(w);
	seq = w->agent.seq;
	env.body_case = UM__ENVELOPE__BODY_RESYNC_REQUEST;
	env.resync_request = &r;
	send_on(&w->agent, &env);
	until(w, resynced);
	assert_int_equal(w->agent.seq, seq + 1);
	assert_int_equal(w->agent.guests, 2);
}

static bool client_error(struct world *w)
{
	return w->client.last && w->client.last->body_case == UM__ENVELOPE__BODY_ERROR;
}

static void test_version(void **state)
{
	struct world *w = *state;
	Um__Envelope env = wire_env(5);
	Um__ClientHello h = UM__CLIENT_HELLO__INIT;
	uint8_t packed[256];
	struct err err = ERR_INIT;
	size_t size;

	env.body_case = UM__ENVELOPE__BODY_CLIENT_HELLO;
	env.client_hello = &h;
	env.major = WIRE_MAJOR + 1;
	size = um__envelope__pack(&env, packed);
	unit_ok(zsock_send_packed(w->client.sock, NULL, packed, size, NULL, 0, &err), &err);
	until(w, client_error);
	assert_int_equal(w->client.last->id, 5);
	assert_int_equal(w->client.last->error->code, UM__ERROR_CODE__PROTOCOL);
	/* 300 messages with a byte flipped: whatever they are, it goes on. */
	for (unsigned i = 0; i < 300; i++) {
		uint8_t bad[256];

		memcpy(bad, packed, size);
		bad[proc_random_u64() % size] ^= (uint8_t)(1 + proc_random_u64() % 255);
		unit_ok(zsock_send_packed(w->client.sock, NULL, bad, size, NULL, 0, &err), &err);
	}
	assert_int_equal(get_guests(w)->n_guests, 0);
}

/* All is as it was when the scheduler comes back, and the agent with its guest. */
static void test_restart(void **state)
{
	struct world *w = *state;
	Um__GuestObserved o = UM__GUEST_OBSERVED__INIT;
	uint64_t uid, epoch;

	one(w);
	uid = w->agent.uid;
	epoch = w->agent.epoch;
	end_close(&w->agent);
	end_close(&w->client);
	serve_close(w->serve);
	serve_up(w);
	end_open(w, &w->client);
	end_open(w, &w->agent);
	assert_int_equal(get_guests(w)->n_guests, 1);
	assert_int_equal(w->client.last->get_reply->guests[0]->uid, uid);
	o.uid = uid;
	o.epoch = epoch;
	o.generation = o.disk_generation = 1;
	o.phase = UM__PHASE__RUNNING;
	o.ready = true;
	o.reason = T("");
	hello(w, &o);
	until(w, told_guest);
	assert_int_equal(w->agent.uid, uid);
	assert_int_equal(w->agent.epoch, epoch);
	assert_int_equal(w->agent.removed, 0);
	assert_string_equal(get_guests(w)->guests[0]->state, "running");
	send_apply(w, UM__RESTART_POLICY__RESTART_ALWAYS, false, true);
	assert_int_equal(w->client.last->plan->n_items, 0);
}

static bool is_broken(struct world *w)
{
	return w->broken;
}

static bool fail_writes;
int __real_store_txn(struct store *store, const struct store_compare *compares,
	size_t compare_count, const struct store_op *ops, size_t op_count, store_done_fn *fn,
	void *arg, struct err *err);
int __wrap_store_txn(struct store *store, const struct store_compare *compares,
	size_t compare_count, const struct store_op *ops, size_t op_count, store_done_fn *fn,
	void *arg, struct err *err);

int __wrap_store_txn(struct store *store, const struct store_compare *compares,
	size_t compare_count, const struct store_op *ops, size_t op_count, store_done_fn *fn,
	void *arg, struct err *err)
{
	if (fail_writes)
		return err_set(err, -ENOSPC, "the disk is full");
	return __real_store_txn(store, compares, compare_count, ops, op_count, fn, arg, err);
}

/* No record, no action and no answer; nothing is taken any more. */
static void test_store_fails(void **state)
{
	struct world *w = *state;
	unsigned desired, answers;

	hello(w, NULL);
	desired = w->agent.desired;
	answers = w->client.answers;
	fail_writes = true;
	send_apply(w, UM__RESTART_POLICY__RESTART_ALWAYS, false, false);
	until(w, is_broken);
	fail_writes = false;
	send_apply(w, UM__RESTART_POLICY__RESTART_ALWAYS, false, false);
	/* Nothing is to come: time must pass. */
	w->waiting = w->pausing = true;
	loop_timer_arm(w->deadline, 300);
	loop_run_while(w->loop, &w->waiting);
	assert_int_equal(w->agent.desired, desired);
	assert_int_equal(w->client.answers, answers);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_apply),
		TEST(test_live),
		TEST(test_watch_and_delete),
		TEST(test_exec),
		TEST(test_resync),
		TEST(test_version),
		TEST(test_store_fails),
	};
	const struct CMUnitTest on_disk[] = {TEST(test_restart)};
	int failed;

	store_url = "memory:";
	failed = cmocka_run_group_tests_name("memory", tests, NULL, NULL);
	store_url = NULL;
	failed += cmocka_run_group_tests_name("sqlite", tests, NULL, NULL);
	return failed + cmocka_run_group_tests_name("sqlite, restarts", on_disk, NULL, NULL);
}
