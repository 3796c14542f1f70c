"""Checks of a node's report: the problems of the node, and its row in the document of ``selmix doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selmix.files import PATH_KEYS, with_paths_expanded

if TYPE_CHECKING:
    from orchestrator.cluster.nodes import Answer
    from orchestrator.spec.schema import SweepSpec

MAX_CLOCK_OFFSET_S = 5.0
"""Well below the minute after which a lease counts as dead; time stamps go into records too."""

MIN_FREE_BYTES = 2**30
MAX_SCRATCH_SHARE = 0.95
"""Share of a disk in use above which Ray makes no objects on it."""

DECODED_BY_TRIALS = ("image_folder", "image_list")
"""Data whose files the trials read themselves; of all other data the driver sends the numbers."""


def node_problems(answer: Answer, runs: str, expected: dict[str, str | None]) -> list[str]:
    """Problems of a node, one line per problem.

    Args:
        answer: of the node.
        runs: name of the runs folder in messages.
        expected: package -> version that the driver has.
    """
    node, report = answer.node, answer.report
    # Without a report nothing else is known of the node.
    if report is None:
        return [
            f"{node}: must answer a task, got: {answer.problem}; look at Ray's logs there, at its disk, and check that "
            f"{runs} does not hang there"
        ]
    problems = []
    if report.runs is not None:
        # A store has an address and no mount.
        advice = (
            "let every node reach the store, with rights to read, write and delete"
            if "://" in runs
            else "mount the same shared storage there on every node, or choose another --runs"
        )
        problems.append(f"{node}: must write, read and delete in {runs}, {report.runs}; {advice}")
    wrong = disagreements(report.versions, expected)
    if wrong:
        versions = ", ".join(f"{name} {got or 'none'} (driver: {want})" for name, got, want in wrong)
        problems.append(
            f"{node}: must have the driver's versions, got {versions}; install constraints.txt on every node"
        )
    problems += [
        f"{node}: must see the data, {path} is not there; mount it under the same path"
        for path in report.missing
    ]
    apart = clock_offset(answer)
    if apart is not None and abs(apart) > MAX_CLOCK_OFFSET_S:
        problems.append(
            f"{node}: its clock must be within {MAX_CLOCK_OFFSET_S:g} s of the driver's, got {apart:+.1f} s; "
            "synchronise it (NTP)"
        )
    # None for an object store, which has no disk to fill.
    free = report.free_bytes
    if free is not None and free < MIN_FREE_BYTES:
        problems.append(
            f"{node}: {runs} must have {MIN_FREE_BYTES / 2**30:g} GB free, got {free / 2**30:.2f} GB; "
            "free some space, or choose another --runs"
        )
    # None where Ray has no folder of its own.
    share = report.scratch_share
    if share is not None and share > MAX_SCRATCH_SHARE:
        problems.append(
            f"{node}: the disk of Ray's folder {report.scratch} must be at most {100 * MAX_SCRATCH_SHARE:g} % "
            f"full, got {100 * share:.0f} %: Ray makes no objects there; free some space, or start Ray "
            "with another --temp-dir"
        )
    return problems


@dataclass(frozen=True)
class NodeRow:
    """Node as ``selmix doctor`` shows it.

    Attributes:
        node_id: Ray's id of the node.
        address: IP address.
        host: host name.
        head: True for the head of the cluster.
        cpus: number that the node offers to Ray.
        gpus: number that the node offers to Ray.
        versions: package -> version on the node; None for a package that is not installed.
        agrees: the packages whose version differs from the driver's, in words.
        runs: state of the runs folder there: ``ok``, ``not usable`` or ``no answer``.
        free_bytes: free space in the runs folder; None in an object store, or where there is no report.
        clock_s: seconds that the node's clock is ahead at least; None where there is no report.
        problems: one line per problem.
    """

    node_id: str
    address: str
    host: str
    head: bool
    cpus: float
    gpus: float
    versions: dict[str, str | None]
    agrees: str
    runs: str
    free_bytes: int | None
    clock_s: float | None
    problems: list[str]


def node_row(answer: Answer, runs: str, expected: dict[str, str | None]) -> NodeRow:
    """Build the row of a node.

    Args:
        answer: of the node.
        runs: name of the runs folder in messages.
        expected: package -> version that the driver has.
    """
    node, report = answer.node, answer.report
    agrees, usable = "no answer", "no answer"
    if report is not None:
        wrong = disagreements(report.versions, expected)
        agrees = ", ".join(f"{name} {got}" for name, got, _ in wrong) or "as the driver's"
        usable = "ok" if report.runs is None else "not usable"
    return NodeRow(
        node.node_id, node.address, node.host, node.is_head, node.machine.cpus, node.machine.gpus,
        {} if report is None else report.versions, agrees, usable, None if report is None else report.free_bytes,
        clock_offset(answer), node_problems(answer, runs, expected),
    )  # fmt: skip


def disagreements(
    versions: dict[str, str | None], expected: dict[str, str | None]
) -> list[tuple[str, str | None, str | None]]:
    """Packages whose version differs from the driver's, as ``(package, got, expected)``.

    Python is compared by its first two numbers, a package without its build tag (``+cpu``).

    Args:
        versions: package -> version on the node.
        expected: package -> version that the driver has.
    """
    return [
        (name, versions.get(name), want)
        for name, want in expected.items()
        if _comparable(name, versions.get(name)) != _comparable(name, want)
    ]


def _comparable(name: str, version: str | None) -> str | None:
    if version is None:
        return None
    # Builds for CPU and for GPU are one version of a package, and patch releases one version of Python.
    return ".".join(version.split(".")[:2]) if name == "python" else version.partition("+")[0]


def clock_offset(answer: Answer) -> float | None:
    """Seconds that a node's clock is ahead of the driver's at least; None where there is no report.

    The node read its clock between two readings of the driver's: only what lies outside of them is an offset.
    """
    if answer.report is None:
        return None
    read = answer.report.time_s
    # One of the two terms is zero, as ``sent_s <= received_s``.
    return min(0.0, read - answer.sent_s) + max(0.0, read - answer.received_s)


def paths_of(spec: SweepSpec) -> dict[str, str]:
    """Files and folders that the section ``data`` names: key -> path."""
    keys = with_paths_expanded(spec.data)
    return {key: keys[key] for key in PATH_KEYS if isinstance(keys.get(key), str)}


def paths_that_trials_read(spec: SweepSpec) -> tuple[str, ...]:
    """Absolute paths of the data files and folders that every node must see."""
    if spec.data["name"] not in DECODED_BY_TRIALS:
        # Imported here: these load torch.
        from orchestrator.build.selection import data_config
        from selmix.data import folder_of_files

        try:
            beside = folder_of_files(data_config(spec))
        # What cannot be read is reported where it is loaded.
        except (OSError, ValueError):
            return ()
        return () if beside is None else (str(beside.absolute()),)
    return tuple(str(Path(path).absolute()) for path in paths_of(spec).values())
