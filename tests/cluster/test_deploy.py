"""cluster.yaml and deploy/, by the loaders and schemas of those who will read them."""

from __future__ import annotations

import copy
import http.client
import importlib.resources
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestrator.cli import options as parsers
from tests.command import ROOT, environment
from tests.fakes.servers import free_ports

DEPLOY = ROOT / "deploy"
LAUNCHER = (ROOT / "cluster.yaml", DEPLOY / "hosts.yaml")
FILES = (
    *LAUNCHER,
    DEPLOY / "rayjob.yaml",
    DEPLOY / "slurm.sh",
    DEPLOY / "Dockerfile",
    DEPLOY / "mlflow/compose.yaml",
)
SECRET = re.compile(r"AKIA[0-9A-Z]{16}|(?i:password|secret|token)\s*[:=]\s*['\"]?[A-Za-z0-9]{8,}")

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's launcher warns of what it fills in


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def pinned(package: str) -> str:
    found = re.search(rf"(?m)^{package}==(.+)$", (ROOT / "constraints.txt").read_text())
    assert found is not None
    return found[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_headers_and_no_secret(path: Path) -> None:
    text = path.read_text()
    head = "\n".join(text.splitlines()[:12])
    for word in ("# Question:", "# Cost:", "# Command:"):
        assert word in head
    assert not SECRET.search(text)


def test_an_example_secret_is_seen() -> None:
    assert SECRET.search("password: hunter2hunter2")
    assert not SECRET.search("POSTGRES_PASSWORD: ${MLFLOW_DB_PASSWORD:?set it in .env}")


# -- Ray's cluster launcher -------------------------------------------------------------------------------------


def problems_of(config: dict[str, Any]) -> list[str]:
    """Problems that Ray's loader and schema find, then those that they let pass."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        prepared = prepare_config(copy.deepcopy(config))
        validate_config(prepared)
    except Exception as error:
        return [str(error).splitlines()[0]]
    problems = []
    if not config.get("cluster_name"):
        problems.append("no cluster_name")
    types, head = prepared["available_node_types"], prepared["head_node_type"]
    for name, kind in types.items():
        if kind["min_workers"] > kind["max_workers"]:
            problems.append(f"{name}: min_workers over max_workers")
        if config["provider"]["type"] != "aws":
            continue
        if not kind["node_config"].get("InstanceType"):
            problems.append(f"{name}: no InstanceType")
        market = kind["node_config"].get("InstanceMarketOptions")
        if market is not None and name == head:
            problems.append(f"{name}: the head on the spot market")
        if market is not None and market.get("MarketType") != "spot":
            problems.append(f"{name}: market {market}")
    return problems + [
        f"file_mounts: {local} is not there"
        for local in config.get("file_mounts", {}).values()
        if not local.startswith("~") and not (ROOT / local).exists()
    ]


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
def test_the_launcher_takes_it(path: Path) -> None:
    assert problems_of(load(path)) == []


def _with(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        at = config
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_with("idle_minutes", value=5), "idle_minutes"),
        (_with("head_node_type", value="none"), "head_node_type"),
        (_with("cluster_name", value=""), "cluster_name"),
        (_with("available_node_types", "gpu_spot", "min_workers", value=9), "max_workers"),
        (_with("available_node_types", "gpu_spot", "max_workers", value=-1), "min_workers over"),
        (_with("available_node_types", "gpu_spot", "node_config", value={}), "no InstanceType"),
        (_with("available_node_types", "head", "node_config", "InstanceMarketOptions", value={"MarketType": "spot"}),
         "the head on the spot market"),
        (_with("available_node_types", "gpu_spot", "node_config", "InstanceMarketOptions", value={}), "market"),
        (_with("file_mounts", "/x", value="none.txt"), "none.txt is not there"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_seen(change: Callable[[dict[str, Any]], None], says: str) -> None:
    config = load(LAUNCHER[0])
    change(config)
    assert any(says in problem for problem in problems_of(config)), problems_of(config)


def start_commands() -> list[str]:
    return [
        command
        for path in LAUNCHER
        for key in ("setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
        for command in load(path).get(key, [])
    ]  # fmt: skip


@pytest.mark.parametrize("command", start_commands())
def test_commands_are_shell_and_ray_has_their_flags(command: str) -> None:
    assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0
    assert not unknown_flags(command)


def unknown_flags(text: str) -> set[str]:
    """Flags of every `ray start` in a script that Ray does not have."""
    from ray.scripts.scripts import start

    known = {name for parameter in start.params for name in (*parameter.opts, *parameter.secondary_opts)}
    joined = text.replace("\\\n", " ")
    return {
        word.partition("=")[0]
        for line in re.findall(r"ray start ([^\n;&]*)", joined)
        for word in shlex.split(line)
        if word.startswith("--")
    } - known  # fmt: skip


def test_an_unknown_flag_is_seen() -> None:
    assert unknown_flags("ray start --head --no-such=1") == {"--no-such"}


def test_how_heads_bind() -> None:
    for path in LAUNCHER:
        (head,) = (line for line in load(path)["head_start_ray_commands"] if "ray start" in line)
        assert "--head --port=6379" in head
        assert "--dashboard-host=127.0.0.1" in head
        assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
        for worker in load(path)["worker_start_ray_commands"]:
            assert "ray start" not in worker or "--address=$RAY_HEAD_IP:6379" in worker
        assert any(source == "~/.ray/auth_token" for source in load(path)["file_mounts"].values())


def test_images_have_the_pinned_ray() -> None:
    config, job = load(LAUNCHER[0]), load(DEPLOY / "rayjob.yaml")
    images = [config["docker"]["head_image"], config["docker"]["worker_image"]]
    images += re.findall(r"(?m)^FROM (\S+)", (DEPLOY / "Dockerfile").read_text())
    assert [image.rpartition("-")[0] for image in images] == [f"rayproject/ray:{pinned('ray')}-py311"] * 3
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned("ray")


def test_the_launcher_s_file_is_what_doctor_reads() -> None:
    from ray.autoscaler._private.util import prepare_config

    from trainables.node import AutoscalerConfig, NodeKind, read_autoscaler_config

    limits = AutoscalerConfig((NodeKind("gpu_spot", cpus=4.0, gpus=1.0, most=8),), most=8)
    assert read_autoscaler_config(LAUNCHER[0]) == limits
    assert prepare_config(load(LAUNCHER[0]))["max_workers"] == 8
    assert read_autoscaler_config(ROOT / "none.yaml").unknown
    assert read_autoscaler_config(ROOT / "constraints.txt").unknown


# -- Kubernetes -------------------------------------------------------------------------------------------------

# Fields of KubeRay's ray.io/v1 that the manifest uses, by kind; the API server drops others without a word.
RAYJOB = {
    "spec": {"entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit",
             "rayClusterSpec"},
    "cluster": {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
                "workerGroupSpecs"},
    "head": {"rayStartParams", "template"},
    "worker": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
    "autoscaler": {"version", "upscalingMode", "idleTimeoutSeconds"},
}  # fmt: skip


def test_the_rayjob() -> None:
    job = load(DEPLOY / "rayjob.yaml")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    (worker,) = cluster["workerGroupSpecs"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert job["metadata"]["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"
    for part, fields in (
        (spec, "spec"), (cluster, "cluster"), (cluster["headGroupSpec"], "head"), (worker, "worker"),
        (cluster["autoscalerOptions"], "autoscaler"),
    ):  # fmt: skip
        assert set(part) <= RAYJOB[fields]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["authOptions"] == {"mode": "token"}
    assert 1 <= worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]
    assert all(isinstance(value, str) for value in cluster["headGroupSpec"]["rayStartParams"].values())
    for group in (cluster["headGroupSpec"], worker):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert all(isinstance(amount, str) for amount in container["resources"]["limits"].values())
        assert {"name": "runs", "mountPath": "/runs"} in container["volumeMounts"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert head["envFrom"] == [{"secretRef": {"name": "selmix-tracking"}}]
    (container,) = worker["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    command, verb, *arguments = shlex.split(spec["entrypoint"])
    assert (command, verb) == ("selmix", "launch")
    options = parsers.launch().parse_intermixed_args(arguments)
    assert f"search.max_concurrent_trials={worker['maxReplicas']}" in options.overrides


# -- MLflow -----------------------------------------------------------------------------------------------------


def compose_schema() -> dict[str, Any]:
    folder = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema: dict[str, Any] = json.loads((folder / "compose-spec.json").read_text())
    return schema


def test_the_mlflow_server() -> None:
    config = load(DEPLOY / "mlflow/compose.yaml")
    jsonschema.validate(config, compose_schema())
    database, server = config["services"]["database"], config["services"]["mlflow"]
    assert server["ports"] == ["127.0.0.1:5000:5000"]
    assert "ports" not in database
    assert server["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert server["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert all("healthcheck" in service for service in config["services"].values())
    assert re.fullmatch(r"postgres:\d+\.\d+-alpine", database["image"])
    assert f"mlflow=={pinned('mlflow')}" in server["build"]["dockerfile_inline"]
    used = set(re.findall(r"\$\{(\w+)", (DEPLOY / "mlflow/compose.yaml").read_text()))
    given = set(re.findall(r"(?m)^(\w+)=", (DEPLOY / "mlflow/.env.example").read_text()))
    assert used == given
    assert "\nMLFLOW_DB_PASSWORD=\n" in (DEPLOY / "mlflow/.env.example").read_text()


def test_a_bad_compose_file_is_seen() -> None:
    config = load(DEPLOY / "mlflow/compose.yaml")
    config["services"]["mlflow"]["healthchek"] = {}
    with pytest.raises(jsonschema.ValidationError, match="healthchek"):
        jsonschema.validate(config, compose_schema())


# -- Slurm: the script as it is written, see test_slurm.py for how it runs ---------------------------------------


def test_the_batch_script() -> None:
    script = DEPLOY / "slurm.sh"
    text = script.read_text()
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert "#SBATCH --signal=B:USR1@" in text
    assert "#SBATCH --requeue" in text
    assert not unknown_flags(text)
    (line,) = re.findall(r"(?m)^selmix doctor (.*) &$", text)
    parsers.doctor().parse_intermixed_args(shlex.split(line.replace('"$SLURM_JOB_NUM_NODES"', "2")))


@pytest.mark.slow
def test_the_server_answers_the_names_it_is_given(tmp_path: Path) -> None:
    """The compose file's command as it stands, with a file instead of PostgreSQL."""
    (port,) = free_ports(1)
    service = load(DEPLOY / "mlflow/compose.yaml")["services"]["mlflow"]
    command = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service["command"])
    command = (
        command.replace("0.0.0.0", "127.0.0.1")
        .replace("5000", str(port))
        .replace("/artifacts", str(tmp_path))
    )
    variables = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    } | {key: value for key, value in service["environment"].items() if "$" not in value}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            shlex.split(command), cwd=tmp_path, env=environment() | variables, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + 90
        while answer(port, f"localhost:{port}") != 200:
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.3)
        assert answer(port, "mlflow:5000") == 200
        assert answer(port, "elsewhere.example") == 403
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def answer(port: int, host: str) -> int | None:
    """The status of an API call under a name; None where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", headers={"Host": host})
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
