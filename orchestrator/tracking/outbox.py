"""An ordered queue of what is to be written to a service that may be away, and the one thread that writes it.

The sweep never waits for the service: what cannot be written now is tried again, in order, until it is
through or the outbox is closed. Writes must therefore be idempotent, because after a time-out nobody knows
whether the last one arrived. Nothing here knows what the service is.
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
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0
DOUBTFUL_ATTEMPTS = 5
RETRIED_CODES = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}
RETRIED_STATUS = {408, 429, 502, 503, 504}


class Verdict(enum.Enum):
    """What an error says about trying again."""

    RETRY = "the service is away or busy: try until it is back"
    DOUBTFUL = "the service stumbled, perhaps over this very event: try a few times, then give it up"
    PERMANENT = "the event is wrong: no attempt will get it through"


def judge(error: Exception) -> Verdict:
    """Whether a failed write is worth another attempt, told from the error's own marks.

    By duck typing, because the errors come from several libraries of which none is to be imported here:
    ``error_code`` is MLflow's, ``response.status_code`` that of an HTTP library.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    code, text = getattr(error, "error_code", None), str(error)
    if status is None and (found := re.match(r"API request to .* failed with error code (\d{3})", text)):
        status = int(found[1])
    if isinstance(status, int):
        doubtful = Verdict.DOUBTFUL if status >= 500 else Verdict.PERMANENT
        return Verdict.RETRY if status in RETRIED_STATUS else doubtful
    # MLflow's own words for a refused, broken or timed-out connection; its code says INTERNAL_ERROR then
    lost = re.match(r"API request to .* failed with (timeout )?exception", text) is not None
    library = type(error).__module__.partition(".")[0] in {"requests", "urllib3"}
    if lost or library or code in RETRIED_CODES or isinstance(error, ConnectionError | TimeoutError):
        return Verdict.RETRY
    return Verdict.DOUBTFUL if code == "INTERNAL_ERROR" else Verdict.PERMANENT


@dataclass(frozen=True)
class Points:
    """Metrics of one round of the run ``key``: sent again with the same time stamp, so they count once."""

    key: str
    step: int
    time_ms: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Action:
    """Any other write about the run ``key``; ``what`` names it in messages."""

    key: str
    what: str
    act: Callable[[], None]


Event = Points | Action


class Outbox:
    """Queue and writer thread.

    Args:
        write_points: writes rounds of one run, at most 1,000 values in a call, in the order of the queue.
        note: told, from the writer thread, what was given up and why.

    Events of one key are written in the order they were put; rounds of one key that wait are written together.
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
        """The last attempt found the service away; callers that could write by themselves better queue."""

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
        """Events that wait or are being written."""
        with self._changed:
            return len(self._queue) + self._sending

    def flush(self, timeout_s: float) -> int:
        """Wait until all is written, at most ``timeout_s``, beginning with an attempt now; what is left."""
        self._hurry.set()
        with self._changed:
            self._changed.wait_for(lambda: not self._queue and not self._sending, timeout_s)
            return len(self._queue) + self._sending

    def close(self, timeout_s: float) -> int:
        """Flush, then stop the thread; the number of events that were never written."""
        left = self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._hurry.set()
        if self._thread is not None:
            self._thread.join(1.0)  # it is a daemon: one that hangs in a request does not keep the process
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
                if not settled:
                    return
                self._sending = 0
                self._changed.notify_all()

    def _take_(self) -> list[Event]:
        """Take the next event off the queue, and with a round the waiting rounds of the same run."""
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
                break  # later rounds must not overtake it
        self._queue.extendleft(reversed(kept))
        return taken

    def _send(self, batch: list[Event]) -> bool:
        """Write a batch, however long it takes; False if the outbox was closed before it was settled."""
        attempt = 0
        while True:
            try:
                self._write(batch)
            except Exception as error:  # the boundary to a service: nothing may end the thread
                attempt += 1
                verdict = judge(error)
                self.down = verdict is Verdict.RETRY
                if self.down or (verdict is Verdict.DOUBTFUL and attempt < DOUBTFUL_ATTEMPTS):
                    if not self._pause(attempt):
                        return False
                    continue
                if len(batch) > 1:  # one wrong event must not cost its neighbours
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
        """Wait before the next attempt, longer each time, less where a flush asks; False once closed."""
        end = time.monotonic() + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt - 1, 10))
        hurried = self._hurry.wait(max(0.0, end - time.monotonic()))
        if hurried:
            self._hurry.clear()
            time.sleep(0.05)  # a flush in a loop must not become a loop of attempts
        return not self._closed


def _title(event: Event) -> str:
    return f"{event.key}: {event.what if isinstance(event, Action) else 'rounds'}"
