/* What is done to guests and hosts by name: start, stop, restart, recover; cordon, uncordon,
 * host rm.  The answer says what came of it where that is not the same each time. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/proc.h"
#include "scheduler/core/drain.h"
#include "scheduler/serve/serve_int.h"

#define FAILED_MAX 20u /* that are told, with their reasons */
#define LINE 640

struct doing {
	struct serve *s;
	struct arena a;
	Um__Ok ok;
	size_t done_room, failed_room;
	size_t done, failed;
	struct err first;    /* of those that failed */
	const char *only_on; /* the host that the user knows to be off; "": not said */
};

static void add_line(struct doing *d, char ***list, size_t *count, size_t *room, const char *text)
{
	char **more;

	if (*count == *room) {
		*room = *room ? *room * 2 : 8;
		more = (char **)arena_list(&d->a, *room);
		if (*count)
			memcpy(more, *list, *count * sizeof(*more));
		*list = more;
	}
	(*list)[(*count)++] = arena_str(&d->a, text);
}

static void say(struct doing *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct doing *d, const char *fmt, ...)
{
	char text[LINE];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	add_line(d, &d->ok.done, &d->ok.n_done, &d->done_room, text);
}

static void failed(struct doing *d, const struct err *err)
{
	if (!d->failed++)
		d->first = *err;
	if (d->failed <= FAILED_MAX)
		add_line(d, &d->ok.failed, &d->ok.n_failed, &d->failed_room, err_msg(err));
}

static void begin(struct doing *d, struct serve *s)
{
	*d = (struct doing){.s = s, .only_on = ""};
	um__ok__init(&d->ok);
}

/* What was done is told with what was not; nothing done is a failure. */
static void answer(
	struct doing *d, const struct peer *from, uint64_t id, char **revoke, size_t revoke_count)
{
	Um__Envelope reply = wire_env(id);
	bool refused = d->failed && !d->done;
	char text[LINE];

	reply.body_case = UM__ENVELOPE__BODY_OK;
	reply.ok = &d->ok;
	if (d->failed > FAILED_MAX && !refused) {
		(void)snprintf(text, sizeof(text), "and %zu others", d->failed - FAILED_MAX);
		add_line(d, &d->ok.failed, &d->ok.n_failed, &d->failed_room, text);
	}
	if (d->failed > 1 && refused) {
		(void)str_format(text, sizeof(text), "%s", err_msg(&d->first));
		(void)err_set(
			&d->first, d->first.code, "%.400s (and %zu others)", text, d->failed - 1);
	}
	if (revoke_count)
		auth_revoke(
			d->s, refused ? NULL : from, refused ? NULL : &reply, revoke, revoke_count);
	else
		commit_event(d->s, refused ? NULL : from, refused ? NULL : &reply, NULL, 0);
	if (refused)
		serve_error(d->s, from, id, &d->first);
	arena_free(&d->a);
}

/* ---------------------------------------------------------------- guests */

static enum core_verb verb_of(const Um__GuestAction *r)
{
	return r->verb == UM__GUEST_VERB__GUEST_STOP	  ? CORE_STOP
	       : r->verb == UM__GUEST_VERB__GUEST_RESTART ? CORE_RESTART
	       : r->verb == UM__GUEST_VERB__GUEST_RECOVER ? CORE_RECOVER
							  : CORE_START;
}

static bool is_there(const struct doing *d, const struct core_guest *g)
{
	return !*d->only_on || (g->host && strcmp(g->host->name, d->only_on) == 0);
}

static void act(struct doing *d, const struct core_guest *g, enum core_verb verb)
{
	const struct core_host *was = g->host;
	struct err err = ERR_INIT;

	if (!is_there(d, g)) {
		(void)err_set(&err, -EBUSY, "guest %s is %s%s, not on %.60s", g->name,
			g->host ? "on host " : "on no host", g->host ? g->host->name : "",
			d->only_on);
		failed(d, &err);
		return;
	}
	if (core_guest_verb(d->s->core, g->uid, verb, proc_wall_ms(), &d->s->out, &err) < 0) {
		failed(d, &err);
		return;
	}
	d->done++;
	if (verb == CORE_RECOVER)
		say(d,
			"%s starts %s%s, from its image; make sure that %s is off: if it is only "
			"cut off, the guest may run there as well until it is back",
			g->name, g->host ? "on " : "elsewhere", g->host ? g->host->name : "",
			was->name);
}

static bool is_all(const char *name)
{
	size_t n = strlen(name);

	return n >= 3 && strcmp(name + n - 2, "/*") == 0;
}

static const struct core_deployment *all_of(
	const struct serve *s, const char *name, struct err *err)
{
	const struct core_deployment *d = NULL;
	char deployment[CORE_NAME];

	if (str_format(deployment, sizeof(deployment), "%.*s", (int)strlen(name) - 2, name) >= 0)
		d = core_deployment(s->core, deployment);
	if (!d)
		(void)err_set(err, -ENOENT, "no deployment '%.60s'", name);
	return d;
}

static void act_on_all(
	struct doing *d, const struct core_deployment *deployment, enum core_verb verb)
{
	const char *which = *d->only_on ? "the lost host " : "a lost host";
	const struct core_group *group;
	const struct core_guest *g;
	size_t left = 0, before = d->done + d->failed;
	struct err err = ERR_INIT;

	DL_FOREACH (deployment->groups, group)
		DL_FOREACH2(group->guests, g, group_next)
		{
			/* It is meant for those that wait for a lost host. */
			if (verb == CORE_RECOVER &&
				(!g->host || !is_there(d, g) || g->host->state != CORE_HOST_LOST))
				left++;
			else
				act(d, g, verb);
		}
	if (verb != CORE_RECOVER)
		return;
	if (d->done + d->failed == before) {
		(void)err_set(&err, -EBUSY, "no guest of '%s' is on %s%.60s", deployment->name,
			which, d->only_on);
		failed(d, &err);
	} else if (left) {
		say(d, "%zu others of '%s' are not on %s%s and were left alone", left,
			deployment->name, which, d->only_on);
	}
}

/* All names are looked up first: none is acted on when one is wrong. */
static bool all_known(
	struct serve *s, const struct peer *from, uint64_t id, const Um__GuestAction *r)
{
	struct err err = ERR_INIT;

	for (size_t i = 0; i < r->n_guests; i++) {
		const char *name = r->guests[i];

		if (is_all(name) ? all_of(s, name, &err) != NULL
				 : serve_find_guest(s, name, &err) != NULL)
			continue;
		serve_error(s, from, id, &err);
		return false;
	}
	return true;
}

void actions_guest(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	const Um__GuestAction *r = env->guest_action;
	struct err err = ERR_INIT;
	struct doing d;

	if (*r->host && !core_host(s->core, r->host)) {
		(void)err_set(&err, -ENOENT, "no host '%.60s'", r->host);
		serve_error(s, from, env->id, &err);
		return;
	}
	if (!all_known(s, from, env->id, r))
		return;
	begin(&d, s);
	d.only_on = r->host;
	for (size_t i = 0; i < r->n_guests; i++) {
		if (is_all(r->guests[i]))
			act_on_all(&d, all_of(s, r->guests[i], NULL), verb_of(r));
		else
			act(&d, serve_find_guest(s, r->guests[i], NULL), verb_of(r));
	}
	answer(&d, from, env->id, NULL, 0);
}

/* ---------------------------------------------------------------- hosts */

static int cordon(struct doing *d, const struct core_host *host, bool cordoned, struct err *err)
{
	bool was = host->cordoned, drained = host->drain && host->drain->ended_at,
	     draining = host->drain && !drained;
	int rc = core_cordon(d->s->core, host->name, cordoned, proc_wall_ms(), &d->s->out, err);

	if (rc < 0)
		return rc;
	if (cordoned)
		say(d, "%s %s (guests there: %u, they go on)", host->name,
			was ? "takes no guests already" : "takes no more guests",
			host->guest_count);
	else
		say(d, "%s %s%s", host->name, was ? "takes guests again" : "takes guests already",
			draining ? "; its drain was cancelled" : "");
	return 0;
}

static int remove_host(struct doing *d, const char *host, bool force, struct err *err)
{
	uint32_t guests = core_host(d->s->core, host)->guest_count;
	int rc = core_host_remove(d->s->core, host, force, proc_wall_ms(), &d->s->out, err);

	if (rc < 0)
		return rc;
	if (force)
		say(d,
			"%s is removed; guests that start elsewhere, from their images: %u; make "
			"sure that it is off: if it is only cut off, they may run there as well "
			"until its agent is told",
			host, guests);
	else
		say(d, "%s is removed; it may join again", host);
	return 0;
}

static int act_on_host(struct doing *d, const char *host, const Um__HostAction *r, struct err *err)
{
	switch (r->verb) {
	case UM__HOST_VERB__HOST_CORDON:
		return cordon(d, core_host(d->s->core, host), true, err);
	case UM__HOST_VERB__HOST_UNCORDON:
		return cordon(d, core_host(d->s->core, host), false, err);
	case UM__HOST_VERB__HOST_REMOVE:
		return remove_host(d, host, r->force, err);
	default:
		return err_set(err, -EINVAL, "this is done to no host");
	}
}

static bool named_before(const Um__HostAction *r, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (strcmp(r->hosts[k], r->hosts[i]) == 0)
			return true;
	return false;
}

/* All are judged first: none is removed when one may not be. */
static bool all_may(struct serve *s, const struct peer *from, uint64_t id, const Um__HostAction *r)
{
	struct err err = ERR_INIT;

	for (size_t i = 0; i < r->n_hosts; i++) {
		if (!core_host(s->core, r->hosts[i]))
			(void)err_set(&err, -ENOENT, "no host '%.80s'", r->hosts[i]);
		else if (r->verb != UM__HOST_VERB__HOST_REMOVE ||
			 core_host_removable(s->core, r->hosts[i], r->force, &err) == 0)
			continue;
		serve_error(s, from, id, &err);
		return false;
	}
	return true;
}

void actions_host(struct serve *s, const struct peer *from, const Um__Envelope *env)
{
	const Um__HostAction *r = env->host_action;
	bool revoke = r->verb == UM__HOST_VERB__HOST_REMOVE && r->force;
	struct err err = ERR_INIT;
	char **done;
	struct doing d;

	if (!all_may(s, from, env->id, r))
		return;
	begin(&d, s);
	done = (char **)arena_list(&d.a, r->n_hosts + 1);
	for (size_t i = 0; i < r->n_hosts; i++) {
		if (named_before(r, i))
			continue;
		if (act_on_host(&d, r->hosts[i], r, &err) < 0) {
			failed(&d, &err);
			break;
		}
		done[d.done++] = r->hosts[i];
	}
	/* Of those that were removed, whatever became of the others. */
	answer(&d, from, env->id, done, revoke ? d.done : 0);
}
