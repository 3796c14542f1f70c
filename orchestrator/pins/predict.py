"""``selmix predict``: labels and probabilities of a pinned model for a table or a folder of images."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import PreflightError, UsageError
from orchestrator.files import check_file_writable, writing
from orchestrator.messages import counted
from orchestrator.pins.lock_file import found_pin
from orchestrator.table import is_terminal, sentence
from selmix.files import written_aside

if TYPE_CHECKING:
    from selmix.pinned import PinnedInputs

ADVICE = "choose another --out"
MAX_SHOWN = 10
"""Bad rows that are named on stderr."""


@dataclass(frozen=True)
class PredictRequest:
    """Arguments of ``selmix predict``.

    Attributes:
        pin: name of the pin, or its path.
        source: table, folder of images, image, or list of images.
        out: file to write.
        inputs: columns of the inputs; () for those of the pin.
        group: column of the groups; None for the pin's.
        kept: columns that are handed on; None for all but the inputs.
        root: folder that the paths of a list are relative to; None for its own.
        batch_size: rows of a batch; None for a number that bounds the memory.
        device: of torch.
    """

    pin: str
    source: Path
    out: Path
    inputs: Sequence[str] = ()
    group: str | None = None
    kept: Sequence[str] | None = None
    root: Path | None = None
    batch_size: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class UnpredictedRow:
    """A row that could not be predicted.

    Attributes:
        row: its number, from 0.
        problem: what is wrong with it.
    """

    row: int
    problem: str


@dataclass(frozen=True, kw_only=True)
class PredictDocument:
    """Predictions that were written.

    Attributes:
        schema_version: version of the document.
        pin: path of the pin.
        out: file of the predictions.
        rows: number of rows of the input, which are those of the file.
        class_names: names of the classes, in their order.
        columns: columns of the predictions: the class by name, then the probability of each.
        unpredicted: number of rows without a prediction.
        problems: the first of these.
    """

    schema_version: int = SCHEMA_VERSION
    pin: str
    out: str
    rows: int
    class_names: list[str]
    columns: list[str]
    unpredicted: int
    problems: list[UnpredictedRow]

    @property
    def exit_code(self) -> int:
        """0, or 4 where rows could not be predicted."""
        return PreflightError.exit_code if self.unpredicted else 0


def predict_rows(
    pins: Path, request: PredictRequest, progress: Callable[[int], None] = lambda rows: None
) -> PredictDocument:
    """Predict rows and write the predictions; the file is whole, or there is none.

    Args:
        pins: folder of the pins.
        request: what to predict.
        progress: called with the number of rows so far.
    Raises:
        UsageError: arguments that do not go together.
        NotFound: there is no such pin.
        PreflightError: the pin, the rows or the file cannot be used.
    """
    from selmix.serving.predict import write_predictions
    from selmix.serving.rows import Wanted, open_rows
    from selmix.serving.writer import SUFFIXES, output_columns

    suffix = request.out.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"--out: must end in {', '.join(SUFFIXES)}, got {request.out}")
    if request.batch_size is not None and request.batch_size < 1:
        raise UsageError(f"--batch-size: must be >= 1, got {request.batch_size}")
    if request.out.exists() and request.source.exists() and request.out.samefile(request.source):
        raise UsageError(f"--out: must be another file than the input, got {request.out}")
    path = found_pin(pins, request.pin)
    check_file_writable(request.out, ADVICE)
    inputs: str | Sequence[str] | None = request.inputs or None
    if len(request.inputs) == 1:
        inputs = request.inputs[0]
    try:
        pinned = _on_device(path, request.device)
        rows = open_rows(
            request.source, pinned, Wanted(inputs, request.group, request.kept), request.root,
            request.batch_size,
        )  # fmt: skip
        with writing(request.out, ADVICE), written_aside(request.out) as aside:
            done = write_predictions(pinned, rows, aside, suffix == ".csv", progress)
    except ValueError as error:
        raise PreflightError(str(error)) from error
    return PredictDocument(
        pin=str(path), out=str(request.out), rows=done.rows, class_names=list(pinned.class_names),
        columns=output_columns(pinned.class_names), unpredicted=done.bad_rows,
        problems=[UnpredictedRow(each.row, each.problem) for each in done.bad],
    )  # fmt: skip


def _on_device(path: Path, device: str) -> PinnedInputs:
    """The model of a pin.

    Raises:
        ValueError: it cannot be loaded, or there is no such device.
    """
    from selmix.pinned import load_pinned

    pinned = load_pinned(path)
    try:
        pinned.model.to(device)
    # torch says so by whatever it is built without.
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device: must be a device of this machine, got {device}: {str(error).splitlines()[0]}"
        ) from error
    return pinned


class RowCounter:
    """Live line on stderr with the rows so far, where that is a terminal; a context, whose end takes it away.

    Args:
        quiet: True for no line.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._live = not quiet and is_terminal(sys.stderr)
        self._shown = -1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown >= 0:
            self._put("\r\033[K")

    def show(self, rows: int) -> None:
        """Show the number of rows so far, twice a second at most."""
        now = time.monotonic()
        if self._live and now - self._shown > 0.5:
            self._shown = now
            self._put(f"\r\033[K{rows:,} rows")

    def _put(self, text: str) -> None:
        # A terminal that is gone must not end the predictions.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


def problem_lines(document: PredictDocument) -> list[str]:
    """Lines on rows without a prediction: the first ones by name, and how many there are."""
    if not document.unpredicted:
        return []
    lines = [each.problem for each in document.problems[:MAX_SHOWN]]
    more = document.unpredicted - len(lines)
    if more:
        lines.append(f"and {more} more; --json names the first {len(document.problems)}")
    lines.append(
        f"{document.unpredicted} of {counted(document.rows, 'row')} have no prediction in {document.out}"
    )
    return lines


def predict_text(document: PredictDocument, width: int | None) -> str:
    """The file, and how many rows it has."""
    done = document.rows - document.unpredicted
    return sentence(f"{document.out}: {counted(done, 'row')} predicted by {document.pin}", width)
