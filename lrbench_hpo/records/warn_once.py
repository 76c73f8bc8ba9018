"""Warnings that are raised once for each subject, however many trials give cause."""

from __future__ import annotations

import warnings


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
