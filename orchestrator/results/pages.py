"""MLflow's pages of a sweep: its runs while they come in, then the table of its result, in its order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.clock import now_ms
from orchestrator.credentials import masked
from orchestrator.records.folder import RunFolder, list_sweeps
from orchestrator.records.store import Store
from orchestrator.records.types import SweepState
from orchestrator.results.rows import SELMIX, SweepResult, base_labels, ranked_rows, row_of
from orchestrator.results.winner_text import answer
from orchestrator.tracking.address import present_address
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.view import (
    experiment_note,
    judged_view,
    pages_of,
    running_view,
    runs_link,
    trials_view,
    view_key,
)

MAX_LINKS = 10
"""Sweeps that `selmix ui` lists, so that its first screen holds them."""


@dataclass(frozen=True)
class Pages:
    """Views, ranks and note of one sweep in MLflow.

    Args:
        tracker: of the sweep.
        sweep_id: of the sweep.
        metrics: objective -> metric that ranks its runs, in the order of the sweep file.
    """

    tracker: Tracker
    sweep_id: str
    metrics: Mapping[str, str]

    def _key(self, objective: str) -> str:
        return view_key(self.sweep_id, list(self.metrics), objective)

    def show_running(self) -> None:
        """Let the pages open on trials and baselines by score; returns at once."""
        self.tracker.describe({
            name: running_view(self._key(name), self.sweep_id, name, metric)
            for name, metric in self.metrics.items()
        })  # fmt: skip

    def show_result(self, folder: RunFolder, state: SweepState, results: SweepResult) -> None:
        """Let the pages open on the tables of the result, with the verdicts above them; returns at once.

        Args:
            folder: records of the sweep.
            state: of the sweep.
            results: of the sweep.
        """
        views, further, links = {}, [], {}
        for name, result in results.objectives.items():
            make = running_view if result.winner is None else judged_view
            views[name] = make(self._key(name), self.sweep_id, name, self.metrics[name])
            further.append(trials_view(views[name], self.sweep_id, name, self.metrics[name]))
            # Relative: the pages of a file lie wherever `selmix ui` serves them.
            link = runs_link("", self.tracker.experiment_id, further[-1].key).lstrip("/")
            links[name] = f"{link}&compareRunsMode=CHART"
            for rank, row in enumerate(ranked_rows(name, result), start=1):
                record = folder.load_trial(row.id)
                # A baseline has its own score; SelMix stands in the table with the mean over its fresh seeds.
                score = row.score if row.approach == SELMIX else None
                labels = row_of(record, base_labels(state.base)).labels
                self.tracker.rank_trial(
                    row.id, rank, score, (record.ended_ms or now_ms()) + 1, record.steps or 0,
                    {"selmix.labels": "+".join(labels)},
                )  # fmt: skip
        answers = [f"{name}: {answer(result)}" for name, result in results.objectives.items()]
        self.tracker.describe(views, further, experiment_note(answers, folder.name, links))


def lines_of_links(store: Store, sweep: str | None, tracking: str, pages: str) -> list[str]:
    """Links to the runs of the sweeps of a folder, the newest first, each behind its name.

    Args:
        store: the runs folder.
        sweep: the only one to list; None: the newest ones.
        tracking: address of MLflow: sweeps that have their runs elsewhere are left out.
        pages: address of its pages.
    Raises:
        NotFound: there is no such sweep.
    """
    folders = list_sweeps(store) if sweep is None else [RunFolder.open(store, sweep)]
    states = [(folder, folder.load_state()) for folder in folders]
    here = [
        (folder, state)
        for folder, state in sorted(states, key=lambda each: each[1].created, reverse=True)
        if present_address(state.tracking_uri, store.root) == masked(tracking)
    ]
    lines = []
    for folder, state in here[:MAX_LINKS]:
        links = links_of(state, tracking, folder.load_spec().get("objectives", []), pages)
        if len(set(links.values())) > 1:
            lines += [f"{folder.name} {name}: {link}" for name, link in links.items()]
        else:
            # Of one objective, or of several without views.
            lines += [f"{folder.name}: {link}" for link in dict.fromkeys(links.values())]
    return lines


def links_of(
    state: SweepState, tracking: str, objectives: Sequence[str], served: str | None = None
) -> dict[str, str]:
    """Objective -> link to its runs in MLflow; empty before the sweep has an experiment.

    Args:
        state: of the sweep; one of an earlier version has no views, so that the link shows the runs as MLflow does.
        tracking: address of MLflow.
        objectives: of the sweep.
        served: address at which `selmix ui` serves the pages; None: its default.
    """
    if state.experiment_id is None:
        return {}
    pages = served or pages_of(tracking)
    return {name: runs_link(pages, state.experiment_id, state.views.get(name)) for name in objectives}
