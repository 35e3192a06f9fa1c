/* Every message from outside: who may send it, and who answers it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/proc.h"
#include "scheduler/serve/serve_int.h"
#include "spec/spec.h"

typedef void handler_fn(struct serve *s, const struct peer *from, const Um__Envelope *env);

static void client_hello(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	Um__Envelope reply = wire_env(env->id);
	Um__ServerInfo info = UM__SERVER_INFO__INIT;
	const char *trouble;

	info.version = (char *)(uintptr_t)UMLAUT_VERSION;
	info.cluster_id = s->cluster_id;
	info.role = (char *)(uintptr_t)auth_role_name(auth_role(s, &from->z));
	info.now = proc_wall_ms();
	info.started_at = s->started_at;
	info.store = (char *)(uintptr_t) "sqlite";
	(void)store_health(s->store, &trouble);
	info.store_trouble = (char *)(uintptr_t)trouble;
	reply.body_case = UM__ENVELOPE__BODY_SERVER_INFO;
	reply.server_info = &info;
	serve_send(s, from, &reply);
}

/* ---------------------------------------------------------------- plans */

#define DETAILED 200  /* guests of a plan for which every change is told */
#define LIVE_MAX 1000 /* kinds of guests of which a plan tells what is only noted */

struct details {
	struct arena *a;
	Um__PlanItem *item;
};

static void add_detail(void *arg, enum spec_effect effect, const char *text)
{
	struct details *d = arg;

	(void)effect;
	if (d->item->n_details < 16)
		d->item->details[d->item->n_details++] = arena_str(d->a, text);
}

/* What of a guest changes: "memory: 64M -> 128M". */
static void tell_changes(struct arena *a, Um__PlanItem *item, const Um__DeploymentSpec *before,
	const Um__DeploymentSpec *after)
{
	struct details d = {a, item};
	const Um__GroupSpec *old, *new;
	uint32_t i;

	old = before ? spec_find_guest(before, item->name, &i) : NULL;
	new = after ? spec_find_guest(after, item->name, &i) : NULL;
	if (!old || !new || !old->guest || !new->guest)
		return;
	(void)spec_guest_diff(old->guest, new->guest, add_detail, &d);
}

static Um__PlanItem *add_item(struct arena *a, Um__Plan *body, const char *kind, const char *name)
{
	Um__PlanItem *item = arena_get(a, sizeof(*item));

	um__plan_item__init(item);
	item->op = UM__PLAN_OP__PLAN_CHANGE;
	item->kind = arena_str(a, kind);
	item->name = arena_str(a, name);
	item->details = (char **)arena_list(a, 17);
	body->items[body->n_items++] = item;
	return item;
}

/* The group that NEW was, when all that changed is noted only. */
static const Um__GroupSpec *live_change(const Um__DeploymentSpec *before, const Um__GroupSpec *new)
{
	const Um__GroupSpec *old = NULL;

	for (size_t i = 0; i < before->n_groups && !old; i++)
		if (strcmp(before->groups[i]->name, new->name) == 0)
			old = before->groups[i];
	if (!old || !old->guest || !new->guest || !old->count_set != !new->count_set ||
		spec_live_hash(old->guest) == spec_live_hash(new->guest) ||
		spec_guest_diff(old->guest, new->guest, NULL, NULL) != SPEC_LIVE)
		return NULL;
	return old;
}

/* What is only noted, and so no change to the core: BODY has room for DETAILED + 1
 * more items. */
static void tell_live(struct arena *a, Um__Plan *body, const Um__DeploymentSpec *before,
	const Um__DeploymentSpec *after)
{
	size_t left = DETAILED;

	if (!before || !after || before->n_groups > LIVE_MAX || after->n_groups > LIVE_MAX)
		return;
	if (!before->gang != !after->gang) {
		Um__PlanItem *item = add_item(a, body, "deployment", after->name);

		item->details[item->n_details++] =
			arena_str(a, after->gang ? "gang: false -> true" : "gang: true -> false");
	}
	for (size_t i = 0; left && i < after->n_groups; i++) {
		const Um__GroupSpec *new = after->groups[i], *old = live_change(before, new);
		uint32_t size = spec_group_size(new);
		struct details d = {.a = a};

		if (!old)
			continue;
		d.item = add_item(a, body, "guest", new->name);
		(void)spec_guest_diff(old->guest, new->guest, add_detail, &d);
		d.item->details[d.item->n_details++] = arena_str(a, "nothing restarts");
		body->unchanged -= size < body->unchanged ? size : body->unchanged;
		left--;
	}
}

/* What does not fit: the sum of it, then each group where there are several. */
static void tell_warnings(struct arena *a, const struct core_plan *plan, Um__Plan *body)
{
	static const char no_host[] = "no host: ";
	bool several = plan->short_count > 1;
	char text[CORE_REASON * 3];

	body->warnings = (char **)arena_list(a, plan->short_count + 2);
	if (*plan->warning) {
		const char *end = several ? strstr(plan->warning, ": ") : NULL;

		/* Behind it is the first group's reason, which follows anyway. */
		(void)snprintf(text, sizeof(text), "%.*s",
			(int)(end ? (size_t)(end - plan->warning) : strlen(plan->warning)),
			plan->warning);
		body->warnings[body->n_warnings++] = arena_str(a, text);
	}
	for (size_t i = 0; several && i < plan->short_count; i++) {
		const struct core_short *s = &plan->shorts[i];
		const char *why = s->why;

		if (str_starts(why, no_host))
			why += strlen(no_host);
		(void)snprintf(text, sizeof(text), "%s: %u of %u have no host: %s", s->group,
			s->missing, s->wanted, why);
		body->warnings[body->n_warnings++] = arena_str(a, text);
	}
	if (plan->short_more) {
		(void)snprintf(text, sizeof(text),
			"and guests of %zu more group%s have no host ('clusterctl get guests' and "
			"'clusterctl why GUEST' tell of each)",
			plan->short_more, plan->short_more == 1 ? "" : "s");
		body->warnings[body->n_warnings++] = arena_str(a, text);
	}
}

static void send_plan(struct serve *s, const struct peer *to, uint64_t id, const char *deployment,
	const struct core_plan *plan, bool applied, const Um__DeploymentSpec *before,
	const Um__DeploymentSpec *after)
{
	static const Um__PlanOp ops[] = {
		[CORE_UNCHANGED] = UM__PLAN_OP__PLAN_UNCHANGED,
		[CORE_CREATE] = UM__PLAN_OP__PLAN_CREATE,
		[CORE_CHANGE] = UM__PLAN_OP__PLAN_CHANGE,
		[CORE_REPLACE] = UM__PLAN_OP__PLAN_REPLACE,
		[CORE_DELETE] = UM__PLAN_OP__PLAN_DELETE,
	};
	const struct core_deployment *d = core_deployment(s->core, deployment);
	Um__Envelope reply = wire_env(id);
	Um__Plan body = UM__PLAN__INIT;
	struct arena a = {0};
	unsigned told = 0;

	body.deployment = arena_str(&a, deployment);
	body.items = (Um__PlanItem **)arena_list(&a, plan->count + DETAILED + 1);
	for (size_t i = 0; i < plan->count; i++) {
		const struct core_plan_item *from = &plan->items[i];
		Um__PlanItem *item = arena_get(&a, sizeof(*item));

		um__plan_item__init(item);
		item->op = ops[from->op];
		item->kind = arena_str(&a, from->network ? "network" : "guest");
		item->name = arena_str(&a, from->name);
		item->details = (char **)arena_list(&a, 17);
		if (!from->network && told < DETAILED &&
			(from->op == CORE_CHANGE || from->op == CORE_REPLACE)) {
			tell_changes(&a, item, before, after);
			told++;
		}
		if (*from->detail) {
			/* With the changes told, only what they cost is left to say. */
			const char *cost = item->n_details ? strrchr(from->detail, ';') : NULL;

			item->details[item->n_details++] =
				arena_str(&a, cost ? cost + 2 : from->detail);
		}
		body.items[body.n_items++] = item;
	}
	body.unchanged = plan->unchanged;
	tell_live(&a, &body, before, after);
	body.applied = applied;
	body.revision = d ? d->revision : 0;
	tell_warnings(&a, plan, &body);
	reply.body_case = UM__ENVELOPE__BODY_PLAN;
	reply.plan = &body;
	if (applied)
		commit_event(s, to, &reply, NULL, 0);
	else
		commit_reply(s, to, &reply);
	arena_free(&a);
}

static void send_spec_errors(
	struct serve *s, const struct peer *to, uint64_t id, const struct spec_errors *errors)
{
	Um__Envelope reply = wire_env(id);
	Um__Error error = UM__ERROR__INIT;
	struct arena a = {0};
	char text[80];

	(void)snprintf(
		text, sizeof(text), "the lab has %zu errors", errors->count + errors->dropped);
	error.code = UM__ERROR_CODE__INVALID;
	error.message = text;
	error.details = (Um__FieldError **)arena_list(&a, errors->count);
	for (size_t i = 0; i < errors->count; i++) {
		Um__FieldError *f = arena_get(&a, sizeof(*f));

		um__field_error__init(f);
		f->path = errors->items[i].path;
		f->message = errors->items[i].message;
		error.details[error.n_details++] = f;
	}
	reply.body_case = UM__ENVELOPE__BODY_ERROR;
	reply.error = &error;
	commit_reply(s, to, &reply);
	arena_free(&a);
}

static void apply(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	const Um__ApplyRequest *r = env->apply_request;
	struct spec_errors errors;
	struct core_apply wanted = {0};
	struct core_plan plan = {0};
	struct err err = ERR_INIT;
	Um__DeploymentSpec *spec, *before = NULL;
	int rc;

	if (!r->spec) {
		serve_refuse(s, from, env->id, UM__ERROR_CODE__INVALID, "spec is missing");
		return;
	}
	spec_errors_init(&errors);
	spec = wire_copy(&r->spec->base);
	rc = spec ? spec_defaults(spec, &err) : err_set(&err, -ENOMEM, "memory is short");
	if (rc == 0) {
		rc = spec_check(spec, &errors);
		if (rc > 0) {
			send_spec_errors(s, from, env->id, &errors);
			goto out;
		}
	}
	if (rc == 0)
		rc = labs_convert(s, spec, &wanted, &err);
	if (rc == 0)
		rc = core_apply(s->core, &wanted, r->dry_run, proc_wall_ms(), &plan, &s->out, &err);
	if (rc < 0) {
		if (!s->out.failed)
			core_out_reset(&s->out);
		serve_error(s, from, env->id, &err);
		goto out;
	}
	if (labs_spec(s, wanted.name))
		before = wire_copy(&labs_spec(s, wanted.name)->base);
	if (!r->dry_run) {
		/* Before the commit: the messages to agents are made of it. */
		(void)labs_set(s, spec, &err);
		spec = NULL;
	}
	send_plan(s, from, env->id, wanted.name, &plan, !r->dry_run, before,
		spec ? spec : labs_spec(s, wanted.name));
out:
	if (before)
		um__deployment_spec__free_unpacked(before, NULL);
	if (spec)
		um__deployment_spec__free_unpacked(spec, NULL);
	spec_errors_free(&errors);
	labs_apply_free(&wanted);
	core_plan_free(&plan);
}

static void delete (struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	const Um__DeleteRequest *r = env->delete_request;
	struct core_plan plan = {0};
	struct err err = ERR_INIT;

	if (core_delete(s->core, r->deployment, r->dry_run, proc_wall_ms(), &plan, &s->out, &err) <
		0)
		serve_error(s, from, env->id, &err);
	else
		send_plan(s, from, env->id, r->deployment, &plan, !r->dry_run, NULL, NULL);
	core_plan_free(&plan);
}

/* ---------------------------------------------------------------- the table */

#define ANY_ROLE (1u << ROLE_AGENT | 1u << ROLE_VIEWER | 1u << ROLE_OPERATOR | 1u << ROLE_ADMIN)
#define READERS (1u << ROLE_VIEWER | 1u << ROLE_OPERATOR | 1u << ROLE_ADMIN)
#define WRITERS (1u << ROLE_OPERATOR | 1u << ROLE_ADMIN)
#define ADMINS (1u << ROLE_ADMIN)
#define AGENTS (1u << ROLE_AGENT | 1u << ROLE_ADMIN)
#define JOINERS (1u << ROLE_JOIN | 1u << ROLE_ADMIN)

/* HANDLER NULL: one of the relays takes it. */
static const struct entry {
	Um__Envelope__BodyCase body;
	unsigned roles;
	handler_fn *handler;
} table[] = {
	{UM__ENVELOPE__BODY_JOIN_REQUEST, JOINERS, auth_join},
	{UM__ENVELOPE__BODY_AGENT_HELLO, AGENTS, NULL},
	{UM__ENVELOPE__BODY_HEARTBEAT, AGENTS, NULL},
	{UM__ENVELOPE__BODY_OBSERVED, AGENTS, NULL},
	{UM__ENVELOPE__BODY_RESYNC_REQUEST, AGENTS, NULL},
	{UM__ENVELOPE__BODY_CLIENT_HELLO, READERS, client_hello},
	{UM__ENVELOPE__BODY_APPLY_REQUEST, WRITERS, apply},
	{UM__ENVELOPE__BODY_DELETE_REQUEST, WRITERS, delete},
	{UM__ENVELOPE__BODY_GUEST_ACTION, WRITERS, actions_guest},
	{UM__ENVELOPE__BODY_HOST_ACTION, WRITERS, actions_host},
	{UM__ENVELOPE__BODY_MIGRATE_REQUEST, WRITERS, moves_migrate},
	{UM__ENVELOPE__BODY_DRAIN_REQUEST, WRITERS, drains_request},
	{UM__ENVELOPE__BODY_PRUNE_REQUEST, WRITERS, orphans_prune_asked},
	{UM__ENVELOPE__BODY_GET_REQUEST, READERS, watch_get},
	{UM__ENVELOPE__BODY_TOKEN_REQUEST, ADMINS, auth_token},
	{UM__ENVELOPE__BODY_WHY_REQUEST, READERS, rules_why},
	{UM__ENVELOPE__BODY_ARTEFACT_ADD, WRITERS, NULL},
	{UM__ENVELOPE__BODY_CHUNK_DATA, WRITERS, NULL},
	{UM__ENVELOPE__BODY_ARTEFACT_COMMIT, WRITERS, NULL},
	{UM__ENVELOPE__BODY_ARTEFACT_REMOVE, WRITERS, artefacts_remove},
	{UM__ENVELOPE__BODY_MANIFEST_GET, ANY_ROLE, NULL},
	{UM__ENVELOPE__BODY_CHUNK_GET, ANY_ROLE, NULL},
	{UM__ENVELOPE__BODY_STREAM_OPEN, WRITERS, NULL},
	{UM__ENVELOPE__BODY_STREAM_OPENED, AGENTS, NULL},
	{UM__ENVELOPE__BODY_STREAM_DATA, WRITERS | AGENTS, NULL},
	{UM__ENVELOPE__BODY_STREAM_CREDIT, WRITERS | AGENTS, NULL},
	{UM__ENVELOPE__BODY_STREAM_CONTROL, WRITERS, NULL},
	{UM__ENVELOPE__BODY_STREAM_END, WRITERS | AGENTS, NULL},
	{UM__ENVELOPE__BODY_ERROR, AGENTS, NULL},
};

static bool is_agent(const struct serve *s, const struct peer *from)
{
	struct agent *agent;

	HASH_FIND(hh_peer, s->agents_by_peer, from->z.id, (unsigned)from->z.id_size, agent);
	return agent != NULL;
}

void api_message(void *arg, struct zsock *sock, const struct zpeer *z, const Um__Envelope *env,
	const void *bulk, size_t bulk_size)
{
	struct serve *s = arg;
	struct peer from = {.sock = sock, .z = *z};
	enum role role = auth_role(s, z);

	if (s->broken)
		return;
	s->asked_us = proc_wall_us();
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		const struct entry *e = &table[i];

		if (e->body != env->body_case)
			continue;
		if (!(e->roles & 1u << role)) {
			if (role == ROLE_REMOVED)
				serve_refuse(
					s, &from, env->id, UM__ERROR_CODE__REMOVED, AUTH_REMOVED);
			else
				serve_refuse(s, &from, env->id, UM__ERROR_CODE__DENIED,
					"the role '%s' may not send %s", auth_role_name(role),
					wire_body_name(env->body_case));
			return;
		}
		if (frozen_message(s, &from, env))
			return;
		if (e->handler) {
			e->handler(s, &from, env);
			return;
		}
		if (agents_message(s, &from, env) ||
			streams_message(s, &from, env, is_agent(s, &from)) ||
			artefacts_message(s, &from, env, bulk, bulk_size))
			return;
		break;
	}
	/* An Error or Ok that answers nothing must not be answered. */
	if (env->body_case == UM__ENVELOPE__BODY_ERROR || env->body_case == UM__ENVELOPE__BODY_OK)
		return;
	serve_refuse(s, &from, env->id, UM__ERROR_CODE__INVALID,
		"%s is not a message for the scheduler", wire_body_name(env->body_case));
}

void api_bad(
	void *arg, struct zsock *sock, const struct zpeer *z, uint64_t id, const struct err *err)
{
	static struct log_rate rate;
	struct serve *s = arg;
	struct peer from = {.sock = sock, .z = *z};

	if (log_rate_pass(&rate))
		log_warn("refused a message", LOG_STR("user", z->user), LOG_ERR(err));
	serve_error(s, &from, id, err);
}
