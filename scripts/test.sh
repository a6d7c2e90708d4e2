#!/usr/bin/env bash
# Runs the whole test suite: lint, the tox matrix, and the tests of the kit.
#   --quick   without the matrix
set -uo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
case "${1:-}" in
  "" | --quick) ;;
  *) printf 'usage: scripts/test.sh [--quick]\n' >&2 && exit 2 ;;
esac
tools_python test
cd "$root" || exit
status=0
"$python" -m pre_commit run --all-files || status=1
if [ "${1:-}" != --quick ]; then
  "$python" -m tox run || status=1
fi
# Last, so that the output ends with pytest's own summary.
"$python" -m pytest tests/kit -n 2 || status=1
exit $status
