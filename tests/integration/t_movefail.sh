#!/usr/bin/env bash
# Moves that go wrong: the target's disk is full, cannot be written or loses what it was
# given, the source's cannot be read, the image at the target is not what it was.  Each
# time the guest runs on at the source, what is said names host, file and cause, nothing
# is left of the move, and a later one works.
. "$(dirname "$0")/lib.sh"

unmount() {
	umount -l "$STATE/bed/h2/state/moves" "$STATE/bed/h1/state" 2> /dev/null
	for f in "$STATE"/*.disk "$STATE"/thin/*.disk; do
		[ -f "$f" ] && losetup -j "$f" | cut -d: -f1 | xargs -r losetup -d 2> /dev/null
	done
	umount -l "$STATE/thin" 2> /dev/null
}
status=0
trap 'status=$?; bed down > /dev/null 2>&1; unmount; (exit $status); cleanup' EXIT
cat > "$STATE/lab.yaml" <<'Y'
name: f
networks: {n: {subnet: 10.8.0.0/24}}
guests:
  g: {image: busybox, memory: 96M, disk: 300M, networks: [n], placement: {where: "host in (h1, h2)", prefer: "host = h1"}}
Y
moves=$STATE/bed/h2/state/moves
# What must not change when a move fails before the guest is stopped.
life() { ctl get guests f/g -o json | jq -c '.[0] | [.host, .epoch, .started_at, .restarts]'; }
last() { ctl get migrations -o json | jq -r "sort_by(.number) | .[-1].$1"; }
sum() { ctl exec f/g -- sha256sum /root/data | cut -d' ' -f1; }
nothing_left() { [ -z "$(find "$1/moves" -mindepth 1 ! -name lost+found 2> /dev/null)" ]; }
fails() { # TEXT PATTERN [migrate's options]: the move to h2 ends with words like PATTERN
	local text=$1 pattern=$2; shift 2
	timeout 60 "$BIN/clusterctl" migrate f/g --to h2 --wait "$@" > "$STATE/out" 2>&1
	equal "$text: the move fails" 1 $?
	stays "$text" "$pattern"
}
stays() { # TEXT PATTERN
	check "$1: it is said why" grep -qE "$2" "$STATE/out" || cat "$STATE/out"
	check "$1: get migrations says the same" test "$(last state | tr -d '\n'; last reason | grep -cE "$2")" = failed1
	check "$1: so does an event" sh -c "$BIN/clusterctl get events -o json | jq -r '.[].message' | grep -qE '$2'"
	equal "$1: the guest was not touched" "$before" "$(life)"
	check "$1: it runs" ctl exec f/g -- true
	check "$1: nothing is left at the target" wait_until 10 nothing_left "$STATE/bed/h2/state"
}
works() { # TEXT: there, and back
	check "$1: a later move works" timeout 60 "$BIN/clusterctl" migrate f/g --to h2 --wait
	equal "$1: with all data" "$data" "$(sum)"
	check "$1: and back" timeout 60 "$BIN/clusterctl" migrate f/g --to h1 --wait
	equal "$1: with all data" "$data" "$(sum)"
	before=$(life)
}
ext4_on() { # FILE SIZE FOLDER
	truncate -s "$2" "$1"
	/usr/sbin/mke2fs -q -F -t ext4 -O ^has_journal,^metadata_csum -E lazy_itable_init=0,packed_meta_blocks=1 "$1" && mount -o loop,errors=continue "$1" "$3"
}

fast=${FAST:-build/kernel/linux-fast}
mkdir -p "$STATE/bed/h1/state" "$STATE/thin"
check "a disk of its own for the source" ext4_on "$STATE/source.disk" 700M "$STATE/bed/h1/state" || exit 1
echo 'overcommit: {disk: 10}' > "$STATE/bed/h1/agent.yaml"
testbed_up 2
[ -x "$fast" ] || fast=/usr/bin/linux.uml
check "kernel" ctl kernel add "$(realpath "$fast")" --name k
check "image" ctl image build busybox
check "a guest on h1" ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s || exit 1
ctl exec f/g -- sh -c 'dd if=/dev/urandom of=/root/data bs=1M count=24 2> /dev/null; sync'
data=$(sum)
before=$(life)

# The target's disk is full.
mkdir -p "$moves"
mount -t tmpfs -o size=10m none "$moves"
fails "target full" "(^|: )h2: .*No space left"
umount "$moves"
works "target full"

# It is full below: a volume that promised more than it has. Writes fail late, by fsync.
mount -t tmpfs -o size=16m none "$STATE/thin"
check "a thin volume" ext4_on "$STATE/thin/volume.disk" 200M "$moves"
fails "target's volume fails" "(^|: )h2: .*(Input/output error|No space left)"
umount "$moves"; losetup -j "$STATE/thin/volume.disk" | cut -d: -f1 | xargs -r losetup -d; umount "$STATE/thin"
works "target's volume fails"

# The target's disk changes what it was given, and says nothing: found before the guest
# starts there, sent again, in the same move.
timeout 60 "$BIN/clusterctl" migrate f/g --to h2 --rate 6M --wait > "$STATE/out" 2>&1 & mover=$!
check "it copies" wait_until 20 sh -c "[ \$(du -m '$moves'/*/cow | cut -f1) -gt 8 ]"
copy=$(ls "$moves"/*/cow)
at=$(filefrag -sv -b4096 "$copy" | awk '/^ *[0-9]+:/ && $6 + 0 > n {n = $6 + 0; s = $2 + 0} END {print s + int(n / 2)}')
check "a block of the copy is overwritten" dd if=/dev/urandom of="$copy" bs=4096 seek="$at" count=1 conv=notrunc
wait $mover
equal "target's copy spoiled: the move ends well all the same" 0 $?
check "target's copy spoiled: it was noticed" grep -q "differs from the source" "$STATE/bed/log/h2.log"
equal "target's copy spoiled: all data" "$data" "$(sum)"
check "and back" timeout 60 "$BIN/clusterctl" migrate f/g --to h1 --wait
before=$(life)

# The image that the disk lies on is damaged at the target: its name and time are right.
image=$(find "$STATE/bed/h2/state/store" -type f -size +1M -exec sh -c 'debugfs -R stats "$1" 2> /dev/null | grep -q "^Filesystem magic" && echo "$1"' sh {} \;)
[ -n "$image" ] || not_ok "the image is found at the target"
for f in $image; do
	cp --sparse=always "$f" "$STATE/image"
	printf X | dd of="$f" bs=1 seek=700000 conv=notrunc 2> /dev/null; touch -d @1 "$f"
	echo "$f" >> "$STATE/spoiled"
done
fails "image damaged" "(^|: )h2: .*image.*damaged"
for f in $image; do cat "$STATE/image" > "$f"; touch -d @1 "$f"; done
works "image damaged"

# The source's disk has data that cannot be read.
cp --sparse=always "$STATE/source.disk" "$STATE/good"
cow=$(ls "$STATE"/bed/h1/state/guests/*/cow)
sync -f "$cow"
truncate -s 40M "$STATE/source.disk"
dd if="$cow" iflag=nocache count=0 2> /dev/null
fails "source unreadable" "(^|: )h1: .*Input/output error"
dd if="$STATE/good" of="$STATE/source.disk" conv=notrunc,sparse bs=1M 2> /dev/null; truncate -s 700M "$STATE/source.disk"
dd if="$cow" iflag=nocache count=0 2> /dev/null
works "source unreadable"

check "delete" ctl delete f --wait
bed down > /dev/null 2>&1
unmount
check "down" bed down
finish
