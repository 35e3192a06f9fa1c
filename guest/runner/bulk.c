#include "guest/runner/bulk.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/str.h"

static uint64_t round_up(uint64_t value, uint64_t to)
{
	return (value + to - 1) / to * to;
}

int bulk_make(int *ours, int *theirs, struct err *err)
{
	char path[64];
	int fd = memfd_create("bulk", MFD_CLOEXEC | MFD_ALLOW_SEALING), other;

	if (fd < 0)
		return err_errno(err, errno, "make the guest's bulk window");
	(void)str_format(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (ftruncate(fd, WIRE_LINE_BULK) < 0 || fchmod(fd, 0444) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		int code = errno;

		(void)close(fd);
		return err_errno(err, code, "make the guest's bulk window");
	}
	other = open(path, O_RDONLY | O_CLOEXEC);
	if (other < 0) {
		int code = errno;

		(void)close(fd);
		return err_errno(err, code, "open the guest's bulk window (%s)", path);
	}
	*ours = fd;
	*theirs = other;
	return 0;
}

void bulk_begin(struct bulk *bulk, uint32_t size)
{
	bulk->on = bulk->fd >= 0 && size == WIRE_LINE_BULK;
	bulk->head = bulk->tail = 0;
}

/* Bytes from the head to the end of the window, and those of them and behind that are free. */
static void spaces(const struct bulk *bulk, size_t *ahead, size_t *wrapped)
{
	size_t to_end = WIRE_LINE_BULK - (size_t)(bulk->head % WIRE_LINE_BULK);
	size_t room = WIRE_LINE_BULK - (size_t)(bulk->head - bulk->tail);

	*ahead = to_end < room ? to_end : room;
	*wrapped = room > to_end ? room - to_end : 0;
}

size_t bulk_room(const struct bulk *bulk)
{
	size_t ahead, wrapped, most;

	if (!bulk->on)
		return 0;
	spaces(bulk, &ahead, &wrapped);
	most = ahead > wrapped ? ahead : wrapped;
	return most < WIRE_BULK_BATCH ? most : WIRE_BULK_BATCH;
}

int bulk_put(struct bulk *bulk, const void *data, size_t size, Um__LineBulk *out, struct err *err)
{
	size_t ahead, wrapped, done = 0;
	uint64_t at = bulk->head;

	if (size == 0 || size > bulk_room(bulk))
		return err_set(err, -ENOBUFS, "no room in the guest's bulk window");
	spaces(bulk, &ahead, &wrapped);
	if (size > ahead)
		at = round_up(at, WIRE_LINE_BULK);
	while (done < size) {
		ssize_t n = pwrite(bulk->fd, (const char *)data + done, size - done,
			(off_t)(at % WIRE_LINE_BULK + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_errno(err, n < 0 ? errno : EIO, "write the guest's bulk window");
		done += (size_t)n;
	}
	bulk->head = round_up(at + size, WIRE_BULK_ALIGN);
	out->offset = at % WIRE_LINE_BULK;
	out->size = (uint32_t)size;
	out->end = bulk->head;
	return 0;
}

void bulk_confirm(struct bulk *bulk, uint64_t end)
{
	if (!bulk->on || end <= bulk->tail || end > bulk->head)
		return;
	bulk->tail = end;
	if (bulk->tail != bulk->head)
		return;
	/* All was read: begin anew at the front, and hold no memory until then. */
	bulk->head = bulk->tail = round_up(bulk->head, WIRE_LINE_BULK);
	(void)fallocate(bulk->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, WIRE_LINE_BULK);
}
