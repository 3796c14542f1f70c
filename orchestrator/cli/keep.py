"""Verbs that keep results and reproduce them; each imports what it needs itself, so that ``--help`` is quick."""

from __future__ import annotations

import argparse

from orchestrator.cli.output import emit, err, out


def pin(options: argparse.Namespace) -> int:
    from orchestrator.pins.pin import PinRequest, pin_sweep

    request = PinRequest(
        options.sweep, options.name, options.objective or (), options.trial, options.row, options.force
    )
    for written in pin_sweep(options.runs, options.pins, request):
        out(str(written.path))
        if written.note is not None:
            err(f"selmix: {written.path.stem}: {written.note}")
    return 0


def pins(options: argparse.Namespace) -> int:
    from orchestrator.pins.lock_file import pins_document, pins_text

    emit(options, pins_document(options.pins), pins_text)
    return 0


def reproduce(options: argparse.Namespace) -> int:
    from orchestrator.pins.reproduce import reproduce_pin, reproduction_text

    document = reproduce_pin(options.pins, options.name, options.runs, options.overrides)
    emit(options, document, reproduction_text)
    # On stderr too: with --json, stdout alone would leave a failure in a log unexplained.
    for problem in document.problems:
        err(f"selmix: {options.name}: {problem}")
    return document.exit_code
