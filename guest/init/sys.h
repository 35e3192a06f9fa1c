/* sys: small helpers over system calls, for inside the guest.  Blocking. */
#ifndef UMLAUT_GUEST_INIT_SYS_H
#define UMLAUT_GUEST_INIT_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

/* Milliseconds since the guest's kernel started. */
uint64_t sys_uptime_ms(void);
uint64_t sys_uptime_us(void); /* never 0 */

/* Mounts, making the mount point (0755) if it is missing. */
int sys_mount(const char *source, const char *target, const char *type, unsigned long flags,
	const char *data, struct err *err);

/* One write() of TEXT to an existing file: for /proc and /sys.  0 or -errno. */
int sys_write(const char *path, const char *text);

/* Reads at most SIZE - 1 bytes, terminates, strips the last newline.  Length or -errno. */
ssize_t sys_read(const char *path, char *text, size_t size);

/* All of DATA, also over short writes (blocking descriptors).  0 or -errno. */
int sys_write_all(int fd, const void *data, size_t size);

/* Makes PATH and its missing parents. 0 or -errno. */
int sys_mkdirs(const char *path, mode_t mode);

/* A regular file that may be executed (symbolic links followed). */
bool sys_executable(const char *path);

/* One line, "umlaut: ...", on the guest's console. */
void sys_log(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
