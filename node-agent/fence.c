#include "node-agent/fence.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/fs.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "node-agent/agent.h"
#include "node-agent/life.h"
#include "node-agent/report.h"

struct fence {
	struct agent *agent;
	struct loop_timer *timer;
	bool cut;      /* the lease has ended */
	bool said;     /* that it has */
	bool expelled; /* from the cluster */
	bool marked;   /* so it is on disk, too */
	bool marking;  /* the pool is at it */
	char mark[PATH_MAX];
	bool fresh; /* this agent has not heard the whole state yet */
	/* proc_boot_ms() */
	uint64_t until;	 /* the lease ends, for this process */
	uint64_t heard;	 /* the sending of the newest heartbeat that was answered */
	uint64_t cut_at; /* the lease ended */
	struct log_rate rate;
};

bool fence_cuts(const struct guest *g)
{
	const struct fence *fence = g->agent->fence;

	if (fence && g->assign && fence->expelled)
		return true;
	if (!fence || !g->assign || !g->assign->fenced)
		return false;
	if (fence->cut || (fence->fresh && !g->run))
		return true;
	/* After standing still the timer may come later than what is done here. */
	return !g->agent->driver.ops->lease_left(g->agent->driver.self);
}

static void touch_all(struct agent *agent)
{
	for (struct guest *g = guests_first(agent->guests); g; g = guests_next(g)) {
		if (!g->assign)
			continue;
		g->retry_at = 0;
		report_guest(g);
		guests_touch(g);
	}
}

/* At once, whatever it is at: a clean stop takes too long now. */
static void kill_all(struct agent *agent)
{
	struct err err = ERR_INIT;

	for (struct guest *g = guests_first(agent->guests); g; g = guests_next(g))
		if (g->run && fence_cuts(g) &&
			agent->driver.ops->kill(agent->driver.self, g->dir, &err) < 0)
			log_error("a guest cannot be ended", LOG_STR("guest", g->assign->name),
				LOG_ERR(&err));
}

static void on_end(void *arg)
{
	struct fence *fence = arg;

	if (fence->cut)
		return;
	fence->cut = true;
	fence->cut_at = proc_boot_ms();
	kill_all(fence->agent);
	/* A host that has none, a new one say, has nothing to end. */
	fence->said = guests_count(fence->agent->guests) > 0;
	if (fence->said)
		log_warn("the lease ends unanswered: guests that may be started elsewhere are "
			 "ended");
	touch_all(fence->agent);
}

/* ---------------------------------------------------------------- expelled */

struct mark_job {
	struct fence *fence;
	bool make;
	int rc;
	struct err err;
};

static void mark_soon(struct fence *fence);

static void mark_work(void *arg)
{
	struct mark_job *job = arg;
	const struct fence *fence = job->fence;

	job->rc = job->make ? fs_write_atomic(fence->mark, "", 0, 0600, &job->err)
			    : fs_remove_tree(fence->mark, &job->err);
}

static void mark_done(void *arg, bool cancelled)
{
	struct mark_job *job = arg;
	struct fence *fence = job->fence;

	fence->marking = false;
	if (!cancelled && !fence->agent->stopping) {
		if (job->rc == 0)
			fence->marked = job->make;
		else if (log_rate_pass(&fence->rate)) /* at the next answer again */
			log_error("whether this host is in the cluster cannot be noted",
				LOG_ERR(&job->err));
		if (fence->expelled) {
			kill_all(fence->agent);
			touch_all(fence->agent);
		}
		if (job->rc == 0)
			mark_soon(fence);
	}
	free(job);
}

/* Makes what is on disk as it is here. */
static void mark_soon(struct fence *fence)
{
	struct mark_job *job;

	if (fence->marking || fence->marked == fence->expelled)
		return;
	job = calloc(1, sizeof(*job));
	if (!job)
		return;
	job->fence = fence;
	job->make = fence->expelled;
	fence->marking = true;
	if (loop_work_run(fence->agent->loop, "expelled", mark_work, mark_done, job, &job->err) <
		0) {
		job->rc = job->err.code;
		mark_done(job, false);
	}
}

/* First on disk, or an agent that is started again meanwhile would start them, too. */
void fence_expel(struct fence *fence)
{
	if (!fence->expelled)
		log_warn("all guests are ended: the cluster has given this host up, and started "
			 "them elsewhere");
	fence->expelled = true;
	mark_soon(fence);
}

static int find_mark(struct fence *fence, struct err *err)
{
	int rc = agent_path(fence->agent, "expelled", fence->mark, err);

	if (rc < 0)
		return rc;
	if (access(fence->mark, F_OK) == 0)
		fence->marked = fence->expelled = true;
	else if (errno != ENOENT)
		return err_errno(err, errno, "%s", fence->mark);
	if (fence->expelled)
		log_warn("the cluster has given this host up: guests wait until it is welcome "
			 "again");
	return 0;
}

/* ---------------------------------------------------------------- the lease */

int fence_open(struct agent *agent, struct fence **out, struct err *err)
{
	struct fence *fence = calloc(1, sizeof(*fence));
	uint64_t left = agent->driver.ops->lease_left(agent->driver.self);
	int rc;

	if (!fence)
		return err_set(err, -ENOMEM, "memory is short");
	fence->agent = agent;
	fence->fresh = true;
	*out = fence;
	rc = find_mark(fence, err);
	if (rc == 0)
		rc = loop_timer_open(agent->loop, "fence", on_end, fence, &fence->timer, err);
	if (rc < 0)
		return rc;
	if (fence->expelled)
		kill_all(agent);
	fence->until = proc_boot_ms() + left;
	if (left)
		loop_timer_arm(fence->timer, left);
	else
		on_end(fence);
	return 0;
}

void fence_stop(struct fence *fence)
{
	if (!fence)
		return;
	loop_timer_close(fence->timer);
	fence->timer = NULL;
}

void fence_free(struct fence *fence)
{
	free(fence);
}

void fence_renew(struct fence *fence, uint64_t sent, uint64_t lease)
{
	struct agent *agent = fence->agent;
	uint64_t guard = lease / FENCE_GUARD, until = sent + lease - guard, now = proc_boot_ms();
	struct err err = ERR_INIT;

	/* It ended while this process stood still, and the timer has not been told yet. */
	if (now >= fence->until || !agent->driver.ops->lease_left(agent->driver.self))
		on_end(fence);
	if (until <= now || sent < fence->heard)
		return;
	fence->heard = sent;
	fence->until = until;
	loop_timer_arm(fence->timer, until - now);
	if (agent->driver.ops->lease(agent->driver.self, agent->loop, until + guard / 2, &err) <
			0 &&
		log_rate_pass(&fence->rate))
		log_error("nobody would end the guests if this agent died", LOG_ERR(&err));
}

void fence_lift(struct fence *fence)
{
	bool expelled = fence->expelled;

	fence->expelled = false;
	mark_soon(fence);
	if (expelled)
		touch_all(fence->agent);
	if ((!fence->cut && !fence->fresh) || proc_boot_ms() >= fence->until)
		return;
	/* An answer to what was sent before the cut may have been on its way for long. */
	if (fence->cut && fence->heard < fence->cut_at)
		return;
	if (fence->cut && fence->said)
		log_info("the lease is good again");
	fence->cut = fence->fresh = false;
	touch_all(fence->agent);
}
