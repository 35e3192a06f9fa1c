/* stream: the client's end of a stream into a guest: exec, console, logs, copies.
 *
 *   state     meaning                              left by
 *   OPENING   StreamOpen sent                      StreamOpened -> OPEN; Error, StreamEnd -> ENDED
 *   OPEN      data and credits both ways           StreamEnd, Error, lost connection -> ENDED
 *   ENDED     the result is known
 *
 * Either side sends at most what it was granted (lib/wire.h), so at most one
 * window of output waits here for a slow terminal or pipe.
 */
#ifndef UMLAUT_CLUSTERCTL_STREAM_H
#define UMLAUT_CLUSTERCTL_STREAM_H

#include "clusterctl/ctl.h"
#include "lib/buf.h"

enum stream_state { STREAM_OPENING, STREAM_OPEN, STREAM_ENDED };

struct stream;

struct stream_ops {
	/* Bytes from the guest, borrowed; the owner calls stream_consumed() for them. */
	void (*data)(
		void *arg, struct stream *s, uint32_t channel, const uint8_t *data, size_t size);
	/* There is credit to send (again).  May be NULL. */
	void (*writable)(void *arg, struct stream *s);
};

struct stream {
	struct ctl *ctl;
	const struct stream_ops *ops;
	void *arg;
	enum stream_state state;
	uint64_t id;
	size_t credit; /* bytes we may send */
	size_t owed;   /* consumed, not yet granted again */
	unsigned downs;
	struct loop_timer *retry; /* the socket's queue was full */
	struct err err;		  /* why it ended, code 0: as it should */
	int exit_status, signal;
};

/* Sends OPEN and waits until the guest has taken it, or refused (ERR). */
int stream_open(struct stream *s, struct ctl *ctl, Um__StreamOpen *open,
	const struct stream_ops *ops, void *arg, struct err *err);
/* How many bytes may be sent now. */
size_t stream_room(const struct stream *s);
/* SIZE at most stream_room() and WIRE_STREAM_DATA.  False: not sent, `writable`
 * comes when it may be tried again. */
bool stream_send(struct stream *s, const void *data, size_t size, bool eof);
void stream_consumed(struct stream *s, size_t size);
void stream_control(struct stream *s, uint32_t rows, uint32_t cols, int signal);
/* Ends it from our side, for the reason ERR (NULL: none). */
void stream_break(struct stream *s, const struct err *err);
/* The exit code of a stream that has ended: the command's status, 128 + signal, or
 * that of the error, which is printed. */
int stream_result(const struct stream *s);
void stream_close(struct stream *s);

/* ---- standard input and output on the loop (pipe.c) ---- */

/* Output to a descriptor that may be slow.  What is written counts as consumed. */
struct outpipe {
	struct stream *stream;
	int fd;
	struct buf buf;
	struct loop_fd *watch; /* NULL: a file, never waits */
	bool broken;	       /* nobody reads it any more */
};
void outpipe_open(struct outpipe *o, struct stream *s, int fd);
void outpipe_add(struct outpipe *o, const uint8_t *data, size_t size);
bool outpipe_busy(const struct outpipe *o);
void outpipe_close(struct outpipe *o);

/* Input from a descriptor, sent as credit allows; its end is passed on. */
struct inpipe {
	struct stream *stream;
	int fd;
	struct loop_fd *watch; /* NULL: a file */
	uint8_t piece[16384];  /* read, not yet sent */
	size_t size;
	bool ended;	/* end of file read */
	bool told;	/* and passed on */
	bool keep_open; /* do not pass it on */
	/* Looks at what was read before it is sent; returns how much of it to send, and
	 * ends the stream itself if need be.  May be NULL. */
	size_t (*filter)(void *arg, struct inpipe *in, uint8_t *data, size_t size);
	void *arg;
};
void inpipe_open(struct inpipe *in, struct stream *s, int fd);
void inpipe_pump(struct inpipe *in);
void inpipe_close(struct inpipe *in);

/* ---- the terminal (tty.c) ---- */

/* Raw mode on descriptor FD, until tty_restore() or the end of the program. */
int tty_raw(int fd);
void tty_restore(void);
/* Of standard output or input; 24 by 80 when neither is a terminal. */
void tty_size(uint32_t *rows, uint32_t *cols);

#endif
