#include "guest/cgroup_int.h"

#include <errno.h>
#include <inttypes.h>

#include "lib/str.h"

#define PERIOD_US 100000u

static int limit_memory(const char *dir, uint64_t bytes, struct err *err)
{
	char text[32];

	(void)str_format(text, sizeof(text), "%" PRIu64, bytes);
	return cgroup_write(dir, "memory.limit_in_bytes", text, err);
}

static int limit_cpu(const char *dir, uint32_t milli, struct err *err)
{
	/* One CPU is the default weight of 1024; the kernel wants 2..262144. */
	uint64_t shares = (uint64_t)milli * 1024 / 1000;
	/* The kernel refuses quotas under 1 ms. */
	uint64_t quota = (uint64_t)milli * (PERIOD_US / 1000);
	char text[32];
	int rc;

	shares = shares < 2 ? 2 : shares > 262144 ? 262144 : shares;
	quota = quota < 1000 ? 1000 : quota;
	(void)str_format(text, sizeof(text), "%" PRIu64, shares);
	rc = cgroup_write(dir, "cpu.shares", text, err);
	if (rc < 0)
		return rc;
	(void)str_format(text, sizeof(text), "%u", PERIOD_US);
	rc = cgroup_write(dir, "cpu.cfs_period_us", text, err);
	if (rc == -ENOENT)
		return 0; /* a host kernel without CFS bandwidth control: weight only */
	if (rc < 0)
		return rc;
	(void)str_format(text, sizeof(text), "%" PRIu64, quota);
	return cgroup_write(dir, "cpu.cfs_quota_us", text, err);
}

static int v1_limit(
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

/* Frozen processes neither fork nor end, so the list is whole and no pid in it
 * can have become somebody else's. */
static int v1_kill(const char *dir, struct err *err)
{
	bool freezer = cgroup_write(dir, "freezer.state", "FROZEN", NULL) >= 0;
	int rc;

	if (freezer)
		(void)cgroup_await(dir, "freezer.state", "FROZEN", 200);
	rc = cgroup_signal_all(dir, err);
	if (freezer && cgroup_write(dir, "freezer.state", "THAWED", rc < 0 ? NULL : err) < 0 &&
		rc >= 0)
		return err ? err->code : -EIO;
	return rc < 0 ? rc : 0;
}

static void v1_usage(const char *dir, unsigned has, struct cgroup_usage *out)
{
	uint64_t n;

	if ((has & CGROUP_HAS_MEMORY) &&
		cgroup_read_u64(dir, "memory.usage_in_bytes", NULL, &n) == 0) {
		out->memory_bytes = n;
		out->has_memory = true;
		if (cgroup_read_u64(dir, "memory.oom_control", "oom_kill", &n) == 0)
			out->oom_kills = n;
	}
	if ((has & CGROUP_HAS_CPUACCT) && cgroup_read_u64(dir, "cpuacct.usage", NULL, &n) == 0) {
		out->cpu_us = n / 1000;
		out->has_cpu = true;
	}
	if ((has & CGROUP_HAS_PIDS) && cgroup_read_u64(dir, "pids.current", NULL, &n) == 0) {
		out->pids = n;
		out->has_pids = true;
	}
}

const struct cgroup_backend cgroup_v1 = {.limit = v1_limit, .kill = v1_kill, .usage = v1_usage};
