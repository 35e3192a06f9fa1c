#include "guest/jail_int.h"

#include <errno.h>
#include <grp.h>
#include <linux/sched.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define NOFILE_MAX 4096 /* a kernel in seccomp mode has a socket for each guest process */

/* By name: libseccomp knows their numbers on each machine, and those that a
 * machine or an older library does not have are skipped. */
static const char *const denied[] = {
	/* mounts and roots */
	"mount", "umount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen",
	"fsconfig", "fsmount", "fspick", "mount_setattr", "swapon", "swapoff", "quotactl",
	"quotactl_fd", "acct",
	/* namespaces (clone by its flags, below) */
	"unshare", "setns", "sethostname", "setdomainname",
	/* the host's kernel */
	"init_module", "finit_module", "delete_module", "create_module", "kexec_load",
	"kexec_file_load", "reboot", "bpf", "perf_event_open", "userfaultfd", "syslog",
	"lookup_dcookie", "nfsservctl", "uselib", "ustat", "sysfs", "_sysctl", "iopl", "ioperm",
	"vhangup", "fanotify_init", "memfd_secret",
	/* keys, handles, other processes */
	"keyctl", "add_key", "request_key", "open_by_handle_at", "name_to_handle_at", "kcmp",
	"pidfd_getfd", "process_madvise", "move_pages", "migrate_pages", "mbind", "set_mempolicy",
	"set_mempolicy_home_node",
	/* clocks */
	"settimeofday", "stime", "clock_settime", "clock_adjtime", "adjtimex",
	/* a second way into the kernel, past this filter */
	"io_uring_setup", "io_uring_enter", "io_uring_register"};

const char *jail_denied(size_t i)
{
	return i < COUNT(denied) ? denied[i] : NULL;
}

static int set_limit(int what, const char *name, rlim_t value, struct err *err)
{
	struct rlimit have, want = {.rlim_cur = value, .rlim_max = value};

	/* Never more than we were given: raising needs CAP_SYS_RESOURCE. */
	if (getrlimit((__rlimit_resource_t)what, &have) == 0 && have.rlim_max < value)
		want.rlim_cur = want.rlim_max = have.rlim_max;
	if (setrlimit((__rlimit_resource_t)what, &want) < 0)
		return err_errno(err, errno, "jail: limit %s", name);
	return 0;
}

int jail_limits(const struct jail_spec *spec, struct err *err)
{
	int rc = set_limit(RLIMIT_CORE, "core", 0, err);

	if (rc >= 0)
		rc = set_limit(RLIMIT_NOFILE, "nofile", NOFILE_MAX, err);
	if (rc >= 0 && spec->file_max)
		rc = set_limit(RLIMIT_FSIZE, "fsize", spec->file_max, err);
	if (rc >= 0 && !spec->none)
		rc = set_limit(RLIMIT_MEMLOCK, "memlock", 0, err);
	if (rc >= 0 && !spec->none)
		rc = set_limit(RLIMIT_MSGQUEUE, "msgqueue", 0, err);
	return rc;
}

static int drop_bounding(struct err *err)
{
	cap_value_t cap;

	for (cap = 0; cap_get_bound(cap) >= 0; cap++)
		if (cap_drop_bound(cap) < 0)
			return err_errno(err, errno, "jail: drop capability %d", (int)cap);
	return 0;
}

static int drop_capabilities(struct err *err)
{
	cap_t none = cap_init();
	int rc = 0;

	if (!none)
		return err_set(err, -ENOMEM, "jail: out of memory");
	if (cap_set_proc(none) < 0)
		rc = err_errno(err, errno, "jail: drop capabilities");
	(void)cap_free(none);
	return rc;
}

static int drop_identity(const struct jail_spec *spec, struct err *err)
{
	if (setgroups(0, NULL) < 0)
		return err_errno(err, errno, "jail: drop groups");
	if (setresgid(spec->gid, spec->gid, spec->gid) < 0)
		return err_errno(err, errno, "jail: become group %u", (unsigned)spec->gid);
	if (setresuid(spec->uid, spec->uid, spec->uid) < 0)
		return err_errno(err, errno, "jail: become user %u", (unsigned)spec->uid);
	return 0;
}

/* clone(2) with a flag for a new namespace; clone3, whose flags a filter cannot
 * see, does not exist for the jail (libc falls back to clone). */
static int deny_namespaces(scmp_filter_ctx filter)
{
	static const unsigned long flags[] = {CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS,
		CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET};
	size_t i;
	int rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);

	for (i = 0; rc >= 0 && i < COUNT(flags); i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
			SCMP_A0(SCMP_CMP_MASKED_EQ, flags[i], flags[i]));
	return rc;
}

/* Sockets of other families than unix, IPv4 and IPv6: netlink, packet, vsock
 * (which would reach a hypervisor), alg, xdp ... */
static int deny_sockets(scmp_filter_ctx filter)
{
	int family, rc;

	rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
		SCMP_A0(SCMP_CMP_GT, AF_INET6));
	for (family = 0; rc >= 0 && family < AF_INET6; family++)
		if (family != AF_UNIX && family != AF_INET)
			rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT),
				SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)family));
	return rc;
}

static int load_filter(struct err *err)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	size_t i;
	int rc = 0;

	if (!filter)
		return err_set(err, -ENOMEM, "jail: out of memory for the seccomp filter");
	/* Calls of another ABI (32-bit, x32) are refused, not fatal.  What the guest's
	 * own processes call is caught by UML before this filter. */
	rc = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS));
	/* A filter alone need not slow the guest down by disabling store bypass: UML
	 * does not isolate secrets from its own process. */
	if (rc >= 0)
		(void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_SSB, 1);
	if (rc >= 0)
		(void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* binary tree */
	for (i = 0; rc >= 0 && i < COUNT(denied); i++) {
		int nr = seccomp_syscall_resolve_name(denied[i]);

		if (nr >= 0) /* < 0: not on this machine */
			rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), nr, 0);
	}
	if (rc >= 0)
		rc = deny_namespaces(filter);
	if (rc >= 0)
		rc = deny_sockets(filter);
	if (rc >= 0)
		rc = seccomp_load(filter);
	seccomp_release(filter);
	return rc < 0 ? err_errno(err, rc, "jail: seccomp filter") : 0;
}

int jail_drop(const struct jail_spec *spec, struct err *err)
{
	int rc = drop_bounding(err);

	if (rc >= 0)
		rc = drop_identity(spec, err);
	if (rc >= 0)
		rc = drop_capabilities(err);
	if (rc >= 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		rc = err_errno(err, errno, "jail: no_new_privs");
	if (rc >= 0)
		rc = load_filter(err);
	return rc;
}
