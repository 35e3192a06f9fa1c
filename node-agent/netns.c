#include "node-agent/netns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

struct job {
	int fd; /* to enter; -1: make one and mount it at path */
	const char *path;
	netns_fn *fn;
	void *arg;
	struct err *err;
	int rc;
};

static int make_here(const char *path, struct err *err)
{
	if (unshare(CLONE_NEWNET) < 0)
		return err_errno(err, errno, "make a network namespace");
	/* thread-self: the process's own namespace stays what it was. */
	if (mount("/proc/thread-self/ns/net", path, NULL, MS_BIND, NULL) < 0)
		return err_errno(err, errno, "mount the network namespace at %s", path);
	return 0;
}

static void *job_thread(void *arg)
{
	struct job *job = arg;

	if (job->fd < 0)
		job->rc = make_here(job->path, job->err);
	else if (setns(job->fd, CLONE_NEWNET) < 0)
		job->rc = err_errno(job->err, errno, "enter the network namespace");
	else
		job->rc = job->fn(job->arg, job->err);
	return NULL;
}

static int job_run(struct job *job)
{
	pthread_t thread;
	int rc = pthread_create(&thread, NULL, job_thread, job);

	if (rc != 0)
		return err_errno(job->err, rc, "start a thread");
	(void)pthread_join(thread, NULL);
	return job->rc;
}

static bool is_netns(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == NSFS_MAGIC &&
	       ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET;
}

int netns_open(const char *path, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);

	if (fd < 0)
		return err_errno(err, errno, "network namespace %s", path);
	if (is_netns(fd))
		return fd;
	(void)close(fd);
	return err_set(err, -ENOENT, "%s is no network namespace", path);
}

int netns_make(const char *path, struct err *err)
{
	struct job job = {.fd = -1, .path = path, .err = err};
	int rc, fd = open(path, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);

	if (fd < 0)
		return err_errno(err, errno, "create %s", path);
	(void)close(fd);
	rc = job_run(&job);
	return rc < 0 ? rc : netns_open(path, err);
}

int netns_drop(const char *path, struct err *err)
{
	int fd;

	while ((fd = netns_open(path, NULL)) >= 0) {
		(void)close(fd);
		if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
			return err_errno(err, errno, "unmount the network namespace %s", path);
	}
	if (unlink(path) < 0 && errno != ENOENT && errno != ENOTDIR)
		return err_errno(err, errno, "remove %s", path);
	return 0;
}

int netns_run(int fd, netns_fn *fn, void *arg, struct err *err)
{
	struct job job = {.fd = fd, .fn = fn, .arg = arg, .err = err};

	return job_run(&job);
}
