#include "node-agent/movein.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zstd.h>

#include "lib/fs.h"
#include "lib/str.h"

struct movein {
	char path[COW_PATH_MAX];
	struct cow *cow;
	enum { PARTIAL, SEALED, BROKEN } state;
	uint64_t written;
	struct moveseg seg;
	/* A bit for each segment that was written and not yet read back from the disk. */
	uint8_t *fresh;
	uint64_t segments;
	bool in_folder;		/* its name is on the disk */
	struct movemap *proved; /* what was read since the guest has ended; NULL: not yet */
	struct moveslice slice;
	/* What is under way; the segment from which it goes on. */
	enum { NOTHING, TELLING, SETTLING, PROVING, SEALING } doing;
	uint64_t at;
	struct movemap *proving;
	struct movesum *sum;
	size_t raw_size;
	uint8_t raw[MOVE_BATCH_MAX];
};

static int open_copy(
	const char *path, const struct cow_spec *spec, struct cow **out, struct err *err)
{
	struct cow *cow = NULL;
	int rc = cow_open(path, true, &cow, err);

	if (rc < 0)
		return rc;
	rc = moveseg_check(cow, err);
	if (rc >= 0 && (cow_info(cow)->size != spec->size || cow_info(cow)->mtime != spec->mtime))
		rc = err_set(err, -EPROTO, "%s is of another disk", path);
	if (rc >= 0)
		rc = cow_check(cow, err);
	if (rc < 0) {
		cow_close(cow);
		return rc;
	}
	*out = cow;
	return 0;
}

/* What was there before is taken as just written: nobody knows what became of it. */
static int all_fresh(struct movein *in, struct err *err)
{
	in->segments = (cow_info(in->cow)->size + MOVE_SEGMENT - 1) / MOVE_SEGMENT;
	in->fresh = malloc((size_t)(in->segments / 8 + 1));
	if (!in->fresh)
		return err_set(err, -ENOMEM, "memory is short");
	memset(in->fresh, 0xff, (size_t)(in->segments / 8 + 1));
	return 0;
}

int movein_open(const char *path, const struct cow_spec *spec, struct movein **out, struct err *err)
{
	struct movein *in = calloc(1, sizeof(*in));
	struct err why = ERR_INIT;
	int rc;

	if (!in)
		return err_set(err, -ENOMEM, "memory is short");
	rc = str_copy(in->path, sizeof(in->path), path) < 0
		     ? err_set(&why, -ENAMETOOLONG, "the path of the copy is too long")
		     : open_copy(path, spec, &in->cow, &why);
	if (rc == -EPROTO || rc == -EBADMSG || rc == -EOPNOTSUPP)
		rc = unlink(path) < 0 ? err_errno(&why, errno, "remove %s", path) : -ENOENT;
	if (rc == -ENOENT) {
		rc = cow_create(path, spec, &why);
		if (rc >= 0)
			rc = open_copy(path, spec, &in->cow, &why);
	}
	if (rc >= 0)
		rc = all_fresh(in, &why);
	if (rc < 0) {
		movein_close(in);
		return err_set(err, rc, "%s", err_msg(&why));
	}
	*out = in;
	return 0;
}

int movein_reopen(
	const char *path, const struct cow_spec *spec, struct movein **out, struct err *err)
{
	struct movein *in = calloc(1, sizeof(*in));
	int rc;

	if (!in)
		return err_set(err, -ENOMEM, "memory is short");
	rc = open_copy(path, spec, &in->cow, err);
	if (rc < 0) {
		free(in);
		return rc;
	}
	(void)str_copy(in->path, sizeof(in->path), path);
	in->state = SEALED;
	*out = in;
	return 0;
}

void movein_close(struct movein *in)
{
	if (!in)
		return;
	cow_close(in->cow);
	free(in->fresh);
	movemap_free(in->proved);
	movemap_free(in->proving);
	movesum_free(in->sum);
	free(in);
}

void movein_slice(struct movein *in, uint32_t ms)
{
	in->slice.ms = ms;
}

int movein_fd(const struct movein *in)
{
	return cow_fd(in->cow);
}

/* Goes on with WHAT, or begins it at the disk's start: true. */
static bool begins(struct movein *in, int what)
{
	if ((int)in->doing == what)
		return false;
	in->doing = (unsigned)what;
	in->at = 0;
	return true;
}

static int usable(const struct movein *in, bool change, struct err *err)
{
	if (in->state == BROKEN)
		return err_set(err, -EIO, "%s: a write failed, it must be opened anew", in->path);
	if (change && in->state == SEALED)
		return err_set(err, -EPERM, "%s is complete: nothing may change in it", in->path);
	return 0;
}

/* ---------------------------------------------------------------- what is there */

struct telling {
	Um__MoveHave have;
	Um__MoveSegment store[MOVE_HAVE_SEGMENTS];
	Um__MoveSegment *list[MOVE_HAVE_SEGMENTS];
	uint8_t masks[MOVE_HAVE_SEGMENTS][MOVE_CELLS];
	uint8_t hashes[MOVE_HAVE_SEGMENTS][MOVE_CELLS * MOVE_HASH];
};

/* One message; 0: nothing more. */
static int tell_next(
	struct movein *in, struct telling *t, movein_have_fn *fn, void *arg, struct err *err)
{
	int found = 1, rc = 0;

	t->have.n_segments = 0;
	while (found > 0 && t->have.n_segments < MOVE_HAVE_SEGMENTS &&
		!moveslice_over(&in->slice)) {
		size_t i = t->have.n_segments;

		found = moveseg_next(in->cow, in->at, &in->seg, err);
		if (found <= 0)
			break;
		moveseg_encode(&in->seg, in->seg.cells, t->masks[i], t->hashes[i], &t->store[i]);
		t->list[i] = &t->store[i];
		t->have.n_segments++;
		in->at = in->seg.index + 1;
	}
	if (found >= 0 && t->have.n_segments)
		rc = fn(arg, &t->have, err);
	return found < 0 ? found : rc < 0 ? rc : found;
}

int movein_have(struct movein *in, movein_have_fn *fn, void *arg, struct err *err)
{
	struct telling *t;
	int rc = usable(in, false, err);

	if (rc < 0)
		return rc;
	t = malloc(sizeof(*t));
	if (!t)
		return err_set(err, -ENOMEM, "memory is short");
	um__move_have__init(&t->have);
	t->have.segments = t->list;
	(void)begins(in, TELLING);
	moveslice_begin(&in->slice);
	do
		rc = tell_next(in, t, fn, arg, err);
	while (rc > 0 && !moveslice_over(&in->slice));
	free(t);
	if (rc > 0)
		return MOVE_MORE;
	in->doing = NOTHING;
	return rc;
}

/* ---------------------------------------------------------------- blocks */

static int unpack(struct movein *in, const Um__MoveBlocks *b, const void *bulk, size_t bulk_size,
	struct err *err)
{
	if (b->raw_size > MOVE_BATCH_MAX || bulk_size > MOVE_BATCH_MAX ||
		b->n_segments > MOVE_BATCH_SEGMENTS || (!b->zstd && b->raw_size != bulk_size))
		return err_set(err, -EBADMSG, "a batch of %" PRIu32 " bytes in %zu", b->raw_size,
			bulk_size);
	if (!b->zstd && bulk_size)
		memcpy(in->raw, bulk, bulk_size);
	if (b->zstd && ZSTD_decompress(in->raw, b->raw_size, bulk, bulk_size) != b->raw_size)
		return err_set(err, -EBADMSG, "a batch that cannot be decompressed");
	in->raw_size = b->raw_size;
	return 0;
}

/* The set blocks of cell N of the segment, in their places; -EBADMSG: fewer bytes. */
static int place_cell(struct movein *in, unsigned n, size_t *pos, struct err *err)
{
	uint8_t *data = in->seg.data + (size_t)n * MOVE_CELL, mask = in->seg.mask[n];

	memset(data, 0, MOVE_CELL);
	if (in->seg.zero >> n & 1)
		return 0;
	for (unsigned k = 0; k < MOVE_CELL / COW_BLOCK; k++) {
		if (!(mask >> k & 1))
			continue;
		if (in->raw_size - *pos < COW_BLOCK)
			return err_set(err, -EBADMSG, "a batch with too few bytes");
		memcpy(data + (size_t)k * COW_BLOCK, in->raw + *pos, COW_BLOCK);
		*pos += COW_BLOCK;
	}
	return 0;
}

/* A segment of the message into in->seg, its bytes from *POS on, hashes checked. */
static int load_segment(
	struct movein *in, const Um__MoveSegment *from, size_t *pos, struct err *err)
{
	uint8_t hash[MOVE_HASH];
	int rc = moveseg_decode(from, cow_info(in->cow)->size, &in->seg, err);

	for (unsigned n = 0; rc >= 0 && n < MOVE_CELLS; n++) {
		if (!(in->seg.cells >> n & 1))
			continue;
		rc = place_cell(in, n, pos, err);
		if (rc < 0)
			break;
		movecell_hash(in->seg.mask[n], in->seg.data + (size_t)n * MOVE_CELL, hash);
		if (memcmp(hash, in->seg.hash[n], MOVE_HASH) != 0)
			rc = err_set(err, -EBADMSG,
				"the data for %" PRIu64 " of the disk was spoiled on its way",
				in->seg.index * MOVE_SEGMENT + n * (uint64_t)MOVE_CELL);
	}
	return rc;
}

static int write_run(struct movein *in, unsigned from, unsigned to, bool zero, struct err *err)
{
	size_t at = (size_t)from * COW_BLOCK, size = (size_t)(to - from) * COW_BLOCK;
	uint64_t offset = in->seg.index * MOVE_SEGMENT + at;
	uint64_t left = cow_info(in->cow)->size - offset;

	if (size > left) /* the last block of a disk that is no multiple of it */
		size = (size_t)left;
	if (zero)
		return cow_zero(in->cow, offset, size, err);
	in->written += size;
	return cow_write(in->cow, offset, in->seg.data + at, size, err);
}

static bool is_zero(const struct movein *in, unsigned block)
{
	return in->seg.zero >> (block / 8) & 1;
}

static bool is_set(const struct movein *in, unsigned block)
{
	return in->seg.mask[block / 8] >> block % 8 & 1;
}

/* Runs of set blocks, so that few writes are made. */
static int write_segment(struct movein *in, struct err *err)
{
	const unsigned end = MOVE_SEGMENT / COW_BLOCK;
	int rc = 0;

	in->fresh[in->seg.index / 8] |= (uint8_t)(1u << in->seg.index % 8);
	for (unsigned b = 0; b < end && rc >= 0;) {
		unsigned from = b;
		bool zero = is_zero(in, b);

		while (b < end && is_set(in, b) && is_zero(in, b) == zero)
			b++;
		if (b > from)
			rc = write_run(in, from, b, zero, err);
		else
			b++;
	}
	return rc;
}

int movein_blocks(struct movein *in, const Um__MoveBlocks *blocks, const void *bulk,
	size_t bulk_size, struct err *err)
{
	size_t pos = 0;
	int rc = usable(in, true, err);

	if (rc >= 0)
		rc = unpack(in, blocks, bulk, bulk_size, err);
	for (size_t i = 0; rc >= 0 && i < blocks->n_segments; i++)
		rc = load_segment(in, blocks->segments[i], &pos, err);
	if (rc >= 0 && pos != in->raw_size)
		rc = err_set(err, -EBADMSG, "a batch with too many bytes");
	if (rc < 0)
		return rc;
	/* All of it is good: the same again, written. */
	pos = 0;
	for (size_t i = 0; rc >= 0 && i < blocks->n_segments; i++) {
		rc = load_segment(in, blocks->segments[i], &pos, err);
		if (rc >= 0)
			rc = write_segment(in, err);
	}
	if (rc < 0) {
		in->state = BROKEN;
		return err_wrap(err, "write %s", in->path);
	}
	return 0;
}

int movein_sync(struct movein *in, struct err *err)
{
	int rc = usable(in, false, err);

	if (rc < 0)
		return rc;
	if (fsync(cow_fd(in->cow)) < 0) {
		/* The kernel may have dropped the pages: what is there must be read. */
		in->state = BROKEN;
		return err_errno(err, errno, "sync %s", in->path);
	}
	return 0;
}

/* ---------------------------------------------------------------- read back */

/* What is read from now on, from FROM to before TO, comes from the disk and not from
 * memory.  Whole pages; all was synced. */
static void forget(struct movein *in, uint64_t from, uint64_t to)
{
	uint64_t base = cow_info(in->cow)->data_offset, page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t begin = (base + from * MOVE_SEGMENT) / page * page;
	uint64_t end = (base + to * MOVE_SEGMENT + page - 1) / page * page;

	(void)posix_fadvise(
		cow_fd(in->cow), (off_t)begin, (off_t)(end - begin), POSIX_FADV_DONTNEED);
}

static bool is_fresh(const struct movein *in, uint64_t index)
{
	return in->fresh[index / 8] >> index % 8 & 1;
}

/* Nothing is forgotten that was read back before: at the end, while the guest stands still,
 * only what came last is read from the disk. */
static void forget_fresh(struct movein *in)
{
	uint64_t from = 0, to;

	/* The header and what is set. */
	(void)posix_fadvise(
		cow_fd(in->cow), 0, (off_t)cow_info(in->cow)->data_offset, POSIX_FADV_DONTNEED);
	for (; from < in->segments; from = to) {
		for (to = from; to < in->segments && is_fresh(in, to); to++)
			;
		if (to > from)
			forget(in, from, to);
		else
			to++;
	}
}

static int sync_folder(struct movein *in, struct err *err)
{
	char dir[COW_PATH_MAX];
	int rc;

	(void)str_copy(dir, sizeof(dir), in->path);
	rc = fs_sync_dir(dirname(dir), err);
	in->in_folder = rc >= 0;
	return rc;
}

/* 1: the time is up. */
static int read_fresh(struct movein *in, struct err *err)
{
	int found = 1;

	for (; in->at < in->segments && found > 0; in->at++) {
		if (!is_fresh(in, in->at))
			continue;
		if (moveslice_over(&in->slice))
			return 1;
		found = moveseg_next(in->cow, in->at, &in->seg, err);
		if (found > 0)
			in->at = in->seg.index;
	}
	return found < 0 ? found : 0;
}

static int settle(struct movein *in, struct err *err)
{
	int rc = 0;

	if (begins(in, SETTLING)) {
		rc = movein_sync(in, err);
		if (rc >= 0 && in->state != SEALED && !in->in_folder)
			rc = sync_folder(in, err);
		if (rc >= 0 && in->state != SEALED)
			forget_fresh(in);
	}
	if (rc >= 0 && in->state != SEALED) {
		rc = read_fresh(in, err);
		if (rc > 0)
			return MOVE_MORE;
		if (rc < 0)
			(void)err_wrap(err, "read %s back", in->path);
		else
			memset(in->fresh, 0, (size_t)(in->segments / 8 + 1));
	}
	in->doing = NOTHING;
	return rc;
}

int movein_settle(struct movein *in, struct err *err)
{
	moveslice_begin(&in->slice);
	return settle(in, err);
}

/* ---------------------------------------------------------------- the end */

/* 1: the time is up. */
static int read_all(struct movein *in, struct err *err)
{
	int found = 1, rc = 0;

	while (rc >= 0 && found > 0) {
		if (moveslice_over(&in->slice))
			return 1;
		found = moveseg_next(in->cow, in->at, &in->seg, err);
		rc = found <= 0 ? found : movemap_set(in->proving, &in->seg, in->seg.cells, err);
		in->at = in->seg.index + 1;
	}
	return rc;
}

int movein_prove(struct movein *in, struct err *err)
{
	int rc = 0;

	moveslice_begin(&in->slice);
	if (in->doing != PROVING)
		rc = settle(in, err);
	if (rc != 0 || in->state == SEALED)
		return rc;
	if (begins(in, PROVING)) {
		movemap_free(in->proving);
		in->proving = NULL;
		rc = movemap_new(cow_info(in->cow)->size, &in->proving, err);
	}
	if (rc == 0)
		rc = read_all(in, err);
	if (rc > 0)
		return MOVE_MORE;
	in->doing = NOTHING;
	movemap_free(in->proved);
	in->proved = NULL;
	if (rc < 0)
		return err_wrap(err, "read %s back", in->path);
	in->proved = in->proving;
	in->proving = NULL;
	return 0;
}

/* Adds segments up to the next that was proved and not written since. */
static int add_unproved(struct movein *in, struct err *err)
{
	int found;

	while (in->at < in->segments && (!in->proved || is_fresh(in, in->at)) &&
		!moveslice_over(&in->slice)) {
		found = moveseg_next(in->cow, in->at, &in->seg, err);
		if (found < 0)
			return found;
		/* The next that has something may be another's: that is read there. */
		if (!found || (in->proved && in->seg.index != in->at)) {
			in->at = found ? in->at + 1 : in->segments;
			continue;
		}
		movesum_add(in->sum, &in->seg);
		in->at = in->seg.index + 1;
	}
	return 0;
}

/* 1: the time is up. */
static int read_back(struct movein *in, struct err *err)
{
	while (in->at < in->segments) {
		int rc = add_unproved(in, err);

		if (rc < 0)
			return rc;
		if (in->at >= in->segments)
			break;
		if (moveslice_over(&in->slice))
			return 1;
		in->seg.index = in->at++;
		movemap_get(in->proved, &in->seg);
		movesum_add(in->sum, &in->seg);
	}
	return 0;
}

static int begin_seal(struct movein *in, struct err *err)
{
	int rc = movein_sync(in, err);

	if (rc >= 0 && !in->in_folder)
		rc = sync_folder(in, err);
	if (rc < 0)
		return rc;
	forget_fresh(in);
	movesum_free(in->sum);
	in->sum = NULL;
	return movesum_new(cow_info(in->cow)->size, &in->sum, err);
}

int movein_seal(struct movein *in, const uint8_t digest[MOVE_DIGEST], struct err *err)
{
	uint8_t mine[MOVE_DIGEST];
	int rc = begins(in, SEALING) ? begin_seal(in, err) : 0;

	moveslice_begin(&in->slice);
	if (rc == 0)
		rc = read_back(in, err);
	if (rc > 0)
		return MOVE_MORE;
	in->doing = NOTHING;
	if (rc == 0)
		rc = movesum_end(in->sum, mine, err);
	if (rc < 0)
		return err_wrap(err, "read %s back", in->path);
	if (memcmp(mine, digest, MOVE_DIGEST) != 0)
		return err_set(err, -ESTALE, "the disk at the target differs from the source's");
	in->state = SEALED;
	return 0;
}

bool movein_sealed(const struct movein *in)
{
	return in->state == SEALED;
}

uint64_t movein_written(const struct movein *in)
{
	return in->written;
}
