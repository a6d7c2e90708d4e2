#!/usr/bin/env bash
set -uo pipefail
usage() {
  cat <<'TEXT'
Usage: scripts/test.sh [--quick | --coverage | --environment NAME | --help]

Runs the whole test suite: lint, the tox matrix, and the tests of the kit.

  --quick               Lint and the tests of the kit, without the matrix.
  --coverage            The tests of the kit alone, and which branches of the kit
                        they run: it fails where those are too few.
  --environment NAME    One environment of the matrix, and nothing else;
                        '.kit/test/bin/python -m tox list' names them.
  --help                Show this, and exit.

PYTHON names the interpreter to use (3.10 or newer), PYG_THREADSAFE_CACHE where
downloads and wheels are kept, PYG_THREADSAFE_FIND_LINKS a wheel index or directory
with wheels of the extensions, which are used where they fit.

Exit codes: 0 all passed, 1 something failed, 2 wrong usage, 5 a tool that is
needed is missing. With --environment NAME, the exit code is tox's.
TEXT
}
case "$#:${1:-}" in
  0: | 1:--quick | 1:--coverage | 2:--environment) ;;
  1:--help | 1:-h) usage && exit ;;
  *) usage >&2 && exit 2 ;;
esac
self="${BASH_SOURCE[0]}"
while [ -L "$self" ]; do # older macOS has no `readlink -f`
  target="$(readlink "$self")"
  case "$target" in /*) self="$target" ;; *) self="$(dirname -- "$self")/$target" ;; esac
done
# shellcheck source=scripts/environment.sh
source "$(dirname -- "$self")/environment.sh"
tools_python test
cd "$root" || exit
# The tests are about what lies here. Without asserts, they would all pass; without bytecode,
# each of the thousand processes that they start would compile the kit once more.
unset PYTHONPATH PYTHONHOME PYTHONOPTIMIZE PYTHONDONTWRITEBYTECODE
if [ "${1:-}" = --environment ]; then exec "$python" -m tox run -e "$2"; fi
status=0
if [ "${1:-}" = --coverage ]; then
  export COVERAGE_FILE="$root/build/coverage/data"
  rm -rf "$root/build/coverage" && mkdir -p "$root/build/coverage" || exit 1
  "$python" -m coverage run -m pytest tests/kit -n 2 --dist worksteal || status=1
  "$python" -m coverage combine --quiet && "$python" -m coverage report || status=1
  exit $status
fi
"$python" -m pre_commit run --all-files || status=1
if [ "${1:-}" != --quick ]; then
  # First, and where its progress is seen: torch, and the wheels that take longest.
  scripts/kit.sh env --extensions &&
    "$python" -m tox run-parallel --parallel auto || status=1
fi
# Last, so that the output ends with pytest's own summary.
"$python" -m pytest tests/kit -n 2 --dist worksteal || status=1
exit $status
