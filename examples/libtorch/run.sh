#!/usr/bin/env bash
# Lets eight threads in C++ share a scripted model of PyG, as released and patched:
# examples/libtorch/run.sh --help
set -euo pipefail
usage() {
  cat <<'TEXT'
Usage: examples/libtorch/run.sh [PYG-VERSION]

Scripts a model of one TransformerConv on a PyG release (2.4.0 unless named; 2.3.0
or newer), as it is and patched. Builds serve.cpp against libtorch, which comes with
torch, and lets eight threads share each model, three times.

CALLS is how many calls a run makes (20000), CXX the compiler (c++, for C++17).

Exit codes: 0 all answers of the patched model were right, 1 they were not, 2 wrong
usage, 5 this machine lacks something, such as a compiler; those of
'scripts/apply.sh --help' where the release cannot be downloaded.
TEXT
}
case "$#:${1:-}" in
  1:--help | 1:-h) usage && exit ;;
  1:-* | [2-9]:*) usage >&2 && exit 2 ;;
esac
version="${1:-2.4.0}" calls="${CALLS:-20000}" cxx="${CXX:-c++}"
self="${BASH_SOURCE[0]}"
while [ -L "$self" ]; do # older macOS has no `readlink -f`
  target="$(readlink "$self")"
  case "$target" in /*) self="$target" ;; *) self="$(dirname -- "$self")/$target" ;; esac
done
here="$(CDPATH='' cd -- "$(dirname -- "$self")" && pwd)"
kit="$here/../../scripts"
if ! command -v "$cxx" >/dev/null; then
  echo "error: there is no C++ compiler '$cxx'. Install g++ or clang, or name one: CXX=..." >&2
  exit 5
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
python="$("$kit/kit.sh" env | tail -1)"
"$kit/apply.sh" "$version" --dest "$work/patched" --source sdist >"$work/log"
git -C "$work/patched" worktree add --quiet "$work/unpatched" pristine

echo "Building serve.cpp (a minute) ..." >&2
flags=()
while IFS= read -r flag; do flags+=("$flag"); done < <("$python" "$here/flags.py")
"$cxx" "$here/serve.cpp" -o "$work/serve" "${flags[@]}"

echo "PyG $version: $calls calls by 8 threads; right / crashed / silently wrong"
status=0
for tree in unpatched patched; do
  PYTHONPATH="$work/$tree" PYG_HOME="$work/$tree.home" TMPDIR="$work" \
    "$python" -W ignore "$here/export.py" "$work/$tree.pt" "$work/requests.pt"
  for _ in 1 2 3; do
    code=0
    # In a shell of its own, whose words on the death of a process are not shown.
    ended="$(OMP_NUM_THREADS=1 bash -c '"$@"; exit $?' - \
      "$work/serve" "$work/$tree.pt" "$work/requests.pt" "$calls" 2>"$work/log")" || code=$?
    if [ "$code" -gt 128 ]; then
      ended="the process died: SIG$(kill -l "$code")"
    elif [ "$code" -ne 0 ]; then
      cat "$work/log" >&2
      exit 5
    else
      ended="${ended// / / }"
    fi
    printf '%-10s %s\n' "$tree" "$ended"
    if [ "$tree" = patched ] && [ "$ended" != "$((calls / 8 * 8)) / 0 / 0" ]; then status=1; fi
  done
done
exit $status
