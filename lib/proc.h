/* proc: processes by identity, never by a bare pid.
 *
 * A pid is reused; an identity is (pid, start time in clock ticks since boot,
 * boot id): /proc/PID/stat field 22 and /proc/sys/kernel/random/boot_id, see
 * proc(5).  A signal goes through a pidfd opened and then checked against the
 * identity, so a stranger is never hit.
 */
#ifndef UMLAUT_LIB_PROC_H
#define UMLAUT_LIB_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

struct proc_id {
	pid_t pid;
	uint64_t start_ticks;
	uint8_t boot_id[16];
};

int proc_boot_id(uint8_t out[16], struct err *err);
/* -ESRCH when there is no such process. */
int proc_identify(pid_t pid, struct proc_id *out, struct err *err);
/* A pidfd (close-on-exec) of exactly that process, or -ESRCH when it is gone. */
int proc_open(const struct proc_id *id, struct err *err);
bool proc_alive(const struct proc_id *id);
int proc_kill(const struct proc_id *id, int sig, struct err *err);

/* One line of text and back: "PID START BOOTIDHEX", for state files. */
#define PROC_TEXT 80
void proc_text(char buf[PROC_TEXT], const struct proc_id *id);
int proc_parse(const char *text, struct proc_id *out, struct err *err);

/* Fills DATA from the kernel's random pool; never fails after boot (aborts). */
void proc_random(void *data, size_t size);
uint64_t proc_random_u64(void); /* never 0 */
/* CLOCK_MONOTONIC, which stands still while the machine is suspended; CLOCK_BOOTTIME, which
 * does not; and wall clock; milliseconds. */
uint64_t proc_mono_ms(void);
uint64_t proc_boot_ms(void);
uint64_t proc_wall_ms(void);
uint64_t proc_wall_us(void);
/* The processors that this process may run on (a cpuset may leave it few), at least 1. */
uint32_t proc_cpus(void);
/* Takes flock(2) of FD alone.  Waits half a second for it: a child that a killed process had
 * just forked has it until its exec.  For start-up: it blocks.  -errno. */
int proc_lock(int fd);

#endif
