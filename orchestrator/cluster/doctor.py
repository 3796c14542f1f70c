"""``selmix doctor``: check that a sweep has everything it needs, on every node, and report all problems at once.

The same checks of the nodes run before every launch on a cluster, where a gap on one node would otherwise show as a
failed trial, or as a sweep that waits for ever.
"""

from __future__ import annotations

import contextlib
import glob
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
from orchestrator.messages import counted
from orchestrator.records.store import Store
from orchestrator.table import Column, paragraph, sentence, table
from orchestrator.tracking.address import check_tracking, tracking_of
from selmix.files import expanded_path
from trainables.node import Probe, versions

if TYPE_CHECKING:
    from orchestrator.spec.schema import SweepSpec

LOOK_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class DoctorDocument:
    """Findings of ``selmix doctor``, and everything that is missing.

    Attributes:
        schema_version: of the JSON document.
        cluster: address without credentials; None for a private Ray.
        runs: the runs folder in use.
        tracking_uri: address of MLflow in use, without credentials; empty where it is not usable.
        nodes: one row per node.
        capacity: of the cluster, in words; None where no cluster could be reached.
        trials_at_once: number of trials of the sweep that run at once; None where no sweep is named.
        problems: one line per problem, which says where it is, what must hold, what was got and what to do.
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
    """Number of nodes that must be alive, and seconds to wait for them."""

    nodes: int = 1
    wait_s: float = 0.0


@dataclass(frozen=True)
class Examination:
    """Reports of the nodes of a cluster, and what they add up to.

    Attributes:
        nodes: one row per node.
        capacity: of the cluster, in words.
        trials_at_once: number of trials of the sweep that run at once; None where no sweep is named.
    """

    nodes: list[NodeRow]
    capacity: str
    trials_at_once: int | None


def doctor_document(
    spec: SweepSpec | None, store: Store, cluster: Cluster, patience: Patience = Patience()
) -> DoctorDocument:
    """Check storage, MLflow, data and cluster, and collect everything that is missing.

    Args:
        spec: specification of a sweep that is to run; None to examine the cluster only.
        store: the runs folder.
        cluster: to be examined.
        patience: with the nodes of the cluster.
    """
    problems: list[str] = []
    address, examination = "", None
    # Each check in a block of its own: a refusal ends its block and not the checks after it.
    with _collected(problems):
        store.check("doctor")
    with _collected(problems):
        address = tracking_of(store)
        check_tracking(address)
    if spec is not None:
        problems += missing_here(spec)
    with _collected(problems):
        examination = examine(spec, store, cluster, problems, patience)
    return DoctorDocument(
        cluster=cluster.shown or None,
        runs=_shown(store),
        tracking_uri=masked(address),
        nodes=[] if examination is None else examination.nodes,
        capacity=None if examination is None else examination.capacity,
        trials_at_once=None if examination is None else examination.trials_at_once,
        problems=problems,
    )


def check_cluster(spec: SweepSpec, store: Store, cluster: Cluster) -> None:
    """Check what must hold on the nodes before a sweep may start there; leaves nothing behind.

    Args:
        spec: specification of the sweep.
        store: the runs folder.
        cluster: that the sweep is to run on.
    Raises:
        PreflightError: something is missing; the message has one line per problem.
    """
    problems: list[str] = []
    with _collected(problems):
        examine(spec, store, cluster, problems)
    raise_all(problems)


def raise_all(problems: Sequence[str]) -> None:
    """Raise all problems as one error.

    Args:
        problems: one line per problem; nothing is raised where there are none.
    Raises:
        PreflightError: there is a problem; the message has all of them.
    """
    if problems:
        raise PreflightError("\n".join(problems))


def missing_here(spec: SweepSpec) -> list[str]:
    """Problems of files that the sweep file names and this machine does not have, one line per file."""
    named = {f"data.{key}": path for key, path in paths_of(spec).items()}
    for key in ("checkpoint", "init"):
        value = getattr(spec.pretrain, key)
        if value is not None:
            named[f"pretrain.{key}"] = value
    problems = []
    for key, path in named.items():
        try:
            here = expanded_path(path)
            # A pattern of files has matches where it names something; brackets may also be part of a name.
            if not here.exists() and not glob.glob(str(here), recursive=True):  # noqa: PTH207 - below no folder
                problems.append(f"{key}: {path} must be there, it is not; check the path")
        except ValueError as error:  # a variable that is not set
            problems.append(f"{key}: {error}")
    return problems


def examine(
    spec: SweepSpec | None,
    store: Store,
    cluster: Cluster,
    problems: list[str],
    patience: Patience = Patience(),
) -> Examination:
    """Connect to a cluster, and collect the report of every node.

    Args:
        spec: specification of a sweep that is to run; None to examine the cluster only.
        store: the runs folder.
        cluster: to be examined.
        problems: list to which every problem is added.
        patience: with the nodes of the cluster.
    Raises:
        PreflightError: the cluster cannot be reached.
    """
    from orchestrator.cluster.ray_session import connected, ray_environment

    _wait_until(patience.wait_s, lambda: _problem(lambda: check_reachable(cluster.address)) is None)
    # Once more without catching, so that the refusal reaches the caller.
    check_reachable(cluster.address)
    with ray_environment(cluster), connected(cluster):
        # This module imports Ray, which reads its environment while it is imported.
        from orchestrator.cluster.nodes import alive_nodes, capacity, query_nodes

        _wait_until(patience.wait_s, lambda: len(alive_nodes()) >= patience.nodes)
        nodes = alive_nodes()
        # The nodes that are alive are examined all the same.
        if len(nodes) < patience.nodes:
            problems.append(
                f"Ray cluster at {cluster.shown}: {patience.nodes} nodes must be alive, got {len(nodes)} within "
                f"{patience.wait_s:g} s; look at the logs of those that are missing"
            )
        with _probe(store, () if spec is None else paths_that_trials_read(spec), problems) as probe:
            answers = query_nodes(nodes, probe)
    expected, shown = versions(), _shown(store)
    limits = [answer.report.autoscaler for answer in answers if answer.report is not None]
    # Nodes without an autoscaler report None.
    available: Capacity = capacity(nodes, next((each for each in limits if each is not None), None))
    for answer in answers:
        problems += node_problems(answer, shown, expected)
    if spec is None:
        at_once = None
    else:
        at_once = available.at_once(spec.resources, spec.search.max_concurrent_trials)
        short = shortage(spec.resources, available)
        problems += [] if short is None else [short]
    return Examination([node_row(answer, shown, expected) for answer in answers], str(available), at_once)


def _shown(store: Store) -> str:
    """Name of the runs folder in messages about other machines: a relative path would not be found there."""
    return store.shown if "://" in store.shown else str(store.root.absolute())


@contextlib.contextmanager
def _probe(store: Store, paths: tuple[str, ...], problems: list[str]) -> Iterator[Probe]:
    """Put a file in the runs folder for the nodes to read; it goes with the block, as does what they left."""
    # A fresh token each time: a node that still sees the file of an earlier check is no proof of shared storage.
    token = secrets.token_hex(16)
    name = f".probe-{token[:12]}"
    with contextlib.ExitStack() as stack:
        folder = store.address_of(store.root)
        # A runs folder that cannot be written does not end the check: the nodes' other problems are wanted at once.
        with _collected(problems):
            folder = stack.enter_context(store.probe(name, token.encode()))
        yield Probe(folder, store.filesystem(), name, token, paths)


@contextlib.contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """Turn a refusal inside the block into lines of ``problems``."""
    try:
        yield
    except PreflightError as error:
        # Two checks may meet the same problem.
        problems += [line for line in str(error).splitlines() if line not in problems]


def _problem(check: Callable[[], None]) -> str | None:
    try:
        check()
    except PreflightError as error:
        return str(error)
    return None


def _wait_until(seconds: float, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(min(LOOK_EVERY_S, max(0.0, end - time.monotonic())))


def doctor_text(document: DoctorDocument, width: int | None) -> str:
    """Render the document as a table, without its problems: those go to stderr.

    Args:
        document: of the check.
        width: columns of the terminal; None for no limit.
    """
    # Without nodes the capacity is not known, and there is no table.
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
    lines.append(sentence("everything is there" if not count else f"{counted(count, 'problem')}:", width))
    return "\n".join(lines)


def _cells(node: NodeRow) -> tuple[str, ...]:
    return (
        node.address + (" (head)" if node.head else ""), node.host, f"{node.cpus:g}", f"{node.gpus:g}", node.runs,
        "-" if node.free_bytes is None else f"{node.free_bytes / 2**30:.0f} GB", node.agrees,
        "-" if node.clock_s is None else f"{node.clock_s:+.0f} s",
    )  # fmt: skip
