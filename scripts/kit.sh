#!/usr/bin/env bash
# The front door to every verb: scripts/kit.sh --help
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
tools_python kit
exec "$python" "$root/scripts/kit" "$@"
