/* Standard input and output on the loop.  The descriptors may be shared with other
 * programs (a shell's terminal), so they are not made non-blocking: poll(2) is
 * asked before each write, which is short enough not to block then (PIPE_BUF). */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "clusterctl/stream.h"

static void out_pump(struct outpipe *o);

static void on_out(void *arg, unsigned events)
{
	(void)events;
	out_pump(arg);
}

void outpipe_open(struct outpipe *o, struct stream *s, int fd)
{
	*o = (struct outpipe){.stream = s, .fd = fd};
	buf_init(&o->buf);
	o->buf.limit = 2u * WIRE_STREAM_WINDOW;
	/* epoll does not take ordinary files: they are always ready. */
	if (loop_fd_open(s->ctl->loop, "output", fd, on_out, o, &o->watch, NULL) < 0)
		o->watch = NULL;
	else
		(void)loop_fd_want(o->watch, 0);
}

static bool out_ready(const struct outpipe *o)
{
	struct pollfd p = {.fd = o->fd, .events = POLLOUT};

	return !o->watch || poll(&p, 1, 0) != 0;
}

static void out_break(struct outpipe *o)
{
	struct err err = ERR_INIT;
	int code = errno;

	o->broken = true;
	o->buf.size = 0;
	if (o->watch)
		(void)loop_fd_want(o->watch, 0);
	if (code == EPIPE)
		(void)err_set(&err, -EPIPE, "nobody reads the output any more");
	else
		(void)err_errno(&err, code, "write the output");
	stream_break(o->stream, &err);
}

static void out_pump(struct outpipe *o)
{
	size_t written = 0;

	while (o->buf.size && !o->broken) {
		size_t size = o->buf.size < PIPE_BUF ? o->buf.size : PIPE_BUF;
		ssize_t n;

		if (!out_ready(o)) {
			(void)loop_fd_want(o->watch, LOOP_WRITE);
			stream_consumed(o->stream, written);
			return;
		}
		n = write(o->fd, o->buf.data, size);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0) {
			out_break(o);
			return;
		}
		buf_consume(&o->buf, (size_t)n);
		written += (size_t)n;
	}
	if (o->watch)
		(void)loop_fd_want(o->watch, 0);
	stream_consumed(o->stream, written);
	if (o->stream->state == STREAM_ENDED)
		loop_stop(o->stream->ctl->loop);
}

void outpipe_add(struct outpipe *o, const uint8_t *data, size_t size)
{
	if (o->broken)
		return;
	buf_add(&o->buf, data, size);
	if (o->buf.failed) {
		struct err err = ERR_INIT;

		(void)err_set(&err, -EPROTO, "the guest's host sent more than it was granted");
		stream_break(o->stream, &err);
		return;
	}
	out_pump(o);
}

bool outpipe_busy(const struct outpipe *o)
{
	return o->buf.size && !o->broken;
}

void outpipe_close(struct outpipe *o)
{
	loop_fd_close(o->watch);
	o->watch = NULL;
	buf_free(&o->buf);
}

/* ---------------------------------------------------------------- input */

static void in_send(struct inpipe *in)
{
	size_t room = stream_room(in->stream);
	size_t size = in->size < room ? in->size : room;

	if (in->size && size && stream_send(in->stream, in->piece, size, false)) {
		in->size -= size;
		if (in->size)
			memmove(in->piece, in->piece + size, in->size);
	}
	if (!in->size && in->ended && !in->told && !in->keep_open)
		in->told = stream_send(in->stream, NULL, 0, true);
}

static void in_read(struct inpipe *in)
{
	ssize_t n;

	do
		n = read(in->fd, in->piece, sizeof(in->piece));
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		in->ended = true;
		return;
	}
	in->size = (size_t)n;
	if (in->filter)
		in->size = in->filter(in->arg, in, in->piece, in->size);
}

static void in_want(struct inpipe *in)
{
	bool want = !in->size && !in->ended && stream_room(in->stream);

	if (in->watch)
		(void)loop_fd_want(in->watch, want ? LOOP_READ : 0);
}

static void on_in(void *arg, unsigned events)
{
	struct inpipe *in = arg;

	(void)events;
	if (!in->size && !in->ended)
		in_read(in);
	in_send(in);
	in_want(in);
}

void inpipe_open(struct inpipe *in, struct stream *s, int fd)
{
	in->stream = s;
	in->fd = fd;
	if (loop_fd_open(s->ctl->loop, "input", fd, on_in, in, &in->watch, NULL) < 0)
		in->watch = NULL;
	inpipe_pump(in);
}

void inpipe_pump(struct inpipe *in)
{
	in_send(in);
	/* A file: as much as may be sent. */
	while (!in->watch && !in->size && !in->ended && stream_room(in->stream)) {
		in_read(in);
		in_send(in);
	}
	in_want(in);
}

void inpipe_close(struct inpipe *in)
{
	loop_fd_close(in->watch);
	in->watch = NULL;
}
