/* check: what this host lacks to run guests, each with its remedy (preflight).
 *
 * Things are tried for real, in child processes with namespaces of their own that
 * end with them: nothing on the host is changed.
 */
#ifndef UMLAUT_NODE_AGENT_CHECK_H
#define UMLAUT_NODE_AGENT_CHECK_H

#include <stdbool.h>
#include <stdio.h>

#include "node-agent/config.h"

enum check_level { CHECK_OK, CHECK_WARN, CHECK_FAIL };

struct check_result {
	const char *name;
	enum check_level level;
	char detail[ERR_MSG_SIZE]; /* what was found */
	const char *remedy;	   /* NULL when all is well */
};

#define CHECKS_MAX 32

/* Runs all checks; returns their number. */
size_t check_run(const struct agentconf *config, struct check_result out[CHECKS_MAX]);
/* Runs them and prints to OUT: a line each, or JSON (config->log_json); with
 * config->quiet only what is wrong.  False when something fails. */
bool check_host(const struct agentconf *config, FILE *out);

/* check_try.c: runs FN in a child process, in new namespaces when PRIVATE (mount,
 * network, PID, IPC, UTS), and returns what it returned: 0, or negative with its
 * message.  A child that hangs is killed: -ETIMEDOUT. */
typedef int check_fn(const struct agentconf *config, struct err *err);
int check_try(check_fn *fn, const struct agentconf *config, bool private, struct err *err);

/* What is tried. */
check_fn check_namespaces, check_tun, check_bridge, check_vxlan, check_overlay, check_tmpfs,
	check_ptrace, check_cgroup;

#endif
