/* sorted: the rows of a list, kept until all have come, and given out in the order of
 * one of their JSON fields: numbers by value, texts as `sort -V` does ("web-2" before
 * "web-10"), what is absent first.  Rows that are equal keep their order.
 */
#ifndef UMLAUT_CLUSTERCTL_SORTED_H
#define UMLAUT_CLUSTERCTL_SORTED_H

#include "clusterctl/show.h"

struct sorted {
	Um__Kind kind;
	const char *field; /* borrowed */
	bool backwards;
	struct sorted_row *rows;
	size_t count, room;
	Um__GetReply **replies; /* copies, which the rows point into */
	size_t reply_count;
};

/* BY: a field's name, after '-' for the largest first.  Borrowed. */
void sorted_init(struct sorted *s, Um__Kind kind, const char *by);
void sorted_free(struct sorted *s);
/* Keeps all rows of R.  -EINVAL: no such field; the message names those there are. */
int sorted_add(struct sorted *s, const Um__GetReply *r, struct err *err);
/* Calls FN with each row in order, until it is negative; that is returned. */
typedef int sorted_fn(void *arg, const Um__GetReply *r, size_t i);
int sorted_each(struct sorted *s, sorted_fn *fn, void *arg);

#endif
