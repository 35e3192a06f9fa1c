#!/usr/bin/env bash
# A 20-guest lab over three hosts: placed, booted, reachable pairwise with
# full-size packets, changed, used through every verb, deleted.
. "$(dirname "$0")/lib.sh"

cat > "$STATE/lab.yaml" <<'Y'
name: lab
networks:
  a: {subnet: 10.10.0.0/24, subnet6: "fd00:a::/64"}
  b: {subnet: 10.20.0.0/24}
defaults: {image: busybox, memory: 48M, cpus: 0.1, placement: {strategy: spread}}
guests:
  left: {count: 10, networks: [a]}
  right: {count: 8, networks: [b], env: {COLOUR: blue}}
  both:
    count: 2
    networks: [a, b]
    files: [{path: /etc/motd, content: "in both\n", mode: "0600"}]
    run: |
      echo started > /run-was-here
Y

testbed_up 3
images
check "dry run shows a plan and changes nothing" ctl apply -f "$STATE/lab.yaml" --dry-run
equal "after the dry run there is nothing" 0 "$(ctl get guests -o json | jq length)"
check "apply --wait ends when all are ready" ctl apply -f "$STATE/lab.yaml" --wait --timeout 180s || exit 1
equal "20 guests are ready" 20 "$(ready_count lab)"
equal "they are spread over three hosts" 3 "$(ctl get guests -o json | jq '[.[].host] | unique | length')"
equal "no address is used twice" 22 "$(ctl get guests -o json | jq '[.[].networks[].address] | unique | length')"
equal "no MAC is used twice" 22 "$(ctl get guests -o json | jq '[.[].networks[].mac] | unique | length')"
fields=$(ctl get guests lab/left-1 -o json | jq -r '.[0] | keys | join(" ")')
for f in name host state ready reason image kernel memory_bytes cpus networks epoch restarts started_at; do
	case " $fields " in *" $f "*) ;; *) not_ok "JSON has the field $f (has: $fields)" ;; esac
done

# Every pair of each network, with packets that fill the MTU; none may be fragmented.
mtu=$(ctl exec lab/left-1 -- cat /sys/class/net/eth0/mtu)
equal "the guests' MTU is the underlay's less VXLAN's 50 bytes" 1450 "$mtu"
mesh() { # NETWORK: each member pings each other member
	local net=$1 guests addresses g
	guests=$(ctl get guests -o json | jq -r ".[] | select(.networks[].network == \"$net\") | .name")
	addresses=$(ctl get guests -o json | jq -r ".[].networks[] | select(.network == \"$net\") | .address")
	for g in $guests; do
		# shellcheck disable=SC2086
		ctl exec "$g" -- sh -c 'bad=0; for a in "$@"; do ping -c 1 -W 5 -s '$((mtu - 28))' $a > /dev/null || { echo "no answer from $a"; bad=1; }; done; exit $bad' sh $addresses ||
			{ echo "from $g"; return 1; }
		# Reassembled or fragmented packets would mean a wrong MTU somewhere.
		ctl exec "$g" -- awk '/^Ip:/ && $2 ~ /^[0-9]/ {exit ($18 + $19) > 0}' /proc/net/snmp || { echo "$g fragmented"; return 1; }
	done
}
check "every pair in network a pings with full-size packets" mesh a
check "every pair in network b pings with full-size packets" mesh b
check "IPv6 works between guests" ctl exec lab/left-1 -- ping6 -c 2 -W 5 "$(ctl get guests lab/left-10 -o json | jq -r '.[0].networks[0].address6')"
check "names of the lab resolve" ctl exec lab/left-1 -- ping -c 1 -W 5 both-2
check "two networks are separate" ctl exec lab/left-1 -- sh -c '! ping -c 1 -W 1 10.20.0.2'

# Using guests.
equal "exec passes output" hello "$(ctl exec lab/left-1 -- echo hello)"
ctl exec lab/left-1 -- sh -c 'exit 7'; equal "exec passes the exit status" 7 $?
equal "exec passes standard input" 3 "$(printf 'a\nb\nc\n' | ctl exec -i lab/left-1 -- wc -l | tr -d ' ')"
equal "exec sees the environment" blue "$(ctl exec lab/right-1 -- sh -c 'echo $COLOUR')"
equal "files are in place" "in both" "$(ctl exec lab/both-1 -- cat /etc/motd)"
equal "file modes are kept" 600 "$(ctl exec lab/both-1 -- stat -c %a /etc/motd)"
equal "the start-up script has run" started "$(ctl exec lab/both-2 -- cat /run-was-here)"
equal "the host name is set" left-3 "$(ctl exec lab/left-3 -- hostname)"
head -c 3000000 /dev/urandom > "$STATE/blob"
check "cp into a guest" ctl cp "$STATE/blob" lab/left-2:/root/blob
check "cp out of a guest" ctl cp lab/left-2:/root/blob "$STATE/back"
check "what came back is the same" cmp "$STATE/blob" "$STATE/back"
mkdir -p "$STATE/tree/sub"; echo x > "$STATE/tree/sub/f"; ln -s sub/f "$STATE/tree/l"
check "cp a folder in" ctl cp "$STATE/tree" lab/left-2:/root/
equal "the folder arrived, links too" x "$(ctl exec lab/left-2 -- cat /root/tree/l)"
check "logs show the console" sh -c "$BIN/clusterctl logs lab/left-1 | grep -qi linux"
check "describe guest" ctl describe guest lab/left-1
check "events tell of the guest" sh -c "$BIN/clusterctl get events -o json | jq -e '[.[] | select(.name == \"lab/left-1\")] | length > 0'"
check "a pseudo terminal works" sh -c "script -qec '$BIN/clusterctl exec -it lab/left-1 -- tty' /dev/null < /dev/null | grep -q /dev/pts"

# Applying again.
out=$(ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s)
check "applying the same again changes nothing" grep -q '22 unchanged' <<< "$out" || echo "$out"
before=$(ctl get guests lab/left-1 -o json | jq -c '.[0] | [.host, .epoch, .started_at, .networks]')
sed -i 's/left: {count: 10/left: {count: 12/; s/COLOUR: blue/COLOUR: green/' "$STATE/lab.yaml"
check "a changed lab is applied" ctl apply -f "$STATE/lab.yaml" --wait --timeout 120s
equal "22 guests are ready" 22 "$(ready_count lab)"
equal "an untouched guest was not disturbed" "$before" "$(ctl get guests lab/left-1 -o json | jq -c '.[0] | [.host, .epoch, .started_at, .networks]')"
equal "the changed group has its new environment" green "$(ctl exec lab/right-1 -- sh -c 'echo $COLOUR')"
check "a new guest reaches an old one" ctl exec lab/left-12 -- ping -c 1 -W 5 left-1
check "an old guest knows the new one by name" wait_until 20 ctl exec lab/left-1 -- ping -c 1 -W 2 left-12

# Stop, start, restart.
ctl exec lab/left-5 -- sh -c 'echo kept > /root/kept; sync'
check "stop" ctl stop lab/left-5
check "it stops" wait_until 30 sh -c "$BIN/clusterctl get guests lab/left-5 -o json | jq -e '.[0].state == \"stopped\"'"
check "start" ctl start lab/left-5
check "it is ready again" wait_until 60 sh -c "$BIN/clusterctl get guests lab/left-5 -o json | jq -e '.[0].ready'"
equal "its disk was kept" kept "$(ctl exec lab/left-5 -- cat /root/kept)"

# Wrong use is refused with words.
sed 's/networks: \[b\]/netwroks: [b]/' "$STATE/lab.yaml" > "$STATE/bad.yaml"
ctl apply -f "$STATE/bad.yaml" > "$STATE/out" 2>&1; equal "a misspelt key is refused" 1 $?
check "with place and suggestion" grep -qE 'bad.yaml:[0-9]+:[0-9]+: .*networks' "$STATE/out"
ctl exec lab/nobody -- true > "$STATE/out" 2>&1; equal "an unknown guest is 'not found'" 3 $?

check "delete" ctl delete lab --wait
equal "nothing is left in the cluster" 0 "$(ctl get guests -o json | jq length)"
for h in h1 h2 h3; do
	check "$h has no guest process" wait_until 20 sh -c "! pgrep -f '$STATE/bed/$h/state/guest[s]/' > /dev/null"
	check "$h has no overlay device" wait_until 10 sh -c "! nsenter --net='$STATE/bed/$h/state/overlay.netns' ip -o link | grep -qE ' (b|x|t)[0-9]'"
done
finish
