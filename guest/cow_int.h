/* cow_int: what cow.c (header, life) and cow_data.c (blocks) share. */
#ifndef UMLAUT_GUEST_COW_INT_H
#define UMLAUT_GUEST_COW_INT_H

#include "guest/cow.h"

struct cow {
	int fd;
	bool write;
	struct cow_info info;
};

/* Whole reads and writes; a short file is -EBADMSG.  0 or negative errno. */
int cow_pread_all(int fd, void *data, size_t size, uint64_t offset);
int cow_pwrite_all(int fd, const void *data, size_t size, uint64_t offset);

#endif
