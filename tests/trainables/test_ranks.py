"""Ranks of a trial on a private Ray: stepped as one, and a failure that names the rank at fault."""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import ray
from ray.util import placement_group

from orchestrator.cluster.nodes import alive_nodes, cluster_capacity, query_nodes
from selmix.parallel.process_group import leave_world
from tests.trainables.world import assignment, shared
from trainables import ranks
from trainables.failures import RankFailed, RankLost
from trainables.finetune import FinetuneTrainable
from trainables.host import RunHost
from trainables.node import Probe, versions
from trainables.ranks import Rank, RankGroup, RankPlan

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A private Ray of two CPUs; signals and environment are as before afterwards."""
    handler = signal.getsignal(signal.SIGTERM)
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "include_dashboard": False,
    }
    with mock.patch.dict(os.environ, variables):
        ray.init(
            address="local", num_cpus=2, num_gpus=0, object_store_memory=80_000_000,
            _node_ip_address="127.0.0.1", **quiet,
        )  # fmt: skip
        try:
            yield
        finally:
            ray.shutdown()
            signal.signal(signal.SIGTERM, handler)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Ray does not wait for the processes that it has ended
                gc.collect()


def stand_in() -> type:
    """A rank that does as its configuration says, and needs no torch: it is sent by value."""

    class Rank:
        def __init__(self, rank: int, plan: Any) -> None:
            self.rank, self.calls = rank, []  # type: ignore[var-annotated]

        def whereabouts(self) -> str:
            return f"process {os.getpid()} on here"

        def listen(self) -> tuple[str, int]:
            return "here", 7

        def join(self, *meeting: Any) -> None:
            self.calls.append(("join", *meeting))

        def start(self, config: dict[str, Any]) -> None:
            self.calls.append(("start", config["seed"]))
            self.config = config

        def step(self) -> Any:
            if self.config.get("dies") == self.rank:
                os.kill(os.getpid(), 9)
            if self.config.get("raises") == self.rank:
                raise self.config["error"]
            return self.calls if self.rank == 0 else None

        def save(self, checkpoint: str) -> None:
            self.calls.append(("save", checkpoint))

        def load(self, checkpoint: str) -> None:
            self.calls.append(("load", checkpoint))

    return Rank


@pytest.fixture
def plan(cluster: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[RankPlan]:
    """Two ranks of a third of a CPU, in a placement group as Tune makes one for a trial."""
    group = placement_group([{"CPU": 0.3}, {"CPU": 0.3}])
    ray.get(group.ready())
    monkeypatch.setattr(ranks, "Rank", stand_in())
    monkeypatch.setattr(ranks, "get_current_placement_group", lambda: group)
    yield RankPlan(ray.put(None), 2, 0.3, 0)
    ray.util.remove_placement_group(group)


def test_all_ranks_are_stepped_as_one_and_end_with_the_error_of_one(plan: RankPlan) -> None:
    trainable = object.__new__(FinetuneTrainable)
    trainable.setup({"seed": 5}, ranks=plan)
    trainable.save_checkpoint("/a")
    trainable.load_checkpoint("/b")
    trainable.reset_config({"seed": 6, "raises": 1, "error": ValueError("too hot\nby far")})
    with pytest.raises(
        RankFailed, match=r"^worker 1 of 2 \(process \d+ on here\): ValueError: too hot$"
    ) as error:
        trainable.step()
    assert not isinstance(error.value, RankLost)
    with pytest.raises(RankLost, match=r"^worker [01] of 2"):
        trainable.step()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ray.exceptions.ActorDiedError(), RankLost),
        (ray.exceptions.ActorUnavailableError("it does not answer", None), RankLost),
        (ray.exceptions.RayTaskError("step", "ValueError: no", ValueError("no")), RankFailed),
    ],
)
def test_a_rank_that_is_gone_or_does_not_answer_is_lost(error: Exception, kind: type[Exception]) -> None:
    group = object.__new__(RankGroup)
    group._actors, group._places = [None, None], ["process 1 on here", ""]
    assert type(group._cause(0, error, {})) is kind


def test_the_first_rank_reports_and_one_that_dies_is_lost_by_name(plan: RankPlan) -> None:
    group = RankGroup(plan)
    group.start({"seed": 5})
    group.save("/a")
    group.load("/b")
    assert group.step() == [("join", "here", 7), ("start", 5), ("save", "/a"), ("load", "/b")]
    # The other one only loses its connection, and fails first or last.
    group.start({"seed": 0, "dies": 1, "raises": 0, "error": ConnectionError("closed by peer")})
    with pytest.raises(RankLost) as error:
        group.step()
    words = r"worker 1 of 2 \(process \d+ on here\) died: its process crashed or was ended from outside"
    assert re.fullmatch(words, str(error.value))
    assert error.value.__cause__ is None  # Tune would take it for the death of its own actor
    group.close()  # a second time it ends nothing more


def test_ranks_are_made_where_a_trial_is() -> None:
    with pytest.raises(RuntimeError, match="need its placement group; start it by Tune"):
        RankGroup(RankPlan(None, 2, 1, 0))  # type: ignore[arg-type]


def test_a_rank_by_itself_trains_as_a_host_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A world of one, in this process."""
    monkeypatch.setattr(ranks, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(ranks.ray, "get", lambda plain: plain)
    world = shared()
    first = Rank(0, RankPlan(world, 1, 1, 0))  # type: ignore[arg-type]
    assert first.whereabouts() == f"process {os.getpid()} on 127.0.0.1"
    try:
        first.join(*first.listen())
        host = RunHost(world)
        for each in (first, host):
            each.start(assignment())
        pairs = [(first.step(), host.step()) for _ in range(2)]
        first.save(str(tmp_path))
        host.load(str(tmp_path))
        pairs.append((first.step(), host.step()))
    finally:
        leave_world()
    assert [one and one["row"]["select"] for one, _ in pairs] == [
        other["row"]["select"] for _, other in pairs
    ]


def test_a_node_of_a_cluster_answers_for_itself(cluster: None, tmp_path: Path) -> None:
    (node,) = alive_nodes()
    assert (node.is_head, node.machine.cpus, node.machine.gpus) == (True, 2, 0)
    (tmp_path / ".probe").write_text("word")
    missing = str(tmp_path / "gone")
    (answer,) = query_nodes([node], Probe(str(tmp_path), None, ".probe", "word", (missing,)))
    assert (answer.node, answer.problem) == (node, None)
    assert answer.report is not None
    assert (answer.report.versions, answer.report.runs, answer.report.missing) == (
        versions(),
        None,
        [missing],
    )
    assert answer.sent_s <= answer.report.time_s <= answer.received_s
    assert cluster_capacity().machines == (node.machine,)
    assert [path.name for path in tmp_path.iterdir()] == [".probe"]
