/* line: the guest's line (con1): frames of lib/wire.h between runner and guest
 * agent over a socketpair whose other end the kernel shows as a tty.
 *
 * Out of the guest it carries hundreds of MB/s, into it about 2 MB/s.  So what
 * goes in is scheduled here: control frames first, in their order; then one
 * frame in turn from each flow (a stream's bulk data) that has any.  Little is
 * kept in the socket (its buffer is made small), so a control frame waits for
 * some ten milliseconds at most however much bulk is queued.
 *
 * A guest may bound what is on its way into it (GuestHello.line_window) and then
 * confirms what it read (LineAck): the kernel's tty must never fill up, or UML reads
 * that console no more (line_throttle() in arch/um/drivers/line.c takes the
 * descriptor out of the interrupts, and nothing puts it back).
 *
 * What is large goes by way of the guest's bulk window where it has one (bulk.h), several
 * frames at a time; the line then carries where they are.  Order is kept either way.
 *
 * A flow's queue is bounded by its owner (the stream's window), the control queue
 * by LINE_CONTROL_MAX.  The guest is untrusted: a broken frame is skipped to the
 * next magic, an Envelope that does not decode is dropped and counted.
 */
#ifndef UMLAUT_GUEST_RUNNER_LINE_H
#define UMLAUT_GUEST_RUNNER_LINE_H

#include "lib/loop.h"
#include "lib/wire.h"

#define LINE_CONTROL_MAX                                                         \
	(16u << 20) /* a whole configuration fits: 4 MiB files, 1 MiB run, hosts \
		     */

struct line;

/* Bulk data of one stream on its way into the guest. */
struct line_flow {
	struct buf frames;
	bool active;
	struct line_flow *next, *prev; /* ring of the active ones */
};

struct line_ops {
	void (*on_message)(void *arg, const Um__Envelope *env);
	/* The kernel closed its end (it does so only when it ends).  ERR as for conn. */
	void (*on_close)(void *arg, const struct err *err);
};

/* Takes ownership of FD on success. */
int line_open(struct loop *loop, int fd, const struct line_ops *ops, void *arg, struct line **out,
	struct err *err);
/* The guest has a bulk window; FD stays the caller's, and open as long as the line. */
void line_bulk(struct line *line, int fd);
void line_close(struct line *line); /* flows must have been dropped */

/* Queues a control frame.  -EMSGSIZE over WIRE_LINE_MAX, -ENOBUFS. */
int line_send(struct line *line, Um__Envelope *env, struct err *err);
/* Queues FRAMES (whole frames, e.g. of config.h) as control; consumes them. */
int line_send_frames(struct line *line, struct buf *frames, struct err *err);

void line_flow_init(struct line_flow *flow);
/* Queues a frame of bulk data. */
int line_flow_add(struct line *line, struct line_flow *flow, Um__Envelope *env, struct err *err);
/* Forgets what has not gone out; frees the flow's memory. */
void line_flow_drop(struct line *line, struct line_flow *flow);

/* Forgets everything that is queued, also the rest of a frame that is partly out:
 * the guest rebooted, its reader is a new one and skips to the next magic. */
void line_reset(struct line *line);

struct line_counts {
	uint64_t bytes_in, bytes_out, frames_in, skipped, broken;
	uint64_t bytes_bulk; /* by the bulk window */
};
void line_counts(const struct line *line, struct line_counts *out);

#endif
