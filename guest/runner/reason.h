/* reason: why a guest ended, in words for a person.  Pure. */
#ifndef UMLAUT_GUEST_RUNNER_REASON_H
#define UMLAUT_GUEST_RUNNER_REASON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Copies TEXT (of a guest's choosing) to DST: printable ASCII, others as '?',
 * blanks joined, cut at SIZE - 1. */
void reason_clean(char *dst, size_t size, const char *text);

/* The message of the last kernel panic in the last lines of the console, or false. */
int reason_panic(char *dst, size_t size, const char *console, size_t console_size);

/* STATUS: 0..255 or 256 + signal.  "the kernel was killed by signal 9 (Killed)". */
void reason_end(char *dst, size_t size, int status);

/* Does the kernel say there that it lost one of the processes of its user space
 * (arch/um/os-Linux/skas/process.c)? */
bool reason_lost_stub(const char *text, size_t size);

#endif
