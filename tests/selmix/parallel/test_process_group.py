"""Meeting of ranks: a store that other machines do not reach, and a group that is left whatever happens."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from selmix.parallel import World, process_group
from selmix.parallel.process_group import join_world, leave_world, listening_store, on_local_ranks, store_at

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.fixture(autouse=True)
def _no_group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No group and no choice of an interface is left behind."""
    for name in INTERFACES:
        monkeypatch.setenv(name, "x")  # what a test sets is taken back
        monkeypatch.delenv(name)
    threads = torch.get_num_threads()
    yield
    leave_world()
    torch.set_num_threads(threads)


def test_a_store_listens_on_its_address_only_and_ranks_meet_there() -> None:
    store = listening_store("127.0.0.1", 2, timeout_s=10)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", store.port), timeout=5)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(store_at, "127.0.0.1", store.port, 2, 10).result()
    other.set("met", "here")
    assert store.get("met") == b"here"
    second = listening_store("127.0.0.1", 2)
    assert second.port != store.port


@pytest.mark.parametrize("chosen", [None, "eth7"])
def test_on_loopback_ranks_keep_to_loopback_unless_an_interface_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, **given: made.append(given | {"is": backend})
    )
    if chosen is not None:
        monkeypatch.setenv(INTERFACES[1], chosen)
    store = FileStore(str(tmp_path / "store"), 1)
    assert join_world(store, 1, 3, gpu=True, address="127.0.0.1", timeout_s=7) == World(1, 3)
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    assert [os.environ.get(name) for name in INTERFACES] == [loopback, chosen or loopback]
    assert (made[0]["is"], made[0]["rank"], made[0]["world_size"]) == ("nccl", 1, 3)
    assert made[0]["timeout"].total_seconds() == 7


def here(function: Callable[..., None], arguments: tuple[Any, ...], nprocs: int) -> None:
    """As `spawn`, in this process."""
    assert nprocs == 1
    function(0, *arguments)


def noted(world: World, seen: list[Any], fails: bool) -> None:
    seen += [world, dist.get_backend(), torch.get_num_threads()]
    if fails:
        raise ArithmeticError("singular")


def test_a_local_rank_has_its_world_and_threads_and_leaves_the_group_even_if_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_group, "spawn", here)
    seen: list[Any] = []
    on_local_ranks(noted, 1, 2, seen, False)
    assert seen == [World(0, 1), "gloo", 2]
    assert not dist.is_initialized()
    with pytest.raises(ArithmeticError):
        on_local_ranks(noted, 1, 1, seen, True)
    assert not dist.is_initialized()
    leave_world()  # where there is none it does nothing
