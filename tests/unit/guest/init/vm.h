/* vm: real guests for the tests of umlaut-init: Debian's kernel without a jail, our
 * initrd, a busybox image with a COW, and the test at the other end of the line. */
#ifndef UMLAUT_TESTS_UNIT_GUEST_INIT_VM_H
#define UMLAUT_TESTS_UNIT_GUEST_INIT_VM_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "guest/image/busybox.h"
#include "guest/image/ext4.h"
#include "guest/image/modules.h"
#include "guest/initrd.h"
#include "lib/fs.h"
#include "lib/proc.h"
#include "lib/str.h"
#include "lib/wire.h"

#define VM_KERNEL "/usr/bin/linux.uml"
#define VM_DEADLINE_MS 60000
#define VM_QUEUE 4096
#define MAYBE __attribute__((unused)) static

struct vm_world {
	char dir[64];
	char initrd[PATH_MAX];
	char busybox[PATH_MAX];
	char modules[PATH_MAX];
};

struct vm {
	struct vm_world *world;
	pid_t pid;
	int line;
	int console;  /* where its output goes, a file */
	int keyboard; /* what is written here is typed on its console */
	struct wire_reader in;
	Um__Envelope *queue[VM_QUEUE]; /* came while the line's window was awaited */
	size_t queued;
	uint64_t sent, confirmed; /* see LineAck */
	char cow[PATH_MAX];
	uint64_t next_id;
	uint64_t uptime_ready;
};

MAYBE void vm_check(int rc, const struct err *err)
{
	if (rc < 0)
		fail_msg("%s", err_msg(err));
}

MAYBE void vm_world_make(struct vm_world *w)
{
	struct err err = ERR_INIT;
	char self[PATH_MAX], init[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *build;

	memset(w, 0, sizeof(*w));
	self[n] = '\0';
	build = strstr(self, "/unit/guest/init/");
	assert_non_null(build);
	*build = '\0';
	(void)snprintf(init, sizeof(init), "%.4000s/bin/umlaut-init", self);
	(void)str_copy(w->dir, sizeof(w->dir), "/tmp/umlaut-test-init.XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	vm_check(initrd_make(init, w->dir, w->initrd, sizeof(w->initrd), &err), &err);
	(void)snprintf(w->busybox, sizeof(w->busybox), "%s/busybox.img", w->dir);
	vm_check(busybox_build(NULL, 0, w->busybox, &err), &err);
}

MAYBE void vm_world_free(struct vm_world *w)
{
	(void)fs_remove_tree(w->dir, NULL);
}

/* DISK: "cow,base" or a plain file; EXTRA: more arguments, NULL-terminated. */
MAYBE void vm_boot(struct vm *vm, struct vm_world *w, const char *name, const char *base,
	const char *const *extra)
{
	static char args[24][PATH_MAX];
	const char *argv[24];
	char path[PATH_MAX];
	size_t n = 0, i;
	int fds[2], keys[2];

	memset(vm, 0, sizeof(*vm));
	vm->world = w;
	vm->next_id = 1;
	wire_reader_init(&vm->in, WIRE_LINE_MAX, true);
	(void)snprintf(vm->cow, sizeof(vm->cow), "%s/%s.cow", w->dir, name);
	(void)snprintf(path, sizeof(path), "%s/%s.console", w->dir, name);
	vm->console = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(vm->console >= 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	vm->line = fds[0];
	assert_int_equal(pipe2(keys, O_CLOEXEC), 0);
	vm->keyboard = keys[1];
	(void)snprintf(args[n++], PATH_MAX, "%s", VM_KERNEL);
	(void)snprintf(args[n++], PATH_MAX, "mem=64M");
	if (base)
		(void)snprintf(args[n++], PATH_MAX, "ubd0=%.2000s,%.2000s", vm->cow, base);
	(void)snprintf(args[n++], PATH_MAX, "initrd=%.4000s", w->initrd);
	(void)snprintf(args[n++], PATH_MAX, "con=null");
	(void)snprintf(args[n++], PATH_MAX, "con0=fd:4,fd:1");
	(void)snprintf(args[n++], PATH_MAX, "con1=fd:3");
	(void)snprintf(args[n++], PATH_MAX, "uml_dir=%s", w->dir);
	(void)snprintf(args[n++], PATH_MAX, "umid=%s", name);
	for (; extra && *extra; extra++)
		(void)snprintf(args[n++], PATH_MAX, "%s", *extra);
	for (i = 0; i < n; i++)
		argv[i] = args[i];
	argv[n] = NULL;
	vm->pid = fork();
	assert_true(vm->pid >= 0);
	if (vm->pid == 0) {
		union {
			const char *const *c;
			char *const *p;
		} list = {.c = argv};
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		(void)setsid();
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)dup2(null, 0);
		(void)dup2(vm->console, 1);
		(void)dup2(vm->console, 2);
		/* Whatever numbers they have now, and not close-on-exec. */
		fds[1] = fcntl(fds[1], F_DUPFD, 10);
		(void)dup2(fcntl(keys[0], F_DUPFD_CLOEXEC, 10), 4);
		(void)dup2(fds[1], 3);
		close(fds[1]);
		/* As the runner does it: the same memory at each run. */
		(void)personality(ADDR_NO_RANDOMIZE);
		(void)execv(VM_KERNEL, list.p);
		_exit(127);
	}
	close(fds[1]);
	close(keys[0]);
}

MAYBE char *vm_console(struct vm *vm)
{
	static char text[65536];
	ssize_t n = pread(vm->console, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	return text;
}

/* The next Envelope off the line, NULL at its end; fails at the deadline. */
MAYBE Um__Envelope *vm_read(struct vm *vm)
{
	uint64_t end = proc_mono_ms() + VM_DEADLINE_MS;
	struct err err = ERR_INIT;

	for (;;) {
		struct pollfd p = {.fd = vm->line, .events = POLLIN};
		Um__Envelope *env = NULL;
		static uint8_t data[65536];
		int rc = wire_reader_next(&vm->in, &env, &err);
		ssize_t n;

		vm_check(rc, &err);
		if (rc > 0)
			return env;
		if (proc_mono_ms() > end)
			fail_msg("nothing from the guest; its console:\n%s", vm_console(vm));
		if (poll(&p, 1, 1000) <= 0)
			continue;
		n = read(vm->line, data, sizeof(data));
		if (n <= 0)
			return NULL;
		vm_check(wire_reader_add(&vm->in, data, (size_t)n, &err), &err);
	}
}

/* True: it was the line's own, and is freed. */
MAYBE bool vm_own(struct vm *vm, Um__Envelope *env)
{
	if (env->body_case == UM__ENVELOPE__BODY_GUEST_HELLO) {
		assert_int_equal(env->guest_hello->line_window, WIRE_LINE_WINDOW);
		vm->sent = vm->confirmed = 0;
	}
	if (env->body_case != UM__ENVELOPE__BODY_LINE_ACK)
		return false;
	vm->confirmed = env->line_ack->bytes;
	assert_true(vm->confirmed <= vm->sent);
	um__envelope__free_unpacked(env, NULL);
	return true;
}

/* The next Envelope that is not the line's own, NULL at its end. */
MAYBE Um__Envelope *vm_next(struct vm *vm)
{
	for (;;) {
		Um__Envelope *env;

		if (vm->queued) {
			env = vm->queue[0];
			vm->queued--;
			memmove(vm->queue, vm->queue + 1,
				vm->queued * sizeof(struct Um__Envelope *));
			return env;
		}
		env = vm_read(vm);
		if (!env || !vm_own(vm, env))
			return env;
	}
}

MAYBE void vm_free(Um__Envelope *env)
{
	if (env)
		um__envelope__free_unpacked(env, NULL);
}

MAYBE void vm_send(struct vm *vm, Um__Envelope *env)
{
	struct err err = ERR_INIT;
	struct buf out;
	size_t at = 0;

	buf_init(&out);
	vm_check(wire_frame(env, WIRE_LINE_MAX, &out, &err), &err);
	while (at < out.size) {
		size_t room = WIRE_LINE_WINDOW - (size_t)(vm->sent - vm->confirmed);
		ssize_t n;

		if (room == 0) {
			Um__Envelope *in = vm_read(vm);

			if (!in)
				fail_msg("the guest ended; console:\n%s", vm_console(vm));
			if (vm_own(vm, in))
				continue;
			assert_true(vm->queued < VM_QUEUE);
			vm->queue[vm->queued++] = in;
			continue;
		}
		n = send(vm->line, out.data + at, room < out.size - at ? room : out.size - at,
			MSG_NOSIGNAL);
		if (n < 0)
			fail_msg("line: %s; console:\n%s", strerror(errno), vm_console(vm));
		at += (size_t)n;
		vm->sent += (uint64_t)n;
	}
	buf_free(&out);
}

MAYBE void vm_hello(struct vm *vm)
{
	Um__Envelope *env = vm_next(vm);

	if (!env)
		fail_msg("the guest ended; console:\n%s", vm_console(vm));
	assert_int_equal(env->body_case, UM__ENVELOPE__BODY_GUEST_HELLO);
	assert_true(strlen(env->guest_hello->version) > 0);
	assert_true(strlen(env->guest_hello->release) > 0);
	assert_int_equal(env->guest_hello->boot_id.len, 16);
	vm_free(env);
}

MAYBE char *vm_text(const char *text)
{
	union {
		const char *c;
		char *p;
	} u = {.c = text};

	return u.p;
}

MAYBE Um__GuestConfig vm_config(void)
{
	Um__GuestConfig c = UM__GUEST_CONFIG__INIT;

	c.hostname = vm_text("probe");
	c.root_device = vm_text("/dev/ubda");
	return c;
}

MAYBE void vm_configure(struct vm *vm, Um__GuestConfig *c)
{
	Um__Envelope env = wire_env(0);

	env.body_case = UM__ENVELOPE__BODY_GUEST_CONFIG;
	env.guest_config = c;
	vm_send(vm, &env);
}

/* Progress until ready or failed; the failure's message, or NULL when ready. */
MAYBE char *vm_outcome(struct vm *vm, char *message, size_t size, char *steps, size_t steps_size)
{
	for (;;) {
		Um__Envelope *env = vm_next(vm);
		Um__GuestProgress *p;

		if (!env)
			fail_msg("the guest ended; console:\n%s", vm_console(vm));
		assert_int_equal(env->body_case, UM__ENVELOPE__BODY_GUEST_PROGRESS);
		p = env->guest_progress;
		if (steps)
			(void)snprintf(
				steps + strlen(steps), steps_size - strlen(steps), "%s ", p->step);
		if (getenv("VM_TIMES"))
			print_message("%6llu ms %s\n", (unsigned long long)p->uptime_ms, p->step);
		if (p->ready || p->failed) {
			bool ready = p->ready;

			vm->uptime_ready = p->uptime_ms;
			(void)snprintf(message, size, "%s", p->message);
			vm_free(env);
			return ready ? NULL : message;
		}
		vm_free(env);
	}
}

MAYBE void vm_ready(struct vm *vm, Um__GuestConfig *c)
{
	char message[512], steps[256] = "";
	char *failed;

	vm_hello(vm);
	vm_configure(vm, c);
	failed = vm_outcome(vm, message, sizeof(message), steps, sizeof(steps));
	if (failed)
		fail_msg("not ready: %s (%s)\n%s", failed, steps, vm_console(vm));
	assert_string_equal(steps, "config root network files init run ready ");
}

/* Types TEXT on the console and waits until it shows WANT. */
MAYBE void vm_type(struct vm *vm, const char *keys, const char *want)
{
	uint64_t end = proc_mono_ms() + VM_DEADLINE_MS;

	assert_int_equal(write(vm->keyboard, keys, strlen(keys)), (ssize_t)strlen(keys));
	while (!strstr(vm_console(vm), want)) {
		if (proc_mono_ms() > end)
			fail_msg("no '%s' on the console:\n%s", want, vm_console(vm));
		(void)poll(NULL, 0, 20);
	}
}

/* Waits for the kernel's end; its wait status. */
MAYBE int vm_wait(struct vm *vm)
{
	uint64_t end = proc_mono_ms() + VM_DEADLINE_MS;
	int status = 0;

	while (waitpid(vm->pid, &status, WNOHANG) == 0) {
		struct pollfd p = {.fd = vm->line, .events = POLLIN};
		uint8_t data[4096];

		if (proc_mono_ms() > end)
			fail_msg("the guest does not end; console:\n%s", vm_console(vm));
		if (poll(&p, 1, 20) > 0 && read(vm->line, data, sizeof(data)) <= 0)
			(void)poll(NULL, 0, 10);
	}
	vm->pid = 0;
	return status;
}

MAYBE void vm_shutdown(struct vm *vm, uint32_t timeout_ms, bool restart)
{
	Um__Envelope env = wire_env(vm->next_id++);
	Um__GuestShutdown body = UM__GUEST_SHUTDOWN__INIT;

	body.timeout_ms = timeout_ms;
	body.reboot = restart;
	env.body_case = UM__ENVELOPE__BODY_GUEST_SHUTDOWN;
	env.guest_shutdown = &body;
	vm_send(vm, &env);
}

MAYBE void vm_end(struct vm *vm)
{
	if (vm->pid > 0) {
		(void)kill(-vm->pid, SIGKILL);
		(void)waitpid(vm->pid, NULL, 0);
	}
	if (vm->line >= 0)
		close(vm->line);
	if (vm->console >= 0) {
		close(vm->console);
		close(vm->keyboard);
	}
	wire_reader_free(&vm->in);
	while (vm->queued)
		um__envelope__free_unpacked(vm->queue[--vm->queued], NULL);
	memset(vm, 0, sizeof(*vm));
	vm->line = vm->console = -1;
}

/* Runs a host's tool; its exit status, output into OUT. */
MAYBE int vm_tool(char *out, size_t size, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
MAYBE int vm_tool(char *out, size_t size, const char *fmt, ...)
{
	char command[2 * PATH_MAX];
	size_t have = 0;
	int fds[2], status = 0;
	va_list ap;
	ssize_t n;
	pid_t pid;

	va_start(ap, fmt);
	(void)vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		(void)dup2(fds[1], 1);
		(void)dup2(fds[1], 2);
		(void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	close(fds[1]);
	while ((n = read(fds[0], out + have, size - have - 1)) > 0)
		have += (size_t)n;
	close(fds[0]);
	out[have] = '\0';
	(void)waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

/* The disk as the guest left it, merged by an independent tool, is clean. */
MAYBE void vm_disk_clean(struct vm *vm)
{
	static char out[65536];
	char merged[PATH_MAX + 8];

	(void)snprintf(merged, sizeof(merged), "%s.raw", vm->cow);
	if (vm_tool(out, sizeof(out), "uml_moo -b %s %s %s", vm->world->busybox, vm->cow, merged))
		fail_msg("uml_moo: %s", out);
	if (vm_tool(out, sizeof(out), "e2fsck -fn %s", merged))
		fail_msg("e2fsck: %s", out);
	/* -n ignores a journal to be replayed: the flag must be clear too. */
	if (vm_tool(out, sizeof(out), "dumpe2fs -h %s 2>/dev/null | grep -q needs_recovery",
		    merged) != 1)
		fail_msg("the journal of %s was left open", merged);
	(void)unlink(merged);
}

#endif
