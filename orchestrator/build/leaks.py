"""Leaks between the splits of a sweep's data: reported, and refused where they touch test."""

from __future__ import annotations

from orchestrator.build.selection import data_config
from orchestrator.errors import PreflightError
from orchestrator.spec.schema import SweepSpec
from selmix.data import DataConfig, doubts_of, notes_of, refuses_duplicates
from selmix.data.leaks import Leaks, Namer, exact_leaks
from selmix.data.splits import Split, SweepData

ADVICE = "take them out of one of the two, or give data.allow_duplicates: true"


def find_leaks(source: DataConfig, data: SweepData, test: Split) -> Leaks:
    """Samples of equal content in two splits or under two labels, by the digests of their contents.

    Args:
        source: configuration of the data.
        data: the splits that a sweep sees.
        test: the test split; it is compared, never evaluated on.
    Raises:
        OSError: an image file cannot be read.
    """
    splits = _splits(data, test)
    return exact_leaks(splits, data.class_names, sample_namer(source, data, test))


def sample_namer(source: DataConfig, data: SweepData, test: Split) -> Namer:
    """Words for a sample of a split: its row or file where it is known, else its place."""
    splits = _splits(data, test)

    def name_of(part: str, place: int) -> str:
        files = getattr(splits[part].inputs, "files", ())
        if files:
            return str(files[place])
        if hasattr(source, "sample_name"):
            return str(source.sample_name(part, place))
        return f"sample {place}"

    return name_of


def _splits(data: SweepData, test: Split) -> dict[str, Split]:
    splits = {"train": data.train, "feedback": data.feedback, "select": data.select, "test": test}
    return splits if data.unlabelled is None else splits | {"unlabelled": data.unlabelled}


def check_leaks(spec: SweepSpec, data: SweepData) -> list[str]:
    """Check before a sweep that nothing of test lies elsewhere, and collect what was done and what is doubtful.

    Args:
        spec: specification of the sweep.
        data: its splits train, feedback and select.
    Returns:
        One line each for the log of the launch.
    Raises:
        PreflightError: samples of test lie in another split or under two labels, and the file does not allow it.
    """
    source = data_config(spec)
    try:
        leaks = find_leaks(source, data, source.load_test())
        notes, doubts = notes_of(source), doubts_of(source)
    except (OSError, ValueError) as error:
        raise PreflightError(f"data: {spec.data['name']} must be readable: {error}") from error
    if leaks.in_test and refuses_duplicates(source):
        raise PreflightError(f"data: {'; '.join(leaks.in_test)}: {ADVICE}")
    warnings = [*doubts, *leaks.in_test, *leaks.elsewhere]
    return [*(f"data: {note}" for note in notes), *(f"data: warning: {line}" for line in warnings)]
