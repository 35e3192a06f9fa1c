/* Labs in texts, and what is complained about them. */
#ifndef UMLAUT_TESTS_UNIT_CLUSTERCTL_LABKIT_H
#define UMLAUT_TESTS_UNIT_CLUSTERCTL_LABKIT_H

#include "clusterctl/lab.h"
#include "tests/unit/unit.h"

/* Parses TEXT; the complaints (one a line) are returned, to be freed; "" when fine. */
static char *complaints(const char *text, size_t size, struct labs *labs)
{
	struct labs own = {0};
	struct diags diags;
	struct buf out;
	int rc;

	diags_init(&diags);
	buf_init(&out);
	rc = lab_parse("f.yaml", "", text, size, &own, &diags);
	diags_text(&diags, &out);
	assert_false(diags.failed);
	assert_true((rc < 0) == (diags.count + diags.dropped > 0));
	diags_free(&diags);
	if (labs)
		*labs = own;
	else
		labs_free(&own);
	(void)buf_text(&out);
	return (char *)buf_steal(&out, NULL);
}

struct bad {
	const char *text;
	const char *place; /* "LINE:COLUMN: " */
	const char *says;
};

static unsigned wrong;

/* Says what is wrong, once per case; the test fails at its end. */
static void expect(const char *yaml, const char *place, const char *says)
{
	char *got = complaints(yaml, strlen(yaml), NULL), want[64];
	bool cascade = says[strlen(says) - 1] == '|', found = false;
	size_t n = strlen(says) - cascade;

	(void)snprintf(want, sizeof(want), "f.yaml:%s", place);
	for (const char *line = strstr(got, want); line && !found; line = strstr(line + 1, want))
		found = memmem(line, strcspn(line, "\n"), says, n) != NULL;
	/* One mistake, one complaint: nothing follows from it but what is expected. */
	if (!found || (!cascade && strchr(got, '\n')[1])) {
		wrong++;
		print_message("not only '%s%s'\n%sfor\n%s\n", want, says, got, yaml);
	}
	free(got);
}

#endif
