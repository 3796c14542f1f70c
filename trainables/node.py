"""Report of a node of a cluster: a Ray task pinned to it. Imports neither torch nor what trains."""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "torch", "numpy", "scipy", "scikit-learn")
"""Whose versions must agree: what travels between nodes, and what decides bits."""


@dataclass(frozen=True)
class Probe:
    """Question to a node.

    Attributes:
        runs: the runs folder by its absolute path, or an address in ``filesystem``.
        filesystem: pyarrow's, of an object store; None: ``runs`` is a path.
        written: name of the file in it that the driver wrote. token: its content.
        paths: files or folders that trials read.
    """

    runs: str
    filesystem: Any
    written: str
    token: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeKind:
    """Nodes of one type that an autoscaler may start, ``most`` of them."""

    name: str
    cpus: float
    gpus: float
    most: int


@dataclass(frozen=True)
class AutoscalerConfig:
    """Limits of an autoscaler.

    Attributes:
        kinds: of nodes that it may start. most: nodes of all together.
        unknown: why the limits cannot be read; None where they were.
    """

    kinds: tuple[NodeKind, ...] = ()
    most: int = 0
    unknown: str | None = None


@dataclass(frozen=True)
class NodeReport:
    """Answer of a node.

    Attributes:
        versions: of Python, selmix and PACKAGES.
        runs: why the runs folder could not be used; None where it could.
        missing: paths that trials read and that are not there.
        free_bytes: of the runs folder; None in an object store, or where there is no such folder.
        scratch: Ray's folder. scratch_share: of its disk that is used; None where there is none.
        autoscaler: limits of the one that runs on this node; None where there is none.
        time_s: this node's clock, read last.
    """

    versions: dict[str, str | None]
    runs: str | None
    missing: list[str]
    free_bytes: int | None
    scratch: str | None
    scratch_share: float | None
    autoscaler: AutoscalerConfig | None
    time_s: float


def node_report(probe: Probe) -> NodeReport:
    """Everything that a driver asks of a node."""
    folder, share = scratch()
    return NodeReport(
        versions=versions(),
        runs=storage_problem(probe),
        missing=[path for path in probe.paths if not Path(path).exists()],
        free_bytes=free_bytes(probe),
        scratch=folder,
        scratch_share=share,
        autoscaler=autoscaler_config(),
        time_s=time.time(),
    )


def versions() -> dict[str, str | None]:
    """Versions of Python, of selmix as imported, and of :data:`PACKAGES` as installed."""
    from selmix import __version__

    return {"python": platform.python_version(), "selmix": __version__} | {
        name: _version(name) for name in PACKAGES
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def storage_problem(probe: Probe) -> str | None:
    """The reason why a worker here could not use the runs folder; None where it sees, writes, reads and deletes."""
    own = f"{probe.written}-{platform.node()}-{os.getpid()}"
    try:
        if _read(probe, probe.written) != probe.token.encode():
            return "does not see what the driver wrote there"
        _write(probe, own, probe.token.encode())
        if _read(probe, own) != probe.token.encode():
            return "does not read back what it wrote there"
        _delete(probe, own)
    except FileNotFoundError:
        return "does not see what the driver wrote there"
    except OSError as error:
        return f"cannot write, read and delete there: {error.strerror or type(error).__name__}"
    return None


def _read(probe: Probe, name: str) -> bytes:
    if probe.filesystem is None:
        return (Path(probe.runs) / name).read_bytes()
    with probe.filesystem.open_input_stream(f"{probe.runs}/{name}") as stream:
        content: bytes = stream.read()
        return content


def _write(probe: Probe, name: str, content: bytes) -> None:
    if probe.filesystem is None:
        (Path(probe.runs) / name).write_bytes(content)
        return
    with probe.filesystem.open_output_stream(f"{probe.runs}/{name}") as stream:
        stream.write(content)


def _delete(probe: Probe, name: str) -> None:
    if probe.filesystem is None:
        (Path(probe.runs) / name).unlink()
    else:
        probe.filesystem.delete_file(f"{probe.runs}/{name}")


def free_bytes(probe: Probe) -> int | None:
    """Free in the runs folder; None in an object store, or where the folder is not there."""
    if probe.filesystem is not None or not Path(probe.runs).is_dir():
        return None
    return shutil.disk_usage(probe.runs).free


def scratch() -> tuple[str | None, float | None]:
    """The folder where Ray keeps packages, logs and what spills from memory, and how much of its disk is used."""
    import ray

    node = ray._private.worker._global_node
    folder = node.get_session_dir_path() if node is not None else None
    if folder is None or not Path(folder).is_dir():
        return None, None
    usage = shutil.disk_usage(folder)
    return folder, 1 - usage.free / usage.total


def autoscaler_config() -> AutoscalerConfig | None:
    """Limits of the autoscaler that runs on this node; None where it has none.

    Ray keeps that in no place that a driver can ask: it is in the file that the monitor was started with (``ray up``,
    ``ray start --autoscaling-config``). KubeRay's autoscaler is a container of its own.
    """
    import ray

    cluster = ray.get_runtime_context().gcs_address
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = command.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended meanwhile
            continue
        if f"--gcs-address={cluster}" not in arguments:
            continue
        for argument in arguments:
            if argument.startswith("--autoscaling-config="):
                return read_autoscaler_config(Path(argument.partition("=")[2]).expanduser())
    if os.environ.get("RAY_USAGE_STATS_KUBERAY_IN_USE") == "1":
        return AutoscalerConfig(unknown="KubeRay")
    return None


def read_autoscaler_config(path: Path) -> AutoscalerConfig:
    """Limits in a file of Ray's cluster launcher."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text())
        head, types = config.get("head_node_type"), config["available_node_types"]
        most = int(config.get("max_workers", 2))
        kinds = tuple(
            NodeKind(
                name, float(kind["resources"].get("CPU", 0)), float(kind["resources"].get("GPU", 0)),
                int(kind.get("max_workers", most)),
            )
            for name, kind in types.items()
            if name != head and kind.get("resources")
        )  # fmt: skip
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        return AutoscalerConfig(unknown=f"{path}: {type(error).__name__}")
    return AutoscalerConfig(kinds, most)
