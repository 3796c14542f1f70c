"""Export of a pinned model: as ONNX, as a program of torch.export, or as weights with all that they need said.

Beside every file lies its description, ``FILE.json``; ONNX files and programs also carry it inside. What was exported
is loaded again and must agree with the model.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from selmix import __version__
from selmix.corrections import Correction
from selmix.files import written_aside
from selmix.pinned import PinnedInputs, pinned_of
from selmix.serving.program import OUTPUTS, PinnedProgram, examples
from selmix.weights import save_weights

Format = Literal["onnx", "pt2", "safetensors"]
FORMATS: tuple[Format, ...] = ("onnx", "pt2", "safetensors")
TOLERANCE = 1e-4
"""Largest difference of a probability between the model and its export: another runtime sums in another order."""

DESCRIPTION = "selmix.json"
"""Name of the description inside a file."""

INSTALL = "pip install 'selmix[onnx]'"
Run = Callable[..., Sequence[Tensor]]
"""Program: inputs, and groups where it takes them, to logits, probabilities and labels."""


class MissingOnnx(ValueError):
    """What ONNX needs is not installed."""


@dataclass(frozen=True)
class Agreement:
    """Comparison of what was exported with the model.

    Attributes:
        rows: number of them.
        labels_differ: rows with another label.
        largest_difference: of a probability.
    """

    rows: int
    labels_differ: int
    largest_difference: float

    @property
    def holds(self) -> bool:
        """True if all labels are equal, and the probabilities within the tolerance."""
        # Not ``> TOLERANCE``: a NaN must fail.
        return self.labels_differ == 0 and self.largest_difference <= TOLERANCE


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        files: paths, the model first.
        agreement: with the model.
    """

    files: list[Path]
    agreement: Agreement


def check_installed(form: Format) -> None:
    """Check that a format can be written here.

    Raises:
        MissingOnnx: a package is missing.
    """
    if form != "onnx":
        return
    # Looked up, not imported: they take seconds, which the refusal need not wait for.
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MissingOnnx(f"--format onnx needs {', '.join(missing)}; install with {INSTALL}")


def export_model(
    pinned: PinnedInputs, path: Path, form: Format, settings: Mapping[str, Any],
    rows: Iterator[tuple[Tensor, ...]] | None = None,
) -> Exported:  # fmt: skip
    """Write a model in another format, with its description beside it, if both agree.

    Args:
        pinned: the model, on the CPU.
        path: of the file; the description lies beside it as ``FILE.json``.
        form: of the file.
        settings: ``name``, ``protocol`` and ``digests`` of the pin.
        rows: batches of the program's inputs to compare on; None for some that are drawn at random.
    Raises:
        ValueError: a package is missing, the model cannot be exported, or both do not agree; nothing is written then.
    """
    check_installed(form)
    program = PinnedProgram(pinned).eval()
    batches = list(examples(pinned) if rows is None else rows)
    about = description(pinned, form, settings)
    beside = path.with_name(f"{path.name}.json")
    with written_aside(path) as aside:
        run = _WRITERS[form](program, pinned, aside, about, settings)
        agreement = compared(program, run, batches)
        if not agreement.holds:
            raise ValueError(
                f"{path}: the exported model must agree with the pinned one: all labels, and probabilities to "
                f"{TOLERANCE:g}; got {agreement.labels_differ} other labels of {agreement.rows} rows and a difference "
                f"of {agreement.largest_difference:.2g}; nothing was written"
            )
        checked = about | {
            "check": {"rows": agreement.rows, "largest_difference": agreement.largest_difference}
        }
        with written_aside(beside) as text:
            text.write_text(json.dumps(checked, indent=1) + "\n", encoding="utf-8")
    return Exported([path, beside], agreement)


def compared(program: PinnedProgram, run: Run, batches: Sequence[tuple[Tensor, ...]]) -> Agreement:
    """Compare an exported program with the module that it was made of.

    Args:
        program: the module.
        run: the exported program.
        batches: inputs of it.
    """
    rows, differ, largest = 0, 0, 0.0
    for batch in batches:
        with torch.no_grad():
            expected = program(*batch)
            got = run(*batch)
        rows += len(batch[0])
        differ += int((expected[2] != got[2]).sum())
        gap = float((expected[1] - got[1]).abs().max())
        # NaN is larger than nothing by ``max``, and must not be lost.
        largest = gap if not gap <= largest else largest
    return Agreement(rows, differ, largest)


def description(pinned: PinnedInputs, form: Format, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that a user of an exported model must know, as plain values.

    Args:
        pinned: the model.
        form: of the file.
        settings: ``name``, ``protocol`` and ``digests`` of the pin.
    """
    steps, correction = pinned.steps, pinned.correction
    by_group = correction is not None and correction.group_offset is not None
    inputs: list[dict[str, Any]] = [
        {
            "name": "inputs", "dtype": "float32", "shape": ["batch", *pinned.input_shape],
            "meaning": "features, as the pin's table has them" if steps is None else
            "RGB from 0 to 1, channels first, of the model's size; normalised inside",
        }
    ]  # fmt: skip
    if by_group:
        inputs.append({
            "name": "group", "dtype": "int64", "shape": ["batch"],
            "meaning": "place of each sample's group in group_names",
        })  # fmt: skip
    classes = len(pinned.class_names)
    outputs = [
        {"name": "logits", "dtype": "float32", "shape": ["batch", classes], "meaning": "as trained"},
        {"name": "probabilities", "dtype": "float32", "shape": ["batch", classes],
         "meaning": "softmax(scale * logits + bias)" if correction is not None else "softmax(logits)"},
        {"name": "labels", "dtype": "int64", "shape": ["batch"],
         "meaning": "place in class_names: argmax(probabilities @ matrix + offset"
         f"{' + group_offset[group]' if by_group else ''})" if correction is not None else
         "place in class_names: argmax(probabilities)"},
    ]  # fmt: skip
    about: dict[str, Any] = {
        "format": form, "selmix": __version__, "pin": settings["name"],
        "weights_digest": settings["digests"]["weights"],
        "class_names": list(pinned.class_names), "group_names": list(pinned.group_names),
        "columns": pinned.columns if not isinstance(pinned.columns, tuple) else list(pinned.columns),
        "preprocess": None if steps is None else steps.as_keys(),
        "before_the_model": [] if steps is None else _before(pinned),
        "inputs": inputs, "outputs": outputs,
    }  # fmt: skip
    if form == "safetensors":
        about["model"] = settings["protocol"]["model"]
        about["input_shape"] = list(pinned.input_shape)
        about["correction"] = None if correction is None else sorted(correction.tensors())
        inputs[0]["meaning"] = (
            inputs[0]["meaning"] if steps is None else
            "of the network: (input_range * x - mean) / std of RGB x from 0 to 1, channels first, of the model's size"
        )  # fmt: skip
    return about


def _before(pinned: PinnedInputs) -> list[str]:
    """Steps from an image file to the program's input, in words."""
    steps = pinned.steps
    if steps is None:
        return []
    kind = "RGB" if steps.channels == 3 else "gray"
    if steps.resize is None:
        resized = f"resize the shorter side to round({steps.size} * 256 / 224), each to round(side * that / shorter)"
    else:
        resized = {
            "center": f"resize the shorter side to {steps.resize}, the other to int({steps.resize} * long / short)",
            "squash": f"resize both sides to {steps.resize}",
            "border": f"resize the longer side to {steps.resize}, the other in proportion",
        }[steps.crop]
    cut = f"cut out the centre, {steps.size} x {steps.size}"
    if steps.crop == "border":
        cut = f"border with the mean colour to {steps.size} x {steps.size}, or cut out the centre of a larger one"
    return [
        f"decode as {kind}, turned as the camera says, without transparency",
        f"{resized}, by Pillow's {steps.interpolation} filter, which is antialiased; nothing is done at equal size",
        cut,
        "divide bytes by 255, sixteen bits by "
        + (f"{steps.white:g}" if steps.white is not None else "65535")
        + ", to floats from 0 to 1",
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what exporters say to themselves: their warnings are of no use to whoever exports a finished model."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def exported_program(program: PinnedProgram, pinned: PinnedInputs) -> Any:
    """Trace a program with batches of any size.

    Args:
        program: of the model.
        pinned: the model.
    Raises:
        ValueError: the model cannot be traced.
    """
    # Two samples: one would be taken for a constant.
    example = next(examples(pinned))
    batch = torch.export.Dim("batch")
    shapes = {"inputs": {0: batch}, "group": {0: batch}} if program.by_group else {"inputs": {0: batch}}
    try:
        with _quiet():
            return torch.export.export(program, example, dynamic_shapes=shapes)
    # A boundary: tracing a model of the user's own may raise anything.
    except Exception as error:
        raise ValueError(
            f"the model cannot be traced by torch.export with a batch of any size: {_first_line(error)}; "
            "--format safetensors has its weights"
        ) from error


def _write_onnx(
    program: PinnedProgram,
    pinned: PinnedInputs,
    path: Path,
    about: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Run:
    # It reports to its makers when it is imported, and leaves its id in the home folder; what a user exported stands.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    traced = exported_program(program, pinned)
    names = ["inputs", "group"] if program.by_group else ["inputs"]
    try:
        with _quiet():
            written = torch.onnx.export(
                traced, next(examples(pinned)), dynamo=True, input_names=names, output_names=list(OUTPUTS),
                verbose=False,
            )  # fmt: skip
            if written is None:
                raise ValueError("torch.onnx gave no program")
            properties = written.model.metadata_props
            properties[DESCRIPTION] = json.dumps(about)
            # One file: a second one of weights would be lost on the way.
            written.save(str(path), external_data=False)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # a boundary, too: operators that ONNX lacks, a model beyond 2 GB
        raise ValueError(
            f"the model cannot be written as ONNX: {_first_line(error)}; --format pt2 or safetensors may do"
        ) from error

    def run(*batch: Tensor) -> Sequence[Tensor]:
        feed = {name: each.numpy() for name, each in zip(names, batch, strict=True)}
        return [torch.from_numpy(np.asarray(each)) for each in session.run(list(OUTPUTS), feed)]

    return run


def write_pt2(program: PinnedProgram, pinned: PinnedInputs, path: Path, about: Mapping[str, Any]) -> Run:
    """Write a program of torch.export and load it again.

    Args:
        program: of the model.
        pinned: the model.
        path: of the file.
        about: its description.
    Raises:
        ValueError: the model cannot be traced.
    """
    traced = exported_program(program, pinned)
    with _quiet():
        # By streams: torch warns of names without the suffix .pt2, and the file is written aside.
        with path.open("wb") as stream:
            torch.export.save(traced, stream, extra_files={DESCRIPTION: json.dumps(about)})
        with path.open("rb") as written:
            loaded = torch.export.load(written).module()

    def run(*batch: Tensor) -> Sequence[Tensor]:
        outputs: Sequence[Tensor] = loaded(*batch)
        return outputs

    return run


def _write_pt2(
    program: PinnedProgram,
    pinned: PinnedInputs,
    path: Path,
    about: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Run:
    return write_pt2(program, pinned, path, about)


def _write_safetensors(
    program: PinnedProgram,
    pinned: PinnedInputs,
    path: Path,
    about: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Run:
    """Write the weights and the correction; the check rebuilds the model from the file and the description alone."""
    correction = {} if pinned.correction is None else pinned.correction.tensors()
    save_weights(path, {**pinned.model.state_dict(), **correction}, dict(about))
    rebuilt = pinned_of(
        {
            "protocol": {
                "class_names": about["class_names"], "model": about["model"], "input_shape": about["input_shape"],
                "preprocess": about["preprocess"], "group_names": about["group_names"],
            },
            "digests": {"weights": about["weights_digest"]},
        },
        path, str(path),
    )  # fmt: skip
    steps = rebuilt.steps

    def run(*batch: Tensor) -> Sequence[Tensor]:
        inputs, *groups = batch
        logits = rebuilt.model(inputs if steps is None else steps.normalised(inputs))
        used = rebuilt.correction or Correction.none(len(rebuilt.class_names))
        labels, probabilities = used.predict(logits, groups[0] if groups else None)
        return logits, probabilities, labels

    return run


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


_WRITERS: dict[
    str, Callable[[PinnedProgram, PinnedInputs, Path, Mapping[str, Any], Mapping[str, Any]], Run]
] = {
    "onnx": _write_onnx,
    "pt2": _write_pt2,
    "safetensors": _write_safetensors,
}
