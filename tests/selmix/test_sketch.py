"""Sketches of sets of samples: exact where they are small, an estimate where they are not."""

from __future__ import annotations

import hashlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix.sketch import SIZE, Sketch


def sketch(*ranges: range) -> Sketch:
    return Sketch.of(hashlib.sha256(str(k).encode()).digest() for numbers in ranges for k in numbers)


SETS = st.frozensets(st.integers(0, 40), max_size=30)


@given(SETS, SETS)
@settings(max_examples=60, deadline=None)
def test_of_small_sets_the_share_is_that_of_the_sets(ours: frozenset[int], theirs: frozenset[int]) -> None:
    made = [Sketch.of(hashlib.sha256(bytes([k])).digest() for k in each) for each in (ours, theirs)]
    expected = len(ours & theirs) / len(ours) if ours else 0.0
    assert made[0].share_in(made[1]) == expected
    assert all(each.is_whole for each in made)


@pytest.mark.parametrize(
    ("ours", "theirs", "share"),
    [
        ((0, 20_000), (0, 20_000), 1.0),
        ((0, 20_000), (1_000, 21_000), 0.95),
        ((0, 20_000), (18_000, 38_000), 0.1),
        ((0, 20_000), (20_000, 40_000), 0.0),
        # A part of a larger set, and a set of which an earlier one was a part.
        ((0, 2_000), (0, 20_000), 1.0),
        ((0, 20_000), (0, 2_000), 0.1),
        ((0, 500), (250, 20_000), 0.5),
    ],
)
def test_of_large_sets_it_is_estimated(ours: tuple[int, int], theirs: tuple[int, int], share: float) -> None:
    sizes = [high - low for low, high in (ours, theirs)]
    counted = SIZE * sizes[0] / max(*sizes)
    found = sketch(range(*ours)).share_in(sketch(range(*theirs)))
    assert found == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / counted))
    assert (found == 1.0) == (share == 1.0)


def test_order_and_repetition_do_not_matter_and_only_so_much_is_kept() -> None:
    assert sketch(range(5_000)) == sketch(range(2_000, 5_000), range(3_000))
    assert (sketch(range(5_000)).samples, len(sketch(range(5_000)).hashes)) == (5_000, SIZE)
    assert sketch(range(5_000)).share_in(sketch()) == sketch().share_in(sketch(range(5_000))) == 0.0
    # So much smaller that none of its hashes is among those that are known of the other.
    assert Sketch(1, (2**64 - 1,)).share_in(sketch(range(5_000))) == 0.0


@pytest.mark.parametrize("samples", [0, 1, 300, SIZE, SIZE + 1])
def test_a_sketch_comes_back_from_its_text(samples: int) -> None:
    made = sketch(range(samples))
    assert Sketch.from_text(samples, made.text) == made
    assert made.is_whole == (samples <= SIZE)


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        (1, "?"),
        (1, "AAAA"),
        (2, sketch(range(1)).text),
        (1, sketch(range(2)).text),
        (2, sketch(range(1)).text * 2),
    ],
)
def test_what_is_no_sketch_is_refused(samples: int, text: str) -> None:
    with pytest.raises(ValueError, match="sketch: must be"):
        Sketch.from_text(samples, text)
