"""One Optuna study per objective, driven by ask and tell from the driver.

The journal is read again at every opening, so a study whose driver was killed resumes where it was. The sampler is
reseeded for every ask from (seed, trial number): a reopened study would otherwise repeat its first points.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from orchestrator.records.types import Settings


class ObjectiveStudy:
    """The study of one objective.

    Args:
        journal: Optuna's journal file, shared by the objectives of a sweep.
        objective: name of the study.
        method: ``tpe``, ``random`` or ``grid``.
        seed: of the sampler.
        distributions: the searched parameters.
        first: the point of trial 0.
        grid: the points of ``grid`` in order; None for the other methods.
        promoted: points of the trials after it, as a screen promoted them.
    """

    def __init__(
        self,
        journal: Path,
        objective: str,
        method: str,
        seed: int,
        distributions: Mapping[str, BaseDistribution],
        first: Mapping[str, Any],
        grid: list[Settings] | None = None,
        promoted: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        # Optuna reports every study that it opens on stderr, where the live line is.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        _cut_torn_line(journal)
        self._storage = JournalStorage(JournalFileBackend(str(journal)))
        self._study = optuna.create_study(
            storage=self._storage, study_name=objective, direction="maximize", load_if_exists=True
        )
        self._method, self._seed = method, seed
        self._distributions, self._first, self._grid = (
            dict(distributions),
            [dict(each) for each in (first, *promoted)],
            grid,
        )

    def trials(self) -> list[FrozenTrial]:
        """Every trial of the journal, by number."""
        # They are only read: a deep copy of all at every ask would grow with the square of their number.
        return self._study.get_trials(deepcopy=False)

    def rebuild(self, points: Mapping[int, Mapping[str, Any]]) -> None:
        """Put trials that are on record but not in the journal (the file is gone) into the study, without results.

        Points proposed afterwards are those of a study whose journal is whole: the sampler depends on parameters,
        numbers and results of the trials alone, and is seeded by the number.

        Args:
            points: number -> at least the searched parameters. A number without a record gets a new point.
        """
        for number in range(len(self.trials()), max(points, default=-1) + 1):
            if number not in points:
                self.ask()
                continue
            self._add({name: points[number][name] for name in self._distributions})

    def ask(self) -> tuple[int, Settings]:
        """Propose the next point: its number and its parameters.

        The point is proposed by a copy in memory and written to the journal at once: Optuna writes a trial parameter
        by parameter, and a driver killed between two of them would leave half a point behind.
        """
        number = len(self.trials())
        point = self._fixed_point(number)
        if point is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                copy = optuna.create_study(direction="maximize", sampler=self._sampler(number))
                copy.add_trials(self.trials())
                point = copy.ask(self._distributions).params
        self._add(point)
        return number, dict(point)

    def _add(self, point: Mapping[str, Any]) -> None:
        self._study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING, params=dict(point), distributions=self._distributions
            )
        )

    def _fixed_point(self, number: int) -> Settings | None:
        if self._grid is not None:
            return self._grid[number]
        return self._first[number] if number < len(self._first) else None

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        # SeedSequence mixes the two: a sum would give the study of the next seed the same points, shifted by one.
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        if self._method == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed)

    def tell(self, number: int, score: float | None, violation: float = 0.0) -> None:
        """Record the result of a trial; a second result of the same trial changes nothing.

        Args:
            number: of the trial.
            score: to maximise; None or a value that is not finite: the trial failed.
            violation: by how much the constraints are missed, 0.0 where they hold.
        """
        state = TrialState.COMPLETE
        if score is None or not math.isfinite(score):
            score, state = None, TrialState.FAIL
        if self._violates(number, violation) is not None:
            self._study.tell(number, score, state=state, skip_if_finished=True)

    def prune(self, number: int, values: Mapping[int, float], violation: float = 0.0) -> None:
        """Record that a trial was stopped early; if it has ended already, nothing changes.

        Optuna takes the last of the values for the trial's own.

        Args:
            number: of the trial.
            values: SGD steps -> the score of its best round so far.
            violation: of the last of them, as of :meth:`tell`.
        """
        trial = self._violates(number, violation)
        if trial is None:
            return
        # A driver killed in their midst has reported the first ones.
        reported = self._storage.get_trial(trial._trial_id).intermediate_values
        for steps in sorted(set(values) - set(reported)):
            trial.report(values[steps], steps)
        self._study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)

    def _violates(self, number: int, violation: float) -> optuna.trial.Trial | None:
        """A trial that has not ended, with its violation; None where it has."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        known = self._storage.get_trial(trial_id)
        if known.state.is_finished():
            return None
        trial = optuna.trial.Trial(self._study, trial_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if not known.constraints:  # a driver killed before the next line had set it
                trial.set_constraint("violation", violation)
        return trial


def _cut_torn_line(journal: Path) -> None:
    """Remove a last line that a killed driver did not end: its event has not happened yet, and is done again."""
    if not journal.exists():
        return
    with journal.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def fail_unfinished(journal: Path, numbers: Mapping[str, Iterable[int]]) -> None:
    """End trials that will never have a result: they are FAIL in the journal.

    Args:
        journal: Optuna's journal file.
        numbers: study name -> numbers of its trials.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    for name, unfinished in numbers.items():
        study = optuna.load_study(storage=storage, study_name=name)
        for number in unfinished:
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
