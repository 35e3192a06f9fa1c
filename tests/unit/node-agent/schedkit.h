/* A small scheduler for the tests of the agent: it lets hosts in, says what is
 * wanted, serves artefacts, and remembers what it is told. */
#ifndef UMLAUT_TESTS_UNIT_NODE_AGENT_SCHEDKIT_H
#define UMLAUT_TESTS_UNIT_NODE_AGENT_SCHEDKIT_H

#include "tests/unit/node-agent/agentkit.h"

/* What was said of a guest last. */
struct told {
	uint64_t uid, epoch, generation, disk_generation, started_at;
	Um__Phase phase;
	bool ready, gone, final;
	char reason[256];
	uint32_t restarts;
	int exit_status;
	unsigned count;
};

struct world {
	char dir[64];
	struct loop *loop;
	struct zctx *zctx;
	struct loop_timer *check;
	struct fake fake;
	struct agentconf config;
	struct agent *agent;
	/* The scheduler. */
	struct zsock *router;
	struct imgstore *store;
	struct imgserve *serve;
	struct curve_zap *zap;
	struct curve_pair keys, join, agent_key;
	bool curve, know_agent, mute;
	bool removed;	    /* the host was given up: it is told so */
	bool late;	    /* heartbeats are not answered yet */
	uint64_t late_beat; /* the last of those */
	uint32_t lease_ms;
	struct zpeer peer; /* the agent */
	bool here;	   /* it said hello */
	uint64_t seq;
	unsigned hellos, beats, resyncs, joins, chunks, refusals;
	struct told told[KIT_MAX];
	uint8_t image[MANIFEST_HASH], kernel[MANIFEST_HASH], image2[MANIFEST_HASH];
	unsigned blobs_added, orphan_reports;
	struct kit_orphan {
		uint64_t uid, epoch, bytes;
		char reason[128], path[PATH_MAX], base[PATH_MAX];
		bool there, gone;
	} orphan; /* the one that was told of last */
	/* The wanted state. */
	Um__GuestAssign guests[KIT_MAX];
	Um__GuestSpec specs[KIT_MAX];
	Um__BlobRef images[KIT_MAX], kernels[KIT_MAX];
	Um__Nic nics[KIT_MAX], *nic_lists[KIT_MAX][1];
	uint8_t macs[KIT_MAX][6], ips[KIT_MAX][4];
	char names[KIT_MAX][32];
	size_t guest_count;
	size_t said_from, said_count; /* of the guests, what the whole state has */
	bool with_nics;
	/* Streams. */
	unsigned opened, ended, data_bytes;
	char stream_error[256], stream_text[256];
	/* until() */
	bool (*done)(struct world *w, void *arg);
	void *done_arg;
	uint64_t deadline;
	bool happened;
};

static inline struct told *told_of(struct world *w, uint64_t uid)
{
	struct told *free_one = NULL;

	for (size_t i = 0; i < KIT_MAX; i++) {
		if (w->told[i].uid == uid)
			return &w->told[i];
		if (!w->told[i].uid && !free_one)
			free_one = &w->told[i];
	}
	assert_non_null(free_one);
	free_one->uid = uid;
	return free_one;
}

static inline void sched_observe(struct world *w, const Um__GuestObserved *o)
{
	struct told *t = told_of(w, o->uid);

	*t = (struct told){.uid = o->uid,
		.epoch = o->epoch,
		.generation = o->generation,
		.disk_generation = o->disk_generation,
		.phase = o->phase,
		.ready = o->ready,
		.gone = o->gone,
		.final = o->final,
		.restarts = o->restarts,
		.exit_status = o->exit_status,
		.started_at = o->started_at,
		.count = t->count + 1};
	(void)snprintf(t->reason, sizeof(t->reason), "%s", o->reason);
	fake_event(&w->fake);
}

static inline void sched_send(struct world *w, Um__Envelope *env)
{
	struct err err = ERR_INIT;

	if (zsock_send(w->router, &w->peer, env, NULL, 0, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

static inline void sched_orphans(struct world *w, Um__OrphanDisk **list, size_t count, bool all)
{
	if (all)
		w->orphan.there = false;
	w->orphan_reports += count > 0;
	for (size_t i = 0; i < count; i++) {
		w->orphan = (struct kit_orphan){.uid = list[i]->uid,
			.epoch = list[i]->epoch,
			.bytes = list[i]->cow_bytes,
			.there = !list[i]->gone,
			.gone = list[i]->gone};
		(void)str_format(w->orphan.reason, sizeof(w->orphan.reason), "%s", list[i]->reason);
		(void)str_format(w->orphan.path, sizeof(w->orphan.path), "%s", list[i]->path);
		(void)str_format(w->orphan.base, sizeof(w->orphan.base), "%s", list[i]->base_path);
	}
}

static inline void say_guests(struct world *w, bool full, size_t from, size_t count);

/* An agent that says hello again by itself (no answer came within its lease of 300 ms, as
 * when the machine is busy) is told the whole state again, as the test said it last; after a
 * restart the test does. */
static inline void sched_welcome(struct world *w, const Um__Envelope *env)
{
	Um__Envelope out = wire_env(env->id);
	Um__AgentWelcome welcome = UM__AGENT_WELCOME__INIT;
	Um__Error error = UM__ERROR__INIT;
	bool again = w->here && w->seq > 0;

	if (w->removed) {
		error.code = UM__ERROR_CODE__REMOVED;
		error.message = (char *)(uintptr_t) "this host was given up";
		out.body_case = UM__ENVELOPE__BODY_ERROR;
		out.error = &error;
		w->refusals++;
		sched_send(w, &out);
		return;
	}
	w->hellos++;
	w->here = true;
	w->seq = 0;
	for (size_t i = 0; i < env->agent_hello->n_guests; i++)
		sched_observe(w, env->agent_hello->guests[i]);
	sched_orphans(w, env->agent_hello->orphans, env->agent_hello->n_orphans, true);
	assert_string_equal(env->agent_hello->host, "h1");
	assert_non_null(env->agent_hello->facts);
	welcome.cluster_id = (char *)(uintptr_t) "test-cluster";
	welcome.session = w->hellos;
	welcome.heartbeat_ms = 50;
	welcome.lease_ms = w->lease_ms;
	out.body_case = UM__ENVELOPE__BODY_AGENT_WELCOME;
	out.agent_welcome = &welcome;
	sched_send(w, &out);
	if (again)
		say_guests(w, true, w->said_from, w->said_count);
}

static inline void sched_beat(struct world *w, const Um__Envelope *env)
{
	Um__Envelope out = wire_env(env->id);
	Um__HeartbeatReply reply = UM__HEARTBEAT_REPLY__INIT;
	Um__Error error = UM__ERROR__INIT;

	w->beats++;
	if (w->late) {
		w->late_beat = env->heartbeat->seq;
		return;
	}
	if (env->heartbeat->session != w->hellos || !w->here) {
		error.code = UM__ERROR_CODE__CONFLICT;
		error.message = (char *)(uintptr_t) "say hello";
		out.body_case = UM__ENVELOPE__BODY_ERROR;
		out.error = &error;
	} else {
		reply.seq = env->heartbeat->seq;
		reply.lease_ms = w->lease_ms;
		out.body_case = UM__ENVELOPE__BODY_HEARTBEAT_REPLY;
		out.heartbeat_reply = &reply;
	}
	sched_send(w, &out);
}

static inline void sched_join(struct world *w, const Um__Envelope *env)
{
	Um__Envelope out = wire_env(env->id);
	Um__JoinReply reply = UM__JOIN_REPLY__INIT;

	w->joins++;
	assert_int_equal(env->join_request->pubkey.len, CURVE_KEY);
	memcpy(w->agent_key.public_key, env->join_request->pubkey.data, CURVE_KEY);
	w->know_agent = true;
	reply.cluster_id = (char *)(uintptr_t) "test-cluster";
	out.body_case = UM__ENVELOPE__BODY_JOIN_REPLY;
	out.join_reply = &reply;
	sched_send(w, &out);
}

static inline void sched_stream(struct world *w, const Um__Envelope *env)
{
	if (env->body_case == UM__ENVELOPE__BODY_STREAM_OPENED)
		w->opened++;
	if (env->body_case == UM__ENVELOPE__BODY_STREAM_DATA) {
		size_t n = env->stream_data->data.len, at = strlen(w->stream_text);

		w->data_bytes += (unsigned)n;
		if (at + n < sizeof(w->stream_text)) {
			memcpy(w->stream_text + at, env->stream_data->data.data, n);
			w->stream_text[at + n] = '\0';
		}
	}
	if (env->body_case == UM__ENVELOPE__BODY_STREAM_END) {
		w->ended++;
		(void)snprintf(w->stream_error, sizeof(w->stream_error), "%s",
			env->stream_end->error ? env->stream_end->error->message : "");
	}
}

static inline void sched_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct world *w = arg;

	(void)bulk;
	(void)bulk_size;
	if (w->mute)
		return;
	w->peer = *peer;
	w->chunks += env->body_case == UM__ENVELOPE__BODY_CHUNK_GET;
	if (imgserve_message(w->serve, sock, peer, env))
		return;
	switch ((int)env->body_case) {
	case UM__ENVELOPE__BODY_AGENT_HELLO:
		sched_welcome(w, env);
		break;
	case UM__ENVELOPE__BODY_HEARTBEAT:
		sched_beat(w, env);
		break;
	case UM__ENVELOPE__BODY_JOIN_REQUEST:
		sched_join(w, env);
		break;
	case UM__ENVELOPE__BODY_OBSERVED:
		for (size_t i = 0; i < env->observed->n_guests; i++)
			sched_observe(w, env->observed->guests[i]);
		sched_orphans(w, env->observed->orphans, env->observed->n_orphans, false);
		w->blobs_added += (unsigned)env->observed->n_blobs_added;
		break;
	case UM__ENVELOPE__BODY_RESYNC_REQUEST:
		w->resyncs++;
		break;
	default:
		sched_stream(w, env);
	}
}

/* ---------------------------------------------------------------- what is wanted */

/* Guest I (uid I + 1), running, with defaults; change it, then say it. */
static inline Um__GuestAssign *want(struct world *w, size_t i)
{
	Um__GuestAssign *g = &w->guests[i];

	um__guest_assign__init(g);
	um__guest_spec__init(&w->specs[i]);
	um__blob_ref__init(&w->images[i]);
	um__blob_ref__init(&w->kernels[i]);
	um__nic__init(&w->nics[i]);
	(void)snprintf(w->names[i], sizeof(w->names[i]), "lab/g-%zu", i);
	w->images[i].id = (ProtobufCBinaryData){.len = MANIFEST_HASH, .data = w->image};
	w->kernels[i].id = (ProtobufCBinaryData){.len = MANIFEST_HASH, .data = w->kernel};
	w->specs[i].memory_bytes = 64 << 20;
	g->uid = i + 1;
	g->name = w->names[i];
	g->epoch = 10;
	g->generation = g->disk_generation = 1;
	g->run = true;
	g->spec = &w->specs[i];
	g->image = &w->images[i];
	g->kernel = &w->kernels[i];
	memcpy(w->macs[i], (uint8_t[]){2, 0, 0, 0, 0, (uint8_t)i}, 6);
	memcpy(w->ips[i], (uint8_t[]){10, 0, 0, (uint8_t)(i + 1)}, 4);
	w->nics[i].vni = 77;
	w->nics[i].mac = (ProtobufCBinaryData){.len = 6, .data = w->macs[i]};
	w->nics[i].ip4 = (ProtobufCBinaryData){.len = 4, .data = w->ips[i]};
	w->nics[i].prefix4 = 24;
	w->nics[i].mtu = 1450;
	w->nics[i].network = (char *)(uintptr_t) "net";
	w->nic_lists[i][0] = &w->nics[i];
	if (w->with_nics) {
		g->nics = w->nic_lists[i];
		g->n_nics = 1;
	}
	if (i >= w->guest_count)
		w->guest_count = i + 1;
	return g;
}

static inline void say(struct world *w, Um__Desired *d)
{
	Um__Envelope env = wire_env(0);

	d->seq = ++w->seq;
	env.body_case = UM__ENVELOPE__BODY_DESIRED;
	env.desired = d;
	sched_send(w, &env);
}

/* Members: every guest of the wanted ones, of network 77. */
static inline void say_guests(struct world *w, bool full, size_t from, size_t count)
{
	Um__Desired d = UM__DESIRED__INIT;
	Um__GuestAssign *list[KIT_MAX];
	Um__NetState net = UM__NET_STATE__INIT, *nets = &net;
	Um__NetMember members[KIT_MAX], *member_list[KIT_MAX];

	for (size_t i = 0; i < count; i++)
		list[i] = &w->guests[from + i];
	if (full || !w->said_count) {
		w->said_from = from;
		w->said_count = count;
	} else if (from + count > w->said_from + w->said_count) {
		w->said_count = from + count - w->said_from;
	}
	d.full = full;
	d.guests = list;
	d.n_guests = count;
	if (w->with_nics && full) {
		net.vni = 77;
		net.name = (char *)(uintptr_t) "lab/net";
		net.mtu = 1450;
		net.full = true;
		for (size_t i = 0; i < count; i++) {
			um__net_member__init(&members[i]);
			members[i].mac = w->nics[from + i].mac;
			members[i].ip4 = w->nics[from + i].ip4;
			members[i].name = w->names[from + i] + 4;
			members[i].uid = from + i + 1;
			member_list[i] = &members[i];
		}
		net.members = member_list;
		net.n_members = count;
		d.networks = &nets;
		d.n_networks = 1;
	}
	say(w, &d);
}

static inline void say_all(struct world *w)
{
	say_guests(w, true, 0, w->guest_count);
}

/* ---------------------------------------------------------------- waiting */

static inline void until_check(void *arg)
{
	struct world *w = arg;

	w->happened = w->done(w, w->done_arg);
	if (w->happened || proc_mono_ms() > w->deadline || w->fake.crashed)
		loop_stop(w->loop);
	else
		loop_timer_arm(w->check, 3);
}

/* Runs the loop until DONE says so; false after MS (or when the driver crashed). */
static inline bool within(
	struct world *w, uint64_t ms, bool (*done)(struct world *w, void *arg), void *arg)
{
	struct err err = ERR_INIT;

	w->done = done;
	w->done_arg = arg;
	w->deadline = proc_mono_ms() + ms;
	loop_timer_arm(w->check, 0);
	assert_int_equal(loop_run(w->loop, &err), 0);
	loop_timer_disarm(w->check);
	return w->happened;
}

#define until(w, done, arg)                                                               \
	do {                                                                              \
		if (!within(w, KIT_MS, done, arg))                                        \
			fail_msg("%s:%d: did not happen: %s", __FILE__, __LINE__, #done); \
	} while (0)

static inline bool is_here(struct world *w, void *arg)
{
	(void)arg;
	return w->here;
}

static inline bool is_ready(struct world *w, void *uid)
{
	struct told *t = told_of(w, (uint64_t)(uintptr_t)uid);

	return t->phase == UM__PHASE__RUNNING && t->ready;
}

static inline bool is_gone(struct world *w, void *uid)
{
	return told_of(w, (uint64_t)(uintptr_t)uid)->gone;
}

static inline bool never(struct world *w, void *arg)
{
	(void)w;
	(void)arg;
	return false;
}

#define UID(n) ((void *)(uintptr_t)(n))

/* ---------------------------------------------------------------- the world */

static inline void add_artefact(struct world *w, uint8_t id[MANIFEST_HASH])
{
	char path[PATH_MAX];
	uint8_t data[5000];
	struct err err = ERR_INIT;

	proc_random(data, sizeof(data));
	(void)snprintf(path, sizeof(path), "%s/artefact", w->dir);
	assert_int_equal(fs_write_atomic(path, data, sizeof(data), 0644, &err), 0);
	if (imgstore_add_file(w->store, path, id, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

static inline int sched_allow(
	void *arg, const uint8_t pubkey[CURVE_KEY], const char *address, char user[64])
{
	struct world *w = arg;

	(void)address;
	(void)str_copy(user, 64, "somebody");
	if (memcmp(pubkey, w->join.public_key, CURVE_KEY) == 0)
		return 0;
	return w->know_agent && memcmp(pubkey, w->agent_key.public_key, CURVE_KEY) == 0 ? 0
											: -EACCES;
}

static inline void sched_open(struct world *w)
{
	static const struct zsock_ops ops = {.on_message = sched_message};
	struct zsock_config config = {.type = ZSOCK_ROUTER, .name = "scheduler"};
	char endpoint[128];
	struct err err = ERR_INIT;

	if (w->curve) {
		config.server = true;
		config.public_key = w->keys.public_key;
		config.secret_key = w->keys.secret_key;
		(void)str_copy(endpoint, sizeof(endpoint), "tcp://127.0.0.1:*");
	} else {
		(void)snprintf(endpoint, sizeof(endpoint), "ipc://%s/sched", w->dir);
	}
	w->here = false;
	if (zsock_open(w->loop, w->zctx, &config, &ops, w, &w->router, &err) < 0 ||
		zsock_bind(w->router, endpoint, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

static inline void sched_close(struct world *w)
{
	if (w->router)
		zsock_close(w->router, 0);
	w->router = NULL;
	w->here = false;
}

static inline void agent_up(struct world *w)
{
	const struct driver driver = {.ops = &fake_ops, .self = &w->fake};
	struct err err = ERR_INIT;

	if (agent_open(&w->config, w->loop, w->zctx, &driver, &w->agent, &err) < 0)
		fail_msg("%s", err_msg(&err));
}

static inline void loop_up(struct world *w)
{
	struct err err = ERR_INIT;

	assert_int_equal(loop_new(&w->loop, &err), 0);
	assert_int_equal(loop_timer_open(w->loop, "check", until_check, w, &w->check, &err), 0);
	assert_int_equal(imgserve_new(w->loop, w->store, &w->serve, &err), 0);
	w->fake.loop = w->loop;
	if (w->curve)
		assert_int_equal(
			curve_zap_open(w->loop, w->zctx, sched_allow, w, &w->zap, &err), 0);
	sched_open(w);
}

static inline void loop_down(struct world *w)
{
	if (w->agent)
		agent_stop(w->agent);
	imgserve_free(w->serve);
	sched_close(w);
	curve_zap_close(w->zap);
	w->zap = NULL;
	loop_timer_close(w->check);
	assert_int_equal(loop_free(w->loop), 0);
	agent_free(w->agent);
	w->agent = NULL;
}

/* The agent dies (what it has in the pool is done or not, as it happens), and is
 * started again; so is the scheduler's end. */
static inline void restart_all(struct world *w)
{
	loop_down(w);
	w->fake.crashed = false;
	w->fake.crash_at = 0;
	loop_up(w);
	agent_up(w);
}

static inline struct world *world_new(bool curve)
{
	struct world *w = calloc(1, sizeof(*w));
	struct err err = ERR_INIT;
	char path[PATH_MAX];

	assert_non_null(w);
	(void)str_copy(w->dir, sizeof(w->dir), "/tmp/umlaut-agent-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	w->curve = curve;
	w->lease_ms = 300;
	curve_generate(&w->keys);
	curve_generate(&w->join);
	assert_int_equal(zctx_new(&w->zctx, &err), 0);
	(void)snprintf(path, sizeof(path), "%s/artefacts", w->dir);
	assert_int_equal(imgstore_open(path, &w->store, &err), 0);
	add_artefact(w, w->image);
	add_artefact(w, w->image2);
	add_artefact(w, w->kernel);
	agentconf_defaults(&w->config);
	(void)snprintf(w->config.state, sizeof(w->config.state), "%s/state", w->dir);
	(void)str_copy(w->config.name, sizeof(w->config.name), "h1");
	(void)net_addr_parse("127.0.0.1", &w->config.vtep, &err);
	if (!curve)
		(void)snprintf(
			w->config.scheduler, sizeof(w->config.scheduler), "ipc://%s/sched", w->dir);
	loop_up(w);
	return w;
}

static inline void world_free(struct world *w)
{
	loop_down(w);
	zctx_free(w->zctx);
	imgstore_close(w->store);
	(void)fs_remove_tree(w->dir, NULL);
	free(w);
}

static inline int world_setup(void **state)
{
	struct world *w = world_new(false);
	static const struct log_config quiet = {
		.program = "test", .instance = "", .level = LOG_ERROR, .fd = 2};

	log_init(&quiet);
	agent_up(w);
	*state = w;
	return 0;
}

static inline int world_teardown(void **state)
{
	world_free(*state);
	return 0;
}

#endif
