"""Drain: one signal, a request or a lost lease stops a sweep; a second signal stops it at once."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cluster.ray_session import RayStart
from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.on_disk import Holder
from orchestrator.records.stop_request import request_stop
from orchestrator.records.types import SweepState, TrialRecord
from orchestrator.run import drain as module
from orchestrator.run.drain import Drain, Drained, kept_text, stopped_at_once
from orchestrator.signals import STOPPING, Stopped

HOLDER = Holder("host", 1, "", 0.0, "token")


class Driven:
    """A drain that listens, over a lease that a test can lose."""

    def __init__(self, runs: Path) -> None:
        self.stream, self.overdue = io.StringIO(), threading.Event()
        self.lease: Any = SimpleNamespace(lost=False, folder=RunFolder.local(runs, "s"), holder=HOLDER)
        self.drain = Drain(Progress(stream=self.stream), self.lease, self.overdue.set, RayStart.none().over)
        self.drain.listen()


@pytest.fixture
def driven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driven]:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("orchestrator.records.store.LocalStore.watch_s", 0.01)
    before = [signal.getsignal(number) for number in STOPPING]
    made = Driven(tmp_path)
    yield made
    made.drain.restore()
    assert [signal.getsignal(number) for number in STOPPING] == before


def test_before_runs_are_alive_a_signal_ends_what_is_under_way(driven: Driven) -> None:
    with pytest.raises(Drained):
        signal.raise_signal(signal.SIGINT)
    assert driven.drain.is_requested()
    assert not issubclass(Drained, Exception)  # no `except Exception` on the way swallows it


def test_a_drain_that_python_forgets_comes_again_and_is_no_second_signal(driven: Driven) -> None:
    class Collected:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def collect_and_wait() -> None:
        Collected()  # it ends at once, where Python prints exceptions and forgets them
        time.sleep(10)

    with pytest.raises(Drained):
        collect_and_wait()
    assert driven.drain.exit_code == 130


def test_a_signal_before_the_driver_listens_says_how_to_go_on() -> None:
    def lose_the_terminal_and_the_time() -> None:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGUSR1)

    stream = io.StringIO()
    with pytest.raises(Stopped) as stopped, stopped_at_once(Progress(stream=stream), "selmix launch f.yaml"):
        lose_the_terminal_and_the_time()
    assert stopped.value.exit_code == 143
    assert stream.getvalue().splitlines() == [
        "the terminal is gone, the sweep goes on; `selmix stop` stops it",
        "stopped: what is finished is kept; selmix launch f.yaml: resume",
    ]


def test_the_second_signal_stops_at_once(driven: Driven) -> None:
    driven.drain.at_once = False
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert driven.drain.exit_code == 130  # the first one counts
    assert driven.stream.getvalue().count("stopping: what is finished is kept") == 1


def test_a_lost_lease_drains_without_a_signal(driven: Driven) -> None:
    assert not driven.drain.is_requested()
    driven.lease.lost = True
    assert driven.drain.is_requested()
    assert driven.drain.exit_code == 4


def test_ray_s_handler_of_sigterm_gives_way_and_the_first_one_comes_back(driven: Driven) -> None:
    """Ray takes SIGTERM for itself while it starts; the fixture sees the handlers of before come back."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    driven.drain.listen()
    driven.drain.at_once = False
    signal.raise_signal(signal.SIGTERM)
    assert driven.drain.exit_code == 143


def test_a_request_to_stop_is_as_good_as_a_signal(driven: Driven) -> None:
    heard = threading.Event()
    driven.drain.at_once = False
    driven.stream.write = lambda text: heard.set() or len(text)  # type: ignore[method-assign, func-returns-value]
    driven.lease.folder.create()
    request_stop(driven.lease.folder, HOLDER, cancel=True)
    assert heard.wait(20)
    assert driven.drain.exit_code == 143
    request = driven.drain.request()
    assert request is not None
    assert request.cancel


def test_a_request_to_an_earlier_driver_is_not_for_this_one(driven: Driven) -> None:
    driven.lease.folder.create()
    request_stop(driven.lease.folder, Holder("host", 1, "", 0.0, "of an earlier one"), cancel=True)
    assert driven.drain.request() is None
    driven.lease.folder.stop_path.write_text("{")  # damaged: the next look may see a whole one
    assert driven.drain.request() is None


@pytest.mark.parametrize("after", [0.0, 60.0])
def test_a_driver_that_hangs_is_overdue_and_one_that_ends_in_time_is_not(
    driven: Driven, monkeypatch: pytest.MonkeyPatch, after: float
) -> None:
    monkeypatch.setattr(module, "OVERDUE_S", after)
    driven.drain.at_once = False
    signal.raise_signal(signal.SIGTERM)
    if after == 0.0:
        assert driven.overdue.wait(20)
    driven.drain.restore()
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    for timer in timers:
        timer.join(5)
    assert not any(timer.is_alive() for timer in timers)
    assert driven.overdue.is_set() == (after == 0.0)


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (
            {"state": "stopped"},
            "s is stopped: 2 finished runs kept, 2 others to be resumed (1 from a checkpoint)\n\n"
            "next           selmix launch x.yaml: resume\n"
            "               selmix show s --runs {runs}: what there is so far",
        ),
        (
            {"state": "stopped", "cancelled": True},
            "s is cancelled for good: 2 finished runs kept\n\n"
            "next           selmix show s --runs {runs}: what there is so far",
        ),
        (
            {"state": "failed"},
            "s is failed: 2 finished runs kept\n\n"
            "next           selmix logs s o/trial-004 --runs {runs}: the traceback of a failed run\n"
            "               selmix show s --runs {runs}: what there is so far",
        ),
    ],
)
def test_what_was_kept_is_said_with_what_to_do_next(tmp_path: Path, known: dict[str, Any], says: str) -> None:
    folder = RunFolder.local(tmp_path, "s")
    folder.create()
    ends: list[dict[str, Any]] = [
        {"state": "FINISHED"}, {"state": "PRUNED"}, {"state": "INTERRUPTED"},
        {"state": "INTERRUPTED", "checkpoint": "ray/0"}, {"state": "FAILED"},
    ]  # fmt: skip
    for number, end in enumerate(ends):
        folder.save_trial(TrialRecord(f"o/trial-{number:03d}", "o", "trial", number, 0, **end))
    text = kept_text(folder, SweepState("s", "1" * 16, **known), "selmix launch x.yaml", None)
    assert text == says.format(runs=tmp_path)
