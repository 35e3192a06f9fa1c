#!/usr/bin/env bash
# The guest kernel `fast` against Debian's: wall time from exec to the first line of
# user space of a busybox guest, and the CPU time of a boot that ends there.  Both as
# Umlaut starts them and with nothing but what they need; rounds alternate; medians.
# Then what Umlaut adds: the phases of `clusterctl boot-report` on a testbed.
#   FAST=FILE (default build/kernel/linux-fast), ROUNDS=N
. "$(dirname "$0")/../integration/lib.sh"
fast=${FAST:-build/kernel/linux-fast} debian=/usr/bin/linux.uml rounds=${ROUNDS:-9}
[ -x "$fast" ] || { echo "the kernel 'fast' is not built: make kernel"; exit 1; }
[ -x $debian ] || { echo "no $debian: apt-get install user-mode-linux"; exit 1; }
fast=$(realpath "$fast")

tree=$STATE/tree
mkdir -p "$tree"/{bin,sbin,proc,dev}
cp /bin/busybox "$tree/bin/"
printf '#!/bin/busybox sh\necho user-space-is-here\n/bin/busybox poweroff -f\n' > "$tree/sbin/init"
chmod +x "$tree/sbin/init"
truncate -s 8M "$STATE/image"
PATH=$PATH:/usr/sbin mke2fs -q -F -t ext4 -d "$tree" "$STATE/image" || exit 1

# boot KERNEL ARGUMENT...: "WALL_MS CPU_MS" of one boot
boot() {
	local kernel=$1 from to line; shift
	rm -rf "$STATE/uml" "$STATE/cow" "$STATE/time"
	mkdir "$STATE/uml"
	TIMEFORMAT='%U %S'
	to=''
	from=$EPOCHREALTIME
	while IFS= read -r line; do
		case $line in *user-space-is-here*) to=$EPOCHREALTIME ;; esac
	done < <({ time TMPDIR=/dev/shm timeout 60 "$kernel" mem=64M "ubd0=$STATE/cow,$STATE/image" root=/dev/ubda rw init=/sbin/init \
		con=null con0=null,fd:1 quiet "uml_dir=$STATE/uml" umid=b "$@" 2> /dev/null < /dev/null; } 2> "$STATE/time")
	wait_until 5 test -s "$STATE/time"
	[ -n "$to" ] || { echo "$kernel did not reach user space" >&2; return 1; }
	awk -v from="$from" -v to="$to" '{printf "%.1f %.1f\n", (to - from) * 1000, ($1 + $2) * 1000}' "$STATE/time"
}
median() { sort -n | sed -n "$(((rounds + 1) / 2))p"; }
compare() { # TEXT ARGUMENT...
	local text=$1 k; shift
	rm -f "$STATE"/out.*
	for _ in $(seq "$rounds"); do
		for k in fast debian; do boot "${!k}" "$@" >> "$STATE/out.$k" || return 1; done
	done
	for k in fast debian; do
		cut -d' ' -f1 "$STATE/out.$k" | median > "$STATE/wall.$k"
		cut -d' ' -f2 "$STATE/out.$k" | median > "$STATE/cpu.$k"
	done
	awk -v t="$text" -v fw="$(cat "$STATE/wall.fast")" -v dw="$(cat "$STATE/wall.debian")" -v fc="$(cat "$STATE/cpu.fast")" -v dc="$(cat "$STATE/cpu.debian")" 'BEGIN {
		printf "%-22s  %8.1f  %8.1f  %6.3f   %8.1f  %8.1f  %6.3f\n", t, fw, dw, fw / dw, fc, dc, fc / dc
		exit !(fw / dw <= 0.25 && fc / dc <= 0.15)}'
}
boot "$fast" > /dev/null && boot $debian > /dev/null || exit 1 # warm
printf 'fast: %s   debian: %s   %s rounds, medians\n' "$("$fast" --version)" "$($debian --version)" "$rounds"
printf '%-22s  %8s  %8s  %6s   %8s  %8s  %6s\n' "to user space" "fast ms" "debian" "ratio" "CPU fast" "debian" "ratio"
table() { compare "plain" && compare "as Umlaut starts them" ssl=null lpj=40000000; }
if table; then ok "at most 0.25 of the wall time and 0.15 of the CPU time"; else not_ok "at most 0.25 of the wall time and 0.15 of the CPU time"; fi

testbed_up 1
check "kernel" ctl kernel add "$fast" --name fast || exit 1
check "image" ctl image build busybox || exit 1
printf 'name: boot\nnetworks: {n: {subnet: 10.41.0.0/24}}\ndefaults: {image: busybox, memory: 64M, networks: [n]}\nguests: {g: {}}\n' > "$STATE/lab.yaml"
check "a guest" ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s || exit 1
echo "first boot on its host (kernel and image fetched):"
ctl boot-report boot/g
# shellcheck disable=SC2317 # called by wait_until
state_is() { [ "$(guest_json boot/g "$1")" = "$2" ]; }
for _ in $(seq "$rounds"); do
	ctl stop boot/g > /dev/null
	wait_until 20 state_is state stopped
	ctl start boot/g > /dev/null
	wait_until 20 state_is ready true
	ctl boot-report boot/g -o json | jq -r '.[0].phases[] | "\(.phase) \(.ms)"'
done > "$STATE/phases"
echo "start of a stopped guest, medians of $rounds, ms:"
while read -r p; do
	printf '  %-9s %6.1f\n' "$p" "$(awk -v p="$p" '$1 == p {print $2}' "$STATE/phases" | sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}')"
done < <(awk '!seen[$1]++ {print $1}' "$STATE/phases")
finish
