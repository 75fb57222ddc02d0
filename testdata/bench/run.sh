#!/bin/bash
# Measures tombolo, and Prosody and ejabberd where Debian has put them, in one run, and prints the
# table of docs/capacity.md: medians of the rounds, in which the servers take turns. The quiet pair has four runs
# in each round, the last three after a warm-up of 2 s.
#
#   testdata/bench/run.sh [DIRECTORY FOR REPORTS]
#
# ROUNDS, SECONDS_EACH, WARM_UP, USERS, IDLE, MESSAGES (in an archive that is paged through), FLOOD (what
# recipients get a second), SERVERS and SCENARIOS change what is measured. Not among the scenarios unless
# SCENARIOS names them:
#
#   growth-N        the first row with N idle sessions besides, as growth-100 growth-1000 growth-5000
#   grown-N         the row with the archive on, after N messages more have been archived, as grown-100000
#   fair-session    a quiet pair beside a session that floods
#   fair-presence   a quiet pair beside a user who has 1,000 contacts and keeps changing presence
#   fair-federation a quiet pair beside a session that writes to a partner which works a fifth of the time
#
# It needs bash, openssl, envsubst and root (ejabberd and Prosody from Debian expect it), and 127.0.9.1 to
# .4; dnsmasq for messages from ejabberd, which finds its partners by DNS only; and lua-dbi-sqlite3 for Prosody and
# erlang-p1-sqlite3 for ejabberd to have their archives in SQLite. All that it starts ends with it.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The warm-up is longer than the 5 s for which tombolo's heap must have stopped growing before the garbage
# collector gets its headroom: a shorter one would measure how a server starts, not how it goes on.
WARM_UP=${WARM_UP:-7}
ROUNDS=${ROUNDS:-3} SECONDS_EACH=${SECONDS_EACH:-10} USERS=${USERS:-200} IDLE=${IDLE:-2000}
MESSAGES=${MESSAGES:-1000} FLOOD=${FLOOD:-10000}
# idle comes first: what a large archive has in memory is not a session's.
SCENARIOS=${SCENARIOS:-idle login pairs sm window20 presence offline quiet federation archived archived-sm archived20 archived-quiet pages archived-sqlite archived20-sqlite pages-sqlite}
reports=${1:-$(mktemp -d)}
work=$(mktemp -d)
declare -A pids archives
export CERTS=$work/certs CLIENT=5222 SERVER=5269
mkdir -p "$reports" "$CERTS"

end() {
	local name
	for name in "${!pids[@]}"; do stop "$name"; done
	rm -rf "$work"
}
trap end EXIT

# host NAME is the address of a server.
host() {
	case $1 in
	tombolo) echo 127.0.9.1 ;;
	prosody) echo 127.0.9.2 ;;
	ejabberd) echo 127.0.9.3 ;;
	partner) echo 127.0.9.4 ;; # another tombolo
	esac
}

certificates() {
	openssl ecparam -name prime256v1 -genkey -noout -out "$work/ca.key"
	openssl req -x509 -new -key "$work/ca.key" -subj '/CN=bench' -days 30 -out "$CERTS/ca.crt"
	local name
	for name in tombolo prosody ejabberd partner; do
		openssl ecparam -name prime256v1 -genkey -noout -out "$CERTS/$name.test.key"
		openssl req -new -key "$CERTS/$name.test.key" -subj "/CN=$name.test" -out "$work/csr"
		openssl x509 -req -in "$work/csr" -CA "$CERTS/ca.crt" -CAkey "$work/ca.key" -CAcreateserial -days 30 -out "$CERTS/$name.test.crt" \
			-extfile <(printf 'subjectAltName=DNS:%s.test\nextendedKeyUsage=serverAuth,clientAuth\n' "$name") 2>/dev/null
	done
}

# start NAME PARTNER [ARCHIVE] starts a server that knows where its partner is; its archive is true, false or sqlite.
start() {
	local name=$1
	archives[$name]=${3:-false}
	export DIR=$work/$name DOMAIN=$1.test HOST PEER=$2.test PEERHOST ARCHIVE=${3:-false}
	HOST=$(host "$name") PEERHOST=$(host "$2")
	mkdir -p "$DIR"
	case $name in
	tombolo | partner)
		ARCHIVE=${ARCHIVE/sqlite/true} envsubst <testdata/bench/tombolo.toml >"$DIR/tombolo.toml" # its store is the same
		"$work/bin" --config "$DIR/tombolo.toml" serve 2>>"$DIR/log" &
		;;
	prosody)
		echo "$PEERHOST $PEER" >"$DIR/hosts"
		envsubst <testdata/bench/prosody.cfg.lua >"$DIR/prosody.cfg.lua"
		prosody --config "$DIR/prosody.cfg.lua" -F >>"$DIR/log" 2>&1 &
		;;
	ejabberd)
		envsubst <testdata/bench/ejabberd.yml >"$DIR/ejabberd.yml"
		[[ $ARCHIVE != false ]] || sed -i /mod_mam/d "$DIR/ejabberd.yml"
		[[ $ARCHIVE == sqlite ]] || sed -i 's/, db_type: sql//; /^sql_/d' "$DIR/ejabberd.yml"
		printf '{resolv_conf, ""}.\n{hosts_file, ""}.\n{lookup, [dns]}.\n{nameserver, {%s}}.\n' "${HOST//./,}" >"$DIR/inetrc"
		dns
		HOME=$DIR EJABBERD_CONFIG_PATH=$DIR/ejabberd.yml EJABBERD_LOG_PATH=$DIR/log ERL_CRASH_DUMP_SECONDS=0 \
			ERL_LIBS=$(sed -n "s/^ERL_LIBS='\(.*\)'/\1/p" "$(command -v ejabberdctl)") ERL_INETRC=$DIR/inetrc \
			erl -noinput +K true +P 250000 -mnesia dir "\"$DIR/data\"" -s ejabberd >>"$DIR/out" 2>&1 &
		;;
	esac
	pids[$name]=$!
	for _ in {1..300}; do
		if (: >"/dev/tcp/$HOST/$CLIENT") 2>/dev/null; then return; fi
		sleep 0.1
	done
	echo "$name does not listen; its log:" >&2
	tail "$DIR"/log* >&2
	return 1
}

# dns starts the DNS server for ejabberd, where there is one to start. ejabberd has the system look up the
# target of an SRV record, so that is an address.
dns() {
	if [[ -v pids[dns] ]] || ! command -v dnsmasq >/dev/null; then return; fi
	dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --user= --listen-address="$HOST" --bind-interfaces --no-resolv \
		--no-hosts --local=/test/ --srv-host="_xmpp-server._tcp.$PEER,$PEERHOST,$SERVER" >"$work/dns" 2>&1 &
	pids[dns]=$!
}

stop() {
	kill "${pids[$1]}" 2>/dev/null || true
	wait "${pids[$1]}" 2>/dev/null || true
	unset "pids[$1]"
}

# archive NAME true|false|sqlite starts a server anew if its archive is not as it is to be.
archive() {
	[[ ${archives[$1]} == "$2" ]] && return
	stop "$1"
	start "$1" partner "$2"
}

# sqlite NAME says whether Debian has put what a server needs to have its archive in SQLite.
sqlite() {
	case $1 in
	prosody) dpkg -s lua-dbi-sqlite3 ;;
	ejabberd) dpkg -s erlang-p1-sqlite3 ;;
	esac >/dev/null 2>&1
}

# bench NAME REPORT ARGUMENTS... measures a server.
bench() {
	local name=$1 report=$2
	shift 2
	"$work/bin" bench --output json --duration "${SECONDS_EACH}s" --warm-up "${WARM_UP}s" --ca "$CERTS/ca.crt" \
		--server "$(host "$name"):$CLIENT" --domain "$name.test" --server-pid "${pids[$name]:-0}" --user-file "$work/$name.users" \
		"$@" >"$reports/$report" 2>"$work/error" || echo "$report: $(tail -1 "$work/error")" >&2
}

# accounts NAME makes the accounts of a server that has none yet.
accounts() {
	[[ -e $work/$1.users ]] || bench "$1" "accounts-$1" pairs --make register --users "$most" --window 1 --rate 0.1
}

# scenario NAME ROUND SCENARIO
scenario() {
	local name=$1 report=$1-$3-$2.json
	case $3 in
	*-sqlite)
		if ! sqlite "$name"; then
			echo "$report: a package for SQLite is missing" >&2
			return
		fi
		archive "$name" sqlite
		# Prosody reads from tens of sessions and archives all of it before it writes to one: with 20 in flight messages
		# come in bursts that are seconds apart, and it takes several of them to tell how many come in a second.
		[[ $name-$3 != prosody-archived20-sqlite ]] || local SECONDS_EACH=$((3 * SECONDS_EACH))
		;;
	archived* | grown-* | pages) archive "$name" true ;;
	*) archive "$name" false ;;
	esac
	case ${3%-sqlite} in
	login) bench "$name" "$report" login --users "$USERS" --window 10 ;;
	pairs | archived) bench "$name" "$report" pairs --users "$USERS" ;;
	sm | archived-sm) bench "$name" "$report" pairs --users "$USERS" --sm --carbons ;;
	window20 | archived20) bench "$name" "$report" pairs --users "$USERS" --window 20 ;;
	presence) bench "$name" "$report" presence --users 101 --size 300 ;;
	offline) bench "$name" "$report" offline --users 40 --messages 500 --window 20 ;;
	quiet | archived-quiet) WARM_UP=$(warm_up) bench "$name" "$report" pairs --users 2 --rate 50 ;;
	pages) # accounts of its own, so that no archive has more than another server's
		bench "$name" "$report" archive --users 2 --messages "$MESSAGES" --window 20 --make register --user-file "" ;;
	growth-*) bench "$name" "$report" pairs --users "$USERS" --idle "${3#growth-}" ;;
	grown-*)
		bench "$name" "$name-filled" archive --users "$USERS" --messages $((${3#grown-} * 2 / USERS)) --window 20
		sleep $((${3#grown-} / 25000)) # tombolo has yet to bring it into the archives' order
		bench "$name" "$report" pairs --users "$USERS"
		;;
	fair-session) bench "$name" "$report" fairness --flood session --flood-rate "$FLOOD" ;;
	fair-federation)
		[[ $name == ejabberd && ! -v pids[dns] ]] && return
		slow "${pids[partner]}" &
		local slow=$!
		bench "$name" "$report" fairness --flood federation --flood-rate $((FLOOD / 5)) --peer-server "$(host partner):$CLIENT" \
			--peer-domain partner.test --peer-user-file "$work/partner.users"
		kill "$slow"
		kill -CONT "${pids[partner]}"
		;;
	fair-presence) bench "$name" "$report" fairness --flood presence --flood-rate $((FLOOD / 1000)) --users 1003 --size 300 ;;
	idle)
		stop "$name"
		start "$name" partner
		bench "$name" "$report" idle --users "$IDLE"
		;;
	federation-out)
		[[ $name == ejabberd && ! -v pids[dns] ]] || bench "$name" "$report" federation --users 100 --peer-server "$(host partner):$CLIENT" --peer-domain partner.test \
			--peer-pid "${pids[partner]}" --peer-user-file "$work/partner.users"
		;;
	federation-in)
		bench partner "$report" federation --users 100 --peer-server "$(host "$name"):$CLIENT" --peer-domain "$name.test" \
			--peer-pid "${pids[$name]}" --peer-user-file "$work/$name.users"
		;;
	esac
}

# slow PID lets a process work a fifth of the time.
slow() {
	while kill -STOP "$1" && sleep 0.4 && kill -CONT "$1" && sleep 0.1; do :; done
}

relay() {
	local report=relay-$2-$1.json
	case $2 in
	pairs) bench relay "$report" relay --users "$USERS" ;;
	window20) bench relay "$report" relay --users "$USERS" --window 20 ;;
	presence) bench relay "$report" relay --fan --users 101 --size 300 ;;
	quiet) WARM_UP=$(warm_up) bench relay "$report" relay --users 2 --rate 50 ;;
	fair-session) bench relay "$report" relay --flood session --flood-rate "$FLOOD" ;;
	fair-federation) bench relay "$report" relay --flood session --flood-rate $((FLOOD / 5)) ;;
	fair-presence) bench relay "$report" relay --flood presence --flood-rate $((FLOOD / 1000)) --users 1003 --size 300 ;;
	esac
}

# warm_up is how long a quiet pair takes to warm up: its second run in a round finds the server warm.
warm_up() { ((time > 1)) && echo 2 || echo "$WARM_UP"; }

# number FILE KEY NTH is the nth number with that key in a report.
number() { sed -n "s/.*\"$2\": *\([0-9.e+-]*\).*/\1/p" "$1" | sed -n "${3}p"; }

# figure SERVER SCENARIO KEY NTH SCALE is the median over the runs of the nth number with that key.
figure() {
	local file
	for file in "$reports/$1-$2"-[0-9]*.json; do
		if [[ -s $file ]]; then number "$file" "$3" "$4"; fi
	done | sort -g | awk -v scale="$5" '{ v[NR] = $1 } END { x = v[int((NR + 1) / 2)] * scale; printf NR ? x < 100 ? "%.3g" : "%.0f" : "-", x }'
}

# calm SERVER SCENARIO KEY NTH SCALE is the number of that run in which the host took least from the machine, or the
# median of several such runs.
calm() {
	local file
	for file in "$reports/$1-$2"-[0-9]*.json; do
		if [[ -s $file ]]; then echo "$(number "$file" stolen_ms_per_second 1) $(number "$file" "$3" "$4")"; fi
	done | sort -k1,1g -k2,2g | awk -v scale="$5" 'NF == 2 && (!n || $1 == least) { least = $1; v[++n] = $2 }
		END { x = v[int((n + 1) / 2)] * scale; printf n ? x < 100 ? "%.3g" : "%.0f" : "-", x }'
}

# row TITLE SCENARIO KEY NTH SCALE [FUNCTION] is nothing where the scenario was not measured.
row() {
	local name figures=
	for name in tombolo prosody ejabberd relay; do figures+=" $("${6:-figure}" "$name" "$2" "$3" "$4" "$5") |"; done
	[[ $figures != *[0-9]* ]] || echo "| $1 |$figures"
}

table() {
	echo "| work | tombolo | Prosody | ejabberd | raw relay |"
	echo "|---|---|---|---|---|"
	row "$((USERS / 2)) pairs, one in flight: CPU us a message" pairs cpu_us_per_unit 1 1
	row "same, stream management and carbons" sm cpu_us_per_unit 1 1
	row "$((USERS / 2)) pairs, 20 in flight: CPU us a message" window20 cpu_us_per_unit 1 1
	row "presence to 100 contacts: CPU us a delivery" presence cpu_us_per_unit 1 1
	row "login: CPU ms" login cpu_us_per_unit 1 0.001
	row "federated message, sending side: CPU us" federation-out cpu_us_per_unit 1 1
	row "federated message, receiving side: CPU us" federation-in cpu_us_per_unit 2 1
	row "idle TLS session, $IDLE of them: KiB" idle kib_per_session 1 1
	row "offline, store: CPU us a message" offline cpu_us_per_unit 1 1
	row "offline, deliver: CPU us a message" offline cpu_us_per_unit 3 1
	row "one quiet pair: p50 ms" quiet p50 1 1
	row "one quiet pair: p99 ms" quiet p99 1 1
	row "same, the run in which the host took least from the machine: p99 ms" quiet p99 1 1 calm
	row "same: processor time that it took then, ms a second" quiet stolen_ms_per_second 1 1 calm
	row "$((USERS / 2)) pairs, 20 in flight: messages a second, clients on the same machine" window20 per_second 1 1
	row "$((USERS / 2)) pairs, one in flight, archive on: CPU us a message" archived cpu_us_per_unit 1 1
	row "same, stream management and carbons" archived-sm cpu_us_per_unit 1 1
	row "$((USERS / 2)) pairs, 20 in flight, archive on: CPU us a message" archived20 cpu_us_per_unit 1 1
	row "same: messages a second" archived20 per_second 1 1
	row "one quiet pair, archive on: p50 ms" archived-quiet p50 1 1
	row "one quiet pair, archive on: p99 ms" archived-quiet p99 1 1
	row "archive page of 50, newest first, of $MESSAGES: CPU ms" pages cpu_us_per_unit 1 0.001
	row "$((USERS / 2)) pairs, one in flight, archive on, peers' in SQLite: CPU us a message" archived-sqlite cpu_us_per_unit 1 1
	row "$((USERS / 2)) pairs, 20 in flight, archive on, peers' in SQLite: CPU us a message" archived20-sqlite cpu_us_per_unit 1 1
	row "same: messages a second" archived20-sqlite per_second 1 1
	row "archive page of 50, newest first, of $MESSAGES, peers' in SQLite: CPU ms" pages-sqlite cpu_us_per_unit 1 0.001
	local n flood
	for n in $(tr ' ' '\n' <<<"$SCENARIOS" | sed -n s/growth-//p); do
		row "$((USERS / 2)) pairs, one in flight, $n idle sessions: CPU us a message" "growth-$n" cpu_us_per_unit 1 1
	done
	for n in $(tr ' ' '\n' <<<"$SCENARIOS" | sed -n s/grown-//p); do
		row "$((USERS / 2)) pairs, one in flight, archive on, $n messages more: CPU us a message" "grown-$n" cpu_us_per_unit 1 1
	done
	for flood in session presence federation; do
		row "quiet pair before a flood of $flood: p99 ms" "fair-$flood" p99 1 1
		row "quiet pair beside a flood of $flood: p50 ms" "fair-$flood" p50 2 1
		row "quiet pair beside a flood of $flood: p99 ms" "fair-$flood" p99 2 1
		row "same: cores that the server keeps busy" "fair-$flood" cores 3 1
	done
	local faults
	faults=$(grep -hE '"(lost|doubled|reordered|errors)": [1-9]' "$reports"/*.json | sort | uniq -c || true)
	echo
	echo "lost, doubled, reordered, returned: ${faults:-0 everywhere}"
}

most=$((USERS > IDLE ? USERS : IDLE))
for what in $SCENARIOS; do
	case $what in
	growth-*) n=$((USERS + ${what#growth-})) ;;
	fair-presence) n=1003 ;;
	*) n=4 ;;
	esac
	most=$((n > most ? n : most))
done
go build -o "$work/bin" ./cmd/tombolo
certificates 2>"$work/openssl" || { cat "$work/openssl" >&2; exit 1; }
if [[ -z ${SERVERS:-} ]]; then
	SERVERS=tombolo
	command -v prosody >/dev/null && SERVERS+=" prosody"
	command -v ejabberdctl >/dev/null && SERVERS+=" ejabberd"
fi
for name in $SERVERS; do start "$name" partner; done
for name in $SERVERS; do accounts "$name"; done
for ((round = 1; round <= ROUNDS; round++)); do
	for what in $SCENARIOS; do
		echo "round $round: $what" >&2
		# The slowest messages of a quiet pair are few, and most often the host's.
		[[ $what == quiet ]] && times="1 2 3 4" || times=1
		for time in $times; do
			relay "$round.$time" "$what"
			for name in $SERVERS; do
				case $what in
				*federation) # the partner has one partner of its own
					start partner "$name"
					most=100 accounts partner
					case $what in
					federation)
						scenario "$name" "$round" federation-out
						scenario "$name" "$round" federation-in
						;;
					*) scenario "$name" "$round" "$what" ;;
					esac
					stop partner
					;;
				*) scenario "$name" "$round.$time" "$what" ;;
				esac
			done
		done
	done
done
rm -f "$reports"/accounts-* "$reports"/*-filled
echo "reports: $reports" >&2
table
