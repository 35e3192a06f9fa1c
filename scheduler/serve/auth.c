/* Who may speak to us: CURVE keys and their roles; join tokens. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "scheduler/serve/serve_int.h"

static const char *const role_names[] = {
	[ROLE_NONE] = "none",
	[ROLE_JOIN] = "join",
	[ROLE_AGENT] = "agent",
	[ROLE_VIEWER] = "viewer",
	[ROLE_OPERATOR] = "operator",
	[ROLE_ADMIN] = "admin",
	[ROLE_REMOVED] = "removed",
};

const char *auth_role_name(enum role role)
{
	return role_names[role];
}

int auth_role_parse(const char *text, enum role *role, struct err *err)
{
	for (size_t i = ROLE_JOIN; i < sizeof(role_names) / sizeof(role_names[0]); i++) {
		if (strcmp(role_names[i], text) == 0) {
			*role = (enum role)i;
			return 0;
		}
	}
	return err_set(
		err, -EINVAL, "'%.20s' is not a role (agent, viewer, operator, admin)", text);
}

struct key *auth_find(const struct serve *s, const uint8_t pubkey[CURVE_KEY])
{
	struct key *key;

	HASH_FIND(hh, s->keys_known, pubkey, CURVE_KEY, key);
	return key;
}

int auth_add(struct serve *s, const uint8_t pubkey[CURVE_KEY], enum role role, const char *name,
	uint64_t expires_at, struct key **out, struct err *err)
{
	struct key *key = auth_find(s, pubkey);

	if (!key) {
		key = calloc(1, sizeof(*key));
		if (!key)
			return err_set(err, -ENOMEM, "memory is short");
		memcpy(key->pubkey, pubkey, CURVE_KEY);
		key->created_at = proc_wall_ms();
		HASH_ADD(hh, s->keys_known, pubkey, CURVE_KEY, key);
	}
	key->role = role;
	key->expires_at = expires_at;
	(void)str_format(key->name, sizeof(key->name), "%.63s", name);
	*out = key;
	return 0;
}

static bool good(const struct key *key)
{
	return key && (!key->expires_at || proc_wall_ms() < key->expires_at);
}

static int allow(void *arg, const uint8_t pubkey[CURVE_KEY], const char *address, char user[64])
{
	struct serve *s = arg;
	struct key *key = auth_find(s, pubkey);

	if (!good(key)) {
		static struct log_rate rate;

		if (log_rate_pass(&rate))
			log_warn("refused a key", LOG_STR("address", address),
				LOG_STR("why", key ? "expired" : "unknown"));
		return -EACCES;
	}
	(void)str_format(user, 64, "%s", key->name);
	return 0;
}

int auth_open(struct serve *s, struct err *err)
{
	return curve_zap_open(s->loop, s->zctx, allow, s, &s->zap, err);
}

enum role auth_role(const struct serve *s, const struct zpeer *peer)
{
	struct key *key;

	/* The local socket's file mode lets in root alone. */
	if (peer->local)
		return ROLE_ADMIN;
	/* Looked up each time: a role that was taken away is gone at once. */
	key = auth_find(s, peer->pubkey);
	return good(key) ? key->role : ROLE_NONE;
}

static void store_key(struct serve *s, struct key *key, const struct peer *to, Um__Envelope *env)
{
	struct arena a = {0};
	struct store_op op;

	records_key(s, key, &a, &op);
	commit_event(s, to, env, &op, 1);
	arena_free(&a);
}

void auth_revoke(
	struct serve *s, const struct peer *to, Um__Envelope *env, char **hosts, size_t count)
{
	struct store_op *ops = calloc(HASH_COUNT(s->keys_known) + 1, sizeof(*ops));
	struct arena a = {0};
	struct key *key, *next;
	size_t n = 0;

	if (!ops)
		abort();
	HASH_ITER (hh, s->keys_known, key, next)
		for (size_t i = 0; key->role == ROLE_AGENT && i < count; i++) {
			if (strcmp(key->name, hosts[i]) != 0)
				continue;
			key->role = ROLE_REMOVED;
			records_key(s, key, &a, &ops[n++]);
		}
	commit_event(s, to, env, ops, n);
	arena_free(&a);
	free(ops);
}

/* An agent's own key, told under a join token's key. */
void auth_join(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	const Um__JoinRequest *r = env->join_request;
	Um__Envelope reply = wire_env(env->id);
	Um__JoinReply body = UM__JOIN_REPLY__INIT;
	struct err err = ERR_INIT;
	struct key *key;

	if (str_check_name("host name", r->host, &err) < 0) {
		serve_error(s, from, env->id, &err);
		return;
	}
	if (r->pubkey.len != CURVE_KEY) {
		serve_refuse(s, from, env->id, UM__ERROR_CODE__INVALID,
			"pubkey: %zu bytes, a key has %d", r->pubkey.len, CURVE_KEY);
		return;
	}
	key = auth_find(s, r->pubkey.data);
	if (key && key->role != ROLE_AGENT && key->role != ROLE_REMOVED) {
		serve_refuse(s, from, env->id, UM__ERROR_CODE__CONFLICT,
			"this key has another role already (%s)", auth_role_name(key->role));
		return;
	}
	if (auth_add(s, r->pubkey.data, ROLE_AGENT, r->host, 0, &key, &err) < 0) {
		serve_error(s, from, env->id, &err);
		return;
	}
	log_info("a host joins", LOG_STR("host", r->host));
	body.cluster_id = s->cluster_id;
	reply.body_case = UM__ENVELOPE__BODY_JOIN_REPLY;
	reply.join_reply = &body;
	store_key(s, key, from, &reply);
}

static int make_token(struct serve *s, enum role role, uint64_t expires_at,
	char text[CURVE_TOKEN_MAX], struct key **out, struct err *err)
{
	struct curve_token token = {0};
	int rc;

	if (!*s->advertise)
		return err_set(err, -EINVAL,
			"this scheduler listens on no tcp:// endpoint: start it with --listen");
	curve_generate(&token.pair);
	memcpy(token.server_key, s->keys.public_key, CURVE_KEY);
	(void)str_copy(token.endpoint, sizeof(token.endpoint), s->advertise);
	rc = curve_token_text(text, &token, err);
	if (rc == 0)
		rc = auth_add(s, token.pair.public_key, role == ROLE_AGENT ? ROLE_JOIN : role,
			"token", expires_at, out, err);
	curve_wipe(&token.pair);
	return rc;
}

/* What a token may be for. */
static int role_asked(const char *text, enum role *role, struct err *err)
{
	int rc = auth_role_parse(*text ? text : "agent", role, err);

	if (rc == 0 && *role == ROLE_REMOVED)
		rc = err_set(err, -EINVAL,
			"'removed' is what becomes of the keys of hosts, not a "
			"role (agent, viewer, operator, admin)");
	return rc;
}

void auth_token(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	const Um__TokenRequest *r = env->token_request;
	Um__Envelope reply = wire_env(env->id);
	Um__TokenReply body = UM__TOKEN_REPLY__INIT;
	char text[CURVE_TOKEN_MAX];
	struct err err = ERR_INIT;
	struct key *key = NULL;
	enum role role = ROLE_NONE;

	if (role_asked(r->role, &role, &err) < 0 ||
		make_token(s, role, r->ttl_ms ? proc_wall_ms() + r->ttl_ms : 0, text, &key, &err) <
			0) {
		serve_error(s, from, env->id, &err);
		return;
	}
	body.token = text;
	reply.body_case = UM__ENVELOPE__BODY_TOKEN_REPLY;
	reply.token_reply = &body;
	store_key(s, key, from, &reply);
	explicit_bzero(text, sizeof(text));
}

struct first_token {
	char path[600], text[CURVE_TOKEN_MAX + 1];
};

/* The file comes after the key: a token that is there is known for good. */
static void on_first_token(void *arg, int rc, uint64_t revision, const struct err *broken)
{
	struct first_token *first = arg;
	struct err err = ERR_INIT;

	(void)revision;
	(void)broken;
	if (rc == 0 &&
		fs_write_atomic(first->path, first->text, strlen(first->text), 0600, &err) < 0)
		log_error("the join token cannot be written; it is made at the next start",
			LOG_ERR(&err));
	explicit_bzero(first->text, sizeof(first->text));
	free(first);
}

static int first_token(struct serve *s, struct err *err)
{
	struct first_token *first = calloc(1, sizeof(*first));
	struct arena a = {0};
	struct store_op op;
	struct key *key;
	int rc;

	if (!first)
		return err_set(err, -ENOMEM, "memory is short");
	(void)str_format(first->path, sizeof(first->path), "%s/join.token", s->state_dir);
	if (access(first->path, F_OK) == 0) {
		free(first);
		return 0;
	}
	rc = make_token(s, ROLE_AGENT, 0, first->text, &key, err);
	if (rc == 0) {
		first->text[strlen(first->text) + 1] = 0;
		first->text[strlen(first->text)] = '\n';
		records_key(s, key, &a, &op);
		rc = store_txn(s->store, NULL, 0, &op, 1, on_first_token, first, err);
		arena_free(&a);
	}
	if (rc < 0)
		free(first);
	return rc;
}

int auth_first_keys(struct serve *s, struct err *err)
{
	char path[600];
	struct curve_pair admin;
	struct key *key;
	int rc;

	if (str_format(path, sizeof(path), "%s/admin.key", s->state_dir) < 0)
		return err_set(err, -ENAMETOOLONG, "the state folder's path is too long");
	rc = curve_load_or_make(path, &admin, err);
	if (rc < 0)
		return rc;
	if (!auth_find(s, admin.public_key)) {
		rc = auth_add(s, admin.public_key, ROLE_ADMIN, "admin", 0, &key, err);
		if (rc == 0)
			store_key(s, key, NULL, NULL);
	}
	curve_wipe(&admin);
	return rc < 0 || !*s->advertise ? rc : first_token(s, err);
}

void auth_free(struct serve *s)
{
	struct key *key, *next;

	HASH_ITER (hh, s->keys_known, key, next) {
		HASH_DEL(s->keys_known, key);
		free(key);
	}
	curve_zap_close(s->zap);
}
