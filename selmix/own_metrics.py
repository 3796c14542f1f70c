"""Metrics of the user's own: functions of one confusion matrix, of torch or of numpy.

Such a function takes C, shape (K, K), float64, true classes in the rows, and returns one number. As a metric it gets
counts, as an objective smoothed shares that sum to 1, so it must not depend on the scale of C. It is called on one
matrix at a time, whatever it is computed of.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selmix.metric_functions import MetricContext
from selmix.user_code import is_less_better, load_function, of_matrix_alone

MAX_NUMERIC_CLASSES = 128
"""Classes up to which a function without a gradient of its own is differentiated by K^2 differences."""

SCALE_TOLERANCE = 1e-3
"""Share of a value by which counts and shares may differ: constants that keep a denominator from 0 are no scale."""

_STEP = 1e-2  # counts added to a cell for a difference: large enough for functions that compute in float32
_DIRECTIONS = 4
_AGREEMENT = 1e-2  # of autograd's derivatives with differences of such a step


class OwnFunctionError(ValueError):
    """A user's function gave no number; the message names it."""


@dataclass(frozen=True)
class _Kind:
    """Form of the call of a function.

    Attributes:
        takes_numpy: True for arrays, False for tensors.
        batched: True if ``torch.vmap`` gives what calls one by one give.
        by_autograd: True if autograd's derivatives are those of the function's values.
    """

    takes_numpy: bool
    batched: bool
    by_autograd: bool


class OwnFunction:
    """A user's function of the confusion matrix as a metric.

    Args:
        reference: ``module:function``, for messages.
        function: of C, or of C and a context (:func:`selmix.user_code.of_matrix_alone`).
    Attributes:
        reference: as given.
        minimise: True if less is better.
    """

    def __init__(self, reference: str, function: Callable[..., Any]) -> None:
        self.reference, self._function = reference, function
        self.minimise = is_less_better(function)
        self._kinds: dict[int, _Kind] = {}

    def __call__(self, confusion: Tensor, context: MetricContext) -> Tensor:
        """Compute the function of each of several matrices.

        Args:
            confusion: counts or shares, shape (..., K, K); where it requires a gradient the result has one, by
                differences where the function itself has none.
            context: of the metrics; the function gets it where it takes one.
        Returns:
            Shape (...), float64.
        Raises:
            OwnFunctionError: the function fails, or returns anything but a finite number.
        """
        classes = confusion.shape[-1]
        flat = confusion.double().reshape(-1, classes, classes)
        kind = self._kind(classes, context)
        if flat.requires_grad and torch.is_grad_enabled() and not kind.by_autograd:
            values: Tensor = _Differences.apply(flat, self, context)
        else:
            values = self._values(flat, context, kind)
        return values.reshape(confusion.shape[:-2])

    def gradient(self, counts: Tensor, context: MetricContext) -> Tensor:
        """Derivatives of the function by the entries of one matrix, shape (K, K), float64.

        Args:
            counts: shape (K, K).
            context: of the metrics.
        Raises:
            OwnFunctionError: see :meth:`__call__`; or a derivative is not finite.
        """
        held = counts.detach().double().cpu().clone().requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self(held, context), held)
        if not bool(torch.isfinite(gradient).all()):
            raise OwnFunctionError(
                f"{self.reference}: its derivatives must be finite, got others on {_described(counts)}"
            )
        return gradient

    def has_own_gradient(self, num_classes: int, context: MetricContext) -> bool:
        """True if autograd gives the derivatives of the function's values, at K classes."""
        return self._kind(num_classes, context).by_autograd

    def takes_numpy(self, num_classes: int, context: MetricContext) -> bool:
        """True if the function is one of numpy arrays, not of tensors, at K classes."""
        return self._kind(num_classes, context).takes_numpy

    def problems(self, num_classes: int, context: MetricContext) -> list[str]:
        """Reasons why the function cannot be a metric of K classes, tried on matrices that a sweep meets; at most one.

        Args:
            num_classes: K.
            context: of the metrics.
        """
        for name, counts in tried_matrices(num_classes):
            try:
                value = float(self(counts, context))
                share = float(self(counts / counts.sum(), context))
            except OwnFunctionError as error:
                return [f"{error} ({name}); give it a value there"]
            if abs(value - share) > SCALE_TOLERANCE * max(abs(value), abs(share)) + 1e-9:
                return [
                    f"{self.reference}: must not depend on the scale of C, got {value:g} of counts and {share:g} of "
                    f"the same counts divided by their sum ({name}); divide by confusion.sum() in it"
                ]
        if num_classes > MAX_NUMERIC_CLASSES and not self.has_own_gradient(num_classes, context):
            return [
                f"{self.reference}: must be differentiable by torch beyond {MAX_NUMERIC_CLASSES} classes, got "
                f"{num_classes}; write it with torch operations"
            ]
        return []

    def _values(self, flat: Tensor, context: MetricContext, kind: _Kind) -> Tensor:
        function = of_matrix_alone(self._function, context)
        # In one call, of which the function sees single matrices all the same.
        if kind.batched and len(flat) > 1:
            values: Tensor = torch.vmap(function)(flat).double()
            self._check(values, flat)
            return values
        values = torch.stack([self._number(function, matrix, kind.takes_numpy) for matrix in flat])
        self._check(values, flat)
        return values

    def _number(self, function: Callable[[Any], Any], matrix: Tensor, takes_numpy: bool) -> Tensor:
        """The function of one matrix, shape (), float64."""
        try:
            given = function(matrix.detach().cpu().numpy().copy() if takes_numpy else matrix)
        except Exception as error:  # whatever the user's function raises
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise OwnFunctionError(
                f"{self.reference}: fails on {_described(matrix)}: {kind}{error}"
            ) from error
        if isinstance(given, Tensor) and given.ndim == 0 and not given.is_complex():
            return given.double().cpu()
        if (
            isinstance(given, int | float | np.number | np.ndarray)
            and np.ndim(given) == 0
            and np.isrealobj(given)
        ):
            return torch.tensor(float(given), dtype=torch.float64)
        shape = f" of shape {tuple(given.shape)}" if isinstance(given, Tensor | np.ndarray) else ""
        raise OwnFunctionError(
            f"{self.reference}: must return one number, got {type(given).__name__}{shape} of {_described(matrix)}"
        )

    def _check(self, values: Tensor, flat: Tensor) -> None:
        bad = torch.nonzero(~torch.isfinite(values.detach())).flatten()
        if len(bad):
            place = int(bad[0])
            raise OwnFunctionError(
                f"{self.reference}: must be a finite number, got {float(values[place])} on {_described(flat[place])}"
            )

    def _kind(self, classes: int, context: MetricContext) -> _Kind:
        # By the number of classes: a function may hold a matrix of weights, and fails on any other size.
        if classes not in self._kinds:
            self._kinds[classes] = self._found_kind(classes, context)
        return self._kinds[classes]

    def _found_kind(self, classes: int, context: MetricContext) -> _Kind:
        """Try the function on a few matrices whose cells are all positive."""
        function = of_matrix_alone(self._function, context)
        generator = torch.Generator().manual_seed(0)
        draws = torch.rand((3, classes, classes), generator=generator, dtype=torch.float64) * 10.0 + 1.0
        matrices = draws + 30.0 * torch.eye(classes, dtype=torch.float64)
        # numpy warns where it is given tensors, torch where it cannot batch.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            of_array, of_tensor = (self._tried(function, matrices[0], numpy) for numpy in (True, False))
            gradient = self._gradient(function, matrices[0])
        if of_array is not None and of_tensor is not None and gradient is not None:
            if not math.isclose(of_tensor, of_array, rel_tol=1e-6, abs_tol=1e-9):
                raise OwnFunctionError(
                    f"{self.reference}: must be a function of torch or of numpy, got {of_tensor:g} of a tensor and "
                    f"{of_array:g} of the same array; begin it with torch.as_tensor or numpy.asarray"
                )
        # Functions of numpy may take tensors all the same, without a gradient. Where nothing works, the error of the
        # call with a tensor is the message.
        elif of_array is not None:
            return _Kind(takes_numpy=True, batched=False, by_autograd=False)
        if gradient is None or not self._agrees(function, matrices[0], gradient, generator):
            return _Kind(takes_numpy=False, batched=False, by_autograd=False)
        return _Kind(False, self._is_batched(function, matrices), True)

    def _tried(self, function: Callable[[Any], Any], matrix: Tensor, takes_numpy: bool) -> float | None:
        with contextlib.suppress(OwnFunctionError):
            return float(self._number(function, matrix, takes_numpy))
        return None

    def _gradient(self, function: Callable[[Any], Any], matrix: Tensor) -> Tensor | None:
        """Gradient by autograd, shape (K, K); None where the function has none."""
        held = matrix.clone().requires_grad_(True)
        try:
            with torch.enable_grad():
                value = self._number(function, held, takes_numpy=False)
                return torch.autograd.grad(value, held)[0] if value.requires_grad else None
        except (OwnFunctionError, RuntimeError):
            return None

    def _agrees(
        self, function: Callable[[Any], Any], matrix: Tensor, gradient: Tensor, generator: torch.Generator
    ) -> bool:
        """True if autograd's derivatives are those of the values: a function may detach a part of itself."""
        for _ in range(_DIRECTIONS):
            step = _STEP * torch.rand(matrix.shape, generator=generator, dtype=torch.float64)
            ends = [self._tried(function, matrix + sign * step, takes_numpy=False) for sign in (1.0, -1.0)]
            if ends[0] is None or ends[1] is None:
                return False
            found, along = (ends[0] - ends[1]) / 2.0, gradient * step
            if abs(found - float(along.sum())) > _AGREEMENT * float(along.abs().sum()) + 1e-12:
                return False
        return True

    def _is_batched(self, function: Callable[[Any], Any], matrices: Tensor) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                together = torch.vmap(function)(matrices)
            single = torch.stack([self._number(function, matrix, takes_numpy=False) for matrix in matrices])
            return bool(torch.allclose(together.double(), single, rtol=1e-9, atol=1e-12))
        # Functions that branch on values, or leave torch on the way, are called one by one.
        except Exception:
            return False


class _Differences(torch.autograd.Function):
    """Values of a function whose derivatives are differences: one more hundredth of a count in each cell."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, function: OwnFunction, context: MetricContext) -> Tensor:
        ctx.save_for_backward(flat)
        ctx.function, ctx.context = function, context
        return function(flat.detach(), context)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (flat,) = ctx.saved_tensors
        gradients = [differences(ctx.function, matrix, ctx.context) for matrix in flat]
        return grads[0].reshape(-1, 1, 1) * torch.stack(gradients), None, None


def differences(
    function: Callable[[Tensor, MetricContext], Tensor], matrix: Tensor, context: MetricContext
) -> Tensor:
    """Forward differences of a function by the entries of a matrix, shape (K, K), float64.

    Forward, so that no cell becomes negative.

    Args:
        function: (..., K, K) and context -> (...).
        matrix: counts or shares, shape (K, K).
        context: of the metrics.
    """
    classes, total = matrix.shape[0], float(matrix.sum())
    # Of shares, whose sum is 1, as of 20 samples a class.
    step = _STEP if total > 2.0 else _STEP * total / (20.0 * classes)
    base = function(matrix, context)
    unit = torch.zeros_like(matrix)
    found = torch.empty_like(matrix)
    for place in range(classes * classes):
        unit.view(-1)[place] = step
        found.view(-1)[place] = (function(matrix + unit, context) - base) / step
        unit.view(-1)[place] = 0.0
    return found


def tried_matrices(num_classes: int) -> Iterator[tuple[str, Tensor]]:
    """Counts of the kinds that a sweep meets, with what is said of them; each of shape (K, K), float64."""
    generator = torch.Generator().manual_seed(0)
    yield "of perfect predictions", 20.0 * torch.eye(num_classes, dtype=torch.float64)
    yield "all cells alike", torch.full((num_classes, num_classes), 3.0, dtype=torch.float64)
    drawn = torch.randint(1, 20, (num_classes, num_classes), generator=generator).double()
    yield "drawn at random", drawn
    # Rare classes are often never predicted, and every search of thresholds passes the last two.
    missed = 20.0 * torch.eye(num_classes, dtype=torch.float64)
    missed[-1] = missed[-1].roll(1)
    yield "of a class that is never predicted", missed
    for k in (0, num_classes - 1):
        one = torch.zeros(num_classes, num_classes, dtype=torch.float64)
        one[:, k] = 20.0
        yield "of a single class predicted for all samples", one


def _described(matrix: Tensor) -> str:
    """A confusion matrix in words, for messages."""
    classes, columns = matrix.shape[-1], matrix.detach().sum(dim=-2)
    never = torch.nonzero(columns == 0).flatten().tolist()
    which = f" in which {len(never)} of the classes are never predicted" if never else ""
    return f"a {classes} x {classes} confusion matrix{which}"


@lru_cache(maxsize=64)
def _of(reference: str, function: Callable[..., Any]) -> OwnFunction:
    return OwnFunction(reference, function)


def own_function(reference: str) -> OwnFunction:
    """Load a user's function as a metric.

    Args:
        reference: ``module:function``.
    Raises:
        ValueError: there is no such function.
    """
    # By the function too: another module of the name may have been loaded since.
    return _of(reference, load_function(reference))
