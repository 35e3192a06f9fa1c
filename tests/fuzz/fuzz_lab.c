/* A lab file: YAML, its decoding and its validity. */
#include <stddef.h>
#include <stdint.h>

#include "clusterctl/lab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct labs labs = {0};
	struct diags diags;
	struct buf text;

	diags_init(&diags);
	/* No file of the machine is read: the folder does not exist. */
	if (lab_parse("lab.yaml", "/nonexistent", data, size, &labs, &diags) < 0) {
		buf_init(&text);
		diags_text(&diags, &text);
		if (!text.size)
			__builtin_trap(); /* refused without a word */
		buf_free(&text);
	}
	labs_free(&labs);
	diags_free(&diags);
	return 0;
}
