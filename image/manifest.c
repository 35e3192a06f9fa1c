#include "image/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "lib/buf.h"
#include "lib/str.h"

#define MAGIC 0x554d4c4du /* "UMLM" */
#define VERSION 1u

static const uint8_t zero_hash[MANIFEST_HASH];

void manifest_sha256(const void *data, size_t size, uint8_t out[MANIFEST_HASH])
{
	unsigned n = 0;

	/* Fails only without memory for a context; there is no way on from there. */
	if (EVP_Digest(data, size, out, &n, EVP_sha256(), NULL) != 1 || n != MANIFEST_HASH)
		abort();
}

static uint32_t count_of(uint64_t size)
{
	return (uint32_t)((size + MANIFEST_CHUNK - 1) / MANIFEST_CHUNK);
}

static int check_header(const void *data, size_t size, uint64_t *file_size, struct err *err)
{
	uint32_t magic, version, chunk, count;
	struct rd r;

	rd_init(&r, data, size);
	magic = rd_u32(&r);
	version = rd_u32(&r);
	*file_size = rd_u64(&r);
	chunk = rd_u32(&r);
	count = rd_u32(&r);
	if (r.error || magic != MAGIC)
		return err_set(err, -EBADMSG, "not a manifest");
	if (version != VERSION)
		return err_set(err, -EBADMSG, "manifest of version %u; this program knows %u",
			version, VERSION);
	if (!*file_size || *file_size > MANIFEST_SIZE_MAX)
		return err_set(err, -EBADMSG, "manifest: the size must be 1 to %llu bytes",
			(unsigned long long)MANIFEST_SIZE_MAX);
	if (chunk != MANIFEST_CHUNK)
		return err_set(err, -EBADMSG, "manifest: chunks of %u bytes, expected %u", chunk,
			MANIFEST_CHUNK);
	if (count != count_of(*file_size))
		return err_set(err, -EBADMSG, "manifest: %u chunks do not make its size", count);
	if (rd_left(&r) != (size_t)count * MANIFEST_HASH)
		return err_set(err, -EBADMSG, "manifest: its length does not fit %u chunks", count);
	return 0;
}

static struct manifest *make(uint64_t size)
{
	struct manifest *m = calloc(1, sizeof(*m));
	struct wr w;

	if (!m)
		return NULL;
	m->size = size;
	m->count = count_of(size);
	m->bytes_size = MANIFEST_HEADER + (size_t)m->count * MANIFEST_HASH;
	m->bytes = calloc(1, m->bytes_size);
	if (!m->bytes) {
		free(m);
		return NULL;
	}
	wr_init(&w, m->bytes, MANIFEST_HEADER);
	wr_u32(&w, MAGIC);
	wr_u32(&w, VERSION);
	wr_u64(&w, size);
	wr_u32(&w, MANIFEST_CHUNK);
	wr_u32(&w, m->count);
	return m;
}

int manifest_parse(const void *data, size_t size, struct manifest **out, struct err *err)
{
	struct manifest *m;
	uint64_t file_size;
	int rc = check_header(data, size, &file_size, err);

	if (rc < 0)
		return rc;
	m = make(file_size);
	if (!m)
		return err_set(err, -ENOMEM, "manifest: memory is short");
	memcpy(m->bytes, data, size);
	manifest_sha256(m->bytes, m->bytes_size, m->id);
	*out = m;
	return 0;
}

struct manifest *manifest_clone(const struct manifest *m)
{
	struct manifest *c = make(m->size);

	if (!c)
		return NULL;
	memcpy(c->bytes, m->bytes, m->bytes_size);
	memcpy(c->id, m->id, sizeof(c->id));
	return c;
}

void manifest_free(struct manifest *m)
{
	if (!m)
		return;
	free(m->bytes);
	free(m);
}

const uint8_t *manifest_hash(const struct manifest *m, uint32_t index)
{
	return m->bytes + MANIFEST_HEADER + (size_t)index * MANIFEST_HASH;
}

bool manifest_is_hole(const struct manifest *m, uint32_t index)
{
	return memcmp(manifest_hash(m, index), zero_hash, MANIFEST_HASH) == 0;
}

uint32_t manifest_chunk_size(const struct manifest *m, uint32_t index)
{
	uint64_t left = m->size - (uint64_t)index * MANIFEST_CHUNK;

	return left < MANIFEST_CHUNK ? (uint32_t)left : MANIFEST_CHUNK;
}

uint64_t manifest_data_size(const struct manifest *m)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < m->count; i++)
		if (!manifest_is_hole(m, i))
			sum += manifest_chunk_size(m, i);
	return sum;
}

static bool all_zero(const uint8_t *data, size_t size)
{
	return !size || (!data[0] && memcmp(data, data + 1, size - 1) == 0);
}

int manifest_check_chunk(
	const struct manifest *m, uint32_t index, const void *data, size_t size, struct err *err)
{
	uint8_t hash[MANIFEST_HASH];

	if (index >= m->count)
		return err_set(err, -EBADMSG, "chunk %u of %u", index, m->count);
	if (size != manifest_chunk_size(m, index))
		return err_set(err, -EBADMSG, "chunk %u has %zu bytes, expected %u", index, size,
			manifest_chunk_size(m, index));
	/* Zeroes have the hole's hash and no other, so that an id stands for one content
	 * and one content has one id. */
	if (all_zero(data, size))
		memset(hash, 0, sizeof(hash));
	else
		manifest_sha256(data, size, hash);
	if (memcmp(hash, manifest_hash(m, index), sizeof(hash)) != 0)
		return err_set(err, -EBADMSG, "chunk %u is damaged: its hash is another", index);
	return 0;
}

void manifest_id_text(char out[MANIFEST_TEXT], const uint8_t id[MANIFEST_HASH])
{
	str_hex(out, id, MANIFEST_HASH);
}

int manifest_id_parse(const char *text, uint8_t id[MANIFEST_HASH], struct err *err)
{
	const char *hex = str_starts(text, "sha256:") ? text + 7 : text;

	if (strlen(hex) != 2 * MANIFEST_HASH || str_unhex(id, MANIFEST_HASH, hex) < 0)
		return err_set(err, -EINVAL, "'%.80s' is not an id (64 hex digits)", text);
	return 0;
}

/* Reads exactly SIZE bytes at OFFSET. */
static int read_at(int fd, void *data, size_t size, uint64_t offset, struct err *err)
{
	size_t at = 0;

	while (at < size) {
		ssize_t n = pread(fd, (uint8_t *)data + at, size - at, (off_t)(offset + at));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, errno, "read");
		if (!n)
			return err_set(err, -EIO, "the file became shorter while it was read");
		at += (size_t)n;
	}
	return 0;
}

/* The first chunk at or after INDEX that may hold data; COUNT when none does. */
static uint32_t next_data(int fd, uint32_t index, uint32_t count)
{
	off_t at = lseek(fd, (off_t)((uint64_t)index * MANIFEST_CHUNK), SEEK_DATA);

	if (at < 0)
		return errno == ENXIO ? count : index; /* no SEEK_DATA here: read it all */
	return (uint32_t)((uint64_t)at / MANIFEST_CHUNK);
}

static int hash_chunks(int fd, struct manifest *m, uint8_t *data, manifest_progress_fn *progress,
	void *arg, struct err *err)
{
	for (uint32_t i = next_data(fd, 0, m->count); i < m->count;
		i = next_data(fd, i + 1, m->count)) {
		size_t size = manifest_chunk_size(m, i);
		uint64_t offset = (uint64_t)i * MANIFEST_CHUNK;
		int rc = read_at(fd, data, size, offset, err);

		if (rc < 0)
			return rc;
		if (!all_zero(data, size))
			manifest_sha256(
				data, size, m->bytes + MANIFEST_HEADER + (size_t)i * MANIFEST_HASH);
		if (progress && progress(arg, offset + size, m->size) != 0)
			return err_set(err, -ECANCELED, "cancelled");
		if (i + 1 == m->count)
			break;
	}
	return 0;
}

int manifest_build(
	int fd, manifest_progress_fn *progress, void *arg, struct manifest **out, struct err *err)
{
	struct manifest *m = NULL;
	uint8_t *data = NULL;
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return err_errno(err, errno, "stat");
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "not a regular file");
	if (st.st_size <= 0)
		return err_set(err, -EINVAL, "the file is empty");
	if ((uint64_t)st.st_size > MANIFEST_SIZE_MAX)
		return err_set(err, -EFBIG, "the file is larger than %llu GiB",
			(unsigned long long)(MANIFEST_SIZE_MAX >> 30));
	m = make((uint64_t)st.st_size);
	data = malloc(MANIFEST_CHUNK);
	rc = m && data ? hash_chunks(fd, m, data, progress, arg, err)
		       : err_set(err, -ENOMEM, "memory is short");
	free(data);
	if (rc < 0) {
		manifest_free(m);
		return rc;
	}
	if (progress)
		(void)progress(arg, m->size, m->size);
	manifest_sha256(m->bytes, m->bytes_size, m->id);
	*out = m;
	return 0;
}

/* ---------------------------------------------------------------- in the pool */

struct build_job {
	char *path;
	manifest_fn *fn;
	void *arg;
	struct manifest *m;
	int rc;
	struct err err;
};

static void build_work(void *arg)
{
	struct build_job *job = arg;
	int fd = open(job->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0) {
		job->rc = err_errno(&job->err, errno, "%s", job->path);
		return;
	}
	job->rc = manifest_build(fd, NULL, NULL, &job->m, &job->err);
	if (job->rc < 0)
		job->rc = err_wrap(&job->err, "%s", job->path);
	(void)close(fd);
}

static void build_done(void *arg, bool cancelled)
{
	struct build_job *job = arg;

	if (cancelled) {
		manifest_free(job->m);
		job->m = NULL;
		job->rc = err_set(&job->err, -ECANCELED, "cancelled");
	}
	job->fn(job->arg, job->rc < 0 ? NULL : job->m, job->rc < 0 ? &job->err : NULL);
	free(job->path);
	free(job);
}

int manifest_start(struct loop *loop, const char *path, manifest_fn *fn, void *arg, struct err *err)
{
	struct build_job *job = calloc(1, sizeof(*job));
	int rc;

	if (!job)
		return err_set(err, -ENOMEM, "memory is short");
	job->path = str_dup(path);
	job->fn = fn;
	job->arg = arg;
	rc = job->path ? loop_work_run(loop, "manifest", build_work, build_done, job, err)
		       : err_set(err, -ENOMEM, "memory is short");
	if (rc < 0) {
		free(job->path);
		free(job);
	}
	return rc;
}
