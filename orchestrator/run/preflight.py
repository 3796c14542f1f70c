"""Checks of everything that can be known to fail before anything is written, started or trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.credentials import masked
from orchestrator.documents import Document
from orchestrator.errors import PreflightError, UsageError
from orchestrator.records.folder import RunFolder
from orchestrator.records.store import Store
from orchestrator.tracking.address import check_tracking, present_address, tracking_of
from selmix import METHOD

if TYPE_CHECKING:
    from orchestrator.spec.schema import SweepSpec
    from selmix.data.splits import SweepData


def check_all(spec: SweepSpec, store: Store, on_this_machine: bool = True) -> tuple[str, SweepData]:
    """Check storage, MLflow, resources, data and checkpoint, in order of how quickly each is known.

    Args:
        spec: specification of the sweep.
        store: the runs folder.
        on_this_machine: False where trials run on a cluster: this machine's resources do not matter.
    Returns:
        The tracking address and the data.
    Raises:
        PreflightError: one of them is missing; the first one ends the checks.
    """
    address = tracking_of(store)
    store.check(spec.name)
    check_tracking(address)
    # Imported here, because these load torch, and the checks above refuse without it.
    from orchestrator.build.base_model import check_checkpoint
    from orchestrator.build.carried import carried_notes
    from orchestrator.build.data import load_data
    from orchestrator.cluster.concurrency import check_local_resources

    if on_this_machine:
        check_local_resources(spec.resources)
    data = load_data(spec)
    check_checkpoint(spec, data)
    carried_notes(spec, data.class_names)
    return address, data


def check_unchanged(folder: RunFolder, spec: SweepSpec, address: str) -> None:
    """Check that a sweep resumes with the file, the store and the arithmetic that it began with.

    Args:
        folder: of the sweep.
        spec: specification of this launch.
        address: of MLflow in this launch.
    Raises:
        UsageError: the specification differs (the message names the keys), or an unfinished sweep was begun by another
            version of the method.
        PreflightError: the tracking address differs.
    """
    changed = changed_keys(folder.load_spec(), spec.resolved())
    if changed:
        raise UsageError(
            f"{folder.shown}: this sweep was launched with another file; changed: {', '.join(changed)}. "
            f"Launch it under a new name (name=NEW), undo the change, or remove {folder.shown}"
        )
    state = folder.load_state()
    # A finished sweep has no more runs, so any version may judge it and send it to MLflow.
    if state.exit_code is None and state.method != METHOD:
        raise UsageError(
            f"{folder.shown}: this sweep was begun with method {state.method}, this is method {METHOD}: the bits of "
            "its runs would differ; finish it with the version that began it, or launch it under a new name (name=NEW)"
        )
    # In another store the runs of earlier launches would be missing.
    began_with = present_address(state.tracking_uri, folder.store.root)
    if state.tracking_uri and began_with != masked(address):
        raise PreflightError(
            f"{folder.shown}: must resume with the MLflow store it began with, {began_with}, got "
            f"{masked(address)}; set MLFLOW_TRACKING_URI back, or launch with name=NEW"
        )


def check_same_data(folder: RunFolder, data: SweepData) -> None:
    """Check that an unfinished sweep resumes with the samples that it began with.

    Args:
        folder: of the sweep.
        data: of this launch.
    Raises:
        UsageError: a split has other samples, or the classes have other names.
    """
    before = folder.load_state().data
    if before is None:
        return
    splits = dict.fromkeys([*before.digests, *data.digests])
    changed = [name for name in splits if before.digests.get(name) != data.digests.get(name)]
    if list(data.class_names) != before.class_names:
        changed.append("the names of the classes")
    if list(data.group_names) != before.group_names:
        changed.append("the names of the groups")
    if changed:
        raise UsageError(
            f"{folder.shown}: this sweep was launched with other data; changed: {', '.join(changed)}. Its rows would "
            "be compared on different samples: put the data back, launch the sweep under a new name (name=NEW), or "
            f"remove {folder.shown}"
        )


def changed_keys(before: Document, now: Document, prefix: str = "") -> list[str]:
    """Dotted keys that differ, each with both values.

    Args:
        before: resolved specification of the first launch.
        now: resolved specification of this launch.
        prefix: of the keys, with its dot.
    """
    changed = []
    # A dict and not a set, which would lose the order of the file.
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            changed.append(f"{prefix}{key} ({_brief(old)} -> {_brief(new)})")
    return changed


def _brief(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
