"""The test split, opened for a pin: the winner, its replicates and every baseline, and the verdict to quote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from orchestrator.build.base_model import torch_threads
from orchestrator.build.selection import data_config
from orchestrator.clock import utc_now
from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import TrialRecord
from orchestrator.results.judge import Judge, in_order
from orchestrator.spec.schema import SweepSpec, spec_from_resolved
from selmix.metrics import Predictions
from selmix.model import predict
from selmix.statistics.comparison import mean_over_replicates, outcome, paired_difference
from selmix.statistics.intervals import all_intervals
from selmix.weights import load_checkpoint_into, load_weights, state_digest

Figures = dict[str, dict[str, float]]


def record_opening(folder: RunFolder, by: str) -> None:
    """Count an opening of the test split, before it is opened."""
    state = folder.load_state()
    state.test_openings.append({"time": utc_now(), "by": by})
    folder.save_state(state)


class Evaluation:
    """Evaluates stored weights of one objective of a sweep on test.

    Args:
        folder: of the sweep. objective: of its objectives. by: who opens the test split, for the record.
    Raises:
        PreflightError: the data are no longer those of the sweep.
    """

    def __init__(self, folder: RunFolder, objective: str, by: str) -> None:
        self.folder, self.objective = folder, objective
        self.spec: SweepSpec = spec_from_resolved(folder.load_spec())
        self.state = folder.load_state()
        self.judge = Judge(folder, self.spec, objective)
        record_opening(folder, by)
        self.source = data_config(self.spec)
        self.test = self.source.load_test()
        if self.test.digest() != self.state.data["digests"]["test"]:
            raise PreflightError(
                f"{folder.shown}: the test split is not that of the sweep: digest {self.test.digest()}, recorded "
                f"{self.state.data['digests']['test']}"
            )

    def predictions(self, weights: Path) -> Predictions:
        """What stored weights say of test."""
        with torch_threads(self.spec.resources.cpu):
            return test_predictions(self.spec, load_weights(weights), self.test)

    def over(self, records: Sequence[TrialRecord]) -> list[Predictions]:
        """What every model of these records says of test."""
        return [self.predictions(path) for record in records for path in self._weights(record)]

    def _weights(self, record: TrialRecord) -> list[Path]:
        return self.folder.weights_files(record.trial_id)

    def document(self, name: str, trial: TrialRecord, result: dict[str, Any]) -> dict[str, Any]:
        """The pin of a trial, without its creation time and its place in MLflow."""
        spec, judge = self.spec, self.judge
        winner = result["winner"]
        is_winner = winner is not None and winner["trial_id"] == trial.trial_id
        replicates = judge.finals().get(trial.trial_id, []) or [trial]
        on_test = self.over(replicates)
        baselines = {
            b.name: b for b in in_order(self.folder.load_baselines(self.objective)) if b.state == "FINISHED"
        }
        baseline_tests = {key: self.over([record]) for key, record in baselines.items()}
        return {
            "schema_version": 1,
            "name": name,
            "sweep": {"name": spec.name, "sweep_id": self.state.sweep_id, "file_digest": self.state.file_digest},
            "objective": self.objective,
            "trial_id": trial.trial_id,
            "is_winner": is_winner,
            "seed": trial.seed,
            "round": trial.round,
            "config": trial.config,
            "protocol": self.protocol(),
            "base": self.state.base,
            "digests": self.digests(trial),
            "select": trial.select,
            "test": figures(self.predictions(self.folder.stored(self.folder.weights_path(trial.trial_id))), judge),
            "replicates": self.replicate_figures(replicates, on_test, trial),
            "baselines": {
                key: {
                    "select": record.select, "test": mean_figures(baseline_tests[key], judge),
                    "labels": record.labels, "reference": record.reference, "cost_s": record.cost_s,
                }
                for key, record in baselines.items()
            },
            "verdict": self.verdict(result, is_winner, on_test, baseline_tests),
            "environment": self.state.environment,
        }  # fmt: skip

    def protocol(self) -> dict[str, Any]:
        """Data, model and selection as asked, with what a reproduction needs beside the configuration."""
        asked = self.spec.resolved()
        rule = self.judge.rule
        return {
            "data": asked["data"], "class_names": list(self.source.class_names),
            "input_shape": list(self.source.input_shape), "model": asked["model"], "pretrain": asked["pretrain"],
            "constraints": asked["constraints"], "metrics": asked["metrics"],
            "selection": asked["selection"] | {"metric": rule.metric, "seed": rule.seed},
            "search_seed": self.spec.search.seed, "threads": self.spec.resources.cpu,
            "workers": self.spec.resources.workers,
            "tolerance": "on another stack every figure must lie within the pin's own interval",
        }  # fmt: skip

    def digests(self, trial: TrialRecord) -> dict[str, Any]:
        weights = state_digest(load_weights(self.folder.stored(self.folder.weights_path(trial.trial_id))))
        if weights != trial.weights_digest:
            raise PreflightError(
                f"{self.folder.weights_path(trial.trial_id)}: must be the weights of the trial, digest {weights}, "
                f"recorded {trial.weights_digest}"
            )
        return {**self.state.data["digests"], "base": self.state.base["digest"], "weights": weights}

    def replicate_figures(
        self, replicates: Sequence[TrialRecord], on_test: Sequence[Predictions], trial: TrialRecord
    ) -> dict[str, Any]:
        """Seeds, and metric -> mean, low, high on test over them; none for a trial that was not replicated."""
        if list(replicates) == [trial]:
            return {"split": "test", "seeds": []}
        means = mean_figures(on_test, self.judge)
        named = {key: {"mean": e["value"], "low": e["low"], "high": e["high"]} for key, e in means.items()}
        return {"split": "test", "seeds": [r.seed for r in replicates], **named}

    def verdict(
        self, result: dict[str, Any], is_winner: bool, on_test: Sequence[Predictions],
        baselines: dict[str, list[Predictions]],
    ) -> dict[str, Any]:  # fmt: skip
        """Against the opponent that was chosen on select; the one on test is the one to quote."""
        on_select = result["verdict"]
        if on_select is None:
            return {"select": None, "test": None}
        against = on_select["against"]
        gap = paired_difference(self.judge.rule.metric, on_test, baselines[against], self.judge.context)
        test = {"outcome": outcome(gap), "against": against, "difference": asdict(gap)}
        brief = {key: on_select[key] for key in ("outcome", "against", "difference")}
        return {"select": brief | {"optimistic": True} if is_winner else None, "test": test}


def test_predictions(spec: SweepSpec, state: dict[str, torch.Tensor], test: Any) -> Predictions:
    """What weights say of the test split."""
    source = data_config(spec)
    model = spec.model.config.build(source.input_shape, len(source.class_names))
    load_checkpoint_into(model, state)
    logits = predict(spec.model.config.view(model), test.inputs)[1]
    return Predictions.from_logits(test.labels, logits, test.groups)


def figures(predictions: Predictions, judge: Judge) -> Figures:
    """Metric -> value, low, high."""
    return {key: asdict(estimate) for key, estimate in all_intervals(predictions, judge.context).items()}


def mean_figures(models: Sequence[Predictions], judge: Judge) -> Figures:
    """Metric -> mean over models with its interval."""
    each = [all_intervals(predictions, judge.context) for predictions in models]
    return {key: asdict(mean_over_replicates([e[key] for e in each])) for key in each[0]}
