"""Refusals of a launch on a cluster: three nodes as plain processes, each with something of its own wrong."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command import SLOW_SMOKE, selmix
from tests.fakes.nodes import Nodes

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]
LISTS = (
    "cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip
AUTOSCALING: dict[str, Any] = {
    "cluster_name": "small", "max_workers": 2, "upscaling_speed": 1.0, "idle_timeout_minutes": 5,
    "provider": {"type": "fake_multinode", "head_node_id": "f" * 56}, "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "gpu_spot": {"resources": {"CPU": 4, "GPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 8},
    },
    "file_mounts": {}, "docker": {}, "auth": {}, **{key: [] for key in LISTS},
}  # fmt: skip


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        made = Nodes(tmp_path, Path(scratch))
        try:
            yield made
        finally:
            made.stop_all()


def with_other_numpy(folder: Path) -> str:
    """A PYTHONPATH under which numpy says that it is another."""
    about = folder / "numpy-0.0.1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    return str(folder)


def own_mounts() -> bool:
    try:
        return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_a_cluster_without_a_problem_then_every_problem_at_once(nodes: Nodes, tmp_path: Path) -> None:
    if not own_mounts():
        pytest.skip("needs a mount namespace of its own for one node")
    runs = tmp_path / "runs"
    doctor = ("doctor", SLOW_SMOKE, "--runs", runs, "--address", nodes.address)
    nodes.start_head("--num-cpus=1")
    fine = selmix(*doctor, **nodes.variables)
    assert fine.code == 0, fine.err
    assert "everything is there" in fine.out
    assert not runs.exists()
    runs.mkdir()
    hide = ("unshare", "-m", "sh", "-c", f'mount -t tmpfs none "{runs}" && exec "$@"', "sh")
    nodes.join("blind", cpus=2, gpus=1, wrapper=hide)
    nodes.wait("blind")
    nodes.join("old", cpus=1, PYTHONPATH=with_other_numpy(tmp_path / "other"))
    nodes.wait("old")
    (tmp_path / "taken").mkdir()
    store = f"sqlite:///{tmp_path / 'taken'}"
    wanted = ("resources.gpu=2", "--json", "--nodes", "3", "--wait", "30")
    seen = selmix(*doctor, *wanted, MLFLOW_TRACKING_URI=store, **nodes.variables)
    assert seen.code == 4, seen.err
    problems = seen.document["problems"]
    assert len(seen.document["nodes"]) == 3
    told = (
        f"delete in {runs}, does not see what the driver wrote", "numpy 0.0.1 (driver: ", f"MLflow at {store}",
        "requests cpu 1 and gpu 2 with 1 worker, there are cpu 4 and gpu 1 on 3 nodes",
    )  # fmt: skip
    assert [sum(words in line for line in problems) for words in told] == [1, 1, 1, 1], problems
    assert len(problems) == 4
    started = time.monotonic()
    launch = ("launch", SLOW_SMOKE, "resources.gpu=2", "--runs", runs, "--address", nodes.address)
    refused = selmix(*launch, **nodes.variables)
    assert time.monotonic() - started < 20
    assert refused.code == 4
    assert all(word in refused.err for word in ("does not see", "numpy 0.0.1", "requests cpu 1 and gpu 2"))
    assert list(runs.iterdir()) == []


def test_what_an_autoscaler_may_add_counts(nodes: Nodes, tmp_path: Path) -> None:
    config = tmp_path / "autoscaling.yaml"
    config.write_text(yaml.safe_dump(AUTOSCALING))
    nodes.start_head(
        "--num-cpus=1", f"--autoscaling-config={config}", RAY_FAKE_CLUSTER="1", AUTOSCALER_METRIC_PORT="0"
    )
    doctor = ("doctor", SLOW_SMOKE, "--runs", tmp_path / "runs", "--address", nodes.address, "--json")
    fine = selmix(*doctor, "resources.gpu=1", **nodes.variables)
    assert fine.code == 0, fine.err
    assert fine.document["trials_at_once"] == 4  # two nodes of two GPUs: max_workers of all kinds is 2
    added = "its autoscaler adds at most 8 gpu_spot with cpu 4 and gpu 2 (2 in all)"
    assert added in fine.document["capacity"]


def test_this_machine(tmp_path: Path) -> None:
    fine = selmix("doctor", SLOW_SMOKE, "--runs", tmp_path / "runs")
    assert fine.code == 0, fine.err
    assert "a private one on this machine" in fine.out
    assert "everything is there" in fine.out
    assert not (tmp_path / "runs").exists()
