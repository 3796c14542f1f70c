"""Output that its reader, its disk or its terminal does not take: work and exit codes stay what they are."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.output import err, out, prepare_streams
from orchestrator.errors import PreflightError
from orchestrator.progress import INTERRUPT, Progress
from orchestrator.table import printable

SELMIX = [sys.executable, "-m", "orchestrator.cli"]


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


class Gone(io.StringIO):
    """A pipe whose reader has ended."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("stream", [Full(), Gone()])
def test_progress_that_nobody_takes_is_kept_in_the_log_and_ends_nothing(stream: io.StringIO) -> None:
    kept: list[str] = []
    progress = Progress(stream=stream)
    progress.keep(kept.append)
    progress.phase("search", 2)
    progress.started()
    progress.ended("trial-000", "FINISHED", 0.5, 1.0)
    progress.warn("careful")
    assert [line.split()[0] for line in kept] == ["search:", "1/2", "warning:"]
    closed = io.StringIO()
    closed.close()
    Progress(stream=closed).say("nobody hears")


def test_a_live_line_is_taken_back_before_the_next_text() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(stream=stream)
    progress.phase("search", 1)
    progress.started()
    progress.say("a line")
    assert "\r" + " " * (len("search: 0/1 done  1 running") + INTERRUPT) + "\ra line\n" in stream.getvalue()


def test_a_reader_that_ends_first_is_no_error_and_a_full_disk_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Gone())
    assert out("text") is False
    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(PreflightError, match="stdout: must be writable: No space left on device"):
        out("text")
    monkeypatch.setattr(sys, "stderr", Full())
    err("a message that nobody reads")


def test_streams_that_the_shell_closed_are_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    prepare_streams()
    assert out("text") is True
    err("text")
    for stream in (sys.stdout, sys.stderr):
        stream.close()


def test_characters_that_steer_a_terminal_are_written_out() -> None:
    assert printable("ant\x1b]0;title\x07 \x9b2J\rbee") == "ant\\x1b]0;title\\x07 \\x9b2J\\x0dbee"
    assert printable("\x1b[1mbold\x1b[0m\tline\nline äß") == "\x1b[1mbold\x1b[0m\tline\nline äß"


@pytest.mark.parametrize(
    ("redirected", "code"),
    [("| head -c 1", 0), ("> /dev/full", 4), (">&-", 0), ("2>&-", 0), ("2> /dev/full", 0)],
)
def test_of_a_real_process(redirected: str, code: int, tmp_path: Path) -> None:
    command = f"{' '.join(SELMIX)} ls --recipes {redirected}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"}, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("redirected", ["2>&1 | head -2", "2>/dev/full"])
def test_a_sweep_goes_on_without_its_progress(redirected: str, tmp_path: Path) -> None:
    smoke = Path(__file__).parents[3] / "sweeps" / "smoke.yaml"
    command = f"{' '.join(SELMIX)} launch {smoke} search.num_trials=2 --in-process {redirected}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=tmp_path, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    state = json.loads((tmp_path / "runs" / "smoke" / "sweep.json").read_text())
    assert (state["state"], state["exit_code"]) == ("finished", 0)


@pytest.mark.slow
def test_a_sweep_outlives_its_terminal(tmp_path: Path) -> None:
    smoke = Path(__file__).parents[3] / "sweeps" / "smoke.yaml"
    with subprocess.Popen(
        [*SELMIX, "launch", str(smoke), "search.num_trials=2", "--in-process"], cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stderr is not None
        # Once runs begin the driver listens.
        next(line for line in process.stderr if "runs" in line)
        process.send_signal(signal.SIGHUP)
        said = process.stderr.read()
        assert process.wait(timeout=600) == 0, said
    assert "the terminal is gone, the sweep goes on" in said
