/* keep: what guests wrote on their disks is removed only when that was decided, durably. */
#ifndef UMLAUT_TESTS_SIM_KEEP_H
#define UMLAUT_TESTS_SIM_KEEP_H

#include "tests/sim/sim.h"

/* What a guest writes on its disk. */
struct keep_disk {
	uint64_t runs, generation, epoch; /* runs 0: a fresh one */
};
/* False: no such text. */
bool keep_read(const char *data, size_t size, struct keep_disk *out);
void keep_write(const struct keep_disk *disk, char text[80]);

/* A process is about to remove PATH, or to put something else in its place. */
void keep_removed(const struct sim_machine *m, const char *path);
/* After each event of the scheduler: who left a lost host. */
void keep_heard(struct serve *s);
/* It left the lost host where it ran under EPOCH, and may go on, once, with its disk as it
 * was before it moved there. */
bool keep_given_back(uint64_t uid, uint64_t generation, uint64_t epoch);
void keep_free(void);
/* In the end: the orphans that are listed are those that are there. */
bool keep_settled(const struct serve *s, const struct sim_machine *m, char *why, size_t size);

#endif
