"""Corrections of the logits after training, which cost next to nothing and are hard to beat."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from selmix.baselines.line_search import BiasedLogits
from selmix.baselines.tally import Key
from selmix.metrics import MetricContext
from selmix.statistics.selection import Constraint

SWEEPS = 4  # rounds over all classes from one start, at most
ITERATIONS = 400  # of the equalising start, at most
PATIENCE = 100  # iterations without a better one, after which it ends
TAUS = tuple(k / 10 for k in range(31))


def logit_adjustment(train_counts: Tensor, tau: float) -> Tensor:
    """Biases -tau log(prior), to be added to the logits; shape (K,).

    Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.
    """
    # A class without training samples counts as one sample: its logarithm must be finite.
    counts = train_counts.double().clamp_min(1.0)
    return (-tau * (counts / counts.sum()).log()).float()


def bias_search(
    logits: Tensor,
    labels: Tensor,
    metric: str,
    context: MetricContext,
    groups: Tensor | None = None,
    bounds: Sequence[Constraint] = (),
) -> Tensor:
    """Search per-class biases that are best for a metric on these samples.

    From several starts the bias of one class after another moves to the exact best point of its line. One start alone
    ends in local optima: for a minimum several biases must move together. The starts: no biases; those that make the
    classes' recalls equal (:func:`equalising_biases`); and logit adjustment by the counts of these samples and of the
    training samples. The best result is kept, ties by mean recall and then by the smaller change. Nothing is drawn.

    With bounds, what violates them least comes before all that. One more start is the result without them: where it
    meets them, nothing worse is returned.

    Args:
        logits: shape (n, K); -inf is a score that never wins, and no row has only these.
        labels: shape (n,).
        metric: a key of METRICS.
        context: of the metric.
        groups: shape (n,), for data with a group attribute.
        bounds: constraints; those of the search that counts determine are met on these samples, or missed by the least.
    Returns:
        Shape (K,), float32; zeros where nothing is better than no correction.
    """
    classes = logits.shape[1]
    if not len(logits):
        return torch.zeros(classes)
    samples = BiasedLogits(logits, labels, metric, context, groups, bounds)
    starts: Iterable[Tensor] = _starts(samples)
    if samples.tally.bounds:
        starts = itertools.chain(starts, [bias_search(logits, labels, metric, context, groups).double()])
    ends: list[tuple[Key, float, int, Tensor]] = []
    for start in starts:
        samples.move_to(start)
        best = samples.key()
        for _ in range(SWEEPS):
            before = best
            for k in range(classes):
                best = samples.search_line(k, best)
            # No single bias helps any more: further rounds would change nothing.
            if best == before:
                break
        change = samples.bias - samples.bias.mean()
        # Of results that are alike in everything the first start's stands.
        ends.append((best, -float(change.norm()), -len(ends), samples.bias))
    return max(ends, key=lambda end: end[:3])[3].float()


def equalising_biases(samples: BiasedLogits) -> Tensor:
    """Biases that rise where a class's recall lies below the mean and fall where it lies above; shape (K,), float64.

    ``b += eta (mean recall - recall)`` with eta falling from the scale of the logits; the iterate with the best metric
    is kept. Where the metric is one of other rates, these are made equal (:meth:`BiasedLogits.shortfall`).

    Args:
        samples: with their metric; their biases stay as they are.
    """
    # In units of the logits, which may be probabilities or of any scale.
    gaps = samples.best_value - samples.next_value
    # Where every other class is at -inf there is no gap that a bias could close.
    closable = gaps[torch.isfinite(gaps)]
    scale = float(closable.mean()) if len(closable) else 1.0
    bias = torch.zeros_like(samples.bias)
    best: tuple[Key, Tensor] | None = None
    since = 0
    for iteration in range(ITERATIONS):
        predicted = samples.predictions(bias)
        key = samples.tally.key(predicted)
        if best is None or key > best[0]:
            best, since = (key, bias), 0
        since += 1
        if since > PATIENCE:
            break
        rate = 2.0 * scale / (1.0 + iteration / 20.0)
        bias = bias + rate * samples.tally.shortfall(predicted).nan_to_num(nan=0.0)
    return bias if best is None else best[1]


def _starts(samples: BiasedLogits) -> Iterator[Tensor]:
    """Biases to search from, none twice; a shift of all biases is none."""
    tried: list[Tensor] = []
    fitted = torch.bincount(samples.tally.labels, minlength=samples.classes)
    starts: tuple[Callable[[], Tensor], ...] = (
        lambda: torch.zeros_like(samples.bias),
        lambda: equalising_biases(samples),
        lambda: logit_adjustment(fitted, 1.0).double(),
        lambda: logit_adjustment(samples.tally.context.train_counts.cpu(), 1.0).double(),
    )
    for make in starts:
        start = make()
        centred = start - start.mean()
        if not any(torch.allclose(centred, other, rtol=0.0, atol=1e-6) for other in tried):
            tried.append(centred)
            yield start
