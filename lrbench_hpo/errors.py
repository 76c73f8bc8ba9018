"""The errors this package raises: each message names the value, the rule and the next step."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class LRBenchError(Exception):
    """Base of all errors of this package; its message is one line that a person can act on."""


class PolicyError(LRBenchError, ValueError):
    """An LR policy with a value that its function does not allow."""


class UnknownNameError(LRBenchError, ValueError):
    """An unknown name of a function, dataset, model, optimizer or file."""

    @classmethod
    def among(
        cls, kind: str, name: object, known: Iterable[str], hint: str = ""
    ) -> UnknownNameError:
        """Name what was given, the nearest known names, and what else is possible.

        Args:
            kind: what the name should name, for example ``"LR function"``.
            name: what was given.
            known: the names that would have been understood.
            hint: the next step when none of the known names is meant.

        >>> str(UnknownNameError.among("model", "lenett", ["lenet", "mlp"]))
        "unknown model 'lenett': did you mean lenet? Known: lenet, mlp"
        """
        known = list(known)
        by_key = {entry.lower(): entry for entry in known}
        near = difflib.get_close_matches(str(name).lower(), by_key, n=3, cutoff=0.5)
        guess = f"did you mean {' or '.join(by_key[key] for key in near)}? " if near else ""
        message = f"unknown {kind} {name!r}: {guess}Known: {', '.join(known)}"
        return cls(f"{message}. {hint}" if hint else message)


class RecordError(LRBenchError, ValueError):
    """A task or run whose fields break a rule."""


class SearchSpaceError(LRBenchError, ValueError):
    """A search-space file with an error; the message starts with file and line."""


class DatabaseError(LRBenchError):
    """The LR database cannot be opened, read or written."""


class DataError(LRBenchError):
    """Training data that is missing or unreadable."""


class TrainingError(LRBenchError, ValueError):
    """Training settings that cannot work together."""


class StudyError(LRBenchError, ValueError):
    """A study that does not fit what is asked of it."""


class MissingExtraError(LRBenchError, ImportError):
    """An optional dependency that is not installed."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """Say which pip command brings the missing package.

        >>> str(MissingExtraError.of("torch", "torch"))
        "torch is not installed: pip install 'lrbench-hpo[torch]'"
        """
        return cls(f"{package} is not installed: pip install 'lrbench-hpo[{extra}]'")

    @classmethod
    @contextmanager
    def unless_installed(cls, package: str, extra: str) -> Iterator[None]:
        """Turn the failed imports of a package, in a with block, into that line.

        >>> with MissingExtraError.unless_installed("ray", "ray"):
        ...     raise ModuleNotFoundError("No module named 'ray'", name="ray.tune")
        Traceback (most recent call last):
        ...
        lrbench_hpo.errors.MissingExtraError: ray is not installed: pip install 'lrbench-hpo[ray]'
        """
        try:
            yield
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != package:
                raise
            raise cls.of(package, extra) from error


class WarnOnce:
    """Warns once for each subject; it pickles, so that a restored search does not warn again.

    >>> warn = WarnOnce()
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warn("metric", "no metric", stacklevel=2)
    ...     warn("metric", "no metric", stacklevel=2)
    >>> len(caught)
    1
    """

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def __call__(self, subject: str, message: str, *, stacklevel: int) -> None:
        """Warn, unless there was a warning of this subject.

        Args:
            subject: what the warning is about.
            message: the warning.
            stacklevel: as in `warnings.warn`, counted from the caller.
        """
        if subject not in self._warned:
            self._warned.add(subject)
            warnings.warn(message, stacklevel=stacklevel + 1)

    def clear(self) -> None:
        """Let each subject be warned of again."""
        self._warned.clear()


def why(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
