/* console: the guest's console (con0): logged to a file that is rotated once,
 * kept for a while in a ring for those who attach, and typed into.
 *
 * Output goes to DIR/console.log as it comes; when that would grow over
 * `max_bytes` it becomes console.log.1 (replacing the one before), so at most
 * twice max_bytes are on the disk.  The file goes on from an earlier runner's.
 * The last CONSOLE_RING bytes are kept in memory, addressed by their position in
 * the whole output (0: the first byte of this runner): a follower holds a position and
 * may be told that what it wants is gone.
 *
 * A guest that floods its console is read at CONSOLE_RATE and no faster (it then
 * waits in its own write), so it cannot keep the host's disk and CPU busy.
 *
 * What is typed is given to the guest in small steps (CONSOLE_TYPE_BYTES each
 * CONSOLE_TYPE_MS): a UML console that is ever throttled by its tty (4 KiB unread)
 * reads no more, for ever, and a terminal has no acknowledgements as the agent's
 * line has.  So a large paste reaches a program that reads, and only one that does
 * not read can lose its input.
 */
#ifndef UMLAUT_GUEST_RUNNER_CONSOLE_H
#define UMLAUT_GUEST_RUNNER_CONSOLE_H

#include "lib/buf.h"
#include "lib/loop.h"

#define CONSOLE_RING (32u << 10)
#define CONSOLE_RATE (16u << 20) /* bytes a second */
#define CONSOLE_TYPE_BYTES 512u
#define CONSOLE_TYPE_MS 10
#define CONSOLE_INPUT_MAX (1u << 20) /* typed and not yet taken by the guest */
#define CONSOLE_MAX_DEFAULT (4u << 20)

struct console;

struct console_config {
	const char *dir;    /* guest folder */
	uint64_t max_bytes; /* 0: CONSOLE_MAX_DEFAULT */
};

struct console_ops {
	/* There is new output (position, log file, or both). */
	void (*on_output)(void *arg);
	/* SIZE bytes of input were taken by the guest. */
	void (*on_input)(void *arg, size_t size);
};

/* Takes ownership of FD on success. */
int console_open(struct loop *loop, int fd, const struct console_config *config,
	const struct console_ops *ops, void *arg, struct console **out, struct err *err);
/* Reads and logs what is left (the kernel has ended) and closes the descriptor;
 * ring and log stay readable. */
void console_finish(struct console *console);
void console_close(struct console *console);

/* Position behind the newest byte. */
uint64_t console_end(const struct console *console);
/* Copies output from *POS on, at most SIZE bytes, and advances *POS; when *POS
 * has left the ring it is first moved on and *LOST grows by what was missed. */
size_t console_read(
	const struct console *console, uint64_t *pos, void *data, size_t size, uint64_t *lost);
/* -ENOBUFS when the guest takes no more, -EPIPE when it has ended. */
int console_write(struct console *console, const void *data, size_t size, struct err *err);
/* Changes with each rotation. */
uint64_t console_generation(const struct console *console);

#endif
