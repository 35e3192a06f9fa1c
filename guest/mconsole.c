#include "guest/mconsole.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/buf.h"
#include "lib/str.h"

#define MAGIC 0xcafebabeu
#define VERSION 2u
#define DATA_MAX 512
#define PACKETS_MAX 1024 /* of one answer */

struct request_msg {
	uint32_t magic, version, len;
	char data[DATA_MAX];
};

struct reply_msg {
	uint32_t err, more, len;
	char data[DATA_MAX];
};

struct notify_msg {
	uint32_t magic, version, type, len;
	char data[DATA_MAX];
};

/* The first three words are on every packet. */
#define HEAD offsetof(struct reply_msg, data)

struct request {
	struct mconsole *mc;
	struct request *next;
	int fd;
	char name[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* below root_fd */
	struct loop_fd *watch;
	struct loop_timer *timer;
	mconsole_done_fn *done;
	void *arg;
	struct buf text;
	unsigned packets;
	bool refused; /* the first packet said err */
};

struct mconsole {
	struct loop *loop;
	int root_fd;
	char socket[sizeof(((struct sockaddr_un *)0)->sun_path)];
	char reply_dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
	uint64_t next_name;
	struct request *requests;
};

/* ---- the guest's socket ---- */

/* A descriptor of the guest's socket file itself, without following any link
 * that the guest may have put in its way. */
static int find_socket(const struct mconsole *mc, struct err *err)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC | O_NOFOLLOW,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
	int fd = (int)syscall(SYS_openat2, mc->root_fd, mc->socket, &how, sizeof(how));
	struct stat st;

	if (fd < 0)
		return err_errno(err, errno, "management console %s", mc->socket);
	if (fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode)) {
		(void)close(fd);
		return err_set(err, -ENOTSOCK, "management console %s is not a socket", mc->socket);
	}
	return fd;
}

static int send_command(const struct mconsole *mc, int fd, const char *command, struct err *err)
{
	struct request_msg msg = {.magic = MAGIC, .version = VERSION};
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int target = find_socket(mc, err);
	ssize_t n;

	if (target < 0)
		return target;
	msg.len = (uint32_t)strlen(command);
	memcpy(msg.data, command, msg.len);
	/* By way of /proc the path is short, and it is this very socket. */
	(void)str_format(to.sun_path, sizeof(to.sun_path), "/proc/self/fd/%d", target);
	do
		n = sendto(fd, &msg, HEAD + msg.len + 1, MSG_DONTWAIT | MSG_NOSIGNAL,
			(const struct sockaddr *)&to, sizeof(to));
	while (n < 0 && errno == EINTR);
	int code = errno;

	(void)close(target);
	if (n >= 0)
		return 0;
	if (code == EAGAIN)
		return err_set(
			err, -EAGAIN, "management console: the kernel does not read its socket");
	return err_errno(err, code, "management console %s", mc->socket);
}

/* ---- the reply socket ---- */

struct bind_job {
	int root_fd, fd, error;
	struct sockaddr_un addr;
};

/* Runs in a thread of its own, whose working directory and umask are its own too:
 * so a path relative to root_fd can be bound, and nobody else notices. */
static void *bind_thread(void *arg)
{
	struct bind_job *job = arg;

	if (unshare(CLONE_FS) < 0 || fchdir(job->root_fd) < 0) {
		job->error = errno;
		return NULL;
	}
	(void)umask(0);
	if (bind(job->fd, (const struct sockaddr *)&job->addr, sizeof(job->addr)) < 0)
		job->error = errno;
	return NULL;
}

static int bind_below(int root_fd, int fd, const char *name)
{
	struct bind_job job = {.root_fd = root_fd, .fd = fd, .addr = {.sun_family = AF_UNIX}};
	pthread_t thread;
	int rc = str_copy(job.addr.sun_path, sizeof(job.addr.sun_path), name);

	if (rc < 0)
		return rc;
	rc = pthread_create(&thread, NULL, bind_thread, &job);
	if (rc != 0)
		return -rc;
	(void)pthread_join(thread, NULL);
	return -job.error;
}

static int open_reply_socket(struct mconsole *mc, struct request *req, struct err *err)
{
	int rc = str_format(req->name, sizeof(req->name), "%s%sr%" PRIu64, mc->reply_dir,
		mc->reply_dir[0] ? "/" : "", mc->next_name++);

	if (rc < 0)
		return err_set(err, rc, "management console: the reply folder's path is too long");
	req->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (req->fd < 0)
		return err_errno(err, errno, "management console: make a socket");
	/* The guest's user must be able to write to it; the folder keeps others out.
	 * bind() gives the new file the socket's mode. */
	if (fchmod(req->fd, 0666) < 0)
		return err_errno(err, errno, "management console: set the socket's mode");
	rc = bind_below(mc->root_fd, req->fd, req->name);
	if (rc < 0) {
		char name[sizeof(req->name)];

		/* Nothing to unlink. */
		(void)str_copy(name, sizeof(name), req->name);
		req->name[0] = '\0';
		return err_errno(err, rc, "management console: bind %s", name);
	}
	return 0;
}

/* ---- requests ---- */

static void request_free(struct request *req)
{
	struct mconsole *mc = req->mc;

	for (struct request **at = &mc->requests; *at; at = &(*at)->next) {
		if (*at != req)
			continue;
		*at = req->next;
		break;
	}
	loop_fd_close(req->watch);
	loop_timer_close(req->timer);
	if (req->fd >= 0)
		(void)close(req->fd);
	if (req->name[0])
		(void)unlinkat(mc->root_fd, req->name, 0);
	buf_free(&req->text);
	free(req);
}

/* Ends REQ: with ERR, or with the text it has. */
static void finish(struct request *req, const struct err *err)
{
	mconsole_done_fn *done = req->done;
	void *arg = req->arg;
	struct buf text = req->text;

	buf_init(&req->text);
	request_free(req);
	done(arg, err, err ? "" : buf_text(&text));
	buf_free(&text);
}

static void finish_err(struct request *req, int code, const char *what)
{
	struct err err = ERR_INIT;

	(void)err_set(&err, code, "management console: %s", what);
	finish(req, &err);
}

static void on_timeout(void *arg)
{
	finish_err(arg, -ETIMEDOUT, "the kernel did not answer in time");
}

/* The text of a reply packet; false when it is against the rules. */
static bool reply_text(const struct reply_msg *msg, size_t size, size_t *len)
{
	if (size < HEAD || msg->len > DATA_MAX || HEAD + msg->len > size)
		return false;
	*len = strnlen(msg->data, msg->len);
	return true;
}

/* One packet; true when the request has ended. */
static bool on_packet(struct request *req, const struct reply_msg *msg, size_t size)
{
	size_t len;

	if (!reply_text(msg, size, &len) || ++req->packets > PACKETS_MAX) {
		finish_err(req, -EBADMSG, "the kernel's answer breaks the protocol");
		return true;
	}
	req->refused |= msg->err != 0;
	buf_add(&req->text, msg->data, len);
	if (req->text.failed) {
		finish_err(req, -EMSGSIZE, "the kernel's answer is too long");
		return true;
	}
	if (msg->more)
		return false;
	if (!req->refused) {
		finish(req, NULL);
		return true;
	}
	struct err err = ERR_INIT;

	(void)err_set(&err, -EREMOTEIO, "management console: the kernel refused: %.300s",
		buf_text(&req->text));
	finish(req, &err);
	return true;
}

static void on_reply(void *arg, unsigned events)
{
	struct request *req = arg;
	struct reply_msg msg;

	(void)events;
	/* A bounded number of packets a turn: the guest must not hold the loop. */
	for (unsigned i = 0; i < 16; i++) {
		ssize_t n = recv(req->fd, &msg, sizeof(msg), MSG_DONTWAIT);

		if (n < 0)
			return;
		if (on_packet(req, &msg, (size_t)n))
			return;
	}
}

static int request_start(struct request *req, uint32_t timeout_ms, struct err *err)
{
	struct mconsole *mc = req->mc;
	int rc = open_reply_socket(mc, req, err);

	if (rc < 0)
		return rc;
	rc = loop_fd_open(mc->loop, "mconsole", req->fd, on_reply, req, &req->watch, err);
	if (rc < 0)
		return rc;
	rc = loop_timer_open(mc->loop, "mconsole", on_timeout, req, &req->timer, err);
	if (rc < 0)
		return rc;
	rc = loop_fd_want(req->watch, LOOP_READ);
	if (rc < 0)
		return err_errno(err, rc, "management console: watch the socket");
	loop_timer_arm(req->timer, timeout_ms);
	return 0;
}

int mconsole_request(struct mconsole *mc, const char *command, uint32_t timeout_ms,
	mconsole_done_fn *done, void *arg, struct err *err)
{
	size_t len = strlen(command);
	struct request *req;
	int rc;

	if (len == 0 || len >= DATA_MAX)
		return err_set(err, -EINVAL,
			"management console: a command of %zu bytes, not 1 to %d", len,
			MCONSOLE_COMMAND_MAX);
	req = calloc(1, sizeof(*req));
	if (!req)
		return err_set(err, -ENOMEM, "out of memory");
	req->mc = mc;
	req->fd = -1;
	req->done = done;
	req->arg = arg;
	buf_init(&req->text);
	req->text.limit = MCONSOLE_REPLY_MAX;
	req->next = mc->requests;
	mc->requests = req;
	rc = request_start(req, timeout_ms, err);
	if (rc == 0)
		rc = send_command(mc, req->fd, command, err);
	if (rc < 0)
		request_free(req);
	return rc;
}

/* ---- life ---- */

/* Is NAME one of our reply sockets: 'r' and digits? */
static bool is_reply_name(const char *name)
{
	return name[0] == 'r' && name[1] && strspn(name + 1, "0123456789") == strlen(name + 1);
}

/* Removes reply sockets of an earlier life. */
static int sweep(const struct mconsole *mc, struct err *err)
{
	const char *path = mc->reply_dir[0] ? mc->reply_dir : ".";
	int fd = openat(mc->root_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	struct dirent *e;
	DIR *dir;

	if (fd < 0)
		return err_errno(err, errno, "management console: open the reply folder %s", path);
	dir = fdopendir(fd);
	if (!dir) {
		int code = errno;

		(void)close(fd);
		return err_errno(err, code, "management console: read the reply folder %s", path);
	}
	while ((e = readdir(dir))) {
		if (e->d_type == DT_SOCK && is_reply_name(e->d_name))
			(void)unlinkat(dirfd(dir), e->d_name, 0);
	}
	(void)closedir(dir);
	return 0;
}

int mconsole_open(struct loop *loop, const struct mconsole_config *config, struct mconsole **out,
	struct err *err)
{
	struct mconsole *mc = calloc(1, sizeof(*mc));
	int rc;

	if (!mc)
		return err_set(err, -ENOMEM, "out of memory");
	mc->loop = loop;
	mc->root_fd = config->root_fd;
	if (config->socket[0] == '/' || config->reply_dir[0] == '/')
		rc = err_set(err, -EINVAL, "management console: paths must be relative");
	else if (str_copy(mc->socket, sizeof(mc->socket), config->socket) < 0 ||
		 str_copy(mc->reply_dir, sizeof(mc->reply_dir), config->reply_dir) < 0)
		rc = err_set(err, -ENAMETOOLONG, "management console: path too long");
	else
		rc = sweep(mc, err);
	if (rc < 0) {
		free(mc);
		return rc;
	}
	*out = mc;
	return 0;
}

void mconsole_close(struct mconsole *mc)
{
	if (!mc)
		return;
	while (mc->requests)
		finish_err(mc->requests, -ECANCELED, "closed"); /* NOLINT: it unlinks itself */
	free(mc);
}

/* ---- notify ---- */

int mconsole_notify_parse(
	const void *data, size_t size, struct mconsole_notify *out, struct err *err)
{
	struct notify_msg msg = {0};
	size_t head = offsetof(struct notify_msg, data), len;

	if (size < head || size > sizeof(msg))
		return err_set(err, -EBADMSG, "mconsole notification of %zu bytes", size);
	memcpy(&msg, data, size);
	if (msg.magic != MAGIC || msg.version != VERSION)
		return err_set(err, -EBADMSG,
			"mconsole notification with magic %#" PRIx32 ", version %" PRIu32,
			msg.magic, msg.version);
	if (msg.type > MCONSOLE_NOTIFY_USER || msg.len > size - head)
		return err_set(err, -EBADMSG,
			"mconsole notification of type %" PRIu32 ", length %" PRIu32, msg.type,
			msg.len);
	len = strnlen(msg.data, msg.len);
	out->type = (enum mconsole_notify_type)msg.type;
	memcpy(out->text, msg.data, len);
	out->text[len] = '\0';
	return 0;
}
