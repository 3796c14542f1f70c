"""Signals that ask a command to stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import time

import pytest

from orchestrator.signals import STOPPING, Stopped, exit_code_after, stopped_by_signals


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_exit_codes_are_those_of_a_shell(number: signal.Signals, code: int) -> None:
    assert exit_code_after(number) == Stopped(number).exit_code == code


def swallow_errors() -> None:
    with contextlib.suppress(Exception):
        signal.raise_signal(signal.SIGTERM)


def test_a_handler_of_errors_does_not_swallow_a_stop() -> None:
    with pytest.raises(Stopped), stopped_by_signals():
        swallow_errors()


def test_handlers_are_restored_whatever_the_block_does() -> None:
    before = [signal.getsignal(number) for number in STOPPING]
    with contextlib.suppress(ZeroDivisionError), stopped_by_signals(), stopped_by_signals():
        assert signal.getsignal(signal.SIGUSR1) not in before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in STOPPING] == before


class Collected:
    """Its end is a place where Python prints exceptions, and forgets them."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def collect_and_wait() -> None:
    Collected()
    time.sleep(10)


def test_a_stop_that_python_forgets_comes_again(capfd: pytest.CaptureFixture[str]) -> None:
    hook = sys.unraisablehook
    with pytest.raises(Stopped) as stopped, stopped_by_signals():
        collect_and_wait()
    assert stopped.value.exit_code == 143
    assert "Exception ignored" not in capfd.readouterr().err
    assert sys.unraisablehook is hook


def test_what_else_python_forgets_is_printed_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)

    class Wrong:
        def __del__(self) -> None:
            raise ValueError("no stop")

    with stopped_by_signals():
        Wrong()
    assert [str(each.exc_value) for each in seen] == ["no stop"]
