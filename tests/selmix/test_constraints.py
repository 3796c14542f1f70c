"""Bounds inside the method: the published coverage terms, any other metric, and a run that is held by them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from selmix.confusion import logit_gradient, smooth_confusion
from selmix.constraints import scaled_slacks, slacks, unit, with_constraints
from selmix.definitions import Definitions
from selmix.metrics import METRICS, MetricContext
from selmix.multipliers import BoundState, MultiplierSettings
from selmix.objectives import ObjectiveContext, bind_objective
from selmix.run.run import Constraint, RoundReport, Run, SelectionRule, finetune, inside_the_method
from tests.selmix.test_run import SHORT, world

COUNTS = torch.tensor([60, 30, 20, 10, 4, 2])
COSTS = tuple(tuple(float(k != j) for j in range(6)) for k in range(6))
CONTEXT = ObjectiveContext(
    train_counts=COUNTS, definitions=Definitions(recall_weights=(1.0,) * 6, cost_matrix=COSTS)
)


def confusion(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    counts = 20 * torch.rand(6, 6, generator=generator) ** 3 + 8 * torch.eye(6)
    counts[:, 2] += 6.0  # a class that is predicted too often
    return smooth_confusion(counts)


def held_at(constraint: Constraint, matrix: torch.Tensor, context: ObjectiveContext) -> torch.Tensor:
    """Multipliers of a bound's values in a first round, by the definition: Lambda w."""
    slack = [float(each) for each in scaled_slacks(constraint, matrix, context)]
    total = sum(math.exp(-20.0 * each) for each in slack)
    weights = [math.exp(-20.0 * each) / total for each in slack]
    mean = sum(w * each for w, each in zip(weights, slack, strict=True))
    raised = min(max(math.exp(-0.5 * min(max(mean / 0.05, -1.0), 1.0)), 0.01), 20.0)
    return raised * torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("recall_gap", at_most=0.1),
        Constraint("macro_f1", at_least=0.9),
        Constraint("accuracy", at_least=0.95),
        Constraint("min_recall", at_least=0.8),
        Constraint("min_precision", at_least=0.8),
        Constraint("cost", at_most=0.1),
        Constraint("min_coverage", at_most=0.01),
        Constraint("weighted_recall", at_least=0.95),
    ],
    ids=lambda c: f"{c.metric}-{'floor' if c.at_most is None else 'ceiling'}",
)
def test_a_missed_bound_pulls_and_its_gradient_is_that_of_finite_steps(constraint: Constraint) -> None:
    matrix = confusion()
    slack = slacks(constraint, matrix, CONTEXT)
    assert float(slack.min()) < 0
    scale = 1.0 / 6 if "coverage" in constraint.metric else 1.0
    held = held_at(constraint, matrix, CONTEXT)
    assert float(held.sum()) > 1.0

    def by_hand(c: torch.Tensor) -> torch.Tensor:
        base = bind_objective("mean_recall", CONTEXT)(c)
        return (base + (held * slacks(constraint, c, CONTEXT) / scale).sum()) / (1.0 + held.sum())

    ours = with_constraints(bind_objective("mean_recall", CONTEXT), [constraint], CONTEXT)
    assert float(ours(matrix)) == pytest.approx(float(by_hand(matrix)), abs=1e-12)
    gradient = logit_gradient(ours, matrix)
    prior = matrix.sum(dim=1, keepdim=True)
    logits, step = (matrix / prior).log(), 1e-6
    for i, j in ((0, 0), (1, 2), (5, 2), (4, 4)):
        nudge = torch.zeros_like(logits)
        nudge[i, j] = step
        up, down = (by_hand(prior * torch.softmax(logits + s * nudge, dim=1)) for s in (1.0, -1.0))
        assert float((up - down) / (2 * step)) == pytest.approx(float(gradient[i, j]), abs=1e-7)
    # Up along the gradient the metric moves towards its bound.
    moved = prior * torch.softmax(logits + 0.05 * gradient / gradient.norm(), dim=1)
    after = slacks(constraint, moved, CONTEXT)
    assert float((held * after).sum()) > float((held * slack).sum())


def test_a_bound_that_has_held_for_long_hardly_counts() -> None:
    matrix = confusion()
    base, loose = bind_objective("g_mean", CONTEXT), [Constraint("accuracy", at_least=0.01)]
    state = BoundState(1)
    for _ in range(20):
        held = state.update([scaled_slacks(loose[0], matrix, CONTEXT)])
    assert float(held[0].sum()) == pytest.approx(0.01)
    bound = with_constraints(base, loose, dataclasses.replace(CONTEXT, bound_multipliers=held))
    assert torch.allclose(logit_gradient(bound, matrix), logit_gradient(base, matrix), atol=3e-4)


def test_a_floor_out_of_reach_becomes_the_minimum_however_far_it_is() -> None:
    matrix = confusion()
    gradients = []
    for floor in (0.7, 0.9):
        bounds, state = [Constraint("min_recall", at_least=floor)], BoundState(1)
        for _ in range(20):
            held = state.update([scaled_slacks(bounds[0], matrix, CONTEXT)])
        assert float(held[0].sum()) == pytest.approx(20.0)
        context = dataclasses.replace(CONTEXT, bound_multipliers=held)
        gradients.append(logit_gradient(with_constraints(lambda c: 0.0 * c.sum(), bounds, context), matrix))
    worst = ObjectiveContext(settings=MultiplierSettings(lr=20.0))
    minimum = logit_gradient(bind_objective("min_recall", worst), matrix)
    for gradient in gradients:
        assert torch.allclose(gradient * 21.0 / 20.0, minimum, atol=1e-12)


def test_the_slack_of_a_metric_is_its_distance_from_the_bound() -> None:
    matrix, metrics = confusion(), MetricContext(COUNTS, CONTEXT.definitions)
    for key, metric in METRICS.items():
        if metric.of_predictions is not None or key.endswith("shot_recall") or metric.of_cells is not None:
            continue
        value = float(metric.of(matrix * 1000, metrics))
        floor = slacks(Constraint(key, at_least=0.3), matrix, CONTEXT)
        ceiling = slacks(Constraint(key, at_most=0.3), matrix, CONTEXT)
        assert float(floor.min()) == pytest.approx(value - 0.3, abs=1e-9), key
        assert float(ceiling) == pytest.approx(0.3 - value, abs=1e-9), key


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_perfect_classifier_has_precision_one_on_any_scale(scale: float) -> None:
    """Shares sum to 1, so the columns of a matrix of ten classes lie below 1."""
    perfect = scale * torch.eye(10, dtype=torch.float64) / 10
    slack = slacks(Constraint("min_precision", at_most=0.5), perfect, ObjectiveContext())
    assert float(slack) == pytest.approx(-0.5)


@pytest.mark.parametrize("key", [key for key, metric in METRICS.items() if metric.of_predictions is None])
def test_a_metric_is_one_formula_on_counts_and_on_shares(key: str) -> None:
    metric, known = METRICS[key], dataclasses.replace(CONTEXT, num_groups=2).for_metrics(6)
    counts = torch.randint(
        1, 30, (12 if metric.of_cells else 6, 6), generator=torch.Generator().manual_seed(3)
    )
    counts = counts.double()
    value = float(metric.of(counts, known))
    assert float(metric.of_matrix(counts / counts.sum(), known)) == pytest.approx(
        value, nan_ok=True, abs=1e-12
    )


def test_calibration_is_no_metric_of_a_matrix() -> None:
    with pytest.raises(ValueError, match="can bind in the search only"):
        slacks(Constraint("calibration_error", at_most=0.1), confusion(), CONTEXT)


def test_the_rule_of_a_constrained_name_takes_its_place() -> None:
    data = world()[0]
    bound = Constraint("min_coverage", at_least=0.02)
    rule = SelectionRule(
        "mean_recall", constraints=(bound, Constraint("recall_gap", at_most=0.3, where=("search",)))
    )
    name, _, acting = inside_the_method("mean_recall_min_coverage", rule, data)
    assert (name, acting) == ("mean_recall", (bound,))
    name, _, acting = inside_the_method("mean_recall_min_coverage", SelectionRule("mean_recall"), data)
    assert (name, acting) == ("mean_recall_min_coverage", ())


def test_a_run_is_held_by_its_constraint() -> None:
    """Raising one recall alone lets the gap grow; with a ceiling on the gap it grows less."""
    data, base = world()
    config = dataclasses.replace(SHORT, steps=200, refresh_every=5, coefficient_min=1.0)

    def first_recall(c: torch.Tensor) -> torch.Tensor:
        return c[0, 0] / c[0].sum()

    free = finetune(data, base, first_recall, config, 0, SelectionRule("mean_recall"))
    ceiling = (Constraint("recall_gap", at_most=0.2),)
    held = finetune(data, base, first_recall, config, 0, SelectionRule("mean_recall", constraints=ceiling))

    def gap(run: object) -> float:
        values = run.rounds[-1].select_recalls  # type: ignore[attr-defined]
        return float(values.max() - values.min())

    assert gap(held) < gap(free) - 0.1


@pytest.mark.parametrize("name", ["q_mean", "cvar_recall", "macro_f1", "min_precision"])
def test_every_objective_can_be_fine_tuned_for(name: str) -> None:
    data, base = world()
    config = dataclasses.replace(SHORT, start="given", multiplier_decay=0.5)
    run = finetune(data, base, name, config, 0, SelectionRule(name))
    assert run.stop_reason == "steps"
    assert run.best is not None
    assert run.best.round > 0  # better than the start model


def test_q_mean_is_differentiable_where_all_is_right() -> None:
    gradient = logit_gradient(bind_objective("q_mean", CONTEXT), torch.eye(6, dtype=torch.float64) / 6)
    assert float(gradient.abs().max()) == 0.0


def test_several_bounds_add_up_under_one_divisor() -> None:
    bounds = [Constraint("recall_gap", at_most=0.1), Constraint("min_head_tail_coverage", at_least=0.19)]
    matrix, total, divisor = confusion(), 0.4, 1.0
    for bound, scale in zip(bounds, (1.0, 1.0 / 6), strict=True):
        values, held = slacks(bound, matrix, CONTEXT) / scale, held_at(bound, matrix, CONTEXT)
        total, divisor = total + float(held @ values), divisor + float(held.sum())
    ours = with_constraints(lambda c: c.new_tensor(0.4), bounds, CONTEXT)
    assert float(ours(matrix)) == pytest.approx(total / divisor)


def test_the_unit_of_a_bound_is_the_scale_of_its_metric() -> None:
    costs = Definitions(cost_matrix=((-1.0, 4.0), (2.0, 0.0)))
    assert unit(Constraint("cost", at_most=1.0), 2, costs) == 5.0
    assert unit(Constraint("cost", at_most=1.0), 2, Definitions(cost_matrix=((3.0, 3.0), (3.0, 3.0)))) == 1.0
    assert unit(Constraint("min_coverage", at_least=0.1), 8, Definitions()) == 0.125
    assert unit(Constraint("min_head_tail_coverage", at_least=0.1), 8, Definitions()) == 0.125
    assert unit(Constraint("recall_gap", at_most=0.1), 8, Definitions()) == 1.0


@pytest.mark.parametrize("rate", ["recall", "precision"])
def test_a_bound_on_one_class_pulls_at_that_class_alone(rate: str) -> None:
    matrix = confusion()
    bound = Constraint(rate, at_least=0.9, label=2, class_name="dog")
    context = dataclasses.replace(
        CONTEXT, definitions=SelectionRule("mean_recall", constraints=(bound,)).definitions
    )
    along = matrix[2].sum() if rate == "recall" else matrix[:, 2].sum()
    (slack,) = slacks(bound, matrix, context).tolist()
    assert slack == pytest.approx(float(matrix[2, 2] / along) - 0.9)
    ours = with_constraints(lambda c: 0.0 * c.sum(), [bound], context)
    gradient = logit_gradient(ours, matrix)
    assert float(gradient[2, 2]) > 0
    if rate == "recall":
        assert bool((gradient[[0, 1, 3, 4, 5]].abs() < 1e-12).all())
    else:
        assert bool((gradient[[0, 1, 3, 4, 5], 2] < 0).all())  # others are to be predicted as it less often


def test_without_bounds_the_objective_is_the_same_object() -> None:
    objective = bind_objective("g_mean", CONTEXT)
    assert with_constraints(objective, (), CONTEXT) is objective


def test_a_floor_on_a_minimum_has_a_slack_for_each_value_and_other_bounds_have_one() -> None:
    matrix = confusion()
    assert len(slacks(Constraint("min_precision", at_least=0.5), matrix, CONTEXT)) == 6
    slack = slacks(Constraint("min_head_tail_coverage", at_least=0.1), matrix, CONTEXT)
    assert slack[1] == pytest.approx(float(matrix[:, 5].sum()) - 0.1)  # the tail is the last class
    for bound in (Constraint("min_precision", at_most=0.5), Constraint("macro_f1", at_least=0.5)):
        assert len(slacks(bound, matrix, CONTEXT)) == 1


def test_bounds_on_cells_see_groups_and_bounds_on_classes_see_their_sums() -> None:
    cells = smooth_confusion(20 * torch.rand(12, 6, generator=torch.Generator().manual_seed(1)) + 5.0)
    labels = torch.arange(6).repeat_interleave(2)
    context = dataclasses.replace(CONTEXT, labels=labels, num_groups=2)
    floor = slacks(Constraint("worst_group_recall", at_least=0.2), cells, context)
    hits = cells.gather(1, labels.unsqueeze(1)).squeeze(1)
    assert torch.allclose(floor, hits / cells.sum(dim=1) - 0.2)
    by_class = cells.view(6, 2, 6).sum(dim=1)
    for key in ("min_recall", "recall_gap", "macro_f1", "accuracy"):
        (ceiling,) = slacks(Constraint(key, at_most=0.4), cells, context).tolist()
        assert ceiling == pytest.approx(0.4 - float(METRICS[key].of(by_class, MetricContext(COUNTS)))), key


def test_a_run_tracks_the_multipliers_of_its_bounds_and_resumes_with_them(tmp_path: Path) -> None:
    data, base = world()
    bounds = (
        Constraint("min_recall", at_least=0.95),
        Constraint("recall", at_least=0.1, label=2, class_name=data.class_names[2]),
    )
    rule = SelectionRule("mean_recall", constraints=bounds)
    config = dataclasses.replace(SHORT, steps=40, refresh_every=10)
    reports: list[RoundReport] = []
    whole = finetune(data, base, "mean_recall", config, 0, rule, reports.append)
    keys = ["min_recall", f"recall/{data.class_names[2]}"]
    assert all(key in reports[0].select for key in keys)
    raised = [[report.scalars[f"multiplier/{key}"] for key in keys] for report in reports[1:]]
    assert [row[0] for row in raised] == pytest.approx([math.exp(0.5 * k) for k in range(1, 5)])
    assert all(0.01 <= row[1] < 1.0 for row in raised)
    first = Run(data, base, "mean_recall", config, 0, rule)
    for _ in range(3):
        first.step()
    first.save(tmp_path)
    second = Run(data, base, "mean_recall", config, 0, rule)
    second.load(tmp_path)
    while not second.finished:
        second.step()
    assert torch.equal(second.view.head.weight, whole.view.head.weight)
