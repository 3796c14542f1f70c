"""The test split: opened by one function, which records it, and evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from orchestrator.build.base_model import torch_threads
from orchestrator.build.selection import data_config
from orchestrator.clock import utc_now
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import Figure, Metrics, Opening
from orchestrator.spec.schema import SweepSpec
from selmix.corrections import predictions_of, split_correction
from selmix.data.splits import Split
from selmix.metrics import MetricContext, Predictions
from selmix.model import predict
from selmix.statistics.comparison import mean_over_replicates
from selmix.statistics.intervals import all_intervals
from selmix.weights import load_checkpoint_into, load_weights


@dataclass(frozen=True)
class OpenedTest:
    """The test split of a sweep, opened; every evaluation on it goes through this class.

    Attributes:
        spec: specification of the sweep.
        split: samples.
    """

    spec: SweepSpec
    split: Split

    @property
    def digest(self) -> str:
        """Digest of the samples."""
        return self.split.digest()

    def predictions(self, state: Mapping[str, Tensor]) -> Predictions:
        """Predictions of a model with these weights."""
        return predictions_on(self.spec, state, self.split)

    def of_files(self, weights: Sequence[Path]) -> list[Predictions]:
        """Predictions of every model of these files."""
        return [self.predictions(load_weights(path)) for path in weights]


def open_test(spec: SweepSpec, by: str, folder: RunFolder | None) -> OpenedTest:
    """Open the test split and record the opening in the sweep.

    Args:
        spec: specification of the sweep.
        by: the command that opens it, for the record.
        folder: records of the sweep; None where a pin is reproduced without its sweep.
    """
    # Recorded before it is read: an opening that fails half way counts too.
    if folder is not None:
        state = folder.load_state()
        state.test_openings.append(Opening(utc_now(), by))
        folder.save_state(state)
    return OpenedTest(spec, data_config(spec).load_test())


def predictions_on(spec: SweepSpec, state: Mapping[str, Tensor], split: Split) -> Predictions:
    """Predictions of a sweep's model on a split.

    Args:
        spec: specification of the sweep.
        state: weights of the model, and its correction where it has one.
        split: samples.
    """
    source = data_config(spec)
    # As many threads as in a trial: another number gives other bits.
    with torch_threads(spec.resources.cpu):
        model = spec.model.config.build(source.input_shape, len(source.class_names))
        load_checkpoint_into(model, split_correction(state)[0])
        logits = predict(spec.model.config.view(model), split.inputs)[1]
    return predictions_of(state, split.labels, logits, split.groups)


def metrics_of(predictions: Predictions, context: MetricContext) -> Metrics:
    """Every metric that the data allow, each with its interval."""
    return {key: Figure(**asdict(estimate)) for key, estimate in all_intervals(predictions, context).items()}


def mean_metrics(models: Sequence[Predictions], context: MetricContext) -> Metrics:
    """Mean of every metric over several models, each with its interval."""
    each = [all_intervals(predictions, context) for predictions in models]
    return {key: Figure(**asdict(mean_over_replicates([e[key] for e in each]))) for key in each[0]}
