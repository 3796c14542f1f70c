"""Ranks of a trial on several workers: actors in the trial's own placement group, one bundle each.

The actor that Tune knows takes no part in the training: it steps all ranks at once and waits for whichever is done
first, so that a rank that dies is noticed while the others still wait for it in a collective.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import ray
from ray.util import get_current_placement_group, get_node_ip_address
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from selmix.parallel.process_group import TIMEOUT_S, join_world, listening_store, store_at
from trainables.failures import RankFailed, RankLost
from trainables.host import RunHost
from trainables.shared import Shared, device_of

# Time in which Ray learns of a rank that died, after the others lost their connection to it.
_GRACE_S = 3.0


@dataclass(frozen=True)
class RankPlan:
    """Plan of the ranks of a trial.

    Attributes:
        shared: a :class:`trainables.shared.Shared` in the object store.
        workers: ranks of a trial.
        cpu: of a rank.
        gpu: of a rank.
        timeout_s: time that a rank waits for one that hangs.
    """

    shared: ray.ObjectRef[Shared]
    workers: int
    cpu: float
    gpu: float
    timeout_s: float = TIMEOUT_S


class Rank:
    """One rank, in a process of its own."""

    def __init__(self, rank: int, plan: RankPlan) -> None:
        self._rank, self._plan = rank, plan

    def whereabouts(self) -> str:
        """Process and node, for the message of a failure."""
        return f"process {os.getpid()} on {_node_address()}"

    def listen(self) -> tuple[str, int]:
        """Open the store of rank 0; its address and port for the other ranks."""
        address = _node_address()
        self._store = listening_store(address, self._plan.workers, self._plan.timeout_s)
        return address, self._store.port

    def join(self, address: str, port: int) -> None:
        """Join the other ranks, and read the data."""
        plan, first = self._plan, self._rank == 0
        store = self._store if first else store_at(address, port, plan.workers, plan.timeout_s)
        world = join_world(
            store, self._rank, plan.workers, device_of(plan.gpu).type == "cuda", address, plan.timeout_s
        )
        self._host = RunHost(ray.get(plan.shared), world, plan.gpu)

    def start(self, config: dict[str, Any]) -> None:
        self._host.start(config)

    def step(self) -> dict[str, Any] | None:
        """Run a round with the other ranks; rank 0 reports it."""
        report = self._host.step()
        # One report is enough to send: all ranks compute the same.
        return report if self._rank == 0 else None

    def save(self, checkpoint: str) -> None:
        self._host.save(checkpoint)

    def load(self, checkpoint: str) -> None:
        self._host.load(checkpoint)


class RankGroup:
    """All ranks of a trial as one; used like a :class:`trainables.host.RunHost`.

    Made inside the actor of a trial, whose placement group has one bundle per rank. Any failure of a rank ends all.
    """

    def __init__(self, plan: RankPlan) -> None:
        group = get_current_placement_group()
        if group is None:
            raise RuntimeError("the ranks of a trial need its placement group; start it by Tune")
        actor: Any = ray.remote(Rank)
        # No restarts: a rank cannot rejoin a process group, the trial resumes as a whole.
        self._actors: list[Any] = [
            actor.options(
                num_cpus=plan.cpu, num_gpus=plan.gpu, max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            ).remote(rank, plan)
            for rank in range(plan.workers)
        ]  # fmt: skip
        self._ended = False
        # Empty at first, as the first call may fail already.
        self._places = ["" for _ in self._actors]
        self._places = self._all("whereabouts")
        address, port = self._first("listen")
        self._all("join", address, port)

    def start(self, config: dict[str, Any]) -> None:
        self._all("start", config)

    def step(self) -> dict[str, Any]:
        report: dict[str, Any] = self._all("step")[0]
        return report

    def save(self, checkpoint: str) -> None:
        # Rank 0 lies in the first bundle, as the trial's own actor does: on the same node.
        self._first("save", checkpoint)

    def load(self, checkpoint: str) -> None:
        self._all("load", checkpoint)

    def close(self) -> None:
        """End every rank at once, whatever it is doing."""
        self._ended = True
        for actor in self._actors:
            ray.kill(actor)

    def _first(self, method: str, *arguments: Any) -> Any:
        return self._results({getattr(self._actors[0], method).remote(*arguments): 0})[0]

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return self._results(
            {getattr(actor, method).remote(*arguments): rank for rank, actor in enumerate(self._actors)}
        )

    def _results(self, waiting: dict[Any, int]) -> list[Any]:
        """Results of the ranks, in the order of the ranks.

        Args:
            waiting: reference -> rank.
        Raises:
            RankFailed: as soon as one of them fails; the others are ended.
        """
        # Ray ends them a moment later: until then they would answer.
        if self._ended:
            raise RankLost(f"worker 0 of {len(self._actors)} was ended, with the others")
        results: dict[int, Any] = {}
        while waiting:
            (reference, *_), _ = ray.wait(list(waiting))
            rank = waiting.pop(reference)
            try:
                results[rank] = ray.get(reference)
            except ray.exceptions.RayError as error:
                failed = self._cause(rank, error, waiting)
                self.close()
                # Without its cause: Tune would take the error of a dead rank for the death of its own actor.
                raise failed from None
        return [results[rank] for rank in sorted(results)]

    def _cause(self, rank: int, error: Exception, waiting: dict[Any, int]) -> RankFailed:
        """Failure of the rank at fault: where one died, the others only lost their connection to it.

        Args:
            rank: the first to fail.
            error: of that rank.
            waiting: reference -> rank, of those that have not returned.
        """
        ready, _ = (
            ray.wait(list(waiting), num_returns=len(waiting), timeout=_GRACE_S) if waiting else ([], [])
        )
        failures = {rank: error}
        for reference in ready:
            try:
                ray.get(reference)
            except ray.exceptions.RayError as other:
                failures[waiting[reference]] = other
        died = [r for r, e in failures.items() if isinstance(e, ray.exceptions.ActorDiedError)]
        # Of a rank whose death is not yet known to the head Ray says that it is unavailable.
        silent = [r for r, e in failures.items() if isinstance(e, ray.exceptions.ActorUnavailableError)]
        rank = (died or silent or [rank])[0]
        where = f"worker {rank} of {len(self._actors)}" + (
            f" ({self._places[rank]})" if self._places[rank] else ""
        )
        if died:
            return RankLost(f"{where} died: its process crashed or was ended from outside")
        if silent:
            return RankLost(f"{where} does not answer: its process or node may be gone")
        cause = getattr(failures[rank], "cause", None) or failures[rank]
        lines = str(cause).strip().splitlines() or [""]
        return RankFailed(f"{where}: {type(cause).__name__}: {lines[0]}")


def _node_address() -> str:
    return str(get_node_ip_address())  # type: ignore[no-untyped-call]
