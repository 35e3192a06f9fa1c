#include "lib/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *b)
{
	memset(b, 0, sizeof(*b));
}

void buf_free(struct buf *b)
{
	free(b->data);
	buf_init(b);
}

bool buf_reserve(struct buf *b, size_t more)
{
	size_t need, capacity;
	uint8_t *data;

	if (b->failed || more > SIZE_MAX / 2 || b->size > SIZE_MAX / 2 - more ||
		(b->limit && b->size + more > b->limit)) {
		b->failed = true;
		return false;
	}
	need = b->size + more;
	if (need <= b->capacity)
		return true;
	capacity = b->capacity ? b->capacity : 64;
	while (capacity < need)
		capacity *= 2;
	data = realloc(b->data, capacity);
	if (!data) {
		b->failed = true;
		return false;
	}
	b->data = data;
	b->capacity = capacity;
	return true;
}

void buf_add(struct buf *b, const void *data, size_t size)
{
	if (!size || !buf_reserve(b, size))
		return;
	memcpy(b->data + b->size, data, size);
	b->size += size;
}

void buf_add_byte(struct buf *b, uint8_t byte)
{
	buf_add(b, &byte, 1);
}

void buf_add_str(struct buf *b, const char *text)
{
	buf_add(b, text, strlen(text));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap, again;
	int n;

	va_start(ap, fmt);
	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0) {
		b->failed = true;
	} else if (buf_reserve(b, (size_t)n + 1)) {
		(void)vsnprintf((char *)b->data + b->size, (size_t)n + 1, fmt, again);
		b->size += (size_t)n;
	}
	va_end(again);
}

void buf_consume(struct buf *b, size_t size)
{
	if (size >= b->size) {
		b->size = 0;
		return;
	}
	if (!size)
		return;
	memmove(b->data, b->data + size, b->size - size);
	b->size -= size;
}

const char *buf_text(struct buf *b)
{
	/* The terminator is outside of size, and outside of the limit too. */
	size_t limit = b->limit;
	bool room;

	b->limit = 0;
	room = buf_reserve(b, 1);
	b->limit = limit;
	if (!room)
		return "";
	b->data[b->size] = 0;
	return (const char *)b->data;
}

uint8_t *buf_steal(struct buf *b, size_t *size)
{
	uint8_t *data = b->data;

	if (size)
		*size = b->size;
	buf_init(b);
	return data;
}

void rd_init(struct rd *r, const void *data, size_t size)
{
	*r = (struct rd){.data = data, .size = size};
}

const uint8_t *rd_bytes(struct rd *r, size_t size)
{
	const uint8_t *at;

	if (r->error)
		return NULL;
	if (size > r->size - r->pos) {
		r->error = -EBADMSG;
		return NULL;
	}
	at = r->data + r->pos;
	r->pos += size;
	return at;
}

static uint64_t rd_big(struct rd *r, size_t size)
{
	const uint8_t *p = rd_bytes(r, size);
	uint64_t v = 0;

	for (size_t i = 0; p && i < size; i++)
		v = v << 8 | p[i];
	return v;
}

uint8_t rd_u8(struct rd *r)
{
	return (uint8_t)rd_big(r, 1);
}

uint16_t rd_u16(struct rd *r)
{
	return (uint16_t)rd_big(r, 2);
}

uint32_t rd_u32(struct rd *r)
{
	return (uint32_t)rd_big(r, 4);
}

uint64_t rd_u64(struct rd *r)
{
	return rd_big(r, 8);
}

void rd_skip(struct rd *r, size_t size)
{
	(void)rd_bytes(r, size);
}

size_t rd_left(const struct rd *r)
{
	return r->error ? 0 : r->size - r->pos;
}

void wr_init(struct wr *w, void *data, size_t size)
{
	*w = (struct wr){.data = data, .size = size};
}

void wr_bytes(struct wr *w, const void *data, size_t size)
{
	if (w->error)
		return;
	if (size > w->size - w->pos) {
		w->error = -ENOSPC;
		return;
	}
	if (size)
		memcpy(w->data + w->pos, data, size);
	w->pos += size;
}

static void wr_big(struct wr *w, uint64_t v, size_t size)
{
	uint8_t bytes[8];

	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(v >> (8 * (size - 1 - i)));
	wr_bytes(w, bytes, size);
}

void wr_u8(struct wr *w, uint8_t v)
{
	wr_big(w, v, 1);
}

void wr_u16(struct wr *w, uint16_t v)
{
	wr_big(w, v, 2);
}

void wr_u32(struct wr *w, uint32_t v)
{
	wr_big(w, v, 4);
}

void wr_u64(struct wr *w, uint64_t v)
{
	wr_big(w, v, 8);
}
