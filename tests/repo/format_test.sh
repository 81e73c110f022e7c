#!/bin/sh
# Tracked C++ and CUDA files must be as clang-format 14 writes them; other versions differ in details.
#   format_test.sh SOURCE_DIR
# Exits 77 (skipped) without the tool or without git.
set -eu
cd "$1"
tool=$(command -v clang-format-14 || true)
[ -n "$tool" ] || { echo "clang-format-14 is not installed"; exit 77; }
git rev-parse --is-inside-work-tree >/dev/null 2>&1 || { echo "not a git checkout"; exit 77; }
files=$(git -c safe.directory='*' ls-files -- '*.h' '*.cc' '*.cu' '*.cuh')
bad=0
for file in $files; do
  [ -f "$file" ] || continue
  if ! "$tool" --dry-run --Werror "$file" >/dev/null 2>&1; then
    echo "not formatted: $file (clang-format-14 -i $file)"
    bad=1
  fi
done
exit $bad
