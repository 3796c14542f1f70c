"""The first commands of a newcomer: an old Python, a venv that was left half made, too little disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

OLD = f"""#!/bin/sh
# Answers as Python 3.10 does, and leaves a venv as one without pip is left.
case "$1" in
  --version) echo "Python 3.10.12" ;;
  -c) exec {sys.executable} -c "import sys; sys.version_info = (3, 10, 12, 'final', 0); exec(sys.argv[1])" "$2" ;;
  -m) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what `make` reads, where python3 on the PATH is an old one."""
    home, old = tmp_path / "checkout", tmp_path / "old"
    home.mkdir()
    old.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, home)
    (old / "python3").write_text(OLD)
    (old / "python3").chmod(0o755)
    return home


def make(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{home.parent / 'old'}:{os.environ['PATH']}"
    # pytest's own make, if it runs under one, must not reach this one.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "PYTHON"))}
    return subprocess.run(
        ["make", *arguments], cwd=home, env=inherited | {"PATH": path} | variables, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def test_an_old_python_is_named_before_a_venv_is_made(checkout: Path) -> None:
    done = make(checkout, "sweep")
    assert done.returncode != 0
    said, *rest = done.stderr.splitlines()
    assert said == (
        "selmix needs Python 3.11 or newer; python3 is Python 3.10.12; name another: PYTHON=python3.11 make sweep"
    )
    assert all(line.startswith("make: ***") for line in rest)
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_not_there_is_named(checkout: Path) -> None:
    done = make(checkout, "test", PYTHON="python9")
    assert "there is no python9 here; name yours: PYTHON=python3.11 make test" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.slow
def test_a_half_made_venv_is_made_again_by_the_named_python_and_disk_is_checked_first(checkout: Path) -> None:
    # As an old Python, or one without ensurepip, would have left it.
    subprocess.run(
        [str(checkout.parent / "old" / "python3"), "-m", "venv", ".venv"], cwd=checkout, check=True
    )
    done = make(checkout, "sweep", "FREE_MB=10", PYTHON=sys.executable)
    assert done.returncode != 0
    (said, *rest) = done.stderr.splitlines()
    assert said.startswith("selmix needs ")
    assert " MB of disk for its installation below /" in said
    assert ", 10 MB are free; make room, " in said
    assert not any("pip" in line for line in rest)
    assert not (checkout / ".venv" / ".installed").exists()
    venv = checkout / ".venv" / "bin" / "python"
    # The new one stands, with a pip, and a Python that is new enough.
    subprocess.run([str(venv), "-c", "import pip, sys; assert sys.version_info >= (3, 11)"], check=True)
    before = venv.lstat().st_mtime_ns
    again = make(checkout, ".venv/.made")
    assert again.returncode == 0, again.stderr  # the old python3 on the PATH is not asked any more
    assert venv.lstat().st_mtime_ns == before


def test_disk_is_added_up_by_file_system(checkout: Path, tmp_path: Path) -> None:
    """The three places may be one: then what they need together must be free."""
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".made").touch()
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, free in (("one", (13_200, 13_200, 13_200)), ("apart", (6_600, 3_300, 3_300))):
        for less in range(-1, 3):
            left = [
                each - (number == less or (less >= 0 and name == "one")) for number, each in enumerate(free)
            ]
            rows = "".join(
                f"echo '/dev/{name if name == 'one' else number} 1 1 {each} 1% /{number}'\n"
                for number, each in enumerate(left)
            )
            (tools / "df").write_text(f"#!/bin/sh\necho Filesystem\n{rows}")
            (tools / "df").chmod(0o755)
            done = make(checkout, "install", PATH=f"{tools}:{os.environ['PATH']}")
            refused = "selmix needs " in done.stderr
            # Where the disk suffices the next step fails: there is no pip in this venv.
            assert refused == (less >= 0), (name, less, done.stderr)
            assert refused or ".venv/bin/python" in done.stderr
