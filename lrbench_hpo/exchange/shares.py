"""Detection of results that are given in per cent and yet are shares: all of them are at most 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lrbench_hpo.exchange.rows import Found, Rejected

_ONE_PER_CENT = 0.01
_MAX_WAITING = 1_000  # rows in which nothing is above 1 %


def without_shares(
    rows: Iterable[tuple[Found | Rejected, Rejected | None]],
) -> Iterator[Found | Rejected]:
    """The rows of a file or study in per cent, if one of them is more than 1 %.

    Args:
        rows: each good one with what it is if they are all shares (`as_share`).
    """
    waiting: list[tuple[Found | Rejected, Rejected]] = []
    highest = 0.0
    for row, share in rows:
        if highest > _ONE_PER_CENT or share is None or not isinstance(row, Found):
            yield row
            continue
        measured = (row.run.metrics.get("top1"), *(point.top1 for point in row.run.curve))
        highest = max(highest, *(value or 0.0 for value in measured))
        waiting.append((row, share))
        if highest > _ONE_PER_CENT:
            yield from (good for good, _ in waiting)
            waiting.clear()
        elif len(waiting) >= _MAX_WAITING:
            yield from (bad if highest else good for good, bad in waiting)
            waiting.clear()
    yield from (bad if highest else good for good, bad in waiting)


def as_share(file: str, place: str, hint: str, text: str) -> Rejected:
    """What a row is if no Top-1 beside it is above 1 %."""
    reason = f"top1 is at most 1 here and in all other rows: is it a share? {hint}"
    return Rejected(file, place, reason, text)
