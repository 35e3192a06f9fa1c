/* What the tests of moving guests share: two whole agents, each a process of its own
 * that can die at any point, over pretended runners (which outlive them, in shared
 * memory) and real disks; and a scheduler that moves one guest between them as
 * docs/migration.md says.  A test program calls kit_agent() first. */
#ifndef UMLAUT_TESTS_UNIT_NODE_AGENT_MOVEKIT_H
#define UMLAUT_TESTS_UNIT_NODE_AGENT_MOVEKIT_H

#include "tests/unit/node-agent/agentkit.h"

#include <arpa/inet.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "guest/cow.h"

#define DISK (8u << 20)
#define GUEST UINT64_C(7)

#define ok(call)                                                  \
	do {                                                      \
		struct err err = ERR_INIT;                        \
		if ((call) < 0)                                   \
			fail_msg("%s: %s", #call, err_msg(&err)); \
	} while (0)

/* ---------------------------------------------------------------- an agent's process */

static inline int kit_disk(void *self, const struct driver_disk *disk, struct err *err)
{
	struct cow_spec spec = {
		.backing = "/base", .mode = 0600, .uid = (uid_t)-1, .gid = (gid_t)-1};
	int base = open(disk->backing, O_RDONLY | O_CLOEXEC), rc;
	struct cow *cow = NULL;
	struct stat st;

	(void)self;
	if (base < 0 || fstat(base, &st) < 0)
		return err_errno(err, errno, "%s", disk->backing);
	spec.size = (uint64_t)st.st_size;
	spec.mtime = (uint32_t)st.st_mtime;
	if (disk->fresh) {
		(void)unlink(disk->path);
		rc = cow_create(disk->path, &spec, err);
	} else {
		rc = cow_open(disk->path, false, &cow, err);
		if (rc == 0)
			rc = cow_check_backing(cow, base, err);
		cow_close(cow);
	}
	(void)close(base);
	return rc;
}

/* A flush is answered at once. */
static inline int kit_send(struct driver_run *run, Um__Envelope *env, struct err *err)
{
	Um__Envelope out = wire_env(env->id);
	Um__Ok done = UM__OK__INIT;

	if (env->body_case != UM__ENVELOPE__BODY_GUEST_SYNC)
		return fake_send(run, env, err);
	run->r->stream = env->id;
	out.body_case = UM__ENVELOPE__BODY_OK;
	out.ok = &done;
	run->events->on_message(run->arg, &out);
	return 0;
}

/* The kernel takes the lock on its disk, or does not boot. */
static inline int kit_start_run(void *self, struct loop *loop, const char *dir,
	const Um__RunnerSpec *spec, const struct driver_events *events, void *arg,
	struct driver_run **out, struct err *err)
{
	struct fake *f = self;
	struct cow *cow = NULL;
	char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/cow", dir);
	if (cow_open(path, true, &cow, NULL) == -EBUSY)
		f->locked++;
	cow_close(cow);
	return fake_start(self, loop, dir, spec, events, arg, out, err);
}

static inline void kit_on_term(void *arg, int signum)
{
	(void)signum;
	loop_stop(arg);
}

static inline struct fake *kit_map(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct fake *f;

	if (fd < 0 || ftruncate(fd, sizeof(*f)) < 0)
		return NULL;
	f = mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	(void)close(fd);
	return f == MAP_FAILED ? NULL : f;
}

/* "agent DIR NAME PORT": runs one until SIGTERM.  Otherwise returns. */
static inline void kit_agent(int argc, char **argv)
{
	struct driver_ops ops = fake_ops;
	struct driver driver = {.ops = &ops};
	struct err err = ERR_INIT;
	struct agentconf config;
	struct log_config logs = {.program = "agent", .instance = "", .level = LOG_ERROR, .fd = 2};
	struct loop_signal *term = NULL;
	struct agent *agent = NULL;
	struct zctx *zctx = NULL;
	struct loop *loop = NULL;
	struct fake *fake;
	char path[256];
	int rc;

	if (argc != 5 || strcmp(argv[1], "agent") != 0)
		return;
	/* A test that fails leaves nothing running. */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	logs.instance = argv[3];
	if (getenv("MOVEKIT_LOG"))
		logs.level = LOG_INFO;
	log_init(&logs);
	(void)snprintf(path, sizeof(path), "%s/%s.fake", argv[2], argv[3]);
	fake = kit_map(path);
	if (!fake)
		exit(3);
	ops.disk = kit_disk;
	ops.send = kit_send;
	ops.start = kit_start_run;
	driver.self = fake;
	for (size_t i = 0; i < KIT_MAX; i++)
		fake->runners[i].run = NULL;
	agentconf_defaults(&config);
	(void)snprintf(config.state, sizeof(config.state), "%s/%s", argv[2], argv[3]);
	(void)snprintf(config.scheduler, sizeof(config.scheduler), "ipc://%s/sched", argv[2]);
	(void)snprintf(
		config.peer_listen, sizeof(config.peer_listen), "tcp://127.0.0.1:%s", argv[4]);
	(void)str_copy(config.name, sizeof(config.name), argv[3]);
	rc = net_addr_parse("127.0.0.1", &config.vtep, &err);
	if (rc >= 0)
		rc = loop_new(&loop, &err);
	if (rc >= 0)
		rc = zctx_new(&zctx, &err);
	if (rc >= 0)
		rc = loop_signal_open(loop, SIGTERM, kit_on_term, loop, &term, &err);
	fake->loop = loop;
	if (rc >= 0)
		rc = agent_open(&config, loop, zctx, &driver, &agent, &err);
	if (rc >= 0)
		rc = loop_run(loop, &err);
	if (rc < 0)
		(void)fprintf(stderr, "agent %s: %s\n", argv[3], err_msg(&err));
	agent_stop(agent);
	loop_signal_close(term);
	if (loop_free(loop) != 0)
		rc = -1;
	agent_free(agent);
	zctx_free(zctx);
	exit(rc < 0 ? 2 : 0);
}

/* ---------------------------------------------------------------- the world */

enum phase { AT_SOURCE, PREPARE, COPY, FREEZE, HANDOVER, DROP, BACK };

struct host {
	char name[8], port[8], crash[32];
	pid_t pid;
	struct fake *fake;
	struct zpeer peer;
	bool here;
	unsigned hellos, deaths;
	uint64_t seq;
	uint8_t key[32];
	char endpoint[160];
	/* What it said last. */
	bool has_guest, guest_ready, guest_final;
	int32_t guest_exit;
	uint64_t guest_epoch;
	uint32_t restarts;
	Um__Phase guest_phase;
	bool has_move, failed, small, sealed, ready, frozen;
	char reason[256];
	uint64_t wire_bytes, bytes;
	uint8_t digest[32];
	bool has_digest;
};

struct world {
	char dir[64];
	struct loop *loop;
	struct zctx *zctx;
	struct loop_timer *tick;
	struct zsock *router;
	struct imgstore *store;
	struct imgserve *serve;
	struct host hosts[2];
	unsigned source; /* index; the other is the target */
	uint8_t image[MANIFEST_HASH], kernel[MANIFEST_HASH];
	/* The one guest, the one move. */
	bool run;
	bool never; /* started again by policy */
	bool ended; /* by itself, before it moves */
	uint64_t epoch, counter, move;
	uint64_t rate;
	uint64_t disk_bytes; /* of the guest, in the place of its image's; 0 */
	enum phase phase;
	bool cancel;	    /* instead of the handover */
	bool cancel_frozen; /* as soon as the guest has ended */
	bool hold;	    /* no freeze yet */
	void (*on_small)(struct world *w);
	void (*on_sealed)(struct world *w); /* the guest is stopped, both sides are equal */
	/* Real agents with real guests: where the programs are; NULL: pretended ones. */
	const char *bin;
	const char *script; /* of the guest */
	unsigned chaos;	    /* an agent is killed about each so many ticks; 0: never */
	unsigned killed;
	bool moved, back, timed_out;
	uint64_t deadline;
	uint8_t *disk; /* as it must be */
	uint64_t seed;
	uint32_t restarts;
};

static inline uint64_t kit_rnd(struct world *w)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return w->seed;
}

static inline struct host *kit_source(struct world *w)
{
	return &w->hosts[w->source];
}

static inline struct host *kit_target(struct world *w)
{
	return &w->hosts[1 - w->source];
}

static inline void kit_path(
	struct world *w, const struct host *h, const char *name, char out[PATH_MAX])
{
	(void)snprintf(
		out, PATH_MAX, "%s/%s/guests/%016" PRIx64 "/%s", w->dir, h->name, GUEST, name);
}

/* The guest writes COUNT pieces, where it is; some of them zeroes. */
static inline void kit_write(struct world *w, unsigned count)
{
	uint8_t data[8192];
	struct cow *cow = NULL;
	char path[PATH_MAX];

	kit_path(w, kit_source(w), "cow", path);
	ok(cow_open(path, true, &cow, &err));
	while (count--) {
		uint64_t at = kit_rnd(w) % ((DISK - sizeof(data)) / 512) * 512;

		memset(data, 0, sizeof(data));
		if (kit_rnd(w) % 8)
			for (size_t i = 0; i < sizeof(data); i += 8) {
				uint64_t v = kit_rnd(w);

				memcpy(data + i, &v, 8);
			}
		ok(cow_write(cow, at, data, sizeof(data), &err));
		memcpy(w->disk + at, data, sizeof(data));
	}
	cow_close(cow);
}

/* The disk at H is what the guest wrote, to the byte. */
static inline void kit_compare(struct world *w, const struct host *h)
{
	uint8_t *data = malloc(DISK);
	struct cow *cow = NULL;
	char path[PATH_MAX];

	assert_non_null(data);
	kit_path(w, h, "cow", path);
	ok(cow_open(path, false, &cow, &err));
	ok(cow_check(cow, &err));
	ok(cow_read(cow, -1, 0, data, DISK, &err));
	assert_memory_equal(data, w->disk, DISK);
	cow_close(cow);
	free(data);
}

/* ---------------------------------------------------------------- agents come and go */

static inline void kit_start_real(struct world *w, struct host *h, char **envp)
{
	char text[9][PATH_MAX], *argv[11];
	int n = 0;

	(void)snprintf(text[n++], PATH_MAX, "%s/umlaut-agent", w->bin);
	(void)snprintf(text[n++], PATH_MAX, "--state=%s/%s", w->dir, h->name);
	(void)snprintf(text[n++], PATH_MAX, "--run-dir=%s/%s.run", w->dir, h->name);
	(void)snprintf(text[n++], PATH_MAX, "--name=%s", h->name);
	(void)snprintf(text[n++], PATH_MAX, "--scheduler=ipc://%s/sched", w->dir);
	(void)snprintf(text[n++], PATH_MAX, "--vtep=127.0.0.1");
	(void)snprintf(text[n++], PATH_MAX, "--peer-listen=tcp://127.0.0.1:%s", h->port);
	(void)snprintf(text[n++], PATH_MAX, "--uid-base=%u", h == w->hosts ? 710000 : 720000);
	(void)snprintf(
		text[n++], PATH_MAX, "--log-level=%s", getenv("MOVEKIT_LOG") ? "info" : "error");
	for (int i = 0; i < n; i++)
		argv[i] = text[i];
	argv[n] = NULL;
	assert_int_equal(posix_spawn(&h->pid, text[0], NULL, NULL, argv, envp), 0);
}

static inline void kit_start(struct world *w, struct host *h)
{
	char setting[64], *argv[] = {(char *)(uintptr_t) "test_moves", (char *)(uintptr_t) "agent",
				  w->dir, h->name, h->port, NULL};
	char *envp[64];
	size_t n = 0;

	for (char **e = environ; *e && n < 60; e++)
		if (strncmp(*e, "UMLAUT_CRASH=", 13) != 0)
			envp[n++] = *e;
	(void)snprintf(setting, sizeof(setting), "UMLAUT_CRASH=%s", h->crash);
	if (h->crash[0])
		envp[n++] = setting;
	envp[n] = NULL;
	h->here = false;
	if (w->bin) {
		kit_start_real(w, h, envp);
		return;
	}
	assert_int_equal(posix_spawn(&h->pid, "/proc/self/exe", NULL, NULL, argv, envp), 0);
}

static inline void kit_kill(struct host *h)
{
	int status;

	assert_int_equal(kill(h->pid, SIGKILL), 0);
	assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
	h->pid = 0;
	h->here = false;
}

/* Ends it properly: with the sanitizer's look for leaks. */
static inline void kit_end(struct host *h)
{
	int status;

	if (!h->pid)
		return;
	assert_int_equal(kill(h->pid, SIGTERM), 0);
	assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
	h->pid = 0;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("agent %s ended with %x", h->name, (unsigned)status);
}

/* One that died at its crash point is started again. */
static inline void kit_watch(struct world *w, struct host *h)
{
	int status;

	if (!h->pid || waitpid(h->pid, &status, WNOHANG) != h->pid)
		return;
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL || !h->crash[0])
		fail_msg("agent %s ended with %x", h->name, (unsigned)status);
	h->deaths++;
	h->crash[0] = '\0';
	kit_start(w, h);
}

/* ---------------------------------------------------------------- the scheduler */

static inline void kit_send_to(struct world *w, struct host *h, Um__Envelope *env)
{
	/* One that has just died hears it when it comes back. */
	(void)zsock_send(w->router, &h->peer, env, NULL, 0, NULL);
}

struct wish {
	Um__GuestAssign guest;
	Um__GuestSpec spec;
	Um__BlobRef image, kernel;
};

static inline void kit_wish(struct world *w, struct wish *x, uint64_t epoch, uint64_t from_move)
{
	um__guest_assign__init(&x->guest);
	um__guest_spec__init(&x->spec);
	um__blob_ref__init(&x->image);
	um__blob_ref__init(&x->kernel);
	x->image.id = (ProtobufCBinaryData){.len = MANIFEST_HASH, .data = w->image};
	x->kernel.id = (ProtobufCBinaryData){.len = MANIFEST_HASH, .data = w->kernel};
	x->spec.memory_bytes = 64 << 20;
	if (w->never)
		x->spec.restart = UM__RESTART_POLICY__RESTART_NEVER;
	x->spec.disk_bytes = w->disk_bytes;
	if (w->script)
		x->spec.run = (char *)(uintptr_t)w->script;
	x->guest.uid = GUEST;
	x->guest.name = (char *)(uintptr_t) "lab/guest";
	x->guest.epoch = epoch;
	x->guest.generation = x->guest.disk_generation = 1;
	x->guest.run = w->run;
	x->guest.spec = &x->spec;
	x->guest.image = &x->image;
	x->guest.kernel = &x->kernel;
	x->guest.from_move = from_move;
}

/* All that is wanted of H now. */
static inline void kit_tell(struct world *w, struct host *h)
{
	Um__Envelope env = wire_env(0);
	Um__Desired d = UM__DESIRED__INIT;
	Um__MoveSource out = UM__MOVE_SOURCE__INIT, *outs = &out;
	Um__MoveTarget in = UM__MOVE_TARGET__INIT, *ins = &in;
	Um__BlobSource peer = UM__BLOB_SOURCE__INIT;
	bool is_source = h == kit_source(w);
	struct host *target = kit_target(w);
	struct wish at_source, at_target;
	Um__GuestAssign *guests[1];

	if (!h->here)
		return;
	kit_wish(w, &at_source, w->epoch, 0);
	kit_wish(w, &at_target, w->counter, w->move);
	d.full = true;
	d.seq = ++h->seq;
	d.guests = guests;
	if (is_source && w->phase != HANDOVER && w->phase != DROP)
		guests[d.n_guests++] = &at_source.guest;
	if (!is_source && (w->phase == HANDOVER || w->phase == DROP))
		guests[d.n_guests++] = &at_target.guest;
	if (is_source && (w->phase == COPY || w->phase == FREEZE || w->phase == HANDOVER)) {
		out.move = w->move;
		out.uid = GUEST;
		out.epoch = w->epoch;
		out.freeze = w->phase != COPY;
		out.rate = w->rate;
		peer.endpoint = target->endpoint;
		peer.pubkey = (ProtobufCBinaryData){.len = 32, .data = target->key};
		out.target = target->here ? &peer : NULL;
		d.moves_out = &outs;
		d.n_moves_out = 1;
	}
	if (!is_source && (w->phase == PREPARE || w->phase == COPY || w->phase == FREEZE)) {
		in.move = w->move;
		in.guest = &at_source.guest;
		in.source_key = (ProtobufCBinaryData){.len = 32, .data = kit_source(w)->key};
		d.moves_in = &ins;
		d.n_moves_in = 1;
	}
	env.body_case = UM__ENVELOPE__BODY_DESIRED;
	env.desired = &d;
	kit_send_to(w, h, &env);
}

static inline void kit_phase(struct world *w, enum phase phase)
{
	w->phase = phase;
	kit_tell(w, &w->hosts[0]);
	kit_tell(w, &w->hosts[1]);
}

/* What is to be done next, from what was said. */
static inline void kit_drive(struct world *w)
{
	struct host *s = kit_source(w), *t = kit_target(w);
	bool failed = s->failed || t->failed;

	if (w->phase >= PREPARE && w->phase <= FREEZE && failed) {
		kit_phase(w, BACK);
	} else if (w->phase == PREPARE && (t->ready || t->sealed)) {
		kit_phase(w, COPY);
	} else if (w->phase == COPY && s->small && !w->hold) {
		if (w->on_small)
			w->on_small(w);
		kit_phase(w, FREEZE);
	} else if (w->phase == FREEZE && s->frozen && w->cancel_frozen) {
		kit_phase(w, BACK);
	} else if (w->phase == FREEZE && s->sealed && t->sealed) {
		assert_memory_equal(s->digest, t->digest, 32);
		if (w->on_sealed)
			w->on_sealed(w);
		if (w->cancel) {
			kit_phase(w, BACK);
			return;
		}
		w->counter++;
		kit_phase(w, HANDOVER);
	} else if (w->phase == HANDOVER && t->has_guest && t->guest_epoch == w->counter &&
		   (w->ended	    ? t->guest_final
			   : w->run ? t->guest_phase == UM__PHASE__RUNNING && t->guest_ready
				    : t->guest_phase == UM__PHASE__STOPPED)) {
		kit_phase(w, DROP);
	} else if (w->phase == DROP && !s->has_guest && !s->has_move && !t->has_move) {
		w->moved = true;
		w->epoch = w->counter;
		w->source = 1 - w->source;
		w->phase = AT_SOURCE;
		loop_stop(w->loop);
	} else if (w->phase == BACK && !s->has_move && !t->has_move && s->has_guest && s->here &&
		   t->here &&
		   s->guest_phase == (w->run ? UM__PHASE__RUNNING : UM__PHASE__STOPPED)) {
		w->back = true;
		w->phase = AT_SOURCE;
		loop_stop(w->loop);
	}
}

static inline void kit_guest(struct host *h, const Um__GuestObserved *o)
{
	if (o->uid != GUEST)
		return;
	h->has_guest = !o->gone;
	h->guest_epoch = o->epoch;
	h->guest_phase = o->phase;
	h->guest_ready = o->ready;
	h->guest_final = o->final;
	h->guest_exit = o->exit_status;
	h->restarts = o->restarts;
}

static inline void kit_move(struct world *w, struct host *h, const Um__MoveObserved *o)
{
	if (o->move != w->move)
		return;
	h->has_move = !o->gone;
	h->failed = o->state == UM__MOVE_STATE__MOVE_FAILED;
	h->small = o->state == UM__MOVE_STATE__MOVE_SMALL;
	h->sealed = o->state == UM__MOVE_STATE__MOVE_SEALED;
	h->ready = o->state == UM__MOVE_STATE__MOVE_READY;
	h->frozen = o->state == UM__MOVE_STATE__MOVE_FROZEN;
	h->wire_bytes = o->wire_bytes > h->wire_bytes ? o->wire_bytes : h->wire_bytes;
	h->bytes = o->bytes_total > h->bytes ? o->bytes_total : h->bytes;
	if (o->reason[0])
		(void)snprintf(h->reason, sizeof(h->reason), "%s", o->reason);
	if (h->sealed) {
		assert_int_equal(o->digest.len, 32);
		memcpy(h->digest, o->digest.data, 32);
	}
}

static inline void kit_hello(struct world *w, const struct zpeer *peer, const Um__Envelope *env)
{
	const Um__AgentHello *hello = env->agent_hello;
	struct host *h = &w->hosts[strcmp(hello->host, w->hosts[0].name) != 0];
	Um__Envelope out = wire_env(env->id);
	Um__AgentWelcome welcome = UM__AGENT_WELCOME__INIT;

	h->peer = *peer;
	h->hellos++;
	h->seq = 0;
	assert_int_equal(hello->facts->pubkey.len, 32);
	memcpy(h->key, hello->facts->pubkey.data, 32);
	(void)snprintf(h->endpoint, sizeof(h->endpoint), "%s", hello->facts->peer_endpoint);
	/* What is not in it is not there. */
	h->has_guest = h->has_move = h->failed = h->small = h->sealed = h->ready = h->frozen =
		false;
	for (size_t i = 0; i < hello->n_guests; i++)
		kit_guest(h, hello->guests[i]);
	for (size_t i = 0; i < hello->n_moves; i++)
		kit_move(w, h, hello->moves[i]);
	welcome.cluster_id = (char *)(uintptr_t) "test-cluster";
	welcome.session = h->hellos;
	welcome.heartbeat_ms = 200;
	welcome.lease_ms = 60000;
	out.body_case = UM__ENVELOPE__BODY_AGENT_WELCOME;
	out.agent_welcome = &welcome;
	kit_send_to(w, h, &out);
	h->here = true;
	kit_tell(w, h);
	if (h == kit_target(w)) /* where it is reached is known from now on */
		kit_tell(w, kit_source(w));
}

static inline void kit_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct world *w = arg;
	Um__Envelope out = wire_env(env->id);
	Um__HeartbeatReply beat = UM__HEARTBEAT_REPLY__INIT;
	struct host *h = NULL;

	(void)bulk;
	(void)bulk_size;
	if (imgserve_message(w->serve, sock, peer, env))
		return;
	for (size_t i = 0; i < 2; i++)
		if (w->hosts[i].peer.id_size == peer->id_size &&
			memcmp(w->hosts[i].peer.id, peer->id, peer->id_size) == 0)
			h = &w->hosts[i];
	if (env->body_case == UM__ENVELOPE__BODY_AGENT_HELLO) {
		kit_hello(w, peer, env);
	} else if (h && env->body_case == UM__ENVELOPE__BODY_HEARTBEAT) {
		beat.seq = env->heartbeat->seq;
		beat.lease_ms = 60000;
		out.body_case = UM__ENVELOPE__BODY_HEARTBEAT_REPLY;
		out.heartbeat_reply = &beat;
		kit_send_to(w, h, &out);
	} else if (h && env->body_case == UM__ENVELOPE__BODY_OBSERVED) {
		for (size_t i = 0; i < env->observed->n_guests; i++)
			kit_guest(h, env->observed->guests[i]);
		for (size_t i = 0; i < env->observed->n_moves; i++)
			kit_move(w, h, env->observed->moves[i]);
	} else if (h && env->body_case == UM__ENVELOPE__BODY_RESYNC_REQUEST) {
		kit_tell(w, h);
	}
}

/* ---------------------------------------------------------------- running it */

static inline unsigned kit_alive(const struct host *h)
{
	unsigned n = 0;

	for (size_t i = 0; i < KIT_MAX; i++)
		n += h->fake->runners[i].used && h->fake->runners[i].alive &&
		     !h->fake->runners[i].ended;
	return n;
}

static inline void kit_tick(void *arg)
{
	struct world *w = arg;

	kit_watch(w, &w->hosts[0]);
	kit_watch(w, &w->hosts[1]);
	if (w->chaos && kit_rnd(w) % w->chaos == 0) {
		struct host *h = &w->hosts[kit_rnd(w) % 2];

		kit_kill(h);
		kit_start(w, h);
		w->killed++;
	}
	/* Never two, whatever happens. */
	if (kit_alive(&w->hosts[0]) + kit_alive(&w->hosts[1]) > 1)
		fail_msg("the guest runs twice");
	if (w->hosts[0].fake->locked + w->hosts[1].fake->locked)
		fail_msg("the guest is started while its disk is locked");
	kit_drive(w);
	if (proc_mono_ms() > w->deadline) {
		w->timed_out = true;
		loop_stop(w->loop);
	}
	loop_timer_arm(w->tick, 3);
}

static inline void kit_run(struct world *w)
{
	w->timed_out = false;
	w->deadline = proc_mono_ms() + 60000;
	loop_timer_arm(w->tick, 0);
	ok(loop_run(w->loop, &err));
	loop_timer_disarm(w->tick);
	if (w->timed_out)
		fail_msg("phase %d: source: move %d, guest %d in phase %d, '%s'; target: move %d, "
			 "guest %d in phase %d, '%s'",
			(int)w->phase, kit_source(w)->has_move, kit_source(w)->has_guest,
			(int)kit_source(w)->guest_phase, kit_source(w)->reason,
			kit_target(w)->has_move, kit_target(w)->has_guest,
			(int)kit_target(w)->guest_phase, kit_target(w)->reason);
}

/* Nothing is left of a move, nor of the guest anywhere but at H. */
static inline void kit_check_left(struct world *w, const struct host *at)
{
	char path[PATH_MAX];

	for (size_t i = 0; i < 2; i++) {
		const struct host *h = &w->hosts[i];

		(void)snprintf(
			path, sizeof(path), "%s/%s/moves/%016" PRIx64, w->dir, h->name, w->move);
		if (access(path, F_OK) == 0)
			fail_msg("%s is left", path);
		kit_path(w, h, "", path);
		if ((access(path, F_OK) == 0) != (h == at))
			fail_msg("%s is %s", path, h == at ? "gone" : "left");
	}
	assert_int_equal(kit_alive(at), w->run && !w->ended);
}

/* One move; the guest is at the other host after it. */
static inline void kit_migrate(struct world *w)
{
	w->move = ++w->counter;
	w->moved = w->back = false;
	for (size_t i = 0; i < 2; i++) {
		w->hosts[i].reason[0] = '\0';
		w->hosts[i].wire_bytes = w->hosts[i].bytes = 0;
		w->hosts[i].failed = w->hosts[i].small = w->hosts[i].sealed = false;
		w->hosts[i].ready = w->hosts[i].frozen = false;
	}
	kit_phase(w, PREPARE);
	kit_run(w);
}

static inline void kit_moved(struct world *w)
{
	struct host *at = kit_source(w); /* as it is now */

	if (!w->moved)
		fail_msg("not moved: '%s', '%s'", w->hosts[0].reason, w->hosts[1].reason);
	kit_check_left(w, at);
	kit_compare(w, at);
	assert_int_equal(at->restarts, w->restarts);
}

static inline void kit_put_back(struct world *w)
{
	assert_true(w->back);
	kit_check_left(w, kit_source(w));
	kit_compare(w, kit_source(w));
}

/* ---------------------------------------------------------------- set up */

static inline void kit_port(char out[8])
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, size), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
	(void)snprintf(out, 8, "%u", ntohs(a.sin_port));
	(void)close(fd);
}

static inline void kit_artefact(struct world *w, off_t size, uint8_t id[MANIFEST_HASH])
{
	char path[PATH_MAX];
	uint8_t data[4096];
	int fd;

	proc_random(data, sizeof(data));
	(void)snprintf(path, sizeof(path), "%s/artefact", w->dir);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
	assert_int_equal(ftruncate(fd, size), 0);
	(void)close(fd);
	ok(imgstore_add_file(w->store, path, id, &err));
}

static inline bool kit_runs(struct world *w)
{
	const struct host *at = kit_source(w);

	return at->has_guest &&
	       (w->run ? at->guest_ready : at->guest_phase == UM__PHASE__STOPPED) &&
	       at->guest_epoch == w->epoch && w->hosts[0].here && w->hosts[1].here;
}

static inline void kit_wait_tick(void *arg)
{
	struct world *w = arg;

	kit_watch(w, &w->hosts[0]);
	kit_watch(w, &w->hosts[1]);
	w->timed_out = proc_mono_ms() > w->deadline;
	if (kit_runs(w) || w->timed_out)
		loop_stop(w->loop);
	else
		loop_timer_arm(w->tick, 3);
}

/* Both agents are here, and the guest runs at the source, or is stopped there. */
static inline void kit_until_runs(struct world *w)
{
	struct loop_timer *tick = w->tick, *mine;

	ok(loop_timer_open(w->loop, "wait", kit_wait_tick, w, &mine, &err));
	w->tick = mine;
	w->deadline = proc_mono_ms() + 60000;
	loop_timer_arm(mine, 0);
	ok(loop_run(w->loop, &err));
	loop_timer_close(mine);
	w->tick = tick;
	assert_false(w->timed_out);
}

static inline struct world *kit_new(void)
{
	static const struct zsock_ops ops = {.on_message = kit_message};
	struct zsock_config config = {.type = ZSOCK_ROUTER, .name = "scheduler"};
	struct world *w = calloc(1, sizeof(*w));
	char path[PATH_MAX];

	assert_non_null(w);
	w->seed = 88172645463325252u;
	w->disk = calloc(1, DISK);
	assert_non_null(w->disk);
	(void)str_copy(w->dir, sizeof(w->dir), "/tmp/umlaut-moves-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	ok(loop_new(&w->loop, &err));
	ok(zctx_new(&w->zctx, &err));
	ok(loop_timer_open(w->loop, "tick", kit_tick, w, &w->tick, &err));
	(void)snprintf(path, sizeof(path), "%s/artefacts", w->dir);
	ok(imgstore_open(path, &w->store, &err));
	ok(imgserve_new(w->loop, w->store, &w->serve, &err));
	kit_artefact(w, DISK, w->image);
	kit_artefact(w, 4096, w->kernel);
	ok(zsock_open(w->loop, w->zctx, &config, &ops, w, &w->router, &err));
	(void)snprintf(path, sizeof(path), "ipc://%s/sched", w->dir);
	ok(zsock_bind(w->router, path, &err));
	w->run = true;
	w->epoch = w->counter = 10;
	for (size_t i = 0; i < 2; i++) {
		struct host *h = &w->hosts[i];

		(void)snprintf(h->name, sizeof(h->name), "h%zu", i + 1);
		kit_port(h->port);
		(void)snprintf(path, sizeof(path), "%s/%s.fake", w->dir, h->name);
		h->fake = kit_map(path);
		assert_non_null(h->fake);
	}
	return w;
}

static inline void kit_free(struct world *w)
{
	for (size_t i = 0; i < 2; i++) {
		kit_end(&w->hosts[i]);
		(void)munmap(w->hosts[i].fake, sizeof(struct fake));
	}
	imgserve_free(w->serve);
	zsock_close(w->router, 0);
	loop_timer_close(w->tick);
	assert_int_equal(loop_free(w->loop), 0);
	zctx_free(w->zctx);
	imgstore_close(w->store);
	(void)fs_remove_tree(w->dir, NULL);
	free(w->disk);
	free(w);
}

#endif
