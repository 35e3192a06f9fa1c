/* memuse: the texts of /proc, a tree of processes, memory really taken, the page cache. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/memuse.h"

#define MIB (1u << 20)

static void test_parse(void **state)
{
	struct memuse use = {.processes = 1};

	(void)state;
	memuse_parse(
		"Rss: 900 kB\nPss:   40 kB\nPss_Anon:   10 kB\nPss_File: 20 kB\nPss_Shmem: 7 kB\n",
		"Name:\tVmPTE: 99\nVmPTE:\t   8 kB\nThreads:\t3\n", &use);
	assert_int_equal(use.own, 30u << 10);
	assert_int_equal(use.shmem, 7u << 10);
	assert_int_equal(use.tables, (8u << 10) + 3 * MEMUSE_STACK);
	assert_int_equal(use.processes, 2);
	memuse_parse("", "Pss_Anon", &use);
	assert_int_equal(use.own, 30u << 10);
}

static void *take(int flags)
{
	void *p = mmap(NULL, 32 * MIB, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

	assert_true(p != MAP_FAILED);
	memset(p, 1, 32 * MIB);
	return p;
}

static void test_own(void **state)
{
	struct memuse before = {0}, after = {0}, shared = {0};
	struct err err = ERR_INIT;
	void *p;

	(void)state;
	assert_int_equal(memuse_add(getpid(), &before, &err), 0);
	p = take(MAP_PRIVATE);
	assert_int_equal(memuse_add(getpid(), &after, &err), 0);
	assert_in_range(after.own - before.own, 31 * MIB, 40 * MIB);
	(void)munmap(p, 32 * MIB);
	p = take(MAP_SHARED); /* tmpfs, as a guest's memory is */
	assert_int_equal(memuse_add(getpid(), &shared, &err), 0);
	assert_in_range(shared.shmem - before.shmem, 31 * MIB, 33 * MIB);
	(void)munmap(p, 32 * MIB);
}

static int add(void *arg, pid_t pid)
{
	(void)memuse_add(pid, arg, NULL);
	return 0;
}

static int stop_at_second(void *arg, pid_t pid)
{
	(void)pid;
	return ++*(int *)arg == 2 ? 7 : 0;
}

/* A child and its child share 32 MiB: counted once over both. */
static void test_tree(void **state)
{
	struct memuse use = {0};
	struct err err = ERR_INIT;
	void *p = take(MAP_SHARED);
	int ready[2], seen = 0;
	pid_t child;
	char c;

	(void)state;
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	child = fork();
	if (child == 0) {
		pid_t grandchild = fork();

		for (size_t i = 0; i < 32 * MIB; i += 4096)
			((volatile char *)p)[i] = 2;
		(void)!write(ready[1], "x", 1);
		if (grandchild == 0)
			for (;;)
				(void)pause();
		(void)waitpid(grandchild, NULL, 0);
		_exit(0);
	}
	(void)munmap(p, 32 * MIB);
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(memuse_tree(child, add, &use, &err), 0);
	assert_int_equal(use.processes, 2);
	assert_in_range(use.shmem, 31 * MIB, 33 * MIB);
	assert_int_equal(memuse_tree(child, stop_at_second, &seen, &err), 7);
	{
		char path[64], text[64] = "";
		FILE *f;

		(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", child, child);
		f = fopen(path, "re");
		assert_non_null(f);
		assert_non_null(fgets(text, sizeof(text), f));
		(void)fclose(f);
		(void)kill((pid_t)strtol(text, NULL, 10), SIGKILL);
	}
	assert_int_equal(waitpid(child, NULL, 0), child);
	memset(&use, 0, sizeof(use));
	assert_int_equal(memuse_add(child, &use, &err), -ESRCH);
	assert_int_equal(use.processes, 0);
	(void)close(ready[0]);
	(void)close(ready[1]);
}

static void test_cached(void **state)
{
	char path[] = "/tmp/memuse.XXXXXX", *page = calloc(1, MIB);
	struct err err = ERR_INIT;
	uint64_t n = 1;
	int fd = mkostemp(path, O_CLOEXEC);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(memuse_cached(path, &n, &err), 0);
	assert_int_equal(n, 0);
	assert_int_equal(ftruncate(fd, 8 * MIB), 0); /* a hole is in no cache */
	assert_int_equal(pwrite(fd, page, MIB, 2 * MIB), MIB);
	assert_int_equal(memuse_cached(path, &n, &err), 0);
	assert_int_equal(n, MIB);
	assert_int_equal(fsync(fd), 0);
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	assert_int_equal(memuse_cached(path, &n, &err), 0);
	assert_int_equal(n, 0);
	(void)close(fd);
	(void)unlink(path);
	assert_int_equal(memuse_cached(path, &n, &err), -ENOENT);
	assert_int_equal(memuse_cached("/tmp", &n, &err), -EINVAL);
	free(page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_own),
		cmocka_unit_test(test_tree),
		cmocka_unit_test(test_cached),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
