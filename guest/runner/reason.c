#include "guest/runner/reason.h"

#include <stdio.h>
#include <string.h>

#define PANIC "Kernel panic - not syncing: "

void reason_clean(char *dst, size_t size, const char *text)
{
	size_t used = 0;
	const char *p;

	for (p = text; *p && used + 1 < size; p++) {
		char c = *p;

		if (c == '\n' || c == '\r' || c == '\t')
			c = ' ';
		if (c == ' ' && (used == 0 || dst[used - 1] == ' '))
			continue;
		dst[used++] = c < ' ' || c > '~' ? '?' : c;
	}
	while (used && dst[used - 1] == ' ')
		used--;
	dst[used] = '\0';
}

int reason_panic(char *dst, size_t size, const char *console, size_t console_size)
{
	const char *end = console + console_size, *p = console, *found = NULL, *line_end;
	char line[256];
	size_t n;

	while ((p = memmem(p, (size_t)(end - p), PANIC, strlen(PANIC))))
		found = p++;
	if (!found)
		return 0;
	line_end = memchr(found, '\n', (size_t)(end - found));
	n = (size_t)((line_end ? line_end : end) - found);
	n = n < sizeof(line) ? n : sizeof(line) - 1;
	memcpy(line, found, n);
	line[n] = '\0';
	reason_clean(dst, size, line);
	return 1;
}

void reason_end(char *dst, size_t size, int status)
{
	const char *name;

	if (status < 0) {
		(void)snprintf(dst, size, "how the kernel ended is unknown");
	} else if (status < 256) {
		(void)snprintf(dst, size, "the kernel ended with status %d", status);
	} else {
		name = sigdescr_np(status - 256);
		(void)snprintf(dst, size, "the kernel was killed by signal %d (%s)", status - 256,
			name ? name : "unknown");
	}
}

bool reason_lost_stub(const char *text, size_t size)
{
	static const char *const words[] = {
		"userspace - ptrace ", "userspace - wait failed", "wait_stub_done : "};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (memmem(text, size, words[i], strlen(words[i])))
			return true;
	return false;
}
