"""Records, lease and study where the runs lie in an object store."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution

from orchestrator.errors import NotFound, PreflightError, UsageError
from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.in_store import ClaimLease
from orchestrator.records.leases.lease import acquire, current_state
from orchestrator.records.leases.on_disk import Holder
from orchestrator.records.logs import append_log, follow, log_of, logs_document
from orchestrator.records.object_store import ObjectStore
from orchestrator.records.stop_request import stop_request
from orchestrator.records.store import LocalStore
from orchestrator.records.synced_folder import SyncedStore, open_store
from orchestrator.records.types import SweepState, TrialRecord
from orchestrator.search.study import ObjectiveStudy
from orchestrator.tracking.address import tracking_of
from orchestrator.verbs.ls import ls_document
from orchestrator.verbs.show import show_document
from orchestrator.verbs.stop import stop_sweep
from tests.fakes.servers import BUCKET, KEY, SECRET, credentials, free_ports


@pytest.fixture
def store(endpoint: str, address: str) -> ObjectStore:
    return ObjectStore(address, credentials(endpoint))


def test_objects_come_back_and_go(store: ObjectStore, tmp_path: Path) -> None:
    store.check("sweep")
    assert store.objects("sweep") == []
    store.put("sweep/a.json", b"one")
    store.put("sweep/deep/b.json", b"two")
    assert [item.path for item in store.objects("sweep")] == ["sweep/a.json", "sweep/deep/b.json"]
    assert store.folders() == ["sweep"]
    assert store.get("sweep/a.json") == b"one"
    assert store.get("sweep/none") is None
    assert not store.fetch("sweep/none", tmp_path / "none")
    assert store.fetch("sweep/deep/b.json", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"two"
    store.delete("sweep/a.json")
    store.delete("sweep/a.json")
    store.delete_tree("sweep")
    assert store.objects("") == []


def test_the_address_may_hold_everything_and_is_masked(endpoint: str) -> None:
    host = endpoint.removeprefix("http://")
    given = f"s3://{KEY}:{SECRET}@{BUCKET}/prefix?scheme=http&region=us-east-1&endpoint_override={host}"
    store = ObjectStore(given, {})
    store.check("sweep")
    assert SECRET not in store.shown + repr(store)
    assert KEY not in store.shown
    folder = RunFolder.at(SyncedStore(store), "sweep")
    assert folder.shown == f"s3://{BUCKET}/prefix/sweep"
    lost = ObjectStore(given.replace(f"@{BUCKET}", "@nobody"), {})
    with pytest.raises(PreflightError, match="NO_SUCH_BUCKET") as refused:
        lost.check("sweep")
    assert SECRET not in str(refused.value)


def test_the_file_system_of_workers_holds_no_credentials(endpoint: str, address: str, tmp_path: Path) -> None:
    store = ObjectStore(address, credentials(endpoint))
    store.put("sweep/a", b"one")
    handed = pickle.dumps(store.for_workers())
    assert not [secret for secret in (KEY, SECRET) if secret.encode() in handed]
    assert SECRET.encode() in pickle.dumps(store.filesystem)  # what is kept from them
    (tmp_path / "fs").write_bytes(handed)
    read = "import pickle, sys; fs = pickle.load(open(sys.argv[1], 'rb'))\n"
    read += "print(fs.open_input_stream(sys.argv[2]).read())"
    command = [sys.executable, "-c", read, str(tmp_path / "fs"), store.full("sweep/a")]
    outputs = [
        subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False).stdout
        for own in (credentials(endpoint), {"AWS_EC2_METADATA_DISABLED": "true"})
    ]
    assert outputs == ["b'one'\n", ""]
    with pytest.raises(UsageError, match="AWS_SECRET_ACCESS_KEY instead, on the nodes of a cluster too"):
        ObjectStore(f"s3://{KEY}:{SECRET}@{BUCKET}/x", {}).for_workers()


def test_what_is_no_address_is_refused() -> None:
    local = open_store("some/folder")
    assert isinstance(local, LocalStore)
    assert local.root == Path("some/folder")
    for wrong in ("gs://bucket/x", "s3://", f"s3://{KEY}:{SECRET}@bucket/x?regoin=a"):
        with pytest.raises(UsageError, match="must be FOLDER or s3://") as refused:
            open_store(wrong)
        assert SECRET not in str(refused.value)


def test_a_store_that_does_not_answer_is_reported_soon() -> None:
    gone = ObjectStore(f"s3://{BUCKET}/x", credentials(f"http://127.0.0.1:{free_ports(1)[0]}"))
    started = time.monotonic()
    with pytest.raises(PreflightError, match="must be a bucket that can be written"):
        gone.check("sweep")
    assert time.monotonic() - started < 20


def test_mlflow_must_be_named(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(PreflightError, match="MLFLOW_TRACKING_URI: must be set"):
        tracking_of(SyncedStore(store))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_of(SyncedStore(store)) == "http://127.0.0.1:5000"


def test_records_are_the_same_from_another_head(endpoint: str, address: str) -> None:
    def head() -> SyncedStore:
        return SyncedStore(ObjectStore(address, credentials(endpoint)))

    folder = RunFolder.at(head(), "s")
    folder.create()
    folder.save_state(SweepState(name="s", sweep_id="1"))
    folder.save_spec({"objectives": ["o"]})
    record = TrialRecord("o/trial-000", "o", "trial", 0, 0, checkpoint="ray/000/x")
    folder.save_trial(record)
    for k in range(2):
        folder.append_round("o/trial-000", {"round": k})
    folder.weights_path("o/trial-000").write_bytes(b"weights")
    folder.store.publish(folder.weights_path("o/trial-000"))

    other = RunFolder.open(head(), "s")
    assert other.store.root != folder.store.root
    assert other.load_trials() == [record]
    assert not other.weights_path("o/trial-000").exists()  # brought when it is needed
    assert other.store.current(other.weights_path("o/trial-000")).read_bytes() == b"weights"
    other.append_round("o/trial-000", {"round": 2})
    third = RunFolder.open(head(), "s")
    assert [row["round"] for row in third.rounds("o/trial-000")] == [0, 1, 2]
    assert show_document(third).trials[0].trial_id == "o/trial-000"
    assert [row.sweep for row in ls_document(head()).sweeps] == ["s"]
    with pytest.raises(NotFound, match="did you mean s"):
        RunFolder.open(head(), "ss")


def test_checkpoints_are_recorded_relative(store: ObjectStore, tmp_path: Path) -> None:
    here, there = RunFolder.local(tmp_path / "here", "s"), RunFolder.local(tmp_path / "there", "s")
    recorded = here.relative_checkpoint(str(here.path.absolute() / "ray" / "000" / "c"))
    assert recorded == "ray/000/c"
    assert there.checkpoint_address(recorded) == str(there.path / "ray" / "000" / "c")
    old = str(tmp_path / "elsewhere" / "c")
    assert here.checkpoint_address(old) == old  # as records of before hold it
    remote = RunFolder.at(SyncedStore(store), "s")
    assert remote.relative_checkpoint(remote.checkpoint_address(recorded)) == recorded
    assert not remote.has_checkpoint(recorded)
    store.put("s/ray/000/c/trial.json", b"{}")
    assert remote.has_checkpoint(recorded)
    remote.drop(recorded)
    assert not remote.has_checkpoint(recorded)


def test_a_checkpoint_of_a_disk_is_not_in_a_store_that_the_records_were_moved_to(store: ObjectStore) -> None:
    assert not RunFolder.at(SyncedStore(store), "s").has_checkpoint("/runs/s/ray/000/c")


def test_of_two_contenders_exactly_one_holds_the_lease(store: ObjectStore) -> None:
    def contend(sweep: str, token: str) -> bool:
        mine = Holder("elsewhere", 1, "x", time.time(), token)
        return ClaimLease(store, sweep, settle_s=1.2).claim(mine) is None

    with ThreadPoolExecutor(40) as pool:
        pairs = [
            (pool.submit(contend, f"s{k}", f"a{k}"), pool.submit(contend, f"s{k}", f"b{k}"))
            for k in range(20)
        ]
        won = [first.result() + second.result() for first, second in pairs]
    assert won == [1] * 20


def test_the_lease_of_a_dead_driver_is_taken_over(
    endpoint: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClaimLease.__init__, "__defaults__", (0.05,))
    store = ObjectStore(address, credentials(endpoint))
    folder = RunFolder.at(SyncedStore(store), "s")
    dead = {"host": "elsewhere", "pid": 1, "process_start": "x", "token": "dead"}
    store.put("s/lease/dead.json", json.dumps(dead | {"heartbeat": time.time() - 30}).encode())
    store.put("s/lease/dead.claim", b"dead")
    time.sleep(1.1)  # the store's clock counts in seconds
    with pytest.raises(PreflightError, match="held by process 1 on elsewhere"):
        acquire(folder)
    store.put("s/lease/dead.json", json.dumps(dead | {"heartbeat": time.time() - 61}).encode())
    with acquire(folder, heartbeat_every_s=0.05) as lease:
        assert current_state(folder, "running") == "running"
        assert store.get("s/lease/dead.claim") is None
        folder.lease.withdraw(lease.holder)
        end = time.monotonic() + 5
        while not lease.lost and time.monotonic() < end:
            time.sleep(0.02)
        assert lease.lost
    assert current_state(folder, "running") == "stopped"


def test_logs_reach_the_store_and_continue_from_another_head(endpoint: str, address: str) -> None:
    def head() -> RunFolder:
        return RunFolder.at(SyncedStore(ObjectStore(address, credentials(endpoint))), "s")

    def log(folder: RunFolder, text: str) -> None:
        append_log(folder, folder.log_path, text)
        folder.store.flush()

    first = head()
    first.create()
    first.save_state(SweepState(name="s", sweep_id="1"))
    log(first, "one")
    reader = head()
    pieces = follow(reader, log_of(reader, None), lambda _: log(first, "two"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClaimLease.__init__, "__defaults__", (0.05,))
        lease = acquire(first)
    assert next(pieces).endswith("one\n")
    assert next(pieces).endswith("two\n")
    lease.release()
    log(head(), "three")
    assert [line.split()[-1] for line in logs_document(head(), None).lines] == ["one", "two", "three"]
    with pytest.raises(NotFound, match=r"none/driver.log: there is no log"):
        log_of(RunFolder.at(SyncedStore(ObjectStore(address, credentials(endpoint))), "none"), None)


def test_a_write_that_the_store_refuses_is_done_later(store: ObjectStore) -> None:
    synced = SyncedStore(store)
    log = synced.root / "s" / "log"
    log.parent.mkdir()
    log.write_text("one")
    synced.publish_later(log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "put_file", refusing)
        synced.flush()
    assert store.get("s/log") is None
    synced.flush()
    assert store.get("s/log") == b"one"


def refusing(store: ObjectStore, local: Path, path: str) -> None:
    raise PreflightError(f"{path}: not now")


def test_a_stop_is_requested_and_seen_through_the_store(
    endpoint: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClaimLease.__init__, "__defaults__", (0.05,))
    driver = RunFolder.at(SyncedStore(ObjectStore(address, credentials(endpoint))), "s")
    driver.create()
    driver.save_state(SweepState(name="s", sweep_id="1"))
    asker = RunFolder.open(SyncedStore(ObjectStore(address, credentials(endpoint))), "s")
    lease = acquire(driver)
    token = lease.holder.token
    assert stop_request(driver, token) is None

    def drained(_: float) -> None:
        request = stop_request(driver, token)
        assert request is not None
        assert request.cancel is False
        assert stop_request(driver, "another") is None
        driver.save_state(SweepState(name="s", sweep_id="1", state="stopped"))
        lease.release()

    assert stop_sweep(asker, 20, False, Progress(quiet=True), drained) == 0
    assert asker.load_state().state == "stopped"
    assert stop_request(driver, token) is None


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_a_study_made_again_from_records_proposes_the_same_points(tmp_path: Path, method: str) -> None:
    space = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.001, 1.0, log=True)}

    def study(name: str) -> ObjectiveStudy:
        return ObjectiveStudy(tmp_path / name, "o", method, 7, space, {"x": 0.5, "y": 0.1})

    def report(of: ObjectiveStudy, number: int, x: float) -> None:
        of.tell(number, None if number % 7 == 3 else -abs(x - 0.3), max(0.0, x - 0.8))

    whole, points = study("whole"), {}
    for _ in range(16):
        number, points[number] = whole.ask()
        report(whole, number, points[number]["x"])
    again = study("again")
    again.rebuild({number: points[number] for number in range(12) if number != 5})
    for number in range(12):
        report(again, number, points[number]["x"])
    rest = {}
    for _ in range(4):
        number, rest[number] = again.ask()
        report(again, number, rest[number]["x"])
    assert {k: v for k, v in points.items() if k != 5 and k in rest} == rest
