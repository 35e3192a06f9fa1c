#!/usr/bin/env bash
# The guest kernel `fast` and its patches (guest/kernel/patches): an idle guest sleeps, is not
# late, and gives back memory that it has freed; guests of every kernel reach each other.
#   FAST=FILE           (default build/kernel/linux-fast; without it only Debian's takes part)
#   KERNELS="FILE ..."  more kernels for the lab of all kernels, say 6.12 and 6.1 (--source)
. "$(dirname "$0")/lib.sh"
. "$ROOT/tests/bench/density.sh"
read -ra files <<< "${KERNELS:-}"
! has_fast || files+=("$FAST")
testbed_up 2 --memory 64G
images

# ------------------------------------------------------------ one lab, all kernels
names=(debian)
for k in "${files[@]}"; do
	n=k$("$k" --version | tr . -)
	[ "$k" != "$FAST" ] || n=fast
	check "kernel $n is added" ctl kernel add "$k" --name "$n" && names+=("$n")
done
release_of() { ctl get kernels "$1" -o json | jq -r '.[0].release'; }
{
	printf 'name: all\nnetworks: {n: {subnet: 10.60.0.0/24, subnet6: "fd60::/64"}}\n'
	printf 'defaults: {image: busybox, memory: 64M, networks: [n]}\nguests:\n'
	i=0
	for n in "${names[@]}"; do echo "  g-$n: {kernel: $n, placement: {host: h$((i++ % 2 + 1))}}"; done
	echo "  last: {placement: {host: h2}}"
} > "$STATE/lab.yaml"
check "a lab of ${names[*]} is ready" ctl apply -f "$STATE/lab.yaml" --wait --timeout 200s || exit 1
for n in "${names[@]}"; do
	equal "$n: its guest runs it" "$(release_of "$n")" "$(ctl exec "all/g-$n" -- uname -r)"
	for other in "${names[@]}"; do
		[ "$other" = "$n" ] || check "$n: reaches a guest of $other, full size" ctl exec "all/g-$n" -- ping -c 2 -W 5 -s 1400 "g-$other"
	done
	check "$n: reaches a guest that names no kernel, by IPv6 too" ctl exec "all/g-$n" -- sh -c 'ping -c 2 -W 5 last && ping -6 -c 2 -W 5 last'
	check "$n: its boot is told in phases" sh -c "'$BIN/clusterctl' boot-report all/g-$n -o json |
		jq -e '.[0] | .ready and ((.total_ms - ([.phases[].ms] | add)) | fabs < 0.1)'"
done
check "delete the lab" ctl delete all --wait

# ------------------------------------------------------------ guest/kernel/patches
# They are made for 7.x; the recipe says so where it leaves one out.
if ! has_fast; then
	no_fast "its patches"
	finish
fi
case $(release_of fast) in
[0-6].*) skip "the patches of guest/kernel are for 7.x, this is $(release_of fast)"; finish ;;
esac
cat > "$STATE/idle.yaml" <<'Y'
name: idle
networks: {n: {subnet: 10.61.0.0/24}}
defaults: {image: busybox, kernel: fast, memory: 48M, networks: [n]}
guests:
  big: {memory: 256M}
  from: {count: 2}
  to: {count: 24}
Y
check "27 guests are ready" ctl apply -f "$STATE/idle.yaml" --wait --timeout 120s || exit 1

# The guest's kernel: below its runner, the process that holds the most of the guest's memory.
kernel_pid() {
	processes "$STATE/bed/$(guest_json "$1" host)/state/guests/$(guest_json "$1" uid)" | awk '$2 == "kernel" {print $1}' | while read -r p; do echo "$(shmem_kib "$p") $p"; done | sort -n | awk 'END {print $2}'
}
shmem_kib() { awk '/^RssShmem:/ {print $2}' "/proc/$1/status" 2> /dev/null; }
shmem() { echo $(($(shmem_kib "$1") / 1024)); }
# shellcheck disable=SC2317 # called by wait_until
holds_at_most() { [ "$(shmem "$1")" -le "$2" ]; }
pid=$(kernel_pid idle/big)
check "the kernel of a guest is found" test -d "/proc/${pid:-none}" || exit 1
before=$(shmem "$pid")
check "100 MiB are used in a guest" ctl exec idle/big -- dd if=/dev/zero of=/dev/shm/f bs=1M count=100
check "the host's memory is taken" test "$(shmem "$pid")" -ge $((before + 95))
check "they are freed" ctl exec idle/big -- rm /dev/shm/f
check "the host has its memory back" wait_until 20 holds_at_most "$pid" $((before + 8)) || echo "      before $before MiB, now $(shmem "$pid")"
check "and the guest can use it again" ctl exec idle/big -- dd if=/dev/zero of=/dev/shm/f bs=1M count=100
check "and free it again" ctl exec idle/big -- rm /dev/shm/f

# An idle guest: how often its kernel process went to sleep, in ten seconds.
switches() { awk '/^voluntary_ctxt_switches:/ {print $2}' "/proc/$1/status"; }
sleep 3
mapfile -t pids < <(for i in $(seq 5); do kernel_pid "idle/to-$i"; done)
equal "kernels of five idle guests are found" 5 "${#pids[@]}"
a=$(for p in "${pids[@]}"; do switches "$p"; done | awk '{n += $1} END {print n}')
sleep 10
b=$(for p in "${pids[@]}"; do switches "$p"; done | awk '{n += $1} END {print n}')
equal "they are found still" 5 "$(for p in "${pids[@]}"; do switches "$p"; done | grep -c .)"
# Its kernel has a timer of about a second, whose work at times takes two ticks more: 2 to 2.3
# each second. One that polls at each tick would wake 100 times.
check "an idle guest wakes 4 times a second at most ($(((b - a) * 2)) times in 100 s)" test $((b - a)) -le 200

# Pings to guests that sleep, 600 in all: none waits for the guest's next timer.
for i in $(seq 24); do
	ctl exec "idle/from-$((i % 2 + 1))" -- ping -i 1.2 -c 25 "to-$i" > "$STATE/ping.$i" 2>&1 &
	pings+=($!)
done
wait "${pings[@]}"
equal "every ping is answered" 600 "$(cat "$STATE"/ping.* | grep -c ' time=')"
worst=$(cat "$STATE"/ping.* | sed -n 's/.* seq=\([0-9]*\) .*time=\([0-9]*\)\..*/\1 \2/p' | awk '$1 > 0 && $2 > m {m = $2} END {print m + 0}')
check "none was late ($worst ms)" test "$worst" -lt 500
check "delete" ctl delete idle --wait
finish
