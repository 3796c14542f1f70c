"""The address of MLflow: made from a folder or the environment, and checked before anything is written."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.errors import PreflightError
from orchestrator.http_client import Answer, Request
from orchestrator.records.store import LocalStore
from orchestrator.tracking import address as module
from orchestrator.tracking.address import (
    check_tracking,
    first_opening,
    sqlite_path,
    tracking_address,
    tracking_of,
)


def address_of(given: str) -> str:
    return tracking_address(Path("runs"), {"MLFLOW_TRACKING_URI": given})


def test_one_store_has_one_address_whichever_folder_it_is_launched_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    whole = f"sqlite:///{tmp_path}/a.db"
    for given in ("sqlite:///a.db", "sqlite:///sub/../a.db", f" {whole} "):
        assert address_of(given) == whole
    assert address_of("sqlite:///a.db?timeout=5") == f"{whole}?timeout=5"
    assert sqlite_path(f"{whole}?timeout=5") == tmp_path / "a.db"
    assert tracking_address(Path("runs"), {}) == f"sqlite:///{tmp_path}/runs/mlflow.db"


@pytest.mark.parametrize(
    "given", ["postgresql://u:p@h/db", "mysql+pymysql://h/db", "http://h:5000", "https://u:p@h/x"]
)
def test_servers_and_databases_stay_as_they_are(given: str) -> None:
    assert address_of(given) == given
    assert sqlite_path(given) is None


@pytest.mark.parametrize("given", ["sqlite:///:memory:", "sqlite:///", "ftp://u:secret@h", "mssqlserver://h"])
def test_others_are_refused_without_their_credentials(given: str) -> None:
    with pytest.raises(
        PreflightError, match=r"must be http\(s\)://..., sqlite:///FILE or a database"
    ) as caught:
        address_of(given)
    assert "secret" not in str(caught.value)


def test_an_object_store_needs_a_server_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = SimpleNamespace(own_tracking=lambda: None, shown="s3://bucket/x", root=tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", " ")
    with pytest.raises(
        PreflightError, match=r"must be set where --runs is an object store \(s3://bucket/x\)"
    ):
        tracking_of(store)  # type: ignore[arg-type]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h/")
    assert tracking_of(store) == tracking_of(LocalStore(tmp_path)) == "http://h"  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [None, b"", b"SQLite format 3\x00..."])
def test_a_file_that_is_a_store_or_none_yet_is_accepted_and_left_alone(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "mlflow.db"
    if content is not None:
        path.write_bytes(content)
    check_tracking(f"sqlite:///{path}")
    check_tracking(f"sqlite:///{tmp_path}/a/b/mlflow.db")
    assert [each.name for each in tmp_path.iterdir()] == ([] if content is None else ["mlflow.db"])
    assert content is None or path.read_bytes() == content


def test_files_that_cannot_be_a_store_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("some other text")
    for address, says in (
        (f"sqlite:///{path}", "must be an SQLite file; move it away"),
        (
            f"sqlite:///{path}/x.db",
            "its folder must be writable: Not a directory; choose another --runs folder",
        ),
        (f"sqlite:///{tmp_path}", "its folder must be writable: Is a directory"),
    ):
        with pytest.raises(PreflightError, match=says):
            check_tracking(address)
    with (
        pytest.raises(PreflightError, match="its folder must be writable"),
        first_opening(f"sqlite:///{path}/x.db"),
    ):
        pass


def test_an_opening_makes_the_folder_and_leaves_an_empty_lock(tmp_path: Path) -> None:
    with first_opening(f"sqlite:///{tmp_path}/a/mlflow.db"), first_opening("http://h"):
        assert [each.name for each in (tmp_path / "a").iterdir()] == [".mlflow.db.lock"]
    with first_opening(f"sqlite:///{tmp_path}/a/mlflow.db"):  # the lock was given back
        pass


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(200, b"3.17.0\n"), None),
        (Answer(200, b"<html>3.1"), "an answer of another service"),
        (Answer(200, b""), "an answer of another service"),
        (Answer(403, b""), "refused with 403; check its credentials and allowed hosts"),
        (Answer(502, b""), "/version answered 502; start it or check the address"),
    ],
)
def test_a_server_answers_with_its_version(
    answer: Answer, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ask", lambda *_: answer)
    if says is None:
        check_tracking("http://u:secret@h")
        return
    with pytest.raises(PreflightError, match=rf"MLflow at http://h: must answer, got: {says}") as caught:
        check_tracking("http://u:secret@h")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "header"),
    [
        ({}, "Basic dTpw"),
        ({"MLFLOW_TRACKING_USERNAME": "v"}, "Basic djpw"),
        ({"MLFLOW_TRACKING_USERNAME": "v", "MLFLOW_TRACKING_PASSWORD": "q"}, "Basic djpx"),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "Basic dTpw"),
    ],
)
def test_credentials_are_those_that_mlflow_itself_sends(
    environ: dict[str, str], header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_TRACKING_")]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    sent: list[Request] = []

    def ask(request: Request, *_: object) -> Answer:
        sent.append(request)
        return Answer(200, b"3.0")

    monkeypatch.setattr(module, "ask", ask)
    check_tracking("http://u:p@h")
    assert [(each.path, each.secret_headers) for each in sent] == [("/version", {"Authorization": header})]
    check_tracking("http://h")
    bare = {"Authorization": "Bearer t"} if "MLFLOW_TRACKING_TOKEN" in environ else None
    assert bare is None or sent[1].secret_headers == bare
