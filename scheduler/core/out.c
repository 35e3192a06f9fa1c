#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/core/core_int.h"

void core_out_reset(struct core_out *out)
{
	out->dirty_count = out->action_count = out->log_count = 0;
}

void core_out_free(struct core_out *out)
{
	free(out->dirty);
	free(out->actions);
	free(out->logs);
	memset(out, 0, sizeof(*out));
}

/* Room for one more of SIZE bytes; the array, or NULL. */
static void *grow(struct core_out *out, void *array, size_t count, size_t *room, size_t size)
{
	size_t more = *room ? *room * 2 : 64;
	void *bigger;

	if (count < *room)
		return array;
	bigger = realloc(array, more * size);
	if (!bigger) {
		out->failed = true;
		return NULL;
	}
	*room = more;
	return bigger;
}

static void touched(struct core_out *out, enum core_kind kind, const char *key, bool shown)
{
	struct core_dirty *last, *array;

	/* The same record is often touched several times in a row. */
	if (out->dirty_count) {
		last = &out->dirty[out->dirty_count - 1];
		if (last->kind == kind && strcmp(last->key, key) == 0) {
			last->shown = last->shown && shown;
			return;
		}
	}
	array = grow(out, out->dirty, out->dirty_count, &out->dirty_room, sizeof(*array));
	if (!array)
		return;
	out->dirty = array;
	array += out->dirty_count++;
	array->kind = kind;
	array->shown = shown;
	(void)str_copy(array->key, sizeof(array->key), key);
}

void out_dirty(struct core_out *out, enum core_kind kind, const char *key)
{
	touched(out, kind, key, false);
}

void out_shown(struct core_out *out, enum core_kind kind, const char *key)
{
	touched(out, kind, key, true);
}

void out_dirty_guest(struct core_out *out, const struct core_guest *guest)
{
	char key[CORE_NAME];

	(void)snprintf(key, sizeof(key), "%016" PRIx64, guest->uid);
	out_dirty(out, CORE_KIND_GUEST, key);
}

void out_action(struct core_out *out, const struct core_action *action)
{
	struct core_action *array =
		grow(out, out->actions, out->action_count, &out->action_room, sizeof(*array));

	if (!array)
		return;
	out->actions = array;
	array[out->action_count++] = *action;
}

void out_tell_guest(struct core_out *out, const struct core_guest *guest)
{
	struct core_action action = {.kind = CORE_TELL_GUEST, .uid = guest->uid};

	if (!guest->host)
		return;
	(void)str_copy(action.host, sizeof(action.host), guest->host->name);
	out_action(out, &action);
}

void out_tell_remove(struct core_out *out, const char *host, uint64_t uid, uint64_t epoch)
{
	struct core_action action = {.kind = CORE_TELL_REMOVE, .uid = uid, .epoch = epoch};

	(void)str_copy(action.host, sizeof(action.host), host);
	out_action(out, &action);
}

void out_log(struct core_out *out, const char *kind, const char *name, const char *reason,
	bool warning, const char *host, const char *fmt, ...)
{
	struct core_log *array =
		grow(out, out->logs, out->log_count, &out->log_room, sizeof(*array));
	va_list ap;

	if (!array)
		return;
	out->logs = array;
	array += out->log_count++;
	array->kind = kind;
	array->reason = reason;
	array->warning = warning;
	(void)snprintf(array->name, sizeof(array->name), "%s", name);
	(void)snprintf(array->host, sizeof(array->host), "%s", host ? host : "");
	va_start(ap, fmt);
	(void)vsnprintf(array->message, sizeof(array->message), fmt, ap);
	va_end(ap);
}
