"""Pending runs: a driver that is killed at any place resumes with the very trials of one that was not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from orchestrator.records.folder import RunFolder
from orchestrator.records.types import (
    BaseFacts,
    CrossFittedScore,
    DataFacts,
    Figure,
    SweepState,
    TrialRecord,
    replicate_record,
)
from orchestrator.results.rows import Choice, Choices
from orchestrator.run.outcome import RunOutcome
from orchestrator.run.pending import PendingRuns
from orchestrator.search.early_stopping import INFEASIBLE
from orchestrator.spec.checks import load_spec
from selmix.baselines import BASELINES, CrossFitted, baselines_for
from selmix.rungs import RUNGS
from selmix.statistics.intervals import Estimate
from selmix.statistics.selection import Constraint, SelectionRule
from tests.command import SMOKE
from trainables.baseline import BaselineReport

RULE = SelectionRule("min_recall", constraints=(Constraint("mean_recall", at_least=0.5),))
TRIALS = 5
KEYS = (f"search.num_trials={TRIALS}", "search.max_failed=0.5")


def pending(runs: Path, *overrides: str) -> PendingRuns:
    folder = RunFolder.local(runs, "smoke")
    folder.create()
    spec = load_spec(SMOKE, [*KEYS, *overrides])
    prepared: Any = SimpleNamespace(
        rules=dict.fromkeys(spec.objectives, RULE), data=SimpleNamespace(num_groups=0)
    )
    return PendingRuns(spec, folder, prepared)


def finish(folder: RunFolder, record: TrialRecord) -> float:
    """Put the end of a trial on record, and return its score, which its settings decide."""
    record.state, record.score = "FINISHED", abs(record.config["lr"] - 0.03)  # the defaults are the worst
    record.select = {"mean_recall": Figure(1.0, 1.0, 1.0)}
    folder.save_trial(record)
    return record.score


def searched(runs: Path, number: int = TRIALS) -> list[dict[str, Any]]:
    """Points of the search in the order in which they are handed out, after so many more of them have run."""
    home = pending(runs)
    source, _, _ = home.search(lambda: True)
    for _ in range(number):
        if (record := source.next()) is not None:
            source.tell(record, finish(home.folder, record), 0.0)
    return [record.point for record in home.folder.load_trials()]


def before_the_record(runs: Path) -> None:
    pending(runs).search(lambda: True)[0].next()


def before_the_journal(runs: Path) -> None:
    home = pending(runs)
    record = home.search(lambda: True)[0].next()
    assert record is not None
    finish(home.folder, record)


def without_its_journal(runs: Path) -> None:
    RunFolder.local(runs, "smoke").journal_path.unlink()


def in_the_midst_of_a_line(runs: Path) -> None:
    journal = RunFolder.local(runs, "smoke").journal_path
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4')


def under_its_lock(runs: Path) -> None:
    journal = RunFolder.local(runs, "smoke").journal_path
    for ending in (".lock", ".lock-1.rename"):
        journal.with_name(f"{journal.name}{ending}").symlink_to(journal)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    points = searched(tmp_path_factory.mktemp("undisturbed"))
    assert len(points) == TRIALS
    return points


@pytest.mark.parametrize(
    "killed",
    [before_the_record, before_the_journal, without_its_journal, in_the_midst_of_a_line, under_its_lock],
)
def test_a_driver_killed_anywhere_searches_the_same_points(
    undisturbed: list[dict[str, Any]], tmp_path: Path, killed: Callable[[Path], None]
) -> None:
    searched(tmp_path, 2)
    killed(tmp_path)
    assert searched(tmp_path) == undisturbed
    assert [path.name for path in (tmp_path / "smoke").glob("journal*")] == ["journal.log"]


def test_the_search_counts_what_is_done_and_resumes_what_is_not(tmp_path: Path) -> None:
    home = pending(tmp_path)
    source, total, done = home.search(lambda: True)
    assert (total, done, home.max_failed) == (TRIALS, 0, 2)
    records = [source.next() for _ in range(3)]
    for record, state, checkpoint in zip(
        records, ("FAILED", "INTERRUPTED", "RUNNING"), ("x", "gone", "here"), strict=True
    ):
        assert record is not None
        record.state, record.checkpoint = state, checkpoint
        home.folder.save_trial(record)
    (home.folder.path / "here").mkdir()
    (home.folder.path / "here" / "trial.json").write_text("{}")
    source, total, done = home.search(lambda: False)  # the failure budget is used up: nothing new begins
    resumed = [source.next() for _ in range(3)]
    assert (total, done) == (TRIALS, 1)
    assert [r and (r.number, r.checkpoint) for r in resumed] == [(1, None), (2, "here"), None]


def test_an_unfinished_journal_learns_failures_and_violations_from_the_records(tmp_path: Path) -> None:
    home = pending(tmp_path)
    source, _, _ = home.search(lambda: True)
    for state, recall in (("FINISHED", 0.25), ("FAILED", 0.0), ("FINISHED", 0.75)):
        record = source.next()
        assert record is not None
        record.state, record.score = state, 0.5  # type: ignore[assignment]
        record.select = {"mean_recall": Figure(recall, 0.0, 1.0)}
        home.folder.save_trial(record)
    for _ in range(2):  # a second time it changes nothing
        source, _, _ = home.search(lambda: True)
        trials = source._studies["min_recall"].trials()
        assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
        assert [trial.constraints.get("violation") for trial in trials] == [0.25, 0.0, 0.0]


def test_trials_that_were_stopped_early_are_so_to_the_journal_and_to_their_peers(tmp_path: Path) -> None:
    home = pending(tmp_path)
    source, _, _ = home.search(lambda: True)
    for number, state in enumerate(("FINISHED", "PRUNED", "RUNNING")):
        record = source.next()
        assert record is not None
        record.state, record.score = state, 0.5  # type: ignore[assignment]
        record.select = {"mean_recall": Figure(1.0, 0.0, 1.0)}
        for index in range(3):
            missed = number == 1 and index < 2
            home.folder.append_round(record.trial_id, {
                "round": index, "steps": 20 * index, "time_ms": 0, "score": 0.1 * (index + number),
                "feasible": not missed, "select": {"mean_recall": 0.25 if missed else 0.5}, "scalars": {},
            })  # fmt: skip
        home.folder.save_trial(record)
    for _ in range(2):  # the driver was killed before the journal had it; a second time it changes nothing
        source, _, done = home.search(lambda: True)
        trials = source._studies["min_recall"].trials()
        assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "RUNNING"]
        assert done == 2
        assert trials[1].intermediate_values == pytest.approx({0: 0.1, 20: 0.1, 40: 0.3})
        assert trials[1].value == pytest.approx(0.3)
        assert trials[1].constraints == {"violation": 0.0}
    scheduler = MagicMock()
    home.early_stopping(lambda: scheduler)
    seen = [call.args[1:] for call in scheduler.on_trial_complete.call_args_list]
    # Of the unfinished one all but the last, whose decision may be lost.
    assert [(peer.trial_id[-3:], result["steps"]) for peer, result in seen] == [
        *(("000", steps) for steps in (0, 20, 40)), *(("001", steps) for steps in (0, 20, 40)), ("002", 0), ("002", 20),
    ]  # fmt: skip
    assert [result["value"] for _, result in seen[3:6]] == pytest.approx([INFEASIBLE - 0.25] * 2 + [0.3])
    scheduler.on_trial_result.assert_not_called()


def test_objectives_and_arms_take_turns(tmp_path: Path) -> None:
    compared = (
        "objectives=[min_recall, h_mean]", "compare={policy: [softmax, uniform]}",
        "parameters={lr: {values: [0.01, 0.02]}, steps: {value: 60}}",
    )  # fmt: skip
    home = pending(tmp_path, *compared)
    source, total, _ = home.search(lambda: True)
    first = [source.next() for _ in range(5)]
    assert total == home.num_trials == 4 * TRIALS
    assert [r and r.trial_id for r in first] == [
        "min_recall/policy=softmax/trial-000", "min_recall/policy=uniform/trial-000",
        "h_mean/policy=softmax/trial-000", "h_mean/policy=uniform/trial-000", "min_recall/policy=softmax/trial-001",
    ]  # fmt: skip
    assert [r and (r.reference_arm, r.config["policy"]) for r in first[:2]] == [
        (True, "softmax"),
        (False, "uniform"),
    ]
    assert len({r.config_hash for r in first if r is not None}) == 5


# -- replicates and baselines -----------------------------------------------------------------------------------


def with_replicates(runs: Path, *states: str) -> PendingRuns:
    """A sweep whose defaults and best trial are finalists, and their replicates as far as states are given."""
    home = pending(runs, "selection.finalists=1")
    searched(runs)
    best = max(home.folder.load_trials(), key=lambda trial: (trial.score or 0, -trial.number))
    finals = sorted({0, best.number})
    assert len(finals) == 2
    fresh = [replicate_record(home.folder.load_trial(f"min_recall/trial-{number:03d}"), index, index)
             for number in finals for index in (1, 2)]  # fmt: skip
    for record, state in zip(fresh, states, strict=False):
        record.state = state  # type: ignore[assignment]
        home.folder.save_trial(record)
    return home


def test_finalists_run_on_the_same_fresh_seeds(tmp_path: Path) -> None:
    home = with_replicates(tmp_path)
    assert home.replicate_seeds == [1, 2]  # the trials had seed 0
    source, total, done = home.replicates()
    records = [source.next() for _ in range(5)]
    assert (total, done, records[-1]) == (4, 0, None)
    assert [r and (r.trial_id[-6:], r.seed) for r in records[:-1]] == [("seed-1", 1), ("seed-2", 2)] * 2


def test_replicates_that_are_done_do_not_run_again(tmp_path: Path) -> None:
    home = with_replicates(tmp_path, "FINISHED", "INTERRUPTED", "FAILED")
    source, total, done = home.replicates()
    assert (total, done) == (4, 2)
    left = [source.next() for _ in range(3)]
    assert [r and (r.seed, r.state) for r in left] == [(2, "INTERRUPTED"), (2, "RUNNING"), None]


def decided(runs: Path, winner: str | None) -> PendingRuns:
    home = with_replicates(runs, *["FINISHED"] * 4)
    state = SweepState(
        "smoke", "1", data=DataFacts(["a", "b"], [4, 2], {}, 8), base=BaseFacts("sha256:1", 0.0)
    )
    home.folder.save_state(state)
    choice = None if winner is None else Choice(winner, [winner], winner)
    home.folder.save(home.folder.choices_path, Choices(objectives={"min_recall": choice}))
    return home


def test_baselines_that_are_left_take_the_winner_s_settings_and_weights(tmp_path: Path) -> None:
    home = decided(tmp_path, "min_recall/trial-000")
    names = list(baselines_for(0))
    for name, state in ((names[0], "FINISHED"), (names[1], "RUNNING"), (names[2], "FAILED")):
        baseline = TrialRecord(f"min_recall/baseline/{name}", "min_recall", "baseline", 0, 0, state=state)  # type: ignore[arg-type]
        home.folder.save_trial(baseline)
    jobs, total = home.baselines(RUNGS)
    assert total == len(names)
    assert [job.name for job in jobs] == [names[k] for k in reversed(range(len(names))) if k not in {0, 2}]
    winner = home.folder.load_trial("min_recall/trial-000")
    weights = [str(home.folder.weights_path(f"{winner.trial_id}/seed-{k}").absolute()) for k in (1, 2)]
    assert {(str(job.config), *job.winner_weights, *job.seeds) for job in jobs} == {
        (str(winner.config), *weights, 1, 2)
    }
    assert jobs[0].folder == str((home.folder.path / "baselines" / "min_recall" / jobs[0].name).absolute())


def test_without_a_feasible_trial_the_baselines_that_need_none_are_left(tmp_path: Path) -> None:
    home = decided(tmp_path, None)
    jobs, total = home.baselines(RUNGS)
    left = {job.name for job in jobs}
    assert total == len(jobs) == len(left)
    assert set(baselines_for(0)) - left == {
        "uniform_mixup", "finetune_balanced", "finetune_logit_adjusted", "selmix_post_hoc",
    }  # fmt: skip
    assert {(str(job.config), *job.winner_weights, *job.seeds) for job in jobs} == {("{}", 1, 2)}
    # One that runs seed by seed needs no weights of a winner for that.
    (retrained,) = (job for job in jobs if job.name == "retrained_logit_adjusted")
    assert [(part.winner_weights, part.seeds) for part in retrained.parts()] == [([], [1]), ([], [2])]


def test_the_cheap_rungs_wait_for_no_search_and_decide_nothing(tmp_path: Path) -> None:
    home = decided(tmp_path, None)
    home.folder.choices_path.unlink()
    jobs, total = home.baselines(["scores", "head"])
    assert {job.name for job in jobs} == {
        n for n in baselines_for(0) if BASELINES[n].rung in ("scores", "head")
    }
    assert total == len(jobs)
    assert not home.folder.choices_path.is_file()


def test_the_record_of_a_baseline_is_its_report_or_its_failure(tmp_path: Path) -> None:
    home = decided(tmp_path, "min_recall/trial-000")
    job = home.baselines(RUNGS)[0][0]
    failed = home.baseline_record(job, RunOutcome("failed", "ValueError: no"))
    assert (failed.trial_id, failed.kind, failed.state, failed.error, failed.select) == (
        f"min_recall/baseline/{job.name}", "baseline", "FAILED", "ValueError: no", {},
    )  # fmt: skip
    report = BaselineReport({"m": Estimate(0.5, 0.25, 0.75)}, 0.5, "sha256:1", ["train"], 2.0, True, {"tau": 1.0},
                            "head", None, [1, 2], False, 7)  # fmt: skip
    record = home.baseline_record(job, report)
    home.folder.save_trial(record)  # figures, and no class of the method, are what a record holds
    stored = home.folder.load_trial(record.trial_id)
    assert (stored.state, stored.round, stored.steps, stored.error) == ("FINISHED", 0, 0, None)
    assert (stored.select["m"].low, stored.score, stored.note, stored.seeds) == (
        0.25,
        0.5,
        {"tau": 1.0},
        [1, 2],
    )
    assert (stored.feasible, stored.reference, stored.rung, stored.started_ms) == (False, True, "head", 7)
    assert stored.cross_fitted is None
    judged = replace(report, cross_fitted=CrossFitted(None, 5, 80, "too few samples"))
    home.folder.save_trial(home.baseline_record(job, judged))
    again = home.folder.load_trial(record.trial_id).cross_fitted
    assert again == CrossFittedScore(None, 5, 80, "too few samples")
    judged = replace(report, cross_fitted=CrossFitted(0.5, 5, 80, violation=0.25))
    assert home.baseline_record(job, judged).cross_fitted == CrossFittedScore(0.5, 5, 80, violation=0.25)
