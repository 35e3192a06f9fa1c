#include "lib/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/proc.h"
#include "lib/str.h"

/* The one process-wide state of lib/: set by log_init() before threads exist;
 * only the level changes afterwards. */
static struct log_config settings = {.program = "umlaut", .instance = "", .fd = 2};
static atomic_int current_level = LOG_INFO;

static const char *const level_names[LOG_LEVELS] = {"debug", "info", "warn", "error"};
static const char *const level_tags[LOG_LEVELS] = {"DEBUG", "INFO ", "WARN ", "ERROR"};

void log_init(const struct log_config *config)
{
	settings = *config;
	if (!settings.program)
		settings.program = "umlaut";
	if (!settings.instance)
		settings.instance = "";
	atomic_store(&current_level, (int)config->level);
}

void log_set_level(enum log_level level)
{
	atomic_store(&current_level, (int)level);
}

bool log_enabled(enum log_level level)
{
	return (int)level >= atomic_load(&current_level);
}

int log_level_parse(const char *text, enum log_level *level, struct err *err)
{
	for (int i = 0; i < LOG_LEVELS; i++) {
		if (strcmp(text, level_names[i]) == 0) {
			*level = (enum log_level)i;
			return 0;
		}
	}
	return err_set(err, -EINVAL, "'%.20s' is not a log level (debug, info, warn, error)", text);
}

/* A line being written.  A piece that does not fit is left out whole, with all
 * that follows, so a cut line never ends inside an escape.  TAIL is kept free
 * for what closes the line: quote, brace, newline. */
#define TAIL 8u

struct line {
	char text[LOG_LINE_MAX];
	size_t size;
	bool cut;
};

static void put(struct line *l, const char *text, size_t size)
{
	if (l->cut || l->size + size > sizeof(l->text) - TAIL) {
		l->cut = true;
		return;
	}
	memcpy(l->text + l->size, text, size);
	l->size += size;
}

/* Closes what is open: there is always room for it. */
static void put_tail(struct line *l, const char *text)
{
	size_t n = strlen(text);

	memcpy(l->text + l->size, text, n);
	l->size += n;
}

static void put_str(struct line *l, const char *text)
{
	put(l, text, strlen(text));
}

/* Escapes as JSON does, in both formats: nothing can forge a line. */
static void put_escaped(struct line *l, const char *text)
{
	size_t n = strlen(text);
	bool utf8 = str_is_utf8(text, n);

	for (size_t i = 0, step; i < n; i += step) {
		unsigned char c = (unsigned char)text[i];
		char esc[8];

		step = 1;
		if (c == '"' || c == '\\') {
			(void)snprintf(esc, sizeof(esc), "\\%c", c);
			put_str(l, esc);
		} else if (c == '\n') {
			put_str(l, "\\n");
		} else if (c < 0x20 || c == 0x7f || (c >= 0x80 && !utf8)) {
			(void)snprintf(esc, sizeof(esc), "\\u%04x", c);
			put_str(l, esc);
		} else {
			while (((unsigned char)text[i + step] & 0xc0) == 0x80 && c >= 0x80)
				step++;
			put(l, text + i, step);
		}
	}
}

static bool plain(const char *text)
{
	if (!*text)
		return false;
	for (const char *p = text; *p; p++)
		if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f || *p == '"' ||
			*p == '=' || *p == '\\')
			return false;
	return true;
}

static void put_quoted(struct line *l, const char *text)
{
	if (l->cut)
		return;
	put_str(l, "\"");
	if (l->cut)
		return;
	put_escaped(l, text);
	put_tail(l, "\"");
}

static void put_value(struct line *l, const struct log_field *f)
{
	char number[32] = "";

	switch (f->kind) {
	case LOG_KIND_STR:
		if (!f->v.str)
			put_str(l, settings.json ? "null" : "-");
		else if (!settings.json && plain(f->v.str))
			put_str(l, f->v.str);
		else
			put_quoted(l, f->v.str);
		break;
	case LOG_KIND_U64:
		(void)snprintf(number, sizeof(number), "%" PRIu64, f->v.u64);
		break;
	case LOG_KIND_I64:
		(void)snprintf(number, sizeof(number), "%" PRId64, f->v.i64);
		break;
	case LOG_KIND_BOOL:
		put_str(l, f->v.b ? "true" : "false");
		break;
	case LOG_KIND_END:
		break;
	}
	put_str(l, number);
}

static void put_head(struct line *l, enum log_level level, const char *msg)
{
	struct timespec now;
	struct tm tm;
	char when[80], stamp[40];

	(void)clock_gettime(CLOCK_REALTIME, &now);
	(void)gmtime_r(&now.tv_sec, &tm);
	(void)strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	(void)snprintf(when, sizeof(when), "%s.%03ldZ", stamp, now.tv_nsec / 1000000);
	if (settings.json) {
		put_str(l, "{\"time\":\"");
		put_str(l, when);
		put_str(l, "\",\"level\":\"");
		put_str(l, level_names[level]);
		put_str(l, "\",\"program\":");
		put_quoted(l, settings.program);
		put_str(l, ",\"instance\":");
		put_quoted(l, settings.instance);
		put_str(l, ",\"msg\":");
		put_quoted(l, msg);
		return;
	}
	put_str(l, when);
	put_str(l, " ");
	put_str(l, level_tags[level]);
	put_str(l, " ");
	put_str(l, settings.program);
	if (*settings.instance) {
		put_str(l, " ");
		put_str(l, settings.instance);
	}
	put_str(l, ": ");
	put_escaped(l, msg);
}

/* A whole field or, in a line that is full, none: only a text may be cut. */
static void put_field(struct line *l, const struct log_field *f)
{
	size_t before = l->size, start;

	if (settings.json) {
		put_str(l, ",");
		put_quoted(l, f->key);
		put_str(l, ":");
	} else {
		put_str(l, " ");
		put_str(l, f->key);
		put_str(l, "=");
	}
	start = l->size;
	put_value(l, f);
	if (l->cut && l->size == start)
		l->size = before;
}

void log_write(enum log_level level, const char *msg, const struct log_field *fields)
{
	struct line l;
	int saved = errno;
	ssize_t n;

	if (!log_enabled(level))
		return;
	l.size = 0;
	l.cut = false;
	put_head(&l, level, msg);
	for (const struct log_field *f = fields; f && f->kind != LOG_KIND_END && !l.cut; f++)
		put_field(&l, f);
	if (settings.json)
		put_tail(&l, "}");
	l.text[l.size++] = '\n';
	do
		n = write(settings.fd, l.text, l.size);
	while (n < 0 && errno == EINTR);
	errno = saved;
}

#define RATE_WINDOW_MS 10000u
#define RATE_PASS 5u

bool log_rate_pass(struct log_rate *rate)
{
	uint64_t now = proc_mono_ms();

	if (!rate->window_ms || now - rate->window_ms >= RATE_WINDOW_MS) {
		if (rate->dropped)
			log_warn("similar messages were dropped", LOG_U64("count", rate->dropped));
		*rate = (struct log_rate){.window_ms = now};
	}
	if (rate->passed >= RATE_PASS) {
		rate->dropped++;
		return false;
	}
	rate->passed++;
	return true;
}
