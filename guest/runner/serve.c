#include "guest/runner/serve.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/runnerdir.h"
#include "lib/conn.h"
#include "lib/fs.h"
#include "lib/log.h"

struct peer {
	struct serve *serve;
	struct conn *conn;
};

struct serve {
	struct loop *loop;
	struct run *run;
	struct streams *streams;
	struct conn_listener *listener;
	struct peer *peers[SERVE_PEERS_MAX]; /* oldest first */
	size_t count;
	bool closing;
};

size_t serve_peers(const struct serve *serve)
{
	return serve->count;
}

static void send_status(struct serve *serve, struct conn *conn)
{
	Um__Envelope env = wire_env(0);
	Um__RunnerStatus status = UM__RUNNER_STATUS__INIT;
	struct err err = ERR_INIT;

	run_fill_status(serve->run, &status);
	env.body_case = UM__ENVELOPE__BODY_RUNNER_STATUS;
	env.runner_status = &status;
	if (conn_send(conn, &env, &err) < 0)
		log_warn("the agent was not told", LOG_ERR(&err));
}

void serve_status(struct serve *serve)
{
	if (serve->count)
		send_status(serve, serve->peers[serve->count - 1]->conn);
}

static void send_hello(struct serve *serve, struct conn *conn)
{
	Um__Envelope env = wire_env(0);
	Um__RunnerHello hello = UM__RUNNER_HELLO__INIT;

	run_fill_hello(serve->run, &hello);
	env.body_case = UM__ENVELOPE__BODY_RUNNER_HELLO;
	env.runner_hello = &hello;
	(void)conn_send(conn, &env, NULL);
}

/* RC and ERR as the answer to a request; none when it has no id. */
static void reply(struct conn *conn, uint64_t id, int rc, const struct err *err)
{
	Um__Envelope env = wire_env(id);
	Um__Ok ok = UM__OK__INIT;
	Um__Error error = UM__ERROR__INIT;

	if (id == 0) {
		if (rc < 0)
			log_warn("a command failed", LOG_ERR(err));
		return;
	}
	if (rc >= 0) {
		env.body_case = UM__ENVELOPE__BODY_OK;
		env.ok = &ok;
	} else {
		error.code = rc == -EBUSY ? UM__ERROR_CODE__CONFLICT : wire_code_from_errno(rc);
		error.message = (char *)(uintptr_t)err_msg(err);
		env.body_case = UM__ENVELOPE__BODY_ERROR;
		env.error = &error;
	}
	(void)conn_send(conn, &env, NULL);
}

static void on_message(void *arg, struct conn *conn, const Um__Envelope *env)
{
	struct peer *peer = arg;
	struct serve *serve = peer->serve;
	struct err err = ERR_INIT;
	int rc;

	switch (env->body_case) {
	case UM__ENVELOPE__BODY_RUNNER_STOP:
		rc = run_stop(serve->run, env->runner_stop->timeout_ms, env->runner_stop->force,
			true, &err);
		reply(conn, env->id, rc, &err);
		break;
	case UM__ENVELOPE__BODY_RUNNER_FORGET:
		rc = run_forget(serve->run, &err);
		reply(conn, env->id, rc, &err);
		break;
	case UM__ENVELOPE__BODY_HOSTS_UPDATE:
		rc = run_hosts(serve->run, env->hosts_update, &err);
		reply(conn, env->id, rc, &err);
		break;
	case UM__ENVELOPE__BODY_GUEST_TRIM:
		run_trim(serve->run);
		break;
	case UM__ENVELOPE__BODY_STREAM_OPEN:
	case UM__ENVELOPE__BODY_STREAM_DATA:
	case UM__ENVELOPE__BODY_STREAM_CREDIT:
	case UM__ENVELOPE__BODY_STREAM_CONTROL:
	case UM__ENVELOPE__BODY_STREAM_END:
	case UM__ENVELOPE__BODY_GUEST_STATS_REQUEST:
	case UM__ENVELOPE__BODY_GUEST_SYNC:
		streams_from_agent(serve->streams, conn, env);
		break;
	default:
		(void)err_set(&err, -EPROTO, "a runner does not take '%s'",
			wire_body_name(env->body_case));
		reply(conn, env->id, -EPROTO, &err);
	}
}

static void peer_free(struct peer *peer)
{
	struct serve *serve = peer->serve;
	size_t i = 0;

	streams_drop(serve->streams, peer->conn);
	conn_close(peer->conn);
	while (i < serve->count && serve->peers[i] != peer)
		i++;
	for (; i + 1 < serve->count; i++)
		serve->peers[i] = serve->peers[i + 1];
	serve->count--;
	free(peer);
}

static void on_close(void *arg, struct conn *conn, const struct err *err)
{
	struct peer *peer = arg;
	struct serve *serve = peer->serve;

	(void)conn;
	if (err->code)
		log_warn("an agent's connection broke", LOG_ERR(err));
	peer_free(peer);
	if (serve->count == 0 && !serve->closing)
		run_no_agents(serve->run);
}

static void on_drain(void *arg, struct conn *conn)
{
	struct peer *peer = arg;

	streams_drain(peer->serve->streams, conn);
}

static const struct conn_ops ops = {
	.on_message = on_message,
	.on_close = on_close,
	.on_drain = on_drain,
};

static bool may_connect(int fd)
{
	struct ucred cred;
	socklen_t size = sizeof(cred);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0 &&
	       (cred.uid == 0 || cred.uid == geteuid());
}

static void on_accept(void *arg, int fd)
{
	static const struct conn_config config = {
		.name = "agent",
		.message_max = WIRE_MESSAGE_MAX,
		.queue_max = SERVE_QUEUE_MAX,
	};
	struct serve *serve = arg;
	struct peer *peer = NULL;
	struct err err = ERR_INIT;

	if (!may_connect(fd) || serve->count == SERVE_PEERS_MAX) {
		log_warn("a connection was refused", LOG_U64("open", serve->count));
		(void)close(fd);
		return;
	}
	peer = calloc(1, sizeof(*peer));
	if (!peer || conn_open(serve->loop, fd, &config, &ops, peer, &peer->conn, &err) < 0) {
		log_warn("a connection failed", LOG_ERR(&err));
		(void)close(fd);
		free(peer);
		return;
	}
	peer->serve = serve;
	serve->peers[serve->count++] = peer;
	send_hello(serve, peer->conn);
	send_status(serve, peer->conn);
}

int serve_open(struct loop *loop, const char *dir, struct run *run, struct streams *streams,
	struct serve **out, struct err *err)
{
	struct serve *serve = calloc(1, sizeof(*serve));
	char path[PATH_MAX];
	int rc;

	if (!serve)
		return err_set(err, -ENOMEM, "out of memory");
	serve->loop = loop;
	serve->run = run;
	serve->streams = streams;
	rc = fs_join(path, sizeof(path), dir, RUNNERDIR_SOCK, err);
	if (rc >= 0)
		rc = conn_listen(loop, path, 0600, on_accept, serve, &serve->listener, err);
	if (rc < 0) {
		free(serve);
		return rc;
	}
	*out = serve;
	return 0;
}

void serve_close(struct serve *serve)
{
	if (!serve)
		return;
	serve->closing = true;
	conn_listener_close(serve->listener, true);
	while (serve->count)
		peer_free(serve->peers[serve->count - 1]);
	free(serve);
}
