#!/bin/sh
# Files stay readable: at most 400 lines, 600 in kernels/; at most 100 columns.
#   size_test.sh SOURCE_DIR
set -eu
cd "$1"
bad=0
for file in $(find engine kernels service -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh'); do
  limit=400
  case $file in kernels/*) limit=600 ;; esac
  lines=$(wc -l < "$file")
  if [ "$lines" -gt "$limit" ]; then
    echo "$file: $lines lines, at most $limit"
    bad=1
  fi
done
exit $bad
