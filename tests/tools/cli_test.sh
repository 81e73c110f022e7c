#!/usr/bin/env bash
# The command line as people use it: makes a tiny model, embeds in-process and through a server, and
# gives it what it must refuse.
#   cli_test.sh BIN_DIR
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=cli_helpers.sh
. "$(dirname "$0")/cli_helpers.sh"

# same A B: two outputs of embed have the same vectors.
same() {
  checks=$((checks + 1))
  if ! diff <(grep -v '"kind":"stats"' "$1" | sed 's/"document":"[^"]*",//') \
            <(grep -v '"kind":"stats"' "$2" | sed 's/"document":"[^"]*",//') >/dev/null; then
    fail "vectors of $1 and $2 differ"
  fi
}

help_and_usage() {
  expect 0 'embed .*vectors' "$longdoc" --help
  expect 2 'Usage' "$longdoc"
  expect 2 'no command "fly"' "$longdoc" fly
  expect 0 'model create' "$longdoc" model create --help
  local command
  for command in embed tokenize plan health 'model inspect'; do
    # shellcheck disable=SC2086
    expect 0 '^Examples:' "$longdoc" $command --help
  done
  expect 2 'needs --server HOST:PORT or --model DIR' "$longdoc" embed x
  expect 2 'unknown option --fast' "$longdoc" embed --fast
  expect 2 '--passages takes an integer from 1 to .*, not "0"' "$longdoc" embed --passages 0
  expect 2 'needs a value' "$longdoc" embed --passages
  expect 2 '--raw takes no value' "$longdoc" embed --raw=1
  expect 2 'attention takes .* not "fast"' "$longdoc" embed --model m --attention fast
  expect 2 'dense is for embed --model' "$longdoc" embed --server x:1 --attention dense
  expect 2 'threads is for --model' "$longdoc" embed --server x:1 --threads 2
}

models() {
  expect 0 'wrote .*tiny, random weights' "$longdoc" model create --preset tiny --output "$work/model"
  expect 1 'already' "$longdoc" model create --preset tiny --output "$work/model"
  expect 0 'wrote' "$longdoc" model create --preset tiny --output "$work/twin"
  checks=$((checks + 1))
  cmp -s "$work/model/model.safetensors" "$work/twin/model.safetensors" || fail "same seed, other weights"
  expect 0 'wrote' "$longdoc" model create --preset tiny-b --seed 2 --output "$work/b"
  expect 0 'jina_bert_a: 2 layers of 64' "$longdoc" model inspect "$work/model"
  expect 0 'mlp.up_gated_layer.weight' "$longdoc" model inspect --tokens 100,1000 "$work/b"
  expect 0 '"peak_bytes"' "$longdoc" model inspect --json "$work/model"
  expect 0 'wrote' "$longdoc" model create --preset reranker-tiny --output "$work/reranker"
  expect 0 'can +embed, cross-encode' "$longdoc" model inspect "$work/reranker"
  printf "don't" >"$work/contraction.txt"
  expect 0 "\"'t\",\"byte_range\":\\[3,5\\]" \
    "$longdoc" tokenize --format json --model "$work/reranker" "$work/contraction.txt"
  expect 1 'has neither model.safetensors' "$longdoc" model inspect "$work"
  head -c 1000 "$work/twin/model.safetensors" >"$work/cut"
  mv "$work/cut" "$work/twin/model.safetensors"
  expect 1 'model.safetensors' "$longdoc" model inspect "$work/twin"
}

tokens() {
  printf 'Hello, world! F\303\274\303\237e' >"$work/hello.txt"
  expect 0 '^101 .* 102$' "$longdoc" tokenize "$work/hello.txt"
  expect 0 '"byte_range":\[7,12\]' "$longdoc" tokenize --format json --model "$work/model" "$work/hello.txt"
  expect 0 '^Hello,$' "$longdoc" tokenize --format text --max-tokens 4 "$work/hello.txt"
  printf 'ab\377' >"$work/bad.txt"
  expect 1 'byte 2' "$longdoc" tokenize "$work/bad.txt"
}

in_process() {
  "$longdoc" embed --quiet --model "$work/model" --passages 32 --passages 64 --sentences 2 \
    "$work/text" >"$work/file.jsonl"
  count 1 '"kind":"document"' "$work/file.jsonl"
  count 1 '"kind":"stats"' "$work/file.jsonl"
  tail -n 1 "$work/file.jsonl" | grep -q '"kind":"stats"' || fail "the last line is not stats"
  "$longdoc" embed --quiet --model "$work/model" --passages 32 --passages 64 --sentences 2 \
    --output "$work/stdin.jsonl" <"$work/text"
  same "$work/file.jsonl" "$work/stdin.jsonl"

  # Ids of the same text give the same document vector, but no byte range. (Passages start elsewhere:
  # nobody says that the first id is a special token.)
  "$longdoc" tokenize --model "$work/model" "$work/text" >"$work/ids"
  "$longdoc" embed --quiet --model "$work/model" --token-ids "$work/ids" |
    sed 's/"byte_range":\[[^]]*\],//' >"$work/ids.jsonl"
  "$longdoc" embed --quiet --model "$work/model" "$work/text" |
    sed 's/"byte_range":\[[^]]*\],//' >"$work/text.jsonl"
  same "$work/ids.jsonl" "$work/text.jsonl"

  local policy
  for policy in exact dense window=16,2 tolerance=1e-3; do
    expect 0 '"kind":"stats"' "$longdoc" embed --model "$work/model" --attention "$policy" "$work/text"
  done
  expect 0 '"dimensions":8,"vector":\[[^,]*(,[^,]*){7}\]' \
    "$longdoc" embed --model "$work/model" --dimensions 8 "$work/text"
  expect 0 '"encoding":"binary","vector":\[[0-9]+\]' \
    "$longdoc" embed --model "$work/model" --dimensions 8 --encoding binary "$work/text"
  expect 0 '"encoding":"int8","scale":' "$longdoc" embed --model "$work/model" --encoding int8 "$work/text"
  expect 0 '"encoding":"float16"' "$longdoc" embed --model "$work/model" --encoding float16 "$work/text"
  expect 1 'TOO_MANY_TOKENS' "$longdoc" embed --quiet --model "$work/model" --max-tokens 10 "$work/text"
  expect 0 '"tokens":10,.*"truncated":true' \
    "$longdoc" embed --model "$work/model" --max-tokens 10 --overflow truncate-end "$work/text"
  expect 0 '"kind":"token","document":"[^"]*","index":1,' \
    "$longdoc" embed --model "$work/model" --token-vectors "$work/hello.txt"
}

directory() {
  mkdir -p "$work/dir/below" "$work/dir/.hidden"
  cp "$work/hello.txt" "$work/dir/b.txt"
  cp "$work/text" "$work/dir/below/a.txt"
  cp "$work/bad.txt" "$work/dir/.hidden/never.txt"
  "$longdoc" embed --quiet --model "$work/model" "$work/dir" >"$work/dir.jsonl"
  count 2 '"kind":"document"' "$work/dir.jsonl"
  cp "$work/bad.txt" "$work/dir/a.txt"
  expect 1 'INVALID_UTF8' "$longdoc" embed --quiet --model "$work/model" "$work/dir"
  count 2 '"kind":"document"' "$work/out"
  count 1 '"kind":"error"' "$work/out"
}

refusals() {  # WHERE...: --model DIR or --server ADDRESS
  expect 1 'INVALID_UTF8' "$longdoc" embed --quiet "$@" "$work/bad.txt"
  expect 1 'EMPTY_DOCUMENT' "$longdoc" embed --quiet "$@" -
  expect 1 'INVALID_DIMENSIONS' "$longdoc" embed --quiet "$@" --dimensions 65 "$work/text"
  echo '101 30528 102' >"$work/wrong.ids"
  expect 1 '30528' "$longdoc" embed --quiet "$@" --token-ids "$work/wrong.ids"
  echo '101 x 102' >"$work/wrong.ids"
  expect 1 'word 2 is not a token id' "$longdoc" embed --quiet "$@" --token-ids "$work/wrong.ids"
  expect 1 'no such file' "$longdoc" embed --quiet "$@" "$work/missing"
}

through_server() {
  start_server "--model=tiny=$work/model"
  expect 0 '^SERVING$' "$longdoc" health --server "$address"
  "$longdoc" embed --quiet --server "$address" --passages 32 --passages 64 --sentences 2 \
    "$work/text" >"$work/server.jsonl"
  same "$work/file.jsonl" "$work/server.jsonl"
  "$longdoc" embed --quiet --server "$address" --token-ids "$work/ids" |
    sed 's/"byte_range":\[[^]]*\],//' >"$work/ids.server.jsonl"
  same "$work/ids.jsonl" "$work/ids.server.jsonl"
  expect 0 '"peak_bytes":' "$longdoc" plan --server "$address" --tokens 1000 --json
  expect 0 'yes' "$longdoc" plan --model "$work/model" --tokens 1000
  refusals --server "$address"
  expect 1 'UNKNOWN_MODEL' "$longdoc" embed --quiet --server "$address" --model nope "$work/text"
  # An error while the input stalls ends the call at once, not when the input goes on.
  mkfifo "$work/fifo"
  { printf 'a\377'; sleep 30; } >"$work/fifo" &
  local writer=$!
  expect 1 'INVALID_UTF8' timeout 20 "$longdoc" embed --quiet --server "$address" "$work/fifo"
  kill "$writer" 2>/dev/null || true
  expect 1 'cannot talk to 127.0.0.1:1' "$longdoc" health --server 127.0.0.1:1 --timeout 3
}

through_tls() {
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
  echo secret-token >"$work/token"
  cat >"$work/config" <<END
models { name: "tiny" directory: "$work/model" }
security {
  tls_certificate_file: "$work/cert.pem"
  tls_key_file: "$work/key.pem"
  tls_client_ca_file: "$work/cert.pem"
  bearer_token_file: "$work/token"
}
END
  start_server "--config=$work/config"
  local tls=(--server "$address" --tls-ca "$work/cert.pem" --tls-server-name localhost)
  local mutual=("${tls[@]}" --tls-cert "$work/cert.pem" --tls-key "$work/key.pem")
  "$longdoc" embed --quiet "${mutual[@]}" --token-file "$work/token" --passages 32 --passages 64 \
    --sentences 2 "$work/text" >"$work/tls.jsonl"
  same "$work/file.jsonl" "$work/tls.jsonl"
  expect 1 'UNAUTHENTICATED' "$longdoc" embed --quiet "${mutual[@]}" "$work/text"
  expect 1 'cannot talk to' "$longdoc" embed --quiet "${tls[@]}" --timeout 5 "$work/text"
  expect 1 'cannot talk to' "$longdoc" embed --quiet --server "$address" --timeout 5 "$work/text"
  expect 1 'go together' "$longdoc" embed --quiet "${tls[@]}" --tls-cert "$work/cert.pem" "$work/text"
}

for i in $(seq 40); do
  printf 'Sentence number %d says that the river rose by %d cm. "Really?" asked the miller.\n' "$i" $((i * i))
done >"$work/text"

help_and_usage
models
tokens
in_process
directory
refusals --model "$work/model"
through_server
through_tls
stop_server

echo "$checks checks, $failures failed"
[ "$failures" -eq 0 ]
