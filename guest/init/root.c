#include "guest/init/root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "guest/init/sys.h"
#include "lib/str.h"

#define NEW_ROOT "/root"

/* ext4's on-disk superblock, as far as growing needs it; fs/ext4/ext4.h. */
#define EXT4_SUPER_OFFSET 1024
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)

/* A reboot inside the guest starts its kernel again in the same process, and on a busy host
 * that is quicker than the death of its processes, which share its files and so keep the lock
 * on the disk's. */
#define LOCKED_MS 20000
#define LOCKED_AGAIN_MS 50

static int try_mount(const char *device, const char *type, unsigned long flags)
{
	uint64_t end = sys_uptime_ms() + LOCKED_MS;
	int rc;

	while ((rc = mount(device, NEW_ROOT, type, flags, NULL) ? -errno : 0) == -EAGAIN &&
		sys_uptime_ms() < end)
		(void)poll(NULL, 0, LOCKED_AGAIN_MS);
	return rc;
}

/* Every block file system the kernel knows, ext4 first. */
static int mount_any(const char *device, struct err *err)
{
	char list[4096], tried[512] = "ext4";
	char *line = list, *next;
	int rc = try_mount(device, "ext4", 0);

	if (rc == 0)
		return 0;
	if (rc == -ENOENT || rc == -ENXIO || rc == -ENOTBLK || rc == -EAGAIN)
		return err_errno(err, rc, "root device %s", device);
	if (sys_read("/proc/filesystems", list, sizeof(list)) < 0)
		list[0] = '\0';
	for (; line && *line; line = next) {
		size_t used = strlen(tried);

		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		if (*line != '\t' || strcmp(line + 1, "ext4") == 0)
			continue;
		line++;
		if (try_mount(device, line, 0) == 0)
			return 0;
		(void)snprintf(tried + used, sizeof(tried) - used, ", %s", line);
	}
	return err_set(err, -EINVAL, "root device %s: no file system the kernel knows (tried %s)",
		device, tried);
}

static int mount_root(const Um__GuestConfig *c, struct err *err)
{
	int rc;

	(void)mkdir(NEW_ROOT, 0755);
	if (!*c->root_fstype)
		return mount_any(c->root_device, err);
	rc = try_mount(c->root_device, c->root_fstype, 0);
	if (rc)
		return err_errno(err, rc, "root device %s as %s", c->root_device, c->root_fstype);
	return 0;
}

/* A disk made larger than its image: ext4 grows while mounted.  Best effort: the
 * guest works without. */
static void grow_root(const char *device)
{
	uint64_t size = 0, blocks;
	uint8_t super[256];
	uint32_t count, log_size;
	uint16_t magic;
	int dev = open(device, O_RDONLY | O_CLOEXEC);
	int dir = -1;

	if (dev < 0 || ioctl(dev, BLKGETSIZE64, &size) ||
		pread(dev, super, sizeof(super), EXT4_SUPER_OFFSET) != (ssize_t)sizeof(super))
		goto out;
	memcpy(&magic, super + 0x38, 2);
	memcpy(&count, super + 0x4, 4);
	memcpy(&log_size, super + 0x18, 4);
	if (magic != EXT4_SUPER_MAGIC || log_size > 6)
		goto out;
	blocks = size >> (10 + log_size);
	/* Less than a block group is not worth the trouble. */
	if (blocks < (uint64_t)count + 1024)
		goto out;
	dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || ioctl(dir, EXT4_IOC_RESIZE_FS, &blocks))
		sys_log("the root file system stays at %u blocks: %s", count, strerror(errno));
out:
	if (dir >= 0)
		close(dir);
	if (dev >= 0)
		close(dev);
}

static void free_initramfs(void)
{
	static const char *const files[] = {"/init", "/dev/console", "/dev/null", "/dev/tty1"};
	static const char *const dirs[] = {"/dev", "/proc", "/sys"};
	struct statfs fs;
	size_t i;

	/* Only ever in a file system of memory. */
	if (statfs("/", &fs) || (fs.f_type != RAMFS_MAGIC && fs.f_type != TMPFS_MAGIC))
		return;
	for (i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		(void)unlink(files[i]);
	for (i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
		(void)rmdir(dirs[i]);
}

static int switch_root(struct err *err)
{
	if (chdir(NEW_ROOT))
		return err_errno(err, errno, "enter the root file system");
	(void)umount2("/proc", MNT_DETACH);
	(void)umount2("/dev", MNT_DETACH);
	free_initramfs();
	if (mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		return err_errno(err, errno, "make the root file system /");
	return 0;
}

static int mount_modules(const char *device, struct err *err)
{
	struct utsname uts;
	char path[128];

	if (!*device)
		return 0;
	(void)uname(&uts);
	if (str_format(path, sizeof(path), "/lib/modules/%s", uts.release) < 0)
		return err_set(err, -ENAMETOOLONG, "kernel release '%s'", uts.release);
	return sys_mount(device, path, "ext4", MS_RDONLY | MS_NODEV | MS_NOSUID, NULL, err);
}

int root_enter(const Um__GuestConfig *c, struct err *err)
{
	const unsigned long plain = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	int rc = mount_root(c, err);

	if (!rc)
		rc = switch_root(err);
	if (!rc)
		rc = sys_mount("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=0755", err);
	if (!rc)
		rc = sys_mount("proc", "/proc", "proc", plain, NULL, err);
	if (!rc)
		rc = sys_mount("sys", "/sys", "sysfs", plain, NULL, err);
	if (!rc)
		rc = sys_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
			"mode=0620,gid=5,ptmxmode=0666", err);
	if (!rc)
		rc = sys_mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777", err);
	if (!rc)
		rc = sys_mount("run", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755", err);
	if (!rc)
		rc = mount_modules(c->modules_device, err);
	if (rc)
		return rc;
	if (mkdir("/tmp", 01777) == 0)
		(void)chmod("/tmp", 01777);
	(void)!symlink("/proc/self/fd", "/dev/fd");
	(void)!symlink("/proc/self/fd/0", "/dev/stdin");
	(void)!symlink("/proc/self/fd/1", "/dev/stdout");
	(void)!symlink("/proc/self/fd/2", "/dev/stderr");
	grow_root(c->root_device);
	return 0;
}
