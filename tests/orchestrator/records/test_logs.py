"""Logs and requests to stop, on files alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from orchestrator.cli.main import main
from orchestrator.errors import NotFound, PreflightError
from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.lease import acquire, live_holder
from orchestrator.records.logs import append_log, follow, log_of, logs_document
from orchestrator.records.stop_request import request_stop, stop_request
from orchestrator.records.types import SweepState, TrialRecord
from orchestrator.run.outcome import RunOutcome
from orchestrator.run.recorder import Recorder
from orchestrator.verbs.stop import stop_sweep


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder.local(tmp_path, "a")
    made.create()
    made.save_spec({"objectives": ["min_recall"]})
    made.save_state(SweepState("a", "1", state="stopped"))
    made.save_trial(TrialRecord("min_recall/trial-000", "min_recall", "trial", 0, 0))
    return made


def test_events_of_several_lines(folder: RunFolder) -> None:
    append_log(folder, folder.log_path, "one")
    append_log(folder, folder.log_path, "Traceback\n  File\n")
    lines = logs_document(folder, None).lines
    assert [line[26:] for line in lines[:2]] == ["one", "Traceback"]
    assert lines[2] == "      File"
    assert len(lines) == 3


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    append_log(RunFolder.local(tmp_path, "file"), tmp_path / "file" / "log", "lost")


def test_the_log_of_a_trial(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFound, match="there is no log"):
        log_of(folder, "trial-000")
    append_log(folder, folder.trial_log_path("min_recall/trial-000"), "round 1")
    assert log_of(folder, "trial-000") == log_of(folder, "min_recall/trial-000")
    with pytest.raises(NotFound, match="no trial 'min_recall/trial-001'"):
        log_of(folder, "trial-001")
    runs = ["--runs", str(folder.store.root)]
    assert main(["logs", "a", "trial-000", *runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"][0].endswith("round 1")
    assert main(["logs", "a", "trial-000", *runs, "--json", "--follow"]) == 2
    assert main(["logs", "b", *runs]) == 8


def test_following_ends_with_the_driver(folder: RunFolder) -> None:
    append_log(folder, folder.log_path, "one")
    with acquire(folder) as lease:

        def wait(_seconds: float) -> None:
            with folder.log_path.open("a") as file:
                file.write("half" if live_holder(folder) else "never")
            if folder.log_path.read_text().count("half") == 2:
                lease.release()

        pieces = list(follow(folder, folder.log_path, wait))
    assert pieces[0].endswith(" one\n")
    assert pieces[1:] == ["halfhalf"]  # a line that is not ended is shown at the end only


def test_quiet_progress_is_kept_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept: list[str] = []
    progress = Progress(quiet=True)
    progress.keep(kept.append)
    progress.say("one")
    progress.warn("two")
    progress.ended("trial-000", "FINISHED", 0.5, 1.0)
    assert kept == ["one", "warning: two", "    1/0 trial-000  finished  score  50.0  1.0 s"]
    assert capsys.readouterr().err == "warning: two\n"


def test_a_request_is_for_one_holder(folder: RunFolder) -> None:
    with acquire(folder) as first:
        assert stop_request(folder, first.holder.token) is None
        request_stop(folder, first.holder, cancel=True)
        request = stop_request(folder, first.holder.token)
        assert request is not None
        assert request.cancel is True
    with acquire(folder) as second:
        assert stop_request(folder, second.holder.token) is None
    folder.stop_path.write_text("{")
    assert stop_request(folder, second.holder.token) is None


def test_stop_waits_for_the_driver(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert stop_sweep(folder, 1.0, False, Progress()) == 0
    assert capsys.readouterr().err == "a is not running: stopped\n"
    with acquire(folder) as lease:
        assert stop_sweep(folder, 60.0, False, Progress(), lambda _: lease.release()) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "a is stopped"
    assert not folder.stop_path.exists()
    with acquire(folder), pytest.raises(PreflightError, match="must stop within 0 s"):
        stop_sweep(folder, 0.0, False, Progress(), lambda _: time.sleep(0.01))
    assert main(["stop", "b", "--runs", str(folder.store.root)]) == 8


def test_the_log_of_a_crash_has_its_traceback(folder: RunFolder) -> None:
    tracker = MagicMock()
    tracker.open_trial.return_value = "1"
    recorder = Recorder(folder, tracker, Progress(quiet=True), {}, {})
    record = recorder.open(folder.load_trial("min_recall/trial-000"))
    error = ValueError('Traceback\n  File "x.py", line 7\nValueError: too hot')
    recorder.on_failed(record.trial_id, RunOutcome.of_error(error))
    assert recorder.problems == []
    assert folder.load_trial(record.trial_id).error == "ValueError: too hot"
    lines = logs_document(folder, "trial-000").lines
    assert '      File "x.py", line 7' in lines
    assert lines[-1].endswith("FAILED ValueError: too hot")


def test_a_log_that_nobody_writes_is_read_to_its_end_at_once(folder: RunFolder) -> None:
    folder.log_path.write_bytes("one\nhalf é".encode())

    def wait(_: float) -> None:
        raise AssertionError("there is nothing to wait for")

    assert list(follow(folder, folder.log_path, wait)) == ["one\nhalf é"]
    folder.log_path.write_bytes(b"")
    assert list(follow(folder, folder.log_path, wait)) == []


def test_a_character_that_is_half_written_is_waited_for(folder: RunFolder) -> None:
    whole = "é\n".encode()
    folder.log_path.write_bytes(whole[:1])
    waits = []
    with acquire(folder) as lease:

        def wait(seconds: float) -> None:
            waits.append(seconds)
            folder.log_path.write_bytes(whole)
            if len(waits) == 2:
                lease.release()

        assert list(follow(folder, folder.log_path, wait)) == ["é\n"]
    assert waits == [folder.store.poll_s] * 2


def test_of_several_objectives_a_run_is_named_in_full(folder: RunFolder) -> None:
    folder.save_spec({"objectives": ["min_recall", "h_mean"]})
    append_log(folder, folder.trial_log_path("min_recall/trial-000"), "round 1")
    assert log_of(folder, "min_recall/trial-000") == folder.trial_log_path("min_recall/trial-000")
    with pytest.raises(NotFound, match=r"no trial 'trial-000'; `selmix show a --runs .* lists them"):
        log_of(folder, "trial-000")


def test_bytes_that_are_no_text_cost_their_characters_only(folder: RunFolder) -> None:
    folder.log_path.write_bytes(b"one\n\xff two\n")
    assert logs_document(folder, None).lines == ["one", "\N{REPLACEMENT CHARACTER} two"]


def test_a_request_names_where_it_came_from_also_without_a_user(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with acquire(folder) as lease:
        for user, words in (("ann", "ann on "), (None, "somebody on ")):
            monkeypatch.setenv("USER", user) if user else monkeypatch.delenv("USER", raising=False)
            request_stop(folder, lease.holder, cancel=False)
            request = stop_request(folder, lease.holder.token)
            assert request is not None
            assert request.by.startswith(words)
            assert request.cancel is False
