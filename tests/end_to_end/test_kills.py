"""A driver that is killed in every phase and launched again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selmix.baselines import BASELINES, baselines_for
from tests.command import SMOKE, Background, selmix
from tests.fakes.smoke import DECIDED, finished, mlflow_runs, records

LAUNCH = ("launch", SMOKE, "parameters.steps.value=600", "parameters.refresh_every={value: 200}")
"""Runs of a second: long enough to be caught in the midst of one."""

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


def table(runs: Path) -> dict[str, Any]:
    """The result without what clocks and random identities decide."""
    document = selmix("show", "smoke", "--runs", runs, "--json").document
    own = (*DECIDED, "config")
    result = document["objectives"]["min_recall"]
    baselines = {
        name: (row["select"], row["score"], row["labels"]) for name, row in result["baselines"].items()
    }
    return {
        "trials": [{key: row[key] for key in own} for row in document["trials"]],
        "winner": result["winner"]["trial_id"], "tied": result["tied"], "verdict": result["verdict"]["difference"],
        "baselines": baselines,
    }  # fmt: skip


@pytest.mark.slow
def test_kill_9_in_every_phase(tmp_path: Path) -> None:
    """Killed among the rows below the search, at half of it, and among the rows that need it, each time launched again.

    What it is compared with ran undisturbed, in one process.
    """
    runs, undisturbed = tmp_path / "runs", tmp_path / "undisturbed"
    assert selmix(*LAUNCH, "--in-process", "--runs", undisturbed).code == 0
    launch, baselines = (*LAUNCH, "--runs", runs), runs / "smoke" / "baselines" / "min_recall"
    dear = [name for name in baselines_for(num_groups=0) if BASELINES[name].rung in ("finetune", "retrain")]
    with Background(*launch, log=tmp_path / "log") as driver:
        driver.wait_until(lambda: len(list(baselines.rglob("record.json"))) >= 3)
        driver.kill_driver()
        assert not records(runs)
        assert selmix("ls", "--runs", runs, "--json").document["sweeps"][0]["state"] == "stopped"
    with Background(*launch, log=tmp_path / "log2") as driver:
        driver.wait_until(lambda: len(finished(runs)) >= 2)
        driver.kill_driver()
        before = {name: record for name, record in records(runs).items() if record["state"] == "FINISHED"}
    with Background(*launch, log=tmp_path / "log3") as driver:
        driver.wait_until(lambda: any((baselines / name / "record.json").is_file() for name in dear))
        driver.kill_driver()
    again = selmix(*launch)
    assert again.code == 0, again.err
    after = records(runs)
    for name, record in before.items():  # a finished trial is not touched, not even its clock
        assert after[name] == record
    sent = mlflow_runs(runs)
    ids = [run.data.tags.get("selmix.trial_id") for run in sent]
    assert len(ids) == len(set(ids)) == 1 + 8 + len(baselines_for(num_groups=0))
    assert {run.info.status for run in sent} == {"FINISHED"}
    assert table(runs) == table(undisturbed)
