/* text: short texts that many guests share, each kept once. */
#ifndef UMLAUT_SCHEDULER_CORE_TEXT_H
#define UMLAUT_SCHEDULER_CORE_TEXT_H

struct core;
extern const char text_none[1]; /* "" */

/* *SLOT (text_none, or set by this before) becomes a text equal to TEXT.  Where
 * memory is short it becomes text_none. */
void text_set(struct core *core, const char **slot, const char *text);
void text_free_all(struct core *core);

#endif
