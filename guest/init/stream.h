/* stream: what the client side opened in this guest: exec, copies.  Common to all
 * kinds: ids, credits, the table, fairness.
 *
 * Life of a stream: StreamOpen -> (StreamOpened) -> data and credits both ways ->
 * StreamEnd from us, or a StreamEnd from the client, which kills what it started.
 *
 * Credits (proto/umlaut.proto): each side may send WIRE_STREAM_WINDOW bytes and
 * then as much as it is granted.  What a client sends beyond its window ends the
 * stream.  So a stream holds at most one window of input; output is read from its
 * source only when it may be sent and the line has room.  Each stream sends at
 * most one piece (WIRE_STREAM_DATA) a turn, and the turn's order rotates.
 */
#ifndef UMLAUT_GUEST_INIT_STREAM_H
#define UMLAUT_GUEST_INIT_STREAM_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "guest/init/line.h"
#include "lib/err.h"

#define STREAMS_MAX 64
#define STREAM_FDS 3

struct stream;

struct stream_ops {
	/* Fills FDS (fd -1: not interested); what is not filled is -1 already. */
	void (*poll)(struct stream *s, struct pollfd fds[STREAM_FDS]);
	/* True: it can go on without waiting for a descriptor. */
	bool (*busy)(const struct stream *s);
	/* A turn.  */
	void (*run)(struct stream *s, const struct pollfd fds[STREAM_FDS]);
	/* Bytes from the client, within its window.  stream_consumed() gives it new credit. */
	void (*data)(struct stream *s, const uint8_t *data, size_t size, bool eof);
	void (*control)(struct stream *s, const Um__StreamControl *control); /* may be NULL */
	void (*child)(struct stream *s, pid_t pid, int wait_status);	     /* may be NULL */
	/* Ends what it started, and frees. */
	void (*destroy)(struct stream *s);
};

/* The first member of each kind's own struct. */
struct stream {
	const struct stream_ops *ops;
	struct line *line;
	uint64_t id;
	size_t credit; /* bytes we may send */
	size_t window; /* bytes the client may still send */
	size_t owed;   /* consumed, not yet granted again */
	bool ended;    /* StreamEnd was sent or came; the table destroys it */
};

void stream_init(struct stream *s, const struct stream_ops *ops);

/* How much may be sent now: 0 when there is no credit, or no room on the line. */
size_t stream_budget(const struct stream *s);
void stream_send(struct stream *s, uint32_t channel, const uint8_t *data, size_t size);
void stream_consumed(struct stream *s, size_t size);
/* SIGNUM 0: none. */
void stream_end(struct stream *s, int exit_status, int signum);
void stream_fail(struct stream *s, int exit_status, const struct err *err);

struct streams {
	struct line *line;
	const Um__GuestConfig *config;
	struct stream *all[STREAMS_MAX]; /* no gaps */
	size_t count;
	size_t turn;
	bool closed; /* the guest shuts down: no new ones */
};

/* Any of the stream messages. */
void streams_message(struct streams *t, const Um__Envelope *env);
/* Fills STREAM_FDS entries for each stream. */
size_t streams_poll(struct streams *t, struct pollfd *fds);
bool streams_busy(const struct streams *t);
/* FDS as streams_poll() filled it, COUNT streams. */
void streams_run(struct streams *t, const struct pollfd *fds);
void streams_child(struct streams *t, pid_t pid, int wait_status);
void streams_close(struct streams *t);

/* The kinds.  On failure nothing is left. */
int exec_open(const Um__GuestConfig *config, const Um__StreamOpen *open, struct stream **out,
	struct err *err);
int copy_to_open(const Um__StreamOpen *open, struct stream **out, struct err *err);
int copy_from_open(const Um__StreamOpen *open, struct stream **out, struct err *err);

#endif
