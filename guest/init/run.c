#include "guest/init/run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/init/files.h"
#include "guest/init/spawn.h"
#include "guest/init/sys.h"
#include "lib/str.h"

#define SCRIPT "/run/umlaut-run"
#define PROBE_INTERVAL_MS 500
#define PROBE_TRY_MS 10000 /* a try that hangs is ended after this */

static void fail(struct run *r, const char *step, const char *message)
{
	r->state = RUN_FAILED;
	r->pid = 0;
	sys_log("%s: %s", step, message);
	line_failed(r->line, step, message);
}

static const char *status_text(char text[64], int wait_status)
{
	if (WIFSIGNALED(wait_status))
		(void)str_format(text, 64, "ended by signal %d", WTERMSIG(wait_status));
	else
		(void)str_format(text, 64, "exit status %d", WEXITSTATUS(wait_status));
	return text;
}

static void ready(struct run *r)
{
	r->state = RUN_READY;
	r->pid = 0;
	line_ready(r->line);
}

/* ---------------------------------------------------------------- the probe */

static void probe_wait(struct run *r)
{
	uint32_t interval = r->config->ready->interval_ms;

	r->state = RUN_WAIT;
	r->pid = 0;
	r->next = sys_uptime_ms() + (interval ? interval : PROBE_INTERVAL_MS);
	if (r->deadline && r->next > r->deadline)
		r->next = r->deadline;
}

static void probe_start(struct run *r)
{
	const Um__ReadyProbe *probe = r->config->ready;
	struct err err = ERR_INIT;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	char **env = env_make(r->config->env, r->config->n_env, NULL, 0);
	char *argv[65];
	struct spawn spawn = {.argv = argv, .envp = env, .fds = {null, null, null}};
	size_t i;

	for (i = 0; i < probe->n_exec && i < 64; i++)
		argv[i] = probe->exec[i];
	argv[i] = NULL;
	r->pid = null >= 0 && env ? spawn_start(&spawn, &err) : -ENOMEM;
	if (r->pid > 0) {
		r->state = RUN_PROBE;
		r->next = sys_uptime_ms() + PROBE_TRY_MS;
		if (r->deadline && r->next > r->deadline)
			r->next = r->deadline;
	} else {
		/* A program that `run` has yet to bring is not there yet: try again. */
		r->status = 127 << 8;
		probe_wait(r);
	}
	env_free(env);
	if (null >= 0)
		close(null);
}

static void probe_late(struct run *r)
{
	char message[256], text[64];

	if (r->pid > 0)
		(void)kill(-r->pid, SIGKILL);
	(void)str_format(message, sizeof(message),
		"%.64s did not succeed within %u ms (last try: %s)", r->config->ready->exec[0],
		r->config->ready->timeout_ms, status_text(text, r->status));
	fail(r, "ready", message);
}

static void probe_or_ready(struct run *r)
{
	const Um__ReadyProbe *probe = r->config->ready;

	line_progress(r->line, "run");
	if (!probe || probe->n_exec == 0) {
		ready(r);
		return;
	}
	if (probe->timeout_ms)
		r->deadline = sys_uptime_ms() + probe->timeout_ms;
	probe_start(r);
}

/* ---------------------------------------------------------------- the script */

static int script_start(struct run *r, struct err *err)
{
	char sh[] = "/bin/sh", script[] = SCRIPT;
	char *argv[] = {sh, script, NULL};
	struct spawn spawn = {.argv = argv};
	int null = -1, p[2] = {-1, -1};
	char **env = NULL;
	int rc;

	rc = files_write(SCRIPT, r->config->run, strlen(r->config->run), 0700, 0, 0, err);
	if (rc)
		return rc;
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	env = env_make(r->config->env, r->config->n_env, NULL, 0);
	if (null < 0 || !env || pipe2(p, O_CLOEXEC)) {
		rc = err_set(err, -ENOMEM, "no memory or descriptors");
		goto out;
	}
	(void)fcntl(p[0], F_SETFL, O_NONBLOCK);
	spawn.envp = env;
	spawn.fds[0] = null;
	spawn.fds[1] = spawn.fds[2] = p[1];
	rc = spawn_start(&spawn, err);
	if (rc > 0) {
		r->pid = rc;
		r->out = p[0];
		p[0] = -1;
		rc = 0;
	}
out:
	if (p[0] >= 0)
		close(p[0]);
	if (p[1] >= 0)
		close(p[1]);
	if (null >= 0)
		close(null);
	env_free(env);
	return rc;
}

static void end_line(struct run *r)
{
	size_t i;

	if (r->part_len == 0)
		return;
	r->part[r->part_len] = '\0';
	/* It goes into a message: text only. */
	for (i = 0; i < r->part_len; i++)
		if ((unsigned char)r->part[i] < ' ')
			r->part[i] = ' ';
	while (!str_is_utf8(r->part, strlen(r->part)))
		for (i = 0; r->part[i]; i++)
			if ((unsigned char)r->part[i] >= 0x80)
				r->part[i] = '?';
	(void)str_copy(r->last, sizeof(r->last), r->part);
	r->part_len = 0;
}

static void note_lines(struct run *r, const uint8_t *data, size_t size)
{
	size_t i;

	for (i = 0; i < size; i++) {
		if (data[i] == '\n')
			end_line(r);
		else if (data[i] != '\r' && r->part_len < sizeof(r->part) - 1)
			r->part[r->part_len++] = (char)data[i];
	}
}

static void close_output(struct run *r)
{
	if (r->out >= 0)
		close(r->out);
	if (r->console >= 0)
		close(r->console);
	r->out = r->console = -1;
	r->held_size = 0;
}

static void flush_held(struct run *r)
{
	ssize_t n;

	if (r->held_size == 0)
		return;
	n = r->console >= 0 ? write(r->console, r->held, r->held_size) : (ssize_t)r->held_size;
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		n = (ssize_t)r->held_size;
	if (n > 0) {
		r->held_size -= (size_t)n;
		memmove(r->held, r->held + n, r->held_size);
	}
}

/* One piece from the script to the console.  False: nothing there now. */
static bool pass_output(struct run *r)
{
	ssize_t n;

	flush_held(r);
	if (r->held_size > 0 || r->out < 0)
		return false;
	n = read(r->out, r->held, sizeof(r->held));
	if (n > 0) {
		note_lines(r, r->held, (size_t)n);
		r->held_size = (size_t)n;
		flush_held(r);
		return true;
	}
	if (n == 0 || (errno != EAGAIN && errno != EINTR))
		close_output(r);
	return false;
}

void run_start(struct run *r, struct line *line, const Um__GuestConfig *config)
{
	struct err err = ERR_INIT;

	memset(r, 0, sizeof(*r));
	r->line = line;
	r->config = config;
	r->out = r->console = -1;
	if (!*config->run) {
		probe_or_ready(r);
		return;
	}
	r->console = open("/dev/console", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (script_start(r, &err)) {
		close_output(r);
		(void)unlink(SCRIPT);
		fail(r, "run", err_msg(&err));
		return;
	}
	r->state = RUN_SCRIPT;
}

void run_poll(const struct run *r, struct pollfd fds[RUN_FDS])
{
	fds[0] = (struct pollfd){.fd = r->held_size ? -1 : r->out, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = r->held_size ? r->console : -1, .events = POLLOUT};
}

void run_ready(struct run *r, const struct pollfd fds[RUN_FDS])
{
	if (fds[0].revents || fds[1].revents)
		(void)pass_output(r);
}

static void script_ended(struct run *r, int wait_status)
{
	char message[320], text[64];
	unsigned pieces = 0;

	(void)unlink(SCRIPT);
	/* What it wrote last; what it left running may go on writing. */
	while (pieces++ < 256 && pass_output(r))
		;
	end_line(r);
	if (wait_status == 0) {
		probe_or_ready(r);
		return;
	}
	(void)str_format(message, sizeof(message), "%s%s%s", status_text(text, wait_status),
		*r->last ? ": " : "", r->last);
	fail(r, "run", message);
}

void run_child(struct run *r, pid_t pid, int wait_status)
{
	if (r->pid <= 0 || pid != r->pid)
		return;
	r->pid = 0;
	if (r->state == RUN_SCRIPT) {
		script_ended(r, wait_status);
	} else if (r->state == RUN_PROBE) {
		r->status = wait_status;
		if (wait_status == 0)
			ready(r);
		else
			probe_wait(r);
	}
}

uint64_t run_wakeup(const struct run *r)
{
	return r->state == RUN_WAIT || r->state == RUN_PROBE ? r->next : 0;
}

void run_tick(struct run *r, uint64_t now)
{
	uint64_t at = run_wakeup(r);

	if (at == 0 || now < at)
		return;
	if (r->deadline && now >= r->deadline) {
		probe_late(r);
	} else if (r->state == RUN_WAIT) {
		probe_start(r);
	} else {
		/* A try that hangs: its end comes as a child's. */
		(void)kill(-r->pid, SIGKILL);
		r->next = now + PROBE_TRY_MS;
	}
}

void run_stop(struct run *r)
{
	if (r->state != RUN_READY)
		r->state = RUN_FAILED;
	r->pid = 0;
}
