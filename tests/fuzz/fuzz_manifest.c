/* Manifests and packed chunks, as any peer may send them. */
#include <stdlib.h>

#include "image/manifest.h"
#include "image/serve.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_manifest(const uint8_t *data, size_t size)
{
	struct manifest *m = NULL;
	uint64_t sum = 0;

	if (manifest_parse(data, size, &m, NULL) < 0)
		return;
	for (uint32_t i = 0; i < m->count; i++)
		sum += manifest_chunk_size(m, i);
	if (sum != m->size || manifest_data_size(m) > m->size)
		abort();
	manifest_free(m);
}

static void try_chunk(const uint8_t *data, size_t size)
{
	static uint8_t out[MANIFEST_CHUNK];
	Um__ChunkData head = UM__CHUNK_DATA__INIT;

	if (size < 5)
		return;
	head.zstd = data[0] & 1;
	head.raw_size = (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
	(void)imgserve_unpack(&head, data + 4, size - 4, out, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	try_manifest(data, size);
	try_chunk(data, size);
	return 0;
}
