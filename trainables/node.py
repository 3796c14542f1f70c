"""Report of a node of a cluster, from a Ray task pinned to it. Imports torch and training code only where asked to."""

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
"""Packages whose versions must agree, as their objects travel between nodes or they decide bits."""


@dataclass(frozen=True)
class Probe:
    """Request to a node.

    Attributes:
        runs: absolute path of the runs folder, or its address in ``filesystem``.
        filesystem: pyarrow's, of an object store; with None ``runs`` is a path.
        written: name of the driver's file in the runs folder.
        token: content of that file.
        paths: files or folders that trials read.
    """

    runs: str
    filesystem: Any
    written: str
    token: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeKind:
    """Nodes of one type that an autoscaler may start.

    Attributes:
        name: of the type.
        cpus: of a node.
        gpus: of a node.
        most: maximum number of nodes.
    """

    name: str
    cpus: float
    gpus: float
    most: int


@dataclass(frozen=True)
class AutoscalerConfig:
    """Limits of an autoscaler.

    Attributes:
        kinds: types of nodes that it may start.
        most: maximum number of nodes of all types together.
        unknown: reason why the limits cannot be read; None where they were.
    """

    kinds: tuple[NodeKind, ...] = ()
    most: int = 0
    unknown: str | None = None


@dataclass(frozen=True)
class NodeReport:
    """Report of a node.

    Attributes:
        versions: of Python, selmix and PACKAGES.
        runs: reason why the runs folder could not be used; None where it could.
        missing: paths that trials read and that are not there.
        free_bytes: of the runs folder; None in an object store, or where there is no such folder.
        scratch: Ray's folder; None where there is none.
        scratch_share: used share of its disk; None where there is no such folder.
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
    """Collect the report of this node for the driver."""
    folder, share = scratch()
    return NodeReport(
        versions=versions(),
        runs=storage_problem(probe),
        missing=[path for path in probe.paths if not Path(path).exists()],
        free_bytes=free_bytes(probe),
        scratch=folder,
        scratch_share=share,
        autoscaler=autoscaler_config(),
        # Last, as the rest takes time and the driver compares clocks.
        time_s=time.time(),
    )


def import_torch() -> None:
    """Import what work on a worker needs, so that the first piece does not wait for it."""
    # Torch imports its compiler with the first optimizer, which takes a second.
    import torch._dynamo  # noqa: F401

    import trainables.baseline
    import trainables.heads
    import trainables.screen  # noqa: F401


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
    """Reason why a worker here could not use the runs folder; None where it can see, write, read and delete."""
    # A name of its own: all nodes are probed in one folder.
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
    """Free bytes of the runs folder; None in an object store, or where the folder is not there."""
    if probe.filesystem is not None or not Path(probe.runs).is_dir():
        return None
    return shutil.disk_usage(probe.runs).free


def scratch() -> tuple[str | None, float | None]:
    """Folder of Ray's packages, logs and spilled objects, and the used share of its disk."""
    import ray

    # Ray has no public call for its session folder.
    node = ray._private.worker._global_node
    folder = node.get_session_dir_path() if node is not None else None
    if folder is None or not Path(folder).is_dir():
        return None, None
    usage = shutil.disk_usage(folder)
    return folder, 1 - usage.free / usage.total


def autoscaler_config() -> AutoscalerConfig | None:
    """Limits of the autoscaler that runs on this node; None where it has none.

    A driver cannot query them: they are in the file that Ray's monitor was started with (``ray up``, ``ray start
    --autoscaling-config``). KubeRay's autoscaler is a container of its own.
    """
    import ray

    cluster = ray.get_runtime_context().gcs_address
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = command.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # the process ended meanwhile
            continue
        # A machine may run several clusters; the processes of this one name its address.
        if f"--gcs-address={cluster}" not in arguments:
            continue
        for argument in arguments:
            if argument.startswith("--autoscaling-config="):
                return read_autoscaler_config(Path(argument.partition("=")[2]).expanduser())
    # Its limits lie in another container; only that they exist is known here.
    if os.environ.get("RAY_USAGE_STATS_KUBERAY_IN_USE") == "1":
        return AutoscalerConfig(unknown="KubeRay")
    return None


def read_autoscaler_config(path: Path) -> AutoscalerConfig:
    """Read the limits in a file of Ray's cluster launcher; one that cannot be read leaves them unknown."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text())
        head, types = config.get("head_node_type"), config["available_node_types"]
        # As the launcher's defaults for the large clouds.
        most = int(config.get("max_workers", 2))
        # Without its resources a type of node cannot be compared with a trial.
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
