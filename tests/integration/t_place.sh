#!/usr/bin/env bash
# Requirements of placement, from the agents' settings and the lab file to where
# the guests are, and why.
. "$(dirname "$0")/lib.sh"

host_settings() { # HOST, its agent.yaml on standard input
	mkdir -p "$STATE/bed/$1"
	cat > "$STATE/bed/$1/agent.yaml"
}
host_settings h1 <<< $'labels: {zone: a, ssd: 1, cores: 16}\ntaints: [storage]'
host_settings h2 <<< $'labels: {zone: b, cores: 8}\ntaints: [storage]'
host_settings h3 <<< 'labels: {zone: c, cores: 8}'
host_settings h4 <<< $'labels: {zone: c}\ntaints: ["old:prefer"]\novercommit: {memory: 2}'
testbed_up 4 --memory 1G
images
host_of() { guest_json "$1" host; }
hosts_of() { ctl get guests -d "$1" -o json | jq -r "[.[] | select(.name | test(\"/$2(-|\$)\")) | .host // \"-\"] | sort | join(\" \")"; }
zone_of() { ctl get hosts -o json | jq -r ".[] | select(.name == \"$1\") | .labels.zone"; }
placed() { [ "$(ctl get guests -d "$1" -o json | jq '[.[] | select(.host)] | length')" = "$2" ]; }

equal "labels of a host are known" "16 a 1" "$(ctl get hosts h1 -o json | jq -r '.[0].labels | "\(.cores) \(.zone) \(.ssd)"')"
equal "taints of a host are known" "old:prefer" "$(ctl get hosts h4 -o json | jq -r '.[0].taints[0]')"

# The example: all of its rules at once.
dry=$(ctl apply -f deploy/examples/placement.yaml --dry-run 2>&1)
case $dry in *warning*) not_ok "the example fits: $dry" ;; *) ok "the example fits" ;; esac
check "the example starts" ctl apply -f deploy/examples/placement.yaml --wait --timeout 180s
zones=$(for h in $(hosts_of shop db); do zone_of "$h"; done | sort | tr '\n' ' ')
equal "a database in each zone" "a b c " "$zones"
cache=$(host_of shop/cache)
case " $(hosts_of shop db) " in *" $cache "*) ok "the cache is beside a database ($cache)" ;; *) not_ok "the cache is on $cache, the databases on $(hosts_of shop db)" ;; esac
case " $(hosts_of shop web) " in *" h1 "* | *" h2 "* | *" $cache "*) not_ok "web is on $(hosts_of shop web)" ;; *) ok "web keeps off storage hosts and the cache ($(hosts_of shop web))" ;; esac
check "why tells where a guest is" sh -c "$BIN/clusterctl why shop/cache | grep -q 'shop/cache is on $cache: '"
equal "why as JSON" "$cache" "$(ctl why shop/cache -o json | jq -r .host)"

# Placement is for the next time: a running guest stays as it is.
epoch=$(guest_json shop/web-1 epoch)
check "a change of placement is accepted" sh -c "sed 's/prefer: ssd/prefer: cores >= 8/; s/\"!ssd\"/zone = c/' deploy/examples/placement.yaml | $BIN/clusterctl apply -f - | grep -q 'where: !ssd -> zone = c'"
equal "and restarts nobody" "$epoch 0" "$(guest_json shop/web-1 epoch) $(guest_json shop/web-1 restarts)"

# What no host can give.
cat > "$STATE/wish.yaml" <<'Y'
name: wish
defaults: {image: busybox, memory: 48M, cpus: 0.1}
guests:
  gpu: {placement: {where: gpu}}
  many: {count: 5, placement: {apart: many, tolerate: "*"}}
  big: {memory: 900M, count: 6}
  alone: {placement: {exclusive: true}}
Y
ctl apply -f "$STATE/wish.yaml" --dry-run > "$STATE/dry" 2>&1
for g in gpu many big alone; do
	check "the dry run warns of $g" grep -q "warning: $g: " "$STATE/dry"
done
check "it is applied all the same" ctl apply -f "$STATE/wish.yaml"
check "four of many that keep apart have a host" wait_until 10 sh -c "[ \"\$($BIN/clusterctl get guests -d wish -o json | jq '[.[] | select(.host and (.name | test(\"many\")))] | length')\" = 4 ]"
equal "each another one" 4 "$(hosts_of wish many | tr ' ' '\n' | grep -v '^-' | sort -u | wc -l)"
equal "one waits, and it is told why" "null true true" "$(ctl why wish/gpu -o json | jq -r '"\(.host) \(.reasons | length > 0) \(.help | length > 0)"')"
equal "all four hosts refuse it" 4 "$(ctl why wish/gpu -o json | jq '[.reasons[].hosts] | add')"
check "describe tells it too" sh -c "$BIN/clusterctl describe guest wish/gpu | grep -q 'why it has no host'"
equal "no such guest" 3 "$(ctl why wish/nobody > /dev/null 2>&1; echo $?)"

# All or nothing.
sed 's/^name: wish/name: gang\ngang: true/; /gpu:\|many:\|alone:/d' "$STATE/wish.yaml" > "$STATE/gang.yaml"
check "a gang too big is accepted" ctl apply -f "$STATE/gang.yaml"
equal "and waits whole" 0 "$(ctl get guests -d gang -o json | jq '[.[] | select(.host)] | length')"

# Room again: what waits is placed.
check "the other labs go" ctl delete wish shop --wait --timeout 120s
check "the gang waits on, or is placed whole" sh -c "n=\$($BIN/clusterctl get guests -d gang -o json | jq '[.[] | select(.host)] | length'); [ \$n = 0 ] || [ \$n = 6 ]"
check "it goes" ctl delete gang --wait --timeout 120s

# A host of one's own, and a fixed one; a label that comes later.
cat > "$STATE/own.yaml" <<'Y'
name: own
defaults: {image: busybox, memory: 48M, cpus: 0.1}
guests:
  alone: {placement: {exclusive: true, where: zone = c}}
  others: {count: 6, placement: {tolerate: storage}}
  late: {placement: {where: gpu = yes, tolerate: storage}}
Y
check "applied" ctl apply -f "$STATE/own.yaml"
check "all but one have a host" wait_until 10 placed own 7
alone=$(host_of own/alone)
case " $(hosts_of own others) " in *" $alone "*) not_ok "$alone is shared" ;; *) ok "it is alone on $alone" ;; esac
host_settings h2 <<< $'labels: {zone: b, cores: 8, gpu: yes}\ntaints: [storage]'
check "an agent gets a new label" bed stop h2
check "and is back" bed start h2
check "the guest that waited for the label is placed" wait_until 20 placed own 8
equal "there" h2 "$(host_of own/late)"

# Labels are known at once after a restart of the scheduler.
bed kill scheduler; bed start scheduler
check "labels survive the scheduler" wait_until 10 sh -c "[ \"\$($BIN/clusterctl get hosts h2 -o json | jq -r '.[0].labels.gpu')\" = yes ]"
check "all goes" ctl delete own --wait --timeout 120s
finish
