/* why: the scheduler's reasons for where a guest is, or for that it waits. */
#ifndef UMLAUT_CLUSTERCTL_WHY_H
#define UMLAUT_CLUSTERCTL_WHY_H

#include "clusterctl/ctl.h"

/* FN gets the WhyReply; errors as of ctl_call(). */
int why_ask(struct ctl *ctl, const char *guest, ctl_reply_fn *fn, void *arg, struct err *err);
/* The table of reasons, and what would help; nothing where there are none. */
void why_print(const Um__WhyReply *reply);

#endif
