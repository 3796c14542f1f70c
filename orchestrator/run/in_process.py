"""Execution of runs in this process, one after the other, without Ray: for a traceback, a breakpoint, a test."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from orchestrator.build.base_model import torch_threads
from orchestrator.records.folder import RunFolder
from orchestrator.run.drain import Drained
from orchestrator.run.execution import Assignment, Dispatcher, WorkerResources
from orchestrator.run.outcome import RunOutcome
from trainables.baseline import BaselineJob, BaselineReport, fit_baseline, write_baseline
from trainables.host import RunHost
from trainables.shared import Shared

J = TypeVar("J")
T = TypeVar("T")


class InProcessExecutor:
    """Executor of runs in this process; see :class:`orchestrator.run.execution.Executor`.

    Args:
        folder: records of the sweep.
        shared: data, models and rules that all runs share; the driver adds the start models.
        draining: returns True once the sweep is to stop.
    """

    def __init__(self, folder: RunFolder, shared: Shared, draining: Callable[[], bool]) -> None:
        self._folder, self.shared, self._draining = folder, shared, draining

    def tasks(self, work: Callable[[Shared, J, float], T], jobs: Sequence[J], what: str) -> list[T]:
        """Do pieces of work one after the other; an error is the launch's own, and a signal ends them at once."""
        done = []
        with torch_threads(self.shared.threads):
            for job in jobs:
                # A lost lease raises no signal.
                if self._draining():
                    raise Drained
                done.append(work(self.shared, job, self.shared.gpu))
        return done

    def exclusive(self) -> WorkerResources | None:
        """None: one run at a time has no neighbours."""
        return None

    def run(self, dispatcher: Dispatcher) -> None:
        """Run everything that a dispatcher hands out."""
        host = RunHost(self.shared)
        # A new folder for each launch, as on Ray: checkpoints of an earlier one are still needed to resume.
        checkpoints = self._folder.unused_ray_path()
        # One and two threads give different bits: as many as a worker on Ray has, until the end.
        with torch_threads(self.shared.threads):
            while (assignment := dispatcher.next()) is not None:
                folder = checkpoints / assignment["trial_id"].replace("/", "-")
                try:
                    outcome = self._run_one(host, dispatcher, assignment, self._folder.address_of(folder))
                except Exception as error:  # the run's own: as on Ray it fails, and the sweep continues
                    outcome = RunOutcome.of_error(error, "".join(traceback.format_exception(error)))
                dispatcher.end(assignment["trial_id"], outcome)

    def _run_one(
        self, host: RunHost, dispatcher: Dispatcher, assignment: Assignment, folder: str
    ) -> RunOutcome:
        """Step a run to its end, or to the end of a round once the sweep drains.

        Args:
            host: holds the run.
            dispatcher: of the run.
            assignment: the run.
            folder: address of the folder for its checkpoints.
        """
        trial_id, recorder = assignment["trial_id"], dispatcher.recorder
        host.start({**assignment})
        number = 0
        while True:
            report = host.step()
            recorder.on_round(trial_id, report)
            # A drain in the last round changes nothing: the run is finished.
            stops = self._draining() and not report["finished"]
            if report["should_checkpoint"] or stops:
                # Each in a folder of its own: the last one counts until the next is whole.
                checkpoint, number = f"{folder}/{number:06d}", number + 1
                host.save(checkpoint)
                recorder.on_checkpoint(trial_id, checkpoint)
            if report["finished"] or stops:
                return RunOutcome.of_report(report)

    def fit(self, jobs: Sequence[BaselineJob]) -> Iterator[tuple[BaselineJob, BaselineReport | RunOutcome]]:
        """Fit baselines one after the other, and yield each with its report or with its failure."""
        with torch_threads(self.shared.threads):
            for job in jobs:
                if self._draining():
                    return
                try:
                    fits = [fit_baseline(self.shared, part, self.shared.gpu) for part in job.parts()]
                    report = write_baseline(self.shared, job, *fits)
                except Exception as error:  # the baseline's own: its row says so
                    yield job, RunOutcome.of_error(error, "".join(traceback.format_exception(error)))
                    continue
                yield job, report
