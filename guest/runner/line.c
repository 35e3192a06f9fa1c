#include "guest/runner/line.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/runner/bulk.h"
#include "lib/log.h"
#include "lib/str.h"

#define READ_SIZE (16u << 10)
#define READS_PER_EVENT 16	 /* then other descriptors get their turn */
#define SEND_BUFFER (32 << 10)	 /* 15 ms at the line's speed */
#define KEEP_CAPACITY (8u << 10) /* buffers larger than that are given back when empty */

struct line {
	int fd;
	struct loop_fd *watch;
	unsigned want;
	const struct line_ops *ops;
	void *arg;
	struct wire_reader in;
	struct buf control; /* whole frames */
	struct buf out;	    /* what is being written; out_pos of it is out */
	size_t out_pos;
	struct bulk bulk;
	struct line_flow *flows;  /* the next to be served */
	uint32_t window;	  /* of unconfirmed bytes; 0: none */
	uint64_t sent, confirmed; /* since the guest's hello */
	struct line_counts counts;
	struct log_rate rate;
	bool closed;	   /* the other end is */
	unsigned busy;	   /* inside a callback */
	bool free_pending; /* line_close() came from there */
};

void line_flow_init(struct line_flow *flow)
{
	memset(flow, 0, sizeof(*flow));
	buf_init(&flow->frames);
}

static void flow_link(struct line *line, struct line_flow *flow)
{
	flow->active = true;
	if (!line->flows) {
		flow->next = flow->prev = flow;
		line->flows = flow;
		return;
	}
	/* Behind all others: before the next to be served. */
	flow->next = line->flows;
	flow->prev = line->flows->prev;
	flow->prev->next = flow;
	line->flows->prev = flow;
}

static void flow_unlink(struct line *line, struct line_flow *flow)
{
	if (!flow->active)
		return;
	flow->active = false;
	flow->next->prev = flow->prev;
	flow->prev->next = flow->next;
	if (line->flows == flow)
		line->flows = flow->next == flow ? NULL : flow->next;
	flow->next = flow->prev = NULL;
}

/* Bytes of the frame at AT in BUF, all of which are there. */
static size_t frame_at(const struct buf *buf, size_t at)
{
	struct rd r;
	uint32_t size;

	rd_init(&r, buf->data + at, buf->size - at);
	rd_skip(&r, 4);
	size = rd_u32(&r);
	return r.error ? buf->size - at : (size_t)WIRE_FRAME_HEADER + size;
}

/* Bytes of the whole frames at the front of BUF that fit in MOST. */
static size_t frames_within(const struct buf *buf, size_t most)
{
	size_t size = 0, next;

	while (size < buf->size) {
		next = frame_at(buf, size);
		if (next > most - size)
			break;
		size += next;
	}
	return size;
}

/* What is in `out` goes by the window, and only word of it over the line.  Where that
 * cannot be, it goes over the line as it is. */
static void by_window(struct line *line)
{
	Um__Envelope env = wire_env(0);
	Um__LineBulk piece = UM__LINE_BULK__INIT;
	struct err err = ERR_INIT;
	size_t size = line->out.size;

	if (bulk_put(&line->bulk, line->out.data, size, &piece, &err) < 0) {
		if (log_rate_pass(&line->rate))
			log_warn("the bulk window does not work", LOG_ERR(&err));
		line->bulk.on = false;
		return;
	}
	line->out.size = 0;
	env.body_case = UM__ENVELOPE__BODY_LINE_BULK;
	env.line_bulk = &piece;
	(void)wire_frame(&env, WIRE_LINE_MAX, &line->out, &err); /* has the capacity */
	line->counts.bytes_bulk += size;
}

static bool take_control(struct line *line)
{
	struct buf swap;
	size_t size;

	if (line->bulk.on && line->control.size >= BULK_LEAST) {
		size = frames_within(&line->control, bulk_room(&line->bulk));
		if (!size) /* until the guest has read */
			return false;
		buf_add(&line->out, line->control.data, size);
		if (line->out.failed) { /* memory is short: try again at the next event */
			line->out.failed = false;
			return false;
		}
		buf_consume(&line->control, size);
		by_window(line);
		return true;
	}
	swap = line->out;
	line->out = line->control;
	line->control = swap;
	return true;
}

/* One frame of the flow whose turn it is.  False: memory is short, or nothing is queued. */
static bool take_frame(struct line *line, size_t size)
{
	struct line_flow *flow = line->flows;

	buf_add(&line->out, flow->frames.data, size);
	if (line->out.failed) {
		line->out.failed = false;
		return false;
	}
	buf_consume(&flow->frames, size);
	line->flows = flow->next;
	if (flow->frames.size == 0) {
		flow_unlink(line, flow);
		buf_free(&flow->frames);
	}
	return true;
}

static bool take_flow(struct line *line)
{
	size_t size = frame_at(&line->flows->frames, 0), room;

	if (!line->bulk.on || size < BULK_LEAST)
		return take_frame(line, size);
	room = bulk_room(&line->bulk);
	while (line->flows) {
		size = frame_at(&line->flows->frames, 0);
		if (size > room - line->out.size || !take_frame(line, size))
			break;
	}
	if (!line->out.size)
		return false;
	by_window(line);
	return true;
}

/* Chooses what to write next.  False: nothing is queued, or it waits for the guest. */
static bool next_out(struct line *line)
{
	line->out.size = 0;
	line->out_pos = 0;
	if (line->control.size)
		return take_control(line);
	return line->flows ? take_flow(line) : false;
}

static void want(struct line *line, unsigned events)
{
	if (line->want == events || line->closed)
		return;
	line->want = events;
	(void)loop_fd_want(line->watch, events);
}

static void give_back(struct buf *buf)
{
	size_t limit = buf->limit;

	if (buf->size != 0 || buf->capacity <= KEEP_CAPACITY)
		return;
	buf_free(buf);
	buf->limit = limit;
}

/* How much of SIZE bytes may be on its way now. */
static size_t within_window(const struct line *line, size_t size)
{
	uint64_t flying = line->sent - line->confirmed;

	if (!line->window)
		return size;
	if (flying >= line->window)
		return 0;
	return size < line->window - flying ? size : (size_t)(line->window - flying);
}

static void pump(struct line *line)
{
	while (!line->closed) {
		size_t room;
		ssize_t n;

		if (line->out_pos == line->out.size && !next_out(line)) {
			give_back(&line->out);
			give_back(&line->control);
			want(line, LOOP_READ);
			return;
		}
		room = within_window(line, line->out.size - line->out_pos);
		if (!room) { /* the guest's LineAck goes on */
			want(line, LOOP_READ);
			return;
		}
		n = send(line->fd, line->out.data + line->out_pos, room,
			MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			/* Full; or broken, which reading will tell. */
			want(line, errno == EAGAIN ? LOOP_READ | LOOP_WRITE : LOOP_READ);
			return;
		}
		line->out_pos += (size_t)n;
		line->sent += (uint64_t)n;
		line->counts.bytes_out += (uint64_t)n;
	}
}

/* The line's own messages.  True: of no concern to others. */
static bool take_own(struct line *line, const Um__Envelope *env)
{
	if (env->body_case == UM__ENVELOPE__BODY_GUEST_HELLO) {
		line->window = env->guest_hello->line_window;
		line->sent = line->confirmed = 0;
		bulk_begin(&line->bulk, env->guest_hello->line_bulk);
		return false;
	}
	if (env->body_case != UM__ENVELOPE__BODY_LINE_ACK)
		return false;
	if (env->line_ack->bytes > line->confirmed)
		line->confirmed = env->line_ack->bytes;
	/* It read what was sent to the kernel before it. */
	if (line->confirmed > line->sent)
		line->sent = line->confirmed;
	bulk_confirm(&line->bulk, env->line_ack->bulk);
	pump(line);
	return true;
}

static void deliver(struct line *line)
{
	Um__Envelope *env;
	struct err err;
	int rc;

	while (!line->free_pending) {
		err = ERR_INIT;
		rc = wire_reader_next(&line->in, &env, &err);
		if (rc == 0)
			return;
		if (rc < 0) {
			line->counts.broken++;
			if (log_rate_pass(&line->rate))
				log_warn("the guest sent what is no message", LOG_ERR(&err));
			if (rc == -ENOMEM)
				return;
			continue;
		}
		line->counts.frames_in++;
		if (!take_own(line, env))
			line->ops->on_message(line->arg, env);
		um__envelope__free_unpacked(env, NULL);
	}
}

static void ended(struct line *line, int code)
{
	struct err err = ERR_INIT;

	line->closed = true;
	(void)loop_fd_want(line->watch, 0);
	if (code)
		(void)err_errno(&err, code, "guest line");
	else
		(void)str_copy(err.msg, sizeof(err.msg), "closed by the guest's kernel");
	line->ops->on_close(line->arg, &err);
}

static void read_some(struct line *line)
{
	uint8_t data[READ_SIZE];
	int i;

	for (i = 0; i < READS_PER_EVENT && !line->free_pending; i++) {
		ssize_t n = recv(line->fd, data, sizeof(data), MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0) {
			ended(line, n < 0 ? errno : 0);
			return;
		}
		line->counts.bytes_in += (uint64_t)n;
		if (wire_reader_add(&line->in, data, (size_t)n, NULL) < 0) {
			/* More than a frame without one in it: start anew behind it. */
			line->counts.broken++;
			wire_reader_free(&line->in);
			wire_reader_init(&line->in, WIRE_LINE_MAX, true);
			continue;
		}
		deliver(line);
	}
	give_back(&line->in.in);
}

static void line_free(struct line *line)
{
	loop_fd_close(line->watch);
	(void)close(line->fd);
	wire_reader_free(&line->in);
	buf_free(&line->control);
	buf_free(&line->out);
	free(line);
}

static void on_fd(void *arg, unsigned events)
{
	struct line *line = arg;

	line->busy++;
	if (events & LOOP_WRITE)
		pump(line);
	if (events & (LOOP_READ | LOOP_HUP))
		read_some(line);
	line->busy--;
	if (line->free_pending && !line->busy)
		line_free(line);
}

int line_open(struct loop *loop, int fd, const struct line_ops *ops, void *arg, struct line **out,
	struct err *err)
{
	struct line *line = calloc(1, sizeof(*line));
	int size = SEND_BUFFER, rc;

	if (!line)
		return err_set(err, -ENOMEM, "out of memory");
	line->fd = fd;
	line->ops = ops;
	line->arg = arg;
	line->bulk = BULK_INIT;
	wire_reader_init(&line->in, WIRE_LINE_MAX, true);
	buf_init(&line->control);
	line->control.limit = LINE_CONTROL_MAX;
	buf_init(&line->out);
	line->out.limit = LINE_CONTROL_MAX;
	/* Only latency is at stake. */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	rc = loop_fd_open(loop, "guest line", fd, on_fd, line, &line->watch, err);
	if (rc >= 0) {
		line->want = LOOP_READ;
		rc = loop_fd_want(line->watch, LOOP_READ);
	}
	if (rc < 0) {
		loop_fd_close(line->watch);
		free(line);
		return rc;
	}
	*out = line;
	return 0;
}

void line_bulk(struct line *line, int fd)
{
	line->bulk.fd = fd;
}

void line_close(struct line *line)
{
	if (!line)
		return;
	line->closed = true;
	line->free_pending = true;
	if (!line->busy)
		line_free(line);
}

int line_send(struct line *line, Um__Envelope *env, struct err *err)
{
	int rc = wire_frame(env, WIRE_LINE_MAX, &line->control, err);

	if (rc < 0) {
		line->control.failed = false;
		return rc;
	}
	pump(line);
	return 0;
}

int line_send_frames(struct line *line, struct buf *frames, struct err *err)
{
	if (frames->failed)
		return err_set(err, -ENOMEM, "out of memory for the guest's messages");
	buf_add(&line->control, frames->data, frames->size);
	if (line->control.failed) {
		line->control.failed = false;
		return err_set(err, -ENOBUFS, "the guest does not take its messages");
	}
	buf_free(frames);
	pump(line);
	return 0;
}

int line_flow_add(struct line *line, struct line_flow *flow, Um__Envelope *env, struct err *err)
{
	int rc = wire_frame(env, WIRE_LINE_MAX, &flow->frames, err);

	if (rc < 0) {
		flow->frames.failed = false;
		return rc;
	}
	if (!flow->active)
		flow_link(line, flow);
	pump(line);
	return 0;
}

void line_flow_drop(struct line *line, struct line_flow *flow)
{
	flow_unlink(line, flow);
	buf_free(&flow->frames);
}

void line_reset(struct line *line)
{
	while (line->flows)
		line_flow_drop(line, line->flows);
	line->control.size = 0;
	give_back(&line->control);
	line->out.size = line->out_pos = 0;
}

void line_counts(const struct line *line, struct line_counts *out)
{
	*out = line->counts;
	out->skipped = line->in.skipped;
}
