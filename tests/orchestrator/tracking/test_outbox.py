"""The queue of writes to a service that may be away: in order, in batches, and nothing lost in silence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from orchestrator.tracking import outbox as module
from orchestrator.tracking.outbox import (
    BATCH_VALUES,
    DOUBTFUL_ATTEMPTS,
    Action,
    FailureKind,
    Outbox,
    Points,
    failure_kind,
)

WAIT_S = 20.0
"""Far more than a write takes: only a bug waits for so long."""


class Internal(Exception):
    error_code = "INTERNAL_ERROR"


class Service:
    """Takes writes, keeps them in order, and fails as a test tells it."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.calls: list[int] = []
        self.notes: list[tuple[str, Exception]] = []
        self.failing: Callable[[list[str]], Exception | None] = lambda names: None
        self.attempts = 0
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.outbox = Outbox(self._points, lambda title, error: self.notes.append((title, error)))

    def _write(self, names: list[str]) -> None:
        self.attempts += 1
        self.entered.set()
        assert self.open.wait(WAIT_S)
        if (error := self.failing(names)) is not None:
            raise error
        self.written += names

    def _points(self, key: str, points: list[Points]) -> None:
        self._write([f"{key}{point.step}" for point in points])
        self.calls.append(sum(len(point.values) for point in points))

    def action(self, key: str, name: str) -> Action:
        return Action(key, name, lambda: self._write([f"{key}:{name}"]))

    def hold(self) -> None:
        """Let the writer begin one write and wait in it, so that everything else queues up behind."""
        self.open.clear()
        self.outbox.put(self.action("first", "held"))
        assert self.entered.wait(WAIT_S)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(module, "MAX_PAUSE_S", 0.002)
    made = Service()
    yield made
    made.open.set()
    made.outbox.close(0.0)


def rounds(key: str, step: int, count: int = 1) -> Points:
    return Points(key, step, step, {f"m{k}": 0.0 for k in range(count)})


def test_waiting_rounds_of_a_run_go_together_and_nothing_overtakes_within_a_run(service: Service) -> None:
    service.hold()
    for event in (rounds("a", 1), rounds("b", 1), rounds("a", 2), service.action("a", "end"), rounds("a", 3)):
        service.outbox.put(event)
    assert service.outbox.unsent == 6
    service.open.set()
    assert service.outbox.flush(WAIT_S) == 0
    assert service.written == ["first:held", "a1", "a2", "b1", "a:end", "a3"]


def test_a_call_has_as_many_values_as_the_service_takes(service: Service) -> None:
    service.hold()
    for step in range(1, 6):
        service.outbox.put(rounds("a", step, 400))
    service.open.set()
    assert service.outbox.flush(WAIT_S) == 0
    assert service.calls == [800, 800, 400]
    assert max(service.calls) <= BATCH_VALUES
    assert service.written[1:] == [f"a{step}" for step in range(1, 6)]


def test_a_service_that_is_away_is_retried_until_it_is_back(service: Service) -> None:
    service.failing = lambda _: ConnectionError("refused") if service.attempts < 9 else None
    service.outbox.put(rounds("a", 1))
    assert service.outbox.flush(WAIT_S) == 0
    assert (service.written, service.notes, service.attempts) == (["a1"], [], 9)
    assert not service.outbox.down


def test_a_doubtful_failure_is_dropped_after_some_attempts_and_named(service: Service) -> None:
    service.failing = lambda names: Internal("odd") if names == ["a:end"] else None
    service.outbox.put(service.action("a", "end"))
    service.outbox.put(service.action("b", "end"))
    assert service.outbox.flush(WAIT_S) == 0
    assert service.written == ["b:end"]
    assert [(title, str(error)) for title, error in service.notes] == [("a: end", "odd")]
    assert service.attempts == DOUBTFUL_ATTEMPTS + 1


def test_one_wrong_round_costs_no_other_of_its_batch(service: Service) -> None:
    service.failing = lambda names: ValueError("wrong") if "a2" in names else None
    service.hold()
    for step in (1, 2, 3):
        service.outbox.put(rounds("a", step))
    service.open.set()
    assert service.outbox.flush(WAIT_S) == 0
    assert service.written[1:] == ["a1", "a3"]
    assert [title for title, _ in service.notes] == ["a: rounds"]


def test_what_was_never_written_is_counted_when_it_is_closed(service: Service) -> None:
    service.failing = lambda _: TimeoutError("away")
    for step in (1, 2):
        service.outbox.put(service.action("a", str(step)))
    assert service.outbox.close(0.05) == 2
    assert service.outbox.down
    service.failing = lambda _: None
    service.outbox.put(service.action("a", "late"))
    assert service.outbox.flush(0.0) == service.outbox.unsent == 3
    assert service.written == service.notes == []


def test_an_outbox_without_events_is_closed_at_once(service: Service) -> None:
    assert service.outbox.close(WAIT_S) == service.outbox.close(WAIT_S) == 0


def of_mlflow(text: str, code: str | None = None) -> Exception:
    error = Exception(text)
    error.error_code = code  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (of_mlflow("API request to /x failed with error code 503"), FailureKind.RETRY),
        (of_mlflow("API request to /x failed with error code 429 != 200"), FailureKind.RETRY),
        (of_mlflow("API request to /x failed with error code 500", "INTERNAL_ERROR"), FailureKind.DOUBTFUL),
        (of_mlflow("API request to /x failed with error code 404", "INTERNAL_ERROR"), FailureKind.PERMANENT),
        (of_mlflow("API request to /x failed with exception: refused", "INTERNAL_ERROR"), FailureKind.RETRY),
        (
            of_mlflow("API request to /x failed with timeout exception: 5 s", "INTERNAL_ERROR"),
            FailureKind.RETRY,
        ),
        (of_mlflow("database is locked", "TEMPORARILY_UNAVAILABLE"), FailureKind.RETRY),
        (of_mlflow("odd", "INTERNAL_ERROR"), FailureKind.DOUBTFUL),
        (of_mlflow("no such run", "RESOURCE_DOES_NOT_EXIST"), FailureKind.PERMANENT),
        (TimeoutError(), FailureKind.RETRY),
        (OSError("disk full"), FailureKind.PERMANENT),
    ],
)
def test_the_kind_of_a_failure_by_mlflows_own_words(error: Exception, kind: FailureKind) -> None:
    assert failure_kind(error) is kind
