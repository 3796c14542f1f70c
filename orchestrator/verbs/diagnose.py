"""``selmix diagnose``: fidelity of the method's gain estimate on a sweep's data, round by round."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.build.base_model import check_checkpoint, torch_threads
from orchestrator.build.data import load_data
from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import PreflightError, UsageError
from orchestrator.files import check_writable, writing
from orchestrator.records.folder import RunFolder
from orchestrator.run.prepare import Prepared, prepare
from orchestrator.search.space import before_the_best_head, default_point, settings
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import Column, sentence, table

if TYPE_CHECKING:
    from selmix.config import FinetuneConfig
    from selmix.run.round_table import RoundMatrices
    from selmix.run.run import RoundReport

ADVICE = "choose another --output"
MAX_MAPS = 5
"""Rounds in an image of heat maps: more would not be readable."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Metrics of a diagnosis; None where a round has no such metric.

    Attributes:
        gain_spearman: rank correlation of the gain with the real change of one step, over class pairs.
        gain_pearson: linear correlation of the same.
        policy_perplexity: effective number of pairs of the policy: exp of its entropy.
        effective_pairs: the same number, under its name in earlier documents.
        policy_entropy: entropy of the policy, in nats.
        prototype_drift: change of the class means of the features since the last round.
        expected_gain: expected gain of a pair drawn from the policy.
    """

    gain_spearman: float | None
    gain_pearson: float | None
    policy_perplexity: float | None
    effective_pairs: float | None
    policy_entropy: float | None
    prototype_drift: float | None
    expected_gain: float | None


# One column for policy_perplexity, not two for its two names.
COLUMNS = {
    "gain_spearman": ("Spearman", 3), "gain_pearson": ("Pearson", 3), "policy_perplexity": ("policy perplexity", 1),
    "policy_entropy": ("policy entropy", 2), "prototype_drift": ("prototype drift", 4),
    "expected_gain": ("expected gain", 3),
}  # fmt: skip
"""Metric -> title of its column, and decimals."""


@dataclass(frozen=True, kw_only=True)
class DiagnosedRound(Fidelity):
    """Metrics after one round, with the number of SGD steps so far."""

    round: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class ObjectiveDiagnosis:
    """Diagnosis of one objective: a run with the default settings.

    Attributes:
        stop_reason: reason why the run ended; None while it is not over.
        rounds: rounds of the run, oldest first.
        mean: means over the rounds that have correlations.
        maps: path of the heat maps; None if none were requested, or no round has a gain to draw.
    """

    stop_reason: str | None
    rounds: list[DiagnosedRound]
    mean: Fidelity
    maps: str | None = None


@dataclass(frozen=True, kw_only=True)
class DiagnoseDocument:
    """Diagnosis of a sweep file: objective -> its diagnosis."""

    schema_version: int = SCHEMA_VERSION
    sweep: str
    objectives: dict[str, ObjectiveDiagnosis]


def diagnose(spec: SweepSpec, objective: str | None, output: Path | None) -> DiagnoseDocument:
    """Run the defaults of a sweep file once per objective and record the fidelity of the gain.

    Args:
        spec: specification of the sweep.
        objective: the only objective to run, or None for all of the file.
        output: folder for heat maps of C, G and P, or None for no maps.
    Raises:
        UsageError: the file has no such objective, or its policy does not use the gain.
        PreflightError: the data, the checkpoint or the output cannot be used.
    """
    if objective is not None and objective not in spec.objectives:
        raise UsageError(
            f"--objective: must be one of {', '.join(spec.objectives)}, the objectives of the file, got {objective!r}"
        )
    # Before the runs, which take minutes.
    if output is not None:
        check_writable(output, ADVICE)
        # Known before the minutes of work that it would be missed after.
        if find_spec("matplotlib") is None:
            raise PreflightError(
                "--output: heat maps need matplotlib, which is not installed; pip install 'selmix[plots]', or leave "
                "--output out"
            )
    data = load_data(spec)
    check_checkpoint(spec, data)
    # Of an ablation the first value: that of trial 0.
    config = before_the_best_head(settings(spec, default_point(spec), next(iter(spec.arms.values()))))
    if not config.pair_policy.targeted:
        raise UsageError(
            f"parameters.policy: must be a policy that uses the gain, got {config.policy}; there is nothing to diagnose"
        )
    # Preparing a base model writes it into a sweep's folder; a diagnosis keeps nothing but its maps.
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
    # Round 0 is the start model and takes no step that the gain could be compared with.
    measured = [row for row in rounds if row.gain_spearman is not None]
    means = {
        field.name: _mean([getattr(row, field.name) for row in measured])
        for field in dataclasses.fields(Fidelity)
    }
    path = None
    if output is not None:
        # The name of a user's own objective is module:function, and some file systems refuse the colon.
        path = output / f"{objective.replace(':', '-')}.png"
        path = path if heat_maps(run.rounds, path) else None
    return ObjectiveDiagnosis(
        stop_reason=run.stop_reason,
        rounds=rounds,
        mean=Fidelity(**means),
        maps=None if path is None else str(path),
    )


def _round(report: RoundReport) -> DiagnosedRound:
    scalars = {field.name: report.scalars.get(field.name) for field in dataclasses.fields(Fidelity)}
    # A correlation is NaN where all changes are equal: such a round has none, and JSON has no NaN.
    metrics = {k: v if v is not None and math.isfinite(v) else None for k, v in scalars.items()}
    metrics["effective_pairs"] = metrics["policy_perplexity"]
    return DiagnosedRound(round=report.round, steps=report.steps, **metrics)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def diagnosis_text(document: DiagnoseDocument, width: int | None) -> str:
    """Table of the rounds for each objective."""
    blocks = []
    columns = [Column("round", right=True), *(Column(title, right=True) for title, _ in COLUMNS.values())]
    for name, diagnosis in document.objectives.items():
        title = f"{name}: predicted gain against the real change after one step, over class pairs"
        if diagnosis.stop_reason is not None:
            title += f"; run ended by {diagnosis.stop_reason}"
        rows = [[str(row.round), *_row(row)] for row in diagnosis.rounds if row.round > 0]
        lines = [sentence(title, width), table(columns, [*rows, ["mean", *_row(diagnosis.mean)]], width)]
        if diagnosis.maps is not None:
            lines.append(sentence(f"heat maps: {diagnosis.maps}", width))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _row(metrics: Fidelity) -> list[str]:
    values = {name: getattr(metrics, name) for name in COLUMNS}
    return [
        "" if values[name] is None else f"{values[name]:.{digits}f}" for name, (_, digits) in COLUMNS.items()
    ]


def heat_maps(rounds: list[RoundMatrices], path: Path) -> bool:
    """Draw C, G and P of at most five rounds, evenly spaced, as one image; False where no round has all three."""
    # Imported late: without --output nobody waits for matplotlib. Figure draws without a display, pyplot may need one.
    from matplotlib.figure import Figure

    drawable = [r for r in rounds if r.gain is not None and r.policy is not None]
    if not drawable:
        return False
    step = max(1, math.ceil(len(drawable) / MAX_MAPS))
    shown = drawable[::step]
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
            # By row, so that rare classes are as visible as frequent ones.
            if kind == "confusion":
                values = values / values.sum(dim=1, keepdim=True)
            # Without the 1.0 an all-zero matrix would have an empty colour range.
            high = float(values.abs().max()) or 1.0
            # Gains have both signs: zero is the middle of the colours.
            low = -high if kind == "gain" else 0.0
            image = axes[row][column].imshow(values.numpy(), cmap=colours, vmin=low, vmax=high)
            axes[row][column].set_title(f"round {matrices.round}" if row == 0 else "", fontsize=9)
            axes[row][column].set_ylabel(title if column == 0 else "", fontsize=9)
            axes[row][column].tick_params(labelsize=6)
            figure.colorbar(image, ax=axes[row][column], shrink=0.7).ax.tick_params(labelsize=6)
    with writing(path, ADVICE):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    return True
