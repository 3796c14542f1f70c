"""Verbs that show sweeps; each imports what it needs itself, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
from functools import partial

from orchestrator.cli.output import colour, emit, out
from orchestrator.errors import UsageError


def cp(options: argparse.Namespace) -> int:
    from orchestrator.verbs.recipes import copy_recipe

    out(str(copy_recipe(options.recipe, options.folder, options.objective)))
    return 0


def ls(options: argparse.Namespace) -> int:
    if options.recipes:
        from orchestrator.verbs.recipes import recipes_document, recipes_text

        emit(options, recipes_document(), recipes_text)
        return 0
    from orchestrator.verbs.ls import ls_document, ls_text

    emit(options, ls_document(options.runs), ls_text)
    return 0


def show(options: argparse.Namespace) -> int:
    from orchestrator.records.folder import RunFolder
    from orchestrator.records.store import runs_flag
    from orchestrator.verbs.show import show_document
    from orchestrator.verbs.show_text import show_text

    document = show_document(RunFolder.open(options.runs, options.sweep))
    emit(options, document, partial(show_text, colour=colour(), flag=runs_flag(options.runs.shown)))
    return 0


def logs(options: argparse.Namespace) -> int:
    from orchestrator.records.folder import RunFolder
    from orchestrator.records.logs import follow, log_of, logs_document

    folder = RunFolder.open(options.runs, options.sweep)
    if options.follow:
        if options.json:
            raise UsageError(
                "logs: --follow prints until the sweep ends, --json one document; choose one of them"
            )
        for piece in follow(folder, log_of(folder, options.trial)):
            if not out(piece):
                break
        return 0
    # A log keeps its lines: the output of a trial is not wrapped to the terminal.
    emit(options, logs_document(folder, options.trial), lambda document, _width: "\n".join(document.lines))
    return 0


def ui(options: argparse.Namespace) -> int:
    from orchestrator.results.pages import lines_of_links
    from orchestrator.tracking.address import tracking_of
    from orchestrator.tracking.ui import open_ui

    links = partial(lines_of_links, options.runs, options.sweep, tracking_of(options.runs))
    return open_ui(options.runs, options.host, options.port, links)
