/* ydoc: YAML as a bounded tree of nodes with line and column (over libyaml's
 * events; YAML 1.1, https://yaml.org/spec/1.1/).
 *
 *  - Limits: YDOC_SIZE_MAX bytes, YDOC_DEPTH_MAX levels, YDOC_NODES_MAX nodes,
 *    where an alias counts as many nodes as it stands for.  What exceeds them is
 *    refused as soon as it is seen: nonsense, nesting and alias bombs cost
 *    little.
 *  - An alias is the same node again (not a copy); one that contains itself is
 *    an error.  Merge keys (<<) are carried out: explicit keys win, then the
 *    first map of a list of maps.
 *  - Keys are texts, and twice the same key is an error.
 *  - Scalars stay text: `no`, `0755`, `1e3` mean what the reader of the tree
 *    says.  `plain` tells them from quoted ones.  A scalar with a NUL is an error.
 *  - Tags other than YAML's own (!!str, !!int, ...) are errors.
 *
 * Everything belongs to the ydoc and goes with it.
 */
#ifndef UMLAUT_CLUSTERCTL_YDOC_H
#define UMLAUT_CLUSTERCTL_YDOC_H

#include "clusterctl/diag.h"
#include "lib/err.h"

#define YDOC_SIZE_MAX (16u << 20)
#define YDOC_DEPTH_MAX 64
#define YDOC_NODES_MAX 1000000
#define YDOC_DOCUMENTS_MAX 1000

enum ynode_kind { YNODE_SCALAR, YNODE_LIST, YNODE_MAP };

struct ynode {
	enum ynode_kind kind;
	bool plain; /* scalar: not quoted, no block */
	bool open;  /* while it is being read */
	struct mark mark;
	uint32_t weight;      /* nodes it stands for, itself included */
	const char *text;     /* scalar, terminated */
	size_t size;	      /* of the text */
	uint32_t column;      /* of the text's first byte, where it stands as it is; or 0 */
	struct ynode **items; /* list */
	struct ypair *pairs;  /* map */
	size_t count;	      /* of items or pairs */
};

struct ypair {
	struct ynode *key, *value;
};

struct ydoc;

/* Parses SIZE bytes at DATA: any number of documents.  -EINVAL (not YAML,
 * duplicate key ...), -E2BIG (a limit), -ENOMEM; MARK is where. */
int ydoc_parse(
	const void *data, size_t size, struct ydoc **out, struct mark *mark, struct err *err);
void ydoc_free(struct ydoc *doc);

/* Documents that are not empty. */
size_t ydoc_count(const struct ydoc *doc);
const struct ynode *ydoc_root(const struct ydoc *doc, size_t i);

/* The value under KEY, or NULL.  PAIR (may be NULL) gets the pair. */
const struct ynode *ynode_get(const struct ynode *map, const char *key, const struct ypair **pair);
/* Not given: plain and empty, "~" or "null". */
bool ynode_is_null(const struct ynode *node);
/* "a text", "a list", "a map", "nothing" */
const char *ynode_kind_text(const struct ynode *node);

/* The place of the text's byte OFFSET; the node's own where that is not known (a
 * text over several lines, or with escapes). */
struct mark ynode_at(const struct ynode *node, size_t offset);

/* A new map with the pairs of UPPER, and those of LOWER that UPPER has not.
 * Where a key is in both, in DEEP (NULL-terminated), and both are maps, the two
 * maps are joined the same way.  Belongs to DOC.  NULL: memory is short. */
const struct ynode *ydoc_join(struct ydoc *doc, const struct ynode *upper,
	const struct ynode *lower, const char *const *deep);

#endif
