#include "node-agent/check.h"

#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lib/fs.h"
#include "lib/json.h"
#include "lib/proc.h"
#include "lib/units.h"
#include "node-agent/agent.h"
#include "node-agent/overlay.h"
#include "node-agent/programs.h"

#define MEMORY_MIN (UINT64_C(256) << 20)
#define DISK_MIN (UINT64_C(1) << 30)
#define FILES_MIN 4096
#define HALT_POLL_MIN 50000u /* ns */

struct checks {
	const struct agentconf *config;
	struct check_result *out;
	size_t count;
};

static struct check_result *add(struct checks *c, const char *name)
{
	struct check_result *r = &c->out[c->count++];

	*r = (struct check_result){.name = name, .level = CHECK_OK};
	return r;
}

static void wrong(
	struct check_result *r, enum check_level level, const char *detail, const char *remedy)
{
	r->level = level;
	(void)str_format(r->detail, sizeof(r->detail), "%.500s", detail);
	r->remedy = remedy;
}

/* ---------------------------------------------------------------- privileges */

static void privileges(struct checks *c)
{
	static const struct {
		cap_value_t cap;
		const char *name;
	} needed[] = {{CAP_SYS_ADMIN, "sys_admin"}, {CAP_NET_ADMIN, "net_admin"},
		{CAP_SETUID, "setuid"}, {CAP_SETGID, "setgid"}, {CAP_CHOWN, "chown"},
		{CAP_DAC_OVERRIDE, "dac_override"}, {CAP_KILL, "kill"}, {CAP_MKNOD, "mknod"},
		{CAP_SYS_CHROOT, "sys_chroot"}, {CAP_SETPCAP, "setpcap"}};
	struct check_result *r = add(c, "privileges");
	cap_t caps = cap_get_proc();
	char missing[256] = "";

	for (size_t i = 0; caps && i < sizeof(needed) / sizeof(needed[0]); i++) {
		cap_flag_value_t has = CAP_CLEAR;
		size_t size = strlen(missing);

		(void)cap_get_flag(caps, needed[i].cap, CAP_EFFECTIVE, &has);
		if (has == CAP_CLEAR)
			(void)str_format(missing + size, sizeof(missing) - size, "%s%s",
				size ? ", " : "missing: ", needed[i].name);
	}
	if (caps)
		(void)cap_free(caps);
	if (missing[0])
		wrong(r, CHECK_FAIL, missing, "run it as root, or give it these capabilities");
	else
		(void)str_copy(r->detail, sizeof(r->detail), "root, or as good");
}

/* ---------------------------------------------------------------- tried */

static const struct trial {
	const char *name, *fine, *remedy;
	check_fn *fn;
	bool private;
	enum check_level level;
} trials[] = {
	{"namespaces", "PID, mount, network, IPC, UTS",
		"a kernel with namespaces; in a container: one that may make them (privileged)",
		check_namespaces, true, CHECK_FAIL},
	{"tun", "/dev/net/tun makes taps",
		"modprobe tun; in a container: pass /dev/net/tun in (mknod /dev/net/tun c 10 200)",
		check_tun, true, CHECK_FAIL},
	{"bridge", "bridges can be made", "modprobe bridge (CONFIG_BRIDGE)", check_bridge, true,
		CHECK_FAIL},
	{"vxlan", "VXLAN devices can be made", "modprobe vxlan (CONFIG_VXLAN)", check_vxlan, true,
		CHECK_FAIL},
	{"overlay", "a network with a port was made and removed",
		"what is named there is missing in this host's kernel or privileges", check_overlay,
		true, CHECK_FAIL},
	{"tmpfs", "a tmpfs may be mounted, programs mapped from it",
		"guests' memory lies on a tmpfs with exec: allow mounting one, and mapping from "
		"it (SELinux, noexec policies)",
		check_tmpfs, true, CHECK_FAIL},
	{"ptrace", "a guest's user may trace its own processes",
		"sysctl kernel.yama.ptrace_scope=1 (3 forbids it); in a container: allow ptrace",
		check_ptrace, false, CHECK_FAIL},
	{"cgroups", "memory, cpu, pids, kill",
		"guests run without these limits; mount cgroup2 (or the v1 controllers) and "
		"enable them",
		check_cgroup, false, CHECK_WARN},
};

static void try_all(struct checks *c)
{
	for (size_t i = 0; i < sizeof(trials) / sizeof(trials[0]); i++) {
		struct check_result *r = add(c, trials[i].name);
		struct err err = ERR_INIT;

		if (check_try(trials[i].fn, c->config, trials[i].private, &err) < 0)
			wrong(r, trials[i].level, err_msg(&err), trials[i].remedy);
		else
			(void)str_copy(r->detail, sizeof(r->detail), trials[i].fine);
	}
}

/* ---------------------------------------------------------------- room */

static uint64_t memory_available(void)
{
	struct buf text;
	const char *at;
	uint64_t kib = 0;

	buf_init(&text);
	if (fs_read("/proc/meminfo", 65536, &text, NULL) == 0) {
		at = strstr(buf_text(&text), "MemAvailable:");
		for (at = at ? at + 13 : ""; *at == ' '; at++)
			;
		for (; *at >= '0' && *at <= '9'; at++)
			kib = kib * 10 + (uint64_t)(*at - '0');
	}
	buf_free(&text);
	return kib << 10;
}

static void room(struct checks *c)
{
	struct check_result *r = add(c, "memory");
	uint64_t memory = memory_available();
	char text[UNITS_TEXT], at[PATH_MAX];
	struct statvfs fs;
	char *slash;

	(void)str_format(r->detail, sizeof(r->detail), "%s available", units_size(text, memory));
	if (memory < MEMORY_MIN) {
		r->level = CHECK_FAIL;
		r->remedy = "a guest needs 32M and more; free some memory";
	} else if (c->config->memory > memory) {
		r->level = CHECK_WARN;
		r->remedy = "--memory promises more than is available now";
	}

	r = add(c, "disk");
	(void)str_copy(at, sizeof(at), c->config->state);
	/* The folder may still have to be made. */
	while (statvfs(at, &fs) < 0) {
		slash = strrchr(at, '/');
		if (!slash || slash == at) {
			(void)str_copy(at, sizeof(at), "/");
			if (statvfs(at, &fs) < 0)
				return;
			break;
		}
		*slash = '\0';
	}
	(void)str_format(r->detail, sizeof(r->detail), "%s free for %s",
		units_size(text, (uint64_t)fs.f_bavail * fs.f_frsize), c->config->state);
	if ((uint64_t)fs.f_bavail * fs.f_frsize < DISK_MIN) {
		r->level = CHECK_WARN;
		r->remedy = "images and guests' disks lie there: free some space or use --state";
	}
}

static void limits(struct checks *c)
{
	struct check_result *r = add(c, "open files");
	struct rlimit files = {0};

	(void)getrlimit(RLIMIT_NOFILE, &files);
	(void)str_format(r->detail, sizeof(r->detail), "%llu", (unsigned long long)files.rlim_max);
	if (files.rlim_max < FILES_MIN) {
		r->level = CHECK_WARN;
		r->remedy = "many guests need more: ulimit -n 65536 (LimitNOFILE= in systemd)";
	}
	r = add(c, "users");
	(void)str_format(r->detail, sizeof(r->detail), "guests run as users from %u on",
		(unsigned)c->config->uid_base);
	if (getpwuid(c->config->uid_base)) {
		r->level = CHECK_FAIL;
		r->remedy = "that user exists here: give a free range with --uid-base";
	}
}

static uint64_t number_of(const char *path)
{
	struct buf text;
	uint64_t n = UINT64_MAX;

	buf_init(&text);
	if (fs_read(path, 64, &text, NULL) == 0)
		n = strtoull(buf_text(&text), NULL, 10);
	buf_free(&text);
	return n;
}

/* Two guests that talk sleep some ten thousand times a second each.  In a virtual machine a
 * processor that sleeps at once is woken by its host: docs/performance.md has what that costs. */
static void idle(struct checks *c)
{
	uint64_t ns = number_of("/sys/module/haltpoll/parameters/guest_halt_poll_ns");
	struct check_result *r;

	if (ns == UINT64_MAX)
		return;
	r = add(c, "idle");
	(void)str_format(r->detail, sizeof(r->detail),
		"haltpoll: processors look %llu ns for work before they sleep",
		(unsigned long long)ns);
	if (ns >= HALT_POLL_MIN)
		return;
	r->level = CHECK_WARN;
	r->remedy = "guests' networks are up to twice as fast with: "
		    "echo 200000 > /sys/module/haltpoll/parameters/guest_halt_poll_ns";
}

/* ---------------------------------------------------------------- underlay, files */

static void underlay(struct checks *c)
{
	struct check_result *r = add(c, "underlay");
	static struct agentconf copy;
	char ifname[OVERLAY_IFNAME], text[NET_ADDR_TEXT];
	struct err err = ERR_INIT;
	uint32_t mtu = 0, overhead;

	copy = *c->config;
	if (!copy.vtep.family && !copy.scheduler[0] && !copy.token[0]) {
		(void)str_copy(r->detail, sizeof(r->detail),
			"not looked at: no --vtep, and no cluster joined yet");
		if (agent_find_vtep(&copy, NULL) < 0)
			return;
	}
	if (agent_find_vtep(&copy, &err) < 0 ||
		overlay_underlay_mtu(&copy.vtep, &mtu, ifname, &err) < 0) {
		wrong(r, CHECK_FAIL, err_msg(&err),
			"the hosts reach each other at --vtep: give an address of this host");
		return;
	}
	overhead = overlay_overhead(&copy.vtep);
	(void)str_format(r->detail, sizeof(r->detail), "%s on %s, MTU %u: guests have %u",
		net_addr_text(text, &copy.vtep), ifname, mtu, mtu - overhead);
	if (mtu < 1280 + overhead) {
		r->level = CHECK_FAIL;
		r->remedy = "guests need an MTU of 1280 (IPv6): raise that of the underlay device";
	}
}

static void files(struct checks *c)
{
	struct check_result *r = add(c, "programs");
	static struct agentconf copy;
	struct err err = ERR_INIT;

	copy = *c->config;
	if (programs_find(&copy, &err) < 0)
		wrong(r, CHECK_FAIL, err_msg(&err), "build or install Umlaut completely");
	else
		(void)str_format(r->detail, sizeof(r->detail), "%s, %s", copy.runner, copy.init);
}

static void leftovers(struct checks *c)
{
	struct check_result *r = add(c, "leftovers");
	char path[PATH_MAX], then[40] = "", now[40];
	struct buf text;
	uint8_t boot[16];
	int lock = -1;
	struct err err = ERR_INIT;

	(void)str_copy(r->detail, sizeof(r->detail), "none");
	if (fs_join(path, sizeof(path), c->config->state, "boot_id", NULL) < 0 ||
		access(path, F_OK) < 0)
		return;
	if (access(c->config->state, W_OK) == 0 && agent_lock(c->config, &lock, &err) == -EBUSY) {
		(void)str_format(r->detail, sizeof(r->detail), "an agent is running on %s",
			c->config->state);
		return;
	}
	if (lock >= 0)
		(void)close(lock);
	buf_init(&text);
	if (fs_read(path, 39, &text, NULL) == 0)
		(void)str_copy(then, sizeof(then), buf_text(&text));
	buf_free(&text);
	if (proc_boot_id(boot, NULL) == 0)
		str_hex(now, boot, sizeof(boot));
	else
		now[0] = '\0';
	(void)str_format(r->detail, sizeof(r->detail),
		"%s was used %s; the next agent goes on with it", c->config->state,
		strcmp(then, now) == 0 ? "since the boot" : "before the boot");
}

/* ---------------------------------------------------------------- all */

size_t check_run(const struct agentconf *config, struct check_result out[CHECKS_MAX])
{
	struct checks c = {.config = config, .out = out};

	privileges(&c);
	try_all(&c);
	room(&c);
	limits(&c);
	idle(&c);
	underlay(&c);
	files(&c);
	leftovers(&c);
	return c.count;
}

static const char *const levels[] = {"ok", "warning", "missing"};

static void print_json(const struct check_result *list, size_t count, bool fine, FILE *out)
{
	struct buf text;
	struct json j;

	buf_init(&text);
	json_init(&j, &text, 2);
	json_object(&j, NULL);
	json_bool(&j, "ok", fine);
	json_array(&j, "checks");
	for (size_t i = 0; i < count; i++) {
		json_object(&j, NULL);
		json_str(&j, "name", list[i].name);
		json_str(&j, "result", levels[list[i].level]);
		json_str(&j, "detail", list[i].detail);
		json_str(&j, "remedy", list[i].remedy);
		json_end(&j);
	}
	json_end(&j);
	json_end(&j);
	(void)fprintf(out, "%s\n", buf_text(&text));
	buf_free(&text);
}

bool check_host(const struct agentconf *config, FILE *out)
{
	struct check_result list[CHECKS_MAX];
	size_t count = check_run(config, list);
	bool fine = true;

	for (size_t i = 0; i < count; i++)
		fine = fine && list[i].level != CHECK_FAIL;
	if (config->log_json) {
		print_json(list, count, fine, out);
		return fine;
	}
	for (size_t i = 0; i < count; i++) {
		if (config->quiet && list[i].level == CHECK_OK)
			continue;
		(void)fprintf(out, "%-8s %-12s %s\n", levels[list[i].level], list[i].name,
			list[i].detail);
		if (list[i].remedy)
			(void)fprintf(out, "%-8s %-12s remedy: %s\n", "", "", list[i].remedy);
	}
	return fine;
}
