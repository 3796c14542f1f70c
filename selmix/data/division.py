"""Division of labelled rows into train, feedback, select and test, by a column or by a draw from each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.data.longtail import split_by_class
from selmix.data.split_names import PARTS, renamed, spellings, split_named
from selmix.data.wording import listed

RARE = ("refuse", "drop", "pool")
"""Ways with a class that has too few rows: an error, left out, or put into one class with its like."""
POOLED = "other"
"""Name of the class that rare ones are put into."""
HELD = {"feedback": 20, "select": 24, "test": 50}
"""Held-out samples per class where nothing is said."""


@dataclass(frozen=True)
class Labelled:
    """Labels and attributes of n rows, without their inputs.

    Attributes:
        labels: shape (n,), int64.
        class_names: K texts, in the order of the labels.
        parts: split of each row, its place in PARTS, shape (n,), int64; None where the rows are to be drawn.
        groups: shape (n,), int64; None where there are no groups.
        group_names: A texts, in the order of the groups.
        units: unit (subject, patient, video) of each row, shape (n,), int64; None where every row is one.
        unit_names: U texts.
        notes: what was done to read them, one line each.
    """

    labels: Tensor
    class_names: tuple[str, ...]
    parts: Tensor | None = None
    groups: Tensor | None = None
    group_names: tuple[str, ...] = ()
    units: Tensor | None = None
    unit_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Division:
    """Rows of each split.

    Attributes:
        rows: split -> numbers of its rows, int64.
        labels: label of every row of the table, shape (n,), int64; -1 where its class was left out.
        class_names: K texts, in the order of the labels.
        notes: what was done, one line each.
        warnings: what is doubtful, one line each.
    """

    rows: Mapping[str, Tensor]
    labels: Tensor
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def held_problems(sizes: Mapping[str, int | float | None], floor: int, rare: str) -> list[str]:
    """Problems ``key: ...`` of the keys that say how rows are divided.

    Args:
        sizes: ``feedback``, ``select`` and ``test``: samples per class, or a fraction of each class; None: not given.
        floor: samples per class that a fraction gives at least.
        rare: one of RARE.
    """
    problems = []
    for part, size in sizes.items():
        least = 0 if part == "feedback" else 1
        if isinstance(size, float) and not (size == 0 and least == 0):
            if not 0 < size < 1:
                problems.append(
                    f"{part}: must be a number of samples per class, or a fraction below 1, got {size:g}"
                )
        elif size is not None and size < least:
            problems.append(
                f"{part}: must be >= {least} sample{'s' if least != 1 else ''} per class, got {size}"
            )
    shares = sum(size for size in sizes.values() if isinstance(size, float) and 0 < size < 1)
    if shares >= 1:
        problems.append(f"test: the fractions must leave some rows to train, got {shares:g} together")
    if floor < 1:
        problems.append(f"floor: must be >= 1 sample per class, got {floor}")
    if rare not in RARE:
        problems.append(f"rare_classes: must be one of {', '.join(RARE)}, got {rare!r}")
    return problems


def parts_named(
    names: Sequence[str], index: Tensor, column: str, where: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Splits of rows from the names in a column.

    Args:
        names: distinct names.
        index: place of each row's name among them, shape (n,), int64.
        column: its name, for messages.
        where: the table, for messages.
    Returns:
        Place in PARTS of each row, shape (n,), int64, and what was done, one line or none.
    Raises:
        ValueError: a name is that of no split.
    """
    known = [split_named(name) for name in names]
    unknown = [repr(name) for name, part in zip(names, known, strict=True) if part is None]
    if unknown:
        raise ValueError(
            f"{where}: {column} must be one of {spellings()}, in any case, got {listed(unknown, 'other names')}; "
            "name each of them so, or leave its rows out"
        )
    places = torch.tensor([PARTS.index(part) for part in known if part is not None], dtype=torch.int64)
    changed = renamed(names)
    return places[index], (f"{column}: {', '.join(changed)}",) if changed else ()


def divide(
    table: Labelled, sizes: Mapping[str, int | float | None], floor: int, rare: str, seed: int, where: str
) -> Division:
    """Divide rows into the four splits.

    Without a column of splits every held-out split is drawn from each class, and the rest is train. With one, the
    column says it; a split that it names nowhere is drawn from the rows of train where its size is given, else it is
    empty. Whole units are drawn: then a split has at least its size of each class.

    Args:
        table: n rows.
        sizes: ``feedback``, ``select`` and ``test``: samples per class; below 1 a fraction of the rows of each class,
            rounded, and ``floor`` at least; None: as HELD, or not drawn where a column says the splits.
        floor: of fractions.
        rare: one of RARE, for classes with fewer rows than are drawn and one more for train, and with a column of
            splits for those that a split has no row of. ``refuse`` reports the first kind; the second is left to those
            who read the splits.
        seed: of the draw.
        where: the table, for messages.
    Raises:
        ValueError: a class has too few rows, or units, for its splits; fewer than two classes are left.
    """
    fixed: dict[str, Tensor] = {}
    if table.parts is None:
        drawn = {part: HELD[part] if size is None else size for part, size in sizes.items()}
        pool = torch.arange(len(table.labels))
    else:
        # In the order of the table.
        fixed = {part: torch.nonzero(table.parts == place).flatten() for place, part in enumerate(PARTS)}
        pool = fixed.pop("train")
        drawn = {part: size for part, size in sizes.items() if size and not len(fixed[part])}
    draw = _Draw(drawn, floor)
    labels, class_names, notes = table.labels, table.class_names, list(table.notes)
    if table.parts is not None and drawn:
        notes.append(f"the column of splits names no {' and no '.join(drawn)}: drawn from the rows of train")
    short = _rare(table, labels, class_names, pool, fixed, draw)
    if short and rare == "refuse" and drawn:
        raise ValueError(f"{where}: {_shown(short)}; ask for fewer, or give rare_classes: drop or pool")
    if short and rare != "refuse":
        labels, class_names, note = _without(table, sorted(short), rare, where)
        notes.append(note)
        again = _rare(table, labels, class_names, pool, fixed, draw)
        if again:
            raise ValueError(f"{where}: after rare_classes: {rare} still {_shown(again)}; ask for fewer")
    kept = pool[labels[pool] >= 0]
    rows = {part: index[labels[index] >= 0] for part, index in fixed.items()}
    if drawn:
        rows |= _drawn(table, labels, class_names, kept, draw, seed, where)
    else:
        rows["train"] = kept
    warnings = _crossing(table, rows)
    return Division({part: rows[part] for part in PARTS}, labels, class_names, tuple(notes), tuple(warnings))


@dataclass(frozen=True)
class _Draw:
    """Sizes of the splits that are drawn."""

    sizes: Mapping[str, int | float]
    floor: int

    def of(self, part: str, held: Tensor) -> Tensor:
        """Samples of each class that a split takes of ``held``, shape (K,), int64."""
        size = self.sizes[part]
        if isinstance(size, float) and size > 0:
            # Half up, whatever the parity of the number beside it.
            return torch.floor(held.double() * size + 0.5).long().clamp_min(self.floor)
        return torch.full_like(held, int(size))

    def all(self, held: Tensor) -> Tensor:
        """Samples of each class that all of them take, shape (K,), int64."""
        return sum((self.of(part, held) for part in self.sizes), torch.zeros_like(held))

    @property
    def text(self) -> str:
        names = list(self.sizes)
        if len(names) == 1:
            return f"{names[0]} takes"
        return f"{', '.join(names[:-1])} and {names[-1]} take"


def _rare(
    table: Labelled,
    labels: Tensor,
    class_names: Sequence[str],
    pool: Tensor,
    fixed: Mapping[str, Tensor],
    draw: _Draw,
) -> dict[int, str]:
    """Classes with too few rows or units -> what they have and what is asked."""

    def counts(index: Tensor) -> Tensor:
        chosen = labels[index]
        return torch.bincount(chosen[chosen >= 0], minlength=len(class_names))

    held, short = counts(pool), {}
    if draw.sizes:
        requested = draw.all(held)
        for k in torch.nonzero(held <= requested).flatten().tolist():
            short[k] = (
                f"class {class_names[k]} has {int(held[k])} rows, {draw.text} {int(requested[k])} and train needs one"
            )
        if table.units is not None:
            needed = 1 + sum(size > 0 for size in draw.sizes.values())
            inside = pool[labels[pool] >= 0]
            pairs = torch.unique(torch.stack([labels[inside], table.units[inside]]), dim=1)
            of_class = torch.bincount(pairs[0], minlength=len(class_names))
            for k in torch.nonzero(of_class < needed).flatten().tolist():
                short.setdefault(
                    k, f"class {class_names[k]} has {int(of_class[k])} units, {needed} splits need one each"
                )
    else:
        for k in torch.nonzero(held == 0).flatten().tolist():
            short[k] = f"class {class_names[k]} has no row in train"
    for part, index in fixed.items():
        # A split that the column never names lacks every class, which is no matter of rare ones.
        if len(index):
            for k in torch.nonzero(counts(index) == 0).flatten().tolist():
                short.setdefault(k, f"class {class_names[k]} has no row in {part}")
    return short


def _shown(short: Mapping[int, str]) -> str:
    return listed([short[k] for k in sorted(short)], "classes with too few rows", joint="; ")


def _without(
    table: Labelled, rare: Sequence[int], how: str, where: str
) -> tuple[Tensor, tuple[str, ...], str]:
    """Labels and names without rare classes, and what was done."""
    kept = [k for k in range(len(table.class_names)) if k not in set(rare)]
    counts = torch.bincount(table.labels, minlength=len(table.class_names))
    named = listed([f"{table.class_names[k]} ({int(counts[k])})" for k in rare], "classes")
    held = int(counts[list(rare)].sum())
    place = torch.full((len(table.class_names),), -1 if how == "drop" else len(kept))
    place[kept] = torch.arange(len(kept))
    names = tuple(table.class_names[k] for k in kept)
    if how == "pool":
        if POOLED in names:
            raise ValueError(
                f"{where}: rare_classes: pool makes a class {POOLED!r}, which is there; rename it"
            )
        names = (*names, POOLED)
        note = f"rare_classes: pool made one class {POOLED!r} of {held} rows of {named}"
    else:
        note = f"rare_classes: drop left out {held} rows of {named}"
    if len(names) < 2:
        raise ValueError(f"{where}: rare_classes: {how} must leave two classes at least, got {list(names)}")
    return place[table.labels], names, note


def _drawn(
    table: Labelled,
    labels: Tensor,
    class_names: Sequence[str],
    pool: Tensor,
    draw: _Draw,
    seed: int,
    where: str,
) -> dict[str, Tensor]:
    """Rows of the drawn splits, and of train."""
    inside = labels[pool]
    held = torch.bincount(inside, minlength=len(class_names))
    generator = torch.Generator().manual_seed(seed)
    taken = {part: draw.of(part, held) for part in draw.sizes}
    if table.units is None:
        train = (held - draw.all(held)).tolist()
        drawn = split_by_class(inside, [train, *(size.tolist() for size in taken.values())], generator)
    else:
        names = [f"class {name}" for name in class_names]
        drawn = _units_drawn(inside, table.units[pool], taken, names, generator, where)
    return {part: pool[index] for part, index in zip(["train", *taken], drawn, strict=True)}


def _units_drawn(
    labels: Tensor,
    units: Tensor,
    taken: Mapping[str, Tensor],
    names: Sequence[str],
    generator: torch.Generator,
    where: str,
) -> list[Tensor]:
    """Divide rows so that no unit lies in two splits.

    Split by split, and in it class by class, the class of the fewest units first: units are taken in a random order, at
    first those that do not take more than is missing.

    Args:
        labels: shape (n,), int64.
        units: shape (n,), int64.
        taken: split -> samples of each class that it takes at least, shape (K,), int64.
        names: of the K classes, for messages.
        generator: of the order.
        where: the table, for messages.
    Returns:
        Rows of train and of each split, in the order of the table.
    Raises:
        ValueError: the units of a class cannot be divided so.
    """
    classes = len(names)
    pairs, counts = torch.unique(torch.stack([units, labels]), dim=1, return_counts=True)
    inside: dict[int, dict[int, int]] = {}
    holders: list[list[int]] = [[] for _ in range(classes)]
    for unit, label, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        inside.setdefault(unit, {})[label] = count
        holders[label].append(unit)
    for k, each in enumerate(holders):
        holders[k] = [each[place] for place in torch.randperm(len(each), generator=generator).tolist()]
    left = torch.bincount(labels, minlength=classes).tolist()
    order = sorted(range(classes), key=lambda k: len(holders[k]))
    home = torch.zeros(int(units.max()) + 1, dtype=torch.int64)
    assigned: set[int] = set()
    for place, (part, sizes) in enumerate(taken.items(), start=1):
        missing = sizes.tolist()
        for k in order:
            # First what fits, then what is more than is asked: the smallest of it.
            larger = sorted(holders[k], key=lambda unit: inside[unit][k])
            for fits, candidates in ((True, holders[k]), (False, larger)):
                for unit in candidates:
                    if missing[k] <= 0:
                        break
                    held = inside[unit]
                    if unit in assigned or (fits and held[k] > missing[k]):
                        continue
                    # Train keeps a row of every class.
                    if any(left[label] <= count for label, count in held.items()):
                        continue
                    assigned.add(unit)
                    home[unit] = place
                    for label, count in held.items():
                        missing[label] -= count
                        left[label] -= count
            if missing[k] > 0:
                raise ValueError(
                    f"{where}: the {len(holders[k])} units of {names[k]} must be divided whole, {part} still lacks "
                    f"{missing[k]} rows of it; ask for fewer, or give rare_classes: drop"
                )
    return [torch.nonzero(home[units] == place).flatten() for place in range(len(taken) + 1)]


def _crossing(table: Labelled, rows: Mapping[str, Tensor]) -> list[str]:
    """Warning of units that lie in several splits."""
    if table.units is None:
        return []
    homes: dict[int, list[str]] = {}
    for part in PARTS:
        for unit in torch.unique(table.units[rows[part]]).tolist():
            homes.setdefault(unit, []).append(part)
    across = [
        f"{table.unit_names[unit]} ({' and '.join(parts)})" for unit, parts in homes.items() if len(parts) > 1
    ]
    if not across:
        return []
    shown = ", ".join(across[:3]) + (f" and {len(across) - 3} more" if len(across) > 3 else "")
    return [
        f"{len(across)} of {len(homes)} units lie in more than one split, so that what is measured on one was seen in "
        f"another: {shown}"
    ]
