#include <stdlib.h>
#include <string.h>

#include "lib/proc.h"
#include "scheduler/serve/serve_int.h"

static void place(struct serve *s, Um__EventInfo *event)
{
	Um__EventInfo **slot = &s->events[event->seq % SERVE_EVENTS_MAX];

	if (*slot)
		um__event_info__free_unpacked(*slot, NULL);
	*slot = event;
	if (event->seq > s->event_seq)
		s->event_seq = event->seq;
}

void events_load(struct serve *s, Um__EventInfo *event)
{
	place(s, event);
}

static char *dup_text(const char *text)
{
	char *copy = str_dup(text);

	if (!copy)
		abort();
	return copy;
}

size_t events_add(struct serve *s, const struct core_log *log, struct arena *a,
	struct store_op *ops, Um__EventInfo **out)
{
	Um__EventInfo *event = malloc(sizeof(*event));
	size_t n = 0;

	if (!event)
		abort();
	um__event_info__init(event);
	event->seq = s->event_seq + 1;
	event->time = proc_wall_ms();
	event->kind = dup_text(log->kind);
	event->name = dup_text(log->name);
	event->reason = dup_text(log->reason);
	event->message = dup_text(log->message);
	event->host = dup_text(log->host);
	event->warning = log->warning;
	records_event(event, a, &ops[n++]);
	/* The oldest goes when the ring comes round. */
	if (s->events[event->seq % SERVE_EVENTS_MAX])
		records_event_gone(s->events[event->seq % SERVE_EVENTS_MAX]->seq, a, &ops[n++]);
	place(s, event);
	*out = event;
	return n;
}

void events_free(struct serve *s)
{
	for (size_t i = 0; i < SERVE_EVENTS_MAX; i++)
		if (s->events[i])
			um__event_info__free_unpacked(s->events[i], NULL);
}
