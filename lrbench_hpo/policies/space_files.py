"""Search-space files: YAML in, a checked `SearchSpace` out, errors with file and line.

```yaml
version: 1
extends: default            # functions not listed here come from that space (optional)
task: {dataset: mnist, model: lenet}      # optional
reference_lr: 0.01                        # optional
functions:
  SINEXP:
    peak: {low: 1, high: 20, log: true, from: "why this range"}
```
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from lrbench_hpo.checks import canonical_name
from lrbench_hpo.errors import LRBenchError, SearchSpaceError, UnknownNameError
from lrbench_hpo.policies.coordinates import KINDS, coordinate_names
from lrbench_hpo.policies.function import Range
from lrbench_hpo.policies.space import SearchSpace, default_space, function_name

DEFAULT = "default"  # is made of the rows of the table, not of a file
_MAX_BYTES = 1_000_000
_TOP_KEYS = ("version", "extends", "task", "reference_lr", "functions")
_RANGE_KEYS = ("low", "high", "log", "from")
_TEXT = "tag:yaml.org,2002:str"


@cache
def published_spaces() -> tuple[str, ...]:
    """Names of the spaces that come with the package: the default one, and a file for each task.

    >>> published_spaces()
    ('cifar10-cnn3', 'cifar10-resnet32', 'default', 'mnist-lenet')
    """
    names = (entry.name for entry in _published_folder().iterdir())
    files = [name.removesuffix(".yaml") for name in names if name.endswith(".yaml")]
    return tuple(sorted([*files, DEFAULT]))


def space_for(dataset: str, model: str) -> SearchSpace:
    """The space published for a task, else the default one.

    >>> space_for("CIFAR-10", "ResNet-32").name, space_for("digits", "mlp").name
    ('cifar10-resnet32', 'default')
    """
    name = f"{canonical_name(dataset)}-{canonical_name(model)}"
    return load_space(name if name in published_spaces() else DEFAULT)


def load_space(source: str | Path | SearchSpace) -> SearchSpace:
    """A search space from a file, or a published one by its name.

    Args:
        source: path of a YAML file; or one of `published_spaces`; a space is given back as it is.

    Raises:
        SearchSpaceError: for a file that is missing, is no YAML or breaks a rule; the message
            starts with file and line.

    >>> load_space("cifar10-resnet32").reference_lr
    0.1
    """
    if isinstance(source, SearchSpace):
        return source
    if not isinstance(source, str | Path) or "\0" in str(source):
        raise SearchSpaceError(f"search_space={source!r}: expected a YAML file or a SearchSpace")
    if str(source) in published_spaces():
        return _published(str(source))
    path = Path(source).expanduser()
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SearchSpaceError(f"{path}: larger than 1 MB, which no search space is")
        return _extended(*_parse(path.read_text(encoding="utf-8"), str(path)))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise SearchSpaceError(
            f"search_space={str(source)!r}: {reason}; give a YAML file, or one of "
            f"{', '.join(published_spaces())}"
        ) from None


def _published_folder() -> Traversable:
    """Where the spaces are: installed in the package, or beside it in a checkout.

    Python started in a checkout imports the package from there, not the installed one.
    """
    try:
        return resources.files("lrbench_hpo.search_spaces")
    except ModuleNotFoundError:
        beside = Path(__file__).parents[2] / "search_spaces"
        if not beside.is_dir():
            raise SearchSpaceError(
                f"{beside}: no search spaces there, and none are installed: run pip install again"
            ) from None
        return beside


def _published(name: str) -> SearchSpace:
    return default_space() if name == DEFAULT else _extended(*_published_file(name))


@cache
def _published_file(name: str) -> tuple[SearchSpace, str | None]:
    """What a published file holds by itself: what it extends may change with the table."""
    text = _published_folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return _parse(text, name)


def _extended(space: SearchSpace, base: str | None) -> SearchSpace:
    """A copy of the space, with the functions that it lacks from the space that it extends."""
    others = {} if base is None else _published(base).functions
    functions = {name: dict(ranges) for name, ranges in space.functions.items()}
    functions |= {n: dict(ranges) for n, ranges in others.items() if n not in functions}
    return dataclasses.replace(space, functions=functions)


def _parse(text: str, name: str) -> tuple[SearchSpace, str | None]:
    """The space that a file holds by itself, and the name of the one that it extends."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SearchSpaceError(f"{name}:{line}: not YAML: {error.problem}") from None
    except RecursionError:
        raise SearchSpaceError(f"{name}:1: nested too deep for a search space") from None
    except yaml.YAMLError as error:
        raise SearchSpaceError(f"{name}:1: not YAML: {' '.join(str(error).split())}") from None
    if root is None:
        raise SearchSpaceError(f"{name}:1: the file is empty: expected 'functions:' with ranges")
    return _Reader(name).space(root)


class _Reader:
    """Walks the YAML nodes, which know their lines, and refuses what breaks a rule."""

    def __init__(self, name: str) -> None:
        self.name = name

    def error(self, node: yaml.Node, message: str) -> SearchSpaceError:
        return SearchSpaceError(f"{self.name}:{node.start_mark.line + 1}: {message}")

    def mapping(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode) or node.tag != "tag:yaml.org,2002:map":
            raise self.error(node, f"{what}: expected keys with values, got {_shown(node)}")
        entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != _TEXT:
                raise self.error(key, f"{what}: expected a name as key, got {_shown(key)}")
            if key.value in entries:
                raise self.error(key, f"{what}: {key.value} is given twice: keep one")
            entries[key.value] = (key, value)
        return entries

    def known(
        self, entries: Mapping[str, tuple[yaml.Node, yaml.Node]], kind: str, names: tuple[str, ...]
    ) -> None:
        for name, (key, _) in entries.items():
            if name not in names:
                raise self.error(key, str(UnknownNameError.among(kind, name, names)))

    def scalar(self, node: yaml.Node, what: str, kind: type) -> Any:
        wanted = {str: "text", bool: "true or false", float: "a number"}[kind]
        allowed = {
            str: (_TEXT,),
            bool: ("tag:yaml.org,2002:bool",),
            float: ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"),
        }[kind]
        complaint = self.error(node, f"{what}: expected {wanted}, got {_shown(node)}")
        if not isinstance(node, yaml.ScalarNode):
            raise complaint
        # YAML 1.1 takes 1e-4 for text (it wants 1.0e-4); everybody else means a number.
        plain_text = kind is float and node.style is None and node.tag == _TEXT
        if node.tag not in allowed and not plain_text:
            raise complaint
        try:
            value = float(node.value) if plain_text else yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError):
            raise complaint from None
        if kind is float and not math.isfinite(value):
            raise self.error(node, f"{what}: expected a finite number, got {_shown(node)}")
        return value

    def space(self, root: yaml.Node) -> tuple[SearchSpace, str | None]:
        top = self.mapping(root, "search space")
        self.known(top, "key", _TOP_KEYS)
        if "version" in top:
            version = top["version"][1]
            if self.scalar(version, "version", float) != 1:
                raise self.error(version, f"version {_shown(version)}: expected version 1")
        if "functions" not in top:
            raise self.error(root, "no 'functions:': expected LR functions with their ranges")
        functions = self.functions(top["functions"][1])
        base = self.base(top["extends"][1]) if "extends" in top else None
        return SearchSpace(functions, self.name, self.reference_lr(top), self.task(top)), base

    def base(self, node: yaml.Node) -> str:
        base: str = self.scalar(node, "extends", str)
        if base not in published_spaces():
            raise self.error(node, str(UnknownNameError.among("space", base, published_spaces())))
        return base

    def reference_lr(self, top: Mapping[str, tuple[yaml.Node, yaml.Node]]) -> float | None:
        if "reference_lr" not in top:
            return None
        node = top["reference_lr"][1]
        value = float(self.scalar(node, "reference_lr", float))
        if not 0 < value <= 1e3:
            raise self.error(node, f"reference_lr {value:g}: expected above 0, at most 1000")
        return value

    def task(self, top: Mapping[str, tuple[yaml.Node, yaml.Node]]) -> tuple[str, str] | None:
        if "task" not in top:
            return None
        entries = self.mapping(top["task"][1], "task")
        self.known(entries, "key of task", ("dataset", "model"))
        for name in ("dataset", "model"):
            if name not in entries:
                raise self.error(top["task"][1], f"task: no {name}: give dataset and model")
        dataset, model = (
            self.scalar(entries[name][1], f"task.{name}", str) for name in ("dataset", "model")
        )
        return dataset, model

    def functions(self, node: yaml.Node) -> dict[str, dict[str, Range]]:
        functions: dict[str, dict[str, Range]] = {}
        for name, (key, value) in self.mapping(node, "functions").items():
            try:
                function = function_name(name)
            except LRBenchError as error:
                raise self.error(key, str(error)) from None
            entries = self.mapping(value, function)
            names = coordinate_names(function)
            self.known(entries, f"coordinate of {function}", names)
            for wanted in names:
                if wanted not in entries:
                    raise self.error(key, f"{function}: no range for {wanted}: add one")
            functions[function] = {
                wanted: self.range(entries[wanted][1], function, wanted) for wanted in names
            }
        if not functions:
            raise self.error(node, "functions: expected at least one LR function")
        return functions

    def range(self, node: yaml.Node, function: str, coordinate: str) -> Range:
        what = f"{function}.{coordinate}"
        entries = self.mapping(node, what)
        self.known(entries, f"key of {what}", _RANGE_KEYS)
        for wanted in ("low", "high"):
            if wanted not in entries:
                raise self.error(node, f"{what}: no {wanted}: a range is {{low: …, high: …}}")
        kind = KINDS[coordinate]
        bounds = []
        for wanted in ("low", "high"):
            value_node = entries[wanted][1]
            value = self.scalar(value_node, f"{what}.{wanted}", float)
            if not kind.low <= value <= kind.high:
                raise self.error(
                    value_node,
                    f"{what}.{wanted}: {value:g} is outside {kind.low:g} to {kind.high:g}",
                )
            if kind.integer and value != int(value):
                raise self.error(value_node, f"{what}.{wanted}: expected a whole number")
            bounds.append(int(value) if kind.integer else float(value))
        low, high = bounds
        if low > high:
            raise self.error(node, f"{what}: low {low:g} is above high {high:g}: swap them")
        log = self.scalar(entries["log"][1], f"{what}.log", bool) if "log" in entries else False
        origin = self.scalar(entries["from"][1], f"{what}.from", str) if "from" in entries else ""
        return Range(low, high, log, origin)


def _shown(node: yaml.Node) -> str:
    standard = "tag:yaml.org,2002:"
    tag = node.tag.replace(standard, "!!")
    if tag.startswith("!!python") or not tag.startswith("!!"):
        return f"the tag {tag!r} (only plain values are read, nothing is run)"
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else tag.removeprefix("!!")
