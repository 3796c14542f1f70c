"""The state dict of a file that fits a model, under whatever names wrappers have given its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from selmix.checkpoint_file import CheckpointFile, State, StoredState, read_checkpoint

# Inserted by wrappers anywhere in a name (torch.compile, activation checkpointing, sharding).
_WRAPPER_PARTS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
# Counters that no forward pass reads: files of old versions lack them.
_COUNTER = "num_batches_tracked"
MIN_FITTING = 0.9
"""Smallest share of a backbone's weights that initial weights must fit."""


@dataclass(frozen=True)
class Fit:
    """A state dict of a file under the names of a model.

    Attributes:
        state: tensors by the model's names, in its types; exactly those of the model if nothing is ``missing``.
        key: place of the state dict in the file.
        prefix: part of the stored names before the model's, with its dot.
        missing: names of the model that the file lacks.
        unexpected: stored names, without the prefix, that the model lacks.
        misshapen: name -> (shape in the model, shape in the file).
        elsewhere: number of stored tensors under other prefixes, which are left out.
        converted: types that were converted to the model's, such as ``bfloat16``.
        whole: name -> type of whole numbers that the file has in place of weights, as quantised models have.
    """

    state: dict[str, Tensor]
    key: str
    prefix: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    elsewhere: int
    converted: tuple[str, ...]
    whole: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """True if every tensor of the model is there and nothing else is."""
        return not (self.missing or self.unexpected or self.misshapen or self.whole)

    @property
    def name(self) -> str:
        """Key and prefix as ``checkpoint_key`` names them; empty for the file itself."""
        return ".".join(part for part in (self.key, self.prefix.rstrip(".")) if part)


@dataclass(frozen=True)
class Loaded:
    """Weights for a model from a file.

    Attributes:
        state: tensors by the model's names.
        notes: choices and conversions that were made, a sentence each.
        class_names: names of the classes that the file carries; None where it carries none.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...]
    class_names: tuple[str, ...] | None


def load_for_model(path: Path, model: nn.Module, key: str | None = None) -> Loaded:
    """Load the weights of a whole model from a file.

    Prefixes of wrappers are taken off the names. Where several state dicts of the file fit, the weights as they were
    trained are taken before averages of them, and the note says so.

    Args:
        path: of the file.
        model: whose names, shapes and types the weights must have; it is not changed.
        key: dotted place of the state dict in the file, or prefix of its names; None to find it.
    Raises:
        ValueError: the file cannot be read, holds no such key, does not fit, or holds values that are not finite.
    """
    file = read_checkpoint(path)
    fit, others = best_fit(file, model, key)
    if not fit.is_whole:
        raise ValueError(f"{path}: {misfit(fit)}")
    check_finite(path, fit.state)
    return Loaded(fit.state, notes_of(fit, others, key), file.class_names)


def load_for_training(path: Path, model: nn.Module, head_name: str, key: str | None = None) -> Loaded:
    """Load the weights that a training begins with: those of the backbone, and of the classifier where they fit.

    Args:
        path: of the file.
        model: whose names, shapes and types the weights must have; it is not changed.
        head_name: name of its classifier, which may have any size in the file or be missing.
        key: dotted place of the state dict in the file, or prefix of its names; None to find it.
    Raises:
        ValueError: the file cannot be read, holds no such key, fits less than :data:`MIN_FITTING` of the backbone's
            weights, or holds values that are not finite.
    """
    file = read_checkpoint(path)
    fit, others = best_fit(file, model, key, head_name)
    if (problem := too_little(fit, model, head_name)) is not None:
        raise ValueError(f"{path}: {problem}")
    check_finite(path, fit.state)
    notes = list(notes_of(fit, others, key))
    random = [name for name in model.state_dict() if name not in fit.state]
    if rest := [name for name in random if not _is_of(name, head_name)]:
        notes.append(f"{len(rest)} tensors begin at random, the file has none that fit: {_named(rest)}")
    return Loaded(fit.state, tuple(notes), file.class_names)


def too_little(fit: Fit, model: nn.Module, head_name: str) -> str | None:
    """Say how little of a backbone a state dict fits; None where it fits enough to begin a training with.

    Args:
        fit: of the state dict.
        model: that is to be trained.
        head_name: name of its classifier, which does not count.
    """
    backbone = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not _is_of(name, head_name) and not name.endswith(_COUNTER)
    }
    total = sum(tensor.numel() for tensor in backbone.values())
    fitting = {name: tensor for name, tensor in backbone.items() if name in fit.state}
    # A model that is a classifier alone has no backbone: some of the classifier must fit then.
    share = sum(tensor.numel() for tensor in fitting.values()) / total if total else float(bool(fit.state))
    if share >= MIN_FITTING and fit.state:
        return None
    fits = f"{len(fitting)} of the {len(backbone)} tensors of the backbone fit ({100 * share:.0f} % of its weights)"
    lacks = [name for name in backbone if name not in fit.state]
    wrong = [f"{name} has shape {theirs}, not {ours}" for name, (ours, theirs) in fit.misshapen.items()]
    detail = f"; it lacks {_named(lacks)}" if lacks else ""
    wrong += [f"{name} holds {kind}, no floating-point numbers" for name, kind in fit.whole.items()]
    detail += f"; {_named(wrong)}" if wrong else ""
    detail += f"; it has {_named(fit.unexpected)}" if fit.unexpected else ""
    return f"initial weights must be of the same architecture: {fits}{detail}"


def best_fit(
    file: CheckpointFile, model: nn.Module, key: str | None = None, head_name: str | None = None
) -> tuple[Fit, list[Fit]]:
    """Find the state dict of a file that fits a model best, and the others that fit it as well.

    Args:
        file: with its state dicts.
        model: to be fitted.
        key: dotted place of the state dict in the file, or prefix of its names; None to find it.
        head_name: name of a classifier that need not fit; None where all of the model must.
    Raises:
        ValueError: there is no such key.
    """
    own = model.state_dict()
    fits = [fit for stored in file.states for fit in _fits(stored, own)]
    if key is not None:
        # A key may name the state dict, the prefix within it, or both.
        chosen = [fit for fit in fits if key in (fit.key, fit.name, fit.prefix.rstrip("."))]
        if not chosen:
            there = dict.fromkeys(name for fit in fits for name in (fit.key, fit.name) if name)
            raise ValueError(
                f"{file.path}: must hold a state dict under {key!r}, it holds "
                f"{', '.join(map(repr, there)) or 'a state dict without a key'}"
            )
        # Exactly what was named comes first: `model` is not the prefix `model.` of another.
        chosen.sort(key=lambda fit: (key != fit.name, key != fit.key))
        whole = [fit for fit in chosen if _serves(fit, head_name)]
        return (whole or chosen)[0], []
    whole = [fit for fit in fits if _serves(fit, head_name)]
    if whole:
        return whole[0], whole[1:]
    # The most tensors that fit; the first of equal ones is the preferred one.
    return max(fits, key=lambda fit: len(fit.state)), []


def notes_of(fit: Fit, others: list[Fit], key: str | None) -> tuple[str, ...]:
    """Say what was chosen, left out and converted, a sentence each.

    Args:
        fit: that is taken.
        others: that would have served too.
        key: by which it was named; None where it was found.
    """
    notes = []
    if others:
        names = ", ".join(repr(other.name) if other.name else "the file's top level" for other in others)
        notes.append(
            f"took the weights under {fit.name!r}; {names} would fit too: name one with pretrain.checkpoint_key"
        )
    elif key is None and StoredState(fit.key, {}).is_average:
        notes.append(f"took the averaged weights under {fit.name!r}")
    if fit.elsewhere:
        notes.append(f"left out {fit.elsewhere} tensors under other names than {fit.prefix}*")
    if fit.converted:
        notes.append(f"converted {' and '.join(fit.converted)} to the model's types")
    return tuple(notes)


def misfit(fit: Fit) -> str:
    """Say why a state dict is not that of the model, and what to do."""
    if set(fit.misshapen) and not fit.missing and not fit.unexpected and _is_head_alone(fit):
        (rows,) = {theirs[0] for _, theirs in fit.misshapen.values()}
        (needed,) = {ours[0] for ours, _ in fit.misshapen.values()}
        return (
            f"the checkpoint fits the model but for its classifier ({', '.join(fit.misshapen)}), which gives {rows} "
            f"logits where the data have {needed} classes; train a classifier on it: pretrain: {{recipe: erm, init: "
            "FILE}"
        )
    problems = [
        f"{name} must have shape {ours}, got {theirs}" for name, (ours, theirs) in fit.misshapen.items()
    ]
    problems += [
        f"{name} must hold floating-point numbers, got {kind}: weights in whole numbers are quantised, and worth "
        "nothing without their scale"
        for name, kind in fit.whole.items()
    ]
    problems += [f"unexpected {name}" for name in fit.unexpected]
    problems += [f"missing {name}" for name in fit.missing]
    shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
    where = f" under {fit.name!r}" if fit.name else ""
    return f"the checkpoint{where} does not fit the model: {shown}"


def check_finite(path: Path, state: State) -> None:
    """Check that all weights are finite numbers.

    Raises:
        ValueError: names the tensors that hold others, and how many.
    """
    bad = {
        name: int((~torch.isfinite(tensor)).sum())
        for name, tensor in state.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    }
    if bad:
        shown = ", ".join(
            f"{name} ({count} of {state[name].numel()})" for name, count in list(bad.items())[:4]
        )
        more = f" and {len(bad) - 4} more tensors" if len(bad) > 4 else ""
        raise ValueError(f"{path}: weights must be finite numbers, got NaN or infinity in {shown}{more}")


# -- names ------------------------------------------------------------------------------------------------


def _fits(stored: StoredState, own: State) -> Iterator[Fit]:
    """Fits of a state dict under each prefix that leaves it a name of the model, the most tensors first."""
    names = {_unwrapped(name, own): name for name in stored.tensors}
    # The name itself, and every part of it that begins behind a dot.
    found: dict[str, int] = {}
    for name in names:
        at = 0
        while True:
            if name[at:] in own:
                found[name[:at]] = found.get(name[:at], 0) + 1
            dot = name.find(".", at)
            if dot < 0:
                break
            at = dot + 1
    # Without a prefix even where nothing fits, so that there is something to say what is missing of.
    best = max(found.values(), default=0)
    prefixes = sorted(
        (p for p, count in found.items() if 2 * count > best), key=lambda p: (-found[p], p)
    ) or [""]
    for prefix in prefixes:
        yield _fit(stored, own, names, prefix)


def _fit(stored: StoredState, own: State, names: Mapping[str, str], prefix: str) -> Fit:
    under = {name[len(prefix) :]: names[name] for name in names if name.startswith(prefix)}
    state: dict[str, Tensor] = {}
    converted: dict[str, None] = {}
    whole: dict[str, str] = {}
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for name, ours in own.items():
        if name not in under:
            continue
        tensor = stored.tensors[under[name]]
        if tensor.shape != ours.shape:
            misshapen[name] = (tuple(ours.shape), tuple(tensor.shape))
            continue
        if ours.is_floating_point() and not (tensor.is_floating_point() or tensor.is_complex()):
            whole[name] = str(tensor.dtype).removeprefix("torch.")
            continue
        if tensor.dtype != ours.dtype:
            converted[str(tensor.dtype).removeprefix("torch.")] = None
            tensor = tensor.to(ours.dtype)
        state[name] = tensor
    missing = [name for name in own if name not in under]
    # A counter that a file of an old version lacks begins at zero, as in a new model.
    for name in [name for name in missing if name.endswith(_COUNTER)]:
        state[name] = own[name].detach().clone()
        missing.remove(name)
    state = {name: state[name] for name in own if name in state}
    unexpected = [name for name in under if name not in own]
    # With a prefix the file belongs to a larger program, whose other parts are left out; so is a wrapper's own counter.
    elsewhere = len(stored.tensors) - len(under)
    if not prefix:
        unexpected = [name for name in unexpected if name != "n_averaged"]
    return Fit(
        state, stored.key, prefix, tuple(missing), tuple(unexpected), misshapen, elsewhere, tuple(converted), whole
    )  # fmt: skip


def _unwrapped(name: str, own: State) -> str:
    """A stored name without the parts that wrappers insert; as it is where the model has it."""
    if name in own:
        return name
    return ".".join(part for part in name.split(".") if part not in _WRAPPER_PARTS)


def _serves(fit: Fit, head_name: str | None) -> bool:
    """True if a fit has all that is needed: everything, or everything but the classifier."""
    if head_name is None:
        return fit.is_whole
    return bool(fit.state) and all(_is_of(name, head_name) for name in (*fit.missing, *fit.misshapen))


def _is_of(name: str, layer: str) -> bool:
    return name.startswith(f"{layer}.")


def _named(names: Sequence[str], count: int = 4) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _is_head_alone(fit: Fit) -> bool:
    """True if the shapes differ in the first dimension of one layer alone, as those of a classifier do."""
    layers = {name.rpartition(".")[0] for name in fit.misshapen}
    return (
        len(layers) == 1
        and bool(fit.state)
        and all(ours[1:] == theirs[1:] for ours, theirs in fit.misshapen.values())
    )
