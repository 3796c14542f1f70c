"""Runs the command line as a user does, in a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cli.main import main

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "sweeps" / "smoke.yaml"
SLOW_SMOKE = ROOT / "tests" / "fixtures" / "smoke_on_digits.yaml"
"""A sweep of the same name and keys, whose runs last long enough to be caught in the midst of one."""

SMALL = ("search.num_trials=2", "selection.replicates=1", "parameters.steps.value=20")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.out)
        return loaded


def environment(**extra: str) -> dict[str, str]:
    """The test's own environment without what would point a sweep elsewhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | extra


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)]


def selmix(*arguments: str | Path, cwd: Path = ROOT, timeout: float = 600, **extra: str) -> Done:
    """Run ``selmix ARGUMENTS``; ``extra`` are environment variables."""
    done = subprocess.run(
        command(*arguments), cwd=cwd, env=environment(**extra), capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def in_home(script: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script with a new home folder as a user's process would, without what the tests set for MLflow."""
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "CI", "PYTEST", "XDG"))}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], env=kept | {"HOME": str(home)}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def here(*arguments: str | Path, cwd: Path = ROOT) -> Done:
    """``selmix ARGUMENTS`` in this process: one of its own would spend its time on importing torch."""
    out, err, path = io.StringIO(), io.StringIO(), list(sys.path)
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
    finally:
        sys.path[:] = path
    return Done(code, out.getvalue(), err.getvalue())


class Background:
    """A command that goes on while the test looks at it; killed at the end."""

    def __init__(self, *arguments: str | Path, log: Path, **extra: str) -> None:
        self._log = log.open("w")
        self.process = subprocess.Popen(
            command(*arguments), cwd=ROOT, env=environment(**extra), stdout=self._log, stderr=self._log,
            start_new_session=True,
        )  # fmt: skip
        self.log = log

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()

    def wait_until(self, holds: Callable[[], bool], timeout: float = 300) -> None:
        """Wait for something to come true while the command lives."""
        end = time.monotonic() + timeout
        while not holds():
            assert self.process.poll() is None, f"ended early: {self.log.read_text()}"
            assert time.monotonic() < end, f"not within {timeout} s: {self.log.read_text()}"
            time.sleep(0.1)

    def signal(self, number: int) -> None:
        """As the terminal does it: to the whole process group."""
        os.killpg(self.process.pid, number)

    def kill_driver(self) -> None:
        """``kill -9`` of the driver alone."""
        self.process.kill()
        self.process.wait()


def no_ray_of(process: subprocess.Popen[bytes], timeout: float = 20) -> bool:
    """Whether everything that the driver started is gone."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        listed = subprocess.run(["ps", "-eo", "sid,args"], capture_output=True, text=True, check=True).stdout
        if not any(line.split()[0] == str(process.pid) for line in listed.splitlines()[1:]):
            return True
        time.sleep(0.5)
    return False
