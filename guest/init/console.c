#include "guest/init/console.h"

#include <fcntl.h>
#include <unistd.h>

#include "guest/init/spawn.h"
#include "guest/init/sys.h"

#define CONSOLE "/dev/tty0" /* UML's con0 */

void console_init(struct console *c, const Um__GuestConfig *config, bool wanted)
{
	c->fd = -1;
	c->shell = 0;
	c->config = config;
	if (wanted && sys_executable("/bin/sh"))
		c->fd = open(CONSOLE, O_RDWR | O_NOCTTY | O_CLOEXEC);
}

void console_close(struct console *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

void console_poll(const struct console *c, struct pollfd *fd)
{
	*fd = (struct pollfd){.fd = c->shell ? -1 : c->fd, .events = POLLIN};
}

void console_ready(struct console *c, const struct pollfd *fd)
{
	char name[] = "/bin/sh", login[] = "-l";
	char *argv[] = {name, login, NULL};
	struct spawn spawn = {
		.argv = argv, .cwd = "/root", .fds = {c->fd, c->fd, c->fd}, .tty = true};
	struct err err = ERR_INIT;
	char **env;
	pid_t pid;

	if (!fd->revents || c->shell)
		return;
	if (fd->revents & (POLLHUP | POLLERR | POLLNVAL)) {
		console_close(c);
		return;
	}
	env = env_make(c->config->env, c->config->n_env, NULL, 0);
	spawn.envp = env;
	if (access(spawn.cwd, X_OK))
		spawn.cwd = "/";
	pid = env ? spawn_start(&spawn, &err) : -1;
	if (pid > 0) {
		c->shell = pid;
	} else {
		sys_log("no shell on the console: %s", err_msg(&err));
		console_close(c);
	}
	env_free(env);
}

void console_child(struct console *c, pid_t pid)
{
	if (!c->shell || pid != c->shell)
		return;
	/* The end of the session hung our descriptor up with all others. */
	c->shell = 0;
	if (c->fd >= 0) {
		close(c->fd);
		c->fd = open(CONSOLE, O_RDWR | O_NOCTTY | O_CLOEXEC);
	}
}
