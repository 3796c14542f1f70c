"""Every check of a sweep file: its problem, the line of its key, and all problems at once."""

from __future__ import annotations

import re
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.spec import check_data, check_objectives, check_parameters, checks
from orchestrator.spec.checks import CHECKS, check_spec
from orchestrator.spec.schema import SweepSpec
from orchestrator.spec.typed import typed_file
from orchestrator.spec.yaml_file import apply_overrides, parse_sweep_text
from selmix.models import ModelConfig
from selmix.rungs import RUNGS

HEAD = "version: 1\nname: x\ndata: {name: digits}\nobjectives: [min_recall]\n"

CASES: dict[Any, tuple[str, str]] = {
    check_objectives.objective_problems: ("objectives:\n- min_recall\n- g_men", "7: objectives.1: unknown"),
    check_objectives.definition_problems: ("metrics:\n  head_fraction: 1", "6: metrics.head_fraction: must be"),
    check_objectives.constraint_problems: ("constraints:\n- {metric: g_mean}", "6: constraints.0: must have one of"),
    check_objectives.selection_problems: ("selection:\n  metric: testx", "6: selection.metric: must be a metric"),
    check_data.group_problems: ("objectives:\n- worst_group_recall", "6: objectives.0: worst_group_recall needs data"),
    check_data.partner_problems: ("compare:\n  second: [labelled, pseudo]", "6: compare.second: needs unlabelled"),
    checks.model_problems: ("model:\n  name: smal_cnn", "6: model.name: .*did you mean small_cnn"),
    checks.pretrain_problems: ("pretrain:\n  recipe: emr", "6: pretrain.recipe: .*did you mean erm"),
    check_parameters.parameter_problems: ("parameters:\n  lr: {value: 0}", "6: parameters.lr.value: must be a number"),
    check_parameters.compare_problems: ("compare:\n  lr: [0.1]", "6: compare.lr: must be a list of two or more"),
    checks.rung_problems: ("rungs: [head, scores]", "5: rungs: must name each rung once, in this order: scores, head"),
    checks.screen_problems: ("screen: {num_configs: 8}", "5: screen: must have a searched parameter that acts"),
    check_parameters.batch_problems: ("resources:\n  workers: 3", "6: resources.workers: workers x accumulate must"),
    checks.search_problems: ("search: {method: grid}\nparameters: {lr: {min: 1, max: 2}}", "6: parameters.lr: method"),
    checks.screen_problems: ("screen:\n  num_configs: 8", "5: screen: must have a searched parameter"),
    checks.stopping_problems: (
        "early_stopping:\n  method: asha\n  grace_steps: 400", "7: early_stopping.grace_steps: must be less than",
    ),
    checks.resource_problems: ("resources:\n  max_gpus: 0.5\n  gpu: 1", "6: resources.max_gpus: must hold one trial"),
}  # fmt: skip
"""Check -> a section that it alone finds fault with, and its report."""


def text_with(section: str) -> str:
    key = section.partition(":")[0]
    # A section that the head has already is moved to the end; the lines stay as many.
    head = [f"# {line}" if line.startswith(f"{key}:") else line for line in HEAD.splitlines()]
    return "\n".join([*head, section, ""])


def checked(text: str, *overrides: str) -> SweepSpec:
    file = parse_sweep_text(text, "f.yaml")
    apply_overrides(file, overrides)
    return check_spec(file)


def problems_of(text: str, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        checked(text, *overrides)
    return caught.value.problems


def test_every_check_has_a_case() -> None:
    assert set(CASES) == set(CHECKS)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_check_reports_the_line_of_its_key_and_no_other_does(check: Any) -> None:
    section, says = CASES[check]
    (problem,) = problems_of(text_with(section))
    assert re.match(rf"f\.yaml:{says}", problem), problem
    typed = typed_file(parse_sweep_text(text_with(section), "f.yaml"))
    assert [each for each in CHECKS if list(each(typed))] == [check]


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("search:\n  num_trials: 1.5", "6: search.num_trials: must be a whole number, got 1.5"),
        ("search:\n  method: gird", "6: search.method: must be one of tpe, random, grid, got 'gird'"),
        ("search: nothing", "5: search: must be a mapping of keys, got 'nothing'"),
        (
            "constraints:\n- {metric: g_mean, at_least: x}",
            "6: constraints.0.at_least: must be a number, got 'x'",
        ),
        ("metrics:\n  cost_matrix: 3", "6: metrics.cost_matrix: must be a list, got 3"),
        ("model:\n  nam: x", r"6: model.nam: unknown key; did you mean name\?"),
        ("data:\n  name: digits\n  selct: 3", r"7: data.selct: unknown key; did you mean select\?"),
        ("data:\n  name: digits\n  select: 0", "7: data.select: must be >= 1"),
        ("data:\n  select: 3", "5: data: name: must be given; there are digits"),
        ("name: a b", "5: name: must be letters, digits"),
        ("deterministic: true", "5: deterministic: not supported yet"),
    ],
)
def test_a_wrong_type_is_reported_with_its_line_and_in_plain_words(section: str, says: str) -> None:
    (problem,) = problems_of(text_with(section))
    assert re.match(rf"f\.yaml:{says}", problem), problem


def test_all_problems_come_at_once_by_line_and_overrides_last() -> None:
    sections = "search: {num_trials: 0, seed: -1}\nmodel: {name: no}\nparameters: {lr: {value: 0}, stps: {}}\nfoo: 1\n"
    problems = problems_of(HEAD.replace("version: 1", "version: 2") + sections, "resources.cpu=0", "name=a b")
    places = [problem.split(": ")[0] for problem in problems]
    assert places[:-2] == [f"f.yaml:{line}" for line in (1, 5, 5, 6, 7, 7, 8)]
    assert set(places[-2:]) == {"override resources.cpu=0", "override name=a b"}


def test_of_a_key_the_first_problem_is_reported() -> None:
    # Its type is wrong; that it is unknown, too, follows from that.
    assert problems_of(HEAD + "selection: {metric: 3}\n") == [
        "f.yaml:5: selection.metric: must be a text, got 3"
    ]
    (unknown,) = problems_of(HEAD + "constraints: [{metric: g_men}]\n")  # it has no bound either
    assert "unknown metric 'g_men'" in unknown
    (form,) = problems_of(HEAD + "parameters: {lr: {value: 0, values: [0]}}\n")
    assert "must have one of value, values" in form


def test_the_network_is_built_once_for_a_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = ModelConfig.build

    def counted(config: ModelConfig, *arguments: Any) -> Any:
        built.append(config.name)
        return build(config, *arguments)

    monkeypatch.setattr(ModelConfig, "build", counted)
    layers = "parameters: {mixup_layer: {values: [input, stage1, features]}}\n"
    checked(HEAD + layers)
    assert built == ["small_cnn"]
    # Neither are its problems a reason to build it again.
    assert len(problems_of(HEAD + layers.replace("stage1", "stage9") + "model: {head: nope}\n")) == 1
    assert built == ["small_cnn"] * 2


def test_data_that_are_not_there_yet_hide_no_other_problem() -> None:
    text = HEAD.replace("digits", "parquet, path: nowhere.parquet")
    assert checked(text).data["path"] == "nowhere.parquet"
    assert (
        len(problems_of(text + "metrics: {head_fraction: 0.5, cvar_fraction: 1}\nmodel: {name: nope}\n")) == 1
    )


@pytest.mark.parametrize(
    "section", ["pretrain: {recipe: fixmatch}", "parameters: {second: {values: [labelled, oracle]}}"]
)
def test_unlabelled_samples_are_asked_for_until_they_are_there(section: str) -> None:
    (problem,) = problems_of(f"{HEAD}{section}\n")
    assert problem.endswith("needs unlabelled samples: give data.unlabelled")
    checked(f"{HEAD}{section}\n", "data.unlabelled=20", "data.test=20")


def test_wrong_data_are_not_said_to_lack_unlabelled_samples() -> None:
    (problem,) = problems_of(f"{HEAD}pretrain: {{recipe: fixmatch}}\n", "data.unlabelled=500")
    assert "holds 178 samples" in problem


def test_a_data_set_without_unlabelled_samples_names_those_that_have_them() -> None:
    (problem,) = problems_of(
        HEAD.replace("digits", "parquet, path: x.parquet") + "parameters: {second: {value: pseudo}}\n"
    )
    assert re.search(r"parquet has none; use digits, gaussians, cifar, stl10", problem)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("batch_size: {values: [64, 32]}, accumulate: {value: 4}", True),
        ("batch_size: {values: [64, 10]}, accumulate: {value: 4}", False),
        ("batch_size: {distribution: q_uniform, min: 8, max: 64, q: 8}, accumulate: {value: 8}", True),
        ("batch_size: {distribution: q_uniform, min: 12, max: 64, q: 8}, accumulate: {value: 8}", False),
        ("batch_size: {distribution: q_uniform, min: 8, max: 12, q: 4}, accumulate: {value: 8}", False),
        (
            "batch_size: {distribution: q_log_uniform_values, min: 12, max: 64, q: 8}, accumulate: {value: 8}",
            True,
        ),
        (
            "batch_size: {distribution: q_log_uniform_values, min: 8, max: 64, q: 4}, accumulate: {value: 8}",
            False,
        ),
        ("batch_size: {min: 8, max: 64}, accumulate: {value: 1}", True),
        ("batch_size: {min: 8, max: 64}, accumulate: {values: [1, 2]}", False),
    ],
)
def test_every_batch_is_divided_by_its_parts(text: str, fits: bool) -> None:
    text = f"{HEAD}parameters: {{{text}}}\n"
    if fits:
        checked(text)
    else:
        assert "accumulate must divide every batch_size" in problems_of(text)[0]


@pytest.mark.parametrize("kind", ["q_uniform", "q_log_uniform_values"])
@pytest.mark.parametrize("q", [0.5, 2.5])
def test_a_counted_parameter_needs_a_whole_step(kind: str, q: float) -> None:
    (problem,) = problems_of(
        f"{HEAD}parameters: {{top_k: {{distribution: {kind}, min: 1, max: 10, q: {q}}}}}\n"
    )
    assert problem == f"f.yaml:5: parameters.top_k.q: must be a whole number, as top_k is one, got {q}"


@pytest.mark.parametrize(
    "start", ["parameters: {start: {value: best_head}}", "compare: {start: [given, best_head]}"]
)
def test_the_best_head_is_that_of_the_rung_below(start: str) -> None:
    assert checked(f"{HEAD}{start}\n").starts_from_best_head
    assert checked(f"{HEAD}{start}\nrungs: [head, finetune]\n").starts_from_best_head
    assert not checked(HEAD).starts_from_best_head
    (problem,) = problems_of(f"{HEAD}{start}\nrungs: [scores, finetune]\n")
    assert ".start: best_head is the best of the rung head, which rungs does not name" in problem


@pytest.mark.parametrize(
    "beside", ["", "screen: {}\n", "search: {method: grid}\n", "compare: {lr: [0.1, 0.2]}\n"]
)
@pytest.mark.parametrize("value", ["best_head", "3", "[1]", "{wrong: 1}", "null"])
@pytest.mark.parametrize(
    "name", ["start", "second", "lr", "steps", "mixup_layer", "accumulate", "policy", "precision"]
)
def test_a_parameter_that_is_no_section_is_one_problem_whatever_stands_beside_it(
    name: str, value: str, beside: str
) -> None:
    problems = problems_of(f"{HEAD}parameters: {{{name}: {value}}}\n{beside}")
    assert problems[0].startswith(f"f.yaml:5: parameters.{name}")
    # A screen lacks the parameter that it would search, for which this one may have been meant.
    assert len(problems) == 1 + (beside.startswith("screen"))


def test_rungs_are_named_in_order_and_the_search_needs_its_own() -> None:
    assert checked(HEAD).rungs == RUNGS
    # All of them are what a file of before meant: its digest stays.
    assert checked(HEAD + "rungs: [scores, head, finetune, retrain]\n").digest() == checked(HEAD).digest()
    assert checked(HEAD + "rungs: [scores, head]\n").digest() != checked(HEAD).digest()
    (problem,) = problems_of(HEAD + "rungs: []\n")
    assert "rungs: must name at least one of scores, head, finetune, retrain, got none" in problem
    (problem,) = problems_of(HEAD + "rungs: [retrain]\n")
    assert "must name more than retrain" in problem
    (problem,) = problems_of(HEAD + "rungs: [scores]\ncompare: {lr: [0.1, 0.2]}\n")
    assert "compare: compares trials of the rung finetune" in problem
    (problem,) = problems_of(HEAD + "rungs: [socres]\n")
    assert "rungs.0: must be one of scores, head, finetune, retrain, got 'socres'" in problem
