#include "guest/runner/pulse.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fs.h"
#include "lib/log.h"

#define STUBS_MAX 4096 /* processes of a guest that are looked at */

struct pulse {
	struct loop *loop;
	struct loop_timer *timer;
	uint32_t every_ms;
	pid_t reaper;
	const struct pulse_ops *ops;
	void *arg;
	uint64_t heard;	 /* at the last look */
	bool asked;	 /* a ping is out */
	bool gone;	 /* the agent was called so */
	bool ask_kernel; /* an answer of the kernel is awaited */
	unsigned deaf;	 /* rounds in which the kernel did not answer */
};

/* ---------------------------------------------------------------- processes */

char pulse_state(pid_t pid)
{
	char path[64], state = 0;
	const char *end;
	struct buf text;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	buf_init(&text);
	if (fs_read(path, 4096, &text, NULL) >= 0) {
		/* The name in between may hold anything. */
		end = strrchr(buf_text(&text), ')');
		if (end && end[1] == ' ')
			state = end[2];
	}
	buf_free(&text);
	return state;
}

static size_t children_in(const char *text, pid_t *list, size_t most)
{
	size_t n = 0;
	char *end;

	for (const char *p = text; n < most; p = end) {
		pid_t pid = (pid_t)strtol(p, &end, 10);

		if (end == p)
			break;
		if (pid > 0)
			list[n++] = pid;
	}
	return n;
}

/* Each thread has its own children (proc(5)). */
size_t pulse_children(pid_t pid, pid_t *list, size_t most)
{
	char path[96];
	struct dirent *entry;
	size_t n = 0;
	DIR *tasks;

	(void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	while (tasks && n < most && (entry = readdir(tasks))) {
		struct buf text;

		if (entry->d_name[0] == '.')
			continue;
		(void)snprintf(path, sizeof(path), "/proc/%d/task/%.20s/children", (int)pid,
			entry->d_name);
		buf_init(&text);
		if (fs_read(path, 1u << 20, &text, NULL) >= 0)
			n += children_in(buf_text(&text), list + n, most - n);
		buf_free(&text);
	}
	if (tasks)
		(void)closedir(tasks);
	return n;
}

static bool has_zombie(pid_t pid)
{
	pid_t list[STUBS_MAX];
	size_t n = pulse_children(pid, list, STUBS_MAX);

	for (size_t i = 0; i < n; i++)
		if (pulse_state(list[i]) == 'Z')
			return true;
	return false;
}

/* ---------------------------------------------------------------- looks */

static void lives(struct pulse *p)
{
	p->asked = false;
	p->deaf = 0;
	if (p->gone) {
		p->gone = false;
		p->ops->agent_gone(p->arg, false);
	}
}

static void agent_gone(struct pulse *p)
{
	p->deaf = 0;
	if (p->gone)
		return;
	p->gone = true;
	p->ops->agent_gone(p->arg, true);
}

static void hangs(struct pulse *p, const char *why)
{
	pulse_stop(p);
	p->ops->hangs(p->arg, why);
}

/* No sign came.  Why? */
static void judge(struct pulse *p)
{
	pid_t kernel = 0;
	char state = pulse_children(p->reaper, &kernel, 1) ? pulse_state(kernel) : 0;

	/* A person or a freezer holds it: nothing is wrong with the guest. */
	if (!state || state == 'T' || state == 't' || state == 'D')
		return;
	if (has_zombie(kernel)) {
		hangs(p, PULSE_KILLED);
		return;
	}
	p->ask_kernel = p->ops->ask_kernel(
		p->arg, PULSE_MCONSOLE_MS < p->every_ms ? PULSE_MCONSOLE_MS : p->every_ms);
	if (!p->ask_kernel) /* at its beginning, or by a guest that removed the socket */
		agent_gone(p);
}

void pulse_kernel(struct pulse *p, bool answered)
{
	if (!p->ask_kernel)
		return;
	p->ask_kernel = false;
	if (answered)
		agent_gone(p);
	else if (++p->deaf >= PULSE_DEAF)
		hangs(p, "its kernel does not answer any more");
}

static void on_timer(void *arg)
{
	struct pulse *p = arg;
	uint64_t heard = p->ops->heard(p->arg);

	loop_timer_arm(p->timer, p->every_ms);
	if (heard != p->heard) {
		p->heard = heard;
		lives(p);
		return;
	}
	if (p->asked)
		judge(p);
	else
		p->asked = true;
	if (loop_timer_armed(p->timer))
		p->ops->ping(p->arg);
}

/* ---------------------------------------------------------------- life */

int pulse_open(struct loop *loop, uint32_t every_ms, pid_t reaper, const struct pulse_ops *ops,
	void *arg, struct pulse **out, struct err *err)
{
	struct pulse *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return err_set(err, -ENOMEM, "out of memory");
	p->loop = loop;
	p->every_ms = every_ms ? every_ms : PULSE_MS;
	p->reaper = reaper;
	p->ops = ops;
	p->arg = arg;
	rc = loop_timer_open(loop, "pulse", on_timer, p, &p->timer, err);
	if (rc < 0) {
		free(p);
		return rc;
	}
	*out = p;
	return 0;
}

void pulse_close(struct pulse *p)
{
	if (!p)
		return;
	loop_timer_close(p->timer);
	free(p);
}

void pulse_start(struct pulse *p)
{
	p->asked = p->gone = p->ask_kernel = false;
	p->deaf = 0;
	p->heard = p->ops->heard(p->arg);
	loop_timer_arm(p->timer, p->every_ms);
}

void pulse_stop(struct pulse *p)
{
	p->ask_kernel = false;
	loop_timer_disarm(p->timer);
}
