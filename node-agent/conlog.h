/* conlog: what the agent itself gives out as a stream: the console log of a guest without
 * a runner, and other texts made in the pool (memory.h). */
#ifndef UMLAUT_NODE_AGENT_CONLOG_H
#define UMLAUT_NODE_AGENT_CONLOG_H

#include "node-agent/guests.h"

#define CONLOG_BYTES_MAX (16u << 20) /* the newest, of both files */

struct conlog;

struct conlog_ops {
	void (*on_data)(void *arg, const void *data, size_t size);
	/* Once: all was sent (NULL), or it failed.  conlog_close() is safe inside. */
	void (*on_end)(void *arg, const struct err *err);
};

/* The last TAIL lines (0: all) of <dir>/console.log.1 and console.log; read in the
 * pool, given out as far as credit was granted, WIRE_STREAM_WINDOW at first. */
int conlog_open(struct loop *loop, const char *dir, uint32_t tail, const struct conlog_ops *ops,
	void *arg, struct conlog **out, struct err *err);
/* The same for what MAKE appends to OUT, in the pool; `free` is called with its ARG
 * once, on the loop, also after a failure of conlog_make(). */
struct conlog_maker {
	int (*make)(void *arg, struct buf *out, struct err *err);
	void (*free)(void *arg);
	void *arg;
};
int conlog_make(struct loop *loop, const struct conlog_maker *maker, const struct conlog_ops *ops,
	void *arg, struct conlog **out, struct err *err);
void conlog_credit(struct conlog *logs, uint32_t bytes);
void conlog_close(struct conlog *logs);

#endif
