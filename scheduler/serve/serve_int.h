/* serve_int: what the files of serve/ share. */
#ifndef UMLAUT_SCHEDULER_SERVE_SERVE_INT_H
#define UMLAUT_SCHEDULER_SERVE_SERVE_INT_H

#include <uthash.h>
#include <utlist.h>

#include "image/receive.h"
#include "image/serve.h"
#include "image/store.h"
#include "lib/curve.h"
#include "lib/zsock.h"
#include "scheduler/core/core.h"
#include "scheduler/serve/serve.h"
#include "scheduler/store/store.h"

#define SERVE_SOCKS_MAX 10
#define SERVE_EVENTS_MAX 10000u
#define SERVE_PART 500u		    /* rows or guests in one message */
#define SERVE_META_MAX (512u << 10) /* of an artefact: a kernel's configuration is in it */
#define SERVE_PART_BYTES (4u << 20) /* and about as many bytes */

/* ---------------------------------------------------------------- arena.c */

/* Memory for one message, freed in one go.  When memory is short the process
 * ends: its state is in the store, and a message half made must not go out. */
struct arena {
	struct arena_block *blocks;
};
void *arena_get(struct arena *a, size_t size); /* zeroed; never NULL */
char *arena_str(struct arena *a, const char *text);
ProtobufCBinaryData arena_bytes(struct arena *a, const void *data, size_t size);
void arena_free(struct arena *a);
/* An array of N pointers. */
void **arena_list(struct arena *a, size_t n);

/* ---------------------------------------------------------------- the state */

/* REMOVED: of a host that was given up; it is told so, and nothing else. */
enum role {
	ROLE_NONE,
	ROLE_JOIN,
	ROLE_AGENT,
	ROLE_VIEWER,
	ROLE_OPERATOR,
	ROLE_ADMIN,
	ROLE_REMOVED
};
#define AUTH_REMOVED                                                                           \
	"this host was removed from the cluster and its guests were started elsewhere: purge " \
	"it, and join it anew with a token"

struct key {
	uint8_t pubkey[CURVE_KEY];
	enum role role;
	char name[CORE_NAME];
	uint64_t created_at, expires_at;
	UT_hash_handle hh;
};

/* What a peer is reached by: socket and routing id. */
struct peer {
	struct zsock *sock;
	struct zpeer z;
};

/* An agent that said hello. */
struct agent {
	char host[CORE_NAME];
	struct peer peer;
	uint64_t session;
	uint64_t seq;		  /* of the last Desired made */
	uint64_t instance, hello; /* the newest heard of */
	uint8_t boot_id[16];	  /* of the machine it is on */
	uint64_t heard_at;	  /* monotonic: its hello, or last heartbeat */
	uint64_t observed_seq;	  /* of the last report taken */
	bool observed_gap;	  /* one before it never came */
	/* As of the last heartbeat: what the agent had, what had been made for it, and for
	 * how many heartbeats it has been behind without a step. */
	uint64_t beat_desired, beat_seq;
	unsigned behind, unheard;
	uint8_t pubkey[CURVE_KEY];
	char endpoint[160];
	Um__HostFacts *facts; /* as it told them, owned */
	uint64_t memory_used;
	bool full_due; /* something could not be sent: it gets everything anew */
	UT_hash_handle hh, hh_peer;
	uint8_t peer_id[ZPEER_ID_MAX];
	size_t peer_id_size;
};

/* A whole artefact and the hosts that have it. */
struct blob {
	uint8_t id[CORE_ID];
	struct blob_at {
		char host[CORE_NAME];
	} * hosts;
	size_t host_count, host_room;
	size_t turn;
	UT_hash_handle hh;
};

struct artefact {
	char key[CORE_FULLNAME + 4]; /* "0/NAME": kind and name */
	Um__ArtefactInfo *info;	     /* owned */
	UT_hash_handle hh;
};

/* A deployment's declared text: what the core does not need to know. */
struct lab {
	char name[CORE_NAME];
	Um__DeploymentSpec *spec; /* owned */
	struct lab_group {
		Um__GroupSpec *spec; /* of `spec` */
		UT_hash_handle hh;
	} * groups, *groups_by_name;
	UT_hash_handle hh;
};

struct watcher {
	struct peer peer;
	uint64_t id;
	Um__GetRequest *request; /* owned */
	bool behind;		 /* its queue was full: gets the whole list again */
	struct watcher *prev, *next;
};

struct stream {
	uint64_t client_id, agent_id;
	struct peer client;
	char host[CORE_NAME];
	uint64_t session; /* of the agent */
	struct stream *prev, *next;
	UT_hash_handle hh; /* by agent_id */
	UT_hash_handle hh_client;
	uint8_t client_key[ZPEER_ID_MAX + sizeof(uint64_t)];
};

struct serve {
	struct loop *loop;
	struct serve_config config;
	char state_dir[512];
	struct zctx *zctx;
	struct curve_zap *zap;
	struct curve_pair keys;
	struct zsock *socks[SERVE_SOCKS_MAX];
	size_t sock_count;
	char advertise[160];

	struct core *core;
	struct core_out out;
	struct store *store;
	bool broken, stuck; /* stuck: its disk is full (frozen.c) */
	uint64_t stuck_at;  /* monotonic */
	char cluster_id[40];
	uint64_t started_at;
	struct loop_timer *tick;
	uint64_t tick_due; /* monotonic */

	struct imgstore *images;
	struct imgserve *imgserve;
	struct imgreceive *imgreceive;
	struct artefact *artefacts;
	struct blob *blobs;

	struct key *keys_known;
	struct agent *agents, *agents_by_peer;
	struct lab *labs;
	struct watcher *watchers;
	struct stream *streams, *streams_by_client;
	uint64_t next_stream, next_session;

	Um__EventInfo *events[SERVE_EVENTS_MAX]; /* ring, owned */
	uint64_t event_seq;			 /* of the newest; 0: none */
	struct bootseen *boots;			 /* by uid */
	uint64_t asked_us; /* when what is being handled came in, wall clock */
};

/* ---------------------------------------------------------------- commit.c */

/* Takes what the last core event put into s->out, and ENV (may be NULL) as the
 * answer to TO: durable first, then sent.  Further records in OPS. */
void commit_event(struct serve *s, const struct peer *to, Um__Envelope *env,
	const struct store_op *ops, size_t op_count);
/* An answer that changes nothing; not before what was decided earlier. */
void commit_reply(struct serve *s, const struct peer *to, Um__Envelope *env);
/* At once. */
void serve_send(struct serve *s, const struct peer *to, Um__Envelope *env);
void serve_error(struct serve *s, const struct peer *to, uint64_t id, const struct err *err);
void serve_refuse(struct serve *s, const struct peer *to, uint64_t id, Um__ErrorCode code,
	const char *fmt, ...) __attribute__((format(printf, 5, 6)));
void serve_ok(struct serve *s, const struct peer *to, uint64_t id);
void serve_tick_soon(struct serve *s);

/* ---------------------------------------------------------------- frozen.c */

/* While the store's disk is full nothing that would have to be recorded is begun: the
 * core stands still, as if this process were stopped.  Leases go on, and so do streams
 * and whatever only reads. */
void frozen_health(void *arg, enum store_health health, const char *why);
/* True: ENV is refused, or put off, and done with. */
bool frozen_message(struct serve *s, const struct peer *from, const Um__Envelope *env);

/* ---------------------------------------------------------------- records.c */

int records_load(struct serve *s, struct err *err);
/* The record of a dirty key as a store_op: KEY and value in ARENA. */
void records_op(
	struct serve *s, const struct core_dirty *dirty, struct arena *a, struct store_op *op);
void records_key(struct serve *s, const struct key *key, struct arena *a, struct store_op *op);
void records_artefact(const Um__ArtefactInfo *info, struct arena *a, struct store_op *op);
void records_artefact_gone(const Um__ArtefactInfo *info, struct arena *a, struct store_op *op);
void records_event(const Um__EventInfo *event, struct arena *a, struct store_op *op);
void records_event_gone(uint64_t seq, struct arena *a, struct store_op *op);

/* ---------------------------------------------------------------- labs.c */

/* A checked spec as the core takes it; ids of images and kernels are looked up.
 * The arrays are malloc'd: labs_apply_free(). */
int labs_convert(
	struct serve *s, const Um__DeploymentSpec *spec, struct core_apply *out, struct err *err);
void labs_apply_free(struct core_apply *apply);
/* Takes SPEC.  Guests of which only what needs no restart has changed (restart policy,
 * labels ...) are no change to the core: that their agents are told is added to s->out. */
int labs_set(struct serve *s, Um__DeploymentSpec *spec, struct err *err);
void labs_drop(struct serve *s, const char *name);
Um__DeploymentSpec *labs_spec(const struct serve *s, const char *name);
Um__GroupSpec *labs_group(const struct serve *s, const char *deployment, const char *group);

/* ---------------------------------------------------------------- facts.c */

#define FACTS_TAINT (2 * CORE_NAME + 16)
/* Labels, taints and over-commit; facts_free() afterwards in any case. */
int facts_convert(const Um__HostFacts *facts, struct core_hostfacts *out, struct err *err);
void facts_free(struct core_hostfacts *facts);
/* "key=value:prefer" */
void facts_taint_text(const struct core_taint *taint, char out[FACTS_TAINT]);
/* As the core knows them. */
void facts_of(const struct core_host *host, Um__HostFacts *out, struct arena *a);

/* ---------------------------------------------------------------- rules.c */

/* *OUT: NULL when nothing is required; else core_rules_free(). */
int rules_convert(const Um__Placement *from, struct core_rules **out, struct err *err);
void rules_why(struct serve *s, const struct peer *from, const Um__Envelope *env);

/* ---------------------------------------------------------------- views.c */

Um__GuestInfo *view_guest(
	const struct serve *s, const struct core_guest *g, bool detail, struct arena *a);
Um__HostInfo *view_host(const struct serve *s, const struct core_host *h, struct arena *a);
Um__NetworkInfo *view_network(const struct core_network *n, struct arena *a);
Um__DeploymentInfo *view_deployment(
	const struct serve *s, const struct core_deployment *d, bool detail, struct arena *a);
Um__Nic *view_nic(const struct core_nic *nic, struct arena *a);

/* ---------------------------------------------------------------- agents.c */

/* True when ENV is an agent's message.  While the store is stuck sessions begin and
 * leases go on, and what agents report is put off: they are asked for all of it later. */
bool agents_message(struct serve *s, const struct peer *from, const Um__Envelope *env);
/* Those whose messages were lost get everything anew. */
void agents_resync(struct serve *s);
struct agent *agents_by_host(const struct serve *s, const char *host);
void agents_free(struct serve *s);
void agents_blob_add(struct serve *s, const uint8_t *id, const char *host);
void agents_blob_remove(struct serve *s, const uint8_t *id, const char *host);

/* ---------------------------------------------------------------- tell.c */

/* Messages for the actions of this event, per host. */
struct tell;
struct tell *tell_begin(struct serve *s);
void tell_action(struct tell *t, const struct core_action *action);
/* Packs them: calls FN for each. */
typedef void tell_fn(void *arg, struct agent *agent, Um__Envelope *env);
void tell_end(struct tell *t, tell_fn *fn, void *arg);

/* ---------------------------------------------------------------- auth.c */

int auth_open(struct serve *s, struct err *err);
/* After the records are loaded: admin key and join token. */
int auth_first_keys(struct serve *s, struct err *err);
enum role auth_role(const struct serve *s, const struct zpeer *peer);
const char *auth_role_name(enum role role);
int auth_role_parse(const char *text, enum role *role, struct err *err);
int auth_add(struct serve *s, const uint8_t pubkey[CURVE_KEY], enum role role, const char *name,
	uint64_t expires_at, struct key **out, struct err *err);
void auth_join(struct serve *s, const struct peer *from, const Um__Envelope *env);
void auth_token(struct serve *s, const struct peer *from, const Um__Envelope *env);
/* The keys of these hosts' agents; with what was decided, and ENV as the answer. */
void auth_revoke(
	struct serve *s, const struct peer *to, Um__Envelope *env, char **hosts, size_t count);
struct key *auth_find(const struct serve *s, const uint8_t pubkey[CURVE_KEY]);
void auth_free(struct serve *s);

/* ---------------------------------------------------------------- artefacts.c */

int artefacts_open(struct serve *s, struct err *err);
void artefacts_close(struct serve *s);
int artefacts_put(struct serve *s, Um__ArtefactInfo *info, struct err *err); /* takes INFO */
const Um__ArtefactInfo *artefacts_find(
	const struct serve *s, Um__ArtefactKind kind, const char *name);
/* "" is the default kernel. */
const Um__ArtefactInfo *artefacts_kernel(const struct serve *s, const char *name, struct err *err);
void artefacts_remove(struct serve *s, const struct peer *from, const Um__Envelope *env);
/* kernels.c: the kernel that SPEC names, or the best that has what it asks for. */
const Um__ArtefactInfo *kernels_choose(
	const struct serve *s, const Um__GuestSpec *spec, struct err *err);
/* With the sources that hold it. */
Um__BlobRef *artefacts_ref(
	struct serve *s, const uint8_t id[CORE_ID], const char *for_host, struct arena *a);
bool artefacts_message(struct serve *s, const struct peer *from, const Um__Envelope *env,
	const void *bulk, size_t bulk_size);

/* ---------------------------------------------------------------- events.c */

/* Adds to the ring; the records in OPS (room for two). Returns how many. */
size_t events_add(struct serve *s, const struct core_log *log, struct arena *a,
	struct store_op *ops, Um__EventInfo **out);
void events_load(struct serve *s, Um__EventInfo *event); /* takes it */
void events_free(struct serve *s);

/* ---------------------------------------------------------------- moves.c */

/* After core_host_hello() or core_observe(), before the commit. */
void moves_observed(struct serve *s, const struct agent *agent, Um__MoveObserved **moves,
	size_t count, bool hello);
Um__MoveSource *moves_source_view(struct serve *s, const struct core_move *m, struct arena *a);
Um__MoveTarget *moves_target_view(
	struct serve *s, const struct core_move *m, Um__GuestAssign *assign, struct arena *a);
Um__Error *moves_refusal(const struct err *err, struct arena *a);
Um__MigrationInfo *moves_view(const struct core_move *m, struct arena *a);
void moves_migrate(struct serve *s, const struct peer *from, const Um__Envelope *env);
/* Phases (a bit each) in which the moves are that s->out touched; and once they are on
 * the disk: points for tests (lib/crash.h). */
uint32_t moves_phases(const struct serve *s);
void moves_recorded(uint32_t phases);
/* The record; NULL when there is no such move (any more). */
Um__StoredMove *moves_record(const struct serve *s, uint64_t number, struct arena *a);
int moves_restore(struct serve *s, const Um__StoredMove *r, struct err *err);

/* ---------------------------------------------------------------- drains.c */

/* NULL: the host is not being emptied. */
Um__HostDrain *drains_view(const struct core_host *host, struct arena *a);
int drains_restore(struct serve *s, const char *host, const Um__HostDrain *r, struct err *err);
void drains_request(struct serve *s, const struct peer *from, const Um__Envelope *env);

/* ---------------------------------------------------------------- orphans.c */

struct core_orphan;
/* After core_host_hello() or core_observe(), before the commit. */
void orphans_observed(struct serve *s, const struct agent *agent, Um__OrphanDisk **disks,
	size_t count, bool hello);
Um__OrphanInfo *orphans_view(const struct serve *s, const struct core_orphan *o, struct arena *a);
void orphans_prune_asked(struct serve *s, const struct peer *from, const Um__Envelope *env);
/* The record; NULL when there is no such orphan (any more). */
Um__StoredOrphan *orphans_record_of(const struct serve *s, uint64_t epoch, struct arena *a);
int orphans_restore(struct serve *s, const Um__StoredOrphan *r, struct err *err);

/* ---------------------------------------------------------------- boots.c */

/* How long the last boot of each guest took; kept in memory, the agents tell it
 * again.  What an agent said; what it is told; for a client (NULL: nothing known). */
void boots_seen(struct serve *s, const char *host, const Um__GuestObserved *observed);
Um__BootTimes *boots_asked(const struct serve *s, const struct core_guest *g, struct arena *a);
Um__BootTimes *boots_view(const struct serve *s, uint64_t uid, struct arena *a);
void boots_drop(struct serve *s, uint64_t uid);
void boots_free(struct serve *s);

/* ---------------------------------------------------------------- watch.c */

void watch_get(struct serve *s, const struct peer *from, const Um__Envelope *env);
/* After a commit: tells those who watch. */
void watch_changed(struct serve *s, enum core_kind kind, const char *key);
void watch_event(struct serve *s, const Um__EventInfo *event);
/* Those that were behind get the whole list. */
void watch_catch_up(struct serve *s);
void watch_cancel(struct serve *s, const struct peer *from, uint64_t id);
void watch_free(struct serve *s);

/* ---------------------------------------------------------------- streams.c */

bool streams_message(struct serve *s, const struct peer *from, const Um__Envelope *env, bool agent);
void streams_agent_gone(struct serve *s, const char *host);
void streams_free(struct serve *s);
/* A guest by its full name, or by the part after '/' where that is unique. */
const struct core_guest *serve_find_guest(const struct serve *s, const char *name, struct err *err);

/* ---------------------------------------------------------------- api.c */

void api_message(void *arg, struct zsock *sock, const struct zpeer *peer, const Um__Envelope *env,
	const void *bulk, size_t bulk_size);
void api_bad(void *arg, struct zsock *sock, const struct zpeer *peer, uint64_t id,
	const struct err *err);

#endif
