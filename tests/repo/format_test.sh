#!/bin/sh
# Tracked C++ and CUDA files must be as clang-format 14 writes them; other versions differ in details.
#   format_test.sh SOURCE_DIR
# Exits 77 (skipped) without the tool or without git.
set -eu
cd "$1"
tool=$(command -v clang-format-14 || true)
[ -n "$tool" ] || { echo "clang-format-14 is not installed"; exit 77; }
git -c safe.directory='*' rev-parse --is-inside-work-tree >/dev/null 2>&1 ||
  { echo "not a git checkout"; exit 77; }
git -c safe.directory='*' ls-files -z -- '*.h' '*.cc' '*.cu' '*.cuh' | xargs -0 ls -d 2>/dev/null |
  xargs "$tool" --dry-run -Wclang-format-violations > /dev/null 2> "${TMPDIR:-/tmp}/format.$$" || true
bad=$(grep -oE '^[^:]+:[0-9]+:[0-9]+: (warning|error)' "${TMPDIR:-/tmp}/format.$$" | cut -d: -f1 | sort -u)
rm -f "${TMPDIR:-/tmp}/format.$$"
[ -z "$bad" ] && exit 0
echo "not formatted (clang-format-14 -i FILE):"
echo "$bad"
exit 1
