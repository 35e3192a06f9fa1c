#include "node-agent/moveout.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <zstd.h>

#include "lib/str.h"

#define LEVEL 1 /* of zstd: the network is the slower one */

struct moveout {
	char path[COW_PATH_MAX];
	struct cow *cow;
	struct movemap *map; /* what the target has */
	struct movesum *sum;
	struct moveout_progress p;
	uint64_t move, seq, next;
	bool last, round_over;
	struct moveslice slice;
	struct moveseg seg;
	/* The batch under way. */
	size_t raw_size, segments;
	Um__MoveSegment seg_store[MOVE_BATCH_SEGMENTS];
	Um__MoveSegment *seg_list[MOVE_BATCH_SEGMENTS];
	uint8_t masks[MOVE_BATCH_SEGMENTS][MOVE_CELLS];
	uint8_t hashes[MOVE_BATCH_SEGMENTS][MOVE_CELLS * MOVE_HASH];
	uint8_t raw[MOVE_BATCH_MAX], packed[MOVE_BATCH_MAX];
};

int moveout_open(const char *cow, uint64_t move, struct moveout **out, struct err *err)
{
	struct moveout *o = calloc(1, sizeof(*o));
	int rc;

	if (!o)
		return err_set(err, -ENOMEM, "memory is short");
	o->move = move;
	o->round_over = true;
	rc = str_copy(o->path, sizeof(o->path), cow) < 0
		     ? err_set(err, -ENAMETOOLONG, "the path of the disk is too long")
		     : cow_open(cow, false, &o->cow, err);
	if (rc >= 0)
		rc = moveseg_check(o->cow, err);
	if (rc >= 0)
		rc = movemap_new(cow_info(o->cow)->size, &o->map, err);
	if (rc < 0) {
		moveout_close(o);
		return rc;
	}
	o->p.segments = movemap_segments(o->map);
	*out = o;
	return 0;
}

void moveout_close(struct moveout *out)
{
	if (!out)
		return;
	cow_close(out->cow);
	movemap_free(out->map);
	movesum_free(out->sum);
	free(out);
}

void moveout_slice(struct moveout *out, uint32_t ms)
{
	out->slice.ms = ms;
}

int moveout_data(const struct moveout *out, uint64_t *bytes, struct err *err)
{
	struct cow_count count;
	int rc = cow_count(out->cow, &count, err);

	if (rc >= 0)
		*bytes = count.data_bytes;
	return rc;
}

uint64_t moveout_size(const struct moveout *out)
{
	return cow_info(out->cow)->size;
}

int moveout_have(struct moveout *out, const Um__MoveHave *have, struct err *err)
{
	if (out->p.round)
		return err_set(err, -EINVAL, "the target told what it has after the first round");
	for (size_t i = 0; i < have->n_segments; i++) {
		int rc = moveseg_decode(have->segments[i], moveout_size(out), &out->seg, err);

		if (rc >= 0)
			rc = movemap_set(out->map, &out->seg, out->seg.cells, err);
		if (rc < 0)
			return err_wrap(err, "what the target has");
	}
	return 0;
}

int moveout_round(struct moveout *out, struct err *err)
{
	struct movesum *sum = NULL;
	int rc = movesum_new(moveout_size(out), &sum, err);

	if (rc < 0)
		return rc;
	movesum_free(out->sum);
	out->sum = sum;
	out->next = 0;
	out->round_over = false;
	out->p.round++;
	out->p.looked = out->p.cells = out->p.round_bytes = 0;
	return 0;
}

int moveout_last(struct moveout *out, struct err *err)
{
	struct cow *cow = NULL;
	int rc = cow_open(out->path, true, &cow, err);

	if (rc < 0)
		return rc;
	if (cow_info(cow)->size != moveout_size(out)) {
		cow_close(cow);
		return err_set(err, -ESTALE, "the disk was replaced while it was being moved");
	}
	cow_close(out->cow);
	out->cow = cow;
	out->last = true;
	out->round_over = true;
	return moveout_round(out, err);
}

static void add_cells(struct moveout *out, uint64_t cells)
{
	const struct moveseg *seg = &out->seg;
	size_t i = out->segments++;

	moveseg_encode(seg, cells, out->masks[i], out->hashes[i], &out->seg_store[i]);
	out->seg_list[i] = &out->seg_store[i];
	for (unsigned n = 0; n < MOVE_CELLS; n++)
		if ((cells & ~seg->zero) >> n & 1)
			out->raw_size += movecell_pack(seg->mask[n],
				seg->data + (size_t)n * MOVE_CELL, out->raw + out->raw_size);
}

/* Segments that were not seen between NEXT and INDEX must be unknown to the target. */
static int check_gap(struct moveout *out, uint64_t index, struct err *err)
{
	for (uint64_t i = out->next; i < index; i++)
		if (movemap_known(out->map, i)) {
			out->seg.index = i;
			memset(out->seg.mask, 0, sizeof(out->seg.mask));
			return movemap_within(out->map, &out->seg, err);
		}
	return 0;
}

static int take_segment(struct moveout *out, struct err *err)
{
	uint64_t cells = movemap_differ(out->map, &out->seg);
	int rc = movemap_within(out->map, &out->seg, err);

	if (rc < 0)
		return rc;
	movesum_add(out->sum, &out->seg);
	out->p.cells += (uint64_t)__builtin_popcountll(out->seg.cells);
	if (!cells)
		return 0;
	rc = movemap_set(out->map, &out->seg, cells, err);
	if (rc >= 0)
		add_cells(out, cells);
	return rc;
}

/* Until the batch is full, the time is up, or the disk at its end. */
static int fill(struct moveout *out, struct err *err)
{
	moveslice_begin(&out->slice);
	while (out->raw_size < MOVE_BATCH && out->segments < MOVE_BATCH_SEGMENTS &&
		!moveslice_over(&out->slice)) {
		int found = moveseg_next(out->cow, out->next, &out->seg, err);
		uint64_t index = found > 0 ? out->seg.index : out->p.segments;
		int rc = found < 0 ? found : check_gap(out, index, err);

		if (rc < 0)
			return rc;
		if (found == 0) {
			out->round_over = true;
			out->p.looked = out->p.segments;
			return 0;
		}
		rc = take_segment(out, err);
		if (rc < 0)
			return rc;
		out->next = out->p.looked = index + 1;
	}
	return 0;
}

static void finish(struct moveout *out, struct moveout_batch *batch)
{
	size_t n = out->raw_size > 64 ? ZSTD_compress(out->packed, out->raw_size - 1, out->raw,
						out->raw_size, LEVEL)
				      : 0;
	bool zstd = n && !ZSTD_isError(n);

	um__move_blocks__init(&batch->blocks);
	batch->blocks.move = out->move;
	batch->blocks.seq = ++out->seq;
	batch->blocks.round = out->p.round;
	batch->blocks.raw_size = (uint32_t)out->raw_size;
	batch->blocks.zstd = zstd;
	batch->blocks.n_segments = out->segments;
	batch->blocks.segments = out->seg_list;
	batch->bulk = zstd ? out->packed : out->raw;
	batch->bulk_size = zstd ? n : out->raw_size;
	out->p.round_bytes += out->raw_size;
	out->p.bytes += out->raw_size;
	out->p.wire_bytes += batch->bulk_size + um__move_blocks__get_packed_size(&batch->blocks);
}

int moveout_batch(struct moveout *out, struct moveout_batch *batch, struct err *err)
{
	int rc = 0;

	if (out->round_over)
		return 0;
	out->raw_size = out->segments = 0;
	rc = fill(out, err);
	if (rc < 0)
		return err_wrap(err, "read %s", out->path);
	if (!out->segments)
		return out->round_over ? 0 : MOVE_MORE;
	finish(out, batch);
	return 1;
}

int moveout_digest(struct moveout *out, uint8_t digest[MOVE_DIGEST], struct err *err)
{
	int rc;

	if (!out->last || !out->round_over || !out->sum)
		return err_set(err, -EINVAL, "the last round has not ended");
	rc = movesum_end(out->sum, digest, err);
	movesum_free(out->sum);
	out->sum = NULL;
	return rc;
}

void moveout_progress(const struct moveout *out, struct moveout_progress *progress)
{
	*progress = out->p;
	progress->known = movemap_cells(out->map);
}
