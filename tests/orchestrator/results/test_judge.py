from __future__ import annotations

from typing import Any

from orchestrator.records.types import TrialRecord, replicate_record
from orchestrator.results.judge import finalists, leader_and_winner, opponent


def trial(number: int, score: float | None, same_as: int | None = None, **more: Any) -> TrialRecord:
    settings = {"steps": 400} | more.pop("config", {})
    record = TrialRecord(
        f"o/trial-{number:03d}", "o", "trial", number, seed=0, config=settings, state="FINISHED", score=score,
        config_hash=str(number if same_as is None else same_as),
    )  # fmt: skip
    for key, value in more.items():
        setattr(record, key, value)
    return record


def names(records: list[TrialRecord]) -> list[int]:
    return [record.number for record in records]


def test_finalists_are_the_defaults_and_the_best() -> None:
    trials = [trial(0, 0.1), trial(1, 0.5), trial(2, 0.7), trial(3, 0.6), trial(4, 0.6)]
    assert names(finalists(trials, 2)) == [0, 2, 3]
    assert names(finalists([*trials[1:], trial(0, 0.9)], 2)) == [0, 2]


def test_what_failed_or_is_infeasible_is_no_finalist() -> None:
    trials = [
        trial(0, 0.9, feasible=False), trial(1, 0.8, state="FAILED"), trial(2, 0.7, state="INTERRUPTED"),
        trial(3, 0.1), trial(4, 0.99, kind="replicate"),
    ]  # fmt: skip
    assert names(finalists(trials, 3)) == [3]
    assert finalists(trials[:3], 3) == []


def test_the_same_settings_are_run_again_once() -> None:
    trials = [trial(0, 0.5), trial(1, 0.9), trial(2, 0.9, same_as=1), trial(3, 0.5, same_as=0)]
    assert names(finalists(trials, 3)) == [0, 1]


def choose(
    means: dict[int, float], tied: list[int], configs: dict[int, Any] | None = None
) -> tuple[int, list[int], int]:
    trials = {f"o/trial-{n:03d}": trial(n, 0.0, config=(configs or {}).get(n, {})) for n in means}
    finals = {}
    for record, mean in zip(trials.values(), means.values(), strict=True):
        replicate = replicate_record(record, 1, seed=1)
        replicate.score = mean
        finals[record.trial_id] = [replicate]
    chosen = leader_and_winner(
        finals, trials, lambda leader, others: [o for o in others if int(o[-3:]) in tied]
    )
    assert chosen is not None
    return int(chosen.leader[-3:]), [int(name[-3:]) for name in chosen.tied], int(chosen.winner[-3:])


def test_among_the_tied_the_defaults_win() -> None:
    assert choose({0: 0.5, 1: 0.9, 2: 0.7}, tied=[0, 2]) == (1, [1, 0, 2], 0)


def test_without_the_defaults_the_fewest_steps_win_then_the_score() -> None:
    assert choose({0: 0.1, 1: 0.9, 2: 0.7}, tied=[2], configs={1: {"steps": 400}, 2: {"steps": 100}})[2] == 2
    assert choose({0: 0.1, 1: 0.9, 2: 0.7}, tied=[2])[2] == 1


def test_a_clear_leader_wins() -> None:
    assert choose({0: 0.1, 1: 0.9}, tied=[]) == (1, [1], 1)


def test_a_finalist_without_finished_replicates_cannot_win() -> None:
    trials = {"o/trial-000": trial(0, 0.9)}
    assert leader_and_winner({"o/trial-000": []}, trials, lambda *_: []) is None


def baseline(name: str, score: float, cost_s: float = 1.0, **more: Any) -> TrialRecord:
    record = trial(0, score, cost_s=cost_s, kind="baseline", **more)
    record.trial_id = f"o/baseline/{name}"
    return record


def test_the_opponent_is_the_best_that_may_be_one() -> None:
    rows = [
        baseline("untouched", 0.2), baseline("balanced_head", 0.5, 3.0), baseline("uniform_mixup", 0.5, 1.0),
        baseline("retrained_logit_adjusted", 0.9, reference=True), baseline("selmix_post_hoc", 0.8),
        baseline("last_layer_post_hoc", 0.95, state="FAILED"),
    ]  # fmt: skip
    best = opponent(rows)
    assert best is not None
    assert best.name == "uniform_mixup"
    assert opponent(rows[3:]) is None
