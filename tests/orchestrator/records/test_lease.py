"""One contract for both keepers of a lease, a disk and an object store; and the holders that they keep."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.in_store import ClaimLease
from orchestrator.records.leases.lease import acquire, check_free, current_state, live_holder
from orchestrator.records.leases.on_disk import STALE_AFTER_S, DiskLease, Holder, LeaseBackend, process_start
from orchestrator.records.object_store import ObjectStore
from tests.fakes.servers import credentials

Damage = Callable[[str], None]


def holder(token: str, age_s: float = 0.0, host: str = "elsewhere") -> Holder:
    """A driver whose last heartbeat is ``age_s`` old. Tokens in order of the alphabet are in order of their claims."""
    return Holder(host, 1, "x", time.time() - age_s, token)


def myself(token: str, age_s: float = 0.0) -> Holder:
    """This process."""
    return Holder(
        socket.gethostname(), os.getpid(), process_start(os.getpid()) or "", time.time() - age_s, token
    )


@pytest.fixture(params=["disk", "store"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, address: str) -> tuple[LeaseBackend, Damage]:
    """A keeper, and a way to overwrite the record of a holder in it."""
    if request.param == "disk":

        def damage(text: str) -> None:
            (tmp_path / "lease.json").write_text(text)

        return DiskLease(tmp_path), damage
    store = ObjectStore(address, credentials(request.getfixturevalue("endpoint")))
    # Claims of the same second are in order of their tokens, so nothing need settle here.
    return ClaimLease(store, "s", settle_s=0.0), lambda text: store.put("s/lease/a.json", text.encode())


@pytest.fixture
def lease(kept: tuple[LeaseBackend, Damage]) -> LeaseBackend:
    return kept[0]


def test_a_free_lease_is_taken_and_given_back(lease: LeaseBackend) -> None:
    assert lease.holder() is None
    mine = holder("a")
    assert lease.claim(mine) is None
    assert lease.holder() == mine
    for _ in range(2):
        lease.withdraw(mine)
    assert lease.holder() is None
    assert lease.claim(holder("b")) is None


def test_a_live_holder_is_named_and_stays(lease: LeaseBackend) -> None:
    first = holder("a", age_s=50)
    lease.claim(first)
    for token in ("b", "c"):
        assert lease.claim(holder(token)) == first
    assert lease.holder() == first
    assert lease.renew(first)
    lease.withdraw(first)
    assert lease.holder() is None  # those that were refused left nothing behind


def test_a_holder_without_a_heartbeat_for_a_minute_is_taken_over(lease: LeaseBackend) -> None:
    first, second = holder("a", age_s=STALE_AFTER_S + 1), holder("b")
    lease.claim(first)
    assert lease.claim(second) is None
    assert lease.holder() == second
    assert not lease.renew(first)
    lease.withdraw(first)
    assert lease.holder() == second


def test_a_heartbeat_keeps_the_lease(lease: LeaseBackend) -> None:
    first = holder("a", age_s=STALE_AFTER_S + 1)
    lease.claim(first)
    assert lease.renew(first)
    beaten = lease.holder()
    assert beaten is not None
    assert beaten.heartbeat > first.heartbeat + STALE_AFTER_S
    assert replace(beaten, heartbeat=0.0) == replace(first, heartbeat=0.0)
    assert lease.claim(holder("b")) == beaten


def test_a_driver_that_never_claimed_renews_nothing(lease: LeaseBackend) -> None:
    assert not lease.renew(holder("a"))
    assert lease.holder() is None
    lease.withdraw(holder("a"))
    lease.claim(holder("b"))
    assert not lease.renew(holder("a"))
    lease.withdraw(holder("a"))
    assert lease.holder() is not None


def test_on_its_own_host_the_process_counts_and_not_the_heartbeat(lease: LeaseBackend) -> None:
    alive = myself("a", age_s=1e6)
    lease.claim(alive)
    assert lease.claim(holder("b")) == alive
    lease.withdraw(alive)
    lease.claim(replace(myself("c"), process_start="another process of that number"))
    assert lease.claim(holder("d")) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"host": "elsewhere"}'])
def test_a_damaged_lease_is_held_by_nobody(kept: tuple[LeaseBackend, Damage], text: str) -> None:
    lease, damage = kept
    lease.claim(holder("a"))
    damage(text)
    assert lease.holder() is None
    assert lease.claim(holder("b")) is None


def test_a_place_that_fails_refuses_claims_and_beats_but_no_withdrawal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> None:
        raise OSError("AccessDenied")

    monkeypatch.setattr("pyarrow.fs.S3FileSystem", refused)
    for lease in (
        DiskLease(tmp_path / "none"),
        ClaimLease(ObjectStore("s3://bucket/x", {}), "s", settle_s=0.0),
    ):
        with pytest.raises(PreflightError):
            lease.claim(holder("a"))
        with pytest.raises(PreflightError):
            lease.renew(holder("a"))
        lease.withdraw(holder("a"))


def test_the_dead_hold_nothing(lease: LeaseBackend) -> None:
    lease.claim(holder("a", age_s=STALE_AFTER_S + 1))
    assert lease.holder() is None


def test_a_claim_by_its_own_holder_succeeds(lease: LeaseBackend) -> None:
    mine = holder("a")
    assert lease.claim(mine) is None
    assert lease.claim(mine) is None
    assert lease.holder() == mine


# -- one of the two alone ---------------------------------------------------------------------------------


def test_a_claim_that_was_removed_while_it_settled_is_not_held(
    endpoint: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(address, credentials(endpoint))
    mine, settled = holder("b"), []

    def meanwhile(seconds: float) -> None:
        settled.append(seconds)
        store.delete("s/lease/b.claim")

    monkeypatch.setattr("orchestrator.records.leases.in_store.time.sleep", meanwhile)
    assert ClaimLease(store, "s").claim(mine) == mine
    assert settled == [3.0]


def test_of_claims_of_the_same_second_the_token_decides(endpoint: str, address: str) -> None:
    store = ObjectStore(address, credentials(endpoint))
    lease = ClaimLease(store, "s", settle_s=0.0)
    first, second = holder("a"), holder("b")
    for _ in range(5):  # until the store's clock does not tick between the two
        lease.claim(second)
        other = lease.claim(first)
        claims = [item.time_s for item in store.objects("s/lease") if item.path.endswith(".claim")]
        if len(claims) == 2 and claims[0] == claims[1]:
            break
        lease.withdraw(first)
        lease.withdraw(second)
    assert other is None
    assert lease.holder() == first


def test_a_heartbeat_without_a_claim_claims_nothing(endpoint: str, address: str) -> None:
    store = ObjectStore(address, credentials(endpoint))
    lease = ClaimLease(store, "s", settle_s=0.0)
    lease.claim(holder("a"))
    store.delete("s/lease/a.claim")
    assert lease.holder() is None
    assert lease.claim(holder("b")) is None


@pytest.mark.parametrize(
    ("age_s", "alive"), [(-5.0, True), (0.0, True), (59.9, True), (60.0, False), (1e9, False)]
)
def test_another_host_is_judged_by_its_heartbeat(age_s: float, alive: bool) -> None:
    assert replace(holder("a"), heartbeat=1000.0).is_alive(now=1000.0 + age_s) is alive


def test_a_process_has_one_start_and_a_zombie_none() -> None:
    mine = process_start(os.getpid())
    assert mine
    assert mine == process_start(os.getpid())
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert process_start(ended.pid) is None
    assert process_start(ended.pid) is None


# -- a sweep's lease --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.local(tmp_path / "runs", "s")


def test_the_lease_of_a_folder_that_is_not_there_is_free_and_looking_makes_nothing(folder: RunFolder) -> None:
    check_free(folder)
    assert live_holder(folder) is None
    assert not folder.path.exists()
    acquire(folder).release()
    assert folder.path.is_dir()


def test_a_second_driver_is_refused_with_the_process_to_end(folder: RunFolder) -> None:
    with acquire(folder) as lease:
        words = f"must have one driver at a time, held by process {os.getpid()} on {socket.gethostname()} "
        for refused in (lambda: acquire(folder), lambda: check_free(folder)):
            with pytest.raises(PreflightError) as error:
                refused()
            assert words in str(error.value)
            assert str(error.value).endswith(f"or end it with: kill -INT {os.getpid()}")
        assert lease.holder == live_holder(folder)


def test_a_heartbeat_of_the_future_is_no_negative_age(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    folder.lease.claim(holder("a", age_s=-30))
    with pytest.raises(PreflightError, match=r"on elsewhere \(heartbeat 0 s ago\)"):
        check_free(folder)


def test_releasing_twice_leaves_the_next_holder_alone(folder: RunFolder) -> None:
    first = acquire(folder)
    first.release()
    with acquire(folder) as second:
        first.release()
        assert live_holder(folder) == second.holder
        assert second.holder.token != first.holder.token


def test_a_driver_that_raises_gives_its_lease_back(folder: RunFolder) -> None:
    with pytest.raises(ZeroDivisionError), acquire(folder):
        _ = 1 / 0
    assert live_holder(folder) is None


@pytest.mark.parametrize("written", ["running", "stopped", "finished", "failed"])
def test_the_state_of_a_sweep_is_running_exactly_while_it_is_driven(folder: RunFolder, written: str) -> None:
    assert current_state(folder, written) == ("stopped" if written == "running" else written)
    with acquire(folder):
        assert current_state(folder, written) == "running"
