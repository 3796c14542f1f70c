"""Calm progress on stderr: one live line on a terminal, one line per event elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from orchestrator.table import PERCENT, Unit, is_terminal, message, number, printable, terminal_width

INTERRUPT = 2
"""Columns of the ``^C`` that a terminal writes where the cursor stands."""


class Progress:
    """Counter of the runs of a phase, with an estimate of the time that is left.

    Args:
        quiet: True for warnings only.
        stream: stderr by default; a live line is drawn where it is a terminal.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._is_lost = False
        self._keep: Callable[[str], None] = lambda text: None
        self._live = is_terminal(self._stream)
        self._drawn = 0
        self._phase, self._total, self._done, self._failed, self._running = "", 0, 0, 0, 0
        self._best: float | None = None
        self._unit = PERCENT
        self._started = time.monotonic()
        self._done_before = 0

    def __getstate__(self) -> dict[str, object]:
        # Tune pickles its callbacks with all that they refer to; a stream cannot be pickled, and a copy has no reader.
        return {"_quiet": True, "_keep": None}

    def keep(self, write: Callable[[str], None]) -> None:
        """Pass every event to ``write`` too, which keeps the sweep's log, also when quiet."""
        self._keep = write

    def phase(self, name: str, total: int, done: int = 0) -> None:
        """Begin a phase.

        Args:
            name: of the phase.
            total: runs of it.
            done: those of them that had ended before it began.
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

    def ended(self, name: str, state: str, score: float | None, seconds: float, unit: Unit = PERCENT) -> None:
        """Count a run that ended, and print a line for it where the stream is no terminal.

        Args:
            name: of the run.
            state: that it ended in.
            score: of its chosen round; None where it has none.
            seconds: of work.
            unit: of the score.
        """
        # Runs that a drain or a cancellation ends may never have started in this launch.
        self._running = max(0, self._running - 1)
        self._done += 1
        self._failed += state == "FAILED"
        # A run that was stopped early has a score, but cannot win.
        if score is not None and state != "PRUNED" and (self._best is None or score > self._best):
            self._best, self._unit = score, unit
        shown_score = "" if score is None else f"  score {number(score, unit):>5}"
        line = f"  {self._done:>3}/{self._total} {name}  {state.lower()}{shown_score}  {seconds:.1f} s"
        # On a terminal the live line has the counts; a line per run would push it away.
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

    def close(self) -> None:
        """Take the live line away for good: what is printed next, a shell's prompt too, begins a line of its own."""
        self._put(self._cleared())
        self._live = False

    def end(self, text: Callable[[int | None], str]) -> None:
        """Close, and print what the command ends with, apart from the lines before it.

        Args:
            text: columns of the terminal, or None for whole lines -> text.
        """
        self.close()
        for line in text(None).splitlines():
            if line:
                self._keep(line)
        if not self._quiet:
            self._put(f"\n{printable(text(terminal_width(self._stream)))}\n")

    def warn(self, text: str) -> None:
        """Print a line also when quiet."""
        self._keep(f"warning: {text}")
        self._write(f"warning: {text}")

    @property
    def eta_s(self) -> float | None:
        """Seconds that the rest of the phase may take; None before the first run ended."""
        # Runs that had ended before this phase began took none of its time.
        fresh = self._done - self._done_before
        if fresh <= 0:
            return None
        return (time.monotonic() - self._started) / fresh * max(0, self._total - self._done)

    def _write(self, text: str) -> None:
        # Else the end of a longer live line would stand behind the text.
        self._put(self._cleared() + message(printable(text), terminal_width(self._stream)) + "\n")

    def _cleared(self) -> str:
        """Text that takes the live line away."""
        drawn, self._drawn = self._drawn, 0
        # Two columns more: the terminal itself writes ^C behind the line.
        return "\r" + " " * (drawn + INTERRUPT) + "\r" if drawn else ""

    def _put(self, text: str) -> None:
        """Write to the stream. One that takes nothing any more ends the progress, not the sweep: its log has it all."""
        if self._is_lost:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        # A closed pipe, a full disk, a terminal that is gone, a stream that was closed.
        except (OSError, ValueError):
            self._is_lost = True

    def _draw(self) -> None:
        if self._quiet or not self._live:
            return
        eta = self.eta_s
        parts = [f"{self._phase}: {self._done}/{self._total} done", f"{self._running} running"]
        parts += [f"{self._failed} failed"] if self._failed else []
        parts += [] if self._best is None else [f"best score {number(self._best, self._unit)}"]
        parts += [] if eta is None else [f"about {eta:.0f} s left"]
        # Less than the terminal has: a line that wraps cannot be taken back by a carriage return.
        line = "  ".join(parts)[: shutil.get_terminal_size().columns - 1 - INTERRUPT]
        self._put(self._cleared() + line)
        self._drawn = len(line)
