/* show: rows of the lists as tables and as JSON. */
#ifndef UMLAUT_CLUSTERCTL_SHOW_H
#define UMLAUT_CLUSTERCTL_SHOW_H

#include "clusterctl/ctl.h"
#include "lib/json.h"

struct kind {
	Um__Kind kind;
	const char *names[4]; /* "guests", "guest", "g" */
	const char *const *columns, *const *wide;
	size_t column_count, wide_count;
};

const struct kind *kind_find(const char *name);
/* Says that there is no kind NAME, and which was probably meant; EXIT_USAGE. */
int kind_unknown(const struct ctl *ctl, const char *name);
const char *kind_names(void); /* "hosts, guests, ..." */

/* One row of REPLY is one object; ROW counts from 0.  False: no such row. */
bool show_json(const Um__GetReply *reply, Um__Kind kind, size_t row, struct json *j);
bool show_cells(const Um__GetReply *reply, Um__Kind kind, size_t row, bool wide, struct table *t);
const char *show_name(const Um__GetReply *r, Um__Kind kind, size_t i);
/* By what GetReply.deleted names it: guests by uid, all else by name. */
void show_key(const Um__GetReply *r, Um__Kind kind, size_t i, char key[128]);
size_t show_count(const Um__GetReply *reply, Um__Kind kind);

/* KEY: WHEN (ms of the wall clock) as text; null for 0. */
void show_time_json(struct json *j, const char *key, uint64_t when);

/* show_move.c */
bool show_move_ended(const Um__MigrationInfo *m);
/* --rate.  -ERANGE: less than anybody can mean. */
#define SHOW_RATE_MIN (UINT64_C(64) << 10)
int show_parse_rate(const char *text, uint64_t *out, struct err *err);
/* How a move that is under way stands, for a person, in one line:
 *   lab/g: copying, round 2: 12M sent, ~13M left, 98M/s, 130ms; downtime ~210ms
 * The downtime only where it is known; SIZE is that of OUT; what is more is cut off. */
void show_move_line(const Um__MigrationInfo *m, char *out, size_t size);
/* Prints "GUEST moved from A to B in 3 s, stopped for ..." */
void show_moved(const Um__MigrationInfo *m);
void show_move_cells(const Um__MigrationInfo *m, bool wide, struct table *t);
void show_move_json(const Um__MigrationInfo *m, struct json *j);

/* cmd_prune.c */
void show_orphan_cells(const Um__OrphanInfo *o, bool wide, struct table *t);
void show_orphan_json(const Um__OrphanInfo *o, struct json *j);

/* Parts for the verb kernel: a value of META, "" when it has none; "features" as an
 * array; the members of an image or kernel but "config". */
const char *show_meta(const Um__ArtefactInfo *a, const char *key);
void show_features(struct json *j, const char *features);
void show_artefact(const Um__ArtefactInfo *a, struct json *j);

#endif
