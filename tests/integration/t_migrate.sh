#!/usr/bin/env bash
# Guests moved by command.  What they wrote goes along, to the byte, whoever dies on the
# way; a move that is cancelled or fails leaves all as it was.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/moves.sh"
MOVES=${MOVES:-20}

{
	cat <<'Y'
name: m
networks: {lan: {subnet: 10.9.0.0/24, subnet6: 'fd09::/64'}}
guests:
  other: {image: busybox, memory: 48M, cpus: 0.1, networks: [lan], on_host_loss: restart}
  quiet: {image: busybox, memory: 48M, cpus: 0.1, networks: [lan]}
  web:
    image: busybox
    memory: 64M
    networks: [lan]
    persistent: true
    run: |
Y
	writer 6
} > "$STATE/lab.yaml"

G=m/web # also for moves.sh
testbed_up 3
images
fast_kernel "moves at its pace"
check "a lab is ready" ctl apply -f "$STATE/lab.yaml" --wait --timeout 2m || exit 1

uid=$(guest_json $G uid)
known() { ctl get guests $G -o json | jq -c '.[0] | [.name, .uid, .restarts, .networks]'; }
identity=$(known)
# ------------------------------------------------------------ what is only said
before=$(ctl get guests -o json | jq -c 'map([.name, .host, .epoch, .started_at])')
to=$(other_host "$(host_of)")
equal "--dry-run says where" "$G would move from $(host_of) to $to" "$(ctl migrate $G --to "$to" --dry-run)"
equal "and moves nothing" "$before []" "$(ctl get guests -o json | jq -c 'map([.name, .host, .epoch, .started_at])') $(ctl get migrations -o json)"

# ------------------------------------------------------------ little to send
check "a guest that changed nothing moves" ctl migrate m/quiet --wait
sent=$(move_json m/quiet wire_bytes)
check "with under 256 KiB of its disk ($sent bytes)" test "$sent" -lt 262144

# ------------------------------------------------------------ many moves, one after the other
# The scheduler is stopped while the guest is frozen: so the disk lies whole at both sides.
compare() { # FROM TO NUMBER: prints what is wrong
	local source target
	source=$(guest_dir "$1" "$uid")/cow target=$(move_dir "$2" "$3")/cow
	whole_disk "$source" "$(base_of_held "$1")" "$STATE/source.img" || { echo "disk at the source"; return; }
	whole_disk "$target" "$(base_of_held "$2")" "$STATE/target.img" || { echo "disk at the target"; return; }
	[ "$(sha256sum < "$STATE/source.img")" = "$(sha256sum < "$STATE/target.img")" ] || echo "the disks differ"
	records_of "$STATE/target.img" > "$STATE/n" || { echo "records: $(cat "$STATE/n")"; return; }
	said_in "$(guest_dir "$1" "$uid")/console.log" > "$STATE/said" || { echo "console: $(cat "$STATE/said")"; return; }
	[ "$(cat "$STATE/n")" -ge "$(cat "$STATE/said")" ] || echo "record $(cat "$STATE/said") was said, $(cat "$STATE/n") is the last"
	[ "$(cat "$STATE/n")" -gt "$records" ] || echo "$(cat "$STATE/n") records, there were $records"
	cmp "$(guest_dir "$1" "$uid")/console.log" "$(move_dir "$2" "$3")/console.log" || echo "the console's log differs"
	records=$(cat "$STATE/n")
}
id=$(ctl get images -o json | jq -r '.[] | select(.name == "busybox").id')
base_of_held() { echo "$(state_dir "$1")/store/${id#sha256:}/data"; }
# 0 compared; 1 wrong, as printed; 2 it was too quick to be looked at.
move_compared() { # FROM TO
	local number wrong scheduler
	ctl migrate $G --to "$2" || return 1
	move_gets 20 $G 'freezing|last|starting|dropping|done' || { echo "it never froze"; return 1; }
	number=$(move_json $G number)
	scheduler=$(pid_of scheduler)
	kill -STOP "$scheduler"
	wait_until 10 test -s "$(move_dir "$2" "$number")/sealed.pb" -o -e "$(guest_dir "$2" "$uid")"
	if [ -e "$(guest_dir "$2" "$uid")" ]; then
		wrong=late
	else
		wrong=$(compare "$1" "$2" "$number")
		# In this process too.
		records=$(cat "$STATE/n" 2> /dev/null || echo 0)
	fi
	kill -CONT "$scheduler"
	move_gets 30 $G 'done' || { echo "not done: $(move_json $G state) $(move_json $G reason)"; return 1; }
	[ "$wrong" != late ] || return 2
	[ -z "$wrong" ] || { echo "$wrong"; return 1; }
}
records=0 compared=0 tries=0
while [ $compared -lt "$MOVES" ] && [ $tries -lt $((MOVES + 5)) ]; do
	tries=$((tries + 1))
	from=$(host_of)
	to=$(tr ' ' '\n' <<< "h1 h2 h3" | grep -v "$from" | sed -n $((tries % 2 + 1))p)
	writes_on "$from" > "$STATE/out" || { not_ok "move $tries: the guest writes: $(cat "$STATE/out")"; break; }
	move_compared "$from" "$to" > "$STATE/out" 2>&1
	case $? in
	0) compared=$((compared + 1)) ;;
	1) not_ok "move $tries, from $from to $to"; sed 's/^/      /' "$STATE/out"; break ;;
	esac
	# In vain only when it is not there.
	wait_until 30 runs_on "$to" || { not_ok "move $tries: runs on $to"; break; }
	equal_quiet=$(known)
	[ "$equal_quiet" = "$identity" ] || { equal "move $tries: name, addresses, MACs, restarts" "$identity" "$equal_quiet"; break; }
done
equal "$MOVES moves in a row ($records records): all disks equal on both sides and clean, no record lost or repeated, identity and console kept" "$MOVES" "$compared"
check "nothing is left of them" wait_until 10 only_on "$(host_of)"
check "it answers its neighbour by IPv4" ctl exec m/other -- ping -c 1 -w 10 "$(guest_json $G 'networks[0].address')"
check "and by IPv6" ctl exec m/other -- ping -c 1 -w 10 "$(guest_json $G 'networks[0].address6')"

# ------------------------------------------------------------ how much is sent
check "it writes 8 MiB" ctl exec $G -- sh -c 'dd if=/dev/urandom of=/big bs=1M count=8 conv=fsync'
sum() { ctl exec $G -- sha256sum /big; }
before=$(sum)
check "it is told to stop" ctl stop $G
is_stopped() { [ "$(guest_json $G state)" = stopped ]; }
check "it stops" wait_until 20 is_stopped
from=$(host_of) to=$(other_host "$(host_of)")
whole_disk "$(guest_dir "$from" "$uid")/cow" "$(base_of "$from")" "$STATE/source.img"
# What is set in the COW file, in 4 KiB: where the disk is not the image.  And its holes.
set_bytes=$(du -B1 "$(guest_dir "$from" "$uid")/cow" | cut -f1)
check "stopped, it moves" ctl migrate $G --to "$to" --wait
sent=$(move_json $G total_bytes)
check "$sent bytes were sent, $set_bytes are allocated" test "$sent" -le $((set_bytes * 105 / 100))
whole_disk "$(guest_dir "$to" "$uid")/cow" "$(base_of "$to")" "$STATE/target.img"
equal "the same disk is there" "$(sha256sum < "$STATE/source.img")" "$(sha256sum < "$STATE/target.img")"
equal "it is stopped there" "$to stopped" "$(host_of) $(guest_json $G state)"
check "it is told to start" ctl start $G
check "it starts there" wait_until 30 runs_on "$to"
equal "with its file" "$before" "$(sum)"

# ------------------------------------------------------------ cancelled in each phase
put_back() { # PHASE
	check "cancelled while $1: the move ends so" move_gets 20 $G cancelled
	check "cancelled while $1: it is where it was, and writes" wait_until 20 runs_on "$from"
	check "cancelled while $1: nothing is left elsewhere" wait_until 10 only_on "$from"
	check "cancelled while $1: it writes" writes_on "$from"
	equal "cancelled while $1: with its file, name, addresses, MACs" "$before $identity" "$(sum) $(known)"
}
slowly() { ctl migrate $G --to "$to" --rate 1M && move_gets 10 $G copying; }
from=$(host_of) to=$(other_host "$(host_of)")

agent=$(pid_of "$to"); kill -STOP "$agent"
check "a move to a host whose agent hangs" ctl migrate $G --to "$to"
equal "prepares" preparing "$(move_json $G state)"
check "it is cancelled" ctl migrate $G --cancel
kill -CONT "$agent"
put_back preparing

# As somebody who waits for it at a terminal and presses Ctrl-C.
check "a move copies" slowly
script -qec "stty cols 120; timeout -s INT 3 '$BIN/clusterctl' migrate $G --to $to --rate 1M --wait" /dev/null > "$STATE/again" 2>&1
check "a second one is refused, and says how to end the first" grep -q "migrate $G --cancel" "$STATE/again"
check "it is cancelled" ctl migrate $G --cancel
put_back copying
script -qec "stty cols 120; timeout --foreground -s INT 4 '$BIN/clusterctl' migrate $G --to $to --rate 1M --wait" /dev/null < /dev/null > "$STATE/out" 2>&1
check "who waits sees phase, round, bytes, rate, time" grep -qE "$G: copying, round 1: [^ ]+ sent, ~[^ ]+ left, [^ ]+/s, [0-9.a-z]+" "$STATE/out"
check "after Ctrl-C it goes on" grep -q "it goes on" "$STATE/out"
check "as is said" move_is $G copying
check "get migrations shows rate and what is left" grep -qE "$G .* copying +1 +[0-9.]+[KM] +[0-9.]+[KM] +[0-9.]+[KM]/s" <(ctl get migrations)
check "it is cancelled" ctl migrate $G --cancel
put_back copying

# Too late it may be told, on a loaded machine: then once more.
for i in 1 2 3; do
	[ $i = 1 ] || from=$(host_of) to=$(other_host "$(host_of)")
	ctl migrate $G --to "$to" > "$STATE/out" && move_gets 20 $G 'freezing|last|starting|dropping|done'
	move_is $G freezing && ctl migrate $G --cancel > "$STATE/out" 2>&1 && move_gets 20 $G cancelled && break
	move_gets 30 $G 'done'
done
check "it is cancelled while it freezes" grep -q "stays on" "$STATE/out"
put_back freezing

for i in 1 2 3; do
	[ $i = 1 ] || from=$(host_of) to=$(other_host "$(host_of)")
	ctl migrate $G --to "$to" > "$STATE/out" && move_gets 20 $G 'freezing|last|starting|dropping|done'
	agent=$(pid_of "$to")
	kill -STOP "$agent"
	move_gets 5 $G last && break
	kill -CONT "$agent"
	move_gets 30 $G 'done'
done
equal "the target hangs during the last of it" last "$(move_json $G state)"
check "it is cancelled" ctl migrate $G --cancel
kill -CONT "$agent"
put_back last

for i in 1 2 3; do
	[ $i = 1 ] || from=$(host_of) to=$(other_host "$(host_of)")
	ctl migrate $G --to "$to" > "$STATE/out" && move_gets 20 $G 'freezing|last|starting|dropping|done'
	scheduler=$(pid_of scheduler) agent=$(pid_of "$to") number=$(move_json $G number)
	kill -STOP "$scheduler"
	wait_until 10 test -s "$(move_dir "$to" "$number")/sealed.pb" -o -e "$(guest_dir "$to" "$uid")"
	kill -STOP "$agent"; kill -CONT "$scheduler"
	move_gets 5 $G starting && break
	kill -CONT "$agent"
	move_gets 30 $G 'done'
done
equal "a move was handed over" starting "$(move_json $G state)"
ctl migrate $G > "$STATE/out" 2>&1
check "another move is refused, and it is said how it comes back" grep -q "brings it back to $from" "$STATE/out"
check "it can be cancelled still" ctl migrate $G --cancel
kill -CONT "$agent"
put_back starting

# ------------------------------------------------------------ deaths on the way
for who in scheduler source target; do
	from=$(host_of) to=$(other_host "$(host_of)")
	case $who in source) victim=$from ;; target) victim=$to ;; *) victim=$who ;; esac
	check "it is about to move" slowly
	check "$who killed while it copies" bed kill "$victim"
	check "and started again" bed start "$victim"
	move_gets 60 $G 'done|failed'
	if lost_slowly $G; then to=$from; else equal "$who killed: the move is done all the same" 'done' "$(move_json $G state)"; fi
	check "$who killed: the guest is on the target" wait_until 20 runs_on "$to"
	equal "$who killed: with its file, name, addresses, MACs" "$before $identity" "$(sum) $(known)"
	check "$who killed: nothing is left elsewhere" wait_until 10 only_on "$to"
done

from=$(host_of) to=$(other_host "$(host_of)")
check "it is about to move" slowly
bed crash "$to" > "$STATE/out" 2>&1
check "target lost: the move has failed" move_gets 30 $G failed
check "target lost: the reason says so" grep -q "host $to is lost" <<< "$(move_json $G reason)"
check "target lost: the guest runs where it was" runs_on "$from"
equal "target lost: with its file, name, addresses, MACs" "$before $identity" "$(sum) $(known)"
check "the target comes back" bed start "$to"
check "and forgets its part" wait_until 20 only_on "$from"
check "delete" ctl delete m --wait
finish
