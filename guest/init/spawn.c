#include "guest/init/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/init/sys.h"
#include "lib/str.h"

#define PATH_ENTRY "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* What the child found; shared memory, as vfork() has it. */
struct child {
	const struct spawn *spawn;
	const char *path;
	char **shell; /* argv for a script without "#!" */
	volatile int code;
	volatile bool in_cwd;
};

static void child_signals(void)
{
	sigset_t none;
	int sig;

	for (sig = 1; sig < NSIG; sig++) {
		struct sigaction sa = {.sa_handler = SIG_DFL};

		if (sig == SIGPIPE || sig == SIGHUP || sig == SIGINT || sig == SIGTERM)
			(void)sigaction(sig, &sa, NULL);
	}
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static void child_oom(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	/* The agent may be protected; what it starts is not. */
	if (fd >= 0) {
		(void)!write(fd, "0", 1);
		close(fd);
	}
}

/* Runs in the parent's memory: system calls only. */
static void __attribute__((noinline, noreturn)) child_run(struct child *c)
{
	const struct spawn *s = c->spawn;
	int fds[3];
	int i;

	(void)setsid();
	child_signals();
	child_oom();
	/* Out of the way of 0 to 2 first, in case they are among them. */
	for (i = 0; i < 3; i++) {
		fds[i] = fcntl(s->fds[i], F_DUPFD_CLOEXEC, 3);
		if (fds[i] < 0)
			goto fail;
	}
	for (i = 0; i < 3; i++)
		if (dup2(fds[i], i) < 0)
			goto fail;
	if (s->tty && ioctl(0, TIOCSCTTY, 0))
		goto fail;
	if (s->cwd && *s->cwd && chdir(s->cwd)) {
		c->in_cwd = true;
		goto fail;
	}
	(void)umask(022);
	(void)execve(c->path, s->argv, s->envp);
	if (errno == ENOEXEC) {
		(void)execve("/bin/sh", c->shell, s->envp);
		errno = ENOEXEC;
	}
fail:
	c->code = errno;
	_exit(127);
}

/* The file to run: argv[0] itself, or the first in PATH.  0 or -errno. */
static int find_program(const struct spawn *s, char path[PATH_MAX])
{
	const char *name = s->argv[0];
	const char *dirs = PATH_ENTRY + strlen("PATH=");
	int rc = -ENOENT;
	size_t i;

	if (strchr(name, '/'))
		return str_copy(path, PATH_MAX, name);
	for (i = 0; s->envp[i]; i++)
		if (str_starts(s->envp[i], "PATH="))
			dirs = s->envp[i] + 5;
	while (*dirs) {
		size_t len = strcspn(dirs, ":");
		struct stat st;

		if (len > 0 && str_format(path, PATH_MAX, "%.*s/%s", (int)len, dirs, name) >= 0 &&
			stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
			if (access(path, X_OK) == 0)
				return 0;
			rc = -EACCES;
		}
		dirs += len;
		dirs += *dirs == ':';
	}
	return rc;
}

static char **shell_argv(char *const *argv, const char *path)
{
	size_t n = 0, i;
	char **shell;
	union {
		const char *c;
		char *p;
	} sh = {.c = "/bin/sh"}, script = {.c = path};

	while (argv[n])
		n++;
	shell = calloc(n + 2, sizeof(*shell));
	if (!shell)
		return NULL;
	shell[0] = sh.p;
	shell[1] = script.p;
	for (i = 1; i < n; i++)
		shell[i + 1] = argv[i];
	return shell;
}

pid_t spawn_start(const struct spawn *s, struct err *err)
{
	char path[PATH_MAX];
	struct child child = {.spawn = s, .path = path};
	pid_t pid;
	int rc;

	if (!s->argv[0] || !*s->argv[0])
		return err_set(err, -EINVAL, "no program given");
	rc = find_program(s, path);
	if (rc == -ENOENT)
		return err_set(err, rc, "%s: not found in the guest", s->argv[0]);
	if (rc)
		return err_errno(err, rc, "%s", s->argv[0]);
	child.shell = shell_argv(s->argv, path);
	if (!child.shell)
		return err_set(err, -ENOMEM, "%s: no memory", s->argv[0]);
	/* The child makes system calls only, in its own frame, and never returns. */
	pid = vfork(); /* NOLINT(clang-analyzer-security.insecureAPI.vfork) */
	if (pid == 0)
		child_run(&child); /* NOLINT(clang-analyzer-unix.Vfork) */
	rc = pid < 0 ? -errno : -child.code;
	free(child.shell);
	if (pid < 0)
		return err_errno(err, rc, "start %s", s->argv[0]);
	/* A child that failed is reaped with the others. */
	if (rc && child.in_cwd)
		return err_errno(err, rc, "folder %s", s->cwd);
	if (rc)
		return err_errno(err, rc, "%s", s->argv[0]);
	return pid;
}

static void env_set(char **env, size_t *count, char *entry)
{
	size_t name = strcspn(entry, "=") + 1;
	size_t i;

	for (i = 0; i < *count; i++) {
		if (strncmp(env[i], entry, name) == 0) {
			free(env[i]);
			env[i] = entry;
			return;
		}
	}
	env[(*count)++] = entry;
}

char **env_make(Um__GuestConfig__EnvEntry *const *entries, size_t count, char *const *extra,
	size_t extra_count)
{
	static const char *const defaults[] = {
		PATH_ENTRY, "HOME=/root", "USER=root", "SHELL=/bin/sh", "TERM=linux"};
	size_t fixed = sizeof(defaults) / sizeof(defaults[0]);
	char **env = calloc(fixed + count + extra_count + 1, sizeof(*env));
	size_t have = 0, i;

	if (!env)
		return NULL;
	for (i = 0; i < fixed + count + extra_count; i++) {
		char *entry = NULL;
		size_t j = i - fixed;

		if (i < fixed) {
			entry = str_dup(defaults[i]);
		} else if (j < count) {
			size_t size = strlen(entries[j]->key) + strlen(entries[j]->value) + 2;

			if (entries[j]->key[0] == '\0' || strchr(entries[j]->key, '='))
				continue;
			entry = malloc(size);
			if (entry)
				(void)str_format(
					entry, size, "%s=%s", entries[j]->key, entries[j]->value);
		} else {
			if (!strchr(extra[j - count], '=') || extra[j - count][0] == '=')
				continue;
			entry = str_dup(extra[j - count]);
		}
		if (!entry) {
			env_free(env);
			return NULL;
		}
		env_set(env, &have, entry);
	}
	return env;
}

void env_free(char **env)
{
	size_t i;

	for (i = 0; env && env[i]; i++)
		free(env[i]);
	free(env);
}
