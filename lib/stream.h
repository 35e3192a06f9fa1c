/* stream: the credit window of one end of a stream (StreamOpen in
 * proto/umlaut.proto), both ways.
 *
 * Each end may send WIRE_STREAM_WINDOW bytes at first, and more as the other end
 * grants it by StreamCredit.  An end grants anew what its user has taken, when
 * that is half the window: so credits are few, and the sender never waits while
 * the receiver keeps up.  At any time, for what comes in:
 *
 *	may_come + held + owed == WIRE_STREAM_WINDOW
 *
 * (the peer may still send; came but not taken yet; taken but not granted anew),
 * so an end never holds more than a window.  The end point of a stream keeps one
 * of these; relays need none, the credits pass through them.
 *
 *	sending                                 receiving
 *	n = stream_window_room(w)               stream_window_received(w, size, err)
 *	send at most n bytes                    give the bytes to the user; when taken:
 *	stream_window_sent(w, size)             stream_window_consumed(w, size)
 *	at StreamCredit:                        if ((due = stream_window_due(w)) &&
 *	stream_window_credit(w, bytes, err)         a StreamCredit of `due` was sent)
 *	                                                stream_window_granted(w, due)
 *
 * A peer that breaks the rules is -EPROTO: end the stream.  Pure.
 */
#ifndef UMLAUT_LIB_STREAM_H
#define UMLAUT_LIB_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

/* The most that a peer may have granted us at a time; more is an attack. */
#define STREAM_CREDIT_MAX (1u << 20)

struct stream_window {
	uint32_t can_send; /* bytes that the peer lets us send */
	uint32_t may_come; /* bytes that the peer may send */
	uint32_t owed;	   /* bytes taken by the user, not granted anew */
};

void stream_window_init(struct stream_window *w);

/* Bytes for the next StreamData: 0 .. WIRE_STREAM_DATA. */
size_t stream_window_room(const struct stream_window *w);
void stream_window_sent(struct stream_window *w, size_t size);
/* A StreamCredit came.  -EPROTO when it goes beyond STREAM_CREDIT_MAX. */
int stream_window_credit(struct stream_window *w, uint32_t bytes, struct err *err);

/* A StreamData came.  -EPROTO when the peer had no credit for it. */
int stream_window_received(struct stream_window *w, size_t size, struct err *err);
/* Bytes received and not taken yet. */
size_t stream_window_held(const struct stream_window *w);
/* The user has taken SIZE of what is held. */
void stream_window_consumed(struct stream_window *w, size_t size);
/* What a StreamCredit should grant now; 0: none is due yet. */
uint32_t stream_window_due(const struct stream_window *w);
/* That StreamCredit was sent (where it was not, it stays due). */
void stream_window_granted(struct stream_window *w, uint32_t bytes);

#endif
