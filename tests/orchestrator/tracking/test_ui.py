"""`selmix ui`: the pages of the store of a runs folder, without passwords on the command line."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import NotFound, PreflightError
from orchestrator.records.store import LocalStore
from orchestrator.tracking.ui import check_port_free, open_ui, ui_command, ui_environment

DATABASE = "postgresql://user:secret-word@host/db"


class Server:
    """Stands for the process of the pages: it ends with a code, or is interrupted."""

    def __init__(self, code: int | None) -> None:
        self.code, self.ended, self.waits = code, False, 0
        self.started: list[str] = []
        self.environ: dict[str, str] = {}

    def __call__(self, command: list[str], env: dict[str, str], **_: Any) -> Server:
        self.started, self.environ = command, env
        return self

    def wait(self) -> int:
        self.waits += 1
        if self.code is None and self.waits == 1:
            raise KeyboardInterrupt
        return self.code or 0

    def terminate(self) -> None:
        self.ended = True


def test_the_store_is_named_and_the_address_printed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").touch()
    server = Server(3)
    monkeypatch.setattr(subprocess, "Popen", server)
    assert open_ui(LocalStore(tmp_path), "127.0.0.1", 5001) == 3
    assert capsys.readouterr().out == "http://127.0.0.1:5001\n"
    assert server.started[-2:] == ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    assert server.started[server.started.index("--port") + 1] == "5001"


def test_ctrl_c_ends_the_server_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").touch()
    server = Server(None)
    monkeypatch.setattr(subprocess, "Popen", server)
    assert open_ui(LocalStore(tmp_path), "127.0.0.1", 5001) == 130
    assert (server.ended, server.waits) == (True, 2)


def test_a_signal_from_elsewhere_ends_the_server_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would keep the port, and the next `selmix ui` would find it taken."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").touch()
    server = Server(0)
    waited = iter([lambda: signal.raise_signal(signal.SIGTERM), lambda: None])
    monkeypatch.setattr(server, "wait", lambda: next(waited)())
    monkeypatch.setattr(subprocess, "Popen", server)
    assert open_ui(LocalStore(tmp_path), "127.0.0.1", 5001) == 143
    assert server.ended


def test_a_password_of_a_database_is_on_no_command_line() -> None:
    assert "secret-word" not in " ".join(ui_command(DATABASE))
    environ = ui_environment(DATABASE, {"KEPT": "1"})
    assert (environ["MLFLOW_BACKEND_STORE_URI"], environ["KEPT"]) == (DATABASE, "1")
    assert "MLFLOW_BACKEND_STORE_URI" not in ui_environment("sqlite:////x.db", {})


def test_a_server_has_pages_of_its_own_and_a_missing_store_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("nothing is to be served"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:secret-word@host/x")
    assert open_ui(LocalStore(tmp_path), "127.0.0.1", 5000) == 0
    assert capsys.readouterr().out == "https://host/x\n"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(NotFound, match=r"mlflow\.db: no MLflow store yet; `selmix launch` makes it"):
        open_ui(LocalStore(tmp_path), "127.0.0.1", 5000)
    assert list(tmp_path.iterdir()) == []


def test_links_stand_below_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").touch()
    monkeypatch.setattr(subprocess, "Popen", Server(0))
    assert open_ui(LocalStore(tmp_path), "127.0.0.1", 5001, lambda pages: [f"s: {pages}/#/x"]) == 0
    assert capsys.readouterr().out == "http://127.0.0.1:5001\ns: http://127.0.0.1:5001/#/x\n"


def test_a_taken_port_is_one_line_and_one_that_was_let_go_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            PreflightError, match=rf"^--port: 127\.0\.0\.1:{port} must be free .*: --port \d+$"
        ) as caught:
            check_port_free("127.0.0.1", port)
        assert "\n" not in str(caught.value)
    check_port_free("127.0.0.1", port)
    with pytest.raises(PreflightError, match="--host, --port: must be an address of this machine"):
        check_port_free("127.0.0.1", 65536)
    with pytest.raises(PreflightError, match=r"--host, --port: .* got 192\.0\.2\.1:5000"):
        check_port_free("192.0.2.1", 5000)
