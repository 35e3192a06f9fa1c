/* wire: Envelopes in and out of bytes, and frames on byte streams.
 *
 * The only place that packs or unpacks: it checks size limits, the protocol
 * version and that a body is present.  A frame on a byte stream (Unix socket,
 * guest line) is: magic u32 "UMF1", payload size u32, check u32 (magic ^ size ^
 * 0x5a5a5a5a; it tells a header from noise, it is no checksum), then the packed
 * Envelope; all big-endian.  A wrong magic, check or size is a hard error on a
 * socket (-EBADMSG, the connection is closed); on a guest's line the reader may
 * skip bytes to the next header (the kernel may have written there before init).
 *
 * Pure but for malloc; needs only libprotobuf-c, so that umlaut-init can link it.
 */
#ifndef UMLAUT_LIB_WIRE_H
#define UMLAUT_LIB_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/buf.h"
#include "lib/err.h"
#include "proto/umlaut.pb-c.h"

#define WIRE_MAJOR 1u
#define WIRE_MINOR 0u
#define WIRE_MESSAGE_MAX (16u << 20) /* packed Envelope over ZeroMQ or a Unix socket */
#define WIRE_LINE_MAX (64u << 10)    /* over a guest's line */
#define WIRE_LINE_WINDOW 3072u	     /* unconfirmed bytes into a guest, LineAck */
#define WIRE_LINE_BULK (1u << 20)    /* bytes of a guest's bulk device */
#define WIRE_BULK_BATCH (128u << 10) /* most bytes of one LineBulk */
#define WIRE_BULK_ALIGN 4096u	     /* where a LineBulk may begin, for direct I/O */
#define WIRE_FRAME_HEADER 12u
#define WIRE_STREAM_WINDOW (256u << 10) /* first credit of a stream, bytes each way */
#define WIRE_STREAM_DATA (16u << 10)	/* most bytes in one StreamData */

/* A deep copy of any message, with what we do not know of it; NULL when memory is short.
 * The caller's: protobuf_c_message_free_unpacked(), or its um__..__free_unpacked(). */
void *wire_copy(const ProtobufCMessage *message);

/* Packs ENV (major and minor are filled in) and appends it to OUT.
 * -EMSGSIZE when over MAX. */
int wire_pack(Um__Envelope *env, size_t max, struct buf *out, struct err *err);
/* Unpacks; caller frees with um__envelope__free_unpacked(env, NULL).
 * -EPROTO: another major version (the message says both);
 * -EBADMSG: not an Envelope or no body.  *OUT is set only on success. */
int wire_unpack(const void *data, size_t size, Um__Envelope **out, struct err *err);

/* Appends header and packed ENV. */
int wire_frame(Um__Envelope *env, size_t max, struct buf *out, struct err *err);

/* Takes bytes as they come, gives whole Envelopes. */
struct wire_reader {
	struct buf in;
	size_t pos; /* bytes at the front of `in` that are done with */
	size_t max;
	bool resync;	  /* skip to the next header instead of failing */
	uint64_t skipped; /* bytes skipped so far */
};
void wire_reader_init(struct wire_reader *r, size_t max, bool resync);
void wire_reader_free(struct wire_reader *r);
int wire_reader_add(struct wire_reader *r, const void *data, size_t size, struct err *err);
/* Bytes that are here and not given out yet. */
size_t wire_reader_held(const struct wire_reader *r);
/* 1 and *OUT: an Envelope (caller frees); 0: more bytes needed; negative: broken. */
int wire_reader_next(struct wire_reader *r, Um__Envelope **out, struct err *err);

/* An Envelope on the stack with one body:
 *   Um__Envelope env = wire_env(id); Um__Ok ok = UM__OK__INIT;
 *   env.body_case = UM__ENVELOPE__BODY_OK; env.ok = &ok;            */
Um__Envelope wire_env(uint64_t id);

/* The name of a body, "agent_hello", for logs; "unknown". */
const char *wire_body_name(Um__Envelope__BodyCase body);
Um__ErrorCode wire_code_from_errno(int code);
int wire_errno_from_code(Um__ErrorCode code);

#endif
