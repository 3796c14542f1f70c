from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.build.selection import selection_rules, warnings_of
from orchestrator.errors import SpecError, UsageError
from orchestrator.spec.checks import check_spec
from orchestrator.spec.schema import SweepSpec, spec_from_resolved
from orchestrator.spec.yaml_file import apply_overrides, parse_scalar, parse_sweep_text

MINIMAL = "version: 1\nname: x\ndata: {name: digits}\nobjectives: [min_recall]\n"


def spec_of(text: str, *overrides: str) -> SweepSpec:
    file = parse_sweep_text(text, "f.yaml")
    apply_overrides(file, overrides)
    return check_spec(file)


def problems_of(text: str, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        spec_of(text, *overrides)
    return caught.value.problems


def test_four_keys_are_enough() -> None:
    spec = spec_of(MINIMAL)
    assert spec.recipe == "erm"
    assert spec.model.name == "small_cnn"
    assert (spec.search.num_trials, spec.selection.statistic, spec.resources.cpu) == (16, "bagged", 1)


@pytest.mark.parametrize("key", ["version", "name", "data", "objectives"])
def test_each_of_the_four_is_required(key: str) -> None:
    text = "".join(line + "\n" for line in MINIMAL.splitlines() if not line.startswith(key))
    assert any(f"{key}: must be given" in problem for problem in problems_of(text))


def test_what_is_resolved_is_the_specification_again() -> None:
    text = (
        MINIMAL
        + "parameters: {lr: {min: 0.01, max: 0.1}, steps: {value: 50}, policy: {values: [softmax, uniform]}}\n"
    )
    spec = spec_of(text + "constraints: [{metric: min_coverage, at_least: 0.09}]\n")
    assert spec_from_resolved(spec.resolved()) == spec
    assert spec_from_resolved(spec.resolved()).digest() == spec.digest()
    assert spec_of(MINIMAL, "search.seed=1").digest() != spec_of(MINIMAL).digest()


@pytest.mark.parametrize(
    ("section", "resolved"),
    [
        ("{method: asha}", {"method": "asha", "grace_steps": None, "reduction_factor": 4}),
        (
            "{method: asha, grace_steps: 20, reduction_factor: 2.5}",
            {"method": "asha", "grace_steps": 20, "reduction_factor": 2.5},
        ),
        ("{method: median}", {"method": "median", "grace_steps": None, "min_samples": 3}),
        (
            "{method: median, grace_steps: 399, min_samples: 1}",
            {"method": "median", "grace_steps": 399, "min_samples": 1},
        ),
    ],
)
def test_early_stopping_is_resolved_where_it_is_asked_for(section: str, resolved: dict[str, object]) -> None:
    spec = spec_of(f"{MINIMAL}early_stopping: {section}\n")
    assert spec.resolved()["early_stopping"] == resolved
    again = spec_from_resolved(spec.resolved())
    assert (again.early_stopping, again.digest()) == (spec.early_stopping, spec.digest())
    assert "early_stopping" not in spec_of(MINIMAL).resolved()
    # With rungs that search nothing there is nothing to stop, and nothing wrong.
    assert spec_of(f"{MINIMAL}early_stopping: {section}\nrungs: [scores, head]\n").early_stopping is not None


def test_scalars_are_those_of_yaml_1_2() -> None:
    assert parse_scalar("1e-3") == 0.001
    assert parse_scalar("no") == "no"
    assert parse_scalar("'1'") == "1"
    assert parse_scalar("[1, 2.5, x]") == [1, 2.5, "x"]
    assert parse_scalar("null") is None
    for text in (".nan", "-.inf", "1e999", "[1"):
        with pytest.raises(ValueError, match="must be"):
            parse_scalar(text)


def test_overrides_are_checked_as_the_file_is() -> None:
    assert spec_of(MINIMAL, "search.num_trials=3", "name=y").name == "y"
    assert (
        "override search.num_trials=x: search.num_trials: must be a whole number"
        in problems_of(MINIMAL, "search.num_trials=x")[0]
    )
    assert "did you mean num_trials?" in problems_of(MINIMAL, "search.num_trialz=3")[0]
    for bad in ("name", "=3", "data.name.x=3"):
        with pytest.raises(UsageError):
            spec_of(MINIMAL, bad)


@pytest.mark.parametrize(
    ("parameter", "says"),
    [
        ("lr: {}", "must have one of value, values, min and max, got none"),
        ("lr: {value: 0.1, min: 0.01, max: 1}", "got value with min and max"),
        ("lr: {min: 0.1}", "max is missing"),
        ("lr: {min: 0.1, max: 0.1}", "must be below max"),
        ("lr: {min: 0, max: 1}", "parameters.lr.min: must be a number > 0, got 0"),
        ("weight_decay: {distribution: log_uniform_values, min: 0, max: 1}", "must be > 0 on a logarithmic scale"),
        ("lr: {distribution: log_uniform, min: -3, max: -1}", "write log_uniform_values"),
        ("lr: {distribution: q_uniform, min: 0.1, max: 1}", "needs q"),
        ("lr: {min: 0.1, max: 1, q: 0.1}", "goes with q_uniform"),
        ("lr: {values: []}", "at least one value"),
        ("lr: {values: [0.1, 0.1]}", "must be different values"),
        ("lr: {distribution: categorical, min: 0.1, max: 1}", "distribution categorical needs values"),
        ("lr: 0.1", "must be {value: ...}"),
        ("lr: {value: 0.1, when: x}", "not supported yet"),
        ("policy: {min: 0, max: 1}", "must be one of softmax"),
        ("policy: {value: [a]}", "must be a number or a text"),
        ("momentum: {value: 1}", "must be a number in [0, 1)"),
        ("temprature: {value: 1}", "did you mean temperature?"),
        ("steps: {distribution: int_uniform, min: 1.5, max: 3}", "must be a whole number"),
    ],
)  # fmt: skip
def test_a_parameter_that_cannot_be(parameter: str, says: str) -> None:
    problems = problems_of(MINIMAL + f"parameters:\n  {parameter}\n")
    assert any(says in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("compared", "fixed"), [("temperature", "effective_pairs"), ("effective_pairs", "temperature")]
)
def test_a_comparison_and_a_parameter_that_set_the_same(compared: str, fixed: str) -> None:
    text = MINIMAL + f"compare: {{{compared}: [0.1, 0.5]}}\nparameters: {{{fixed}: {{value: 0.3}}}}\n"
    (problem,) = problems_of(text)
    assert "temperature: must not stand beside effective_pairs" in problem


def test_anchors_are_read_and_must_have_an_end() -> None:
    text = MINIMAL + "parameters: {lr: &range {min: 0.01, max: 0.1}, weight_decay: *range}\n"
    assert spec_of(text).parameters["weight_decay"].max == 0.1
    assert problems_of(MINIMAL + "parameters: &all\n  lr: {value: *all}\n") == [
        "f.yaml:5: must have an end, an alias stands within what it names"
    ]


def test_temperature_and_effective_pairs_set_the_same() -> None:
    both = "parameters: {temperature: {value: 1}, effective_pairs: {value: 0.3}}\n"
    assert any("leave one out" in problem for problem in problems_of(MINIMAL + both))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("constraints: [{metric: min_coverag, at_least: 0.1}]", "did you mean min_coverage?"),
        ("constraints: [{metric: min_coverage}]", "must have one of at_least and at_most"),
        ("constraints: [{metric: calibration_error, at_most: 0.1}]", "write in: [search]"),
        (
            "constraints: [{metric: log_loss, at_most: 0.5, in: [search]}]",
            "log_loss needs the scores of all classes",
        ),
        (
            "selection: {metric: auroc}",
            "auroc needs the scores of all classes, of which a sweep keeps the label",
        ),
        (
            "selection: {metric: calibration_error}",
            "is no metric of a confusion matrix and cannot rank; bound it",
        ),
        ("constraints: [{metric: mcc, at_least: 60}]", "the bound on mcc must lie in [-1, 1], got 60"),
        ("metrics: {beta: 0}", "beta: must be a number > 0, got 0"),
        (
            "constraints: [{metric: recall_gap, at_most: 110}]",
            "must lie in [0, 1], or above 1 up to 100 in percent, got 110 %",
        ),
        ("constraints: [{metric: cost, at_most: 3}]", "cost needs metrics.cost_matrix"),
        ("metrics: {cvar_fraction: 0}", "cvar_fraction: must be a number in (0, 1], got 0"),
        ("metrics: {recall_weights: [1, 2]}", "recall_weights: must be one per class, 10, got 2"),
        ("metrics: {cost_matrx: []}", "did you mean cost_matrix?"),
        ("selection: {metric: weighted_recall}", "weighted_recall needs metrics.recall_weights"),
        ("pretrain: {recipe: erm, checkpoint: x}", "got both"),
        ("pretrain: {recipe: emr}", "did you mean erm?"),
        ("model: {name: small_cn}", "did you mean small_cnn?"),
        ("resources: {workers: 3}", "workers x accumulate must divide every batch_size, got 3 x 1 and 64"),
        (
            "resources: {workers: 2, gpu: 0.5}",
            "each of several workers must have 0 or 1 GPU of its own, got 0.5",
        ),
        ("early_stopping: {}", "early_stopping.method: must be given"),
        ("early_stopping: {method: hyperband}", "method: must be one of asha, median, got 'hyperband'"),
        ("early_stopping: {method: asha, grace: 20}", "grace: unknown key; did you mean grace_steps?"),
        ("early_stopping: {method: asha, grace_steps: 0}", "grace_steps: must be greater than or equal to 1"),
        ("early_stopping: {method: asha, reduction_factor: 1}", "reduction_factor: must be greater than 1"),
        (
            "early_stopping: {method: asha, min_samples: 3}",
            "min_samples: acts under method median only, got method asha; leave it out",
        ),
        (
            "early_stopping: {method: median, reduction_factor: 2}",
            "reduction_factor: acts under method asha only, got method median; leave it out",
        ),
        (
            "early_stopping: {method: median, grace_steps: 60}\nparameters: {steps: {values: [20, 60]}}",
            "grace_steps: must be less than the most steps of a trial, 60, got 60",
        ),
        (
            "early_stopping: {method: asha, grace_steps: 90}\ncompare: {steps: [20, 90]}",
            "grace_steps: must be less than the most steps of a trial, 90, got 90",
        ),
        (
            "early_stopping: {method: median, min_samples: 4}\nsearch: {num_trials: 4}",
            "min_samples: must be less than search.num_trials 4, got 4",
        ),
        ("budget: {}", "not supported yet"),
        ("screen: {promot: 2}", "promot: unknown key; did you mean promote?"),
        ("selection: {metrics: [a]}", "not supported yet"),
        (
            "search: {method: grid}\nparameters: {lr: {min: 0.1, max: 1}}",
            "method grid needs a list of values",
        ),
        ("objectives: [accuracy]", "accuracy is a metric that no objective stands for"),
        ("objectives: [weighted_recall]", "weighted_recall needs metrics.recall_weights"),
    ],
)
def test_what_does_not_fit_together(line: str, says: str) -> None:
    text = MINIMAL if not line.startswith("objectives") else MINIMAL.replace("objectives: [min_recall]\n", "")
    problems = problems_of(text + line + "\n")
    assert any(says in problem for problem in problems), problems


def test_several_workers_share_a_batch() -> None:
    spec = spec_of(
        MINIMAL + "parameters: {accumulate: {value: 2}}\n", "resources.workers=4", "resources.gpu=1"
    )
    assert spec.resources.workers == 4


NAMES = [f"digit{k}" for k in range(10)]


def test_a_search_only_constraint_is_any_metric() -> None:
    spec = spec_of(MINIMAL + "constraints: [{metric: recall_gap, at_most: 0.1, in: [search]}]\n")
    rule = selection_rules(spec, NAMES)["min_recall"]
    assert rule.violation({"recall_gap": 0.25}) == pytest.approx(0.15)


def test_an_objective_with_coverage_brings_its_constraint() -> None:
    spec = spec_of(MINIMAL.replace("[min_recall]", "[mean_recall_min_coverage, mean_recall]"))
    rules = selection_rules(spec, NAMES)
    (constraint,) = rules["mean_recall_min_coverage"].constraints
    assert (constraint.metric, constraint.at_least) == ("min_coverage", 0.095)
    assert rules["mean_recall_min_coverage"].metric == "mean_recall"
    assert rules["mean_recall"].constraints == ()


def test_warnings_of_what_cannot_be_resolved() -> None:
    few = warnings_of(spec_of(MINIMAL, "data.select=5", "data.feedback=8"))
    assert any("steps of 20 percentage points" in warning for warning in few)
    assert any("the gain will follow noise" in warning for warning in few)
    assert warnings_of(spec_of(MINIMAL, "data.imbalance=1", "search.num_trials=2")) == []


def test_a_file_that_is_no_mapping(tmp_path: Path) -> None:
    for text in ("", "- 1", "a: [", "a: !!python/object x"):
        with pytest.raises(SpecError):
            spec_of(text)


def test_a_margin_is_a_positive_number_in_the_unit_of_the_metric() -> None:
    assert spec_of(MINIMAL).selection.margin is None
    for margin in ("0.001", "0.5"):
        assert spec_of(MINIMAL, f"selection.margin={margin}").selection.margin == float(margin)
    for bad in ("0", "-0.02", "wide", "true"):
        (problem,) = problems_of(MINIMAL, f"selection.margin={bad}")
        assert "selection.margin" in problem
    assert "did you mean margin?" in problems_of(MINIMAL, "selection.margins=0.1")[0]


def test_a_specification_says_no_more_than_one_of_before() -> None:
    """Digests of sweeps stay what they were: beta stands in it where the file gives another one."""
    assert "beta" not in spec_of(MINIMAL).resolved()["metrics"]
    other = spec_of(MINIMAL + "metrics: {beta: 0.5}\n")
    assert other.resolved()["metrics"]["beta"] == other.metrics.definitions.beta == 0.5
