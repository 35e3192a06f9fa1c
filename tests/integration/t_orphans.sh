#!/usr/bin/env bash
# A guest that was started elsewhere while its host was lost leaves its disk there: kept,
# shown, with what was written on it, until it is pruned.
. "$(dirname "$0")/lib.sh"

cat > "$STATE/lab.yaml" <<'Y'
name: orph
networks: {n: {subnet: 10.9.0.0/24}}
guests:
  r: {image: busybox, memory: 48M, networks: [n], on_host_loss: restart}
  w: {image: busybox, memory: 48M, networks: [n], placement: {strategy: spread}}
Y
lab_ready() { all_ready orph 2; }
host_state() { [ "$(ctl get hosts "$1" -o json | jq -r '.[0].state')" = "$2" ]; }
orphan() { ctl get orphans "$1" -o json | jq -r ".[0].$2"; }
orphans() { ctl get orphans -o json | jq -r 'map("\(.guest) \(.host) \(.state)") | sort | .[]'; }
orphans_are() { [ "$(orphans)" = "$1" ]; }
elsewhere() { [ "$(guest_json "$1" host)" != "$2" ] && [ "$(guest_json "$1" ready)" = true ]; }
write() { ctl exec "$1" -- sh -c "echo $2 > /root/note; sync; cat /root/note"; }
# What is in FILE on the orphan's disk: merged with its base image by uml_moo.
on_disk() {
	local disk base
	disk=$(orphan "$1" disk) base=$(orphan "$1" base)
	rm -f "$STATE/whole"
	uml_moo -b "$base" "$disk" "$STATE/whole" > /dev/null || return 1
	e2fsck -fy "$STATE/whole" > "$STATE/fsck" 2>&1
	e2fsck -fn "$STATE/whole" > "$STATE/fsck" 2>&1 || return 1
	debugfs -R "cat $2" "$STATE/whole" 2> /dev/null
}

testbed_up 3
images
fast_kernel "orphans of its guests"
check "apply" ctl apply -f "$STATE/lab.yaml" --wait --timeout 180s || exit 1

h=$(guest_json orph/r host) uid=$(guest_json orph/r uid) epoch=$(guest_json orph/r epoch)
equal "a file is written" "first" "$(write orph/r first)"
bed cut "$h" > /dev/null 2>&1
check "the guest runs elsewhere" wait_until 60 elsewhere orph/r "$h"
equal "its old disk is expected there" "orph/r $h expected" "$(orphans)"
equal "the new one has no such file" "no" "$(ctl exec orph/r -- sh -c '[ -e /root/note ] && echo yes || echo no')"
check "heal" bed heal "$h"
check "its old disk is kept" wait_until 60 orphans_are "orph/r $h kept"
equal "by uid and epoch" "$uid $epoch" "$(orphan r uid) $(orphan r epoch)"
check "its blocks are counted" test "$(orphan r disk_used_blocks)" -gt 0
check "it is a file on the host" test -f "$(orphan r disk)"
equal "the file is on it" "first" "$(on_disk r /root/note)"
check "the guest has no folder there any more" test ! -e "$STATE/bed/$h/state/guests/$uid"
check "describe tells where it is" sh -c "$BIN/clusterctl describe orphan orph/r | grep -q 'disk: .*/orphans/.*/cow'"
check "the console's log is kept" test -s "$(dirname "$(orphan r disk)")/console.log"

equal "agent and scheduler are killed and started" 0 "$(for x in "$h" scheduler; do bed kill "$x" && bed start "$x" || echo no; done > /dev/null 2>&1; echo 0)"
check "it is still kept" wait_until 60 orphans_are "orph/r $h kept"
bed kill "$h" > /dev/null 2>&1
check "its host is away" wait_until 30 host_state "$h" lost
equal "and so is the orphan" "orph/r $h away" "$(orphans)"
equal "a wrong name is told" 3 "$(ctl prune orph/none > /dev/null 2>&1; echo $?)"
equal "what would go is told" 1 "$(ctl prune --all --dry-run | grep -c "orph/r: its old disk on $h")"
check "bare prune is refused" sh -c "! $BIN/clusterctl prune"
equal "younger ones stay" 0 "$(ctl prune --all --older-than 1d 2> /dev/null | wc -l)"
disk=$(orphan r disk)
check "prune" ctl prune orph/r
equal "it goes when its host is back" "orph/r $h pruned" "$(orphans)"
check "the host comes back" bed start "$h"
check "the orphan is gone" wait_until 60 orphans_are ""
equal "and its files" "" "$(ls -d "$(dirname "$disk")"* 2> /dev/null)"

# One that waits for its host, and is told not to.
check "all are ready" wait_until 60 lab_ready
h=$(guest_json orph/w host)
equal "a file is written" "second" "$(write orph/w second)"
bed cut "$h" > /dev/null 2>&1
check "its host is lost" wait_until 30 host_state "$h" lost
check "recover --discard-disk" wait_until 10 ctl recover orph/w --discard-disk
check "it runs elsewhere" wait_until 60 elsewhere orph/w "$h"
check "heal" bed heal "$h"
check "its old disk is kept" wait_until 60 sh -c "$BIN/clusterctl get orphans w -o json | jq -e '.[0].state == \"kept\"'"
equal "the file is on it" "second" "$(on_disk w /root/note)"
check "all are ready" wait_until 60 lab_ready
# A guest that its user deletes takes with it what was not seen yet; what is kept stays.
r=$(guest_json orph/r host)
bed cut "$r" > /dev/null 2>&1
check "another host is lost" wait_until 60 elsewhere orph/r "$r"
check "delete" ctl delete orph
check "heal" bed heal "$r"
check "only what was kept is left" wait_until 60 orphans_are "orph/w $h kept"
check "prune --all" ctl prune --all
check "nothing is left" wait_until 30 orphans_are ""
check "no folders on the hosts" wait_until 60 sh -c "[ -z \"\$(ls -d $STATE/bed/h?/state/guests/* $STATE/bed/h?/state/orphans/* 2> /dev/null)\" ]"

# A host that is given up, with a guest that would wait for it, and comes back all the same.
check "apply" ctl apply -f "$STATE/lab.yaml" --wait --timeout 180s
h=$(guest_json orph/w host) uid=$(guest_json orph/w uid)
check "no token makes the key of a removed host" sh -c "! $BIN/clusterctl token create --role removed"
check "a host that is up is not removed" sh -c "! $BIN/clusterctl host rm $h --force"
bed cut "$h" > /dev/null 2>&1
check "its host is lost" wait_until 30 host_state "$h" lost
check "it is not removed with its guest" sh -c "$BIN/clusterctl host rm $h 2>&1 | grep -q orph/w"
check "by force it is" wait_until 10 ctl host rm "$h" --force
check "its guest runs elsewhere" wait_until 60 elsewhere orph/w "$h"
check "all are ready" wait_until 60 lab_ready
check "it goes on there while the host is cut off" pgrep -f -- "umlaut-guest --dir $STATE/bed/$h/state/guests/$uid"
check "heal" bed heal "$h"
check "the host is told" wait_until 30 grep -q "this host was removed from the cluster" "$STATE/bed/log/$h.log"
check "its guest was ended there" wait_until 30 sh -c "! pgrep -f -- '[u]mlaut-guest --dir $STATE/bed/$h/state/guests/$uid'"
equal "it is no host of the cluster" 0 "$(ctl get hosts -o name | grep -cx "$h")"
check "delete" ctl delete orph --wait
finish
