/* buf: a growable byte buffer, and bounded big-endian cursors with a sticky error.
 *
 * buf_*: after a failed growth the buffer is unchanged and `failed` is set;
 * write freely, check once.  rd_* / wr_*: after the first out-of-bounds access
 * every read gives 0 and `error` stays -EBADMSG / -ENOSPC.  (The idea is that of
 * knot-dns's wire_ctx.)  Pure.
 */
#ifndef UMLAUT_LIB_BUF_H
#define UMLAUT_LIB_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
	uint8_t *data;
	size_t size; /* bytes used */
	size_t capacity;
	bool failed;  /* sticky: memory was short or the limit was hit */
	size_t limit; /* 0: none */
};

void buf_init(struct buf *b);
void buf_free(struct buf *b); /* and re-initialises */
bool buf_reserve(struct buf *b, size_t more);
void buf_add(struct buf *b, const void *data, size_t size);
void buf_add_byte(struct buf *b, uint8_t byte);
void buf_add_str(struct buf *b, const char *text);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_consume(struct buf *b, size_t size); /* drops from the front */
/* NUL-terminates (not counted in size) and returns the text; "" when failed. */
const char *buf_text(struct buf *b);
/* Takes the memory out; caller frees. */
uint8_t *buf_steal(struct buf *b, size_t *size);

struct rd {
	const uint8_t *data;
	size_t size, pos;
	int error;
};
void rd_init(struct rd *r, const void *data, size_t size);
uint8_t rd_u8(struct rd *r);
uint16_t rd_u16(struct rd *r);
uint32_t rd_u32(struct rd *r);
uint64_t rd_u64(struct rd *r);
const uint8_t *rd_bytes(struct rd *r, size_t size); /* NULL on error */
void rd_skip(struct rd *r, size_t size);
size_t rd_left(const struct rd *r);

struct wr {
	uint8_t *data;
	size_t size, pos;
	int error;
};
void wr_init(struct wr *w, void *data, size_t size);
void wr_u8(struct wr *w, uint8_t v);
void wr_u16(struct wr *w, uint16_t v);
void wr_u32(struct wr *w, uint32_t v);
void wr_u64(struct wr *w, uint64_t v);
void wr_bytes(struct wr *w, const void *data, size_t size);

#endif
