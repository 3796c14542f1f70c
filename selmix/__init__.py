"""SelMix: selective mixup fine-tuning for metrics that do not decompose over samples.

What a fine-tuning needs can be imported from here; ``train_base`` and ``fine_tune`` are
:func:`selmix.pretrain.pretrain` and :func:`selmix.run.finetune`, whose names here would be those of modules.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selmix.baselines.last_layer import start_base, tuned_head
    from selmix.config import FinetuneConfig
    from selmix.data.digits import DigitsConfig
    from selmix.data.splits import Split, SweepData, join
    from selmix.models import ModelConfig
    from selmix.pinned import load_pin
    from selmix.pretrain import pretrain as train_base
    from selmix.run.run import finetune as fine_tune
    from selmix.run.start_model import Base
    from selmix.score_correction import load_score_correction
    from selmix.statistics.selection import Constraint, SelectionRule

__version__ = "0.1.0"
METHOD = 3
"""Number of the method's arithmetic: raised whenever bits of a fit or of confidence bounds change."""

__all__ = [
    "METHOD", "Base", "Constraint", "DigitsConfig", "FinetuneConfig", "ModelConfig", "SelectionRule", "Split",
    "SweepData", "__version__", "fine_tune", "join", "load_pin", "load_score_correction", "start_base", "train_base",
    "tuned_head",
]  # fmt: skip

_HOMES = {
    "Base": "selmix.run.start_model",
    "Constraint": "selmix.statistics.selection",
    "DigitsConfig": "selmix.data.digits",
    "FinetuneConfig": "selmix.config",
    "ModelConfig": "selmix.models",
    "SelectionRule": "selmix.statistics.selection",
    "Split": "selmix.data.splits",
    "SweepData": "selmix.data.splits",
    "fine_tune": "selmix.run.run:finetune",
    "join": "selmix.data.splits",
    "load_pin": "selmix.pinned",
    "load_score_correction": "selmix.score_correction",
    "start_base": "selmix.baselines.last_layer",
    "train_base": "selmix.pretrain:pretrain",
    "tuned_head": "selmix.baselines.last_layer",
}
"""Name -> module, and its name there where that is another one."""


def __getattr__(name: str) -> Any:
    # On demand: `import selmix` must stay light, the command line reads the version from it.
    if name not in _HOMES:
        raise AttributeError(f"module 'selmix' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)
