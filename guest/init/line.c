#include "guest/init/line.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "guest/init/sys.h"
#include "lib/str.h"

#define READ_SIZE 16384
#define BULK_NODE "/dev/ubdh" /* ubd7 */

static void bulk_open(struct line *line)
{
	uint64_t size = 0;
	int fd = open(BULK_NODE, O_RDONLY | O_DIRECT | O_CLOEXEC);

	line->bulk_fd = -1;
	if (fd < 0)
		return;
	if (ioctl(fd, BLKGETSIZE64, &size) < 0 || size == 0 || size > UINT32_MAX ||
		posix_memalign((void **)&line->piece, WIRE_BULK_ALIGN, WIRE_BULK_BATCH) != 0) {
		close(fd);
		return;
	}
	(void)unlink(BULK_NODE);
	line->bulk_fd = fd;
	line->bulk_size = (uint32_t)size;
}

int line_open(struct line *line, const char *name, struct err *err)
{
	struct termios tio;
	char path[64];
	uint8_t stale[512];
	int fd;

	if (str_format(path, sizeof(path), "/dev/%s", name) < 0)
		return err_set(err, -EINVAL, "line: bad device name");
	fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return err_errno(err, errno, "open the agent line %s", path);
	if (tcgetattr(fd, &tio) == 0) {
		cfmakeraw(&tio);
		tio.c_iflag &= (tcflag_t) ~(IXON | IXOFF | IXANY);
		tio.c_cflag |= CLOCAL | CREAD | CS8;
		tio.c_cc[VMIN] = 1;
		tio.c_cc[VTIME] = 0;
		(void)tcsetattr(fd, TCSANOW, &tio);
	}
	(void)unlink(path);
	/* What was meant for the guest before a restart. */
	while (read(fd, stale, sizeof(stale)) > 0)
		;
	memset(line, 0, sizeof(*line));
	line->fd = fd;
	wire_reader_init(&line->in, WIRE_LINE_MAX, true);
	buf_init(&line->out);
	wire_reader_init(&line->pieces, WIRE_LINE_MAX, true);
	bulk_open(line);
	return 0;
}

size_t line_queued(const struct line *line)
{
	return line->out.size - line->sent;
}

bool line_room(const struct line *line)
{
	return !line->dead && line_queued(line) < LINE_QUEUE_BULK;
}

static void line_die(struct line *line)
{
	if (line->dead)
		return;
	line->dead = true;
	line->sent = 0;
	buf_free(&line->out);
	sys_log("the agent line is closed");
}

bool line_flush(struct line *line)
{
	bool progress = false;

	while (!line->dead && line_queued(line) > 0) {
		ssize_t n = write(line->fd, line->out.data + line->sent, line_queued(line));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			line_die(line);
		if (n <= 0)
			break;
		line->sent += (size_t)n;
		progress = true;
	}
	if (line->sent == line->out.size) {
		line->sent = 0;
		line->out.size = 0;
	} else if (line->sent > LINE_QUEUE_BULK) {
		buf_consume(&line->out, line->sent);
		line->sent = 0;
	}
	return progress;
}

void line_send(struct line *line, Um__Envelope *env)
{
	struct err err = ERR_INIT;

	if (line->dead)
		return;
	if (wire_frame(env, WIRE_LINE_MAX, &line->out, &err)) {
		sys_log("a message is lost: %s", err_msg(&err));
		line->out.failed = false;
	}
	(void)line_flush(line);
}

void line_drain(struct line *line, int timeout_ms)
{
	uint64_t end = sys_uptime_ms() + (uint64_t)timeout_ms;

	(void)line_flush(line);
	while (!line->dead && line_queued(line) > 0) {
		struct pollfd p = {.fd = line->fd, .events = POLLOUT};
		uint64_t now = sys_uptime_ms();

		if (now >= end || poll(&p, 1, (int)(end - now)) == 0)
			return;
		(void)line_flush(line);
	}
	if (!line->dead)
		(void)tcdrain(line->fd);
}

static void confirm(struct line *line)
{
	Um__Envelope env = wire_env(0);
	Um__LineAck ack = UM__LINE_ACK__INIT;

	line->acked = ack.bytes = line->read_total;
	ack.bulk = line->bulk_end;
	env.body_case = UM__ENVELOPE__BODY_LINE_ACK;
	env.line_ack = &ack;
	line_send(line, &env);
}

void line_read(struct line *line)
{
	uint8_t data[READ_SIZE];
	struct err err = ERR_INIT;
	ssize_t n = read(line->fd, data, sizeof(data));

	if (n > 0) {
		line->read_total += (size_t)n;
		/* The runner has at most WIRE_LINE_WINDOW bytes on their way. */
		if (line->read_total - line->acked >= WIRE_LINE_WINDOW / 2)
			confirm(line);
		if (wire_reader_add(&line->in, data, (size_t)n, &err))
			sys_log("the agent line: %s", err_msg(&err));
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		line_die(line);
	}
}

/* What lies in the bulk device comes before all that follows on the line. */
static void bulk_read(struct line *line, const Um__LineBulk *at)
{
	size_t size = ((size_t)at->size + WIRE_BULK_ALIGN - 1) & ~(size_t)(WIRE_BULK_ALIGN - 1);
	struct err err = ERR_INIT;
	size_t done = 0;

	if (line->bulk_fd < 0 || size > WIRE_BULK_BATCH || at->offset % WIRE_BULK_ALIGN ||
		at->offset > line->bulk_size || size > line->bulk_size - at->offset) {
		sys_log("the agent line: a piece outside of the bulk device");
		return;
	}
	while (done < at->size) {
		ssize_t n = pread(
			line->bulk_fd, line->piece + done, size - done, (off_t)(at->offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			sys_log("the bulk device: %s", n < 0 ? strerror(errno) : "too short");
			line_die(line); /* messages are missing from here on */
			return;
		}
		done += (size_t)n;
	}
	line->bulk_end = at->end;
	confirm(line);
	if (wire_reader_add(&line->pieces, line->piece, at->size, &err))
		sys_log("the agent line: %s", err_msg(&err));
}

/* Of one of the two: NULL when it has none. */
static Um__Envelope *next_of(struct line *line, struct wire_reader *in)
{
	for (;;) {
		struct err err = ERR_INIT;
		Um__Envelope *env = NULL;
		int rc = wire_reader_next(in, &env, &err);

		if (rc == 0)
			return NULL;
		if (rc > 0)
			return env;
		/* A damaged message is skipped; what it belonged to ends with an error. */
		sys_log("the agent line: %s", err_msg(&err));
		if (rc == -EPROTO)
			line_failed(line, "config", err_msg(&err));
		if (rc == -ENOMEM)
			return NULL;
	}
}

Um__Envelope *line_next(struct line *line)
{
	for (;;) {
		Um__Envelope *env = next_of(line, &line->pieces);

		if (env)
			return env;
		env = next_of(line, &line->in);
		if (!env || env->body_case != UM__ENVELOPE__BODY_LINE_BULK)
			return env;
		bulk_read(line, env->line_bulk);
		um__envelope__free_unpacked(env, NULL);
	}
}

Um__Envelope *line_wait(struct line *line)
{
	while (!line->dead) {
		Um__Envelope *env = line_next(line);
		struct pollfd p = {.fd = line->fd, .events = POLLIN};

		if (env)
			return env;
		if (line_queued(line) > 0)
			p.events |= POLLOUT;
		(void)poll(&p, 1, -1);
		(void)line_flush(line);
		if (p.revents & (POLLIN | POLLHUP | POLLERR))
			line_read(line);
	}
	return NULL;
}

void line_ok(struct line *line, uint64_t id)
{
	Um__Envelope env = wire_env(id);
	Um__Ok ok = UM__OK__INIT;

	if (id == 0)
		return;
	env.body_case = UM__ENVELOPE__BODY_OK;
	env.ok = &ok;
	line_send(line, &env);
}

/* protobuf-c has no const strings in what it packs. */
static char *unconst(const char *text)
{
	union {
		const char *c;
		char *p;
	} u = {.c = text};

	return u.p;
}

void line_error(struct line *line, uint64_t id, Um__ErrorCode code, const char *message)
{
	Um__Envelope env = wire_env(id);
	Um__Error error = UM__ERROR__INIT;

	if (id == 0)
		return;
	error.code = code;
	error.message = unconst(message);
	env.body_case = UM__ENVELOPE__BODY_ERROR;
	env.error = &error;
	line_send(line, &env);
}

static void progress(
	struct line *line, const char *step, bool ready, bool failed, const char *message)
{
	Um__Envelope env = wire_env(0);
	Um__GuestProgress p = UM__GUEST_PROGRESS__INIT;

	p.step = unconst(step);
	p.ready = ready;
	p.failed = failed;
	p.message = unconst(message);
	p.uptime_ms = sys_uptime_ms();
	p.uptime_us = sys_uptime_us();
	env.body_case = UM__ENVELOPE__BODY_GUEST_PROGRESS;
	env.guest_progress = &p;
	line_send(line, &env);
}

void line_progress(struct line *line, const char *step)
{
	progress(line, step, false, false, "");
}

void line_ready(struct line *line)
{
	progress(line, "ready", true, false, "");
}

void line_failed(struct line *line, const char *step, const char *message)
{
	progress(line, step, false, true, message);
}
