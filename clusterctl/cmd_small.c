/* start, stop, restart, cordon, uncordon, host, token, version. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "clusterctl/ctl.h"
#include "lib/units.h"

#define CALL_MS 60000u

/* What came of it, where the scheduler says so. */
static int on_ok(void *arg, const Um__Envelope *env)
{
	int *rc = arg;

	if (env->body_case != UM__ENVELOPE__BODY_OK)
		return -EPROTO;
	for (size_t i = 0; i < env->ok->n_done; i++)
		(void)puts(env->ok->done[i]);
	(void)fflush(stdout);
	for (size_t i = 0; i < env->ok->n_failed; i++)
		*rc = ctl_fail(EXIT_FAILED, "%s", env->ok->failed[i]);
	return 0;
}

static int act(struct ctl *ctl, Um__Envelope *env)
{
	struct err err = ERR_INIT;
	int done = EXIT_OK;

	return ctl_call(ctl, env, CALL_MS, on_ok, &done, &err) < 0 ? ctl_fail_err(&err) : done;
}

static int guest_verb(struct ctl *ctl, int argc, char **argv, Um__GuestVerb verb)
{
	bool recover = verb == UM__GUEST_VERB__GUEST_RECOVER, discard = false;
	const char *host = "";
	const struct opt opts[] = {{recover ? OPT_FLAG : OPT_END, "discard-disk", 0, &discard},
		{OPT_TEXT, "host", 0, &host}, OPT_LAST};
	Um__Envelope env = wire_env(0);
	Um__GuestAction r = UM__GUEST_ACTION__INIT;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	if (n < 2)
		return ctl_usage(ctl, "which guest? (DEPLOYMENT/GUEST, or 'DEPLOYMENT/*' for all)");
	if (recover && !discard)
		return ctl_usage(ctl, "what is on its disk stays on the lost host, for as long as "
				      "that has it: say --discard-disk to start it elsewhere "
				      "without, when you know that the host is off");
	rc = ctl_connect(ctl);
	if (rc)
		return rc;
	r.guests = argv + 1;
	r.n_guests = (size_t)(n - 1);
	r.verb = verb;
	r.host = (char *)(uintptr_t)host;
	env.body_case = UM__ENVELOPE__BODY_GUEST_ACTION;
	env.guest_action = &r;
	return act(ctl, &env);
}

int cmd_start(struct ctl *ctl, int argc, char **argv)
{
	return guest_verb(ctl, argc, argv, UM__GUEST_VERB__GUEST_START);
}

int cmd_stop(struct ctl *ctl, int argc, char **argv)
{
	return guest_verb(ctl, argc, argv, UM__GUEST_VERB__GUEST_STOP);
}

int cmd_restart(struct ctl *ctl, int argc, char **argv)
{
	return guest_verb(ctl, argc, argv, UM__GUEST_VERB__GUEST_RESTART);
}

int cmd_recover(struct ctl *ctl, int argc, char **argv)
{
	return guest_verb(ctl, argc, argv, UM__GUEST_VERB__GUEST_RECOVER);
}

static int host_verb(struct ctl *ctl, char **hosts, size_t count, Um__HostVerb verb, bool force)
{
	Um__Envelope env = wire_env(0);
	Um__HostAction r = UM__HOST_ACTION__INIT;
	int rc = ctl_connect(ctl);

	if (rc)
		return rc;
	r.hosts = hosts;
	r.n_hosts = count;
	r.verb = verb;
	r.force = force;
	env.body_case = UM__ENVELOPE__BODY_HOST_ACTION;
	env.host_action = &r;
	return act(ctl, &env);
}

static int cordon(struct ctl *ctl, int argc, char **argv, Um__HostVerb verb)
{
	const struct opt opts[] = {OPT_LAST};
	int n = opt_parse(ctl, argc, argv, opts, NULL);

	if (n < 0)
		return -n;
	if (n < 2)
		return ctl_usage(ctl, "which host?");
	return host_verb(ctl, argv + 1, (size_t)(n - 1), verb, false);
}

int cmd_cordon(struct ctl *ctl, int argc, char **argv)
{
	return cordon(ctl, argc, argv, UM__HOST_VERB__HOST_CORDON);
}

int cmd_uncordon(struct ctl *ctl, int argc, char **argv)
{
	return cordon(ctl, argc, argv, UM__HOST_VERB__HOST_UNCORDON);
}

int cmd_host(struct ctl *ctl, int argc, char **argv)
{
	bool force = false;
	const struct opt opts[] = {{OPT_FLAG, "force", 0, &force}, OPT_LAST};
	int n = opt_parse(ctl, argc, argv, opts, NULL);

	if (n < 0)
		return -n;
	if (n < 3 || strcmp(argv[1], "rm") != 0)
		return ctl_usage(ctl, "host rm HOST... [--force]");
	return host_verb(ctl, argv + 2, (size_t)(n - 2), UM__HOST_VERB__HOST_REMOVE, force);
}

static int print_token(void *arg, const Um__Envelope *env)
{
	(void)arg;
	if (env->body_case == UM__ENVELOPE__BODY_TOKEN_REPLY)
		(void)puts(env->token_reply->token);
	return 0;
}

int cmd_token(struct ctl *ctl, int argc, char **argv)
{
	const char *role = "agent", *ttl = NULL;
	const struct opt opts[] = {
		{OPT_TEXT, "role", 0, &role}, {OPT_TEXT, "ttl", 0, &ttl}, OPT_LAST};
	Um__Envelope env = wire_env(0);
	Um__TokenRequest r = UM__TOKEN_REQUEST__INIT;
	struct err err = ERR_INIT;
	uint64_t ms = 0;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	if (n != 2 || strcmp(argv[1], "create") != 0)
		return ctl_usage(ctl, "token create [--role ROLE] [--ttl TIME]");
	if (ttl && (units_parse_duration(ttl, &ms, &err) < 0 || ms > UINT32_MAX))
		return ctl_usage(ctl, "--ttl: %s", err.code ? err_msg(&err) : "at most 49 days");
	rc = ctl_connect(ctl);
	if (rc)
		return rc;
	r.role = (char *)(uintptr_t)role;
	r.ttl_ms = (uint32_t)ms;
	env.body_case = UM__ENVELOPE__BODY_TOKEN_REQUEST;
	env.token_request = &r;
	return ctl_call(ctl, &env, CALL_MS, print_token, NULL, &err) < 0 ? ctl_fail_err(&err)
									 : EXIT_OK;
}

static int print_info(void *arg, const Um__Envelope *env)
{
	const Um__ServerInfo *s = env->server_info;
	char age[32];

	(void)arg;
	if (env->body_case != UM__ENVELOPE__BODY_SERVER_INFO)
		return 0;
	(void)printf("scheduler  %s, up %s, store %s\ncluster    %s\nrole       %s\n", s->version,
		out_age(age, s->started_at), s->store, s->cluster_id, s->role);
	if (*s->store_trouble)
		(void)printf("trouble    %s\n", s->store_trouble);
	return 0;
}

int cmd_version(struct ctl *ctl, int argc, char **argv)
{
	bool client = false;
	const struct opt opts[] = {{OPT_FLAG, "client", 0, &client}, OPT_LAST};
	Um__Envelope env = wire_env(0);
	Um__ClientHello hello = UM__CLIENT_HELLO__INIT;
	struct err err = ERR_INIT;
	int n = opt_parse(ctl, argc, argv, opts, NULL), rc;

	if (n < 0)
		return -n;
	(void)printf("clusterctl %s, protocol %u.%u\n", UMLAUT_VERSION, WIRE_MAJOR, WIRE_MINOR);
	if (client)
		return EXIT_OK;
	rc = ctl_connect(ctl);
	if (rc)
		return rc;
	hello.version = (char *)(uintptr_t)UMLAUT_VERSION;
	env.body_case = UM__ENVELOPE__BODY_CLIENT_HELLO;
	env.client_hello = &hello;
	return ctl_call(ctl, &env, CALL_MS, print_info, NULL, &err) < 0 ? ctl_fail_err(&err)
									: EXIT_OK;
}
