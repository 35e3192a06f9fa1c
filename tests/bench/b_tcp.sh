#!/usr/bin/env bash
# TCP throughput between two guests on two hosts: Umlaut's overlay against a
# hand-made tap, bridge and VXLAN path with the same kernel, image and underlay.
# Both pairs stand ready; rounds alternate; medians are compared.  The guests by hand get
# the TCP windows that umlaut-init sets; without (WINDOWS=0) it measures what those bring.
#   FAST=FILE: the kernel (default build/kernel/linux-fast, else Debian's)
#   EXTRA: more arguments of both kernels, say seccomp=on
#   SETUP=COMMAND: a shell runs it in each of the four guests before the first round
#   HALT_POLL=NS: how long this machine's processors wait for work before they sleep, while
#   this runs (haltpoll, in a virtual machine)
#   HAND=raw: by hand with the transport raw over a veth pair, which reads and writes many
#   packets with one system call, in the place of a tap
. "$(dirname "$0")/../integration/lib.sh"
kernel=${FAST:-build/kernel/linux-fast} extra=${EXTRA:-} windows=${WINDOWS:-1} transport=${HAND:-tap}
[ -x "$kernel" ] || kernel=/usr/bin/linux.uml
kernel=$(realpath "$kernel")
rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-4}

# An image with iperf3 and the libraries it needs.
tree=$STATE/tree
mkdir -p "$tree"/{bin,sbin,etc,proc,sys,dev,tmp,root,lib,lib64,usr/bin}
cp /bin/busybox "$tree/bin/"
for a in sh mount ip ifconfig sleep cat echo hostname poweroff ping mkdir dmesg true; do ln -sf busybox "$tree/bin/$a"; done
cp /usr/bin/iperf3 "$tree/bin/"
ldd /usr/bin/iperf3 | grep -oE '/[^ ]+' | while read -r l; do mkdir -p "$tree$(dirname "$l")"; cp -L "$l" "$tree$l"; done
echo 'root:x:0:0::/root:/bin/sh' > "$tree/etc/passwd"
echo "${SETUP:-true}" > "$tree/etc/setup"

testbed_up 2
check "kernel $("$kernel" --version)" ctl kernel add "$kernel" --name k || exit 1
check "image" ctl image add iperf --from "$tree" || exit 1
cat > "$STATE/lab.yaml" <<Y
name: tcp
networks: {n: {subnet: 10.30.0.0/24}}
defaults: {image: iperf, memory: 128M, cpus: 2, networks: [n], init: umlaut, kernel_args: "$extra"}
guests:
  s: {placement: {host: h1}, run: "sh /etc/setup; iperf3 -s -D"}
  c: {placement: {host: h2}, run: "sh /etc/setup"}
Y
check "two guests on two hosts" ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s || exit 1
server=$(guest_json tcp/s 'networks[0].address')

# The same by hand, over the same underlay.
mkdir -p "$STATE/hand/tree"; cp -a "$tree/." "$STATE/hand/tree/"
cat > "$STATE/hand/tree/sbin/init" <<'I'
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2> /dev/null
ip link set lo up
for w in $(cat /proc/cmdline); do case $w in windows=1)
	echo 4096 131072 6291456 > /proc/sys/net/ipv4/tcp_rmem
	echo 4096 16384 4194304 > /proc/sys/net/ipv4/tcp_wmem ;; addr=*) a=${w#addr=} ;; peer=*) p=${w#peer=} ;; esac; done
ip link set eth0 mtu 1450 2> /dev/null || ip link set vec0 mtu 1450
ip addr add $a/24 dev eth0 2> /dev/null || ip addr add $a/24 dev vec0
ip link set eth0 up 2> /dev/null || ip link set vec0 up
sh /etc/setup
if [ -z "$p" ]; then iperf3 -s; else
	echo ready
	while read -r cmd; do echo "begin"; sh -c "$cmd"; echo "end"; done
fi
I
chmod +x "$STATE/hand/tree/sbin/init"
truncate -s 64M "$STATE/hand/image"
/usr/sbin/mke2fs -q -F -t ext4 -d "$STATE/hand/tree" "$STATE/hand/image" || exit 1
hand_cleanup() {
	for n in 1 2; do
		# setsid forks: what it started is found by its namespace.
		ip netns pids "$NAME-hand$n" 2> /dev/null | xargs -r kill -KILL 2> /dev/null
		ip netns del "$NAME-hand$n" 2> /dev/null
	done
}
# shellcheck disable=SC2317 # called by the trap
at_end() {
	local status=$?
	hand_cleanup
	[ -z "$poll_before" ] || echo "$poll_before" > "$poll"
	(exit $status)
	cleanup
}
trap at_end EXIT
poll=/sys/module/haltpoll/parameters/guest_halt_poll_ns poll_before=''
if [ -n "${HALT_POLL:-}" ]; then
	if ! poll_before=$(cat $poll) || ! echo "$HALT_POLL" > $poll; then echo "this machine has no haltpoll"; exit 1; fi
fi
for n in 1 2; do
	ns=$NAME-hand$n
	ip netns add "$ns"
	ip -n "$NAME-h$n" link add hx type vxlan id 777 dstport 4790 local 10.77.0.$n remote 10.77.0.$((3 - n)) nolearning
	ip -n "$NAME-h$n" link set hx netns "$ns"
	ip -n "$ns" link add bridge0 type bridge
	port=tap
	if [ "$transport" = raw ]; then
		port=veth
		ip -n "$ns" link add veth type veth peer name tap
		ip -n "$ns" link set tap mtu 1450 up
	else
		ip netns exec "$ns" ip tuntap add tap mode tap vnet_hdr
	fi
	for d in hx $port; do ip -n "$ns" link set $d mtu 1450 master bridge0 up; done
	ip -n "$ns" link set bridge0 mtu 1450 up
done
mkfifo "$STATE/hand/in"
start_hand() { # N EXTRA
	mkdir -p "$STATE/hand/$1"
	setsid ip netns exec "$NAME-hand$1" $kernel mem=128M ubd0="$STATE/hand/$1/cow,$STATE/hand/image" root=/dev/ubda rw init=/sbin/init \
		con=null con0=fd:0,fd:1 quiet ssl=null lpj=40000000 "vec0:transport=$transport,ifname=tap,depth=128,gro=1" uml_dir="$STATE/hand/$1" umid=u "addr=10.31.0.$1" "windows=$windows" $extra $2
}
start_hand 1 "" > "$STATE/hand/1.out" 2>&1 < /dev/null &
exec 9<> "$STATE/hand/in"
start_hand 2 peer=10.31.0.1 > "$STATE/hand/2.out" 2>&1 <&9 &
check "the hand-made pair boots" wait_until 30 grep -q ready "$STATE/hand/2.out" || { cat "$STATE/hand/2.out"; exit 1; }
hand_round() {
	local n; n=$(grep -c '^end' "$STATE/hand/2.out")
	echo "iperf3 -c 10.31.0.1 -t $seconds -f m" >&9
	wait_until $((seconds + 20)) sh -c "[ \$(grep -c '^end' '$STATE/hand/2.out') -gt $n ]" || return 1
	tr -d '\r' < "$STATE/hand/2.out" | grep receiver | tail -1 | grep -oE '[0-9.]+ Mbits' | cut -d' ' -f1
}
umlaut_round() { ctl exec tcp/c -- iperf3 -c "$server" -t "$seconds" -f m | grep receiver | grep -oE '[0-9.]+ Mbits' | cut -d' ' -f1; }
hand_round > /dev/null; umlaut_round > /dev/null # warm
# How often a kernel went to sleep during a command: all kernels below those processes.
slept() { pgrep -f "$1" | sed 's#.*#/proc/&/status#' | xargs -r cat 2> /dev/null | awk '/^voluntary_ctxt/ {n += $2} END {print n + 0}'; }
hand=() ours=()
hand_slept=0 ours_slept=0
for _ in $(seq "$rounds"); do
	a=$(slept "uml_dir=$STATE/hand"); hand+=("$(hand_round)"); hand_slept=$((hand_slept + $(slept "uml_dir=$STATE/hand") - a))
	a=$(slept '^/kernel mem=128M'); ours+=("$(umlaut_round)"); ours_slept=$((ours_slept + $(slept '^/kernel mem=128M') - a))
done
median() { printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"; }
equal "every round came to its end" $((2 * rounds)) "$(printf '%s\n' "${hand[@]}" "${ours[@]}" | grep -c .)" || exit 1
h=$(median "${hand[@]}") o=$(median "${ours[@]}")
printf 'hand-made path: %s Mbit/s (rounds: %s)\n' "$h" "${hand[*]}"
printf 'umlaut:         %s Mbit/s (rounds: %s)\n' "$o" "${ours[*]}"
printf 'both kernels slept, a second: by hand %d, umlaut %d times\n' $((hand_slept / rounds / seconds)) $((ours_slept / rounds / seconds))
at_least() { # TEXT VALUE LIMIT
	if awk -v a="$2" -v b="$3" 'BEGIN {exit !(a >= b)}'; then ok "$1: $2 (at least $3)"; else not_ok "$1: $2 (goal: at least $3)"; fi
}
at_least "ratio to the path by hand" "$(awk -v o="$o" -v h="$h" 'BEGIN {printf "%.2f", o / h}')" 0.95
at_least "Mbit/s" "$o" 5000
finish
