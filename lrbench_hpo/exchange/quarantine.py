"""The file in which bad rows are kept, to be looked at, mended and imported again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from platformdirs import user_data_path

from lrbench_hpo.checks import printable
from lrbench_hpo.exchange.rows import ExchangeError, Rejected
from lrbench_hpo.exchange.writing import new_file

MAX_KEPT = 1_000  # rows; that many bad ones are one mistake, and the file itself has the rest
FIELDS = ("file", "place", "reason", "text")  # of a line


class Quarantine:
    """Keeps bad rows as JSON Lines with file, place, reason and text; a context manager.

    The file is there, whole, when the block has ended without an error, if there were any rows.
    The same rows make the same file. One that cannot be written is no reason to lose good rows:
    `failure` says why.

    Args:
        path: the file; None keeps nothing.
        named_by: if given, the file takes its name at the end, with a hash of this and the rows in
            it, so that it never takes the place of other rows.

    Attributes:
        path: the file.
        kept: rows in it.
        failure: why it could not be written.
    """

    def __init__(self, path: Path | None, *, named_by: str | None = None) -> None:
        self.path = path
        self.kept = 0
        self.failure: str | None = None
        self._name = None if named_by is None else hashlib.sha256(named_by.encode())
        self._stack = contextlib.ExitStack()
        self._file: TextIO | None = None

    @classmethod
    def of_file(cls, file: str, checksum: str | None) -> Self:
        """The one of a file that is imported, in the user's data folder.

        Args:
            file: its name.
            checksum: of its content; None for what may be another thing the next time.
        """
        # Rows of a pipe exist nowhere else: those of the next one must not take their place.
        key = f"{printable(file)}\0{checksum}"
        stem = "".join(c if c.isascii() and c.isalnum() else "-" for c in Path(file).name)[:60]
        name = f"{stem}-{uuid.uuid4().hex[:12]}.jsonl"
        return cls(user_data_path("lrbench_hpo") / "rejected" / name, named_by=key)

    @classmethod
    def chosen(cls, path: Path) -> Self:
        """One at a place of the user's choice, over an older one if there is one.

        Raises:
            ExchangeError: for a file that is there and holds something else.
        """
        try:
            if path.exists() and not _is_quarantine(path):
                raise ExchangeError(
                    f"--rejected {printable(str(path))}: there is something else: name a new file"
                )
        except OSError as error:
            raise ExchangeError(f"--rejected {printable(str(path))}: {error.strerror}") from None
        return cls(path)

    def add(self, row: Rejected) -> None:
        """Keep a bad row; from `MAX_KEPT` on it is left out."""
        if self.path is None or self.kept >= MAX_KEPT or self.failure is not None:
            return
        line = json.dumps({name: getattr(row, name) for name in FIELDS})
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._stack.enter_context(new_file(self.path, force=True))
            self._file.write(line + "\n")
            if self._name is not None:
                self._name.update(line.encode())
        except (OSError, ExchangeError) as error:
            self.failure = f"{printable(str(self.path))}: {getattr(error, 'strerror', error)}"
            return
        self.kept += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stack.__exit__(kind, error, trace)
            if self.path is not None and self._name is not None and self.kept and error is None:
                stem = self.path.stem.rpartition("-")[0]
                named = self.path.with_stem(f"{stem}-{self._name.hexdigest()[:12]}")
                self.path = self.path.replace(named)
        except (OSError, ExchangeError) as full:
            if full is error:
                raise
            self.failure = f"{printable(str(self.path))}: {getattr(full, 'strerror', full)}"


def _is_quarantine(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.readline(100_000)
    try:
        return not first or set(json.loads(first)) == set(FIELDS)
    except (ValueError, TypeError):
        return False
