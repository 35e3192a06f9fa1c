/* str: small text helpers.  Pure. */
#ifndef UMLAUT_LIB_STR_H
#define UMLAUT_LIB_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define STR_NAME_MAX 63	     /* a host, deployment, network or guest name */
#define STR_FULLNAME_MAX 127 /* "deployment/guest" */

/* Copies SRC into DST of SIZE bytes, always terminated.  -ENAMETOOLONG (DST
 * becomes "") when it does not fit. */
int str_copy(char *dst, size_t size, const char *src);

/* snprintf that reports truncation: length, or -ENAMETOOLONG (DST becomes ""). */
int str_format(char *dst, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* A name: 1..STR_NAME_MAX of [a-z0-9-], starting and ending with a letter or
 * digit (RFC 1123 label, lower case).  WHAT names the field in the message. */
int str_check_name(const char *what, const char *name, struct err *err);

/* The candidate nearest to WORD by edit distance (Damerau-Levenshtein) when it
 * is near enough to be a likely misspelling, else NULL.  For "did you mean". */
const char *str_nearest(const char *word, const char *const *candidates, size_t count);

/* Lower-case hex.  DST must hold 2 * size + 1 bytes. */
void str_hex(char *dst, const void *data, size_t size);
/* Parses exactly 2 * size hex digits. -EINVAL otherwise. */
int str_unhex(void *data, size_t size, const char *hex);

/* Decimal integer in [min, max], whole string. -EINVAL / -ERANGE. */
int str_u64(const char *text, uint64_t min, uint64_t max, uint64_t *out);
int str_i64(const char *text, int64_t min, int64_t max, int64_t *out);

bool str_starts(const char *text, const char *prefix);
/* Valid UTF-8 without NUL, at most SIZE bytes. */
bool str_is_utf8(const char *text, size_t size);
/* malloc'd copy; NULL when memory is short. */
char *str_dup(const char *text);

#endif
