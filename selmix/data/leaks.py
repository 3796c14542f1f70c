"""Samples that lie in two splits, or under two labels: what is measured on one split was seen in another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from selmix.data.content import sample_digests
from selmix.data.splits import Split
from selmix.data.wording import listed

Namer = Callable[[str, int], str]
"""Words for a sample by its split and its place there."""


@dataclass(frozen=True)
class Leaks:
    """Findings, one line each.

    Attributes:
        in_test: those that touch the test split.
        elsewhere: all others.
    """

    in_test: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def add(self, line: str, touches_test: bool) -> None:
        """Note a finding."""
        (self.in_test if touches_test else self.elsewhere).append(line)


def exact_leaks(splits: Mapping[str, Split], class_names: Sequence[str], name_of: Namer) -> Leaks:
    """Samples of equal content in two splits, or under two labels in one or two.

    Contents are equal if the first 8 bytes of their SHA-256 are: of ten million samples two differ and agree in these
    with a probability of 3e-6. Images count by the bytes of their files.

    Args:
        splits: name -> samples; labels below 0 are unknown.
        class_names: K texts, in the order of the labels.
        name_of: words for a sample.
    Raises:
        OSError: a file cannot be read.
    """
    held = {name: split for name, split in splits.items() if len(split)}
    keys = [_keys(split) for split in held.values()]
    part = np.repeat(np.arange(len(held)), [len(each) for each in keys])
    label = np.concatenate([split.labels.cpu().numpy() for split in held.values()])
    place = np.concatenate([np.arange(len(each)) for each in keys])
    _, content, counts = np.unique(np.concatenate(keys), return_inverse=True, return_counts=True)
    # Samples of a content that others have too, side by side.
    repeated = np.flatnonzero(counts[content] > 1)
    repeated = repeated[np.argsort(content[repeated], kind="stable")]
    first = np.flatnonzero(np.diff(content[repeated], prepend=-1))
    # In the order of the samples, not of their digests.
    groups = sorted(np.split(repeated, first[1:]), key=lambda group: int(group[0])) if len(repeated) else []
    names = list(held)

    def named(samples: Sequence[int], with_label: bool = False) -> str:
        each = []
        for k in samples:
            text = name_of(names[part[k]], int(place[k]))
            each.append(f"{text} ({class_names[label[k]]})" if with_label else f"{text} ({names[part[k]]})")
        return " = ".join(each)

    shared: dict[tuple[int, int], list[str]] = {}
    disputed: dict[bool, list[str]] = {}
    test = names.index("test") if "test" in names else -1
    for group in groups:
        homes, labels = part[group], label[group]
        for pair in combinations(np.unique(homes).tolist(), 2):
            # One of each: a content may be repeated many times.
            both = [int(group[np.argmax(homes == home)]) for home in pair]
            shared.setdefault(pair, []).append(named(both))
        known = np.unique(labels[labels >= 0])
        if len(known) > 1:
            each = [int(group[np.argmax(labels == value)]) for value in known[:3]]
            disputed.setdefault(bool((homes == test).any()), []).append(named(each, with_label=True))
    leaks = Leaks()
    for pair, found in sorted(shared.items()):
        shown = listed(found, "contents", joint="; ")
        leaks.add(f"the same content is in {names[pair[0]]} and in {names[pair[1]]}: {shown}", test in pair)
    for touches_test, found in sorted(disputed.items(), reverse=True):
        shown = listed(found, "contents", joint="; ")
        leaks.add(
            f"the same content has two labels{', in test' if touches_test else ''}: {shown}", touches_test
        )
    return leaks


def _keys(split: Split) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """First 8 bytes of each sample's digest, shape (n,)."""
    return np.frombuffer(b"".join(digest[:8] for digest in sample_digests(split.inputs)), dtype=np.uint64)
