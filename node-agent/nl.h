/* nl: rtnetlink requests (rtnetlink(7), RFC 3549) over libmnl: dumps, single
 * requests, and batches of many requests in few system calls.
 *
 * A batch: nl_add() for each message, then attributes with mnl_attr_put*() on what
 * it returned (at most NL_MSG_MAX bytes in all), then nl_commit().  Only the last
 * message of a send asks for an acknowledgement; the kernel answers failures
 * anyway.  All messages are tried, also behind one that failed; the first failure
 * that was not to be ignored is returned.  The error is sticky: after running out
 * of memory nl_add() gives a scratch message, and nl_commit() tells.
 *
 * Synchronous: rtnetlink does its work within sendmsg() and has the answer
 * ready.  One thread at a time.
 */
#ifndef UMLAUT_NODE_AGENT_NL_H
#define UMLAUT_NODE_AGENT_NL_H

#include <libmnl/libmnl.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define NL_MSG_MAX 1024

struct nl;

/* A socket in the caller's namespace (NETNS_FD -1) or in another. */
int nl_open(int netns_fd, struct nl **out, struct err *err);
void nl_close(struct nl *nl); /* NULL is fine */

/* Begins a message of TYPE with flags FLAGS (NLM_F_CREATE ...) and HEADER bytes of
 * zeroed family header (mnl_nlmsg_get_payload()).  IGNORE: an errno that is
 * no failure (ENOENT of a deletion), 0 for none. */
struct nlmsghdr *nl_add(struct nl *nl, uint16_t type, uint16_t flags, size_t header, int ignore);
/* Sends what is pending and waits for all answers.  0 or the first failure. */
int nl_commit(struct nl *nl, struct err *err);
/* Forgets what is pending. */
void nl_discard(struct nl *nl);

/* Calls FN with each message of the answer to a dump request begun with nl_add()
 * (flags NLM_F_DUMP, alone in its batch).  A negative result of FN ends it.
 * RESTART (may be NULL) is called before the dump is asked for again, after the
 * kernel said that it changed meanwhile. */
typedef int nl_msg_fn(void *arg, const struct nlmsghdr *msg);
typedef void nl_restart_fn(void *arg);
int nl_dump(struct nl *nl, nl_msg_fn *fn, nl_restart_fn *restart, void *arg, struct err *err);

/* Sends the one pending request and calls FN with its answer (RTM_GETLINK ...). */
int nl_query(struct nl *nl, nl_msg_fn *fn, void *arg, struct err *err);

/* Index of a device in the socket's namespace, or -ENODEV. */
int nl_ifindex(struct nl *nl, const char *ifname);

struct nl_counts {
	uint64_t sends;	  /* system calls that sent */
	uint64_t changes; /* messages that were no dumps or queries */
};
void nl_counts(const struct nl *nl, struct nl_counts *out);

#endif
