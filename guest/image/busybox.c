#include "guest/image/busybox.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/image/ext4.h"
#include "lib/buf.h"
#include "lib/fs.h"
#include "lib/str.h"

#define PROGRAM_MAX (32u << 20)
#define LIST_MAX 65536

static const char *const dirs[] = {"bin", "dev", "etc", "etc/init.d", "etc/network", "home", "lib",
	"lib/modules", "mnt", "opt", "proc", "root", "run", "sbin", "srv", "sys", "tmp", "usr",
	"usr/bin", "usr/lib", "usr/local", "usr/local/bin", "usr/local/sbin", "usr/sbin",
	"usr/share", "usr/share/udhcpc", "var", "var/cache", "var/lib", "var/log", "var/spool",
	"var/spool/cron", "var/spool/cron/crontabs", "var/tmp", "var/www"};

#define DIRS (sizeof(dirs) / sizeof(dirs[0]))

struct text_file {
	const char *path;
	mode_t mode;
	const char *text;
};

static const struct text_file files[] = {
	{"etc/passwd", 0644,
		"root::0:0:root:/root:/bin/sh\n"
		"daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
		"bin:x:2:2:bin:/bin:/bin/false\n"
		"www-data:x:33:33:www-data:/var/www:/bin/false\n"
		"nobody:x:65534:65534:nobody:/:/bin/false\n"},
	{"etc/group", 0644,
		"root:x:0:\ndaemon:x:1:\nbin:x:2:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nwheel:x:10:root\n"
		"www-data:x:33:\nutmp:x:43:\nusers:x:100:\nnogroup:x:65534:\n"},
	{"etc/shadow", 0600,
		"root::19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\nbin:*:19000:0:99999:7:::\n"
		"www-data:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n"},
	{"etc/shells", 0644, "/bin/sh\n/bin/ash\n"},
	{"etc/hostname", 0644, "umlaut\n"},
	{"etc/hosts", 0644, ""},
	{"etc/host.conf", 0644, "multi on\n"},
	{"etc/nsswitch.conf", 0644,
		"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\n"
		"protocols: files\n"},
	{"etc/fstab", 0644,
		"# the root and the kernel's file systems are mounted by umlaut-init\n"},
	{"etc/issue", 0644, "Umlaut guest \\n\n"},
	{"etc/os-release", 0644,
		"NAME=\"Umlaut busybox\"\nID=umlaut-busybox\nPRETTY_NAME=\"Umlaut busybox\"\n"},
	{"etc/profile", 0644,
		"export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
		"export PS1='\\u@\\h:\\w\\$ '\n"
		"umask 022\n"
		"for f in /etc/profile.d/*.sh; do [ -r \"$f\" ] && . \"$f\"; done\n"
		"unset f\n"},
	{"etc/protocols", 0644,
		"ip 0 IP\nicmp 1 ICMP\nigmp 2 IGMP\ntcp 6 TCP\nudp 17 UDP\nipv6 41 IPv6\ngre 47 "
		"GRE\n"
		"esp 50 IPSEC-ESP\nah 51 IPSEC-AH\nipv6-icmp 58 IPv6-ICMP\nospf 89 OSPFIGP\n"
		"sctp 132 SCTP\n"},
	{"etc/services", 0644,
		"echo 7/tcp\necho 7/udp\ndiscard 9/tcp\ndiscard 9/udp\ndaytime 13/tcp\nftp-data "
		"20/tcp\n"
		"ftp 21/tcp\nssh 22/tcp\ntelnet 23/tcp\nsmtp 25/tcp\ntime 37/tcp\ndomain 53/tcp\n"
		"domain 53/udp\nbootps 67/udp\nbootpc 68/udp\ntftp 69/udp\nhttp 80/tcp\npop3 "
		"110/tcp\n"
		"ntp 123/udp\nimap2 143/tcp\nsnmp 161/udp\nbgp 179/tcp\nhttps 443/tcp\nsyslog "
		"514/udp\n"
		"iperf3 5201/tcp\nhttp-alt 8080/tcp\n"},
	{"etc/network/interfaces", 0644, "# configured by umlaut-init\n"},
	{"etc/inittab", 0644,
		"# busybox init.  Umlaut's console is tty0.\n"
		"::sysinit:/etc/init.d/rcS\n"
		"tty0::respawn:-/bin/sh\n"
		"::ctrlaltdel:/sbin/reboot\n"
		"::shutdown:/etc/init.d/rcK\n"},
	{"etc/init.d/rcS", 0755,
		"#!/bin/sh\n"
		"# Run once by init.  umlaut-init has mounted these already; elsewhere they are "
		"needed.\n"
		"m() { grep -q \" $2 \" /proc/mounts || mount -t \"$1\" \"$1\" \"$2\"; }\n"
		"[ -e /proc/mounts ] || mount -t proc proc /proc\n"
		"m sysfs /sys\n"
		"m devtmpfs /dev\n"
		"mkdir -p /dev/pts /dev/shm\n"
		"m devpts /dev/pts\n"
		"m tmpfs /run\n"
		"mkdir -p /run/lock /var/lock\n"
		"for s in /etc/init.d/S*; do [ -x \"$s\" ] && \"$s\" start; done\n"
		"exit 0\n"},
	{"etc/init.d/rcK", 0755,
		"#!/bin/sh\n"
		"# Run by init before it ends all processes.\n"
		"for s in /etc/init.d/S*; do [ -x \"$s\" ] && \"$s\" stop; done\n"
		"exit 0\n"},
	{"usr/share/udhcpc/default.script", 0755,
		"#!/bin/sh\n"
		"# For those who start udhcpc themselves.\n"
		"case $1 in\n"
		"deconfig) ip addr flush dev \"$interface\"; ip link set \"$interface\" up ;;\n"
		"bound | renew)\n"
		"\tip addr add \"$ip/${mask:-24}\" dev \"$interface\"\n"
		"\tfor r in $router; do ip route add default via \"$r\" dev \"$interface\"; done\n"
		"\tfor d in $dns; do echo \"nameserver $d\"; done > /etc/resolv.conf\n"
		"\t;;\n"
		"esac\n"
		"exit 0\n"},
};

static const struct {
	const char *path, *target;
} links[] = {
	{"var/run", "../run"},
	{"var/lock", "../run/lock"},
	{"etc/mtab", "../proc/self/mounts"},
	{"lib64", "lib"},
};

/* Applets that must not be had from busybox: a shell that took them for a program of
 * the same name would go wrong. */
static const char *const left_out[] = {"busybox", "linuxrc", "dpkg", "dpkg-deb", "rpm", "rpm2cpio"};

/* Runs `PROGRAM --list-full` and takes its output: one path a line. */
static int list_applets(const char *program, struct buf *out, struct err *err)
{
	union {
		const char *c;
		char *p;
	} name = {.c = program}, option = {.c = "--list-full"};
	char *argv[] = {name.p, option.p, NULL};
	char *envp[] = {NULL};
	int fds[2], status = 0;
	ssize_t n = 1;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		return err_errno(err, errno, "pipe");
	pid = fork();
	if (pid == 0) {
		if (dup2(fds[1], 1) >= 0)
			(void)execve(program, argv, envp);
		_exit(127);
	}
	close(fds[1]);
	out->limit = LIST_MAX;
	while (pid > 0 && n > 0 && buf_reserve(out, 4096)) {
		n = read(fds[0], out->data + out->size, 4096);
		out->size += n > 0 ? (size_t)n : 0;
	}
	close(fds[0]);
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return err_errno(err, errno, "run %s", program);
	if (status != 0 || out->failed || out->size == 0)
		return err_set(
			err, -EINVAL, "%s --list-full gives no list: is it busybox?", program);
	return 0;
}

/* A dynamic one would find no libraries in the image. */
static int check_static(const char *program, const struct buf *elf, struct err *err)
{
	const Elf64_Ehdr *head = (const Elf64_Ehdr *)(const void *)elf->data;
	Elf64_Phdr phdr;
	size_t i;

	if (elf->size < sizeof(*head) || memcmp(head->e_ident, ELFMAG, SELFMAG) != 0 ||
		head->e_phoff > elf->size ||
		head->e_phnum * sizeof(phdr) > elf->size - head->e_phoff)
		return err_set(err, -ENOEXEC, "%s is not a program", program);
	for (i = 0; i < head->e_phnum; i++) {
		memcpy(&phdr, elf->data + head->e_phoff + i * sizeof(phdr), sizeof(phdr));
		if (phdr.p_type == PT_INTERP)
			return err_set(err, -ENOEXEC,
				"%s is not statically linked: install busybox-static", program);
	}
	return 0;
}

static int fixed_times(int dir, const char *path)
{
	struct timespec times[2] = {{.tv_sec = EXT4_TIME}, {.tv_sec = EXT4_TIME}};

	return utimensat(dir, path, times, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

static int put_file(
	int dir, const char *path, mode_t mode, const void *data, size_t size, struct err *err)
{
	int fd = openat(dir, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	const uint8_t *p = data;
	int rc = 0;

	if (fd < 0)
		return err_errno(err, errno, "%s", path);
	while (rc == 0 && size > 0) {
		ssize_t n = write(fd, p, size);

		if (n < 0 && errno != EINTR)
			rc = err_errno(err, errno, "%s", path);
		p += n > 0 ? n : 0;
		size -= n > 0 ? (size_t)n : 0;
	}
	if (rc == 0 && fchmod(fd, mode))
		rc = err_errno(err, errno, "%s", path);
	close(fd);
	return rc ? rc : fixed_times(dir, path);
}

static int put_link(int dir, const char *path, const char *target, struct err *err)
{
	if (symlinkat(target, dir, path) && errno != EEXIST)
		return err_errno(err, errno, "%s", path);
	return fixed_times(dir, path);
}

static bool is_left_out(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(left_out) / sizeof(left_out[0]); i++)
		if (strcmp(left_out[i], name) == 0)
			return true;
	return false;
}

/* LINE: "bin/ls", "usr/bin/awk".  An absolute link works from everywhere. */
static int put_applet(int dir, const char *line, struct err *err)
{
	const char *name = strrchr(line, '/');

	name = name ? name + 1 : line;
	if (!*name || is_left_out(name) || strstr(line, "..") || *line == '/')
		return 0;
	if (!str_starts(line, "bin/") && !str_starts(line, "sbin/") &&
		!str_starts(line, "usr/bin/") && !str_starts(line, "usr/sbin/"))
		return 0;
	return put_link(dir, line, "/bin/busybox", err);
}

static int put_applets(int dir, const char *program, struct err *err)
{
	struct buf list;
	char *line, *next;
	int rc;

	buf_init(&list);
	rc = list_applets(program, &list, err);
	if (!rc)
		(void)buf_text(&list);
	for (line = (char *)list.data; rc == 0 && line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		rc = put_applet(dir, line, err);
	}
	buf_free(&list);
	return rc;
}

static int put_all(int dir, const char *program, const struct buf *elf, struct err *err)
{
	size_t i;
	int rc;

	for (i = 0; i < DIRS; i++)
		if (mkdirat(dir, dirs[i], 0755) || fchmodat(dir, dirs[i], 0755, 0))
			return err_errno(err, errno, "%s", dirs[i]);
	if (fchmodat(dir, "tmp", 01777, 0) || fchmodat(dir, "var/tmp", 01777, 0) ||
		fchmodat(dir, "root", 0700, 0))
		return err_errno(err, errno, "modes of folders");
	rc = put_file(dir, "bin/busybox", 0755, elf->data, elf->size, err);
	for (i = 0; rc == 0 && i < sizeof(files) / sizeof(files[0]); i++)
		rc = put_file(dir, files[i].path, files[i].mode, files[i].text,
			strlen(files[i].text), err);
	for (i = 0; rc == 0 && i < sizeof(links) / sizeof(links[0]); i++)
		rc = put_link(dir, links[i].path, links[i].target, err);
	if (!rc)
		rc = put_applets(dir, program, err);
	/* Folders last, the inner ones first: what is made in them changes their times. */
	for (i = 0; rc == 0 && i < DIRS; i++)
		rc = fixed_times(dir, dirs[DIRS - 1 - i]);
	return rc;
}

int busybox_tree(const char *program, const char *path, struct err *err)
{
	struct buf elf;
	int dir, rc;

	program = program ? program : BUSYBOX_PROGRAM;
	buf_init(&elf);
	rc = fs_read(program, PROGRAM_MAX, &elf, err);
	if (rc == -ENOENT) {
		buf_free(&elf);
		return err_set(err, rc, "%s is not there: install busybox-static", program);
	}
	if (!rc)
		rc = check_static(program, &elf, err);
	if (rc) {
		buf_free(&elf);
		return rc;
	}
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		rc = err_errno(err, errno, "folder %s", path);
	else
		rc = put_all(dir, program, &elf, err);
	if (dir >= 0)
		close(dir);
	buf_free(&elf);
	return rc;
}

/* In memory where possible: fast, and its order of entries depends on nothing else. */
static int make_stage(char path[PATH_MAX], struct err *err)
{
	const char *tmp = getenv("TMPDIR");
	const char *const roots[] = {"/dev/shm", tmp && *tmp == '/' ? tmp : "/tmp", "/tmp"};
	size_t i;

	for (i = 0; i < sizeof(roots) / sizeof(roots[0]); i++)
		if (str_format(path, PATH_MAX, "%s/umlaut-image.%d.XXXXXX", roots[i],
			    (int)getpid()) > 0 &&
			mkdtemp(path))
			return 0;
	return err_errno(err, errno, "temporary folder %s", path);
}

int busybox_build(const char *program, uint64_t size, const char *out, struct err *err)
{
	char stage[PATH_MAX];
	struct ext4_spec spec = {.tree = stage,
		.out = out,
		.size = size ? size : BUSYBOX_SIZE,
		.label = "umlaut-busybox"};
	int rc = make_stage(stage, err);

	if (rc)
		return rc;
	rc = busybox_tree(program, stage, err);
	if (!rc)
		rc = ext4_build(&spec, err);
	(void)fs_remove_tree(stage, NULL);
	return rc ? err_wrap(err, "busybox image") : 0;
}
