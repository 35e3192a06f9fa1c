#include "lib/stream.h"

#include <errno.h>

#include "lib/wire.h"

_Static_assert(STREAM_CREDIT_MAX >= WIRE_STREAM_WINDOW, "the first window must be allowed");

void stream_window_init(struct stream_window *w)
{
	*w = (struct stream_window){.can_send = WIRE_STREAM_WINDOW, .may_come = WIRE_STREAM_WINDOW};
}

size_t stream_window_room(const struct stream_window *w)
{
	return w->can_send < WIRE_STREAM_DATA ? w->can_send : WIRE_STREAM_DATA;
}

void stream_window_sent(struct stream_window *w, size_t size)
{
	w->can_send -= size < w->can_send ? (uint32_t)size : w->can_send;
}

int stream_window_credit(struct stream_window *w, uint32_t bytes, struct err *err)
{
	if (bytes > STREAM_CREDIT_MAX - w->can_send)
		return err_set(err, -EPROTO,
			"the peer grants %u bytes on a stream beside the %u it granted before",
			bytes, w->can_send);
	w->can_send += bytes;
	return 0;
}

int stream_window_received(struct stream_window *w, size_t size, struct err *err)
{
	if (size > w->may_come)
		return err_set(err, -EPROTO,
			"the peer sends %zu bytes on a stream where it may send %u", size,
			w->may_come);
	w->may_come -= (uint32_t)size;
	return 0;
}

size_t stream_window_held(const struct stream_window *w)
{
	return WIRE_STREAM_WINDOW - w->may_come - w->owed;
}

void stream_window_consumed(struct stream_window *w, size_t size)
{
	size_t held = stream_window_held(w);

	w->owed += (uint32_t)(size < held ? size : held);
}

uint32_t stream_window_due(const struct stream_window *w)
{
	return w->owed >= WIRE_STREAM_WINDOW / 2 ? w->owed : 0;
}

void stream_window_granted(struct stream_window *w, uint32_t bytes)
{
	if (bytes > w->owed)
		bytes = w->owed;
	w->owed -= bytes;
	w->may_come += bytes;
}
