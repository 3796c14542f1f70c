"""How commands end on a real terminal: what was found or kept, and what next, on lines of their own."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import SLOW_SMOKE, SMOKE, environment
from tests.fakes.in_process import launch

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux"),
]

PROMPT = "prompt>"
FEW = ("search.num_trials=3", "selection.replicates=1", "selection.finalists=1")


class Screen:
    """A terminal of 100 columns with a shell in it."""

    def __init__(self, cwd: Path) -> None:
        self.socket, self.number = f"selmix-{uuid.uuid4().hex[:8]}", 0
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "60", "-c", str(cwd), "sh")
        kept = environment()
        variables = {key: kept[key] for key in ("PYTHONPATH", "OMP_NUM_THREADS")} | {"PS1": f"{PROMPT} "}
        words = " ".join(f"{key}={shlex.quote(value)}" for key, value in variables.items())
        self.type(f"unset MLFLOW_TRACKING_URI RAY_ADDRESS COLUMNS LINES; export {words}; clear")
        self.wait_until(lambda: self.lines() == [PROMPT])

    def _tmux(self, *arguments: str) -> str:
        return subprocess.run(
            ["tmux", "-L", self.socket, *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)
        self._tmux("send-keys", "Enter")

    def interrupt(self) -> None:
        self._tmux("send-keys", "C-c")

    def lines(self) -> list[str]:
        """What stands on the terminal, lines that it broke joined again."""
        text = self._tmux("capture-pane", "-p", "-J", "-S", "-200")
        return [line.rstrip() for line in text.rstrip().splitlines()]

    def wait_until(self, holds: Callable[[], bool], timeout: float = 120) -> None:
        end = time.monotonic() + timeout
        while not holds():
            assert time.monotonic() < end, "\n".join(self.lines())
            time.sleep(0.1)

    def run(self, *arguments: str | Path) -> None:
        words = [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)]
        # A mark of its own: what the command before left on the screen is no end of this one.
        self.number += 1
        self.type(f"clear; {shlex.join(words)}; echo code $? of {self.number}")

    def ended(self) -> list[str]:
        """Lines of a command up to its end, where the prompt must stand by itself."""
        mark = f" of {self.number}"
        self.wait_until(lambda: [line.endswith(mark) for line in self.lines()[-2:]] == [True, False])
        *lines, end, prompt = self.lines()
        assert prompt == PROMPT
        return [*lines, end.removesuffix(mark)]

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    made = Screen(tmp_path)
    try:
        yield made
    finally:
        made.close()


def check_no_live_line(lines: list[str]) -> None:
    """Nothing is left of the live line, and nothing stands behind or before it."""
    assert not [line for line in lines if " done  " in line or "^C" in line]


def test_a_launch_ends_with_its_verdict_and_what_next(screen: Screen, tmp_path: Path) -> None:
    screen.run("launch", SMOKE, *FEW, "--in-process", "--runs", "my runs")
    lines = screen.ended()
    check_no_live_line(lines)
    assert lines[-1] == "code 0"
    verdict = re.compile(r"min_recall: (BETTER|TIED|CANNOT TELL|WORSE): ")
    start = next(number for number, line in enumerate(lines) if verdict.match(line))
    assert lines[start - 1] == ""
    end = lines[start:]
    text = "\n".join(end)
    assert "next           selmix pin smoke --runs 'my runs' --name NAME: evaluate" in text
    assert "selmix ui --runs 'my runs': every run and round in MLflow" in text
    assert "selmix show smoke --runs 'my runs': " in text
    assert re.search(
        r"(?m)^ +http://127\.0\.0\.1:5000/#/experiments/\d+/runs\?workflowType=machine_learning&view", text
    )
    # Each piece of advice is a command that works as it stands.
    screen.run("show", "smoke", "--runs", "my runs")
    assert screen.ended()[-1] == "code 0"


def test_ctrl_c_ends_with_what_was_kept_and_how_to_resume(screen: Screen, tmp_path: Path) -> None:
    more = ("search.num_trials=8", "parameters.steps.value=2000")
    screen.run("launch", SLOW_SMOKE, *more, "--in-process", "--runs", "kept")
    screen.wait_until(lambda: any("1 running" in line for line in screen.lines()))
    screen.interrupt()
    lines = screen.ended()
    check_no_live_line(lines)
    assert lines[-1] == "code 130"
    assert any(line.startswith("stopping: what is finished is kept") for line in lines)
    start = next(number for number, line in enumerate(lines) if line.startswith("smoke is stopped: "))
    assert lines[start - 1] == ""
    # Corrections and heads were done before the search.
    kept = r"smoke is stopped: (\d+) finished runs kept, 1 other to be resumed \(1 from a checkpoint\)"
    assert (found := re.fullmatch(kept, lines[start])) is not None
    assert int(found[1]) > 5
    text = " ".join(line.strip() for line in lines[start:])
    command = f"selmix launch {SLOW_SMOKE} {' '.join(more)} --in-process --runs kept: resume"
    assert f"next           {command}" in text
    assert "selmix show smoke --runs kept: what there is so far" in text


@pytest.mark.usefixtures("four_baselines")
def test_a_pin_ends_with_its_verdict_on_test(screen: Screen, tmp_path: Path) -> None:
    assert launch(tmp_path / "r", *FEW).code == 0
    screen.run("pin", "smoke", "--name", "first", "--runs", "r", "--pins", "p")
    lines = screen.ended()
    assert lines[0] == "p/first.yaml"
    assert lines[-1] == "code 0"
    assert lines[1] == ""
    text = " ".join(line.strip() for line in lines[2:])
    assert re.match(
        r"first: min_recall on test \d+\.\d \[\d+\.\d, \d+\.\d\] % \(95 % interval\); on test ", text
    )
    assert "selmix reproduce first --runs r --pins p: train it again" in text
    assert 'selmix.load_pin("p/first.yaml") in Python' in text
