"""Calm progress on stderr: one live line on a terminal, one line per event elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Counts runs of a phase and estimates how long the rest may take.

    Args:
        quiet: True for warnings only.
        stream: stderr by default; a live line is drawn where it is a terminal.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._keep: Callable[[str], None] = lambda text: None
        self._live = self._stream.isatty()
        self._drawn = 0
        self._phase, self._total, self._done, self._failed, self._running = "", 0, 0, 0, 0
        self._best: float | None = None
        self._started = time.monotonic()
        self._done_before = 0

    def __getstate__(self) -> dict[str, object]:
        # Tune pickles what hangs on its callbacks; a stream cannot travel and a copy has nobody to speak to.
        return {"_quiet": True, "_keep": None}

    def keep(self, write: Callable[[str], None]) -> None:
        """Hand every event to ``write`` too, also when quiet: the sweep's log."""
        self._keep = write

    def phase(self, name: str, total: int, done: int = 0) -> None:
        """Begin a phase.

        Args:
            name: of the phase.
            total: runs of it. done: of these, before it began.
        """
        self._phase, self._total, self._done, self._done_before = name, total, done, done
        self._failed = self._running = 0
        self._best = None
        self._started = time.monotonic()
        before = f", {done} of them there already" if done else ""
        self.say(f"{name}: {total} runs{before}")

    def started(self) -> None:
        """Count a run that begins."""
        self._running += 1
        self._draw()

    def interrupted(self) -> None:
        """Count a run that was running and resumes later."""
        self._running = max(0, self._running - 1)
        self._draw()

    def ended(self, name: str, state: str, score: float | None, seconds: float) -> None:
        """Count a run that ended, and print a line for it where the stream is no terminal.

        Args:
            name: of the run.
            state: that it ended in.
            score: of its chosen round; None where it has none.
            seconds: of work.
        """
        self._running = max(0, self._running - 1)
        self._done += 1
        self._failed += state == "FAILED"
        if score is not None and (self._best is None or score > self._best):
            self._best = score
        figure = "" if score is None else f"  score {100 * score:5.1f}"
        line = f"  {self._done:>3}/{self._total} {name}  {state.lower()}{figure}  {seconds:.1f} s"
        if self._live:
            self._keep(line)
            self._draw()
        else:
            self.say(line)

    def say(self, text: str) -> None:
        """Print a line for an event."""
        self._keep(text)
        if not self._quiet:
            self._write(text)

    def warn(self, text: str) -> None:
        """Print a line also when quiet."""
        self._keep(f"warning: {text}")
        self._write(f"warning: {text}")

    @property
    def eta_s(self) -> float | None:
        """Seconds that the rest of the phase may take; None before the first run ended."""
        fresh = self._done - self._done_before
        if fresh <= 0:
            return None
        return (time.monotonic() - self._started) / fresh * max(0, self._total - self._done)

    def _write(self, text: str) -> None:
        self._clear()
        self._stream.write(text + "\n")
        self._stream.flush()

    def _clear(self) -> None:
        if self._drawn:
            self._stream.write("\r" + " " * self._drawn + "\r")
            self._drawn = 0

    def _draw(self) -> None:
        if self._quiet or not self._live:
            return
        eta = self.eta_s
        parts = [f"{self._phase}: {self._done}/{self._total} done", f"{self._running} running"]
        parts += [f"{self._failed} failed"] if self._failed else []
        parts += [] if self._best is None else [f"best score {100 * self._best:.1f}"]
        parts += [] if eta is None else [f"about {eta:.0f} s left"]
        line = "  ".join(parts)[: shutil.get_terminal_size().columns - 1]
        self._clear()
        self._stream.write(line)
        self._stream.flush()
        self._drawn = len(line)
