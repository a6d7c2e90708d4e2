#!/usr/bin/env bash
# Makes a PyG release thread-safe: scripts/apply.sh --help
self="${BASH_SOURCE[0]}"
while [ -L "$self" ]; do # older macOS has no `readlink -f`
  target="$(readlink "$self")"
  case "$target" in /*) self="$target" ;; *) self="$(dirname -- "$self")/$target" ;; esac
done
exec "$(dirname -- "$self")/kit.sh" apply "$@"
