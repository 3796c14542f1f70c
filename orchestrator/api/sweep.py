"""A sweep as an object, from its file, a dictionary or arrays: validated, planned, launched and shown."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.api.given import GivenData, data_of_arrays, data_of_frame, naming_the_data
from orchestrator.api.opened import OpenedSweep, open_sweep
from orchestrator.api.shown import Shown
from orchestrator.errors import NoFeasibleTrial, PreflightError, SpecError, TooManyFailures, UsageError
from orchestrator.messages import preprocess_words
from orchestrator.records.folder import RunFolder
from orchestrator.records.synced_folder import open_store
from orchestrator.signals import Stopped
from orchestrator.verbs.show import ShowDocument
from selmix.rungs import Rung

if TYPE_CHECKING:
    from orchestrator.pins.pin import WrittenPin
    from orchestrator.spec.schema import SweepSpec
    from orchestrator.verbs.plan import PlanDocument
    from orchestrator.verbs.validate import ValidateDocument

SPEC = "spec"
"""Name that messages give a sweep file of Python's own values."""


class Sweep:
    """A sweep that may be launched; made by :meth:`from_file`, :meth:`from_dict`, :meth:`from_arrays` or
    :meth:`from_frame`.

    Every method does what the verb of its name does, prints nothing unless it is asked to, and raises the verb's error,
    with the same text and ``exit_code``.
    """

    def __init__(
        self,
        source: Path | Mapping[str, Any],
        overrides: Sequence[str],
        runs: str | Path,
        data: GivenData | None = None,
    ) -> None:
        self._source, self._overrides, self._runs, self._data = source, tuple(overrides), str(runs), data
        self._scratch: Path | None = None

    @classmethod
    def from_file(cls, path: str | Path, *overrides: str, runs: str | Path = "runs") -> Sweep:
        """A sweep by its file. The folder of the file is put on ``sys.path``, for functions of the user's own.

        Args:
            path: of the sweep file; it is read anew by every method.
            *overrides: ``KEY=VALUE`` each, as on the command line.
            runs: the runs folder, or the address of an object store.
        """
        return cls(Path(path), overrides, runs)

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any], *overrides: str, runs: str | Path = "runs") -> Sweep:
        """A sweep by the keys and values of a sweep file.

        Args:
            spec: plain values; ``version`` may be left out.
            *overrides: as of :meth:`from_file`.
            runs: likewise.
        """
        return cls({"version": 1, **spec}, overrides, runs)

    @classmethod
    def from_arrays(
        cls, spec: Mapping[str, Any], inputs: Any, labels: Any, *, runs: str | Path = "runs", **keys: Any
    ) -> Sweep:
        """A sweep on arrays, which a launch keeps as a table in the folder of the sweep.

        Args:
            spec: as of :meth:`from_dict`, without ``data``.
            inputs: feature vectors, shape (n, d), or images, uint8, as of :func:`selmix.data.from_arrays`.
            labels: n whole numbers or texts.
            runs: the runs folder.
            **keys: ``groups, units, split, class_names``, a value for each row or class, as of
                :func:`selmix.data.array_data`; all others are keys of ``data``: ``feedback=20, select=24, test=50``.
        Raises:
            PreflightError: lengths differ, a value is missing or not finite, or inputs of another form.
        """
        return cls(_without_data(spec), (), runs, data_of_arrays(inputs, labels, keys))

    @classmethod
    def from_frame(
        cls, spec: Mapping[str, Any], frame: Any, *, runs: str | Path = "runs", **keys: Any
    ) -> Sweep:
        """A sweep on a data frame, which a launch keeps as a table in the folder of the sweep.

        Args:
            spec: as of :meth:`from_dict`, without ``data``.
            frame: of pandas or polars, or an Arrow table.
            runs: the runs folder.
            **keys: keys of ``data`` of a table: ``label="y", features="f*", group=..., feedback=0.1``.
        Raises:
            PreflightError: it is no frame, or a column holds values of several types.
        """
        return cls(_without_data(spec), (), runs, data_of_frame(frame, keys))

    @property
    def spec(self) -> SweepSpec:
        """The checked specification, defaults filled in.

        Raises:
            SpecError: it is invalid; ``problems`` lists everything at once.
            UsageError: an override that is no KEY=VALUE.
        """
        table = self._table_for_checks()
        with naming_the_data(table):
            return self._read(table)

    @property
    def name(self) -> str:
        """Name of the sweep; raises as :attr:`spec`."""
        return self.spec.name

    def problems(self) -> list[str]:
        """Every problem that :meth:`validate` would raise, one text each; empty where the sweep is valid."""
        try:
            self.validate()
        except SpecError as error:
            return error.problems
        except (UsageError, PreflightError) as error:
            return str(error).splitlines()
        return []

    def validate(self) -> Shown[ValidateDocument]:
        """Check the specification, and that the files that it names are there and fit.

        Returns:
            The document of ``selmix validate``, with ``document.warnings``.
        Raises:
            SpecError: the specification is invalid; every problem at once.
            UsageError: an override that is no KEY=VALUE.
            PreflightError: a file is missing or unfit.
        """
        from orchestrator.verbs.validate import validate_document

        where = self._source if isinstance(self._source, Path) else Path(SPEC)
        with naming_the_data(self._table_for_checks()):
            return Shown(validate_document(self.spec, where), _validation_text)

    def plan(self) -> Shown[PlanDocument]:
        """Estimate trials, time, disk and memory from a short probe; nothing is written.

        Raises:
            SpecError: the specification is invalid.
            PreflightError: a launch would fail for the same reason.
        """
        from orchestrator.verbs.plan import plan_document, plan_text

        with naming_the_data(self._table_for_checks()):
            return Shown(plan_document(self.spec, open_store(self._runs)), plan_text)

    def launch(
        self,
        *,
        in_process: bool = False,
        address: str | None = None,
        progress: bool = False,
        until: Rung | None = None,
    ) -> OpenedSweep:
        """Run the sweep, or resume it; a finished one is not run again.

        Interrupting the cell stops it as Ctrl-C does: what is finished is kept, and launching it again resumes it.

        Args:
            in_process: True to run in this process, one run after the other, without Ray.
            address: of a running Ray cluster, HOST:6379; None: RAY_ADDRESS, else a Ray of its own on this machine.
            progress: True for the lines of ``selmix launch`` on stderr; warnings are shown in any case.
            until: rung to end with; a later launch without it goes on from there.
        Returns:
            The finished sweep.
        Raises:
            SpecError: the specification is invalid.
            UsageError: it changed since the first launch, the sweep was cancelled, or the arguments contradict.
            PreflightError: something that it needs is missing, or another driver holds or took the sweep.
            TooManyFailures: more trials failed than ``search.max_failed`` allows.
            NoFeasibleTrial: an objective has no winner; the sweep is finished, :func:`open_sweep` shows it.
            KeyboardInterrupt: it was stopped, as :class:`orchestrator.signals.Stopped` with its ``exit_code``.
        """
        if in_process and address is not None:
            raise UsageError(
                "launch: in_process runs the sweep without a cluster; remove it, or remove address"
            )
        if threading.current_thread() is not threading.main_thread():
            raise UsageError(
                "launch: must be called in the main thread, whose signals stop a sweep; in another one start "
                "`selmix launch` as a process"
            )
        from orchestrator.cluster.address import Cluster, driver_address
        from orchestrator.cluster.ray_session import ray_environment
        from orchestrator.run.launch import launch_sweep, needs_ray

        cluster = None if in_process else Cluster(driver_address(address, os.environ))
        store = open_store(self._runs)
        # Checked first: the name says which folder the data go to.
        folder = RunFolder.at(store, self.name)
        with contextlib.ExitStack() as stack:
            table = None if self._data is None else stack.enter_context(self._data.kept(folder))
            stack.enter_context(naming_the_data(table))
            # Ray reads its environment when it is imported.
            if cluster is not None:
                stack.enter_context(ray_environment(cluster))
            spec = self._read(table)
            if cluster is not None and cluster.is_private and not needs_ray(spec, store, until):
                cluster = None
            code = launch_sweep(
                spec, self._file(table), store, cluster, not progress, until=until, may_exit=False,
                in_process=in_process,
            )  # fmt: skip
        opened = OpenedSweep(RunFolder.open(store, folder.name))
        _raise_for(code, opened)
        return opened

    def open(self) -> OpenedSweep:
        """The sweep as it was launched, see :func:`open_sweep`.

        Raises:
            NotFound: it was not.
        """
        return open_sweep(self.name, self._runs)

    def show(self) -> Shown[ShowDocument]:
        """Result or progress, as :meth:`OpenedSweep.show`; raises as :meth:`open`."""
        return self.open().show()

    def pin(
        self,
        name: str,
        row: str | None = None,
        *,
        objective: str | None = None,
        pins: str | Path = "pins",
        force: bool = False,
    ) -> WrittenPin:
        """Keep the winner, or a row: arguments and errors are those of :meth:`OpenedSweep.pin`."""
        return self.open().pin(name, row, objective=objective, pins=pins, force=force)

    def _read(self, table: Path | None) -> SweepSpec:
        """The specification, with its data in the table where Python gave them."""
        from orchestrator.spec.checks import check_spec, load_spec
        from orchestrator.spec.plain_values import file_of_values
        from orchestrator.spec.yaml_file import apply_overrides

        if isinstance(self._source, Path):
            return load_spec(self._source, self._overrides)
        file = file_of_values(self._values(table), SPEC)
        apply_overrides(file, self._overrides)
        return check_spec(file)

    def _values(self, table: Path | None) -> Mapping[str, Any]:
        if isinstance(self._source, Path):
            raise AssertionError("a sweep by its file has no values of its own")
        if self._data is None or table is None:
            return self._source
        return {**self._source, "data": self._data.section(table)}

    def _file(self, table: Path | None) -> Path:
        """The sweep file, which is kept beside the result."""
        if isinstance(self._source, Path):
            return self._source
        from orchestrator.spec.plain_values import file_of_values, text_of

        path = self._home() / "sweep.yaml"
        path.write_text(text_of(file_of_values(self._values(table), SPEC).values), encoding="utf-8")
        return path

    def _table_for_checks(self) -> Path | None:
        """The table of data that Python gave, as a file that checks read."""
        if self._data is None:
            return None
        path = self._home() / "data.parquet"
        self._data.write(path)
        return path

    def _home(self) -> Path:
        """Folder of files that are needed before there is a sweep; gone with this object."""
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="selmix-sweep-"))
            weakref.finalize(self, shutil.rmtree, self._scratch, True)
        return self._scratch

    def __repr__(self) -> str:
        given = self._source if isinstance(self._source, Path) else self._source.get("name", "without a name")
        return f"Sweep({str(given)!r}, runs={self._runs!r})"


def _without_data(spec: Mapping[str, Any]) -> dict[str, Any]:
    if "data" in spec:
        raise UsageError(
            "data: must be left out of the specification where arrays or a frame are given; give its keys as arguments "
            "(feedback=20)"
        )
    return {"version": 1, **spec}


def _raise_for(code: int, sweep: OpenedSweep) -> None:
    """Raise what an exit code of a launch stands for; a finished sweep is none."""
    if code == 0:
        return
    if code in (Stopped(signal.SIGINT).exit_code, Stopped(signal.SIGTERM).exit_code):
        raise Stopped(signal.SIGINT if code == Stopped(signal.SIGINT).exit_code else signal.SIGTERM)
    problem = sweep.show().document.problem
    for kind in (TooManyFailures, NoFeasibleTrial):
        if code == kind.exit_code:
            raise kind(problem or f"{sweep.name}: ended with exit code {code}")
    raise PreflightError(
        problem
        or f"{sweep.path}: another driver took the sweep; it is {sweep.state}, launch it again to resume"
    )


def _validation_text(document: ValidateDocument, width: int | None) -> str:
    from orchestrator.verbs.validate import validation_text

    lines = [f"warning: {warning}" for warning in document.warnings]
    lines += [] if document.preprocess is None else [f"preprocess: {preprocess_words(document.preprocess)}"]
    return "\n".join([validation_text(document, width), *lines])
