"""Searcher, callback and stopper of Tune pass events to the dispatcher; trials get no credentials."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
from ray import cloudpickle
from ray.exceptions import NodeDiedError
from ray.tune.execution import class_cache
from ray.tune.search import Searcher

from orchestrator.run.on_ray import without_credentials
from orchestrator.run.tune import DrainStopper, InertCallback, RunCallback, RunSearcher
from tests.orchestrator.run.test_dispatcher import Sweep

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def test_a_run_that_was_interrupted_is_suggested_again(sweep: Sweep) -> None:
    searcher = RunSearcher(sweep.dispatcher, lambda: 2)
    callback = RunCallback(sweep.dispatcher, searcher)
    assert searcher.suggest("tune-1")["trial_id"] == sweep.record.trial_id
    assert searcher.suggest("tune-2") is None  # not over: the one that runs may come back
    # As Tune does it: the searcher hears of an error first, the callback knows which.
    searcher.on_trial_complete("tune-1", error=True)
    trial = MagicMock(trial_id="tune-1", pickled_error_file=None)
    trial.get_error.return_value = NodeDiedError("its node has died")
    callback.on_trial_error(1, [], trial)
    assert (sweep.stored.state, sweep.stored.losses) == ("INTERRUPTED", 1)
    assert searcher.suggest("tune-3")["trial_id"] == sweep.record.trial_id
    report = {"finished": True, "failed": False, "best/score": 1.0, "best/violation": 0}
    searcher.on_trial_complete("tune-3", report)
    assert searcher.suggest("tune-4") == Searcher.FINISHED


def test_no_more_than_the_limit_and_none_while_it_drains(sweep: Sweep) -> None:
    searcher = RunSearcher(sweep.dispatcher, lambda: 0)
    assert searcher.suggest("tune-1") is None
    assert sweep.dispatcher.under_way == 0
    sweep.draining = True
    assert searcher.suggest("tune-1") == Searcher.FINISHED
    stopper = DrainStopper(lambda: sweep.draining)
    assert stopper.stop_all()
    assert not stopper("tune-1", {})


def test_copies_in_tune_s_snapshot_are_inert(sweep: Sweep) -> None:
    searcher = RunSearcher(sweep.dispatcher, lambda: 1)
    copy = cast(Searcher, cloudpickle.loads(cloudpickle.dumps(searcher)))
    assert copy.suggest("x") == Searcher.FINISHED
    copy.on_trial_complete("x", {"finished": True})
    callback = RunCallback(sweep.dispatcher, searcher)
    assert type(cloudpickle.loads(cloudpickle.dumps(callback))) is InertCallback
    stopper = cloudpickle.loads(cloudpickle.dumps(DrainStopper(lambda: True)))
    assert not stopper.stop_all()
    assert not stopper("x", {})


def test_no_credentials_in_runtime_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in KEYS:
        monkeypatch.setenv(key, "canary")
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(
        class_cache.ray, "remote", lambda **options: given.append(options) or (lambda cls: cls)
    )
    class_cache._ActorClassCache().get(object)  # what Tune does by itself
    with without_credentials():
        class_cache._ActorClassCache().get(object)
    class_cache._ActorClassCache().get(object)
    assert ["canary" in str(options["runtime_env"]) for options in given] == [True, False, True]
