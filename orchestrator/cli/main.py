"""The command line: its verbs, its help page, and the exit codes of errors.

stdout carries results only; progress and errors go to stderr. Flags and overrides may come in any order.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.cli import before, keep, look, options, run
from orchestrator.errors import SelmixError
from orchestrator.messages import closest
from orchestrator.signals import Stopped

Verb = Callable[[argparse.Namespace], int]

USAGE = """\
usage: selmix VERB [ARGUMENTS] [--help]

Name the metric that matters and the checkpoint you have; get back the fine-tuned model that is best for it.

  selmix launch sweeps/digits_min_recall.yaml            run a sweep, or resume it
  selmix show digits_min_recall                          what won, by how much, against what

at once      evaluate TABLE   a metric from labels and scores alone: value, interval, is it resolved
before       validate FILE    check a sweep file, all problems at once
             data check FILE  counts by class and split, digests, what is wrong
             data prepare FILE  extract the official archive that you have, then check
             plan FILE        trials, time and disk it will take; touches nothing
             diagnose FILE    does the gain predict real steps on these data? heat maps of C, G and P
             doctor [FILE]    is everything there, on this machine or on every node of a cluster?
run          pretrain FILE    train a base model by the file's recipe; again: resume
             launch FILE      run the sweep; again: resume it. --address, --submit: on a cluster;
                             --in-process: without Ray
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
}


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
        sys.stderr.write(f"selmix: unknown verb {name!r}; {closest(name, VERBS)}\n")
        return 2
    # As `python -m` would have it: functions of the user's own lie beside the sweep file's folder or in it.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    parser, verb = VERBS[name]
    try:
        parsed = parser().parse_intermixed_args(rest)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    return _guarded(verb, parsed)


def _guarded(verb: Verb, parsed: argparse.Namespace) -> int:
    try:
        if "runs" in parsed:
            from orchestrator.records.synced_folder import open_store

            parsed.runs_text, parsed.runs = parsed.runs, open_store(parsed.runs)
        return verb(parsed)
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
