"""The same runs in this process, one after the other, without Ray: for a traceback, a breakpoint, a test."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence

from orchestrator.build.base_model import torch_threads
from orchestrator.records.folder import RunFolder
from orchestrator.run.execution import Assignment, Dispatcher
from orchestrator.run.outcome import RunOutcome
from trainables.baseline import BaselineJob, BaselineReport, fit_baseline, write_baseline
from trainables.host import RunHost
from trainables.shared import Shared


class InProcessExecutor:
    """Executes runs in this process; see :class:`orchestrator.run.execution.Executor`.

    Args:
        folder: of the sweep.
        shared: what all runs share.
        draining: True once the sweep is to stop.
    """

    def __init__(self, folder: RunFolder, shared: Shared, draining: Callable[[], bool]) -> None:
        self._folder, self._shared, self._draining = folder, shared, draining

    def run(self, dispatcher: Dispatcher) -> None:
        """Run everything that a dispatcher hands out."""
        host = RunHost(self._shared)
        checkpoints = self._folder.unused_ray_path()
        with torch_threads(self._shared.threads):
            while (assignment := dispatcher.next()) is not None:
                where = checkpoints / assignment["trial_id"].replace("/", "-")
                try:
                    outcome = self._one(host, dispatcher, assignment, self._folder.address_of(where))
                except Exception as error:  # the run's own: as on Ray it fails, and the sweep continues
                    outcome = RunOutcome.of_error(error, "".join(traceback.format_exception(error)))
                dispatcher.end(assignment["trial_id"], outcome)

    def _one(self, host: RunHost, dispatcher: Dispatcher, assignment: Assignment, where: str) -> RunOutcome:
        """Step a run to its end, or to the end of a round once the sweep drains."""
        trial_id, recorder = assignment["trial_id"], dispatcher.recorder
        host.start({**assignment})
        number = 0
        while True:
            report = host.step()
            recorder.on_round(trial_id, report)
            stops = self._draining() and not report["finished"]
            if report["should_checkpoint"] or stops:
                # Each in a folder of its own: the last one counts until the next is whole.
                checkpoint, number = f"{where}/{number:06d}", number + 1
                host.save(checkpoint)
                recorder.on_checkpoint(trial_id, checkpoint)
            if report["finished"] or stops:
                return RunOutcome.of_report(report)

    def fit(self, jobs: Sequence[BaselineJob]) -> Iterator[tuple[BaselineJob, BaselineReport | RunOutcome]]:
        """Fit baselines one after the other."""
        with torch_threads(self._shared.threads):
            for job in jobs:
                if self._draining():
                    return
                try:
                    fits = [fit_baseline(self._shared, part, self._shared.gpu) for part in job.parts()]
                    report = write_baseline(self._shared, job, *fits)
                except Exception as error:  # the baseline's own: its row says so
                    yield job, RunOutcome.of_error(error, "".join(traceback.format_exception(error)))
                    continue
                yield job, report
