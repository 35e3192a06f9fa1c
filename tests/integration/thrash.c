/* Makes a control group stand still for want of memory: reads single pages of a file that is
 * larger than the group may hold, in no order.  thrash FILE SECONDS */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int fd = argc == 3 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
	off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	time_t end = time(NULL) + (argc == 3 ? (int)strtol(argv[2], NULL, 10) : 0);
	uint32_t x = (uint32_t)getpid();
	long sum = 0;
	char *p;

	if (size < 4096)
		return 2;
	p = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED || madvise(p, (size_t)size, MADV_RANDOM) < 0)
		return 1;
	while (time(NULL) < end)
		for (int i = 0; i < 1000; i++) {
			x = x * 1103515245u + 12345u;
			sum += ((volatile char *)p)[(x >> 4) % ((size_t)size / 4096) * 4096];
		}
	(void)printf("%ld\n", sum);
	return 0;
}
