/* What the files of this room share. */
#ifndef UMLAUT_SPEC_SPEC_INT_H
#define UMLAUT_SPEC_SPEC_INT_H

#include "lib/net.h"
#include "spec/spec.h"

/* Of the keys of labels and taints. */
#define LABEL_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-"
#define SPEC_WHERE 512 /* a path: longer ones are cut */

/* A set of keys that were seen, with where. */
struct seen {
	struct seen_slot {
		char *key;
		uint64_t value;
	} * slots;
	size_t count, capacity; /* capacity: a power of two or 0 */
	bool failed;
};
void seen_init(struct seen *seen);
void seen_free(struct seen *seen);
/* The value that stands under KEY by now: VALUE, or that of the first who came.
 * *FIRST says which.  After a shortage of memory `failed` is set. */
uint64_t seen_put(struct seen *seen, const char *key, uint64_t value, bool *first);
bool seen_get(const struct seen *seen, const char *key, uint64_t *value);

struct check_net {
	const Um__NetworkSpec *spec;
	struct net_prefix prefix[2]; /* IPv4, IPv6; family 0: none or wrong */
	struct net_addr gateway[2];
	bool gateway_taken[2]; /* a member has it */
	uint64_t members;
	uint64_t fixed[2];
};

struct check {
	const Um__DeploymentSpec *spec;
	struct spec_errors *out;
	struct check_net *nets; /* as in the spec */
	struct seen net_names;	/* name -> index */
	struct seen group_names;
	struct seen addresses; /* "lan 10.1.0.1" -> index of the group */
	struct seen macs;
	const char **net_list;	 /* for suggestions */
	const char **group_list; /* NULL: too many for that */
	uint64_t guests;
};

/* check_net.c */
void check_networks(struct check *c);
void check_network_room(struct check *c);
/* check_nic.c */
void check_nics(struct check *c, size_t group, const char *where);
void check_routes(struct check *c, const Um__GuestSpec *g, const char *where);
/* check_guest.c */
void check_guest(struct check *c, size_t group, const char *where);
/* check_place.c */
void check_placement(struct check *c, size_t group, const char *where);
/* check_with.c */
void check_affinities(struct check *c, size_t group, const char *where);
void check_circles(struct check *c);
/* check.c */
void check_labels(
	struct check *c, const char *where, const char *key, const char *value, struct seen *seen);

/* Adds ERR's message at "WHERE.FIELD" and clears it. */
void check_add(struct check *c, const char *where, const char *field, struct err *err);
/* "WHERE.FIELD" */
const char *check_at(char buf[SPEC_WHERE], const char *where, const char *field);
const char *check_at_index(char buf[SPEC_WHERE], const char *where, const char *field, size_t i);

static inline bool given(const char *text)
{
	return text && *text;
}

#endif
