"""`selmix diagnose`: rounds and their means, with runs that a test makes up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from orchestrator.verbs.diagnose import MAX_MAPS, heat_maps
from selmix.run import run as module
from tests.command import SMOKE, Done, here

FIGURES = {
    "gain_spearman": 0.5,
    "gain_pearson": 0.25,
    "policy_perplexity": 8.0,
    "policy_entropy": 2.0,
    "expected_gain": 1.0,
}


def matrices(number: int, gain: bool = True) -> SimpleNamespace:
    given = torch.eye(3) if gain else None
    return SimpleNamespace(round=number, confusion=torch.ones(3, 3), gain=given, policy=given)


def diagnosed(
    monkeypatch: pytest.MonkeyPatch,
    scalars: list[dict[str, Any]],
    rounds: list[SimpleNamespace],
    *arguments: str | Path,
) -> Done:
    """Diagnose the smoke sweep with runs that report these numbers."""

    def finetune(
        _data: Any, _base: Any, _objective: str, config: Any, _seed: int, _rule: Any, on_round: Any
    ) -> Any:
        assert config.diagnose
        for number, each in enumerate(scalars):
            on_round(SimpleNamespace(round=number, steps=20 * number, scalars=each))
        return SimpleNamespace(rounds=rounds, stop_reason="steps")

    monkeypatch.setattr(module, "finetune", finetune)
    return here("diagnose", SMOKE, "pretrain.epochs=1", "--json", *arguments)


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_means_are_over_the_rounds_that_took_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    done = diagnosed(monkeypatch, [{"expected_gain": 9.0}, FIGURES, FIGURES | {"gain_spearman": 0.0}], [])
    assert done.code == 0, done.err
    result = strict(done.out)["objectives"]["min_recall"]
    assert [row["round"] for row in result["rounds"]] == [0, 1, 2]
    assert result["mean"] | FIGURES | {"gain_spearman": 0.25} == result["mean"]
    assert result["mean"]["effective_pairs"] == result["mean"]["policy_perplexity"] == 8.0
    assert (result["mean"]["prototype_drift"], result["maps"]) == (None, None)


def test_a_round_without_a_correlation_is_valid_json(monkeypatch: pytest.MonkeyPatch) -> None:
    done = diagnosed(monkeypatch, [{}, FIGURES, FIGURES | {"gain_spearman": math.nan}], [])
    result = strict(done.out)["objectives"]["min_recall"]
    assert result["rounds"][2]["gain_spearman"] is None
    assert result["mean"]["gain_spearman"] == 0.5


def test_maps_are_drawn_of_a_few_rounds_evenly_spaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from matplotlib.axes import Axes

    titles: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda _axes, text, **_: titles.append(text))
    heat_maps([matrices(0, gain=False), *(matrices(k) for k in range(1, 13))], tmp_path / "a" / "x.png")  # type: ignore[list-item]
    assert (tmp_path / "a" / "x.png").stat().st_size > 0
    shown = [title for title in titles if title]
    assert shown == ["round 1", "round 4", "round 7", "round 10"]
    assert len(shown) <= MAX_MAPS
    heat_maps([matrices(0, gain=False)], tmp_path / "b" / "x.png")  # type: ignore[list-item]
    assert not (tmp_path / "b").exists()


def test_maps_that_were_not_drawn_are_not_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = diagnosed(monkeypatch, [FIGURES], [matrices(0, gain=False)], "-o", tmp_path)
    assert strict(done.out)["objectives"]["min_recall"]["maps"] is None
    assert list(tmp_path.iterdir()) == []


def test_maps_without_their_library_are_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("orchestrator.verbs.diagnose.find_spec", lambda _name: None)
    done = here("diagnose", SMOKE, "-o", tmp_path)
    assert (done.code, done.out) == (4, "")
    assert done.err == (
        "selmix: --output: heat maps need matplotlib, which is not installed; pip install 'selmix[plots]', or leave "
        "--output out\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--objective", "g_mean"),
            "--objective: must be one of min_recall, the objectives of the file, got 'g_mean'",
        ),
        (("parameters.policy={value: uniform}",), "must be a policy that uses the gain, got uniform"),
    ],
)
def test_what_has_nothing_to_diagnose(arguments: tuple[str, ...], says: str) -> None:
    done = here("diagnose", SMOKE, *arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
