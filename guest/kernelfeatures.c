/* The third part of kernelinfo: what a configuration means to a lab. */
#include "guest/kernelinfo.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/str.h"

/* Modes of User-Mode Linux first, then what a lab's nodes are made of. */
static const struct {
	const char *name, *option;
} features[] = {
	{"time-travel", "UML_TIME_TRAVEL_SUPPORT"},
	{"smp", "SMP"},
	{"modules", "MODULES"},
	{"vector", "UML_NET_VECTOR"},
	{"virtio", "VIRTIO_UML"},
	{"ext4", "EXT4_FS"},
	{"squashfs", "SQUASHFS"},
	{"overlayfs", "OVERLAY_FS"},
	{"cgroups", "CGROUPS"},
	{"memcg", "MEMCG"},
	{"user-namespaces", "USER_NS"},
	{"net-namespaces", "NET_NS"},
	{"bpf", "BPF_SYSCALL"},
	{"ipv6", "IPV6"},
	{"packet", "PACKET"},
	{"bridge", "BRIDGE"},
	{"vlan", "VLAN_8021Q"},
	{"vxlan", "VXLAN"},
	{"veth", "VETH"},
	{"tun", "TUN"},
	{"wireguard", "WIREGUARD"},
	{"vrf", "NET_VRF"},
	{"mpls", "MPLS_ROUTING"},
	{"policy-routing", "IP_MULTIPLE_TABLES"},
	{"multicast-routing", "IP_MROUTE"},
	{"nftables", "NF_TABLES"},
	{"nat", "NF_NAT"},
	{"netem", "NET_SCH_NETEM"},
	{"tbf", "NET_SCH_TBF"},
	{"htb", "NET_SCH_HTB"},
	{"fq_codel", "NET_SCH_FQ_CODEL"},
};

/* 'y' or 'm', as OPTION is set in CONFIG; 0: it is not. */
static char setting(const char *config, const char *option)
{
	char line[64];
	size_t len;

	if (str_format(line, sizeof(line), "CONFIG_%s=", option) < 0)
		return 0;
	len = strlen(line);
	for (const char *p = strstr(config, line); p; p = strstr(p + 1, line)) {
		if ((p == config || p[-1] == '\n') && (p[len] == 'y' || p[len] == 'm'))
			return p[len];
	}
	return 0;
}

static void append(char *out, size_t *used, const char *name, const char *suffix)
{
	int n = snprintf(
		out + *used, KERNELINFO_FEATURES - *used, "%s%s%s", *used ? "," : "", name, suffix);

	/* The table fits, see the unit test. */
	if (n > 0 && (size_t)n < KERNELINFO_FEATURES - *used)
		*used += (size_t)n;
	out[*used] = '\0';
}

void kernelinfo_features(const char *config, bool seccomp_mode, char out[KERNELINFO_FEATURES])
{
	size_t used = 0;

	out[0] = '\0';
	if (seccomp_mode)
		append(out, &used, "seccomp", "");
	for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		char is = setting(config, features[i].option);

		if (is)
			append(out, &used, features[i].name, is == 'm' ? "=m" : "");
	}
}

int kernelinfo_options(const char *config, struct buf *out, struct err *err)
{
	const char *p = config;

	while (*p) {
		size_t len = strcspn(p, "\n");

		if (strncmp(p, "CONFIG_", 7) == 0) {
			for (size_t i = 0; i < len; i++)
				if ((unsigned char)p[i] < ' ' || (unsigned char)p[i] > '~')
					return err_set(err, -EPROTO,
						"--showconfig prints what is no configuration");
			buf_add(out, p, len);
			buf_add_byte(out, '\n');
		}
		p += len + (p[len] == '\n');
	}
	if (out->failed || out->size > KERNELINFO_CONFIG_MAX)
		return err_set(err, -EMSGSIZE, "its configuration is too large");
	return 0;
}
