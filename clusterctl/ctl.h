/* ctl: what the verbs of clusterctl share: options, the connection to the
 * scheduler, exit codes, output.
 *
 * A verb is a function of (ctl, argc, argv) with argv[0] its own name; it returns
 * an exit code.  Errors are printed where they are understood, once, by ctl_fail().
 */
#ifndef UMLAUT_CLUSTERCTL_CTL_H
#define UMLAUT_CLUSTERCTL_CTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "image/via.h"
#include "lib/curve.h"
#include "lib/rpc.h"
#include "lib/zsock.h"

enum exit_code {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_NOT_FOUND = 3,
	EXIT_TIMEOUT = 4,
	EXIT_UNREACHABLE = 5,
	EXIT_DENIED = 6,
};

struct ctl;

struct verb {
	const char *name;
	const char *summary; /* one line for the list of verbs */
	int (*run)(struct ctl *ctl, int argc, char **argv);
	const char *help; /* usage, options, examples */
};

/* verbs.c; ends with a NULL name */
extern const struct verb verbs[];
const struct verb *verb_find(const char *name);
/* The list of verbs and what is common to them. */
void verbs_show(FILE *to);

struct ctl {
	const char *server, *context; /* --server, --context or the environment */
	struct loop *loop;
	struct zctx *zctx;
	struct zsock *sock;
	struct rpc *rpc;
	const struct verb *verb; /* the one that runs */
	bool up, greeted;
	unsigned downs; /* how often the connection was lost: streams do not survive it */
	char endpoint[256];
	char refused[200]; /* why the connection does not come up */
	/* Streams: what is not a reply to a request comes here. */
	void (*on_stray)(void *arg, const Um__Envelope *env);
	void *stray_arg;
	bool interrupted; /* Ctrl-C, SIGTERM */
};

/* Prints "clusterctl: MESSAGE" and returns CODE, or the code that fits ERR. */
int ctl_fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int ctl_fail_err(const struct err *err);
/* "clusterctl VERB: MESSAGE" and where help is; EXIT_USAGE. */
int ctl_usage(const struct ctl *ctl, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Finds the context, connects, says hello (once).  0, or the exit code; the error
 * has been printed. */
int ctl_connect(struct ctl *ctl);
/* Without the hello: a round trip less, for streams, which are refused for themselves. */
int ctl_reach(struct ctl *ctl);
/* May be connected again after it. */
void ctl_close(struct ctl *ctl);

/* Sends ENV as a request and runs the loop until its last reply.  FN (may be NULL)
 * gets each reply; an Error becomes the return value.  Not 0 from FN ends early and
 * is returned.  -EINTR after Ctrl-C; -ECONNRESET when the connection was lost. */
typedef int ctl_reply_fn(void *arg, const Um__Envelope *env);
int ctl_call(struct ctl *ctl, Um__Envelope *env, uint64_t timeout_ms, ctl_reply_fn *fn, void *arg,
	struct err *err);
/* The same without a timeout and for ever: when the connection is lost, waits for
 * the scheduler to come back, calls AGAIN and asks anew. */
int ctl_watch(struct ctl *ctl, Um__Envelope *env, ctl_reply_fn *fn, void (*again)(void *arg),
	void *arg, struct err *err);
/* Sends without waiting; retries for a moment when the queue is full. */
int ctl_send(struct ctl *ctl, Um__Envelope *env, struct err *err);
const struct imgvia *ctl_via(struct ctl *ctl);

/* ---------------------------------------------------------------- options */

/* Options of a verb, parsed in any order with the arguments.  SHORT may be 0. */
enum opt_kind { OPT_FLAG, OPT_TEXT, OPT_LIST, OPT_END };
struct opt {
	enum opt_kind kind;
	const char *name;
	char brief;
	void *to; /* bool *, const char **, struct opt_list * */
};
struct opt_list {
	const char *items[64];
	size_t count;
};
#define OPT_LAST ((struct opt){.kind = OPT_END})
/* Sets what is given; the rest, and all after "--", stays in argv[0..return).
 * Negative: the exit code was EXIT_USAGE and is printed.  *DASHDASH (may be NULL):
 * index in the result of what came after "--", or -1. */
int opt_parse(const struct ctl *ctl, int argc, char **argv, const struct opt *opts, int *dashdash);

/* ---------------------------------------------------------------- output */

/* A table with columns as wide as they must be. */
struct table;
struct table *table_new(const char *const *columns, size_t count);
void table_add(struct table *t, const char *text); /* next cell, copied */
void table_addf(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void table_print(struct table *t, bool header);
void table_clear(struct table *t); /* drops the rows */
void table_free(struct table *t);

bool out_colour(int fd);
/* "3m", age of a wall clock time; "-" for 0. */
const char *out_age(char buf[32], uint64_t when_ms);
/* RFC 3339 in UTC. */
const char *out_time(char buf[40], uint64_t when_ms);

/* ---------------------------------------------------------------- verbs */

int cmd_boot_report(struct ctl *ctl, int argc, char **argv);
int cmd_apply(struct ctl *ctl, int argc, char **argv);
int cmd_delete(struct ctl *ctl, int argc, char **argv);
int cmd_get(struct ctl *ctl, int argc, char **argv);
int cmd_describe(struct ctl *ctl, int argc, char **argv);
int cmd_why(struct ctl *ctl, int argc, char **argv);
int cmd_memory(struct ctl *ctl, int argc, char **argv);
int cmd_logs(struct ctl *ctl, int argc, char **argv);
int cmd_exec(struct ctl *ctl, int argc, char **argv);
int cmd_console(struct ctl *ctl, int argc, char **argv);
int cmd_cp(struct ctl *ctl, int argc, char **argv);
int cmd_start(struct ctl *ctl, int argc, char **argv);
int cmd_stop(struct ctl *ctl, int argc, char **argv);
int cmd_restart(struct ctl *ctl, int argc, char **argv);
int cmd_recover(struct ctl *ctl, int argc, char **argv);
int cmd_prune(struct ctl *ctl, int argc, char **argv);
int cmd_migrate(struct ctl *ctl, int argc, char **argv);
int cmd_drain(struct ctl *ctl, int argc, char **argv);
int cmd_cordon(struct ctl *ctl, int argc, char **argv);
int cmd_uncordon(struct ctl *ctl, int argc, char **argv);
int cmd_host(struct ctl *ctl, int argc, char **argv);
int cmd_image(struct ctl *ctl, int argc, char **argv);
int cmd_kernel(struct ctl *ctl, int argc, char **argv);
int cmd_token(struct ctl *ctl, int argc, char **argv);
int cmd_context(struct ctl *ctl, int argc, char **argv);
int cmd_completion(struct ctl *ctl, int argc, char **argv);
int cmd_version(struct ctl *ctl, int argc, char **argv);
int cmd_help(struct ctl *ctl, int argc, char **argv);

/* context.c */
struct context {
	char name[64];
	char endpoint[256];
	char key_file[512];
	uint8_t server_key[32];
	bool has_server_key;
	bool has_pair; /* from a token, instead of key_file */
	struct curve_pair pair;
	char origin[600]; /* the file, or "--server", "default" */
};
int context_find(const struct ctl *ctl, struct context *out, struct err *err);
/* Lists the contexts of the file in use. */
int context_list(const struct ctl *ctl);

#endif
