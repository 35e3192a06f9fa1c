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
# What is said, without what names hosts in any case: paths, and the way of the move.
said() { sed -E "s,(^| )/[^ :]*,\\1PATH,g; s/from h[12] to h[12]//g; s/stays on h[12]//"; }
# HOST is blamed, for what PATTERN says, and no other is.
says() { said | grep -E "$2" | grep -w "$1" | grep -vqw "$([ "$1" = h1 ] && echo h2 || echo h1)"; }
last_event() { ctl get events -o json | jq 'map(.seq) | max // 0'; }
messages() { ctl get events -o json | jq -r --argjson s "$events" '.[] | select(.seq > $s).message'; } # since the move began
fails() { # TEXT HOST PATTERN [migrate's options]: the move to h2 ends, by HOST's fault, as PATTERN
	local text=$1 host=$2 pattern=$3; shift 3
	events=$(last_event)
	timeout 60 "$BIN/clusterctl" migrate f/g --to h2 --wait "$@" > "$STATE/out" 2>&1
	equal "$text: the move fails" 1 $?
	stays "$text" "$host" "$pattern"
}
stays() { # TEXT HOST PATTERN
	check "$1: it is said why, and where" says "$2" "$3" < "$STATE/out" || cat "$STATE/out"
	equal "$1: get migrations says that it failed" failed "$(last state)"
	check "$1: and the same reason" says "$2" "$3" < <(last reason) || last reason
	check "$1: so does an event" says "$2" "$3" < <(messages) || messages
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

mkdir -p "$STATE/bed/h1/state" "$STATE/thin"
check "a disk of its own for the source" ext4_on "$STATE/source.disk" 700M "$STATE/bed/h1/state" || exit 1
echo 'overcommit: {disk: 10}' > "$STATE/bed/h1/agent.yaml"
testbed_up 2
fast_kernel "failures at its pace"
has_fast || check "Debian's kernel is added" ctl kernel add /usr/bin/linux.uml --name debian
check "image" ctl image build busybox
check "a guest on h1" ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s || exit 1
ctl exec f/g -- sh -c 'dd if=/dev/urandom of=/root/data bs=1M count=24 2> /dev/null; sync'
data=$(sum)
before=$(life)

# The target's disk is full.
mkdir -p "$moves"
mount -t tmpfs -o size=10m none "$moves"
fails "target full" h2 "No space left"
umount "$moves"
works "target full"

# It is full below: a volume that promised more than it has. Writes fail late, by fsync.
mount -t tmpfs -o size=16m none "$STATE/thin"
check "a thin volume" ext4_on "$STATE/thin/volume.disk" 200M "$moves"
fails "target's volume fails" h2 "(Input/output error|No space left)"
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

# The file that the disk lies on is damaged at the target: its name and time are right.  The
# disk is larger than the image, so it is the image in that size.  As long as the image itself
# is whole, it is made again of that.
id=$(ctl get images -o json | jq -r '.[] | select(.name == "busybox").id')
image=$STATE/bed/h2/state/store/${id#sha256:}/data sized=$STATE/bed/h2/state/store/${id#sha256:}/data-$((300 << 20))
check "the image is found at the target, and in the disk's size" test -f "$image" -a -f "$sized"
cp --sparse=always "$sized" "$STATE/whole"
spoil() { # FILE OFFSET
	printf X | dd of="$1" bs=1 seek="$2" conv=notrunc 2> /dev/null
	touch -d @1 "$1"
}
mended() { # TEXT OFFSET
	spoil "$sized" "$2"
	check "$1: it is damaged" sh -c "! cmp -s '$sized' '$STATE/whole'"
	works "$1"
	check "$1: it is whole again" cmp "$sized" "$STATE/whole"
}
# Where it is the image's, and where it was made larger.
mended "image in the disk's size damaged" 700000
mended "damaged in what was added" $((290 << 20))
dd if="$image" bs=1 skip=700000 count=1 of="$STATE/byte" 2> /dev/null
spoil "$image" 700000; spoil "$sized" 700000
fails "image damaged" h2 "image.*damaged"
dd if="$STATE/byte" of="$image" bs=1 seek=700000 conv=notrunc 2> /dev/null; touch -d @1 "$image"
works "image damaged"

# The source's disk has data that cannot be read.
cp --sparse=always "$STATE/source.disk" "$STATE/good"
cow=$(ls "$STATE"/bed/h1/state/guests/*/cow)
sync -f "$cow"
truncate -s 40M "$STATE/source.disk"
dd if="$cow" iflag=nocache count=0 2> /dev/null
fails "source unreadable" h1 "Input/output error"
dd if="$STATE/good" of="$STATE/source.disk" conv=notrunc,sparse bs=1M 2> /dev/null; truncate -s 700M "$STATE/source.disk"
dd if="$cow" iflag=nocache count=0 2> /dev/null
works "source unreadable"

check "delete" ctl delete f --wait
bed down > /dev/null 2>&1
unmount
check "down" bed down
finish
