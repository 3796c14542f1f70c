"""Settings that depart from the method for the sake of a comparison: told in MLflow and beside the winner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def departures(config: Mapping[str, Any]) -> dict[str, str]:
    """MLflow tag -> what it says, of the departures that act in a configuration; empty for the method itself.

    Args:
        config: of a trial, flat.
    """
    found = {}
    policy = config.get("policy")
    mixes = policy != "loss_weight" and config.get("coefficient_min") != 1.0
    if config.get("second") == "oracle" and mixes:
        found["selmix.oracle"] = "true labels of the unlabelled samples"
    if config.get("gain_formula") == "released_code" and policy not in ("uniform", "balanced"):
        found["selmix.gain_formula"] = "released_code"
    return found


def departure_note(config: Mapping[str, Any]) -> str:
    """The departures in a sentence; empty where there are none."""
    says = {
        "selmix.oracle": "true labels of the unlabelled samples (second: oracle)",
        "selmix.gain_formula": "the gain of the released code (gain_formula: released_code)",
    }
    used = [says[tag] for tag in departures(config)]
    return f"FOR COMPARISON ONLY: the winner used {' and '.join(used)}" if used else ""
