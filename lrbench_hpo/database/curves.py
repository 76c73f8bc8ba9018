"""Learning curves as the few bytes that a database keeps of them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence

from lrbench_hpo.records.run import MAX_POINTS, CurvePoint

_FIELDS = tuple(CurvePoint(0).to_dict())
_MAX_BYTES = MAX_POINTS * len(_FIELDS) * 24  # no more than that is ever unpacked


def packed(curve: Sequence[CurvePoint]) -> bytes:
    """A curve as zlib-compressed JSON: a list of values per field.

    Args:
        curve: the points in order.

    >>> curve = [CurvePoint(10 * i, lr=0.1, top1=i / 100) for i in range(100)]
    >>> len(packed(curve)) < 500, unpacked(packed(curve)) == tuple(curve)
    (True, True)
    """
    columns = {name: [getattr(point, name) for point in curve] for name in _FIELDS}
    return zlib.compress(json.dumps(columns, separators=(",", ":"), allow_nan=False).encode(), 9)


def unpacked(points: bytes) -> tuple[CurvePoint, ...]:
    """The inverse of `packed`.

    Raises:
        ValueError: for bytes that are no curve.
        LookupError: for a curve that lacks a field.
        RecordError: for points that break a rule.
    """
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(points, _MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"a curve that cannot be unpacked: {error}") from None
    if not inflate.eof:
        raise ValueError("a curve that is cut off or far too long")
    return from_columns(text)


def from_columns(text: bytes | str) -> tuple[CurvePoint, ...]:
    """A curve from its JSON, as databases of schema 1 kept it."""
    columns = json.loads(text)
    values = zip(*(columns[name] for name in _FIELDS), strict=True)
    return tuple(CurvePoint(*point) for point in values)
