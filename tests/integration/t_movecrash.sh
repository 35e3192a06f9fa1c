#!/usr/bin/env bash
# A guest is moved, and interrupted at every named step: source, target and scheduler end
# at each of their crash points (docs/migration.md), the guest is killed, the network is
# cut, both agents die, whole hosts are lost.  The end is one whole guest on one side, and
# nothing else, soon.  With the programs of DEBUG=1, which have the points.
#
# Seconds at most: 1800
export BIN=${DEBUG_BIN:-$(cd "$(dirname "$0")/../.." && pwd)/build/san/bin}
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/moves.sh"
BOUND=60 # seconds until all is settled

{
	cat <<'Y'
name: m
networks: {lan: {subnet: 10.9.0.0/24}}
guests:
  web:
    image: busybox
    memory: 64M
    disk: 192M
    networks: [lan]
    run: |
Y
	writer 6 'usleep 20000'
} > "$STATE/lab.yaml"

G=m/web
testbed_up 3
images
fast_kernel "moves at its pace"
check "a lab is ready" ctl apply -f "$STATE/lab.yaml" --wait --timeout 2m || exit 1
uid=$(guest_json $G uid)
ctl exec $G -- dd if=/dev/urandom of=/big bs=1M count=4 conv=fsync 2> "$STATE/out"
sum() { ctl exec $G -- sha256sum /big; }
file=$(sum)
identity=$(ctl get guests $G -o json | jq -c '.[0] | [.name, .uid, .networks]')

has_ended() { move_is $G 'done|failed|cancelled'; }
up() { [ "$(ctl get hosts -o json | jq '[.[] | select(.state == "up")] | length')" = 3 ]; }
all_up() { wait_until 20 up; }
is_dead() { ! kill -0 "$1"; }
# The records are those of its console, each once.
records_whole() {
	local last said
	said=$(said_in "$(guest_dir "$1" "$uid")/console.log") || { echo "console: $said"; return 1; }
	last=$(ctl exec $G -- cat /records | tr -d '\r' | awk '$0 != NR {print "line " NR ": " $0; bad = 1; exit} END {if (!bad) print NR; exit bad}') || { echo "$last"; return 1; }
	[ "$last" -ge "$said" ] || { echo "$said was said, $last is the last"; return 1; }
}
whole_on() { writes_on "$1" && records_whole "$1"; }
# One whole guest, where the end of the move says, and nothing else.
settled() { # TEXT STATE|...
	local began=$SECONDS at where
	wait_until $BOUND has_ended || { not_ok "$1: the move ends; it is $(move_json $G state): $(move_json $G reason)"; return 1; }
	at=$(move_json $G state)
	[[ "|$2|" = *"|$at|"* ]] || lost_slowly $G || { not_ok "$1: it ends as $2; it is $at: $(move_json $G reason)"; }
	if [ "$at" = 'done' ]; then where=$to; else where=$from; fi
	wait_until $BOUND runs_on "$where" || { not_ok "$1: it runs on $where"; ctl get guests; return 1; }
	wait_until 20 only_on "$where" || { not_ok "$1: nothing is left elsewhere"; only_on "$where"; return 1; }
	[ "$(instances)" = "$where $uid" ] || { equal "$1: one instance" "$where $uid" "$(instances)"; return 1; }
	all_up
	check "$1: it writes, and no record is lost or repeated" whole_on "$where" || return 1
	[ "$file $identity" = "$(sum) $(ctl get guests $G -o json | jq -c '.[0] | [.name, .uid, .networks]')" ] || { not_ok "$1: file, name and addresses"; return 1; }
	ok "$1: $at, one whole guest after $((SECONDS - began)) s"
}
next() { all_up; from=$(host_of); to=$(other_host "$from"); }
who_is() { case $1 in source) echo "$from" ;; target) echo "$to" ;; *) echo scheduler ;; esac; }
arm() { # SIDE POINT: from its next start on
	victim=$(who_is "$1")
	bed kill "$victim"
	UMLAUT_CRASH=$2 bed start "$victim"
	pid=$(pid_of "$victim")
	all_up
}
died_at() { # TEXT: then it is started again, without
	if wait_until 30 is_dead "$pid"; then
		bed start "$victim"
	else
		not_ok "$1: it passed by"
		bed kill "$victim"; bed start "$victim"
	fi
}
interrupted() { # SIDE POINT
	next
	arm "$1" "$2"
	ctl migrate $G --to "$to" > "$STATE/out" 2>&1
	died_at "$1 at $2"
	# The scheduler may have died with the request unanswered: recorded it is.
	settled "$1 at $2" 'done'
}
# Before the hand-over, by a user's wish.
interrupted_back() { # SIDE POINT PHASE
	next
	arm "$1" "$2"
	ctl migrate $G --to "$to" --rate 1M > "$STATE/out" 2>&1
	move_gets 10 $G copying
	if [ "$3" = last ]; then # the guest is stopped
		move_gets 20 $G freezing
		kill -STOP "$(pid_of "$to")"
		move_gets 10 $G last
	fi
	ctl migrate $G --cancel > "$STATE/out" 2>&1
	[ "$3" != last ] || kill -CONT "$(pid_of "$to")"
	died_at "$1 at $2"
	settled "$1 at $2" cancelled
}

for point in move-offer move-have move-batch move-batch:3 move-round move-flush move-frozen move-stopped move-last move-seal move-remove move-removed; do
	interrupted source $point
done
for point in move-fetched move-prepare move-prepared move-accept move-write move-write:3 move-sync move-sealed move-rename move-start; do
	interrupted target $point
done
for point in move-record move-freeze move-commit move-drop move-done; do
	interrupted scheduler $point
done
interrupted_back source move-thaw last
interrupted_back target move-forget copying
interrupted_back target move-forget last
interrupted_back scheduler move-back copying
interrupted_back scheduler move-back last
interrupted_back scheduler move-done copying

# ------------------------------------------------------------ the guest is killed
kill_guest() { # HOST: all of it, as a crash
	local runner; runner=$(pgrep -f -- "umlaut-guest --dir $(guest_dir "$1" "$uid")" | head -1)
	[ -n "$runner" ] && pgrep -P "$runner" | xargs -r kill -KILL
}
# The target does not go on: its agent is stopped, and is to be continued.
hold_last() {
	local i
	for i in 1 2 3; do
		[ $i = 1 ] || next
		ctl migrate $G --to "$to" && move_gets 20 $G 'freezing|last|starting|dropping|done'
		kill -STOP "$(pid_of "$to")"
		move_gets 10 $G last && return 0
		kill -CONT "$(pid_of "$to")"
		move_gets 60 $G 'done|failed'
	done
	return 1
} > "$STATE/out" 2>&1
# The hand-over is recorded, and the target was not told of it.
hold_starting() {
	local i scheduler
	for i in 1 2 3; do
		[ $i = 1 ] || next
		ctl migrate $G --to "$to" && move_gets 20 $G 'freezing|last|starting|dropping|done'
		scheduler=$(pid_of scheduler)
		kill -STOP "$scheduler"
		wait_until 10 test -s "$(move_dir "$to" "$(move_json $G number)")/sealed.pb" -o -e "$(guest_dir "$to" "$uid")"
		kill -STOP "$(pid_of "$to")"
		kill -CONT "$scheduler"
		move_gets 5 $G starting && return 0
		kill -CONT "$(pid_of "$to")"
		move_gets 60 $G 'done|failed'
	done
	return 1
} > "$STATE/out" 2>&1
next
ctl migrate $G --to "$to" --rate 1M > "$STATE/out"; move_gets 10 $G copying
check "guest killed while copying" kill_guest "$from"
settled "guest killed while copying" 'done'
next
ctl migrate $G --to "$to" > "$STATE/out"; move_gets 20 $G freezing
check "guest killed while freezing" kill_guest "$from"
settled "guest killed while freezing" 'done'
# It has ended by then, at the source, and is not begun at the target: what may be left of
# it is killed, and is no loss.
next
check "a move is in its last phase" hold_last
equal "guest killed in the last phase: nothing runs of it" "" "$(instances)"
kill_guest "$from"
kill -CONT "$(pid_of "$to")"
settled "guest killed in the last phase" 'done'
next
ctl migrate $G --to "$to" > "$STATE/out"
check "guest killed while it starts" wait_until 20 kill_guest "$to"
settled "guest killed while it starts" 'done'

# ------------------------------------------------------------ the network is cut
hold_at() { # PHASE: a move of it is there, and SECONDS are not over
	case $1 in
	preparing) kill -STOP "$(pid_of "$to")"; ctl migrate $G --to "$to" ;;
	copying) ctl migrate $G --to "$to" --rate 2M; move_gets 10 $G copying ;;
	*) ctl migrate $G --to "$to"; move_gets 20 $G "$1" ;;
	esac > "$STATE/out" 2>&1
}
apart() { # how to cut
	case $1 in
	both) bed block "$from" "$to"; bed block "$to" "$from" ;;
	one-way) bed block "$to" "$from" ;;
	source) bed cut "$from" ;;
	target) bed cut "$to" ;;
	esac
}
together() { bed unblock "$from" "$to"; bed heal "$from" "$to"; }
for phase in preparing copying freezing starting; do
	for how in both one-way; do
		next
		hold_at $phase; apart $how
		kill -CONT "$(pid_of "$to")"
		sleep 3
		together
		settled "source and target apart ($how) while $phase" 'done|failed'
	done
done
# From all others, shorter and longer than the lease.
for phase in copying freezing starting; do
	for who in source target; do
		for seconds in 3 7; do
			next
			hold_at $phase; apart $who; sleep $seconds; together
			settled "$who cut off for $seconds s while $phase" 'done|failed'
		done
	done
done

# The scheduler from one of the two, for longer than the lease; the two have each other.
for phase in copying freezing starting; do
	for who in source target; do
		next
		hold_at $phase
		host=$(who_is $who)
		bed block scheduler "$host"; bed block "$host" scheduler
		sleep 7
		bed unblock scheduler "$host"
		settled "scheduler cut off from the $who for 7 s while $phase" 'done|failed'
	done
done

# ------------------------------------------------------------ whole hosts are lost
host_state() { [ "$(ctl get hosts "$1" -o json | jq -r '.[0].state')" = "$2" ]; }
lose() { # HOST: all that runs there ends
	check "$1 is lost" bed crash "$1"
	wait_until 30 host_state "$1" lost || not_ok "$1 is shown as lost"
}
waits_for() { # TEXT HOST: and runs nowhere
	equal "$1: the guest waits for $2" "lost $2" "$(guest_json $G state) $(host_of)"
	equal "$1: it runs nowhere" "" "$(instances)"
}
# Runs under an epoch of its own on HOST, with its data.
lives_on() { # TEXT HOST EPOCH_BEFORE
	wait_until $BOUND runs_on "$2" || { not_ok "$1: it runs on $2"; ctl get guests; ctl get migrations; return 1; }
	check "$1: under a newer epoch" test "$(guest_json $G epoch)" -gt "$3"
	check "$1: it writes on $2, and no record is lost or repeated" whole_on "$2"
	equal "$1: it has its file, name and addresses" "$file $identity" "$(sum) $(ctl get guests $G -o json | jq -c '.[0] | [.name, .uid, .networks]')"
}
hosts_lost() { # POLICY
	local policy=$1 epoch text
	if [ "$policy" = wait ]; then # with restart it is another guest then: at the end
		text="source lost while copying ($policy)"
		next
		hold_at copying
		lose "$from"
		waits_for "$text" "$from"
		check "$text: the move has failed" move_gets 20 $G failed
		bed start "$from"
		settled "$text" failed
	fi

	text="source lost while starting ($policy)"
	next
	epoch=$(guest_json $G epoch)
	check "$text: a move is handed over" hold_starting
	check "$text: all on it is killed" bed crash "$from"
	kill -CONT "$(pid_of "$to")"
	lives_on "$text" "$to" "$epoch"
	check "$text: the move is done without it" move_gets 30 $G 'done'
	bed start "$from"
	settled "$text" 'done'

	text="target lost while starting ($policy)"
	next
	epoch=$(guest_json $G epoch)
	check "$text: a move is handed over" hold_starting
	lose "$to"
	if [ "$policy" = wait ]; then
		waits_for "$text" "$to"
		bed start "$to"
		settled "$text" 'done'
		return
	fi
	# The source still has it, whole, and the target never ran it.
	lives_on "$text" "$from" "$epoch"
	check "$text: the move has ended" wait_until 30 has_ended
	bed start "$to"
	all_up
	check "$text: the target has nothing of it" wait_until 30 only_on "$from"
	equal "$text: one instance" "$from $uid" "$(instances)"
}
hosts_lost wait
sed 's/^    memory:/    on_host_loss: restart\n&/' "$STATE/lab.yaml" > "$STATE/restart.yaml"
check "its policy is to start elsewhere" ctl apply -f "$STATE/restart.yaml" --wait --timeout 60s
hosts_lost restart
# Before the hand-over the whole disk is at the source alone: it begins anew elsewhere, and
# what it wrote is kept.
text="source lost while copying (restart)"
check "$text: it has something to copy" ctl exec $G -- dd if=/dev/urandom of=/big bs=1M count=8 conv=fsync
next
hold_at copying
lose "$from"
elsewhere() { [ "$(host_of)" != "$from" ] && [ "$(guest_json $G ready)" = true ]; }
check "$text: it is started elsewhere" wait_until $BOUND elsewhere
check "$text: the move has failed" move_is $G failed
equal "$text: from its image" no "$(ctl exec $G -- sh -c '[ -e /big ] && echo yes || echo no' | tr -d '\r')"
where=$(host_of)
bed start "$from"
all_up
check "$text: nothing of it or of the move is left elsewhere" wait_until 30 only_on "$where"
equal "$text: one instance" "$where $uid" "$(instances)"
check "$text: its old disk is kept" wait_until 30 sh -c "[ \"\$($BIN/clusterctl get orphans -o json | jq -r '.[] | \"\(.host) \(.state)\"')\" = '$from kept' ]"
check "$text: until it is pruned" ctl prune --all
check "its policy is to wait again" ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s

# ------------------------------------------------------------ both agents die
# Late, and of bytes that do not shrink: one that began again would send nearly twice as much.
SIZE=64
next
check "it writes $SIZE MiB" ctl exec $G -- dd if=/dev/urandom of=/big bs=1M count=$SIZE conv=fsync
file=$(sum)
received() { ip -n "$NAME-$to" -s -j link show eth0 | jq '.[0].stats64.rx.bytes'; }
copied() { du -B1 "$(move_dir "$to" "$(move_json $G number)")/cow" 2> /dev/null | cut -f1; }
most() { [ "$(copied)" -gt $((whole * 3 / 4)) ]; }
from_up() { host_state "$from" up; }
resumed() { # TEXT HOW: killed when three quarters are there
	local text=$1 before sent
	for _ in 1 2; do
		next
		before=$(received)
		whole=$(du -B1 "$(guest_dir "$from" "$uid")/cow" | cut -f1)
		ctl migrate $G --to "$to" --rate 8M > "$STATE/out"
		check "$text: three quarters are copied" wait_until 60 most || return 1
		check "$text: and not all of it" move_is $G copying
		"$2"
		settled "$text" 'done' || return 1
		# Not when the machine was too slow for the lease: then once more.
		if move_is $G 'done'; then
			sent=$(($(received) - before))
			check "$text: it went on from there: $sent bytes were sent for $whole" test "$sent" -gt $((whole / 2)) -a "$sent" -lt $((whole * 125 / 100))
			return
		fi
	done
	not_ok "$text: a host was taken for lost, twice"
}
both() { bed kill "$from" "$to"; bed start "$from" "$to"; }
# Nobody knows where the target is before it is back itself.
all_three() {
	bed kill scheduler "$from" "$to"
	bed start scheduler; bed start "$from"
	wait_until 10 from_up
	bed start "$to"
}
resumed "both agents killed late" both
resumed "scheduler and both agents killed late" all_three
check "delete" ctl delete m --wait
finish
