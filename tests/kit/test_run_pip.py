"""What is kept of the user's settings for pip."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import World
from kit.processes import pip
from kit.releases import ROOT

# As pip prints it; the values of the last two were given in several lines of a file.
LISTING = r"""
:env:.index-url='of the variable'
:env:.user='1'
download.timeout='7'
global.cert='/etc/ssl/certs.pem'
global.constraint='/etc/constraints.txt'
global.index-url='of the file'
global.timeout='180'
global.user='true'
install.proxy='for install alone'
install.target='/elsewhere'
global.trusted-host="a's\nb"
global.find-links='\n/one\n/two'
WARNING: something that pip says
"""


def test_kept_settings() -> None:
    kept_settings = runpy.run_path(str(ROOT / "scripts/kit/programs/run_pip.py"))["kept_settings"]
    kept = {
        "PIP_CERT": "/etc/ssl/certs.pem",
        "PIP_FIND_LINKS": "\n/one\n/two",
        "PIP_INDEX_URL": "of the variable",
        "PIP_TRUSTED_HOST": "a's\nb",
    }
    assert kept_settings(LISTING, ["download", "x"]) == {**kept, "PIP_TIMEOUT": "7"}
    for_install = {**kept, "PIP_TIMEOUT": "180", "PIP_PROXY": "for install alone"}
    assert kept_settings(LISTING, ["--python", "p", "install", "x"]) == for_install


def test_broken_settings_are_shown(tmp_path: Path) -> None:
    broken = tmp_path / "pip.conf"
    broken.write_text("no section\n")
    result = subprocess.run(
        [*pip(sys.executable), "--version"],
        env={**os.environ, "PIP_CONFIG_FILE": str(broken)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode != 0
    assert str(broken) in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("isolated", [True, False])
def test_isolation(tmp_path: Path, isolated: bool) -> None:
    """An interpreter of the user's still sees what PYTHONPATH holds, such as its torch."""
    (tmp_path / "sitecustomize.py").write_text("print('from PYTHONPATH')\n")
    result = subprocess.run(
        [*pip(sys.executable, isolated=isolated), "--version"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1].startswith("pip ")
    assert ("from PYTHONPATH" in result.stdout) == (not isolated)


def test_download_with_settings_for_other_installations(world: World, tmp_path: Path) -> None:
    """The kit's downloads do not follow what the user has set for their own."""
    (tmp_path / "click.py").write_text("raise SystemExit('not the real click')\n")
    env = {
        "PIP_ONLY_BINARY": ":all:",
        "PIP_CONSTRAINT": str(tmp_path / "nowhere.txt"),
        "PIP_PYTHON": str(tmp_path / "nowhere"),
        "PIP_PLATFORM": "win32",
        "PIP_USER": "1",
    }
    result = world.apply("1.8.0", "--source", "sdist", "--dest", tmp_path / "out", env=env)
    assert result.returncode == 0, result.stderr
