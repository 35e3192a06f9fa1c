/* lab_schema: the keys of the lab's YAML, as tables.  Stays inside clusterctl;
 * a test compares docs/reference/yaml.md with them. */
#ifndef UMLAUT_CLUSTERCTL_LAB_SCHEMA_H
#define UMLAUT_CLUSTERCTL_LAB_SCHEMA_H

#include "clusterctl/ydoc.h"
#include "spec/spec.h"

/*  type    YAML                             in the message
 *  TEXT    a text                           char *
 *  WORD    one of `choices`                 char *
 *  ENUM    one of `choices`                 its index as an enum
 *  SIZE    64M, 1.5G, bytes                 uint64_t bytes
 *  CPUS    2, 0.5, 250m                     uint32_t milli-CPUs
 *  TIME    500ms, 10s, 5m                   uint32_t milliseconds
 *  U32     a number                         uint32_t
 *  I32     a number, also negative          int32_t
 *  MODE    octal digits                     uint32_t
 *  BOOL    true or false                    protobuf_c_boolean
 *  MAP     texts under texts                size_t n; entries **
 *  OTHER   see `read`                       anything
 */
enum lab_type {
	LAB_TEXT,
	LAB_WORD,
	LAB_ENUM,
	LAB_SIZE,
	LAB_CPUS,
	LAB_TIME,
	LAB_U32,
	LAB_I32,
	LAB_MODE,
	LAB_BOOL,
	LAB_MAP,
	LAB_OTHER
};

struct lab_ctx;

struct lab_field {
	const char *key;
	enum lab_type type;
	size_t offset;				 /* in the message; MAP: of its n_ member */
	const char *const *choices;		 /* ends with NULL */
	const ProtobufCMessageDescriptor *entry; /* MAP */
	void (*read)(struct lab_ctx *ctx, const struct ynode *node, void *msg);
};

struct lab_table {
	const char *name; /* heading in docs/reference/yaml.md */
	const struct lab_field *fields;
	size_t count;
};

#define LAB_TABLE(title, fields)                                    \
	{                                                           \
		title, fields, sizeof(fields) / sizeof((fields)[0]) \
	}
/* lab_place.c: a guest's `placement` into its Um__GuestSpec MSG. */
void lab_read_placement(struct lab_ctx *ctx, const struct ynode *node, void *msg);

extern const struct lab_table lab_top, lab_network, lab_guest, lab_nic, lab_file, lab_route,
	lab_ready, lab_placement, lab_neighbour, lab_spread;
extern const struct lab_table *const lab_tables[10];

/* ---- what the readers share (lab_read.c) ---- */

/* A place that has been complained about: NODE's value, or KEY missing in it.
 * The meaning of what stands there is not checked again. */
struct lab_bad {
	const struct ynode *node;
	const char *key; /* NULL: NODE itself */
};

struct lab_ctx {
	const char *file, *dir;
	struct diags *diags;
	struct ydoc *doc;
	const struct ynode *root, *defaults;
	const struct ynode **guests; /* each guest joined with the defaults */
	struct lab_bad *bad;
	size_t bad_count, bad_capacity;
	const char *key;     /* being read, for messages */
	size_t source_bytes; /* read from `source` files so far */
	bool failed;	     /* memory was short */
};

void lab_complain(struct lab_ctx *ctx, const struct ynode *node, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* The same about the text's byte OFFSET. */
void lab_complain_at(struct lab_ctx *ctx, const struct ynode *node, size_t offset, const char *fmt,
	...) __attribute__((format(printf, 4, 5)));
bool lab_is_bad(const struct lab_ctx *ctx, const struct ynode *node, const char *key);
/* NODE must be of that kind, else a complaint and false. */
bool lab_expect(struct lab_ctx *ctx, const struct ynode *node, enum ynode_kind kind);
/* Reads the map NODE into MSG by TABLE. */
void lab_read(
	struct lab_ctx *ctx, const struct ynode *node, const struct lab_table *table, void *msg);
bool lab_read_text(struct lab_ctx *ctx, const struct ynode *node, char **out);
/* A new, initialised message at the end of a repeated field (its n_ member at N). */
void *lab_append(struct lab_ctx *ctx, size_t *n, const ProtobufCMessageDescriptor *type);
/* The same for texts. */
bool lab_append_text(struct lab_ctx *ctx, size_t *n, const struct ynode *node);

/* Where a path of lib spec stands; *BAD: that place was complained about. */
struct mark lab_where(const struct lab_ctx *ctx, const char *path, bool *bad);

#endif
