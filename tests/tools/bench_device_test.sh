#!/usr/bin/env bash
# longdoc-bench on CUDA devices: refused where there is none, and its sections run on the emulated
# one, where times mean nothing but results are checked.
#
#   bench_device_test.sh BIN_DIR EMULATED_BENCH VOCAB
set -euo pipefail

bin=$1 emulated=$2 vocab=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

"$bin/longdoc" model create --preset colt5-tiny --vocab "$vocab" --output "$work/model" > /dev/null

# Nobody has a thousand devices. One line says so, and nothing was measured before.
for section in "attention" "decode" "route" "score --model $work/model" "serve --model $work/model"; do
  # shellcheck disable=SC2086
  if "$bin/longdoc-bench" $section --device cuda:999 > "$work/out" 2> "$work/err"; then
    fail "$section took a device that is not there"
  fi
  grep -q 'cuda:999' "$work/err" || fail "$section does not name the device: $(cat "$work/err")"
  [[ ! -s $work/out ]] || fail "$section measured before it looked at the device"
done
if "$bin/longdoc-bench" decode --device gpu 2> "$work/err"; then fail "took a device named gpu"; fi
grep -q 'cpu, cuda or cuda:N' "$work/err" || fail "does not say which devices there are"
for section in attention decode; do
  if "$bin/longdoc-bench" $section --device cuda --dtype f32 2> "$work/err"; then fail "took f32"; fi
  grep -q 'bf16' "$work/err" || fail "$section does not say that a device has bf16 alone"
done

"$emulated" attention --device cuda:0 --tokens 70,300 --heads 2 --repeat 2 --json "$work/attention.json"
"$emulated" decode --device cuda:0 --keys 70,200 --targets 1,3 --heads 2 --repeat 2 \
  --json "$work/decode.json"
"$emulated" route --device cuda --tokens 300 --dim 64 --repeat 2 --json "$work/route.json"
"$emulated" score --device cuda:0 --model "$work/model" --tokens 200 --candidates 2 \
  --candidate-tokens 3 --repeat 1 --json "$work/score.json"
python3 - "$work" <<'PYTHON'
import json, sys
read = lambda name: json.load(open(f"{sys.argv[1]}/{name}.json"))
attention, decode, route, score = (read(name) for name in ("attention", "decode", "route", "score"))
assert [r["tokens"] for r in attention["results"]] == [70, 300]
for r in attention["results"]:
    assert 0 < r["tile_fraction"] <= 1 and r["seconds"] > 0 and r["store_seconds"] > 0, r
    share = r["flops"] / attention["device"]["product_flops"]
    assert abs(r["share_of_peak"] - share) < 1e-9, r
assert [(r["keys"], r["targets"]) for r in decode["results"]] == [(70, 1), (70, 3), (200, 1), (200, 3)]
for report in (attention, decode, route):
    assert report["device"]["name"].startswith("cuda:0"), report["device"]
    assert report["device"]["copy_bytes_per_second"] > 0
for r in decode["results"]:
    share = r["bytes_per_second"] / decode["device"]["copy_bytes_per_second"]
    assert r["seconds"] > 0 and abs(r["share_of_copy"] - share) < 1e-9, r
assert route["results"][0]["routed"] == 38
assert all(route["results"][0][k] > 0 for k in ("select_seconds", "gather_seconds", "scatter_seconds"))
assert score["device"].startswith("cuda:0"), score["device"]
assert score["results"][0]["kept_bytes"] > 0
PYTHON
