#!/usr/bin/env bash
# Serves a model on a PyG release, as it is and patched, and compares both under load:
# examples/serving/run.sh --help
set -euo pipefail
self="${BASH_SOURCE[0]}"
while [ -L "$self" ]; do # older macOS has no `readlink -f`
  target="$(readlink "$self")"
  case "$target" in /*) self="$target" ;; *) self="$(dirname -- "$self")/$target" ;; esac
done
# shellcheck source=scripts/environment.sh
source "$(dirname -- "$self")/../../scripts/environment.sh"
tools_python serving
PYTHONPATH="$root/scripts" exec "$python" "$root/examples/serving/compare.py" "$@"
