"""Cross-fitting: what a fold is judged by never saw it, and equals the fit by hand on the rest."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from selmix.baselines import BASELINES, BaselineTask, cross_fitted, cross_fitting
from selmix.baselines.catalogue import HEAD_DECAYS, HEAD_FOLDS, Baseline
from selmix.baselines.cross_fitting import fit_out_of_fold
from selmix.baselines.folds import content_folds
from selmix.baselines.frozen import frozen
from selmix.baselines.last_layer import balanced_logistic_regression
from selmix.baselines.plug_in import stratified_folds
from selmix.baselines.post_hoc import bias_search
from selmix.baselines.task import HeldOut, Models, with_bias
from selmix.data.splits import Split, join
from selmix.metrics import Predictions
from selmix.models import ModelConfig
from selmix.statistics.selection import Constraint, score
from tests.selmix.baselines.tasks import small_task

HEADS = [name for name, entry in BASELINES.items() if entry.rung in ("scores", "head")]


def poisoned(task: BaselineTask, fold: int) -> BaselineTask:
    """The same task with labels of one fold turned by one class: whoever reads them would change."""
    folds = content_folds((task.data.feedback, task.data.select))

    def turned(split: Split, place: Tensor) -> Split:
        return Split(split.inputs, torch.where(place == fold, (split.labels + 1) % 3, split.labels))

    feedback, select = (
        turned(split, place)
        for split, place in zip((task.data.feedback, task.data.select), folds, strict=True)
    )
    return dataclasses.replace(task, data=dataclasses.replace(task.data, feedback=feedback, select=select))


@pytest.mark.parametrize("name", ["post_hoc_bias_search_both", "last_layer_post_hoc_both"])
def test_predictions_on_a_fold_do_not_depend_on_its_labels(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = small_task()
    folds = content_folds((task.data.feedback, task.data.select))
    # The same folds for the turned labels, by which digests would be ordered differently.
    monkeypatch.setattr("selmix.baselines.fitted_on_both.content_folds", lambda *_: folds)
    plain, other = (BASELINES[name].fit(each).held_out for each in (task, poisoned(task, 2)))
    assert plain is not None
    assert other is not None
    for before, after, place in zip(
        (plain.feedback, plain.select), (other.feedback, other.select), folds, strict=True
    ):
        assert torch.equal(before.predicted[place == 2], after.predicted[place == 2])
        assert torch.allclose(before.confidence[place == 2], after.confidence[place == 2], atol=1e-6)
    changed = plain.joined().predicted != other.joined().predicted
    assert bool(changed.any())  # the other folds were fitted on the turned labels


def test_biases_on_both_by_hand() -> None:
    task = small_task()
    pool = join(task.data.feedback, task.data.select)
    logits = task.logits(task.base.state, pool)
    place = torch.cat(content_folds((task.data.feedback, task.data.select)))
    expected = logits.clone()
    for fold in range(5):
        rest = place != fold
        expected[~rest] += bias_search(logits[rest], pool.labels[rest], "min_recall", task.context)
    models = BASELINES["post_hoc_bias_search_both"].fit(task)
    assert models.held_out is not None
    assert torch.equal(models.held_out.joined().predicted, expected.argmax(dim=1))
    whole = bias_search(logits, pool.labels, "min_recall", task.context)
    assert torch.equal(
        models.states[0]["head.bias"],
        with_bias(task.base.state, task.view(task.base.state), whole)["head.bias"],
    )


def test_the_last_layer_on_both_ships_the_head_of_all_labels() -> None:
    task = small_task()
    pool = join(join(task.data.train, task.data.feedback), task.data.select)
    models = BASELINES["last_layer_post_hoc_both"].fit(task)
    decay = models.note["weight_decay"]
    assert isinstance(decay, float)
    weight, _ = balanced_logistic_regression(pool.whole(), pool.labels, 3, decay)
    assert torch.equal(models.states[0]["head.weight"], weight.float())
    assert models.note["judged"] == "out of fold"
    assert models.held_out is not None
    assert models.held_out.folds == 5
    assert torch.equal(models.held_out.select.labels, task.data.select.labels)


def test_the_last_layer_on_both_out_of_fold_by_hand() -> None:
    """One judging fold: the decay from heads on train, biases from heads without it and one more."""
    task = small_task()
    parts = (task.data.feedback, task.data.select)
    pool, place = join(*parts), torch.cat(content_folds(parts))
    train, judging = task.data.train, 3
    rest = place != judging

    def logits(split: Split, decay: float) -> Tensor:
        weight, bias = balanced_logistic_regression(split.whole(), split.labels, 3, decay)
        return pool.whole() @ weight.float().T + bias.float()

    def score_of(values: Tensor) -> float:
        return score(task.selection, Predictions.from_logits(pool.labels[rest], values[rest]), task.context)

    decay = max(HEAD_DECAYS, key=lambda decay: (score_of(logits(train, decay)), decay))
    out_of_fold = torch.zeros(len(place), 3)
    for fold in {0, 1, 2, 4}:
        kept = rest & (place != fold)
        out_of_fold[place == fold] = logits(join(train, pool.take(kept)), decay)[place == fold]
    added = bias_search(out_of_fold[rest], pool.labels[rest], "min_recall", task.context)
    expected = (logits(join(train, pool.take(rest)), decay) + added).argmax(dim=1)
    held_out = BASELINES["last_layer_post_hoc_both"].fit(task).held_out
    assert held_out is not None
    assert torch.equal(held_out.joined().predicted[~rest], expected[~rest])


def test_biases_on_the_last_layer_are_fitted_with_its_own_decay_by_hand() -> None:
    task = small_task()
    train, feedback, select = task.data.train, task.data.feedback, task.data.select
    base = BASELINES["last_layer_on_train_plus_feedback"].fit(task)
    decay = base.note["weight_decay"]
    assert isinstance(decay, float)
    (head,) = base.states
    folds = torch.zeros(len(feedback), 3)
    for held in stratified_folds(feedback.labels, HEAD_FOLDS):
        rest = join(train, feedback.take(~held))
        weight, bias = balanced_logistic_regression(rest.whole(), rest.labels, 3, decay)
        folds[held] = feedback.whole()[held] @ weight.float().T + bias.float()
    inside = feedback.whole() @ head["head.weight"].T + head["head.bias"]
    biases = {
        name: bias_search(logits, feedback.labels, "min_recall", task.context)
        for name, logits in (("in-sample", inside), ("out-of-fold", folds))
    }
    plain = select.whole() @ head["head.weight"].T + head["head.bias"]
    best = max(biases, key=lambda name: task.score_logits(plain + biases[name]))
    models = BASELINES["last_layer_post_hoc"].fit(task)
    assert models.note == {"fitted": best}
    assert torch.allclose(models.states[0]["head.bias"], head["head.bias"] + biases[best], atol=1e-5)


@pytest.mark.parametrize("groups", [0, 2])
@pytest.mark.parametrize("name", ["post_hoc_bias_search_both", "last_layer_post_hoc_both"])
def test_rows_on_both_take_data_with_and_without_groups(name: str, groups: int) -> None:
    task = small_task(groups, "worst_group_recall" if groups else "g_mean")
    models = BASELINES[name].fit(task)
    assert models.held_out is not None
    assert (models.held_out.select.groups is None) == (not groups)


def test_three_samples_of_a_class_are_too_few_for_a_row_on_both() -> None:
    task = small_task()
    keep = torch.cat([torch.nonzero(task.data.feedback.labels != 2).flatten(), torch.tensor([40])])
    few = dataclasses.replace(
        task.data, feedback=task.data.feedback.take(keep), select=task.data.select.take(torch.arange(42))
    )
    with pytest.raises(
        ValueError, match=r"2 folds need at least 4 samples of every class, class 2 has fewer"
    ):
        BASELINES["post_hoc_bias_search_both"].fit(dataclasses.replace(task, data=few))


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_every_baseline_of_a_head_is_cross_fitted(name: str) -> None:
    task = small_task(groups=2, metric="worst_group_recall")
    found = cross_fitted(BASELINES[name], task, BASELINES[name](task))
    assert found is not None
    assert (found.folds, found.samples, found.reason, found.violation) == (5, 120, "", 0.0)
    assert found.score is not None
    assert 0.0 <= found.score <= 1.0


def test_a_cross_fit_by_hand() -> None:
    """The class that the rest of the samples has most of, per fold: nothing of the fold itself is read."""
    task = small_task()

    def majority(of: BaselineTask) -> Models:
        counts = of.data.feedback.counts(3) + of.data.select.counts(3)
        bias = torch.zeros(3)
        bias[int(counts.argmax())] = 1e6
        assert len(of.data.train) == len(task.data.train)
        return Models((with_bias(of.base.state, of.view(of.base.state), bias),))

    folds = content_folds((task.data.feedback, task.data.select))
    labels = join(task.data.feedback, task.data.select).labels
    place, expected = torch.cat(folds), torch.zeros(120, dtype=torch.int64)
    for fold in range(5):
        expected[place == fold] = torch.bincount(labels[place != fold], minlength=3).argmax()
    held_out = fit_out_of_fold(Baseline(majority, "head"), task)
    assert torch.equal(held_out.joined().predicted, expected)
    assert torch.equal(held_out.joined().labels, labels)


@pytest.mark.parametrize("name", ["untouched", "post_hoc_bias_search_both"])
def test_bounds_are_those_of_the_predictions_out_of_fold(name: str) -> None:
    """By hand: what the least coverage over feedback and select misses its floor by."""
    floor = Constraint("min_coverage", at_least=0.32, where=("search",))
    task = small_task(bounds=(floor,))
    result = BASELINES[name](task)
    out_of_fold = (result.held_out or fit_out_of_fold(BASELINES[name], task)).joined()
    # The classes are even in both splits: shares of all predictions.
    least = float(torch.bincount(out_of_fold.predicted, minlength=3).min()) / 120
    found = cross_fitted(BASELINES[name], task, result)
    assert found is not None
    assert found.violation == pytest.approx(max(0.0, 0.32 - least), abs=1e-9)
    assert found.score == score(task.selection, out_of_fold, task.context)
    assert name != "untouched" or least < 0.32
    method = small_task(bounds=(dataclasses.replace(floor, where=("method",)),))
    inside = cross_fitted(BASELINES["untouched"], method)
    assert inside is not None
    assert inside.violation == 0.0


def test_no_score_but_a_reason() -> None:
    task = small_task()
    small = dataclasses.replace(
        task,
        data=dataclasses.replace(
            task.data,
            feedback=task.data.feedback.take(torch.arange(0, 60, 15)),
            select=task.data.select.take(torch.arange(0, 60, 12)),
        ),
    )
    found = cross_fitted(BASELINES["untouched"], small)
    assert found is not None
    assert (found.score, found.violation) == (None, None)
    assert found.reason.startswith("5 folds need at least 10 samples of every class")
    made = dataclasses.replace(task, base=dataclasses.replace(task.base, labels=("train", "feedback")))
    seen = cross_fitted(BASELINES["untouched"], made)
    assert seen is not None
    assert (seen.score, seen.reason) == (None, "the base model was trained on feedback")
    assert cross_fitted(BASELINES["uniform_mixup"], task) is None


def test_a_head_above_the_limit_is_not_cross_fitted_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_task()
    # 85 training samples and 60 of feedback, 3 classes, 4 features.
    size = (len(task.data.train) + 60) * 3 * 4
    fitted = []

    def fit(of: BaselineTask) -> Models:
        fitted.append(len(of.data.feedback))
        return Models((of.base.state,))

    monkeypatch.setattr(cross_fitting, "MAX_SIZE", size - 1)
    found = cross_fitted(Baseline(fit, "head"), task)
    assert found is not None
    assert (found.score, fitted) == (None, [])
    samples = len(task.data.train) + 60
    assert found.reason.startswith(
        f"heads of {samples} samples x 3 classes x 4 features are not cross-fitted"
    )
    # What takes no head, and what was judged out of fold anyhow, has a score.
    other = cross_fitted(Baseline(fit, "scores"), task)
    assert other is not None
    assert other.score is not None
    row = BASELINES["last_layer_post_hoc_both"]
    judged = cross_fitted(row, task, row(task))
    assert judged is not None
    assert judged.score is not None
    fitted.clear()
    monkeypatch.setattr(cross_fitting, "MAX_SIZE", size)
    whole = cross_fitted(Baseline(fit, "head"), task)
    assert whole is not None
    assert whole.score is not None
    assert len(fitted) == 5


def test_a_fit_that_fails_on_fewer_samples_is_a_reason() -> None:
    def fails(_: BaselineTask) -> Models:
        raise FloatingPointError("too few")

    found = cross_fitted(Baseline(fails, "head"), small_task())
    assert found is not None
    assert (found.score, found.reason) == (None, "too few")


def test_frozen_features_give_the_same_logits_and_heads() -> None:
    """A convolutional network: its features are no longer its inputs."""
    task, shape = small_task(), (1, 8, 8)
    config = ModelConfig("small_cnn")
    g = torch.Generator().manual_seed(0)

    def images(split: Split) -> Split:
        noise = torch.randn(len(split), *shape, generator=g)
        return Split(noise + split.labels.view(-1, 1, 1, 1), split.labels)

    data = dataclasses.replace(
        task.data,
        train=images(task.data.train),
        feedback=images(task.data.feedback),
        select=images(task.data.select),
    )
    state = config.build(shape, 3, g).state_dict()
    deep = dataclasses.replace(
        task, data=data, base=dataclasses.replace(task.base, model=config, state=state)
    )
    flat = frozen(deep)
    assert torch.allclose(
        flat.logits(flat.base.state, flat.data.select), deep.logits(state, data.select), atol=1e-5
    )
    name = "last_layer_on_train_plus_feedback"
    (one,), (other,) = BASELINES[name].fit(deep).states, BASELINES[name].fit(flat).states
    assert torch.allclose(flat.logits(other, flat.data.select), deep.logits(one, data.select), atol=1e-3)


def test_predictions_by_fold_return_to_their_order() -> None:
    labels = torch.arange(6)
    whole = Predictions(labels, labels + 10, torch.rand(6), labels % 2)
    folds = [torch.tensor([1, 0, 1, 0]), torch.tensor([0, 1])]
    predictions = [
        [whole.take(torch.arange(4)[folds[0] == f]), whole.take(torch.arange(4, 6)[folds[1] == f])]
        for f in (0, 1)
    ]
    held_out = HeldOut.of_folds(folds, predictions)
    joined = held_out.joined()
    for name in ("labels", "predicted", "confidence", "groups"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
    assert (len(held_out.feedback.labels), len(held_out.select.labels), held_out.folds) == (4, 2, 2)
