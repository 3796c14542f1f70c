"""Meeting of ranks: a store to meet at, the process group, and ranks as processes of this machine.

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

# torch.distributed has these names too, but does not export them to a strict type checker.
from torch._C._distributed_c10d import FileStore, Store, TCPStore
from torch.multiprocessing.spawn import spawn

from selmix.parallel.world import World

# Seconds: an exchange waits for the slowest rank, so this leaves room for one that is slow and ends one that hangs.
TIMEOUT_S = 300.0
_LOOPBACK = "127.0.0.1"


def listening_store(address: str, size: int, timeout_s: float = TIMEOUT_S) -> TCPStore:
    """Open the store of rank 0 on a free port of ``address`` and of no other address.

    Args:
        address: of this machine, as the other ranks reach it.
        size: ranks in all.
        timeout_s: how long an operation of the store waits.
    """
    listener = socket.create_server((address, 0))
    port = listener.getsockname()[1]
    # torch by itself would listen on every address of the machine. The socket is detached because Python would close
    # it with its object. The store must not wait for the workers here: they learn the port only after this call.
    return TCPStore(
        address, port, size, is_master=True, timeout=timedelta(seconds=timeout_s), wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )  # fmt: skip


def store_at(address: str, port: int, size: int, timeout_s: float = TIMEOUT_S) -> TCPStore:
    """Connect to the store of rank 0.

    Args:
        address: of rank 0.
        port: of its store.
        size: ranks in all.
        timeout_s: how long an operation of the store waits.
    """
    return TCPStore(address, port, size, is_master=False, timeout=timedelta(seconds=timeout_s))


def join_world(
    store: Store, rank: int, size: int, gpu: bool, address: str, timeout_s: float = TIMEOUT_S
) -> World:
    """Make the default process group: NCCL between GPUs (this process sees one), gloo between CPUs.

    Args:
        store: where the ranks meet.
        rank: of this process, 0 <= rank < size.
        size: ranks in all.
        gpu: True if the ranks train on GPUs.
        address: of rank 0; where it is one of loopback, the ranks talk over loopback only.
        timeout_s: how long an exchange waits for the slowest rank.
    """
    # Left to themselves both libraries may choose an interface that other machines reach. The name differs between
    # systems (lo, lo0), and an interface that the user has set stays.
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

    Results go to files, written by rank 0 only. Where a rank fails the others are ended.

    Args:
        function: defined at the top of a module, because it travels by pickle.
        size: ranks in all.
        threads: of torch, in each rank.
        arguments: of the function; they travel by pickle too.
    Raises:
        torch.multiprocessing.ProcessRaisedException: with the traceback of the rank that failed.
    """
    with tempfile.TemporaryDirectory(prefix="selmix-ranks-") as folder:
        # FileStore needs a file that no other group has used.
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
    # By default a new process takes a thread per core: the ranks would compete for the cores.
    torch.set_num_threads(threads)
    with _joined(FileStore(meeting, size), rank, size) as world:
        function(world, *arguments)


@contextlib.contextmanager
def _joined(store: Store, rank: int, size: int) -> Iterator[World]:
    try:
        yield join_world(store, rank, size, gpu=False, address=_LOOPBACK)
    finally:
        leave_world()
