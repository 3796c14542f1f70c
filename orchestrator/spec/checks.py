"""The check of a sweep file: its form, types and meaning, with every problem at once and its line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from orchestrator.errors import SpecError
from orchestrator.messages import closest, counted
from orchestrator.spec.check_data import group_problems, partner_problems, unlabelled_advice
from orchestrator.spec.check_objectives import (
    constraint_problems,
    definition_problems,
    objective_problems,
    selection_problems,
)
from orchestrator.spec.check_parameters import (
    batch_problems,
    compare_problems,
    counts_of,
    parameter_problems,
)
from orchestrator.spec.schema import SweepSpec, as_tuples
from orchestrator.spec.sections import OF_THE_NETWORK, listed_values
from orchestrator.spec.typed import Problem, TypedFile, typed_file
from orchestrator.spec.yaml_file import SweepFile, apply_overrides, read_sweep_file
from selmix.models import MODELS
from selmix.pretrain import RECIPES
from selmix.rungs import RUNGS


def load_spec(path: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read, override and check a sweep file; its folder is put on ``sys.path``, for functions of the user's own.

    Args:
        path: of the file.
        overrides: ``KEY=VALUE`` each.
    Raises:
        SpecError: the file is invalid; every problem at once, one per line: ``FILE:LINE: key: what must hold, what was
            got``.
        UsageError: an override that is no KEY=VALUE.
    """
    file = read_sweep_file(path)
    apply_overrides(file, overrides)
    _import_from(path.resolve().parent)
    return check_spec(file)


def _import_from(folder: Path) -> None:
    """Let modules of the user's own be found in the folder of the sweep file too."""
    # At the end: whatever else lies in that folder must not take the place of an installed module.
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def check_spec(file: SweepFile) -> SweepSpec:
    """The specification of a parsed file; raises as :func:`load_spec`."""
    typed = typed_file(file)
    # Form, then types, then meaning: of a key's problems the first one is reported.
    placed = [*typed.problems, *(problem for check in CHECKS for problem in check(typed))]
    problems = [*file.problems, *(f"{file.where(path)}: {text}" for path, text in placed)]
    if problems:
        raise SpecError(_in_order(problems))
    values = as_tuples(file.values)
    spec = SweepSpec.model_validate(values | {"data": values["data"] | typed.left_to_model})
    return spec.with_defaults(typed.left_to_model)


def _in_order(problems: list[str]) -> list[str]:
    """Problems by line, the first one of each key: the others follow from it."""
    first: dict[tuple[str, ...], str] = {}
    for problem in problems:
        # FILE:LINE and the key.
        first.setdefault(tuple(problem.split(": ", 2)[:2]), problem)
    return sorted(first.values(), key=_line)


def _line(problem: str) -> int:
    line = re.match(r".*?:(\d+): ", problem)
    # An override has no line: its problems come after those of the file.
    return int(line[1]) if line else 10**9


def model_problems(typed: TypedFile) -> Iterable[Problem]:
    """The model must exist and take these data."""
    if typed.model is None:
        return
    name = typed.model.name
    # Names with a slash or a colon are looked up where the network is built: its error is the problem then.
    if name not in MODELS and "/" not in name and ":" not in name:
        hint = closest(name, [*MODELS, "torchvision/NAME", "timm/NAME", "module:function"])
        yield ("model", "name"), f"unknown model {name!r}; {hint}"
    elif isinstance(typed.network, str):
        yield ("model", "name"), typed.network


def pretrain_problems(typed: TypedFile) -> Iterable[Problem]:
    """The base model must come from one place that exists."""
    section = typed.pretrain
    if section is None:
        return
    if section.recipe is not None and section.recipe not in RECIPES:
        yield ("pretrain", "recipe"), f"unknown recipe {section.recipe!r}; {closest(section.recipe, RECIPES)}"
    if str(section.recipe).startswith("fixmatch") and (advice := unlabelled_advice(typed)) is not None:
        yield ("pretrain", "recipe"), f"{section.recipe} needs unlabelled samples: {advice}"
    if section.recipe is not None and section.checkpoint is not None:
        yield ("pretrain",), "must name a recipe or a checkpoint, got both; leave one out"
    if section.checkpoint is not None and section.checkpoint.startswith("models:"):
        yield (
            ("pretrain", "checkpoint"),
            "registered models are not supported yet; give a safetensors file",
        )


def rung_problems(typed: TypedFile) -> Iterable[Problem]:
    """Rungs stand in their order, and what belongs to the search needs the rung of the search."""
    rungs = typed.rungs
    in_order = tuple(rung for rung in RUNGS if rung in rungs)
    if rungs != in_order:
        yield (
            ("rungs",),
            f"must name each rung once, in this order: {', '.join(in_order)}, got {', '.join(rungs)}",
        )
    elif not rungs:
        yield ("rungs",), f"must name at least one of {', '.join(RUNGS)}, got none; leave the key out for all"
    elif rungs == ("retrain",):
        yield ("rungs",), "must name more than retrain, which is a reference and cannot win"
    if "finetune" not in rungs and typed.compare:
        yield ("compare",), "compares trials of the rung finetune, which rungs does not name; add it there"
    starts = listed_values("start", typed.parameters, typed.compare)
    if "finetune" in rungs and "head" not in rungs and "best_head" in starts:
        section = "parameters" if "start" in typed.parameters else "compare"
        yield (
            (section, "start"),
            "best_head is the best of the rung head, which rungs does not name; add it there, or start from "
            "balanced_head",
        )


def screen_problems(typed: TypedFile) -> Iterable[Problem]:
    """A screen has a rung to stand on, something to vary, and a search that takes what it promotes."""
    section = typed.screen
    if section is None:
        return
    if "head" not in typed.rungs:
        yield (
            ("screen",),
            "screens the rung head, which rungs does not name; add it there, or leave screen out",
        )
        return
    if typed.compare:
        yield (
            ("screen",),
            "cannot stand beside compare, whose values have a search each; leave one of the two out",
        )
        return
    searched = [name for name, each in typed.parameters.items() if each is not None and not each.is_fixed]
    if not set(searched) - OF_THE_NETWORK:
        has = f"got {', '.join(searched)}" if searched else "got no searched parameter"
        yield (
            ("screen",),
            f"must have a searched parameter that acts on a head, as lr or effective_pairs, {has}",
        )
        return
    if section.promote > section.num_configs:
        yield (
            ("screen", "promote"),
            f"must be at most num_configs {section.num_configs}, got {section.promote}",
        )
    trials = None if typed.search is None else typed.search.num_trials
    if "finetune" in typed.rungs and trials is not None and section.promote >= trials:
        yield (
            ("screen", "promote"),
            f"must be less than search.num_trials {trials}, whose first trial is the defaults, got {section.promote}",
        )


def search_problems(typed: TypedFile) -> Iterable[Problem]:
    """A grid needs lists."""
    if typed.search is not None and typed.search.method == "grid":
        for name, parameter in typed.parameters.items():
            if parameter is not None and (parameter.min is not None or parameter.max is not None):
                yield ("parameters", name), "method grid needs a list of values"


def stopping_problems(typed: TypedFile) -> Iterable[Problem]:
    """A trial must be able to end between the grace and its last step, by keys that act under the method."""
    section = typed.early_stopping
    if section is None:
        return
    if section.idle in section.model_fields_set:
        other = "median" if section.method == "asha" else "asha"
        yield (
            ("early_stopping", section.idle),
            f"acts under method {other} only, got method {section.method}; leave it out",
        )
    most = max(counts_of(typed, "steps"), default=None)
    if section.grace_steps is not None and most is not None and section.grace_steps >= most:
        yield (
            ("early_stopping", "grace_steps"),
            f"must be less than the most steps of a trial, {most}, got {section.grace_steps}",
        )
    trials = None if typed.search is None else typed.search.num_trials
    if section.method == "median" and trials is not None and section.min_samples >= trials:
        yield (
            ("early_stopping", "min_samples"),
            f"must be less than search.num_trials {trials}, got {section.min_samples}",
        )


def resource_problems(typed: TypedFile) -> Iterable[Problem]:
    """Several workers have whole GPUs, and one trial fits within the sweep's share of a cluster."""
    section = typed.resources
    if section is None:
        return
    # A worker uses one GPU at most, and NCCL refuses two workers on the same one.
    if section.workers > 1 and section.gpu not in (0, 1):
        yield (
            ("resources", "gpu"),
            f"each of several workers must have 0 or 1 GPU of its own, got {section.gpu}",
        )
    for key, each in (("max_cpus", "cpu"), ("max_gpus", "gpu")):
        limit, needed = getattr(section, key), getattr(section, each) * section.workers
        if limit is not None and limit < needed:
            yield (
                ("resources", key),
                f"must hold one trial, {needed:g} ({each} of {counted(section.workers, 'worker')}), got {limit:g}",
            )


CHECKS: tuple[Callable[[TypedFile], Iterable[Problem]], ...] = (
    objective_problems,
    definition_problems,
    group_problems,
    partner_problems,
    model_problems,
    pretrain_problems,
    parameter_problems,
    compare_problems,
    rung_problems,
    screen_problems,
    batch_problems,
    constraint_problems,
    selection_problems,
    search_problems,
    stopping_problems,
    resource_problems,
)
"""Checks of meaning, each over the sections that are of the right type. A new rule is an entry here."""
