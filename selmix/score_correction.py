"""A correction of class scores, kept as a file: biases per class, or a threshold on the score of one of two classes.

correction = selmix.load_score_correction("correction.json")
labels = correction.predict(probabilities)  # of new samples, scores of the kind that the file names
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from selmix.score_kinds import KINDS, ScoreKind, from_log_odds, kind_of, log_odds, on_log_scale

CorrectionKind = Literal["biases", "threshold"]
_VERSION = 1


@dataclass(frozen=True)
class ScoreCorrection:
    """Correction of the decisions that are made by class scores.

    Attributes:
        kind: ``biases`` to be added to the scores on the scale of logarithms, or ``threshold`` that the score of the
            positive class must exceed.
        class_names: K texts, in the order of the scores; of a threshold the positive class is the second.
        scores: kind of the scores that it was fitted on, of KINDS.
        metric: key of the metric that it was fitted for.
        biases: K numbers; () for a threshold.
        threshold: on the scale of the scores; None for biases.
        rows: samples that it was fitted on.
        digest: SHA-256 of the file of these samples; "" where it is not known.
    Raises:
        ValueError: numbers that do not fit the kind.
    """

    kind: CorrectionKind
    class_names: tuple[str, ...]
    scores: ScoreKind
    metric: str
    biases: tuple[float, ...] = ()
    threshold: float | None = None
    rows: int = 0
    digest: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(CorrectionKind):
            raise ValueError(f"kind must be biases or threshold, got {self.kind!r}")
        if self.scores not in KINDS:
            raise ValueError(f"scores must be one of {', '.join(KINDS)}, got {self.scores!r}")
        if self.kind == "biases":
            good = len(self.biases) == len(self.class_names) and all(map(math.isfinite, self.biases))
            if not good or len(self.class_names) < 2:
                raise ValueError(
                    f"biases must be finite numbers, one per class of {len(self.class_names)}, got {list(self.biases)}"
                )
        elif len(self.class_names) != 2 or self.threshold is None or not math.isfinite(self.threshold):
            raise ValueError(
                f"a threshold must be a finite number for two classes, got {self.threshold} for {len(self.class_names)}"
            )

    @property
    def apply(self) -> str:
        """Instruction for applying it."""
        if self.kind == "threshold":
            return f"predict {self.class_names[1]} where its score exceeds the threshold, else {self.class_names[0]}"
        of = "the logarithm of the score" if self.scores == "probabilities" else "the score"
        return f"add biases[k] to {of} of class k; the largest is the prediction"

    def offsets(self) -> Tensor:
        """Biases on the scale of logarithms, shape (K,), float64, whatever the kind."""
        if self.threshold is None:
            return torch.tensor(self.biases, dtype=torch.float64)
        odds = log_odds(torch.tensor([self.threshold], dtype=torch.float64), self.scores)
        return torch.cat([torch.zeros(1, dtype=torch.float64), -odds])

    def predict(self, scores: ArrayLike | Tensor) -> Tensor:
        """Predicted class of each sample, shape (n,), int64: a place in ``class_names``.

        Args:
            scores: of the kind ``self.scores``: shape (n, K); for a threshold shape (n,) or (n, 1), those of the
                positive class.
        Raises:
            ValueError: another shape, or scores that are not of that kind.
        """
        values = (
            scores if isinstance(scores, Tensor) else torch.from_numpy(np.asarray(scores, dtype=np.float64))
        )
        width = 1 if self.kind == "threshold" else len(self.class_names)
        if values.ndim == 1 and width == 1:
            values = values.unsqueeze(1)
        if values.ndim != 2 or values.shape[1] != width:
            raise ValueError(f"scores must have shape (n, {width}), got {tuple(values.shape)}")
        if not len(values):
            return torch.empty(0, dtype=torch.int64)
        kind_of(values, self.scores)
        if self.threshold is not None:
            return (values[:, 0].double() > self.threshold).long()
        return decide(on_log_scale(values, self.scores), self.offsets())

    def for_classes(self, names: tuple[str, ...]) -> ScoreCorrection:
        """The same with the classes in another order.

        Raises:
            ValueError: other classes.
        """
        if self.class_names == names:
            return self
        if sorted(self.class_names) != sorted(names) or self.kind == "threshold":
            raise ValueError(
                f"must be a correction of the classes {', '.join(names)}, got one of {', '.join(self.class_names)}"
            )
        order = [self.class_names.index(name) for name in names]
        return ScoreCorrection(
            self.kind, names, self.scores, self.metric, tuple(self.biases[k] for k in order), None, self.rows,
            self.digest,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write it as JSON.

        Raises:
            OSError: the file cannot be written.
        """
        document = {"schema_version": _VERSION, **asdict(self), "apply": self.apply}
        if self.kind == "biases":
            document.pop("threshold")
        else:
            document.pop("biases")
            document["positive"] = self.class_names[1]
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def decide(scores: Tensor, offsets: Tensor) -> Tensor:
    """Class of the largest score with its offset, the first of equal ones; shape (n,).

    Args:
        scores: on the scale of logarithms, shape (n, K).
        offsets: shape (K,).
    """
    predicted = torch.empty(len(scores), dtype=torch.int64)
    # In parts: the sums of a large table are never held at once.
    for start in range(0, len(scores), _ROWS_AT_ONCE):
        part = scores[start : start + _ROWS_AT_ONCE].double() + offsets
        predicted[start : start + len(part)] = part.argmax(dim=1)
    return predicted


_ROWS_AT_ONCE = 2**16


def binary_threshold(offsets: Tensor, scores: ScoreKind) -> float:
    """Threshold on the score of the second of two classes that decides as biases (2,) do on the scale of logarithms."""
    return from_log_odds(float(offsets[0] - offsets[1]), scores)


def load_score_correction(path: str | Path) -> ScoreCorrection:
    """Read a correction that ``selmix evaluate --save`` wrote.

    Raises:
        ValueError: no such file, no JSON, or no correction.
    """
    path = Path(path)
    try:
        held: Any = json.loads(path.read_text(encoding="utf-8"))
        version = held["schema_version"]
        if version != _VERSION:
            raise ValueError(f"schema_version must be {_VERSION}, got {version!r}")
        return ScoreCorrection(
            held["kind"], tuple(map(str, held["class_names"])), held["scores"], str(held["metric"]),
            tuple(map(float, held.get("biases", ()))),
            None if held.get("threshold") is None else float(held["threshold"]),
            int(held.get("rows", 0)), str(held.get("digest", "")),
        )  # fmt: skip
    except OSError as error:
        raise ValueError(f"{path}: must be a correction: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path}: must be a correction that selmix evaluate --save wrote: {reason}"
        ) from error
