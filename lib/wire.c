#include "lib/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FRAME_MAGIC 0x554d4631u /* "UMF1" */
#define FRAME_CHECK 0x5a5a5a5au

Um__Envelope wire_env(uint64_t id)
{
	Um__Envelope env = UM__ENVELOPE__INIT;

	env.id = id;
	env.major = WIRE_MAJOR;
	env.minor = WIRE_MINOR;
	return env;
}

void *wire_copy(const ProtobufCMessage *message)
{
	size_t size = protobuf_c_message_get_packed_size(message);
	uint8_t *packed = malloc(size + 1);
	ProtobufCMessage *copy = NULL;

	if (packed) {
		(void)protobuf_c_message_pack(message, packed);
		copy = protobuf_c_message_unpack(message->descriptor, NULL, size, packed);
	}
	free(packed);
	return copy;
}

int wire_pack(Um__Envelope *env, size_t max, struct buf *out, struct err *err)
{
	size_t size;

	env->major = WIRE_MAJOR;
	env->minor = WIRE_MINOR;
	if (env->body_case == UM__ENVELOPE__BODY__NOT_SET)
		return err_set(err, -EINVAL, "a message without a body");
	size = um__envelope__get_packed_size(env);
	if (size > max)
		return err_set(err, -EMSGSIZE, "message %s is %zu bytes, more than %zu",
			wire_body_name(env->body_case), size, max);
	if (!buf_reserve(out, size))
		return err_set(err, -ENOMEM, "memory is short for a message of %zu bytes", size);
	out->size += um__envelope__pack(env, out->data + out->size);
	return 0;
}

int wire_unpack(const void *data, size_t size, Um__Envelope **out, struct err *err)
{
	Um__Envelope *env;

	if (size > WIRE_MESSAGE_MAX)
		return err_set(err, -EBADMSG, "message of %zu bytes is more than %u", size,
			WIRE_MESSAGE_MAX);
	env = um__envelope__unpack(NULL, size, data);
	if (!env)
		return err_set(err, -EBADMSG, "%zu bytes are no message of ours", size);
	if (env->major != WIRE_MAJOR) {
		int rc = err_set(err, -EPROTO,
			"the peer speaks protocol version %u, we speak %u: upgrade the older one",
			env->major, WIRE_MAJOR);

		um__envelope__free_unpacked(env, NULL);
		return rc;
	}
	/* A body of a later minor version arrives as an unknown field. */
	if (env->body_case == UM__ENVELOPE__BODY__NOT_SET) {
		int rc = err_set(err, -EBADMSG, "a message without a body that we know (minor %u)",
			env->minor);

		um__envelope__free_unpacked(env, NULL);
		return rc;
	}
	*out = env;
	return 0;
}

static void put_u32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

int wire_frame(Um__Envelope *env, size_t max, struct buf *out, struct err *err)
{
	size_t start = out->size;
	uint32_t size;
	int rc;

	if (!buf_reserve(out, WIRE_FRAME_HEADER))
		return err_set(err, -ENOMEM, "memory is short for a frame");
	out->size += WIRE_FRAME_HEADER;
	rc = wire_pack(env, max, out, err);
	if (rc < 0) {
		out->size = start;
		return rc;
	}
	size = (uint32_t)(out->size - start - WIRE_FRAME_HEADER);
	put_u32(out->data + start, FRAME_MAGIC);
	put_u32(out->data + start + 4, size);
	put_u32(out->data + start + 8, FRAME_MAGIC ^ size ^ FRAME_CHECK);
	return 0;
}

void wire_reader_init(struct wire_reader *r, size_t max, bool resync)
{
	buf_init(&r->in);
	r->pos = 0;
	r->max = max;
	r->resync = resync;
	r->skipped = 0;
}

void wire_reader_free(struct wire_reader *r)
{
	buf_free(&r->in);
	r->pos = 0;
}

size_t wire_reader_held(const struct wire_reader *r)
{
	return r->in.size - r->pos;
}

/* What a reader keeps while it has nothing to read. */
#define KEEP_MAX (1u << 20)

int wire_reader_add(struct wire_reader *r, const void *data, size_t size, struct err *err)
{
	if (r->pos == r->in.size) {
		r->in.size = 0;
		r->pos = 0;
		if (r->in.capacity > KEEP_MAX)
			buf_free(&r->in);
	} else if (r->pos > r->in.size / 2) {
		/* Moved only when at least half is done with: linear in what comes. */
		buf_consume(&r->in, r->pos);
		r->pos = 0;
	}
	buf_add(&r->in, data, size);
	if (r->in.failed)
		return err_set(err, -ENOMEM, "memory is short for incoming frames");
	return 0;
}

/* True when the bytes at P (LEFT of them) can be, or can become, a header. */
static bool header_fits(const uint8_t *p, size_t left, size_t max, uint32_t *size)
{
	uint8_t magic[4];
	struct rd rd;

	put_u32(magic, FRAME_MAGIC);
	if (memcmp(p, magic, left < 4 ? left : 4) != 0)
		return false;
	if (left < WIRE_FRAME_HEADER)
		return true;
	rd_init(&rd, p + 4, 8);
	*size = rd_u32(&rd);
	return rd_u32(&rd) == (FRAME_MAGIC ^ *size ^ FRAME_CHECK) && *size <= max;
}

/* Passes over bytes up to the next possible header. */
static void skip_noise(struct wire_reader *r)
{
	size_t start = r->pos;
	uint32_t size;

	while (r->pos < r->in.size &&
		!header_fits(r->in.data + r->pos, wire_reader_held(r), r->max, &size))
		r->pos++;
	r->skipped += r->pos - start;
}

int wire_reader_next(struct wire_reader *r, Um__Envelope **out, struct err *err)
{
	for (;;) {
		size_t held = wire_reader_held(r);
		const uint8_t *at;
		uint32_t size = 0;
		int rc;

		if (!held)
			return 0;
		at = r->in.data + r->pos;
		if (!header_fits(at, held, r->max, &size)) {
			if (!r->resync)
				return err_set(err, -EBADMSG,
					"the peer sent a broken frame (or one over %zu bytes)",
					r->max);
			skip_noise(r);
			continue;
		}
		if (held < WIRE_FRAME_HEADER || held - WIRE_FRAME_HEADER < size)
			return 0;
		rc = wire_unpack(at + WIRE_FRAME_HEADER, size, out, err);
		r->pos += WIRE_FRAME_HEADER + size;
		if (rc == 0)
			return 1;
		/* On a line a damaged frame is passed over; the sender's version is not.
		 * The whole of it: what it carries must not be taken for a frame. */
		if (r->resync && rc == -EBADMSG) {
			r->skipped += WIRE_FRAME_HEADER + size;
			continue;
		}
		return rc;
	}
}

const char *wire_body_name(Um__Envelope__BodyCase body)
{
	const ProtobufCFieldDescriptor *field;

	field = protobuf_c_message_descriptor_get_field(&um__envelope__descriptor, (unsigned)body);
	return field ? field->name : "unknown";
}

static const struct {
	Um__ErrorCode code;
	int err;
} codes[] = {
	{UM__ERROR_CODE__INVALID, -EINVAL},
	{UM__ERROR_CODE__NOT_FOUND, -ENOENT},
	{UM__ERROR_CODE__CONFLICT, -EEXIST},
	{UM__ERROR_CODE__CONFLICT, -EBUSY},
	{UM__ERROR_CODE__CONFLICT, -ESTALE},
	{UM__ERROR_CODE__DENIED, -EACCES},
	{UM__ERROR_CODE__DENIED, -EPERM},
	{UM__ERROR_CODE__UNAVAILABLE, -EAGAIN},
	{UM__ERROR_CODE__UNAVAILABLE, -EHOSTUNREACH},
	{UM__ERROR_CODE__UNAVAILABLE, -ECONNREFUSED},
	{UM__ERROR_CODE__UNAVAILABLE, -ENOBUFS},
	{UM__ERROR_CODE__INTERNAL, -EIO},
	{UM__ERROR_CODE__PROTOCOL, -EPROTO},
	{UM__ERROR_CODE__PROTOCOL, -EBADMSG},
	{UM__ERROR_CODE__TIMEOUT, -ETIMEDOUT},
	{UM__ERROR_CODE__NO_SPACE, -ENOSPC},
	{UM__ERROR_CODE__UNPLACEABLE, -ERANGE},
	{UM__ERROR_CODE__REMOVED, -ENODEV},
};

Um__ErrorCode wire_code_from_errno(int code)
{
	if (code > 0)
		code = -code;
	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		if (codes[i].err == code)
			return codes[i].code;
	return UM__ERROR_CODE__INTERNAL;
}

int wire_errno_from_code(Um__ErrorCode code)
{
	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		if (codes[i].code == code)
			return codes[i].err;
	return -EIO;
}
