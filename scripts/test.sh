#!/usr/bin/env bash
# Runs the whole test suite: lint, the tox matrix, and the tests of the kit.
#   --quick               without the matrix
#   --environment NAME    one environment of the matrix, and nothing else
set -uo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
case "$#:${1:-}" in
  0: | 1:--quick | 2:--environment) ;;
  *) printf 'usage: scripts/test.sh [--quick | --environment NAME]\n' >&2 && exit 2 ;;
esac
tools_python test
cd "$root" || exit
if [ "${1:-}" = --environment ]; then exec "$python" -m tox run -e "$2"; fi
status=0
"$python" -m pre_commit run --all-files || status=1
if [ "${1:-}" != --quick ]; then
  # First, and where its progress is seen: torch, and the wheels that take longest.
  scripts/kit.sh env --extensions &&
    "$python" -m tox run-parallel --parallel auto || status=1
fi
# Last, so that the output ends with pytest's own summary.
"$python" -m pytest tests/kit -n 2 || status=1
exit $status
