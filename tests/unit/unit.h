/* unit: what every unit test needs: cmocka with its headers, a temporary
 * folder, an expectation on an error.  Header only. */
#ifndef UMLAUT_TESTS_UNIT_H
#define UMLAUT_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/err.h"
#include "lib/fs.h"

#define UNIT_COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* A fresh folder under /tmp; PATH has room for 64 bytes. */
static inline void unit_dir_make(char path[64])
{
	(void)snprintf(path, 64, "/tmp/umlaut-unit.XXXXXX");
	assert_non_null(mkdtemp(path));
}

static inline void unit_dir_remove(const char *path)
{
	assert_int_equal(fs_remove_tree(path, NULL), 0);
}

/* RC must be 0 or more; otherwise the message is shown. */
#define unit_ok(rc, err)                              \
	do {                                          \
		if ((rc) < 0)                         \
			fail_msg("%s", err_msg(err)); \
	} while (0)

/* ERR's message must hold TEXT. */
static inline void unit_says(const struct err *err, const char *text)
{
	if (!strstr(err_msg(err), text))
		fail_msg("'%s' is not in '%s'", text, err_msg(err));
}

#endif
