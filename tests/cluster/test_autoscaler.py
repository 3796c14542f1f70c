"""A sweep on a cluster that begins without a GPU and whose autoscaler starts a node.

That it is taken away again, or a second one comes, is not shown: Ray's fake provider names nodes otherwise than the
load metrics of a cluster on loopback do, so its autoscaler never learns that one is there. A trial that waits for a
node of its own is to be met by the one that "comes" for ever.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from tests.cluster.test_doctor import AUTOSCALING
from tests.command import SLOW_SMOKE, Background, environment, selmix
from tests.fakes.nodes import Nodes

pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(900),
]
HEAD_ID = AUTOSCALING["provider"]["head_node_id"]
ALIVE = """
import ray, sys
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))
"""


def alive(nodes: Nodes) -> int:
    command = [sys.executable, "-c", ALIVE, nodes.address]
    environ = environment(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", **nodes.variables)
    told = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=60)
    return int(told.stdout.split()[-1])


def end_all_of(scratch: str) -> None:
    """End everything that nodes of the autoscaler have left running, found by the folder that it works in."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if scratch.encode() in command.read_bytes():
                os.kill(int(command.parent.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue


def test_a_node_comes_for_a_sweep(tmp_path: Path) -> None:
    runs, config = tmp_path / "runs", tmp_path / "autoscaling.yaml"
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        nodes = Nodes(tmp_path, Path(scratch))
        provider = AUTOSCALING["provider"] | {"gcs_address": nodes.address, "disable_node_updaters": True}
        spot = {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
        types = AUTOSCALING["available_node_types"] | {"gpu_spot": spot}
        asked = {"provider": provider, "available_node_types": types, "idle_timeout_minutes": 0.2}
        config.write_text(yaml.safe_dump(AUTOSCALING | asked))
        try:
            nodes.start_head(
                "--num-cpus=1", f"--autoscaling-config={config}", RAY_FAKE_CLUSTER="1", AUTOSCALER_METRIC_PORT="0",
                AUTOSCALER_UPDATE_INTERVAL_S="1", RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD_ID, SELMIX_FAKE_GPUS="1",
                RAY_CLOUD_INSTANCE_ID=HEAD_ID, RAY_NODE_TYPE_NAME="ray.head.default",
            )  # fmt: skip
            assert alive(nodes) == 1
            sweep = (
                "resources.gpu=1",
                "search.num_trials=4",
                "selection.replicates=1",
                "parameters.steps.value=400",
            )
            launch = ("launch", SLOW_SMOKE, *sweep, "--address", nodes.address, "--runs", runs)
            most = 1
            with Background(*launch, log=tmp_path / "log", **nodes.variables) as driver:
                while driver.process.poll() is None:
                    most = max(most, alive(nodes))
                assert driver.process.returncode == 0, driver.log.read_text()
            assert most == 2
            shown = selmix("show", "smoke", "--runs", runs, "--json").document
            assert {row["state"] for row in shown["trials"]} == {"FINISHED"}
        finally:
            nodes.stop_all()
            end_all_of(scratch)
