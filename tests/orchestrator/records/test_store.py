"""One contract for both kinds of runs folder: a folder that this machine sees, and an object store behind a copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import PreflightError, UsageError
from orchestrator.records.leases.in_store import ClaimLease
from orchestrator.records.leases.on_disk import DiskLease
from orchestrator.records.object_store import ObjectStore
from orchestrator.records.store import LocalStore, Store
from orchestrator.records.synced_folder import SyncedStore
from tests.fakes.servers import BUCKET, KEY, SECRET, credentials

Opener = Callable[[], Store]


@pytest.fixture(params=["local", "synced"])
def head(request: pytest.FixtureRequest, tmp_path: Path, address: str) -> Opener:
    """Opens the same runs folder, each time as another process would."""
    if request.param == "local":
        return lambda: LocalStore(tmp_path / "not" / "made")
    endpoint = request.getfixturevalue("endpoint")
    return lambda: SyncedStore(ObjectStore(address, credentials(endpoint)))


def put(store: Store, relative: str, text: str = "x") -> Path:
    """Write a file and let others see it."""
    path = store.root / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    store.publish(path)
    return path


def read(store: Store, relative: str) -> str | None:
    """The file as another process finds it; None where there is none."""
    path = store.current(store.root / relative, anew=True)
    return path.read_text() if path.is_file() else None


def test_an_empty_runs_folder_answers_every_question(head: Opener) -> None:
    store = head()
    assert store.sweep_names() == store.subfolders(store.root / "s") == []
    assert not store.exists(store.root / "s" / "sweep.json")
    assert read(store, "s/sweep.json") is None
    store.pull(store.root / "s", (".json",))
    store.discard(store.root / "s" / "sweep.json")
    store.discard_tree(store.root / "s")
    store.forget(store.root / "t")
    store.flush()


def test_a_published_file_is_seen_by_others_and_its_next_version_too(head: Opener) -> None:
    ours, theirs = head(), head()
    put(ours, "s/é b/x.json", "one")
    assert theirs.exists(theirs.root / "s" / "é b" / "x.json")
    assert read(theirs, "s/é b/x.json") == "one"
    put(ours, "s/é b/x.json", "")
    assert read(theirs, "s/é b/x.json") == ""


def test_a_file_that_waits_is_published_by_the_next_flush(head: Opener) -> None:
    ours, theirs = head(), head()
    path = ours.root / "s" / "driver.log"
    path.parent.mkdir(parents=True)
    path.write_text("one")
    gone = path.with_name("gone.log")
    for _ in range(2):
        ours.publish_later(path)
        ours.publish_later(gone)
    path.write_text("two")
    for _ in range(2):
        ours.flush()
    assert read(theirs, "s/driver.log") == "two"
    assert read(theirs, "s/gone.log") is None


def test_sweeps_are_the_folders_with_a_state_in_order(head: Opener) -> None:
    store = head()
    for name in ("b", "a-1", "a"):
        put(store, f"{name}/sweep.json")
    put(store, "other/notes.json")
    put(store, "deep/er/sweep.json")
    put(store, "sweep.json")
    assert head().sweep_names() == ["a", "a-1", "b"]


def test_subfolders_are_names_in_order_and_no_files(head: Opener) -> None:
    store = head()
    for name in ("ray/010/c/x", "ray/002/x", "ray/note.txt"):
        put(store, f"s/{name}")
    assert store.subfolders(store.root / "s" / "ray") == ["002", "010"]
    assert store.subfolders(store.root / "s" / "ra") == []


def test_what_is_discarded_is_gone_for_everybody(head: Opener) -> None:
    ours, theirs = head(), head()
    path, kept = put(ours, "s/x.json"), put(ours, "s/x.json.txt")
    assert read(theirs, "s/x.json") == "x"
    for _ in range(2):
        ours.discard(path)
    assert not path.exists()
    assert not theirs.exists(theirs.root / "s" / "x.json")
    assert read(theirs, "s/x.json") is None
    assert ours.exists(kept)


def test_a_tree_that_is_discarded_leaves_its_neighbours(head: Opener) -> None:
    ours = head()
    for name in ("ray/000/c/a", "ray/000/c/deep/b", "ray/0001/a", "raya"):
        put(ours, f"s/{name}")
    for _ in range(2):
        ours.discard_tree(ours.root / "s" / "ray" / "000")
    theirs = head()
    found = [
        name
        for name in ("ray/000/c/a", "ray/000/c/deep/b", "ray/0001/a", "raya")
        if read(theirs, f"s/{name}")
    ]
    assert found == ["ray/0001/a", "raya"]


def test_an_address_leads_back_to_its_path(head: Opener) -> None:
    store = head()
    path = store.root.absolute() / "s" / "trials" / "o" / "trial-000"
    assert store.path_of(store.address_of(path)) == path
    sweep = store.root.absolute() / "s"
    assert store.address_of(path) == f"{store.address_of(sweep)}/trials/o/trial-000"


def test_the_address_of_the_runs_folder_leads_back_to_it(address: str) -> None:
    store = SyncedStore(ObjectStore(address, {}))
    assert store.address_of(store.root) == store.objects.root
    assert store.path_of(store.objects.root) == store.root


def test_a_copy_is_whole_or_not_at_all(head: Opener, tmp_path: Path) -> None:
    put(head(), "s/w", "weights")
    store, home = head(), tmp_path / "new" / "home"
    store.copy(store.root / "s" / "w", home / "w")
    assert (home / "w").read_text() == "weights"
    with pytest.raises(FileNotFoundError):
        store.copy(store.root / "s" / "none", home / "none")
    with pytest.raises(FileNotFoundError):
        store.copy(store.root / "s" / "none", home / "w")
    assert [(path.name, path.read_text()) for path in home.iterdir()] == [("w", "weights")]


def test_a_pull_brings_the_documents_and_forgetting_loses_nothing(head: Opener) -> None:
    ours = head()
    for name in ("sweep.json", "trials/o/record.json", "sweep.yaml"):
        put(ours, f"s/{name}", name)
    theirs = head()
    for _ in range(2):
        theirs.pull(theirs.root / "s", (".json", ".yaml"), ("ray/",))
        for name in ("sweep.json", "trials/o/record.json", "sweep.yaml"):
            assert (theirs.root / "s" / name).read_text() == name
        theirs.forget(theirs.root / "s")
        assert theirs.exists(theirs.root / "s" / "sweep.json")


def test_the_file_of_a_probe_lasts_as_long_as_its_block(head: Opener) -> None:
    store, other = head(), head()
    with store.probe(".probe-1", b"token") as folder:
        assert f"{folder}/.probe-1" == store.address_of(store.root / ".probe-1")
        assert read(other, ".probe-1") == "token"
    assert read(other, ".probe-1") is None
    with pytest.raises(ZeroDivisionError), store.probe(".probe-2", b"token"):
        _ = 1 / 0
    assert not other.exists(other.root / ".probe-2")


def test_a_folder_is_shown_below_the_runs_folder_and_a_check_of_it_leaves_no_sweep(head: Opener) -> None:
    store = head()
    assert store.shown_folder("s") == f"{store.shown}/s"
    store.check("s")
    store.check_for_launch()
    assert store.sweep_names() == []
    assert not store.exists(store.root / "s")


def test_each_store_has_its_own_kind_of_lease_and_of_tracking(tmp_path: Path) -> None:
    local, remote = LocalStore(tmp_path), SyncedStore(ObjectStore(f"s3://{BUCKET}/x", {}))
    assert isinstance(local.lease("s"), DiskLease)
    assert isinstance(remote.lease("s"), ClaimLease)
    assert (local.own_tracking(), remote.own_tracking()) == (tmp_path, None)
    assert local.filesystem() is None


# -- one of the two alone ---------------------------------------------------------------------------------


def test_a_local_probe_takes_the_folders_that_it_made_and_what_nodes_left(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "a" / "b")
    with store.probe(".probe-1", b"token") as folder:
        (Path(folder) / ".probe-1-node-7").write_text("token")
    assert list(tmp_path.iterdir()) == []
    with store.probe(".probe-1", b"token") as folder:
        (Path(folder) / "sweep").write_text("of somebody else")
    assert [path.name for path in store.root.iterdir()] == ["sweep"]


def test_a_local_probe_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    probe = LocalStore(tmp_path / "runs").probe(".probe-1", b"token")
    with pytest.raises(PreflightError, match=r"runs: must be writable: .*; choose another --runs folder"):
        probe.__enter__()
    assert (tmp_path / "runs").read_text() == ""


def test_a_pull_leaves_other_files_in_the_store(endpoint: str, address: str) -> None:
    objects = ObjectStore(address, credentials(endpoint))
    for name in ("sweep.json", "weights.safetensors", "ray/000/state.json", "lease/a.json", "rayon.json"):
        objects.put(f"s/{name}", b"x")
    objects.put("sx/sweep.json", b"x")
    store = SyncedStore(objects)
    store.pull(store.root / "s", (".json",), ("ray/", "lease/"))
    brought = sorted(
        path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()
    )
    assert brought == ["s/rayon.json", "s/sweep.json"]


def test_a_pull_does_not_overwrite_a_line_that_waits_to_be_published(endpoint: str, address: str) -> None:
    store = SyncedStore(ObjectStore(address, credentials(endpoint)))
    path = put(store, "s/x.json", "old")
    path.write_text("new")
    store.pull(store.root / "s", (".json",))
    assert store.current(path).read_text() == "new"
    assert store.current(path, anew=True).read_text() == "old"


def test_the_private_copy_is_for_its_owner_only_and_goes_with_the_store(address: str) -> None:
    store = SyncedStore(ObjectStore(address, {}))
    root = store.root
    assert root == store.root
    assert (root.stat().st_mode & 0o777, list(root.iterdir())) == (0o700, [])
    del store
    assert not root.exists()


def test_credentials_in_the_address_are_no_way_to_launch(address: str) -> None:
    store = SyncedStore(ObjectStore(address.replace("s3://", f"s3://{KEY}:{SECRET}@"), {}))
    with pytest.raises(UsageError, match="must be without credentials for a sweep to run"):
        store.check_for_launch()
