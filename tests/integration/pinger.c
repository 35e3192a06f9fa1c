/* Pings many addresses from inside a guest and tells for how long each was silent.
 *
 *   pinger INTERVAL_MS OUT ADDRESS...
 *
 * Runs until SIGTERM; then OUT has a line for each address: ADDRESS SENT ANSWERED GAP_MS,
 * where GAP_MS is the longest time between two answers, or between the last answer and the
 * end.  The last line, "pinger", has the longest pause between two rounds of its own: by so
 * much a gap may be too long because this guest, and not the other, stood still.  OUT is
 * renewed each second as well.  Small and without libraries: it is linked statically.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX 250
#define ID 0x7577

static struct target {
	struct sockaddr_in addr;
	uint64_t sent, answered, last, gap; /* ms */
} targets[MAX];
static volatile sig_atomic_t over;

static void on_term(int signum)
{
	(void)signum;
	over = 1;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static uint16_t checksum(const void *data, size_t size)
{
	const uint8_t *p = data;
	uint32_t sum = 0;

	for (size_t i = 0; i + 1 < size; i += 2)
		sum += (uint32_t)(p[i] << 8 | p[i + 1]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

static void send_one(int fd, struct target *t, uint16_t index)
{
	struct icmphdr h = {.type = ICMP_ECHO};

	h.un.echo.id = htons(ID);
	h.un.echo.sequence = htons(index); /* whose it is, not which */
	h.checksum = checksum(&h, sizeof(h));
	t->sent++;
	(void)sendto(fd, &h, sizeof(h), 0, (struct sockaddr *)&t->addr, sizeof(t->addr));
}

static void note(struct target *t, uint64_t now)
{
	if (t->last && now - t->last > t->gap)
		t->gap = now - t->last;
}

static void receive(int fd, size_t count)
{
	uint8_t packet[1500];
	ssize_t n;

	while ((n = recv(fd, packet, sizeof(packet), MSG_DONTWAIT)) > 0) {
		size_t at = (size_t)(packet[0] & 15) * 4;
		struct icmphdr h;
		uint64_t now = now_ms();
		uint16_t index;

		if ((size_t)n < at + sizeof(h))
			continue;
		memcpy(&h, packet + at, sizeof(h));
		index = ntohs(h.un.echo.sequence);
		if (h.type != ICMP_ECHOREPLY || ntohs(h.un.echo.id) != ID || index >= count ||
			memcmp(packet + 12, &targets[index].addr.sin_addr, 4) != 0)
			continue;
		note(&targets[index], now);
		targets[index].last = now;
		targets[index].answered++;
	}
}

static int save(const char *path, size_t count, uint64_t pause)
{
	char tmp[256];
	uint64_t now = now_ms();
	FILE *f;

	(void)snprintf(tmp, sizeof(tmp), "%.240s.new", path);
	f = fopen(tmp, "we");
	if (!f)
		return -1;
	for (size_t i = 0; i < count; i++) {
		char text[INET_ADDRSTRLEN];

		note(&targets[i], now);
		(void)inet_ntop(AF_INET, &targets[i].addr.sin_addr, text, sizeof(text));
		(void)fprintf(f, "%s %llu %llu %llu\n", text, (unsigned long long)targets[i].sent,
			(unsigned long long)targets[i].answered,
			(unsigned long long)targets[i].gap);
	}
	(void)fprintf(f, "pinger 0 0 %llu\n", (unsigned long long)pause);
	return fclose(f) == 0 && rename(tmp, path) == 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
	const struct sigaction action = {.sa_handler = on_term};
	uint64_t interval = argc > 3 ? strtoull(argv[1], NULL, 10) : 0, next, last, pause = 0, told;
	size_t count = argc > 3 ? (size_t)argc - 3 : 0;
	int fd, size = 1 << 20;

	if (!count || count > MAX || !interval) {
		(void)fprintf(stderr, "usage: pinger INTERVAL_MS OUT ADDRESS...\n");
		return 2;
	}
	for (size_t i = 0; i < count; i++) {
		targets[i].addr.sin_family = AF_INET;
		if (inet_pton(AF_INET, argv[i + 3], &targets[i].addr.sin_addr) != 1) {
			(void)fprintf(stderr, "pinger: '%s' is no address\n", argv[i + 3]);
			return 2;
		}
	}
	fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
	if (fd < 0) {
		perror("pinger: socket");
		return 1;
	}
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	(void)sigaction(SIGTERM, &action, NULL);
	next = last = told = now_ms();
	while (!over) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		uint64_t now = now_ms();

		if (now >= next) {
			if (now - last > interval && now - last - interval > pause)
				pause = now - last - interval;
			last = now;
			for (size_t i = 0; i < count; i++)
				send_one(fd, &targets[i], (uint16_t)i);
			next = next + interval > now ? next + interval : now + interval;
		}
		if (now - told > 1000 && save(argv[2], count, pause) == 0)
			told = now;
		if (poll(&p, 1, next > now ? (int)(next - now) : 0) > 0)
			receive(fd, count);
	}
	return save(argv[2], count, pause) < 0;
}
