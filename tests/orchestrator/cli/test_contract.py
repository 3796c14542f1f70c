"""What Python code of others may import: the method's contract, and the README's examples."""

from __future__ import annotations

import ast
import importlib
import inspect
import re

import pytest
import torch

import selmix
from tests.command import ROOT

CONTRACT = {
    "selmix.gain": {"gain_matrix": "prototypes, weight, bias, logit_gradient, mixup_coefficient, labels"},
    "selmix.confusion": {"logit_gradient": "objective, confusion"},
    "selmix.policy": {"sampling_policy": "gain, temperature"},
    "selmix.objectives": {"OBJECTIVES": ""},
    "selmix.finetune": {"Finetuner": "view, pool, feedback, objective, config", "FinetuneConfig": ""},
    "selmix.base": {"Base": ""},
    "selmix": {"load_pin": "path"},
    "orchestrator": {"Sweep": "", "open_sweep": "path_or_name, runs"},
}
"""Module -> name -> its first parameters, in order; they may be given by place."""

EXAMPLES = re.findall(r"(?s)```python\n(.*?)```", (ROOT / "README.md").read_text())


@pytest.mark.parametrize("module", CONTRACT)
def test_the_contract_is_kept(module: str) -> None:
    for name, parameters in CONTRACT[module].items():
        found = getattr(importlib.import_module(module), name)
        if parameters:
            assert ", ".join(inspect.signature(found).parameters).startswith(parameters)


def test_the_contract_holds_together() -> None:
    """Gain and policy of three classes, by an objective of the table and by one of the user's own."""
    from selmix.confusion import logit_gradient
    from selmix.gain import gain_matrix
    from selmix.objectives import OBJECTIVES
    from selmix.policy import sampling_policy

    confusion = torch.tensor([[0.3, 0.03, 0.0], [0.1, 0.2, 0.04], [0.1, 0.1, 0.13]], dtype=torch.float64)
    prototypes, weight = torch.eye(3, 4), torch.eye(3, 4)
    for objective in (OBJECTIVES["mean_recall"], lambda c: (c.diagonal() / c.sum(dim=1)).mean()):
        gradient = logit_gradient(objective, confusion)
        gain = gain_matrix(prototypes, weight, torch.zeros(3), gradient, 0.8)
        assert (gain.shape, gain.dtype, gradient.requires_grad) == ((3, 3), torch.float64, False)
        policy = sampling_policy(gain, 0.1)
        assert float(policy.sum()) == pytest.approx(1.0)
        assert policy.argmax() == gain.argmax()
    assert float(OBJECTIVES["mean_recall"](confusion, None)) == pytest.approx(
        (0.3 / 0.33 + 0.2 / 0.34 + 0.13 / 0.33) / 3
    )


def test_there_are_examples() -> None:
    assert any("load_pin" in example for example in EXAMPLES)
    assert any("FinetuneConfig" in example for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_an_example_of_the_readme_takes_from_selmix_is_there(example: str) -> None:
    tree = ast.parse(example)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "selmix":
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        # selmix.NAME, where the package itself is imported
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "selmix":
            assert hasattr(selmix, node.attr)


def test_all_public_names_of_the_package_are_there_and_no_others() -> None:
    for name in selmix.__all__:
        assert getattr(selmix, name) is not None
    with pytest.raises(AttributeError, match="module 'selmix' has no attribute 'nothing'"):
        _ = selmix.nothing
    assert selmix.Base is importlib.import_module("selmix.base").Base
