#include "node-agent/nl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/net.h"
#include "lib/str.h"
#include "node-agent/netns.h"

/* A batch goes out in pieces of at most this size: below the default limit of
 * a socket's send buffer. */
#define PIECE_MAX (128u * 1024)
/* ... and of so many messages, so that the answers fit when all of them fail
 * (about 800 bytes of socket memory each). */
#define PIECE_MESSAGES 2000
#define RECEIVE_ROOM (2 << 20) /* the kernel doubles it */
#define BUFFER_FIRST (16u * 1024)
#define RECEIVE_SIZE (64u * 1024)
#define DUMP_TRIES 8

struct nl {
	struct mnl_socket *socket;
	uint32_t seq; /* of the last message given out */
	uint8_t *buf; /* pending messages */
	size_t size, capacity;
	size_t last; /* offset of the message being built, when count > 0 */
	size_t count;
	int *ignore; /* per pending message */
	size_t ignore_capacity;
	bool no_memory;
	struct nl_counts counts;
	union {
		struct nlmsghdr head;
		uint8_t bytes[NL_MSG_MAX];
	} scratch;
	uint8_t receive[RECEIVE_SIZE] __attribute__((aligned(8)));
};

/* ---- life ---- */

static int open_socket(void *arg, struct err *err)
{
	struct nl *nl = arg;
	const int one = 1, room = 1 << 20, receive_room = RECEIVE_ROOM;

	nl->socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	if (!nl->socket || mnl_socket_bind(nl->socket, 0, MNL_SOCKET_AUTOPID) < 0)
		return err_errno(err, errno, "open a netlink socket");
	int fd = mnl_socket_get_fd(nl->socket);

	/* Answers without the request in them, and with a text (both best effort). */
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one));
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one));
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &receive_room, sizeof(receive_room)) < 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_room, sizeof(receive_room));
	return 0;
}

int nl_open(int netns_fd, struct nl **out, struct err *err)
{
	struct nl *nl = calloc(1, sizeof(*nl));
	int rc;

	if (!nl)
		return err_set(err, -ENOMEM, "out of memory");
	rc = netns_fd < 0 ? open_socket(nl, err) : netns_run(netns_fd, open_socket, nl, err);
	if (rc < 0) {
		nl_close(nl);
		return rc;
	}
	*out = nl;
	return 0;
}

void nl_close(struct nl *nl)
{
	if (!nl)
		return;
	if (nl->socket)
		(void)mnl_socket_close(nl->socket);
	free(nl->buf);
	free(nl->ignore);
	free(nl);
}

void nl_counts(const struct nl *nl, struct nl_counts *out)
{
	*out = nl->counts;
}

/* ---- building ---- */

static size_t align4(size_t n)
{
	return (n + 3) & ~(size_t)3;
}

static bool grow(void **data, size_t *capacity, size_t item, size_t needed, size_t first)
{
	size_t n = *capacity ? *capacity : first;

	if (needed <= *capacity)
		return true;
	while (n < needed)
		n *= 2;
	void *p = reallocarray(*data, n, item);

	if (!p)
		return false;
	*data = p;
	*capacity = n;
	return true;
}

/* Takes the message being built into the batch's size. */
static void close_last(struct nl *nl)
{
	if (nl->count > 0) {
		const struct nlmsghdr *h = (const struct nlmsghdr *)(void *)(nl->buf + nl->last);

		nl->size = nl->last + align4(h->nlmsg_len);
	}
}

struct nlmsghdr *nl_add(struct nl *nl, uint16_t type, uint16_t flags, size_t header, int ignore)
{
	struct nlmsghdr *h = &nl->scratch.head;
	void *buf = nl->buf, *list = nl->ignore;

	close_last(nl);
	if (!nl->no_memory && grow(&buf, &nl->capacity, 1, nl->size + NL_MSG_MAX, BUFFER_FIRST)) {
		nl->buf = buf;
		if (grow(&list, &nl->ignore_capacity, sizeof(int), nl->count + 1, 64)) {
			nl->ignore = list;
			h = (struct nlmsghdr *)(void *)(nl->buf + nl->size);
		} else {
			nl->no_memory = true;
		}
	} else {
		nl->no_memory = true;
	}
	if (h != &nl->scratch.head) {
		nl->last = nl->size;
		nl->ignore[nl->count++] = ignore;
	}
	(void)mnl_nlmsg_put_header(h);
	h->nlmsg_type = type;
	h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	h->nlmsg_seq = ++nl->seq;
	(void)mnl_nlmsg_put_extra_header(h, header);
	return h;
}

void nl_discard(struct nl *nl)
{
	nl->size = nl->count = 0;
	nl->no_memory = false;
}

/* ---- what a message was about, for a person ---- */

static int describe_attr(const struct nlattr *attr, void *data)
{
	const struct nlattr **tb = data;

	if (mnl_attr_get_type(attr) < 16)
		tb[mnl_attr_get_type(attr)] = attr;
	return MNL_CB_OK;
}

static void describe_link(const struct nlmsghdr *h, char *out, size_t size)
{
	const struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);
	const struct nlattr *tb[16] = {NULL};

	(void)mnl_attr_parse(h, sizeof(*ifi), describe_attr, tb);
	(void)snprintf(out, size, "%s device %s",
		h->nlmsg_type == RTM_DELLINK	? "remove"
		: h->nlmsg_flags & NLM_F_CREATE ? "make"
						: "set up",
		tb[IFLA_IFNAME] ? mnl_attr_get_str(tb[IFLA_IFNAME]) : "");
	if (!tb[IFLA_IFNAME])
		(void)snprintf(out + strlen(out), size - strlen(out), "number %d", ifi->ifi_index);
}

static void describe_neigh(const struct nlmsghdr *h, char *out, size_t size)
{
	const struct ndmsg *ndm = mnl_nlmsg_get_payload(h);
	const struct nlattr *tb[16] = {NULL};
	char mac[NET_ADDR_TEXT] = "", ip[NET_ADDR_TEXT] = "";

	(void)mnl_attr_parse(h, sizeof(*ndm), describe_attr, tb);
	if (tb[NDA_LLADDR] && mnl_attr_get_payload_len(tb[NDA_LLADDR]) == 6) {
		struct net_mac m;

		memcpy(m.bytes, mnl_attr_get_payload(tb[NDA_LLADDR]), 6);
		(void)net_mac_text(mac, &m);
	}
	if (tb[NDA_DST]) {
		struct net_addr a;

		if (net_addr_from(mnl_attr_get_payload(tb[NDA_DST]),
			    mnl_attr_get_payload_len(tb[NDA_DST]), &a) == 0)
			(void)net_addr_text(ip, &a);
	}
	(void)snprintf(out, size, "%s %s entry %s %s on device number %d",
		h->nlmsg_type == RTM_DELNEIGH ? "remove" : "add",
		ndm->ndm_family == AF_BRIDGE ? "forwarding" : "neighbour", mac, ip,
		ndm->ndm_ifindex);
}

static void describe(const struct nlmsghdr *h, char *out, size_t size)
{
	switch (h->nlmsg_type) {
	case RTM_NEWLINK:
	case RTM_DELLINK:
	case RTM_SETLINK:
	case RTM_GETLINK:
		describe_link(h, out, size);
		break;
	case RTM_NEWNEIGH:
	case RTM_DELNEIGH:
		describe_neigh(h, out, size);
		break;
	default:
		(void)snprintf(out, size, "netlink request %d", h->nlmsg_type);
	}
}

static int find_text(const struct nlattr *attr, void *data)
{
	const char **text = data;

	if (mnl_attr_get_type(attr) == NLMSGERR_ATTR_MSG &&
		mnl_attr_validate(attr, MNL_TYPE_NUL_STRING) == 0)
		*text = mnl_attr_get_str(attr);
	return MNL_CB_OK;
}

/* The kernel's own words in an error message, or NULL. */
static const char *kernel_text(const struct nlmsghdr *h)
{
	const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);
	size_t offset = sizeof(*e);
	const char *text = NULL;

	if (!(h->nlmsg_flags & NLM_F_ACK_TLVS))
		return NULL;
	if (!(h->nlmsg_flags & NLM_F_CAPPED))
		offset += align4(e->msg.nlmsg_len - sizeof(e->msg));
	if (offset < mnl_nlmsg_get_payload_len(h))
		(void)mnl_attr_parse(h, (unsigned)offset, find_text, &text);
	return text;
}

/* ---- sending and receiving ---- */

static int receive(struct nl *nl, size_t *size)
{
	ssize_t n;

	do
		n = mnl_socket_recvfrom(nl->socket, nl->receive, sizeof(nl->receive));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	*size = (size_t)n;
	return 0;
}

/* After an overflow (ENOBUFS) the kernel drops every answer until the queue has
 * been emptied: without this the next request would wait for ever. */
static void drain(struct nl *nl)
{
	int fd = mnl_socket_get_fd(nl->socket);

	while (recv(fd, nl->receive, sizeof(nl->receive), MSG_DONTWAIT) >= 0 || errno == EINTR ||
		errno == ENOBUFS)
		;
}

/* A piece of a batch on its way. */
struct piece {
	struct nl *nl;
	uint32_t first, last; /* sequence numbers */
	size_t offset;	      /* of the first message in nl->buf */
	size_t index;	      /* of the first message in nl->ignore */
	bool done;
	int rc;
	struct err *err;
};

static const struct nlmsghdr *find_sent(const struct piece *p, uint32_t seq)
{
	size_t at = p->offset;

	for (uint32_t s = p->first; s != seq; s++)
		at += align4(((const struct nlmsghdr *)(const void *)(p->nl->buf + at))->nlmsg_len);
	return (const struct nlmsghdr *)(const void *)(p->nl->buf + at);
}

static void take_answer(struct piece *p, const struct nlmsghdr *h)
{
	const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);
	uint32_t nth = h->nlmsg_seq - p->first;
	char what[256];

	if (nth > p->last - p->first)
		return; /* of an earlier conversation */
	if (h->nlmsg_type != NLMSG_ERROR || mnl_nlmsg_get_payload_len(h) < sizeof(*e))
		return;
	p->done |= h->nlmsg_seq == p->last;
	if (e->error == 0 || -e->error == p->nl->ignore[p->index + nth] || p->rc < 0)
		return;
	const char *text = kernel_text(h);

	describe(find_sent(p, h->nlmsg_seq), what, sizeof(what));
	p->rc = err_errno(p->err, e->error, "%s%s%.200s%s", what, text ? " (" : "",
		text ? text : "", text ? ")" : "");
}

static int send_piece(struct piece *p, size_t size)
{
	struct nl *nl = p->nl;

	if (mnl_socket_sendto(nl->socket, nl->buf + p->offset, size) < 0)
		return err_errno(p->err, errno, "send to netlink");
	nl->counts.sends++;
	nl->counts.changes += p->last - p->first + 1;
	while (!p->done) {
		size_t got = 0;
		int rc = receive(nl, &got), left;

		if (rc < 0) {
			drain(nl);
			return err_errno(p->err, rc, "receive from netlink");
		}
		left = (int)got;
		for (const struct nlmsghdr *h = (const void *)nl->receive; mnl_nlmsg_ok(h, left);
			h = mnl_nlmsg_next(h, &left))
			take_answer(p, h);
	}
	return p->rc;
}

int nl_commit(struct nl *nl, struct err *err)
{
	size_t at = 0, index = 0;
	uint32_t seq = nl->seq - (uint32_t)nl->count + 1;
	int rc = 0;

	close_last(nl);
	if (nl->no_memory) {
		nl_discard(nl);
		return err_set(err, -ENOMEM, "out of memory");
	}
	while (at < nl->size) {
		struct piece p = {.nl = nl,
			.first = seq,
			.offset = at,
			.index = index,
			.err = rc < 0 ? NULL : err};
		struct nlmsghdr *h;

		do {
			h = (struct nlmsghdr *)(void *)(nl->buf + at);
			at += align4(h->nlmsg_len);
			index++;
			seq++;
		} while (at < nl->size && at - p.offset < PIECE_MAX - NL_MSG_MAX &&
			 index - p.index < PIECE_MESSAGES);
		p.last = seq - 1;
		h->nlmsg_flags |= NLM_F_ACK;
		int one = send_piece(&p, at - p.offset);

		rc = rc < 0 ? rc : one;
	}
	nl_discard(nl);
	return rc;
}

/* ---- questions ---- */

enum answer { ANSWER_MORE, ANSWER_DONE };

/* One message of an answer to SEQ.  *INTERRUPTED: the kernel's list changed. */
static int take_reply(const struct nlmsghdr *h, uint32_t seq, bool dump, nl_msg_fn *fn, void *arg,
	bool *interrupted, struct err *err)
{
	if (h->nlmsg_seq != seq)
		return ANSWER_MORE;
	*interrupted |= (h->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
	if (h->nlmsg_type == NLMSG_DONE)
		return ANSWER_DONE;
	if (h->nlmsg_type == NLMSG_ERROR) {
		const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);
		const char *text;

		if (mnl_nlmsg_get_payload_len(h) < sizeof(*e))
			return err_set(err, -EBADMSG, "netlink: a short answer");
		if (e->error == 0)
			return ANSWER_DONE;
		text = kernel_text(h);
		return err_errno(err, e->error, "netlink query%s%.200s%s", text ? " (" : "",
			text ? text : "", text ? ")" : "");
	}
	if (h->nlmsg_type < NLMSG_MIN_TYPE)
		return ANSWER_MORE;
	int rc = fn(arg, h);

	if (rc < 0)
		return err_set(err, rc, "netlink: an answer that cannot be used");
	return dump ? ANSWER_MORE : ANSWER_DONE;
}

static int ask(
	struct nl *nl, bool dump, nl_msg_fn *fn, void *arg, bool *interrupted, struct err *err)
{
	const struct nlmsghdr *request = (const struct nlmsghdr *)(void *)nl->buf;
	int rc = ANSWER_MORE;

	*interrupted = false;
	if (mnl_socket_sendto(nl->socket, request, request->nlmsg_len) < 0)
		return err_errno(err, errno, "send to netlink");
	nl->counts.sends++;
	while (rc == ANSWER_MORE) {
		size_t got = 0;
		int left;

		rc = receive(nl, &got);
		if (rc < 0) {
			drain(nl);
			return err_errno(err, rc, "receive from netlink");
		}
		left = (int)got;
		for (const struct nlmsghdr *h = (const void *)nl->receive;
			rc == ANSWER_MORE && mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left))
			rc = take_reply(h, request->nlmsg_seq, dump, fn, arg, interrupted, err);
	}
	return rc < 0 ? rc : 0;
}

int nl_dump(struct nl *nl, nl_msg_fn *fn, nl_restart_fn *restart, void *arg, struct err *err)
{
	bool interrupted = true;
	int rc = 0;

	close_last(nl);
	if (nl->no_memory || nl->count != 1)
		rc = err_set(err, -ENOMEM, "out of memory");
	for (int i = 0; rc == 0 && interrupted; i++) {
		struct nlmsghdr *h = (struct nlmsghdr *)(void *)nl->buf;

		if (i == DUMP_TRIES) {
			rc = err_set(err, -EAGAIN, "netlink: the kernel's lists keep changing");
			break;
		}
		if (i > 0 && restart)
			restart(arg);
		h->nlmsg_seq = ++nl->seq;
		rc = ask(nl, true, fn, arg, &interrupted, err);
	}
	nl_discard(nl);
	return rc;
}

int nl_query(struct nl *nl, nl_msg_fn *fn, void *arg, struct err *err)
{
	bool interrupted;
	int rc;

	close_last(nl);
	if (nl->no_memory || nl->count != 1)
		rc = err_set(err, -ENOMEM, "out of memory");
	else
		rc = ask(nl, false, fn, arg, &interrupted, err);
	nl_discard(nl);
	return rc;
}

int nl_ifindex(struct nl *nl, const char *ifname)
{
	struct ifreq ifr = {0};

	if (str_copy(ifr.ifr_name, sizeof(ifr.ifr_name), ifname) < 0)
		return -ENODEV;
	/* Any socket of the namespace will do, see sock_ioctl() of net/socket.c. */
	if (ioctl(mnl_socket_get_fd(nl->socket), SIOCGIFINDEX, &ifr) < 0)
		return -errno;
	return ifr.ifr_ifindex;
}
