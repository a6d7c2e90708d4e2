# Sourced by the scripts beside it: `tools_python GROUP` sets `python` to the
# interpreter of a virtual environment with a dependency group of pyproject.toml, in
# the versions that locks/GROUP.txt pins, and makes that environment on first use.
# For bash 3.2 (macOS) too.
# shellcheck shell=bash

# With it, `cd` prints where it goes.
unset CDPATH
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
# Some scripts change the directory before the interpreter that the user named is used.
case "${PYTHON:-}" in
  /*) ;;
  */*) export PYTHON="$PWD/$PYTHON" ;;
esac

fail() { # 5 is the exit code for a missing tool, as in kit/errors.py
  printf 'error: %s\n' "$*" >&2
  exit 5
}

find_python() {
  local candidate
  # An interpreter that the user named is not silently replaced by another.
  if [ -n "${PYTHON:-}" ]; then
    set -- "$PYTHON"
  else
    set -- python3 python3.14 python3.13 python3.12 python3.11 python3.10
  fi
  for candidate in "$@"; do
    if "$candidate" -I -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "the kit needs Python 3.10 or newer, and found" \
    "$("${PYTHON:-python3}" --version 2>&1 || true)." \
    "Install a newer one, or name it: PYTHON=/path/to/python3.12 scripts/apply.sh ..."
}

# An environment is made under a name of its own and linked into place in one
# step: two first runs at once, or one that is interrupted, leave either a whole
# environment or none.
make_environment() {
  local group="$1" lock="scripts/locks/$1.txt" base log stale
  base="$(find_python)" || exit $?
  if [ -e "$root/.kit/$group" ] && [ ! -L "$root/.kit/$group" ]; then
    fail "$root/.kit/$group has to be made anew, and is not the link that the kit made. Remove it."
  fi
  mkdir -p "$root/.kit" 2>/dev/null || true
  new="$(mktemp -d "$root/.kit/$group-XXXXXX" 2>/dev/null)" ||
    fail "$root/.kit/$group has to be made, and $(id -un 2>/dev/null || true) may not write there." \
      "Make $root/.kit writable, or use a clone of your own."
  trap 'rm -rf "$new"' EXIT
  # For whoever may read the clone, too: mktemp lets nobody else in.
  chmod +rx "$new"
  log="$new/install.log"
  [ -n "${quiet:-}" ] ||
    printf 'Setting up the tools in .kit/%s (first use, takes some seconds) ...\n' "$group" >&2
  if ! "$base" -I -m venv "$new" >"$log" 2>&1; then
    if "$base" -I -c 'import ensurepip' 2>/dev/null; then
      fail "'$base -m venv' failed: $(tail -n 3 "$log")"
    fi
    fail "$base cannot make virtual environments: it has no ensurepip." \
      "On Debian and Ubuntu: apt install python3-venv."
  fi
  "$new/bin/python" -I "$root/scripts/kit/programs/run_pip.py" install --quiet \
    --require-hashes --requirement "$root/$lock" >"$log" 2>&1 ||
    fail "pip could not install what $lock lists: $(grep -v '^WARNING' "$log" | tail -n 2)." \
      "This needs PyPI once: check the network, and 'pip config list' for a proxy or a mirror."
  cp "$root/$lock" "$new/made-from.txt"
  if is_current "$group"; then
    rm -rf "$new" # another run was faster; its environment is as good
  else
    stale="$(readlink "$root/.kit/$group" || true)"
    rm -f "$root/.kit/$group"
    # -n: never into a directory that another run has linked here just now.
    ln -sn "${new##*/}" "$root/.kit/$group" 2>/dev/null || rm -rf "$new"
    # What another user made is theirs to remove.
    if [ -n "$stale" ]; then rm -rf "${root:?}/.kit/$stale" 2>/dev/null || true; fi
  fi
  trap - EXIT
}

# Whether an environment was made from the lock file as it is now, still runs, and has
# the Python that the user named.
is_current() {
  local made="$root/.kit/$1" version='import sys; print(sys.version)' own
  cmp -s "$root/scripts/locks/$1.txt" "$made/made-from.txt" || return 1
  # pip is in each. It cannot be imported once another Python has taken the base's place.
  own="$("$made/bin/python" -I -c "import pip; $version" 2>/dev/null)" || return 1
  [ -z "${PYTHON:-}" ] || [ "$own" = "$("$PYTHON" -I -c "$version" 2>/dev/null)" ]
}

tools_python() {
  command -v git >/dev/null 2>&1 || fail "git was not found. Install git 2.25 or newer."
  is_current "$1" || make_environment "$1"
  # shellcheck disable=SC2034  # for the script that sources this file
  python="$root/.kit/$1/bin/python"
}
