"""Execution without Ray: all runs in this process, for a breakpoint or a test; or cheap work in processes beside it."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from orchestrator.build.base_model import torch_threads
from orchestrator.cluster.local_pool import LocalPool, ProcessLost
from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.run.drain import Drained
from orchestrator.run.execution import Assignment, Dispatcher, WorkerResources
from orchestrator.run.outcome import RunOutcome
from trainables.baseline import BaselineJob, BaselineReport, make_baseline
from trainables.host import RunHost
from trainables.shared import Shared, Work

LOOK_S = 0.2
"""Seconds between two looks whether the sweep drains, while processes of a pool work."""

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

    def tasks(self, work: Work[J, T], jobs: Sequence[J], what: str) -> list[T]:
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
                    report = make_baseline(self.shared, job, self.shared.gpu)
                except Exception as error:  # the baseline's own: its row says so
                    yield job, RunOutcome.of_error(error, "".join(traceback.format_exception(error)))
                    continue
                yield job, report


class PoolExecutor(InProcessExecutor):
    """Executor that does everything but runs side by side, in the processes of a pool.

    A piece of work whose process dies, or that runs out of memory, is done once more in a new process with nothing
    beside it. One that is lost there too has failed, and takes nothing with it.

    Args:
        folder: records of the sweep.
        shared: data, models and rules that all share; the driver adds the start models.
        draining: returns True once the sweep is to stop.
        pool: of processes; the caller closes it.
        report: called with a line where a process was lost.
    """

    def __init__(
        self, folder: RunFolder, shared: Shared, draining: Callable[[], bool], pool: LocalPool,
        report: Callable[[str], None],
    ) -> None:  # fmt: skip
        super().__init__(folder, shared, draining)
        self._pool, self._report = pool, report

    def tasks(self, work: Work[J, T], jobs: Sequence[J], what: str) -> list[T]:
        """Do pieces of work side by side; an error is the launch's own."""
        done: dict[int, T] = {}
        for place, end in self._side_by_side(work, jobs):
            if isinstance(end, ProcessLost):
                raise PreflightError(
                    f"{what}: a process of this machine must be able to do it, with nothing beside it, got: {end}; "
                    "free memory, then launch again"
                )
            if isinstance(end, BaseException):
                raise end
            done[place] = end
        if len(done) < len(jobs):
            raise Drained
        return [done[place] for place in range(len(jobs))]

    def fit(self, jobs: Sequence[BaselineJob]) -> Iterator[tuple[BaselineJob, BaselineReport | RunOutcome]]:
        """Fit baselines side by side, and yield each with its report or with its failure."""
        for place, end in self._side_by_side(make_baseline, jobs):
            if isinstance(end, ProcessLost):
                yield jobs[place], RunOutcome.of_error(None)
            elif isinstance(end, Exception):  # the baseline's own: its row says so
                yield jobs[place], RunOutcome.of_error(end, "".join(traceback.format_exception(end)))
            else:
                yield jobs[place], end

    def _side_by_side(self, work: Work[J, T], jobs: Sequence[J]) -> Iterator[tuple[int, T | Exception]]:
        """Places of the pieces of work as they end, each with what it returned or raised; fewer in a drain."""
        if not self._pool.is_whole:
            self._pool.renew(self._pool.size)
        waiting, running, again = deque(range(len(jobs))), dict[int, int](), list[int]()
        while (waiting or running) and not self._draining():
            # Not more than there are processes: one that waits for a long piece could not go elsewhere.
            while waiting and self._pool.has_idle:
                piece = self._pool.start(work, self.shared, jobs[waiting[0]])
                if piece is not None:
                    running[piece] = waiting.popleft()
            if not running:
                # No process is left.
                again += waiting
                break
            # With a timeout, so that a drain is seen while they work.
            for piece, end in self._pool.ended(LOOK_S):
                place = running.pop(piece)
                if isinstance(end, ProcessLost):
                    self._report(
                        f"a process of this machine was lost: {end}; its work is done once more, alone"
                    )
                    again.append(place)
                elif isinstance(end, Exception) and RunOutcome.of_error(end).kind == "out_of_memory":
                    again.append(place)
                else:
                    yield place, end
        if not self._draining():
            yield from self._alone(work, jobs, again)

    def _alone(
        self, work: Work[J, T], jobs: Sequence[J], places: Sequence[int]
    ) -> Iterator[tuple[int, T | Exception]]:
        """Do pieces of work one after the other, each in a new process and with no other one beside it."""
        for place in places:
            self._pool.renew(1)
            if self._pool.start(work, self.shared, jobs[place]) is None:
                yield place, ProcessLost("it ended before it had any work")
                continue
            ended: list[tuple[int, T | Exception]] = []
            while not ended:
                if self._draining():
                    return
                ended = self._pool.ended(LOOK_S)
            yield place, ended[0][1]
