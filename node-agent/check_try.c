/* What is tried for real, each in a process of its own. */
#include "node-agent/check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include "guest/cgroup.h"
#include "lib/proc.h"
#include "node-agent/nl.h"
#include "node-agent/overlay.h"

#define TRY_MS 15000
#define DIR_IN_TMP "/tmp/umlaut-check"

/* ---------------------------------------------------------------- the child */

static int isolate(struct err *err)
{
	if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
		return err_errno(err, errno, "make namespaces");
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_errno(err, errno, "make mounts private");
	/* What is made below /tmp is made here, and gone with us. */
	if (mount("umlaut", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=16m") < 0)
		return err_errno(err, errno, "mount a tmpfs");
	return 0;
}

static void child(check_fn *fn, const struct agentconf *config, bool private, int out)
{
	struct err err = ERR_INIT;
	int rc;

	(void)setpgid(0, 0);
	rc = private ? isolate(&err) : 0;
	if (rc == 0)
		rc = fn(config, &err);
	err.code = rc < 0 ? rc : 0;
	_exit(write(out, &err, sizeof(err)) == sizeof(err) ? 0 : 1);
}

static int hear(int fd, pid_t pid, struct err *err)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t end = proc_mono_ms() + TRY_MS, now;
	struct err got = ERR_INIT;
	int n = 0, status = 0;

	while ((now = proc_mono_ms()) < end) {
		n = poll(&p, 1, (int)(end - now));
		if (n >= 0 || errno != EINTR)
			break;
	}
	if (n <= 0)
		(void)kill(-pid, SIGKILL);
	if (n > 0 && read(fd, &got, sizeof(got)) != sizeof(got))
		n = -1;
	(void)kill(-pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	got.msg[sizeof(got.msg) - 1] = '\0';
	if (n == 0)
		return err_set(err, -ETIMEDOUT, "it hangs");
	if (n < 0)
		return err_set(err, -EIO, "it died");
	return got.code < 0 ? err_set(err, got.code, "%s", got.msg) : 0;
}

int check_try(check_fn *fn, const struct agentconf *config, bool private, struct err *err)
{
	int fds[2], rc = 0;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_errno(err, errno, "pipe");
	pid = fork();
	if (pid < 0)
		rc = err_errno(err, errno, "fork");
	if (pid == 0)
		child(fn, config, private, fds[1]);
	(void)close(fds[1]);
	if (pid > 0)
		rc = hear(fds[0], pid, err);
	(void)close(fds[0]);
	return rc;
}

/* ---------------------------------------------------------------- namespaces */

int check_namespaces(const struct agentconf *config, struct err *err)
{
	int status = 0;
	pid_t pid;

	(void)config;
	if (unshare(CLONE_NEWPID) < 0)
		return err_errno(err, errno, "make a PID namespace");
	pid = fork();
	if (pid == 0)
		_exit(getpid() == 1 ? 0 : 1);
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || status)
		return err_set(err, -EPERM, "no process starts in a PID namespace");
	return 0;
}

/* ---------------------------------------------------------------- network */

static int make_tap(struct err *err)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC), rc = 0;

	if (fd < 0)
		return err_errno(err, errno, "open /dev/net/tun");
	memcpy(ifr.ifr_name, "umlautcheck", sizeof("umlautcheck"));
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		rc = err_errno(err, errno, "make a tap");
	(void)close(fd);
	return rc;
}

int check_tun(const struct agentconf *config, struct err *err)
{
	(void)config;
	return make_tap(err);
}

/* `ip link add umlautcheck type KIND`, in our own network namespace. */
static int make_link(const char *kind, struct err *err)
{
	struct nl *nl = NULL;
	struct nlmsghdr *msg;
	struct nlattr *info, *data;
	int rc = nl_open(-1, &nl, err);

	if (rc < 0)
		return rc;
	msg = nl_add(nl, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifinfomsg), 0);
	mnl_attr_put_strz(msg, IFLA_IFNAME, "umlautcheck");
	info = mnl_attr_nest_start(msg, IFLA_LINKINFO);
	mnl_attr_put_strz(msg, IFLA_INFO_KIND, kind);
	if (strcmp(kind, "vxlan") == 0) {
		data = mnl_attr_nest_start(msg, IFLA_INFO_DATA);
		mnl_attr_put_u32(msg, IFLA_VXLAN_ID, 1);
		mnl_attr_put_u16(msg, IFLA_VXLAN_PORT, htons(4789));
		mnl_attr_nest_end(msg, data);
	}
	mnl_attr_nest_end(msg, info);
	rc = nl_commit(nl, err);
	nl_close(nl);
	return rc < 0 ? err_wrap(err, "make a %s", kind) : 0;
}

int check_bridge(const struct agentconf *config, struct err *err)
{
	(void)config;
	return make_link("bridge", err);
}

int check_vxlan(const struct agentconf *config, struct err *err)
{
	(void)config;
	return make_link("vxlan", err);
}

static int loopback_up(struct err *err)
{
	struct ifreq ifr = {.ifr_flags = IFF_UP};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), rc = 0;

	if (fd < 0)
		return err_errno(err, errno, "socket");
	memcpy(ifr.ifr_name, "lo", 3);
	if (ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
		rc = err_errno(err, errno, "bring up lo");
	(void)close(fd);
	return rc;
}

/* The whole of a network with one port, as guests have it. */
int check_overlay(const struct agentconf *config, struct err *err)
{
	struct overlay_config oc = {.netns_path = DIR_IN_TMP, .vtep = {.family = 4}};
	struct overlay_member member = {.mac = {{0x02, 0, 0, 0, 0, 1}}};
	struct overlay *ov = NULL;
	char ifname[OVERLAY_IFNAME];
	int rc = loopback_up(err);

	(void)net_addr_parse("127.0.0.1", &oc.vtep, NULL);
	(void)net_addr_parse("10.0.0.1", &member.ip4, NULL);
	if (rc == 0)
		rc = overlay_open(&oc, &ov, err);
	if (rc == 0)
		rc = overlay_net(ov, 1, "check/check", 1400, err);
	if (rc == 0)
		rc = overlay_members(ov, 1, true, NULL, 0, NULL, 0, err);
	if (rc == 0)
		rc = overlay_port(ov, 1, 0, 0, config->uid_base, &member, ifname, err);
	overlay_close(ov);
	(void)overlay_purge(DIR_IN_TMP, NULL);
	return rc;
}

/* ---------------------------------------------------------------- memory, processes */

/* A tmpfs that programs may be mapped from, as the jail gives to a kernel. */
int check_tmpfs(const struct agentconf *config, struct err *err)
{
	void *map;
	int fd, rc = 0;

	(void)config;
	fd = open("/tmp/umlaut-check", O_RDWR | O_CREAT | O_CLOEXEC, 0700);
	if (fd < 0)
		return err_errno(err, errno, "make a file on a tmpfs");
	if (ftruncate(fd, 1 << 20) < 0)
		rc = err_errno(err, errno, "grow a file on a tmpfs");
	map = rc == 0 ? mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, fd, 0)
		      : MAP_FAILED;
	if (rc == 0 && map == MAP_FAILED)
		rc = err_errno(err, errno, "map a program from a tmpfs");
	else if (rc == 0)
		(void)munmap(map, 1 << 20);
	(void)close(fd);
	return rc;
}

/* A user's process may trace its own child: user-mode Linux lives of that. */
int check_ptrace(const struct agentconf *config, struct err *err)
{
	int status = 0;
	pid_t pid;

	if (setgid(config->uid_base) < 0 || setuid(config->uid_base) < 0)
		return err_errno(err, errno, "become user %u", (unsigned)config->uid_base);
	pid = fork();
	if (pid == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(1);
		(void)raise(SIGSTOP);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, WUNTRACED) < 0)
		return err_errno(err, errno, "start a process");
	if (!WIFSTOPPED(status))
		return err_set(err, -EPERM, "a process may not be traced");
	if (ptrace(PTRACE_SYSCALL, pid, NULL, NULL) < 0 || waitpid(pid, &status, 0) < 0 ||
		!WIFSTOPPED(status))
		return err_errno(err, errno, "stop a process at a system call");
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, &status, 0);
	return 0;
}

int check_cgroup(const struct agentconf *config, struct err *err)
{
	const struct cgroup_limits limits = {
		.memory_bytes = 64 << 20, .cpu_milli = 1000, .pids_max = 64};
	struct cgroup_host *host = NULL;
	struct cgroup *cg = NULL;
	char name[64], missing[160] = "";
	int rc = cgroup_probe(NULL, 0, &host, err);

	(void)config;
	if (rc < 0)
		return rc;
	for (int i = 0; i < CGROUP_CONTROLLERS; i++) {
		size_t size = strlen(missing);

		if (cgroup_missing(host, (enum cgroup_controller)i))
			(void)str_format(missing + size, sizeof(missing) - size, "%s%s",
				size ? ", " : "",
				cgroup_controller_name((enum cgroup_controller)i));
	}
	(void)str_format(name, sizeof(name), "check-%d", (int)getpid());
	rc = cgroup_create(host, name, &limits, &cg, err);
	if (rc == 0)
		rc = cgroup_remove(cg, err);
	cgroup_free(cg);
	cgroup_host_free(host);
	if (rc == 0 && missing[0])
		rc = err_set(err, -ENODEV, "this host has no control over: %s", missing);
	return rc;
}
