/* netns: network namespaces that live at a path (network_namespaces(7)).
 *
 * A namespace is kept alive by a bind mount of its nsfs file; entering one is done
 * only by short-lived threads, so the caller's own namespace never changes and a
 * failure cannot leave it in the wrong one.
 */
#ifndef UMLAUT_NODE_AGENT_NETNS_H
#define UMLAUT_NODE_AGENT_NETNS_H

#include "lib/err.h"

/* A descriptor (close-on-exec) of the namespace mounted at PATH.  -ENOENT when
 * there is none: no file, or a file that is no network namespace. */
int netns_open(const char *path, struct err *err);

/* Makes a namespace and mounts it at PATH (the file is made if need be, its folder
 * must exist).  Its descriptor. */
int netns_make(const char *path, struct err *err);

/* Unmounts and removes PATH.  Success when there is nothing. */
int netns_drop(const char *path, struct err *err);

/* Runs FN in a thread inside the namespace and waits for it.  FN's result, or
 * a negative errno when the namespace could not be entered. */
typedef int netns_fn(void *arg, struct err *err);
int netns_run(int fd, netns_fn *fn, void *arg, struct err *err);

#endif
