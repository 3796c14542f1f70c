"""Recipes of pre-training: what each does, resuming bit-equal, and the command."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path

import pytest
import torch

from orchestrator.signals import Stopped, stopped_by_signals
from selmix.augment import strong, weak
from selmix.data.digits import DigitsConfig
from selmix.data.splits import SweepData
from selmix.model import predict
from selmix.models import ModelConfig
from selmix.pretrain import RECIPES, PretrainSettings, pretrain, pretrainer
from selmix.weights import load_weights, save_weights, state_digest
from tests.command import Background, here, selmix

SHORT = PretrainSettings(epochs=3)


@cache
def data() -> SweepData:
    return DigitsConfig(largest_class=40, imbalance=10, feedback=10, select=20, test=30, unlabelled=60).load()


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_a_recipe_learns_and_resumes_bit_equal(recipe: str) -> None:
    config, settings = ModelConfig("small_cnn"), PretrainSettings(epochs=12)
    before = torch.get_rng_state()
    whole = pretrain(recipe, config, data(), 5, settings)
    assert torch.equal(before, torch.get_rng_state())
    first = pretrainer(recipe, config, data(), 5, settings)
    for _ in range(7):
        first.run_epoch()
    later = pretrainer(recipe, config, data(), 5, settings)
    later.load_state_dict(first.state_dict())
    while not later.finished:
        later.run_epoch()
    assert state_digest(later.weights()) == state_digest(whole)
    model = config.build(data().input_shape, 10)
    model.load_state_dict(whole)
    _, logits = predict(config.view(model), data().select.inputs)
    assert float((logits.argmax(1) == data().select.labels).double().mean()) > 0.5


def test_recipes_differ() -> None:
    digests = {
        state_digest(pretrain(recipe, ModelConfig("small_cnn"), data(), 0, SHORT)) for recipe in RECIPES
    }
    assert len(digests) == len(RECIPES)


def test_weights_to_begin_with() -> None:
    config = ModelConfig("small_cnn")
    ten = config.build((1, 8, 8), 10, torch.Generator().manual_seed(9)).state_dict()
    five = config.build((1, 8, 8), 5, torch.Generator().manual_seed(9)).state_dict()
    same = pretrainer("erm", config, data(), 0, SHORT, ten)
    assert torch.equal(same.model.state_dict()["head.weight"], ten["head.weight"])
    other = pretrainer("erm", config, data(), 0, SHORT, five)
    assert torch.equal(other.model.state_dict()["stage1.0.weight"], five["stage1.0.weight"])
    assert other.model.state_dict()["head.weight"].shape == (10, 256)
    with pytest.raises(ValueError, match="no layer in common"):
        pretrainer("erm", config, data(), 0, SHORT, {"fc.weight": torch.zeros(2)})


def test_settings_act() -> None:
    """A large alpha mixes by halves, an average without memory is the model, decay shrinks the weights."""
    config = ModelConfig("small_cnn")
    halves = pretrainer("mixup", config, data(), 0, PretrainSettings(mixup_alpha=1e6))
    inputs, labels = data().train.inputs[:16], data().train.labels[:16]
    state = halves._generator.get_state()
    loss = halves._mixup_loss(inputs, labels).detach()
    halves._generator.set_state(state)
    torch._standard_gamma(torch.full((2,), 1e6), generator=halves._generator)
    other = torch.randperm(16, generator=halves._generator)
    logits = halves.model((inputs + inputs[other]) / 2).detach()
    by_hand = sum(-logits.log_softmax(1)[range(16), y].mean() for y in (labels, labels[other])) / 2
    assert float(loss) == pytest.approx(float(by_hand), rel=1e-2)

    short = PretrainSettings(epochs=1, ema_decay=0.0)
    average = pretrainer("fixmatch", config, data(), 0, short)
    average.run_epoch()
    assert state_digest(average.weights()) == state_digest(average.model.state_dict())

    def norm(decay: float) -> float:
        weights = pretrain("erm", config, data(), 0, PretrainSettings(epochs=3, weight_decay=decay))
        return float(weights["head.weight"].norm())

    assert norm(0.1) < norm(0.0)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="must be one of erm, logit_adjusted, mixup, fixmatch"):
        pretrain("adam", ModelConfig("small_cnn"), data(), 0)
    with pytest.raises(ValueError, match="FixMatch needs unlabelled samples"):
        pretrain("fixmatch", ModelConfig("small_cnn"), DigitsConfig().load(), 0)
    problems = r"epochs: must be a whole number >= 1, got 0\nlr: must be a number > 0, got 0.0\n"
    problems += r"weight_decay: must be a number >= 0, got -1\nmixup_alpha: must be a number > 0, got 0\n"
    problems += r"ema_decay: must be a number in \[0, 1\), got 1"
    with pytest.raises(ValueError, match=problems):
        PretrainSettings(epochs=0, lr=0.0, weight_decay=-1, mixup_alpha=0, ema_decay=1)


@pytest.mark.parametrize("shape", [(6, 1, 8, 8), (6, 3, 32, 32), (6, 5)])
def test_augmentations(shape: tuple[int, ...]) -> None:
    inputs = torch.rand(shape, generator=torch.Generator().manual_seed(0))

    def drawn(seed: int) -> list[torch.Tensor]:
        return [augment(inputs, torch.Generator().manual_seed(seed)) for augment in (weak, strong)]

    for one, same, other in zip(drawn(1), drawn(1), drawn(2), strict=True):
        assert one.shape == shape
        assert torch.equal(one, same)
        if one.ndim == 4:
            assert not torch.equal(one, other)
    if len(shape) == 4:
        # Every weakly augmented image is the image moved: its inner part is found in it.
        moved, reach = weak(inputs, torch.Generator().manual_seed(1))[0], max(1, shape[-1] // 8)
        core = moved[:, 2 * reach : -2 * reach, 2 * reach : -2 * reach]
        side = core.shape[-1]
        places = [
            torch.equal(core, image[:, r : r + side, c : c + side])
            for image in (inputs[0], inputs[0].flip(2))
            for r in range(shape[-2] - side + 1)
            for c in range(shape[-1] - side + 1)
        ]
        assert any(places)
    else:
        assert torch.equal(weak(inputs, torch.Generator()), inputs)


FILE = """\
version: 1
name: base
data: {name: digits, largest_class: 40, imbalance: 10, feedback: 10, select: 20, test: 30, unlabelled: 40}
pretrain: {recipe: mixup, epochs: 20}
objectives: [min_recall]
"""


@pytest.mark.slow
def test_on_the_command_line(tmp_path: Path) -> None:
    """Trained, killed and resumed to the same bits; the weights serve as a checkpoint."""
    file = tmp_path / "base.yaml"
    file.write_text(FILE)
    done = selmix("pretrain", file, "--output", "a.safetensors", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.document["epochs"] == 20
    assert done.document["digest"] == state_digest(load_weights(tmp_path / "a.safetensors"))
    assert done.document["select"]["accuracy"] > 0.5
    assert here("pretrain", file, "--output", "a.safetensors", cwd=tmp_path).code == 2
    used = here("validate", file, "pretrain.recipe=null", "pretrain.checkpoint=a.safetensors", cwd=tmp_path)
    assert used.code == 0, used.err
    (tmp_path / "b.safetensors.partial").write_bytes(b"damaged")
    done = here("pretrain", file, "--output", "b.safetensors", cwd=tmp_path)
    assert done.code == 4
    assert "cannot be read" in done.err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_signals_stop_it_also_where_they_were_ignored(number: signal.Signals, code: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with pytest.raises(Stopped) as stopped, stopped_by_signals():
            os.kill(os.getpid(), number)
        assert stopped.value.exit_code == code
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow, in this process, uses what SQLAlchemy deprecates
def test_stopped_and_resumed(tmp_path: Path) -> None:
    file = tmp_path / "base.yaml"
    file.write_text(FILE.replace("epochs: 20", "epochs: 120"))
    log = tmp_path / "log"
    arguments = ("pretrain", file, "--output", tmp_path / "a.safetensors", "--runs", tmp_path / "runs")
    with Background(*arguments, log=log) as background:
        background.wait_until(lambda: "epoch 10 of" in log.read_text())  # five seconds before its end
        background.process.send_signal(signal.SIGINT)
        assert background.process.wait(30) == 130
    assert (tmp_path / "a.safetensors.partial").is_file()
    assert not (tmp_path / "a.safetensors").exists()
    other = here("pretrain", file, "pretrain.seed=1", "--output", "a.safetensors", cwd=tmp_path)
    assert other.code == 2
    assert "got one of another training" in other.err
    resumed = here("pretrain", file, "--output", "a.safetensors", "--json", cwd=tmp_path)
    afresh = here("pretrain", file, "--output", "b.safetensors", "--json", cwd=tmp_path)
    assert resumed.code == afresh.code == 0, resumed.err
    assert resumed.document["digest"] == afresh.document["digest"]
    assert not (tmp_path / "a.safetensors.partial").exists()


def test_bad_initial_weights_stop_a_launch(tmp_path: Path) -> None:
    file = tmp_path / "base.yaml"
    file.write_text(FILE)
    save_weights(tmp_path / "w.safetensors", {"fc": torch.zeros(1)})
    done = here("plan", file, "pretrain.init=w.safetensors", cwd=tmp_path)
    assert done.code == 4
    assert (
        "pretrain.init: w.safetensors: initial weights must be of the same architecture: 0 of the "
        in done.err
    )
    done = here("plan", file, "pretrain.init=none.safetensors", cwd=tmp_path)
    assert done.code == 4
    assert "pretrain.init: none.safetensors: must be a safetensors or torch file" in done.err
