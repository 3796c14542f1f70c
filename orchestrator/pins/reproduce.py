"""``selmix reproduce``: train again from a pin and compare digests and numbers one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.errors import NotFound, NotReproduced, PreflightError
from orchestrator.pins.lock_file import broken_sections, pin_path, read_pin, weights_beside
from orchestrator.records.object_store import Runs

Document = dict[str, Any]


def reproduce_pin(pins: Path, name: str, runs: Runs) -> tuple[Document, int]:
    """Repeat what a pin says.

    Args:
        runs: where the opening of the test split is recorded, if the pin's sweep lies there.
    Returns:
        The comparison, and the exit code: 0 only where everything is as it must be.
    Raises:
        NotFound: no such pin. PreflightError: it cannot be read, or a checkpoint that it names is gone.
    """
    pinned = read_pin(pins, name)
    broken = broken_sections(pinned)
    if broken:
        problems = [
            f"{section}: was edited since the pin was written (its digest differs)" for section in broken
        ]
        return _document(name, False, {}, [], problems), NotReproduced.exit_code
    from orchestrator.provenance import environment, stack

    before, now = stack(pinned["environment"]), stack(environment(pinned["protocol"]["threads"]))
    drift = {key: {"pinned": before[key], "here": now[key]} for key in before if before[key] != now[key]}
    compared = _compare(pinned, weights_beside(pin_path(pins, name)), same_stack=not drift, runs=runs)
    problems = [f"{c['what']}: pinned {c['pinned']}, got {c['got']}" for c in compared if not c["passes"]]
    return _document(name, not drift, drift, compared, problems), NotReproduced.exit_code if problems else 0


def _document(
    name: str, same_stack: bool, drift: Mapping[str, Any], compared: list[Document], problems: list[str]
) -> Document:
    return {
        "schema_version": 1, "pin": name, "reproduced": not problems, "same_stack": same_stack,
        "stack_differences": dict(drift), "problems": problems, "compared": compared,
    }  # fmt: skip


def _compare(pinned: Document, weights: Path, same_stack: bool, runs: Runs) -> list[Document]:
    from orchestrator.build.base_model import balanced_head_of, base_model, load_data, torch_threads
    from orchestrator.build.selection import data_config, selection_rule
    from orchestrator.pins.test_split import test_predictions
    from selmix.config import FinetuneConfig
    from selmix.run.local_ranks import RunRequest, finetune_on_workers
    from selmix.run.start_model import Base
    from selmix.statistics.intervals import all_intervals
    from selmix.weights import load_weights, state_digest

    spec = _spec(pinned)
    compared: list[Document] = []

    def equal(what: str, then: Any, got: Any, must: bool = True) -> None:
        compared.append(
            {
                "what": what,
                "pinned": then,
                "got": got,
                "equal": then == got,
                "passes": then == got or not must,
            }
        )

    def numbers(split: str, got: Mapping[str, Any]) -> None:
        for metric, figure in pinned[split].items():
            for part, then in figure.items():
                value = asdict(got[metric])[part] if metric in got else None
                inside = part != "value" or (value is not None and figure["low"] <= value <= figure["high"])
                passes = value == then if same_stack else value is not None and inside
                compared.append({
                    "what": f"{split}/{metric}/{part}", "pinned": then, "got": value, "equal": value == then,
                    "passes": passes,
                })  # fmt: skip

    stored = state_digest(load_weights(weights)) if weights.is_file() else None
    equal(f"{weights.name}", pinned["digests"]["weights"], stored)
    _record_opening(pinned, runs)
    with torch_threads(pinned["protocol"]["threads"]):
        data = load_data(spec)
        for split in ("train", "feedback", "select", "test"):
            equal(f"digests/{split}", pinned["digests"][split], data.digests[split])
        state, _ = base_model(spec, data, Path("/nonexistent"))
        equal("digests/base", pinned["digests"]["base"], state_digest(state), must=same_stack)
        objective = pinned["objective"]
        rule = selection_rule(spec, objective, data.num_classes)
        base = Base(spec.model.config, state, balanced_head_of(spec.model.config, state, data, rule))
        config = FinetuneConfig(**pinned["config"])
        request = RunRequest(data, base, objective, config, pinned["seed"], rule)
        run = finetune_on_workers(spec.resources.workers, request)
        if run.best is None or run.failed:
            compared.append(
                {
                    "what": "training",
                    "pinned": "finished",
                    "got": run.stop_reason,
                    "equal": False,
                    "passes": False,
                }
            )
            return compared
        equal("round", pinned["round"], run.best.round, must=same_stack)
        equal("digests/weights", pinned["digests"]["weights"], state_digest(run.best.state), must=same_stack)
        numbers("select", all_intervals(run.best.predictions, run.metric_context))
        on_test = test_predictions(spec, run.best.state, data_config(spec).load_test())
        numbers("test", all_intervals(on_test, run.metric_context))
    return compared


def _spec(pinned: Document) -> Any:
    """The specification that a pin's protocol amounts to."""
    from orchestrator.spec.schema import spec_from_resolved

    protocol = pinned["protocol"]
    selection = {key: value for key, value in protocol["selection"].items() if key != "seed"}
    return spec_from_resolved({
        "version": 1, "name": pinned["sweep"]["name"], "data": protocol["data"], "model": protocol["model"],
        "pretrain": protocol["pretrain"], "objectives": [pinned["objective"]],
        "constraints": protocol["constraints"], "metrics": protocol["metrics"], "selection": selection,
        "search": {"seed": protocol["search_seed"]},
        # Pins from before there were several workers name none.
        "resources": {"cpu": protocol["threads"], "workers": protocol.get("workers", 1)},
    })  # fmt: skip


def _record_opening(pinned: Document, runs: Runs) -> None:
    """In the sweep's own record, where it lies in this runs folder."""
    from orchestrator.pins.test_split import record_opening
    from orchestrator.records.folder import RunFolder

    try:
        folder = RunFolder.open(runs, pinned["sweep"]["name"])
        if folder.load_state().sweep_id == pinned["sweep"]["sweep_id"]:
            record_opening(folder, f"reproduce {pinned['name']}")
    except (NotFound, PreflightError):
        return  # the pin travels without its sweep


def reproduction_text(document: Document) -> str:
    """The comparison in some lines."""
    same = sum(c["equal"] for c in document["compared"])
    lines = []
    if document["reproduced"]:
        how = (
            "every digest and number is equal"
            if document["same_stack"]
            else "every figure is within tolerance"
        )
        lines.append(f"{document['pin']}: reproduced; {how} ({same} of {len(document['compared'])} equal)")
    else:
        lines.append(f"{document['pin']}: not reproduced; {len(document['problems'])} differ")
        lines += [f"  {problem}" for problem in document["problems"]]
    for key, values in document["stack_differences"].items():
        lines.append(f"  other stack: {key} was {values['pinned']}, here {values['here']}")
    drifted = [c["what"] for c in document["compared"] if not c["equal"] and c["passes"]]
    if drifted:
        lines.append(f"  drifted within tolerance: {', '.join(drifted)}")
    return "\n".join(lines)
