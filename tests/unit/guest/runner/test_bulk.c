/* The bulk window: its ring, what a guest's user may do with it, and the line that uses
 * it, with a guest that is a socketpair in this process. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "guest/runner/bulk.h"
#include "guest/runner/line.h"
#include "lib/log.h"
#include "lib/proc.h"

/* ---------------------------------------------------------------- the ring */

static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

struct piece {
	Um__LineBulk at;
	uint8_t first;
};

/* What was put and not confirmed is never overwritten, and order is that of the ends. */
static void test_ring(void **state)
{
	static uint8_t data[WIRE_BULK_BATCH], seen[WIRE_BULK_BATCH];
	static struct piece pieces[4096];
	struct bulk bulk = BULK_INIT;
	struct err err = ERR_INIT;
	size_t first = 0, count = 0;
	uint32_t seed = 7;
	int theirs = -1;

	(void)state;
	assert_int_equal(bulk_room(&bulk), 0);
	assert_int_equal(bulk_make(&bulk.fd, &theirs, &err), 0);
	assert_int_equal(bulk_room(&bulk), 0); /* the guest has not said hello */
	bulk_begin(&bulk, 12345);
	assert_int_equal(bulk_room(&bulk), 0); /* another size than ours */
	bulk_begin(&bulk, WIRE_LINE_BULK);
	for (int round = 0; round < 3000; round++) {
		size_t size = 1 + next_random(&seed) % WIRE_BULK_BATCH;
		struct piece *p = &pieces[count];

		if (size <= bulk_room(&bulk) && next_random(&seed) % 3) {
			memset(data, round, size);
			um__line_bulk__init(&p->at);
			assert_int_equal(bulk_put(&bulk, data, size, &p->at, &err), 0);
			p->first = (uint8_t)round;
			assert_int_equal(p->at.offset % WIRE_BULK_ALIGN, 0);
			assert_true(p->at.offset + size <= WIRE_LINE_BULK);
			assert_true(count == 0 || p->at.end > pieces[count - 1].at.end);
			count++;
			continue;
		}
		if (first == count) {
			assert_true(bulk_room(&bulk) == WIRE_BULK_BATCH);
			continue;
		}
		p = &pieces[first++];
		assert_int_equal(pread(theirs, seen, p->at.size, (off_t)p->at.offset), p->at.size);
		memset(data, p->first, p->at.size);
		assert_memory_equal(seen, data, p->at.size);
		bulk_confirm(&bulk, p->at.end);
	}
	assert_true(first > 500);
	(void)close(theirs);
	(void)close(bulk.fd);
}

/* What a guest says of the window costs nobody but itself. */
static void test_confirm_lies(void **state)
{
	static uint8_t data[WIRE_BULK_BATCH];
	struct bulk bulk = BULK_INIT;
	struct err err = ERR_INIT;
	Um__LineBulk at = UM__LINE_BULK__INIT;
	struct stat st;
	int theirs = -1;

	(void)state;
	assert_int_equal(bulk_make(&bulk.fd, &theirs, &err), 0);
	bulk_confirm(&bulk, 5);
	bulk_begin(&bulk, WIRE_LINE_BULK);
	bulk_confirm(&bulk, UINT64_MAX);
	memset(data, 1, sizeof(data));
	while (bulk_room(&bulk) == sizeof(data))
		assert_int_equal(bulk_put(&bulk, data, sizeof(data), &at, &err), 0);
	assert_int_equal(bulk_room(&bulk), 0);
	assert_int_equal(bulk_put(&bulk, data, 1, &at, &err), -ENOBUFS);
	bulk_confirm(&bulk, at.end + 1);
	bulk_confirm(&bulk, UINT64_MAX);
	bulk_confirm(&bulk, 0);
	assert_int_equal(bulk_room(&bulk), 0);
	assert_int_equal(fstat(bulk.fd, &st), 0);
	assert_true(st.st_blocks * 512 >= WIRE_LINE_BULK);
	/* All read: the memory is given back. */
	bulk_confirm(&bulk, at.end);
	assert_int_equal(bulk_room(&bulk), WIRE_BULK_BATCH);
	assert_int_equal(fstat(bulk.fd, &st), 0);
	assert_int_equal(st.st_blocks, 0);
	assert_int_equal(st.st_size, WIRE_LINE_BULK);
	(void)close(theirs);
	(void)close(bulk.fd);
}

/* As the user of a guest, who holds THEIRS: reads, and can do nothing else. */
static int as_guest(int theirs)
{
	char path[64], byte;
	int fd;

	if (setresgid(777777, 777777, 777777) || setresuid(777777, 777777, 777777))
		return 1;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", theirs);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		return 2;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread(fd, &byte, 1, 0) != 1)
		return 3;
	if (write(theirs, "x", 1) >= 0 || write(fd, "x", 1) >= 0)
		return 4;
	if (ftruncate(theirs, 0) == 0 || truncate(path, 0) == 0 || fchmod(fd, 0666) == 0)
		return 5;
	if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED)
		return 6;
	return 0;
}

static void test_rights(void **state)
{
	struct err err = ERR_INIT;
	int ours = -1, theirs = -1, status = -1;
	pid_t pid;

	(void)state;
	assert_int_equal(bulk_make(&ours, &theirs, &err), 0);
	pid = fork();
	if (pid == 0)
		_exit(as_guest(theirs));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	/* Not even we can cut it short under a reader. */
	assert_int_equal(ftruncate(ours, 0), -1);
	assert_int_equal(errno, EPERM);
	(void)close(ours);
	(void)close(theirs);
}

/* ---------------------------------------------------------------- the line */

struct fixture {
	struct loop *loop;
	struct loop_timer *timer;
	struct line *line;
	int guest, ours, theirs;
	struct wire_reader in, pieces;
	uint64_t total, bulk_end;
	unsigned by_line, by_window; /* StreamData */
};

static void on_message(void *arg, const Um__Envelope *env)
{
	(void)arg;
	(void)env;
}

static void on_close(void *arg, const struct err *err)
{
	(void)arg;
	(void)err;
}

static void on_timer(void *arg)
{
	struct fixture *f = arg;

	loop_stop(f->loop);
}

static void turn(struct fixture *f)
{
	struct err err = ERR_INIT;

	loop_timer_arm(f->timer, 3);
	assert_true(loop_run(f->loop, &err) >= 0);
}

static int setup(void **state)
{
	static const struct line_ops ops = {.on_message = on_message, .on_close = on_close};
	struct log_config log = {
		.program = "test", .instance = "", .level = LOG_ERROR, .fd = STDERR_FILENO};
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;
	int ends[2];

	assert_non_null(f);
	log_init(&log);
	assert_int_equal(loop_new(&f->loop, &err), 0);
	assert_int_equal(loop_timer_open(f->loop, "turn", on_timer, f, &f->timer, &err), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
	f->guest = ends[1];
	assert_int_equal(line_open(f->loop, ends[0], &ops, f, &f->line, &err), 0);
	assert_int_equal(bulk_make(&f->ours, &f->theirs, &err), 0);
	line_bulk(f->line, f->ours);
	wire_reader_init(&f->in, WIRE_LINE_MAX, false);
	wire_reader_init(&f->pieces, WIRE_LINE_MAX, false);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	line_close(f->line);
	loop_timer_close(f->timer);
	assert_int_equal(loop_free(f->loop), 0);
	wire_reader_free(&f->in);
	wire_reader_free(&f->pieces);
	(void)close(f->guest);
	(void)close(f->ours);
	(void)close(f->theirs);
	free(f);
	return 0;
}

static void guest_send(struct fixture *f, Um__Envelope *env)
{
	struct buf frame;

	buf_init(&frame);
	assert_int_equal(wire_frame(env, WIRE_LINE_MAX, &frame, NULL), 0);
	assert_int_equal(write(f->guest, frame.data, frame.size), (ssize_t)frame.size);
	buf_free(&frame);
}

static void guest_hello(struct fixture *f, uint32_t bulk)
{
	Um__Envelope env = wire_env(0);
	Um__GuestHello hello = UM__GUEST_HELLO__INIT;

	hello.line_window = WIRE_LINE_WINDOW;
	hello.line_bulk = bulk;
	env.body_case = UM__ENVELOPE__BODY_GUEST_HELLO;
	env.guest_hello = &hello;
	guest_send(f, &env);
	turn(f);
	f->total = f->bulk_end = 0;
}

static void guest_ack(struct fixture *f)
{
	Um__Envelope env = wire_env(0);
	Um__LineAck ack = UM__LINE_ACK__INIT;

	ack.bytes = f->total;
	ack.bulk = f->bulk_end;
	env.body_case = UM__ENVELOPE__BODY_LINE_ACK;
	env.line_ack = &ack;
	guest_send(f, &env);
	turn(f);
}

/* Reads the line; true when something came. */
static bool guest_read(struct fixture *f)
{
	uint8_t data[4096];
	ssize_t n = read(f->guest, data, sizeof(data));

	if (n <= 0)
		return false;
	assert_true((size_t)n <= WIRE_LINE_WINDOW);
	assert_int_equal(wire_reader_add(&f->in, data, (size_t)n, NULL), 0);
	f->total += (uint64_t)n;
	return true;
}

/* The next message, out of the window where the line says so; the caller frees it. */
static Um__Envelope *guest_next(struct fixture *f)
{
	static uint8_t data[WIRE_BULK_BATCH];
	Um__Envelope *env = NULL;
	struct err err = ERR_INIT;

	if (wire_reader_next(&f->pieces, &env, &err) > 0) {
		f->by_window += env->body_case == UM__ENVELOPE__BODY_STREAM_DATA;
		return env;
	}
	assert_int_equal(wire_reader_held(&f->pieces), 0);
	if (wire_reader_next(&f->in, &env, &err) <= 0)
		return NULL;
	if (env->body_case != UM__ENVELOPE__BODY_LINE_BULK) {
		f->by_line += env->body_case == UM__ENVELOPE__BODY_STREAM_DATA;
		return env;
	}
	assert_true(env->line_bulk->size <= sizeof(data));
	assert_int_equal(
		pread(f->theirs, data, env->line_bulk->size, (off_t)env->line_bulk->offset),
		env->line_bulk->size);
	assert_int_equal(wire_reader_add(&f->pieces, data, env->line_bulk->size, NULL), 0);
	f->bulk_end = env->line_bulk->end;
	um__envelope__free_unpacked(env, NULL);
	return guest_next(f);
}

static void add_data(
	struct fixture *f, struct line_flow *flow, uint64_t id, const uint8_t *data, size_t size)
{
	Um__Envelope env = wire_env(id);
	Um__StreamData body = UM__STREAM_DATA__INIT;

	body.data.data = (uint8_t *)(uintptr_t)data;
	body.data.len = size;
	env.body_case = UM__ENVELOPE__BODY_STREAM_DATA;
	env.stream_data = &body;
	assert_int_equal(line_flow_add(f->line, flow, &env, NULL), 0);
}

/* Two streams with frames of all sizes: each arrives whole and in order, the window
 * filling up many times; small frames keep to the line. */
static void test_streams(void **state)
{
	struct fixture *f = *state;
	static uint8_t text[2][3u << 20];
	size_t put[2] = {0, 0}, got[2] = {0, 0};
	struct line_flow flows[2];
	struct line_counts counts;
	Um__Envelope *env;
	uint32_t seed = 3;

	guest_hello(f, WIRE_LINE_BULK);
	for (int i = 0; i < 2; i++) {
		proc_random(text[i], sizeof(text[i]));
		line_flow_init(&flows[i]);
	}
	for (int round = 0; round < 4000; round++) {
		for (int i = 0; i < 2; i++) {
			/* At most a stream's window is ever queued. */
			while (put[i] < sizeof(text[i]) && put[i] - got[i] < 200000) {
				size_t n = 1 + next_random(&seed) % WIRE_STREAM_DATA;

				if (next_random(&seed) % 4 == 0)
					n = 1 + n % 64;
				n = n < sizeof(text[i]) - put[i] ? n : sizeof(text[i]) - put[i];
				add_data(f, &flows[i], (uint64_t)i, text[i] + put[i], n);
				put[i] += n;
			}
		}
		while (guest_read(f))
			;
		while ((env = guest_next(f))) {
			const Um__StreamData *d = env->stream_data;

			assert_int_equal(env->body_case, UM__ENVELOPE__BODY_STREAM_DATA);
			assert_memory_equal(
				text[env->id] + got[env->id], d->data.data, d->data.len);
			got[env->id] += d->data.len;
			um__envelope__free_unpacked(env, NULL);
		}
		guest_ack(f);
		if (got[0] + got[1] == sizeof(text))
			break;
	}
	assert_int_equal(got[0], sizeof(text[0]));
	assert_int_equal(got[1], sizeof(text[1]));
	line_counts(f->line, &counts);
	assert_true(counts.bytes_bulk > sizeof(text) / 2);
	assert_true(f->by_window > 100);
	assert_true(f->by_line > 10);
	assert_int_equal(counts.broken, 0);
}

/* A guest that confirms nothing gets the window's worth, and a control message still. */
static void test_full(void **state)
{
	struct fixture *f = *state;
	static uint8_t block[WIRE_STREAM_DATA];
	struct line_flow flow;
	Um__Envelope sync = wire_env(99), *env;
	Um__GuestSync body = UM__GUEST_SYNC__INIT;
	bool control = false;
	size_t got = 0;

	guest_hello(f, WIRE_LINE_BULK);
	line_flow_init(&flow);
	for (int i = 0; i < 100; i++)
		add_data(f, &flow, 1, block, sizeof(block));
	sync.body_case = UM__ENVELOPE__BODY_GUEST_SYNC;
	sync.guest_sync = &body;
	assert_int_equal(line_send(f->line, &sync, NULL), 0);
	for (int i = 0; i < 20; i++) {
		turn(f);
		while (guest_read(f))
			;
		while ((env = guest_next(f))) {
			control = control || env->id == 99;
			got += env->id == 1 ? env->stream_data->data.len : 0;
			um__envelope__free_unpacked(env, NULL);
		}
	}
	assert_true(control);
	assert_true(got > WIRE_LINE_BULK / 2);
	assert_true(got < WIRE_LINE_BULK);
	/* It reads on: the rest comes. */
	for (int i = 0; i < 50; i++) {
		guest_ack(f);
		while (guest_read(f))
			;
		while ((env = guest_next(f))) {
			got += env->stream_data->data.len;
			um__envelope__free_unpacked(env, NULL);
		}
	}
	assert_int_equal(got, 100 * sizeof(block));
	line_flow_drop(f->line, &flow);
}

/* A guest that rebooted, or whose kernel has no such disk, gets all over the line. */
static void test_without(void **state)
{
	struct fixture *f = *state;
	static uint8_t block[8000];
	struct line_flow flow;
	Um__Envelope *env;
	size_t got = 0;

	guest_hello(f, WIRE_LINE_BULK);
	line_flow_init(&flow);
	add_data(f, &flow, 1, block, sizeof(block));
	turn(f);
	while (guest_read(f))
		;
	env = guest_next(f);
	assert_non_null(env);
	um__envelope__free_unpacked(env, NULL);
	assert_int_equal(f->by_window, 1);

	guest_hello(f, 0);
	add_data(f, &flow, 2, block, sizeof(block));
	for (int i = 0; i < 20 && !got; i++) {
		turn(f);
		while (guest_read(f))
			;
		if ((env = guest_next(f))) {
			got = env->stream_data->data.len;
			um__envelope__free_unpacked(env, NULL);
		}
		guest_ack(f);
	}
	assert_int_equal(got, sizeof(block));
	assert_int_equal(f->by_line, 1);
}

/* A large configuration is control data: in order, before what follows it. */
static void test_control(void **state)
{
	struct fixture *f = *state;
	static uint8_t content[60000];
	struct buf frames;
	Um__Envelope *env;
	size_t parts = 0;

	guest_hello(f, WIRE_LINE_BULK);
	buf_init(&frames);
	for (uint64_t i = 0; i < 40; i++) {
		Um__Envelope part = wire_env(i + 1);
		Um__GuestConfig config = UM__GUEST_CONFIG__INIT;
		Um__FileSpec file = UM__FILE_SPEC__INIT, *list[] = {&file};

		file.content.data = content;
		file.content.len = i % 3 ? sizeof(content) : 10;
		config.files = list;
		config.n_files = 1;
		part.body_case = UM__ENVELOPE__BODY_GUEST_CONFIG;
		part.guest_config = &config;
		assert_int_equal(wire_frame(&part, WIRE_LINE_MAX, &frames, NULL), 0);
	}
	assert_int_equal(line_send_frames(f->line, &frames, NULL), 0);
	for (int i = 0; i < 100 && parts < 40; i++) {
		turn(f);
		while (guest_read(f))
			;
		while ((env = guest_next(f))) {
			assert_int_equal(env->id, ++parts);
			um__envelope__free_unpacked(env, NULL);
		}
		guest_ack(f);
	}
	assert_int_equal(parts, 40);
	assert_true(f->total < 4000); /* over the line: hardly anything */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ring),
		cmocka_unit_test(test_confirm_lies),
		cmocka_unit_test(test_rights),
		cmocka_unit_test_setup_teardown(test_streams, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full, setup, teardown),
		cmocka_unit_test_setup_teardown(test_without, setup, teardown),
		cmocka_unit_test_setup_teardown(test_control, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
