/* The user's terminal. */
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "clusterctl/stream.h"

/* A terminal is the process's: one of them, put back also by exit(). */
static struct {
	int fd;
	bool raw, registered;
	struct termios before;
} tty;

void tty_restore(void)
{
	if (tty.raw)
		(void)tcsetattr(tty.fd, TCSADRAIN, &tty.before);
	tty.raw = false;
}

int tty_raw(int fd)
{
	struct termios t;

	if (tcgetattr(fd, &t) < 0)
		return -errno;
	tty.before = t;
	tty.fd = fd;
	if (!tty.registered && atexit(tty_restore) != 0)
		return -ENOMEM;
	tty.registered = true;
	cfmakeraw(&t);
	if (tcsetattr(fd, TCSADRAIN, &t) < 0)
		return -errno;
	tty.raw = true;
	return 0;
}

void tty_size(uint32_t *rows, uint32_t *cols)
{
	*rows = 24;
	*cols = 80;
	for (int fd = 1; fd >= 0; fd--) {
		struct winsize w;

		if (ioctl(fd, TIOCGWINSZ, &w) == 0 && w.ws_row && w.ws_col) {
			*rows = w.ws_row;
			*cols = w.ws_col;
			return;
		}
	}
}
