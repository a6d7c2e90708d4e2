#!/usr/bin/env bash
# The front door to every verb: scripts/kit.sh --help
set -euo pipefail
self="${BASH_SOURCE[0]}"
while [ -L "$self" ]; do # older macOS has no `readlink -f`
  target="$(readlink "$self")"
  case "$target" in /*) self="$target" ;; *) self="$(dirname -- "$self")/$target" ;; esac
done
# shellcheck source=scripts/environment.sh
source "$(dirname -- "$self")/environment.sh"
# shellcheck disable=SC2034  # for environment.sh
case " $* " in *" --quiet "* | *" -q "*) quiet=yes ;; esac
# Pages are drawn with matplotlib, which only the environment of the tests has.
case " $* " in
  " report "* | " bench "* | *" --survey "* | *" --outside "* | *" --render "*) tools_python test ;;
  *) tools_python kit ;;
esac
# -I: what lies in PYTHONPATH is for the programs that the kit runs, not for the kit.
exec "$python" -I "$root/scripts/kit" "$@"
