"""What a wheel needs of the machine that it is copied to."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kit.building import portability

from .conftest import script
from .test_prebuilt import make_wheel


def test_the_oldest_glibc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert portability.needs(make_wheel(tmp_path)) == ""
    wheel = tmp_path / "tiny-1.0-cp311-cp311-linux_x86_64.whl"
    symbols = {
        "libc.so.6": ["GLIBC_2.2.5", "GLIBC_2.14", "GLIBC_2.9", "GLIBC_PRIVATE"],
        "libstdc++.so.6": ["GLIBCXX_3.4.9", "GLIBCXX_3.4.30", "CXXABI_1.3.9"],
    }
    # What auditwheel prints, in its form; and what it says of what it cannot read.
    told = json.dumps({"versioned_symbols": symbols})
    python = script(tmp_path / "python", f"echo '{told}'")
    monkeypatch.setattr(sys, "executable", str(python))
    assert portability.needs(wheel) == (
        "runs on glibc 2.14 and a libstdc++ that has GLIBCXX_3.4.30, or newer"
    )
    script(tmp_path / "python", "echo 'not a zip file' >&2; exit 1")
    assert portability.needs(wheel) == "auditwheel could not read it: not a zip file"


@pytest.mark.skipif(shutil.which("g++") is None, reason="nothing to compile with")
@pytest.mark.skipif(sys.platform != "linux", reason="auditwheel is for Linux")
def test_auditwheel_reads_a_real_library(tmp_path: Path) -> None:
    source = tmp_path / "tiny.cpp"
    source.write_text(
        "#include <cstdlib>\n#include <string>\n"
        "extern std::string s;\n"
        'void f() { s += std::getenv("HOME") + std::to_string(1); }\n'
    )
    library = tmp_path / "tiny.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    made = make_wheel(tmp_path / "w", library=library.read_bytes())
    wheel = made.rename(tmp_path / "tiny_one-1.0-cp311-cp311-linux_x86_64.whl")
    assert re.fullmatch(
        r"runs on glibc 2\.[\d.]+ and a libstdc\+\+ that has GLIBCXX_3\.4\.\d+, or newer",
        portability.needs(wheel),
    )
