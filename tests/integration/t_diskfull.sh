#!/usr/bin/env bash
# Full disks: under a host's state while a guest writes, and under the scheduler's when
# something is added.  Nothing spins, what happened is said, and room can be made.
. "$(dirname "$0")/lib.sh"

unmount() { umount "$STATE/bed/h1/state" "$STATE/bed/scheduler" 2> /dev/null; }
status=0
trap 'status=$?; bed down > /dev/null 2>&1; unmount; (exit $status); cleanup' EXIT
mkdir -p "$STATE/bed/h1/state" "$STATE/bed/scheduler"
mount -t tmpfs -o size=60M none "$STATE/bed/h1/state"
mount -t tmpfs -o size=80M none "$STATE/bed/scheduler"
echo 'overcommit: {disk: 10}' > "$STATE/bed/h1/agent.yaml"
lines() { wc -l < "$STATE/bed/log/h1.log"; }
cat > "$STATE/lab.yaml" <<'Y'
name: f
networks: {n: {subnet: 10.6.0.0/24}}
guests:
  a: {image: busybox, memory: 48M, networks: [n]}
Y

testbed_up 1
check "a kernel fits" ctl kernel add /usr/bin/linux.uml --name debian
check "an image fits" ctl image build busybox
ctl kernel add /usr/bin/linux.uml --name large --modules /usr/lib/uml/modules > "$STATE/out" 2>&1
equal "modules that do not fit are refused" 1 $?
check "with how much is missing" grep -qE 'needed in .* free' "$STATE/out"
check "a guest starts" ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s || exit 1

# The guest fills the host's disk: its own writes fail, the host goes on.
timeout 60 "$BIN/clusterctl" exec f/a -- sh -c 'dd if=/dev/urandom of=/root/fill bs=1M count=60; sync' > /dev/null 2>&1
head -c 60000000 /dev/zero > "$STATE/bed/h1/state/ballast" 2> /dev/null
equal "the host's disk is full" 0 "$(df --output=avail "$STATE/bed/h1/state" | tail -1 | tr -d ' ')"
check "the host is up" sh -c "$BIN/clusterctl get hosts -o json | jq -e '.[0].state == \"up\"'"
before=$(lines)
ctl restart f/a > /dev/null
check "a restart that cannot be recorded says why" wait_until 10 sh -c "$BIN/clusterctl get guests f/a -o json | jq -e '.[0].reason | test(\"No space left\")'"
sleep 3
check "and is not tried thousands of times" test $(($(lines) - before)) -lt 100
check "the guest can be deleted all the same" ctl delete f --wait --timeout 40s
rm -f "$STATE/bed/h1/state/ballast"
check "its disk is free again" sh -c "[ \$(df --output=avail '$STATE/bed/h1/state' | tail -1) -gt 20000 ]"
check "and a guest starts" ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s
check "delete" ctl delete f --wait
bed down > /dev/null 2>&1 # all but the folders that are mounted
unmount
check "down" bed down
finish
