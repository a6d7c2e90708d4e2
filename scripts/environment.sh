# Sourced by kit.sh and test.sh: `tools_python GROUP` sets `python` to the
# interpreter of a virtual environment with a dependency group of pyproject.toml,
# and makes that environment on first use. For bash 3.2 (macOS) too.
# shellcheck shell=bash

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

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
    # tarfile.data_filter, which unpacks sdists safely, came with 3.10.12.
    if "$candidate" -c 'import sys, tarfile; sys.exit(not hasattr(tarfile, "data_filter") or sys.version_info < (3, 10))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "the kit needs Python 3.10.12 or newer, and found" \
    "$("${PYTHON:-python3}" --version 2>&1 || true)." \
    "Install a newer one, or name it: PYTHON=/path/to/python3.12 scripts/apply.sh ..."
}

# An environment is made under a name of its own and linked into place in one
# step: two first runs at once, or one that is interrupted, leave either a whole
# environment or none.
make_environment() {
  local group="$1" base made log stale
  base="$(find_python)" || exit $?
  mkdir -p "$root/.kit"
  made="$(mktemp -d "$root/.kit/$group-XXXXXX")"
  log="$made/install.log"
  # shellcheck disable=SC2064  # `made` is local: expand it now
  trap "rm -rf '$made'" EXIT
  printf 'Setting up the tools in .kit/%s (first use, takes some seconds) ...\n' "$group" >&2
  "$base" -m venv "$made" >"$log" 2>&1 ||
    fail "'$base -m venv' failed: $(tail -n 3 "$log"). On Debian and Ubuntu: apt install python3-venv."
  # Dependency groups need pip 25.1.
  (
    cd "$root" &&
      "$made/bin/python" -m pip install -q --disable-pip-version-check -U 'pip>=25.1' &&
      "$made/bin/python" -m pip install -q --disable-pip-version-check --group "$group"
  ) >"$log" 2>&1 ||
    fail "pip could not install what pyproject.toml lists as '$group': $(grep -v '^WARNING' "$log" | tail -n 2)." \
      "This needs PyPI once: check the network, and 'pip config list' for a proxy or a mirror."
  cp "$root/pyproject.toml" "$made/made-from.toml"
  if is_current "$group"; then
    rm -rf "$made" # another run was faster; its environment is as good
  else
    stale="$(readlink "$root/.kit/$group" || true)"
    rm -f "$root/.kit/$group"
    # -n: never into a directory that another run has linked here just now.
    ln -sn "${made##*/}" "$root/.kit/$group" 2>/dev/null || rm -rf "$made"
    if [ -n "$stale" ]; then rm -rf "${root:?}/.kit/$stale"; fi
  fi
  trap - EXIT
}

is_current() {
  cmp -s "$root/pyproject.toml" "$root/.kit/$1/made-from.toml"
}

tools_python() {
  command -v git >/dev/null 2>&1 || fail "git was not found. Install git 2.25 or newer."
  is_current "$1" || make_environment "$1"
  # shellcheck disable=SC2034  # for the script that sources this file
  python="$root/.kit/$1/bin/python"
}
