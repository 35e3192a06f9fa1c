/* The tar parser: archives come from clients and from guests. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/tar.h"

static int on_entry(void *arg, const struct tar_entry *e, struct err *err)
{
	uint64_t *left = arg;

	(void)err;
	*left = e->size;
	/* Both are terminated texts. */
	return strlen(e->path) + strlen(e->link) > 2 * TAR_PATH_MAX ? -EINVAL : 0;
}

static int on_data(void *arg, const uint8_t *data, size_t size, struct err *err)
{
	uint64_t *left = arg;

	(void)data;
	(void)err;
	if (size > *left)
		__builtin_trap();
	*left -= size;
	return 0;
}

static int on_done(void *arg, struct err *err)
{
	uint64_t *left = arg;

	(void)err;
	if (*left)
		__builtin_trap();
	return 0;
}

/* Bytes 148 to 155: the sum of the block with these as blanks, in octal. */
static void put_checksum(uint8_t *block)
{
	char text[8];
	unsigned sum = 0;

	memset(block + 148, ' ', 8);
	for (size_t i = 0; i < TAR_BLOCK; i++)
		sum += block[i];
	(void)snprintf(text, sizeof(text), "%06o", sum);
	memcpy(block + 148, text, 7);
}

/* Good checksums, or nothing would get past them. */
static void fix_checksums(uint8_t *data, size_t size)
{
	size_t at;

	for (at = 0; at + TAR_BLOCK <= size; at += TAR_BLOCK)
		if (memcmp(data + at + 257 /* of the magic */, "ustar", 5) == 0)
			put_checksum(data + at);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	uint8_t *data = malloc(size + 1);
	static const struct tar_ops ops = {.entry = on_entry, .data = on_data, .done = on_done};
	struct tar_reader r;
	struct err err = ERR_INIT;
	uint64_t left = 0;
	size_t half = size ? input[0] * size / 256 : 0;

	if (!data)
		return 0;
	memcpy(data, input, size);
	fix_checksums(data, size);
	tar_reader_init(&r, &ops, &left);
	if (tar_reader_add(&r, data, half, &err) == 0 &&
		tar_reader_add(&r, data + half, size - half, &err) == 0)
		(void)tar_reader_finish(&r, &err);
	tar_reader_free(&r);
	free(data);
	return 0;
}
