"""The lease of a sweep in an object store, which has neither locks nor, through pyarrow, a conditional write.

Every contender writes a claim of its own, waits ``SETTLE_S``, lists all claims, and holds the lease if no live claim
is older by the store's own clock (then by token). Claims are never written again: heartbeats go to an object beside
each, so the order of claims never changes.

Guarantee: on a store whose listings show every write that was answered (S3 and its kin do), at most one contender
holds the lease, as long as a write becomes visible within ``SETTLE_S`` of the time that the store gives it. Whoever
lists later sees the other's claim, and both judge by the same order; a claim written after another's listing is
younger than it, since ``SETTLE_S`` exceeds the second that the store's clock counts in. Clocks of hosts decide
nothing but whether a holder without a heartbeat for a minute is dead; one that was taken over finds its claim gone
at its next heartbeat.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from orchestrator.records.object_store import ObjectStore

SETTLE_S = 3.0
Document = dict[str, Any]


def claim(
    store: ObjectStore,
    sweep: str,
    mine: Document,
    alive: Callable[[Document], bool],
    settle_s: float = SETTLE_S,
) -> Document | None:
    """Contend for the lease.

    Args:
        mine: what stands in the heartbeat, with its ``token``. alive: whether another's document is of a live driver.
    Returns:
        None where the lease is held now, else the document of who holds it.
    """
    token = mine["token"]
    beat(store, sweep, mine)
    store.put(_path(sweep, token, "claim"), token.encode())
    time.sleep(settle_s)
    claims = _claims(store, sweep)
    for _, other in claims:
        if other == token:
            return None
        document = _read(store, sweep, other)
        if document is not None and alive(document):
            withdraw(store, sweep, token)
            return document
        withdraw(store, sweep, other)
    return mine  # somebody took this claim for dead: it is not held


def beat(store: ObjectStore, sweep: str, mine: Document) -> None:
    """Say that the holder lives."""
    store.put(_path(sweep, mine["token"], "json"), json.dumps(mine).encode())


def holds(store: ObjectStore, sweep: str, token: str) -> bool:
    """Whether the claim still stands."""
    return store.get(_path(sweep, token, "claim")) is not None


def withdraw(store: ObjectStore, sweep: str, token: str) -> None:
    """Take a claim back, or a dead one away."""
    store.delete(_path(sweep, token, "claim"))
    store.delete(_path(sweep, token, "json"))


def holder(store: ObjectStore, sweep: str, alive: Callable[[Document], bool]) -> Document | None:
    """The document of the oldest live claim."""
    for _, token in _claims(store, sweep):
        document = _read(store, sweep, token)
        if document is not None and alive(document):
            return document
    return None


def _claims(store: ObjectStore, sweep: str) -> list[tuple[float, str]]:
    """Store's time and token of every claim, oldest first."""
    listed = [item for item in store.objects(f"{sweep}/lease") if item.path.endswith(".claim")]
    return sorted((item.time_s, item.path.rpartition("/")[2].removesuffix(".claim")) for item in listed)


def _read(store: ObjectStore, sweep: str, token: str) -> Document | None:
    content = store.get(_path(sweep, token, "json"))
    try:
        document = None if content is None else json.loads(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _path(sweep: str, token: str, kind: str) -> str:
    return f"{sweep}/lease/{token}.{kind}"
