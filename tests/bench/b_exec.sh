#!/usr/bin/env bash
# One exec round trip, from the start of clusterctl to its end, above the guest's own fork
# and exec of the same program, by a small static program in it (spawn.c).  One guest, alone
# on its host; interleaved, medians of rounds of 20.
#   FAST=FILE (default build/kernel/linux-fast, else Debian's), ROUNDS=N
. "$(dirname "$0")/../integration/lib.sh"
. "$ROOT/tests/bench/density.sh"
fast=${FAST:-build/kernel/linux-fast} rounds=${ROUNDS:-7}
[ -x "$fast" ] || fast=/usr/bin/linux.uml
testbed_up 1
check "kernel" ctl kernel add "$(realpath "$fast")" --name k || exit 1
check "image" ctl image build busybox || exit 1
printf 'name: x\nnetworks: {n: {subnet: 10.52.0.0/24}}\nguests: {g: {image: busybox, memory: 64M, cpus: 1, networks: [n]}}\n' > "$STATE/lab.yaml"
check "a guest" ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s || exit 1

check "the guest's own measure" gcc -O2 -static -o "$STATE/spawn" tests/bench/spawn.c || exit 1
ctl cp "$STATE/spawn" x/g:/tmp/spawn > /dev/null || exit 1
# Here and there by the same program, so that no shell's own fork is in it.
timed() { "$STATE/spawn" 20 "$BIN/clusterctl" "$@" | tail -1 | cut -d' ' -f1; }
round() {
	timed exec x/g -- /bin/true >> "$STATE/whole" && timed --version >> "$STATE/client" && timed get guests x/g -o name >> "$STATE/get" &&
		ctl exec x/g -- /tmp/spawn 20 /bin/true >> "$STATE/own"
}
round > /dev/null # warm
rm -f "$STATE"/{whole,client,get,own}
failed=0
for _ in $(seq "$rounds"); do round || failed=$((failed + 1)); done
equal "every exec ended well" 0 "$failed"
whole=$(median < "$STATE/whole") own=$(cut -d' ' -f1 "$STATE/own" | median) quick=$(cut -d' ' -f2 "$STATE/own" | median)
printf 'exec of /bin/true, from the start of clusterctl to its end: %s ms (%s to %s)\n' "$whole" "$(sort -n "$STATE/whole" | head -1)" "$(sort -n "$STATE/whole" | tail -1)"
printf 'the guest'\''s own fork and exec of it:                         %s ms (by vfork %s)\n' "$own" "$quick"
printf 'start of clusterctl alone %s ms; a question to the scheduler %s ms\n' "$(median < "$STATE/client")" "$(median < "$STATE/get")"
goal "above the guest's own, ms" "$(awk -v a="$whole" -v b="$own" 'BEGIN {printf "%.2f", a - b}')" 5
finish
