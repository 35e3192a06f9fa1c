/* lib/loop.h in virtual time. */
#include "lib/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/event.h"

struct loop {
	struct sim_proc *proc;
	struct loop_timer *timers;
	struct loop_defer *deferred, **deferred_tail;
	struct loop_defer *defers;
	struct loop_work *works, **works_tail;
	bool stopping;
};

struct loop_timer {
	struct loop *loop;
	struct sim_event event;
	loop_timer_fn *fn;
	void *arg;
	const char *name;
	bool running, closed;
	struct loop_timer *next, **from;
};

struct loop_defer {
	struct loop *loop;
	loop_defer_fn *fn;
	void *arg;
	bool queued, closed;
	struct loop_defer *next;
};

struct loop_work {
	struct loop *loop;
	struct sim_event event;
	loop_work_fn *work;
	loop_done_fn *done;
	void *arg;
	bool worked;
	struct loop_work *next, **from;
};

int loop_new(struct loop **out, struct err *err)
{
	struct loop *loop = calloc(1, sizeof(*loop));

	(void)err;
	if (!loop)
		abort();
	loop->proc = sim->cur;
	loop->deferred_tail = &loop->deferred;
	loop->works_tail = &loop->works;
	*out = loop;
	return 0;
}

struct sim_proc *sim_loop_proc(const struct loop *loop)
{
	return loop->proc;
}

int loop_run(struct loop *loop, struct err *err)
{
	(void)loop;
	return err_set(err, -ENOTSUP, "the simulator runs the loop");
}

void loop_stop(struct loop *loop)
{
	loop->stopping = true;
}

uint64_t loop_now(const struct loop *loop)
{
	return sim_mono_us(&sim->machines[loop->proc->machine]) / SIM_MS;
}

void sim_loop_deferred(struct loop *loop)
{
	struct loop_defer *list = loop->deferred;

	/* Those queued meanwhile come in the next round, at the same time. */
	while (list && !loop->proc->dead) {
		struct loop_defer *d = list;

		loop->deferred = d->next;
		if (!loop->deferred)
			loop->deferred_tail = &loop->deferred;
		d->queued = false;
		if (d->closed)
			free(d);
		else
			d->fn(d->arg);
		list = loop->deferred;
	}
}

/* ---------------------------------------------------------------- timers */

static void timer_free(struct loop_timer *t)
{
	*t->from = t->next;
	if (t->next)
		t->next->from = t->from;
	free(t);
}

static void timer_fires(void *arg)
{
	struct loop_timer *t = arg;

	t->running = true;
	t->fn(t->arg);
	t->running = false;
	if (t->closed)
		timer_free(t);
}

int loop_timer_open(struct loop *loop, const char *name, loop_timer_fn *fn, void *arg,
	struct loop_timer **out, struct err *err)
{
	struct loop_timer *t = calloc(1, sizeof(*t));

	(void)err;
	if (!t)
		abort();
	t->loop = loop;
	t->name = name;
	t->fn = fn;
	t->arg = arg;
	t->event.fn = timer_fires;
	t->event.arg = t;
	t->event.proc = loop->proc;
	t->next = loop->timers;
	t->from = &loop->timers;
	if (t->next)
		t->next->from = &t->next;
	loop->timers = t;
	*out = t;
	return 0;
}

void loop_timer_arm(struct loop_timer *t, uint64_t ms)
{
	struct sim_machine *m = &sim->machines[t->loop->proc->machine];

	if (t->closed)
		return;
	sim_event_remove(&t->event);
	/* A timer never fires early, and a busy machine's a little late. */
	sim_event_add(
		&t->event, sim->now + sim_stretch(m, ms * SIM_MS) +
				   (m->slow ? sim_between(m, DRAW_FATE, 0, 300 * SIM_MS) : 1));
}

void loop_timer_disarm(struct loop_timer *t)
{
	sim_event_remove(&t->event);
}

bool loop_timer_armed(const struct loop_timer *t)
{
	return t->event.queued;
}

void loop_timer_close(struct loop_timer *t)
{
	if (!t || t->closed)
		return;
	sim_event_remove(&t->event);
	t->closed = true;
	if (!t->running)
		timer_free(t);
}

/* ---------------------------------------------------------------- deferred calls */

int loop_defer_open(struct loop *loop, const char *name, loop_defer_fn *fn, void *arg,
	struct loop_defer **out, struct err *err)
{
	struct loop_defer *d = calloc(1, sizeof(*d));

	(void)name;
	(void)err;
	if (!d)
		abort();
	d->loop = loop;
	d->fn = fn;
	d->arg = arg;
	*out = d;
	return 0;
}

void loop_defer_run(struct loop_defer *d)
{
	if (d->queued || d->closed)
		return;
	d->queued = true;
	d->next = NULL;
	*d->loop->deferred_tail = d;
	d->loop->deferred_tail = &d->next;
}

void loop_defer_close(struct loop_defer *d)
{
	if (!d)
		return;
	d->closed = true;
	if (!d->queued)
		free(d);
}

/* ---------------------------------------------------------------- the pool */

static void work_free(struct loop_work *w)
{
	*w->from = w->next;
	if (w->next)
		w->next->from = w->from;
	else
		w->loop->works_tail = w->from;
	free(w);
}

static uint64_t pool_time(const struct loop *loop)
{
	struct sim_machine *m = &sim->machines[loop->proc->machine];
	uint64_t most = m->slow			      ? 800 * SIM_MS
			: sim_draw(m, DRAW_POOL) % 16 ? 3 * SIM_MS
						      : 60 * SIM_MS;

	return sim_between(m, DRAW_POOL, 20, most);
}

static void work_done(struct loop_work *w, bool cancelled)
{
	loop_done_fn *done = w->done;
	void *arg = w->arg;

	sim_event_remove(&w->event);
	work_free(w);
	done(arg, cancelled);
}

static void work_turn(void *arg)
{
	struct loop_work *w = arg;

	if (w->worked) {
		work_done(w, false);
		return;
	}
	w->work(w->arg);
	w->worked = true;
	sim_event_add(&w->event, sim->now + pool_time(w->loop));
}

int loop_work_run(struct loop *loop, const char *name, loop_work_fn *work, loop_done_fn *done,
	void *arg, struct err *err)
{
	struct loop_work *w = calloc(1, sizeof(*w));

	(void)name;
	(void)err;
	if (!w)
		abort();
	w->loop = loop;
	w->work = work;
	w->done = done;
	w->arg = arg;
	w->event.fn = work_turn;
	w->event.arg = w;
	w->event.proc = loop->proc;
	w->from = loop->works_tail;
	*loop->works_tail = w;
	loop->works_tail = &w->next;
	sim_event_add(&w->event, sim->now + pool_time(loop));
	return 0;
}

static void end_work(struct loop *loop)
{
	struct loop_work *w = loop->works;
	bool worked = w->worked;

	if (!worked && !loop->proc->dead) {
		w->work(w->arg);
		worked = true;
	}
	work_done(w, !worked);
}

void loop_run_while(struct loop *loop, const bool *busy)
{
	while (*busy && loop->works)
		end_work(loop);
}

unsigned loop_free(struct loop *loop)
{
	unsigned open = 0;

	if (!loop)
		return 0;
	while (loop->works)
		end_work(loop);
	while (loop->deferred) {
		struct loop_defer *d = loop->deferred;

		loop->deferred = d->next;
		if (d->closed)
			free(d);
		else
			d->queued = false;
	}
	for (struct loop_timer *t = loop->timers, *next; t; t = next) {
		next = t->next;
		open++;
		sim_note("timer '%s' was left open", t->name);
		loop_timer_close(t);
	}
	free(loop);
	return open;
}

/* ---------------------------------------------------------------- not in the simulator */

int loop_fd_open(struct loop *loop, const char *name, int fd, loop_fd_fn *fn, void *arg,
	struct loop_fd **out, struct err *err)
{
	(void)loop;
	(void)fd;
	(void)fn;
	(void)arg;
	(void)out;
	return err_set(err, -ENOTSUP, "%s: no descriptors in the simulator", name);
}

int loop_fd_want(struct loop_fd *watch, unsigned events)
{
	(void)watch;
	(void)events;
	return -ENOTSUP;
}

void loop_fd_close(struct loop_fd *watch)
{
	(void)watch;
}

int loop_child_open(struct loop *loop, const struct loop_child_spec *spec, loop_child_fn *fn,
	void *arg, struct loop_child **out, struct err *err)
{
	(void)loop;
	(void)fn;
	(void)arg;
	(void)out;
	return err_set(err, -ENOTSUP, "%s: no processes in the simulator", spec->name);
}

pid_t loop_child_pid(const struct loop_child *child)
{
	(void)child;
	return -1;
}

int loop_child_kill(struct loop_child *child, int signum)
{
	(void)child;
	(void)signum;
	return -ESRCH;
}

void loop_child_close(struct loop_child *child)
{
	(void)child;
}

int loop_exit_open(struct loop *loop, const struct proc_id *id, loop_exit_fn *fn, void *arg,
	struct loop_fd **out, struct err *err)
{
	(void)loop;
	(void)id;
	(void)fn;
	(void)arg;
	(void)out;
	return err_set(err, -ENOTSUP, "no processes in the simulator");
}

void loop_exit_close(struct loop_fd *watch)
{
	(void)watch;
}
