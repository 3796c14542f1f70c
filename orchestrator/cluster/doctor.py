"""``selmix doctor``: is everything there that a sweep needs, on every node; all problems at once.

The same checks of the nodes come before every launch on a cluster, where what is missing on one node would otherwise
show as a failed trial, or as a sweep that waits for ever.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.capacity import Capacity, shortage
from orchestrator.cluster.node_checks import node_problems, node_row, paths_that_trials_read
from orchestrator.errors import PreflightError
from orchestrator.records.object_store import Runs
from orchestrator.run.preflight import check_writable, tracking_of
from orchestrator.tracking.address import check_tracking, masked
from trainables.node import Probe, versions

if TYPE_CHECKING:
    from orchestrator.cluster.code_package import Package
    from orchestrator.spec.schema import SweepSpec

SCHEMA_VERSION = 1
LOOK_EVERY_S = 2.0


def doctor_document(
    spec: SweepSpec | None, runs: Runs, cluster: str, package: Package | None = None,
    least_nodes: int = 1, wait_s: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """What was found, and ``problems``, each one line: where, what must hold, what was got, what to do.

    Args:
        spec: of a sweep that is to run; None: the cluster alone.
        cluster: ``HOST:PORT``; empty: a private Ray on this machine.
        package: the code that the nodes are to run.
        least_nodes: how many must be alive. wait_s: how long to wait for them.
    """
    problems: list[str] = []
    address = ""
    with _collected(problems):
        if isinstance(runs, Path):
            check_writable(runs)
        else:
            runs.check("doctor")
            runs.delete_tree("doctor")
    with _collected(problems):
        address = tracking_of(runs)
        check_tracking(address)
    if spec is not None:
        problems += missing_here(spec)
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION, "cluster": masked(cluster) or None, "runs": shown(runs),
        "tracking_uri": masked(address), "nodes": [], "capacity": None, "trials_at_once": None, "problems": problems,
    }  # fmt: skip
    with _collected(problems):
        document |= examine(spec, runs, cluster, package, problems, least_nodes, wait_s)
    return document


def check_cluster(spec: SweepSpec, runs: Runs, cluster: str, package: Package | None) -> None:
    """What must hold on the nodes before a sweep may start there; nothing of it is left behind.

    Raises:
        PreflightError: with every problem, a line each.
    """
    problems: list[str] = []
    with _collected(problems):
        examine(spec, runs, cluster, package, problems)
    raise_all(problems)


def raise_all(problems: Sequence[str]) -> None:
    """Raises PreflightError where there are problems."""
    if problems:
        raise PreflightError("\n".join(problems))


def missing_here(spec: SweepSpec) -> list[str]:
    """Files that the sweep file names and this machine does not have."""
    from orchestrator.cluster.node_checks import paths_of

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
    spec: SweepSpec | None, runs: Runs, cluster: str, package: Package | None, problems: list[str],
    least_nodes: int = 1, wait_s: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Connect, ask every node, add to ``problems``.

    Returns:
        ``nodes, capacity, trials_at_once`` of the document.
    Raises:
        PreflightError: there is no cluster to be asked.
    """
    from orchestrator.cluster.address import check_reachable
    from orchestrator.cluster.ray_session import ray_cluster, ray_environment

    _until(wait_s, lambda: _problem(lambda: check_reachable(cluster)) is None)
    check_reachable(cluster)
    with ray_environment(), ray_cluster(package):
        from orchestrator.cluster.nodes import alive_nodes, ask, capacity

        _until(wait_s, lambda: len(alive_nodes()) >= least_nodes)
        nodes = alive_nodes()
        if len(nodes) < least_nodes:
            problems.append(
                f"Ray cluster at {masked(cluster)}: {least_nodes} nodes must be alive, got {len(nodes)} within "
                f"{wait_s:g} s; look at the logs of those that are missing"
            )
        with _probed(runs, () if spec is None else paths_that_trials_read(spec), problems) as probe:
            answers = ask(nodes, probe)
    expected = versions()
    told = [answer.report["autoscaler"] for answer in answers if answer.report is not None]
    found: Capacity = capacity(nodes, next((each for each in told if each is not None), None))
    for answer in answers:
        problems += node_problems(answer, shown(runs), expected)
    if spec is not None and (short := shortage(spec.resources, found)) is not None:
        problems.append(short)
    return {
        "nodes": [node_row(answer, shown(runs), expected) for answer in answers], "capacity": str(found),
        "trials_at_once": None if spec is None else found.at_once(spec.resources, spec.search.max_concurrent_trials),
    }  # fmt: skip


def shown(runs: Runs) -> str:
    """A runs folder as a message names it."""
    return str(runs.absolute()) if isinstance(runs, Path) else runs.shown


@contextlib.contextmanager
def _probed(runs: Runs, paths: tuple[str, ...], problems: list[str]) -> Iterator[Probe]:
    """A file in the runs folder that the nodes are to see; gone with the block, and with it what they left."""
    token = secrets.token_hex(16)
    name = f".probe-{token[:12]}"
    if isinstance(runs, Path):
        with _written(runs.absolute(), name, token, problems):
            yield Probe(str(runs.absolute()), None, name, token, paths)
        return
    with contextlib.suppress(PreflightError):  # told by the store's own check
        runs.put(name, token.encode())
    try:
        yield Probe(runs.root, runs.for_workers(), name, token, paths)
    finally:
        with contextlib.suppress(PreflightError):
            runs.delete(name)


@contextlib.contextmanager
def _written(folder: Path, name: str, token: str, problems: list[str]) -> Iterator[None]:
    """A file in a folder, which is made for as long as the block lasts."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(token)
        except OSError as error:
            problems.append(
                f"{folder}: must be writable: {error.strerror or error}; choose another --runs folder"
            )
        yield
    finally:
        with contextlib.suppress(OSError):
            for left in folder.glob(f"{name}*"):  # also of a node that was cut off
                left.unlink()
            for each in made:
                each.rmdir()


@contextlib.contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """A refusal inside becomes lines of ``problems``."""
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


def doctor_text(document: dict[str, Any]) -> str:
    """The document as a table, without its problems: those go to stderr."""
    lines = [
        f"cluster   {document['cluster'] or 'a private one on this machine'}"
        + (f": {document['capacity']}" if document["capacity"] else ""),
        f"runs      {document['runs']}",
        f"mlflow    {document['tracking_uri'] or 'no usable address'}",
    ]
    if document["trials_at_once"] is not None:
        lines.append(f"trials    {document['trials_at_once']} at once")
    if document["nodes"]:
        head = ("node", "host", "cpu", "gpu", "runs", "free", "versions", "clock")
        rows = [head, *(_cells(node) for node in document["nodes"])]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines += [
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
    lines.append(
        "everything is there" if not document["problems"] else f"{len(document['problems'])} problem(s)"
    )
    return "\n".join(lines)


def _cells(node: dict[str, Any]) -> tuple[str, ...]:
    free = node["free_bytes"]
    return (
        node["address"] + (" (head)" if node["head"] else ""), node["host"], f"{node['cpus']:g}", f"{node['gpus']:g}",
        node["runs"], "-" if free is None else f"{free / 2**30:.0f} GB", node["agrees"],
        "-" if node["clock_s"] is None else f"{node['clock_s']:+.0f} s",
    )  # fmt: skip
