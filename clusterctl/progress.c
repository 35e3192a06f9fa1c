#include "clusterctl/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "lib/proc.h"
#include "lib/units.h"

void progress_text(const struct progress *p, uint64_t ms, char *out, size_t size)
{
	char done[UNITS_TEXT], whole[UNITS_TEXT], rate[UNITS_TEXT], left[UNITS_TEXT];
	uint64_t per_second = ms ? p->done * 1000 / ms : 0;
	/* The frame around a file is sent too: never more than all of it. */
	uint64_t had = p->whole && p->done > p->whole ? p->whole : p->done;

	(void)units_size(done, had);
	(void)units_size(rate, per_second);
	if (!p->whole) {
		(void)snprintf(out, size, "%s, %s/s", done, rate);
		return;
	}
	(void)units_size(whole, p->whole);
	if (per_second)
		(void)units_duration(left, ((p->whole - had) / per_second + 1) * 1000);
	(void)snprintf(out, size, "%s of %s, %u%%, %s/s%s%s%s", done, whole,
		(unsigned)(had * 100 / p->whole), rate, per_second ? ", " : "",
		per_second ? left : "", per_second ? " left" : "");
}

static void on_timer(void *arg)
{
	struct progress *p = arg;
	char text[160];

	progress_text(p, proc_mono_ms() - p->began, text, sizeof(text));
	(void)fprintf(stderr, "\r\033[K%s", text);
	p->shown = true;
	loop_timer_arm(p->timer, PROGRESS_MS);
}

void progress_begin(struct progress *p, struct loop *loop, uint64_t whole)
{
	*p = (struct progress){.whole = whole, .began = proc_mono_ms()};
	if (!isatty(STDERR_FILENO) ||
		loop_timer_open(loop, "progress", on_timer, p, &p->timer, NULL) < 0)
		return;
	loop_timer_arm(p->timer, PROGRESS_MS);
}

void progress_add(struct progress *p, size_t size)
{
	p->done += size;
}

void progress_end(struct progress *p)
{
	loop_timer_close(p->timer);
	p->timer = NULL;
	if (p->shown)
		(void)fputs("\r\033[K", stderr);
	p->shown = false;
}
