"""Search spaces: which LR functions, and the range of each of their scale-free coordinates."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrbench_hpo.errors import SearchSpaceError, UnknownNameError
from lrbench_hpo.policies.coordinates import KINDS
from lrbench_hpo.policies.function import Range
from lrbench_hpo.policies.table import DEFAULT_FUNCTIONS, FUNCTIONS

__all__ = ["Range", "SearchSpace", "default_space", "function_name"]


@dataclass(frozen=True)
class SearchSpace:
    """Ranges of the coordinates of some LR functions.

    Attributes:
        functions: for each function, in order, the range of each of its coordinates.
        name: the file it came from, for messages.
        reference_lr: eta_ref of the task that the space is for, where the file knows it.
        task: ``(dataset, model)`` that the space is for, where the file names them.
    """

    functions: Mapping[str, Mapping[str, Range]]
    name: str = "search space"
    reference_lr: float | None = None
    task: tuple[str, str] | None = None

    def restricted(self, functions: str | Sequence[str] | None) -> SearchSpace:
        """The part of the space with only some functions.

        Args:
            functions: names, or one name; ``"all"`` for every function of the space; None for
                those of the LRBench paper, or, where the space has none of them, all it has.

        Raises:
            UnknownNameError: for a name that is no LR function.
            SearchSpaceError: for a function that this space gives no ranges for.

        >>> from lrbench_hpo.policies.space_files import load_space
        >>> list(load_space("default").restricted(["SINEXP", "FIX"]).functions)
        ['SINEXP', 'FIX']
        """
        chosen: Sequence[str]
        if functions is None:
            chosen = [name for name in DEFAULT_FUNCTIONS if name in self.functions]
            chosen = chosen or list(self.functions)
        elif isinstance(functions, str):
            chosen = list(self.functions) if functions.lower() == "all" else [functions]
        elif isinstance(functions, Sequence):
            chosen = list(dict.fromkeys(functions))
        else:
            raise SearchSpaceError(
                f"functions={functions!r}: expected names of LR functions, or 'all'"
            )
        if not chosen:
            raise SearchSpaceError("functions=[]: expected at least one LR function")
        chosen = [function_name(name) for name in chosen]
        for name in chosen:
            if name not in self.functions:
                raise SearchSpaceError(
                    f"{self.name} has no ranges for {name}: add them to it, or add the line "
                    "'extends: default'"
                )
        return dataclasses.replace(self, functions={name: self.functions[name] for name in chosen})

    def within(self, max_iterations: int) -> SearchSpace:
        """The space with its whole-number ranges cut to what fits into a budget.

        Args:
            max_iterations: the budget, in iterations.

        >>> from lrbench_hpo.policies.space_files import load_space
        >>> load_space("default").within(10).functions["COS"]["half_cycles"].high
        10
        """
        functions = {
            function: {
                name: _capped(entry, max_iterations) if KINDS[name].integer else entry
                for name, entry in ranges.items()
            }
            for function, ranges in self.functions.items()
        }
        return dataclasses.replace(self, functions=functions)

    def clip(self, function: str, point: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        """A point moved into the space, and the coordinates that had to move.

        Args:
            function: one of the space's functions.
            point: its coordinates.

        >>> from lrbench_hpo.policies.space_files import load_space
        >>> load_space("default").clip("FIX", {"peak": 100.0})
        ({'peak': 10.0}, ['peak'])
        """
        clipped: dict[str, float] = {}
        moved: list[str] = []
        for name, value in point.items():
            key = "gap" if name.startswith("gap") else name
            inside = self.functions[function][key].clip(value)
            inside = round(inside) if KINDS[key].integer else inside
            if abs(inside - value) > 1e-9 * abs(value):
                moved.append(name)
            clipped[name] = inside
        return clipped, list(dict.fromkeys(moved))

    @property
    def fingerprint(self) -> str:
        """Hash of functions and ranges: the same space always has the same one."""
        data = self.to_dict()["functions"]
        for ranges in data.values():
            for entry in ranges.values():
                del entry["from"]
        text = json.dumps(data, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The space as JSON types, in the form of the YAML files."""
        return {
            "name": self.name,
            "reference_lr": self.reference_lr,
            "task": list(self.task) if self.task else None,
            "functions": {
                function: {
                    name: {"low": r.low, "high": r.high, "log": r.log, "from": r.origin}
                    for name, r in ranges.items()
                }
                for function, ranges in self.functions.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """The space that `to_dict` wrote.

        >>> from lrbench_hpo.policies.space_files import load_space
        >>> space = load_space("default")
        >>> SearchSpace.from_dict(space.to_dict()) == space
        True
        """
        return cls(
            functions={
                function: {
                    name: Range(r["low"], r["high"], r["log"], r["from"])
                    for name, r in ranges.items()
                }
                for function, ranges in data["functions"].items()
            },
            name=data["name"],
            reference_lr=data["reference_lr"],
            task=tuple(data["task"]) if data["task"] else None,
        )


def _capped(entry: Range, highest: int) -> Range:
    return dataclasses.replace(entry, low=min(entry.low, highest), high=min(entry.high, highest))


def default_space() -> SearchSpace:
    """The space for a task without published results: the ranges of the table's rows.

    The functions of the LRBench paper come before the other waves. Optuna takes the order of the
    functions for a part of a study, so it stays as it is.
    """
    others_last = sorted(
        FUNCTIONS.values(), key=lambda row: row.is_cyclic and row.name not in DEFAULT_FUNCTIONS
    )
    return SearchSpace({row.name: dict(row.ranges) for row in others_last}, "default")


def function_name(name: object) -> str:
    """The table's spelling of a function's name.

    Raises:
        UnknownNameError: for a name that is no LR function; the message has the nearest ones.

    >>> function_name("sinexp")
    'SINEXP'
    """
    for known in FUNCTIONS:
        if str(name).upper() == known:
            return known
    raise UnknownNameError.among("LR function", name, FUNCTIONS)
