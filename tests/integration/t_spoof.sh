#!/usr/bin/env bash
# Guests that send from addresses that are not theirs, with real packets between hosts:
# let through on a network as it is, stopped at once when it says `spoofing: deny`.
. "$(dirname "$0")/lib.sh"

lab() { # SPOOFING
	cat > "$STATE/lab.yaml" <<Y
name: s
networks:
  n: {subnet: 10.4.0.0/24, subnet6: "fd04::/64", spoofing: $1}
  far: {subnet: 10.5.0.0/24, gateway: 10.5.0.1, spoofing: $1}
defaults: {image: busybox, memory: 48M, cpus: 0.2, placement: {strategy: spread}}
guests:
  bad: {networks: [{network: n, address: 10.4.0.10, address6: "fd04::10"}]}
  good: {networks: [{network: n, address: 10.4.0.20, address6: "fd04::20"}]}
  router:
    networks: [{network: far, address: 10.5.0.1}]
    run: |
      sysctl -q -w net.ipv4.ip_forward=1
      ip addr add 10.9.9.9/32 dev lo
  client: {networks: [{network: far, address: 10.5.0.2}]}
Y
}
# Packets from 10.4.0.77 that `good` has seen while `bad` sent some.
seen_from() { # SEND-COMMAND
	ctl exec s/good -- sh -c 'cat /proc/net/snmp | awk "/^Icmp:/ && \$2 ~ /^[0-9]/ {print \$10}"' > "$STATE/before"
	ctl exec s/bad -- sh -c "$1" > /dev/null 2>&1
	ctl exec s/good -- sh -c 'cat /proc/net/snmp | awk "/^Icmp:/ && \$2 ~ /^[0-9]/ {print \$10}"' > "$STATE/after"
	echo $(($(cat "$STATE/after") - $(cat "$STATE/before")))
}
spoof='ip addr add 10.4.0.77/24 dev eth0 2> /dev/null; ping -I 10.4.0.77 -c 3 -W 1 10.4.0.20'
poison='for i in 1 2 3; do arping -q -c 1 -w 1 -U -s 10.4.0.77 -I eth0 10.4.0.77; done'
neighbour() { ctl exec s/good -- ip neigh show 10.4.0.77 | grep -c lladdr; }

testbed_up 2
images
lab allow
check "apply" ctl apply -f "$STATE/lab.yaml" --wait --timeout 120s || exit 1
equal "as it is, packets from a foreign address arrive" 3 "$(seen_from "$spoof")"
ctl exec s/bad -- ip addr add fd04::77/64 dev eth0
check "over IPv6 too" wait_until 10 ctl exec s/bad -- ping6 -I fd04::77 -c 1 -W 1 fd04::20
started=$(ctl get guests -o json | jq -c 'map([.name, .started_at])')

lab deny
check "spoofing is denied" ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s
equal "nothing was restarted for it" "$started" "$(ctl get guests -o json | jq -c 'map([.name, .started_at])')"
equal "get networks tells" '["deny","deny"]' "$(ctl get networks -o json | jq -c 'map(.spoofing)')"
denied() { [ "$(seen_from "$spoof")" = 0 ]; }
check "packets from a foreign address do not arrive any more" wait_until 10 denied
check "those from its own do" ctl exec s/bad -- ping -I 10.4.0.10 -c 2 -W 3 10.4.0.20
check "over IPv6 too" ctl exec s/bad -- ping6 -I fd04::10 -c 2 -W 3 fd04::20
ctl exec s/good -- ip neigh flush all
ctl exec s/bad -- sh -c "$poison" > /dev/null 2>&1
equal "nor is its claim to a foreign address believed" 0 "$(neighbour)"
check "a foreign IPv6 address gets no answer" ctl exec s/bad -- sh -c '! ping6 -I fd04::77 -c 2 -W 1 fd04::20'
check "the gateway sends for others" ctl exec s/client -- ping -c 2 -W 3 10.9.9.9

# The filter stays, whatever happens to who put it there.
bed kill agents > /dev/null
filters() { # on the host of `bad`
	local ns; ns=$STATE/bed/$(guest_json s/bad host)/state/overlay.netns
	for t in $(nsenter --net="$ns" ip -o link | grep -oE ' t[0-9]+\.0'); do nsenter --net="$ns" tc filter show dev "$t" ingress; done | grep -c bpf
}
check "without agents the filter is still there" test "$(filters)" -ge 1
bed start agents > /dev/null
check "hosts are up again" wait_until 30 sh -c "[ \$($BIN/clusterctl get hosts -o json | jq '[.[] | select(.state == \"up\")] | length') = 2 ]"
check "and guests can be reached" wait_until 30 eval "ctl exec s/good -- true && ctl exec s/bad -- true"
check "and it holds with new agents" denied

lab allow
check "and is allowed again" ctl apply -f "$STATE/lab.yaml" --wait --timeout 60s
allowed() { [ "$(seen_from "$spoof")" = 3 ]; }
check "packets from a foreign address arrive again" wait_until 10 allowed
check "delete" ctl delete s --wait
finish
