/* What the tests of image/ share: a folder, files of random data with holes. */
#ifndef UMLAUT_TESTS_UNIT_IMAGE_IMGKIT_H
#define UMLAUT_TESTS_UNIT_IMAGE_IMGKIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/store.h"
#include "lib/fs.h"
#include "lib/proc.h"
#include "lib/str.h"

struct kit {
	char dir[64];
	uint8_t *data; /* of the file made last */
	size_t size;
};

static inline int kit_setup(void **state)
{
	struct kit *kit = calloc(1, sizeof(*kit));

	assert_non_null(kit);
	(void)str_copy(kit->dir, sizeof(kit->dir), "/tmp/umlaut-img-XXXXXX");
	assert_non_null(mkdtemp(kit->dir));
	*state = kit;
	return 0;
}

static inline int kit_teardown(void **state)
{
	struct kit *kit = *state;

	(void)fs_remove_tree(kit->dir, NULL);
	free(kit->data);
	free(kit);
	return 0;
}

static inline const char *kit_path(const struct kit *kit, const char *name)
{
	static char path[8][PATH_MAX];
	static unsigned n;
	char *p = path[n++ % 8];

	assert_true(str_format(p, PATH_MAX, "%s/%s", kit->dir, name) > 0);
	return p;
}

/* CHUNKS chunks of random data, each third a hole, the last one short by CUT. */
static inline void kit_make(struct kit *kit, const char *name, uint32_t chunks, size_t cut)
{
	int fd = open(kit_path(kit, name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	free(kit->data);
	kit->size = (size_t)chunks * MANIFEST_CHUNK - cut;
	kit->data = calloc(1, kit->size);
	assert_non_null(kit->data);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)kit->size), 0);
	for (uint32_t i = 0; i < chunks; i++) {
		size_t at = (size_t)i * MANIFEST_CHUNK;
		size_t n = kit->size - at < MANIFEST_CHUNK ? kit->size - at : MANIFEST_CHUNK;

		if (i % 3 == 2)
			continue;
		proc_random(kit->data + at, n);
		assert_int_equal(pwrite(fd, kit->data + at, n, (off_t)at), n);
	}
	(void)close(fd);
}

static inline struct manifest *kit_manifest(const struct kit *kit, const char *name)
{
	int fd = open(kit_path(kit, name), O_RDONLY | O_CLOEXEC);
	struct manifest *m = NULL;
	struct err err = ERR_INIT;

	assert_true(fd >= 0);
	if (manifest_build(fd, NULL, NULL, &m, &err) < 0)
		fail_msg("%s", err_msg(&err));
	(void)close(fd);
	return m;
}

static inline void kit_same_file(const struct kit *kit, const char *path)
{
	struct err err = ERR_INIT;
	struct buf b;

	buf_init(&b);
	if (fs_read(path, kit->size + 1, &b, &err) < 0)
		fail_msg("%s", err_msg(&err));
	assert_int_equal(b.size, kit->size);
	assert_memory_equal(b.data, kit->data, kit->size);
	buf_free(&b);
}

static inline struct imgstore *kit_store(const struct kit *kit, const char *name)
{
	struct imgstore *store = NULL;
	struct err err = ERR_INIT;

	if (imgstore_open(kit_path(kit, name), &store, &err) < 0)
		fail_msg("%s", err_msg(&err));
	return store;
}

#endif
