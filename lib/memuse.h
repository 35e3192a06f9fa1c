/* memuse: what processes and files hold of this machine's memory, when asked.
 *
 * Nothing is counted beforehand and nothing is polled: each call reads /proc for the
 * processes that it is about.  Sources, all in proc(5):
 *
 *   what     from                                   meaning
 *   shmem    smaps_rollup Pss_Shmem                 tmpfs and memfd: a UML guest's memory
 *   own      smaps_rollup Pss_Anon + Pss_File       heaps, stacks; code and data of files
 *   tables   status VmPTE, MEMUSE_STACK a thread    in the kernel on behalf of the process
 *
 * Pss: a page that N processes map counts 1/N in each, so sums over processes count
 * each page once.  A process that ends meanwhile counts nothing.  Blocking (page tables
 * are walked: about a millisecond for 100 MiB): for the pool.
 */
#ifndef UMLAUT_LIB_MEMUSE_H
#define UMLAUT_LIB_MEMUSE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

#define MEMUSE_STACK (16u << 10) /* THREAD_SIZE of x86-64 */
#define MEMUSE_TREE_MAX 65536u	 /* processes */

struct memuse {
	uint64_t shmem, own, tables; /* bytes */
	uint32_t processes;
};

/* Adds the process PID.  -ESRCH when there is none, or it has no memory (a zombie). */
int memuse_add(pid_t pid, struct memuse *use, struct err *err);
/* The texts of smaps_rollup and status; pure. */
void memuse_parse(const char *smaps, const char *status, struct memuse *use);
/* PID and all below it, parents before children; FN gets each.  Ends early at not 0 of FN and
 * returns it.  -E2BIG over MEMUSE_TREE_MAX. */
typedef int memuse_fn(void *arg, pid_t pid);
int memuse_tree(pid_t pid, memuse_fn *fn, void *arg, struct err *err);
/* Bytes of the file PATH that are in the page cache (mincore(2): whole pages). */
int memuse_cached(const char *path, uint64_t *out, struct err *err);

#endif
