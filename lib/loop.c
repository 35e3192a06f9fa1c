#include "lib/loop.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/log.h"
#include "lib/loop_int.h"

void loop_head_init(struct loop_head *head, const char *name, void (*destroy)(struct loop_head *))
{
	head->magic = LOOP_MAGIC;
	head->name = name ? name : "unnamed";
	head->destroy = destroy;
}

int loop_fail(struct err *err, int uvcode, const char *what, const char *name)
{
	/* libuv's codes are negative errno values on Linux. */
	return err_errno(err, uvcode, "%s %s", what, name ? name : "");
}

/* ---------------------------------------------------------------- deferred */

struct loop_defer {
	struct loop *loop;
	const char *name;
	loop_defer_fn *fn;
	void *arg;
	bool queued, closed, running;
	struct loop_defer *next;	  /* to be run */
	struct loop_defer *older, **from; /* the list of all that are open */
};

static void defer_release(struct loop_defer *d)
{
	*d->from = d->older;
	if (d->older)
		d->older->from = d->from;
	free(d);
}

static void run_deferred(uv_prepare_t *prepare)
{
	struct loop_head *own = prepare->data;
	struct loop *loop = (struct loop *)((char *)own - offsetof(struct loop, own));
	struct loop_defer *list = loop->deferred;

	/* What is deferred meanwhile runs in the next turn. */
	loop->deferred = NULL;
	loop->deferred_tail = &loop->deferred;
	while (list) {
		struct loop_defer *d = list;

		list = d->next;
		d->queued = false;
		if (!d->closed) {
			d->running = true;
			d->fn(d->arg);
			d->running = false;
		}
		if (d->closed && !d->queued)
			defer_release(d);
	}
	if (!loop->deferred)
		(void)uv_idle_stop(&loop->idle);
}

static void idle_cb(uv_idle_t *idle)
{
	(void)idle;
}

int loop_defer_open(struct loop *loop, const char *name, loop_defer_fn *fn, void *arg,
	struct loop_defer **out, struct err *err)
{
	struct loop_defer *d = calloc(1, sizeof(*d));

	if (!d)
		return err_set(err, -ENOMEM, "memory is short for %s", name);
	d->loop = loop;
	d->name = name;
	d->fn = fn;
	d->arg = arg;
	d->older = loop->defers;
	d->from = &loop->defers;
	if (d->older)
		d->older->from = &d->older;
	loop->defers = d;
	*out = d;
	return 0;
}

void loop_defer_run(struct loop_defer *d)
{
	struct loop *loop = d->loop;

	if (d->queued || d->closed || loop->ending)
		return;
	d->queued = true;
	d->next = NULL;
	*loop->deferred_tail = d;
	loop->deferred_tail = &d->next;
	(void)uv_idle_start(&loop->idle, idle_cb);
}

void loop_defer_close(struct loop_defer *d)
{
	if (!d)
		return;
	d->closed = true;
	if (!d->queued && !d->running)
		defer_release(d);
}

/* ---------------------------------------------------------------- the loop */

int loop_new(struct loop **out, struct err *err)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int rc;

	if (!loop)
		return err_set(err, -ENOMEM, "memory is short for an event loop");
	rc = uv_loop_init(&loop->uv);
	if (rc < 0) {
		free(loop);
		return loop_fail(err, rc, "event loop", "");
	}
	loop->deferred_tail = &loop->deferred;
	loop->heavy_last = &loop->heavy_first;
	loop_head_init(&loop->own, "loop", NULL);
	(void)uv_prepare_init(&loop->uv, &loop->prepare);
	(void)uv_idle_init(&loop->uv, &loop->idle);
	loop->prepare.data = &loop->own;
	loop->idle.data = &loop->own;
	(void)uv_prepare_start(&loop->prepare, run_deferred);
	uv_unref((uv_handle_t *)&loop->prepare);
	*out = loop;
	return 0;
}

int loop_run(struct loop *loop, struct err *err)
{
	(void)err;
	loop->stopping = false;
	while (!loop->stopping && uv_run(&loop->uv, UV_RUN_ONCE) != 0)
		;
	return 0;
}

void loop_stop(struct loop *loop)
{
	loop->stopping = true;
	uv_stop(&loop->uv);
}

void loop_run_while(struct loop *loop, const bool *busy)
{
	while (*busy && uv_run(&loop->uv, UV_RUN_ONCE) != 0)
		;
}

uint64_t loop_now(const struct loop *loop)
{
	return uv_now(&loop->uv);
}

void *loop_uv(struct loop *loop)
{
	return &loop->uv;
}

struct loop_work {
	uv_work_t uv;
	struct loop *loop;
	loop_work_fn *work;
	loop_done_fn *done;
	void *arg;
	struct loop_work *older, **from; /* the list of all in the pool */
	bool heavy;
	struct loop_work *next_heavy; /* waits for its turn */
};

static void end_heavy(struct loop *loop);

struct census {
	struct loop *loop;
	unsigned dangling;
};

static void count_handle(uv_handle_t *handle, void *arg)
{
	struct census *census = arg;
	struct loop_head *head = handle->data;

	if (uv_is_closing(handle) || head == &census->loop->own)
		return;
	/* A child whose owner has let go of it: only waited for. */
	if (handle->type == UV_PROCESS && !uv_has_ref(handle)) {
		head->destroy(head);
		return;
	}
	census->dangling++;
	if (head && head->magic == LOOP_MAGIC) {
		log_error("still open at the end of the loop", LOG_STR("handle", head->name),
			LOG_STR("type", uv_handle_type_name(handle->type)));
		if (head->destroy) {
			head->destroy(head);
			return;
		}
	} else {
		log_error("unknown handle still open at the end of the loop",
			LOG_STR("type", uv_handle_type_name(handle->type)));
	}
	uv_close(handle, NULL);
}

/* What is not a handle of libuv. */
static unsigned end_defers(struct loop *loop)
{
	unsigned dangling = 0;

	while (loop->defers) {
		/* defer_release() takes it off. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
		if (!loop->defers->closed) {
			log_error("still open at the end of the loop",
				LOG_STR("handle", loop->defers->name), LOG_STR("type", "defer"));
			dangling++;
		}
		defer_release(loop->defers);
	}
	return dangling;
}

unsigned loop_free(struct loop *loop)
{
	struct census census = {.loop = loop};

	if (!loop)
		return 0;
	/* What is in the pool ends first: its callbacks may still close things. */
	end_heavy(loop);
	for (struct loop_work *work = loop->works; work; work = work->older)
		(void)uv_cancel((uv_req_t *)&work->uv);
	while (loop->works && uv_run(&loop->uv, UV_RUN_ONCE))
		;
	/* Let closes that are under way finish before counting. */
	(void)uv_run(&loop->uv, UV_RUN_NOWAIT);
	loop->ending = true;
	uv_walk(&loop->uv, count_handle, &census);
	uv_close((uv_handle_t *)&loop->prepare, NULL);
	uv_close((uv_handle_t *)&loop->idle, NULL);
	while (uv_loop_close(&loop->uv) == UV_EBUSY)
		(void)uv_run(&loop->uv, UV_RUN_ONCE);
	census.dangling += end_defers(loop);
	free(loop);
	return census.dangling;
}

/* ---------------------------------------------------------------- timers */

struct loop_timer {
	struct loop_head head;
	uv_timer_t uv;
	loop_timer_fn *fn;
	void *arg;
};

static void timer_free(uv_handle_t *handle)
{
	free(((struct loop_head *)handle->data));
}

static void timer_destroy(struct loop_head *head)
{
	loop_timer_close((struct loop_timer *)head);
}

static void timer_cb(uv_timer_t *uv)
{
	struct loop_timer *timer = uv->data;

	timer->fn(timer->arg);
}

int loop_timer_open(struct loop *loop, const char *name, loop_timer_fn *fn, void *arg,
	struct loop_timer **out, struct err *err)
{
	struct loop_timer *timer = calloc(1, sizeof(*timer));

	if (!timer)
		return err_set(err, -ENOMEM, "memory is short for timer %s", name);
	loop_head_init(&timer->head, name, timer_destroy);
	timer->fn = fn;
	timer->arg = arg;
	(void)uv_timer_init(&loop->uv, &timer->uv);
	timer->uv.data = timer;
	*out = timer;
	return 0;
}

void loop_timer_arm(struct loop_timer *timer, uint64_t ms)
{
	if (uv_is_closing((uv_handle_t *)&timer->uv))
		return;
	/* The loop's clock stands still during an iteration. */
	uv_update_time(timer->uv.loop);
	(void)uv_timer_start(&timer->uv, timer_cb, ms, 0);
}

void loop_timer_disarm(struct loop_timer *timer)
{
	(void)uv_timer_stop(&timer->uv);
}

bool loop_timer_armed(const struct loop_timer *timer)
{
	return uv_is_active((const uv_handle_t *)&timer->uv);
}

void loop_timer_close(struct loop_timer *timer)
{
	if (timer && !uv_is_closing((uv_handle_t *)&timer->uv))
		uv_close((uv_handle_t *)&timer->uv, timer_free);
}

/* ---------------------------------------------------------------- signals */

struct loop_signal {
	struct loop_head head;
	uv_signal_t uv;
	loop_signal_fn *fn;
	void *arg;
};

static void signal_free(uv_handle_t *handle)
{
	free(handle->data);
}

static void signal_destroy(struct loop_head *head)
{
	loop_signal_close((struct loop_signal *)head);
}

static void signal_cb(uv_signal_t *uv, int signum)
{
	struct loop_signal *sig = uv->data;

	sig->fn(sig->arg, signum);
}

int loop_signal_open(struct loop *loop, int signum, loop_signal_fn *fn, void *arg,
	struct loop_signal **out, struct err *err)
{
	struct loop_signal *sig = calloc(1, sizeof(*sig));
	int rc;

	if (!sig)
		return err_set(err, -ENOMEM, "memory is short to catch a signal");
	loop_head_init(&sig->head, "signal", signal_destroy);
	sig->fn = fn;
	sig->arg = arg;
	(void)uv_signal_init(&loop->uv, &sig->uv);
	sig->uv.data = sig;
	rc = uv_signal_start(&sig->uv, signal_cb, signum);
	if (rc < 0) {
		loop_signal_close(sig);
		return loop_fail(err, rc, "catch signal", "");
	}
	*out = sig;
	return 0;
}

void loop_signal_close(struct loop_signal *sig)
{
	if (sig && !uv_is_closing((uv_handle_t *)&sig->uv))
		uv_close((uv_handle_t *)&sig->uv, signal_free);
}

/* ---------------------------------------------------------------- the pool */

static void work_cb(uv_work_t *uv)
{
	struct loop_work *work = uv->data;

	work->work(work->arg);
}

static int put_in_pool(struct loop_work *work);

static struct loop_work *next_heavy(struct loop *loop)
{
	struct loop_work *work = loop->heavy_first;

	loop->heavy_first = work->next_heavy;
	if (!loop->heavy_first)
		loop->heavy_last = &loop->heavy_first;
	return work;
}

static void start_heavy(struct loop *loop)
{
	while (loop->heavy_first && loop->heavy < LOOP_HEAVY) {
		struct loop_work *work = next_heavy(loop);

		if (put_in_pool(work) < 0) {
			work->done(work->arg, true);
			free(work);
		} else {
			loop->heavy++;
		}
	}
}

static void end_heavy(struct loop *loop)
{
	while (loop->heavy_first) {
		struct loop_work *work = next_heavy(loop);

		work->done(work->arg, true);
		free(work);
	}
}

static void done_cb(uv_work_t *uv, int status)
{
	struct loop_work *work = uv->data;
	struct loop *loop = work->loop;

	*work->from = work->older;
	if (work->older)
		work->older->from = work->from;
	/* Those that wait go before what its callback may begin. */
	if (work->heavy) {
		loop->heavy--;
		start_heavy(loop);
	}
	work->done(work->arg, status == UV_ECANCELED);
	free(work);
}

static int put_in_pool(struct loop_work *work)
{
	struct loop *loop = work->loop;
	int rc = uv_queue_work(&loop->uv, &work->uv, work_cb, done_cb);

	if (rc < 0)
		return rc;
	work->older = loop->works;
	work->from = &loop->works;
	if (work->older)
		work->older->from = &work->older;
	loop->works = work;
	return 0;
}

static struct loop_work *make_work(struct loop *loop, const char *name, loop_work_fn *fn,
	loop_done_fn *done, void *arg, struct err *err)
{
	struct loop_work *work = calloc(1, sizeof(*work));

	if (!work) {
		(void)err_set(err, -ENOMEM, "memory is short for work %s", name);
		return NULL;
	}
	work->uv.data = work;
	work->loop = loop;
	work->work = fn;
	work->done = done;
	work->arg = arg;
	return work;
}

int loop_work_run(struct loop *loop, const char *name, loop_work_fn *fn, loop_done_fn *done,
	void *arg, struct err *err)
{
	struct loop_work *work = make_work(loop, name, fn, done, arg, err);
	int rc = work ? put_in_pool(work) : -ENOMEM;

	if (work && rc < 0) {
		free(work);
		return loop_fail(err, rc, "queue work", name);
	}
	return rc;
}

int loop_heavy_run(struct loop *loop, const char *name, loop_work_fn *fn, loop_done_fn *done,
	void *arg, struct err *err)
{
	struct loop_work *work = make_work(loop, name, fn, done, arg, err);

	if (!work)
		return -ENOMEM;
	work->heavy = true;
	*loop->heavy_last = work;
	loop->heavy_last = &work->next_heavy;
	start_heavy(loop);
	return 0;
}
