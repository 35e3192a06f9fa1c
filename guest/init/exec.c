/* exec: a program of the image run for a client, on pipes or on a terminal.
 *
 *   state          meaning                              left by
 *   running        the child lives                      its end (SIGCHLD)
 *   exited         what it wrote is still being sent    outputs drained -> StreamEnd
 *
 * On pipes the outputs count as drained when nothing more is in them, even if a
 * process that the child left behind holds them open: the client waits for the
 * child, not for its children.  On a terminal the kernel hangs it up when the
 * session's leader ends, after all output.
 */
#include "guest/init/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "guest/init/spawn.h"
#include "lib/buf.h"

#define ARGV_MAX 4096
#define TTY_EOF 4

enum { IN, OUT, ERR };

struct exec {
	struct stream s;
	pid_t pid;
	int fd[STREAM_FDS]; /* IN, OUT, ERR; on a terminal OUT is its master and the others -1 */
	bool tty;
	struct buf input; /* from the client, not yet taken by the child */
	size_t taken;
	bool eof;
	bool exited;
	int wait_status;
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static int in_fd(const struct exec *e)
{
	return e->tty ? e->fd[OUT] : e->fd[IN];
}

static size_t input_left(const struct exec *e)
{
	return e->input.size - e->taken;
}

static void finish_input(struct exec *e)
{
	uint8_t eof = TTY_EOF;

	if (!e->eof || input_left(e) > 0)
		return;
	if (e->tty && e->fd[OUT] >= 0)
		(void)!write(e->fd[OUT], &eof, 1);
	else
		close_fd(&e->fd[IN]);
	e->eof = false;
}

/* Hands input to the child; what it no longer wants is dropped. */
static void feed(struct exec *e)
{
	while (input_left(e) > 0) {
		ssize_t n = -1;

		if (in_fd(e) >= 0)
			n = write(in_fd(e), e->input.data + e->taken, input_left(e));
		else
			errno = EPIPE;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			n = (ssize_t)input_left(e);
			if (!e->tty)
				close_fd(&e->fd[IN]);
		}
		e->taken += (size_t)n;
		stream_consumed(&e->s, (size_t)n);
	}
	e->taken = 0;
	e->input.size = 0;
	finish_input(e);
}

static void exec_poll(struct stream *s, struct pollfd fds[STREAM_FDS])
{
	struct exec *e = (struct exec *)s;
	short want_in = stream_budget(s) > 0 ? POLLIN : 0;
	short want_out = input_left(e) > 0 ? POLLOUT : 0;
	int i;

	/* A descriptor without wishes stays out: POLLHUP would come again and again. */
	for (i = OUT; i <= ERR; i++)
		if (want_in)
			fds[i] = (struct pollfd){.fd = e->fd[i], .events = want_in};
	if (e->tty && (want_in || want_out))
		fds[OUT] = (struct pollfd){.fd = e->fd[OUT], .events = (short)(want_in | want_out)};
	else if (want_out)
		fds[IN] = (struct pollfd){.fd = e->fd[IN], .events = want_out};
}

static bool exec_busy(const struct stream *s)
{
	const struct exec *e = (const struct exec *)s;

	if (!e->exited)
		return false;
	if (e->fd[OUT] < 0 && e->fd[ERR] < 0)
		return true;
	return !e->tty && stream_budget(s) > 0;
}

static void pump(struct exec *e, int which)
{
	uint8_t data[WIRE_STREAM_DATA];
	size_t budget = stream_budget(&e->s);
	ssize_t n;

	if (e->fd[which] < 0 || budget == 0)
		return;
	n = read(e->fd[which], data, budget);
	if (n > 0)
		stream_send(&e->s, (uint32_t)which, data, (size_t)n);
	else if (n < 0 && errno == EINTR)
		return;
	else if (n == 0 || errno != EAGAIN || (e->exited && !e->tty))
		close_fd(&e->fd[which]);
}

static void exec_run(struct stream *s, const struct pollfd fds[STREAM_FDS])
{
	struct exec *e = (struct exec *)s;
	int i;

	if ((fds[IN].revents | (e->tty ? fds[OUT].revents : 0)) & (POLLOUT | POLLERR | POLLHUP))
		feed(e);
	for (i = OUT; i <= ERR; i++)
		if ((fds[i].revents & (POLLIN | POLLHUP | POLLERR)) || (e->exited && !e->tty))
			pump(e, i);
	if (!e->exited || e->fd[OUT] >= 0 || e->fd[ERR] >= 0)
		return;
	if (WIFSIGNALED(e->wait_status))
		stream_end(s, 128 + WTERMSIG(e->wait_status), WTERMSIG(e->wait_status));
	else
		stream_end(s, WEXITSTATUS(e->wait_status), 0);
}

static void exec_data(struct stream *s, const uint8_t *data, size_t size, bool eof)
{
	struct exec *e = (struct exec *)s;
	struct err err = ERR_INIT;

	if (e->taken > WIRE_STREAM_WINDOW / 2) {
		buf_consume(&e->input, e->taken);
		e->taken = 0;
	}
	buf_add(&e->input, data, size);
	if (e->input.failed) {
		(void)err_set(&err, -ENOMEM, "the guest is out of memory");
		stream_fail(s, 1, &err);
		return;
	}
	e->eof |= eof;
	feed(e);
}

static void exec_control(struct stream *s, const Um__StreamControl *c)
{
	struct exec *e = (struct exec *)s;

	if (e->tty && e->fd[OUT] >= 0 && c->rows && c->cols) {
		struct winsize size = {
			.ws_row = (unsigned short)c->rows, .ws_col = (unsigned short)c->cols};

		(void)ioctl(e->fd[OUT], TIOCSWINSZ, &size);
	}
	if (c->signal > 0 && c->signal < NSIG && !e->exited) {
		/* The foreground job of the terminal, else all the child started. */
		if (!e->tty || ioctl(e->fd[OUT], TIOCSIG, (int)c->signal))
			(void)kill(-e->pid, (int)c->signal);
	}
}

static void exec_child(struct stream *s, pid_t pid, int wait_status)
{
	struct exec *e = (struct exec *)s;

	if (e->exited || pid != e->pid)
		return;
	e->exited = true;
	e->wait_status = wait_status;
}

static void exec_destroy(struct stream *s)
{
	struct exec *e = (struct exec *)s;
	int i;

	for (i = 0; i < STREAM_FDS; i++)
		close_fd(&e->fd[i]);
	/* Not after its end: the number may be another's by then. */
	if (!e->exited && e->pid > 0)
		(void)kill(-e->pid, SIGKILL);
	buf_free(&e->input);
	free(e);
}

static const struct stream_ops ops = {.poll = exec_poll,
	.busy = exec_busy,
	.run = exec_run,
	.data = exec_data,
	.control = exec_control,
	.child = exec_child,
	.destroy = exec_destroy};

static int nonblock(int fd)
{
	return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* CHILD[]: the child's ends. */
static int make_pipes(struct exec *e, bool with_input, int child[3])
{
	int i, p[2];

	for (i = IN; i <= ERR; i++) {
		if (i == IN && !with_input) {
			child[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
			if (child[i] < 0)
				return -errno;
			continue;
		}
		if (pipe2(p, O_CLOEXEC))
			return -errno;
		child[i] = p[i == IN ? 0 : 1];
		e->fd[i] = p[i == IN ? 1 : 0];
		if (nonblock(e->fd[i]))
			return -errno;
	}
	return 0;
}

static int make_tty(struct exec *e, const Um__StreamOpen *open_, int child[3])
{
	struct winsize size = {.ws_row = (unsigned short)(open_->rows ? open_->rows : 24),
		.ws_col = (unsigned short)(open_->cols ? open_->cols : 80)};
	int unlock = 0;

	e->fd[OUT] = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (e->fd[OUT] < 0)
		return -errno;
	if (ioctl(e->fd[OUT], TIOCSPTLCK, &unlock) || ioctl(e->fd[OUT], TIOCSWINSZ, &size))
		return -errno;
	child[IN] = ioctl(e->fd[OUT], TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	return child[IN] < 0 ? -errno : 0;
}

static int start(
	struct exec *e, const Um__GuestConfig *config, const Um__StreamOpen *open_, struct err *err)
{
	static char shell[] = "/bin/sh";
	char *fallback[] = {shell, NULL};
	int child[3] = {-1, -1, -1};
	char **argv = calloc(open_->n_argv + 1, sizeof(*argv));
	char **env = env_make(config->env, config->n_env, open_->env, open_->n_env);
	struct spawn spawn = {.cwd = open_->path, .envp = env, .tty = e->tty};
	size_t i;
	int rc;

	if (!argv || !env) {
		rc = err_set(err, -ENOMEM, "the guest is out of memory");
		goto out;
	}
	for (i = 0; i < open_->n_argv; i++)
		argv[i] = open_->argv[i];
	spawn.argv = open_->n_argv ? argv : fallback;
	rc = e->tty ? make_tty(e, open_, child) : make_pipes(e, open_->stdin_open, child);
	if (rc) {
		rc = err_errno(
			err, rc, e->tty ? "a terminal for the program" : "pipes for the program");
		goto out;
	}
	for (i = 0; i < 3; i++)
		spawn.fds[i] = e->tty ? child[IN] : child[i];
	rc = spawn_start(&spawn, err);
	if (rc > 0) {
		e->pid = rc;
		rc = 0;
	}
out:
	for (i = 0; i < 3; i++)
		close_fd(&child[i]);
	env_free(env);
	free(argv);
	return rc;
}

int exec_open(const Um__GuestConfig *config, const Um__StreamOpen *open_, struct stream **out,
	struct err *err)
{
	struct exec *e;
	int rc;

	if (open_->n_argv > ARGV_MAX || open_->n_env > ARGV_MAX)
		return err_set(err, -E2BIG, "more than %d arguments", ARGV_MAX);
	e = calloc(1, sizeof(*e));
	if (!e)
		return err_set(err, -ENOMEM, "the guest is out of memory");
	stream_init(&e->s, &ops);
	buf_init(&e->input);
	e->input.limit = 2u * WIRE_STREAM_WINDOW;
	e->tty = open_->tty;
	e->fd[IN] = e->fd[OUT] = e->fd[ERR] = -1;
	rc = start(e, config, open_, err);
	if (rc) {
		exec_destroy(&e->s);
		return rc;
	}
	*out = &e->s;
	return 0;
}
