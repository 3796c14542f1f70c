"""Problems of a node, from its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.cluster.nodes import Answer
    from orchestrator.spec.schema import SweepSpec

MAX_CLOCK_OFFSET_S = 5.0
"""A lease is taken to be dead after a minute, and time stamps go into records."""

MIN_FREE_BYTES = 2**30
MAX_SCRATCH_SHARE = 0.95
"""Ray makes no objects on a disk that is fuller."""

PATH_KEYS = ("path", "root", "train_list", "held_list", "test_list")
DECODED_BY_TRIALS = ("image_folder", "image_list")
"""Data whose files are read where they are used; of all others the driver hands the numbers over."""


def node_problems(answer: Answer, runs: str, expected: dict[str, str | None]) -> list[str]:
    """Problems of a node, a line each; none where all is well.

    Args:
        answer: of the node.
        runs: the runs folder as it is shown.
        expected: versions of the driver.
    """
    node, report = answer.node, answer.report
    if report is None:
        return [
            f"{node}: must answer a task, got: {answer.problem}; look at Ray's logs there, at its disk, and whether "
            f"{runs} hangs there"
        ]
    problems = []
    if report.runs is not None:
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
    free = report.free_bytes
    if free is not None and free < MIN_FREE_BYTES:
        problems.append(
            f"{node}: {runs} must have {MIN_FREE_BYTES / 2**30:g} GB free, got {free / 2**30:.2f} GB; "
            "make room, or choose another --runs"
        )
    share = report.scratch_share
    if share is not None and share > MAX_SCRATCH_SHARE:
        problems.append(
            f"{node}: the disk of Ray's folder {report.scratch} must be at most {100 * MAX_SCRATCH_SHARE:g} % "
            f"full, got {100 * share:.0f} %: Ray makes no objects there; make room, or start Ray with another "
            "--temp-dir"
        )
    return problems


@dataclass(frozen=True)
class NodeRow:
    """A node as `selmix doctor` shows it.

    Attributes:
        node_id, address, host, head: who it is. cpus, gpus: that it offers.
        versions: of packages there. agrees: how they compare with the driver's.
        runs: ``ok``, ``not usable`` or ``no answer``. free_bytes: there.
        clock_s: seconds that its clock is ahead at least.
        problems: a line each.
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
    """A node of the document.

    Args:
        answer: of the node.
        runs: the runs folder as it is shown.
        expected: versions of the driver.
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
    """Packages of other versions: ``(package, got, expected)``.

    Of Python the first two numbers count, of a package not how it was built (+cpu).
    """
    return [
        (name, versions.get(name), want)
        for name, want in expected.items()
        if _comparable(name, versions.get(name)) != _comparable(name, want)
    ]


def _comparable(name: str, version: str | None) -> str | None:
    if version is None:
        return None
    return ".".join(version.split(".")[:2]) if name == "python" else version.partition("+")[0]


def clock_offset(answer: Answer) -> float | None:
    """Seconds that a node's clock is ahead at least: its reading lies between two of the driver's, or it is wrong."""
    if answer.report is None:
        return None
    read = answer.report.time_s
    return min(0.0, read - answer.asked_s) + max(0.0, read - answer.answered_s)


def paths_of(spec: SweepSpec) -> dict[str, str]:
    """Files and folders that ``data`` names, by key."""
    return {key: str(spec.data[key]) for key in PATH_KEYS if isinstance(spec.data.get(key), str)}


def paths_that_trials_read(spec: SweepSpec) -> tuple[str, ...]:
    """Data files and folders that every node must see, absolute."""
    if spec.data["name"] not in DECODED_BY_TRIALS:
        return ()
    return tuple(str(Path(path).absolute()) for path in paths_of(spec).values())
