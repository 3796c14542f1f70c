"""Verbs that keep results and reproduce them; each imports what it needs itself, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.cli.imports import heavy_imports
from orchestrator.cli.output import emit, err, out
from orchestrator.table import terminal_width

if TYPE_CHECKING:
    from orchestrator.pins.pin import PinRequest


def pin(options: argparse.Namespace) -> int:
    from orchestrator.pins.listing import pin_text, pins_flag
    from orchestrator.pins.pin import PinRequest, pin_sweep
    from orchestrator.records.store import runs_flag

    request = PinRequest(
        options.sweep, options.name, options.objective or (), options.trial, options.row, options.force
    )
    if options.register:
        return _register(options, request)
    all_written = pin_sweep(options.runs, options.pins, request)
    for written in all_written:
        out(str(written.path))
        if written.note is not None:
            err(f"selmix: {written.path.stem}: {written.note}")
        if written.problem is not None:
            err(f"selmix: {written.path.stem}: {written.problem}")
    # On stderr: stdout is the path of each pin and nothing else.
    flags = runs_flag(options.runs.shown) + pins_flag(options.pins)
    for written in all_written:
        err("\n" + pin_text(options.pins, written.path.stem, flags, terminal_width(sys.stderr)))
    return 0


def _register(options: argparse.Namespace, request: PinRequest) -> int:
    from orchestrator.errors import UsageError
    from orchestrator.pins.registered import register_later

    chosen = {
        "--objective": request.objectives, "--trial": request.trial_id, "--row": request.row, "--force": request.force,
    }  # fmt: skip
    if given := [flag for flag, value in chosen.items() if value]:
        raise UsageError(f"--register: is of a pin that stands; leave {', '.join(given)} out")
    out(str(register_later(options.runs, options.pins, request.sweep, request.name)))
    return 0


def pins(options: argparse.Namespace) -> int:
    from orchestrator.pins.listing import pins_document, pins_flag, pins_text

    emit(options, pins_document(options.pins), partial(pins_text, flag=pins_flag(options.pins)))
    return 0


def predict(options: argparse.Namespace) -> int:
    with heavy_imports():
        from orchestrator.pins.predict import (
            PredictRequest,
            RowCounter,
            predict_rows,
            predict_text,
            problem_lines,
        )

    request = PredictRequest(
        options.pin, options.source, options.out, options.input or (), options.group, options.keep, options.root,
        options.batch_size, options.device,
    )  # fmt: skip
    with RowCounter(options.quiet) as counter:
        document = predict_rows(options.pins, request, counter.show)
    emit(options, document, predict_text)
    for line in problem_lines(document):
        err(f"selmix: {line}")
    return document.exit_code


def export(options: argparse.Namespace) -> int:
    with heavy_imports():
        from orchestrator.pins.export import export_pin, export_text

    emit(options, export_pin(options.pins, options.pin, options.format, options.out), export_text)
    return 0


def reproduce(options: argparse.Namespace) -> int:
    from orchestrator.pins.lock_file import found_pin
    from orchestrator.pins.reproduce import reproduce_pin, reproduction_text

    path = found_pin(options.pins, options.name)
    document = reproduce_pin(path.parent, path.stem, options.runs, options.overrides)
    emit(options, document, reproduction_text)
    # Where stdout goes to a file or a program, it alone would leave a failure in a log unexplained.
    for problem in document.problems if options.json or not sys.stdout.isatty() else ():
        err(f"selmix: {path.stem}: {problem}")
    return document.exit_code
