"""The lease of a sweep in an object store, which has neither locks nor, through pyarrow, a conditional write.

Every contender writes a claim of its own, waits ``SETTLE_S``, lists all claims, and holds the lease if no live claim
is older by the store's own clock (then by token). Claims are never written again: heartbeats go to an object beside
each, so the order of claims never changes.

Guarantee: on a store whose listings show every acknowledged write (S3 and its kin do), at most one contender holds the
lease, as long as a write becomes visible within ``SETTLE_S`` of the time that the store gives it. The contender that
lists later sees the other's claim, and both judge by the same order; a claim written after another's listing is younger
than it, since ``SETTLE_S`` exceeds the second that the store's clock counts in. Clocks of hosts decide one thing only,
the death of a holder without a heartbeat for a minute; a holder that was taken over finds its claim gone at its next
heartbeat.
"""

from __future__ import annotations

import contextlib
import json
import time

from orchestrator.documents import from_document, to_document
from orchestrator.errors import PreflightError
from orchestrator.records.leases.on_disk import Holder
from orchestrator.records.object_store import ObjectStore

SETTLE_S = 3.0


class ClaimLease:
    """:class:`orchestrator.records.leases.on_disk.LeaseBackend` in an object store.

    Args:
        store: of the runs.
        sweep: name of the sweep.
        settle_s: seconds within which a write must become visible.
    """

    def __init__(self, store: ObjectStore, sweep: str, settle_s: float = SETTLE_S) -> None:
        self._store, self._sweep, self._settle_s = store, sweep, settle_s

    def claim(self, mine: Holder) -> Holder | None:
        # First the heartbeat: a claim without one counts as dead.
        self._beat(mine)
        self._store.put(self._path(mine.token, "claim"), mine.token.encode())
        time.sleep(self._settle_s)
        for token in self._claims():
            if token == mine.token:
                return None
            other = self._read(token)
            if other is not None and other.is_alive():
                self._remove(mine.token)
                return other
            self._remove(token)  # a dead contender's
        return mine  # another contender took this claim for dead and removed it: it is not held

    def renew(self, mine: Holder) -> bool:
        if self._store.get(self._path(mine.token, "claim")) is None:
            return False
        self._beat(mine.beaten())
        return True

    def withdraw(self, mine: Holder) -> None:
        # A claim that stays behind in a store that fails is dead after a minute.
        with contextlib.suppress(PreflightError):
            self._remove(mine.token)

    def holder(self) -> Holder | None:
        """The oldest live claim's."""
        for token in self._claims():
            holder = self._read(token)
            if holder is not None and holder.is_alive():
                return holder
        return None

    def _beat(self, mine: Holder) -> None:
        self._store.put(self._path(mine.token, "json"), json.dumps(to_document(mine)).encode())

    def _remove(self, token: str) -> None:
        # First the claim: a heartbeat alone claims nothing.
        self._store.delete(self._path(token, "claim"))
        self._store.delete(self._path(token, "json"))

    def _claims(self) -> list[str]:
        """Tokens of all claims, oldest first by the store's clock."""
        # The store's clock counts in seconds: of equal ones the token decides, alike for every contender.
        listed = [
            item for item in self._store.objects(f"{self._sweep}/lease") if item.path.endswith(".claim")
        ]
        timed = sorted((item.time_s, item.path.rpartition("/")[2].removesuffix(".claim")) for item in listed)
        return [token for _, token in timed]

    def _read(self, token: str) -> Holder | None:
        content = self._store.get(self._path(token, "json"))
        try:
            return None if content is None else from_document(Holder, json.loads(content))
        except (ValueError, TypeError):
            return None

    def _path(self, token: str, kind: str) -> str:
        return f"{self._sweep}/lease/{token}.{kind}"
