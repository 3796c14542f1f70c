"""Host of runs: their reports, their checkpoints, and a run that resumes in another process's place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selmix.weights import load_weights, state_digest
from tests.trainables.world import assignment, shared
from trainables.finetune import FinetuneTrainable
from trainables.host import RunHost
from trainables.shared import Shared


def hosted(world: Shared | None = None, **changed: Any) -> RunHost:
    host = RunHost(world or shared())
    host.start(assignment(**changed))
    return host


def reports(host: RunHost) -> list[dict[str, Any]]:
    """All reports that are left of a run."""
    made = [host.step()]
    while not made[-1]["finished"]:
        made.append(host.step())
    return made


def bare(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what a clock decides."""
    row = report["row"] and {key: value for key, value in report["row"].items() if key != "time_ms"}
    return {key: value for key, value in report.items() if key not in {"cost_s", "should_checkpoint"}} | {
        "row": row
    }


@pytest.fixture(scope="module")
def whole() -> list[dict[str, Any]]:
    return reports(hosted())


def test_one_report_per_round_and_the_last_one_ends_the_trial(whole: list[dict[str, Any]]) -> None:
    assert [r["round"] for r in whole] == [0, 1, 2]
    assert [(r["row"]["round"], r["row"]["steps"]) for r in whole] == [(0, 0), (1, 2), (2, 4)]
    assert [r["done"] for r in whole] == [r["finished"] for r in whole] == [False, False, True]
    assert [r["stop_reason"] for r in whole] == [None, None, "steps"]
    assert whole[-1]["best"]["score"] == max(r["row"]["score"] for r in whole)
    costs = [r["cost_s"] for r in whole]
    assert 0 < costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize(("every_s", "due"), [(0.0, [True, True, True]), (1e9, [False, False, True])])
def test_a_checkpoint_is_due_after_its_time_and_at_the_end(every_s: float, due: list[bool]) -> None:
    assert [r["should_checkpoint"] for r in reports(hosted(shared(checkpoint_every_s=every_s)))] == due


def test_a_run_resumes_with_the_same_numbers_and_its_costs(
    whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    first = hosted()
    first.step()
    spent = first.step()["cost_s"]
    first.save(str(tmp_path / "checkpoint"))
    assert json.loads((tmp_path / "checkpoint" / "trial.json").read_text()) == {
        "cost_s": spent,
        "finished": False,
    }
    assert not (tmp_path / "checkpoint" / "figures.json").exists()
    resumed = reports(hosted(resume_from=str(tmp_path / "checkpoint")))
    assert [bare(r) for r in resumed] == [bare(r) for r in whole[2:]]
    assert resumed[-1]["cost_s"] > spent


def test_a_finished_run_has_its_outcome_beside_it(whole: list[dict[str, Any]], tmp_path: Path) -> None:
    host = hosted()
    reports(host)
    host.save(str(tmp_path))
    outcome, best = json.loads((tmp_path / "figures.json").read_text()), whole[-1]["best"]
    assert {key: outcome[key] for key in ("round", "steps", "score", "feasible")} == {
        key: best[key] for key in ("round", "steps", "score", "feasible")
    }
    assert (outcome["stop_reason"], outcome["failed"]) == ("steps", False)
    assert outcome["weights_digest"] == state_digest(load_weights(tmp_path / "weights.safetensors"))
    metric = outcome["select"]["min_recall"]
    assert metric["low"] <= metric["value"] <= metric["high"]
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["confidence", "labels", "predicted"]  # no groups in these data
        assert {arrays[name].shape for name in arrays.files} == {(60,)}
        hits = arrays["labels"] == arrays["predicted"]
        assert metric["value"] == pytest.approx(min(hits[arrays["labels"] == k].mean() for k in range(3)))


def test_a_second_run_has_nothing_of_the_first(whole: list[dict[str, Any]]) -> None:
    host = hosted(seed=5)
    reports(host)
    host.start(assignment())
    again = reports(host)
    assert [bare(r) for r in again] == [bare(r) for r in whole]
    assert again[0]["cost_s"] < sum(r["cost_s"] for r in again)


def broken(where: str) -> Shared:
    """A world with a value that is not finite in the base model, or in feedback."""
    world = shared()
    if where == "feedback":
        inputs = world.data.feedback.inputs.clone()  # type: ignore[union-attr]
        inputs[0] = torch.nan
        return replace(world, data=replace(world.data, feedback=replace(world.data.feedback, inputs=inputs)))  # type: ignore[type-var, union-attr]
    base = world.bases["min_recall"]
    state = base.state | {"head.bias": torch.full((3,), torch.nan)}  # type: ignore[operator]
    return replace(world, bases={"min_recall": replace(base, state=state)})


def test_a_start_model_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(
        FloatingPointError, match=r"the start model is not finite \(nonfinite:select logits\)"
    ):
        hosted(broken("base")).step()


def test_a_run_that_stops_being_finite_keeps_its_best_round(tmp_path: Path) -> None:
    host = hosted(broken("feedback"))
    first, last = reports(host)
    assert (last["row"], last["failed"], last["stop_reason"]) == (None, True, "nonfinite:logits")
    assert last["best"] == first["best"]
    host.save(str(tmp_path))
    assert json.loads((tmp_path / "figures.json").read_text())["failed"] is True


# -- as Tune steps it -----------------------------------------------------------------------------------------


def trainable(config: dict[str, Any], **given: Any) -> FinetuneTrainable:
    """Without the folders that Tune makes for one."""
    made = object.__new__(FinetuneTrainable)
    made.setup(config, **given)
    return made


def test_tune_s_trainable_is_a_host_that_is_reused(whole: list[dict[str, Any]], tmp_path: Path) -> None:
    actor = trainable(assignment(seed=5), shared=shared())
    actor.step()
    assert actor.reset_config(assignment())
    first = [actor.step(), actor.step()]
    actor.save_checkpoint(str(tmp_path))
    other = trainable(assignment(), shared=shared())
    other.load_checkpoint(str(tmp_path))
    assert [bare(r) for r in [*first, other.step()]] == [bare(r) for r in whole]
    other.cleanup()


def test_a_trainable_takes_its_data_or_a_plan_of_ranks() -> None:
    with pytest.raises(ValueError, match="needs `shared` or `ranks`; wrap it"):
        trainable(assignment())


def test_an_exclusive_run_keeps_to_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr("trainables.host.keep_to_share", shares.append)
    trainable(assignment(), shared=shared())
    trainable(assignment(takes={"cpu": 1, "gpu": 0.5}), shared=shared())
    assert shares == [0, 0.5]
