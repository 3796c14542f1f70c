"""Ordered queue of writes to a service that may be away, and the one thread that sends them.

The sweep never waits for the service: a write that fails is retried, in order, until it succeeds or the outbox is
closed. Writes must therefore be idempotent, because after a time-out nobody knows whether the last one arrived.
Nothing here knows what the service is.
"""

from __future__ import annotations

import enum
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

BATCH_VALUES = 1000
"""Values in one call: MLflow refuses a batch of more."""

FIRST_PAUSE_S = 0.25
MAX_PAUSE_S = 5.0
DOUBTFUL_ATTEMPTS = 5
# TEMPORARILY_UNAVAILABLE is also what MLflow makes of a locked SQLite file and of a database that is away.
RETRIED_CODES = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}
# Time-out, too many requests, and the three that a proxy answers for a server that is down.
RETRIED_STATUS = {408, 429, 502, 503, 504}


class FailureKind(enum.Enum):
    """Kinds of failed writes, by whether a retry can succeed."""

    RETRY = "the service is away or busy: retry until it is back"
    DOUBTFUL = "the service failed, perhaps because of this very event: retry a few times, then drop it"
    PERMANENT = "the event is wrong: no retry will succeed"


def failure_kind(error: Exception) -> FailureKind:
    """Classify the error of a failed write.

    By duck typing, because the errors come from several libraries of which none is to be imported here:
    ``error_code`` is MLflow's, ``response.status_code`` that of an HTTP library.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    code, text = getattr(error, "error_code", None), str(error)
    # MLflow keeps the HTTP status in the text of its exception only.
    if status is None and (match := re.match(r"API request to .* failed with error code (\d{3})", text)):
        status = int(match[1])
    if isinstance(status, int):
        # 4xx is the fault of the request, 5xx that of the server, which may fail on this event every time.
        otherwise = FailureKind.DOUBTFUL if status >= 500 else FailureKind.PERMANENT
        return FailureKind.RETRY if status in RETRIED_STATUS else otherwise
    # MLflow's own words for a refused, broken or timed-out connection; its code is INTERNAL_ERROR then.
    disconnected = re.match(r"API request to .* failed with (timeout )?exception", text) is not None
    library = type(error).__module__.partition(".")[0] in {"requests", "urllib3"}
    if disconnected or library or code in RETRIED_CODES or isinstance(error, ConnectionError | TimeoutError):
        return FailureKind.RETRY
    # MLflow wraps any error that it did not foresee as INTERNAL_ERROR: it may pass, or come back every time.
    return FailureKind.DOUBTFUL if code == "INTERNAL_ERROR" else FailureKind.PERMANENT


@dataclass(frozen=True)
class Points:
    """Metrics of one round of a run.

    A second attempt sends the same time stamp, so that they count once.

    Attributes:
        key: run that they belong to.
        step: SGD steps so far.
        time_ms: time stamp of the round, in milliseconds since the epoch.
        values: metric -> value.
    """

    key: str
    step: int
    time_ms: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Action:
    """Any other write of a run.

    Attributes:
        key: run that it belongs to.
        what: its name in messages.
        act: writes it; must be idempotent.
    """

    key: str
    what: str
    act: Callable[[], None]


Event = Points | Action


class Outbox:
    """Queue and writer thread.

    Events of one key are written in the order in which they were put; waiting rounds of one key are written together.

    Args:
        write_points: writes rounds of one run, at most 1,000 values in a call, in the order of the queue.
        note: receives, in the writer thread, the title and the error of an event that was dropped.
    """

    def __init__(
        self, write_points: Callable[[str, list[Points]], None], note: Callable[[str, Exception], None]
    ) -> None:
        self._write_points, self._note = write_points, note
        self._queue: deque[Event] = deque()
        self._sending = 0
        self._changed = threading.Condition()
        self._hurry = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self.down = False
        """True if the service was away at the last attempt; callers should then queue instead of writing directly."""

    def put(self, event: Event) -> None:
        """Queue an event and return at once; after :meth:`close` it stays unsent and counts as such."""
        with self._changed:
            self._queue.append(event)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="selmix-outbox", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @property
    def unsent(self) -> int:
        """Number of events that wait or are being written."""
        with self._changed:
            return len(self._queue) + self._sending

    def flush(self, timeout_s: float) -> int:
        """Attempt at once and wait up to ``timeout_s`` until everything is written; returns the events left."""
        self._hurry.set()
        with self._changed:
            self._changed.wait_for(lambda: not self._queue and not self._sending, timeout_s)
            return len(self._queue) + self._sending

    def close(self, timeout_s: float) -> int:
        """Flush, then stop the thread; returns the number of events that were never written."""
        left = self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        # Wakes a thread that pauses between two attempts, so that it sees that the outbox is closed.
        self._hurry.set()
        if self._thread is not None:
            self._thread.join(1.0)  # a daemon: one that hangs in a request does not keep the process alive
        return left

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._queue) or self._closed)
                if self._closed:
                    return
                batch = self._take_()
                self._sending = len(batch)
            settled = self._send(batch)
            with self._changed:
                # _sending stays: events that were cut off by the close count as unsent.
                if not settled:
                    return
                self._sending = 0
                self._changed.notify_all()

    def _take_(self) -> list[Event]:
        """Take the next event off the queue; with a round also the waiting rounds of the same run."""
        first = self._queue.popleft()
        if isinstance(first, Action):
            return [first]
        taken: list[Event] = [first]
        kept: list[Event] = []
        size = len(first.values)
        while self._queue:
            event = self._queue.popleft()
            fits = isinstance(event, Points) and event.key == first.key
            if fits and isinstance(event, Points) and size + len(event.values) <= BATCH_VALUES:
                taken.append(event)
                size += len(event.values)
                continue
            kept.append(event)
            if event.key == first.key:
                break  # an action of this run, or no space left: later rounds must not overtake it
        self._queue.extendleft(reversed(kept))
        return taken

    def _send(self, batch: list[Event]) -> bool:
        """Write or drop a batch, however long it takes; False if the outbox was closed before that."""
        attempt = 0
        while True:
            try:
                self._write(batch)
            # The boundary to a service: nothing may end the thread, or the queue would only grow.
            except Exception as error:
                attempt += 1
                kind = failure_kind(error)
                self.down = kind is FailureKind.RETRY
                if self.down or (kind is FailureKind.DOUBTFUL and attempt < DOUBTFUL_ATTEMPTS):
                    if not self._pause(attempt):
                        return False
                    continue
                # One wrong event must not cost the others of its batch: they are sent one by one.
                if len(batch) > 1:
                    return all([self._send([event]) for event in batch])  # noqa: C419  # every event is sent, also after a failure
                self._note(_title(batch[0]), error)
                return True
            self.down = False
            return True

    def _write(self, batch: list[Event]) -> None:
        if isinstance(batch[0], Action):
            batch[0].act()
        else:
            self._write_points(batch[0].key, [event for event in batch if isinstance(event, Points)])

    def _pause(self, attempt: int) -> bool:
        """Wait before the next attempt, longer each time; a flush cuts it short. False once closed."""
        # The exponent is bounded, because after hours of attempts the power would be a number of many digits.
        end = time.monotonic() + min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt - 1, 10))
        hurried = self._hurry.wait(max(0.0, end - time.monotonic()))
        if hurried:
            self._hurry.clear()
            time.sleep(0.05)  # a caller that flushes in a loop must not make a loop of attempts
        return not self._closed


def _title(event: Event) -> str:
    return f"{event.key}: {event.what if isinstance(event, Action) else 'rounds'}"
