"""How ranks find each other: a store to meet at, the process group, and ranks as processes of this machine.

Everything has a time-out: a rank that waits for one that hangs gives up after it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, Store, TCPStore
from torch.multiprocessing.spawn import spawn

from selmix.parallel.world import World

TIMEOUT_S = 300.0
_LOOPBACK = "127.0.0.1"


def listening_store(address: str, size: int, timeout_s: float = TIMEOUT_S) -> TCPStore:
    """The store that rank 0 offers, on a free port of ``address`` and of nothing else."""
    listener = socket.create_server((address, 0))
    port = listener.getsockname()[1]
    # torch by itself would listen on every address of the machine.
    return TCPStore(
        address, port, size, is_master=True, timeout=timedelta(seconds=timeout_s), wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )  # fmt: skip


def store_at(address: str, port: int, size: int, timeout_s: float = TIMEOUT_S) -> TCPStore:
    """The store of rank 0, as the other ranks see it."""
    return TCPStore(address, port, size, is_master=False, timeout=timedelta(seconds=timeout_s))


def join_world(
    store: Store, rank: int, size: int, gpu: bool, address: str, timeout_s: float = TIMEOUT_S
) -> World:
    """Make the default process group: NCCL between GPUs (this process sees one), gloo between CPUs.

    Args:
        address: of rank 0; where it is one of loopback, the ranks talk over loopback only.
    """
    if ip_address(address).is_loopback:
        loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
        for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(key, loopback)
    dist.init_process_group(
        "nccl" if gpu else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
    )
    return World(rank, size)


def leave_world() -> None:
    """End the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def on_local_ranks(function: Callable[..., None], size: int, threads: int, *arguments: Any) -> None:
    """Run ``function(world, *arguments)`` on ``size`` processes of this machine, on CPUs, and wait for them.

    What it has to say it writes to files, rank 0 alone. Where a rank fails the others are ended.

    Args:
        function: of a module, as are the arguments: they travel by pickle. threads: of torch, in each rank.
    Raises:
        torch.multiprocessing.ProcessRaisedException: with the traceback of the rank that failed.
    """
    with tempfile.TemporaryDirectory(prefix="selmix-ranks-") as folder:
        meeting = str(Path(folder) / "store")
        spawn(_local_rank, (function, size, threads, meeting, arguments), nprocs=size)  # type: ignore[no-untyped-call]


def _local_rank(
    rank: int,
    function: Callable[..., None],
    size: int,
    threads: int,
    meeting: str,
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(threads)
    with _joined(FileStore(meeting, size), rank, size) as world:
        function(world, *arguments)


@contextlib.contextmanager
def _joined(store: Store, rank: int, size: int) -> Iterator[World]:
    try:
        yield join_world(store, rank, size, gpu=False, address=_LOOPBACK)
    finally:
        leave_world()
