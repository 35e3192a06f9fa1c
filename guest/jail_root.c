#include "guest/jail_int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/str.h"

/* Made anew, for everyone to open, whatever the host's modes are (a host without
 * udev has /dev/net/tun for root alone; a tap's owner may attach to it anyhow). */
static const char *const devices[] = {
	"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/net/tun"};

/* What a PID namespace's own /proc still shows of the host.  UML reads cpuinfo
 * (features) at its start and needs no more; the rest is covered where it exists. */
static const char *const proc_dirs[] = {"acpi", "asound", "bus", "driver", "dynamic_debug", "fs",
	"irq", "pressure", "scsi", "sys", "sysvipc", "tty"};
static const char *const proc_files[] = {"buddyinfo", "cmdline", "config.gz", "consoles",
	"diskstats", "interrupts", "iomem", "ioports", "kallsyms", "kcore", "key-users", "keys",
	"kmsg", "kpagecgroup", "kpagecount", "kpageflags", "latency_stats", "locks", "mdstat",
	"modules", "mtrr", "pagetypeinfo", "partitions", "sched_debug", "schedstat", "slabinfo",
	"softirqs", "swaps", "sysrq-trigger", "timer_list", "timer_stats", "vmallocinfo",
	"zoneinfo"};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* PATH below the working directory, which is the new root: "/dev/net/tun" is
 * "dev/net/tun".  Makes the parents. */
static int make_parents(const char *path, struct err *err)
{
	char part[PATH_MAX];
	char *slash;

	if (path[0] != '/' || strstr(path, "/../") || str_copy(part, sizeof(part), path + 1) < 0)
		return err_set(err, -EINVAL, "jail: '%s' is not a path for it", path);
	for (slash = strchr(part, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return err_errno(err, errno, "jail: make folder /%s", part);
		*slash = '/';
	}
	return 0;
}

/* An empty file or folder at TARGET to mount on. */
static int make_point(const char *target, bool folder, struct err *err)
{
	int rc = make_parents(target, err), fd;

	if (rc < 0)
		return rc;
	if (folder)
		return mkdir(target + 1, 0755) < 0 && errno != EEXIST
			       ? err_errno(err, errno, "jail: make folder %s", target)
			       : 0;
	fd = open(target + 1, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0444);
	if (fd < 0)
		return err_errno(err, errno, "jail: make file %s", target);
	(void)close(fd);
	return 0;
}

static int bind(const char *source, const char *target, unsigned long flags, struct err *err)
{
	struct stat st;
	int rc;

	if (stat(source, &st) < 0)
		return err_errno(err, errno, "jail: %s", source);
	rc = make_point(target, S_ISDIR(st.st_mode), err);
	if (rc < 0)
		return rc;
	if (mount(source, target + 1, NULL, MS_BIND, NULL) < 0)
		return err_errno(err, errno, "jail: bind %s to %s", source, target);
	/* A bind mount takes its flags in a second step only. */
	if (mount(NULL, target + 1, NULL, MS_BIND | MS_REMOUNT | flags, NULL) < 0)
		return err_errno(err, errno, "jail: restrict %s", target);
	return 0;
}

static int mount_new(const char *type, const char *target, unsigned long flags, const char *options,
	struct err *err)
{
	int rc = make_point(target, true, err);

	if (rc < 0)
		return rc;
	if (mount(type, target + 1, type, flags, options) < 0)
		return err_errno(err, errno, "jail: mount %s on %s", type, target);
	return 0;
}

static int mount_proc(struct err *err)
{
	char path[64];
	size_t i;
	int rc;

	rc = mount_new("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, err);
	for (i = 0; rc >= 0 && i < COUNT(proc_dirs); i++) {
		(void)str_format(path, sizeof(path), "proc/%s", proc_dirs[i]);
		if (mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
			    "size=4k,nr_inodes=2,mode=555") < 0 &&
			errno != ENOENT && errno != ENOTDIR)
			rc = err_errno(err, errno, "jail: cover /%s", path);
	}
	for (i = 0; rc >= 0 && i < COUNT(proc_files); i++) {
		(void)str_format(path, sizeof(path), "proc/%s", proc_files[i]);
		if (mount("dev/null", path, NULL, MS_BIND, NULL) < 0 && errno != ENOENT)
			rc = err_errno(err, errno, "jail: cover /%s", path);
	}
	return rc;
}

/* A host that lets nobody make nodes (a device cgroup) has its own shown. */
static int make_device(const char *path, struct err *err)
{
	struct stat st;
	int rc;

	if (stat(path, &st) < 0)
		return errno == ENOENT && strcmp(path, "/dev/net/tun") == 0
			       ? 0 /* no NICs then: the agent's check tells */
			       : err_errno(err, errno, "jail: %s", path);
	rc = make_parents(path, err);
	if (rc < 0)
		return rc;
	if (mknod(path + 1, S_IFCHR | 0666, st.st_rdev) < 0) {
		if (errno != EPERM)
			return err_errno(err, errno, "jail: make %s", path);
		return bind(path, path, MS_NOSUID | MS_NOEXEC, err);
	}
	/* The umask had its say. */
	return chmod(path + 1, 0666) < 0 ? err_errno(err, errno, "jail: make %s", path) : 0;
}

static int mount_dev(struct err *err)
{
	size_t i;
	int rc = mount_new(
		"tmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "size=16k,nr_inodes=32,mode=755", err);

	for (i = 0; rc >= 0 && i < COUNT(devices); i++)
		rc = make_device(devices[i], err);
	if (rc >= 0 && mount(NULL, "dev", NULL,
			       MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL) < 0)
		rc = err_errno(err, errno, "jail: restrict /dev");
	return rc;
}

static int mount_all(const struct jail_spec *spec, struct err *err)
{
	char options[128];
	size_t i;
	int rc = mount_dev(err);

	if (rc >= 0)
		rc = mount_proc(err);
	if (rc >= 0) {
		(void)str_format(options, sizeof(options),
			"size=%" PRIu64 ",nr_inodes=256,mode=700,uid=%u,gid=%u", spec->tmp_bytes,
			(unsigned)spec->uid, (unsigned)spec->gid);
		/* Without noexec: UML executes from its RAM file here. */
		rc = mount_new("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, options, err);
	}
	for (i = 0; rc >= 0 && i < spec->mount_count; i++) {
		const struct jail_mount *m = &spec->mounts[i];

		rc = bind(m->source, m->target,
			MS_NOSUID | MS_NODEV | (m->writable ? MS_NOEXEC : MS_RDONLY), err);
	}
	return rc;
}

/* Nothing we mount may spread to the host, nor the host's later mounts to us. */
static int make_private(struct err *err)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_errno(err, errno, "jail: make mounts private");
	return 0;
}

int jail_root_proc(struct err *err)
{
	int rc = make_private(err);

	if (rc < 0)
		return rc;
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return err_errno(err, errno, "jail: mount /proc");
	return chdir("/") < 0 ? err_errno(err, errno, "jail: enter /") : 0;
}

int jail_root_enter(const struct jail_spec *spec, struct err *err)
{
	int rc = make_private(err);

	if (rc < 0)
		return rc;
	if (mount("umlaut-jail", spec->root, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
		    "size=64k,nr_inodes=256,mode=755") < 0)
		return err_errno(err, errno, "jail: mount tmpfs on %s", spec->root);
	if (chdir(spec->root) < 0)
		return err_errno(err, errno, "jail: enter %s", spec->root);
	rc = mount_all(spec, err);
	if (rc < 0)
		return rc;
	/* pivot_root(2), "pivot_root(".", ".")": the old root is stacked on the new
	 * one and taken off from there. */
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		return err_errno(err, errno, "jail: pivot_root");
	if (umount2(".", MNT_DETACH) < 0)
		return err_errno(err, errno, "jail: unmount the host's root");
	if (chdir("/") < 0)
		return err_errno(err, errno, "jail: enter /");
	if (mount(NULL, "/", NULL,
		    MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return err_errno(err, errno, "jail: make / read-only");
	return 0;
}
