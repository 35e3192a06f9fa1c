#include "node-agent/movedisk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/sha.h>

#include "lib/proc.h"

#define BLOCKS 8u /* of a cell */

static bool has(uint64_t cells, unsigned n)
{
	return (cells >> n & 1) != 0;
}

/* The blocks of cell CELL that lie on the disk. */
static uint8_t mask_max(uint64_t disk_size, uint64_t cell)
{
	uint64_t at = cell * MOVE_CELL;
	uint64_t left = at >= disk_size ? 0 : (disk_size - at + COW_BLOCK - 1) / COW_BLOCK;

	return (uint8_t)(left >= BLOCKS ? 0xffu : (1u << left) - 1u);
}

void moveslice_begin(struct moveslice *slice)
{
	slice->until = slice->ms ? proc_mono_ms() + slice->ms : UINT64_MAX;
}

bool moveslice_over(const struct moveslice *slice)
{
	return slice->until != UINT64_MAX && proc_mono_ms() >= slice->until;
}

int moveseg_check(const struct cow *cow, struct err *err)
{
	const struct cow_info *info = cow_info(cow);

	if (info->block != COW_BLOCK || info->version != 3 || info->padded)
		return err_set(err, -EOPNOTSUPP,
			"a disk of version %" PRIu32 " with blocks of %" PRIu32
			" bytes cannot be moved",
			info->version, info->block);
	return 0;
}

/* ---------------------------------------------------------------- cells */

void movecell_hash(uint8_t mask, const uint8_t *data, uint8_t out[MOVE_HASH])
{
	uint8_t bytes[1 + MOVE_CELL], full[SHA256_DIGEST_LENGTH];
	size_t size = 1 + movecell_pack(mask, data, bytes + 1);

	bytes[0] = mask;
	(void)SHA256(bytes, size, full);
	memcpy(out, full, MOVE_HASH);
}

size_t movecell_pack(uint8_t mask, const uint8_t *data, uint8_t *out)
{
	size_t size = 0;

	if (mask == 0xff) {
		memcpy(out, data, MOVE_CELL);
		return MOVE_CELL;
	}
	for (unsigned b = 0; b < BLOCKS; b++) {
		if (!has(mask, b))
			continue;
		memcpy(out + size, data + (size_t)b * COW_BLOCK, COW_BLOCK);
		size += COW_BLOCK;
	}
	return size;
}

/* ---------------------------------------------------------------- reading */

struct reading {
	struct cow *cow;
	struct moveseg *seg;
	struct err *err;
};

static int read_extent(void *arg, const struct cow_extent *e)
{
	struct reading *r = arg;
	struct moveseg *seg = r->seg;
	uint64_t base = seg->index * MOVE_SEGMENT;
	size_t at = (size_t)(e->offset - base), size = (size_t)e->size;

	for (size_t b = at / COW_BLOCK; b < (at + size + COW_BLOCK - 1) / COW_BLOCK; b++)
		seg->mask[b / BLOCKS] |= (uint8_t)(1u << b % BLOCKS);
	/* From where it is set; a block that was set since then is the next round's. */
	return e->hole ? 0 : cow_read(r->cow, -1, e->offset, seg->data + at, size, r->err);
}

static int find_extent(void *arg, const struct cow_extent *e)
{
	*(uint64_t *)arg = e->offset / MOVE_SEGMENT;
	return 1;
}

static void hash_cells(struct moveseg *seg)
{
	static const uint8_t zeroes[MOVE_CELL];

	for (unsigned n = 0; n < MOVE_CELLS; n++) {
		const uint8_t *data = seg->data + (size_t)n * MOVE_CELL;

		if (!seg->mask[n])
			continue;
		seg->cells |= UINT64_C(1) << n;
		if (memcmp(data, zeroes, MOVE_CELL) == 0)
			seg->zero |= UINT64_C(1) << n;
		movecell_hash(seg->mask[n], data, seg->hash[n]);
	}
}

static int read_segment(struct cow *cow, uint64_t index, struct moveseg *seg, struct err *err)
{
	struct reading r = {.cow = cow, .seg = seg, .err = err};
	int rc;

	memset(seg, 0, sizeof(*seg));
	seg->index = index;
	rc = cow_map(cow, index * MOVE_SEGMENT, (index + 1) * MOVE_SEGMENT, read_extent, &r, err);
	if (rc < 0)
		return rc;
	hash_cells(seg);
	return seg->cells != 0;
}

int moveseg_next(struct cow *cow, uint64_t from, struct moveseg *out, struct err *err)
{
	uint64_t size = cow_info(cow)->size, found = 0;
	int rc = 0;

	if (from * MOVE_SEGMENT >= size)
		return 0;
	rc = read_segment(cow, from, out, err);
	if (rc != 0)
		return rc;
	rc = cow_map(cow, (from + 1) * MOVE_SEGMENT, size, find_extent, &found, err);
	return rc <= 0 ? rc : read_segment(cow, found, out, err);
}

/* ---------------------------------------------------------------- digest */

struct movesum {
	EVP_MD_CTX *md;
	bool failed;
};

static void sum_add(struct movesum *sum, const void *data, size_t size)
{
	if (EVP_DigestUpdate(sum->md, data, size) != 1)
		sum->failed = true;
}

static void sum_u64(struct movesum *sum, uint64_t v)
{
	uint8_t bytes[8];
	struct wr w;

	wr_init(&w, bytes, sizeof(bytes));
	wr_u64(&w, v);
	sum_add(sum, bytes, sizeof(bytes));
}

int movesum_new(uint64_t disk_size, struct movesum **out, struct err *err)
{
	struct movesum *sum = calloc(1, sizeof(*sum));

	if (sum)
		sum->md = EVP_MD_CTX_new();
	if (!sum || !sum->md || EVP_DigestInit_ex(sum->md, EVP_sha256(), NULL) != 1) {
		movesum_free(sum);
		return err_set(err, -ENOMEM, "memory is short");
	}
	sum_u64(sum, disk_size);
	*out = sum;
	return 0;
}

void movesum_add(struct movesum *sum, const struct moveseg *seg)
{
	for (unsigned n = 0; n < MOVE_CELLS; n++) {
		if (!has(seg->cells, n))
			continue;
		sum_u64(sum, seg->index * MOVE_CELLS + n);
		sum_add(sum, &seg->mask[n], 1);
		sum_add(sum, seg->hash[n], MOVE_HASH);
	}
}

int movesum_end(struct movesum *sum, uint8_t out[MOVE_DIGEST], struct err *err)
{
	uint8_t digest[MOVE_DIGEST];

	if (sum->failed || EVP_DigestFinal_ex(sum->md, digest, NULL) != 1)
		return err_set(err, -EIO, "the disk's checksum cannot be made");
	memcpy(out, digest, MOVE_DIGEST);
	return 0;
}

void movesum_free(struct movesum *sum)
{
	if (!sum)
		return;
	EVP_MD_CTX_free(sum->md);
	free(sum);
}

/* ---------------------------------------------------------------- map */

struct known {
	uint64_t cells;
	uint8_t mask[MOVE_CELLS];
	uint8_t hash[MOVE_CELLS][MOVE_HASH];
};

struct movemap {
	uint64_t segments, cells;
	struct known *known[]; /* by segment; NULL: none of its cells */
};

int movemap_new(uint64_t disk_size, struct movemap **out, struct err *err)
{
	uint64_t segments = (disk_size + MOVE_SEGMENT - 1) / MOVE_SEGMENT;
	struct movemap *map;

	if (!disk_size || disk_size > COW_SIZE_MAX)
		return err_set(err, -EINVAL, "a disk of %" PRIu64 " bytes", disk_size);
	/* Pages of it that are never touched cost nothing. */
	map = calloc(1, sizeof(*map) + (size_t)segments * sizeof(struct known *));
	if (!map)
		return err_set(err, -ENOMEM, "memory is short");
	map->segments = segments;
	*out = map;
	return 0;
}

void movemap_free(struct movemap *map)
{
	if (!map)
		return;
	for (uint64_t i = 0; i < map->segments; i++)
		free(map->known[i]);
	free(map);
}

uint64_t movemap_segments(const struct movemap *map)
{
	return map->segments;
}

uint64_t movemap_cells(const struct movemap *map)
{
	return map->cells;
}

uint64_t movemap_known(const struct movemap *map, uint64_t index)
{
	return index < map->segments && map->known[index] ? map->known[index]->cells : 0;
}

uint64_t movemap_differ(const struct movemap *map, const struct moveseg *seg)
{
	const struct known *k = seg->index < map->segments ? map->known[seg->index] : NULL;
	uint64_t differ = 0;

	if (!k)
		return seg->cells;
	for (unsigned n = 0; n < MOVE_CELLS; n++)
		if (has(seg->cells, n) && (!has(k->cells, n) || k->mask[n] != seg->mask[n] ||
						  memcmp(k->hash[n], seg->hash[n], MOVE_HASH) != 0))
			differ |= UINT64_C(1) << n;
	return differ;
}

int movemap_within(const struct movemap *map, const struct moveseg *seg, struct err *err)
{
	const struct known *k = seg->index < map->segments ? map->known[seg->index] : NULL;

	for (unsigned n = 0; k && n < MOVE_CELLS; n++)
		if (has(k->cells, n) && (k->mask[n] & ~seg->mask[n]) != 0)
			return err_set(err, -ESTALE,
				"the target's partial copy is of another disk: it has data at "
				"%" PRIu64 " where this one has none",
				seg->index * MOVE_SEGMENT + n * (uint64_t)MOVE_CELL);
	return 0;
}

void movemap_get(const struct movemap *map, struct moveseg *seg)
{
	const struct known *k = seg->index < map->segments ? map->known[seg->index] : NULL;

	seg->cells = k ? k->cells : 0;
	if (!k)
		return;
	memcpy(seg->mask, k->mask, sizeof(seg->mask));
	memcpy(seg->hash, k->hash, sizeof(seg->hash));
}

int movemap_set(struct movemap *map, const struct moveseg *seg, uint64_t cells, struct err *err)
{
	struct known *k;

	if (!cells)
		return 0;
	if (seg->index >= map->segments)
		return err_set(err, -EINVAL, "segment %" PRIu64 " is not on the disk", seg->index);
	if (!map->known[seg->index])
		map->known[seg->index] = calloc(1, sizeof(*k));
	k = map->known[seg->index];
	if (!k)
		return err_set(err, -ENOMEM, "memory is short");
	for (unsigned n = 0; n < MOVE_CELLS; n++) {
		if (!has(cells, n))
			continue;
		map->cells += !has(k->cells, n);
		k->mask[n] = seg->mask[n];
		memcpy(k->hash[n], seg->hash[n], MOVE_HASH);
	}
	k->cells |= cells;
	return 0;
}

/* ---------------------------------------------------------------- messages */

void moveseg_encode(const struct moveseg *seg, uint64_t cells, uint8_t *masks, uint8_t *hashes,
	Um__MoveSegment *out)
{
	bool whole = true;
	size_t count = 0;

	for (unsigned n = 0; n < MOVE_CELLS; n++) {
		if (!has(cells, n))
			continue;
		masks[count] = seg->mask[n];
		whole = whole && seg->mask[n] == 0xff;
		memcpy(hashes + count * MOVE_HASH, seg->hash[n], MOVE_HASH);
		count++;
	}
	um__move_segment__init(out);
	out->index = seg->index;
	out->cells = cells;
	out->zero = seg->zero & cells;
	out->hashes = (ProtobufCBinaryData){.len = count * MOVE_HASH, .data = hashes};
	if (!whole)
		out->masks = (ProtobufCBinaryData){.len = count, .data = masks};
}

int moveseg_decode(
	const Um__MoveSegment *in, uint64_t disk_size, struct moveseg *out, struct err *err)
{
	size_t count = (size_t)__builtin_popcountll(in->cells), at = 0;

	if (in->index > COW_SIZE_MAX / MOVE_SEGMENT || !in->cells || (in->zero & ~in->cells) ||
		in->hashes.len != count * MOVE_HASH || (in->masks.len && in->masks.len != count))
		return err_set(
			err, -EBADMSG, "segment %" PRIu64 " of a move makes no sense", in->index);
	memset(out->mask, 0, sizeof(out->mask));
	out->index = in->index;
	out->cells = in->cells;
	out->zero = in->zero;
	for (unsigned n = 0; n < MOVE_CELLS; n++) {
		uint8_t mask;

		if (!has(in->cells, n))
			continue;
		mask = in->masks.len ? in->masks.data[at] : 0xff;
		if (!mask || (mask & ~mask_max(disk_size, in->index * MOVE_CELLS + n)))
			return err_set(err, -EBADMSG,
				"segment %" PRIu64 " of a move goes past the disk's end of %" PRIu64
				" bytes",
				in->index, disk_size);
		out->mask[n] = mask;
		memcpy(out->hash[n], in->hashes.data + at * MOVE_HASH, MOVE_HASH);
		at++;
	}
	return 0;
}
