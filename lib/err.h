/* err: the one error convention of Umlaut.
 *
 * A function that can fail returns 0 (or a useful non-negative number) on
 * success and a negative errno value on failure, and takes `struct err *err`
 * as its last parameter.  The struct lies on the caller's stack and has a fixed
 * size: nothing to free, and it works when memory is short.
 *
 *  - Success leaves *err alone.  Out-parameters change only on success.
 *  - The message is one a person can act on: it names the object, the field or
 *    the peer, and what was expected.  No trailing newline or full stop.
 *  - Each level may put its context in front with err_wrap().
 *  - Library code never logs a failure it returns; the program's edge logs once.
 *  - `err` may be NULL where the caller does not care for the text.
 *
 * Pure: no I/O, no globals.
 */
#ifndef UMLAUT_LIB_ERR_H
#define UMLAUT_LIB_ERR_H

#define ERR_MSG_SIZE 512

struct err {
	int code;		/* negative errno, 0 while unset */
	char msg[ERR_MSG_SIZE]; /* NUL-terminated, truncated if need be */
};

#define ERR_INIT ((struct err){.code = 0, .msg = ""})

/* Fills *err (if not NULL) with CODE (a negative errno; a positive one is
 * negated, 0 becomes -EIO) and the message.  Returns the negative code, so that
 * `return err_set(err, -EINVAL, "memory: '%s' is not a size", s);` is one line. */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As err_set(), and appends ": " and the text of CODE's errno.  For failed
 * system calls: `return err_errno(err, errno, "open %s", path);` */
int err_errno(struct err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "CONTEXT: " in front of the message already in *err.  Returns
 * err->code, or -EIO when err is NULL or unset. */
int err_wrap(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#ifdef __clang_analyzer__
/* It does not see into err.c: what they return is negative. */
static inline int err_negative(int code)
{
	return code < 0 ? code : -5;
}
#define err_set(...) err_negative(err_set(__VA_ARGS__))
#define err_errno(...) err_negative(err_errno(__VA_ARGS__))
#define err_wrap(...) err_negative(err_wrap(__VA_ARGS__))
#endif

/* The message, never NULL; "unknown error" when unset. */
const char *err_msg(const struct err *err);

#endif
