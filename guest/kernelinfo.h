/* kernelinfo: what a User-Mode Linux binary is and needs.
 *
 * kernelinfo_read() runs the binary with --version, --showconfig and --help
 * (um_arch.c of arch/um: they print and exit before anything is set up).
 * Blocking, bounded in time and output: for a pool thread, or a command line tool.
 * It executes the file, which may be anything: in process, network, mount, IPC and UTS
 * namespaces of its own (where the machine lets the caller make them), without new
 * privileges, with limits; root's as the user that is named, else as nobody.
 *
 * kernelinfo_needs() only reads files: the ELF program headers (PT_INTERP,
 * PT_DYNAMIC with DT_NEEDED; gabi chapter 5) of the binary and, recursively, of
 * the shared libraries it needs, found in the loader's standard folders.  It lists
 * what a jail must contain, each file at the path that the loader will look for.
 */
#ifndef UMLAUT_GUEST_KERNELINFO_H
#define UMLAUT_GUEST_KERNELINFO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/buf.h"
#include "lib/err.h"
#include "lib/loop.h"

#define KERNELINFO_RELEASE 65 /* as in struct utsname */
#define KERNELINFO_TIMEOUT_MS 5000
#define KERNELINFO_FILES_MAX 32
#define KERNELINFO_PATH 256
#define KERNELINFO_FEATURES 512
#define KERNELINFO_CONFIG_MAX (256u << 10)

struct kernelinfo {
	char release[KERNELINFO_RELEASE]; /* "6.1.176" */
	/* From the kernel's configuration, and seccomp_mode from its help. */
	bool vector;	  /* UML_NET_VECTOR: our NICs need it */
	bool blk_dev_ubd; /* BLK_DEV_UBD=y */
	bool mconsole;
	bool initrd;	   /* BLK_DEV_INITRD */
	bool ext4;	   /* built in, not a module */
	bool modules;	   /* loadable modules: it wants its modules disk */
	bool ipv6;	   /* built in */
	bool seccomp_mode; /* it knows seccomp=on|auto|off */
	bool time_travel;
	bool smp;
	bool static_link;
	/* What a lab may ask for, by name: "seccomp,time-travel,vector,nftables=m"; "=m":
	 * a module of it.  For people and tables; the booleans decide. */
	char features[KERNELINFO_FEATURES];
};

/* Why a kernel cannot serve as a guest of ours: -EOPNOTSUPP and the missing
 * feature by its CONFIG_ name (vector, ubd, mconsole, initrd, ext4), else 0. */
int kernelinfo_usable(const struct kernelinfo *info, struct err *err);

/* UID: whom root's child becomes, (uid_t)-1: nobody.  That user needs the right to execute
 * the file, not to reach its folder. */
int kernelinfo_read(
	const char *path, uid_t uid, uint32_t timeout_ms, struct kernelinfo *out, struct err *err);

/* The same in the loop's pool.  INFO is valid for the call, NULL when ERR is set. */
typedef void kernelinfo_fn(void *arg, const struct err *err, const struct kernelinfo *info);
int kernelinfo_start(struct loop *loop, const char *path, uid_t uid, kernelinfo_fn *fn, void *arg,
	struct err *err);

/* Decodes the three outputs.  Pure. */
int kernelinfo_parse(const char *version, const char *config, const char *help,
	struct kernelinfo *out, struct err *err);

/* Appends the options of the configuration that are set, "CONFIG_UML=y", a line each,
 * printable.  Runs the binary as kernelinfo_read() does.  -EMSGSIZE. */
int kernelinfo_config(
	const char *path, uid_t uid, uint32_t timeout_ms, struct buf *out, struct err *err);

/* Their parts.  Pure. */
void kernelinfo_features(const char *config, bool seccomp_mode, char out[KERNELINFO_FEATURES]);
int kernelinfo_options(const char *config, struct buf *out, struct err *err);

/* What a file that is offered as a kernel is, before it is run: reads the file only (its
 * type, first bytes, ELF header and program headers).  0: a whole program for this
 * machine; whether it is User-Mode Linux is for kernelinfo_read() to find out.
 * -ENOENT, -EACCES ...: it cannot be read; -EISDIR: a folder; -ENOEXEC: any other thing,
 * which the message names: a device, an empty file, a script, a boot image, a kernel for
 * bare machines (vmlinux), a module or object file, a program of another architecture, a
 * file that has been cut short. */
int kernelinfo_check(const char *path, struct err *err);

struct kernelinfo_needs {
	char files[KERNELINFO_FILES_MAX][KERNELINFO_PATH]; /* absolute, the loader first */
	size_t count;					   /* 0: static */
};
/* -ENOEXEC: no ELF executable of this machine; -ENOENT: names the library.
 * libgcc_s.so.1 is included for a dynamic kernel: libc loads it for
 * pthread_cancel(), which a kernel calls at its exit. */
int kernelinfo_needs(const char *path, struct kernelinfo_needs *out, struct err *err);

#endif
