/* bulk: a window of memory through which large data goes into a guest.
 *
 * UML reads a console one byte per system call (chan_interrupt() in arch/um/drivers/
 * chan_kern.c): whatever the window, 1 to 2 MB/s and a processor is all a line gives.
 * Its disks read whole pages.  So each guest has one more, ubd7, read-only: 1 MiB of
 * our memory.  Whole frames are put there, and the line carries only a LineBulk that
 * says where; so the order of everything on the line stays, and what is small (keys,
 * credits) goes as before.  The guest reads past its page cache (O_DIRECT) and confirms
 * with LineAck, which makes room.
 *
 * The memory is a memfd that can neither shrink nor grow, and whose file mode lets the
 * guest's user only read: a hostile kernel can do no more than see what was sent to it.
 * We write it with pwrite(2) and never read it.  Memory is given back whenever
 * all was read.
 *
 * Positions count up from 0 and are no offsets: a piece lies at its position modulo
 * the size, never over the end.
 */
#ifndef UMLAUT_GUEST_RUNNER_BULK_H
#define UMLAUT_GUEST_RUNNER_BULK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/wire.h"

#define BULK_LEAST 1024u /* smaller ones go over the line: a round of the disk costs more */

struct bulk {
	int fd;		     /* -1: none; not owned */
	bool on;	     /* the guest reads it */
	uint64_t head, tail; /* positions: of the next piece, and up to where all was read */
};
#define BULK_INIT ((struct bulk){.fd = -1})

/* A new window: OURS to write, THEIRS to be a descriptor of the guest's kernel. */
int bulk_make(int *ours, int *theirs, struct err *err);

/* The guest says hello: it reads a device of SIZE bytes, or has none (0). */
void bulk_begin(struct bulk *bulk, uint32_t size);
/* The most bytes that bulk_put() takes now; 0 when there is no window. */
size_t bulk_room(const struct bulk *bulk);
/* Puts SIZE bytes, at most bulk_room(), and fills in what the guest is told. */
int bulk_put(struct bulk *bulk, const void *data, size_t size, Um__LineBulk *out, struct err *err);
/* The guest has read up to END; what was never sent is not believed. */
void bulk_confirm(struct bulk *bulk, uint64_t end);

#endif
