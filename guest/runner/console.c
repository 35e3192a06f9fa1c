#include "guest/runner/console.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/runnerdir.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/str.h"

#define READ_SIZE (16u << 10)
#define READS_PER_EVENT 8
#define WINDOW_MS 100

struct console {
	struct loop *loop;
	int fd; /* -1: the guest has ended */
	struct loop_fd *watch;
	struct loop_timer *pause, *typing;
	bool paused, typed;    /* typed: the step's bytes are given */
	uint64_t window_start; /* of the rate */
	size_t window_bytes;
	const struct console_ops *ops;
	void *arg;
	char path[PATH_MAX], old_path[PATH_MAX];
	int log;
	uint64_t log_size, log_max, generation;
	struct log_rate rate;
	uint8_t *ring;
	uint64_t end;
	struct buf input;
};

/* ---------------------------------------------------------------- the log file */

static int log_open(struct console *c, struct err *err)
{
	struct stat st;

	c->log = open(c->path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0640);
	if (c->log < 0)
		return err_errno(err, errno, "open %s", c->path);
	if (fstat(c->log, &st) < 0) {
		(void)close(c->log);
		c->log = -1;
		return err_errno(err, errno, "stat %s", c->path);
	}
	c->log_size = (uint64_t)st.st_size;
	return 0;
}

static void log_rotate(struct console *c)
{
	struct err err = ERR_INIT;

	if (rename(c->path, c->old_path) < 0)
		return; /* goes on growing; the next write tries again */
	(void)close(c->log);
	c->generation++;
	if (log_open(c, &err) < 0 && log_rate_pass(&c->rate))
		log_error("the console is not logged", LOG_ERR(&err));
}

static void log_append(struct console *c, const uint8_t *data, size_t size)
{
	if (c->log_size && c->log_size + size > c->log_max)
		log_rotate(c);
	while (size && c->log >= 0) {
		ssize_t n = write(c->log, data, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			struct err err;

			(void)err_errno(&err, errno, "write %s", c->path);
			if (log_rate_pass(&c->rate))
				log_error("console output is lost", LOG_ERR(&err));
			return;
		}
		c->log_size += (uint64_t)n;
		data += n;
		size -= (size_t)n;
	}
}

/* ---------------------------------------------------------------- the ring */

static void ring_append(struct console *c, const uint8_t *data, size_t size)
{
	if (size > CONSOLE_RING) {
		c->end += size - CONSOLE_RING;
		data += size - CONSOLE_RING;
		size = CONSOLE_RING;
	}
	while (size) {
		size_t at = (size_t)(c->end % CONSOLE_RING), n = CONSOLE_RING - at;

		n = n < size ? n : size;
		memcpy(c->ring + at, data, n);
		c->end += n;
		data += n;
		size -= n;
	}
}

size_t console_read(const struct console *c, uint64_t *pos, void *data, size_t size, uint64_t *lost)
{
	uint64_t oldest = c->end > CONSOLE_RING ? c->end - CONSOLE_RING : 0;
	uint8_t *to = data;
	size_t done = 0;

	if (*pos < oldest) {
		*lost += oldest - *pos;
		*pos = oldest;
	}
	while (done < size && *pos < c->end) {
		size_t at = (size_t)(*pos % CONSOLE_RING), n = CONSOLE_RING - at;

		n = n < size - done ? n : size - done;
		n = n < c->end - *pos ? n : (size_t)(c->end - *pos);
		memcpy(to + done, c->ring + at, n);
		*pos += n;
		done += n;
	}
	return done;
}

uint64_t console_end(const struct console *c)
{
	return c->end;
}

uint64_t console_generation(const struct console *c)
{
	return c->generation;
}

/* ---------------------------------------------------------------- the descriptor */

static void set_want(struct console *c)
{
	unsigned events =
		(c->paused ? 0u : LOOP_READ) | (c->input.size && !c->typed ? LOOP_WRITE : 0u);

	if (c->watch)
		(void)loop_fd_want(c->watch, events);
}

/* One read; its size, 0 when there is nothing (more). */
static size_t read_once(struct console *c)
{
	uint8_t data[READ_SIZE];
	ssize_t n;

	do
		n = recv(c->fd, data, sizeof(data), MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0) {
		/* The kernel closed it; its end as a process follows. */
		loop_fd_close(c->watch);
		c->watch = NULL;
		return 0;
	}
	log_append(c, data, (size_t)n);
	ring_append(c, data, (size_t)n);
	return (size_t)n;
}

static void on_resume(void *arg)
{
	struct console *c = arg;

	c->paused = false;
	set_want(c);
}

static void throttle(struct console *c, size_t size)
{
	uint64_t now = loop_now(c->loop);

	if (now - c->window_start >= WINDOW_MS) {
		c->window_start = now;
		c->window_bytes = 0;
	}
	c->window_bytes += size;
	if (c->window_bytes < (uint64_t)CONSOLE_RATE * WINDOW_MS / 1000)
		return;
	c->paused = true;
	loop_timer_arm(c->pause, c->window_start + WINDOW_MS - now);
}

static void on_typing(void *arg)
{
	struct console *c = arg;

	c->typed = false;
	set_want(c);
}

static void write_input(struct console *c)
{
	size_t size = c->input.size < CONSOLE_TYPE_BYTES ? c->input.size : CONSOLE_TYPE_BYTES;
	ssize_t n = send(c->fd, c->input.data, size, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n <= 0)
		return; /* full: the loop tells when it is not */
	buf_consume(&c->input, (size_t)n);
	if (c->input.size == 0) {
		buf_free(&c->input);
		c->input.limit = CONSOLE_INPUT_MAX;
	}
	c->typed = true;
	loop_timer_arm(c->typing, CONSOLE_TYPE_MS);
	set_want(c);
	c->ops->on_input(c->arg, (size_t)n);
}

static void on_fd(void *arg, unsigned events)
{
	struct console *c = arg;
	size_t n, total = 0;
	int i;

	if ((events & LOOP_WRITE) && c->input.size && !c->typed)
		write_input(c);
	if (!(events & (LOOP_READ | LOOP_HUP)))
		return;
	for (i = 0; i < READS_PER_EVENT && (n = read_once(c)) > 0; i++)
		total += n;
	if (!total)
		return;
	throttle(c, total);
	set_want(c);
	c->ops->on_output(c->arg);
}

int console_open(struct loop *loop, int fd, const struct console_config *config,
	const struct console_ops *ops, void *arg, struct console **out, struct err *err)
{
	struct console *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_set(err, -ENOMEM, "out of memory");
	c->loop = loop;
	c->fd = -1; /* the caller's until we succeed */
	c->log = -1;
	c->ops = ops;
	c->arg = arg;
	c->log_max = config->max_bytes ? config->max_bytes : CONSOLE_MAX_DEFAULT;
	buf_init(&c->input);
	c->input.limit = CONSOLE_INPUT_MAX;
	c->ring = malloc(CONSOLE_RING);
	rc = c->ring ? 0 : err_set(err, -ENOMEM, "out of memory");
	if (rc >= 0)
		rc = fs_join(c->path, sizeof(c->path), config->dir, RUNNERDIR_CONSOLE, err);
	if (rc >= 0)
		rc = fs_join(
			c->old_path, sizeof(c->old_path), config->dir, RUNNERDIR_CONSOLE_OLD, err);
	if (rc >= 0)
		rc = log_open(c, err);
	if (rc >= 0)
		rc = loop_timer_open(loop, "console pause", on_resume, c, &c->pause, err);
	if (rc >= 0)
		rc = loop_timer_open(loop, "console typing", on_typing, c, &c->typing, err);
	if (rc >= 0)
		rc = loop_fd_open(loop, "console", fd, on_fd, c, &c->watch, err);
	if (rc < 0) {
		console_close(c);
		return rc;
	}
	c->fd = fd;
	set_want(c);
	*out = c;
	return 0;
}

int console_write(struct console *c, const void *data, size_t size, struct err *err)
{
	if (c->fd < 0 || !c->watch)
		return err_set(err, -EPIPE, "the guest has ended");
	buf_add(&c->input, data, size);
	if (c->input.failed) {
		c->input.failed = false;
		return err_set(err, -ENOBUFS, "the guest does not read its console");
	}
	set_want(c);
	return 0;
}

void console_finish(struct console *c)
{
	size_t total = 0;

	if (c->fd < 0)
		return;
	/* Bounded by the socket's buffer: nobody is left to fill it. */
	while (c->watch) {
		size_t n = read_once(c);

		if (n == 0)
			break;
		total += n;
	}
	loop_fd_close(c->watch);
	c->watch = NULL;
	loop_timer_disarm(c->pause);
	loop_timer_disarm(c->typing);
	(void)close(c->fd);
	c->fd = -1;
	if (total)
		c->ops->on_output(c->arg);
}

void console_close(struct console *c)
{
	if (!c)
		return;
	loop_fd_close(c->watch);
	loop_timer_close(c->pause);
	loop_timer_close(c->typing);
	if (c->fd >= 0)
		(void)close(c->fd);
	if (c->log >= 0)
		(void)close(c->log);
	buf_free(&c->input);
	free(c->ring);
	free(c);
}
