/* console: a shell on the guest's console where umlaut-init is process 1 and nothing
 * of the image offers one.  It starts with the first key pressed and ends with its
 * session; until then it costs nothing.
 */
#ifndef UMLAUT_GUEST_INIT_CONSOLE_H
#define UMLAUT_GUEST_INIT_CONSOLE_H

#include <poll.h>
#include <stdbool.h>
#include <sys/types.h>

#include "proto/umlaut.pb-c.h"

struct console {
	int fd; /* -1: no shell in this image, or no console any more */
	pid_t shell;
	const Um__GuestConfig *config;
};

void console_init(struct console *console, const Um__GuestConfig *config, bool wanted);
void console_poll(const struct console *console, struct pollfd *fd);
void console_ready(struct console *console, const struct pollfd *fd);
void console_child(struct console *console, pid_t pid);
void console_close(struct console *console);

#endif
