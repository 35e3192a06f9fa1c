/* Labs in YAML: what is read, and hundreds of mistakes with their places. */
#include "clusterctl/lab.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clusterctl/ydoc.h"
#include "lib/proc.h"
#include "tests/unit/clusterctl/labkit.h"

#define NETS                                                                                  \
	"networks:\n  lan: {subnet: 10.1.0.0/24, subnet6: \"fd00:1::/64\"}\n  wan: {subnet: " \
	"10.2.0.0/30}\n"
#define GUEST "name: t\n" NETS "guests:\n  web:\n    image: busybox\n    "

/* Line 8 is the first of TEXT, at column 5. */
static const struct bad guests[] = {
	{"image2: x", "8:5: ", "did you mean 'image'?"},
	{"memry: 64M", "8:5: ", "unknown key 'memry' in a guest; did you mean 'memory'?"},
	{"netwroks: [lan]", "8:5: ", "did you mean 'networks'?"},
	{"zzzzzzzz: 1", "8:5: ", "it may have image, kernel, memory"},
	{"Memory: 64M", "8:5: ", "did you mean 'memory'?"},
	{"\"\": 1", "8:5: ", "unknown key ''"},
	{"kernel: [a]", "8:13: ", "kernel: expected a text, not a list"},
	{"kernel: {a: b}", "8:13: ", "expected a text, not a map"},
	{"kernel: A", "8:13: ", "kernel 'A' may only have"},
	{"kernel: a/b", "8:13: ", "may only have"},
	{"kernel: sha256:12", "8:13: ", "64 hex digits"},
	{"memory: 64Q", "8:13: ", "'64Q' is not a size (write 64M"},
	{"memory: -1", "8:13: ", "not a size"},
	{"memory: lots", "8:13: ", "not a size"},
	{"memory: [64M]", "8:13: ", "expected a text, not a list"},
	{"memory: 4M", "8:13: ", "4M is not within 16M to 1T"},
	{"memory: 2T", "8:13: ", "2T is not within 16M to 1T"},
	{"memory: 99999999T", "8:13: ", "too large"},
	{"memory: 16777217", "8:13: ", "16777217 bytes are not a multiple of 1M"},
	{"memory: 64", "8:13: ", "64 is not within 16M to 1T"},
	{"cpus: two", "8:11: ", "'two' is not a number of CPUs"},
	{"cpus: 0.001", "8:11: ", "0.001 CPUs are not within 0.01 to 1024"},
	{"cpus: 2000", "8:11: ", "2000 CPUs are not within"},
	{"cpus: -1", "8:11: ", "not a number of CPUs"},
	{"cpus: 99999999", "8:11: ", "too many CPUs"},
	{"disk: big", "8:11: ", "not a size"},
	{"disk: 1000", "8:11: ", "1000 is not within 1M to 16T"},
	{"disk: 1048577", "8:11: ", "not a multiple of 4K"},
	{"disk: 17T", "8:11: ", "not within"},
	{"count: three", "8:12: ", "count: 'three' is not a whole number"},
	{"count: -1", "8:12: ", "not a whole number"},
	{"count: 1.5", "8:12: ", "not a whole number"},
	{"count: 1000001", "8:12: ", "1000001 is not within 0 to 1000000"},
	{"count: 99999999999999999999", "8:12: ", "is not within"},
	{"count: [1]", "8:12: ", "expected a text"},
	{"networks: lan", "8:15: ", "networks: expected a list, not a text (write [lan])"},
	{"networks: [lam]", "8:16: ", "there is no network 'lam'; did you mean 'lan'?"},
	{"networks: [lan, zzzzzz]", "8:21: ", "there is no network 'zzzzzz'"},
	{"networks: [[lan]]", "8:16: ", "expected a map, not a list"},
	{"networks: [null]", "8:16: ", "expected a text, not nothing"},
	{"networks: [{}]", "8:16: ", "the name of the network is missing"},
	{"networks: [{netwrk: lan}]", "8:17: ", "did you mean 'network'?"},
	{"networks: [{network: lan, address: 10.1.0.256}]", "8:40: ", "not an IP address"},
	{"networks: [{network: lan, address: 10.2.0.1}]",
		"8:40: ", "10.2.0.1 is outside of the subnet 10.1.0.0/24 of network 'lan'"},
	{"networks: [{network: lan, address: 10.1.0.0}]", "8:40: ", "the network address of"},
	{"networks: [{network: lan, address: 10.1.0.255}]", "8:40: ", "the broadcast address of"},
	{"networks: [{network: lan, address: \"fd00:1::5\"}]", "8:40: ", "write it as address6"},
	{"networks: [{network: lan, address6: 10.1.0.5}]", "8:41: ", "write it as address"},
	{"networks: [{network: lan, address6: \"fd00:2::5\"}]", "8:41: ", "outside of the subnet"},
	{"networks: [{network: lan, address6: \"fd00:1::\"}]", "8:41: ", "the network address"},
	{"networks: [{network: wan, address6: \"fd00:1::5\"}]", "8:41: ", "has no subnet6"},
	{"networks: [{network: lan, address: 10.1.0.5}, {network: lan, address: 10.1.0.5}]",
		"8:75: ", "10.1.0.5 is already the address of guest 'web'"},
	{"networks: [{network: lan, mac: nonsense}]", "8:36: ", "not a MAC address"},
	{"networks: [{network: lan, mac: \"01:00:00:00:00:01\"}]", "8:36: ", "group address"},
	{"networks: [{network: lan, mac: \"00:00:00:00:00:00\"}]", "8:36: ", "all zero"},
	{"networks: [{network: lan, mac: \"02:00:00:00:00:01\"}, {network: wan, mac: "
	 "\"02:00:00:00:00:01\"}]",
		"8:78: ", "already the MAC address"},
	{"networks: {lan: {addres: 10.1.0.5}}", "8:22: ", "did you mean 'address'?"},
	{"networks: {lan: {address: 10.2.0.1}}", "8:31: ", "outside of the subnet"},
	{"networks: {lam: }", "8:16: ", "did you mean 'lan'?"},
	{"networks: {lan: {network: wan}}", "8:16: ", "'network' cannot stand inside"},
	{"networks: {lan: [10.1.0.1]}", "8:21: ", "expected a map, not a list"},
	{"count: 2\n    networks: [{network: lan, address: 10.1.0.5}]",
		"9:40: ", "2 guests cannot share one address"},
	{"count: 0\n    networks: [{network: lan, address: 10.1.0.5}]", "9:40: ", "cannot share"},
	{"count: 2\n    networks: [{network: lan, mac: \"02:00:00:00:00:01\"}]",
		"9:36: ", "cannot share one MAC"},
	{"count: 2\n    hostname: x", "9:15: ", "cannot share one host name"},
	{"routes: {to: default}", "8:13: ", "expected a list, not a map"},
	{"routes: [default]", "8:14: ", "expected a map, not a text"},
	{"networks: [lan]\n    routes: [{to: default}]", "9:14: ", "a route needs `via`"},
	{"networks: [lan]\n    routes: [{to: default, via: 10.2.0.1}]",
		"9:33: ", "in none of the guest's networks"},
	{"networks: [lan]\n    routes: [{to: 10.9.0.0, via: 10.1.0.1}]", "9:19: ", "not a prefix"},
	{"networks: [lan]\n    routes: [{to: 10.9.0.1/24, via: 10.1.0.1}]",
		"9:19: ", "write 10.9.0.0/24"},
	{"networks: [lan]\n    routes: [{via: 10.1.0.1}]", "9:14: ", "is not a prefix"},
	{"networks: [lan]\n    routes: [{to: \"fd00:9::/64\", via: 10.1.0.1}]",
		"9:39: ", "different IP versions"},
	{"networks: [lan]\n    routes: [{to: default, via: gw}]", "9:33: ", "not an IP address"},
	{"networks: [lan]\n    routes: [{to: default, viaa: 10.1.0.1}]",
		"9:28: ", "did you mean 'via'?"},
	{"hostname: under_score", "8:15: ", "not a host name"},
	{"hostname: -x", "8:15: ", "not a host name"},
	{"hostname: a..b", "8:15: ", "not a host name"},
	{"hostname: a.", "8:15: ", "not a host name"},
	{"hostname: \"\\u00e4\"", "8:15: ", "not a host name"},
	{"hostname: aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff1234",
		"8:15: ", "at most 63"},
	{"env: [A=b]", "8:10: ", "expected a map, not a list"},
	{"env: {A: }", "8:11: ", "'A' has no value (write \"\" for an empty one)"},
	{"env: {A: [b]}", "8:14: ", "expected a text, not a list"},
	{"env: {1A: b}", "8:15: ", "not a variable's name"},
	{"env: {\"A B\": b}", "8:18: ", "not a variable's name"},
	{"env: {\"A=\": b}", "8:17: ", "not a variable's name"},
	{"env: {A.B: b}", "8:16: ", "not a variable's name"},
	{"env: {\"\": b}", "8:15: ", "not a variable's name"},
	{"env: {A: b, A: c}", "8:17: ", "the key 'A' is there twice (first in line 8)"},
	{"files: /etc/motd", "8:12: ", "expected a list"},
	{"files: [/etc/motd]", "8:13: ", "expected a map, not a text"},
	{"files: [{path: /a}]", "8:13: ", "needs 'content' or 'source'"},
	{"files: [{path: /a, content: x, source: y}]", "8:13: ", "exclude each other"},
	{"files: [{content: x}]", "8:13: ", "the path of the file is missing"},
	{"files: [{path: etc/motd, content: x}]", "8:20: ", "absolute path"},
	{"files: [{path: /etc/, content: x}]", "8:20: ", "absolute path"},
	{"files: [{path: /, content: x}]", "8:20: ", "absolute path"},
	{"files: [{path: /etc/../x, content: x}]", "8:20: ", "absolute path"},
	{"files: [{path: //x, content: x}]", "8:20: ", "absolute path"},
	{"files: [{path: /./x, content: x}]", "8:20: ", "absolute path"},
	{"files: [{path: /x, content: a}, {path: /x, content: b}]",
		"8:44: ", "also the path of files[0]"},
	{"files: [{path: /x, source: /nonexistent/f}]", "8:32: ", "cannot read '/nonexistent/f'"},
	{"files: [{path: /x, source: /dev/zero}]", "8:32: ", "not an ordinary file"},
	{"files: [{path: /x, source: /etc}]", "8:32: ", "not an ordinary file"},
	{"files: [{path: /x, source: [a]}]", "8:32: ", "expected a text"},
	{"files: [{path: /x, contnt: a}]", "8:24: ", "did you mean 'content'?"},
	{"files: [{path: /x, content: a, mode: 0888}]", "8:42: ", "not a file mode"},
	{"files: [{path: /x, content: a, mode: rwx}]", "8:42: ", "not a file mode"},
	{"files: [{path: /x, content: a, mode: \"017777\"}]", "8:42: ", "not a file mode"},
	{"files: [{path: /x, content: a, mode: \"\"}]", "8:42: ", "not a file mode"},
	{"files: [{path: /x, content: a, mode: 1234567}]", "8:42: ", "not a file mode"},
	{"files: [{path: /x, content: a, uid: root}]", "8:41: ", "not a whole number"},
	{"files: [{path: /x, content: a, gid: -1}]", "8:41: ", "is not within"},
	{"files: [{path: /x, content: a, uid: 4294967296}]", "8:41: ", "not within 0 to"},
	{"run: [a]", "8:10: ", "expected a text"},
	{"run: {a: b}", "8:10: ", "expected a text"},
	{"init: systemd", "8:11: ", "'systemd' is unknown (one of auto, image, umlaut)"},
	{"init: imge", "8:11: ", "did you mean 'image'?"},
	{"restart: sometimes", "8:14: ", "(one of always, on-failure, never)"},
	{"restart: onfailure", "8:14: ", "did you mean 'on-failure'?"},
	{"restart: true", "8:14: ", "unknown"},
	{"ready: []", "8:12: ", "the command is empty"},
	{"ready: [[a]]", "8:13: ", "expected a text, not a list"},
	{"ready: {exec: {a: b}}", "8:19: ", "expected a list, not a map"},
	{"ready: {exec: []}", "8:19: ", "the command is empty"},
	{"ready: {exec: [[a]]}", "8:20: ", "expected a text"},
	{"ready: {exec: [\"\"]}", "8:13: ", "the command is empty"},
	{"ready: {exec: [a], interval: 1ms}", "8:34: ", "not within 10 ms to 1d"},
	{"ready: {exec: [a], interval: often}", "8:34: ", "not a duration"},
	{"ready: {exec: [a], interval: 0}", "8:34: ", "must be more than 0"},
	{"ready: {exec: [a], timeout: 2d}", "8:33: ", "longer than 1d"},
	{"ready: {exe: [a]}", "8:13: ", "did you mean 'exec'?"},
	{"stop_timeout: soon", "8:19: ", "not a duration"},
	{"stop_timeout: 2h", "8:19: ", "longer than 1h"},
	{"stop_timeout: 100d", "8:19: ", "too long a duration"},
	{"placement: spread", "8:16: ", "expected a map"},
	{"placement: {strategy: sprad}", "8:27: ", "did you mean 'spread'?"},
	{"placement: {host: Host1}", "8:23: ", "may only have a-z"},
	{"placement: {priority: high}", "8:27: ", "not a whole number"},
	{"placement: {priority: 1000001}", "8:27: ", "not within -1000000 to 1000000"},
	{"placement: {priority: -99999999999}", "8:27: ", "is not within"},
	{"placement: {max_per_host: -1}", "8:31: ", "is not within"},
	{"placement: {host_labels: [ssd]}", "8:30: ", "expected a map"},
	{"placement: {host_labels: {\"a b\": c}}", "8:38: ", "label 'a b' must be"},
	{"placement: {hostlabels: {a: b}}", "8:17: ", "did you mean 'host_labels'?"},
	{"labels: {a: }", "8:14: ", "has no value"},
	{"labels: {\"a b\": c}", "8:21: ", "must be 1 to 63"},
	{"kernel_args: \"con0=null\"", "8:18: ", "'con0=null' is not allowed"},
	{"kernel_args: quiet ubd0=/etc/shadow", "8:18: ", "'ubd0=/etc/shadow' is not allowed"},
	{"kernel_features: Foo!", "8:22: ", "'Foo!' is no feature"},
	{"kernel_features: [tun, \"\"]", "8:28: ", "'' is no feature"},
	{"kernel_args: mem=1G", "8:18: ", "set by Umlaut"},
	{"kernel_args: initrd=/x", "8:18: ", "set by Umlaut"},
	{"kernel_args: umid=x", "8:18: ", "set by Umlaut"},
	{"kernel_args: uml_dir=/", "8:18: ", "set by Umlaut"},
	{"kernel_args: vec0:transport=raw", "8:18: ", "set by Umlaut"},
	{"kernel_args: hostfs=/", "8:18: ", "set by Umlaut"},
	{"kernel_args: \"a\\nb\"", "8:18: ", "byte 2 is not allowed"},
	{"kernel_args: \"a 'b'\"", "8:18: ", "not allowed"},
	{"kernel_args: [quiet]", "8:18: ", "expected a text"},
	{"image: again", "8:5: ", "the key 'image' is there twice (first in line 7)"},
	{"name: web", "8:5: ", "unknown key 'name' in a guest|"},
};

static void test_guests(void **state)
{
	(void)state;
	wrong = 0;
	for (size_t i = 0; i < UNIT_COUNT(guests); i++) {
		char yaml[2048];

		(void)snprintf(yaml, sizeof(yaml), GUEST "%s\n", guests[i].text);
		expect(yaml, guests[i].place, guests[i].says);
	}
	assert_int_equal(wrong, 0);
}

/* Line 3, column 10 on is the network. */
static const struct bad networks[] = {
	{"{subnet: 10.1.0.5/24}", "3:17: ", "has host bits set; write 10.1.0.0/24"},
	{"{subnet: 10.1.0.0}", "3:17: ", "not a prefix (write ADDRESS/LENGTH"},
	{"{subnet: 10.1.0.0/33}", "3:17: ", "must be 0 to 32"},
	{"{subnet: 300.1.0.0/24}", "3:17: ", "not an IP address"},
	{"{subnet: [a]}", "3:17: ", "expected a text, not a list"},
	{"{subnet: \"fd00::/64\"}", "3:17: ", "'fd00::/64' is IPv6; write it as subnet6"},
	{"{subnet6: 10.1.0.0/24}", "3:18: ", "is IPv4; write it as subnet"},
	{"{subnet: 127.0.0.0/16}", "3:17: ", "loopback"},
	{"{subnet: 0.0.0.0/0}", "3:17: ", "this range is for"},
	{"{subnet: 224.1.0.0/16}", "3:17: ", "multicast"},
	{"{subnet6: \"fe80::/64\"}", "3:18: ", "link-local"},
	{"{subnet6: \"ff02::/64\"}", "3:18: ", "multicast"},
	{"{}", "3:3: ", "network 'lan' needs a subnet"},
	{"", "3:3: ", "network 'lan' needs a subnet"},
	{"10.1.0.0/24", "3:8: ", "expected a map, not a text"},
	{"[10.1.0.0/24]", "3:8: ", "expected a map, not a list"},
	{"{subnt: 10.1.0.0/24}",
		"3:9: ", "unknown key 'subnt' in a network; did you mean 'subnet'?"},
	{"{subnet: 10.1.0.0/24, gateway: 10.2.0.1}", "3:39: ", "gateway 10.2.0.1 is outside"},
	{"{subnet: 10.1.0.0/24, gateway: 10.1.0.0}", "3:39: ", "not an address that a guest"},
	{"{subnet: 10.1.0.0/24, gateway: 10.1.0.255}", "3:39: ", "not an address that a guest"},
	{"{subnet: 10.1.0.0/24, gateway: router}", "3:39: ", "not an IP address"},
	{"{subnet: 10.1.0.0/24, gateway: \"fd00::1\"}", "3:39: ", "write it as gateway6"},
	{"{subnet: 10.1.0.0/24, gateway6: \"fd00::1\"}",
		"3:40: ", "has a gateway6, but no subnet6"},
	{"{subnet6: \"fd00::/64\", gateway: 10.1.0.1}", "3:40: ", "has a gateway, but no subnet"},
	{"{subnet6: \"fd00::/64\", gateway6: \"fd01::1\"}", "3:41: ", "outside of the subnet"},
	{"{subnet: 10.1.0.0/24, mtu: 100}", "3:35: ", "an MTU of 100 is not within 576 to 65000"},
	{"{subnet: 10.1.0.0/24, mtu: 70000}", "3:35: ", "not within 576 to 65000"},
	{"{subnet: 10.1.0.0/24, mtu: big}", "3:35: ", "not a whole number"},
	{"{subnet: 10.1.0.0/24, mtu: -5}", "3:35: ", "not within"},
	{"{subnet6: \"fd00::/64\", mtu: 1000}", "3:36: ", "less than the 1280 that IPv6 needs"},
	{"{subnet: 10.1.0.0/24}\n  other: {subnet: 10.1.0.128/25}",
		"4:19: ", "overlaps the subnet 10.1.0.0/24 of network 'lan'"},
	{"{subnet: 10.1.0.0/24}\n  other: {subnet: 10.1.0.0/24}", "4:19: ", "overlaps"},
	{"{subnet: 10.1.0.0/24}\n  other: {subnet: 10.0.0.0/8}",
		"3:17: ", "overlaps the subnet 10.0.0.0/8 of network 'other'"},
	{"{subnet6: \"fd00::/64\"}\n  other: {subnet6: \"fd00::/48\"}", "3:18: ", "overlaps"},
	{"{subnet: 10.1.0.0/24}\n  lan: {subnet: 10.2.0.0/24}", "4:3: ", "'lan' is there twice"},
	{"{subnet: 10.1.0.0/24}\n  Lan: {subnet: 10.2.0.0/24}", "4:3: ", "may only have a-z"},
	{"{subnet: 10.1.0.0/24}\n  a_b: {subnet: 10.2.0.0/24}", "4:3: ", "may only have a-z"},
	{"{subnet: 10.1.0.0/24}\n  \"\": {subnet: 10.2.0.0/24}", "", "is empty"},
	{"{subnet: 10.1.0.0/30}\nguests: {g: {image: i, count: 3, networks: [lan]}}",
		"3:17: ", "10.1.0.0/30 has 2 addresses for guests, too few for the 3 members"},
	{"{subnet: 10.1.0.0/30, gateway: 10.1.0.1}\nguests: {g: {image: i, count: 2, networks: "
	 "[lan]}}",
		"3:17: ", "with the gateway's"},
	{"{subnet: 10.1.0.0/24, subnet6: \"fd00::/126\"}\nguests: {g: {image: i, count: 4, "
	 "networks: [lan]}}",
		"3:39: ", "has 3 addresses"},
};

static void test_networks(void **state)
{
	(void)state;
	wrong = 0;
	for (size_t i = 0; i < UNIT_COUNT(networks); i++) {
		char yaml[2048];

		(void)snprintf(
			yaml, sizeof(yaml), "name: t\nnetworks:\n  lan: %s\n", networks[i].text);
		expect(yaml, networks[i].place, networks[i].says);
	}
	assert_int_equal(wrong, 0);
}

static const struct bad files[] = {
	{"", " ", "there is no lab in this file"},
	{"# nothing\n", " ", "there is no lab"},
	{"---\n...\n", " ", "there is no lab"},
	{"just text", "1:1: ", "a lab is a map"},
	{"- name: t\n", "1:1: ", "a lab is a map with name, networks and guests, not a list"},
	{"guests: {}\n", "1:1: ", "deployment name is empty"},
	{"name: \n", "1:1: ", "deployment name is empty"},
	{"name: Hello\n", "1:7: ", "may only have a-z"},
	{"name: [a]\n", "1:7: ", "expected a text"},
	{"name: a/b\n", "1:7: ", "may only have"},
	{"name: -a\n", "1:7: ", "start and end with"},
	{"nmae: t\n", "1:1: ", "unknown key 'nmae' in a lab; did you mean 'name'?"},
	{"name: t\nversion: 2\n", "2:10: ", "reads version 1"},
	{"name: t\nversion: [1]\n", "2:10: ", "expected a text"},
	{"name: t\nguest: {}\n", "2:1: ", "did you mean 'guests'?"},
	{"name: t\nguests: [a]\n", "2:9: ", "expected a map, not a list"},
	{"name: t\nguests: web\n", "2:9: ", "expected a map, not a text"},
	{"name: t\nguests: {web: [a]}\n", "2:15: ", "expected a map, not a list|"},
	{"name: t\nguests: {web: busybox}\n", "2:15: ", "expected a map, not a text|"},
	{"name: t\nguests: {web: }\n", "2:10: ", "image is missing"},
	{"name: t\nguests: {web: {image: }}\n", "2:16: ", "image is missing"},
	{"name: t\nguests: {web: {image: A}}\n", "2:23: ", "image 'A' may only have"},
	{"name: t\nguests: {Web: {image: a}}\n", "2:10: ", "guest name 'Web'"},
	{"name: t\nguests: {web: {image: a}, web: {image: a}}\n", "2:27: ", "'web' is there twice"},
	{"name: t\nguests: {web-2: {image: a}, web: {image: a, count: 3}}\n",
		"2:10: ", "guest 'web-2' is also the name of one of the 3 guests of 'web'"},
	{"name: t\nguests: {aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff12: "
	 "{image: "
	 "a, count: 10}}\n",
		"2:10: ", "longer than 63"},
	{"name: t\nguests: {a: {image: i, count: 600000}, b: {image: i, count: 600000}}\n",
		"2:1: ", "1200000 guests are more than 1000000"},
	{"name: t\nnetworks: [lan]\n", "2:11: ", "expected a map"},
	{"name: t\ndefaults: [a]\n", "2:11: ", "expected a map"},
	{"name: t\ndefaults: {memory: 1Q}\nguests: {a: {image: i}, b: {image: i}}\n",
		"2:20: ", "not a size"},
	{"name: t\ndefaults: {memory: 1M}\nguests: {a: {image: i}}\n",
		"2:20: ", "guests.a.memory: 1M is not within"},
	{"name: t\ndefaults: {memry: 1M}\n", "2:12: ", "did you mean 'memory'?"},
	{"name: t\ndefaults: {networks: [lan]}\nguests: {a: {image: i}}\n",
		"2:23: ", "there is no network 'lan'; the lab defines none"},
	{"name: t\nlabels: {a: [b]}\n", "2:13: ", "expected a text"},
	{"name: t\nlabels: {\"\": b}\n", "2:14: ", "must be 1 to 63"},
	/* what is no YAML */
	{"name: t\n\tguests: {}\n", "2:1: ", "spaces, not tabs"},
	{"name: t\n  guests: {}\n", "2:9: ", "mapping values are not allowed"},
	{"name: a: b\n", "1:8: ", "a text with ': ' in it must be quoted"},
	{"name: [a\n", "2:1: ", "not valid YAML"},
	{"name: {a\n", "2:1: ", "not valid YAML"},
	{"name: \"a\n", "2:1: ", "not valid YAML"},
	{"name: 'a\n", "2:1: ", "not valid YAML"},
	{"name: @a\n", "1:7: ", "must be quoted"},
	{"name: `a\n", "1:7: ", "must be quoted"},
	{"name: %a\n", "1:7: ", "must be quoted"},
	{"name: t\n- a\n", "2:1: ", "not valid YAML"},
	{"name: \"\\q\"\n", "1:8: ", "not valid YAML"},
	{"name: \"a\\0b\"\n", "1:7: ", "a text must not hold a NUL"},
	{"name: t\nguests: {\xff: {}}\n", "2:1: ", "not UTF-8 text"},
	{"name: \x01\n", "1:1: ", "not UTF-8 text"},
	{"%YAML 3.0\n---\nname: t\n", "1:1: ", "not valid YAML"},
	{"name: !foo t\n", "1:7: ", "the tag '!foo' is not supported"},
	{"name: !!binary t\n", "1:7: ", "is not supported"},
	{"name: *x\n", "1:7: ", "there is no anchor '&x' before this alias"},
	{"name: &x [*x]\n", "1:11: ", "stands inside of itself"},
	{"&x a: *x\n&x a: b\n", "2:1: ", "the key 'a' is there twice (first in line 1)"},
	{"{a: b}: c\n", "1:1: ", "a key must be a text, not a map"},
	{"[a]: c\n", "1:1: ", "a key must be a text"},
	{"? - a\n: b\n", "1:3: ", "a key must be a text, not a list"},
	{"name: t\n<<: text\n", "2:5: ", "'<<' takes a map"},
	{"name: t\n<<: [a]\n", "2:5: ", "'<<' takes a map"},
	{"name: t\n<<: {}\n<<: {}\n", "3:1: ", "'<<' is there twice"},
	{"name: t\nname: u\n", "2:1: ", "'name' is there twice (first in line 1)"},
};

static void test_files(void **state)
{
	(void)state;
	wrong = 0;
	for (size_t i = 0; i < UNIT_COUNT(files); i++)
		expect(files[i].text, files[i].place, files[i].says);
	assert_int_equal(wrong, 0);
}

static const char good[] =
	"# A lab with everything.\n"
	"version: 1\n"
	"name: good\n"
	"labels: {course: net-1}\n"
	"networks:\n"
	"  lan: {subnet: 10.1.0.0/24, subnet6: \"fd00:1::/64\", gateway: 10.1.0.1, gateway6: "
	"\"fd00:1::1\"}\n"
	"  wan: {subnet: 10.2.0.0/30, mtu: 9000}\n"
	"defaults: &d\n"
	"  image: busybox\n"
	"  memory: 64M\n"
	"  env: {A: a, B: b}\n"
	"  placement: {strategy: spread, host_labels: {ssd: \"yes\"}}\n"
	"guests:\n"
	"  web:\n"
	"    count: 3\n"
	"    cpus: 0.5\n"
	"    networks: [lan]\n"
	"    env: {B: x, C: no}\n"
	"    placement: {max_per_host: 2, priority: -5}\n"
	"    restart: on-failure\n"
	"    ready: {exec: wget -q localhost, interval: 1s, timeout: 30s}\n"
	"    files:\n"
	"      - {path: /www/index.html, content: \"<h1>\\n\", mode: 0640, uid: 33, gid: 34}\n"
	"    run: |\n"
	"      httpd -h /www\n"
	"  router:\n"
	"    <<: {kernel: debian, memory: 128M}\n"
	"    networks:\n"
	"      lan: {address: 10.1.0.1, address6: \"fd00:1::1\"}\n"
	"      wan: {address: 10.2.0.1, mac: \"02:00:00:00:00:01\"}\n"
	"    routes: [{to: default, via: 10.2.0.2}, {to: \"fd00:9::/64\", via: \"fd00:1::9\"}]\n"
	"    hostname: gw.example\n"
	"    disk: 1G\n"
	"    init: image\n"
	"    kernel_args: quiet loglevel=3\n"
	"    stop_timeout: 500ms\n"
	"    ready: {exec: [ip, route]}\n"
	"    labels: {role: router}\n"
	"  idle:\n";

static void test_good(void **state)
{
	struct labs labs;
	char *got = complaints(good, strlen(good), &labs);
	const Um__DeploymentSpec *s;
	const Um__GuestSpec *g;
	char name[STR_NAME_MAX + 1];
	uint32_t i;

	(void)state;
	assert_string_equal(got, "");
	free(got);
	assert_int_equal(labs.count, 1);
	assert_int_equal(labs.items[0].mark.line, 3);
	s = labs.items[0].spec;
	assert_string_equal(s->name, "good");
	assert_int_equal(s->n_networks, 2);
	assert_string_equal(s->networks[0]->gateway6, "fd00:1::1");
	assert_int_equal(s->networks[1]->mtu, 9000);
	assert_int_equal(s->n_groups, 3);

	g = s->groups[0]->guest;
	assert_int_equal(s->groups[0]->count, 3);
	assert_string_equal(g->image, "busybox");
	assert_int_equal(g->memory_bytes, 64u << 20);
	assert_int_equal(g->cpu_milli, 500);
	assert_int_equal(g->n_env, 3);
	for (size_t k = 0; k < 3; k++) {
		const char *want = *g->env[k]->key == 'A'   ? "a"
				   : *g->env[k]->key == 'B' ? "x"
							    : "no";

		assert_string_equal(g->env[k]->value, want);
	}
	assert_int_equal(g->placement->strategy, UM__STRATEGY__SPREAD);
	assert_int_equal(g->placement->max_per_host, 2);
	assert_int_equal(g->placement->priority, -5);
	assert_string_equal(g->placement->host_labels[0]->value, "yes");
	assert_int_equal(g->restart, UM__RESTART_POLICY__RESTART_ON_FAILURE);
	assert_int_equal(g->ready->n_exec, 3);
	assert_string_equal(g->ready->exec[2], "wget -q localhost");
	assert_int_equal(g->ready->interval_ms, 1000);
	assert_int_equal(g->ready->timeout_ms, 30000);
	assert_int_equal(g->files[0]->mode, 0640);
	assert_int_equal(g->files[0]->content.len, 5);
	assert_string_equal(g->run, "httpd -h /www\n");
	assert_int_equal(g->stop_timeout_ms, SPEC_DEFAULT_STOP_TIMEOUT);
	assert_int_equal(spec_guest_name(s->groups[0], 2, name), 0);
	assert_string_equal(name, "web-3");
	assert_ptr_equal(spec_find_guest(s, "web-3", &i), s->groups[0]);
	assert_int_equal(i, 2);
	assert_null(spec_find_guest(s, "web-4", &i));
	assert_null(spec_find_guest(s, "web-03", &i));
	assert_null(spec_find_guest(s, "web", &i));
	assert_ptr_equal(spec_find_guest(s, "idle", &i), s->groups[2]);

	g = s->groups[1]->guest;
	assert_string_equal(g->kernel, "debian");
	assert_int_equal(g->memory_bytes, 128u << 20);
	assert_int_equal(g->n_nics, 2);
	assert_string_equal(g->nics[0]->network, "lan");
	assert_string_equal(g->nics[1]->mac, "02:00:00:00:00:01");
	assert_string_equal(g->hostname, "gw.example");
	assert_int_equal(g->disk_bytes, 1u << 30);
	assert_string_equal(g->init, "image");
	assert_int_equal(g->ready->n_exec, 2);
	assert_int_equal(g->stop_timeout_ms, 500);
	g = s->groups[2]->guest;
	assert_string_equal(g->image, "busybox");
	assert_string_equal(g->init, "auto");
	assert_int_equal(g->cpu_milli, SPEC_DEFAULT_CPU);
	labs_free(&labs);
}

static void test_all_at_once(void **state)
{
	static const char yaml[] = "name: Bad\nnetwork: {}\nguests:\n  a: {image: i, memory: 1}\n"
				   "  b: {image: i, cpus: x, networks: [lan]}\n";
	char *got = complaints(yaml, sizeof(yaml) - 1, NULL);

	(void)state;
	assert_non_null(strstr(got, "f.yaml:1:7: "));
	assert_non_null(strstr(got, "f.yaml:2:1: "));
	assert_non_null(strstr(got, "f.yaml:4:25: "));
	assert_non_null(strstr(got, "f.yaml:5:23: "));
	assert_true(strstr(got, ":1:7: ") < strstr(got, ":5:23: "));
	free(got);
}

/* Files: several documents, folders, sources beside the lab, standard names. */
static void test_load(void **state)
{
	struct labs labs;
	struct diags diags;
	struct err err = ERR_INIT;
	struct buf text;
	char dir[64], path[128];
	const char *paths[2] = {path, NULL};

	(void)state;
	unit_dir_make(dir);
	diags_init(&diags);
	buf_init(&text);
#define PUT(name, content)                                                                      \
	do {                                                                                    \
		(void)snprintf(path, sizeof(path), "%s/" name, dir);                            \
		unit_ok(fs_write_atomic(path, content, sizeof(content) - 1, 0644, &err), &err); \
	} while (0)
	PUT("script", "#!/bin/sh\n");
	assert_int_equal(chmod(path, 0755), 0);
	PUT("note.txt", "not a lab");
	PUT("b.yml", "name: b\n");
	PUT("a.yaml", "name: a\nguests: {g: {image: i, files: [{path: /s, source: script}]}}\n"
		      "---\nname: a2\n---\n# empty\n");
	assert_int_equal(labs_load(paths, 1, &labs, &diags), 0);
	assert_int_equal(labs.count, 2);
	assert_int_equal(labs.items[0].spec->groups[0]->guest->files[0]->mode, 0755);
	assert_memory_equal(
		labs.items[0].spec->groups[0]->guest->files[0]->content.data, "#!/bin", 6);
	labs_free(&labs);
	(void)snprintf(path, sizeof(path), "%s", dir);
	assert_int_equal(labs_load(paths, 1, &labs, &diags), 0);
	assert_int_equal(labs.count, 3);
	assert_string_equal(labs.items[2].spec->name, "b");
	labs_free(&labs);
	PUT("c.yaml", "name: b\n");
	(void)snprintf(path, sizeof(path), "%s", dir);
	assert_int_equal(labs_load(paths, 1, &labs, &diags), -EINVAL);
	diags_text(&diags, &text);
	assert_non_null(strstr(buf_text(&text), "c.yaml:1:7: deployment 'b' is also defined in"));
	diags_free(&diags);
	buf_free(&text);
	(void)snprintf(path, sizeof(path), "%s/none.yaml", dir);
	assert_int_equal(labs_load(paths, 1, &labs, &diags), -ENOENT);
	diags_free(&diags);
	(void)snprintf(path, sizeof(path), "%s/empty", dir);
	assert_int_equal(mkdir(path, 0755), 0);
	assert_int_equal(labs_load(paths, 1, &labs, &diags), -ENOENT);
	diags_free(&diags);
	unit_dir_remove(dir);
}

/* ---- nonsense ---- */

static void refused_quickly(const char *what, const char *text, size_t size, const char *says)
{
	uint64_t start = proc_mono_ms(), took;
	char *got = complaints(text, size, NULL);

	took = proc_mono_ms() - start;
	if (!strstr(got, says))
		fail_msg("%s: '%s' is not in %.300s", what, says, got);
	/* A second in an ordinary build; sanitizers cost several times that. */
	if (took > 8000)
		fail_msg("%s took %llu ms", what, (unsigned long long)took);
	free(got);
}

static void test_nonsense(void **state)
{
	size_t size = 10u << 20, n = 0;
	char *text = malloc(size + 64);
	static const struct {
		const char *what, *unit, *says;
	} fills[] = {{"brackets", "[", "nested more than 64 levels"},
		{"braces", "{a: ", "nested more than 64 levels"},
		{"dashes", "- ", "nested more than 64 levels"},
		{"questions", "? ", "nested more than 64 levels"},
		{"letters", "a", "a lab is a map"}, {"lines", "a\n", "a lab is a map"},
		{"keys", "a: b\n", "more than 1000000 values"},
		{"list", "- a\n", "more than 1000000 values"}, {"flow", "a,", ""},
		{"anchors", "- &a b\n", "more than 1000000 values"},
		{"documents", "--- a\n", "more than 1000 documents"}, {"quotes", "\"", ""},
		{"colons", ":", ""}, {"stars", "*a ", ""}, {"percent", "%a\n", ""},
		{"bytes", "\xff\xfe\x00", "not UTF-8"}, {"exclamations", "!", ""},
		{"blanks", " ", "there is no lab"}, {"tabs", "\t", ""},
		{"comments", "#\n", "no lab"}};

	(void)state;
	assert_non_null(text);
	for (size_t i = 0; i < UNIT_COUNT(fills); i++) {
		size_t unit = strlen(fills[i].unit) + (i == 15);

		for (n = 0; n + unit <= size; n += unit)
			memcpy(text + n, fills[i].unit, unit);
		refused_quickly(fills[i].what, text, n, fills[i].says);
	}
	for (n = 0; n < size; n += 8) {
		uint64_t v = proc_random_u64();

		memcpy(text + n, &v, 8);
	}
	refused_quickly("random", text, size, "f.yaml:");
	/* random letters of YAML's own */
	for (size_t i = 0; i < size; i++)
		text[i] = "[]{}:,-?&*!|>'\"%@#ab \n"[(uint8_t)text[i] % 22];
	refused_quickly("punctuation", text, size, "f.yaml:");
	free(text);
	text = calloc(1, YDOC_SIZE_MAX + 1);
	assert_non_null(text);
	refused_quickly("too large", text, YDOC_SIZE_MAX + 1, "larger than 16 MiB");
	free(text);
}

static void test_bombs(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b);
	buf_add_str(&b, "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
	for (int i = 1; i < 60; i++) {
		buf_printf(&b, "a%d: &a%d [", i, i);
		for (int k = 0; k < 10; k++)
			buf_printf(&b, "%s*a%d", k ? "," : "", i - 1);
		buf_add_str(&b, "]\n");
	}
	refused_quickly("laughs", (char *)b.data, b.size, "more than 1000000 values");
	buf_free(&b);
	buf_add_str(&b, "a0: &a0 {x: x, y: y}\n");
	for (int i = 1; i < 60; i++)
		buf_printf(&b, "a%d: &a%d {<<: [*a%d, *a%d], k%d: *a%d}\n", i, i, i - 1, i - 1, i,
			i - 1);
	refused_quickly("merges", (char *)b.data, b.size, "more than 1000000 values");
	buf_free(&b);
}

/* 200 good files with bytes flipped: read or refused with a place, never a crash. */
static void test_flips(void **state)
{
	char text[sizeof(good)];

	(void)state;
	for (int round = 0; round < 600; round++) {
		uint64_t r = proc_random_u64();
		char *got;

		memcpy(text, good, sizeof(good));
		for (int k = 0; k <= round % 3; k++, r = proc_random_u64())
			text[r % (sizeof(good) - 1)] = (char)(r >> 32);
		got = complaints(text, sizeof(good) - 1, NULL);
		if (*got && strncmp(got, "f.yaml:", 7) != 0)
			fail_msg("without a place: %s", got);
		free(got);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_guests),
		cmocka_unit_test(test_networks),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_all_at_once),
		cmocka_unit_test(test_load),
		cmocka_unit_test(test_bombs),
		cmocka_unit_test(test_flips),
		cmocka_unit_test(test_nonsense),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
