/* Asks a scheduler for one guest, again and again, and tells how long answers take.
 *   bench_get ENDPOINT GUEST PAUSE_MS   until SIGTERM; then percentiles, in us */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/loop.h"
#include "lib/zsock.h"

#define SAMPLES_MAX 1000000u

struct asker {
	struct loop *loop;
	struct zsock *sock;
	struct loop_timer *timer;
	char *guest;
	uint64_t pause_ms, asked_at, id;
	uint32_t *samples;
	size_t count;
};

static uint64_t mono_us(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void ask(void *arg)
{
	struct asker *a = arg;
	Um__Envelope env = wire_env(++a->id);
	Um__GetRequest get = UM__GET_REQUEST__INIT;

	get.kind = UM__KIND__KIND_GUESTS;
	get.names = &a->guest;
	get.n_names = 1;
	env.body_case = UM__ENVELOPE__BODY_GET_REQUEST;
	env.get_request = &get;
	a->asked_at = mono_us();
	if (zsock_send(a->sock, NULL, &env, NULL, 0, NULL) < 0)
		loop_timer_arm(a->timer, 100);
}

static void on_message(void *arg, struct zsock *sock, const struct zpeer *peer,
	const Um__Envelope *env, const void *bulk, size_t bulk_size)
{
	struct asker *a = arg;

	(void)sock;
	(void)peer;
	(void)bulk;
	(void)bulk_size;
	if (env->id != a->id || env->more)
		return;
	if (a->count < SAMPLES_MAX)
		a->samples[a->count++] = (uint32_t)(mono_us() - a->asked_at);
	loop_timer_arm(a->timer, a->pause_ms);
}

static void on_end(void *arg, int signum)
{
	struct asker *a = arg;

	(void)signum;
	loop_stop(a->loop);
}

static int by_size(const void *x, const void *y)
{
	const uint32_t *a = x, *b = y;

	return *a < *b ? -1 : *a > *b;
}

int main(int argc, char **argv)
{
	static const struct zsock_ops ops = {.on_message = on_message};
	const struct zsock_config config = {.type = ZSOCK_DEALER, .name = "asker"};
	struct asker a = {0};
	struct zctx *zctx = NULL;
	struct loop_signal *term = NULL;
	struct err err = ERR_INIT;
	int rc;

	if (argc != 4)
		return 2;
	a.guest = argv[2];
	a.pause_ms = strtoul(argv[3], NULL, 10);
	a.samples = calloc(SAMPLES_MAX, sizeof(*a.samples));
	rc = a.samples ? loop_new(&a.loop, &err) : -1;
	if (rc == 0)
		rc = zctx_new(&zctx, &err);
	if (rc == 0)
		rc = zsock_open(a.loop, zctx, &config, &ops, &a, &a.sock, &err);
	if (rc == 0)
		rc = zsock_connect(a.sock, argv[1], &err);
	if (rc == 0)
		rc = loop_timer_open(a.loop, "ask", ask, &a, &a.timer, &err);
	if (rc == 0)
		rc = loop_signal_open(a.loop, SIGTERM, on_end, &a, &term, &err);
	if (rc < 0) {
		(void)fprintf(stderr, "bench_get: %s\n", err_msg(&err));
		return 1;
	}
	loop_timer_arm(a.timer, 0);
	(void)loop_run(a.loop, &err);
	qsort(a.samples, a.count, sizeof(*a.samples), by_size);
	if (a.count)
		printf("%zu answers: median %u us, 99th percentile %u us, worst %u us\n", a.count,
			a.samples[a.count / 2], a.samples[a.count * 99 / 100],
			a.samples[a.count - 1]);
	zsock_close(a.sock, 0);
	loop_timer_close(a.timer);
	loop_signal_close(term);
	(void)loop_free(a.loop);
	zctx_free(zctx);
	free(a.samples);
	return 0;
}
