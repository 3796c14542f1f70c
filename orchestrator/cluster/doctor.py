"""``selmix doctor``: is everything there that a sweep needs, on every node; all problems at once.

The same checks of the nodes come before every launch on a cluster, where what is missing on one node would otherwise
show as a failed trial, or as a sweep that waits for ever.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cluster.address import Cluster, check_reachable
from orchestrator.cluster.capacity import Capacity, shortage
from orchestrator.cluster.node_checks import (
    NodeRow,
    node_problems,
    node_row,
    paths_of,
    paths_that_trials_read,
)
from orchestrator.credentials import masked
from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import PreflightError
from orchestrator.records.store import Store
from orchestrator.table import Column, paragraph, sentence, table
from orchestrator.tracking.address import check_tracking, tracking_of
from trainables.node import Probe, versions

if TYPE_CHECKING:
    from orchestrator.spec.schema import SweepSpec

LOOK_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class DoctorDocument:
    """What was found, and what is missing.

    Attributes:
        cluster: address without credentials; None: a private one.
        runs, tracking_uri: as they are used.
        nodes: a row each. capacity: in words; None where nobody could be asked.
        trials_at_once: of the sweep; None where none is named.
        problems: one line each: where, what must hold, what was got, what to do.
    """

    schema_version: int = SCHEMA_VERSION
    cluster: str | None
    runs: str
    tracking_uri: str
    nodes: list[NodeRow] = field(default_factory=list)
    capacity: str | None = None
    trials_at_once: int | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Patience:
    """How many nodes must be alive, and how long to wait for them."""

    nodes: int = 1
    wait_s: float = 0.0


@dataclass(frozen=True)
class Examination:
    """What the nodes of a cluster told."""

    nodes: list[NodeRow]
    capacity: str
    trials_at_once: int | None


def doctor_document(
    spec: SweepSpec | None, store: Store, cluster: Cluster, patience: Patience = Patience()
) -> DoctorDocument:
    """Everything that can be known to be missing.

    Args:
        spec: of a sweep that is to run; None: the cluster alone.
        store: the runs folder.
        cluster: to be examined.
        patience: with its nodes.
    """
    problems: list[str] = []
    address, found = "", None
    with _collected(problems):
        store.check("doctor")
    with _collected(problems):
        address = tracking_of(store)
        check_tracking(address)
    if spec is not None:
        problems += missing_here(spec)
    with _collected(problems):
        found = examine(spec, store, cluster, problems, patience)
    return DoctorDocument(
        cluster=cluster.shown or None,
        runs=_shown(store),
        tracking_uri=masked(address),
        nodes=[] if found is None else found.nodes,
        capacity=None if found is None else found.capacity,
        trials_at_once=None if found is None else found.trials_at_once,
        problems=problems,
    )


def check_cluster(spec: SweepSpec, store: Store, cluster: Cluster) -> None:
    """Check what must hold on the nodes before a sweep may start there; nothing of it is left behind.

    Args:
        spec: of the sweep.
        store: the runs folder.
        cluster: that it is to run on.
    Raises:
        PreflightError: with every problem, a line each.
    """
    problems: list[str] = []
    with _collected(problems):
        examine(spec, store, cluster, problems)
    raise_all(problems)


def raise_all(problems: Sequence[str]) -> None:
    """Refuse where there are problems.

    Raises:
        PreflightError: with all of them.
    """
    if problems:
        raise PreflightError("\n".join(problems))


def missing_here(spec: SweepSpec) -> list[str]:
    """Files that the sweep file names and this machine does not have."""
    named = {f"data.{key}": path for key, path in paths_of(spec).items()}
    for key in ("checkpoint", "init"):
        value = getattr(spec.pretrain, key)
        if value is not None:
            named[f"pretrain.{key}"] = value
    return [
        f"{key}: {path} must be there, it is not; check the path"
        for key, path in named.items()
        if not Path(path).exists()
    ]


def examine(
    spec: SweepSpec | None,
    store: Store,
    cluster: Cluster,
    problems: list[str],
    patience: Patience = Patience(),
) -> Examination:
    """Connect, and ask every node.

    Args:
        spec: of a sweep that is to run; None: the cluster alone.
        store: the runs folder.
        cluster: to be examined.
        problems: what is found is added.
        patience: with its nodes.
    Raises:
        PreflightError: there is no cluster to be asked.
    """
    from orchestrator.cluster.ray_session import connected, ray_environment

    _until(patience.wait_s, lambda: _problem(lambda: check_reachable(cluster.address)) is None)
    check_reachable(cluster.address)
    with ray_environment(cluster), connected(cluster):
        from orchestrator.cluster.nodes import alive_nodes, ask, capacity

        _until(patience.wait_s, lambda: len(alive_nodes()) >= patience.nodes)
        nodes = alive_nodes()
        if len(nodes) < patience.nodes:
            problems.append(
                f"Ray cluster at {cluster.shown}: {patience.nodes} nodes must be alive, got {len(nodes)} within "
                f"{patience.wait_s:g} s; look at the logs of those that are missing"
            )
        with _probe(store, () if spec is None else paths_that_trials_read(spec), problems) as probe:
            answers = ask(nodes, probe)
    expected, shown = versions(), _shown(store)
    limits = [answer.report.autoscaler for answer in answers if answer.report is not None]
    found: Capacity = capacity(nodes, next((each for each in limits if each is not None), None))
    for answer in answers:
        problems += node_problems(answer, shown, expected)
    if spec is None:
        at_once = None
    else:
        at_once = found.at_once(spec.resources, spec.search.max_concurrent_trials)
        short = shortage(spec.resources, found)
        problems += [] if short is None else [short]
    return Examination([node_row(answer, shown, expected) for answer in answers], str(found), at_once)


def _shown(store: Store) -> str:
    """The runs folder as a message names it to a reader on another machine."""
    return store.shown if "://" in store.shown else str(store.root.absolute())


@contextlib.contextmanager
def _probe(store: Store, paths: tuple[str, ...], problems: list[str]) -> Iterator[Probe]:
    """A file in the runs folder that the nodes are to see; gone with the block, and with it what they left."""
    token = secrets.token_hex(16)
    name = f".probe-{token[:12]}"
    with contextlib.ExitStack() as stack:
        folder = store.address_of(store.root)
        # The nodes are asked all the same: their other problems are to be known at once.
        with _collected(problems):
            folder = stack.enter_context(store.probe(name, token.encode()))
        yield Probe(folder, store.filesystem(), name, token, paths)


@contextlib.contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """Turn a refusal inside into lines of ``problems``."""
    try:
        yield
    except PreflightError as error:
        problems += [line for line in str(error).splitlines() if line not in problems]


def _problem(check: Callable[[], None]) -> str | None:
    try:
        check()
    except PreflightError as error:
        return str(error)
    return None


def _until(seconds: float, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(min(LOOK_EVERY_S, max(0.0, end - time.monotonic())))


def doctor_text(document: DoctorDocument, width: int | None) -> str:
    """The document as a table, without its problems: those go to stderr."""
    where = document.cluster or "a private one on this machine"
    lines = [
        paragraph("cluster", f"{where}: {document.capacity}" if document.capacity else where, width),
        paragraph("runs", document.runs, width),
        paragraph("mlflow", document.tracking_uri or "no usable address", width),
    ]
    if document.trials_at_once is not None:
        lines.append(paragraph("trials", f"{document.trials_at_once} at once", width))
    if document.nodes:
        columns = (
            Column("node"), Column("host"), Column("cpu", right=True), Column("gpu", right=True), Column("runs"),
            Column("free", right=True), Column("versions"), Column("clock", right=True),
        )  # fmt: skip
        lines.append(table(columns, [_cells(node) for node in document.nodes], width))
    count = len(document.problems)
    lines.append(sentence("everything is there" if not count else f"{count} problem(s)", width))
    return "\n".join(lines)


def _cells(node: NodeRow) -> tuple[str, ...]:
    return (
        node.address + (" (head)" if node.head else ""), node.host, f"{node.cpus:g}", f"{node.gpus:g}", node.runs,
        "-" if node.free_bytes is None else f"{node.free_bytes / 2**30:.0f} GB", node.agrees,
        "-" if node.clock_s is None else f"{node.clock_s:+.0f} s",
    )  # fmt: skip
