#!/usr/bin/env bash
# Keeping documents, scoring, ranking and generating from the command line, as people do it: with tiny
# random models, through a server and with one of the command's own.
#   scoring_cli_test.sh BIN_DIR
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=cli_helpers.sh
. "$(dirname "$0")/cli_helpers.sh"

field() {  # NAME FILE: the value of a field in the first line that has it
  sed -n "s/.*\"$1\":\"\\{0,1\\}\\([^,\"}]*\\).*/\\1/p" "$2" | head -n 1
}

scores() {  # the score lines, in the order of the candidates, without what may differ between runs
  grep '"kind":"score"' "$1" | sort -t: -k3
}

usage() {
  local command
  for command in score rank generate documents 'documents keep' 'documents list' 'documents get' 'documents delete'; do
    # shellcheck disable=SC2086
    expect 0 'server' "$longdoc" $command --help
  done
  expect 2 'needs --document FILE or --name NAME' "$longdoc" score --server x:1 --candidates q
  expect 2 'needs --candidates FILE' "$longdoc" score --server x:1 --document d
  expect 2 'cannot both be standard input' "$longdoc" score --server x:1 --document - --candidates -
  expect 2 '--name needs --server' "$longdoc" score --model m --name documents/x --candidates q
  expect 2 'method takes likelihood' "$longdoc" score --server x:1 --method guess
  expect 2 'needs --query TEXT' "$longdoc" rank --server x:1 a.txt
  expect 2 'needs --document FILE or --name NAME' "$longdoc" generate --server x:1
  expect 2 'needs an argument' "$longdoc" documents get --server x:1
  expect 1 'cannot read' "$longdoc" score --server x:1 --document "$work/text" --candidates "$work/nothing"
}

keep_and_score() {
  "$longdoc" documents keep --quiet --server "$address" --passages 16 --token-vectors "$work/text" >"$work/kept"
  name=$(field name "$work/kept")
  expect 0 "\"name\":\"$name\".*\"reused\":true" \
    "$longdoc" documents keep --quiet --server "$address" --passages 16 --token-vectors "$work/text"
  expect 0 "$name" "$longdoc" documents list --server "$address"
  expect 0 '"methods":\["likelihood","cosine","late-interaction"\]' \
    "$longdoc" documents get --server "$address" "$name"

  "$longdoc" score --quiet --server "$address" --name "$name" --candidates "$work/questions" \
    --method likelihood --method cosine --method late-interaction --best-passages 2 --token-scores >"$work/named"
  count 9 '"kind":"score"' "$work/named"
  count 3 '"method":"late-interaction".*"passages":\[{.*},{' "$work/named"
  count 3 '"token_log_probabilities":\[-' "$work/named"
  count 1 '"kind":"stats".*"candidates":3,"failed":0' "$work/named"
  # Inline, and by a server of the command's own: the same scores.
  "$longdoc" score --quiet --server "$address" --document "$work/text" --passages 16 \
    --candidates "$work/questions" --method likelihood --method cosine --method late-interaction \
    --best-passages 2 --token-scores >"$work/inline"
  checks=$((checks + 1))
  diff <(scores "$work/named") <(scores "$work/inline") >/dev/null || fail "kept and inline scores differ"
  "$longdoc" score --quiet --model "$work/model" --document "$work/text" --candidates "$work/questions" \
    >"$work/private"
  count 3 '"method":"likelihood"' "$work/private"

  printf 'fine\n\377\n' >"$work/faulty"
  expect 0 'INVALID_UTF8' "$longdoc" score --quiet --server "$address" --name "$name" --candidates "$work/faulty"
  expect 1 'NO_CANDIDATES' "$longdoc" score --quiet --server "$address" --name "$name" --candidates /dev/null
  expect 1 'METHOD_NOT_SUPPORTED' "$longdoc" score --quiet --server "$address" --name "$name" \
    --candidates "$work/questions" --method cross-encoder
}

rank_and_generate() {
  cp "$work/questions" "$work/other"
  expect 0 '"rank":1,"document":"' "$longdoc" rank --server "$address" --query 'what is a package' \
    "$work/other" "$name"
  expect 0 '"kind":"rank","rank":2' "$longdoc" rank --model "$work/model" --method cosine \
    --query 'what is a package' "$work/other" "$work/text"
  local sampled=(generate --quiet --server "$address" --name "$name" --max-new-tokens 8 --temperature 1 --seed 5)
  "$longdoc" "${sampled[@]}" >"$work/first"
  "$longdoc" "${sampled[@]}" >"$work/second"
  checks=$((checks + 1))
  cmp -s "$work/first" "$work/second" || fail "the same seed gave another text"
  expect 0 '"generated_tokens":[1-8]' "$longdoc" generate --server "$address" --name "$name" \
    --prompt 'the' --max-new-tokens 8
  expect 0 'bytes freed' "$longdoc" documents delete --server "$address" "$name"
  expect 1 'DOCUMENT_DELETED' "$longdoc" documents get --server "$address" "$name"
}

for i in 1 2 3 4 5 6 7 8; do
  echo "Line $i: a package is a unit of software. Its maintainer keeps it in order; users install it."
done >"$work/text"
printf 'what is a package?\nwho keeps it in order?\n\nunrelated words\n' >"$work/questions"
expect 0 'wrote .*colt5-tiny, random weights' "$longdoc" model create --preset colt5-tiny --output "$work/model"
usage
start_server "--model=tiny=$work/model"
keep_and_score
rank_and_generate
stop_server

echo "$checks checks, $failures failures"
[ "$failures" -eq 0 ]
