#!/bin/sh
# Compiler launcher of the CUDA sources: runs the command and keeps what ptxas -v says of registers,
# spills and stack frames in OBJECT.ptxas, instead of on the terminal.
#   keep_ptxas_report.sh COMMAND...
report=
previous=
for argument; do
  [ "$previous" = -o ] && report=$argument.ptxas
  previous=$argument
done
[ -n "$report" ] || exec "$@"
"$@" 2>"$report"
status=$?
# C75xx: ptxas put wgmma in sequence, or ignored setmaxnreg. Slow, not wrong.
if [ $status = 0 ]; then grep 'C75[0-9][0-9]' "$report" >&2; else cat "$report" >&2; fi
exit $status
