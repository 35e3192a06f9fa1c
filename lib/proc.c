#include "lib/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/str.h"

#define LOCK_TRIES 10
#define LOCK_MS 50

/* Reads a small file of /proc; these never block. */
static int read_small(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;
	int saved;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	saved = errno;
	(void)close(fd);
	if (n < 0)
		return -saved;
	buf[n] = 0;
	return (int)n;
}

int proc_boot_id(uint8_t out[16], struct err *err)
{
	static const char path[] = "/proc/sys/kernel/random/boot_id";
	char text[64] = "", hex[33];
	size_t k = 0;
	int rc = read_small(path, text, sizeof(text));

	if (rc < 0)
		return err_errno(err, rc, "read %s", path);
	for (size_t i = 0; text[i] && k < 32; i++)
		if (text[i] != '-')
			hex[k++] = text[i];
	hex[k] = 0;
	if (str_unhex(out, 16, hex) < 0)
		return err_set(err, -EBADMSG, "%s: not a boot id: '%.40s'", path, text);
	return 0;
}

/* Field 22 of /proc/PID/stat; the command in field 2 may hold anything, so
 * counting starts after its last ')'. */
static int start_ticks(pid_t pid, uint64_t *out, char *state)
{
	char path[64], text[1024], *p;
	int rc;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	rc = read_small(path, text, sizeof(text));
	if (rc < 0)
		return rc == -ENOENT ? -ESRCH : rc;
	p = strrchr(text, ')');
	if (!p || p[1] != ' ')
		return -EBADMSG;
	p += 2;
	*state = *p;
	for (int field = 3; field < 22; field++) {
		p = strchr(p, ' ');
		if (!p)
			return -EBADMSG;
		p++;
	}
	p[strcspn(p, " \n")] = 0;
	return str_u64(p, 0, UINT64_MAX, out);
}

int proc_identify(pid_t pid, struct proc_id *out, struct err *err)
{
	struct proc_id id = {.pid = pid};
	char state;
	int rc = start_ticks(pid, &id.start_ticks, &state);

	if (rc < 0)
		return err_errno(err, rc, "process %d", (int)pid);
	rc = proc_boot_id(id.boot_id, err);
	if (rc < 0)
		return rc;
	*out = id;
	return 0;
}

static bool same(const struct proc_id *id)
{
	uint8_t boot[16];
	uint64_t ticks;
	char state;

	if (id->pid <= 0 || proc_boot_id(boot, NULL) < 0 || memcmp(boot, id->boot_id, 16) != 0)
		return false;
	if (start_ticks(id->pid, &ticks, &state) < 0 || ticks != id->start_ticks)
		return false;
	return state != 'Z' && state != 'X';
}

int proc_open(const struct proc_id *id, struct err *err)
{
	int fd;

	if (id->pid <= 0)
		return err_set(err, -ESRCH, "no process");
	/* A pidfd is close-on-exec by definition (pidfd_open(2)). */
	fd = (int)syscall(SYS_pidfd_open, id->pid, 0);
	if (fd < 0)
		return err_errno(err, errno, "process %d", (int)id->pid);
	/* Checked after the open: what the pidfd names can no longer change. */
	if (!same(id)) {
		(void)close(fd);
		return err_set(err, -ESRCH, "process %d is another one by now", (int)id->pid);
	}
	return fd;
}

bool proc_alive(const struct proc_id *id)
{
	return same(id);
}

int proc_kill(const struct proc_id *id, int sig, struct err *err)
{
	int fd = proc_open(id, err), rc = 0;

	if (fd < 0)
		return fd;
	if (syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0) < 0)
		rc = err_errno(err, errno, "signal %d to process %d", sig, (int)id->pid);
	(void)close(fd);
	return rc;
}

void proc_text(char buf[PROC_TEXT], const struct proc_id *id)
{
	char hex[33];

	str_hex(hex, id->boot_id, sizeof(id->boot_id));
	(void)snprintf(buf, PROC_TEXT, "%d %" PRIu64 " %s", (int)id->pid, id->start_ticks, hex);
}

int proc_parse(const char *text, struct proc_id *out, struct err *err)
{
	struct proc_id id;
	char copy[PROC_TEXT], *start, *boot;
	uint64_t pid;

	if (str_copy(copy, sizeof(copy), text) < 0)
		goto bad;
	copy[strcspn(copy, "\n")] = 0;
	start = strchr(copy, ' ');
	boot = start ? strchr(start + 1, ' ') : NULL;
	if (!boot)
		goto bad;
	*start++ = 0;
	*boot++ = 0;
	if (str_u64(copy, 1, INT32_MAX, &pid) < 0 ||
		str_u64(start, 0, UINT64_MAX, &id.start_ticks) < 0 ||
		str_unhex(id.boot_id, sizeof(id.boot_id), boot) < 0)
		goto bad;
	id.pid = (pid_t)pid;
	*out = id;
	return 0;
bad:
	return err_set(err, -EBADMSG, "not a process identity: '%.60s'", text);
}

void proc_random(void *data, size_t size)
{
	uint8_t *p = data;

	while (size) {
		ssize_t n = getrandom(p, size, 0);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			abort();
		}
		p += n;
		size -= (size_t)n;
	}
}

uint64_t proc_random_u64(void)
{
	uint64_t v;

	do
		proc_random(&v, sizeof(v));
	while (!v);
	return v;
}

static uint64_t clock_ms(clockid_t id)
{
	struct timespec t;

	(void)clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

uint64_t proc_mono_ms(void)
{
	return clock_ms(CLOCK_MONOTONIC);
}

uint64_t proc_boot_ms(void)
{
	return clock_ms(CLOCK_BOOTTIME);
}

uint64_t proc_wall_ms(void)
{
	return clock_ms(CLOCK_REALTIME);
}

uint64_t proc_wall_us(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

uint32_t proc_cpus(void)
{
	long online = sysconf(_SC_NPROCESSORS_CONF), n = online > 0 ? online : 1;
	cpu_set_t *set = CPU_ALLOC((size_t)n);
	size_t size = CPU_ALLOC_SIZE((size_t)n);

	if (set && sched_getaffinity(0, size, set) == 0)
		n = CPU_COUNT_S(size, set);
	CPU_FREE(set);
	return n > 0 ? (uint32_t)n : 1;
}

int proc_lock(int fd)
{
	int tries = LOCK_TRIES;

	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (tries-- <= 0)
			return -errno;
		(void)poll(NULL, 0, LOCK_MS);
	}
	return 0;
}
