"""The command line: one thin function a verb over typed functions; heavy imports inside the verb that needs them.

stdout carries results only; progress and errors go to stderr. Flags and overrides may come in any order.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.cli.options import (
    cp_parser,
    data_parser,
    diagnose_parser,
    doctor_parser,
    evaluate_parser,
    launch_parser,
    logs_parser,
    ls_parser,
    pin_parser,
    pins_parser,
    plan_parser,
    pretrain_parser,
    reproduce_parser,
    show_parser,
    stop_parser,
    ui_parser,
    validate_parser,
)
from orchestrator.cli.output import emit as _emit
from orchestrator.cli.output import out as _out
from orchestrator.cli.run import doctor, launch, logs, stop
from orchestrator.errors import SelmixError, Stopped

Verb = Callable[[argparse.Namespace], int]

USAGE = """\
usage: selmix VERB [ARGUMENTS] [--help]

Name the metric that matters and the checkpoint you have; get back the fine-tuned model that is best for it.

  selmix launch sweeps/digits_min_recall.yaml            run a sweep, or go on with one
  selmix show digits_min_recall                          what won, by how much, against what

at once      evaluate TABLE   a metric from labels and scores alone: value, interval, is it resolved
before       validate FILE    check a sweep file, all problems at once
             data check FILE  counts by class and split, digests, what is wrong
             data prepare FILE  extract the official archive that you have, then check
             plan FILE        trials, time and disk it will take; touches nothing
             diagnose FILE    does the gain predict real steps on these data? heat maps of C, G and P
             doctor [FILE]    is everything there, on this machine or on every node of a cluster?
run          pretrain FILE    train a base model by the file's recipe; again: go on
             launch FILE      run the sweep; again: resume it. --address, --submit: on a cluster
             stop SWEEP       stop it, wherever it runs
look         ls               the sweeps of a runs folder; ls --recipes: sweep files to begin with
             cp RECIPE        write one of these here
             show SWEEP       result of a sweep
             logs SWEEP       what its driver said, or one trial; --follow
             ui               open MLflow on the right store
keep         pin SWEEP        write the winner's lock file; opens the test split
             pins             the pins of a folder
             reproduce NAME   train again from a pin and compare number by number

FILE may be followed by overrides: selmix launch FILE search.num_trials=8 parameters.lr.max=0.05
exit codes: 0 fine, 2 usage, 3 invalid sweep file, 4 preflight failed, 5 too many failed trials, 6 no feasible
trial, 7 not reproduced, 8 no such sweep or pin, 130/143 after a clean drain
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        sys.stdout.write(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from selmix import __version__

        sys.stdout.write(f"selmix {__version__}\n")
        return 0
    name, *rest = arguments
    if name not in VERBS:
        import difflib

        near = difflib.get_close_matches(name, VERBS, 1)
        hint = f"did you mean {near[0]}?" if near else "selmix --help lists the verbs"
        sys.stderr.write(f"selmix: unknown verb {name!r}; {hint}\n")
        return 2
    # As `python -m` would have it: functions of the user's own lie beside the sweep file's folder or in it.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    parser, verb = VERBS[name]
    try:
        options = parser().parse_intermixed_args(rest)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    return _guarded(verb, options)


def _guarded(verb: Verb, options: argparse.Namespace) -> int:
    try:
        if "runs" in options:
            from orchestrator.records.object_store import runs_argument

            options.runs = runs_argument(options.runs)
        return verb(options)
    except SelmixError as error:
        sys.stderr.write(f"selmix: {error}\n")
        return error.exit_code
    except KeyboardInterrupt as stop:
        sys.stderr.write("selmix: interrupted\n")
        return stop.exit_code if isinstance(stop, Stopped) else 130
    except BrokenPipeError:
        # The reader of our output went away (`selmix show x | head`): not our error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# -- verbs ------------------------------------------------------------------------------------------------


def validate(options: argparse.Namespace) -> int:
    from orchestrator.build.selection import warnings_of
    from orchestrator.spec.schema import load_spec

    spec = load_spec(options.file, options.overrides)
    warnings = warnings_of(spec)
    for warning in warnings:
        sys.stderr.write(f"warning: {warning}\n")
    document = {"schema_version": 1, "valid": True, "sweep": spec.name, "warnings": warnings}
    _emit(options, document, lambda: f"{options.file}: valid ({', '.join(spec.objectives)})")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    from orchestrator.verbs.evaluate import evaluate_table, evaluation_text

    document = evaluate_table(options.table, options.objective, options.train_counts, options.cvar_fraction)
    _emit(options, document, lambda: evaluation_text(document))
    return 0


def data(options: argparse.Namespace) -> int:
    from orchestrator.spec.schema import load_spec
    from orchestrator.verbs.data import data_document, data_text, fail_on_problems, prepare_data

    spec = load_spec(options.file, options.overrides)
    if options.action == "prepare" and (archive := prepare_data(spec)) is not None:
        sys.stderr.write(f"extracted {archive}\n")
    document = data_document(spec)
    _emit(options, document, lambda: data_text(document))
    fail_on_problems(document)
    return 0


def plan(options: argparse.Namespace) -> int:
    from orchestrator.spec.schema import load_spec
    from orchestrator.verbs.plan import plan_document, plan_text

    document = plan_document(load_spec(options.file, options.overrides), options.runs)
    _emit(options, document, lambda: plan_text(document))
    return 0


def pretrain(options: argparse.Namespace) -> int:
    from orchestrator.progress import Progress
    from orchestrator.spec.schema import load_spec
    from orchestrator.verbs.pretrain import pretrain_base, pretrain_text

    spec = load_spec(options.file, options.overrides)
    document = pretrain_base(spec, options.output, options.runs, Progress(options.quiet))
    _emit(options, document, lambda: pretrain_text(document))
    return 0


def diagnose(options: argparse.Namespace) -> int:
    from orchestrator.spec.schema import load_spec
    from orchestrator.verbs.diagnose import diagnose, diagnosis_text

    document = diagnose(load_spec(options.file, options.overrides), options.objective, options.output)
    _emit(options, document, lambda: diagnosis_text(document))
    return 0


def cp(options: argparse.Namespace) -> int:
    from orchestrator.verbs.recipes import copy_recipe

    _out(str(copy_recipe(options.recipe, options.folder)))
    return 0


def ls(options: argparse.Namespace) -> int:
    if options.recipes:
        from orchestrator.verbs.recipes import recipes_document, recipes_text

        recipes = recipes_document()
        _emit(options, recipes, lambda: recipes_text(recipes))
        return 0
    from orchestrator.verbs.show import ls_document
    from orchestrator.verbs.show_text import ls_text

    document = ls_document(options.runs)
    _emit(options, document, lambda: ls_text(document))
    return 0


def show(options: argparse.Namespace) -> int:
    from orchestrator.records.folder import RunFolder
    from orchestrator.verbs.show import show_document
    from orchestrator.verbs.show_text import show_text

    folder = RunFolder.open(options.runs, options.sweep)
    document = show_document(folder)
    _emit(options, document, lambda: show_text(document, colour=_colour()))
    return 0


def ui(options: argparse.Namespace) -> int:
    from orchestrator.tracking.ui import open_ui

    return open_ui(options.runs, options.host, options.port)


def pin(options: argparse.Namespace) -> int:
    from orchestrator.pins.pin import pin_sweep

    path = pin_sweep(
        options.runs,
        options.sweep,
        options.pins,
        options.name,
        options.objective,
        options.trial,
        options.force,
    )
    _out(str(path))
    return 0


def pins(options: argparse.Namespace) -> int:
    from orchestrator.pins.lock_file import pins_document
    from orchestrator.verbs.show_text import pins_text

    document = pins_document(options.pins)
    _emit(options, document, lambda: pins_text(document))
    return 0


def reproduce(options: argparse.Namespace) -> int:
    from orchestrator.pins.reproduce import reproduce_pin, reproduction_text

    document, code = reproduce_pin(options.pins, options.name, options.runs)
    _emit(options, document, lambda: reproduction_text(document))
    for problem in document["problems"]:
        sys.stderr.write(f"selmix: {options.name}: {problem}\n")
    return code


def _colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


VERBS: dict[str, tuple[Callable[[], argparse.ArgumentParser], Verb]] = {
    "evaluate": (evaluate_parser, evaluate),
    "validate": (validate_parser, validate),
    "data": (data_parser, data),
    "plan": (plan_parser, plan),
    "diagnose": (diagnose_parser, diagnose),
    "pretrain": (pretrain_parser, pretrain),
    "doctor": (doctor_parser, doctor),
    "launch": (launch_parser, launch),
    "cp": (cp_parser, cp),
    "stop": (stop_parser, stop),
    "ls": (ls_parser, ls),
    "show": (show_parser, show),
    "logs": (logs_parser, logs),
    "ui": (ui_parser, ui),
    "pin": (pin_parser, pin),
    "pins": (pins_parser, pins),
    "reproduce": (reproduce_parser, reproduce),
}
