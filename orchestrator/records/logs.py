"""Logs of a sweep as plain files: the driver's, and one per run; written line by line, read by polling.

In an object store a log that grew is written whole at every look of the driver's watch (5 s), and when the driver
ends: the log there lags by that much, and a driver that is killed outright takes its last events with it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.clock import utc_now
from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import NotFound, PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.lease import live_holder


@dataclass(frozen=True, kw_only=True)
class LogsDocument:
    """A log as lines.

    Attributes:
        schema_version: of the document.
        sweep: its name.
        trial_id: of the run; None: it is the driver's log.
        lines: of the log, oldest first.
    """

    schema_version: int = SCHEMA_VERSION
    sweep: str
    trial_id: str | None
    lines: list[str]


def append_log(folder: RunFolder, path: Path, text: str) -> None:
    """Add an event, its lines indented below the first; a log that cannot be written stops nothing.

    Args:
        folder: of the sweep.
        path: of the log.
        text: of the event.
    """
    first, *more = text.rstrip("\n").split("\n")
    lines = [f"{utc_now()} {first}", *(f"    {line}" for line in more)]
    with contextlib.suppress(OSError, PreflightError):
        folder.store.current(path)  # an earlier driver's, elsewhere
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        folder.store.publish_later(path)


def log_of(folder: RunFolder, trial_id: str | None) -> Path:
    """The log of a sweep's driver, or of one run of it.

    Args:
        folder: of the sweep.
        trial_id: as `selmix show` has it, without the objective if the sweep has only one; None: the driver's log.
    Raises:
        NotFound: there is no such run, or it has no log yet.
    """
    if trial_id is None:
        path = folder.log_path
    else:
        objectives = folder.load_spec().get("objectives", [])
        if len(objectives) == 1 and not trial_id.startswith(f"{objectives[0]}/"):
            trial_id = f"{objectives[0]}/{trial_id}"
        # An unknown run has an error of its own, with advice; a known one may have no log yet.
        folder.load_trial(trial_id)
        path = folder.trial_log_path(trial_id)
    if not folder.store.current(path).is_file():
        where = path.relative_to(folder.path).as_posix()
        raise NotFound(f"{folder.shown}/{where}: there is no log; it is written while the sweep runs")
    return path


def logs_document(folder: RunFolder, trial_id: str | None) -> LogsDocument:
    """The whole log of a sweep's driver, or of one run of it."""
    lines = log_of(folder, trial_id).read_text(encoding="utf-8", errors="replace").splitlines()
    return LogsDocument(sweep=folder.name, trial_id=trial_id, lines=lines)


def follow(folder: RunFolder, path: Path, wait: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """Pieces of a log as they are written, until nobody drives the sweep any more.

    Args:
        folder: of the sweep.
        path: of the log.
        wait: sleeps for so many seconds.
    """
    read = 0
    while True:
        # Before the log is read: a driver that ends in between has its last lines read all the same.
        driven = live_holder(folder) is not None
        content = folder.store.current(path, anew=True).read_bytes()
        if len(content) > read:
            # A line, or a character of several bytes, may be half written as long as somebody writes.
            whole = content.rfind(b"\n") + 1 if driven else len(content)
            if whole > read:
                yield content[read:whole].decode(errors="replace")
                read = whole
        if not driven:
            return
        wait(folder.store.poll_s)
