"""Loading of a pinned model from its lock file and the weights beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from selmix.corrections import Correction, predict, split_correction
from selmix.data.images import Inputs, batches
from selmix.data.preprocess import Preprocess
from selmix.models import ModelConfig
from selmix.weights import load_checkpoint_into, load_weights, state_digest

if TYPE_CHECKING:
    from selmix.data.given import Picture

# Samples of a table, or images, that pass the network at once.
_AT_ONCE = 64
_IMAGE_KEYS = ("image_folder", "image_list")


@dataclass(frozen=True)
class PinnedInputs:
    """Inputs and answers of a pinned model; the methods are attributes of the loaded module.

    Attributes:
        model: the module.
        correction: of its predictions; None for the argmax of its logits.
        input_shape: of one sample, without the batch.
        steps: preprocessing of images; None where the data were no images, or none that are decoded.
        columns: of a table: of the features or images; None where the data were no table.
        class_names: K texts.
        group_names: A texts; empty where there are no groups, and in pins of earlier versions.
        group: column of a table's groups; None where the data had none.
    """

    model: nn.Module
    correction: Correction | None
    input_shape: tuple[int, ...]
    steps: Preprocess | None
    columns: str | tuple[str, ...] | None
    class_names: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()
    group: str | None = None

    def preprocess(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Preprocess images as those of the pin's data were.

        Args:
            images: one or several, as of :func:`selmix.data.given.image_batch`.
        Returns:
            Shape (n, C, size, size), float32, on the model's device.
        Raises:
            ValueError: one is no image, or the pin's data were no images.
        """
        from selmix.data.given import image_batch

        if self.steps is None:
            raise ValueError(
                f"this model was fitted on samples of shape {self.input_shape} that are no images with a known "
                "preprocessing; give them as a tensor"
            )
        return image_batch(images, self.steps).to(self._device)

    def predict(self, x: Any, group: Tensor | Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Corrected labels and probabilities.

        Args:
            x: a tensor of floats, as ``forward`` takes it; of a model of no images an array of numbers likewise;
                images, as of :meth:`preprocess`; or a table with columns that the model was fitted on: the path of a
                Parquet file, a pyarrow table or a data frame.
            group: group of each sample: its place among ``group_names``, shape (n,), or its name; read by a correction
                by group.
        Returns:
            Labels, shape (n,), and probabilities, shape (n, K).
        Raises:
            ValueError: it is none of these, or of another shape than the model takes; a number is missing or infinite;
                or a group is not known.
        """
        if group is not None and not isinstance(group, Tensor):
            group = self.places_of(group)
        if self.steps is None and isinstance(x, np.ndarray) and x.dtype.kind in "fiu":
            x = torch.from_numpy(np.ascontiguousarray(x))
        if isinstance(x, Tensor) and (x.is_floating_point() or self.steps is None):
            return self._predicted(x, group)
        parts = list(self._batches(x))
        if group is not None and len(group) != sum(len(part) for part in parts):
            raise ValueError(
                f"group: must be given for each of {sum(len(part) for part in parts)} samples, got {len(group)}"
            )
        with torch.no_grad():
            logits = torch.cat([self.model(part.to(self._device)) for part in parts])
        used = Correction.none(logits.shape[1]) if self.correction is None else self.correction
        return used.predict(logits, group)

    def _predicted(self, x: Tensor, group: Tensor | None) -> tuple[Tensor, Tensor]:
        """Predict a tensor of samples, in the precision and on the device of the model."""
        x = x.to(next(self.model.parameters()))
        finite = torch.isfinite(x.flatten(1)).all(dim=1) if x.dim() > 1 else torch.ones(0)
        if not bool(finite.all()):
            raise ValueError(
                f"samples must be finite numbers, sample {int((~finite).nonzero()[0])} is the first of others"
            )
        if group is not None and len(group) != len(x):
            raise ValueError(f"group: must be given for each of {len(x)} samples, got {len(group)}")
        try:
            return predict(self.model, self.correction, x, group)
        except RuntimeError as error:
            # Not checked before: many networks take images of any size.
            if tuple(x.shape[1:]) == self.input_shape:
                raise
            raise ValueError(
                f"samples must have shape {self.input_shape}, got {tuple(x.shape[1:])} behind the batch"
            ) from error

    def places_of(self, groups: Sequence[Any]) -> Tensor:
        """Places of groups among ``group_names``, shape (n,); a pin that keeps no names has the places themselves.

        Raises:
            ValueError: a group is not known.
        """
        places = self.known_places(groups)
        for group, place in zip(groups, places, strict=True):
            if place < 0:
                raise ValueError(f"group must be {self.groups_in_words}, got {group!r}")
        return torch.tensor(places, dtype=torch.int64)

    def known_places(self, groups: Sequence[Any]) -> list[int]:
        """Place of each group among ``group_names``, -1 for one that is not known."""
        count = len(self.group_names) or (0 if self.correction is None else self.correction.num_groups)
        names = self.group_names or tuple(map(str, range(count)))
        of_name = {name: place for place, name in enumerate(names)}
        return [of_name.get(str(group), -1) for group in groups]

    @property
    def groups_in_words(self) -> str:
        """Groups that there are, for messages."""
        if self.group_names:
            return f"one of {', '.join(self.group_names)}"
        return f"a whole number below {0 if self.correction is None else self.correction.num_groups}"

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _batches(self, x: Any) -> Any:
        """The samples as float tensors, some at a time."""
        from selmix.data.given import is_image, table_inputs

        if self.steps is not None and is_image(x):
            several = x if isinstance(x, list | tuple) or getattr(x, "ndim", 0) == 4 else [x]
            for start in range(0, max(1, len(several)), _AT_ONCE):
                yield self.preprocess(several[start : start + _AT_ONCE])
            return
        if self.columns is None:
            raise ValueError(
                f"this model takes {'images, or ' if self.steps is not None else ''}a tensor of samples of shape "
                f"{self.input_shape}, got {type(x).__name__}"
            )
        inputs: Inputs = table_inputs(x, self.columns, self.steps)
        if tuple(inputs.shape[1:]) != self.input_shape:
            raise ValueError(
                f"the table's samples must have shape {self.input_shape}, got {tuple(inputs.shape[1:])}"
            )
        yield from batches(inputs, _AT_ONCE)


def load_pin(path: str | Path) -> nn.Module:
    """Load the model of a pin, in evaluation mode, on the CPU.

    Args:
        path: path of the pin, such as ``pins/x.yaml``; the weights lie beside it as ``x.safetensors``.
    Returns:
        The module, whose ``forward`` gives the logits as trained, with ``class_names``, a tuple of K strings;
        ``group_names``, of the groups that a correction by group tells apart; ``correction``, a
        :class:`selmix.corrections.Correction` or None; ``preprocess(images)``, which gives the batch that ``forward``
        takes; and ``predict(x, group=None)``, which gives labels (n,) and probabilities (n, K), corrected, of a tensor,
        of images or of a table; see :class:`PinnedInputs`.
    Raises:
        ValueError: there is no pin, there are no weights beside it, or the weights have another digest than the pin's.
    """
    return as_module(load_pinned(path))


def load_pinned(path: str | Path) -> PinnedInputs:
    """Load the model of a pin with what it takes; arguments and errors are those of :func:`load_pin`."""
    # Imported on demand: the method itself needs torch and numpy only.
    import yaml

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: must be a pin, there is none; write one with `selmix pin`")
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or not {"protocol", "digests"} <= document.keys():
        raise ValueError(f"{path}: must be a pin written by `selmix pin`, with the keys protocol and digests")
    return pinned_of(document, path.with_suffix(".safetensors"), str(path))


def as_module(inputs: PinnedInputs) -> nn.Module:
    """The module of a model with what :func:`load_pin` promises of it."""
    model = inputs.model
    # The errors to ignore: nn.Module's __setattr__ is typed for tensors and modules.
    model.class_names = inputs.class_names  # type: ignore[assignment]
    model.group_names = inputs.group_names  # type: ignore[assignment]
    model.correction = inputs.correction  # type: ignore[assignment]
    model.preprocess = inputs.preprocess  # type: ignore[assignment]
    model.predict = inputs.predict  # type: ignore[assignment]
    return model


def pinned_of(document: Mapping[str, Any], weights: Path, where: str) -> PinnedInputs:
    """Build a pinned model from the keys of its pin and its weights, in evaluation mode, on the CPU.

    Args:
        document: with ``protocol`` and ``digests``, as a pin has them.
        weights: file of its weights.
        where: the document, for messages.
    Raises:
        ValueError: keys are missing, or the weights have another digest than the document's.
    """
    protocol, digests = document["protocol"], document["digests"]
    lacking = [f"protocol.{key}" for key in ("class_names", "model", "input_shape") if key not in protocol]
    lacking += [] if "weights" in digests else ["digests.weights"]
    if lacking:
        raise ValueError(f"{where}: must be a whole pin, it lacks {', '.join(lacking)}")
    names = tuple(str(name) for name in protocol["class_names"])
    state = load_weights(weights)
    # Checked before they are used: weights that were replaced or edited are not those of the pin.
    digest = state_digest(state)
    if digest != digests["weights"]:
        raise ValueError(f"{weights}: must have digest {digests['weights']}, got {digest}")
    shape = tuple(protocol["input_shape"])
    model = ModelConfig(**protocol["model"]).build(shape, len(names))
    network, correction = split_correction(state)
    load_checkpoint_into(model, network)
    groups = tuple(str(name) for name in protocol.get("group_names") or ())
    return PinnedInputs(
        model.eval(), correction, shape, _steps(protocol), _columns(protocol), names, groups,
        group if isinstance(group := protocol.get("data", {}).get("group"), str) else None,
    )  # fmt: skip


def _steps(protocol: Mapping[str, Any]) -> Preprocess | None:
    """Preprocessing of a pin's images; None where they were none."""
    if "preprocess" in protocol:
        stored = protocol["preprocess"]
        return None if stored is None else Preprocess.of_keys(stored)
    # Pins of earlier versions: files of images were read by the keys of their data, by the rule of then.
    data = protocol.get("data", {})
    return Preprocess.of_keys(data) if data.get("name") in _IMAGE_KEYS else None


def _columns(protocol: Mapping[str, Any]) -> str | tuple[str, ...] | None:
    """Columns of a pin's table; None where its data were none."""
    data = protocol.get("data", {})
    if data.get("name") != "parquet":
        return None
    stored = protocol.get("columns") or data.get("features") or "features"
    return stored if isinstance(stored, str) else tuple(stored)
