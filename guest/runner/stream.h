/* stream: exec, copies, console and logs of one guest, between agents'
 * connections and the guest's line.
 *
 * A stream or request is one slot of a fixed table (STREAMS_MAX).  It has the id
 * its agent chose (unique per connection) and one of ours on the line; ours holds
 * the slot's number, so both ways cost O(1) or a short scan.
 *
 *   kind      opened by             served by   ends when
 *   GUEST     StreamOpen exec/copy  the guest   StreamEnd of either side, a new boot, the end
 *   CONSOLE   StreamOpen console    this room   StreamEnd of the agent, the guest's end
 *   LOGS      StreamOpen logs       this room   the log was sent (not follow), the guest's end
 *   REQUEST   GuestStatsRequest,    the guest   its reply; after STREAM_REQUEST_MS when the
 *             GuestSync                         table is full; a new boot, the end
 *
 * Credits go end to end; here they are checked: a guest that sends more than it
 * was granted has its stream ended (it is untrusted, and our queues are bounded by
 * the windows).  All streams of a connection die with it; the guest is told.
 */
#ifndef UMLAUT_GUEST_RUNNER_STREAM_H
#define UMLAUT_GUEST_RUNNER_STREAM_H

#include "guest/runner/console.h"
#include "guest/runner/line.h"
#include "lib/conn.h"

#define STREAMS_MAX 128
#define STREAM_REQUEST_MS 60000
#define STREAM_REPLAY (8u << 10) /* of earlier output, for who attaches to the console */

struct streams;

int streams_new(const char *dir, struct line *line, struct console *console, struct streams **out,
	struct err *err);
void streams_free(struct streams *streams); /* sends nothing */

/* Whether the guest's agent is there to serve.  False ends its streams with WHY. */
void streams_guest(struct streams *streams, bool up, const char *why);
/* The guest has ended: all but unfinished logs end at once; those end at their end. */
void streams_ended(struct streams *streams, const char *why);

/* From an agent: StreamOpen, StreamData, StreamCredit, StreamControl, StreamEnd,
 * GuestStatsRequest, GuestSync.  Answers with errors itself. */
void streams_from_agent(struct streams *streams, struct conn *conn, const Um__Envelope *env);
/* From the guest, any message with an id. */
void streams_from_guest(struct streams *streams, const Um__Envelope *env);
/* The connection has room again / is being closed. */
void streams_drain(struct streams *streams, struct conn *conn);
void streams_drop(struct streams *streams, struct conn *conn);

/* See struct console_ops. */
void streams_console_output(struct streams *streams);
void streams_console_input(struct streams *streams, size_t size);

size_t streams_count(const struct streams *streams);

#endif
