#!/usr/bin/env bash
# No CUDA kernel spills registers or has a stack frame in local memory: reads what ptxas said of every
# source (cmake/keep_ptxas_report.sh) and prints a table.
#
#   ptxas_test.sh DIR SOURCE.cu...   reports are DIR/.../SOURCE.cu.o.ptxas, one per source
#
# An empty report cannot pass: every source must have one, and the kernels that
# matter must be in them, for both architectures. Proves on planted reports that it would fail.
set -euo pipefail

# Kernels that may have a stack frame or spill, by name: cold ones only, with the reason. None does.
allowed=()
# Kernel, least number of instantiations per architecture.
expected=(
  'AttentionSm90Kernel 8' 'Sm80Kernel 12' 'InitKernel 1' 'KeyNormKernel 2' 'ItemKernel 1'
  'MqaFewRows 6' 'MqaManyRows 12' 'MqaMergeRows 1' 'MqaStoreRows 1'
  'LayerNormRows 24' 'RmsNormRows 6' 'GatedGeluRows 8' 'ConvertRows 16' 'ScatterAddRows 2' 'PoolSpans 2'
  'CountKernel 1' 'TallyKernel 1' 'ChooseKernel 1' 'WeighKernel 1' 'RouteShort 1'
  'LogSoftmaxTileRows 1' 'SampleStats 1' 'SampleDraw 1'
  'StripMaxima 1' 'RangeMaxima 1' 'SumSpanMaxima 1' 'ScaleUnitRows 2'
)
architectures='sm_80 sm_90a'

# table REPORT...: lines "kernel architecture registers shared stack spill_stores spill_loads", tabs
# between them. Shared memory is the static one; what a launch asks for is not known here.
table() {
  awk '
    function flush() {
      if (name == "") return
      printf "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, arch, registers, shared, stack, stores, loads
      name = ""
    }
    /Compiling entry function/ {
      flush()
      split($0, part, "\047")
      name = part[2]; arch = part[4]; registers = stack = stores = loads = "?"; shared = 0
    }
    name != "" && /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
    name != "" && /Used [0-9]+ registers/ {
      for (i = 2; i <= NF; ++i) {
        if ($i ~ /^registers/) registers = $(i - 1)
        if ($i ~ /^smem/) shared = $(i - 2)
      }
      flush()
    }
    END { flush() }' "$@" |
    c++filt -p | sed -e 's/longdoc::kernels::cuda:://g' -e 's/(anonymous namespace):://g' |
    LC_ALL=C sort -u
}

is_allowed() {  # KERNEL
  local name
  for name in ${allowed[@]+"${allowed[@]}"}; do
    if [ "${1%%<*}" = "$name" ]; then return 0; fi
  done
  return 1
}

# check REPORT...: the table and every fault on standard output; false when there is one.
check() {
  local ok=0 rows name arch registers shared stack stores loads entry count
  rows=$(table "$@")
  printf '%-64s %-7s %9s %7s %6s %6s\n' kernel arch registers shared stack spills
  while IFS=$'\t' read -r name arch registers shared stack stores loads; do
    [ -n "$name" ] || continue
    printf '%-64s %-7s %9s %7s %6s %6s\n' "$name" "$arch" "$registers" "$shared" "$stack" \
      "$stores+$loads"
    # A figure that was not found is a "?", and a fault as well.
    if [ "$stack $stores $loads" != '0 0 0' ] && ! is_allowed "$name"; then
      echo "FAILED: $name ($arch): $stack bytes of stack, $stores of spill stores, $loads of loads"
      ok=1
    fi
    if [ "$registers" = '?' ]; then
      echo "FAILED: $name ($arch): no register count"
      ok=1
    fi
  done <<<"$rows"
  for entry in "${expected[@]}"; do
    for arch in $architectures; do
      count=$(awk -F'\t' -v kernel="${entry% *}" -v arch="$arch" '
        { name = $1; sub(/<.*/, "", name) } name == kernel && $2 == arch { ++n } END { print n + 0 }
        ' <<<"$rows")
      if [ "$count" -lt "${entry#* }" ]; then
        echo "FAILED: ${entry% *} ($arch): $count kernels reported, expected at least ${entry#* }"
        ok=1
      fi
    done
  done
  # C75xx: wgmma was put in sequence, or setmaxnreg ignored.
  if grep -H 'C75[0-9][0-9]' "$@"; then ok=1; fi
  return $ok
}

# The checks see a spill, a stack frame, a missing kernel and wgmma in sequence.
self_test() {
  local planted
  planted=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$planted'" EXIT
  local expected=('Planted 1') architectures=sm_90a
  write() {  # FILE STACK_LINE [MORE]
    printf '%s\n' "ptxas info    : Compiling entry function '_Z7Plantedv' for 'sm_90a'" \
      'ptxas info    : Function properties for _Z7Plantedv' "    $2" \
      'ptxas info    : Used 32 registers, used 1 barriers, 1024 bytes smem' "${3-}" >"$planted/$1"
  }
  write sound '0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads'
  write stack '16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads'
  write store '0 bytes stack frame, 8 bytes spill stores, 0 bytes spill loads'
  write load '0 bytes stack frame, 0 bytes spill stores, 8 bytes spill loads'
  write unknown ''
  write serial '0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads' \
    'ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized'
  : >"$planted/empty"
  check "$planted/sound" >/dev/null || { echo "the check refuses a sound report" >&2; exit 1; }
  local fault
  for fault in stack store load unknown serial empty; do
    if check "$planted/$fault" >/dev/null; then
      echo "the check does not see a planted fault: $fault" >&2
      exit 1
    fi
  done
}

[ $# -ge 2 ] || { echo "usage: ptxas_test.sh DIR SOURCE.cu..." >&2; exit 2; }
(self_test)
directory=$1
shift
reports=()
for source; do
  found=$(find "$directory" -name "${source##*/}.o.ptxas")
  [ -n "$found" ] || { echo "no report of ${source##*/} under $directory" >&2; exit 1; }
  while IFS= read -r report; do reports+=("$report"); done <<<"$found"
done
check "${reports[@]}"
