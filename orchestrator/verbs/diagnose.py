"""``selmix diagnose``: how far the method's estimate can be trusted on a sweep's data, round by round."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.build.base_model import check_checkpoint, load_data, prepare, torch_threads
from orchestrator.errors import UsageError
from orchestrator.records.folder import RunFolder
from orchestrator.search.space import default_point, settings
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import table

if TYPE_CHECKING:
    from selmix.run.round_table import RoundMatrices

FIGURES = (
    "gain_spearman",
    "gain_pearson",
    "policy_perplexity",
    "policy_entropy",
    "prototype_drift",
    "expected_gain",
)
MOST_MAPS = 5


def diagnose(spec: SweepSpec, objective: str | None, output: Path | None) -> dict[str, Any]:
    """Run the defaults of a sweep file once per objective, with every figure of the diagnosis.

    Args:
        objective: only this one. output: folder for heat maps of C, G and P; None: none are drawn.
    Raises:
        UsageError: no such objective in the file. PreflightError: the data or the checkpoint.
    """
    if objective is not None and objective not in spec.objectives:
        raise UsageError(f"--objective: the file has {', '.join(spec.objectives)}, got {objective!r}")
    data = load_data(spec)
    check_checkpoint(spec, data)
    document: dict[str, Any] = {"schema_version": 1, "sweep": spec.name, "objectives": {}}
    config = settings(spec, default_point(spec), next(iter(spec.arms.values())))
    from selmix.run.run import finetune

    if not config.pair_policy.targeted:
        raise UsageError(f"policy {config.policy} does not look at the gain; there is nothing to diagnose")

    with tempfile.TemporaryDirectory() as scratch, torch_threads(spec.resources.cpu):
        folder = RunFolder(Path(scratch), spec.name)
        folder.create()
        prepared = prepare(spec, data, folder)
        for name in [objective] if objective is not None else spec.objectives:
            rows: list[dict[str, Any]] = []
            run = finetune(
                data, prepared.bases[name], name, dataclasses.replace(config, diagnose=True), spec.search.seed,
                prepared.rules[name], lambda report, rows=rows: rows.append(_row(report)),  # type: ignore[misc]
            )  # fmt: skip
            told = [row for row in rows if row["gain_spearman"] is not None]
            document["objectives"][name] = {
                "stop_reason": run.stop_reason, "rounds": rows,
                "mean": {key: _mean([row[key] for row in told]) for key in FIGURES},
            }  # fmt: skip
            if output is not None:
                path = output / f"{name.replace(':', '-')}.png"
                heat_maps(run.rounds, path)
                document["objectives"][name]["maps"] = str(path)
    return document


def diagnosis_text(document: dict[str, Any]) -> str:
    """A table for each objective."""
    blocks = []
    for name, told in document["objectives"].items():
        rows = [
            (str(row["round"]), *(_cell(row[key]) for key in FIGURES))
            for row in told["rounds"]
            if row["round"] > 0
        ]
        rows.append(("mean", *(_cell(told["mean"][key]) for key in FIGURES)))
        text = f"{name}: the gain against the real change of one step, over pairs; ended by {told['stop_reason']}\n"
        text += table(("round", *FIGURES), rows)
        blocks.append(text + (f"\nheat maps: {told['maps']}" if "maps" in told else ""))
    return "\n\n".join(blocks)


def heat_maps(rounds: list[RoundMatrices], path: Path) -> None:
    """C, G and P over the rounds (at most five, evenly chosen) as one image."""
    from matplotlib.figure import Figure

    having = [r for r in rounds if r.gain is not None and r.policy is not None]
    if not having:
        return
    step = max(1, math.ceil(len(having) / MOST_MAPS))
    shown = having[::step]
    figure = Figure(figsize=(2.6 * len(shown) + 1.0, 7.6), layout="constrained")
    axes = figure.subplots(3, len(shown), squeeze=False)
    kinds = (
        ("confusion", "C, by true class", "viridis"),
        ("gain", "gain G", "RdBu"),
        ("policy", "policy P", "magma"),
    )
    for row, (kind, title, colours) in enumerate(kinds):
        for column, matrices in enumerate(shown):
            values = getattr(matrices, kind).double()
            if kind == "confusion":
                values = values / values.sum(dim=1, keepdim=True)
            most = float(values.abs().max()) or 1.0
            low = -most if kind == "gain" else 0.0
            image = axes[row][column].imshow(values.numpy(), cmap=colours, vmin=low, vmax=most)
            axes[row][column].set_title(f"round {matrices.round}" if row == 0 else "", fontsize=9)
            axes[row][column].set_ylabel(title if column == 0 else "", fontsize=9)
            axes[row][column].tick_params(labelsize=6)
            figure.colorbar(image, ax=axes[row][column], shrink=0.7).ax.tick_params(labelsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _row(report: Any) -> dict[str, Any]:
    return {"round": report.round, "steps": report.steps} | {key: report.scalars.get(key) for key in FIGURES}


def _mean(values: list[float | None]) -> float | None:
    told = [value for value in values if value is not None and math.isfinite(value)]
    return sum(told) / len(told) if told else None


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
