#include "scheduler/core/text.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/core/core_int.h"

const char text_none[1] = "";

struct core_text {
	UT_hash_handle hh;
	uint32_t users;
	char text[];
};

static struct core_text *holder(const char *text)
{
	return (struct core_text *)((uintptr_t)text - offsetof(struct core_text, text));
}

static void release(struct core *core, const char *text)
{
	struct core_text *t;

	if (text == text_none)
		return;
	t = holder(text);
	if (--t->users)
		return;
	HASH_DEL(core->texts, t);
	free(t);
}

void text_set(struct core *core, const char **slot, const char *text)
{
	size_t size = strlen(text);
	struct core_text *t = NULL;
	const char *old = *slot;

	if (strcmp(old, text) == 0)
		return;
	*slot = text_none;
	if (size) {
		HASH_FIND(hh, core->texts, text, size, t);
		if (!t) {
			t = calloc(1, sizeof(*t) + size + 1);
			if (t) {
				memcpy(t->text, text, size);
				HASH_ADD_KEYPTR(hh, core->texts, t->text, size, t);
			}
		}
		if (t) {
			t->users++;
			*slot = t->text;
		}
	}
	release(core, old);
}

void text_free_all(struct core *core)
{
	struct core_text *t, *next;

	HASH_ITER (hh, core->texts, t, next) {
		HASH_DEL(core->texts, t);
		free(t);
	}
}
