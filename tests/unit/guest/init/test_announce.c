/* Announcements of addresses: what goes over a real device, and the checksum. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* What is in umlaut-init alone is in no library. */
#include "guest/init/announce.c"

static const uint8_t mac[6] = {2, 0, 0, 1, 2, 3};

static int ip(const char *arguments)
{
	char command[256];
	int status;

	(void)snprintf(command, sizeof(command), "ip %s", arguments);
	pid_t pid = fork();

	if (pid == 0) {
		(void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	return waitpid(pid, &status, 0) == pid ? status : -1;
}

/* The frame with our source that comes out of the other end of a veth pair. */
static size_t sent(const struct net_addr *addr, uint8_t *frame, size_t room)
{
	struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
	struct err err = ERR_INIT;
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
	size_t size = 0;

	at.sll_ifindex = (int)if_nametoindex("b0");
	assert_true(fd >= 0 && at.sll_ifindex > 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	if (announce_send((int)if_nametoindex("a0"), mac, addr, &err) < 0)
		fail_msg("%s", err_msg(&err));
	for (int i = 0; i < 100 && !size; i++) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (poll(&p, 1, 2000) != 1)
			break;
		n = recv(fd, frame, room, 0);
		if (n > 12 && memcmp(frame + 6, mac, 6) == 0)
			size = (size_t)n;
	}
	(void)close(fd);
	return size;
}

static int setup(void **state)
{
	(void)state;
	if (unshare(CLONE_NEWNET) < 0 || ip("link add a0 type veth peer name b0") ||
		ip("link set a0 up") || ip("link set b0 up"))
		return -1;
	return 0;
}

static void test_arp(void **state)
{
	static const uint8_t want[42] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 1, 2, 3, 8, 6,
		0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 1, 2, 3, 10, 1, 0, 7, 0, 0, 0, 0, 0, 0, 10, 1, 0,
		7};
	struct net_addr addr;
	uint8_t frame[2048];

	(void)state;
	assert_int_equal(net_addr_parse("10.1.0.7", &addr, NULL), 0);
	assert_int_equal(sent(&addr, frame, sizeof(frame)), sizeof(want));
	assert_memory_equal(frame, want, sizeof(want));
}

static void test_na(void **state)
{
	struct net_addr addr;
	uint8_t f[2048];
	unsigned sum = 32 + 58;

	(void)state;
	assert_int_equal(net_addr_parse("fd00:1::7", &addr, NULL), 0);
	assert_int_equal(sent(&addr, f, sizeof(f)), 86);
	assert_memory_equal(f, "\x33\x33\x00\x00\x00\x01", 6);
	assert_memory_equal(f + 12, "\x86\xdd\x60", 3);
	assert_int_equal(f[20], 58);
	assert_int_equal(f[21], 255);
	assert_memory_equal(f + 22, addr.bytes, 16);
	assert_memory_equal(f + 54, "\x88\x00", 2);
	assert_memory_equal(f + 58, "\x20\x00\x00\x00", 4);
	assert_memory_equal(f + 62, addr.bytes, 16);
	assert_memory_equal(f + 78, "\x02\x01", 2);
	assert_memory_equal(f + 80, mac, 6);
	/* RFC 1071: with the checksum in it the sum is all ones. */
	for (size_t i = 22; i < 86; i += 2)
		sum += (unsigned)f[i] << 8 | f[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	assert_int_equal(sum, 0xffff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_arp),
		cmocka_unit_test(test_na),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
