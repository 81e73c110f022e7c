#!/bin/sh
# A section of the bench runs, writes all its outputs and says so in its JSON.
#   smoke_test.sh BENCH SECTION
set -eu
json=$(mktemp)
trap 'rm -f "$json"' EXIT
"$1" --tiny --json "$json" "$2"
cases=$(grep -c "\"section\": \"$2\", \"name\": \".*\"seconds\": [0-9.e-]*, .*\"samples\": 1" "$json")
lines=$(grep -c '"section"' "$json")
if [ "$cases" = 0 ] || [ "$cases" != "$lines" ]; then
  echo "$cases of $lines results have times"
  exit 1
fi
if grep -q '"error"\|"skipped"' "$json"; then exit 1; fi
# Bad words are refused with the words themselves.
for words in "--repeat 0" "--repeat" "--nonsense" "nonsense"; do
  # shellcheck disable=SC2086
  if message=$("$1" $words 2>&1); then echo "accepted: $words"; exit 1; fi
  case $message in *"${words#--repeat }"*) ;; *) echo "no mention of $words: $message"; exit 1 ;; esac
done
