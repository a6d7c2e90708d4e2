#!/usr/bin/env bash
set -euo pipefail
usage() {
  cat <<'TEXT'
Usage: scripts/lock.sh [--upgrade | --audit | --help]

Writes scripts/locks/*.txt: the versions and hashes of what the dependency groups
of pyproject.toml install, for Python 3.10 and newer on every platform.

  (no option)    Add and remove what pyproject.toml does; other versions stay.
  --upgrade      Take the newest versions.
  --audit        Write nothing; look the versions up among those known to be
                 vulnerable, for the Python at hand.
  --help         Show this, and exit.

Exit codes: 0 done, 1 it failed or a version is vulnerable, 2 wrong usage, 5 a tool
that is needed is missing.
TEXT
}
case "$#:${1:-}" in
  0: | 1:--upgrade | 1:--audit) ;;
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
tools_python lock
cd "$root"
if [ "${1:-}" = --audit ]; then
  files=()
  for file in scripts/locks/*.txt; do files+=(--requirement "$file"); done
  exec "$python" -I -m pip_audit --disable-pip --require-hashes "${files[@]}"
fi
# `test` first, which holds the other two: a package has one version in all three.
for group in test kit serving lock; do
  constraint=()
  case "$group" in kit | serving) constraint=(--constraint scripts/locks/test.txt) ;; esac
  UV_CUSTOM_COMPILE_COMMAND=scripts/lock.sh .kit/lock/bin/uv pip compile --quiet \
    --group "$group" --universal --python "$python" --python-version 3.10 \
    --generate-hashes --annotation-style line --no-emit-index-url --no-emit-find-links \
    ${constraint[@]+"${constraint[@]}"} ${1:+"$1"} --output-file "scripts/locks/$group.txt"
done
