/* conlog: the console log of a guest without a runner, as a stream. */
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
void conlog_credit(struct conlog *logs, uint32_t bytes);
void conlog_close(struct conlog *logs);

#endif
