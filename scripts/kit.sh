#!/usr/bin/env bash
# The front door to every verb: scripts/kit.sh --help
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# Pages are drawn with matplotlib, which only the environment of the tests has.
case " $* " in
  " report "* | " bench "* | *" --survey "* | *" --render "*) tools_python test ;;
  *) tools_python kit ;;
esac
exec "$python" "$root/scripts/kit" "$@"
