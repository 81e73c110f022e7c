#!/bin/sh
# Who may include what: service -> engine -> kernels (docs/adr/0001-layers-and-one-backend-seam.md).
#   layering_test.sh SOURCE_DIR
# Also proves on a planted violation that it would fail.
set -eu
root=$1
failed=0

# forbid NAME DIR PATTERN: no #include in the C++ and CUDA files of DIR may match PATTERN.
forbid() {
  [ -d "$2" ] || return 0
  hits=$(grep -rnE --include='*.h' --include='*.cc' --include='*.cu' --include='*.cuh' --include='*.inc' \
    "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]($3)" "$2" || true)
  if [ -n "$hits" ]; then
    echo "$1:"
    echo "$hits"
    failed=1
  fi
}

check_tree() {
  forbid "the engine must not know gRPC, protobuf, Prometheus, HTTP or the service" "$1/engine" \
    'grpc|google/protobuf|prometheus/|civetweb|Civet|service/|longdoc/(v1|config)|absl/flags'
  forbid "kernels need nothing but the C++ and CUDA tool-kits" "$1/kernels" \
    'absl/|grpc|google/|prometheus/|nlohmann/|dnnl|oneapi/|utf8proc|engine/|service/|gtest|gmock|benchmark/'
  forbid "the session state machine must not know gRPC" "$1/service/stream_machine.h" 'grpc'
  forbid "sources must not include tests" "$1/engine" 'tests/'
  forbid "sources must not include tests" "$1/kernels" 'tests/'
  forbid "sources must not include tests" "$1/service" 'tests/'
}

planted=$(mktemp -d)
trap 'rm -rf "$planted"' EXIT
mkdir -p "$planted/engine" "$planted/kernels/cpu"
echo '#include "grpcpp/server.h"' > "$planted/engine/a.h"
echo '# include <absl/types/span.h>' > "$planted/kernels/cpu/b.cc"
check_tree "$planted" > "$planted/report"
if [ "$failed" != 1 ] || [ "$(grep -c include "$planted/report")" != 2 ]; then
  echo "the check does not see planted violations" >&2
  exit 1
fi

failed=0
check_tree "$root"
[ -n "$(find "$root/engine" "$root/kernels" -name '*.h' | head -1)" ] || { echo "no sources in $root" >&2; exit 1; }
exit $failed
