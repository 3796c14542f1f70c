"""Report of a node: its versions, its disk, and the limits of the autoscaler that runs on it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from trainables import node
from trainables.node import (
    AutoscalerConfig,
    NodeKind,
    Probe,
    node_report,
    read_autoscaler_config,
)

TYPES = {
    "head": {"resources": {"CPU": 8}, "max_workers": 0},
    "cpu": {"resources": {"CPU": 16}, "max_workers": 3},
    "gpu": {"resources": {"CPU": 8, "GPU": 4}},
    "unknown": {},  # nothing to compare a trial with
}
CONFIG = {"head_node_type": "head", "available_node_types": TYPES, "max_workers": 5}
GCS = "10.0.0.1:6379"


@pytest.fixture
def fake_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Ray as a worker sees it: a session folder, and the address of the cluster."""
    session = SimpleNamespace(get_session_dir_path=lambda: str(tmp_path))
    worker = SimpleNamespace(_global_node=session)
    made = SimpleNamespace(
        _private=SimpleNamespace(worker=worker), get_runtime_context=lambda: SimpleNamespace(gcs_address=GCS)
    )
    monkeypatch.setitem(sys.modules, "ray", made)  # type: ignore[arg-type]
    monkeypatch.delenv("RAY_USAGE_STATS_KUBERAY_IN_USE", raising=False)
    return made


def written(folder: Path, config: Any) -> Path:
    path = folder / "autoscaler.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return path


def test_a_report_has_everything_of_a_node(
    fake_ray: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=100, used=60, free=25))
    (tmp_path / ".probe").write_text("word")
    report = node_report(Probe(str(tmp_path), None, ".probe", "word", (str(tmp_path), "/no/such/data")))
    assert (report.runs, report.missing, report.free_bytes) == (None, ["/no/such/data"], 25)
    # What is reserved for root is no space for Ray: 75 %, and not 60 %.
    assert (report.scratch, report.scratch_share, report.autoscaler) == (str(tmp_path), 0.75, None)
    assert node.free_bytes(Probe("bucket/runs", object(), ".probe", "word")) is None  # a store has no disk


def test_a_process_without_ray_has_no_folder_of_it(fake_ray: SimpleNamespace, tmp_path: Path) -> None:
    assert node.scratch()[0] == str(tmp_path)
    fake_ray._private.worker._global_node = None
    assert node.scratch() == (None, None)
    assert node.free_bytes(Probe(str(tmp_path / "gone"), None, ".probe", "word")) is None


def test_limits_of_an_autoscaler_as_its_launcher_reads_them(tmp_path: Path) -> None:
    limits = read_autoscaler_config(written(tmp_path, CONFIG))
    assert limits == AutoscalerConfig((NodeKind("cpu", 16, 0, 3), NodeKind("gpu", 8, 4, 5)), 5)
    without = {key: value for key, value in CONFIG.items() if key != "max_workers"}
    assert read_autoscaler_config(written(tmp_path, without)) == AutoscalerConfig(
        (NodeKind("cpu", 16, 0, 3), NodeKind("gpu", 8, 4, 2)), 2
    )


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (None, "AttributeError"), ("a: [", "ParserError"), ({"head_node_type": "head"}, "KeyError"),
        (CONFIG | {"max_workers": "many"}, "ValueError"), (CONFIG | {"available_node_types": ["a"]}, "AttributeError"),
        (CONFIG | {"available_node_types": {"a": {"resources": 4}}}, "AttributeError"),
    ],
)  # fmt: skip
def test_limits_that_cannot_be_read_are_unknown_and_no_error(tmp_path: Path, config: Any, error: str) -> None:
    path = written(tmp_path, config)
    assert read_autoscaler_config(path) == AutoscalerConfig(unknown=f"{path}: {error}")
    assert str(read_autoscaler_config(tmp_path / "gone").unknown).endswith("gone: FileNotFoundError")


def test_the_autoscaler_of_this_cluster_is_found_by_its_address(
    fake_ray: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the processes of the machine, which may run several clusters."""
    own, other = written(tmp_path, CONFIG), tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(CONFIG | {"max_workers": 99}))
    commands = [("10.0.0.9:6379", other), (GCS, own)]
    for pid, (address, path) in enumerate(commands):
        (tmp_path / str(pid)).mkdir()
        line = ["python", "monitor.py", f"--gcs-address={address}", f"--autoscaling-config={path}"]
        (tmp_path / str(pid) / "cmdline").write_bytes("\0".join(line).encode())
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").mkdir()  # as of a process that ended meanwhile: it cannot be read
    monkeypatch.setattr(node, "Path", lambda path: tmp_path if path == "/proc" else Path(path))
    found = node.autoscaler_config()
    assert found is not None
    assert found.most == 5
    fake_ray.get_runtime_context = lambda: SimpleNamespace(gcs_address="10.0.0.5:6379")
    assert node.autoscaler_config() is None
    monkeypatch.setitem(os.environ, "RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    assert node.autoscaler_config() == AutoscalerConfig(unknown="KubeRay")
