"""Submission to a cluster: addresses, the package of code, variables without secrets, the job server's answers."""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import main
from orchestrator.cluster.address import check_reachable, driver_address, job_server, on_loopback_only
from orchestrator.cluster.code_package import own_files, pack, sweep_package, user_files
from orchestrator.cluster.job_server import JobExists, JobServer, auth_token
from orchestrator.cluster.submit import (
    attend,
    cluster_folder,
    job_variables,
    refuse_secrets,
    submission_name,
)
from orchestrator.errors import PreflightError, UsageError
from orchestrator.progress import Progress
from orchestrator.provenance import SUBMISSION, GitState, environment
from tests.command import SMOKE

# -- addresses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [
        (None, "", ""), (None, "head:6379", "head:6379"), ("other:6379", "head:6379", "other:6379"),
        ("[::1]:6379", "", "[::1]:6379"), ("auto", "", "auto"), ("local", "head:6379", ""),
    ],
)  # fmt: skip
def test_a_driver_s_cluster(given: str | None, variable: str, expected: str) -> None:
    assert driver_address(given, {"RAY_ADDRESS": variable}) == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("ray://head:10001", "Ray Client"), ("http://me:word@head:8265", "add --submit"), ("head", "HOST:PORT"),
        ("", "HOST:PORT"), ("head:6379/x", "HOST:PORT"),
    ],
)  # fmt: skip
def test_a_driver_s_cluster_refused(given: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        driver_address(given, {})
    assert "word" not in str(refused.value)


def test_the_job_server_by_flag_variables_and_default() -> None:
    assert job_server(None, {}) == "http://127.0.0.1:8265"
    assert job_server("https://head/", {"RAY_ADDRESS": "http://other:8265"}) == "https://head"
    assert job_server(None, {"RAY_API_SERVER_ADDRESS": "http://a:1", "RAY_ADDRESS": "b:2"}) == "http://a:1"
    for wrong in ("head:6379", "ray://head:10001", "http://", "http://["):
        with pytest.raises(UsageError, match="http://HOST:8265"):
            job_server(wrong, {})
    with pytest.raises(UsageError, match=r"^RAY_ADDRESS: "):
        job_server(None, {"RAY_ADDRESS": "head:6379"})


def test_nobody_at_the_head(free_port: int) -> None:
    with pytest.raises(PreflightError, match=r"^Ray cluster at 127.0.0.1:\d+: must answer"):
        check_reachable(f"127.0.0.1:{free_port}")
    with pytest.raises(PreflightError, match="must answer"):
        check_reachable("127.0.0.1:99999")


def test_a_cluster_that_listens_on_loopback_only() -> None:
    with socket.create_server(("127.0.0.1", 0)) as inward:
        assert on_loopback_only(f"127.0.0.1:{inward.getsockname()[1]}")
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        assert not on_loopback_only(f"localhost:{everywhere.getsockname()[1]}")
    assert not on_loopback_only("head:6379")


def test_launch_says_so_and_writes_nothing(
    free_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    arguments = ["launch", str(SMOKE), "--runs", str(runs)]
    assert main([*arguments, "--address", f"127.0.0.1:{free_port}"]) == 4
    assert main([*arguments, "--submit", "--address", f"http://127.0.0.1:{free_port}"]) == 4
    assert main([*arguments, "--submit", "--address", f"127.0.0.1:{free_port}"]) == 2
    assert main([*arguments, "--follow"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "Ray job server at http://127.0.0.1" in lines[1]
    assert not runs.exists()


@pytest.fixture
def free_port() -> int:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return int(server.server_address[1])


# -- the package of code ----------------------------------------------------------------------------------------


def test_a_package_is_the_same_again(tmp_path: Path) -> None:
    contents = {"b/x.py": b"x", "a.py": b"a"}
    first, second = pack(contents), pack(dict(reversed(contents.items())))
    assert (first.digest, first.content) == (second.digest, second.content)
    assert first.names == ("a.py", "b/x.py")
    assert first.file_name in {f"_ray_pkg_{first.digest[7:47]}.zip"}
    assert pack(contents | {"a.py": b"b"}).digest != first.digest
    assert pack({"c.py": b"a", "b/x.py": b"x"}).digest != first.digest


def test_a_package_holds_our_code_and_nothing_else() -> None:
    package = sweep_package(SMOKE.read_bytes(), [])
    names = zipfile.ZipFile(io.BytesIO(package.content)).namelist()
    assert set(names) == {*own_files(), "sweep.yaml"}
    assert {
        "orchestrator/cli/main.py",
        "selmix/run/run.py",
        "trainables/finetune.py",
        "sweeps/smoke.yaml",
    } <= set(names)
    assert {Path(name).suffix for name in names} <= {".py", ".yaml", ".typed"}
    assert not [name for name in names if "__pycache__" in name or "/." in name or name.startswith(".")]
    assert len(package.content) < 2**20


def test_a_package_that_is_too_large() -> None:
    with pytest.raises(PreflightError, match=r"package: must be below 0.\d+ MiB.*its largest file is big.py"):
        pack({"small.py": b"x", "big.py": bytes(range(256)) * 8}, max_bytes=300)


def test_the_user_s_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_goal.py").write_text("import my_helper\n\ndef goal(c): return c.sum()\n")
    (tmp_path / "my_helper.py").write_text("")
    (tmp_path / "not_imported.py").write_text("")
    package = tmp_path / "my_package"
    package.mkdir()
    for name in ("__init__.py", "goals.py", "data.bin"):
        (package / name).write_text("")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "old.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert set(user_files("my_goal")) == {"my_goal.py", "my_helper.py"}
        assert set(user_files("my_package.goals")) == {"my_package/__init__.py", "my_package/goals.py"}
        assert "my_goal.py" in sweep_package(b"", ["my_goal:goal"]).names
        assert user_files("json") == user_files("numpy.linalg") == user_files("selmix.run.run") == {}
    finally:
        for name in ("my_goal", "my_helper", "my_package", "my_package.goals"):
            sys.modules.pop(name, None)


# -- secrets ----------------------------------------------------------------------------------------------------


def test_variables_of_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    assert job_variables({"HOME": "/root"}, progress) == {}
    assert job_variables({"MLFLOW_TRACKING_URI": "http://m:5000"}, progress) == {
        "MLFLOW_TRACKING_URI": "http://m:5000"
    }
    assert capsys.readouterr().err == ""
    secret = {"MLFLOW_TRACKING_URI": "https://me:pa55word@m:5000/x", "AWS_SECRET_ACCESS_KEY": "pa55word"}
    assert job_variables(secret, progress) == {"MLFLOW_TRACKING_URI": "https://m:5000/x"}
    warnings = capsys.readouterr().err
    assert "pa55word" not in warnings
    assert "MLFLOW_TRACKING_PASSWORD on the cluster's nodes" in warnings
    assert "AWS_SECRET_ACCESS_KEY stays here" in warnings


@pytest.mark.parametrize(
    "address", ["postgresql://me:pa55word@db/mlflow", "http://m:5000/?api_token=pa55word"]
)
def test_an_address_of_no_use_without_its_secret(address: str) -> None:
    with pytest.raises(UsageError, match="environment of the cluster's nodes") as refused:
        job_variables({"MLFLOW_TRACKING_URI": address}, Progress())
    assert "pa55word" not in str(refused.value)


def test_a_command_without_secrets() -> None:
    refuse_secrets(["launch", "sweep.yaml", "--runs", "s3://bucket/runs", "search.num_trials=4"])
    with pytest.raises(UsageError, match="must be without credentials") as refused:
        refuse_secrets(["--runs", "s3://key:pa55word@bucket/runs"])
    assert "pa55word" not in str(refused.value)


def test_the_token_is_looked_for_where_ray_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.cluster.job_server.OWN_TOKEN", tmp_path / "none")
    token = tmp_path / "token"
    token.write_text("abc\n")
    assert auth_token({}) == ""
    assert auth_token({"RAY_AUTH_TOKEN_PATH": str(token)}) == "abc"
    assert auth_token({"RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_MODE": "disabled"}) == ""
    assert auth_token({"RAY_AUTH_TOKEN": "xyz", "RAY_AUTH_TOKEN_PATH": str(token)}) == "xyz"
    with pytest.raises(PreflightError, match="RAY_AUTH_TOKEN_PATH"):
        auth_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "gone")})


def test_a_submitted_driver_knows_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    git: dict[str, Any] = {"commit": "c0ffee", "dirty": False}
    monkeypatch.setenv(SUBMISSION, json.dumps({"package": "sha256:1", "git": git}))
    assert environment(1).git == GitState(**git)
    assert environment(1).package == "sha256:1"


def test_a_runs_folder_as_the_cluster_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cluster_folder("runs") == str(tmp_path / "runs")
    assert cluster_folder("s3://bucket/runs") == "s3://bucket/runs"
    assert submission_name("a", "/x") != submission_name("a", "/y")


# -- the job server ---------------------------------------------------------------------------------------------


class FakeJobServer(BaseHTTPRequestHandler):
    """Keeps packages and jobs, as Ray's does; every job is over at once unless ``status`` says otherwise."""

    packages: dict[str, bytes]
    jobs: dict[str, dict[str, object]]
    status = "SUCCEEDED"
    log = ""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, code: int, body: object = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != "Bearer t0ken":
            return self._answer(401)
        *_, last = self.path.split("/")
        if self.path == "/api/version":
            return self._answer(200, {"ray_version": "2.60.0"})
        if self.path.startswith("/api/packages"):
            return self._answer(200 if last in self.packages else 404)
        if last == "logs":
            return self._answer(200, {"logs": self.log})
        job = self.jobs.get(last)
        if job is None:
            return self._answer(404)
        code = {"SUCCEEDED": 0, "FAILED": 5}.get(self.status)
        return self._answer(200, {"status": self.status, "driver_exit_code": code, "message": "a\nwhy"})

    def do_PUT(self) -> None:
        self.packages[self.path.split("/")[-1]] = self._body()
        self._answer(200)

    def do_POST(self) -> None:
        job = json.loads(self._body())
        if job["submission_id"] in self.jobs:
            return self._answer(
                500, f"ValueError: Job with submission_id {job['submission_id']} already exists"
            )
        self.jobs[job["submission_id"]] = job
        return self._answer(200, {"submission_id": job["submission_id"]})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[FakeJobServer]]]:
    """Address and state of a job server."""
    kept = type("Kept", (FakeJobServer,), {"packages": {}, "jobs": {}})
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t0ken")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr("orchestrator.cluster.submit.POLL_S", 0.01)
    for name in ("HTTP_PROXY", "http_proxy", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), kept) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", kept
        server.shutdown()
        thread.join()


def submit(address: str, *arguments: str) -> int:
    return main(
        ["launch", str(SMOKE), "--submit", "--address", address, "--runs", "/shared/runs", *arguments]
    )


def test_what_a_job_is_made_of(
    fake: tuple[str, type[FakeJobServer]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address, server = fake
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pa55word@mlflow:5000")
    server.log = "smoke: started on the Ray cluster at x:1, driven by process 7 on head\n"
    assert submit(address, "name=a b", "-q") == 3
    assert submit(address, "search.num_trials=2") == 0
    ((name, job),) = server.jobs.items()
    assert name == f"{submission_name('smoke', '/shared/runs')}-1"
    assert job["entrypoint"] == (
        "exec python -m orchestrator.cli launch sweep.yaml --runs /shared/runs search.num_trials=2"
    )
    stored = json.dumps(job)
    assert "pa55word" not in stored
    assert "t0ken" not in stored
    ((file_name, content),) = server.packages.items()
    assert job["runtime_env"]["working_dir"] == f"gcs://{file_name}"
    assert zipfile.ZipFile(io.BytesIO(content)).read("sweep.yaml") == SMOKE.read_bytes()
    assert job["metadata"]["selmix.package"].startswith("sha256:")
    submission = json.loads(job["runtime_env"]["env_vars"][SUBMISSION])
    assert submission["package"] == job["metadata"]["selmix.package"]
    assert "pa55word" not in capsys.readouterr().err


def test_submitted_again(fake: tuple[str, type[FakeJobServer]], capsys: pytest.CaptureFixture[str]) -> None:
    address, server = fake
    assert submit(address) == 0
    assert submit(address) == 0  # a job that is over: the next one resumes
    assert [name[-2:] for name in server.jobs] == ["-1", "-2"]
    assert len(server.packages) == 1
    server.status = "RUNNING"
    capsys.readouterr()
    assert submit(address) == 4
    assert "smoke: runs already, as job" in capsys.readouterr().err
    assert len(server.jobs) == 2
    with pytest.raises(JobExists):
        JobServer(address).submit(next(iter(server.jobs)), "true", {}, {})


def test_how_a_job_ended(fake: tuple[str, type[FakeJobServer]], capsys: pytest.CaptureFixture[str]) -> None:
    address, server = fake
    server.status, server.log = "FAILED", "selmix: smoke: 3 of 4 trials failed"
    assert submit(address, "--follow", "-q") == 5
    assert capsys.readouterr().err == "warning: selmix: smoke: 3 of 4 trials failed\n"
    server.status = "STOPPED"
    with pytest.raises(PreflightError, match="must run, stopped: why"):
        attend(JobServer(address), next(iter(server.jobs)), "smoke", "/r", True, Progress(quiet=True))
    with pytest.raises(PreflightError, match="is gone"):
        attend(JobServer(address), "none", "smoke", "/r", True, Progress(quiet=True))


def test_a_token_that_is_not_the_cluster_s(
    fake: tuple[str, type[FakeJobServer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wr0ng")
    with pytest.raises(PreflightError, match="refused with 401; set RAY_AUTH_MODE=token") as refused:
        JobServer(fake[0]).check()
    assert "wr0ng" not in str(refused.value)
