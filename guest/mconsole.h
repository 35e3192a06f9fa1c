/* mconsole: client of a guest kernel's management console.
 *
 * The kernel listens on a Unix datagram socket UML_DIR/UMID/mconsole and answers
 * to the address a request came from (arch/um/drivers/mconsole.h,
 * mconsole_user.c; numbers in host byte order):
 *
 *   request  u32 magic 0xcafebabe, u32 version 2, u32 len, char data[512]
 *   reply    u32 err, u32 more, u32 len (with the NUL), char data[512]; a long
 *            answer is several replies, all but the last with more != 0
 *   notify   u32 magic, u32 version, u32 type, u32 len, char data[512]
 *
 * Where the reply goes.  The kernel sends to the path *string* we bound, resolved
 * in its own root and network namespace: an abstract address does not reach
 * us, and neither does a /proc/self/fd path or a path of the host when the kernel is in a
 * chroot.  So the reply socket is bound by a path relative to `root_fd`, and the
 * kernel, WHOSE WORKING DIRECTORY MUST BE ITS ROOT, finds it by the same relative
 * path: `root_fd` is the folder of the host of which the guest's root shows (at
 * least) the folder `reply_dir`.  E.g. the guest folder with sub-folders uml/ and
 * mc/ that are mounted at /uml and /mc in the jail: socket "uml/g/mconsole",
 * reply_dir "mc".  With no jail: root_fd of "/", the kernel started with cwd "/".
 * The guest should not be able to write to `reply_dir` (only to search it).
 *
 * Each request has a reply socket of its own ("r" and a number), so a late
 * answer can never be taken for another's.  Nothing a guest does (no answer,
 * endless answer, a symbolic link in place of its socket) blocks or misleads.
 *
 * Runs on the loop.  Commands known: version, help, halt, reboot, config, remove,
 * sysrq, cad, stop, go, log, proc, stack.
 */
#ifndef UMLAUT_GUEST_MCONSOLE_H
#define UMLAUT_GUEST_MCONSOLE_H

#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/loop.h"

#define MCONSOLE_COMMAND_MAX 511 /* bytes of a command */
#define MCONSOLE_REPLY_MAX (64u * 1024)

struct mconsole;

struct mconsole_config {
	int root_fd;	       /* borrowed, must outlive the client */
	const char *socket;    /* path of the kernel's socket below root_fd, no links in it */
	const char *reply_dir; /* folder below root_fd for the reply sockets; "" is root_fd */
};

/* Does not touch the guest yet.  Removes stale reply sockets from reply_dir. */
int mconsole_open(struct loop *loop, const struct mconsole_config *config, struct mconsole **out,
	struct err *err);
/* Pending requests end with -ECANCELED first.  NULL is fine; safe in callbacks. */
void mconsole_close(struct mconsole *mc);

/* ERR is NULL on success; TEXT (never NULL, NUL-terminated, bytes of the guest's
 * choosing) is the answer.  Else ERR says: -ETIMEDOUT; -EREMOTEIO: the kernel
 * refused, with its words; -EMSGSIZE, -EBADMSG: an answer against the rules;
 * -ECANCELED. */
typedef void mconsole_done_fn(void *arg, const struct err *err, const char *text);

/* Sends COMMAND; DONE is called once, later, if this succeeded.  Fails at once
 * with -ENOENT (no socket yet), -ECONNREFUSED (a kernel that is gone), -EAGAIN
 * (its queue is full, it does not read).
 * `halt` and `reboot` may end the kernel before it answers: expect -ETIMEDOUT. */
int mconsole_request(struct mconsole *mc, const char *command, uint32_t timeout_ms,
	mconsole_done_fn *done, void *arg, struct err *err);

/* Messages a kernel started with mconsole=notify:PATH sends to PATH. */
enum mconsole_notify_type {
	MCONSOLE_NOTIFY_SOCKET, /* ready for commands; text: path of its socket */
	MCONSOLE_NOTIFY_PANIC,	/* text: the panic's message */
	MCONSOLE_NOTIFY_HANG,
	MCONSOLE_NOTIFY_USER, /* written to /proc/mconsole in the guest */
};
struct mconsole_notify {
	enum mconsole_notify_type type;
	char text[513]; /* NUL-terminated */
};
/* -EBADMSG when it is none.  Pure. */
int mconsole_notify_parse(
	const void *data, size_t size, struct mconsole_notify *out, struct err *err);

#endif
