#include "guest/init/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest/init/config.h"
#include "guest/init/files.h"
#include "guest/init/nic.h"
#include "guest/init/root.h"
#include "guest/init/spawn.h"
#include "guest/init/sys.h"
#include "lib/str.h"

#define CLOCK_SLACK_MS 1000

/* Standard descriptors on the console (the one of the root of the moment). */
static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	(void)dup2(fd, 0);
	(void)dup2(fd, 1);
	(void)dup2(fd, 2);
	if (fd > 2)
		close(fd);
}

int boot_early(struct boot *boot, struct err *err)
{
	const char *name = getenv("umlaut_line");
	int rc;

	boot->step = "config";
	(void)umask(022);
	rc = sys_mount("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=0755", err);
	if (!rc)
		rc = sys_mount(
			"proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, err);
	if (rc)
		return rc;
	open_console();
	/* Ctrl-Alt-Del is a signal to process 1, not an instant restart. */
	(void)reboot(RB_DISABLE_CAD);
	return line_open(&boot->line, name && !strchr(name, '/') ? name : LINE_DEFAULT, err);
}

static void send_hello(struct boot *boot)
{
	Um__Envelope env = wire_env(0);
	Um__GuestHello hello = UM__GUEST_HELLO__INIT;
	char version[] = UMLAUT_VERSION;
	uint8_t boot_id[16];
	char text[64], hex[33];
	struct utsname uts;
	size_t i, n = 0;

	(void)uname(&uts);
	hello.release = uts.release;
	hello.version = version;
	hello.line_window = WIRE_LINE_WINDOW;
	hello.pings = true;
	hello.line_bulk = boot->line.bulk_size;
	hello.started_us = boot->started_us;
	hello.uptime_us = sys_uptime_us();
	if (sys_read("/proc/sys/kernel/random/boot_id", text, sizeof(text)) > 0) {
		for (i = 0; text[i] && n < 32; i++)
			if (text[i] != '-')
				hex[n++] = text[i];
		hex[n] = '\0';
		if (str_unhex(boot_id, sizeof(boot_id), hex) == 0) {
			hello.boot_id.data = boot_id;
			hello.boot_id.len = sizeof(boot_id);
		}
	}
	env.body_case = UM__ENVELOPE__BODY_GUEST_HELLO;
	env.guest_hello = &hello;
	line_send(&boot->line, &env);
}

/* One message while there is no configuration: 1 the last part, 0 go on. */
static int await_one(
	struct boot *boot, struct config_parts *parts, Um__Envelope *env, struct err *err)
{
	int rc;

	switch (env->body_case) {
	case UM__ENVELOPE__BODY_GUEST_CONFIG:
		rc = config_add(parts, env->guest_config, err);
		if (rc)
			return rc;
		if (env->guest_config->more)
			return 0;
		line_ok(&boot->line, env->id);
		return 1;
	case UM__ENVELOPE__BODY_GUEST_SHUTDOWN:
		line_ok(&boot->line, env->id);
		return err_set(err, -ECANCELED, "shut down before it was configured");
	default:
		line_error(&boot->line, env->id, UM__ERROR_CODE__UNAVAILABLE,
			"the guest awaits its configuration");
		return 0;
	}
}

int boot_await_config(struct boot *boot, struct err *err)
{
	struct config_parts parts;
	int rc = 0;

	send_hello(boot);
	config_init(&parts);
	while (rc == 0) {
		Um__Envelope *env = line_wait(&boot->line);

		if (!env) {
			rc = err_set(
				err, -EPIPE, "the agent line closed before a configuration came");
			break;
		}
		rc = await_one(boot, &parts, env, err);
		um__envelope__free_unpacked(env, NULL);
	}
	if (rc > 0)
		rc = config_finish(&parts, &boot->config, err);
	config_free(&parts);
	return rc;
}

static void set_clock(uint64_t time_ms)
{
	struct timespec now, want;
	int64_t off;

	if (time_ms == 0 || time_ms > INT64_MAX / 2)
		return;
	(void)clock_gettime(CLOCK_REALTIME, &now);
	off = (int64_t)time_ms - ((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
	if (off <= CLOCK_SLACK_MS && off >= -CLOCK_SLACK_MS)
		return;
	want.tv_sec = (time_t)(time_ms / 1000);
	want.tv_nsec = (long)(time_ms % 1000) * 1000000;
	(void)clock_settime(CLOCK_REALTIME, &want);
}

static void add_entropy(const ProtobufCBinaryData *seed)
{
	struct {
		struct rand_pool_info info;
		uint8_t data[512];
	} pool;
	size_t size = seed->len > sizeof(pool.data) ? sizeof(pool.data) : seed->len;
	int fd;

	if (size == 0)
		return;
	fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	pool.info.entropy_count = (int)size * 8;
	pool.info.buf_size = (int)size;
	memcpy((uint8_t *)&pool + sizeof(pool.info), seed->data, size);
	(void)ioctl(fd, RNDADDENTROPY, &pool);
	close(fd);
	explicit_bzero(&pool, sizeof(pool));
}

int boot_apply(struct boot *boot, struct err *err)
{
	Um__GuestConfig *c = boot->config;
	int rc;

	set_clock(c->time_ms);
	add_entropy(&c->seed);
	line_progress(&boot->line, "config");

	boot->step = "root";
	rc = root_enter(c, err);
	if (rc)
		return rc;
	open_console();
	line_progress(&boot->line, "root");

	boot->step = "network";
	rc = nic_apply(c, err);
	if (rc)
		return rc;
	line_progress(&boot->line, "network");

	boot->step = "files";
	rc = files_identity(c, err);
	if (!rc)
		rc = hosts_init(&boot->hosts, c, err);
	if (!rc)
		rc = files_apply(c, err);
	/* Behind the files: one of them may be /etc/hosts. */
	if (!rc)
		rc = hosts_flush(&boot->hosts, err);
	if (rc)
		return rc;
	line_progress(&boot->line, "files");
	return 0;
}

/* The image's init to run, NULL for none. */
static const char *find_init(const Um__GuestConfig *c)
{
	static const char *const inits[] = {
		"/sbin/init", "/lib/systemd/systemd", "/etc/init", "/bin/init"};
	size_t i;

	if (strcmp(c->init, "umlaut") == 0)
		return NULL;
	for (i = 0; i < sizeof(inits) / sizeof(inits[0]); i++)
		if (sys_executable(inits[i]))
			return inits[i];
	return NULL;
}

/* Process 1 becomes the image's init.  Returns only as a caretaker that reaps. */
static void __attribute__((noreturn)) become_init(const char *path, char **env, int fail_fd)
{
	union {
		const char *c;
		char *p;
	} name = {.c = path};
	char *argv[] = {name.p, NULL};
	struct sigaction fresh = {.sa_handler = SIG_DFL};
	sigset_t none;
	int code;

	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)sigaction(SIGPIPE, &fresh, NULL);
	(void)execve(path, argv, env);
	code = errno;
	(void)!write(fail_fd, &code, sizeof(code));
	close(fail_fd);
	for (;;)
		if (wait(NULL) < 0)
			(void)pause();
}

int boot_handover(struct boot *boot, struct err *err)
{
	const Um__GuestConfig *c = boot->config;
	const char *path = find_init(c);
	int fds[2], code = 0;
	char **env;
	pid_t pid;

	boot->step = "init";
	if (!path && strcmp(c->init, "image") == 0)
		return err_set(err, -ENOENT, "the image has no init (/sbin/init)");
	boot->pid1 = !path;
	if (!path) {
		line_progress(&boot->line, "init");
		return 0;
	}
	env = env_make(c->env, c->n_env, NULL, 0);
	if (!env || pipe2(fds, O_CLOEXEC))
		return err_set(err, -ENOMEM, "start %s: no memory", path);
	line_drain(&boot->line, 1000);
	pid = fork();
	if (pid < 0)
		return err_errno(err, errno, "start %s: fork", path);
	if (pid > 0)
		become_init(path, env, fds[1]);
	/* The agent.  A session of its own, away from the console. */
	(void)setsid();
	(void)sys_write("/proc/self/oom_score_adj", "-1000");
	env_free(env);
	close(fds[1]);
	if (read(fds[0], &code, sizeof(code)) == (ssize_t)sizeof(code)) {
		close(fds[0]);
		return err_errno(err, code, "the image's init %s", path);
	}
	close(fds[0]);
	line_progress(&boot->line, "init");
	return 0;
}

void boot_fail(struct boot *boot, const struct err *err)
{
	sys_log("%s: %s", boot->step, err_msg(err));
	if (err->code != -ECANCELED)
		line_failed(&boot->line, boot->step, err_msg(err));
	line_drain(&boot->line, 1000);
	sync();
	(void)reboot(RB_POWER_OFF);
	_exit(1);
}
