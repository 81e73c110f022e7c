#!/usr/bin/env bash
# The trained model in the repository: the engine gives PyTorch's vectors and scores of real documents
# (training/parity.py made the goldens), and finds what it is asked for in a whole book.
#   small_model_test.sh BIN_DIR SOURCE_DIR
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=cli_helpers.sh
. "$(dirname "$0")/cli_helpers.sh"
model=$2/models/longdoc-small-en
golden=$2/tests/golden/small_en
examples=$2/examples/debian_reference
book_gz=/usr/share/debian-reference/debian-reference.en.txt.gz

if [ ! -r $book_gz ]; then
  echo "FAILED: $book_gz is missing; scripts/setup installs it"
  exit 1
fi
gzip -dc $book_gz >"$work/book.txt"

# Cuts the book into the goldens' documents, "00" and so on.
cut_documents() {
  local begin end rest i=0
  mkdir "$work/documents"
  while read -r begin end rest; do
    tail -c "+$((begin + 1))" "$work/book.txt" | head -c $((end - begin)) >"$work/documents/$(printf '%02d' $i)" || true
    i=$((i + 1))
  done <"$golden/documents.tsv"
}

# vectors DTYPE LEAST_COSINE: of every document, in the goldens' order.
vectors() {
  local wrong
  "$longdoc" embed --quiet --model "$model" --dtype "$1" "$work/documents" >"$work/vectors"
  checks=$((checks + 1))
  wrong=$(grep '"kind":"document"' "$work/vectors" | sed 's/.*"tokens":\([0-9]*\),.*"vector":\[\(.*\)\].*/\1,\2/' | tr , ' ' |
    paste -d ' ' "$golden/documents.tsv" - | awk -v least="$2" '{
      d = (NF - 7) / 2
      aa = bb = ab = 0
      for (i = 1; i <= d; ++i) { a = $(6 + i); b = $(7 + d + i); ab += a * b; aa += a * a; bb += b * b }
      cosine = ab / sqrt(aa * bb)
      if ($(7 + d) != $3 || !(cosine >= least)) printf "document %d: %d tokens, cosine %.6f\n", NR - 1, $(7 + d), cosine
    } END { if (NR < 20) print NR " documents" }')
  if [ -n "$wrong" ]; then fail "vectors in $1: $wrong"; fi
}

# scores DTYPE LARGEST_DIFFERENCE of a candidate's mean log-probability per token.
scores() {
  local document wrong
  for document in "$work/documents/"*; do
    "$longdoc" score --quiet --model "$model" --dtype "$1" --document "$document" \
      --candidates "$golden/candidates.txt" --method likelihood | grep '"kind":"score"' | sort -t: -k3n |
      sed 's/.*"sum":\([-0-9.e]*\).*"tokens":\([0-9]*\).*/\1 \2/' | tr '\n' ' '
    echo
  done >"$work/scores"
  checks=$((checks + 1))
  wrong=$(paste -d ' ' <(cut -f 4-6 "$golden/documents.tsv") "$work/scores" | awk -v most="$2" '
    { for (i = 1; i <= 3; ++i) {
        off = ($i - $(2 + 2 * i)) / $(3 + 2 * i)
        if (NF != 9 || !(off <= most && off >= -most)) printf "document %d, candidate %d: %s is not %s\n", NR - 1, i, $(2 + 2 * i), $i
    } } END { if (NR < 20) print NR " documents" }')
  if [ -n "$wrong" ]; then fail "scores in $1: $wrong"; fi
}

# The whole book as one document, and the questions of the demonstration.
questions() {
  checks=$((checks + 1))
  cut -f 2 "$examples/questions.tsv" >"$work/questions"
  "$longdoc" score --quiet --model "$model" --document "$work/book.txt" --candidates "$work/questions" \
    --method cosine --best-passages 3 --passages 256 >"$work/answers"
  "$examples/answers" "$work/answers" "$work/book.txt" >"$work/found" || fail "the questions to the book: $(cat "$work/found")"
}

cut_documents
vectors f32 0.99999
vectors bf16 0.999
scores f32 0.002
scores bf16 0.05
questions
echo "$checks checks, $failures failures"
[ $failures -eq 0 ]
