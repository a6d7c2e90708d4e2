#!/usr/bin/env bash
# Serves a model on a PyG release, as it is and patched, and compares both under load:
# examples/serving/run.sh --help
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"
tools_python serving
PYTHONPATH="$root/scripts" exec "$python" "$root/examples/serving/compare.py" "$@"
