"""Preparation: a base model is trained once, and data above a bound are staged where nodes reach them."""

from __future__ import annotations

import secrets
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from orchestrator.build.data import load_data
from orchestrator.cluster.address import Cluster
from orchestrator.cluster.local_pool import ProcessLost, local_pool
from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.records.object_store import ObjectStore
from orchestrator.records.store import LocalStore
from orchestrator.records.synced_folder import SyncedStore
from orchestrator.records.types import BaseFacts
from orchestrator.run import prepare as module
from orchestrator.run.prepare import begin_base, prepare, prepare_base, shared_by_runs, staged
from orchestrator.spec.checks import load_spec
from orchestrator.spec.schema import SweepSpec
from selmix.data.splits import SweepData
from selmix.data.stored import bytes_of
from selmix.weights import State, load_weights, save_weights, state_digest
from tests.command import SMOKE
from tests.fakes.servers import BUCKET, credentials, s3_server
from trainables.heads import FittedHeads, HeadJob, fit_heads
from trainables.shared import Shared
from trainables.staged import StagedData

KEYS = ("objectives=[min_recall, h_mean]", "pretrain.epochs=2")


@pytest.fixture(scope="module")
def data() -> SweepData:
    return load_data(load_spec(SMOKE))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder.local(tmp_path, "smoke")
    made.create()
    return made


def spec_of(*overrides: str) -> SweepSpec:
    return load_spec(SMOKE, [*KEYS, *overrides])


def test_a_base_model_is_trained_once_and_its_heads_are_kept(data: SweepData, folder: RunFolder) -> None:
    threads = torch.get_num_threads()
    first = prepare(spec_of(), data, folder)
    assert torch.get_num_threads() == threads
    assert first.base.digest == state_digest(load_weights(folder.base_weights))
    written = folder.base_weights.stat().st_mtime_ns
    again = prepare(spec_of("pretrain.epochs=3"), data, folder)  # what is there is read, and not trained anew
    assert folder.base_weights.stat().st_mtime_ns == written
    assert again.base.digest == first.base.digest
    for objective in ("min_recall", "h_mean"):
        head = load_weights(folder.base_head(objective))
        assert {name: tensor.shape for name, tensor in head.items()} == {"weight": (6, 8), "bias": (6,)}
        for made in (first, again):
            base = made.bases[objective]
            assert state_digest(base.head) == state_digest(head)
            assert (state_digest(base.state), base.labels) == (first.base.digest, ("train",))
    assert list(first.rules) == ["min_recall", "h_mean"]
    assert (first.base.recipe, first.base.seed, first.base.checkpoint) == ("erm", 0, None)


def test_heads_are_fitted_for_the_objectives_that_have_none(
    data: SweepData, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(spec_of(), data, folder)
    assert first.base.heads_cost_s is not None
    jobs: list[HeadJob] = []

    def noted(shared: Shared, job: HeadJob, gpu: float) -> FittedHeads:
        jobs.append(job)
        return fit_heads(shared, job, gpu)

    monkeypatch.setattr(module, "fit_heads", noted)
    assert prepare(spec_of(), data, folder).base.heads_cost_s is None
    assert jobs == []
    kept = folder.base_head("min_recall").stat().st_mtime_ns
    folder.base_head("h_mean").unlink()
    again = prepare(spec_of(), data, folder)
    assert [job.objectives for job in jobs] == [["h_mean"]]
    assert folder.base_head("min_recall").stat().st_mtime_ns == kept
    for objective, base in first.bases.items():
        assert state_digest(again.bases[objective].head) == state_digest(base.head)
    # Heads are read beside the base model that they belong to only.
    folder.base_weights.unlink()
    other = prepare(spec_of("pretrain.epochs=3"), data, folder)
    assert [job.objectives for job in jobs[1:]] == [["min_recall", "h_mean"]]
    assert other.base.digest != first.base.digest


def test_heads_of_a_checkpoint_that_was_written_anew_are_fitted_anew(
    data: SweepData, folder: RunFolder, tmp_path: Path
) -> None:
    path = tmp_path / "given.safetensors"
    spec = spec_of(f"pretrain={{checkpoint: {path}}}")
    state = dict(prepare(spec_of(), data, folder).bases["h_mean"].state)
    other = RunFolder.local(tmp_path / "other", "smoke")
    other.create()
    save_weights(path, state)
    first = prepare(spec, data, other)
    save_weights(path, {name: -2.0 * tensor for name, tensor in state.items()})
    again = prepare(spec, data, other)
    assert again.base.digest != first.base.digest
    assert again.base.heads_cost_s is not None


def test_heads_of_another_base_model_do_not_come_back_from_an_object_store(data: SweepData) -> None:
    """On another machine, which has the heads of before in the store alone."""
    address = f"s3://{BUCKET}/{secrets.token_hex(4)}"
    with s3_server() as endpoint:

        def folder() -> RunFolder:
            made = RunFolder.at(SyncedStore(ObjectStore(address, credentials(endpoint))), "smoke")
            made.create()
            return made

        first = prepare(spec_of(), data, folder())
        there = folder()
        kept = prepare(spec_of("pretrain.epochs=3"), data, there)
        assert (kept.base.digest, kept.base.heads_cost_s) == (first.base.digest, None)
        # The weights are lost, and a longer training gives others: the heads would not belong to them.
        there.store.discard(there.base_weights)
        third = folder()
        other = prepare(spec_of("pretrain.epochs=3"), data, third)
        assert other.base.digest != first.base.digest
        assert other.base.heads_cost_s is not None
        again = prepare(spec_of("pretrain.epochs=3"), data, folder())
        assert again.base.heads_cost_s is None
        for objective, base in other.bases.items():
            assert state_digest(again.bases[objective].head) == state_digest(base.head)


def test_what_a_checkpoint_has_seen_is_not_known(data: SweepData, folder: RunFolder) -> None:
    trained = prepare(spec_of(), data, folder).base
    other = RunFolder.local(folder.path / "other", "smoke")
    other.create()
    made = prepare(spec_of(f"pretrain={{checkpoint: {folder.base_weights}}}"), data, other)
    assert (made.base.digest, made.base.checkpoint, made.base.recipe) == (
        trained.digest,
        str(folder.base_weights),
        None,
    )
    assert {base.labels for base in made.bases.values()} == {("checkpoint",)}
    assert state_digest(load_weights(other.base_weights)) == trained.digest  # the sweep has a copy of its own


@pytest.mark.parametrize("cluster", [Cluster(), Cluster("head:6379")])
def test_data_above_the_bound_are_staged_and_copied_by_nodes_of_a_cluster(
    data: SweepData, folder: RunFolder, cluster: Cluster
) -> None:
    bound, prepared = bytes_of(data) / 1e6, prepare(spec_of(), data, folder)
    known = spec_of(f"resources.stage_above_mb={bound}")
    assert shared_by_runs(known, prepared, folder, cluster).data is data
    assert not folder.staged_data.exists()
    above = spec_of(f"resources.stage_above_mb={bound * 0.999}")
    made = shared_by_runs(above, prepared, folder, cluster).data
    assert isinstance(made, StagedData)
    assert (made.address, made.copied) == (str(folder.staged_data.absolute()), not cluster.is_private)
    opened = made.opened(None, folder.path / "node")
    assert torch.equal(opened.train.whole(), data.train.whole())


def test_processes_of_this_machine_map_the_data_and_begin_with_the_base_model(
    data: SweepData, folder: RunFolder
) -> None:
    mapped = staged(folder, data, copied=False)
    alone = prepare_base(spec_of(), data, folder)
    folder.base_weights.unlink()
    with local_pool(2) as pool:
        begun = begin_base(spec_of(), mapped, folder, pool)
        assert begun is not None
        aside = prepare_base(spec_of(), data, folder, begun)
        # It is there now: nothing is trained again.
        assert begin_base(spec_of(), mapped, folder, pool) is None
    assert aside.base.digest == alone.base.digest
    assert begin_base(spec_of(), None, folder, None) is None
    assert shared_by_runs(spec_of(), aside, folder, None, mapped).data is mapped


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 8")])
def test_data_that_cannot_be_written_are_one_line(
    data: SweepData, folder: RunFolder, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "save_data", Mock(side_effect=error))
    with pytest.raises(
        PreflightError, match=r"must lie in a file there .* MB free, got: .*; free space"
    ) as caught:
        staged(folder, data, copied=False)
    assert "\n" not in str(caught.value)


def test_a_base_model_whose_process_is_lost_is_trained_here(data: SweepData, folder: RunFolder) -> None:
    def lost() -> tuple[State, BaseFacts]:
        raise ProcessLost("it was killed")

    assert (
        prepare_base(spec_of(), data, folder, lost).base.digest
        == prepare_base(spec_of(), data, folder).base.digest
    )


def test_in_an_object_store_every_node_copies(
    data: SweepData, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStore, "filesystem", lambda _: "of a store")
    spec = spec_of("resources.stage_above_mb=0", "resources.cpu=2")
    prepared = prepare(spec_of(), data, folder)
    shared = shared_by_runs(spec, prepared, folder, Cluster())
    assert isinstance(shared.data, StagedData)
    assert (shared.data.copied, shared.filesystem, shared.threads, shared.gpu) == (True, "of a store", 2, 0)
    # In this process there is nothing to send the data to.
    assert shared_by_runs(spec, prepared, folder, None).data is data
