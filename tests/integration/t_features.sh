#!/usr/bin/env bash
# What labs need of a guest's kernel, each really used: Debian with systemd (made by
# debootstrap) on two hosts, under the kernel `fast` where it is built (FAST, default
# build/kernel/linux-fast), else Debian's.  What a kernel says it has (its features) works.
# ROOTFS=FOLDER: use that one and do not make it.
. "$(dirname "$0")/lib.sh"
root=${ROOTFS:-$STATE/root}
[ -d "$root" ] || check "debootstrap makes a root" debootstrap --variant=minbase \
	--include=systemd-sysv,iproute2,nftables,iptables,wireguard-tools,iputils-ping,iputils-arping,iperf3,squashfs-tools,procps,kmod,udev \
	bookworm "$root" || exit 1
testbed_up 2
fast_kernel "that it has what labs need" || exit 1
if has_fast; then
	kernel=fast
else
	kernel=debian
	check "kernel debian" ctl kernel add /usr/bin/linux.uml --name debian --modules /usr/lib/uml/modules || exit 1
fi
check "the image" ctl image add deb --from "$root" || exit 1
features=" $(ctl get kernels $kernel -o json | jq -r '.[0].features | map(sub("=m$"; "")) | join(" ")') "
cat > "$STATE/lab.yaml" <<'Y'
name: f
networks: {n: {subnet: 10.60.0.0/24}}
defaults: {image: deb, memory: 256M, networks: [n]}
guests:
  a: {placement: {host: h1}}
  b: {placement: {host: h2}}
Y
check "two guests with systemd are ready" ctl apply -f "$STATE/lab.yaml" --wait --timeout 180s || exit 1
in_guest() { ctl exec "f/$1" -- sh -ec "$2"; }
# feature NAME TEXT GUEST SCRIPT: where the kernel has NAME, SCRIPT succeeds in the guest.
feature() {
	# Of Debian's only what works without modules being loaded by hand: `fast` has all built in.
	case $kernel:$1 in debian:mpls | debian:nftables | debian:nat | debian:multicast-routing)
		skip "$1: not looked at with Debian's kernel"
		return ;;
	esac
	case $features in
	*" $1 "*) check "$1: $2" in_guest "$3" "$4" ;;
	*) [ $kernel = debian ] && skip "Debian's kernel has no $1" || not_ok "the kernel fast has $1" ;;
	esac
}
pair() { in_guest a "$1"; in_guest b "$2"; }
equal "systemd is process 1" systemd "$(ctl exec f/a -- sh -c 'basename "$(readlink /proc/1/exe)"')"
check "systemd: all units have started" wait_until 60 in_guest a 'case $(systemctl is-system-running) in running | degraded) ;; *) false ;; esac'
in_guest a 'systemctl --failed --no-legend' || true
check "systemd: a service is started and watched" in_guest a 'systemd-run -q --unit=s sleep 1000; systemctl is-active s; systemctl stop s'
feature memcg "a limit ends what is over it" a '! systemd-run -q --wait -p MemoryMax=24M -p MemorySwapMax=0 sh -c "head -c 64M /dev/zero | tail -c 64M > /dev/null"'
check "pids: the third process is one too many" in_guest a 'g=/sys/fs/cgroup/t; echo +pids > /sys/fs/cgroup/cgroup.subtree_control; mkdir $g; echo 2 > $g/pids.max
	sh -c "echo 0 > $g/cgroup.procs; sleep 1 & sleep 1 & sleep 1 & wait" || true; grep "^max [1-9]" $g/pids.events
	for i in 1 2 3 4 5 6 7 8 9; do rmdir $g && exit 0; sleep 0.3; done; exit 1'
check "cpu: a tenth of a processor is no more than that" in_guest a 'g=/sys/fs/cgroup/c; echo +cpu > /sys/fs/cgroup/cgroup.subtree_control; mkdir $g; echo "10000 100000" > $g/cpu.max
	timeout 3 sh -c "echo 0 > $g/cgroup.procs; while :; do :; done" || true; awk "/^usage_usec/ {exit !(\$2 > 50000 && \$2 < 1000000)}" $g/cpu.stat
	for i in 1 2 3 4 5 6 7 8 9; do rmdir $g && exit 0; sleep 0.3; done; exit 1'
feature user-namespaces "root in one of its own" a 'test "$(unshare --user --map-root-user id -u)" = 0'

# Files.
feature squashfs "an image is made and read" a 'mkdir -p /run/sq && mksquashfs /etc/default /run/x.sq -quiet -no-progress > /dev/null && mount -o loop /run/x.sq /run/sq && diff -r /etc/default /run/sq; umount /run/sq'
check "ext4: made, mounted, written" in_guest a 'truncate -s 8M /run/e; mke2fs -q -t ext4 /run/e; mkdir -p /run/em; mount -t ext4 -o loop /run/e /run/em; echo x > /run/em/f; umount /run/em; e2fsck -fn /run/e'
feature overlayfs "a change stays in the upper folder" a 'cd /run; mkdir -p o/up o/work o/all; mount -t overlay o -o lowerdir=/etc,upperdir=/run/o/up,workdir=/run/o/work /run/o/all; echo new > o/all/hostname; test "$(cat o/up/hostname)" = new; test "$(cat /etc/hostname)" != new; umount o/all'

# Inside one guest: namespaces as machines.
check "all namespaces at once: process 1 of a machine of its own" in_guest a 'test "$(unshare --user --map-root-user --pid --fork --mount --uts --ipc --net --mount-proc sh -c "hostname inner; echo \$\$ \$(hostname)")" = "1 inner"'
feature bridge "two namespaces on a bridge" a 'ip link add br0 type bridge vlan_filtering 1; ip link set br0 up
	for i in 1 2; do ip netns add s$i; ip link add v$i type veth peer name e0 netns s$i; ip link set v$i master br0 up
	ip -n s$i link set e0 up; ip -n s$i addr add 10.7.0.$i/24 dev e0; done; ip netns exec s1 ping -q -c 2 -W 5 10.7.0.2'
feature vlan "tagged, through the same bridge" a 'for i in 1 2; do bridge vlan add dev v$i vid 10
	ip -n s$i link add link e0 name e0.10 type vlan id 10; ip -n s$i link set e0.10 up; ip -n s$i addr add 10.8.0.$i/24 dev e0.10; done
	ip netns exec s1 ping -q -c 2 -W 5 10.8.0.2; bridge vlan del dev v2 vid 10; ! ip netns exec s1 ping -q -c 1 -W 1 10.8.0.2'
feature tun "a packet routed into it comes out of its descriptor" a 'cat > /run/tun << "P"
open(my $t, "+<", "/dev/net/tun") or die "tun: $!"; my $r = pack("a16Sx22", "tun7", 0x1001); ioctl($t, 0x400454ca, $r) or die "TUNSETIFF: $!";
system("ip addr add 10.11.0.1/24 dev tun7; ip link set tun7 up; ping -q -c 1 -W 1 10.11.0.9 > /dev/null");
alarm 8; while (sysread($t, my $m, 2000)) { exit 0 if unpack("C", $m) == 0x45 } exit 1
P
perl /run/tun'
feature packet "an ARP request is answered" a 'arping -q -c 2 -w 5 -I eth0 b'
feature vrf "an interface in a table of its own" a 'ip link add red type vrf table 10; ip link set red up; ip netns add s3
	ip link add v3 type veth peer name e0 netns s3; ip link set v3 master red up; ip addr add 10.7.3.1/24 dev v3
	ip -n s3 link set e0 up; ip -n s3 addr add 10.7.3.3/24 dev e0; ping -q -c 2 -W 5 -I red 10.7.3.3
	ip route show table 10 | grep -q 10.7.3.0/24; ! ip route show table main | grep 10.7.3.0/24'
# No "! command" but as the last: sh -e does not see one that fails.
feature policy-routing "by the source address" a 'ip rule add from 10.9.9.9 lookup 77; ip route add unreachable 10.60.0.0/24 table 77; ip addr add 10.9.9.9/32 dev lo
	ip route get 10.60.0.2; if ip route get 10.60.0.2 from 10.9.9.9; then exit 1; fi; ip rule del from 10.9.9.9 lookup 77; ip route get 10.60.0.2 from 10.9.9.9'
# m1 sends to 239.1.1.1, m3 has joined it, m2 between them forwards by a route that is set
# as a routing daemon sets it: MRT_INIT, MRT_ADD_VIF, MRT_ADD_MFC of linux/mroute.h.
cat > "$STATE/multicast" << 'M'
for n in 1 2 3; do ip netns add m$n; ip -n m$n link set lo up; done
for n in 1 3; do
	ip link add e0 netns m$n type veth peer name e$n netns m2
	ip -n m$n addr add 10.1$n.0.1/24 dev e0; ip -n m$n link set e0 up
	ip -n m2 addr add 10.1$n.0.2/24 dev e$n; ip -n m2 link set e$n up
	ip -n m$n route add default via 10.1$n.0.2
done
ip netns exec m2 sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
cat > /run/hear << 'P'
use Socket; socket(my $s, AF_INET, SOCK_DGRAM, 0) or die "socket: $!"; bind($s, pack_sockaddr_in(7000, INADDR_ANY)) or die "bind: $!";
setsockopt($s, 0, 35, inet_aton("239.1.1.1") . inet_aton("10.13.0.1")) or die "join: $!";
alarm $ARGV[0]; recv($s, my $m, 99, 0); exit($m ne "by multicast");
P
cat > /run/send << 'P'
use Socket; socket(my $s, AF_INET, SOCK_DGRAM, 0) or die "socket: $!"; setsockopt($s, 0, 32, inet_aton("10.11.0.1")) or die "interface: $!";
setsockopt($s, 0, 33, pack("i", 8)) or die "ttl: $!";
for (1 .. 60) { send($s, "by multicast", 0, pack_sockaddr_in(7000, inet_aton("239.1.1.1"))); select(undef, undef, undef, 0.2) }
P
cat > /run/route << 'P'
use Socket; socket(my $s, AF_INET, SOCK_RAW, 2) or die "socket: $!"; setsockopt($s, 0, 200, pack("i", 1)) or die "MRT_INIT: $!";
my $n = 0;
for my $d ("1", "3") {
	# Their interfaces by address, VIFF_USE_IFINDEX unset.
	setsockopt($s, 0, 202, pack("SCCLa4L", $n++, 0, 1, 0, inet_aton("10.1$d.0.2"), 0)) or die "MRT_ADD_VIF: $!";
}
setsockopt($s, 0, 204, pack("a4a4SC32x2LLLl", inet_aton("10.11.0.1"), inet_aton("239.1.1.1"), 0, 0, 1, (0) x 30, 0, 0, 0, 0)) or die "MRT_ADD_MFC: $!";
sleep 30;
P
ip netns exec m1 perl /run/send > /dev/null 2>&1 & sender=$!
if ip netns exec m3 perl /run/hear 2; then echo "heard without a route"; exit 1; fi
ip netns exec m2 perl /run/route > /run/route.out 2>&1 & router=$!
heard=0; ip netns exec m3 perl /run/hear 8 || heard=$?
kill $sender $router || true
cat /run/route.out
for n in 1 2 3; do ip netns del m$n; done
exit $heard
M
feature multicast-routing "IPv6 has it as well" a 'perl -e "use Socket; socket(my \$s, 10, SOCK_RAW, 58) or die; setsockopt(\$s, 41, 200, pack(q(i), 1)) or die qq(MRT6_INIT: \$!)"'
feature virtio "its drivers wait for devices" a 'ls -d /sys/bus/virtio/drivers/virtio_net /sys/bus/virtio/drivers/virtio_blk'
feature multicast-routing "a datagram crosses a router once it has a route for it" a "$(cat "$STATE/multicast")"

# Between the two, over the hosts.
feature ipv6 "link-local neighbours" a 'ping -q -6 -c 2 -W 5 ff02::1%eth0'
feature vxlan "an overlay in the overlay" a "ip link add vx type vxlan id 5 dstport 4789 remote \$(getent ahostsv4 b | awk '{print \$1; exit}') dev eth0; ip addr add 10.70.0.1/24 dev vx; ip link set vx up"
feature vxlan "and its other end" b "ip link add vx type vxlan id 5 dstport 4789 remote \$(getent ahostsv4 a | awk '{print \$1; exit}') dev eth0; ip addr add 10.70.0.2/24 dev vx; ip link set vx up; ping -q -c 2 -W 5 10.70.0.1"
case $features in *" wireguard "*)
	keys=$(in_guest a 'wg genkey | tee /run/wg.key | wg pubkey') keyb=$(in_guest b 'wg genkey | tee /run/wg.key | wg pubkey')
	wg() { in_guest "$1" "ip link add wg0 type wireguard; wg set wg0 listen-port 51820 private-key /run/wg.key peer $2 allowed-ips 10.80.0.0/24 endpoint \$(getent ahostsv4 $3 | awk '{print \$1; exit}'):51820; ip addr add 10.80.0.$4/24 dev wg0; ip link set wg0 up"; }
	check "wireguard: one end" wg a "$keyb" b 1
	check "wireguard: the other" wg b "$keys" a 2 ;;
esac
feature wireguard "through the tunnel" a 'ping -q -c 2 -W 5 10.80.0.2; wg show wg0 latest-handshakes | grep -qv "	0$"'
feature mpls "a label leads to the other's loopback" b 'sysctl -qw net.mpls.platform_labels=1000 net.mpls.conf.eth0.input=1; ip addr add 10.90.0.1/32 dev lo; ip -f mpls route add 100 dev lo; sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lo.rp_filter=0'
feature mpls "and pings it" a "ip route add 10.90.0.1/32 encap mpls 100 via inet \$(getent ahostsv4 b | awk '{print \$1; exit}') dev eth0; ping -q -c 2 -W 5 10.90.0.1"
feature nftables "a rule drops, and counts" a 'nft add table inet t; nft "add chain inet t i { type filter hook input priority 0; }"; nft add rule inet t i icmp type echo-reply counter drop
	! ping -q -c 2 -W 1 b; nft list ruleset | grep -q "packets 2 "; nft delete table inet t; ping -q -c 1 -W 5 b'
feature nat "masquerading" a 'nft add table ip nat; nft "add chain ip nat p { type nat hook postrouting priority 100; }"; nft add rule ip nat p oifname eth0 counter masquerade
	ping -q -c 1 -W 5 -I 10.9.9.9 b; nft delete table ip nat'
feature nftables "what a rule logs is in the kernel's log" a 'nft add table inet l; nft "add chain inet l o { type filter hook output priority 0; }"; nft add rule inet l o icmp type echo-request log prefix \"seen-it \"
	ping -q -c 1 -W 5 b; nft delete table inet l; dmesg | grep -q "seen-it .*PROTO=ICMP"'
feature nat "iptables: a port leads elsewhere, as docker publishes them" a 'iptables -t nat -A OUTPUT -p tcp --dport 81 -m limit --limit 100/s -j DNAT --to-destination 127.0.0.1:82
	iptables -t nat -L OUTPUT -n | grep -q "to:127.0.0.1:82"
	perl -MIO::Socket::INET -e "\$s = IO::Socket::INET->new(Listen => 1, LocalAddr => q(127.0.0.1:82), ReuseAddr => 1) or die; if (!fork) { \$c = IO::Socket::INET->new(q(127.0.0.1:81)) or exit 1; exit 0 } alarm 5; \$s->accept or die; wait; exit \$? >> 8"
	iptables -t nat -F OUTPUT'
feature netem "a delay of 100 ms is one" a "tc qdisc add dev eth0 root netem delay 100ms; ping -q -c 3 -W 5 b | awk -F/ '/^rtt/ {exit !(\$5 > 95 && \$5 < 400)}'; tc qdisc del dev eth0 root"
feature netem "a loss of all is one" a 'tc qdisc add dev eth0 root netem loss 100%; if ping -q -c 2 -W 1 b; then exit 1; fi; tc qdisc del dev eth0 root; ping -q -c 1 -W 5 b'
rate() { # QDISC...: Mbit/s from a to b under it
	in_guest a "$1"
	in_guest b 'iperf3 -s -1 -D > /dev/null'
	check "iperf3 answers" wait_until 10 in_guest b 'ss -ltn | grep -q :5201'
	ctl exec f/a -- iperf3 -c b -t 2 -J | jq '.end.sum_received.bits_per_second / 1e6 | floor'
	in_guest a 'tc qdisc del dev eth0 root'
}
slow() { # NAME QDISC
	local mbit; mbit=$(rate "$2" | tail -1)
	check "$1: 20 Mbit/s are at most that ($mbit)" test "$mbit" -le 21 -a "$mbit" -ge 5
}
case $features in *" tbf "*) slow tbf 'tc qdisc add dev eth0 root tbf rate 20mbit burst 32kbit latency 50ms' ;; *) not_ok "tbf" ;; esac
case $features in *" htb "*) slow "htb, fq_codel" 'tc qdisc add dev eth0 root handle 1: htb default 1; tc class add dev eth0 parent 1: classid 1:1 htb rate 20mbit; tc qdisc add dev eth0 parent 1:1 fq_codel' ;; *) not_ok "htb" ;; esac
check "delete" ctl delete f --wait
finish
