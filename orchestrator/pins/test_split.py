"""The test split: opened by one function, which records it, and evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from orchestrator.build.base_model import torch_threads
from orchestrator.build.selection import data_config
from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.records.openings import RecordedOpening, record_opening
from orchestrator.records.types import Figure, Metrics
from orchestrator.spec.schema import SweepSpec
from selmix.corrections import predictions_of, split_correction
from selmix.data.content import content_of
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
        digest: of the split.
        content: content digest of the samples.
        opening: its record; None where a pin is reproduced without its sweep.
    """

    spec: SweepSpec
    split: Split
    digest: str
    content: str
    opening: RecordedOpening | None

    @property
    def openings_before(self) -> int:
        """Times that the samples were seen before, as far as the runs folder knows."""
        return 0 if self.opening is None else self.opening.t - 1

    @property
    def share_seen(self) -> float:
        """Largest share of the samples that one of these openings held; 0.0 without one."""
        return 0.0 if self.opening is None else self.opening.overlap or 0.0

    def predictions(self, state: Mapping[str, Tensor]) -> Predictions:
        """Predictions of a model with these weights."""
        return predictions_on(self.spec, state, self.split)

    def of_files(self, weights: Sequence[Path]) -> list[Predictions]:
        """Predictions of every model of these files.

        Raises:
            PreflightError: one of them cannot be read, or does not fit the model.
        """
        predictions = []
        for path in weights:
            try:
                predictions.append(self.predictions(load_weights(path)))
            except ValueError as error:
                # An error of reading names the file already, one of fitting does not.
                reason = str(error).removeprefix(f"{path}: ")
                raise PreflightError(f"{path}: must be weights of the sweep's model: {reason}") from error
        return predictions


@dataclass(frozen=True)
class Opener:
    """Opener of a test split, for the record.

    Attributes:
        verb: ``pin`` or ``reproduce``.
        pins: names of the pins.
        objectives: of the pins, in their order.
    """

    verb: str
    pins: Sequence[str]
    objectives: Sequence[str]


def open_test(
    spec: SweepSpec, opener: Opener, folder: RunFolder | None, must_be: str | None = None
) -> OpenedTest:
    """Open the test split and record the opening, in the runs folder and in the sweep.

    Args:
        spec: specification of the sweep.
        opener: the command that opens it.
        folder: records of the sweep; None where a pin is reproduced without its sweep, which is not recorded.
        must_be: digest that the split must have; None: any.
    Raises:
        PreflightError: the split cannot be read or is another one, or the opening cannot be recorded; it was not
            opened then.
    """
    try:
        split = data_config(spec).load_test()
        digest, content = split.digest(), content_of(split)
    except (OSError, ValueError) as error:
        raise PreflightError(
            f"data: the test split of {spec.data['name']} must be readable: {error}"
        ) from error
    if must_be is not None and digest != must_be:
        raise PreflightError(
            f"{spec.name}: the test split must be that of the sweep, digest {must_be}, got {digest}; restore the data"
        )
    if folder is None:
        return OpenedTest(spec, split, digest, content.digest, None)
    # Recorded before anything is evaluated on it: an opening whose evaluation fails half way counts too.
    opening = record_opening(
        folder, content.digest, digest, opener.verb, opener.pins, opener.objectives, content.sketch
    )
    return OpenedTest(spec, split, digest, content.digest, opening)


def predictions_on(spec: SweepSpec, state: Mapping[str, Tensor], split: Split) -> Predictions:
    """Predictions of a sweep's model on a split.

    Args:
        spec: specification of the sweep.
        state: weights of the model, and its correction where it has one.
        split: samples.
    Raises:
        ValueError: the weights do not fit the model.
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
    return {key: Figure(**asdict(mean_over_replicates(key, [e[key] for e in each]))) for key in each[0]}
