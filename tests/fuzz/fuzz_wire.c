/* Messages and frames from a peer. */
#include <stddef.h>
#include <stdint.h>

#include "lib/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wire_reader r;
	Um__Envelope *env = NULL;

	if (wire_unpack(data, size, &env, NULL) == 0)
		um__envelope__free_unpacked(env, NULL);
	wire_reader_init(&r, WIRE_LINE_MAX, size & 1);
	if (wire_reader_add(&r, data, size, NULL) == 0)
		while (wire_reader_next(&r, &env, NULL) == 1)
			um__envelope__free_unpacked(env, NULL);
	wire_reader_free(&r);
	return 0;
}
