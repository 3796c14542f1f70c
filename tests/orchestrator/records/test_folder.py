from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import NotFound, PreflightError
from orchestrator.records.folder import RunFolder, list_sweeps
from orchestrator.records.lease import acquire, check_free, current_state, live_holder
from orchestrator.records.types import Figure, SweepState, TrialRecord
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
        "import sys, time; from pathlib import Path; from orchestrator.records.lease import acquire; "
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
