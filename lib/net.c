#include "lib/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/str.h"

static unsigned bits_of(const struct net_addr *addr)
{
	return addr->family == 4 ? 32 : 128;
}

int net_addr_parse(const char *text, struct net_addr *out, struct err *err)
{
	struct net_addr a = {0};

	if (inet_pton(AF_INET, text, a.bytes) == 1)
		a.family = 4;
	else if (inet_pton(AF_INET6, text, a.bytes) == 1)
		a.family = 6;
	else
		return err_set(err, -EINVAL, "'%.60s' is not an IP address", text);
	*out = a;
	return 0;
}

int net_addr_from(const void *data, size_t size, struct net_addr *out)
{
	struct net_addr a = {0};

	if (size != 0 && size != 4 && size != 16)
		return -EINVAL;
	if (size)
		memcpy(a.bytes, data, size);
	a.family = size == 4 ? 4 : size == 16 ? 6 : 0;
	*out = a;
	return 0;
}

size_t net_addr_size(const struct net_addr *addr)
{
	return addr->family == 4 ? 4 : addr->family == 6 ? 16 : 0;
}

const char *net_addr_text(char buf[NET_ADDR_TEXT], const struct net_addr *addr)
{
	buf[0] = 0;
	if (addr->family)
		(void)inet_ntop(
			addr->family == 4 ? AF_INET : AF_INET6, addr->bytes, buf, NET_ADDR_TEXT);
	return buf;
}

int net_addr_cmp(const struct net_addr *a, const struct net_addr *b)
{
	if (a->family != b->family)
		return a->family < b->family ? -1 : 1;
	return memcmp(a->bytes, b->bytes, net_addr_size(a));
}

bool net_addr_equal(const struct net_addr *a, const struct net_addr *b)
{
	return net_addr_cmp(a, b) == 0;
}

/* Sets the bits from LEN on to zero. */
static void mask(struct net_addr *addr, unsigned len)
{
	for (unsigned i = 0; i < net_addr_size(addr); i++) {
		unsigned from = i * 8;

		if (from >= len)
			addr->bytes[i] = 0;
		else if (from + 8 > len)
			addr->bytes[i] &= (uint8_t)(0xff00u >> (len - from));
	}
}

int net_prefix_parse(const char *text, struct net_prefix *out, struct err *err)
{
	char copy[NET_ADDR_TEXT], right[NET_ADDR_TEXT], *slash;
	struct net_prefix p = {0};
	struct net_addr masked;
	uint64_t len;

	if (str_copy(copy, sizeof(copy), text) < 0 || !(slash = strchr(copy, '/')))
		return err_set(err, -EINVAL,
			"'%.60s' is not a prefix (write ADDRESS/LENGTH, like 10.1.0.0/24)", text);
	*slash = 0;
	if (net_addr_parse(copy, &p.addr, NULL) < 0)
		return err_set(
			err, -EINVAL, "'%.60s' is not an IP address in prefix '%.60s'", copy, text);
	if (str_u64(slash + 1, 0, bits_of(&p.addr), &len) < 0)
		return err_set(err, -EINVAL, "the length in prefix '%.60s' must be 0 to %u", text,
			bits_of(&p.addr));
	p.len = (uint8_t)len;
	masked = p.addr;
	mask(&masked, p.len);
	if (!net_addr_equal(&masked, &p.addr))
		return err_set(err, -EINVAL, "prefix '%.60s' has host bits set; write %s/%u", text,
			net_addr_text(right, &masked), p.len);
	*out = p;
	return 0;
}

const char *net_prefix_text(char buf[NET_ADDR_TEXT], const struct net_prefix *prefix)
{
	size_t n;

	net_addr_text(buf, &prefix->addr);
	n = strlen(buf);
	if (n)
		(void)snprintf(buf + n, NET_ADDR_TEXT - n, "/%u", prefix->len);
	return buf;
}

bool net_prefix_contains(const struct net_prefix *prefix, const struct net_addr *addr)
{
	struct net_addr masked = *addr;

	if (!addr->family || addr->family != prefix->addr.family)
		return false;
	mask(&masked, prefix->len);
	return net_addr_equal(&masked, &prefix->addr);
}

bool net_prefix_overlaps(const struct net_prefix *a, const struct net_prefix *b)
{
	return a->len <= b->len ? net_prefix_contains(a, &b->addr)
				: net_prefix_contains(b, &a->addr);
}

/* What is not given to guests at the low end (network or router anycast
 * address) and at the high end (broadcast). */
static void spare(const struct net_prefix *prefix, unsigned *low, unsigned *high)
{
	unsigned left = bits_of(&prefix->addr) - prefix->len;

	*low = left > 1;
	*high = left > 1 && prefix->addr.family == 4;
}

uint64_t net_prefix_hosts(const struct net_prefix *prefix)
{
	unsigned left = bits_of(&prefix->addr) - prefix->len, low, high;
	uint64_t n;

	if (!prefix->addr.family)
		return 0;
	spare(prefix, &low, &high);
	n = (left > 32 ? UINT64_C(1) << 33 : UINT64_C(1) << left) - low - high;
	return n > UINT64_C(1) << 32 ? UINT64_C(1) << 32 : n;
}

int net_prefix_host(const struct net_prefix *prefix, uint64_t n, struct net_addr *out)
{
	struct net_addr a = prefix->addr;
	unsigned low, high;
	uint64_t v;

	if (n >= net_prefix_hosts(prefix))
		return -ERANGE;
	spare(prefix, &low, &high);
	v = n + low;
	/* v < 2^33 and the host bits are zero: no carry beyond the prefix. */
	for (size_t i = net_addr_size(&a); v && i-- > 0; v >>= 8)
		a.bytes[i] |= (uint8_t)v;
	*out = a;
	return 0;
}

int net_prefix_index(const struct net_prefix *prefix, const struct net_addr *addr, uint64_t *n)
{
	unsigned low, high;
	uint64_t v = 0;

	if (!net_prefix_contains(prefix, addr))
		return -ERANGE;
	spare(prefix, &low, &high);
	for (size_t i = 0; i < net_addr_size(addr); i++) {
		uint8_t host = (uint8_t)(addr->bytes[i] & ~prefix->addr.bytes[i]);

		if (v >> 48)
			return -ERANGE;
		v = v << 8 | host;
	}
	if (v < low || v - low >= net_prefix_hosts(prefix))
		return -ERANGE;
	*n = v - low;
	return 0;
}

int net_mac_parse(const char *text, struct net_mac *out, struct err *err)
{
	struct net_mac mac;
	size_t n = strnlen(text, 18);
	char hex[13];

	if (n != 17)
		goto bad;
	for (size_t i = 0; i < 6; i++) {
		hex[2 * i] = text[3 * i];
		hex[2 * i + 1] = text[3 * i + 1];
		if (i < 5 && text[3 * i + 2] != ':')
			goto bad;
	}
	hex[12] = 0;
	if (str_unhex(mac.bytes, 6, hex) < 0)
		goto bad;
	*out = mac;
	return 0;
bad:
	return err_set(
		err, -EINVAL, "'%.40s' is not a MAC address (write 02:00:00:00:00:01)", text);
}

const char *net_mac_text(char buf[NET_ADDR_TEXT], const struct net_mac *mac)
{
	const uint8_t *b = mac->bytes;

	(void)snprintf(buf, NET_ADDR_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3],
		b[4], b[5]);
	return buf;
}

bool net_mac_is_unicast(const struct net_mac *mac)
{
	static const uint8_t zero[6];

	return !(mac->bytes[0] & 1) && memcmp(mac->bytes, zero, 6) != 0;
}
