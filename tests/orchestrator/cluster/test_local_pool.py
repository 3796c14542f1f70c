"""Processes of this machine: they work side by side, and leave nothing behind however they, or their parent, end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from orchestrator.cluster.local_pool import MOST, LocalPool, local_pool, local_processes
from orchestrator.records.folder import RunFolder
from orchestrator.run.drain import Drained
from orchestrator.run.without_ray import PoolExecutor
from orchestrator.spec.sections import ResourceSection
from tests.command import ROOT, environment
from trainables.shared import Shared

SHARED = Shared(data=None, bases={}, rules={}, threads=1, gpu=0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("resources", "cpus", "size"),
    [
        ({}, 4.0, 4),
        ({"cpu": 2}, 5.0, 2),
        ({"cpu": 2}, 1.0, 1),
        ({"max_cpus": 3}, 8.0, 3),
        ({}, 96.0, MOST),
        ({"gpu": 1}, 8.0, 1),
    ],
)
def test_as_many_processes_as_there_is_room_for(resources: dict[str, float], cpus: float, size: int) -> None:
    assert local_processes(ResourceSection.model_validate(resources), cpus) == size


def test_one_process_needs_no_pool() -> None:
    with local_pool(1) as pool:
        assert pool is None


# -- pieces of work, imported by name in the processes ---------------------------------------------------------


def square(shared: Shared, job: int, gpu: float) -> tuple[int, int, float]:
    time.sleep(0.2)  # long enough for the other process to take a piece
    return job * job, os.getpid(), gpu + shared.threads


def grief(_shared: Shared, job: int, _gpu: float) -> int:
    if job == 1:
        raise ValueError("piece 1 is wrong")
    return job


def die_elsewhere(shared: Shared, job: int, _gpu: float) -> int:
    if job == 1 and os.getpid() != int(shared.features):
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def starve_elsewhere(shared: Shared, job: int, _gpu: float) -> tuple[int, int]:
    if job == 1 and os.getpid() != int(shared.features):
        raise MemoryError("out of memory")
    return job, torch.get_num_threads()


def wait_long(_shared: Shared, _job: int, _gpu: float) -> None:
    time.sleep(600)


def executor(
    pool: LocalPool,
    tmp_path: Path,
    draining: Callable[[], bool] = lambda: False,
    said: list[str] | None = None,
) -> PoolExecutor:
    shared = Shared(**{**vars(SHARED), "features": str(os.getpid())})
    return PoolExecutor(
        RunFolder.local(tmp_path, "x"), shared, draining, pool, (said if said is not None else []).append
    )


def processes_of(pid: int) -> list[int]:
    """The first process of the pool of a process and those that were forked off it; a zombie has no command line."""
    parents = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            command = (folder / "cmdline").read_text()
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            if "local_worker" in command:
                parents[int(folder.name)] = int(after_name[1])
    servers = {child for child, parent in parents.items() if parent == pid}
    return [child for child, parent in parents.items() if child in servers or parent in servers]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text() != ""
    except OSError:
        return False


# ---------------------------------------------------------------------------------------------------------------


def test_pieces_are_done_side_by_side_and_returned_in_their_order(tmp_path: Path) -> None:
    with local_pool(2) as pool:
        assert pool is not None
        found = executor(pool, tmp_path).tasks(square, list(range(6)), "squares")
        assert len(processes_of(os.getpid())) >= 2
    assert [value for value, _, _ in found] == [0, 1, 4, 9, 16, 25]
    assert {rest for *_, rest in found} == {1.0}  # no GPU, and what all share
    pids = {pid for _, pid, _ in found}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert not processes_of(os.getpid())


def test_an_error_of_a_piece_is_the_launchs_own(tmp_path: Path) -> None:
    with local_pool(2) as pool:
        assert pool is not None
        with pytest.raises(ValueError, match="piece 1 is wrong"):
            executor(pool, tmp_path).tasks(grief, [0, 1, 2], "pieces")


def test_the_work_of_a_process_that_dies_is_done_again_here(tmp_path: Path) -> None:
    said: list[str] = []
    with local_pool(2) as pool:
        assert pool is not None
        assert executor(pool, tmp_path, said=said).tasks(die_elsewhere, list(range(5)), "x") == [
            0,
            1,
            2,
            3,
            4,
        ]
    assert len(said) == 1
    assert "a process of this machine was lost" in said[0]


def test_processes_that_die_without_work_leave_it_to_the_others_or_to_this_one(tmp_path: Path) -> None:
    said: list[str] = []
    with local_pool(2) as pool:
        assert pool is not None
        works = executor(pool, tmp_path, said=said)
        one, other = {pid for _, pid, _ in works.tasks(square, [1, 2, 3, 4], "x")}
        os.kill(one, signal.SIGKILL)
        time.sleep(0.5)
        assert works.tasks(square, [1, 2, 3], "x") == [(value, other, 1.0) for value in (1, 4, 9)]
        os.kill(other, signal.SIGKILL)
        time.sleep(0.5)
        assert works.tasks(square, [1, 2, 3], "x") == [(value, os.getpid(), 1.0) for value in (1, 4, 9)]
    assert said == []


def test_a_piece_that_runs_out_of_memory_is_done_once_more_alone(tmp_path: Path) -> None:
    with local_pool(2) as pool:
        assert pool is not None
        found = executor(pool, tmp_path).tasks(starve_elsewhere, list(range(3)), "x")
    assert [value for value, _ in found] == [0, 1, 2]
    assert found[1][1] == 1  # with the threads of a worker


class Odd(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def raise_odd(_shared: Shared, _job: int, _gpu: float) -> None:
    raise Odd("this", "that")


def test_an_error_that_cannot_be_read_again_is_told_in_its_words(tmp_path: Path) -> None:
    """Pickle sends its text alone, with which it cannot be made again."""
    said: list[str] = []
    with local_pool(2) as pool:
        assert pool is not None
        with pytest.raises(RuntimeError, match=r"^Odd: this and that$") as caught:
            executor(pool, tmp_path, said=said).tasks(raise_odd, [0], "x")
    assert said == []
    assert "in raise_odd" in "".join(traceback.format_exception(caught.value))


def many_tensors(_shared: Shared, job: int, _gpu: float) -> list[torch.Tensor]:
    return [torch.full((3,), float(job)) for _ in range(400)]


def test_tensors_take_no_open_files(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 60, before[1]))
    try:
        with local_pool(2) as pool:
            assert pool is not None
            found = executor(pool, tmp_path).tasks(many_tensors, [1, 2, 3], "x")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [len(each) for each in found] == [400] * 3
    assert all(bool((tensor == 2).all()) for tensor in found[1])


def test_processes_of_the_users_own_are_left_alone(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as own:
        assert own.submit(abs, -1).result() == 1
        with local_pool(2) as pool:
            assert pool is not None
            executor(pool, tmp_path).tasks(square, [1, 2], "x")
        assert own.submit(abs, -2).result() == 2


def test_a_drain_ends_pieces_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with local_pool(2) as pool:
        assert pool is not None
        with pytest.raises(Drained):
            executor(pool, tmp_path, lambda: time.monotonic() - began > 8).tasks(wait_long, [0, 1, 2], "x")
    assert time.monotonic() - began < 30
    assert not processes_of(os.getpid())


SCRIPT = """
    import os, time
    from orchestrator.cluster.local_pool import LocalPool
    from tests.orchestrator.cluster.test_local_pool import SHARED, square, wait_long

    print("the script runs", flush=True)  # without `if __name__ == "__main__"`, as users write it
    pool = LocalPool(2)
    print(pool.result(pool.start(square, SHARED, 3))[0], flush=True)
    for _ in range(2):
        pool.start(wait_long, SHARED, 0)
    time.sleep(600)
"""


def test_a_script_is_not_run_again_and_processes_end_with_their_parent(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    started = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert started.stdout is not None
    try:
        assert started.stdout.readline() == "the script runs\n"
        assert started.stdout.readline() == "9\n"
        left = processes_of(started.pid)
        assert len(left) >= 2
        # Ctrl-C in a terminal goes to all processes; the driver decides when they end.
        for each in left:
            os.kill(each, signal.SIGINT)
        time.sleep(0.5)
        assert all(is_alive(each) for each in left)
    finally:
        started.kill()
        started.wait()
        started.stdout.close()
    until = time.monotonic() + 20
    while any(is_alive(each) for each in left) and time.monotonic() < until:
        time.sleep(0.1)
    assert [each for each in left if is_alive(each)] == []
