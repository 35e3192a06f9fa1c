/* What the files of ydoc share. */
#ifndef UMLAUT_CLUSTERCTL_YDOC_INT_H
#define UMLAUT_CLUSTERCTL_YDOC_INT_H

#include "clusterctl/ydoc.h"

struct chunk;

struct ydoc {
	struct chunk *chunks;
	struct ynode **roots;
	size_t count, capacity;
};

/* Memory that goes with DOC; NULL when it is short. */
void *ydoc_take(struct ydoc *doc, size_t size);
/* Pointers to the pairs of a map, sorted by key; caller frees. */
const struct ypair **ypairs_sorted(const struct ypair *pairs, size_t count);
/* Adds to OUT (with room for all) the pairs of FROM whose keys are not in it yet;
 * the new count, SIZE_MAX when memory is short. */
size_t ypairs_add(struct ypair *out, size_t count, const struct ynode *from);

/* Columns that SIZE bytes of UTF-8 take. */
size_t ynode_columns(const char *text, size_t size);

#endif
