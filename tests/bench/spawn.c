/* What a guest's own start of a program costs: fork and exec, and vfork and exec, of
 * argv[2] argv[1] times each.  Prints both medians in ms.  Built static, run in the guest. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST 1000

static double now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(int n, char **argv, int by_vfork)
{
	static double ms[MOST];

	for (int i = 0; i < n; i++) {
		double from = now_ms();
		pid_t pid = by_vfork ? vfork() : fork();

		if (pid == 0) {
			(void)execv(argv[0], argv);
			_exit(127);
		}
		int status = 0;

		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			exit(1);
		ms[i] = now_ms() - from;
	}
	qsort(ms, (size_t)n, sizeof(ms[0]), compare);
	return ms[n / 2];
}

int main(int argc, char **argv)
{
	int n = argc > 2 ? (int)strtol(argv[1], NULL, 10) : 0;

	if (n < 1 || n > MOST)
		return 2;
	(void)printf("%.3f %.3f\n", median(n, argv + 2, 0), median(n, argv + 2, 1));
	return 0;
}
