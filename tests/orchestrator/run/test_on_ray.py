"""Runs on Ray: events of Tune reach the dispatcher, baselines are fitted side by side, credentials stay away."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
from ray import cloudpickle, tune
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError
from ray.tune.execution import class_cache
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.utils.util import flatten_dict

from orchestrator.cluster.address import Cluster
from orchestrator.errors import PreflightError
from orchestrator.records.types import TrialRecord
from orchestrator.run import on_ray
from orchestrator.run.drain import Drained
from orchestrator.run.execution import MAX_LOSSES, Dispatcher
from orchestrator.run.on_ray import RayExecutor, without_credentials
from orchestrator.run.tune import DrainStopper, InertCallback, RunCallback, RunScheduler, RunSearcher, peers
from orchestrator.search.early_stopping import BestSoFar, EarlyStopping
from orchestrator.search.sources import ListSource
from orchestrator.spec.checks import load_spec
from orchestrator.spec.sections import EarlyStoppingSection
from selmix.baselines import BASELINES
from selmix.models import ModelConfig
from tests.command import SMOKE
from tests.orchestrator.cluster.fake_ray import HANGS, FakeRay, Task, listed
from tests.orchestrator.run.test_dispatcher import Sweep
from trainables.baseline import BaselineJob
from trainables.failures import NoGpu
from trainables.heads import HeadJob, fit_heads

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


def flat(report: dict[str, Any]) -> dict[str, Any]:
    """A report as Tune passes it to schedulers."""
    flattened: dict[str, Any] = flatten_dict(report)
    return flattened


def report(steps: int, score: float, finished: bool = False) -> dict[str, Any]:
    row = {
        "round": 1,
        "steps": steps,
        "time_ms": 0,
        "score": score,
        "feasible": True,
        "select": {},
        "scalars": {},
    }
    best = {"round": 0, "steps": 0, "score": score, "feasible": True, "violation": 0.0}
    return {"row": row, "best": best, "cost_s": 1.5, "finished": finished, "failed": False, "done": finished,
            "should_checkpoint": True}  # fmt: skip


def test_a_run_behind_its_peers_is_ended_and_saved_no_more(sweep: Sweep) -> None:
    section = EarlyStoppingSection(method="asha", grace_steps=20)
    stopping = EarlyStopping(partial(peers, section, 60))
    sweep.record.kind, sweep.record.number = "trial", 1
    stopping.stops(TrialRecord("o/trial-000", "o", "trial", 0, 0), BestSoFar(20, 0.5))
    dispatcher = Dispatcher(ListSource([sweep.record]), sweep.recorder, lambda: False, lambda: None, stopping)
    searcher, scheduler = RunSearcher(dispatcher, lambda: 1), RunScheduler(dispatcher)
    callback = RunCallback(dispatcher, searcher, "asha")
    trial = MagicMock(trial_id="tune-1", config=searcher.suggest("tune-1"))
    # As Tune does it: the scheduler decides, the callback learns of it, then the run ends.
    first, last = report(0, 0.25), report(20, 0.25)
    assert scheduler.on_trial_result(None, trial, flat(first)) == TrialScheduler.CONTINUE
    callback.on_trial_result(1, [], trial, first)
    assert first["should_checkpoint"]
    assert sweep.stored.state == "RUNNING"
    assert scheduler.on_trial_result(None, trial, flat(last)) == TrialScheduler.STOP
    last["done"] = True
    callback.on_trial_result(1, [], trial, last)
    assert not last["should_checkpoint"]
    assert (sweep.stored.state, sweep.stored.cost_s) == ("PRUNED", 1.5)
    assert sweep.stored.stop_reason == "early stopping (asha) after 20 steps"
    scheduler.on_trial_complete(None, trial, flat(last))
    searcher.on_trial_complete("tune-1", flat(last))
    assert sweep.stored.state == "PRUNED"
    assert searcher.suggest("tune-2") == Searcher.FINISHED
    assert sweep.recorder.problems == []


def test_the_last_round_of_a_finished_run_counts_and_one_without_an_evaluation_does_not(sweep: Sweep) -> None:
    stopping = MagicMock()
    stopping.stops.return_value = False
    dispatcher = Dispatcher(ListSource([sweep.record]), sweep.recorder, lambda: False, lambda: None, stopping)
    scheduler = RunScheduler(dispatcher)
    assignment = dispatcher.next()
    assert assignment is not None
    trial = MagicMock(config=assignment)
    scheduler.on_trial_complete(None, trial, flat(report(60, 0.5, finished=True)))
    stopping.stops.assert_called_once_with(sweep.record, BestSoFar(60, 0.5), True)
    scheduler.on_trial_complete(None, trial, flat(report(60, 0.5, finished=True) | {"row": None}))
    scheduler.on_trial_complete(None, trial, flat(report(40, 0.5)))  # a drain ends it
    scheduler.on_trial_complete(None, trial, {})
    stopping.stops.assert_called_once()


def test_copies_in_tune_s_snapshot_are_inert(sweep: Sweep) -> None:
    searcher = RunSearcher(sweep.dispatcher, lambda: 1)
    copy = cast(Searcher, cloudpickle.loads(cloudpickle.dumps(searcher)))
    assert copy.suggest("x") == Searcher.FINISHED
    copy.on_trial_complete("x", {"finished": True})
    callback = RunCallback(sweep.dispatcher, searcher)
    assert type(cloudpickle.loads(cloudpickle.dumps(callback))) is InertCallback
    scheduler = cloudpickle.loads(cloudpickle.dumps(RunScheduler(sweep.dispatcher)))
    assert type(scheduler) is FIFOScheduler
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


# -- baselines as tasks ---------------------------------------------------------------------------------------

SHORT = OutOfMemoryError("node running low on memory")
SINGLE = "untouched"


def job(name: str, seeds: tuple[int, ...] = (1, 2)) -> BaselineJob:
    return BaselineJob(name, "o", {}, [f"/w{seed}" for seed in seeds], list(seeds), f"/out/{name}")


class Tasks(FakeRay):
    """Tasks of baselines on a machine of four CPUs; ``ends`` tells how one ends, by its job and its function."""

    def __init__(self, sweep: Sweep, patch: pytest.MonkeyPatch, *overrides: str) -> None:
        super().__init__(self._end)
        self.sweep, self.ends = sweep, lambda task: f"report of {task.arguments[1].name}"
        patch.setattr("ray.nodes", lambda: [listed("a", 4.0, resources={"GPU": 1.0})])
        patch.setattr(on_ray, "ray", self)
        spec, shared = load_spec(SMOKE, overrides), MagicMock(filesystem=None)
        self.executor = RayExecutor(
            spec, sweep.folder, shared, Cluster(), lambda: sweep.draining, lambda text: None
        )

    def _end(self, task: Task) -> Any:
        return self.ends(task)

    def fitted(self, *jobs: BaselineJob) -> list[tuple[str, Any]]:
        return [(each.name, end) for each, end in self.executor.fit(jobs)]

    def takes(self, name: str) -> list[tuple[float, float]]:
        """CPUs and GPUs of all tasks of a function."""
        return [(t.options["num_cpus"], t.options["num_gpus"]) for t in self.tasks if t.name == name]


def seed_by_seed() -> str:
    """A baseline of the catalogue that is fitted seed by seed."""
    return next(name for name, baseline in BASELINES.items() if baseline.by_seed)


def test_baselines_are_fitted_in_parts_and_written_from_all_of_them(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray, by_seed = Tasks(sweep, monkeypatch, "resources.cpu=2", "resources.workers=2"), seed_by_seed()
    assert ray.fitted(job(by_seed), job(SINGLE)) == [
        (by_seed, f"report of {by_seed}"), (SINGLE, f"report of {SINGLE}"),
    ]  # fmt: skip
    fits = [task for task in ray.tasks if task.name == "fit_baseline"]
    assert [task.arguments[1].seeds for task in fits] == [[1], [2], [1, 2]]
    written = {t.arguments[1].name: t.arguments[2:] for t in ray.tasks if t.name == "write_baseline"}
    assert written == {by_seed: (fits[0], fits[1]), SINGLE: (fits[2],)}  # in the order of the seeds
    # Each takes one worker's resources, whatever a trial takes, and Ray retries what is lost.
    assert set(ray.takes("fit_baseline") + ray.takes("write_baseline")) == {(2, 0)}
    assert {task.options["max_retries"] for task in ray.tasks} == {MAX_LOSSES - 1}
    assert ray.most_at_once == 2
    assert ray.cancelled == []


def test_a_baseline_that_raises_ends_no_other(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Tasks(sweep, monkeypatch)
    error = RayTaskError("write", "Traceback\nValueError: singular", ValueError("singular"))
    ray.ends = lambda t: error if (t.name, t.arguments[1].name) == ("write_baseline", SINGLE) else "report"
    ends = dict(ray.fitted(job(SINGLE), job(seed_by_seed())))
    assert (ends[SINGLE].kind, ends[SINGLE].reason) == ("failed", "ValueError: singular")
    assert ends[seed_by_seed()] == "report"


@pytest.mark.parametrize("helps", [True, False])
def test_a_baseline_out_of_memory_is_fitted_once_more_exclusively(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, helps: bool
) -> None:
    ray = Tasks(sweep, monkeypatch)
    ray.ends = lambda t: (
        SHORT if t.name == "write_baseline" and not (helps and t.options["num_cpus"] == 4) else "report"
    )
    ((name, end),) = ray.fitted(job(seed_by_seed()))
    assert name == seed_by_seed()
    assert end == "report" if helps else end.kind == "out_of_memory"
    # All its parts are fitted again, each with all CPUs of the machine: nothing runs beside it.
    assert ray.takes("fit_baseline") == [(1, 0), (1, 0), (4, 0), (4, 0)]
    again = ray.tasks[-1]
    assert [part.options["num_cpus"] for part in again.arguments[2:]] == [4, 4]


def test_a_drain_ends_baselines_that_run_and_reports_none_that_died_in_it(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = Tasks(sweep, monkeypatch)
    ray.ends = lambda t: HANGS if t.arguments[1].name == seed_by_seed() else "report"
    ends = ray.executor.fit([job(SINGLE), job(seed_by_seed())])
    assert next(ends)[0].name == SINGLE
    sweep.draining = True
    assert list(ends) == []
    assert [task.arguments[1].seeds for task in ray.cancelled] == [[1], [2]]

    def dies(task: Task) -> Any:
        sweep.draining = task.name == "write_baseline"
        return NodeDiedError("its node has died") if sweep.draining else "report"

    sweep.draining, ray.ends = False, dies
    assert ray.fitted(job(SINGLE)) == []


# -- other work as tasks: heads of the base model, parts of a screen --------------------------------------------


def heads_of(tasks: Tasks, *objectives: str) -> Any:
    """The head that the executor gives of one job, or the heads of one job for each of these objectives."""
    jobs = [HeadJob(ModelConfig("linear_head"), {}, [name]) for name in objectives or ("o",)]
    found = tasks.executor.tasks(fit_heads, jobs, "balanced heads of the base model")
    return found if objectives else found[0]


@pytest.mark.parametrize(("workers", "gpu"), [(2, 0), (1, 0.5)])
def test_heads_are_fitted_with_the_resources_of_one_worker(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, workers: int, gpu: float
) -> None:
    ray = Tasks(sweep, monkeypatch, "resources.cpu=2", f"resources.workers={workers}", f"resources.gpu={gpu}")
    ray.ends = lambda task: (task.name, task.arguments[1].objectives, task.arguments[2])
    assert heads_of(ray) == ("fit_heads", ["o"], gpu)
    (task,) = ray.tasks
    assert task.options == {"num_cpus": 2, "num_gpus": gpu, "max_retries": MAX_LOSSES - 1}
    assert ray.cancelled == []


def test_pieces_of_work_run_side_by_side_and_are_returned_in_order(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = Tasks(sweep, monkeypatch, "resources.cpu=2", "resources.workers=2")
    ray.ends = lambda task: task.arguments[1].objectives[0].upper()
    assert heads_of(ray, *"abcde") == list("ABCDE")
    assert ray.most_at_once == 2  # of two CPUs each, on four
    assert heads_of(ray, "a") == ["A"]
    assert ray.executor.tasks(fit_heads, [], "nothing") == []


def test_one_piece_out_of_memory_is_done_again_and_the_others_are_not(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = Tasks(sweep, monkeypatch)
    ray.ends = lambda t: SHORT if t.arguments[1].objectives == ["b"] and t.options["num_cpus"] < 4 else "done"
    assert heads_of(ray, "a", "b", "c") == ["done"] * 3
    assert ray.takes("fit_heads") == [(1, 0), (1, 0), (1, 0), (4, 0)]


def test_an_error_of_one_piece_ends_the_others(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Tasks(sweep, monkeypatch)
    singular = RayTaskError("fit_heads", "Traceback", ValueError("singular"))
    ray.ends = lambda t: singular if t.arguments[1].objectives == ["a"] else HANGS
    with pytest.raises(ValueError, match=r"^singular$"):
        heads_of(ray, "a", "b", "c")
    assert [task.arguments[1].objectives for task in ray.cancelled] == [["b"], ["c"]]


def test_an_error_of_the_fit_is_the_launch_s_own(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Tasks(sweep, monkeypatch)
    ray.ends = lambda _: RayTaskError("fit_heads", "Traceback", ValueError("singular"))
    with pytest.raises(ValueError, match=r"^singular$"):
        heads_of(ray)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (NodeDiedError("its node has died"), "got: its node died; change the resources"),
        (
            RayTaskError("f", "Traceback", NoGpu("torch must see the GPU")),
            "got: NoGpu: torch must see the GPU;",
        ),
    ],
)
def test_heads_that_no_worker_can_fit_are_an_error_of_preflight(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    ray = Tasks(sweep, monkeypatch)
    ray.ends = lambda _: error
    with pytest.raises(
        PreflightError, match=rf"^balanced heads of the base model: .* resources\.cpu 1 .*{says}"
    ):
        heads_of(ray)
    assert len(ray.tasks) == 1  # Ray itself runs it again where a worker is lost


@pytest.mark.parametrize("helps", [True, False])
def test_heads_out_of_memory_are_fitted_once_more_exclusively(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, helps: bool
) -> None:
    ray = Tasks(sweep, monkeypatch)
    ray.ends = lambda task: "heads" if helps and task.options["num_cpus"] == 4 else SHORT
    if helps:
        assert heads_of(ray) == "heads"
    else:
        with pytest.raises(PreflightError, match="OutOfMemoryError"):
            heads_of(ray)
    assert ray.takes("fit_heads") == [(1, 0), (4, 0)]


@pytest.mark.parametrize("dies", [True, False])
def test_a_drain_ends_the_fit_of_heads(sweep: Sweep, monkeypatch: pytest.MonkeyPatch, dies: bool) -> None:
    ray = Tasks(sweep, monkeypatch)
    ray.ends = lambda _: NodeDiedError("killed with the sweep") if dies else HANGS
    sweep.draining = True
    with pytest.raises(Drained):
        heads_of(ray)
    assert len(ray.cancelled) == (not dies)


# -- trials by Tune -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "takes", "bundles"),
    [
        ((), None, [{"CPU": 1}]), (("resources.gpu=0.5", "resources.cpu=2"), None, [{"CPU": 2, "GPU": 0.5}]),
        ((), {"cpu": 4, "gpu": 0}, [{"CPU": 4}]),
        (("resources.gpu=0.5",), {"cpu": 1, "gpu": 1}, [{"CPU": 1, "GPU": 1}]),
        (("resources.workers=2",), None, [{}, {"CPU": 1}, {"CPU": 1}]),
    ],
)  # fmt: skip
def test_a_trial_is_run_in_a_new_folder_with_a_bundle_per_worker(
    sweep: Sweep,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    takes: Any,
    bundles: list[dict[str, float]],
) -> None:
    made: list[tuple[Any, tune.TuneConfig, tune.RunConfig]] = []

    class Tuner:
        def __init__(self, trainable: Any, tune_config: tune.TuneConfig, run_config: tune.RunConfig) -> None:
            made.append((trainable, tune_config, run_config))

        def fit(self) -> None:
            assert not any(name.startswith("AWS_") for name in class_cache.ENV_VARS_TO_PROPAGATE)

    monkeypatch.setattr(tune, "Tuner", Tuner)
    (sweep.folder.ray_path / "000").mkdir(parents=True)
    Tasks(sweep, monkeypatch, *overrides).executor.run(sweep.dispatcher)
    ((trainable, tune_config, run_config),) = made
    assert f"{run_config.storage_path}/{run_config.name}" == str(sweep.folder.ray_path.absolute() / "001")
    assert run_config.failure_config.max_failures == 0  # the dispatcher decides what resumes
    assert run_config.checkpoint_config.checkpoint_at_end is False
    assert (tune_config.num_samples, tune_config.reuse_actors) == (-1, True)
    request = trainable.default_resource_request({"takes": takes})
    assert request.bundles == [bundle for bundle in bundles if bundle]
    assert request.head_bundle_is_empty == ({} in bundles)


def test_a_report_of_tune_s_reaches_the_recorder_under_our_name(sweep: Sweep) -> None:
    callback = RunCallback(sweep.dispatcher, RunSearcher(sweep.dispatcher, lambda: 1))
    sweep.next()
    trial = MagicMock(config={"trial_id": sweep.record.trial_id})
    row = {"round": 0, "steps": 0, "time_ms": 1, "score": 0.5, "feasible": True, "select": {}, "scalars": {}}
    callback.on_trial_result(1, [], trial, {"row": row, "cost_s": 2.0})
    checkpoint = sweep.folder.ray_path / "000" / "checkpoint_0"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trial.json").write_text('{"finished": false}')
    callback.on_checkpoint(1, [], trial, MagicMock(path=str(checkpoint.absolute())))
    assert sweep.folder.rounds(sweep.record.trial_id) == [row]
    assert (sweep.stored.checkpoint, sweep.stored.cost_s) == ("ray/000/checkpoint_0", 2.0)
    assert sweep.recorder.problems == []
