/* line: the guest's end of the agent line, a UML console (con1 = /dev/tty1) that
 * the runner holds the other end of.  Framed Envelopes, lib/wire.h.
 *
 * The terminal is set raw; the descriptor is non-blocking.  What is sent is
 * queued and written as the line takes it: line_send() never blocks.  Bulk data
 * is made only while line_room() says so, which bounds the queue; the few other
 * messages are small.  What comes in is confirmed (LineAck), so that the runner never
 * fills the tty: see GuestHello in the schema.  What is large lies in the bulk device,
 * /dev/ubdh, and the line says where (guest/runner/bulk.h).  After an end of file or an I/O error
 * the line is `dead`: nothing is read or sent any more, and the guest goes on without it.
 */
#ifndef UMLAUT_GUEST_INIT_LINE_H
#define UMLAUT_GUEST_INIT_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/wire.h"

#define LINE_QUEUE_BULK (64u << 10) /* bulk data only below this many queued bytes */
#define LINE_QUEUE_READ (1u << 20)  /* requests are read only below this */
#define LINE_DEFAULT "tty1"

struct line {
	int fd;
	struct wire_reader in;
	struct buf out;
	size_t sent;	     /* bytes of `out` already written */
	uint64_t read_total; /* since the hello */
	uint64_t acked;
	int bulk_fd;		   /* -1: none */
	uint32_t bulk_size;	   /* of the device; 0: none */
	uint64_t bulk_end;	   /* of the last piece that was read */
	uint8_t *piece;		   /* WIRE_BULK_BATCH bytes, aligned */
	struct wire_reader pieces; /* frames out of it; before those of `in` */
	bool dead;
};

/* Opens /dev/NAME and takes the node away, so that no login prompt of the image
 * opens it too.  Likewise the bulk device; a guest without one goes on without. */
int line_open(struct line *line, const char *name, struct err *err);

size_t line_queued(const struct line *line);
bool line_room(const struct line *line);

/* Queues ENV and writes what the line takes at once. */
void line_send(struct line *line, Um__Envelope *env);
/* Writes what the line takes.  True when something was written. */
bool line_flush(struct line *line);
/* Blocks until all is written, at most TIMEOUT_MS. */
void line_drain(struct line *line, int timeout_ms);

/* Reads what is there (one read). */
void line_read(struct line *line);
/* The next whole Envelope, or NULL.  The caller frees it. */
Um__Envelope *line_next(struct line *line);
/* Blocks for the next Envelope; NULL only when the line is dead. */
Um__Envelope *line_wait(struct line *line);

/* Replies; nothing is sent for id 0. */
void line_ok(struct line *line, uint64_t id);
void line_error(struct line *line, uint64_t id, Um__ErrorCode code, const char *message);

void line_progress(struct line *line, const char *step);
void line_ready(struct line *line);
void line_failed(struct line *line, const char *step, const char *message);

#endif
