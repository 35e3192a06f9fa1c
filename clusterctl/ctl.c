#include "clusterctl/ctl.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/curve.h"
#include "lib/str.h"

#define CONNECT_MS 5000u
#define HELLO_MS 10000u
#define RETRY_MS 20u

int ctl_fail(int code, const char *fmt, ...)
{
	va_list ap;

	(void)fflush(stdout);
	(void)fprintf(stderr, "clusterctl: ");
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fputc('\n', stderr);
	return code;
}

int ctl_fail_err(const struct err *err)
{
	int code = EXIT_FAILED;

	switch (err->code) {
	case -ENOENT:
		code = EXIT_NOT_FOUND;
		break;
	case -ETIMEDOUT:
		code = EXIT_TIMEOUT;
		break;
	case -EACCES:
	case -EPERM:
		code = EXIT_DENIED;
		break;
	case -ECONNREFUSED:
	case -ECONNRESET:
		code = EXIT_UNREACHABLE;
		break;
	default:
		break;
	}
	return ctl_fail(code, "%s", err_msg(err));
}

int ctl_usage(const struct ctl *ctl, const char *fmt, ...)
{
	const char *verb = ctl->verb ? ctl->verb->name : "help";
	va_list ap;

	(void)fprintf(stderr, "clusterctl %s: ", verb);
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fprintf(stderr, "\nTry 'clusterctl %s --help'.\n", verb);
	return EXIT_USAGE;
}

/* ---------------------------------------------------------------- connection */

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct ctl *ctl = arg;

	(void)sock;
	(void)peer;
	if (rpc_deliver(ctl->rpc, env, bulk, bulk_size))
		return;
	if (ctl->on_stray)
		ctl->on_stray(ctl->stray_arg, env);
}

static void on_bad(
	void *arg, struct zsock *sock, const struct zpeer *peer, uint64_t id, const struct err *err)
{
	struct ctl *ctl = arg;

	(void)sock;
	(void)peer;
	(void)id;
	(void)str_format(ctl->refused, sizeof(ctl->refused), "%.180s", err_msg(err));
	loop_stop(ctl->loop);
}

static void on_state(void *arg, struct zsock *sock, bool up, const char *detail)
{
	struct ctl *ctl = arg;

	(void)sock;
	ctl->up = up;
	if (!up && strcmp(detail, "disconnected") != 0)
		(void)str_format(ctl->refused, sizeof(ctl->refused), "%.180s", detail);
	if (!up)
		ctl->downs++;
	if (up || *ctl->refused || ctl->greeted)
		loop_stop(ctl->loop);
}

static void on_signal(void *arg, int signum)
{
	struct ctl *ctl = arg;

	(void)signum;
	ctl->interrupted = true;
	loop_stop(ctl->loop);
}

static void on_timeout(void *arg)
{
	struct ctl *ctl = arg;

	loop_stop(ctl->loop);
}

struct client_signals {
	struct loop_signal *intr, *term;
	struct loop_timer *timer;
};
static struct client_signals *signals_of(struct ctl *ctl);

static int open_loop(struct ctl *ctl, struct err *err)
{
	struct client_signals *sig = signals_of(ctl);
	int rc = loop_new(&ctl->loop, err);

	if (rc == 0)
		rc = zctx_new(&ctl->zctx, err);
	if (rc == 0)
		rc = rpc_new(ctl->loop, &ctl->rpc, err);
	if (rc == 0)
		rc = loop_signal_open(ctl->loop, SIGINT, on_signal, ctl, &sig->intr, err);
	if (rc == 0)
		rc = loop_signal_open(ctl->loop, SIGTERM, on_signal, ctl, &sig->term, err);
	if (rc == 0)
		rc = loop_timer_open(ctl->loop, "connect", on_timeout, ctl, &sig->timer, err);
	return rc;
}

/* One per process, as ctl is. */
static struct client_signals *signals_of(struct ctl *ctl)
{
	static struct client_signals only;

	(void)ctl;
	return &only;
}

int ctl_reach(struct ctl *ctl)
{
	static const struct zsock_ops ops = {
		.on_message = on_message, .on_bad = on_bad, .on_state = on_state};
	struct zsock_config config = {.type = ZSOCK_DEALER, .name = "scheduler"};
	struct curve_pair keys;
	struct context context;
	struct err err = ERR_INIT;

	if (ctl->sock)
		return 0;
	if (context_find(ctl, &context, &err) < 0)
		return ctl_fail(EXIT_USAGE, "%s", err_msg(&err));
	(void)str_copy(ctl->endpoint, sizeof(ctl->endpoint), context.endpoint);
	if (context.has_pair)
		keys = context.pair;
	if (*context.key_file || context.has_pair) {
		if (!context.has_pair && curve_load_or_make(context.key_file, &keys, &err) < 0)
			return ctl_fail_err(&err);
		config.secret_key = keys.secret_key;
		config.public_key = keys.public_key;
		config.server_key = context.server_key;
	}
	if (open_loop(ctl, &err) < 0 ||
		zsock_open(ctl->loop, ctl->zctx, &config, &ops, ctl, &ctl->sock, &err) < 0 ||
		zsock_connect(ctl->sock, context.endpoint, &err) < 0)
		return ctl_fail_err(&err);
	loop_timer_arm(signals_of(ctl)->timer, CONNECT_MS);
	(void)loop_run(ctl->loop, NULL);
	loop_timer_disarm(signals_of(ctl)->timer);
	if (ctl->interrupted)
		return 130;
	/* As ZAP says it, RFC 27: 400 is a key that is not known. */
	if (!ctl->up && strstr(ctl->refused, "ZAP status 400"))
		return ctl_fail(EXIT_DENIED,
			"the scheduler at %s (%s) does not know this key; an admin makes a token "
			"with "
			"'clusterctl token create'",
			context.endpoint, context.origin);
	if (!ctl->up)
		return ctl_fail(EXIT_UNREACHABLE,
			"no scheduler answers at %s (%s)%s%s; is umlaut-scheduler running there?",
			context.endpoint, context.origin, *ctl->refused ? ": " : "", ctl->refused);
	ctl->greeted = true;
	return 0;
}

int ctl_connect(struct ctl *ctl)
{
	struct err err = ERR_INIT;
	Um__Envelope env = wire_env(0);
	Um__ClientHello hello = UM__CLIENT_HELLO__INIT;
	int rc;

	if (ctl->sock)
		return 0;
	rc = ctl_reach(ctl);
	if (rc)
		return rc;
	hello.version = (char *)(uintptr_t)UMLAUT_VERSION;
	env.body_case = UM__ENVELOPE__BODY_CLIENT_HELLO;
	env.client_hello = &hello;
	if (ctl_call(ctl, &env, HELLO_MS, NULL, NULL, &err) < 0)
		return ctl->interrupted ? 130 : ctl_fail_err(&err);
	return 0;
}

void ctl_close(struct ctl *ctl)
{
	struct client_signals *sig = signals_of(ctl);

	if (!ctl->loop)
		return;
	zsock_close(ctl->sock, 200);
	rpc_free(ctl->rpc);
	loop_signal_close(sig->intr);
	loop_signal_close(sig->term);
	loop_timer_close(sig->timer);
	(void)loop_free(ctl->loop);
	zctx_free(ctl->zctx);
	ctl->sock = NULL;
	ctl->rpc = NULL;
	ctl->zctx = NULL;
	ctl->loop = NULL;
	ctl->up = false;
}

/* ---------------------------------------------------------------- requests */

struct call {
	struct ctl *ctl;
	ctl_reply_fn *fn;
	void *arg;
	struct err err;
	int rc;
	bool done;
};

static void on_reply(void *arg, const Um__Envelope *env, const void *bulk, size_t bulk_size,
	const struct err *err)
{
	struct call *call = arg;

	(void)bulk;
	(void)bulk_size;
	if (err) {
		call->err = *err;
		call->rc = err->code;
	} else if (call->fn) {
		call->rc = call->fn(call->arg, env);
	}
	if (call->rc || !env || !env->more) {
		call->done = true;
		loop_stop(call->ctl->loop);
	}
}

int ctl_send(struct ctl *ctl, Um__Envelope *env, struct err *err)
{
	for (int tries = 0; tries < 250; tries++) {
		int rc = zsock_send(ctl->sock, NULL, env, NULL, 0, err);

		if (rc != -EAGAIN || ctl->interrupted)
			return rc;
		loop_timer_arm(signals_of(ctl)->timer, RETRY_MS);
		(void)loop_run(ctl->loop, NULL);
	}
	return err_set(err, -ETIMEDOUT, "the scheduler at %s takes no messages", ctl->endpoint);
}

int ctl_call(struct ctl *ctl, Um__Envelope *env, uint64_t timeout_ms, ctl_reply_fn *fn, void *arg,
	struct err *err)
{
	struct call call = {.ctl = ctl, .fn = fn, .arg = arg};
	unsigned downs = ctl->downs;
	int rc;

	env->id = rpc_add(ctl->rpc, timeout_ms, on_reply, &call);
	if (!env->id)
		return err_set(err, -ENOMEM, "memory is short");
	rc = ctl_send(ctl, env, err);
	while (rc == 0 && !call.done && !ctl->interrupted && downs == ctl->downs)
		(void)loop_run(ctl->loop, NULL);
	if (!call.done)
		rpc_cancel(ctl->rpc, env->id);
	if (rc < 0)
		return rc;
	if (ctl->interrupted)
		return err_set(err, -EINTR, "interrupted");
	if (!call.done)
		return err_set(err, -ECONNRESET,
			"the connection to the scheduler at %s was lost before it answered; try "
			"again",
			ctl->endpoint);
	if (call.rc < 0 && call.err.code && err)
		*err = call.err;
	return call.rc;
}

int ctl_watch(struct ctl *ctl, Um__Envelope *env, ctl_reply_fn *fn, void (*again)(void *arg),
	void *arg, struct err *err)
{
	for (;;) {
		int rc = ctl_call(ctl, env, 0, fn, arg, err);

		if (rc != -ECONNRESET)
			return rc;
		(void)fprintf(stderr,
			"clusterctl: the connection was lost; waiting for the "
			"scheduler at %s\n",
			ctl->endpoint);
		while (!ctl->up && !ctl->interrupted)
			(void)loop_run(ctl->loop, NULL);
		if (ctl->interrupted)
			return err_set(err, -EINTR, "interrupted");
		*err = ERR_INIT;
		again(arg);
	}
}

static uint64_t via_request(void *arg, Um__Envelope *env, const void *bulk, size_t bulk_size,
	uint64_t timeout_ms, rpc_fn *fn, void *fn_arg, struct err *err)
{
	struct ctl *ctl = arg;

	env->id = rpc_add(ctl->rpc, timeout_ms, fn, fn_arg);
	if (!env->id) {
		(void)err_set(err, -ENOMEM, "memory is short");
		return 0;
	}
	if (zsock_send(ctl->sock, NULL, env, bulk, bulk_size, err) < 0) {
		rpc_cancel(ctl->rpc, env->id);
		return 0;
	}
	return env->id;
}

static void via_cancel(void *arg, uint64_t id)
{
	struct ctl *ctl = arg;

	rpc_cancel(ctl->rpc, id);
}

const struct imgvia *ctl_via(struct ctl *ctl)
{
	static struct imgvia via;

	via = (struct imgvia){.request = via_request, .cancel = via_cancel, .arg = ctl};
	return &via;
}

/* ---------------------------------------------------------------- options */

static const struct opt *find_opt(const struct opt *opts, const char *name, size_t n, char brief)
{
	for (const struct opt *o = opts; o->kind != OPT_END; o++) {
		if (brief && o->brief == brief)
			return o;
		if (!brief && strlen(o->name) == n && strncmp(o->name, name, n) == 0)
			return o;
	}
	return NULL;
}

static int take(const struct ctl *ctl, const struct opt *o, const char *value)
{
	struct opt_list *list;

	switch (o->kind) {
	case OPT_FLAG:
		*(bool *)o->to = true;
		return 0;
	case OPT_TEXT:
		*(const char **)o->to = value;
		return 0;
	case OPT_LIST:
		list = o->to;
		if (list->count == sizeof(list->items) / sizeof(list->items[0]))
			return -ctl_usage(ctl, "too many --%s", o->name);
		list->items[list->count++] = value;
		return 0;
	case OPT_END:
		break;
	}
	return 0;
}

static int unknown(const struct ctl *ctl, const char *arg, const struct opt *opts)
{
	const char *names[64];
	const char *near;
	size_t n = 0;

	for (const struct opt *o = opts; o->kind != OPT_END && n < 64; o++)
		names[n++] = o->name;
	near = arg[1] == '-' ? str_nearest(arg + 2, names, n) : NULL;
	return -ctl_usage(ctl, "unknown option '%.60s'%s%s%s", arg, near ? " (did you mean --" : "",
		near ? near : "", near ? "?)" : "");
}

int opt_parse(const struct ctl *ctl, int argc, char **argv, const struct opt *opts, int *dashdash)
{
	int n = 1, rc = 0;

	if (dashdash)
		*dashdash = -1;
	for (int i = 1; i < argc && rc == 0; i++) {
		const char *arg = argv[i], *equals = NULL, *value;
		const struct opt *o;

		if (strcmp(arg, "--") == 0) {
			if (dashdash)
				*dashdash = n;
			while (++i < argc)
				argv[n++] = argv[i];
			break;
		}
		if (arg[0] != '-' || !arg[1]) {
			argv[n++] = argv[i];
			continue;
		}
		if (arg[1] != '-') {
			/* "-it" is "-i -t"; the last may take a value. */
			for (const char *c = arg + 1; *c && rc == 0; c++) {
				o = find_opt(opts, NULL, 0, *c);
				if (!o)
					return unknown(ctl, arg, opts);
				if (o->kind == OPT_FLAG) {
					rc = take(ctl, o, NULL);
					continue;
				}
				value = c[1] ? c + 1 : i + 1 < argc ? argv[++i] : NULL;
				if (!value)
					return -ctl_usage(ctl, "-%c needs a value", *c);
				rc = take(ctl, o, value);
				break;
			}
			continue;
		}
		equals = strchr(arg, '=');
		o = find_opt(
			opts, arg + 2, equals ? (size_t)(equals - arg - 2) : strlen(arg + 2), 0);
		if (!o)
			return unknown(ctl, arg, opts);
		if (o->kind == OPT_FLAG && equals)
			return -ctl_usage(ctl, "--%s takes no value", o->name);
		value = o->kind == OPT_FLAG ? NULL
			: equals	    ? equals + 1
			: i + 1 < argc	    ? argv[++i]
					    : NULL;
		if (o->kind != OPT_FLAG && !value)
			return -ctl_usage(ctl, "--%s needs a value", o->name);
		rc = take(ctl, o, value);
	}
	argv[n] = NULL;
	return rc < 0 ? rc : n;
}
