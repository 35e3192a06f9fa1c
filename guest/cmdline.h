/* cmdline: the argument vector of a guest's kernel.  Pure.
 *
 *   KERNEL mem=64M ubd0=COW,BASE [ubd1rd=MODULES] [ubd7rd=BULK] [initrd=INITRD] con=null
 *   con0=fd:A,fd:A con1=fd:B,fd:B ssl=null lpj=N bonding.max_bonds=0
 *   dummy.numdummies=0 ifb.numifbs=0 fb_tunnels=none vecN:transport=tap,... uml_dir=DIR
 *   umid=ID systemd.mask=getty@tty1.service systemd.wants=getty@tty0.service [noreboot]
 *   [mconsole=notify:PATH] EXTRA...
 *
 * (arch/um: mem= um_arch.c, ubd ubd_kern.c, con line.c/stdio_console.c, vec
 * vector_kern.c, uml_dir/umid umid.c, mconsole mconsole_kern.c.)  A raw disk is
 * given with the flag d, so that a guest that writes a COW header into its
 * disk does not make its kernel open a backing file of the guest's choice.
 *
 * Paths are as the kernel will see them (in its jail).  They go into options
 * that are split at ',' and ':', and all options are joined with blanks into the
 * guest's /proc/cmdline: paths and names may therefore hold only printable ASCII
 * without blank, comma, colon and quotes.
 */
#ifndef UMLAUT_GUEST_CMDLINE_H
#define UMLAUT_GUEST_CMDLINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/net.h"

#define CMDLINE_NICS_MAX 64
#define CMDLINE_MEMORY_MIN (16u << 20)
/* Given, the kernel does not measure its delay loop (init/calibrate.c), which takes 40
 * to 80 ms of CPU: most of the boot of a small kernel.  As of a 4 GHz host at the 100 Hz
 * of all UML kernels; only drivers of real hardware would need it exact. */
#define CMDLINE_LPJ 40000000u
#define CMDLINE_MAX 4096 /* bytes of the kernel's joined command line (COMMAND_LINE_SIZE) */

struct cmdline_nic {
	uint32_t index;	    /* N of vecN: eth order in the guest; 0 .. CMDLINE_NICS_MAX - 1 */
	const char *ifname; /* the tap */
	struct net_mac mac;
	uint32_t depth; /* of the queues, 0: 128 */
};

struct cmdline_spec {
	const char *kernel;  /* argv[0] and the file to execute, absolute */
	uint64_t memory;     /* bytes, rounded up to whole MiB */
	const char *cow;     /* ubd0: the COW file, or the raw disk when base is "" */
	const char *base;    /* NULL or "": none */
	const char *modules; /* ubd1, read-only; NULL or "": none */
	const char *initrd;  /* NULL or "": none */
	const char *bulk;    /* ubd7, read-only: the runner's bulk window; NULL or "": none */
	int console_fd;	     /* con0; -1: null */
	int agent_fd;	     /* con1; -1: null */
	const struct cmdline_nic *nics;
	size_t nic_count;
	const char *uml_dir; /* absolute */
	const char *umid;    /* at most 63 of [A-Za-z0-9_.-], starting with a letter or digit */
	bool no_reboot;	     /* a guest that reboots ends its kernel instead of starting it again */
	const char *notify;  /* path of a socket for mconsole=notify:, NULL or "": none */
	const char *extra;   /* further options, separated by blanks; NULL or "": none */
};

struct cmdline {
	char **argv; /* NULL-terminated */
	size_t argc;
};

/* -EINVAL (names the option), -E2BIG. */
int cmdline_build(const struct cmdline_spec *spec, struct cmdline *out, struct err *err);
void cmdline_free(struct cmdline *cmdline); /* zeroed ones are fine */

/* Checks EXTRA alone: no control characters or quotes, at most 1024 bytes, and no
 * option that Umlaut itself sets or that would reach out of the guest (mem, ubd,
 * con, ssl, vec, eth, initrd, rdinit, root, uml_dir, umid, mconsole, hostfs, ...). */
int cmdline_check_extra(const char *extra, struct err *err);

#endif
