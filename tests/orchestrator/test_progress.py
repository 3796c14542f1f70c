"""Progress on stderr: counts, the estimate of the time left, and the one live line."""

from __future__ import annotations

import io
import pickle
from types import SimpleNamespace

import pytest

from orchestrator.progress import Progress
from orchestrator.table import unit_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr("orchestrator.progress.time", SimpleNamespace(monotonic=lambda: self.now_s))


def screen(stream: io.StringIO) -> list[str]:
    """Lines of a terminal, with what carriage returns have drawn over."""
    lines = []
    for line in stream.getvalue().split("\n"):
        shown: list[str] = []
        for part in line.split("\r"):
            shown[: len(part)] = part
        lines.append("".join(shown).rstrip())
    return lines


def test_the_time_left_counts_only_runs_of_this_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, progress = Clock(monkeypatch), Progress(stream=io.StringIO())
    assert progress.eta_s is None
    progress.phase("search", 10, done=4)
    assert progress.eta_s is None
    clock.now_s += 6.0
    progress.ended("a", "FINISHED", 0.5, 1.0)
    progress.ended("b", "FAILED", None, 1.0)
    assert progress.eta_s == pytest.approx(6.0 / 2 * 4)
    for name in "cdefg":  # one more than planned: nothing is left, not less than that
        progress.ended(name, "FINISHED", 0.5, 1.0)
    assert progress.eta_s == 0.0
    progress.phase("finalists", 2)
    assert progress.eta_s is None


def test_the_live_line_has_counts_and_the_best_score_and_is_drawn_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    clock, stream = Clock(monkeypatch), Terminal()
    progress = Progress(stream=stream)
    progress.phase("search", 5)
    for _ in range(4):
        progress.started()
    assert screen(stream)[-1] == "search: 0/5 done  4 running"
    clock.now_s += 10.0
    progress.ended("a", "FINISHED", 0.5, 1.0)
    progress.ended("b", "FAILED", None, 1.0)
    progress.ended("c", "FINISHED", 0.25, 1.0)
    progress.ended("d", "PRUNED", 0.75, 1.0)  # it cannot win
    assert screen(stream)[-1] == "search: 4/5 done  0 running  1 failed  best score 50.0  about 2 s left"
    progress.say("an event")
    assert screen(stream) == ["search: 5 runs", "an event", ""]
    progress.interrupted()
    assert screen(stream)[-1].startswith("search: 4/5 done  0 running")


def test_scores_of_a_cost_are_shown_in_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream, kept = Terminal(), list[str]()
    progress = Progress(stream=stream)
    progress.keep(kept.append)
    progress.phase("search", 2)
    progress.ended("a", "FINISHED", -0.521, 1.25, unit_of("cost"))
    progress.ended("b", "FINISHED", -1.5, 1.25, unit_of("cost"))
    assert kept[1:] == [
        "    1/2 a  finished  score -0.521  1.2 s",
        "    2/2 b  finished  score -1.500  1.2 s",
    ]
    assert screen(stream)[-1] == "search: 2/2 done  0 running  best score -0.521  about 0 s left"


def test_a_live_line_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    progress = Progress(stream=stream)
    progress.phase("search", 1000)
    progress.started()
    assert screen(stream)[-1] == "search: 0/1000 do"  # one column less than there are, and two for ^C


def test_the_end_begins_a_line_of_its_own_and_so_does_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream, kept = Terminal(), list[str]()
    progress = Progress(stream=stream)
    progress.keep(kept.append)
    progress.phase("search", 5)
    progress.started()
    stream.write("^C")  # of the terminal itself
    progress.end(lambda width: f"kept in {width} columns\n\nnext           go on")
    progress.started()  # late, of another thread
    stream.write("$ ")
    assert screen(stream) == [
        "search: 5 runs", "", "kept in 80 columns", "", "next           go on", "$",
    ]  # fmt: skip
    assert kept[1:] == ["kept in None columns", "next           go on"]


def test_a_close_takes_the_live_line_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    progress = Progress(stream=stream)
    progress.phase("search", 5)
    progress.started()
    progress.close()
    stream.write("$ ")
    assert screen(stream) == ["search: 5 runs", "$"]
    progress.close()  # again, changes nothing
    assert screen(stream) == ["search: 5 runs", "$"]


def test_quiet_prints_warnings_only_and_everything_is_kept() -> None:
    stream, kept = Terminal(), list[str]()
    progress = Progress(quiet=True, stream=stream)
    progress.keep(kept.append)
    progress.phase("search", 2, done=1)
    progress.started()
    progress.ended("a", "FINISHED", 0.5, 1.25)
    progress.warn("odd")
    progress.end(lambda _width: "the end")
    assert stream.getvalue() == "warning: odd\n"
    assert kept == [
        "search: 2 runs, 1 of them there already",
        "    2/2 a  finished  score  50.0  1.2 s",
        "warning: odd",
        "the end",
    ]


def test_runs_that_never_started_end_too() -> None:
    progress = Progress(stream=(stream := io.StringIO()))
    progress.phase("search", 2)
    progress.ended("a", "KILLED", None, 0.0)
    progress.interrupted()
    progress.started()
    assert stream.getvalue().splitlines()[-1] == "    1/2 a  killed  0.0 s"


def test_a_copy_for_another_process_is_made_without_the_stream() -> None:
    assert isinstance(pickle.loads(pickle.dumps(Progress(stream=io.StringIO()))), Progress)
