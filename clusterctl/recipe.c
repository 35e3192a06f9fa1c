#include "clusterctl/recipe.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clusterctl/ctl.h"
#include "lib/str.h"

#define IN_SOURCE "guest/kernel/build"

static bool recipe_at(const char *folder, const char *script, char out[PATH_MAX])
{
	char path[PATH_MAX];

	return str_format(path, sizeof(path), "%s/%s", folder, script) >= 0 &&
	       realpath(path, out) && access(out, X_OK) == 0;
}

/* Below the current folder anybody may have put one: it must be the user's own, or root's. */
static bool is_trusted(const char *script)
{
	struct stat st;

	return stat(script, &st) == 0 && (st.st_uid == 0 || st.st_uid == geteuid()) &&
	       (st.st_mode & 022) == 0;
}

/* In the source tree that this program was built in, beside an installed one, or below the
 * current folder.  *SOURCE: in a source tree. */
static bool find(char script[PATH_MAX], bool *source)
{
	char exe[PATH_MAX] = "", *slash;
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	slash = n > 0 ? strrchr(exe, '/') : NULL;
	if (slash)
		*slash = '\0';
	*source = recipe_at(exe, "../../" IN_SOURCE, script);
	if (*source || recipe_at(exe, "../lib/umlaut/kernel/build", script))
		return true;
	*source = recipe_at(".", IN_SOURCE, script) && is_trusted(script);
	return *source;
}

int recipe_find(const char *out, char kernel[PATH_MAX])
{
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME"); /* NOLINT */
	char script[PATH_MAX];
	bool source;
	int rc;

	if (!find(script, &source))
		return ctl_fail(EXIT_NOT_FOUND,
			"the recipe is not here: run it in Umlaut's source (" IN_SOURCE "), "
			"or install Umlaut");
	if (out)
		rc = str_format(kernel, PATH_MAX, "%s/linux-fast", out);
	else if (source)
		rc = str_format(kernel, PATH_MAX, "%.*sbuild/kernel/linux-fast",
			(int)(strlen(script) - strlen(IN_SOURCE)), script);
	else if (cache && *cache)
		rc = str_format(kernel, PATH_MAX, "%s/umlaut/build/linux-fast", cache);
	else
		rc = str_format(kernel, PATH_MAX, "%s/.cache/umlaut/build/linux-fast",
			home && *home ? home : "/root");
	return rc < 0 ? ctl_fail(EXIT_FAILED, "the folder's path is too long") : 0;
}

/* Starts ARGV with the signals that it had before they were blocked here. */
static int start(char *const argv[], const sigset_t *mask, pid_t *pid)
{
	posix_spawnattr_t attr;
	int rc = posix_spawnattr_init(&attr);

	if (rc)
		return rc;
	rc = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	if (rc == 0)
		rc = posix_spawnattr_setsigmask(&attr, mask);
	if (rc == 0)
		rc = posix_spawn(pid, argv[0], NULL, &attr, argv, environ);
	(void)posix_spawnattr_destroy(&attr);
	return rc;
}

/* Until PID has ended; other signals of SET are handed on to it. */
static int supervise(pid_t pid, const sigset_t *set)
{
	int status = 0, sig;
	pid_t got;

	for (;;) {
		got = waitpid(pid, &status, WNOHANG);
		if (got == pid)
			return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		if (got < 0 && errno != EINTR)
			return -errno;
		sig = sigwaitinfo(set, NULL);
		if (sig > 0 && sig != SIGCHLD)
			(void)kill(pid, sig);
	}
}

int recipe_run(const struct recipe_options *o, const char *kernel)
{
	char script[PATH_MAX], out[PATH_MAX];
	const char *argv[9] = {script, "--out", out};
	sigset_t set, before;
	int rc, n = 3;
	bool source;
	pid_t pid;

	if (!find(script, &source) || str_copy(out, sizeof(out), kernel) < 0)
		return ctl_fail(EXIT_NOT_FOUND, "the recipe is not here any more");
	*strrchr(out, '/') = '\0';
	if (o->source) {
		argv[n++] = "--source";
		argv[n++] = o->source;
	}
	if (o->jobs) {
		argv[n++] = "--jobs";
		argv[n++] = o->jobs;
	}
	if (o->newest)
		argv[n++] = "--newest";
	argv[n] = NULL;
	(void)fflush(stdout);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, &set, &before);
	rc = start((char **)(uintptr_t)argv, &before, &pid);
	if (rc)
		rc = ctl_fail(EXIT_FAILED, "%s: %s", script, strerror(rc));
	else
		rc = supervise(pid, &set);
	(void)sigprocmask(SIG_SETMASK, &before, NULL);
	if (rc < 0)
		return ctl_fail(EXIT_FAILED, "%s: %s", script, strerror(-rc));
	return rc > 0 && rc < 128 ? EXIT_FAILED : rc;
}
