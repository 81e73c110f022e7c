# shellcheck shell=bash
# What the tests of the command line share. To be sourced; $1 is the directory of the binaries.
bin=$1
longdoc=$bin/longdoc
work=$(mktemp -d)
server_pid=
failures=0
checks=0

stop_server() {
  if [ -z "$server_pid" ]; then return; fi
  kill -TERM "$server_pid" 2>/dev/null || true
  wait "$server_pid" || fail "the server left with status $?"
  server_pid=
}
finish() {
  stop_server
  rm -rf "$work"
}
trap finish EXIT

fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

# expect STATUS PATTERN COMMAND...: exit status, and a pattern in what it prints (both outputs).
expect() {
  local want=$1 pattern=$2 got=0
  shift 2
  checks=$((checks + 1))
  "$@" >"$work/out" 2>&1 </dev/null || got=$?
  if [ "$got" -ne "$want" ]; then
    fail "exit status $got, not $want: $*"
    head -5 "$work/out"
  elif ! grep -qE -- "$pattern" "$work/out"; then
    fail "no \"$pattern\" in the output of: $*"
    head -5 "$work/out"
  fi
}

count() {  # N PATTERN FILE
  checks=$((checks + 1))
  local got
  got=$(grep -c -- "$2" "$3" || true)
  if [ "$got" -ne "$1" ]; then fail "$got lines with $2 in $3, not $1"; fi
}

start_server() {  # [FLAGS...]
  stop_server
  "$bin/longdoc-server" --listen=127.0.0.1:0 --metrics_listen=off "$@" 2>"$work/log" &
  server_pid=$!
  local line=
  for _ in $(seq 600); do
    line=$(grep -m 1 '"event":"serving"' "$work/log" || true)
    if [ -n "$line" ]; then break; fi
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.1
  done
  if [ -z "$line" ]; then
    cat "$work/log"
    echo "FAILED: the server did not start"
    exit 1
  fi
  [[ $line =~ \"port\":([0-9]+) ]]
  address=127.0.0.1:${BASH_REMATCH[1]}
}
