#include "lib/err.h"

#undef err_set /* of the analyzer's view, err.h */
#undef err_errno
#undef err_wrap

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int normal(int code)
{
	if (code == 0)
		return -EIO;
	return code > 0 ? -code : code;
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	code = normal(code);
	if (!err)
		return code;
	err->code = code;
	va_start(ap, fmt);
	(void)vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	return code;
}

int err_errno(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;
	size_t used;

	code = normal(code);
	if (!err)
		return code;
	err->code = code;
	va_start(ap, fmt);
	(void)vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	used = strlen(err->msg);
	/* strerrordesc_np() is thread-safe, unlike strerror(). */
	const char *text = strerrordesc_np(-code);
	(void)snprintf(
		err->msg + used, sizeof(err->msg) - used, ": %s", text ? text : "unknown error");
	return code;
}

int err_wrap(struct err *err, const char *fmt, ...)
{
	char old[ERR_MSG_SIZE];
	va_list ap;
	size_t used;

	if (!err)
		return -EIO;
	memcpy(old, err->msg, sizeof(old));
	va_start(ap, fmt);
	(void)vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	used = strlen(err->msg);
	(void)snprintf(err->msg + used, sizeof(err->msg) - used, ": %s", old);
	return err->code ? err->code : -EIO;
}

const char *err_msg(const struct err *err)
{
	return err && err->msg[0] ? err->msg : "unknown error";
}
