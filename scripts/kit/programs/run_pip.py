"""Runs pip with the user's index, proxy and certificates, and with no other setting of theirs.

    python [-I] run_pip.py ARGUMENT ...          the arguments are pip's

Imports nothing of the kit, and runs on Python 3.7 and newer: the interpreter may be the
user's. pip reads its settings from `PIP_*` variables and from its configuration files. An
index, a proxy or a certificate in them is needed to download anything at all. Others, such
as `user`, `target`, `no-deps` or `constraint`, are meant for what the user installs, and
would break the kit's environments. With -I, neither pip nor what it builds with sees
PYTHONPATH.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

# Options of pip, by their names in its configuration.
KEPT = (
    "cache-dir",
    "cert",
    "client-cert",
    "default-timeout",
    "extra-index-url",
    "find-links",
    "index-url",
    "keyring-provider",
    "no-cache-dir",
    "no-index",
    "proxy",
    "pypi-url",
    "resume-retries",
    "retries",
    "timeout",
    "trusted-host",
    # `truststore` and `legacy-certs` say which certificates pip believes.
    "use-deprecated",
    "use-feature",
)


def kept_settings(listing: str, arguments: list[str]) -> dict[str, str]:
    """Picks what is kept of the user's settings.

    Args:
        listing: What `pip config list` prints: a line such as `global.index-url='...'` for
            each setting, where `:env:` stands for a variable.
        arguments: The arguments for pip. Settings of other commands than theirs are left out.

    Returns:
        The settings as variables for pip.
    """
    kept = {}
    # The later ones win, as in pip.
    for section in ("global", *arguments, ":env:"):
        for line in listing.splitlines():
            match = re.match(re.escape(section) + r"\.([\w-]+)=(['\"].*)$", line)
            if match and match.group(1) in KEPT:
                name = "PIP_" + match.group(1).upper().replace("-", "_")
                kept[name] = ast.literal_eval(match.group(2))
    return kept


def main() -> None:
    """Replaces this process by pip."""
    arguments = sys.argv[1:]
    pip = [sys.executable, *(["-I"] if sys.flags.isolated else []), "-m", "pip"]
    env = {name: value for name, value in os.environ.items() if name != "PIP_PYTHON"}
    # `user`, for one, would have it list the user's own file alone.
    env.update(
        dict.fromkeys(("PIP_QUIET", "PIP_VERBOSE", "PIP_USER", "PIP_GLOBAL", "PIP_SITE"), "0")
    )
    listed = subprocess.run([*pip, "config", "list"], env=env, stdout=subprocess.PIPE, text=True)
    if listed.returncode != 0:
        sys.exit(listed.returncode)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    env.update(kept_settings(listed.stdout, arguments))
    # pip reads no file then.
    env.update(PIP_CONFIG_FILE=os.devnull, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    if sys.flags.isolated:
        for name in ("PYTHONPATH", "PYTHONHOME"):
            env.pop(name, None)
    os.execve(sys.executable, [*pip, *arguments], env)  # noqa: S606


if __name__ == "__main__":
    main()
