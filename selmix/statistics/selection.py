"""How rounds and trials are ranked: one metric, a statistic of it, and constraints that decide feasibility."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from selmix.definitions import Definitions

STATISTICS = ("bagged", "lower_bound", "value")


@dataclass(frozen=True)
class Constraint:
    """A floor or a ceiling on a metric.

    Attributes:
        metric: a key of METRICS. at_least, at_most: exactly one of them is set.
        where: ``method`` (through multipliers), ``search`` (feasibility), or both.
    Raises:
        ValueError: not exactly one bound, or a place that is neither.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    where: tuple[str, ...] = ("method", "search")

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(
                f"{self.metric}: exactly one of at_least and at_most must be set, got both or none"
            )
        if not self.where or not set(self.where) <= {"method", "search"}:
            raise ValueError(f"{self.metric}: `in` must name method, search or both, got {list(self.where)}")

    @property
    def bound(self) -> float:
        """The one of ``at_least`` and ``at_most`` that is set."""
        if self.at_least is not None:
            return self.at_least
        return self.at_most if self.at_most is not None else float("nan")

    def violation(self, values: Mapping[str, float]) -> float:
        """By how much the metric misses the bound, 0.0 where it holds."""
        value = values[self.metric]
        return max(0.0, self.bound - value if self.at_least is not None else value - self.bound)


@dataclass(frozen=True)
class SelectionRule:
    """What ranks rounds and trials on the select split.

    Attributes:
        metric: a key of METRICS. statistic: of STATISTICS.
        constraints: those that hold in the search decide feasibility.
        seed: of the bootstrap resamples; the same for all trials, so that equal predictions score equally.
        definitions: of the metrics with parameters.
    Raises:
        ValueError: an unknown statistic.
    """

    metric: str
    statistic: str = "bagged"
    constraints: tuple[Constraint, ...] = ()
    seed: int = 0
    definitions: Definitions = field(default_factory=Definitions)

    def __post_init__(self) -> None:
        if self.statistic not in STATISTICS:
            raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}, got {self.statistic!r}")

    def violation(self, values: Mapping[str, float]) -> float:
        """Sum of the violations of the constraints that hold in the search."""
        return sum(c.violation(values) for c in self.constraints if "search" in c.where)
