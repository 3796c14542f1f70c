"""Signals that ask a command to stop."""

from __future__ import annotations

import contextlib
import signal

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
