/* movespace: room for a disk that comes, without taking what the guests here need: they
 * would get I/O errors where the move can still be refused.
 *
 * Kept free: a hundredth of the file system, at least 64 MiB and at most 1 GiB, but never
 * more than an eighth of it.
 */
#ifndef UMLAUT_NODE_AGENT_MOVESPACE_H
#define UMLAUT_NODE_AGENT_MOVESPACE_H

#include <stdint.h>

#include "lib/err.h"

uint64_t movespace_reserve(uint64_t disk_bytes); /* of a file system of that size; pure */
/* Can BYTES more be written to the open file FD, which is PATH?  -ENOSPC, with numbers. */
int movespace_check(int fd, const char *path, uint64_t bytes, struct err *err);
/* The same for a disk with BYTES of data, of which the file FD may have a part. */
int movespace_check_copy(int fd, const char *path, uint64_t bytes, struct err *err);

#endif
