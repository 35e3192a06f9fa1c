/* rtnetlink batches and namespaces at a path.
 *
 * LDFLAGS: -Wl,--wrap=setsockopt
 */
#include "tests/unit/node-agent/netkit.h"

#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include "node-agent/nl.h"

/* A socket with hardly any room for answers. */
static bool tiny;
int __real_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
	const int little = 4096;

	if (tiny && level == SOL_SOCKET && (name == SO_RCVBUF || name == SO_RCVBUFFORCE))
		return __real_setsockopt(fd, level, SO_RCVBUF, &little, sizeof(little));
	return __real_setsockopt(fd, level, name, value, size);
}

struct fixture {
	struct kit_dir dir;
	char path[128];
	int ns;
	struct nl *nl;
};

static int make(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;

	assert_non_null(f);
	kit_dir_make(&f->dir);
	(void)snprintf(f->path, sizeof(f->path), "%s/ns", f->dir.path);
	f->ns = netns_make(f->path, &err);
	if (f->ns < 0 || nl_open(f->ns, &f->nl, &err) < 0)
		fail_msg("%s", err_msg(&err));
	*state = f;
	return 0;
}

static int unmake(void **state)
{
	struct fixture *f = *state;

	nl_close(f->nl);
	(void)close(f->ns);
	assert_int_equal(netns_drop(f->path, NULL), 0);
	assert_int_equal(access(f->path, F_OK), -1);
	kit_dir_remove(&f->dir);
	free(f);
	return 0;
}

static void add_bridge(struct nl *nl, const char *name)
{
	struct nlmsghdr *h =
		nl_add(nl, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifinfomsg), 0);
	struct nlattr *info;

	mnl_attr_put_strz(h, IFLA_IFNAME, name);
	info = mnl_attr_nest_start(h, IFLA_LINKINFO);
	mnl_attr_put_strz(h, IFLA_INFO_KIND, "bridge");
	mnl_attr_nest_end(h, info);
}

static void add_neigh(struct nl *nl, int index, uint32_t n, uint16_t type, int ignore)
{
	struct nlmsghdr *h = nl_add(nl, type, type == RTM_NEWNEIGH ? NLM_F_CREATE | NLM_F_EXCL : 0,
		sizeof(struct ndmsg), ignore);
	struct ndmsg *ndm = mnl_nlmsg_get_payload(h);

	ndm->ndm_family = AF_INET;
	ndm->ndm_ifindex = index;
	ndm->ndm_state = NUD_PERMANENT;
	mnl_attr_put_u32(h, NDA_DST, htonl(0x0a000000 + n));
	if (type == RTM_NEWNEIGH)
		mnl_attr_put(h, NDA_LLADDR, 6, kit_mac(n).bytes);
}

static int count(void *arg, const struct nlmsghdr *h)
{
	const struct ndmsg *ndm = mnl_nlmsg_get_payload(h);

	*(unsigned *)arg += h->nlmsg_type == RTM_NEWNEIGH && (ndm->ndm_state & NUD_PERMANENT);
	return 0;
}

static unsigned neighs(struct nl *nl)
{
	struct nlmsghdr *h = nl_add(nl, RTM_GETNEIGH, NLM_F_DUMP, sizeof(struct ndmsg), 0);
	unsigned n = 0;

	((struct ndmsg *)mnl_nlmsg_get_payload(h))->ndm_family = AF_INET;
	assert_int_equal(nl_dump(nl, count, NULL, &n, NULL), 0);
	return n;
}

static int up_bridge(struct nl *nl)
{
	struct err err = ERR_INIT;
	int index;

	add_bridge(nl, "br");
	assert_int_equal(nl_commit(nl, &err), 0);
	index = nl_ifindex(nl, "br");
	assert_true(index > 0);
	struct ifinfomsg *ifi =
		mnl_nlmsg_get_payload(nl_add(nl, RTM_NEWLINK, 0, sizeof(struct ifinfomsg), 0));

	ifi->ifi_index = index;
	ifi->ifi_flags = ifi->ifi_change = IFF_UP;
	assert_int_equal(nl_commit(nl, &err), 0);
	return index;
}

static void test_large_batch(void **state)
{
	struct fixture *f = *state;
	struct nl_counts before, after;
	struct err err = ERR_INIT;
	int index = up_bridge(f->nl);

	nl_counts(f->nl, &before);
	for (uint32_t i = 1; i <= 5000; i++)
		add_neigh(f->nl, index, i, RTM_NEWNEIGH, 0);
	if (nl_commit(f->nl, &err) < 0)
		fail_msg("%s", err_msg(&err));
	nl_counts(f->nl, &after);
	assert_int_equal(after.changes - before.changes, 5000);
	assert_true(after.sends - before.sends <= 3);
	assert_int_equal(neighs(f->nl), 5000);
	/* Empty ones are free. */
	assert_int_equal(nl_commit(f->nl, &err), 0);
}

/* One in the middle fails: it is named, and all others are done. */
static void test_failures(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	int index = up_bridge(f->nl);

	add_neigh(f->nl, index, 1000, RTM_NEWNEIGH, 0);
	assert_int_equal(nl_commit(f->nl, &err), 0);
	for (uint32_t i = 1; i <= 3000; i++)
		add_neigh(f->nl, index, i, RTM_NEWNEIGH, 0);
	assert_int_equal(nl_commit(f->nl, &err), -EEXIST);
	assert_non_null(strstr(err_msg(&err), "02:00:00:00:03:e8 10.0.3.232"));
	assert_int_equal(neighs(f->nl), 3000);
	/* Every one of them fails. */
	for (uint32_t i = 1; i <= 3000; i++)
		add_neigh(f->nl, index, i, RTM_NEWNEIGH, 0);
	assert_int_equal(nl_commit(f->nl, &err), -EEXIST);
	/* Failures that do not count. */
	for (uint32_t i = 1; i <= 3; i++)
		add_neigh(f->nl, index, 9000 + i, RTM_DELNEIGH, ENOENT);
	assert_int_equal(nl_commit(f->nl, &err), 0);
	add_neigh(f->nl, index, 9000, RTM_DELNEIGH, 0);
	assert_int_equal(nl_commit(f->nl, &err), -ENOENT);
	add_neigh(f->nl, index, 9000, RTM_NEWNEIGH, 0);
	nl_discard(f->nl);
	assert_int_equal(nl_commit(f->nl, &err), 0);
	assert_int_equal(neighs(f->nl), 3000);
	/* The last of a batch, and a device by name. */
	add_neigh(f->nl, index, 5000, RTM_NEWNEIGH, 0);
	add_bridge(f->nl, "br");
	assert_int_equal(nl_commit(f->nl, &err), -EEXIST);
	assert_non_null(strstr(err_msg(&err), "make device br"));
	assert_int_equal(neighs(f->nl), 3001);
	assert_int_equal(nl_ifindex(f->nl, "nothing"), -ENODEV);
}

/* More answers than fit: an error, not a wait for ever, and then all is well again. */
static void test_overflow(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	int index = up_bridge(f->nl);

	for (uint32_t i = 1; i <= 3000; i++)
		add_neigh(f->nl, index, i, RTM_NEWNEIGH, 0);
	assert_int_equal(nl_commit(f->nl, &err), 0);
	for (uint32_t i = 1; i <= 3000; i++)
		add_neigh(f->nl, index, i, RTM_NEWNEIGH, 0);
	assert_true(nl_commit(f->nl, &err) < 0);
	assert_int_equal(neighs(f->nl), 3000);
	add_neigh(f->nl, index, 4000, RTM_NEWNEIGH, 0);
	assert_int_equal(nl_commit(f->nl, &err), 0);
	assert_int_equal(neighs(f->nl), 3001);
}

static int make_tiny(void **state)
{
	tiny = true;
	int rc = make(state);

	tiny = false;
	return rc;
}

static void test_netns(void **state)
{
	struct fixture *f = *state;
	struct stat here, there;
	struct err err = ERR_INIT;
	int fd;

	/* The thread's namespace is ours as before, and not the new one. */
	assert_int_equal(stat("/proc/self/ns/net", &here), 0);
	assert_int_equal(fstat(f->ns, &there), 0);
	assert_int_not_equal(here.st_ino, there.st_ino);
	fd = netns_open(f->path, &err);
	assert_true(fd >= 0);
	(void)close(fd);
	assert_int_equal(netns_open("/etc/passwd", &err), -ENOENT);
	assert_int_equal(netns_open("/proc/self/ns/mnt", &err), -ELOOP);
	assert_int_equal(netns_open("/nonexistent", &err), -ENOENT);
	assert_int_equal(netns_drop("/nonexistent/x", &err), 0);
	assert_int_equal(netns_make("/nonexistent/x", &err), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_large_batch, make, unmake),
		cmocka_unit_test_setup_teardown(test_failures, make, unmake),
		cmocka_unit_test_setup_teardown(test_overflow, make_tiny, unmake),
		cmocka_unit_test_setup_teardown(test_netns, make, unmake)};

	if (geteuid() != 0) {
		print_message("needs root: skipped\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
