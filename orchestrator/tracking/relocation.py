"""Places of artifacts in the MLflow file of a runs folder, after the folder was moved or copied.

MLflow keeps them as absolute addresses. Left as they are, new artifacts would be written to where the folder once was,
and old ones would be looked for there.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from orchestrator.tracking.address import own_address, sqlite_path

ARTIFACTS = "mlartifacts"
_PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
    "logged_models": ("artifact_location",),
}
"""Tables and columns of MLflow that hold addresses of artifacts."""


def relocate(address: str) -> int:
    """Let the addresses of artifacts in the file of a runs folder name the folder as it now lies.

    Call it before MLflow opens the file, under the lock of :func:`orchestrator.tracking.address.first_opening`.

    Args:
        address: tracking address; any other than that of a runs folder's own file is left alone.
    Returns:
        Number of the addresses that were changed.
    Raises:
        sqlite3.Error: the file cannot be read or written.
    """
    path = sqlite_path(address)
    if path is None or own_address(path.parent) != address or not path.is_file() or not path.stat().st_size:
        return 0
    now = f"{(path.parent / ARTIFACTS).absolute().as_uri()}/"
    changed = 0
    with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as store, store:
        there = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "experiments" not in there:
            return 0
        old = _former_places(store, now)
        for table, columns in _PLACES.items():
            if table not in there:
                continue
            known = {row[1] for row in store.execute(f"PRAGMA table_info({table})")}
            for column in (each for each in columns if each in known):
                for place in old:
                    # By length and not by LIKE, to which % and _ in a path mean anything.
                    changed += store.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (now, len(place) + 1, len(place), place),
                    ).rowcount
    return changed


def _former_places(store: sqlite3.Connection, now: str) -> set[str]:
    """Addresses of ``mlartifacts/`` that sweeps were begun with, other than that of now."""
    places = set()
    for name, location in store.execute("SELECT name, artifact_location FROM experiments"):
        # The experiment of a sweep has its artifacts in a folder of its name; others are not ours to move.
        ending = f"/{ARTIFACTS}/{Path(name).as_posix()}"
        if isinstance(location, str) and location.endswith(ending):
            places.add(location.removesuffix(ending) + f"/{ARTIFACTS}/")
    return places - {now}
