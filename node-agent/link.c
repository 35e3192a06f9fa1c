#include "node-agent/link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/lease.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/rpc.h"
#include "lib/str.h"
#include "node-agent/blobs.h"
#include "node-agent/cluster.h"
#include "node-agent/desired.h"
#include "node-agent/facts.h"
#include "node-agent/fence.h"
#include "node-agent/guests.h"
#include "node-agent/link_int.h"
#include "node-agent/moves.h"
#include "node-agent/orphans.h"
#include "node-agent/report.h"
#include "node-agent/relay.h"

#define SEND_HWM 100000 /* streams are bound by their windows; nothing of them may be lost */
#define LINGER_MS 200
#define FULL_WAIT_MS 5000 /* for the state we asked for */
#define REFUSED_MAX 3
#define HEARTBEAT_ID (UINT64_C(1) << 62)

static void enter_hello(struct link *link);

bool link_up(const struct link *link)
{
	return link && link->state == LINK_UP;
}

uint64_t link_lease(const struct link *link)
{
	uint64_t now = proc_boot_ms();

	return link->lease_until > now ? link->lease_until - now : 0;
}

int link_send(struct link *link, Um__Envelope *env, struct err *err)
{
	if (!link_up(link))
		return err_set(err, -ENOTCONN, "the scheduler is not connected");
	return zsock_send(link->sock, NULL, env, NULL, 0, err);
}

int link_observed(struct link *link, Um__Observed *observed, struct err *err)
{
	Um__Envelope env = wire_env(0);
	int rc;

	observed->session = link->session;
	observed->seq = link->observed_seq + 1;
	env.body_case = UM__ENVELOPE__BODY_OBSERVED;
	env.observed = observed;
	rc = link_send(link, &env, err);
	if (rc == 0)
		link->observed_seq++;
	return rc;
}

/* ---------------------------------------------------------------- requests */

static uint64_t via_request(void *arg, Um__Envelope *env, const void *bulk, size_t bulk_size,
	uint64_t timeout_ms, rpc_fn *fn, void *fn_arg, struct err *err)
{
	struct link *link = arg;

	if (!link_up(link)) {
		(void)err_set(err, -EAGAIN, "the scheduler is not connected");
		return 0;
	}
	env->id = rpc_add(link->rpc, timeout_ms, fn, fn_arg);
	if (!env->id) {
		(void)err_set(err, -ENOMEM, "memory is short");
		return 0;
	}
	if (zsock_send(link->sock, NULL, env, bulk, bulk_size, err) < 0) {
		rpc_cancel(link->rpc, env->id);
		return 0;
	}
	return env->id;
}

static void via_cancel(void *arg, uint64_t id)
{
	struct link *link = arg;

	rpc_cancel(link->rpc, id);
}

const struct imgvia *link_via(struct link *link)
{
	return &link->via;
}

/* ---------------------------------------------------------------- losing it */

static void lose(struct link *link, const char *why)
{
	struct err err = ERR_INIT;

	if (link->state != LINK_UP)
		return;
	log_warn("the scheduler is lost; guests go on", LOG_STR("why", why));
	link->state = LINK_HELLO;
	(void)err_set(&err, -ENOTCONN, "the connection to the scheduler is lost: %s", why);
	rpc_fail_all(link->rpc, &err);
	relay_link_lost(link->agent->relay);
	report_clear(link->agent->report);
	desired_reset(link->agent, &link->desired);
}

void link_again(struct link *link)
{
	if (link->state == LINK_UP) {
		lose(link, "begun anew");
		enter_hello(link);
	}
}

void link_resync(struct link *link)
{
	Um__Envelope env = wire_env(0);
	Um__ResyncRequest request = UM__RESYNC_REQUEST__INIT;

	request.have_seq = link->desired.seq;
	env.body_case = UM__ENVELOPE__BODY_RESYNC_REQUEST;
	env.resync_request = &request;
	link->full_asked_at = loop_now(link->agent->loop);
	log_info("asking for the whole state");
	if (link_send(link, &env, NULL) < 0)
		link_again(link);
}

/* ---------------------------------------------------------------- heartbeats */

static void heartbeat(struct link *link)
{
	Um__Envelope env = wire_env(HEARTBEAT_ID);
	Um__Heartbeat beat = UM__HEARTBEAT__INIT;
	Um__HostUsage usage;

	facts_usage(link->agent, &usage);
	beat.session = link->session;
	beat.seq = ++link->beat;
	beat.desired_seq = link->desired.seq;
	beat.observed_seq = link->observed_seq;
	beat.usage = &usage;
	env.body_case = UM__ENVELOPE__BODY_HEARTBEAT;
	env.heartbeat = &beat;
	link->sent_at[link->beat % LINK_BEATS] = proc_boot_ms();
	(void)link_send(link, &env, NULL);
}

/* The lease runs from the sending: the scheduler's runs longer.  By the clock itself, not
 * the loop's, which is of the turn's beginning: a process that was stopped in the middle of
 * one, or a machine that was suspended, would take an old answer for a lease. */
static void answered(struct link *link, uint64_t sent)
{
	if (sent + link->lease_ms > link->lease_until)
		link->lease_until = sent + link->lease_ms;
	fence_renew(link->agent->fence, sent, link->lease_ms);
}

static void heartbeat_reply(struct link *link, const Um__HeartbeatReply *reply)
{
	if (reply->seq > link->beat || reply->seq + LINK_BEATS <= link->beat)
		return;
	link->heard_at = loop_now(link->agent->loop);
	answered(link, link->sent_at[reply->seq % LINK_BEATS]);
	/* Answered in this session: we were not given up meanwhile. */
	if (link->desired.complete)
		fence_lift(link->agent->fence);
}

static void tick(void *arg)
{
	struct link *link = arg;
	uint64_t now = loop_now(link->agent->loop);

	switch (link->state) {
	case LINK_JOINING:
		link_join_send(link);
		loop_timer_arm(link->timer, LINK_HELLO_MS);
		break;
	case LINK_HELLO:
		enter_hello(link);
		break;
	case LINK_UP:
		if (now - link->heard_at > 2 * link->lease_ms) {
			lose(link, "no answer to heartbeats");
			enter_hello(link);
			break;
		}
		if (!link->desired.complete && now - link->full_asked_at > FULL_WAIT_MS)
			link_resync(link);
		heartbeat(link);
		loop_timer_arm(link->timer, link->heartbeat_ms);
		break;
	case LINK_DOWN:
		break;
	}
}

/* ---------------------------------------------------------------- hello */

static int save_cluster(struct link *link, const char *id, struct err *err)
{
	char path[PATH_MAX];
	int rc = agent_path(link->agent, "cluster", path, err);

	if (rc < 0 || strcmp(link->cluster.id, id) == 0)
		return rc;
	if (link->cluster.id[0])
		return err_set(err, -EPERM,
			"this is cluster %.64s, this host has joined %s; to change over, purge it "
			"first (umlaut-agent --purge)",
			id, link->cluster.id);
	if (str_copy(link->cluster.id, sizeof(link->cluster.id), id) < 0)
		return err_set(err, -EINVAL, "the cluster's id is too long");
	return cluster_save(path, &link->cluster, err);
}

static void welcome(struct link *link, const Um__AgentWelcome *w)
{
	struct agent *agent = link->agent;
	uint64_t now = loop_now(agent->loop);
	struct err err = ERR_INIT;

	if (lease_told(w->lease_ms, w->heartbeat_ms, &err) < 0 ||
		save_cluster(link, w->cluster_id, &err) < 0) {
		log_error("the scheduler's welcome is refused", LOG_ERR(&err));
		return;
	}
	link->session = w->session;
	link->observed_seq = 0;
	link->refused = 0;
	link->heartbeat_ms = w->heartbeat_ms;
	link->lease_ms = w->lease_ms;
	link->state = LINK_UP;
	link->heard_at = link->full_asked_at = now;
	link->lease_until = 0; /* another scheduler's may have been longer */
	answered(link, link->hello_at);
	desired_reset(agent, &link->desired);
	log_info("in the cluster", LOG_STR("cluster", w->cluster_id),
		LOG_U64("session", w->session));
	/* What changed since the hello was sent. */
	for (struct guest *g = guests_first(agent->guests); g; g = guests_next(g))
		report_guest(g);
	report_moves(agent->report);
	report_orphans(agent->report);
	blobs_kick(agent->blobs);
	tick(link);
	if (report_missed(agent->report))
		link_again(link);
}

static void refused(struct link *link, const Um__Envelope *env, const struct err *err)
{
	log_error("the scheduler refuses this host", LOG_ERR(err));
	if (env->body_case == UM__ENVELOPE__BODY_ERROR &&
		env->error->code == UM__ERROR_CODE__REMOVED)
		fence_expel(link->agent->fence);
}

static void on_welcome(void *arg, const Um__Envelope *env, const void *bulk, size_t bulk_size,
	const struct err *err)
{
	struct link *link = arg;

	(void)bulk;
	(void)bulk_size;
	link->hello_id = 0;
	if (link->state != LINK_HELLO)
		return;
	if (env && env->body_case == UM__ENVELOPE__BODY_AGENT_WELCOME)
		welcome(link, env->agent_welcome);
	else if (env && err)
		refused(link, env, err);
}

static int add_blob(void *arg, const struct imgstore_info *info)
{
	struct buf *ids = arg;

	buf_add(ids, info->id, sizeof(info->id));
	return ids->failed;
}

/* Everything there is to tell. */
static int send_hello(struct link *link, struct err *err)
{
	struct agent *agent = link->agent;
	size_t count = guests_count(agent->guests), n = 0, blobs;
	Um__Envelope env = wire_env(link->hello_id);
	Um__AgentHello hello = UM__AGENT_HELLO__INIT;
	Um__GuestObserved *list = calloc(count + 1, sizeof(*list));
	Um__GuestObserved **pointers = calloc(count + 1, sizeof(*pointers));
	char(*reasons)[GUESTS_REASON] = calloc(count + 1, sizeof(*reasons));
	ProtobufCBinaryData *id_list = NULL;
	struct facts *facts = calloc(1, sizeof(*facts));
	struct buf ids;
	int rc = list && pointers && reasons && facts ? 0 : -ENOMEM;

	buf_init(&ids);
	if (rc == 0)
		rc = imgstore_each(agent->store, add_blob, &ids, err);
	blobs = ids.size / MANIFEST_HASH;
	id_list = calloc(blobs + 1, sizeof(*id_list));
	if (rc < 0 || !id_list || ids.failed) {
		rc = err_set(err, -ENOMEM, "memory is short");
		goto out;
	}
	for (size_t i = 0; i < blobs; i++)
		id_list[i] = (ProtobufCBinaryData){
			.len = MANIFEST_HASH, .data = ids.data + i * MANIFEST_HASH};
	for (struct guest *g = guests_first(agent->guests); g; g = guests_next(g)) {
		/* What was never whole is nobody's. */
		if (!g->assign)
			continue;
		report_told(g);
		report_observe(g, &list[n], reasons[n]);
		pointers[n] = &list[n];
		n++;
	}
	report_begin(agent->report);
	facts_fill(agent, facts);
	hello.host = agent->config.name;
	hello.instance = agent->instance;
	hello.number = ++link->hellos;
	hello.boot_id = (ProtobufCBinaryData){.len = 16, .data = agent->boot_id};
	hello.facts = &facts->msg;
	hello.guests = pointers;
	hello.n_guests = n;
	hello.n_moves = moves_observe(agent->moves, true, &hello.moves);
	hello.n_orphans = orphans_observe(agent->orphans, true, &hello.orphans);
	hello.blobs = id_list;
	hello.n_blobs = blobs;
	env.body_case = UM__ENVELOPE__BODY_AGENT_HELLO;
	env.agent_hello = &hello;
	rc = zsock_send(link->sock, NULL, &env, NULL, 0, err);
	free(hello.moves);
	free(hello.orphans);
	moves_told(agent->moves);
	orphans_told(agent->orphans);
out:
	buf_free(&ids);
	free(list);
	free(pointers);
	free(reasons);
	free(id_list);
	free(facts);
	return rc;
}

static void enter_hello(struct link *link)
{
	struct err err = ERR_INIT;

	link->state = LINK_HELLO;
	if (link->hello_id)
		rpc_cancel(link->rpc, link->hello_id);
	link->hello_id = rpc_add(link->rpc, 0, on_welcome, link);
	link->hello_at = proc_boot_ms();
	/* Not connected: its event, or the timer, comes here again. */
	if (send_hello(link, &err) < 0 && err.code != -EAGAIN)
		log_warn("hello cannot be sent", LOG_ERR(&err));
	loop_timer_arm(link->timer, LINK_HELLO_MS);
}

/* ---------------------------------------------------------------- what comes */

static void on_desired(struct link *link, const Um__Desired *desired)
{
	struct err err = ERR_INIT;
	bool asked = loop_now(link->agent->loop) - link->full_asked_at < FULL_WAIT_MS &&
		     !link->desired.complete;

	if (link->state != LINK_UP)
		return;
	if (desired_apply(link->agent, &link->desired, desired, &err) == 0)
		return;
	log_debug("what the scheduler wants has a gap", LOG_ERR(&err));
	if (asked)
		return;
	desired_reset(link->agent, &link->desired);
	link_resync(link);
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct link *link = arg;

	(void)sock;
	(void)peer;
	switch ((int)env->body_case) {
	case UM__ENVELOPE__BODY_DESIRED:
		on_desired(link, env->desired);
		break;
	case UM__ENVELOPE__BODY_HEARTBEAT_REPLY:
		heartbeat_reply(link, env->heartbeat_reply);
		break;
	case UM__ENVELOPE__BODY_STREAM_OPEN:
	case UM__ENVELOPE__BODY_STREAM_DATA:
	case UM__ENVELOPE__BODY_STREAM_CREDIT:
	case UM__ENVELOPE__BODY_STREAM_CONTROL:
	case UM__ENVELOPE__BODY_STREAM_END:
		if (link_up(link))
			relay_from_scheduler(link->agent->relay, env);
		break;
	default:
		if (env->body_case == UM__ENVELOPE__BODY_ERROR && env->id == HEARTBEAT_ID)
			link_again(link); /* it does not know our session */
		else if (!rpc_deliver(link->rpc, env, bulk, bulk_size))
			log_debug("a message nobody waits for",
				LOG_STR("message", wire_body_name(env->body_case)));
	}
}

static void on_state(void *arg, struct zsock *sock, bool up, const char *detail)
{
	struct link *link = arg;

	(void)sock;
	if (up && link->state == LINK_HELLO) {
		enter_hello(link);
	} else if (up && link->state == LINK_JOINING) {
		link_join_send(link);
	} else if (!up && link->state == LINK_UP) {
		lose(link, detail);
		enter_hello(link);
	} else if (!up) {
		if (log_rate_pass(&link->rate))
			log_warn("the scheduler cannot be reached", LOG_STR("why", detail));
		if (link->state == LINK_HELLO && str_starts(detail, "the server refuses") &&
			++link->refused >= REFUSED_MAX)
			link_rejoin(link);
	}
}

/* ---------------------------------------------------------------- sockets */

int link_socket(struct link *link, const struct curve_pair *keys, struct err *err)
{
	static const struct zsock_ops ops = {.on_message = on_message, .on_state = on_state};
	struct zsock_config config = {
		.type = ZSOCK_DEALER, .name = "scheduler", .send_hwm = SEND_HWM};
	int rc;

	if (link->sock)
		zsock_close(link->sock, LINGER_MS);
	link->sock = NULL;
	if (link->cluster.curve) {
		config.secret_key = keys->secret_key;
		config.public_key = keys->public_key;
		config.server_key = link->cluster.server_key;
	}
	rc = zsock_open(
		link->agent->loop, link->agent->zctx, &config, &ops, link, &link->sock, err);
	return rc < 0 ? rc : zsock_connect(link->sock, link->cluster.endpoint, err);
}

int link_open(struct agent *agent, struct link **out, struct err *err)
{
	struct link *link = calloc(1, sizeof(*link));
	int rc;

	if (!link)
		return err_set(err, -ENOMEM, "memory is short");
	link->agent = agent;
	link->via = (struct imgvia){.request = via_request, .cancel = via_cancel, .arg = link};
	rc = rpc_new(agent->loop, &link->rpc, err);
	if (rc == 0)
		rc = loop_timer_open(agent->loop, "scheduler", tick, link, &link->timer, err);
	if (rc == 0)
		rc = link_configure(link, err);
	if (rc == 0 && link->state == LINK_HELLO)
		enter_hello(link);
	else if (rc == 0)
		tick(link);
	if (rc < 0) {
		link_stop(link);
		link_free(link);
		return rc;
	}
	*out = link;
	return 0;
}

void link_stop(struct link *link)
{
	if (!link)
		return;
	link->state = LINK_DOWN;
	if (link->sock)
		zsock_close(link->sock, LINGER_MS);
	link->sock = NULL;
	rpc_free(link->rpc);
	link->rpc = NULL;
	loop_timer_close(link->timer);
	link->timer = NULL;
}

void link_free(struct link *link)
{
	free(link);
}
