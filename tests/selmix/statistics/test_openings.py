"""Levels of claims on test: by openings before, and among pins that are declared together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selmix.statistics.openings import holm_levels, level_of_opening


def test_the_first_opening_has_the_full_level_and_the_shares_of_all_add_up() -> None:
    assert level_of_opening(0) == 0.95
    assert level_of_opening(1) == pytest.approx(1 - 0.05 / 6)
    assert level_of_opening(2) == pytest.approx(1 - 0.05 / 12)
    assert level_of_opening(1, 0.9) == pytest.approx(1 - 0.1 / 6)
    levels = [level_of_opening(t - 1) for t in range(1, 2001)]
    assert levels == sorted(levels)
    # A telescoping sum: alpha / (t (t + 1)) = alpha / t - alpha / (t + 1), from t = 2 on.
    assert sum(1 - level for level in levels[1:]) == pytest.approx(0.05 * (1 / 2 - 1 / 2001))


@pytest.mark.parametrize(("before", "level"), [(-1, 0.95), (0, 0.0), (0, 1.0), (3, float("nan"))])
def test_what_is_no_level_is_refused(before: int, level: float) -> None:
    with pytest.raises(ValueError, match=r"must (be >= 0|lie in \(0, 1\)), got"):
        level_of_opening(before, level)


def holm_by_order(p_values: dict[str, float], alpha: float) -> set[str]:
    """Names that Holm's procedure rejects, as it is written: in order of the p-values, until one is too large."""
    rejected: set[str] = set()
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        if p_values[name] > alpha / (len(p_values) - rank):
            break
        rejected.add(name)
    return rejected


@given(st.lists(st.floats(0.0, 0.2), max_size=7), st.sampled_from([0.05, 0.01]))
def test_it_decides_as_holm_does_in_order_of_the_p_values(values: list[float], alpha: float) -> None:
    p_values = {f"pin-{k}": value for k, value in enumerate(values)}

    def told_apart(name: str, level: float) -> bool:
        # A difference of rounding must not decide: levels are one minus shares of alpha.
        return p_values[name] <= (1.0 - level) * (1 + 1e-12)

    levels = holm_levels(p_values, told_apart, 1.0 - alpha)
    assert levels.keys() == p_values.keys()
    near = any(abs(v - alpha / k) < 1e-9 for v in values for k in range(1, 8))
    if not near:
        assert {name for name in levels if told_apart(name, levels[name])} == holm_by_order(p_values, alpha)


def test_a_single_claim_and_the_last_one_left_have_the_plain_level() -> None:
    assert holm_levels(["a"], lambda *_: False) == {"a": 0.95}
    assert holm_levels([], lambda *_: True) == {}
    levels = holm_levels(["a", "b", "c"], lambda name, _: name != "c")
    assert levels == {"a": pytest.approx(1 - 0.05 / 3), "b": pytest.approx(1 - 0.05 / 3), "c": 0.95}
    assert holm_levels(["a", "b"], lambda *_: False) == {"a": 0.975, "b": 0.975}
    with pytest.raises(ValueError, match="level: must lie in"):
        holm_levels(["a"], lambda *_: True, 1.0)
