#include "guest/runner/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "guest/cmdline.h"
#include "guest/kernelinfo.h"
#include "guest/runner/bulk.h"
#include "guest/runnerdir.h"
#include "lib/fs.h"
#include "lib/log.h"
#include "lib/str.h"

#define MIB (1u << 20)
#define UMID "g"
#define MOUNTS_MAX (8 + KERNELINFO_FILES_MAX)
/* Where the kernel finds its lines.  0..2 are /dev/null. */
#define CONSOLE_AT 3
#define LINE_AT 4
#define BULK_AT 5
#define BULK_PATH "/proc/self/fd/5"

static bool is_none(const Um__RunnerSpec *spec)
{
	return strcmp(spec->isolation, "none") == 0;
}

/* ---------------------------------------------------------------- checks */

static int check_file(const char *what, const char *path, bool optional, struct err *err)
{
	struct stat st;

	if (!path[0] && optional)
		return 0;
	if (path[0] != '/')
		return err_set(err, -EINVAL, "%s: '%s' is not an absolute path", what, path);
	if (stat(path, &st) < 0)
		return err_errno(err, errno, "%s %s", what, path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s %s is not a file", what, path);
	return 0;
}

static int check_owner(const Um__RunnerSpec *spec, struct err *err)
{
	struct stat st;

	if (is_none(spec))
		return 0;
	if (spec->jail_uid == 0)
		return err_set(err, -EINVAL, "jail_uid 0: a guest needs a user of its own");
	if (stat(spec->cow, &st) < 0)
		return err_errno(err, errno, "disk %s", spec->cow);
	if (st.st_uid != spec->jail_uid || !(st.st_mode & S_IWUSR))
		return err_set(err, -EACCES,
			"disk %s belongs to user %u, the guest runs as user %u", spec->cow,
			(unsigned)st.st_uid, spec->jail_uid);
	return 0;
}

int boot_check(const Um__RunnerSpec *spec, struct err *err)
{
	int rc;

	if (spec->uid == 0 || !spec->config)
		return err_set(err, -EINVAL, "runner.pb: no guest in it");
	if (spec->isolation[0] && strcmp(spec->isolation, "jail") != 0 && !is_none(spec))
		return err_set(
			err, -EINVAL, "isolation '%s': expected 'jail' or 'none'", spec->isolation);
	if (spec->n_taps > CMDLINE_NICS_MAX)
		return err_set(
			err, -EINVAL, "%zu taps, at most %d", spec->n_taps, CMDLINE_NICS_MAX);
	rc = check_file("kernel", spec->kernel, false, err);
	if (rc >= 0)
		rc = check_file("initrd", spec->initrd, true, err);
	if (rc >= 0)
		rc = check_file("image", spec->backing, true, err);
	if (rc >= 0)
		rc = check_file("modules", spec->modules, true, err);
	if (rc >= 0)
		rc = check_file("disk", spec->cow, false, err);
	return rc < 0 ? rc : check_owner(spec, err);
}

/* ---------------------------------------------------------------- folders */

static int make_dir(const char *dir, const char *name, mode_t mode, uid_t uid, struct err *err)
{
	char path[PATH_MAX];
	int rc = fs_join(path, sizeof(path), dir, name, err);

	if (rc < 0)
		return rc;
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return err_errno(err, errno, "make %s", path);
	/* The umask had its say in mkdir(). */
	if (chown(path, uid, uid) < 0 || chmod(path, mode) < 0)
		return err_errno(err, errno, "own %s", path);
	return 0;
}

void boot_remove_dirs(const char *dir)
{
	static const char *const names[] = {RUNNERDIR_UML, RUNNERDIR_REPLY, RUNNERDIR_ROOT};
	char path[PATH_MAX];
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (fs_join(path, sizeof(path), dir, names[i], NULL) >= 0)
			(void)fs_remove_tree(path, NULL);
}

static int make_dirs(const Um__RunnerSpec *spec, const char *dir, struct err *err)
{
	uid_t uid = is_none(spec) ? geteuid() : spec->jail_uid;
	int rc;

	boot_remove_dirs(dir); /* of an earlier kernel */
	rc = make_dir(dir, RUNNERDIR_UML, 0700, uid, err);
	if (rc >= 0)
		rc = make_dir(dir, RUNNERDIR_REPLY, 0711, geteuid(), err);
	if (rc >= 0)
		rc = make_dir(dir, RUNNERDIR_ROOT, 0700, geteuid(), err);
	return rc;
}

int boot_mconsole_paths(const Um__RunnerSpec *spec, const char *dir, char *socket, char *reply,
	size_t size, struct err *err)
{
	/* In the jail its root shows these two folders of DIR; without, it is "/". */
	const char *below = is_none(spec) ? dir + 1 : "";
	const char *slash = is_none(spec) ? "/" : "";

	if (str_format(socket, size, "%s%s" RUNNERDIR_UML "/" UMID "/mconsole", below, slash) < 0 ||
		str_format(reply, size, "%s%s" RUNNERDIR_REPLY, below, slash) < 0)
		return err_set(err, -ENAMETOOLONG, "folder '%s' has too long a name", dir);
	return 0;
}

/* ---------------------------------------------------------------- control group */

static int join(void *arg, bool born, struct err *err)
{
	return cgroup_door_enter(arg, born, err);
}

static int make_cgroup(const Um__RunnerSpec *spec, struct boot *boot, struct err *err)
{
	struct cgroup_limits limits = {
		.memory_bytes = cgroup_memory_limit(spec->memory_bytes),
		.cpu_milli = spec->cpu_milli,
		.pids_max = spec->pids_max,
	};
	int rc, i;

	if (!spec->cgroup[0])
		return 0;
	rc = cgroup_probe((const char *const *)spec->cgroup_roots, spec->n_cgroup_roots,
		&boot->cgroup_host, err);
	if (rc >= 0)
		rc = cgroup_create(boot->cgroup_host, spec->cgroup, &limits, &boot->cgroup, err);
	if (rc < 0)
		return rc;
	for (i = 0; i < CGROUP_CONTROLLERS; i++) {
		const char *why = cgroup_missing(boot->cgroup_host, (enum cgroup_controller)i);

		if (why)
			log_warn("a limit is not set",
				LOG_STR("limit", cgroup_controller_name((enum cgroup_controller)i)),
				LOG_STR("reason", why));
	}
	if (cgroup_note(boot->cgroup)[0])
		log_warn("a limit is not set", LOG_STR("reason", cgroup_note(boot->cgroup)));
	return 0;
}

/* ---------------------------------------------------------------- command line */

static int build_cmdline(
	const Um__RunnerSpec *spec, const char *uml_dir, struct cmdline *out, struct err *err)
{
	struct cmdline_nic nics[CMDLINE_NICS_MAX];
	bool none = is_none(spec);
	struct cmdline_spec c = {
		.kernel = none ? spec->kernel : RUNNERDIR_JAIL_KERNEL,
		.memory = spec->memory_bytes,
		.cow = none ? spec->cow : RUNNERDIR_JAIL_COW,
		.base = !spec->backing[0] ? ""
			: none		  ? spec->backing
					  : RUNNERDIR_JAIL_BASE,
		.modules = !spec->modules[0] ? ""
			   : none	     ? spec->modules
					     : RUNNERDIR_JAIL_MODULES,
		.initrd = !spec->initrd[0] ? ""
			  : none	   ? spec->initrd
					   : RUNNERDIR_JAIL_INITRD,
		.bulk = BULK_PATH,
		.console_fd = CONSOLE_AT,
		.agent_fd = LINE_AT,
		.nics = nics,
		.nic_count = spec->n_taps,
		.uml_dir = uml_dir,
		.umid = UMID,
		.extra = spec->kernel_args,
	};
	size_t i;

	memset(nics, 0, sizeof(nics));
	for (i = 0; i < spec->n_taps; i++) {
		const Um__Tap *tap = spec->taps[i];

		nics[i].index = tap->index;
		nics[i].ifname = tap->ifname;
		if (tap->mac.len != sizeof(nics[i].mac.bytes))
			return err_set(err, -EINVAL, "tap %s: no MAC address", tap->ifname);
		memcpy(nics[i].mac.bytes, tap->mac.data, tap->mac.len);
	}
	return cmdline_build(&c, out, err);
}

/* ---------------------------------------------------------------- the jail */

struct mounts {
	struct jail_mount list[MOUNTS_MAX];
	size_t count;
	struct kernelinfo_needs needs;
	char uml[PATH_MAX], reply[PATH_MAX], root[PATH_MAX];
};

static void add_mount(struct mounts *m, const char *source, const char *target, bool writable)
{
	if (source[0])
		m->list[m->count++] = (struct jail_mount){source, target, writable};
}

static int collect_mounts(
	const Um__RunnerSpec *spec, const char *dir, struct mounts *m, struct err *err)
{
	size_t i;
	int rc = kernelinfo_needs(spec->kernel, &m->needs, err);

	if (rc >= 0)
		rc = fs_join(m->uml, sizeof(m->uml), dir, RUNNERDIR_UML, err);
	if (rc >= 0)
		rc = fs_join(m->reply, sizeof(m->reply), dir, RUNNERDIR_REPLY, err);
	if (rc >= 0)
		rc = fs_join(m->root, sizeof(m->root), dir, RUNNERDIR_ROOT, err);
	if (rc < 0)
		return rc;
	add_mount(m, spec->kernel, RUNNERDIR_JAIL_KERNEL, false);
	add_mount(m, spec->initrd, RUNNERDIR_JAIL_INITRD, false);
	add_mount(m, spec->backing, RUNNERDIR_JAIL_BASE, false);
	add_mount(m, spec->modules, RUNNERDIR_JAIL_MODULES, false);
	add_mount(m, spec->cow, RUNNERDIR_JAIL_COW, true);
	add_mount(m, m->uml, RUNNERDIR_JAIL_UML, true);
	add_mount(m, m->reply, RUNNERDIR_JAIL_REPLY, false);
	for (i = 0; i < m->needs.count; i++)
		add_mount(m, m->needs.files[i], m->needs.files[i], false);
	return 0;
}

/* The largest file the kernel has reason to write: its RAM, or its disk.  The RAM
 * file is sparse and a good GiB longer than the memory (it begins at the kernel's
 * own addresses); what it may fill is bound by the size of /tmp. */
static uint64_t file_max(const Um__RunnerSpec *spec)
{
	const char *disk = spec->backing[0] ? spec->backing : spec->cow;
	uint64_t most = spec->memory_bytes + ((uint64_t)4 << 30);
	struct stat st;

	if (stat(disk, &st) == 0) {
		/* A COW file: header, a bit for each 512 bytes, the disk. */
		uint64_t size = (uint64_t)st.st_size;

		size += size / 2048 + MIB;
		most = size > most ? size : most;
	}
	return most;
}

/* Without a jail of its own the RAM file goes to the host's: a place that is
 * mounted noexec would kill the guest without a word. */
static const char *shared_tmp(struct err *err)
{
	static const char *const places[] = {"/dev/shm", "/tmp"};
	struct statvfs vfs;
	size_t i;

	for (i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		if (statvfs(places[i], &vfs) == 0 && !(vfs.f_flag & ST_NOEXEC))
			return places[i];
	(void)err_set(err, -EACCES,
		"/dev/shm and /tmp are mounted noexec: a guest's memory must be executable "
		"(mount -o remount,exec /dev/shm, or isolation 'jail')");
	return NULL;
}

static int start_jail(const Um__RunnerSpec *spec, const char *dir, const struct cmdline *cmdline,
	const int fds[3], struct boot *boot, struct err *err)
{
	struct mounts *m = calloc(1, sizeof(*m));
	bool none = is_none(spec);
	uint64_t tmp = spec->memory_bytes + spec->memory_bytes / 16 + 16 * (uint64_t)MIB;
	int passed[] = {-1, -1, -1, fds[0], fds[1], fds[2]};
	const char *tmpdir = none ? shared_tmp(err) : "/tmp";
	char tmp_env[64];
	const char *envp[] = {tmp_env, "PATH=/", "HOME=/", NULL};
	struct jail_spec jail = {
		.none = none,
		.uid = spec->jail_uid,
		.gid = spec->jail_uid,
		.netns = spec->netns,
		.hostname = "guest",
		.tmp_bytes = tmp,
		.file_max = file_max(spec),
		.argv = (const char *const *)cmdline->argv,
		.envp = envp,
		.fds = passed,
		.fd_count = sizeof(passed) / sizeof(passed[0]),
	};
	struct cgroup_door door = CGROUP_DOOR_INIT;
	int rc = 0;

	if (!m)
		return err_set(err, -ENOMEM, "out of memory");
	if (!tmpdir)
		rc = -EACCES;
	if (rc >= 0)
		rc = str_format(tmp_env, sizeof(tmp_env), "TMPDIR=%s", tmpdir);
	if (rc >= 0 && !none)
		rc = collect_mounts(spec, dir, m, err);
	if (rc >= 0) {
		jail.root = m->root;
		jail.mounts = m->list;
		jail.mount_count = m->count;
		if (boot->cgroup)
			rc = cgroup_door_open(boot->cgroup, &door, err);
	}
	if (rc >= 0) {
		jail.cgroup_fd = door.born;
		jail.join = join;
		jail.join_arg = &door;
		rc = jail_start(&jail, &boot->jail, err);
	}
	cgroup_door_close(&door);
	free(m);
	return rc;
}

static int open_root(
	const Um__RunnerSpec *spec, const char *dir, struct boot *boot, struct err *err)
{
	const char *path = is_none(spec) ? "/" : dir;

	boot->root_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return boot->root_fd < 0 ? err_errno(err, errno, "open %s", path) : 0;
}

int boot_start(const Um__RunnerSpec *spec, const char *dir, struct boot *boot, struct err *err)
{
	struct cmdline cmdline = {0};
	int console[2] = {-1, -1}, line[2] = {-1, -1}, bulk = -1;
	char uml_dir[PATH_MAX];
	int rc;

	rc = boot_check(spec, err);
	if (rc >= 0)
		rc = make_dirs(spec, dir, err);
	if (rc >= 0)
		rc = is_none(spec) ? fs_join(uml_dir, sizeof(uml_dir), dir, RUNNERDIR_UML, err)
				   : str_copy(uml_dir, sizeof(uml_dir), RUNNERDIR_JAIL_UML);
	if (rc >= 0)
		rc = build_cmdline(spec, uml_dir, &cmdline, err);
	if (rc >= 0)
		rc = open_root(spec, dir, boot, err);
	if (rc >= 0)
		rc = make_cgroup(spec, boot, err);
	if (rc >= 0 && (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, console) < 0 ||
			       socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, line) < 0))
		rc = err_errno(err, errno, "socketpair");
	if (rc >= 0)
		rc = bulk_make(&boot->bulk_fd, &bulk, err);
	if (rc >= 0) {
		const int theirs[3] = {console[1], line[1], bulk};

		rc = start_jail(spec, dir, &cmdline, theirs, boot, err);
	}
	if (rc >= 0) {
		boot->console_fd = console[0];
		boot->line_fd = line[0];
		console[0] = line[0] = -1;
	}
	cmdline_free(&cmdline);
	for (int i = 0; i < 2; i++) {
		if (console[i] >= 0)
			(void)close(console[i]);
		if (line[i] >= 0)
			(void)close(line[i]);
	}
	if (bulk >= 0)
		(void)close(bulk);
	if (rc < 0)
		boot_undo(boot, dir);
	return rc < 0 ? rc : 0;
}

void boot_undo(struct boot *boot, const char *dir)
{
	struct err err = ERR_INIT;

	if (boot->jail.pid) {
		jail_kill(&boot->jail);
		(void)jail_reap(&boot->jail);
	}
	if (boot->cgroup && cgroup_end(boot->cgroup, 2000, &err) < 0)
		log_warn("the control group is left over", LOG_ERR(&err));
	cgroup_free(boot->cgroup);
	cgroup_host_free(boot->cgroup_host);
	if (boot->console_fd >= 0)
		(void)close(boot->console_fd);
	if (boot->line_fd >= 0)
		(void)close(boot->line_fd);
	if (boot->bulk_fd >= 0)
		(void)close(boot->bulk_fd);
	if (boot->root_fd >= 0)
		(void)close(boot->root_fd);
	boot_remove_dirs(dir);
	*boot = BOOT_INIT;
}
