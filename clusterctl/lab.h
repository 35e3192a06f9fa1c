/* lab: labs as YAML files, into Um__DeploymentSpec.
 *
 * A file holds one lab or several (documents after `---`).  Every mistake of
 * every file is collected in one go: what is wrong with the YAML, unknown keys
 * (with the key that was probably meant), wrong types and units (both found by
 * the tables of lab_schema.c), and what is wrong in meaning (spec_check()),
 * each with file, line and column.  The keys are described in
 * docs/reference/yaml.md.
 *
 * `defaults` are put under each guest before it is read: a key that the guest
 * has not is taken from them; the maps env, labels, placement and ready are
 * joined key by key.  Lists are not joined.
 */
#ifndef UMLAUT_CLUSTERCTL_LAB_H
#define UMLAUT_CLUSTERCTL_LAB_H

#include "clusterctl/diag.h"
#include "lib/err.h"
#include "spec/spec.h"

struct lab {
	char *file;		  /* as given; "-" is standard input */
	struct mark mark;	  /* of its name */
	Um__DeploymentSpec *spec; /* with defaults, valid */
};

struct labs {
	struct lab *items;
	size_t count;
};

/* Reads PATHS: files, folders (their *.yaml and *.yml, by name), "-".  On
 * success every lab is valid and no two have one name.  -EINVAL: DIAGS say what
 * is wrong; other codes: a file could not be read, which DIAGS say as well. */
int labs_load(const char *const *paths, size_t count, struct labs *out, struct diags *diags);
void labs_free(struct labs *labs);

/* The same from memory; FILE is for messages, DIR is where `source` is looked up
 * ("" is the current folder).  Appends to OUT. */
int lab_parse(const char *file, const char *dir, const void *data, size_t size, struct labs *out,
	struct diags *diags);

#endif
