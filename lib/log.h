/* log: structured logs to standard error, as text or JSON lines.
 *
 * One logger per process, set up once by main() and then read-only apart from
 * its level; the only process-wide state in lib/.  Safe from any thread (one
 * write(2) per line).  Library code logs at LOG_DEBUG only; see lib/err.h.
 *
 *   log_info("guest started", LOG_STR("guest", name), LOG_U64("epoch", e));
 *
 * Text:  2026-11-23T17:00:00.123Z INFO  agent h1: guest started guest=hello/web-1 epoch=3
 * JSON:  {"time":"...","level":"info","program":"agent","instance":"h1","msg":"guest started",...}
 *
 * Values are escaped (control bytes, quotes), so nothing a guest or peer sends
 * can forge a line.  A line is at most LOG_LINE_MAX bytes, then cut.
 */
#ifndef UMLAUT_LIB_LOG_H
#define UMLAUT_LIB_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define LOG_LINE_MAX 4096

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_LEVELS };

enum log_field_kind { LOG_KIND_END, LOG_KIND_STR, LOG_KIND_U64, LOG_KIND_I64, LOG_KIND_BOOL };

struct log_field {
	const char *key;
	enum log_field_kind kind;
	union {
		const char *str;
		uint64_t u64;
		int64_t i64;
		bool b;
	} v;
};

#define LOG_STR(k, s) ((struct log_field){.key = (k), .kind = LOG_KIND_STR, .v.str = (s)})
#define LOG_U64(k, n) ((struct log_field){.key = (k), .kind = LOG_KIND_U64, .v.u64 = (n)})
#define LOG_I64(k, n) ((struct log_field){.key = (k), .kind = LOG_KIND_I64, .v.i64 = (n)})
#define LOG_BOOL(k, x) ((struct log_field){.key = (k), .kind = LOG_KIND_BOOL, .v.b = (x)})
#define LOG_ERR(e) LOG_STR("error", err_msg(e))
#define LOG_END ((struct log_field){.kind = LOG_KIND_END})

struct log_config {
	const char *program;  /* "agent"; borrowed for ever */
	const char *instance; /* host name or ""; borrowed for ever */
	enum log_level level;
	bool json;
	int fd; /* usually 2; not owned */
};

void log_init(const struct log_config *config);
void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);
/* "debug", "info", "warn", "error"; -EINVAL with the list of them otherwise. */
int log_level_parse(const char *text, enum log_level *level, struct err *err);

/* FIELDS ends with LOG_END. */
void log_write(enum log_level level, const char *msg, const struct log_field *fields);

/* The first element is there only so that a list without fields is no error
 * (the comma goes with ##, which cppcheck knows, unlike __VA_OPT__). */
#define log_at(level, msg, ...)                                                \
	do {                                                                   \
		if (log_enabled(level))                                        \
			log_write((level), (msg),                              \
				&((const struct log_field[]){                  \
					LOG_END, ##__VA_ARGS__, LOG_END})[1]); \
	} while (0)
#define log_debug(msg, ...) log_at(LOG_DEBUG, msg, ##__VA_ARGS__)
#define log_info(msg, ...) log_at(LOG_INFO, msg, ##__VA_ARGS__)
#define log_warn(msg, ...) log_at(LOG_WARN, msg, ##__VA_ARGS__)
#define log_error(msg, ...) log_at(LOG_ERROR, msg, ##__VA_ARGS__)

/* For messages a peer can provoke: lets through 5 in 10 seconds per `struct
 * log_rate`, and tells how many were dropped with the next one. */
struct log_rate {
	uint64_t window_ms;
	uint32_t passed, dropped;
};
bool log_rate_pass(struct log_rate *rate);

#endif
