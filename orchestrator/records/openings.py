"""Openings of test splits: ``openings.jsonl`` of the runs folder, one line per opening, counted by content.

A test split is one and the same for every sweep of a runs folder whose test samples are the same, so its openings are
counted here and not in a sweep. An opening of other samples counts too where it held more than a tenth of these: with
one sample fewer it would be no new test split. Lines are added and never changed; one that cannot be read stops every
further opening, because openings that are lost would count as none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from orchestrator.clock import utc_now
from orchestrator.documents import from_document, to_document
from orchestrator.errors import NotFound, PreflightError
from orchestrator.files import write_atomically
from orchestrator.records.folder import RunFolder
from orchestrator.records.store import Store
from orchestrator.records.types import Opening, SweepState
from selmix.sketch import Sketch

NAME = "openings"
FILE = f"{NAME}.jsonl"

SEEN_SHARE = 0.1
"""Share of the samples from which on an earlier opening of other samples counts as one of these."""


@dataclass(frozen=True)
class RecordedOpening:
    """One line of ``openings.jsonl``.

    Attributes:
        content: content digest of the test split.
        test: digest of the split as the sweep read it, ``digests.test``.
        time: of the opening.
        sweep: name of the sweep.
        sweep_id: of the sweep.
        verb: ``pin`` or ``reproduce``.
        pins: names of the pins; those of one opening are declared together.
        objectives: of these pins, in their order; empty for an opening that an earlier version recorded.
        t: 1 for the first opening of this content, then one more each; openings that held more than SEEN_SHARE of these
            samples count.
        samples: number of distinct samples; None in lines of earlier versions, and of openings that sweeps alone have.
        sketch: hashes of the samples, see :class:`selmix.sketch.Sketch`; None likewise.
        overlap: largest share of these samples that one of the openings counted by ``t`` held, 1.0 where it was of this
            content; 0.0 for the first opening, None in lines of earlier versions.
    """

    content: str
    test: str
    time: str
    sweep: str
    sweep_id: str
    verb: str
    pins: list[str]
    objectives: list[str]
    t: int = 1
    samples: int | None = None
    sketch: str | None = None
    overlap: float | None = None

    @cached_property
    def known(self) -> Sketch | None:
        """Sketch of its samples; None where none was kept.

        Raises:
            ValueError: it is damaged.
        """
        if self.samples is None or self.sketch is None:
            return None
        return Sketch.from_text(self.samples, self.sketch)

    def share_of(self, content: str, sketch: Sketch | None) -> float:
        """Share of a set of samples that this opening held.

        Args:
            content: content digest of the set.
            sketch: of the set; None where there is none: only the digest counts then.
        """
        if self.content == content:
            return 1.0
        return 0.0 if sketch is None or self.known is None else sketch.share_in(self.known)

    @property
    def by(self) -> str:
        """The command that opened it, in short."""
        return " ".join([self.verb, *self.pins])

    @property
    def identity(self) -> tuple[str, str, str]:
        """The same in the record of the sweep."""
        return self.sweep_id, self.time, self.by


def record_opening(
    folder: RunFolder,
    content: str,
    test: str,
    verb: str,
    pins: Sequence[str],
    objectives: Sequence[str],
    sketch: Sketch | None = None,
) -> RecordedOpening:
    """Record an opening of a test split, in the runs folder and in the sweep; two at once count one after the other.

    Openings that earlier versions recorded in sweeps alone are added before it, where the sweep's test split has the
    digest ``test``.

    Args:
        folder: of the sweep whose test split is opened.
        content: content digest of the test split.
        test: digest of the split as the sweep reads it.
        verb: that opens it.
        pins: names of the pins that are written or reproduced.
        objectives: of the pins.
        sketch: of the samples; None to count by the content digest alone.
    Returns:
        The line of this opening.
    Raises:
        PreflightError: the file or the record of a sweep is damaged, or the runs folder cannot be written; nothing
            was recorded.
    """
    store = folder.store
    # Before the lock is taken: there may be many sweeps, and what is recorded meanwhile is in the file.
    earlier = sorted(_earlier(store, content, test), key=lambda line: line.time)
    with store.exclusively(NAME):
        before, lines = _read(store)
        known = {line.identity for line in lines}
        state = folder.load_state()
        mine = RecordedOpening(
            content, test, utc_now(), state.name, state.sweep_id, verb, list(pins), list(objectives)
        )
        if sketch is not None:
            mine = replace(mine, samples=sketch.samples, sketch=sketch.text)
        new = [line for line in earlier if line.identity not in known]
        shares = [line.share_of(content, sketch) for line in [*lines, *new]]
        mine = replace(mine, overlap=max((share for share in shares if share > SEEN_SHARE), default=0.0))
        seen = sum(line.share_of(content, sketch) > SEEN_SHARE for line in lines)
        new = [replace(line, t=seen + number) for number, line in enumerate([*new, mine], start=1)]
        _append(store, before, new)
        state.test_openings.append(Opening(mine.time, mine.by))
        folder.save_state(state)
    return new[-1]


def openings_of(folder: RunFolder, state: SweepState) -> list[RecordedOpening]:
    """Openings of a sweep's test split, as far as they are known without reading the split, in order of time.

    Those of other sweeps are among them if one of the recorded openings read the split as this sweep does, and so are
    those that held more than SEEN_SHARE of the samples of one that did.

    Args:
        folder: of the sweep.
        state: of the sweep.
    Raises:
        PreflightError: the file is damaged.
    """
    if state.data is None:
        return []
    test = state.data.digests.get("test", "")
    lines = _read(folder.store)[1]
    # Of one content there is one set of samples.
    contents = {line.content: line.known for line in lines if line.test == test}
    seen = [
        line
        for line in lines
        if any(line.share_of(content, sketch) > SEEN_SHARE for content, sketch in contents.items())
    ]
    known = {line.identity for line in seen}
    own = [line for line in _of_state(state, "", test) if line.identity not in known]
    return sorted([*seen, *own], key=lambda line: line.time)


def _earlier(store: Store, content: str, test: str) -> Iterator[RecordedOpening]:
    """Openings that the sweeps of a runs folder have on record, of the test split with this digest."""
    for name in store.sweep_names():
        try:
            state = RunFolder(store, name).load_state()
        except NotFound:  # it was removed just now
            continue
        except PreflightError as error:
            raise PreflightError(
                f"{error}; it may have opened the same test split: repair or remove it"
            ) from error
        yield from _of_state(state, content, test)


def _of_state(state: SweepState, content: str, test: str) -> Iterator[RecordedOpening]:
    if state.data is None or state.data.digests.get("test") != test:
        return
    for opening in state.test_openings:
        verb, *pins = opening.by.split(" ")
        yield RecordedOpening(content, test, opening.time, state.name, state.sweep_id, verb, pins, [])


def _read(store: Store) -> tuple[bytes, list[RecordedOpening]]:
    """Content of the file, and its lines."""
    path = store.current(store.root / FILE, anew=True)  # another process may have written it
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise PreflightError(
            f"{store.shown_folder(FILE)}: must be a readable file: {error.strerror or error}"
        ) from error
    numbered = enumerate(content.split(b"\n"), start=1)
    return content, [_opening(store, number, line) for number, line in numbered if line.strip()]


def _opening(store: Store, number: int, line: bytes) -> RecordedOpening:
    try:
        document = json.loads(line)
        if not isinstance(document, dict):
            raise ValueError(f"it is a {type(document).__name__}")
        opening = from_document(RecordedOpening, document)
        # Read now, so that a damaged one is named with its line.
        _ = opening.known
        return opening
    except ValueError as error:
        # Of a message of several lines the first counts the problems; the next two name a key and its problem.
        words = str(error).splitlines()
        reason = " ".join(word.strip() for word in (words[1:3] or words))
        raise PreflightError(
            f"{store.shown_folder(FILE)}:{number}: must be a JSON object with an opening of a test split: {reason}; "
            "restore the file from a copy, since openings that are lost would count as none"
        ) from error


def _append(store: Store, before: bytes, lines: Sequence[RecordedOpening]) -> None:
    # As a whole and renamed: a line that a killed process left half written would stop every further opening.
    if before and not before.endswith(b"\n"):
        before += b"\n"
    text = "".join(f"{json.dumps(to_document(line), ensure_ascii=False)}\n" for line in lines)
    path = store.root / FILE
    write_atomically(path, before + text.encode())
    store.publish(path)
