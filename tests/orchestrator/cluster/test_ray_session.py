"""Environment of Ray: what it reads while a block lasts, with a token of its own, and what a user has set stays."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import ray

from orchestrator.cluster import ray_session
from orchestrator.cluster.address import Cluster
from orchestrator.cluster.code_package import pack
from orchestrator.cluster.ray_session import connected, connecting, ray_environment
from orchestrator.errors import PreflightError

TOKEN = "RAY_AUTH_TOKEN_PATH"


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TUNE_"))}
    with mock.patch.dict(os.environ, kept, clear=True):
        yield


def test_a_private_ray_has_a_token_that_only_its_owner_reads_and_that_goes_with_it() -> None:
    with ray_environment(Cluster()):
        token = Path(os.environ[TOKEN])
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert len(token.read_text()) == 64
        assert token.parent.stat().st_mode & 0o077 == 0
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"  # it listens on loopback
        first = token.read_text()
    assert not token.exists()
    assert TOKEN not in os.environ
    assert "RAY_AUTH_MODE" not in os.environ
    with contextlib.suppress(ZeroDivisionError), ray_environment(Cluster()):
        token = Path(os.environ[TOKEN])
        assert token.read_text() != first
        raise ZeroDivisionError
    assert not token.exists()


@pytest.mark.parametrize("name", [TOKEN, "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"])
def test_a_user_who_configures_authentication_brings_the_token(name: str) -> None:
    os.environ[name] = "mine"
    with ray_environment(Cluster()):
        assert {key for key in os.environ if key.startswith("RAY_AUTH")} == {name}
    assert os.environ[name] == "mine"


def test_a_cluster_s_driver_makes_no_token_and_its_processes_join_no_other_cluster() -> None:
    os.environ["RAY_ADDRESS"] = "other:6379"
    os.environ["RAY_TQDM"] = "1"
    with ray_environment(Cluster("10.0.0.1:6379")):
        assert "RAY_ADDRESS" not in os.environ
        assert TOKEN not in os.environ
        assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ
        assert os.environ["RAY_TQDM"] == "1"  # what the user has set stays
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["RAY_ADDRESS"] == "other:6379"


def test_workers_import_this_checkout_before_anything_else_and_once() -> None:
    root = str(Path(__file__).parents[3])
    os.environ["PYTHONPATH"] = "/a::/b"
    for _ in range(2):
        with ray_environment(Cluster("head:6379")):
            assert os.environ["PYTHONPATH"].split(os.pathsep) == [root, "/a", "/b"]


def test_signals_that_drain_do_not_reach_the_processes_of_a_private_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They inherit the mask of the moment in which Ray starts; the driver's own is as before."""
    started: list[tuple[set[int], dict[str, Any]]] = []
    ended: list[bool] = []
    monkeypatch.setattr(
        ray, "init", lambda **given: started.append((set(signal.pthread_sigmask(0, ())), given))
    )
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    with connected(Cluster()):
        assert not signal.pthread_sigmask(0, ()) & {signal.SIGTERM, signal.SIGUSR1}
        assert not ended
    ((mask, given),) = started
    assert mask >= {signal.SIGTERM, signal.SIGUSR1}
    assert (given["address"], given["include_dashboard"]) == ("local", False)  # it joins no other Ray
    assert ended == [True]


def test_the_code_goes_to_a_cluster_as_a_file_that_is_gone_once_it_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = pack({"a.py": b"a"})
    sent: list[tuple[Path, bytes]] = []

    def init(address: str, runtime_env: dict[str, str], **_: Any) -> None:
        assert address == "head:6379"
        path = Path(runtime_env["working_dir"])
        sent.append((path, path.read_bytes()))

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with connected(Cluster("head:6379", package)):
        ((path, content),) = sent
        assert (path.name, content) == (package.file_name, package.content)
        assert not path.exists()


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (Cluster(), "Ray on this machine: must start, got: no memory; look at Ray's own logs"),
        (
            Cluster("head:6379"),
            "Ray cluster at head:6379: must accept this driver, got: no memory; check the address",
        ),
    ],
)
def test_a_ray_that_does_not_start_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, words: str
) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("no memory\nand much more")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("there is nothing to end"))
    with pytest.raises(PreflightError) as error, connected(cluster):
        pass
    assert str(error.value).startswith(words)
    assert "much more" not in str(error.value)


def test_workers_import_from_the_folders_of_the_users_modules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/given")
    root = str(Path(__file__).parents[3])
    # The second time nothing is missing any more.
    for _ in range(2):
        with ray_environment(Cluster(), [tmp_path, tmp_path / "files", Path("/given")]):
            assert os.environ["PYTHONPATH"].split(os.pathsep) == [root, "/given", str(tmp_path / "files")]


# -- on a thread of its own -----------------------------------------------------------------------------------


def started_by(monkeypatch: pytest.MonkeyPatch, start: Callable[[], None]) -> None:
    @contextlib.contextmanager
    def fake(_: Cluster) -> Iterator[None]:
        start()
        yield

    monkeypatch.setattr(ray_session, "connected", fake)
    monkeypatch.setattr(ray_session, "_warm", lambda _: None)


def test_what_keeps_ray_away_is_raised_where_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        raise PreflightError("no Ray")

    started_by(monkeypatch, start)
    with connecting(Cluster()) as ray_start:
        for _ in range(2):
            with pytest.raises(PreflightError, match="no Ray"):
                ray_start.wait()


def test_where_there_is_no_cluster_nothing_is_waited_for() -> None:
    with connecting(None) as ray_start:
        ray_start.wait()
        assert ray_start.over.is_set()


def test_a_start_that_hangs_does_not_keep_what_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    started_by(monkeypatch, lambda: assert_(goes_on.wait(30)))
    monkeypatch.setattr(ray_session, "END_S", 0.1)
    began = time.monotonic()
    with connecting(Cluster()) as ray_start:
        assert not ray_start.over.is_set()
    assert time.monotonic() - began < 10
    goes_on.set()
    ray_start.wait()


def assert_(true: bool) -> None:
    assert true


def test_sigterm_is_ours_before_and_after_a_library_has_taken_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that a library sets below Python, from another thread, is gone once Ray is there."""
    libc, taken = ctypes.CDLL(None), threading.Event()

    def start() -> None:
        libc.signal(int(signal.SIGTERM), ctypes.c_void_p(1))  # SIG_IGN
        taken.set()

    started_by(monkeypatch, start)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    came: list[int] = []
    with connecting(Cluster()) as ray_start:
        # As the drain does it, a moment later.
        signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
        ray_start.wait()
        assert taken.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sigterm_before_the_drain_listens_ends_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    started_by(monkeypatch, lambda: None)

    def launch() -> None:
        with connecting(Cluster()) as ray_start:
            ray_start.wait()
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        launch()
    assert left.value.code == 143


@pytest.mark.ray
@pytest.mark.slow
def test_one_process_starts_a_private_ray_after_another() -> None:
    """As a notebook does that launches two sweeps: each has a token of its own, and Ray remembers the first."""
    script = """
import ray
from orchestrator.cluster.address import Cluster
from orchestrator.cluster.ray_session import connected, ray_environment
for number in range(2):
    with ray_environment(Cluster()), connected(Cluster()):
        print(ray.get(ray.remote(lambda: number).remote()), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split() == ["0", "1"], done.stderr[-2000:]
