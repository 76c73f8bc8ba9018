"""Checks of single values: each returns the value as it is kept, or refuses it in one line."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import numbers
import reprlib
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NoReturn

from lrbench_hpo.errors import LRBenchError, RecordError

MAX_NAME = 200  # characters of a name
MAX_TEXT = 2_000  # characters of any other text
MAX_ITEMS = 1_000  # values in one mapping, all levels together
MAX_DEPTH = 8  # levels of a mapping
MAX_COUNT = 2**63 - 1  # what a database's 64-bit integer holds

# Characters that break a line or a terminal: controls, invisible marks, half characters.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_NO_SEPARATORS = str.maketrans("", "", "-_ ")
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


def refuse(
    where: str,
    value: object,
    rule: str,
    *,
    error: type[LRBenchError] = RecordError,
    hint: str = "",
) -> NoReturn:
    """Raise the one line that names the value given and the rule.

    >>> refuse("task.batch_size", -5, "expected a whole number of at least 1")
    Traceback (most recent call last):
    ...
    lrbench_hpo.errors.RecordError: task.batch_size=-5: expected a whole number of at least 1
    """
    raise error(f"{where}={short(value)}: {rule}{f' ({hint})' if hint else ''}") from None


def short(value: object) -> str:
    """``repr`` of anything, on one line and of bounded length.

    >>> short([[[[1]]]])
    '[[[...]]]'
    """
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"  # repr itself refuses the longest ones
    return " ".join(_SHORT.repr(value).split())


def canonical_name(name: str, where: str = "name") -> str:
    """The name as it is compared: without case, dashes, underscores and spaces.

    Args:
        name: the name of a data set or model.
        where: what it names, for the error.

    Raises:
        RecordError: for something that is not text.

    >>> canonical_name("CIFAR-10"), canonical_name("ResNet_32")
    ('cifar10', 'resnet32')
    """
    if not isinstance(name, str):
        refuse(where, name, "expected a name")
    return _canonical(name)


@lru_cache(maxsize=4096)  # a prior compares the same few names hundreds of times
def _canonical(name: str) -> str:
    return name.casefold().translate(_NO_SEPARATORS)


def text(where: str, value: object, limit: int = MAX_TEXT) -> str:
    """Text of a sane length that fits in one line of a terminal."""
    if not isinstance(value, str):
        refuse(where, value, "expected text")
    if len(value) > limit:
        refuse(where, value, f"expected at most {limit} characters, got {len(value)}")
    if not value.isprintable():
        for char in value:
            if unicodedata.category(char) in _UNSAFE:
                refuse(where, value, f"expected text without the control character {char!a}")
    return str(value)


def name(where: str, value: object) -> str:
    """Text that names something."""
    known = text(where, value, MAX_NAME)
    if not known.strip():
        refuse(where, value, "expected a name, got nothing")
    return known


def lower_case_name(where: str, value: object) -> str:
    """A name of which the case does not matter."""
    return name(where, value).lower()


def printable(text: str) -> str:
    r"""Text of others as a terminal may get it: controls and invisible marks as escapes.

    >>> print(printable("run\x1b[2J"))
    run\x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def whole(
    where: str,
    value: object,
    least: int = 1,
    *,
    error: type[LRBenchError] = RecordError,
    hint: str = "",
) -> int:
    """A whole number of at least `least` that a database can hold.

    Args:
        where: what is checked, as the caller knows it.
        value: the value given.
        least: the smallest number allowed.
        error: what is raised.
        hint: the next step, for the end of the message.
    """
    # Asking for int first takes a third of the time, and nearly all values are ints.
    if type(value) is not int and (
        isinstance(value, bool) or not isinstance(value, numbers.Integral)
    ):
        refuse(where, value, f"expected a whole number of at least {least}", error=error, hint=hint)
    known = int(value)
    if not least <= known <= MAX_COUNT:
        limit = f"at least {least}" if known < least else f"at most {MAX_COUNT}"
        refuse(where, known, f"expected a whole number of {limit}", error=error, hint=hint)
    return known


def number(where: str, value: object) -> float | None:
    """A number; NaN and infinity become None, because JSON has neither."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        refuse(where, value, "expected a number")
    if isinstance(value, numbers.Integral):
        return whole(where, value, least=-MAX_COUNT)
    return float(value) if math.isfinite(value) else None


def rounded(value: float, digits: int = 6) -> float:
    """A number with so many significant digits.

    >>> rounded(0.1 + 0.2), rounded(1234567.0, 3)
    (0.3, 1230000.0)
    """
    return float(f"{value:.{digits}g}")


def share(where: str, value: object) -> float | None:
    """A number within [0, 1]."""
    known = number(where, value)
    if known is not None and not 0 <= known <= 1:
        refuse(where, value, "shares in [0, 1], not per cent")
    return known


def not_negative(where: str, value: object) -> float | None:
    """A number of at least 0."""
    known = number(where, value)
    if known is not None and known < 0:
        refuse(where, value, "expected a number of at least 0")
    return known


def finite(where: str, value: object) -> float:
    """A number of at least 0 that is neither NaN nor infinite."""
    known = not_negative(where, value)
    if known is None:
        refuse(where, value, "expected a finite number")
    return float(known)


def momentum(where: str, value: object) -> float:
    """A number in [0, 1): at 1 an optimizer would never forget a gradient."""
    if (known := finite(where, value)) >= 1:
        refuse(where, value, "expected a momentum in [0, 1)")
    return known


def learning_rate(where: str, value: object) -> float:
    """A finite number above 0."""
    if (known := finite(where, value)) == 0:
        refuse(where, value, "expected a learning rate above 0")
    return known


def image_shape(where: str, value: object) -> tuple[int, ...]:
    """Channels, height and width."""
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        refuse(where, value, "expected three whole numbers: channels, height, width")
    return tuple(whole(f"{where}[{index}]", size) for index, size in enumerate(value))


def choice(where: str, value: object, known: Sequence[str]) -> str:
    """One of the known words."""
    if not isinstance(value, str) or value not in known:
        refuse(where, value, f"expected one of {', '.join(known)}")
    return value


def mapping(where: str, value: object) -> Mapping[str, Any]:
    """A mapping of names to values."""
    if not isinstance(value, Mapping):
        refuse(where, value, "expected a mapping of names to values")
    if len(value) > MAX_ITEMS:
        raise RecordError(f"{where}: expected at most {MAX_ITEMS} values, got {len(value)}")
    for key in value:
        if not _is_name(key):
            name(f"{where} key", key)
    return value


@lru_cache(maxsize=4096)  # the same few names come again with every run
def _is_name(key: object) -> bool:
    return isinstance(key, str) and 0 < len(key) <= MAX_NAME and key.isidentifier()


def read_only(where: str, value: object) -> Mapping[str, Any]:
    """A read-only copy of a mapping of JSON types."""
    frozen: Mapping[str, Any] = _frozen(where, mapping(where, value), [MAX_ITEMS + 1], 0)
    return frozen


def _frozen(where: str, value: object, room: list[int], depth: int) -> Any:
    """The copy; `room` holds how many more values may come."""
    room[0] -= 1
    if room[0] < 0 or depth > MAX_DEPTH:
        limit = f"at most {MAX_ITEMS} values in {MAX_DEPTH} levels"
        raise RecordError(f"{where}: expected {limit}; keep long data in a file of its own")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(where, value)
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(where, entry, room, depth + 1) for entry in value)
    if isinstance(value, Mapping):
        entries = mapping(where, value).items()
        return MappingProxyType(
            {str(key): _frozen(f"{where}.{key}", entry, room, depth + 1) for key, entry in entries}
        )
    return number(where, value)


def json_types(value: Any) -> Any:
    """The inverse of `read_only`: plain dicts and lists."""
    if isinstance(value, Mapping):
        return {key: json_types(entry) for key, entry in value.items()}
    return [json_types(entry) for entry in value] if isinstance(value, tuple) else value


def shallow(where: str, value: object, limit: int) -> None:
    """Refuse lists and mappings nested deeper than `limit`, before anything recurses into them."""
    level, depth = [value], 0
    while level:
        if (depth := depth + 1) > limit:
            raise RecordError(f"{where}: expected at most {limit} levels")
        level = [
            entry
            for outer in level
            if isinstance(outer, (Mapping, list, tuple))
            for entry in (outer.values() if isinstance(outer, Mapping) else outer)
        ]


def known_fields(
    kind: str, data: object, cls: type[Any], required: Sequence[str]
) -> dict[str, Any]:
    """The values of a dataclass's dict that are there; null is the same as absent."""
    values = mapping(kind, data)
    known = [entry.name for entry in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            guess = f"did you mean {near[0]}? " if near else ""
            refuse(f"{kind} key", key, f"unknown; {guess}Known: {', '.join(known)}")
    for key in required:
        if values.get(key) is None:
            raise RecordError(f"{kind}.{key} is missing: a {kind} needs {', '.join(required)}")
    return {key: value for key, value in values.items() if value is not None}


def content_hash(data: Mapping[str, Any]) -> str:
    """A hash of JSON types that does not depend on key order, or on 1 being written 1.0.

    >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2.0, "a": 1.0})
    True
    """
    plain = json.dumps(_whole_floats(data), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(plain.encode()).hexdigest()[:32]


def _whole_floats(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole_floats(entry) for key, entry in value.items()}
    return [_whole_floats(entry) for entry in value] if isinstance(value, list) else value
