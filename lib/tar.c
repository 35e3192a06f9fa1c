#include "lib/tar.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/str.h"

/* Offsets and sizes in a header block, ustar. */
enum {
	NAME = 0,
	NAME_SIZE = 100,
	MODE = 100,
	UID = 108,
	GID = 116,
	SIZE = 124,
	MTIME = 136,
	CHECKSUM = 148,
	TYPE = 156,
	LINK = 157,
	LINK_SIZE = 100,
	MAGIC = 257,
	PREFIX = 345,
	PREFIX_SIZE = 155,
};
#define OCTAL_MAX_11 077777777777ULL

static const uint8_t zeros[TAR_BLOCK];

/* ---------------------------------------------------------------- writing */

static void put_octal(uint8_t *field, int digits, uint64_t value)
{
	int i;

	field[digits] = '\0';
	for (i = digits - 1; i >= 0; i--) {
		field[i] = (uint8_t)('0' + (value & 7));
		value >>= 3;
	}
}

static void put_text(uint8_t *field, size_t size, const char *text)
{
	size_t len = strnlen(text, size);

	/* A field that is full has no NUL. */
	memcpy(field, text, len); /* NOLINT(bugprone-not-null-terminated-result) */
}

static void put_checksum(uint8_t block[TAR_BLOCK])
{
	unsigned sum = 0;
	size_t i;

	memset(block + CHECKSUM, ' ', 8);
	for (i = 0; i < TAR_BLOCK; i++)
		sum += block[i];
	put_octal(block + CHECKSUM, 6, sum);
}

static void put_block(
	struct buf *out, const struct tar_entry *e, char type, const char *path, uint64_t size)
{
	uint8_t block[TAR_BLOCK] = {0};

	put_text(block + NAME, NAME_SIZE, path);
	put_octal(block + MODE, 7, e->mode & 07777);
	put_octal(block + UID, 7, e->uid & 07777777);
	put_octal(block + GID, 7, e->gid & 07777777);
	put_octal(block + SIZE, 11, size <= OCTAL_MAX_11 ? size : 0);
	put_octal(block + MTIME, 11, e->mtime > 0 ? (uint64_t)e->mtime & OCTAL_MAX_11 : 0);
	block[TYPE] = (uint8_t)type;
	put_text(block + LINK, LINK_SIZE, e->link);
	memcpy(block + MAGIC, "ustar\00000", 8); /* NOLINT: magic and version fill the field */
	put_checksum(block);
	buf_add(out, block, sizeof(block));
}

/* "LEN key=value\n", where LEN counts itself. */
static void pax_record(struct buf *out, const char *key, const char *value)
{
	size_t rest = strlen(key) + strlen(value) + 3;
	size_t total = rest + 1, digits = 1;
	char number[24];

	for (;;) {
		digits = (size_t)snprintf(number, sizeof(number), "%zu", total);
		if (total == rest + digits)
			break;
		total = rest + digits;
	}
	buf_printf(out, "%zu %s=%s\n", total, key, value);
}

static void pax_number(struct buf *out, const char *key, int64_t value)
{
	char text[24];

	(void)snprintf(text, sizeof(text), "%lld", (long long)value);
	pax_record(out, key, text);
}

size_t tar_padding(uint64_t size)
{
	return (size_t)((TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK);
}

void tar_header(struct buf *out, const struct tar_entry *e)
{
	uint64_t size = e->type == TAR_FILE ? e->size : 0;
	char path[TAR_PATH_MAX + 1];
	struct buf pax;

	/* A folder's name ends in a slash, by custom. */
	(void)snprintf(path, sizeof(path), "%s%s", e->path, e->type == TAR_DIR ? "/" : "");
	buf_init(&pax);
	if (strlen(path) > NAME_SIZE)
		pax_record(&pax, "path", path);
	if (strlen(e->link) > LINK_SIZE)
		pax_record(&pax, "linkpath", e->link);
	if (size > OCTAL_MAX_11)
		pax_number(&pax, "size", (int64_t)size);
	if (e->uid > 07777777)
		pax_number(&pax, "uid", e->uid);
	if (e->gid > 07777777)
		pax_number(&pax, "gid", e->gid);
	if (e->mtime < 0 || e->mtime > (int64_t)OCTAL_MAX_11)
		pax_number(&pax, "mtime", e->mtime);
	if (pax.size > 0) {
		put_block(out, e, 'x', "././@PaxHeader", pax.size);
		buf_add(out, pax.data, pax.size);
		buf_add(out, zeros, tar_padding(pax.size));
	}
	if (pax.failed)
		out->failed = true;
	buf_free(&pax);
	put_block(out, e, (char)e->type, path, size);
}

void tar_end(struct buf *out)
{
	buf_add(out, zeros, TAR_BLOCK);
	buf_add(out, zeros, TAR_BLOCK);
}

/* ---------------------------------------------------------------- reading */

void tar_reader_init(struct tar_reader *r, const struct tar_ops *ops, void *arg)
{
	memset(r, 0, sizeof(*r));
	r->ops = ops;
	r->arg = arg;
	buf_init(&r->ext);
	r->ext.limit = TAR_EXT_MAX + 1;
}

void tar_reader_free(struct tar_reader *r)
{
	buf_free(&r->ext);
}

/* Octal with spaces around, or GNU's base 256.  Bad digits end the number. */
static uint64_t get_number(const uint8_t *field, size_t size)
{
	uint64_t value = 0;
	size_t i = 0;

	if (field[0] & 0x80) {
		for (i = size - 8; i < size; i++)
			value = value << 8 | field[i];
		return value;
	}
	while (i < size && field[i] == ' ')
		i++;
	for (; i < size && field[i] >= '0' && field[i] <= '7'; i++)
		value = value << 3 | (uint64_t)(field[i] - '0');
	return value;
}

static bool checksum_good(const uint8_t block[TAR_BLOCK])
{
	uint64_t want = get_number(block + CHECKSUM, 8);
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < TAR_BLOCK; i++)
		sum += i >= CHECKSUM && i < CHECKSUM + 8 ? ' ' : block[i];
	return sum == want;
}

/* NAME of at most SIZE bytes into a path; with PREFIX/ before it. */
static int get_path(
	char path[TAR_PATH_MAX], const uint8_t *prefix, const uint8_t *name, size_t size)
{
	size_t len = 0;
	size_t part;

	if (prefix && prefix[0]) {
		part = strnlen((const char *)prefix, PREFIX_SIZE);
		memcpy(path, prefix, part);
		len = part;
		path[len++] = '/';
	}
	part = strnlen((const char *)name, size);
	if (len + part >= TAR_PATH_MAX)
		return -ENAMETOOLONG;
	memcpy(path + len, name, part);
	path[len + part] = '\0';
	return 0;
}

static void strip_slashes(char *path)
{
	size_t len = strlen(path);

	while (len > 1 && path[len - 1] == '/')
		path[--len] = '\0';
}

static int pax_apply(struct tar_reader *r, const char *key, const char *value, struct err *err)
{
	struct tar_entry *e = &r->entry;
	uint64_t n = 0;
	int rc = 0;

	if (strcmp(key, "path") == 0) {
		rc = str_copy(e->path, sizeof(e->path), value);
		r->has_path = true;
	} else if (strcmp(key, "linkpath") == 0) {
		rc = str_copy(e->link, sizeof(e->link), value);
		r->has_link = true;
	} else if (strcmp(key, "size") == 0) {
		rc = str_u64(value, 0, INT64_MAX, &e->size);
		r->has_size = true;
	} else if (strcmp(key, "uid") == 0) {
		rc = str_u64(value, 0, UINT32_MAX, &n);
		e->uid = (uint32_t)n;
		r->has_uid = true;
	} else if (strcmp(key, "gid") == 0) {
		rc = str_u64(value, 0, UINT32_MAX, &n);
		e->gid = (uint32_t)n;
		r->has_gid = true;
	} else if (strcmp(key, "mtime") == 0) {
		char whole[32] = "";

		/* "1350244992.023960108": seconds are enough. */
		(void)snprintf(whole, sizeof(whole), "%.*s", (int)strcspn(value, "."), value);
		rc = str_i64(whole, INT64_MIN / 2, INT64_MAX / 2, &e->mtime);
		r->has_mtime = true;
	} else if (str_starts(key, "GNU.sparse.")) {
		return err_set(err, -EOPNOTSUPP, "archive: sparse members are not supported");
	}
	if (rc)
		return err_set(err, -EBADMSG, "archive: bad %s in a pax header", key);
	return 0;
}

static int pax_parse(struct tar_reader *r, struct err *err)
{
	char *p = (char *)r->ext.data;
	char *end = r->ext.size ? p + r->ext.size : p;

	while (p < end) {
		char *record = p, *eq;
		size_t len = 0;
		int rc;

		while (p < end && *p >= '0' && *p <= '9' && len <= TAR_EXT_MAX)
			len = len * 10 + (size_t)(*p++ - '0');
		if (p >= end || *p != ' ' || len > (size_t)(end - record) ||
			len <= (size_t)(p - record) + 1 || record[len - 1] != '\n')
			return err_set(err, -EBADMSG, "archive: broken pax header");
		p++;
		record[len - 1] = '\0';
		eq = strchr(p, '=');
		if (!eq)
			return err_set(err, -EBADMSG, "archive: broken pax header");
		*eq = '\0';
		rc = pax_apply(r, p, eq + 1, err);
		if (rc)
			return rc;
		p = record + len;
	}
	return 0;
}

static int ext_done(struct tar_reader *r, struct err *err)
{
	int rc = 0;

	switch (r->ext_type) {
	case 'x':
		rc = pax_parse(r, err);
		break;
	case 'L':
		rc = str_copy(r->entry.path, sizeof(r->entry.path), buf_text(&r->ext));
		r->has_path = true;
		break;
	case 'K':
		rc = str_copy(r->entry.link, sizeof(r->entry.link), buf_text(&r->ext));
		r->has_link = true;
		break;
	default: /* 'g' and others: nothing of it is used */
		break;
	}
	if (rc == -ENAMETOOLONG)
		return err_set(err, rc, "archive: a name is too long");
	r->ext.size = 0;
	r->ext_type = 0;
	return rc;
}

static int member_done(struct tar_reader *r, struct err *err)
{
	r->in_member = false;
	if (r->ext_type)
		return ext_done(r, err);
	r->has_path = r->has_link = r->has_size = false;
	r->has_mtime = r->has_uid = r->has_gid = false;
	return r->ops->done(r->arg, err);
}

static int begin_member(struct tar_reader *r, struct err *err)
{
	struct tar_entry *e = &r->entry;
	const uint8_t *b = r->block;
	char type = b[TYPE] ? (char)b[TYPE] : '0';
	uint64_t size = get_number(b + SIZE, 12);
	bool ustar = memcmp(b + MAGIC, "ustar\0", 6) == 0;
	int rc;

	if (type == 'x' || type == 'g' || type == 'L' || type == 'K') {
		if (size > TAR_EXT_MAX)
			return err_set(err, -EBADMSG, "archive: an extended header of %llu bytes",
				(unsigned long long)size);
		r->ext_type = type;
		r->ext.size = 0;
		r->left = size;
		r->pad = tar_padding(size);
		r->in_member = true;
		return 0;
	}
	if (type == '7')
		type = '0';
	if (type < '0' || type > '6')
		return err_set(
			err, -EOPNOTSUPP, "archive: members of type '%c' are not supported", type);
	rc = r->has_path ? 0 : get_path(e->path, ustar ? b + PREFIX : NULL, b + NAME, NAME_SIZE);
	if (!rc && !r->has_link)
		rc = get_path(e->link, NULL, b + LINK, LINK_SIZE);
	if (rc)
		return err_set(err, rc, "archive: a name is too long");
	e->type = (enum tar_type)type;
	/* Before POSIX a folder was a file whose name ends in a slash. */
	if (type == '0' && e->path[0] && e->path[strlen(e->path) - 1] == '/')
		e->type = TAR_DIR;
	strip_slashes(e->path);
	e->mode = (uint32_t)get_number(b + MODE, 8) & 07777;
	if (!r->has_uid)
		e->uid = (uint32_t)get_number(b + UID, 8);
	if (!r->has_gid)
		e->gid = (uint32_t)get_number(b + GID, 8);
	if (!r->has_mtime)
		e->mtime = (int64_t)get_number(b + MTIME, 12);
	if (!r->has_size)
		e->size = size;
	if (e->type != TAR_FILE)
		e->size = 0;
	if (e->size > INT64_MAX)
		return err_set(err, -EBADMSG, "archive: '%.200s' has an impossible size", e->path);
	r->left = e->size;
	r->pad = tar_padding(e->size);
	r->in_member = true;
	return r->ops->entry(r->arg, e, err);
}

static int take_block(struct tar_reader *r, struct err *err)
{
	int rc;

	r->have = 0;
	if (memcmp(r->block, zeros, TAR_BLOCK) == 0) {
		r->ended = true;
		return 0;
	}
	if (!checksum_good(r->block))
		return err_set(err, -EBADMSG, "archive: bad header checksum: not a tar stream?");
	rc = begin_member(r, err);
	if (rc)
		return rc;
	return r->left + r->pad == 0 ? member_done(r, err) : 0;
}

/* Content or padding of the member under way; how much was taken, or negative. */
static ssize_t take_content(struct tar_reader *r, const uint8_t *data, size_t size, struct err *err)
{
	size_t n;
	int rc = 0;

	if (r->left > 0) {
		n = size < r->left ? size : (size_t)r->left;
		if (r->ext_type)
			buf_add(&r->ext, data, n);
		else
			rc = r->ops->data(r->arg, data, n, err);
		if (r->ext.failed)
			rc = err_set(err, -ENOMEM, "archive: no memory");
		r->left -= n;
	} else {
		n = size < r->pad ? size : r->pad;
		r->pad -= n;
	}
	if (rc == 0 && r->left == 0 && r->pad == 0)
		rc = member_done(r, err);
	return rc < 0 ? rc : (ssize_t)n;
}

int tar_reader_add(struct tar_reader *r, const uint8_t *data, size_t size, struct err *err)
{
	while (size > 0 && !r->ended) {
		size_t n = size;

		if (r->in_member) {
			ssize_t rc = take_content(r, data, size, err);

			if (rc < 0)
				return (int)rc;
			n = (size_t)rc;
		} else {
			if (n > TAR_BLOCK - r->have)
				n = TAR_BLOCK - r->have;
			memcpy(r->block + r->have, data, n);
			r->have += n;
			if (r->have == TAR_BLOCK) {
				int rc = take_block(r, err);

				if (rc)
					return rc;
			}
		}
		data += n;
		size -= n;
	}
	return 0;
}

int tar_reader_finish(struct tar_reader *r, struct err *err)
{
	if (!r->ended && (r->in_member || r->have > 0))
		return err_set(
			err, -EBADMSG, "archive: it ends in the middle of '%.200s'", r->entry.path);
	return 0;
}
