"""Early stopping: decisions of Tune's rules over our trials, the same after a resume. No Ray is started."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

from orchestrator.records.types import TrialRecord
from orchestrator.run.tune import peers
from orchestrator.search.early_stopping import INFEASIBLE, BestSoFar, EarlyStopping, best_so_far
from orchestrator.spec.sections import EarlyStoppingSection

ASHA = EarlyStoppingSection(method="asha", grace_steps=40, reduction_factor=2)
MEDIAN = EarlyStoppingSection(method="median", grace_steps=40, min_samples=2)
MOST = 400


def stopping(section: EarlyStoppingSection = ASHA) -> EarlyStopping:
    return EarlyStopping(partial(peers, section, MOST))


def trial(number: int, objective: str = "o", kind: Any = "trial", arm: str = "") -> TrialRecord:
    return TrialRecord(f"{objective}/trial-{number:03d}", objective, kind, number, 0, arm=arm)


def came(of: EarlyStopping, record: TrialRecord, score: float, *steps: int) -> list[bool]:
    """Decisions about a trial that stays at a score."""
    return [of.stops(record, BestSoFar(each, score)) for each in steps]


@pytest.mark.parametrize("section", [ASHA, MEDIAN])
def test_a_trial_far_behind_its_peers_ends_after_the_grace(section: EarlyStoppingSection) -> None:
    of = stopping(section)
    for number in range(3):
        assert not any(came(of, trial(number), 0.8, *range(0, MOST, 20)))
    assert came(of, trial(3), 0.1, 0, 20) == [False, False]
    assert came(of, trial(3), 0.1, 40) == [True]
    assert came(of, trial(4), 0.8, 0, 20, 40, 60) == [False] * 4  # as good as they are


@pytest.mark.parametrize("section", [ASHA, MEDIAN])
def test_the_defaults_are_a_peer_and_never_end(section: EarlyStoppingSection) -> None:
    of = stopping(section)
    for number in (1, 2, 3):
        came(of, trial(number), 0.8, *range(0, MOST, 20))
    assert not any(came(of, trial(0), 0.1, *range(0, MOST, 20)))
    assert not any(came(of, trial(0, arm="a"), 0.1, *range(0, MOST, 20)))
    alone = stopping(ASHA)
    came(alone, trial(0), 0.8, 40)
    assert came(alone, trial(1), 0.1, 40) == [True]  # by the defaults alone


def test_a_median_needs_its_samples() -> None:
    of = stopping(MEDIAN)
    came(of, trial(0), 0.8, 40)
    assert came(of, trial(1), 0.1, 40) == [False]
    assert came(of, trial(2), 0.1, 40) == [True]  # 0.1 is below the median of 0.8 and 0.1


def test_replicates_are_no_peers_and_objectives_and_arms_have_their_own() -> None:
    of = stopping()
    for other in (trial(1, "other"), trial(2, arm="a"), trial(3, kind="replicate")):
        assert came(of, other, 0.9, 40) == [False]
    assert came(of, trial(1), 0.1, 40) == [False]
    assert came(of, trial(4, kind="replicate"), 0.0, 40, 80) == [False, False]
    assert came(of, trial(4, "other"), 0.1, 40) == [True]


def test_rounds_that_a_resumed_run_repeats_are_not_judged_again() -> None:
    of = stopping(MEDIAN)
    came(of, trial(1), 0.5, 40, 60, 80)
    for number in (2, 3, 4):
        came(of, trial(number), 0.9, 40, 60, 80, 100)
    # It would end at any of these by the peers that there are now, but went beyond them before.
    assert came(of, trial(1), 0.5, 60, 80, 100) == [False, False, True]


def test_a_run_that_finished_counts_with_its_last_round() -> None:
    of = stopping()
    assert not of.stops(trial(1), BestSoFar(40, 0.9), finished=True)
    assert came(of, trial(2), 0.1, 40) == [True]


@pytest.mark.parametrize("section", [ASHA, MEDIAN])
def test_within_the_bounds_a_low_score_is_ahead_of_a_high_one_beyond_them(
    section: EarlyStoppingSection,
) -> None:
    of = stopping(section)
    for number, violation in ((1, 0.1), (2, 0.2), (3, 0.3)):
        of.stops(trial(number), BestSoFar(40, 0.9, violation))
    assert not of.stops(trial(4), BestSoFar(40, 0.1))
    assert not of.stops(trial(5), BestSoFar(40, 0.1, 0.05))  # the least violation of those that have one
    assert of.stops(trial(6), BestSoFar(40, 0.99, 0.4))


def test_means_of_equal_values_are_those_values() -> None:
    """np.mean of some 0.8 is above 0.8, which would end trials that are as good as all others."""
    for reached in (BestSoFar(0, 0.8), BestSoFar(0, 1 / 3), BestSoFar(0, 0.8, 0.1), BestSoFar(0, -123.456)):
        for count in (1, 3, 7, 50):
            assert np.mean([reached.value] * count) == reached.value
    assert np.mean([0.8] * 3) > 0.8


def test_the_best_round_so_far_ranks_as_in_a_run() -> None:
    rows = [(0, 0.9, 0.3), (20, 0.2, 0.1), (40, 0.8, 0.1), (60, 0.3, 0.0), (80, 0.2, 0.0), (100, 0.4, 0.0)]
    rounds = [{"steps": steps, "score": score, "select": {"m": missed}} for steps, score, missed in rows]

    def violation(select: Mapping[str, float]) -> float:
        return select["m"]

    assert best_so_far(rounds, violation) == [
        BestSoFar(0, 0.9, 0.3), BestSoFar(20, 0.2, 0.1), BestSoFar(40, 0.2, 0.1), BestSoFar(60, 0.3),
        BestSoFar(80, 0.3), BestSoFar(100, 0.4),
    ]  # fmt: skip
    values = [each.value for each in best_so_far(rounds, violation)]
    assert values == sorted(values)
    assert values == pytest.approx([INFEASIBLE - 0.3, *[INFEASIBLE - 0.1] * 2, 0.3, 0.3, 0.4], abs=1e-5)
    assert values[0] < values[1]
    assert best_so_far([], violation) == []


# -- against the rules as their papers state them, and after a resume ------------------------------------------------


@dataclass
class Sweep:
    """Trials with random learning curves, one after the other."""

    section: EarlyStoppingSection
    curves: list[list[BestSoFar]]

    def plain_rule(self, number: int, index: int, before: list[list[BestSoFar]]) -> bool:
        """The decision by the rule's definition, from what the trials before it have shown."""
        now = self.curves[number][index]
        if self.section.method == "median":
            if now.steps < 40:
                return False
            # Runs that have come as far: the mean of their values from the grace to here.
            there = [
                [each.value for each in curve if 40 <= each.steps <= now.steps]
                for curve in before
                if curve[-1].steps >= now.steps
            ]
            means = [statistics.fmean(values) for values in there if values]
            return len(means) >= 2 and now.value < statistics.median(means)
        milestones = [40 * 2**k for k in range(10) if 40 * 2**k <= MOST]
        passed = [each for each in milestones if each <= now.steps]
        # One decision at each milestone, by the first round that reaches it.
        if not passed or (index > 0 and self.curves[number][index - 1].steps >= passed[-1]):
            return False
        entered = [
            next(each.value for each in curve if each.steps >= passed[-1])
            for curve in before
            if curve[-1].steps >= passed[-1]
        ]
        return bool(entered) and now.value < float(np.quantile(entered, 0.5))

    def run(self, killed: tuple[int, int] | None = None) -> list[int]:
        """Rounds of each trial until it ended; ``killed``: the driver dies after this round of this trial."""
        of, shown = stopping(self.section), list[list[BestSoFar]]()
        for number, curve in enumerate(self.curves):
            length = len(curve)
            start = 0
            if killed is not None and number == killed[0]:
                known = curve[: killed[1] + 1]
                for index, each in enumerate(known):
                    of.stops(trial(number), each, finished=index == length - 1)
                # It may have decided to end the trial, and died with that. It is back at a checkpoint of some rounds
                # before, with what the records hold.
                of = stopping(self.section)
                for done, its in enumerate(shown):
                    record = trial(done)
                    record.state = "PRUNED"
                    of.fill(record, its)
                of.fill(trial(number), known)
                start = max(0, killed[1] - 2)
            for index in range(start, length):
                if of.stops(trial(number), curve[index], finished=index == length - 1):
                    length = index + 1
                    break
            shown.append(curve[:length])
        return [len(each) for each in shown]

    def expected(self) -> list[int]:
        """The same by the rule's definition."""
        shown: list[list[BestSoFar]] = []
        for number, curve in enumerate(self.curves):
            ends = [i for i in range(len(curve) - 1) if number and self.plain_rule(number, i, shown)]
            shown.append(curve[: ends[0] + 1 if ends else None])
        return [len(each) for each in shown]


def random_sweep(section: EarlyStoppingSection, seed: int) -> Sweep:
    draw = random.Random(seed)
    curves = []
    for _ in range(10):
        # Rounds of another length each, as `refresh_every` is searched.
        every, best, curve = draw.choice([10, 20, 30, 50]), draw.random() / 2, list[BestSoFar]()
        for steps in range(0, MOST + 1, every):
            best = max(best, draw.random() * steps / MOST)
            curve.append(BestSoFar(steps, best))
        curves.append(curve)
    return Sweep(section, curves)


@pytest.mark.parametrize("section", [ASHA, MEDIAN])
def test_decisions_are_those_of_the_rule(section: EarlyStoppingSection) -> None:
    ended = 0
    for seed in range(20):
        sweep = random_sweep(section, seed)
        assert sweep.run() == sweep.expected(), seed
        ended += sum(len(c) != n for c, n in zip(sweep.curves, sweep.run(), strict=True))
    assert ended > 40


@pytest.mark.parametrize("section", [ASHA, MEDIAN])
def test_a_sweep_killed_anywhere_decides_as_one_that_was_not(section: EarlyStoppingSection) -> None:
    for seed in range(2):
        sweep = random_sweep(section, seed)
        sweep.curves = sweep.curves[:5]
        whole = sweep.run()
        for number, length in enumerate(whole):
            for index in range(length):
                assert sweep.run((number, index)) == whole, (seed, number, index)


def test_a_result_whose_decision_may_be_lost_is_judged_again() -> None:
    before = stopping()
    came(before, trial(1), 0.9, 40)
    rounds = [BestSoFar(0, 0.1), BestSoFar(40, 0.1)]
    assert [before.stops(trial(2), each) for each in rounds] == [False, True]
    # The driver died before the record of trial 2 said so.
    again = stopping()
    done = trial(1)
    done.state = "FINISHED"
    again.fill(done, [BestSoFar(40, 0.9)])
    again.fill(trial(2), rounds)
    assert [again.stops(trial(2), each) for each in rounds] == [False, True]


def test_the_grace_is_an_eighth_of_the_most_steps_unless_it_is_given() -> None:
    section = EarlyStoppingSection(method="asha")
    assert (section.grace(400), section.grace(7), ASHA.grace(4000)) == (50, 1, 40)
