#include "lib/str.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int str_copy(char *dst, size_t size, const char *src)
{
	size_t n = strnlen(src, size);

	if (n >= size) {
		if (size)
			dst[0] = 0;
		return -ENAMETOOLONG;
	}
	memcpy(dst, src, n + 1);
	return 0;
}

int str_format(char *dst, size_t size, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(dst, size, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= size) {
		if (size)
			dst[0] = 0;
		return -ENAMETOOLONG;
	}
	return n;
}

static bool alnum_lower(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

int str_check_name(const char *what, const char *name, struct err *err)
{
	size_t n = strnlen(name, STR_NAME_MAX + 1);

	if (!n)
		return err_set(err, -EINVAL, "%s is empty", what);
	if (n > STR_NAME_MAX)
		return err_set(err, -EINVAL, "%s '%.20s...' is longer than %d characters", what,
			name, STR_NAME_MAX);
	for (size_t i = 0; i < n; i++)
		if (!alnum_lower(name[i]) && name[i] != '-')
			return err_set(err, -EINVAL,
				"%s '%s' may only have a-z, 0-9 and '-' (not '%c')", what, name,
				name[i] >= ' ' && name[i] < 127 ? name[i] : '?');
	if (name[0] == '-' || name[n - 1] == '-')
		return err_set(err, -EINVAL, "%s '%s' must start and end with a letter or digit",
			what, name);
	return 0;
}

#define NEAR_MAX 64

/* Optimal string alignment distance, three rolling rows. */
static size_t distance(const char *a, const char *b)
{
	size_t rows[3][NEAR_MAX + 1];
	size_t *prev2 = rows[0], *prev = rows[1], *row = rows[2];
	size_t n = strlen(a), m = strlen(b);

	for (size_t j = 0; j <= m; j++) {
		prev[j] = j;
		prev2[j] = j;
	}
	for (size_t i = 1; i <= n; i++) {
		row[0] = i;
		for (size_t j = 1; j <= m; j++) {
			size_t cost = a[i - 1] != b[j - 1];
			size_t best = prev[j - 1] + cost;

			if (prev[j] + 1 < best)
				best = prev[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
				prev2[j - 2] + 1 < best)
				best = prev2[j - 2] + 1;
			row[j] = best;
		}
		size_t *t = prev2;
		prev2 = prev;
		prev = row;
		row = t;
	}
	return prev[m];
}

const char *str_nearest(const char *word, const char *const *candidates, size_t count)
{
	const char *best = NULL;
	size_t length = strnlen(word, NEAR_MAX), least = length / 3 + 2;

	if (length >= NEAR_MAX || !length)
		return NULL;
	for (size_t i = 0; i < count; i++) {
		size_t d;

		if (strlen(candidates[i]) >= NEAR_MAX)
			continue;
		d = distance(word, candidates[i]);
		/* Nothing of the word left is no likeness. */
		if (d < least && d < length) {
			least = d;
			best = candidates[i];
		}
	}
	return best;
}

void str_hex(char *dst, const void *data, size_t size)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *p = data;

	for (size_t i = 0; i < size; i++) {
		dst[2 * i] = digits[p[i] >> 4];
		dst[2 * i + 1] = digits[p[i] & 15];
	}
	dst[2 * size] = 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int str_unhex(void *data, size_t size, const char *hex)
{
	uint8_t *p = data;

	if (strnlen(hex, 2 * size + 1) != 2 * size)
		return -EINVAL;
	for (size_t i = 0; i < 2 * size; i++)
		if (hex_digit(hex[i]) < 0)
			return -EINVAL;
	for (size_t i = 0; i < size; i++)
		p[i] = (uint8_t)((unsigned)hex_digit(hex[2 * i]) << 4 |
				 (unsigned)hex_digit(hex[2 * i + 1]));
	return 0;
}

int str_u64(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;

	if (!*text)
		return -EINVAL;
	for (const char *p = text; *p; p++) {
		if (*p < '0' || *p > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(v, 10u, &v) ||
			__builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return -ERANGE;
	}
	if (v < min || v > max)
		return -ERANGE;
	*out = v;
	return 0;
}

int str_i64(const char *text, int64_t min, int64_t max, int64_t *out)
{
	bool minus = *text == '-';
	uint64_t v;
	int64_t n;
	int rc = str_u64(text + minus, 0, (uint64_t)INT64_MAX + minus, &v);

	if (rc < 0)
		return rc;
	if (minus)
		n = v ? -(int64_t)(v - 1) - 1 : 0;
	else
		n = (int64_t)v;
	if (n < min || n > max)
		return -ERANGE;
	*out = n;
	return 0;
}

bool str_starts(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* Length of the UTF-8 sequence at P (1..4), 0 when it is none (RFC 3629). */
static size_t utf8_length(const uint8_t *p, size_t left)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n;
	uint32_t v;

	if (p[0] < 0x80)
		return p[0] != 0;
	if ((p[0] & 0xe0) == 0xc0) {
		n = 2;
		v = p[0] & 0x1fu;
	} else if ((p[0] & 0xf0) == 0xe0) {
		n = 3;
		v = p[0] & 0x0fu;
	} else if ((p[0] & 0xf8) == 0xf0) {
		n = 4;
		v = p[0] & 0x07u;
	} else {
		return 0;
	}
	if (n > left)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		v = v << 6 | (p[i] & 0x3fu);
	}
	if (v < least[n] || v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff))
		return 0;
	return n;
}

bool str_is_utf8(const char *text, size_t size)
{
	const uint8_t *p = (const uint8_t *)text;

	for (size_t i = 0; i < size;) {
		size_t n = utf8_length(p + i, size - i);

		if (!n)
			return false;
		i += n;
	}
	return true;
}

char *str_dup(const char *text)
{
	return strdup(text);
}
