#!/usr/bin/env bash
# What `clusterctl memory` says of guests, agents and the scheduler, against sums of /proc made
# here; it follows what a guest uses; it costs nothing when nobody asks.
#   FAST=FILE  (default build/kernel/linux-fast; without it Debian's kernel)
. "$(dirname "$0")/lib.sh"
. "$ROOT/tests/bench/density.sh"
testbed_up 2
images
kernel=debian
fast_kernel "what its guests hold, and that they sleep"
! has_fast || kernel=fast
cat > "$STATE/lab.yaml" <<Y
name: m
networks: {n: {subnet: 10.62.0.0/24}}
defaults: {image: busybox, kernel: $kernel, memory: 128M, networks: [n]}
guests:
  a: {placement: {host: h1}}
  b: {placement: {host: h1}}
  c: {placement: {host: h2}}
Y
check "three guests are ready" ctl apply -f "$STATE/lab.yaml" --wait --timeout 120s || exit 1
memory() { ctl memory "$@" -o json > "$STATE/memory.json"; }
field() { jq -r "$1" "$STATE/memory.json"; }
# Pss of processes in bytes: all, and of tmpfs, from every mapping (not smaps_rollup).
pss() { # PIDS
	for p in $1; do cat "/proc/$p/smaps" 2> /dev/null; done | awk '/^Pss:/ {n += $2} END {print n * 1024}'
}
near() { awk -v a="$1" -v b="$2" -v d="$3" 'BEGIN {exit !(a - b <= d && b - a <= d)}'; }
pids() { # CLASSES: of the file $STATE/processes
	awk -v c=" $1 " 'index(c, " " $2 " ") {print $1}' "$STATE/processes"
}
check "memory of all" memory
equal "all guests are told" "m/a m/b m/c" "$(field '[.guests[].name] | sort | join(" ")')"
equal "and their hosts" "h1:2 h2:1" "$(field '[.hosts[] | "\(.name):\(.guests)"] | sort | join(" ")')"
for g in a b c; do
	processes "$STATE/bed/$(guest_json "m/$g" host)/state/guests/$(guest_json "m/$g" uid)" > "$STATE/processes"
	sum=$(pss "$(pids "kernel runner")")
	said=$(field ".guests[] | select(.name == \"m/$g\") | .memory_bytes + .kernel_bytes + .runner_bytes")
	check "$g: $((said >> 10)) KiB are what /proc says ($((sum >> 10)) KiB)" near "$said" "$sum" 1500000
	check "$g: its runner has a part" test "$(field ".guests[] | select(.name == \"m/$g\") | .runner_bytes")" -gt 50000
	check "$g: page tables have one" test "$(field ".guests[] | select(.name == \"m/$g\") | .tables_bytes")" -gt 50000
done
for h in h1 h2; do
	processes "$STATE/bed/$h/state" > "$STATE/processes"
	sum=$(pss "$(pids agent)") said=$(field ".hosts[] | select(.name == \"$h\") | .agent_bytes")
	check "$h: its agent's $((said >> 10)) KiB are what /proc says ($((sum >> 10)) KiB)" near "$said" "$sum" 3000000
	check "$h: the cache of its image is told" test "$(field ".hosts[] | select(.name == \"$h\") | .image_cache_bytes")" -gt 100000
done
processes "$STATE/bed/scheduler" > "$STATE/processes"
sum=$(pss "$(pids scheduler)") said=$(field .scheduler_bytes)
check "the scheduler's $((said >> 10)) KiB are what /proc says ($((sum >> 10)) KiB)" near "$said" "$sum" 3000000

before=$(field '.guests[] | select(.name == "m/a") | .memory_bytes')
check "40 MiB are used in a guest" ctl exec m/a -- dd if=/dev/zero of=/dev/shm/f bs=1M count=40
# Debian's kernel takes pages for itself as well, and gives some back, at times of its own.
holds_more() { memory m/a --inside && near "$(field '.guests[0].memory_bytes')" $((before + (40 << 20))) 6000000; }
check "it holds 40 MiB more" wait_until 10 holds_more || echo "      $before, now $(field '.guests[0].memory_bytes')"
equal "no other is told" 1 "$(field '.guests | length')"
check "which its programs have" test "$(field '.guests[0].programs_bytes')" -ge $((40 << 20))
check "the parts inside are the whole" test "$(field '.guests[0] | .programs_bytes + .files_bytes + .own_bytes - .memory_bytes | fabs < 1e6')" = true
check "a table" sh -c "'$BIN/clusterctl' memory -d m | grep -q '^m/b '"
check "no such guest is said" sh -c "! '$BIN/clusterctl' memory m/none 2> '$STATE/err' && grep -q 'no such guest' '$STATE/err'"
check "stop one" ctl stop m/b
check "it has stopped" wait_until 30 sh -c "'$BIN/clusterctl' get guests m/b -o json | jq -e '.[0].state == \"stopped\"'"
check "who does not run is said" sh -c "! '$BIN/clusterctl' memory m/b 2> '$STATE/err' && grep -q 'm/b\|does not run\|not run' '$STATE/err'"
check "delete" ctl delete m --wait

# ------------------------------------------------------------ idle
cat > "$STATE/idle.yaml" <<Y
name: idle
networks: {n: {subnet: 10.63.0.0/24}}
defaults: {image: busybox, kernel: $kernel, memory: 64M, networks: [n], placement: {host: h1}}
guests:
  g: {count: 20}
Y
check "20 guests are ready" ctl apply -f "$STATE/idle.yaml" --wait --timeout 120s || exit 1
sleep 5
processes "$STATE/bed/h1/state" > "$STATE/processes"
switches() { # CLASS: how often its threads went to sleep so far
	for p in $(pids "$1"); do cat /proc/"$p"/task/*/status 2> /dev/null; done | awk '/^voluntary_ctxt_switches:/ {n += $2} END {print n + 0}'
}
check "runners and guards are found" test "$(pids runner | wc -l)" -ge 20
equal "the agent is found" 1 "$(pids agent | wc -l)"
runners=$(switches runner) agent=$(switches agent) kernels=$(switches kernel)
sleep 10
runners=$(($(switches runner) - runners)) agent=$(($(switches agent) - agent)) kernels=$(($(switches kernel) - kernels))
echo "      in 10 s: runners of 20 guests woke $runners times, the agent $agent, the guests' kernels $kernels"
# A runner asks its guest for a sign of life every 30 s: 7 of 20 in 10 s, some wakes each.
check "runners sleep (at most 3 wakes each in 10 s)" test "$runners" -le 60
# A heartbeat a second, whatever the number of guests: some wakes of the loop and of ZeroMQ each.
check "the agent's work is that of its heartbeats (at most 30 wakes a second)" test "$agent" -le 300
if [ $kernel = fast ]; then check "kernels sleep (at most 5 wakes a second each)" test "$kernels" -le 1000; fi
check "delete" ctl delete idle --wait
finish
