#include "guest/cow_int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK (64u * 1024) /* of bitmap or data in memory at a time */

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Blocks of the disk, and those of them that have a bit. */
static uint64_t blocks_of(const struct cow_info *info)
{
	return (info->size + info->block - 1) / info->block;
}

static uint64_t mapped_blocks(const struct cow_info *info)
{
	return min64(blocks_of(info), info->bitmap_size * 8);
}

/* The next stretch of data at or after POS of an open file, cut to END:
 * false when there is none.  File systems without SEEK_DATA are all data. */
static int next_data(int fd, uint64_t pos, uint64_t end, uint64_t *from, uint64_t *to)
{
	off_t data, hole;

	if (pos >= end)
		return 0;
	data = lseek(fd, (off_t)pos, SEEK_DATA);
	if (data < 0 && errno == ENXIO)
		return 0;
	if (data < 0 && (errno == EINVAL || errno == EOPNOTSUPP)) {
		*from = pos;
		*to = end;
		return 1;
	}
	if (data < 0)
		return -errno;
	if ((uint64_t)data >= end)
		return 0;
	hole = lseek(fd, data, SEEK_HOLE);
	/* ENXIO: cut short in between. */
	if (hole < 0 && errno != ENXIO)
		return -errno;
	*from = (uint64_t)data;
	*to = hole <= data ? end : min64((uint64_t)hole, end);
	return 1;
}

/* A walk over the set blocks. */
struct walk {
	struct cow *cow;
	cow_extent_fn *fn;
	void *arg;
	bool failed; /* reading did, as opposed to the callback */
	/* The run of set blocks seen last, not yet given out; empty when from == to. */
	uint64_t from, to;
	/* The stretch of data looked up last, as offsets on the disk, rounded to
	 * blocks.  Between `searched` and `data_from` there is a hole. */
	uint64_t searched, data_from, data_to;
};

static int give(struct walk *w, uint64_t from, uint64_t to, bool hole)
{
	struct cow_extent extent = {.offset = from, .size = to - from, .hole = hole};

	return from < to ? w->fn(w->arg, &extent) : 0;
}

/* Makes [data_from, data_to) the first data that ends after POS. */
static int find_data(struct walk *w, uint64_t pos)
{
	const struct cow_info *info = &w->cow->info;
	uint64_t from, to;
	int rc;

	if (pos >= w->searched && pos < w->data_to)
		return 0;
	rc = next_data(
		w->cow->fd, info->data_offset + pos, info->data_offset + info->size, &from, &to);
	if (rc < 0)
		return rc;
	w->searched = pos;
	if (rc == 0) {
		w->data_from = w->data_to = UINT64_MAX;
		return 0;
	}
	from -= info->data_offset;
	to -= info->data_offset;
	w->data_from = from - from % info->block;
	w->data_to = (to + info->block - 1) / info->block * info->block;
	return 0;
}

/* Gives out the pending run, split into data and holes. */
static int flush_run(struct walk *w)
{
	uint64_t pos = w->from, end = min64(w->to, w->cow->info.size);
	int rc = 0;

	while (rc == 0 && pos < end) {
		uint64_t stop;

		rc = find_data(w, pos);
		if (rc < 0) {
			w->failed = true;
			break;
		}
		bool hole = pos < w->data_from;

		stop = min64(end, hole ? w->data_from : w->data_to);
		rc = give(w, pos, stop, hole);
		pos = stop;
	}
	w->from = w->to = 0;
	return rc;
}

static int add_run(struct walk *w, uint64_t from, uint64_t to)
{
	if (w->from < w->to && w->to == from) {
		w->to = to;
		return 0;
	}
	int rc = flush_run(w);

	w->from = from;
	w->to = to;
	return rc;
}

static bool bit(const uint8_t *map, uint64_t n)
{
	return (map[n / 8] >> (n % 8) & 1) != 0;
}

/* The first block in [N, END) whose bit is VALUE, else END.  MAP begins at bit 0. */
static uint64_t find_bit(const uint8_t *map, uint64_t n, uint64_t end, bool value)
{
	uint8_t skip = value ? 0x00 : 0xff;

	while (n < end) {
		if (n % 8 == 0 && map[n / 8] == skip)
			n += 8;
		else if (bit(map, n) == value)
			return n;
		else
			n++;
	}
	return end;
}

/* The runs in bits [FROM, TO) of a piece of bitmap whose bit 0 is block FIRST. */
static int walk_piece(
	struct walk *w, const uint8_t *map, uint64_t first, uint64_t from, uint64_t to)
{
	uint64_t block = w->cow->info.block;
	int rc = 0;

	for (uint64_t n = find_bit(map, from, to, true); rc == 0 && n < to;) {
		uint64_t end = find_bit(map, n, to, false);

		rc = add_run(w, (first + n) * block, (first + end) * block);
		n = find_bit(map, end, to, true);
	}
	return rc;
}

/* One stretch [POS, END) of the bitmap's bytes that has data. */
static int walk_stretch(
	struct walk *w, uint8_t *map, uint64_t pos, uint64_t end, uint64_t first, uint64_t last)
{
	int rc = 0;

	while (rc == 0 && pos < end) {
		size_t size = (size_t)min64(end - pos, CHUNK);
		uint64_t base = pos * 8, from = first > base ? first - base : 0;

		rc = cow_pread_all(w->cow->fd, map, size, w->cow->info.bitmap_offset + pos);
		if (rc < 0) {
			w->failed = true;
			break;
		}
		if (last > base)
			rc = walk_piece(w, map, base, from, min64(last - base, size * 8));
		pos += size;
	}
	return rc;
}

int cow_map(
	struct cow *cow, uint64_t from, uint64_t to, cow_extent_fn *fn, void *arg, struct err *err)
{
	const struct cow_info *info = &cow->info;
	struct walk w = {.cow = cow, .fn = fn, .arg = arg};
	uint8_t *map = malloc(CHUNK);
	int rc = 0;

	if (!map)
		return err_set(err, -ENOMEM, "out of memory");
	to = min64(to, info->size);
	uint64_t first = from / info->block;
	uint64_t last = min64((to + info->block - 1) / info->block, mapped_blocks(info));
	uint64_t end = info->bitmap_offset + (last + 7) / 8, pos = info->bitmap_offset + first / 8;

	while (rc == 0 && from < to && first < last) {
		uint64_t a = 0, b = 0;
		int found = next_data(cow->fd, pos, end, &a, &b);

		if (found < 0) {
			rc = found;
			w.failed = true;
		}
		if (found <= 0)
			break;
		rc = walk_stretch(
			&w, map, a - info->bitmap_offset, b - info->bitmap_offset, first, last);
		pos = b;
	}
	if (rc == 0)
		rc = flush_run(&w);
	free(map);
	if (w.failed)
		return err_errno(err, rc, "read the COW bitmap");
	return rc;
}

static int count_extent(void *arg, const struct cow_extent *extent)
{
	struct cow_count *count = arg;

	count->set_bytes += extent->size;
	count->data_bytes += extent->hole ? 0 : extent->size;
	count->extents++;
	return 0;
}

int cow_count(struct cow *cow, struct cow_count *out, struct err *err)
{
	struct cow_count count = {0};
	int rc = cow_map(cow, 0, UINT64_MAX, count_extent, &count, err);

	if (rc == 0)
		*out = count;
	return rc;
}

int cow_check(struct cow *cow, struct err *err)
{
	const struct cow_info *info = &cow->info;
	uint64_t blocks = blocks_of(info);
	uint8_t last = 0;
	int rc;

	if (blocks % 8 == 0 || info->bitmap_size * 8 <= blocks)
		return 0;
	rc = cow_pread_all(cow->fd, &last, 1, info->bitmap_offset + blocks / 8);
	if (rc < 0)
		return err_errno(err, rc, "read the COW bitmap");
	if (last >> (blocks % 8))
		return err_set(err, -EPROTO,
			"COW file is damaged: its bitmap has blocks past the end of the disk");
	return 0;
}

/* Fills MAP with the bits of blocks [FIRST, FIRST + COUNT), bit 0 = block FIRST
 * rounded down to a multiple of 8; blocks without a bit are not set. */
static int load_bits(struct cow *cow, uint64_t first, uint64_t count, uint8_t *map)
{
	const struct cow_info *info = &cow->info;
	uint64_t from = first / 8, to = (first + count + 7) / 8,
		 have = min64(to, info->bitmap_size);

	memset(map, 0, (size_t)(to - from));
	if (have <= from)
		return 0;
	return cow_pread_all(cow->fd, map, (size_t)(have - from), info->bitmap_offset + from);
}

int cow_is_set(struct cow *cow, uint64_t offset, struct err *err)
{
	uint64_t n = offset / cow->info.block;
	uint8_t byte;
	int rc;

	if (offset >= cow->info.size)
		return err_set(err, -ERANGE, "COW file: offset %" PRIu64 " is past the disk's end",
			offset);
	rc = load_bits(cow, n, 1, &byte);
	if (rc < 0)
		return err_errno(err, rc, "read the COW bitmap");
	return bit(&byte, n % 8);
}

/* Reads from the backing file; past its end there are zeroes. */
static int read_base(int fd, uint8_t *data, size_t size, uint64_t offset)
{
	while (size > 0 && fd >= 0) {
		ssize_t n = pread(fd, data, size, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		data += n;
		offset += (uint64_t)n;
		size -= (size_t)n;
	}
	memset(data, 0, size);
	return 0;
}

int cow_read(
	struct cow *cow, int base_fd, uint64_t offset, void *data, size_t size, struct err *err)
{
	const struct cow_info *info = &cow->info;
	uint8_t map[CHUNK / COW_BLOCK / 8 + 2], *out = data;

	if (offset > info->size || size > info->size - offset)
		return err_set(err, -ERANGE, "COW file: a read past the disk's end");
	while (size > 0) {
		uint64_t first = offset / info->block;
		uint64_t part = min64(size, CHUNK);
		uint64_t last = (offset + part + info->block - 1) / info->block;
		int rc = load_bits(cow, first, last - first, map);

		if (rc < 0)
			return err_errno(err, rc, "read the COW bitmap");
		uint64_t n = first % 8;
		bool set = bit(map, n);
		uint64_t run = find_bit(map, n, n + last - first, !set) - n;

		part = min64(part, (first + run) * info->block - offset);
		rc = set ? cow_pread_all(cow->fd, out, (size_t)part, info->data_offset + offset)
			 : read_base(base_fd, out, (size_t)part, offset);
		if (rc < 0)
			return err_errno(err, rc, "read the %s", set ? "COW file" : "backing file");
		offset += part;
		out += part;
		size -= (size_t)part;
	}
	return 0;
}

static int set_bits(struct cow *cow, uint64_t first, uint64_t end)
{
	uint8_t map[512];
	int rc = 0;

	while (rc == 0 && first < end) {
		uint64_t stop = min64(end, (first / 8 + sizeof(map)) * 8), byte = first / 8;
		size_t size = (size_t)((stop + 7) / 8 - byte);

		rc = cow_pread_all(cow->fd, map, size, cow->info.bitmap_offset + byte);
		if (rc < 0)
			break;
		for (uint64_t n = first; n < stop; n++)
			map[n / 8 - byte] |= (uint8_t)(1u << n % 8);
		rc = cow_pwrite_all(cow->fd, map, size, cow->info.bitmap_offset + byte);
		first = stop;
	}
	return rc;
}

static int check_write(const struct cow *cow, uint64_t offset, size_t size, struct err *err)
{
	const struct cow_info *info = &cow->info;

	if (!cow->write)
		return err_set(err, -EBADF, "COW file is open for reading only");
	if (offset > info->size || size > info->size - offset)
		return err_set(err, -ERANGE, "COW file: a write past the disk's end");
	if (offset % info->block || (size % info->block && offset + size != info->size))
		return err_set(err, -EINVAL, "COW file: a write of less than whole blocks");
	if ((offset + size + info->block - 1) / info->block > mapped_blocks(info))
		return err_set(err, -EOPNOTSUPP,
			"COW file of version %" PRIu32
			" has no bit for the blocks at the disk's end",
			info->version);
	return 0;
}

static int mark_written(struct cow *cow, uint64_t offset, size_t size)
{
	uint32_t block = cow->info.block;

	return set_bits(cow, offset / block, (offset + size + block - 1) / block);
}

int cow_write(struct cow *cow, uint64_t offset, const void *data, size_t size, struct err *err)
{
	int rc = check_write(cow, offset, size, err);

	if (rc < 0)
		return rc;
	rc = cow_pwrite_all(cow->fd, data, size, cow->info.data_offset + offset);
	if (rc == 0)
		rc = mark_written(cow, offset, size);
	return rc < 0 ? err_errno(err, rc, "write the COW file") : 0;
}

int cow_zero(struct cow *cow, uint64_t offset, size_t size, struct err *err)
{
	static const uint8_t zeroes[4096];
	uint64_t at = cow->info.data_offset + offset;
	int rc = check_write(cow, offset, size, err);

	if (rc < 0)
		return rc;
	if (fallocate(cow->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)size) <
		0)
		rc = -errno;
	if (rc == -EOPNOTSUPP) { /* no holes in this file system */
		rc = 0;
		for (size_t done = 0; rc == 0 && done < size; done += sizeof(zeroes))
			rc = cow_pwrite_all(cow->fd, zeroes,
				(size_t)min64(size - done, sizeof(zeroes)), at + done);
	}
	if (rc == 0)
		rc = mark_written(cow, offset, size);
	return rc < 0 ? err_errno(err, rc, "write the COW file") : 0;
}

/* ---- merge ---- */

struct merge {
	struct cow *cow;
	int out;
	uint8_t *buffer;
	bool no_kernel_copy; /* copy_file_range() does not work between these files */
	uint64_t bytes;
	int rc;
};

static int copy_chunk(
	struct merge *m, int in, uint64_t from, uint64_t to, size_t size, size_t *done)
{
	off_t in_pos = (off_t)from, out_pos = (off_t)to;

	if (!m->no_kernel_copy) {
		ssize_t n = copy_file_range(in, &in_pos, m->out, &out_pos, size, 0);

		if (n > 0) {
			*done = (size_t)n;
			return 0;
		}
		/* Different file systems, or the end of the file: find out by hand. */
		m->no_kernel_copy = true;
	}
	*done = size < CHUNK ? size : CHUNK;
	int rc = cow_pread_all(in, m->buffer, *done, from);

	return rc < 0 ? rc : cow_pwrite_all(m->out, m->buffer, *done, to);
}

static int copy_range(struct merge *m, int in, uint64_t from, uint64_t to, uint64_t size)
{
	while (size > 0) {
		size_t done = 0;
		int rc = copy_chunk(m, in, from, to, (size_t)min64(size, 1u << 30), &done);

		if (rc < 0)
			return rc;
		from += done;
		to += done;
		size -= done;
		m->bytes += done;
	}
	return 0;
}

static int zero_range(struct merge *m, uint64_t from, uint64_t size)
{
	if (fallocate(m->out, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
		    (off_t)size) == 0)
		return 0;
	if (errno != EOPNOTSUPP)
		return -errno;
	memset(m->buffer, 0, CHUNK);
	while (size > 0) {
		size_t part = (size_t)min64(size, CHUNK);
		int rc = cow_pwrite_all(m->out, m->buffer, part, from);

		if (rc < 0)
			return rc;
		from += part;
		size -= part;
		m->bytes += part;
	}
	return 0;
}

static int merge_base(struct merge *m, int base, uint64_t size)
{
	uint64_t pos = 0, from = 0, to = 0;
	int rc;

	while ((rc = next_data(base, pos, size, &from, &to)) > 0) {
		rc = copy_range(m, base, from, from, to - from);
		if (rc < 0)
			return rc;
		pos = to;
	}
	return rc;
}

static int merge_extent(void *arg, const struct cow_extent *extent)
{
	struct merge *m = arg;

	if (extent->hole)
		m->rc = zero_range(m, extent->offset, extent->size);
	else
		m->rc = copy_range(m, m->cow->fd, m->cow->info.data_offset + extent->offset,
			extent->offset, extent->size);
	return m->rc;
}

int cow_merge(struct cow *cow, int base_fd, int out_fd, uint64_t *data_bytes, struct err *err)
{
	struct merge m = {.cow = cow, .out = out_fd, .buffer = malloc(CHUNK)};
	int rc;

	if (!m.buffer)
		return err_set(err, -ENOMEM, "out of memory");
	if (ftruncate(out_fd, (off_t)cow->info.size) < 0) {
		rc = err_errno(err, errno, "extend the merged disk");
		goto out;
	}
	rc = base_fd < 0 ? 0 : merge_base(&m, base_fd, cow->info.size);
	m.no_kernel_copy = false;
	if (rc < 0) {
		rc = err_errno(err, rc, "copy the backing file");
		goto out;
	}
	rc = cow_map(cow, 0, UINT64_MAX, merge_extent, &m, err);
	if (m.rc < 0)
		rc = err_errno(err, m.rc, "copy the blocks of the COW file");
	if (rc == 0 && data_bytes)
		*data_bytes = m.bytes;
out:
	free(m.buffer);
	return rc;
}
