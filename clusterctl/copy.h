/* copy: this side of `cp`: files and folders here into a tar stream, and back.
 *
 * Into a guest: members are named from the last component of the path ("site",
 * "site/index.html"; "." for "." and "/"), so the guest can put them into a folder
 * or give them another name.  All belong to root there.  A link that is named
 * itself is followed; links below are links.  Sockets, devices and pipes are left
 * out.  "-" is standard input as one file.
 *
 * Out of a guest: the archive comes from a guest and is not trusted.  Every member
 * is resolved beneath the target without following any link (openat2(2),
 * RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS); owners and set-id bits are dropped;
 * devices and pipes are left out.  A target that is a folder gets the members in
 * it; another name becomes the name of the one top-level member.  "-" is standard
 * output, for one file.
 */
#ifndef UMLAUT_CLUSTERCTL_COPY_H
#define UMLAUT_CLUSTERCTL_COPY_H

#include "clusterctl/stream.h"

struct packer;
/* REMOTE: the path in the guest, whose last component names what comes from "-". */
int packer_new(const char *path, const char *remote, struct packer **out, struct err *err);
/* What is to be sent next; SIZE 0: that was all.  Valid until packer_consume(). */
int packer_peek(struct packer *p, const uint8_t **data, size_t *size, struct err *err);
void packer_consume(struct packer *p, size_t size);
void packer_free(struct packer *p);

struct unpacker;
int unpacker_new(const char *target, struct unpacker **out, struct err *err);
int unpacker_add(struct unpacker *u, const uint8_t *data, size_t size, struct err *err);
/* The archive is over: is it whole?  Sets the modes of folders. */
int unpacker_finish(struct unpacker *u, struct err *err);
void unpacker_free(struct unpacker *u);

#endif
