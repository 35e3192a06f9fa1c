#!/usr/bin/env bash
# The quick start as the README has it, from a clone in a folder of its own: built,
# started, the README's small lab typed in word by word; a second run is quick, and
# --down leaves nothing.
. "$(dirname "$0")/lib.sh"

clone=$STATE/clone
unset UMLAUT_SERVER UMLAUT_CONFIG BASH_ENV
export HOME=$STATE MAKEFLAGS='' GIT_CONFIG_GLOBAL=/dev/null
quick() { (cd "$clone" && ./deploy/quickstart --name "$NAME" --dir "$STATE/bed" "$@"); }
seconds() { local begin=$SECONDS; "$@" > "$STATE/out" 2>&1 || { tail -20 "$STATE/out"; return 1; }; took=$((SECONDS - begin)); }

check "a clone" git -c safe.directory='*' clone -q "file://$ROOT" "$clone" || exit 1
check "wrong use is refused" sh -c "cd '$clone' && ! ./deploy/quickstart --nosuch 2> /dev/null && ! ./deploy/quickstart --name 2> /dev/null && ! ./deploy/quickstart --name 'A B' 2> /dev/null"
check "--help tells of its options" sh -c "cd '$clone' && ./deploy/quickstart --help | grep -q -- --name"
check "--down of nothing is fine" quick --down
seconds quick; equal "the quick start ends well" 0 $? || exit 1
echo "      the first run took $took s"
check "it shows guests that talk" grep -q '0% packet loss' "$STATE/out"
check "on three hosts" sh -c "[ \$(grep -cE '^h[123] +up' '$STATE/out') = 3 ]"
check "and how to end it" grep -q -- "--name $NAME --dir $STATE/bed --down" "$STATE/out"

# What a host's processors do when they have nothing to do: told where they can be told.
poll=/sys/module/haltpoll/parameters/guest_halt_poll_ns
quick --check > "$STATE/check"
if [ -e $poll ] && [ "$(cat $poll)" -lt 50000 ]; then
	check "--check tells that processors sleep at once, and the remedy" sh -c "grep -q '^warning  idle .* $(cat $poll) ns ' '$STATE/check' && grep -q 'echo 200000 > $poll' '$STATE/check'"
else
	check "--check has nothing to say of processors that sleep" sh -c "! grep -q '^warning  idle' '$STATE/check'"
fi

seconds quick; equal "a second run ends well" 0 $?
echo "      the second run took $took s"
check "and is quick" test "$took" -le 20

# It says which kernel guests have, and how to get the other: without `fast`, with it beside
# guests that have Debian's, and with guests that have it.
debian=$(/usr/bin/linux.uml --version)
check "it says that guests run Debian's kernel" grep -qF "guests run Debian's kernel ($debian)" "$STATE/out"
check "and how 'fast' is had" grep -q "'make kernel' builds 'fast'" "$STATE/out"
if has_fast; then
	fast=$("$FAST" --version)
	mkdir -p "$clone/build/kernel"
	cp "$FAST" "$clone/build/kernel/linux-fast"
	seconds quick; equal "with 'fast' there it ends well" 0 $?
	check "it says that guests run Debian's still" grep -qF "guests run Debian's kernel ($debian)" "$STATE/out"
	check "and that 'fast' is there" grep -qF "'fast' ($fast) is there now: " "$STATE/out"
	check "but not to build it" sh -c "! grep -q 'make kernel' '$STATE/out'"
	again=$(sed -n "s/.* is there now: \(.*\); .*/\1/p" "$STATE/out")
	check "what to type: $again" sh -c "cd '$clone' && $again"
	seconds quick; equal "then it ends well" 0 $?
	check "and says that guests run 'fast'" grep -qF "guests run the kernel 'fast' ($fast)" "$STATE/out"
	equal "which they do" "$fast" "$(cd "$clone" && build/bin/clusterctl exec hello/web-1 -- uname -r | tr -d '\r')"
	echo "      the run with 'fast' took $took s"
else
	no_fast "the quick start with it"
fi

# The README's small lab, as it stands there.
sed -n '/^## A small lab/,/^## /{/^```yaml/,/^```$/{/^```/d;p}}' "$clone/README.md" > "$clone/pair.yaml"
check "the README has a lab" grep -q '^name: pair' "$clone/pair.yaml"
echo notes > "$clone/notes.txt"
sed -n '/^## A small lab/,/^## How/s/^    \(build\/bin\/clusterctl.*\)$/\1/p' "$clone/README.md" | sed 's/ *# .*//' > "$STATE/commands"
check "and what to type" test "$(wc -l < "$STATE/commands")" -ge 6
while read -r line <&3; do
	case $line in
	*'exec -it'*) check "$line" sh -c "cd '$clone' && echo 'echo in-\$(hostname); exit' | script -qec '$line' /dev/null | grep -q in-a" ;;
	*'logs -f'*) check "$line" sh -c "cd '$clone' && { timeout 5 $line || [ \$? = 124 ]; } | grep -q ." ;;
	*) check "$line" sh -c "cd '$clone' && $line" ;;
	esac
done 3< "$STATE/commands"

check "--down" quick --down
check "leaves no context" test ! -e "$clone/build/umlaut-context.yaml"
check "leaves nothing" leftovers
check "no state" test ! -e "$STATE/bed"
check "and says so when asked again" sh -c "cd '$clone' && ./deploy/quickstart --name $NAME --dir '$STATE/bed' --down"
finish
