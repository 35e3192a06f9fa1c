#include "node-agent/pressure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/log.h"
#include "node-agent/agent.h"
#include "node-agent/guests.h"

#define AT_ONCE 16u /* guests that are told in one turn */
#define TURN_MS 20u

struct pressure {
	struct agent *agent;
	int fd;
	struct loop_fd *watch;
	struct loop_timer *timer;
	uint64_t *uids; /* who is still to be told */
	size_t count, told;
	uint64_t last;	     /* loop time; 0: never */
	uint64_t stalled_us; /* in all, when that was looked at last */
};

/* How long somebody stood still for want of memory, since the host's start. */
static uint64_t stalled(const struct pressure *p)
{
	char text[256];
	ssize_t n = pread(p->fd, text, sizeof(text) - 1, 0);
	const char *total;

	if (n <= 0)
		return 0;
	text[n] = '\0';
	total = strstr(text, "total=");
	return total ? strtoull(total + strlen("total="), NULL, 10) : 0;
}

/* An event alone does not say so: one has been seen within a second of the trigger's making, when
 * all had stood still for 35 ms in the hour before.  What counts is what the host says itself. */
static bool is_now(struct pressure *p)
{
	uint64_t was = p->stalled_us;

	p->stalled_us = stalled(p);
	return p->stalled_us >= was + PRESSURE_STALL_US;
}

static void tell(struct pressure *p, uint64_t uid)
{
	const struct driver_ops *ops = p->agent->driver.ops;
	struct guest *g = guests_find(p->agent->guests, uid);
	Um__Envelope env = wire_env(0);
	Um__GuestTrim body = UM__GUEST_TRIM__INIT;

	if (!g || !g->run || g->ended || !ops->up(g->run) || g->status.phase != UM__PHASE__RUNNING)
		return;
	env.body_case = UM__ENVELOPE__BODY_GUEST_TRIM;
	env.guest_trim = &body;
	(void)ops->send(g->run, &env, NULL); /* one that cannot be told keeps its caches */
}

static void on_turn(void *arg)
{
	struct pressure *p = arg;

	for (size_t i = 0; i < AT_ONCE && p->told < p->count; i++)
		tell(p, p->uids[p->told++]);
	if (p->told < p->count) {
		loop_timer_arm(p->timer, TURN_MS);
		return;
	}
	free(p->uids);
	p->uids = NULL;
	p->count = p->told = 0;
}

static void on_pressure(void *arg, unsigned events)
{
	struct pressure *p = arg;
	struct guests *guests = p->agent->guests;
	uint64_t now = loop_now(p->agent->loop);

	/* A trigger that is no more only says that. */
	if (events & LOOP_HUP) {
		(void)loop_fd_want(p->watch, 0);
		return;
	}
	if (!is_now(p) || p->uids || (p->last && now - p->last < PRESSURE_REST_MS) ||
		!guests_count(guests))
		return;
	p->uids = calloc(guests_count(guests), sizeof(*p->uids));
	if (!p->uids)
		return;
	p->last = now;
	for (struct guest *g = guests_first(guests); g; g = guests_next(g))
		p->uids[p->count++] = g->uid;
	log_warn("the host is short of memory: guests give up their caches",
		LOG_U64("guests", p->count));
	on_turn(p);
}

static int set_trigger(void)
{
	char text[64];
	int fd = open("/proc/pressure/memory", O_RDWR | O_NONBLOCK | O_CLOEXEC), n;

	if (fd < 0)
		return -errno;
	n = snprintf(text, sizeof(text), "some %u %u", PRESSURE_STALL_US, PRESSURE_WINDOW_US);
	if (write(fd, text, (size_t)n + 1) < 0) {
		n = -errno;
		(void)close(fd);
		return n;
	}
	return fd;
}

int pressure_open(struct agent *agent, struct pressure **out, struct err *err)
{
	struct pressure *p;
	int rc = 0, fd = agent->config.init[0] ? set_trigger() : -ENOENT;

	if (fd < 0) {
		if (agent->config.init[0])
			log_info("the host does not tell when it is short of memory",
				LOG_STR("why", strerror(-fd)));
		return 0;
	}
	p = calloc(1, sizeof(*p));
	if (!p) {
		(void)close(fd);
		return err_set(err, -ENOMEM, "memory is short");
	}
	p->agent = agent;
	p->fd = fd;
	p->stalled_us = stalled(p);
	*out = p; /* the caller stops and frees it in any case */
	rc = loop_timer_open(agent->loop, "pressure", on_turn, p, &p->timer, err);
	if (rc == 0)
		rc = loop_fd_open(agent->loop, "pressure", fd, on_pressure, p, &p->watch, err);
	return rc == 0 ? loop_fd_want(p->watch, LOOP_PRI) : rc;
}

void pressure_stop(struct pressure *p)
{
	if (!p)
		return;
	loop_fd_close(p->watch);
	loop_timer_close(p->timer);
	p->watch = NULL;
	p->timer = NULL;
}

void pressure_free(struct pressure *p)
{
	if (!p)
		return;
	(void)close(p->fd);
	free(p->uids);
	free(p);
}
