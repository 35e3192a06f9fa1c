/* boot: from a RunnerSpec to a running kernel: checks, folders, control group,
 * command line, jail.  Blocking for some milliseconds; before the loop runs.
 */
#ifndef UMLAUT_GUEST_RUNNER_BOOT_H
#define UMLAUT_GUEST_RUNNER_BOOT_H

#include "guest/cgroup.h"
#include "guest/jail.h"
#include "lib/wire.h"

/* What runs, and what must be taken down again. */
struct boot {
	struct cgroup_host *cgroup_host;
	struct cgroup *cgroup; /* NULL: none */
	struct jail jail;
	int console_fd, line_fd; /* our ends; the caller takes them (and sets -1) */
	int bulk_fd;		 /* our end of the bulk window, bulk.h */
	int root_fd;		 /* what the kernel sees as its root, for mconsole */
};
#define BOOT_INIT       \
	((struct boot){ \
		.jail = JAIL_INIT, .console_fd = -1, .line_fd = -1, .bulk_fd = -1, .root_fd = -1})

/* Checks what the agent wrote; paths, sizes, names, the COW's owner. */
int boot_check(const Um__RunnerSpec *spec, struct err *err);
/* DIR: the guest folder.  On failure nothing is left. */
int boot_start(const Um__RunnerSpec *spec, const char *dir, struct boot *boot, struct err *err);
/* The kernel's mconsole socket and reply folder below root_fd, for mconsole_open(). */
int boot_mconsole_paths(const Um__RunnerSpec *spec, const char *dir, char *socket, char *reply,
	size_t size, struct err *err);
/* Kills what runs and waits for it (no event loop), removes group and folders. */
void boot_undo(struct boot *boot, const char *dir);
/* The folders alone: what the kernel left in uml/ goes. */
void boot_remove_dirs(const char *dir);

#endif
