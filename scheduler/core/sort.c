#include <stdlib.h>
#include <string.h>

#include "scheduler/core/core_int.h"

/* Merge sort: qsort() is not stable, and equal groups keep the order of the lab. */
static void merge(struct core_group **a, struct core_group **tmp, size_t n,
	int (*cmp)(const void *, const void *))
{
	size_t half = n / 2, i = 0, k = half, o = 0;

	if (n < 2)
		return;
	merge(a, tmp, half, cmp);
	merge(a + half, tmp, n - half, cmp);
	memcpy(tmp, a, n * sizeof(struct core_group *));
	while (i < half && k < n)
		a[o++] = cmp(&tmp[k], &tmp[i]) < 0 ? tmp[k++] : tmp[i++];
	while (i < half)
		a[o++] = tmp[i++];
	while (k < n)
		a[o++] = tmp[k++];
}

void place_sort(struct core_group **groups, size_t n, int (*cmp)(const void *, const void *))
{
	struct core_group **tmp = calloc(n + 1, sizeof(struct core_group *));

	/* Without memory the order is the lab's. */
	if (tmp)
		merge(groups, tmp, n, cmp);
	free(tmp);
}
