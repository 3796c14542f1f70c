"""Command line: verbs, help page, and exit codes of errors.

stdout carries results only; progress and errors go to stderr. Flags and overrides may come in any order.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from orchestrator.cli import before, keep, look, options, run
from orchestrator.cli.output import err, out, prepare_streams
from orchestrator.errors import SelmixError
from orchestrator.messages import closest
from orchestrator.signals import Stopped
from orchestrator.table import paragraph, sentence, terminal_width

Verb = Callable[[argparse.Namespace], int]

GROUPS: dict[str, dict[str, str]] = {
    "no sweep": {
        "evaluate TABLE": "a metric from labels and scores alone: its interval, whether the samples suffice, and "
        "what a bias per class would give",
    },
    "start": {
        "ls --recipes": "list the sweep files that come with selmix",
        "cp RECIPE": "write one of them into this folder",
    },
    "before": {
        "validate FILE": "check a sweep file, all problems at once",
        "data check FILE": "counts by class and split, digests, problems",
        "data prepare FILE": "extract the official archive that you have, then check",
        "plan FILE": "estimate trials, time and disk; writes nothing",
        "diagnose FILE": "does the predicted gain match real training steps on these data?",
        "doctor [FILE]": "check this machine, or every node of a cluster, for what a sweep needs",
    },
    "run": {
        "pretrain FILE": "train a base model by the file's section pretrain, or resume it",
        "launch FILE": "run the sweep, or resume it; --address, --submit: on a cluster; --in-process: without Ray",
        "stop SWEEP": "stop it, wherever it runs",
    },
    "inspect": {
        "ls": "list the sweeps of a runs folder",
        "show SWEEP": "result of a sweep, or its progress",
        "logs SWEEP [TRIAL]": "log of the sweep's driver, or of one trial; --follow",
        "ui": "open MLflow on the store of these sweeps",
    },
    "keep": {
        "pin SWEEP": "evaluate winner and baselines on test, write the winner's lock file, register the model in "
        "MLflow",
        "pins": "list the pins of a folder",
        "reproduce NAME": "train again from a pin and compare number by number",
        "predict PIN TABLE": "labels and probabilities for a table or a folder of images, with its own preprocessing",
        "export PIN": "the model as ONNX, as a PyTorch program or as weights, checked against it",
    },
}  # fmt: skip
"""The help page: group of verbs -> command -> what it does."""


def help_page(width: int | None) -> str:
    """All verbs by group, for a terminal of this width; None: lines stay whole."""
    lines = [
        "usage: selmix VERB [ARGUMENTS] [--help]",
        "",
        sentence(
            "Name the metric that matters and the checkpoint you have; get back the fine-tuned model that is best for "
            "it.", width,
        ),
        "",
        paragraph("  selmix cp digits_min_recall", "write a sweep file", width, 40),
        paragraph("  selmix launch digits_min_recall.yaml", "run it, or resume it", width, 40),
        paragraph("  selmix show digits_min_recall", "the winner beside the baselines", width, 40),
        "",
    ]  # fmt: skip
    for group, commands in GROUPS.items():
        for number, (command, purpose) in enumerate(commands.items()):
            label = f"{group if number == 0 else '':<10}{command}"
            lines.append(paragraph(label, purpose, width, 29))
    return "\n".join([
        *lines,
        "",
        sentence(
            "FILE may be followed by overrides: selmix launch FILE search.num_trials=8 parameters.lr.max=0.05", width
        ),
        sentence(
            "exit codes: 0 success, 2 usage, 3 invalid sweep file, 4 preflight check failed, 5 too many failed trials, "
            "6 no feasible row, 7 not reproduced, 8 no such sweep or pin, 130/143 stopped by a signal, resumable",
            width,
        ),
    ])  # fmt: skip


VERBS: dict[str, tuple[Callable[[], argparse.ArgumentParser], Verb]] = {
    "evaluate": (options.evaluate, before.evaluate),
    "validate": (options.validate, before.validate),
    "data": (options.data, before.data),
    "plan": (options.plan, before.plan),
    "diagnose": (options.diagnose, before.diagnose),
    "doctor": (options.doctor, before.doctor),
    "pretrain": (options.pretrain, run.pretrain),
    "launch": (options.launch, run.launch),
    "stop": (options.stop, run.stop),
    "ls": (options.ls, look.ls),
    "cp": (options.cp, look.cp),
    "show": (options.show, look.show),
    "logs": (options.logs, look.logs),
    "ui": (options.ui, look.ui),
    "pin": (options.pin, keep.pin),
    "pins": (options.pins, keep.pins),
    "reproduce": (options.reproduce, keep.reproduce),
    "predict": (options.predict, keep.predict),
    "export": (options.export, keep.export),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    prepare_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        out(help_page(terminal_width()))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from selmix import __version__

        out(f"selmix {__version__}")
        return 0
    name, *rest = arguments
    if name not in VERBS:
        err(f"selmix: unknown verb {name!r}; {closest(name, VERBS)}")
        return 2
    # As with `python -m`: a sweep file may name functions of the user's own, in modules of the working folder.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    parser, verb = VERBS[name]
    # Intermixed, because overrides may stand between flags. argparse prints its own message before it exits.
    try:
        parsed = parser().parse_intermixed_args(rest)
    except SystemExit as stop:
        return int(stop.code or 0)
    except SelmixError as error:
        err(f"selmix: {error}")
        return error.exit_code
    return _guarded(verb, parsed)


def _guarded(verb: Verb, parsed: argparse.Namespace) -> int:
    try:
        if "runs" in parsed:
            from orchestrator.records.synced_folder import open_store

            # The text too: a driver that is submitted to a cluster opens the folder there.
            parsed.runs_text, parsed.runs = parsed.runs, open_store(parsed.runs)
        return verb(parsed)
    except SelmixError as error:
        err(f"selmix: {error}")
        return error.exit_code
    except KeyboardInterrupt as stop:
        err("selmix: interrupted")
        return stop.exit_code if isinstance(stop, Stopped) else 130


def command() -> NoReturn:
    """Run the command line, and leave with its exit code.

    Without taking the interpreter apart, which takes a second once torch and MLflow are there: what must be done at the
    end is done here. A debugger or a profiler has its end as ever.
    """
    code = main()
    if _is_watched():
        sys.exit(code)
    # Not public, and what `os._exit` leaves out: threads end, logs are closed, folders of this process removed.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _is_watched() -> bool:
    """True under a debugger, a profiler, or what measures coverage."""
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12 on
    tools = () if monitoring is None else [monitoring.get_tool(number) for number in range(6)]
    return sys.gettrace() is not None or sys.getprofile() is not None or any(tools)


if __name__ == "__main__":
    command()
