#include "guest/cgroup_int.h"

#include <errno.h>
#include <inttypes.h>

#include "lib/str.h"

#define PERIOD_US 100000u

static int limit_memory(const char *dir, uint64_t bytes, struct err *err)
{
	char text[32];
	int rc;

	(void)str_format(text, sizeof(text), "%" PRIu64, bytes);
	rc = cgroup_write(dir, "memory.max", text, err);
	if (rc < 0)
		return rc;
	/* Half a guest is of no use: when memory ends, all of it ends.  Since 4.19. */
	(void)cgroup_write(dir, "memory.oom.group", "1", NULL);
	return 0;
}

static int limit_cpu(const char *dir, uint32_t milli, struct err *err)
{
	/* One CPU is the default weight of 100; the kernel wants 1..10000. */
	uint64_t weight = milli / 10;
	uint64_t quota = (uint64_t)milli * (PERIOD_US / 1000);
	char text[48];
	int rc;

	weight = weight < 1 ? 1 : weight > 10000 ? 10000 : weight;
	quota = quota < 1000 ? 1000 : quota;
	(void)str_format(text, sizeof(text), "%" PRIu64, weight);
	rc = cgroup_write(dir, "cpu.weight", text, err);
	if (rc < 0)
		return rc;
	(void)str_format(text, sizeof(text), "%" PRIu64 " %u", quota, PERIOD_US);
	rc = cgroup_write(dir, "cpu.max", text, err);
	return rc == -ENOENT ? 0 : rc; /* no CFS bandwidth control: weight only */
}

static int v2_limit(
	const char *dir, unsigned has, const struct cgroup_limits *limits, struct err *err)
{
	char text[32];
	int rc = 0;

	if ((has & CGROUP_HAS_MEMORY) && limits->memory_bytes)
		rc = limit_memory(dir, limits->memory_bytes, err);
	if (rc >= 0 && (has & CGROUP_HAS_CPU) && limits->cpu_milli)
		rc = limit_cpu(dir, limits->cpu_milli, err);
	if (rc >= 0 && (has & CGROUP_HAS_PIDS) && limits->pids_max) {
		(void)str_format(text, sizeof(text), "%" PRIu32, limits->pids_max);
		rc = cgroup_write(dir, "pids.max", text, err);
	}
	return rc < 0 ? rc : 0;
}

static int v2_kill(const char *dir, struct err *err)
{
	int rc = cgroup_write(dir, "cgroup.kill", "1", err); /* since 5.14 */
	bool frozen;

	if (rc != -ENOENT)
		return rc < 0 ? rc : 0;
	/* Since 5.2; before that the caller's repetition has to do. */
	frozen = cgroup_write(dir, "cgroup.freeze", "1", NULL) >= 0;
	if (frozen)
		(void)cgroup_await(dir, "cgroup.events", "frozen 1", 200);
	rc = cgroup_signal_all(dir, err);
	if (frozen)
		(void)cgroup_write(dir, "cgroup.freeze", "0", NULL);
	return rc < 0 ? rc : 0;
}

static void v2_usage(const char *dir, unsigned has, struct cgroup_usage *out)
{
	uint64_t n;

	if ((has & CGROUP_HAS_MEMORY) && cgroup_read_u64(dir, "memory.current", NULL, &n) == 0) {
		out->memory_bytes = n;
		out->has_memory = true;
		if (cgroup_read_u64(dir, "memory.events", "oom_kill", &n) == 0)
			out->oom_kills = n;
	}
	/* There in every group, with or without the cpu controller. */
	if (cgroup_read_u64(dir, "cpu.stat", "usage_usec", &n) == 0) {
		out->cpu_us = n;
		out->has_cpu = true;
	}
	if ((has & CGROUP_HAS_PIDS) && cgroup_read_u64(dir, "pids.current", NULL, &n) == 0) {
		out->pids = n;
		out->has_pids = true;
	}
}

const struct cgroup_backend cgroup_v2 = {.limit = v2_limit, .kill = v2_kill, .usage = v2_usage};
