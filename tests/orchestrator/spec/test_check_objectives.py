"""Objectives of the user's own: tried before a launch on matrices that a run meets, by the file's definitions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.cli import options
from orchestrator.errors import SpecError
from orchestrator.spec import check_objectives
from orchestrator.spec.checks import check_spec
from orchestrator.spec.sections import MetricsSection
from orchestrator.spec.typed import typed_file
from orchestrator.spec.yaml_file import parse_sweep_text
from selmix.definitions import RATES_OF_A_CLASS, ClassRate, Definitions
from selmix.metrics import METRICS, MetricContext, Predictions, evaluate_predictions
from selmix.objectives import ObjectiveContext

SEEN: list[Any] = []


def recalls(confusion: Tensor) -> Tensor:
    return confusion.diagonal() / confusion.sum(dim=1)


def good(confusion: Tensor, context: ObjectiveContext) -> Tensor:
    SEEN.append((confusion.detach(), context))
    return recalls(confusion).mean()


def weighted(confusion: Tensor, context: ObjectiveContext) -> Tensor:
    SEEN.append((confusion.detach(), context))
    return (torch.tensor(context.definitions.recall_weights) * recalls(confusion)).mean()


FAULTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "vector": (recalls, "scalar"),
    "constant": (lambda _: torch.tensor(1.0), "fails on a 10 x 10 confusion matrix"),
    "number": (lambda _: 0.5, "fails on a 10 x 10 confusion matrix"),
    "raises": (lambda confusion: confusion["x"], "fails on a 10 x 10 confusion matrix: "),
    "infinite": (lambda confusion: recalls(confusion).sub(0.1).log().mean(), "finite"),
}


@pytest.fixture(autouse=True)
def users_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module ``users_own`` that holds these functions."""
    module = ModuleType("users_own")
    vars(module).update(
        {"good": good, "weighted": weighted} | {name: each for name, (each, _) in FAULTS.items()}
    )
    monkeypatch.setitem(sys.modules, "users_own", module)
    SEEN.clear()
    yield
    SEEN.clear()


def problems_of(
    objective: str, more: str = "selection: {metric: min_recall}\n", data: str = "digits"
) -> list[str]:
    text = f'version: 1\nname: x\ndata: {{name: {data}}}\nobjectives: ["users_own:{objective}"]\n{more}'
    try:
        check_spec(parse_sweep_text(text, "f.yaml"))
    except SpecError as error:
        return error.problems
    return []


def test_a_good_one_is_tried_on_matrices_of_every_kind() -> None:
    assert problems_of("good") == []
    matrices = [confusion for confusion, _ in SEEN]
    assert {tuple(each.shape) for each in matrices} == {(10, 10)}
    # The others are right: of a perfect one all ten, of one with a class of recall 0 nine; smoothed, both.
    right = [int((recalls(each) > 0.8).sum()) for each in matrices]
    assert {10, 9} <= set(right)
    assert min(right) == 0
    assert problems_of("good") == []
    half = len(SEEN) // 2
    assert all(torch.equal(SEEN[k][0], SEEN[half + k][0]) for k in range(half))  # the same every time


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_maximised_is_refused_with_the_line(name: str) -> None:
    (problem,) = problems_of(name)
    assert problem.startswith(f"f.yaml:4: objectives.0: users_own:{name}")
    assert FAULTS[name][1] in problem


def test_a_name_that_leads_nowhere_and_a_margin_to_judge_with() -> None:
    (problem,) = problems_of("god")
    assert "users_own has no function 'god'; it has " in problem
    (problem,) = problems_of("good", "")
    assert problem.startswith("f.yaml:4: objectives.0: users_own:good needs selection.margin")
    assert problems_of("good", "selection: {margin: 0.02}\n") == []
    (problem,) = problems_of("good", "selection: {margin: 2}\n")
    assert (
        "needs a selection.margin below its range, it moves from 0 to 1 between useless and perfect"
        in problem
    )
    # By another metric it is judged with that one's margin.
    assert problems_of("good", "selection: {metric: min_recall}\n") == []


def test_the_same_function_twice_is_refused() -> None:
    text = (
        'version: 1\nname: x\ndata: {name: digits}\nobjectives: ["users_own:good", "users_own:good"]\n'
        "selection: {metric: min_recall}\n"
    )
    with pytest.raises(SpecError, match=r"objectives\.1: must appear once, got users_own:good again"):
        check_spec(parse_sweep_text(text, "f.yaml"))


def numpy_recall(confusion: Any) -> Any:
    return np.mean(np.diag(confusion) / np.asarray(confusion).sum(axis=1))


def precision(confusion: Tensor) -> Tensor:
    """Not defined where a class is never predicted, which smoothing hides from an objective."""
    return (confusion.diagonal() / confusion.sum(dim=0)).mean()


METRICS_OF_ONES_OWN: dict[str, tuple[Callable[..., Any], str]] = {
    "torch_metric": (lambda confusion: recalls(confusion).mean(), ""),
    "numpy_metric": (numpy_recall, ""),
    "precision": (precision, "(of a class that is never predicted); give it a value there"),
    "hits": (lambda confusion: confusion.diagonal().sum(), "must not depend on the scale of C"),
    "vector": (recalls, "must return one number, got Tensor of shape (10,)"),
    "größe": (lambda confusion: recalls(confusion).mean(), "must be named in ASCII letters"),
}


@pytest.mark.parametrize("name", METRICS_OF_ONES_OWN)
def test_a_metric_of_ones_own_is_a_number_of_any_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, says = METRICS_OF_ONES_OWN[name]
    monkeypatch.setattr(sys.modules["users_own"], name, function, raising=False)
    head = "version: 1\nname: x\ndata: {name: digits}\nobjectives: [min_recall]\n"

    def problems(more: str) -> list[str]:
        try:
            check_spec(parse_sweep_text(head + more, "f.yaml"))
        except SpecError as error:
            return error.problems
        return []

    found = [
        *problems(f'selection: {{metric: "users_own:{name}", margin: 0.02}}\n'),
        *problems(f'constraints: [{{metric: "users_own:{name}", at_least: -3.5, in: [search]}}]\n'),
    ]
    places = ["f.yaml:5: selection.metric: users_own:", "f.yaml:5: constraints.0: users_own:"]
    assert len(found) == (2 if says else 0)
    assert all(
        problem.startswith(place) and says in problem
        for problem, place in zip(found, places, strict=bool(says))
    )
    # Also where the objective itself is what judges.
    if name == "precision":
        (problem,) = problems_of(name, "selection: {margin: 0.02}\n")
        assert says in problem
        assert problems_of(name) == []


def test_a_metric_of_ones_own_needs_its_margin_and_a_name_that_is_there() -> None:
    head = "version: 1\nname: x\ndata: {name: digits}\nobjectives: [min_recall]\n"
    for metric, says in (("good", "needs selection.margin"), ("god", "users_own has no function 'god'")):
        with pytest.raises(SpecError, match=f"f.yaml:5: selection.metric: users_own:{metric}.*{says}"):
            check_spec(parse_sweep_text(f'{head}selection: {{metric: "users_own:{metric}"}}\n', "f.yaml"))


def test_a_function_of_numpy_is_a_metric_and_no_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["users_own"], "numpy_metric", numpy_recall, raising=False)
    (problem,) = problems_of("numpy_metric", "selection: {margin: 0.02}\n")
    assert (
        "needs a gradient, so it is written with torch operations; a function of numpy can be selection"
        in problem
    )
    assert "f.yaml:4: objectives.0: users_own:numpy_metric fails on a 10 x 10 confusion matrix" in problem
    (problem,) = bounded('[{metric: "users_own:numpy_metric", at_least: 0.5}]')
    assert "has no gradient by torch and cannot bind inside the method; write in: [search]" in problem
    assert bounded('[{metric: "users_own:numpy_metric", at_least: 0.5, in: [search]}]') == []


def test_bounds_on_a_function_of_ones_own_have_its_unit() -> None:
    assert bounded('[{metric: "users_own:good", at_most: 70.0}]') == []
    (problem,) = bounded('[{metric: "users_own:good", at_least: 0.5, class: 0}]')
    assert "class goes with recall and precision; users_own:good is a metric of all classes" in problem


def test_the_share_of_cvar_has_one_default_everywhere() -> None:
    assert problems_of("good") == []
    tried = {context.definitions.cvar_fraction for _, context in SEEN}
    parsed = options.evaluate().parse_args(["t.parquet", "--objective", "cvar_recall"])
    counts = MetricContext(torch.ones(3))
    everywhere = {
        *tried, Definitions().cvar_fraction, MetricsSection().cvar_fraction, MetricsSection().definitions.cvar_fraction,
        ObjectiveContext().definitions.cvar_fraction, counts.definitions.cvar_fraction, parsed.cvar_fraction,
    }  # fmt: skip
    assert everywhere == {0.3}


def test_an_own_objective_is_tried_with_the_definitions_of_the_file() -> None:
    weights = (
        f"metrics: {{cvar_fraction: 0.5, recall_weights: {[1] * 10}}}\nselection: {{metric: min_recall}}\n"
    )
    assert problems_of("weighted", weights) == []
    assert {context.definitions.cvar_fraction for _, context in SEEN} == {0.5}


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ("{recall_weights: [1, 2]}", "metrics.recall_weights: must be one per class, 10, got 2"),
        ("{cvar_fraction: x}", "metrics.cvar_fraction: must be a number, got 'x'"),
    ],
)
def test_definitions_that_are_wrong_are_no_fault_of_the_function(metrics: str, says: str) -> None:
    (problem,) = problems_of("weighted", f"metrics: {metrics}\nselection: {{metric: min_recall}}\n")
    assert problem.endswith(says)
    assert SEEN == []


def test_definitions_say_how_many_classes_data_have_that_are_not_there_yet() -> None:
    more = "selection: {metric: min_recall}\nmetrics: {recall_weights: [1, 2, 3]}\n"
    assert problems_of("weighted", more, data="parquet, path: nowhere.parquet") == []
    assert {tuple(confusion.shape) for confusion, _ in SEEN} == {(3, 3)}


GAUSSIANS = "{name: gaussians, classes: 5}"
COSTS = "metrics: {cost_matrix: [[0, 2], [1, 0]]}\n"


def bounded(bounds: str, data: str = GAUSSIANS, more: str = "") -> list[str]:
    text = f"version: 1\nname: x\ndata: {data}\nmodel: {{name: linear_head}}\nobjectives: [min_recall]\n"
    try:
        check_spec(parse_sweep_text(f"{text}constraints: {bounds}\n{more}", "f.yaml"))
    except SpecError as error:
        return [problem.partition("constraints.")[2] for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "bounds",
    [
        "[{metric: min_coverage, at_least: 0.2}]", "[{metric: min_coverage, at_least: 20}]",
        "[{metric: min_recall, at_least: 1}]", "[{metric: recall_gap, at_most: 0}]",
        "[{metric: recall, class: gaussian2, at_least: 50}]", "[{metric: precision, class: 4, at_least: 0.5}]",
        "[{metric: recall, class: 0, at_least: 0.6}, {metric: recall, class: 1, at_most: 0.5}]",
        "[{metric: g_mean, at_least: 0.4}, {metric: g_mean, at_most: 0.9, in: [search]}]",
        "[{metric: recall, class: gaussian1, at_least: 0.5}, {metric: recall, class: 1, at_most: 0.5}]",
        "[{metric: recall, class: 1, at_least: 0.6}, {metric: precision, class: 1, at_most: 0.5}]",
        "[{metric: min_recall, at_least: 0.5}, {metric: recall, class: 1, at_most: 0.5}]",
        "[{metric: min_recall, at_most: 0.5}, {metric: recall, class: 1, at_least: 0.6}]",
        "[{metric: min_recall, at_least: 0.5}, {metric: mean_recall, at_most: 0.5}]",
        "[{metric: min_recall, at_least: 0.6}, {metric: balanced_error, at_least: 0.4}]",
        "[{metric: min_recall, at_most: 0.2}, {metric: mean_recall, at_least: 0.9}]",
        "[{metric: mean_recall, at_most: 0.7}, {metric: balanced_error, at_most: 0.3}]",
        "[{metric: min_precision, at_least: 0.5}, {metric: min_recall, at_most: 0.2}]",
    ],
)  # fmt: skip
def test_bounds_that_a_model_can_meet(bounds: str) -> None:
    assert bounded(bounds) == []


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ("[{metric: min_coverage, at_least: 0.21}]", "can never hold: the coverages of 5 classes sum to 1, so min_cov"),
        ("[{metric: min_head_tail_coverage, at_least: 30}]", "is at most 0.2, got at_least 0.3"),
        ("[{metric: min_recall, at_least: 101}]", "must lie in [0, 1], or above 1 up to 100 in percent, got 101 %"),
        ("[{metric: min_precision, at_least: 120}]", "got 120 %"),
        ("[{metric: recall, class: 0, at_least: 150}]", "the bound on recall, a fraction, must lie in [0, 1], or"),
        ("[{metric: recall_gap, at_most: -0.1}]", "got -0.1"),
        ("[{metric: recall, at_least: 0.5}]", "recall is that of one class; give class: NAME, or bound min_recall"),
        ("[{metric: g_mean, class: 0, at_least: 0.5}]", "class goes with recall and precision; g_mean is a metric of"),
        ("[{metric: recall, class: gausian2, at_least: 0.5}]", "unknown class 'gausian2'; did you mean gaussian2?"),
        ("[{metric: recall, class: 5, at_least: 0.5}]", "must be a name, or a label in [0, 5), got 5"),
        ("[{metric: recall, class: 0.5, at_least: 0.5}]", "0.class: must be a whole number, got 0.5"),
        ("[{metric: recal, class: 0, at_least: 0.5}]", "unknown metric 'recal'; did you mean recall?"),
        (
            "[{metric: g_mean, at_least: 0.9}, {metric: g_mean, at_most: 0.4}]",
            "can never hold: at_least 0.9 beside at_most 0.4 on the same metric",
        ),
        (
            "[{metric: recall, class: gaussian1, at_least: 0.6}, {metric: recall, class: 1, at_most: 0.5}]",
            "0: can never hold: at_least 0.6 beside at_most 0.5 on the same metric",
        ),
        (
            "[{metric: recall, class: 1, at_most: 0.5}, {metric: min_recall, at_least: 0.6}]",
            "1: can never hold: at_least 0.6 beside at_most 0.5 on recall of gaussian1, which min_recall never exceeds",
        ),
        (
            "[{metric: min_precision, at_least: 0.6}, {metric: precision, class: gaussian0, at_most: 0.5}]",
            "0: can never hold: at_least 0.6 beside at_most 0.5 on precision of gaussian0, which min_precision never ",
        ),
        (
            "[{metric: min_recall, at_least: 0.6}, {metric: mean_recall, at_most: 0.5}]",
            "0: can never hold: at_least 0.6 beside at_most 0.5 on mean_recall, which min_recall never exceeds",
        ),
        (
            "[{metric: balanced_error, at_least: 0.5}, {metric: min_recall, at_least: 0.6}]",
            "1: can never hold: at_least 0.6 beside at_least 0.5 on balanced_error, which is 1 - mean_recall, and that",
        ),
        (
            "[{metric: mean_recall, at_most: 0.5}, {metric: balanced_error, at_most: 0.4}]",
            "1: can never hold: at_most 0.4 beside at_most 0.5 on mean_recall, which is 1 - balanced_error",
        ),
        (
            "[{metric: balanced_error, at_most: 0.2}, {metric: balanced_error, at_least: 0.4}]",
            "0: can never hold: at_most 0.2 beside at_least 0.4 on the same metric",
        ),
        (
            "[{metric: h_mean, at_least: 0.9}, {metric: balanced_error, at_least: 0.2}]",
            "0: can never hold: at_least 0.9 beside at_least 0.2 on balanced_error, which is 1 - mean_recall, and that",
        ),
        ("[{metric: g_mean, at_least: 0.5, in: []}]", "in must name method, search or both, got neither; leave the bo"),
    ],
)  # fmt: skip
def test_bounds_that_no_model_can_meet_and_classes_that_do_not_exist(bounds: str, says: str) -> None:
    (problem,) = bounded(bounds)
    assert says in problem


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ("[{metric: cost, at_most: -0.1}]", "metrics.cost_matrix has costs from 0 to 2, got at_most -0.1"),
        ("[{metric: cost, at_least: 2.5}]", "got at_least 2.5"),
        ("[{metric: cost, at_most: 1.5}]", ""),  # a cost above 1 is no percent
    ],
)
def test_costs_lie_within_those_of_the_matrix(bounds: str, says: str) -> None:
    problems = bounded(bounds, "{name: gaussians, classes: 2}", COSTS)
    assert len(problems) == bool(says)
    assert all(says in problem for problem in problems)


def test_above_one_a_bound_is_percent_but_for_a_cost() -> None:
    from orchestrator.spec.sections import ConstraintSection

    def floor(metric: str, value: float) -> float | None:
        return ConstraintSection(metric=metric, at_least=value).at_least

    assert [floor("min_recall", value) for value in (0.5, 1, 1.5, 14.3, 50, 100)] == [
        0.5, 1.0, 0.015, 0.143, 0.5, 1.0,
    ]  # fmt: skip
    assert floor("cost", 50) == floor("own:profit", 50) == 50.0


def test_a_number_that_is_a_name_is_told_apart_from_a_label() -> None:
    names = ("7", "8")
    assert check_objectives.class_label("8", names) == 1
    assert check_objectives.class_label(0, names) == 0
    with pytest.raises(ValueError, match=r"label in \[0, 2\), got 7; write '7' for the class of that name"):
        check_objectives.class_label(7, names)


def selected(selection: str, objectives: str = "[min_recall]", more: str = "") -> list[str]:
    """Problems of ``selection`` and of the objectives, on data of two classes."""
    data = "data: {name: gaussians, classes: 2}\nmodel: {name: linear_head}\n"
    text = f"version: 1\nname: x\n{data}objectives: {objectives}\n"
    try:
        check_spec(parse_sweep_text(f"{text}selection: {selection}\n{more}", "f.yaml"))
    except SpecError as error:
        return [problem.partition(": ")[2] for problem in error.problems]
    return []


def test_a_metric_that_counts_do_not_determine_cannot_rank() -> None:
    unranked = [key for key, metric in METRICS.items() if metric.of_predictions is not None]
    assert "calibration_error" in unranked
    for key in unranked:
        (problem,) = selected(f"{{metric: {key}}}")
        assert problem.startswith(f"selection.metric: {key} ")
    (problem,) = selected("{metric: calibration_error}")
    assert problem == (
        "selection.metric: calibration_error is no metric of a confusion matrix and cannot rank; bound it, with in: "
        "[search]"
    )
    assert (
        selected("{}", more="constraints: [{metric: calibration_error, at_most: 0.1, in: [search]}]\n") == []
    )
    assert selected("{metric: balanced_error}") == []


@pytest.mark.parametrize(
    ("selection", "objectives", "says"),
    [
        ("{margin: 0.02}", "[min_recall]", ""),
        ("{margin: 0.99}", "[min_recall]", ""),
        ("{margin: 1}", "[min_recall]", "min_recall moves in a range of 1, got 1"),
        ("{margin: 5}", "[min_recall]", "min_recall moves in a range of 1, got 5"),
        ("{margin: 5}", "[mean_recall, min_recall]", "mean_recall moves in a range of 1, got 5"),
        # The least of two coverages is 1 / 2 at most.
        ("{margin: 0.4, metric: min_coverage}", "[min_recall]", ""),
        ("{margin: 0.5, metric: min_coverage}", "[min_recall]", "min_coverage moves in a range of 0.5, got 0.5"),
        ("{margin: 1.9, metric: cost}", "[min_recall]", ""),
        ("{margin: 2, metric: cost}", "[min_recall]", "cost moves in a range of 2, got 2"),
        ("{margin: 2}", "[min_recall, cost]", "min_recall moves in a range of 1, got 2"),
        ("{margin: 2}", "[cost]", "cost moves in a range of 2, got 2"),
    ],
)  # fmt: skip
def test_a_margin_lies_below_the_range_of_the_metric(selection: str, objectives: str, says: str) -> None:
    problems = selected(selection, objectives, COSTS)
    assert len(problems) == bool(says)
    for problem in problems:
        assert problem.startswith("selection.margin: must lie below the range of the metric, ")
        assert says in problem
        assert ("0.02 is 2 pp" in problem) == ("cost moves" not in problem)


def test_where_the_classes_are_not_known_yet_a_margin_of_coverages_is_below_1() -> None:
    head = "version: 1\nname: x\ndata: {name: parquet, path: nowhere.parquet}\nobjectives: [min_recall]\n"
    for margin, count in ((0.9, 0), (1.5, 1)):
        selection = f"selection: {{metric: min_coverage, margin: {margin}}}\n"
        typed = typed_file(parse_sweep_text(head + selection, "f.yaml"))
        assert typed.data is not None
        assert typed.num_classes is None
        assert len(list(check_objectives.selection_problems(typed))) == count


@pytest.mark.parametrize("seed", range(20))
def test_what_is_said_never_to_exceed_another_metric_does_not(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    classes, groups = 4, 2
    cells = torch.randint(0, 6, (classes * groups, classes), generator=generator)
    # Every cell has a sample, and some classes are hardly ever hit.
    cells[
        torch.arange(classes * groups), torch.randint(0, classes, (classes * groups,), generator=generator)
    ] += 9
    labels = torch.arange(classes * groups).repeat_interleave(cells.sum(dim=1))
    predicted = torch.cat([torch.arange(classes).repeat_interleave(row) for row in cells])
    made = Predictions(labels // groups, predicted, torch.ones(len(labels)), labels % groups)
    rates = tuple(ClassRate(rate, label) for rate in RATES_OF_A_CLASS for label in range(classes))
    known = Definitions(recall_weights=(0.1, 0.2, 3.0, 1.0), class_rates=rates)
    values = evaluate_predictions(made, MetricContext(torch.tensor([300, 50, 40, 5]), known, groups))
    compared = 0
    for lower, uppers in check_objectives.NEVER_ABOVE.items():
        for upper in uppers:
            # Of a rate every class counts.
            for key in [key for key in values if key == upper or key.startswith(f"{upper}/")]:
                assert values[lower] <= values[key] + 1e-12, (lower, key)
                compared += 1
    assert compared == 24
    assert values["balanced_error"] == pytest.approx(1.0 - values["mean_recall"])
