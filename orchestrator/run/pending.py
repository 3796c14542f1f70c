"""Pending runs of a sweep (trials, replicates, baselines), known from records and journal alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict

from orchestrator.build.selection import acting_objective
from orchestrator.records.folder import RunFolder
from orchestrator.records.screen import ScreenRecord
from orchestrator.records.types import (
    CrossFittedScore,
    Figure,
    Settings,
    TrialRecord,
    baseline_id,
    replicate_record,
    trial_record,
)
from orchestrator.results.finalists import finalists
from orchestrator.results.judge import Judge, decided
from orchestrator.results.shipped import replicate_weights
from orchestrator.run.outcome import RunOutcome
from orchestrator.run.prepare import Prepared, best_head_digest
from orchestrator.search.early_stopping import BestSoFar, EarlyStopping, Scheduler, best_so_far
from orchestrator.search.sources import ListSource, StudySource, prune
from orchestrator.search.space import default_point, distributions, grid, settings, trials_per_objective
from orchestrator.search.study import ObjectiveStudy
from orchestrator.spec.schema import SweepSpec
from selmix.baselines import BASELINES, baselines_for
from selmix.rungs import Rung
from trainables.baseline import BaselineJob, BaselineReport


class PendingRuns:
    """Runs of a sweep that are pending.

    Args:
        spec: specification of the sweep.
        folder: records of the sweep.
        prepared: data, models and rules that all runs share.
    """

    def __init__(self, spec: SweepSpec, folder: RunFolder, prepared: Prepared) -> None:
        self.spec, self.folder, self.prepared = spec, folder, prepared

    @property
    def replicate_seeds(self) -> list[int]:
        """Fresh seeds, the same for every finalist and baseline: differences are paired by seed."""
        # The trials have the search's seed: no replicate repeats one of them.
        first = self.spec.search.seed + 1
        return list(range(first, first + self.spec.selection.replicates))

    @property
    def num_trials(self) -> int:
        """Number of trials of all objectives and arms; none where the rung of the search is left out."""
        if not self.spec.searches:
            return 0
        return trials_per_objective(self.spec) * len(self.spec.objectives) * len(self.spec.arms)

    @property
    def max_failed(self) -> int:
        """Number of failed trials above which no new one is begun."""
        return int(self.spec.search.max_failed * self.num_trials)

    def search(self, may_begin: Callable[[], bool]) -> tuple[StudySource, int, int]:
        """Source of the trials, how many there are in all, and how many are done.

        Args:
            may_begin: returns False once too many trials failed.
        """
        # A lock that is there is a killed driver's, and would be waited for: by the lease no other driver writes.
        for lock in self.folder.path.glob("journal.log*lock*"):
            lock.unlink()
        spec = self.spec
        studies = {
            study: ObjectiveStudy(
                self.folder.journal_path, study, spec.search.method, spec.search.seed, distributions(spec),
                default_point(spec), grid(spec), self._promoted(objective),
            )
            for study, (objective, _) in self._studies.items()
        }  # fmt: skip
        records = {r.trial_id: r for r in self.folder.load_trials() if r.kind == "trial"}
        unfinished = self._reconcile(studies, records)
        source = StudySource(
            studies, trials_per_objective(spec), unfinished, self.new_trial, may_begin, self._curve
        )
        return source, self.num_trials, sum(record.is_done for record in records.values())

    def early_stopping(self, build: Callable[[], Scheduler]) -> EarlyStopping:
        """Early stopping of the trials, which knows all that is on record of them.

        Args:
            build: as :class:`orchestrator.search.early_stopping.EarlyStopping` takes it.
        """
        stopping = EarlyStopping(build)
        for record in self.folder.load_trials():
            if record.kind == "trial":
                stopping.fill(record, self._curve(record))
        return stopping

    def _curve(self, record: TrialRecord) -> list[BestSoFar]:
        """Best round so far after each round that is on record of a trial."""
        rule = self.prepared.rules[record.objective]
        return best_so_far(self.folder.rounds(record.trial_id), rule.violation)

    def _promoted(self, objective: str) -> list[Settings]:
        """Points that a screen promoted, without the defaults, which are trial 0 anyway."""
        screen, first = self.screen(objective), default_point(self.spec)
        promoted = [] if screen is None else [dict(each.point) for each in screen.promoted]
        return [point for point in promoted if point != first]

    def screen(self, objective: str) -> ScreenRecord | None:
        """Record of the screen of an objective; None before it is done, or where there is none."""
        return self.folder.load(self.folder.screen_path(objective), ScreenRecord)

    @property
    def _studies(self) -> dict[str, tuple[str, str]]:
        """Name of a study -> its objective and its arm."""
        return {
            f"{objective}/{arm}" if arm else objective: (objective, arm)
            for objective in self.spec.objectives
            for arm in self.spec.arms
        }

    def _reconcile(
        self, studies: dict[str, ObjectiveStudy], records: dict[str, TrialRecord]
    ) -> list[TrialRecord]:
        """Bring journal and records together after a kill at any instant, and return the unfinished trials."""
        unfinished = []
        for name, study in studies.items():
            # A journal that is missing, as in an object store, is made again from the records.
            study.rebuild({r.number: r.point or r.config for r in records.values() if r.study == name})
            for trial in study.trials():
                record = records.get(f"{name}/trial-{trial.number:03d}")
                # Killed between the journal and the record.
                if record is None:
                    unfinished.append(self.new_trial(name, trial.number, dict(trial.params)))
                elif not record.is_done:
                    unfinished.append(self._resumable(record))
                # Killed between the record and the journal, here and below.
                elif record.state == "PRUNED":
                    prune(study, record, self._curve(record))
                elif not trial.state.is_finished():
                    values = {key: estimate.value for key, estimate in record.select.items()}
                    failed = record.state == "FAILED"
                    violation = 0.0 if failed else self.prepared.rules[record.objective].violation(values)
                    study.tell(trial.number, None if failed else record.score, violation)
        # By number first, as the trials of several studies take turns.
        return sorted(unfinished, key=lambda r: (r.number, r.study))

    def new_trial(self, study: str, number: int, parameters: Settings) -> TrialRecord:
        """Build the record of a trial. All trials share one seed: they differ by their settings only.

        Args:
            study: name of the study that suggested the trial.
            number: of the trial in its study.
            parameters: searched parameter -> value.
        """
        objective, arm = self._studies[study]
        config = settings(self.spec, parameters, self.spec.arms[arm])
        acting = config.acting(acting_objective(self.spec, objective))
        if config.start == "best_head":
            # Another head would make another trial of the same settings.
            acting["best_head"] = best_head_digest(self.folder, objective)
        record = trial_record(objective, number, self.spec.search.seed, config.flat(), acting, arm)
        record.point = dict(parameters)
        # The first value of `compare` is the reference, with which the others are compared.
        record.reference_arm = arm == next(iter(self.spec.arms))
        return record

    def replicates(self) -> tuple[ListSource, int, int]:
        """Source of the finalists' pending runs on fresh seeds, how many there are in all, and how many are done."""
        records = {r.trial_id: r for r in self.folder.load_trials()}
        replicates = []
        for study in self._studies:
            trials = [r for r in records.values() if r.study == study]
            for final in finalists(trials, self.spec.selection.finalists):
                for index, seed in enumerate(self.replicate_seeds, start=1):
                    fresh = replicate_record(final, index, seed)
                    replicates.append(records.get(fresh.trial_id, fresh))
        pending = [self._resumable(record) for record in replicates if not record.is_done]
        return ListSource(pending), len(replicates), len(replicates) - len(pending)

    def baselines(self, rungs: Collection[Rung]) -> tuple[list[BaselineJob], int]:
        """Pending baselines of some rungs, and how many there are in all.

        Those that take the settings of the best SelMix trial are left out where no trial can win.

        Args:
            rungs: the rungs; with the rung ``finetune`` among them the search must be done.
        """
        done = {r.trial_id for r in self.folder.load_baselines() if r.is_done}
        jobs, total = [], 0
        # Decided, and stored, once the trials are there: never before.
        choices = decided(self.folder, self.spec).objectives if "finetune" in rungs else {}
        for objective in self.spec.objectives:
            screen = self.screen(objective)
            best = None if screen is None or not screen.promoted else screen.promoted[0]
            names = baselines_for(self.prepared.data.num_groups, screened=best is not None)
            names = [name for name in names if BASELINES[name].rung in rungs]
            choice, config, weights = choices.get(objective), {}, []
            if choice is None:
                names = [name for name in names if not BASELINES[name].needs_winner]
            else:
                judge = Judge(self.folder, self.spec, objective)
                winner = judge.trials[choice.winner]
                config = winner.config
                weights = replicate_weights(self.folder, judge.finals()[winner.trial_id])
            total += len(names)
            # The longest first, so that no long one runs by itself at the end.
            for name in reversed(names):
                trial_id = baseline_id(objective, name)
                if trial_id not in done:
                    own = best.config if best is not None and BASELINES[name].of_screen else config
                    jobs.append(BaselineJob(
                        name, objective, own, [self.folder.address_of(path) for path in weights],
                        self.replicate_seeds, self.folder.address_of(self.folder.trial_folder(trial_id)),
                    ))  # fmt: skip
        return jobs, total

    def baseline_record(self, job: BaselineJob, end: BaselineReport | RunOutcome) -> TrialRecord:
        """Build the record of a baseline that ended.

        Args:
            job: the baseline.
            end: report of the baseline, or its failure.
        """
        record = TrialRecord(
            trial_id=baseline_id(job.objective, job.name), objective=job.objective, kind="baseline", number=0,
            seed=self.spec.search.seed, state="FAILED",
        )  # fmt: skip
        if isinstance(end, RunOutcome):
            record.error = end.reason
            return record
        record.state, record.round, record.steps = "FINISHED", 0, 0
        record.select = {key: Figure(**asdict(estimate)) for key, estimate in end.select.items()}
        for key in (
            "score", "weights_digest", "labels", "cost_s", "reference", "note", "rung", "correction", "seeds",
            "feasible", "started_ms",
        ):  # fmt: skip
            setattr(record, key, getattr(end, key))
        if end.cross_fitted is not None:
            record.cross_fitted = CrossFittedScore(**asdict(end.cross_fitted))
        if BASELINES[job.name].of_screen and (screen := self.screen(job.objective)) is not None:
            # Its settings are the screen's choice, and so is the score that chooses within the rung.
            record.config, record.cross_fitted = job.config, screen.choice
            record.cost_s += screen.cost_s
        return record

    def _resumable(self, record: TrialRecord) -> TrialRecord:
        # Without its checkpoint a run begins again, and gives the same bits.
        if record.checkpoint is not None and not self.folder.has_checkpoint(record.checkpoint):
            record.checkpoint = None
        return record
