/* Joining a cluster: once, under the token's key, our own key is made known. */
#include "node-agent/link_int.h"

#include <errno.h>
#include <string.h>

#include "lib/str.h"

int link_configure(struct link *link, struct err *err)
{
	struct agent *agent = link->agent;
	const struct agentconf *c = &agent->config;
	char path[PATH_MAX];
	int rc = agent_path(agent, "cluster", path, err);
	bool joined;

	if (rc < 0)
		return rc;
	rc = cluster_load(path, &link->cluster, err);
	joined = rc == 0;
	if (rc < 0 && rc != -ENOENT)
		return rc;
	if (c->token[0] && !joined) {
		rc = curve_token_parse(c->token, &link->token, err);
		if (rc < 0)
			return err_wrap(err, "token");
		(void)str_copy(link->cluster.endpoint, sizeof(link->cluster.endpoint),
			link->token.endpoint);
		memcpy(link->cluster.server_key, link->token.server_key, CURVE_KEY);
		link->cluster.curve = true;
	}
	if (c->scheduler[0])
		(void)str_copy(
			link->cluster.endpoint, sizeof(link->cluster.endpoint), c->scheduler);
	if (str_starts(link->cluster.endpoint, "ipc://")) {
		link->cluster.curve = false; /* guarded by the socket's file mode */
		joined = true;
	}
	if (!joined && !c->token[0])
		return err_set(err, -EINVAL,
			"this host has not joined a cluster: give it a --token (clusterctl token "
			"create agent)");
	link->state = joined ? LINK_HELLO : LINK_JOINING;
	return link_socket(link, joined ? &agent->keys : &link->token.pair, err);
}

void link_rejoin(struct link *link)
{
	const struct agentconf *c = &link->agent->config;
	struct err err = ERR_INIT;

	link->refused = 0;
	if (!c->token[0] || curve_token_parse(c->token, &link->token, &err) < 0 ||
		memcmp(link->token.server_key, link->cluster.server_key, CURVE_KEY) != 0)
		return;
	log_warn("the scheduler does not know this host any more; joining again");
	link->state = LINK_JOINING;
	if (link_socket(link, &link->token.pair, &err) < 0)
		log_error("the scheduler cannot be connected to", LOG_ERR(&err));
	loop_timer_arm(link->timer, LINK_HELLO_MS);
}

static void joined(struct link *link, const char *id)
{
	char path[PATH_MAX];
	struct err err = ERR_INIT;
	struct cluster c = link->cluster;

	if (str_copy(c.id, sizeof(c.id), id) < 0 ||
		agent_path(link->agent, "cluster", path, &err) < 0 ||
		cluster_save(path, &c, &err) < 0) {
		log_error("the joining cannot be noted; tried again", LOG_ERR(&err));
		return;
	}
	link->cluster = c;
	log_info("joined the cluster", LOG_STR("cluster", id));
	curve_wipe(&link->token.pair);
	link->state = LINK_HELLO;
	if (link_socket(link, &link->agent->keys, &err) < 0)
		log_error("the scheduler cannot be connected to", LOG_ERR(&err));
	loop_timer_arm(link->timer, 0);
}

static void on_joined(void *arg, const Um__Envelope *env, const void *bulk, size_t bulk_size,
	const struct err *err)
{
	struct link *link = arg;

	(void)bulk;
	(void)bulk_size;
	link->join_id = 0;
	if (link->state != LINK_JOINING)
		return;
	if (env && env->body_case == UM__ENVELOPE__BODY_JOIN_REPLY)
		joined(link, env->join_reply->cluster_id);
	else if (env && err)
		log_error("the scheduler does not let this host join", LOG_ERR(err));
}

void link_join_send(struct link *link)
{
	Um__Envelope env;
	Um__JoinRequest request = UM__JOIN_REQUEST__INIT;

	if (link->join_id)
		rpc_cancel(link->rpc, link->join_id);
	link->join_id = rpc_add(link->rpc, 0, on_joined, link);
	env = wire_env(link->join_id);
	request.host = link->agent->config.name;
	request.pubkey.data = link->agent->keys.public_key;
	request.pubkey.len = CURVE_KEY;
	env.body_case = UM__ENVELOPE__BODY_JOIN_REQUEST;
	env.join_request = &request;
	(void)zsock_send(link->sock, NULL, &env, NULL, 0, NULL);
}
