/* diag: a list of complaints about files: FILE:LINE:COLUMN: message.
 *
 * The same complaint at the same place is kept once (a default that is wrong for
 * a hundred guests is one mistake).  At most DIAG_MAX are kept, the rest counted.
 */
#ifndef UMLAUT_CLUSTERCTL_DIAG_H
#define UMLAUT_CLUSTERCTL_DIAG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/buf.h"

#define DIAG_MAX 1000

struct mark {
	uint32_t line, column; /* from 1; 0: the file as a whole */
};

struct diag {
	char *file, *message;
	struct mark mark;
	size_t order; /* of the file */
};

struct diags {
	struct diag *items;
	size_t count, capacity, dropped;
	size_t file_order;
	bool failed;
};

void diags_init(struct diags *diags);
void diags_free(struct diags *diags);
void diag_add(struct diags *diags, const char *file, struct mark mark, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* Complaints from now on come after all before, whatever their lines. */
void diags_next_file(struct diags *diags);
/* All of them, by file and line, one a line; and how many were left out. */
void diags_text(struct diags *diags, struct buf *out);

#endif
