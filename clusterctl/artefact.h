/* artefact: what the verbs image and kernel share.
 *
 * All return 0 or an exit code; the error has been printed.  The connection is the
 * caller's to make (ctl_connect()) but for artefact_remove() and artefact_list().
 */
#ifndef UMLAUT_CLUSTERCTL_ARTEFACT_H
#define UMLAUT_CLUSTERCTL_ARTEFACT_H

#include <limits.h>

#include "clusterctl/ctl.h"

#define ARTEFACT_FOLDER (PATH_MAX - 16)

/* Sends FILE under INFO's name, with progress; fills ID. */
int artefact_send(
	struct ctl *ctl, const char *file, Um__ArtefactInfo *info, bool replace, uint8_t id[32]);
/* `VERB rm NAME...`: what argv[2..N) names. */
int artefact_remove(struct ctl *ctl, int n, char **argv, Um__ArtefactKind kind, bool force);
/* `VERB ls`, as `get KIND -o FORMAT`. */
int artefact_list(struct ctl *ctl, const char *kind, const char *format);

/* A fresh folder; the caller removes it. */
int artefact_temp(char path[ARTEFACT_FOLDER]);
/* Fills ENTRY; the texts are borrowed. */
Um__ArtefactInfo__MetaEntry *artefact_meta(
	Um__ArtefactInfo__MetaEntry *entry, const char *key, const char *value);

#endif
