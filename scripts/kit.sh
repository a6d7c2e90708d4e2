#!/usr/bin/env bash
# The front door to every verb: scripts/kit.sh --help
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# The report is drawn with matplotlib, which only the environment of the tests has.
if [ "${1:-}" = report ]; then tools_python test; else tools_python kit; fi
exec "$python" "$root/scripts/kit" "$@"
