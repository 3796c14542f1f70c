"""Words that the messages of data share: a long list is a count and some examples."""

from __future__ import annotations

from collections.abc import Sequence


def listed(items: Sequence[str], noun: str, limit: int = 3, joint: str = ", ") -> str:
    """All items where they are few, else their number and the first ones: ``100 rows: 3, 7, 9 and 97 more``.

    Args:
        items: texts.
        noun: of the items, in the plural.
        limit: of the items that are named; one more is named too rather than counted.
        joint: between items.
    """
    if len(items) <= limit + 1:
        return joint.join(items)
    more = f"{joint if ';' in joint else ' '}and {len(items) - limit} more"
    return f"{len(items)} {noun}: {joint.join(items[:limit])}{more}"
