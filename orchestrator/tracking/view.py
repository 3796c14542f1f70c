"""What MLflow's pages open on: views of a sweep's runs, the links to them, and the note of its experiment.

A view is filter, sort and columns of the page of runs. The pages read it, as JSON, from a tag of the experiment that
the link names, as they do for views that are shared from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from orchestrator.credentials import masked
from orchestrator.documents import Document
from orchestrator.http_client import SERVERS

HOST, PORT = "127.0.0.1", 5000
"""Where `selmix ui` serves the pages of a store that has no server, unless told otherwise."""

VIEW_TAG = "mlflow.sharedViewState."
NOTE_TAG, OWN_NOTE_TAG = "mlflow.note.content", "selmix.note"
KIND_TAG, TRAINING = "mlflow.experimentKind", "custom_model_development"
"""The pages of an experiment of this kind open on its runs, not on traces of language models."""

RANK_TAG = "selmix.rank"
"""Place of a run in the table of `selmix show`, as ``007``; runs that are no row of it have none."""

SCORE = "best/score"

_PLAIN = "Model metrics"
"""Section of MLflow's page of charts with the metrics that have no prefix."""

_WIDTHS = {
    "attributes.`Run Name`": 290, f"tags.`{RANK_TAG}`": 100, f"metrics.`{SCORE}`": 150, "tags.`selmix.labels`": 200,
}  # fmt: skip
_WIDTH = 190


@dataclass(frozen=True)
class View:
    """A view of the runs of an objective.

    Attributes:
        key: that the link names it by; letters, digits and hyphens, so that a shell takes the link as it is.
        filter: search expression of MLflow.
        order_by: column that sorts the runs.
        ascending: True if the smallest comes first.
        columns: beside the name of the run, from the left.
    """

    key: str
    filter: str
    order_by: str
    ascending: bool
    columns: Sequence[str]

    def to_tag(self) -> tuple[str, str]:
        """Key and value of the experiment's tag that holds the view."""
        ordered = ["attributes.`Run Name`", *self.columns]
        state = {
            "searchFilter": self.filter,
            "orderByKey": self.order_by,
            "orderByAsc": self.ascending,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "selectedColumns": list(self.columns),
            "columnOrder": ordered,
            "columnWidths": {column: _WIDTHS.get(column, _WIDTH) for column in ordered},
            # The pages fill the sections with charts themselves, where there is a list of charts at all.
            "compareRunCharts": [],
            "compareRunSections": self._sections(),
            "isAccordionReordered": True,
        }
        return f"{VIEW_TAG}{self.key}", json.dumps(state)

    def _sections(self) -> list[Document]:
        """Sections of the page of charts: learning curves first; metrics of one dot each below, closed."""
        # A section has the metrics of its prefix.
        prefixes = dict.fromkeys(key.rpartition("/")[0] for key in map(_metric_of, self.columns) if key)
        best = sorted({SCORE.rpartition("/")[0], "best/select", *prefixes})
        named = [(_PLAIN, True), ("select", True), *((prefix, False) for prefix in best)]
        return [
            {"uuid": f"selmix-{number}", "name": name, "display": is_open, "isReordered": False, "deleted": False,
             "isGenerated": True}
            for number, (name, is_open) in enumerate(named)
        ]  # fmt: skip


def _metric_of(column: str) -> str:
    """Metric that a column shows; empty where it shows something else."""
    return column.removeprefix("metrics.`").removesuffix("`") if column.startswith("metrics.") else ""


def view_key(sweep_id: str, objectives: Sequence[str], objective: str) -> str:
    """Key of the view of an objective: the sweep's id, with the number of the objective where there are several."""
    # A number, because the name of a function of the user's own has signs that a shell or an address would take apart.
    number = list(objectives).index(objective) + 1
    return sweep_id if len(objectives) == 1 else f"{sweep_id}-{number}"


def running_view(key: str, sweep_id: str, objective: str, metric: str) -> View:
    """View of an objective that is not judged yet: trials and baselines by score.

    Args:
        key: of the view.
        sweep_id: of the sweep.
        objective: one of its objectives.
        metric: that ranks its runs.
    """
    # Replicates repeat a trial of the list on another seed.
    query = f"{_of(sweep_id, objective)} AND tags.`selmix.kind` != 'replicate'"
    return View(key, query, f"metrics.`{SCORE}`", False, _columns(metric))


def trials_view(view: View, sweep_id: str, objective: str, metric: str) -> View:
    """View of the trials of the search, the runs that have learning curves, beside another one of its objective.

    Args:
        view: the other one.
        sweep_id: of the sweep.
        objective: one of its objectives.
        metric: that ranks its runs.
    """
    query = f"{_of(sweep_id, objective)} AND tags.`selmix.kind` = 'trial'"
    return View(f"{view.key}-trials", query, f"metrics.`{SCORE}`", False, _columns(metric))


def judged_view(key: str, sweep_id: str, objective: str, metric: str) -> View:
    """View of a judged objective: the rows of the table of `selmix show`, in its order.

    Args:
        key: of the view.
        sweep_id: of the sweep.
        objective: one of its objectives.
        metric: that ranks its runs.
    """
    # By rank and not by score: the winner comes first, which is not always the row of the highest score.
    rank = f"tags.`{RANK_TAG}`"
    query = f"{_of(sweep_id, objective)} AND {rank} LIKE '%'"
    return View(key, query, rank, True, (rank, *_columns(metric), "tags.`selmix.labels`"))


def _of(sweep_id: str, objective: str) -> str:
    return f"tags.`selmix.sweep_id` = '{sweep_id}' AND tags.`selmix.objective` = '{objective}'"


def _columns(metric: str) -> tuple[str, ...]:
    keys = (SCORE, f"best/select/{metric}", f"best/select/{metric}/low", f"best/select/{metric}/high")
    return tuple(f"metrics.`{key}`" for key in keys)


def pages_of(address: str, host: str = HOST, port: int = PORT) -> str:
    """Address of the pages over a store: of a server its own, without credentials; else where `selmix ui` serves them.

    Args:
        address: tracking address.
        host: that `selmix ui` listens on.
        port: that `selmix ui` listens on.
    """
    return masked(address) if address.startswith(SERVERS) else f"http://{host}:{port}"


def runs_link(pages: str, experiment_id: str, key: str | None) -> str:
    """Link to the runs of an experiment, in the pages' mode for training.

    Args:
        pages: address of the pages.
        experiment_id: of the experiment.
        key: of a view; None for the runs as MLflow lists them, of a sweep by an earlier version.
    """
    view = "" if key is None else f"&viewStateShareKey={quote(key)}"
    return f"{pages}/#/experiments/{quote(experiment_id)}/runs?workflowType=machine_learning{view}"


def experiment_note(answers: Sequence[str], sweep: str, trials: Mapping[str, str]) -> str:
    """Note of a judged sweep's experiment; its first line is the answer.

    Args:
        answers: ``OBJECTIVE: verdict`` of each objective.
        sweep: name of the sweep.
        trials: objective -> link to the trials of its search, relative to the pages.
    """
    links = ", ".join(f"[{objective}]({link})" for objective, link in trials.items())
    return "\n\n".join([
        " / ".join(answers),
        f"`selmix show {sweep}` prints the table whose rows the view lists in their order, the winner first. "
        f"`{SCORE}` is what ranks a row on select, of SelMix in the table the mean over its fresh seeds. The limits of "
        "all metrics are in the artifact `best.json` of each run.",
        f"Trials of the search, with their learning curves: {links}.",
    ])  # fmt: skip


def noted(note: str, before: str, own_before: str) -> str:
    """Note of an experiment with ours at its top; what a user wrote stays below.

    Args:
        note: ours.
        before: note that is there.
        own_before: ours that was written before; empty for none.
    """
    kept = before.removeprefix(own_before).strip() if own_before else before.strip()
    return f"{note}\n\n{kept}" if kept else note
