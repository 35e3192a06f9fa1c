/* serve: the runner's Unix socket, DIR/runner.sock.
 *
 * Each connection gets RunnerHello and RunnerStatus at once.  Several may be open
 * (an old agent's and a new one's); the newest gets each change of the status,
 * streams and replies go to whom they belong.  Only processes of our own user, or
 * root, are let in.
 */
#ifndef UMLAUT_GUEST_RUNNER_SERVE_H
#define UMLAUT_GUEST_RUNNER_SERVE_H

#include "guest/runner/run.h"
#include "guest/runner/stream.h"

#define SERVE_PEERS_MAX 8
/* All streams' windows fit, so only a peer that breaks the rules fills it. */
#define SERVE_QUEUE_MAX (48u << 20)

struct serve;

int serve_open(struct loop *loop, const char *dir, struct run *run, struct streams *streams,
	struct serve **out, struct err *err);
/* Sends what can be sent at once. */
void serve_close(struct serve *serve);
void serve_status(struct serve *serve);
size_t serve_peers(const struct serve *serve);

#endif
