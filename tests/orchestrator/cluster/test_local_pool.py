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
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from orchestrator.cluster.local_pool import MOST, LocalPool, ProcessLost, local_pool, local_processes
from orchestrator.errors import PreflightError
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


def first_time(shared: Shared, job: int) -> bool:
    """True once a job: the folder that all share remembers it."""
    with contextlib.suppress(FileExistsError):
        Path(shared.features, str(job)).touch(exist_ok=False)
        return True
    return False


def die_once(shared: Shared, job: int, _gpu: float) -> int:
    if job == 1 and first_time(shared, job):
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def die(_shared: Shared, job: int, _gpu: float) -> int:
    if job == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    return job


def starve_once(shared: Shared, job: int, _gpu: float) -> tuple[int, int]:
    if job == 1 and first_time(shared, job):
        raise MemoryError("out of memory")
    return job, len(processes_of(os.getppid()))


def wait_long(shared: Shared, job: int, _gpu: float) -> None:
    if shared.features:
        first_time(shared, job)
    time.sleep(600)


def executor(
    pool: LocalPool,
    tmp_path: Path,
    draining: Callable[[], bool] = lambda: False,
    said: list[str] | None = None,
) -> PoolExecutor:
    shared = Shared(**{**vars(SHARED), "features": str(tmp_path)})
    return PoolExecutor(
        RunFolder.local(tmp_path, "x"), shared, draining, pool, (said if said is not None else []).append
    )


def processes_of(pid: int) -> list[int]:
    """Processes of a pool: those whose parent is this one, and has its command line; a zombie has none."""
    parents, commands = {}, {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            commands[int(folder.name)] = (folder / "cmdline").read_text()
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    ours = {child for child, command in commands.items() if "local_worker" in command and child in parents}
    first = {child for child in ours if parents[child] == pid}
    return [child for child in ours if child in first or parents[child] in first]


def ends_soon(pids: Iterable[int]) -> bool:
    until = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(is_alive(pid) for pid in pids)


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
        processes = processes_of(os.getpid())
        assert len(processes) == 3  # the first one, which imports, and those that work
    assert ends_soon(processes)
    assert [value for value, _, _ in found] == [0, 1, 4, 9, 16, 25]
    assert {rest for *_, rest in found} == {1.0}  # no GPU, and what all share
    pids = {pid for _, pid, _ in found}
    assert len(pids) == 2
    assert pids < set(processes)


def test_an_error_of_a_piece_is_the_launchs_own(tmp_path: Path) -> None:
    with local_pool(2) as pool:
        assert pool is not None
        with pytest.raises(ValueError, match="piece 1 is wrong"):
            executor(pool, tmp_path).tasks(grief, [0, 1, 2], "pieces")


def test_the_work_of_a_process_that_dies_is_done_once_more(tmp_path: Path) -> None:
    said: list[str] = []
    with local_pool(2) as pool:
        assert pool is not None
        works = executor(pool, tmp_path, said=said)
        assert works.tasks(die_once, list(range(5)), "x") == [0, 1, 2, 3, 4]
        # The next work has all processes again.
        assert len({pid for _, pid, _ in works.tasks(square, list(range(6)), "x")}) == 2
    assert len(said) == 1
    assert "a process of this machine was lost: it crashed, was killed, or ran out of memory" in said[0]


@pytest.mark.slow
def test_work_that_kills_its_process_fails_and_the_driver_lives(tmp_path: Path) -> None:
    with local_pool(2) as pool:
        assert pool is not None
        works = executor(pool, tmp_path)
        with pytest.raises(PreflightError, match="the work: a process of this machine must be able to do it"):
            works.tasks(die, [0, 1, 2], "the work")
        ends = dict(works._side_by_side(die, [0, 1, 2]))
    assert (ends[0], ends[2]) == (0, 2)
    assert isinstance(ends[1], ProcessLost)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("gone_before", [True, False])
def test_processes_that_do_not_start_are_an_error(
    tmp_path: Path, gone_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they are gone before they are sent any work or after."""
    program, begin = tmp_path / "python", LocalPool._begin
    program.write_text(f"#!/bin/sh\nsleep {0 if gone_before else 0.5}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))

    def begin_and_wait(pool: LocalPool, size: int) -> None:
        begin(pool, size)
        if gone_before:
            pool._first.wait()

    monkeypatch.setattr(LocalPool, "_begin", begin_and_wait)
    with local_pool(2) as pool:
        assert pool is not None
        with pytest.raises(PreflightError, match="the work: a process of this machine must be able to do it"):
            executor(pool, tmp_path).tasks(square, [1, 2, 3], "the work")


@pytest.mark.slow
def test_processes_that_die_without_work_leave_it_to_others(tmp_path: Path) -> None:
    said: list[str] = []
    with local_pool(2) as pool:
        assert pool is not None
        works = executor(pool, tmp_path, said=said)
        for pid in {pid for _, pid, _ in works.tasks(square, [1, 2, 3, 4], "x")}:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
        assert [value for value, *_ in works.tasks(square, [1, 2, 3], "x")] == [1, 4, 9]
    assert said == []


def test_a_piece_that_runs_out_of_memory_is_done_once_more_alone(tmp_path: Path) -> None:
    with local_pool(2) as pool:
        assert pool is not None
        found = executor(pool, tmp_path).tasks(starve_once, list(range(3)), "x")
    assert [value for value, _ in found] == [0, 1, 2]
    assert [processes for _, processes in found] == [2, 1, 2]


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
        with pytest.raises(RuntimeError, match=r"^this and that$") as caught:
            executor(pool, tmp_path, said=said).tasks(raise_odd, [0], "x")
    assert said == []
    assert type(caught.value).__name__ == "Odd"  # as its row says
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


def run_a_program(_shared: Shared, _job: int, _gpu: float) -> int:
    program = subprocess.Popen(["sleep", "600"])
    program.terminate()
    return program.wait(10)


def test_what_the_work_starts_takes_signals_and_what_lies_in_the_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [Path("of a notebook"), *sys.path])
    with local_pool(2) as pool:
        assert pool is not None
        assert executor(pool, tmp_path).tasks(run_a_program, [0], "x") == [-signal.SIGTERM]


def test_processes_of_the_users_own_are_left_alone(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as own:
        assert own.submit(abs, -1).result() == 1
        with local_pool(2) as pool:
            assert pool is not None
            executor(pool, tmp_path).tasks(square, [1, 2], "x")
        assert own.submit(abs, -2).result() == 2


def test_a_drain_ends_pieces_at_once(tmp_path: Path) -> None:
    def both_have_begun() -> bool:
        return len(list(tmp_path.iterdir())) == 2

    with local_pool(2) as pool:
        assert pool is not None
        with pytest.raises(Drained):
            executor(pool, tmp_path, both_have_begun).tasks(wait_long, [0, 1, 2], "x")
        left = processes_of(os.getpid())
    assert len(left) == 3
    assert ends_soon(left)


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
        assert len(left) == 3
        # Ctrl-C in a terminal goes to all processes; the driver decides when they end.
        for each in left:
            os.kill(each, signal.SIGINT)
        time.sleep(0.5)
        assert all(is_alive(each) for each in left)
    finally:
        started.kill()
        started.wait()
        started.stdout.close()
    assert ends_soon(left)
