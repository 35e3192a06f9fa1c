#!/usr/bin/env bash
# End to end under load: a real scheduler with its SQLite store, simulated agents over
# ZeroMQ (umlaut-agent --simulate), real clients.  From the first apply to all running;
# meanwhile a client asks for one guest again and again.
#   b_load.sh [GUESTS [HOSTS]]      BIN=folder of the programs
set -eu
cd "$(dirname "$0")/../.."
bin=${BIN:-build/bin} guests=${1:-100000} hosts=${2:-1000} per_lab=1000 per_net=20
dir=$(mktemp -d /tmp/umlaut-load.XXXXXX)
pids=()
end() {
	for p in "${pids[@]}"; do kill "$p" 2> /dev/null || true; done
	wait 2> /dev/null || true
	rm -rf "$dir"
}
trap end EXIT
sock=ipc://$dir/s.sock
ctl() { "$bin/clusterctl" --server "$sock" "$@"; }

"$bin/umlaut-scheduler" --state "$dir/state" --local "$sock" --local-agents "$sock-agents" --listen tcp://127.0.0.1:0 \
	--log-level warn 2> "$dir/scheduler.log" &
scheduler=$!
pids+=("$scheduler")
until [ -S "$dir/s.sock" ]; do sleep 0.05; done
ctl image build busybox > "$dir/log" 2>&1
ctl kernel add "$(command -v linux.uml)" --name debian >> "$dir/log" 2>&1
"$bin/umlaut-agent" --simulate "$hosts" --name sim --scheduler "$sock-agents" --log-level warn \
	2> "$dir/agents.log" &
agents=$!
pids+=("$agents")
for _ in $(seq 300); do
	[ "$(ctl get hosts -o name | wc -l)" -lt "$hosts" ] || break
	sleep 0.1
done

labs=$((guests / per_lab))
for i in $(seq "$labs"); do
	{
		echo "name: lab-$i"
		echo "networks:"
		for n in $(seq $((per_lab / per_net))); do
			echo "  n$n: {subnet: 10.$((n % 200)).0.0/24}"
		done
		echo "guests:"
		for n in $(seq $((per_lab / per_net))); do
			echo "  g$n: {image: busybox, memory: 32M, count: $per_net, networks: [n$n]}"
		done
	} > "$dir/lab-$i.yaml"
done

cpu() { awk '{print ($14 + $15) / 100}' "/proc/$1/stat"; }
before=$(cpu "$scheduler")
start=$(date +%s.%N)
for i in $(seq "$labs"); do ctl apply -f "$dir/lab-$i.yaml" > /dev/null; done &
applying=$!
"${bin%/bin}/bench/bench_get" "$sock" lab-1/g1-1 10 > "$dir/gets" &
asker=$!
pids+=("$asker")
ready=0
while [ "$ready" -lt "$guests" ]; do
	[ "$(date +%s)" -lt "$((${start%.*} + ${LIMIT:-300}))" ] || { echo "only $ready are running after ${LIMIT:-300} s"; ctl get guests -o json | jq -r ".[] | select(.ready | not) | [.name, .host, .state, .reason] | @tsv" | head -20; tail -5 "$dir"/*.log; exit 1; }
	sleep 0.2
	ready=$(ctl get deployments -o json | jq '[.[].ready] | add // 0')
	kill -0 "$scheduler"
done
end=$(date +%s.%N)
wait "$applying"
kill "$asker"
wait "$asker" || true
awk -v g="$guests" -v h="$hosts" -v s="$start" -v e="$end" 'BEGIN {
	printf "%d guests on %d hosts: all running after %.1f s (%.0f a second)\n", g, h, e - s, g / (e - s) }'
echo "scheduler: $(awk -v a="$(cpu "$scheduler")" -v b="$before" 'BEGIN {print a - b}') s of CPU," \
	"$(awk '/VmRSS/ {print int($2 / 1024)}' "/proc/$scheduler/status") MiB;" \
	"store $(du -sm "$dir/state" | cut -f1) MiB; agents: $(cpu "$agents") s of CPU"
echo "get of one guest meanwhile, every 10 ms: $(cat "$dir/gets")"
