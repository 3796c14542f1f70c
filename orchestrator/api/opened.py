"""A sweep that was launched, opened to be looked at: table, verdict, predictions and models, read from its records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.api.shown import Shown
from orchestrator.api.tables import as_wanted, table_of, with_metrics
from orchestrator.errors import NoFeasibleTrial, PreflightError, UsageError
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.lease import current_state
from orchestrator.records.store import LocalStore
from orchestrator.records.synced_folder import open_store
from orchestrator.results.rows import ObjectiveResult, Verdict, Winner
from orchestrator.verbs.show import ShowDocument, show_document
from orchestrator.verbs.show_text import show_text

if TYPE_CHECKING:
    from torch import nn

    from orchestrator.pins.pin import WrittenPin
    from orchestrator.pins.targets import Target
    from selmix.metrics import Predictions


def open_sweep(path_or_name: str | Path, runs: str | Path = "runs") -> OpenedSweep:
    """Open a sweep that was launched, also while it runs.

    Args:
        path_or_name: its name in the runs folder, or the path of its own folder.
        runs: the runs folder, or the address of an object store; not read where a path is given.
    Raises:
        NotFound: there is no such sweep; the message names those that there are.
        UsageError: an address of another kind than ``s3://``.
    """
    path = Path(path_or_name)
    if (path / "sweep.json").is_file():
        # Of the folder itself, whatever the path looks like: `.` has a name only then.
        whole = path if path.name else path.absolute()
        return OpenedSweep(RunFolder.open(LocalStore(whole.parent), whole.name))
    return OpenedSweep(RunFolder.open(open_store(str(runs)), str(path_or_name)))


class OpenedSweep:
    """A sweep in a runs folder; see :func:`open_sweep`.

    Everything is read anew at each call, so that a sweep may be looked at while it runs. Nothing here opens the test
    split but :meth:`pin` and :meth:`pin_all`, and what these saw is the only thing of it that can be read.

    Args:
        folder: of the sweep.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self._folder.name

    @property
    def path(self) -> str:
        """Its folder, as messages name it."""
        return self._folder.shown

    @property
    def state(self) -> str:
        """``running``, ``stopped``, ``finished`` or ``failed``."""
        return current_state(self._folder, self._folder.load_state().state)

    @property
    def objectives(self) -> list[str]:
        """Objectives of the sweep, in the order of its file."""
        return list(self._folder.load_spec().get("objectives", []))

    def show(self) -> Shown[ShowDocument]:
        """The result, or the progress, as ``selmix show`` prints it; show it by making it the last line of a cell."""
        return Shown(show_document(self._folder), partial(show_text))

    def result(self, objective: str | None = None) -> ObjectiveResult:
        """Result of an objective: winner, verdict, finalists, baselines and choices.

        Args:
            objective: of the sweep; may be left out where it has only one.
        Raises:
            UsageError: it has several and none is named, or not this one.
        """
        return show_document(self._folder).objectives[self._objective(objective)]

    @property
    def winner(self) -> Winner | None:
        """The winner of a sweep of one objective; None while it is undecided. Of several: ``result(...).winner``."""
        return self.result().winner

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on the winner of a sweep of one objective, likewise; None also where nothing opposes it."""
        return self.result().verdict

    def trials(self, as_frame: bool = False) -> Any:
        """Trials and replicates, a row each.

        Args:
            as_frame: True for a data frame of pandas.
        Returns:
            A pyarrow table: ``trial_id, objective, kind, state, seed, round, steps, score, feasible, cost_s``, ...;
            settings as ``config.lr``; metrics on select as ``select.min_recall``, ``select.min_recall.low`` and
            ``.high``.
        """
        document = show_document(self._folder)
        return as_wanted(table_of(document.trials, ("trial_id", "objective", "state", "score")), as_frame)

    def rows(self, as_frame: bool = False) -> Any:
        """Everything in the table of ``show``: trials, replicates and baselines, a row each.

        Args:
            as_frame: True for a data frame of pandas.
        Returns:
            A pyarrow table: ``id`` (which :meth:`pin`, :meth:`load` and :meth:`predictions` take), ``objective, rung,
            approach, labels, cost_s, correction, seeds, feasible, state, score``, and metrics on select as in
            :meth:`trials`.
        """
        document = show_document(self._folder)
        table = table_of(document.rows, ("id", "objective", "approach", "state", "score"))
        select = {
            record.trial_id: record.select
            for record in (*self._folder.load_trials(), *self._folder.load_baselines())
        }
        return as_wanted(with_metrics(table, [select[row.id] for row in document.rows]), as_frame)

    def predictions(
        self, row: str | None = None, split: str = "select", objective: str | None = None
    ) -> Predictions:
        """Stored predictions of the model that a row ships, the one that :meth:`load` gives.

        Args:
            row: as of :meth:`load`.
            split: ``select``; or ``test``, of rows that a pin was made of.
            objective: likewise.
        Returns:
            ``labels``, ``predicted`` and ``confidence``, shape (n,) each, and ``groups`` or None. Of a row that is
            fitted on select these are out of fold.
        Raises:
            UsageError: no pin opened test for this row: inspection never does.
            NotFound: there is no such row.
        """
        import torch

        from selmix.metrics import Predictions

        if split not in ("select", "test"):
            raise UsageError(f"split: must be select or test, got {split!r}")
        target = self._target(row, objective)
        trial_id, place = target.record.trial_id, target.file
        if split == "select":
            stored = self._folder.load_predictions(trial_id)
            if place >= len(stored):
                raise PreflightError(
                    f"{self._folder.trial_folder(trial_id)}: must hold the predictions of {trial_id}, there are none"
                )
            arrays = stored[place]
        else:
            kept = self._folder.load_test_predictions(trial_id, place)
            if kept is None:
                raise UsageError(
                    f"test: no pin has opened it for {trial_id}, and nothing else may; `selmix pin {self.name} --row "
                    f"{trial_id} --name NAME` evaluates this row there, which is on record"
                )
            arrays = kept
        return Predictions(**{key: torch.from_numpy(values) for key, values in arrays.items()})

    def load(self, row: str | None = None, objective: str | None = None) -> nn.Module:
        """A row as a model, in evaluation mode on the CPU, as :func:`selmix.load_pin` gives that of a pin.

        Args:
            row: id of a row, an approach, or a trial, as ``selmix pin --row`` takes it; None: the winner.
            objective: that the row is one of; may be left out where it is clear.
        Returns:
            The module, whose ``forward`` gives the logits, with ``class_names``, ``correction``,
            ``preprocess(images)`` and ``predict(x, group=None)``. Of a row over several seeds the one that ships.
        Raises:
            NotFound: there is no such row.
            UsageError: the name is not clear, or the row is no single model.
            NoFeasibleTrial: there is no winner.
            PreflightError: weights are missing or damaged, or the data cannot be read that say what the model takes.
        """
        from orchestrator.api.model import model_of

        return model_of(self._folder, self._target(row, objective))

    def pin(
        self,
        name: str,
        row: str | None = None,
        *,
        objective: str | None = None,
        pins: str | Path = "pins",
        force: bool = False,
    ) -> WrittenPin:
        """Keep the winner, or a row, as ``selmix pin`` does; this opens the test split, which is on record.

        Args:
            name: of the pin.
            row: as of :meth:`load`.
            objective: of the row; may be left out where it is clear.
            pins: folder of the pins.
            force: True to replace a pin of that name.
        Returns:
            Path of the pin, which :func:`selmix.load_pin` takes, and what is to be said of its opening of test.
        Raises:
            SelmixError: as of the command, with its exit code.
        """
        return self._pin(name, () if objective is None else (objective,), row, pins, force)[0]

    def pin_all(self, name: str, *, pins: str | Path = "pins", force: bool = False) -> list[WrittenPin]:
        """Keep the winners of all objectives as NAME-OBJECTIVE, declared together in one opening of test.

        Args and errors are those of :meth:`pin`.
        """
        return self._pin(name, self.objectives, None, pins, force)

    def _pin(
        self, name: str, objectives: Sequence[str], row: str | None, pins: str | Path, force: bool
    ) -> list[WrittenPin]:
        from orchestrator.pins.pin import PinRequest, pin_sweep

        request = PinRequest(self.name, name, objectives, row=row, force=force)
        return pin_sweep(self._folder.store, Path(pins), request)

    def _objective(self, named: str | None) -> str:
        held = self.objectives
        if named is None and len(held) == 1:
            return held[0]
        if named is None:
            raise UsageError(f"objective: must be given, {self.name} has several: {', '.join(held)}")
        if named not in held:
            raise UsageError(
                f"objective: must be one of {', '.join(held)}, the objectives of {self.name}, got {named!r}"
            )
        return named

    def _target(self, row: str | None, objective: str | None) -> Target:
        from orchestrator.pins.named_rows import named_row
        from orchestrator.pins.targets import target_of, winner_target

        if row is not None:
            record = named_row(self._folder, row, () if objective is None else (objective,))
            return target_of(self._folder, record, judged=False)
        named = self._objective(objective)
        result = self.result(named)
        if result.winner is None:
            problem = self._folder.load_state().problem or f"it is {self.state}"
            raise NoFeasibleTrial(f"{self.name}: {named} has no winner: {problem}")
        return winner_target(self._folder, named, result, result.winner)

    def __repr__(self) -> str:
        return f"OpenedSweep({self.path!r}): {str(self.show()).splitlines()[0]}"

    def _repr_html_(self) -> str:
        return self.show()._repr_html_()
