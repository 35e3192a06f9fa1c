# shellcheck shell=bash
# Sourced after lib.sh by the tests that move guests: a guest that writes numbered
# records with fsync, the programs' processes, and disks as others' tools see them.

# To the end of a guest's `run`.  A record is said on the console when it is on the disk.
# SIGTERM is not heeded, so it writes to the last moment and a stop takes 0.7 s.
WRITER='
( trap "" TERM HUP
[ -e /records ] || : > /records
n=$(tail -n 1 /records); n=${n:-0}
while :; do
  n=$((n + 1))
  echo $n | dd of=/records oflag=append conv=notrunc,fsync 2> /dev/null || exit
  echo "record $n" > /dev/console
  PAUSE
done ) < /dev/null > /dev/null 2>&1 &'
# As a value of `run: |` at INDENT spaces.  PAUSE between two records: a command.
writer() { sed "s/PAUSE/${2:-:}/; s/^/$(printf '%*s' "$1" '')/" <<< "$WRITER"; }

state_dir() { echo "$STATE/bed/$1/state"; }
guest_dir() { echo "$STATE/bed/$1/state/guests/$2"; } # HOST UID
move_dir() { printf '%s/bed/%s/state/moves/%016x\n' "$STATE" "$1" "$2"; } # HOST NUMBER
pid_of() { cut -d' ' -f1 "$STATE/bed/$1/pid"; } # scheduler, or a host's agent
move_json() { ctl get migrations -o json | jq -r --arg g "$1" "[.[] | select(.guest == \$g)][-1].$2"; }
move_is() { # GUEST STATE|...: its last move
	local s; s=$(move_json "$1" state)
	[[ "|$2|" = *"|$s|"* ]]
}
# Until its last move is in one of these states, looking all the time.
move_gets() { # SECONDS GUEST STATE|...
	local until=$((SECONDS + $1))
	until move_is "$2" "$3"; do [ $SECONDS -lt $until ] || return 1; done
}
# By no fault of the move: a machine that is slow starts an agent after its lease.
lost_slowly() { move_is "$1" failed && [[ "$(move_json "$1" reason)" = *"is lost" ]]; }
# A host that is up, has none of the guests named, and is not HOST.
other_host() { # HOST GUEST...
	local taken; taken=$(for g in "${@:2}"; do guest_json "$g" host; done)
	ctl get hosts -o json | jq -r '.[] | select(.state == "up") | .name' | grep -vxF -e "$1" -e "$taken" | head -1
}

# The rest is about guest $G, whose uid is $uid.
uid=
host_of() { guest_json "$G" host; }
runs_on() { [ "$(ctl get guests "$G" -o json | jq -r '.[0] | "\(.host) \(.state) \(.ready)"')" = "$1 running true" ]; }
# Nothing of it, or of any move, is on another host than HOST.
only_on() {
	local h
	for h in h1 h2 h3; do
		[ -z "$(ls "$(state_dir $h)/moves" 2> /dev/null)" ] || { echo "$h: moves $(ls "$(state_dir $h)/moves")"; return 1; }
		[ "$h" = "$1" ] || [ ! -e "$(guest_dir $h "$uid")" ] || { echo "$h: $(guest_dir $h "$uid")"; return 1; }
	done
	[ -e "$(guest_dir "$1" "$uid")/cow" ]
}
# It says records that it had not said when this was called.
writes_on() {
	local before; before=$(said_in "$(guest_dir "$1" "$uid")/console.log") || { echo "$before"; return 1; }
	wait_until 20 said_more "$1" "$before"
}
said_more() { [ "$(said_in "$(guest_dir "$1" "$uid")/console.log")" -gt $(($2 + 2)) ]; }

base_of() { # HOST: the image's file there
	local id; id=$(ctl get images -o json | jq -r '.[] | select(.name == "busybox").id')
	echo "$STATE/bed/$1/state/store/${id#sha256:}/data"
}
# COW over BASE as one file, by uml_moo.
whole_disk() { # COW BASE OUT
	rm -f "$3"
	uml_moo -b "$2" "$1" "$3" || return 1
	e2fsck -fn "$3" > "$3.fsck" 2>&1 || { cat "$3.fsck"; return 1; }
}
# Prints the last record; fails when one is missing, repeated, or of other than its number.
records_of() { # DISK
	debugfs -R 'cat /records' "$1" 2> /dev/null | awk '$0 != NR {print "line " NR ": " $0; bad = 1; exit} END {if (!bad) print NR; exit bad}'
}
# The last record that was said on the console, or 0.  Said once and in order; what was on
# the disk when the guest was stopped may not have been said, or half a line of it.
said_in() { # CONSOLE_LOG...
	cat "$@" 2> /dev/null | tr -d '\r' | awk '/^record [0-9]+$/ {if ($2 <= n || $2 > n + 3) {print "record " $2 " after " n; bad = 1; exit} n = $2} END {if (!bad) print n + 0; exit bad}'
}
