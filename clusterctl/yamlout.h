/* yamlout: JSON text as block-style YAML, for -o yaml.  Strings stand plain where
 * no reader of YAML 1.1 or 1.2 could take them for anything else. */
#ifndef UMLAUT_CLUSTERCTL_YAMLOUT_H
#define UMLAUT_CLUSTERCTL_YAMLOUT_H

#include "lib/buf.h"
#include "lib/err.h"

/* Appends the one JSON value.  ITEM: as an item of a list. */
int yamlout(const char *json, size_t size, bool item, struct buf *out, struct err *err);

#endif
