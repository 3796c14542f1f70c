"""Openings of test splits: one file in the runs folder, counted by content, one after the other."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import PreflightError
from orchestrator.records import synced_folder
from orchestrator.records.folder import RunFolder
from orchestrator.records.object_store import ObjectStore
from orchestrator.records.openings import FILE, RecordedOpening, openings_of, record_opening
from orchestrator.records.store import LocalStore, Store
from orchestrator.records.synced_folder import SyncedStore
from orchestrator.records.types import DataFacts, Opening, SweepState
from selmix.sketch import Sketch
from tests.command import ROOT
from tests.fakes.servers import credentials

Opener = Callable[[], Store]
RACERS = 2


@pytest.fixture
def runs(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "runs")


def sweep(store: Store, name: str, test: str = "sha256:t", openings: tuple[Opening, ...] = ()) -> RunFolder:
    """A sweep whose test split has this digest, with openings that an earlier version recorded."""
    folder = RunFolder(store, name)
    folder.create()
    data = DataFacts(["a", "b"], [2, 1], {"train": "sha256:0", "test": test}, 4)
    folder.save_state(SweepState(name, f"id-{name}", "finished", data=data, test_openings=list(openings)))
    return folder


def opened(
    folder: RunFolder, content: str = "sha256:c", pin: str = "p", test: str = "sha256:t"
) -> RecordedOpening:
    return record_opening(folder, content, test, "pin", [pin], ["min_recall"])


def lines(store: Store) -> list[dict[str, Any]]:
    """The file, as another process finds it."""
    text = store.current(store.root / FILE, anew=True).read_text()
    return [json.loads(line) for line in text.splitlines()]


def by(folder: RunFolder) -> list[str]:
    return [opening.by for opening in folder.load_state().test_openings]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "synced"])
def test_sweeps_with_the_same_test_split_count_together(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, address: str
) -> None:
    def head() -> Store:
        """The same runs folder, as another process opens it."""
        if kind == "local":
            return LocalStore(tmp_path)
        return SyncedStore(ObjectStore(address, credentials(request.getfixturevalue("endpoint"))))

    store = head()
    first, second, other = (sweep(store, name, f"sha256:{name}") for name in ("first", "second", "other"))
    assert openings_of(first, first.load_state()) == []
    assert opened(first, test="sha256:first").t == 1
    # Read at another size its digest is another one, and its content is not.
    again = opened(RunFolder(head(), "second"), pin="q", test="sha256:second")
    assert (again.t, again.sweep, again.sweep_id, again.by) == (2, "second", "id-second", "pin q")
    assert opened(other, content="sha256:d", test="sha256:other").t == 1
    assert [(line["content"], line["t"]) for line in lines(head())] == [
        ("sha256:c", 1), ("sha256:c", 2), ("sha256:d", 1),
    ]  # fmt: skip
    assert list(lines(store)[1].items()) == [
        ("content", "sha256:c"), ("test", "sha256:second"), ("time", again.time), ("sweep", "second"),
        ("sweep_id", "id-second"), ("verb", "pin"), ("pins", ["q"]), ("objectives", ["min_recall"]), ("t", 2),
        ("samples", None), ("sketch", None), ("overlap", 1.0),
    ]  # fmt: skip
    # In the sweeps too, as before.
    assert (by(first), by(second), by(other)) == (["pin p"], ["pin q"], ["pin p"])
    seen = openings_of(first, first.load_state())
    assert [opening.by for opening in seen] == ["pin p", "pin q"]
    assert head().sweep_names() == ["first", "other", "second"]


RACE = """
import os, sys
from orchestrator.records.folder import RunFolder
from orchestrator.records.openings import record_opening
from orchestrator.records.synced_folder import open_store
folder = RunFolder(open_store(sys.argv[1]), "s")
print(record_opening(folder, "sha256:c", "sha256:t", "pin", [sys.argv[2]], []).t)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "synced"])
def test_of_two_processes_one_is_first(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, address: str
) -> None:
    environ = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
    where = str(tmp_path / "runs")
    store: Store = LocalStore(Path(where))
    if kind == "synced":
        environ |= credentials(request.getfixturevalue("endpoint"))
        store, where = SyncedStore(ObjectStore(address, environ)), address
    folder = sweep(store, "s")
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, where, f"p{k}"], env=environ, stdout=subprocess.PIPE, text=True)
        for k in range(RACERS)
    ]  # fmt: skip
    assert sorted(int(racer.communicate(timeout=120)[0]) for racer in racers) == [1, 2]
    assert [line["t"] for line in lines(store)] == [1, 2]
    assert sorted(by(folder)) == ["pin p0", "pin p1"]


def test_many_at_once_on_a_disk_lose_none(runs: LocalStore) -> None:
    from concurrent.futures import ThreadPoolExecutor

    folder = sweep(runs, "s")
    with ThreadPoolExecutor(8) as pool:
        ts = list(pool.map(lambda k: opened(folder, pin=f"p{k}").t, range(24)))
    assert sorted(ts) == list(range(1, 25))
    assert len(by(folder)) == 24


EARLIER = (
    Opening("2026-01-01T00:00:00+00:00", "pin old"),
    Opening("2026-01-02T00:00:00+00:00", "reproduce old"),
)


def test_openings_that_sweeps_have_on_record_count_once(runs: LocalStore) -> None:
    before, mine = sweep(runs, "before", openings=EARLIER), sweep(runs, "mine", openings=EARLIER[:1])
    sweep(runs, "elsewhere", "sha256:other", EARLIER)
    assert [opening.by for opening in openings_of(mine, mine.load_state())] == ["pin old"]
    assert opened(mine).t == 4
    assert opened(before).t == 5
    assert [(line["sweep"], line["verb"], line["pins"], line["t"]) for line in lines(runs)] == [
        ("before", "pin", ["old"], 1), ("mine", "pin", ["old"], 2), ("before", "reproduce", ["old"], 3),
        ("mine", "pin", ["p"], 4), ("before", "pin", ["p"], 5),
    ]  # fmt: skip
    assert [opening.t for opening in openings_of(mine, mine.load_state())] == [1, 2, 3, 4, 5]
    # They stay in the records of the sweeps, as they were.
    assert before.load_state().test_openings[:2] == list(EARLIER)


def test_a_sweep_without_data_has_no_openings(runs: LocalStore) -> None:
    folder = RunFolder(runs, "s")
    folder.create()
    folder.save_state(SweepState("s", "1" * 16, test_openings=list(EARLIER)))
    assert openings_of(folder, folder.load_state()) == []
    assert opened(folder).t == 1


def test_lines_stay_as_they_are_with_keys_of_a_later_version(runs: LocalStore) -> None:
    folder = sweep(runs, "s")
    opened(folder)
    path = runs.root / FILE
    later = {**lines(runs)[0], "confirmed_by": ["x"], "t": 2}
    kept = path.read_bytes() + b"\n" + json.dumps(later).encode()  # an empty line, and none at the end
    path.write_bytes(kept)
    assert opened(folder).t == 3
    assert path.read_bytes().startswith(kept + b"\n")
    assert path.read_bytes().count(b"\n") == 4


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"content": "sha256:c", "te', "Expecting|Unterminated"),
        (b"[1]", "it is a list"),
        (b'{"content": "sha256:c"}', "test Field required"),
        (b"\xff\xfe\xfd", "decode|codec"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_recorded(runs: LocalStore, line: bytes, says: str) -> None:
    folder = sweep(runs, "s")
    opened(folder)
    path = runs.root / FILE
    damaged = path.read_bytes() + line + b"\n" + path.read_bytes()
    path.write_bytes(damaged)
    for act in (lambda: opened(folder), lambda: openings_of(folder, folder.load_state())):
        with pytest.raises(PreflightError, match=says) as refused:
            act()
        assert str(refused.value).startswith(f"{runs.root}/{FILE}:2: must be a JSON object with an opening")
        assert "\n" not in str(refused.value)
    assert path.read_bytes() == damaged
    assert by(folder) == ["pin p"]


def test_what_is_no_file_is_refused(runs: LocalStore) -> None:
    folder = sweep(runs, "s")
    (runs.root / FILE).mkdir()
    with pytest.raises(PreflightError, match=rf"{FILE}: must be a readable file"):
        opened(folder)
    assert by(folder) == []


def test_a_damaged_sweep_could_hide_an_opening(runs: LocalStore) -> None:
    folder, other = sweep(runs, "s"), sweep(runs, "other")
    other.state_path.write_text("{")
    with pytest.raises(PreflightError, match=r"other/sweep\.json: .*repair or remove it"):
        opened(folder)
    assert not (runs.root / FILE).exists()


@pytest.mark.slow
def test_a_lock_that_is_not_let_go_is_answered_with_its_holder(
    endpoint: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synced_folder, "LOCK_TIMEOUT_S", 0.0)
    ours, theirs = (SyncedStore(ObjectStore(address, credentials(endpoint))) for _ in range(2))
    with (
        ours.exclusively("openings"),
        pytest.raises(PreflightError, match=rf"held by process {os.getpid()} on .*; wait for it"),
        theirs.exclusively("openings"),
    ):
        pytest.fail("two hold one lock")
    assert [item.path for item in ours.objects.objects(".openings")] == []  # nothing of it stays


def held(*samples: range) -> Sketch:
    return Sketch.of(hashlib.sha256(str(k).encode()).digest() for each in samples for k in each)


def opened_with(folder: RunFolder, content: str, samples: Sketch | None) -> tuple[int, float | None]:
    """Number and overlap of an opening of these samples."""
    line = record_opening(folder, content, f"test of {content}", "pin", [content], ["min_recall"], samples)
    return line.t, line.overlap


def test_other_samples_count_where_they_are_mostly_the_same(runs: LocalStore) -> None:
    folder, reader = sweep(runs, "s"), sweep(runs, "reader", "test of b")
    assert opened_with(folder, "a", held(range(500))) == (1, 0.0)
    # One number of the split changed: 490 of the 500 samples, which were all seen.
    assert opened_with(folder, "b", held(range(490))) == (2, 1.0)
    # Half of them new: seen by both.
    assert opened_with(folder, "c", held(range(400, 600))) == (3, 0.5)
    # A tenth is a coincidence, more is not.
    assert opened_with(folder, "d", held(range(590, 690))) == (1, 0.0)
    assert opened_with(folder, "e", held(range(589, 690))) == (3, pytest.approx(100 / 101))
    # None at all; and the same set again.
    assert opened_with(folder, "f", held(range(1_000, 2_000))) == (1, 0.0)
    assert opened_with(folder, "f", held(range(1_000, 2_000))) == (2, 1.0)
    assert [line["samples"] for line in lines(runs)] == [500, 490, 200, 100, 101, 1_000, 1_000]
    # A sweep that reads "b", of whose samples the openings of "a" and of "c" held some.
    assert [line.by for line in openings_of(reader, reader.load_state())] == ["pin a", "pin b", "pin c"]


def test_lines_without_a_sketch_count_by_their_digest(runs: LocalStore) -> None:
    folder = sweep(runs, "s")
    assert opened(folder, content="a").t == 1
    document = {
        key: value for key, value in lines(runs)[0].items() if key not in ("samples", "sketch", "overlap")
    }
    (runs.root / FILE).write_text(json.dumps(document) + "\n")  # as an earlier version wrote it
    assert opened_with(folder, "b", held(range(500))) == (1, 0.0)
    assert opened_with(folder, "a", held(range(500))) == (3, 1.0)
    assert opened(folder, content="b").t == 2


def test_a_deleted_record_is_made_again_in_order_of_time(runs: LocalStore) -> None:
    late, early = sweep(runs, "a", openings=EARLIER[1:]), sweep(runs, "b", openings=EARLIER[:1])
    assert opened(late).t == 3
    assert [(line["sweep"], line["time"][:10], line["t"]) for line in lines(runs)[:2]] == [
        ("b", "2026-01-01", 1), ("a", "2026-01-02", 2),
    ]  # fmt: skip
    (runs.root / FILE).unlink()
    assert opened(early).t == 4
    times = [line["time"] for line in lines(runs)]
    assert times == sorted(times)


def test_a_damaged_sketch_is_named_with_its_line(runs: LocalStore) -> None:
    folder = sweep(runs, "s")
    opened_with(folder, "a", held(range(20)))
    path = runs.root / FILE
    path.write_text(json.dumps(lines(runs)[0] | {"samples": 19}) + "\n")
    with pytest.raises(
        PreflightError, match=r"openings\.jsonl:1: .*sketch: must be the smallest hashes of 19"
    ):
        opened_with(folder, "a", held(range(20)))
