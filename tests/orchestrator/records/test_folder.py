"""A sweep's folder: records, rounds, arrays, checkpoints and the lease, on a disk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import NotFound, PreflightError
from orchestrator.records.folder import RunFolder, list_sweeps
from orchestrator.records.leases.lease import acquire, check_free, current_state, live_holder
from orchestrator.records.types import Figure, SweepState, TrialRecord, baseline_id, replicate_record
from orchestrator.run.preflight import changed_keys
from orchestrator.verbs.show import show_document
from tests.command import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder.local(tmp_path / "runs", "s")
    made.create()
    made.save_state(SweepState(name="s", sweep_id="1" * 16))
    made.save_spec({"objectives": ["o"]})
    return made


def record(number: int = 0, **more: object) -> TrialRecord:
    made = TrialRecord(f"o/trial-{number:03d}", "o", "trial", number, 0)
    for key, value in more.items():
        setattr(made, key, value)
    return made


def test_records_come_back_as_they_were_saved(folder: RunFolder) -> None:
    whole = record(select={"m": Figure(0.1, 0.0, 1.0)}, config={"lr": 0.1}, score=0.1 + 0.2)
    folder.save_trial(whole)
    assert folder.load_trial(whole.trial_id) == whole
    assert folder.load_trials() == [whole]


def test_trials_stand_before_their_replicates_and_in_order(folder: RunFolder) -> None:
    for made in (record(10), record(2)):
        folder.save_trial(made)
    folder.save_trial(TrialRecord("o/trial-002/seed-1", "o", "replicate", 2, 1, replicate_of="o/trial-002"))
    folder.save_trial(TrialRecord("o/baseline/untouched", "o", "baseline", 0, 0))
    assert [r.trial_id for r in folder.load_trials()] == ["o/trial-002", "o/trial-002/seed-1", "o/trial-010"]
    assert [r.trial_id for r in folder.load_baselines("o")] == ["o/baseline/untouched"]


def test_a_torn_line_costs_that_line_only(folder: RunFolder) -> None:
    for k in range(3):
        folder.append_round("o/trial-000", {"round": k, "x": k})
    path = folder.rounds_path("o/trial-000")
    path.write_bytes(path.read_bytes() + b'{"round": 3, "x"')
    assert [row["round"] for row in folder.rounds("o/trial-000")] == [0, 1, 2]
    folder.append_round("o/trial-000", {"round": 3, "x": 3})
    assert [row["x"] for row in folder.rounds("o/trial-000")] == [0, 1, 2, 3]


def test_unknown_names_are_answered_with_the_closest(folder: RunFolder) -> None:
    RunFolder.local(folder.store.root, "smoke").create()
    RunFolder.local(folder.store.root, "smoke").save_state(SweepState(name="smoke", sweep_id="2"))
    with pytest.raises(NotFound, match="did you mean smoke"):
        RunFolder.open(folder.store, "smok")
    for name in ("..", "a/b", "", "nothing"):
        with pytest.raises(NotFound):
            RunFolder.open(folder.store, name)
    with pytest.raises(NotFound):
        folder.load_trial("o/../../trial-000")
    assert [f.name for f in list_sweeps(folder.store)] == ["s", "smoke"]


def test_a_damaged_record_is_named(folder: RunFolder) -> None:
    folder.state_path.write_text("{")
    with pytest.raises(PreflightError, match=r"sweep\.json: must be a readable JSON document"):
        folder.load_state()


def test_one_driver_at_a_time(folder: RunFolder) -> None:
    with acquire(folder) as lease:
        assert not lease.lost
        assert current_state(folder, "running") == "running"
        with pytest.raises(PreflightError, match=f"held by process {os.getpid()}"):
            acquire(folder)
        with pytest.raises(PreflightError):
            check_free(folder)
    assert live_holder(folder) is None
    assert current_state(folder, "running") == "stopped"
    assert current_state(folder, "finished") == "finished"
    check_free(folder)
    acquire(folder).release()


def test_a_lease_dies_with_its_process(folder: RunFolder) -> None:
    code = (
        "import sys, time; from pathlib import Path; from orchestrator.records.leases.lease import acquire; "
        "from orchestrator.records.folder import RunFolder; acquire(RunFolder.local(Path(sys.argv[1]), 's')); "
        "print('held', flush=True); time.sleep(60)"
    )
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.store.root)], stdout=subprocess.PIPE, env=environ
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(PreflightError, match=f"held by process {holder.pid}"):
            acquire(folder)
        holder.kill()
        holder.wait()
        acquire(folder).release()


def test_a_lease_of_another_host_is_dead_after_a_minute(folder: RunFolder) -> None:
    import time

    def held(age_s: float) -> None:
        holder = {
            "host": "elsewhere",
            "pid": 1,
            "process_start": "x",
            "heartbeat": time.time() - age_s,
            "token": "t",
        }
        (folder.path / "lease.json").write_text(json.dumps(holder))

    held(30)
    with pytest.raises(PreflightError, match="elsewhere"):
        acquire(folder)
    held(61)
    with acquire(folder) as lease:
        assert lease.holder.host == socket.gethostname()


def test_a_lease_that_was_taken_over_is_lost(folder: RunFolder) -> None:
    import time

    with acquire(folder, heartbeat_every_s=0.05) as lease:
        taken = json.loads((folder.path / "lease.json").read_text()) | {"token": "another"}
        (folder.path / "lease.json").write_text(json.dumps(taken))
        end = time.monotonic() + 5
        while not lease.lost and time.monotonic() < end:
            time.sleep(0.02)
        assert lease.lost
    assert (folder.path / "lease.json").exists()  # it is another's


def test_what_a_killed_driver_left_running_is_interrupted(folder: RunFolder) -> None:
    folder.save_trial(record(state="RUNNING", started_ms=1))
    document = show_document(folder)
    assert document.state == "stopped"
    assert document.trials[0].state == "INTERRUPTED"
    assert document.progress.running == 0
    assert document.objectives["o"].winner is None
    with acquire(folder):
        assert show_document(folder).trials[0].state == "RUNNING"


def test_changed_keys_are_dotted() -> None:
    before = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert changed_keys(before, before) == []
    now = {"a": {"b": 1, "c": 3, "e": 4}, "d": [2]}
    assert changed_keys(before, now) == ["a.c (2 -> 3)", "a.e (nothing -> 4)", "d ([1] -> [2])"]


def test_runs_are_in_order_of_objective_arm_number_and_seed(folder: RunFolder) -> None:
    trials = [
        TrialRecord(f"{objective}/{arm}/trial-{number:03d}", objective, "trial", number, 50, arm=arm)
        for objective, arm, number in (("o", "p=b", 0), ("o", "p=a", 10), ("o", "p=a", 9), ("n", "p=z", 3))
    ]
    seeds = [replicate_record(trials[2], index, seed=index) for index in (10, 2)]
    for made in (*seeds, *trials):
        folder.save_trial(made)
    assert [r.trial_id for r in folder.load_trials()] == [
        "n/p=z/trial-003", "o/p=a/trial-009", "o/p=a/trial-009/seed-2", "o/p=a/trial-009/seed-10",
        "o/p=a/trial-010", "o/p=b/trial-000",
    ]  # fmt: skip


def test_baselines_of_one_objective_or_of_all(folder: RunFolder) -> None:
    for objective in ("b", "a"):
        for name in ("y", "x"):
            folder.save_trial(TrialRecord(baseline_id(objective, name), objective, "baseline", 0, 0))
    ids = [r.trial_id for r in folder.load_baselines()]
    assert ids == ["a/baseline/x", "a/baseline/y", "b/baseline/x", "b/baseline/y"]
    assert [r.trial_id for r in folder.load_baselines("b")] == ids[2:]
    assert folder.load_baselines("c") == folder.load_trials() == []


def test_a_record_of_an_early_version_is_read(folder: RunFolder) -> None:
    """Its keys are those that every record has had, and its checkpoint is an absolute path."""
    checkpoint = folder.ray_path.absolute() / "000" / "checkpoint_000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trial.json").write_text("{}")
    old = {
        "trial_id": "o/trial-000", "objective": "o", "kind": "trial", "number": 0, "seed": 5, "state": "INTERRUPTED",
        "checkpoint": str(checkpoint),
    }  # fmt: skip
    folder.record_path("o/trial-000").parent.mkdir(parents=True)
    folder.record_path("o/trial-000").write_text(json.dumps(old))
    read = folder.load_trial("o/trial-000")
    assert read == TrialRecord(
        "o/trial-000", "o", "trial", 0, 5, state="INTERRUPTED", checkpoint=str(checkpoint)
    )
    assert read.checkpoint is not None
    assert folder.has_checkpoint(read.checkpoint)
    assert folder.checkpoint_address(read.checkpoint) == str(checkpoint)
    folder.drop(read.checkpoint)
    assert not folder.has_checkpoint(read.checkpoint)
    assert folder.record_path("o/trial-000").is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": None}, "seed"),
        ({"number": "seven"}, "number"),
        ({"state": "LOST"}, "state"),
        ({"kind": ""}, "kind"),
    ],
)
def test_a_record_with_a_wrong_value_is_named_with_its_key(
    folder: RunFolder, change: dict[str, object], words: str
) -> None:
    folder.save_trial(record())
    path = folder.record_path("o/trial-000")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for read in (folder.load_trials, lambda: folder.load_trial("o/trial-000")):
        with pytest.raises(PreflightError, match=f"record.json: must be a whole record: {words}"):
            read()


@pytest.mark.parametrize("content", ["", "[]", "null", '{"name": "s"', '{"name": "s"}', "\x00"])
def test_a_damaged_state_is_named_whatever_the_damage(folder: RunFolder, content: str) -> None:
    folder.state_path.write_text(content)
    with pytest.raises(PreflightError, match=r"runs/s/sweep\.json: must be a "):
        folder.load_state()


@pytest.mark.parametrize("text", ["[1]\n", '{"x": 1}\n', '{"round": "one"}\n', "\n", '{"round": 1, "x"\n'])
def test_a_damaged_line_before_others_is_named_with_its_number(folder: RunFolder, text: str) -> None:
    folder.append_round("o/trial-000", {"round": 0})
    path = folder.rounds_path("o/trial-000")
    path.write_text(path.read_text() + text + '{"round": 2}\n')
    with pytest.raises(PreflightError, match=r"rounds\.jsonl:2: must be a JSON row with 'round'"):
        folder.rounds("o/trial-000")


def test_rounds_that_were_run_again_count_once_in_order(folder: RunFolder) -> None:
    assert folder.rounds("o/trial-000") == []
    for index, x in ((0, "a"), (2, "c"), (1, "b"), (1, "d"), (0, "é")):
        folder.append_round("o/trial-000", {"round": index, "x": x})
    assert [(row["round"], row["x"]) for row in folder.rounds("o/trial-000")] == [
        (0, "é"),
        (1, "d"),
        (2, "c"),
    ]


def test_a_file_that_is_one_torn_line_has_no_rounds(folder: RunFolder) -> None:
    path = folder.rounds_path("o/trial-000")
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"round"')
    assert folder.rounds("o/trial-000") == []
    folder.append_round("o/trial-000", {"round": 0})
    assert path.read_bytes() == b'{"round": 0}\n'


def test_the_sweep_file_is_kept_byte_for_byte_and_the_specification_is_empty_before_it(
    tmp_path: Path,
) -> None:
    folder = RunFolder.local(tmp_path / "runs", "s")
    folder.create()
    assert folder.load_spec() == {}
    given = tmp_path / "given.yaml"
    given.write_bytes(b"name: \xc3\xa9\r\n# comment")
    folder.save_file(given)
    assert folder.file_path.read_bytes() == given.read_bytes()
    folder.create()  # a second launch
    assert folder.file_path.is_file()


def test_a_document_that_is_not_there_is_none_and_a_damaged_one_is_named(folder: RunFolder) -> None:
    assert folder.load(folder.path / "x.json", Figure) is None
    folder.save(folder.path / "x.json", Figure(0.0, -1.0, 1.0))
    assert folder.load(folder.path / "x.json", Figure) == Figure(0.0, -1.0, 1.0)
    (folder.path / "x.json").write_text('{"value": 0.0, "low": -1.0}')
    with pytest.raises(PreflightError, match=r"x\.json: must be a whole record: high Field required"):
        folder.load(folder.path / "x.json", Figure)


def test_replicates_are_in_order_of_their_number_and_not_of_its_digits(folder: RunFolder) -> None:
    assert folder.load_predictions("o/baseline/b") == folder.weights_files("o/baseline/b") == []
    folder.trial_folder("o/baseline/b").mkdir(parents=True)
    for index in (10, 2, 0):
        folder.weights_path("o/baseline/b", index).write_bytes(b"")
        np.savez_compressed(folder.predictions_path("o/baseline/b", index), labels=np.array([index]))
    assert [path.name for path in folder.weights_files("o/baseline/b")] == [
        "weights-0.safetensors", "weights-2.safetensors", "weights-10.safetensors",
    ]  # fmt: skip
    assert [each["labels"].tolist() for each in folder.load_predictions("o/baseline/b")] == [[0], [2], [10]]


def test_predictions_are_never_unpickled(folder: RunFolder) -> None:
    folder.trial_folder("o/trial-000").mkdir(parents=True)
    np.savez(folder.predictions_path("o/trial-000"), labels=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        folder.load_predictions("o/trial-000")


def test_files_of_a_checkpoint_are_fetched_whole_or_not_at_all(folder: RunFolder, tmp_path: Path) -> None:
    checkpoint = folder.ray_path / "000" / "c"
    checkpoint.mkdir(parents=True)
    (checkpoint / "a").write_bytes(b"1")
    home = tmp_path / "deep" / "home"
    address = folder.checkpoint_address("ray/000/c")
    folder.fetch_checkpoint(address, ["a"], home)
    assert (home / "a").read_bytes() == b"1"
    with pytest.raises(FileNotFoundError):
        folder.fetch_checkpoint(address, ["b"], home)
    assert [path.name for path in home.iterdir()] == ["a"]
    assert not folder.has_checkpoint("ray/000/c")  # its last file is not written yet
    (checkpoint / "trial.json").write_text("{}")
    assert folder.has_checkpoint("ray/000/c")


@pytest.mark.parametrize(
    ("used", "expected"),
    [([], "000"), (["000"], "001"), (["000", "007", "x", "tmp"], "008"), (["999"], "1000")],
)
def test_each_launch_has_a_fresh_folder_for_checkpoints(
    folder: RunFolder, used: list[str], expected: str
) -> None:
    for name in used:
        (folder.ray_path / name).mkdir(parents=True)
    assert folder.unused_ray_path() == folder.ray_path / expected


def test_dropping_twice_is_fine_and_touches_nothing_else(folder: RunFolder) -> None:
    (folder.ray_path / "000" / "c").mkdir(parents=True)
    for _ in range(2):
        folder.drop("ray")
    assert not folder.ray_path.exists()
    assert folder.state_path.is_file()


def test_a_folder_that_is_no_sweep_has_other_words_than_one_that_is_not_there(tmp_path: Path) -> None:
    empty = RunFolder.local(tmp_path / "runs", "a")
    with pytest.raises(NotFound, match=r"runs/a: does not exist \(no sweep\.json\); there are: none"):
        empty.load_state()
    empty.create()
    with pytest.raises(
        NotFound, match=r"runs/a: is not the folder of a sweep \(no sweep\.json\); there are: none"
    ):
        RunFolder.open(empty.store, "a")
    assert list_sweeps(empty.store) == list_sweeps(RunFolder.local(tmp_path / "none", "a").store) == []


def test_a_runs_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(PreflightError, match=r"runs/s: must be writable: .*; choose another --runs folder"):
        RunFolder.local(tmp_path / "runs", "s").create()


def test_a_write_that_fails_leaves_the_record_as_it_was(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.save_trial(record(score=0.1))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PreflightError, match=r"record\.json: must be writable: No space left on device"):
        folder.save_trial(record(score=0.2))
    assert folder.load_trial("o/trial-000") == record(score=0.1)
    assert [path.name for path in folder.trial_folder("o/trial-000").iterdir()] == ["record.json"]
