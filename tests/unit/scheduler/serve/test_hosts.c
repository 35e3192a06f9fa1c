/* What becomes of hosts, as users and other agents are told: a host that is suspect, lost,
 * removed; what is fetched from whom; whose keys are good. */
#include "tests/unit/unit.h"

#include <errno.h>

#include "lib/log.h"
#include "lib/proc.h"
#include "lib/zsock.h"
#include "scheduler/core/drain.h"
#include "scheduler/serve/serve_int.h"

#define TEST_MS 20000
#define LEASE_MS 1000
#define T(text) ((char *)(uintptr_t)(text))
#define HOSTS 3

struct agent_end {
	struct world *w;
	struct zsock *sock;
	char name[8];
	uint64_t session, beats;
	bool silent, up;
	unsigned fulls, keys, key_lists; /* peer keys: in all, and whole lists of them */
	size_t last_keys;
};

struct world {
	char dir[64], endpoint[128];
	struct loop *loop;
	struct zctx *zctx;
	struct loop_timer *deadline, *beat;
	struct serve *serve;
	struct agent_end agents[HOSTS];
	struct zsock *client;
	Um__Envelope *last;
	uint64_t asked;
	char states[256]; /* of h1, as a watcher sees them */
	bool waiting, up;
	bool (*done)(struct world *w);
};

static void check_done(struct world *w)
{
	if (w->done && w->done(w))
		w->waiting = false;
}

static void on_deadline(void *arg)
{
	(void)arg;
	fail_msg("the test took too long");
}

static void on_agent(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct agent_end *a = arg;

	(void)sock;
	(void)peer;
	(void)bulk;
	(void)bulk_size;
	if (env->body_case == UM__ENVELOPE__BODY_AGENT_WELCOME)
		a->session = env->agent_welcome->session;
	if (env->body_case == UM__ENVELOPE__BODY_DESIRED) {
		const Um__Desired *d = env->desired;

		a->fulls += d->full && !d->more;
		a->keys += !d->full ? (unsigned)d->n_peer_keys : 0;
		a->key_lists += d->peers_full && !d->full;
		a->last_keys = d->peers_full ? d->n_peer_keys : a->last_keys;
	}
	check_done(a->w);
}

static void on_client(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct world *w = arg;
	uint8_t *data;
	size_t size;

	(void)sock;
	(void)peer;
	(void)bulk;
	(void)bulk_size;
	if (env->id == 1 && env->body_case == UM__ENVELOPE__BODY_GET_REPLY) {
		for (size_t i = 0; i < env->get_reply->n_hosts; i++)
			if (strcmp(env->get_reply->hosts[i]->name, "h1") == 0)
				(void)str_format(w->states + strlen(w->states),
					sizeof(w->states) - strlen(w->states), "%s ",
					env->get_reply->hosts[i]->state);
	} else {
		data = malloc(um__envelope__get_packed_size(env) + 1);
		size = um__envelope__pack(env, data);
		um__envelope__free_unpacked(w->last, NULL);
		w->last = um__envelope__unpack(NULL, size, data);
		free(data);
	}
	check_done(w);
}

static void on_up(void *arg, struct zsock *sock, bool up, const char *detail)
{
	(void)sock;
	(void)detail;
	*(bool *)arg = up;
}

static void on_agent_up(void *arg, struct zsock *sock, bool up, const char *detail)
{
	on_up(&((struct agent_end *)arg)->up, sock, up, detail);
}

static void on_client_up(void *arg, struct zsock *sock, bool up, const char *detail)
{
	on_up(&((struct world *)arg)->up, sock, up, detail);
}

static bool all_up(struct world *w)
{
	for (size_t i = 0; i < HOSTS; i++)
		if (!w->agents[i].up)
			return false;
	return w->up;
}

static void until(struct world *w, bool (*done)(struct world *w))
{
	w->done = done;
	w->waiting = !done(w);
	loop_timer_arm(w->deadline, TEST_MS);
	loop_run_while(w->loop, &w->waiting);
	w->done = NULL;
}

static void beat(void *arg)
{
	struct world *w = arg;

	for (size_t i = 0; i < HOSTS; i++) {
		struct agent_end *a = &w->agents[i];
		Um__Envelope env = wire_env(9);
		Um__Heartbeat h = UM__HEARTBEAT__INIT;

		if (!a->session || a->silent)
			continue;
		h.session = a->session;
		h.seq = ++a->beats;
		env.body_case = UM__ENVELOPE__BODY_HEARTBEAT;
		env.heartbeat = &h;
		(void)zsock_send(a->sock, NULL, &env, NULL, 0, NULL);
	}
	check_done(w);
	loop_timer_arm(w->beat, 20);
}

static bool all_told(struct world *w)
{
	for (size_t i = 0; i < HOSTS; i++)
		if (w->agents[i].session && !w->agents[i].fulls)
			return false;
	return true;
}

/* h1 and h3 have the artefact 0x77... */
static void hello(struct agent_end *a, size_t number)
{
	static const char *const vteps[] = {"10.9.0.1", "10.9.0.2", "10.9.0.3"};
	uint8_t id[CORE_ID], key[CURVE_KEY];
	ProtobufCBinaryData blob = {.len = sizeof(id), .data = id};
	Um__Envelope env = wire_env(7);
	Um__AgentHello h = UM__AGENT_HELLO__INIT;
	Um__HostFacts facts = UM__HOST_FACTS__INIT;

	memset(id, 0x77, sizeof(id));
	memset(key, (int)number + 1, sizeof(key));
	facts.memory_bytes = 8ull << 30;
	facts.cpu_milli = 8000;
	facts.disk_bytes = facts.disk_free_bytes = 100ull << 30;
	facts.vtep = T(vteps[number]);
	facts.underlay_mtu = 1500;
	facts.pubkey = (ProtobufCBinaryData){.len = sizeof(key), .data = key};
	facts.peer_endpoint = a->name;
	h.host = a->name;
	h.facts = &facts;
	h.blobs = &blob;
	h.n_blobs = number != 1;
	env.body_case = UM__ENVELOPE__BODY_AGENT_HELLO;
	env.agent_hello = &h;
	a->session = 1; /* until it is told */
	a->fulls = 0;
	assert_int_equal(zsock_send(a->sock, NULL, &env, NULL, 0, NULL), 0);
	until(a->w, all_told);
}

static bool is_answered(struct world *w)
{
	return w->last && w->last->id == w->asked;
}

static const Um__Envelope *ask(struct world *w, Um__Envelope *env)
{
	env->id = ++w->asked;
	assert_int_equal(zsock_send(w->client, NULL, env, NULL, 0, NULL), 0);
	until(w, is_answered);
	return w->last;
}

static const Um__Envelope *host_verb(
	struct world *w, Um__HostVerb verb, const char *a, const char *b, bool force)
{
	char *hosts[] = {T(a), T(b)};
	Um__Envelope env = wire_env(0);
	Um__HostAction r = UM__HOST_ACTION__INIT;

	r.hosts = hosts;
	r.n_hosts = b ? 2 : 1;
	r.verb = verb;
	r.force = force;
	env.body_case = UM__ENVELOPE__BODY_HOST_ACTION;
	env.host_action = &r;
	return ask(w, &env);
}

static int setup(void **state)
{
	static const struct zsock_ops agent_ops = {.on_message = on_agent, .on_state = on_agent_up};
	static const struct zsock_ops client_ops = {
		.on_message = on_client, .on_state = on_client_up};
	static const struct log_config quiet = {
		.program = "test", .instance = "", .level = LOG_ERROR, .fd = 2};
	const struct zsock_config config = {.type = ZSOCK_DEALER, .name = "peer"};
	struct world *w = calloc(1, sizeof(*w));
	struct serve_config sc = {.store = "memory:", .lease_ms = LEASE_MS};
	struct err err = ERR_INIT;

	assert_non_null(w);
	log_init(&quiet);
	unit_dir_make(w->dir);
	w->asked = 100;
	(void)snprintf(w->endpoint, sizeof(w->endpoint), "ipc://%s/sock", w->dir);
	sc.state_dir = w->dir;
	sc.local = w->endpoint;
	unit_ok(loop_new(&w->loop, &err), &err);
	unit_ok(zctx_new(&w->zctx, &err), &err);
	unit_ok(loop_timer_open(w->loop, "deadline", on_deadline, w, &w->deadline, &err), &err);
	unit_ok(loop_timer_open(w->loop, "beat", beat, w, &w->beat, &err), &err);
	unit_ok(serve_open(w->loop, &sc, &w->serve, &err), &err);
	unit_ok(zsock_open(w->loop, w->zctx, &config, &client_ops, w, &w->client, &err), &err);
	unit_ok(zsock_connect(w->client, w->endpoint, &err), &err);
	loop_timer_arm(w->beat, 20);
	for (size_t i = 0; i < HOSTS; i++) {
		struct agent_end *a = &w->agents[i];

		a->w = w;
		(void)snprintf(a->name, sizeof(a->name), "h%zu", i + 1);
		unit_ok(zsock_open(w->loop, w->zctx, &config, &agent_ops, a, &a->sock, &err), &err);
		unit_ok(zsock_connect(a->sock, w->endpoint, &err), &err);
	}
	until(w, all_up);
	for (size_t i = 0; i < HOSTS; i++)
		hello(&w->agents[i], i);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	um__envelope__free_unpacked(w->last, NULL);
	zsock_close(w->client, 0);
	for (size_t i = 0; i < HOSTS; i++)
		zsock_close(w->agents[i].sock, 0);
	serve_close(w->serve);
	loop_timer_close(w->deadline);
	loop_timer_close(w->beat);
	assert_int_equal(loop_free(w->loop), 0);
	zctx_free(w->zctx);
	unit_dir_remove(w->dir);
	free(w);
	return 0;
}

static bool is_released(struct world *w)
{
	const struct core_host *h = core_host(w->serve->core, "h1");

	return h && h->state == CORE_HOST_LOST && h->released;
}

static size_t sources(struct world *w, const char *of_h3_only)
{
	struct arena a = {0};
	uint8_t id[CORE_ID];
	Um__BlobRef *ref;
	size_t count;

	memset(id, 0x77, sizeof(id));
	ref = artefacts_ref(w->serve, id, "h2", &a);
	count = ref->n_sources;
	for (size_t i = 0; of_h3_only && i < count; i++)
		assert_string_equal(ref->sources[i]->endpoint, of_h3_only);
	arena_free(&a);
	return count;
}

/* Whoever is silent is no source of images: each try to fetch from it costs seconds. */
static void test_sources(void **state)
{
	struct world *w = *state;

	assert_int_equal(sources(w, NULL), 2);
	w->agents[0].silent = true;
	until(w, is_released);
	assert_int_equal(sources(w, "h3"), 1);
	/* And when it is back, what it says that it has. */
	w->agents[0].silent = false;
	hello(&w->agents[0], 0);
	assert_int_equal(sources(w, NULL), 2);
}

static bool lists_come(struct world *w)
{
	return w->agents[1].key_lists && w->agents[2].key_lists;
}

/* The other agents do not talk to one that was removed. */
static void test_removed_key(void **state)
{
	struct world *w = *state;

	w->agents[0].silent = true;
	until(w, is_released);
	assert_int_equal(host_verb(w, UM__HOST_VERB__HOST_REMOVE, "h1", NULL, true)->body_case,
		UM__ENVELOPE__BODY_OK);
	until(w, lists_come);
	assert_int_equal(w->agents[1].last_keys, 1);
	assert_int_equal(w->agents[2].last_keys, 1);
	assert_null(agents_by_host(w->serve, "h1"));
	w->agents[0].session = 0;
}

static bool h3_is_known(struct world *w)
{
	return w->agents[1].keys == 1;
}

/* A key that they know is not told to all others at each hello. */
static void test_known_key(void **state)
{
	struct world *w = *state;
	unsigned before;

	until(w, h3_is_known);
	before = w->agents[1].keys;
	hello(&w->agents[0], 0);
	hello(&w->agents[2], 2);
	assert_int_equal(w->agents[1].keys, before);
}

/* One that may not be removed keeps the others, and the keys of all, as they are. */
static void test_remove_two(void **state)
{
	struct world *w = *state;
	const Um__Envelope *e;

	w->agents[0].silent = true;
	until(w, is_released);
	e = host_verb(w, UM__HOST_VERB__HOST_REMOVE, "h1", "h2", true);
	assert_int_equal(e->body_case, UM__ENVELOPE__BODY_ERROR);
	assert_non_null(strstr(e->error->message, "h2 is up"));
	assert_non_null(core_host(w->serve->core, "h1"));
	e = host_verb(w, UM__HOST_VERB__HOST_REMOVE, "h1", "h1", true);
	assert_int_equal(e->body_case, UM__ENVELOPE__BODY_OK);
	assert_int_equal(e->ok->n_done, 1);
	assert_non_null(strstr(e->ok->done[0], "make sure that it is off"));
	assert_null(core_host(w->serve->core, "h1"));
	w->agents[0].session = 0;
}

static void test_cordon_says(void **state)
{
	struct world *w = *state;
	Um__Envelope env = wire_env(0);
	Um__DrainRequest drain = UM__DRAIN_REQUEST__INIT;
	struct err err = ERR_INIT;
	const Um__Envelope *e;

	e = host_verb(w, UM__HOST_VERB__HOST_CORDON, "h1", NULL, false);
	assert_non_null(strstr(e->ok->done[0], "h1 takes no more guests"));
	e = host_verb(w, UM__HOST_VERB__HOST_UNCORDON, "h1", NULL, false);
	assert_string_equal(e->ok->done[0], "h1 takes guests again");
	drain.host = T("h1");
	env.body_case = UM__ENVELOPE__BODY_DRAIN_REQUEST;
	env.drain_request = &drain;
	assert_int_equal(ask(w, &env)->body_case, UM__ENVELOPE__BODY_DRAIN_REPLY);
	/* As if guests were left. */
	((struct core_host *)(uintptr_t)core_host(w->serve->core, "h1"))->drain->ended_at = 0;
	e = host_verb(w, UM__HOST_VERB__HOST_UNCORDON, "h1", NULL, false);
	assert_string_equal(e->ok->done[0], "h1 takes guests again; its drain was cancelled");
	(void)err;
}

static bool seen_suspect(struct world *w)
{
	if (strstr(w->states, "suspect"))
		w->agents[0].silent = false;
	return strstr(w->states, "suspect up ") != NULL;
}

/* Who watches sees that a host is suspect, and that it was heard again. */
static void test_watch(void **state)
{
	struct world *w = *state;
	Um__Envelope env = wire_env(1);
	Um__GetRequest r = UM__GET_REQUEST__INIT;

	r.kind = UM__KIND__KIND_HOSTS;
	r.watch = true;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &r;
	assert_int_equal(zsock_send(w->client, NULL, &env, NULL, 0, NULL), 0);
	w->agents[0].silent = true;
	until(w, seen_suspect);
}

static const Um__Envelope *recover_from(struct world *w, const char *name, const char *host)
{
	char *guests[] = {T(name)};
	Um__Envelope env = wire_env(0);
	Um__GuestAction r = UM__GUEST_ACTION__INIT;

	r.guests = guests;
	r.n_guests = 1;
	r.verb = UM__GUEST_VERB__GUEST_RECOVER;
	r.host = T(host);
	env.body_case = UM__ENVELOPE__BODY_GUEST_ACTION;
	env.guest_action = &r;
	return ask(w, &env);
}

static const Um__Envelope *recover(struct world *w, const char *name)
{
	return recover_from(w, name, "");
}

static void make_lab(struct world *w)
{
	struct core_groupspec groups[2] = {
		{.memory = 64 << 20, .cpu = 100, .on_loss = CORE_LOSS_WAIT}};
	const struct core_apply apply = {.name = "lab", .groups = groups, .group_count = 2};
	struct core_plan plan = {0};
	struct err err = ERR_INIT;

	(void)str_copy(groups[0].name, CORE_NAME, "web");
	(void)str_copy(groups[0].host, CORE_NAME, "h1");
	groups[1] = groups[0];
	(void)str_copy(groups[1].name, CORE_NAME, "db");
	(void)str_copy(groups[1].host, CORE_NAME, "h2");
	unit_ok(core_apply(w->serve->core, &apply, false, 1, &plan, &w->serve->out, &err), &err);
	core_plan_free(&plan);
	core_out_reset(&w->serve->out); /* no agent needs to hear of it */
}

/* All of a lab: what was done is said, and nothing done is a failure. */
static void test_recover(void **state)
{
	struct world *w = *state;
	const Um__Envelope *e;

	make_lab(w);
	e = recover(w, "lab/*");
	assert_int_equal(e->body_case, UM__ENVELOPE__BODY_ERROR);
	assert_non_null(strstr(e->error->message, "no guest of 'lab' is on a lost host"));
	assert_int_equal(recover(w, "none/*")->body_case, UM__ENVELOPE__BODY_ERROR);
	w->agents[0].silent = true;
	until(w, is_released);
	e = recover(w, "lab/*");
	assert_int_equal(e->body_case, UM__ENVELOPE__BODY_OK);
	assert_int_equal(e->ok->n_done, 2);
	assert_non_null(strstr(e->ok->done[0], "lab/web starts elsewhere, from its image; make "
					       "sure that h1 is off"));
	assert_non_null(strstr(e->ok->done[1], "1 others of 'lab'"));
	assert_int_equal(e->ok->n_failed, 0);
}

static void refused(const Um__Envelope *e, const char *text)
{
	assert_int_equal(e->body_case, UM__ENVELOPE__BODY_ERROR);
	if (!strstr(e->error->message, text))
		fail_msg("'%s' does not say '%s'", e->error->message, text);
}

/* The user knows one host to be off: a guest that is on another is not recovered. */
static void test_recover_from(void **state)
{
	struct world *w = *state;
	const Um__Envelope *e;

	make_lab(w);
	w->agents[0].silent = true;
	until(w, is_released);
	refused(recover_from(w, "lab/web", "h2"), "guest lab/web is on host h1, not on h2");
	refused(recover_from(w, "lab/*", "h2"), "no guest of 'lab' is on the lost host h2");
	refused(recover_from(w, "lab/web", "h9"), "no host 'h9'");
	e = recover_from(w, "lab/*", "h1");
	assert_int_equal(e->body_case, UM__ENVELOPE__BODY_OK);
	assert_non_null(strstr(e->ok->done[0], "lab/web starts elsewhere"));
	assert_non_null(strstr(e->ok->done[1], "1 others of 'lab' are not on the lost host h1"));
	refused(recover_from(w, "lab/web", "h1"), "guest lab/web is on no host, not on h1");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_sources),
		TEST(test_removed_key),
		TEST(test_known_key),
		TEST(test_remove_two),
		TEST(test_cordon_says),
		TEST(test_watch),
		TEST(test_recover),
		TEST(test_recover_from),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
