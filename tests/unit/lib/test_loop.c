/* The event loop: every kind of handle, closed inside its own callback too, and
 * the proof at the end that nothing dangles. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/buf.h"
#include "lib/log.h"
#include "lib/loop.h"

struct world {
	struct loop *loop;
	struct loop_timer *timer, *deadline;
	struct loop_fd *fd;
	struct loop_defer *defer, *defer2;
	struct loop_signal *sig;
	struct loop_child *child;
	int runs, runs2, status, sock;
	unsigned events;
	bool cancelled, busy, timed_out, close_it;
};

static void on_deadline(void *arg)
{
	struct world *w = arg;

	w->timed_out = true;
	loop_stop(w->loop);
}

static void world_open(struct world *w)
{
	memset(w, 0, sizeof(*w));
	w->status = -1;
	assert_int_equal(loop_new(&w->loop, NULL), 0);
	assert_int_equal(
		loop_timer_open(w->loop, "deadline", on_deadline, w, &w->deadline, NULL), 0);
	loop_timer_arm(w->deadline, 20000);
}

static void run(struct world *w)
{
	assert_int_equal(loop_run(w->loop, NULL), 0);
	assert_false(w->timed_out);
}

static void world_close(struct world *w)
{
	loop_timer_close(w->deadline);
	assert_int_equal(loop_free(w->loop), 0);
}

/* ---------------------------------------------------------------- timers */

static void on_timer(void *arg)
{
	struct world *w = arg;

	if (++w->runs < 3) {
		loop_timer_arm(w->timer, 5);
		return;
	}
	loop_timer_close(w->timer);
	loop_timer_close(w->timer); /* twice is as once */
	loop_timer_arm(w->timer, 1);
	loop_stop(w->loop);
}

static void test_timer(void **state)
{
	struct world w;
	uint64_t start;

	(void)state;
	world_open(&w);
	assert_int_equal(loop_timer_open(w.loop, "timer", on_timer, &w, &w.timer, NULL), 0);
	assert_false(loop_timer_armed(w.timer));
	start = loop_now(w.loop);
	loop_timer_arm(w.timer, 60000);
	loop_timer_arm(w.timer, 5); /* the last word holds */
	assert_true(loop_timer_armed(w.timer));
	run(&w);
	assert_int_equal(w.runs, 3);
	assert_in_range(loop_now(w.loop) - start, 15, 10000);
	loop_timer_close(NULL);
	world_close(&w);
}

static void test_runs_out(void **state)
{
	struct world w;

	(void)state;
	world_open(&w);
	loop_timer_disarm(w.deadline);
	assert_int_equal(loop_run(w.loop, NULL), 0); /* nothing to do: it returns */
	world_close(&w);
	assert_int_equal(loop_free(NULL), 0);
}

/* ---------------------------------------------------------------- descriptors */

static void on_fd(void *arg, unsigned events)
{
	struct world *w = arg;
	char data[8];

	w->runs++;
	w->events |= events;
	if (events & LOOP_READ && read(w->sock, data, sizeof(data)) == 0) {
		loop_fd_close(w->fd);
		assert_int_equal(loop_fd_want(w->fd, LOOP_READ), -EBADF);
		(void)close(w->sock); /* at once: the watcher uses it no more */
		loop_stop(w->loop);
		return;
	}
	if (events & LOOP_WRITE) {
		assert_int_equal(loop_fd_want(w->fd, LOOP_READ), 0);
		loop_stop(w->loop);
	}
}

static void test_fd(void **state)
{
	struct world w;
	int pair[2];

	(void)state;
	world_open(&w);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	w.sock = pair[0];
	assert_int_equal(loop_fd_open(w.loop, "fd", pair[0], on_fd, &w, &w.fd, NULL), 0);
	assert_int_equal(write(pair[1], "x", 1), 1);
	assert_int_equal(loop_fd_want(w.fd, LOOP_WRITE), 0);
	run(&w);
	assert_int_equal(w.events, LOOP_WRITE);
	(void)close(pair[1]);
	run(&w);
	assert_int_equal(w.runs, 3);
	loop_fd_close(NULL);
	world_close(&w);
}

/* An error of a socket wakes its owner, and the watcher goes on after it: a
 * connected UDP socket to a port where nobody listens. */
static void on_udp(void *arg, unsigned events)
{
	struct world *w = arg;
	char data[8];

	(void)events;
	w->runs++;
	if (read(w->sock, data, sizeof(data)) == 1)
		loop_stop(w->loop);
	else if (w->runs > 100)
		loop_stop(w->loop);
	else
		w->runs2 += errno == ECONNREFUSED;
	if (w->runs2 == 1 && w->runs < 50) {
		w->runs = 50;
		loop_stop(w->loop);
	}
}

static void test_fd_goes_on_after_error(void **state)
{
	struct sockaddr_storage addr;
	socklen_t size = sizeof(addr);
	struct world w;
	int a, b;

	(void)state;
	world_open(&w);
	/* A datagram pair of Unix sockets by abstract autobind names would not give
	 * POLLERR: so UDP on the loopback. */
	memset(&addr, 0, sizeof(addr));
	addr.ss_family = AF_INET;
	((uint8_t *)&addr)[4] = 127;
	((uint8_t *)&addr)[7] = 1;
	a = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	b = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(b, (struct sockaddr *)&addr, 16), 0);
	assert_int_equal(getsockname(b, (struct sockaddr *)&addr, &size), 0);
	assert_int_equal(connect(a, (struct sockaddr *)&addr, size), 0);
	(void)close(b);
	w.sock = a;
	assert_int_equal(loop_fd_open(w.loop, "udp", a, on_udp, &w, &w.fd, NULL), 0);
	assert_int_equal(loop_fd_want(w.fd, LOOP_READ), 0);
	assert_int_equal(write(a, "x", 1), 1); /* comes back as an ICMP error */
	run(&w);
	assert_int_equal(w.runs2, 1);
	b = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(b, (struct sockaddr *)&addr, size), 0);
	size = sizeof(addr);
	assert_int_equal(getsockname(a, (struct sockaddr *)&addr, &size), 0);
	assert_int_equal(connect(b, (struct sockaddr *)&addr, size), 0);
	assert_int_equal(write(b, "y", 1), 1);
	assert_int_equal(loop_fd_want(w.fd, LOOP_READ), 0); /* as before */
	run(&w);
	assert_true(w.runs < 100);
	loop_fd_close(w.fd);
	(void)close(a);
	(void)close(b);
	world_close(&w);
}

/* ---------------------------------------------------------------- signals, deferred */

static void on_signal(void *arg, int signum)
{
	struct world *w = arg;

	assert_int_equal(signum, SIGUSR1);
	w->runs++;
	loop_signal_close(w->sig);
	loop_stop(w->loop);
}

static void test_signal(void **state)
{
	struct world w;

	(void)state;
	world_open(&w);
	assert_int_equal(loop_signal_open(w.loop, SIGUSR1, on_signal, &w, &w.sig, NULL), 0);
	(void)raise(SIGUSR1);
	run(&w);
	assert_int_equal(w.runs, 1);
	world_close(&w);
}

static void on_defer(void *arg)
{
	struct world *w = arg;

	if (++w->runs < 3) {
		loop_defer_run(w->defer); /* in the next turn */
		return;
	}
	loop_defer_run(w->defer);
	loop_defer_close(w->defer); /* while it is queued and running */
	loop_stop(w->loop);
}

static void on_defer2(void *arg)
{
	struct world *w = arg;

	w->runs2++;
}

static void test_defer(void **state)
{
	struct world w;

	(void)state;
	world_open(&w);
	assert_int_equal(loop_defer_open(w.loop, "defer", on_defer, &w, &w.defer, NULL), 0);
	assert_int_equal(loop_defer_open(w.loop, "other", on_defer2, &w, &w.defer2, NULL), 0);
	loop_defer_run(w.defer2);
	loop_defer_run(w.defer2);
	loop_defer_run(w.defer);
	run(&w);
	assert_int_equal(w.runs, 3);
	assert_int_equal(w.runs2, 1);
	loop_defer_run(w.defer2);
	loop_defer_close(w.defer2); /* queued: does not run */
	world_close(&w);
	assert_int_equal(w.runs2, 1);
}

/* ---------------------------------------------------------------- the pool */

static void work(void *arg)
{
	struct world *w = arg;

	w->runs++;
}

static void work_done(void *arg, bool cancelled)
{
	struct world *w = arg;

	w->runs2++;
	w->cancelled = cancelled;
	w->busy = false;
}

static void test_work(void **state)
{
	struct world w;

	(void)state;
	world_open(&w);
	w.busy = true;
	assert_int_equal(loop_work_run(w.loop, "work", work, work_done, &w, NULL), 0);
	loop_run_while(w.loop, &w.busy);
	assert_int_equal(w.runs, 1);
	assert_int_equal(w.runs2, 1);
	assert_false(w.cancelled);
	world_close(&w);
}

struct gate {
	int fd;
	int done, cancelled;
	unsigned *left; /* may be NULL; `*busy` ends with the last of them */
	bool *busy;
};

static void gate_work(void *arg)
{
	struct gate *gate = arg;
	char c;

	assert_int_equal(read(gate->fd, &c, 1), 1);
}

static void gate_done(void *arg, bool cancelled)
{
	struct gate *gate = arg;

	gate->done++;
	gate->cancelled += cancelled;
	if (gate->left && --*gate->left == 0)
		*gate->busy = false;
}

/* Short work finds a thread, however much heavy work there is; all of that runs. */
static void test_heavy(void **state)
{
	struct gate gates[20] = {0};
	struct world w;
	unsigned left = 10;
	int pipes[2], cancelled = 0;

	(void)state;
	world_open(&w);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	for (size_t i = 0; i < UNIT_COUNT(gates); i++) {
		gates[i] = (struct gate){.fd = pipes[0], .left = &left, .busy = &w.busy};
		assert_int_equal(
			loop_heavy_run(w.loop, "gate", gate_work, gate_done, &gates[i], NULL), 0);
	}
	w.busy = true;
	assert_int_equal(loop_work_run(w.loop, "work", work, work_done, &w, NULL), 0);
	loop_run_while(w.loop, &w.busy);
	assert_int_equal(w.runs, 1);
	assert_int_equal(left, 10);
	w.busy = true;
	assert_int_equal(write(pipes[1], "..........", 10), 10);
	loop_run_while(w.loop, &w.busy);
	assert_int_equal(left, 0);
	/* The others are told at the end; two of them may be under way. */
	assert_int_equal(write(pipes[1], "..", 2), 2);
	world_close(&w);
	for (size_t i = 0; i < UNIT_COUNT(gates); i++) {
		assert_int_equal(gates[i].done, 1);
		cancelled += gates[i].cancelled;
	}
	assert_true(cancelled >= 8);
	(void)close(pipes[0]);
	(void)close(pipes[1]);
}

/* Freed with work under way and work still queued: each is told so, once. */
static void test_work_at_free(void **state)
{
	struct gate gates[20] = {0};
	struct world w;
	int pipes[2], unread, cancelled = 0;

	(void)state;
	world_open(&w);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	for (size_t i = 0; i < UNIT_COUNT(gates); i++) {
		gates[i].fd = pipes[0];
		assert_int_equal(
			loop_work_run(w.loop, "gate", gate_work, gate_done, &gates[i], NULL), 0);
	}
	assert_int_equal(write(pipes[1], "....................", 20), 20);
	/* One is under way: its byte is gone. */
	for (unread = 20; unread == 20; sched_yield())
		assert_int_equal(ioctl(pipes[0], FIONREAD, &unread), 0);
	world_close(&w);
	for (size_t i = 0; i < UNIT_COUNT(gates); i++) {
		assert_int_equal(gates[i].done, 1);
		cancelled += gates[i].cancelled;
	}
	assert_true(cancelled < 20);
	(void)close(pipes[0]);
	(void)close(pipes[1]);
}

/* ---------------------------------------------------------------- children */

static void on_child(void *arg, int status)
{
	struct world *w = arg;

	w->status = status;
	w->runs++;
	if (w->close_it)
		loop_child_close(w->child);
	loop_stop(w->loop);
}

static int start(
	struct world *w, const char *const *argv, const int *fds, size_t count, bool detach)
{
	struct loop_child_spec spec = {.name = "child",
		.argv = argv,
		.fds = fds,
		.fd_count = count,
		.detach = detach,
		.cwd = "/tmp"};
	struct err err = ERR_INIT;

	return loop_child_open(w->loop, &spec, on_child, w, &w->child, &err);
}

static void test_child_status(void **state)
{
	const char *const seven[] = {"/bin/sh", "-c", "exit 7", NULL};
	const char *const lasting[] = {"/bin/cat", NULL};
	const char *const nothing[] = {"/no/such/program", NULL};
	struct world w;
	int pipes[2];

	(void)state;
	world_open(&w);
	assert_int_equal(start(&w, seven, NULL, 0, false), 0);
	run(&w);
	assert_int_equal(w.status, 7);
	assert_int_equal(loop_child_kill(w.child, SIGKILL), -ESRCH);
	loop_child_close(w.child);

	w.close_it = true; /* inside of its own callback */
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(start(&w, lasting, &pipes[0], 1, false), 0);
	assert_int_equal(kill(loop_child_pid(w.child), 0), 0);
	assert_int_equal(loop_child_kill(w.child, SIGTERM), 0);
	run(&w);
	assert_int_equal(w.status, 256 + SIGTERM);

	assert_int_equal(start(&w, nothing, NULL, 0, false), -ENOENT);
	assert_int_equal(w.runs, 2);
	(void)close(pipes[0]);
	(void)close(pipes[1]);
	world_close(&w);
	/* No zombie is left. */
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

/* Descriptors, environment, folder: exactly what was asked for. */
static void test_child_surroundings(void **state)
{
	const char *const argv[] = {"/bin/sh", "-c",
		"pwd >&1; env | sort | cut -d= -f1 >&1; "
		"ls /proc/$$/fd | tr '\\n' ' ' >&1; echo >&1; readlink /proc/$$/fd/0 >&1; "
		"echo five >&5",
		NULL};
	int pipes[2], other[2], fds[6];
	char text[1024] = "", extra[16] = "";
	struct world w;
	ssize_t n;

	(void)state;
	world_open(&w);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(pipe2(other, O_CLOEXEC), 0);
	for (size_t i = 0; i < UNIT_COUNT(fds); i++)
		fds[i] = -1;
	fds[1] = pipes[1];
	fds[5] = other[1];
	assert_int_equal(start(&w, argv, fds, 6, false), 0);
	run(&w);
	assert_int_equal(w.status, 0);
	n = read(pipes[0], text, sizeof(text) - 1);
	assert_true(n > 0);
	assert_int_equal(read(other[0], extra, 5), 5);
	assert_string_equal(extra, "five\n");
	assert_non_null(strstr(text, "/tmp\n"));
	assert_non_null(strstr(text, "PATH\n"));
	assert_null(strstr(text, "HOME\n"));
	assert_non_null(strstr(text, "/dev/null\n"));
	/* 10 is the shell's own. */
	if (!strstr(text, "\n0 1 2 3 4 5 \n") && !strstr(text, "\n0 1 10 2 3 4 5 \n"))
		fail_msg("descriptors of the child: %s", text);
	loop_child_close(w.child);
	for (int i = 0; i < 2; i++) {
		(void)close(pipes[i]);
		(void)close(other[i]);
	}
	world_close(&w);
}

/* A child that is let go of lives on, also after the loop; it is no dangler. */
static void on_exit_seen(void *arg)
{
	struct world *w = arg;

	w->runs++;
	loop_exit_close(w->fd);
	loop_stop(w->loop);
}

static void test_child_let_go(void **state)
{
	const char *const argv[] = {"/bin/cat", NULL};
	struct proc_id id;
	struct world w;
	int pipes[2];
	pid_t pid;

	(void)state;
	world_open(&w);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(start(&w, argv, &pipes[0], 1, true), 0);
	pid = loop_child_pid(w.child);
	assert_int_equal(getsid(pid), pid);
	assert_int_equal(proc_identify(pid, &id, NULL), 0);
	loop_child_close(w.child);
	world_close(&w);
	assert_int_equal(kill(pid, 0), 0);

	/* Somebody else's process now: its end is seen by a pidfd. */
	world_open(&w);
	assert_int_equal(loop_exit_open(w.loop, &id, on_exit_seen, &w, &w.fd, NULL), 0);
	(void)close(pipes[0]);
	(void)close(pipes[1]); /* cat reads its end of file */
	run(&w);
	assert_int_equal(w.runs, 1);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(loop_exit_open(w.loop, &id, on_exit_seen, &w, &w.fd, NULL), -ESRCH);
	world_close(&w);
}

/* ---------------------------------------------------------------- the proof */

static void test_danglers(void **state)
{
	struct loop_timer *timer;
	struct loop_fd *fd;
	struct loop_defer *defer;
	struct log_config config = {.program = "test", .instance = "", .level = LOG_INFO};
	char text[4096] = "";
	struct loop *loop;
	int pair[2], log[2];

	(void)state;
	assert_int_equal(pipe2(log, O_CLOEXEC), 0);
	config.fd = log[1];
	log_init(&config);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(loop_new(&loop, NULL), 0);
	assert_int_equal(
		loop_timer_open(loop, "forgotten timer", on_deadline, NULL, &timer, NULL), 0);
	assert_int_equal(
		loop_fd_open(loop, "forgotten socket", pair[0], on_fd, NULL, &fd, NULL), 0);
	assert_int_equal(loop_defer_open(loop, "forgotten sweep", on_defer, NULL, &defer, NULL), 0);
	loop_timer_arm(timer, 100000);
	loop_defer_run(defer);
	loop_defer_run(defer);
	loop_fd_close(NULL);
	/* What it was to do is not done any more. */
	loop_defer_close(defer);
	assert_int_equal(loop_defer_open(loop, "forgotten sweep", on_defer, NULL, &defer, NULL), 0);
	assert_int_equal(loop_free(loop), 3);
	config.fd = 2;
	log_init(&config);
	assert_true(read(log[0], text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "forgotten timer"));
	assert_non_null(strstr(text, "forgotten socket"));
	assert_non_null(strstr(text, "forgotten sweep"));
	(void)close(log[0]);
	(void)close(log[1]);
	(void)close(pair[0]);
	(void)close(pair[1]);
}

/* Many handles and no work: no CPU. */
static void test_idle(void **state)
{
	struct rusage before, after;
	struct loop_defer *defer;
	struct loop_fd *fd;
	struct world w;
	int pair[2];

	(void)state;
	world_open(&w);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	w.sock = pair[0];
	assert_int_equal(loop_fd_open(w.loop, "fd", pair[0], on_fd, &w, &fd, NULL), 0);
	assert_int_equal(loop_fd_want(fd, LOOP_READ), 0);
	assert_int_equal(loop_defer_open(w.loop, "defer", on_defer2, &w, &defer, NULL), 0);
	loop_defer_run(defer);
	loop_timer_arm(w.deadline, 500);
	(void)getrusage(RUSAGE_THREAD, &before);
	assert_int_equal(loop_run(w.loop, NULL), 0);
	(void)getrusage(RUSAGE_THREAD, &after);
	assert_int_equal(w.runs2, 1);
	assert_true((after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000 +
			    after.ru_utime.tv_usec - before.ru_utime.tv_usec <
		    50000);
	loop_fd_close(fd);
	loop_defer_close(defer);
	(void)close(pair[0]);
	(void)close(pair[1]);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_timer),
		cmocka_unit_test(test_runs_out),
		cmocka_unit_test(test_fd),
		cmocka_unit_test(test_fd_goes_on_after_error),
		cmocka_unit_test(test_signal),
		cmocka_unit_test(test_defer),
		cmocka_unit_test(test_work),
		cmocka_unit_test(test_heavy),
		cmocka_unit_test(test_work_at_free),
		cmocka_unit_test(test_child_status),
		cmocka_unit_test(test_child_surroundings),
		cmocka_unit_test(test_child_let_go),
		cmocka_unit_test(test_danglers),
		cmocka_unit_test(test_idle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
