/* runnerdir: the names in a guest's folder that agent and runner share, and the
 * paths inside a jail.  See runnerctl.h for who writes what. */
#ifndef UMLAUT_GUEST_RUNNERDIR_H
#define UMLAUT_GUEST_RUNNERDIR_H

#define RUNNERDIR_SPEC "runner.pb"
#define RUNNERDIR_LOCK "runner.lock"
#define RUNNERDIR_ID "runner.id"
#define RUNNERDIR_SOCK "runner.sock"
#define RUNNERDIR_LOG "runner.log"
#define RUNNERDIR_EXIT "exit.pb"
#define RUNNERDIR_HOSTS "hosts.log" /* HostsUpdates since the start, as frames */
#define RUNNERDIR_CONSOLE "console.log"
#define RUNNERDIR_CONSOLE_OLD "console.log.1"
#define RUNNERDIR_UML "uml"   /* uml_dir, the kernel's own */
#define RUNNERDIR_REPLY "mc"  /* where mconsole answers go; the kernel may only search it */
#define RUNNERDIR_ROOT "root" /* where the jail is mounted, empty as seen by the host */

/* Largest files we read. */
#define RUNNERDIR_SPEC_MAX (64u << 20)
#define RUNNERDIR_EXIT_MAX (64u << 10)

/* In the jail. */
#define RUNNERDIR_JAIL_KERNEL "/kernel"
#define RUNNERDIR_JAIL_INITRD "/initrd"
#define RUNNERDIR_JAIL_BASE "/base"
#define RUNNERDIR_JAIL_COW "/cow"
#define RUNNERDIR_JAIL_MODULES "/modules"
#define RUNNERDIR_JAIL_UML "/" RUNNERDIR_UML
#define RUNNERDIR_JAIL_REPLY "/" RUNNERDIR_REPLY

#endif
