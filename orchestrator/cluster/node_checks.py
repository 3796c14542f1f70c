"""What is wrong with a node, from what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.cluster.nodes import Answer
    from orchestrator.spec.schema import SweepSpec

MOST_SECONDS_APART = 5.0
"""Of a node's clock from the driver's: a lease is taken to be dead after a minute, time stamps go into records."""

LEAST_FREE_BYTES = 2**30
MOST_SCRATCH_SHARE = 0.95
"""Ray makes no objects on a disk that is fuller."""

PATH_KEYS = ("path", "root", "train_list", "held_list", "test_list")
DECODED_BY_TRIALS = ("image_folder", "image_list")
"""Data whose files are read where they are used; of all others the driver hands the numbers over."""


def node_problems(answer: Answer, runs: str, expected: dict[str, str | None]) -> list[str]:
    """One line a problem; none where all is well.

    Args:
        runs: the runs folder as it is shown. expected: versions of the driver.
    """
    node, report = answer.node, answer.report
    if report is None:
        return [
            f"{node}: must answer a task, got: {answer.problem}; look at Ray's logs there, at its disk, and whether "
            f"{runs} hangs there"
        ]
    problems = []
    if report["runs"] is not None:
        advice = (
            "let every node reach the store, with rights to read, write and delete"
            if "://" in runs
            else "mount the same shared storage there on every node, or choose another --runs"
        )
        problems.append(f"{node}: must write, read and delete in {runs}, {report['runs']}; {advice}")
    wrong = disagreements(report["versions"], expected)
    if wrong:
        told = ", ".join(f"{name} {got or 'none'} (driver: {want})" for name, got, want in wrong)
        problems.append(
            f"{node}: must have the driver's versions, got {told}; install constraints.txt on every node"
        )
    problems += [
        f"{node}: must see the data, {path} is not there; mount it under the same path"
        for path in report["missing"]
    ]
    apart = clock_offset(answer)
    if apart is not None and abs(apart) > MOST_SECONDS_APART:
        problems.append(
            f"{node}: its clock must be within {MOST_SECONDS_APART:g} s of the driver's, got {apart:+.1f} s; "
            "synchronise it (NTP)"
        )
    free = report["free_bytes"]
    if free is not None and free < LEAST_FREE_BYTES:
        problems.append(
            f"{node}: {runs} must have {LEAST_FREE_BYTES / 2**30:g} GB free, got {free / 2**30:.2f} GB; "
            "make room, or choose another --runs"
        )
    share = report["scratch_share"]
    if share is not None and share > MOST_SCRATCH_SHARE:
        problems.append(
            f"{node}: the disk of Ray's folder {report['scratch']} must be at most {100 * MOST_SCRATCH_SHARE:g} % "
            f"full, got {100 * share:.0f} %: Ray makes no objects there; make room, or start Ray with another "
            "--temp-dir"
        )
    return problems


def node_row(answer: Answer, runs: str, expected: dict[str, str | None]) -> dict[str, Any]:
    """A node of the document."""
    node, report = answer.node, answer.report or {}
    wrong = disagreements(report["versions"], expected) if report else []
    return {
        "node_id": node.node_id, "address": node.address, "host": node.host, "head": node.is_head,
        "cpus": node.machine.cpus, "gpus": node.machine.gpus, "versions": report.get("versions", {}),
        "agrees": ("no answer" if not report else ", ".join(f"{n} {got}" for n, got, _ in wrong) or "as the driver's"),
        "runs": "no answer" if not report else "ok" if report["runs"] is None else "not usable",
        "free_bytes": report.get("free_bytes"), "clock_s": clock_offset(answer),
        "problems": node_problems(answer, runs, expected),
    }  # fmt: skip


def disagreements(
    versions: dict[str, str | None], expected: dict[str, str | None]
) -> list[tuple[str, str | None, str | None]]:
    """``(package, got, expected)``; of Python its first two numbers count, of a package not how it was built (+cpu)."""
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
    read: float = answer.report["time_s"]
    return min(0.0, read - answer.asked_s) + max(0.0, read - answer.answered_s)


def paths_of(spec: SweepSpec) -> dict[str, str]:
    """Key of ``data`` -> file or folder that it names."""
    return {key: str(spec.data[key]) for key in PATH_KEYS if isinstance(spec.data.get(key), str)}


def paths_that_trials_read(spec: SweepSpec) -> tuple[str, ...]:
    """Data files and folders that every node must see, absolute."""
    if spec.data["name"] not in DECODED_BY_TRIALS:
        return ()
    return tuple(str(Path(path).absolute()) for path in paths_of(spec).values())
