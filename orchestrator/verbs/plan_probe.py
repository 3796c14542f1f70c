"""Probe of a plan: some rounds of a trial at the defaults, measured in seconds, bytes on disk and memory."""

from __future__ import annotations

import dataclasses
import math
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from orchestrator.build.base_model import torch_threads
from orchestrator.build.selection import selection_rules
from orchestrator.search.screen import cross_fitted, parts_of
from orchestrator.search.screening import most_configs, next_points, on_features, sizes
from orchestrator.spec.schema import SweepSpec
from orchestrator.spec.sections import ResourceSection
from selmix.baselines.head_losses import equal_shares, weighted_cross_entropy
from selmix.baselines.head_path import head_path
from selmix.baselines.last_layer import WEIGHT_DECAYS
from selmix.config import FinetuneConfig
from selmix.data.splits import Split, SweepData
from selmix.models import ModelConfig
from selmix.pretrain import pretrainer
from selmix.run.local_ranks import RunRequest, seconds_of_rounds
from selmix.run.start_model import Base
from selmix.screen.screening import ranked

PROBE_ROUNDS = 3
PROBE_STEPS = 8
"""Steps of the pre-training in each of the two epochs of its probe."""

PROBE_NUMBERS = 2**30
"""Multiplications of the head that is timed, per evaluation."""

HEAD_EVALUATIONS = 2000
"""Passes over train and feedback of all heads of an objective with a thousand classes, measured."""

SCREENED_CONFIGS, SCREENED_STEPS = (8, 32), (20, 60)
"""Configurations and steps of the small screens that are timed."""

SCREENED_NUMBERS, SCREENED_LARGE = 2**27, (1, 4)
"""Samples x classes x features above which so few configurations are timed."""

CUDA_CONTEXT_BYTES = 500_000_000
"""GPU memory that a process holds beside torch's allocator, for context and kernels: usually 0.3 to 0.5 GB."""


@dataclass(frozen=True)
class Memory:
    """Peak memory of a trial's worker.

    Attributes:
        device: ``cpu`` or ``cuda``.
        peak_bytes: peak of the probe.
        device_bytes: memory of the device.
        fit: number of workers that would fit.
    """

    device: str
    peak_bytes: int
    device_bytes: int
    fit: int


@dataclass(frozen=True)
class Probe:
    """Measurements of a trial at the defaults.

    Attributes:
        rounds_measured: rounds that were measured, without round 0.
        rounds: rounds of a whole trial.
        trial_s: seconds of a whole trial.
        one_worker_trial_s: seconds of a whole trial by one worker.
        pretrain_s: seconds of pre-training the base model.
        weights_bytes: bytes of the weights of a model.
        table_bytes: bytes of the table of rounds of a trial.
        memory: peak memory of a worker.
        heads_s: seconds of work that the heads of an objective take at least, on one worker; 0.0 without that rung.
        screen_s: seconds of work of the screen of an objective; 0.0 without one.
        screen_stages: stages of that screen, one after the other: seconds of the longest piece, and of all of them.
        features_bytes: bytes of the features of a frozen network, which are kept while the sweep runs; 0 where they are
            the inputs.
    """

    rounds_measured: int
    rounds: int
    trial_s: float
    one_worker_trial_s: float
    pretrain_s: float
    weights_bytes: int
    table_bytes: int
    memory: Memory
    heads_s: float = 0.0
    screen_s: float = 0.0
    screen_stages: list[list[float]] = field(default_factory=list)
    features_bytes: int = 0


def measure(spec: SweepSpec, data: SweepData, config: FinetuneConfig) -> Probe:
    """Run the first rounds of a trial and extrapolate.

    The probe runs on the GPU where trials take one and this machine has one, otherwise on the CPU.

    Args:
        spec: specification of the sweep.
        data: data of the sweep.
        config: settings of the trial.
    """
    objective = spec.objectives[0]
    device = torch.device("cuda" if spec.resources.gpu and torch.cuda.is_available() else "cpu")
    with torch_threads(spec.resources.cpu):
        model = spec.model.config.build(data.input_shape, data.num_classes)
        base = Base(spec.model.config, model.state_dict(), {})
        # Fitting the balanced head would take its own time and does not change that of a round.
        given = dataclasses.replace(config, start="given")
        rule = selection_rules(spec, data.class_names)[objective]
        request = RunRequest(data.to(device), base, objective, given, spec.search.seed, rule)
        seconds = seconds_of_rounds(1, PROBE_ROUNDS, request)
        memory = memory_of(device)
        workers = spec.resources.workers
        # Wall-clock seconds of one trial by all its workers; their processes and the exchange of gradients count.
        together = seconds
        if workers > 1:
            together = seconds_of_rounds(workers, PROBE_ROUNDS, request._replace(data=data))
    rounds = _rounds(config)
    # The fastest round: the first ones also pay for warm-up, and other processes only ever slow one down.
    round_s = min(seconds[1:], default=seconds[0])
    # After the memory, which is that of a trial.
    with torch_threads(spec.resources.cpu):
        pretrain_s = pretrain_seconds(spec, data)
        samples, width = len(data.train) + len(data.feedback), model_width(spec, model)
        heads_s = head_seconds(samples, width, data.num_classes, device) if "head" in spec.rungs else 0.0
        screens = "head" in spec.rungs and spec.screen is not None
        stages = screen_stages(spec, data, width, device) if screens else []
    # With groups the matrices are of (class, group) cells.
    strata = data.num_classes * max(1, data.num_groups)
    return Probe(
        rounds_measured=len(seconds) - 1,
        rounds=rounds,
        trial_s=together[0] + rounds * min(together[1:], default=together[0]),
        one_worker_trial_s=seconds[0] + rounds * round_s,
        pretrain_s=pretrain_s,
        heads_s=heads_s,
        screen_s=sum(total for _, total in stages),
        screen_stages=stages,
        # Of each sample features and logits, in float32.
        features_bytes=4
        * (samples + len(data.select))
        * (width + data.num_classes)
        * (spec.model.name != "linear_head"),
        weights_bytes=sum(t.numel() * t.element_size() for t in model.state_dict().values()),
        # Per round C, G and P and two vectors over the strata, in float32.
        table_bytes=rounds * 4 * strata * (3 * strata + 2),
        memory=memory,
    )


def pretrain_seconds(
    spec: SweepSpec, data: SweepData, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of pre-training the base model, from some of its steps; 0.0 where a checkpoint is given.

    Args:
        spec: specification of the sweep.
        data: on the device that the base model is trained on.
        clock: seconds.
    """
    if spec.recipe is None:
        return 0.0
    settings = spec.pretrain.settings
    some = torch.arange(min(len(data.train), PROBE_STEPS * settings.batch_size))
    part = dataclasses.replace(data, train=data.train.take(some.to(data.train.labels.device)))
    # Two epochs, whatever the file says: the first warms up.
    twice = dataclasses.replace(settings, epochs=2)
    trainer = pretrainer(spec.recipe, spec.model.config, part, spec.pretrain.seed, twice)
    trainer.run_epoch()
    begun = clock()
    trainer.run_epoch()
    step_s = (clock() - begun) / max(1, len(some) // settings.batch_size)
    return step_s * max(1, len(data.train) // settings.batch_size) * settings.epochs


def model_width(spec: SweepSpec, model: nn.Module) -> int:
    """Number of features that the head of a network reads."""
    return spec.model.config.view(model).head.weight.shape[1]


def head_seconds(
    samples: int,
    width: int,
    classes: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of work of fitting the heads of an objective, from fits of one head to noise.

    A lower bound: with few classes a head takes several times as many evaluations, each of which costs next to nothing.

    Args:
        samples: of train and feedback.
        width: d.
        classes: K.
        device: that heads are fitted on.
        clock: seconds.
    """
    some = min(samples, max(2 * classes, PROBE_NUMBERS // (width * classes)))
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(some, width, generator=generator).to(device)
    labels = torch.arange(some, device=device) % classes
    shares, evaluations = equal_shares(labels), 0
    loss = weighted_cross_entropy(labels, shares)

    def counted(logits: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal evaluations
        evaluations += 1
        return loss(logits)

    begun = clock()
    for head in head_path(features, counted, classes, (max(WEIGHT_DECAYS),), shares):
        float(head.bias.sum())  # read, so that a GPU has finished
    return HEAD_EVALUATIONS * (clock() - begun) / evaluations * samples / some


def screen_stages(
    spec: SweepSpec,
    data: SweepData,
    width: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Seconds of the stages of the screen of an objective, from the beginnings of small ones on noise.

    Two numbers of configurations and two of steps give what a part costs by itself, by its configurations, by its
    steps, and by both.

    Args:
        spec: specification of the sweep; it has a screen.
        data: sizes, classes and groups.
        width: d.
        device: that heads are screened on.
        clock: seconds.
    Returns:
        Of each stage the seconds of its longest piece, and of all its pieces: a generation is ranked, then its best are
        judged fold by fold.
    """
    section, objective = spec.screen, spec.objectives[0]
    if section is None:
        raise ValueError("screen: the sweep must have one")
    generator = torch.Generator().manual_seed(0)

    def noise(split: Split) -> Split:
        return dataclasses.replace(split, inputs=torch.randn(len(split), width, generator=generator))

    noisy = dataclasses.replace(
        data, train=noise(data.train), feedback=noise(data.feedback), select=noise(data.select)
    ).to(device)
    numbers = len(data.train) * data.num_classes * width
    few, many = SCREENED_CONFIGS if numbers <= SCREENED_NUMBERS else SCREENED_LARGE
    points = [on_features(spec, point) for point in next_points(spec, many, [])]
    settings = [dataclasses.replace(config, start="given") for config in points]
    # A space of a few points has no more.
    few, many = min(few, len(settings)), len(settings)
    model = ModelConfig("linear_head")
    base = Base(model, model.build((width,), data.num_classes, generator).state_dict(), {})
    rule = selection_rules(spec, data.class_names)[objective]

    def seconds(count: int, steps: int) -> float:
        some = [dataclasses.replace(config, steps=min(config.steps, steps)) for config in settings[:count]]
        begun = clock()
        ranked(noisy, base, objective, some, [spec.search.seed] * len(some), rule)
        return clock() - begun

    whole = max(config.steps for config in settings)
    short, longer = max(1, min(SCREENED_STEPS[0], whole // 4)), max(2, min(SCREENED_STEPS[1], whole))
    seconds(few, short)  # warms up
    corners = [[seconds(count, steps) for steps in (short, longer)] for count in (few, many)]

    def of_part(configs: int) -> float:
        """Seconds of a part, by the surface through the four that were measured; never less than the largest."""
        along = [low + (high - low) * (whole - short) / (longer - short) for low, high in corners]
        return max(corners[1][1], along[0] + (along[1] - along[0]) * (configs - few) / max(1, many - few))

    stages: list[list[float]] = []
    for count in sizes(most_configs(spec), section.generations):
        for pieces in (
            parts_of(range(count), count),
            section.folds * parts_of(range(cross_fitted(count)), count),
        ):
            took = [of_part(len(piece)) for piece in pieces]
            stages.append([max(took), sum(took)])
    return stages


def memory_of(device: torch.device) -> Memory:
    """Peak memory of this process so far.

    On a GPU torch's reserved memory plus :data:`CUDA_CONTEXT_BYTES`; on a CPU the resident set, which includes the
    interpreter and the data, as a worker holds them.
    """
    if device.type == "cuda":
        peak = torch.cuda.max_memory_reserved(device) + CUDA_CONTEXT_BYTES
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts it in KiB
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Memory(device.type, peak, total, total // peak)


def memory_warnings(
    memory: Memory, resources: ResourceSection, concurrent: int, on_ray: bool = True
) -> list[str]:
    """Warnings where the resources of a trial do not match the memory that the probe measured.

    Args:
        memory: peak memory of a worker.
        resources: resources of a trial.
        concurrent: trials that would run at once.
        on_ray: False where processes of this machine work, whose number the search does not bound.
    """
    peak, total, fit = memory.peak_bytes / 1e9, memory.device_bytes / 1e9, memory.fit
    if memory.device == "cpu":
        workers = concurrent * resources.workers
        # Where trials take a GPU that this machine lacks, its own memory says nothing of theirs.
        if resources.gpu or workers <= fit:
            return []
        bound = f"search.max_concurrent_trials to {max(1, fit // resources.workers)}"
        if not on_ray:
            bound = f"resources.max_cpus to {max(1, fit) * resources.cpu:g}"
        return [
            f"memory: {workers} workers at once take about {peak * workers:.1f} GB of {total:.1f}; about {fit} fit: "
            f"set {bound}, or use a smaller batch_size"
        ]
    # A worker computes on one GPU, also where it reserves several.
    share = min(1.0, resources.gpu)
    if peak > share * total:
        advice = "it does not fit on this GPU: accumulate gradients (parameters.accumulate)"
        if fit:
            advice = f"resources.gpu {share_for(fit):g} is enough"
        return [
            f"memory: a trial takes about {peak:.1f} GB, resources.gpu {resources.gpu:g} is {share * total:.1f} of "
            f"{total:.1f} GB; {advice}"
        ]
    # 1e-9, because 1 / share may come out just below a whole number.
    if resources.gpu <= 1 and fit > int(1 / resources.gpu + 1e-9):
        return [f"memory: {fit} trials would fit on a GPU: resources.gpu {share_for(fit):g} packs them"]
    return []


def share_for(fit: int) -> float:
    """Share of a GPU at which ``fit`` trials share one, in hundredths, rounded down so that they do not exceed it."""
    return int(100 / fit) / 100


def _rounds(config: FinetuneConfig) -> int:
    """Rounds of a trial: each is ``refresh_growth`` times as long as the one before."""
    if config.refresh_growth == 1.0:
        return math.ceil(config.steps / config.refresh_every)
    steps, length, rounds = 0, float(config.refresh_every), 0
    while steps < config.steps:
        steps, length, rounds = steps + int(length), length * config.refresh_growth, rounds + 1
    return rounds
