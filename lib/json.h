/* json: a writer that cannot make wrong JSON.  Pure but for malloc. */
#ifndef UMLAUT_LIB_JSON_H
#define UMLAUT_LIB_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/buf.h"

struct json {
	struct buf *out;
	unsigned depth;
	uint64_t comma;	 /* bit per depth: a value was written */
	uint64_t object; /* bit per depth: an object */
	unsigned indent; /* 0: compact */
};

void json_init(struct json *j, struct buf *out, unsigned indent);
void json_object(struct json *j, const char *key); /* KEY NULL inside arrays and at the top */
void json_array(struct json *j, const char *key);
void json_end(struct json *j);
void json_str(struct json *j, const char *key, const char *value); /* NULL value: null */
void json_strn(struct json *j, const char *key, const char *value, size_t size);
void json_u64(struct json *j, const char *key, uint64_t value);
void json_i64(struct json *j, const char *key, int64_t value);
void json_double(struct json *j, const char *key, double value); /* NaN, inf: null */
void json_bool(struct json *j, const char *key, bool value);
void json_null(struct json *j, const char *key);

#endif
