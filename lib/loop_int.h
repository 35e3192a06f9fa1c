/* loop_int: what the files of the event loop share.  Not for other rooms. */
#ifndef UMLAUT_LIB_LOOP_INT_H
#define UMLAUT_LIB_LOOP_INT_H

#include <uv.h>

#include "lib/loop.h"

#define LOOP_MAGIC 0x756d6c6fu

/* The head of every handle that the wrappers make: the owner's name for it, and
 * how loop_free() ends one that was forgotten.  uv_handle_t.data points here. */
struct loop_head {
	uint32_t magic;
	const char *name;
	void (*destroy)(struct loop_head *head);
};

struct loop {
	uv_loop_t uv;
	bool stopping;
	uv_prepare_t prepare; /* runs what was deferred, before the loop sleeps */
	uv_idle_t idle;	      /* keeps the loop turning while something is deferred */
	struct loop_head own;
	struct loop_defer *deferred, **deferred_tail;
	struct loop_defer *defers;		     /* all of them */
	struct loop_work *works;		     /* in the pool */
	struct loop_work *heavy_first, **heavy_last; /* wait for their turn */
	unsigned heavy;				     /* in the pool */
	bool ending;				     /* nothing more is deferred */
};

void loop_head_init(struct loop_head *head, const char *name, void (*destroy)(struct loop_head *));

/* libuv's codes are negative errno values on Linux. */
int loop_fail(struct err *err, int uvcode, const char *what, const char *name);

#endif
