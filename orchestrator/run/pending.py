"""What is left to run of a sweep: trials, replicates, baselines; told from records and journal alone."""

from __future__ import annotations

import os
from typing import Any

from orchestrator.build.base_model import Prepared
from orchestrator.build.selection import is_constrained
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import BASELINE, TrialRecord
from orchestrator.results.judge import Judge, finalists, replicate_weights
from orchestrator.run.tune import ListSource, StudySource, replicate_record, trial_record
from orchestrator.search.space import default_point, distributions, grid, settings, trials_per_objective
from orchestrator.search.study import ObjectiveStudy
from orchestrator.spec.schema import SweepSpec
from selmix.baselines import baselines_for
from selmix.data.splits import SweepData
from selmix.data.stored import bytes_of, save_data
from trainables.baseline import BaselineJob
from trainables.shared import Shared
from trainables.staged import StagedData

DONE = ("FINISHED", "FAILED", "PRUNED")


class Agenda:
    """Runs of a sweep that are still to be made.

    Args:
        spec: of the sweep. folder: its records. prepared: what all runs share.
    """

    def __init__(self, spec: SweepSpec, folder: RunFolder, prepared: Prepared) -> None:
        self.spec, self.folder, self.prepared = spec, folder, prepared
        self.shared = Shared(
            staged(spec, folder, prepared.data),
            prepared.bases,
            prepared.rules,
            threads=spec.resources.cpu,
            gpu=spec.resources.gpu,
            filesystem=None if folder.store is None else folder.store.for_workers(),
        )

    @property
    def replicate_seeds(self) -> list[int]:
        """Fresh seeds, the same for every finalist and baseline: differences are paired by seed."""
        first = self.spec.search.seed + 1
        return list(range(first, first + self.spec.selection.replicates))

    @property
    def num_trials(self) -> int:
        """Trials of all objectives and arms."""
        return trials_per_objective(self.spec) * len(self.spec.objectives) * len(self.spec.arms)

    def search(self) -> tuple[StudySource, int, int]:
        """Where trials come from, how many there are in all, and how many are done."""
        for lock in self.folder.path.glob("journal.log*lock*"):
            lock.unlink()  # a killed driver's; the lease says that nobody else writes the journal
        spec = self.spec
        studies = {
            study: ObjectiveStudy(
                self.folder.journal_path, study, spec.search.method, spec.search.seed, distributions(spec),
                default_point(spec), grid(spec),
            )
            for study in self._studies
        }  # fmt: skip
        records = {r.trial_id: r for r in self.folder.load_trials() if r.kind == "trial"}
        left = self._reconciled(studies, records)
        per_objective = trials_per_objective(spec)
        total = self.num_trials
        source = StudySource(
            studies, per_objective, left, self.new_trial, int(spec.search.max_failed * total)
        )
        done = sum(record.state in DONE for record in records.values())
        return source, total, done

    @property
    def _studies(self) -> dict[str, tuple[str, str]]:
        """Name of a study -> its objective and its arm."""
        return {
            f"{objective}/{arm}" if arm else objective: (objective, arm)
            for objective in self.spec.objectives
            for arm in self.spec.arms
        }

    def _reconciled(
        self, studies: dict[str, ObjectiveStudy], records: dict[str, TrialRecord]
    ) -> list[TrialRecord]:
        """Bring journal and records together after a kill at any instant; what is unfinished."""
        left = []
        for name, study in studies.items():
            study.rebuild({r.number: r.point or r.config for r in records.values() if r.study == name})
            for trial in study.trials():
                record = records.get(f"{name}/trial-{trial.number:03d}")
                if record is None:  # killed between asking and writing the record
                    left.append(self.new_trial(name, trial.number, dict(trial.params)))
                elif record.state not in DONE:
                    left.append(self._resumable(record))
                elif not trial.state.is_finished():
                    values = {key: figures["value"] for key, figures in record.select.items()}
                    failed = record.state == "FAILED"
                    violation = 0.0 if failed else self.prepared.rules[record.objective].violation(values)
                    study.tell(trial.number, None if failed else record.score, violation)
        return sorted(left, key=lambda r: (r.number, r.study))

    def new_trial(self, study: str, number: int, parameters: dict[str, Any]) -> TrialRecord:
        """The record of a point of the space. All trials share one seed: they differ by their settings alone."""
        objective, arm = self._studies[study]
        config = settings(self.spec, parameters, self.spec.arms[arm])
        acting = config.acting(objective, is_constrained(self.spec, objective))
        record = trial_record(objective, number, self.spec.search.seed, config.flat(), acting, arm)
        record.point = dict(parameters)
        record.reference_arm = arm == next(iter(self.spec.arms))
        return record

    def replicates(self) -> tuple[ListSource, int, int]:
        """The finalists' runs on fresh seeds that are left, how many there are in all, how many are done."""
        records = {r.trial_id: r for r in self.folder.load_trials()}
        wanted = []
        for study in self._studies:
            trials = [r for r in records.values() if r.study == study]
            for final in finalists(trials, self.spec.selection.finalists):
                for index, seed in enumerate(self.replicate_seeds, start=1):
                    fresh = replicate_record(final, index, seed)
                    wanted.append(records.get(fresh.trial_id, fresh))
        left = [self._resumable(record) for record in wanted if record.state not in DONE]
        return ListSource(left), len(wanted), len(wanted) - len(left)

    def baselines(self) -> tuple[list[BaselineJob], int]:
        """The baselines that are left to fit, and how many there are in all."""
        done = {r.trial_id for r in self.folder.load_baselines() if r.state in DONE}
        jobs, total = [], 0
        for objective in self.spec.objectives:
            judge = Judge(self.folder, self.spec, objective)
            chosen = judge.choice()
            if chosen is None:
                continue
            winner = judge.trials[chosen[2]]
            weights = replicate_weights(self.folder, judge.finals()[winner.trial_id])
            names = baselines_for(self.prepared.data.num_groups)
            total += len(names)
            for name in reversed(names):  # the longest first, so that none is left alone at the end
                trial_id = f"{objective}/{BASELINE}/{name}"
                if trial_id not in done:
                    jobs.append(BaselineJob(
                        name, objective, winner.config, [self.folder.address_of(path) for path in weights],
                        self.replicate_seeds, self.folder.address_of(self.folder.trial_folder(trial_id)),
                    ))  # fmt: skip
        return jobs, total

    def baseline_record(
        self, job: BaselineJob, figures: dict[str, Any] | None, error: str | None, now_ms: int
    ) -> tuple[TrialRecord, int]:
        """The record of a baseline that ended, and when it began."""
        record = TrialRecord(
            trial_id=f"{job.objective}/{BASELINE}/{job.name}", objective=job.objective, kind="baseline", number=0,
            seed=self.spec.search.seed, state="FAILED", error=error,
        )  # fmt: skip
        if figures is None:
            return record, now_ms
        started_ms = figures.pop("started_ms")
        for key, value in figures.items():
            setattr(record, key, value)
        record.state, record.error, record.round, record.steps = "FINISHED", None, 0, 0
        return record, started_ms

    def _resumable(self, record: TrialRecord) -> TrialRecord:
        if record.checkpoint is not None and not self.folder.has_checkpoint(record.checkpoint):
            record.checkpoint = None  # begins again, bit-equal
        return record


def staged(spec: SweepSpec, folder: RunFolder, data: SweepData) -> SweepData | StagedData:
    """The data as they travel: by Ray's object store; above ``resources.stage_above_mb`` as a file of the run folder.

    On a cluster each node copies the file to its own disk; a private one maps it where it lies.
    """
    if bytes_of(data) <= spec.resources.stage_above_mb * 1e6:
        return data
    digest = save_data(folder.staged_data, data)
    folder.publish(folder.staged_data)
    copied = folder.store is not None or bool(os.environ.get("RAY_ADDRESS", "").strip())
    return StagedData(folder.address_of(folder.staged_data), digest, copied)
