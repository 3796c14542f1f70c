"""``selmix diagnose``: how far the method's estimate can be trusted on a sweep's data, round by round."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.build.base_model import check_checkpoint, torch_threads
from orchestrator.build.data import load_data
from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import UsageError
from orchestrator.records.folder import RunFolder
from orchestrator.run.prepare import Prepared, prepare
from orchestrator.search.space import default_point, settings
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import Column, sentence, table

if TYPE_CHECKING:
    from selmix.config import FinetuneConfig
    from selmix.run.round_table import RoundMatrices
    from selmix.run.run import RoundReport

MAX_MAPS = 5


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Numbers of a diagnosis; None where a round has none.

    Attributes:
        gain_spearman, gain_pearson: correlations of the gain with the real change of one step, over pairs.
        policy_perplexity: number of pairs that the policy amounts to, exp of its entropy.
        effective_pairs: the same, under the name that it had first.
        policy_entropy: of the policy, in nats. prototype_drift: of the class means since the last round.
        expected_gain: of the policy.
    """

    gain_spearman: float | None
    gain_pearson: float | None
    policy_perplexity: float | None
    effective_pairs: float | None
    policy_entropy: float | None
    prototype_drift: float | None
    expected_gain: float | None


SHOWN = tuple(field.name for field in dataclasses.fields(Fidelity) if field.name != "effective_pairs")


@dataclass(frozen=True, kw_only=True)
class DiagnosedRound(Fidelity):
    """Numbers after a round, and the steps until then."""

    round: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class ObjectiveDiagnosis:
    """A run on the defaults.

    Attributes:
        stop_reason: of the run; None: it is not over.
        rounds: oldest first. mean: over the rounds that have correlations.
        maps: path of the heat maps; None: none were drawn.
    """

    stop_reason: str | None
    rounds: list[DiagnosedRound]
    mean: Fidelity
    maps: str | None = None


@dataclass(frozen=True, kw_only=True)
class DiagnoseDocument:
    """The diagnosis of a sweep file by objective."""

    schema_version: int = SCHEMA_VERSION
    sweep: str
    objectives: dict[str, ObjectiveDiagnosis]


def diagnose(spec: SweepSpec, objective: str | None, output: Path | None) -> DiagnoseDocument:
    """Run the defaults of a sweep file once per objective, with every number of the diagnosis.

    Args:
        spec: of the sweep.
        objective: only this one; None: all of the file's.
        output: folder for heat maps of C, G and P; None: none are drawn.
    Raises:
        UsageError: no such objective in the file, or a policy without a gain.
        PreflightError: the data or the checkpoint.
    """
    if objective is not None and objective not in spec.objectives:
        raise UsageError(f"--objective: the file has {', '.join(spec.objectives)}, got {objective!r}")
    data = load_data(spec)
    check_checkpoint(spec, data)
    config = settings(spec, default_point(spec), next(iter(spec.arms.values())))
    if not config.pair_policy.targeted:
        raise UsageError(f"policy {config.policy} does not look at the gain; there is nothing to diagnose")
    with tempfile.TemporaryDirectory() as scratch, torch_threads(spec.resources.cpu):
        folder = RunFolder.local(Path(scratch), spec.name)
        folder.create()
        prepared = prepare(spec, data, folder)
        chosen = spec.objectives if objective is None else [objective]
        return DiagnoseDocument(
            sweep=spec.name,
            objectives={
                name: _diagnosis(prepared, name, config, spec.search.seed, output) for name in chosen
            },
        )


def _diagnosis(
    prepared: Prepared, objective: str, config: FinetuneConfig, seed: int, output: Path | None
) -> ObjectiveDiagnosis:
    from selmix.run.run import finetune

    rounds: list[DiagnosedRound] = []
    run = finetune(
        prepared.data, prepared.bases[objective], objective, dataclasses.replace(config, diagnose=True), seed,
        prepared.rules[objective], lambda report: rounds.append(_round(report)),
    )  # fmt: skip
    measured = [row for row in rounds if row.gain_spearman is not None]
    means = {
        field.name: _mean([getattr(row, field.name) for row in measured])
        for field in dataclasses.fields(Fidelity)
    }
    path = None
    if output is not None:
        path = output / f"{objective.replace(':', '-')}.png"
        heat_maps(run.rounds, path)
    return ObjectiveDiagnosis(
        stop_reason=run.stop_reason,
        rounds=rounds,
        mean=Fidelity(**means),
        maps=None if path is None else str(path),
    )


def _round(report: RoundReport) -> DiagnosedRound:
    numbers = {field.name: report.scalars.get(field.name) for field in dataclasses.fields(Fidelity)}
    numbers["effective_pairs"] = numbers["policy_perplexity"]
    return DiagnosedRound(round=report.round, steps=report.steps, **numbers)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


def diagnosis_text(document: DiagnoseDocument, width: int | None) -> str:
    """A table per objective."""
    blocks = []
    columns = [Column("round", right=True), *(Column(name, right=True) for name in SHOWN)]
    for name, found in document.objectives.items():
        title = f"{name}: the gain against the real change of one step, over pairs"
        if found.stop_reason is not None:
            title += f"; ended by {found.stop_reason}"
        rows = [[str(row.round), *_cells(row)] for row in found.rounds if row.round > 0]
        lines = [sentence(title, width), table(columns, [*rows, ["mean", *_cells(found.mean)]], width)]
        if found.maps is not None:
            lines.append(sentence(f"heat maps: {found.maps}", width))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _cells(numbers: Fidelity) -> list[str]:
    values = [getattr(numbers, name) for name in SHOWN]
    return ["" if value is None else f"{value:.3g}" for value in values]


def heat_maps(rounds: list[RoundMatrices], path: Path) -> None:
    """Draw C, G and P over the rounds (at most five, evenly chosen) as one image."""
    from matplotlib.figure import Figure

    having = [r for r in rounds if r.gain is not None and r.policy is not None]
    if not having:
        return
    step = max(1, math.ceil(len(having) / MAX_MAPS))
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
            # Gains are of both signs: zero is to be the middle of the colours.
            low = -most if kind == "gain" else 0.0
            image = axes[row][column].imshow(values.numpy(), cmap=colours, vmin=low, vmax=most)
            axes[row][column].set_title(f"round {matrices.round}" if row == 0 else "", fontsize=9)
            axes[row][column].set_ylabel(title if column == 0 else "", fontsize=9)
            axes[row][column].tick_params(labelsize=6)
            figure.colorbar(image, ax=axes[row][column], shrink=0.7).ax.tick_params(labelsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
