"""What MLflow is told of a sweep as a whole: tags and params of its runs, figures of its winners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.provenance import git_state
from orchestrator.spec.schema import SweepSpec


def trial_tags(digests: Mapping[str, str]) -> dict[str, str]:
    """On every run below the parent. The test split's digest is known without opening it."""
    return {"selmix.data_digest": digests["train"]}


def parent_tags(spec: SweepSpec, digests: Mapping[str, str]) -> dict[str, str]:
    git = git_state()
    tags = {f"selmix.digest.{split}": digest for split, digest in digests.items()}
    tags |= {"selmix.data_digest": digests["train"], "selmix.objectives": ", ".join(spec.objectives)}
    if git["commit"] is not None:
        tags |= {"mlflow.source.git.commit": git["commit"], "selmix.git_dirty": str(git["dirty"]).lower()}
    return tags


def mlflow_params(spec: SweepSpec) -> dict[str, Any]:
    """``data.*``, ``model.*``, ``pretrain.*``, ``selection.*``: the same for all runs of the sweep."""
    document = spec.resolved()
    return {
        f"{section}.{key}": value
        for section in ("data", "model", "pretrain", "selection")
        for key, value in document[section].items()
        if value is not None
    }


def parent_figures(results: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, str]]:
    """Figures and tags of the winners; the objective stands before a figure where there are several."""
    figures: dict[str, float] = {}
    winners, verdicts = [], []
    for objective, result in results.items():
        winner, verdict = result["winner"], result["verdict"]
        if winner is None:
            continue
        prefix = f"{objective}/" if len(results) > 1 else ""
        winners.append(winner["trial_id"])
        for metric, estimate in winner["select"].items():
            figures |= {
                f"{prefix}best/select/{metric}": estimate["value"],
                f"{prefix}best/select/{metric}/low": estimate["low"],
                f"{prefix}best/select/{metric}/high": estimate["high"],
            }
        if verdict is not None:
            verdicts.append(f"{verdict['outcome']} than {verdict['against']}" if verdict["outcome"] != "tied"
                            else f"tied with {verdict['against']}")  # fmt: skip
    tags = {"selmix.winner": ", ".join(winners), "selmix.verdict": ", ".join(verdicts)}
    return figures, {key: text for key, text in tags.items() if text}
