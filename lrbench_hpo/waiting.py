"""Runs on their way to the LR database: those it does not take now wait in a file, and follow."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from platformdirs import user_data_path

from lrbench_hpo import checks
from lrbench_hpo.database import Database, connect
from lrbench_hpo.database.location import (
    database_url,
    in_memory,
    make_room,
    place,
    sqlite_file,
)
from lrbench_hpo.database.paper import refuse_false_claim
from lrbench_hpo.errors import DatabaseError, LRBenchError
from lrbench_hpo.records import Run

# Seconds: what a call may wait for a busy database, and the pause after one that failed. Whoever
# stores runs has other work to do: a run that has to wait costs nothing.
_BUSY_SECONDS, _PAUSE = 1, 5.0


def waiting_files(
    database: str | Path | Database | None = None, *, folder: str | Path | None = None
) -> list[tuple[Path, int]]:
    """The files in which runs wait for a database, and how many lie in each; none is touched.

    Args:
        database: as for `RunStore`.
        folder: likewise.

    Raises:
        DatabaseError: for something that names no database.
    """
    url = database.url if isinstance(database, Database) else database_url(database)
    if in_memory(url):
        return []
    found = []
    for path in _Files(folder, url).all():
        with contextlib.suppress(OSError), path.open("rb") as file:
            if lines := sum(line.endswith(b"\n") for line in file):
                found.append((path, lines))
    return found


class RunStore:
    """Stores runs in the LR database, now or as soon as it takes them.

    A run that cannot be stored is kept in memory and in a local file, and follows with the next
    runs, in order and once. What another process left waiting for the same database is picked up
    on opening. Threads may share a store.

    Args:
        database: URL or file of the LR database, or one that is open, whose own patience with
            others' locks then counts; ``LRBENCH_DATABASE_URL`` or the user's own when None.
        folder: where runs wait; the user's data folder when None.
        already: asked before a run is stored whether it is there in another form.

    Raises:
        DatabaseError: for something that names no database. One that is away raises nothing.
        MissingExtraError: for PostgreSQL without psycopg2.

    >>> with RunStore("sqlite://") as store:
    ...     store.waiting
    ()
    """

    def __init__(
        self,
        database: str | Path | Database | None = None,
        *,
        folder: str | Path | None = None,
        already: Callable[[Database, Run], bool] | None = None,
    ) -> None:
        self._own = not isinstance(database, Database)
        self._url = database.url if isinstance(database, Database) else _impatient(database)
        self._database = database if isinstance(database, Database) else None
        self._already = already or (lambda *_: False)
        self._turn = threading.RLock()
        self._waiting: dict[str, Run] = {}
        self._unwritten: list[Run] = []
        self._next_try = 0.0
        self._told: set[str] = set()
        self._files = None if in_memory(self._url) else _Files(folder, self._url)
        self.flush(force=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def waiting(self) -> tuple[Run, ...]:
        """The runs that are not stored yet, oldest first."""
        with self._turn:
            return tuple(self._waiting.values())

    @property
    def file(self) -> Path | None:
        """Where all of `waiting` is kept; None when nothing waits, or only in memory."""
        with self._turn:
            written = self._waiting and not self._unwritten and self._files is not None
            return self._files.path if written and self._files is not None else None

    def add(self, *runs: Run) -> None:
        """Store runs, or keep those that the database does not take now.

        Raises:
            RecordError: for something that is no `Run`, or says falsely that it is published.
        """
        for run in runs:
            if not isinstance(run, Run):
                checks.refuse("run", run, "expected a Run: Run.from_dict makes one of a dict")
            refuse_false_claim(run.source, run.uid)
        with self._turn:
            new = [run for run in runs if run.uid not in self._waiting]
            self._waiting.update((run.uid, run) for run in new)
            self._unwritten += new
            self._store_or_keep()

    def flush(self, *, force: bool = False) -> None:
        """Try to store what waits.

        Args:
            force: try it even right after a failure, and pick up what other processes, which are
                no more, have left.
        """
        with self._turn:
            if force and self._files is not None:
                found = self._files.adopted()
                self._waiting = {run.uid: run for run in found} | self._waiting
            if force or (self._waiting and self._is_time()):
                self._store_or_keep(force=force)

    def close(self) -> tuple[Run, ...]:
        """Try once more, and let go of the database and the file.

        Returns:
            The runs that still wait.
        """
        with self._turn:
            self.flush(force=True)
            if self._files is not None:
                self._files.release()
            if self._own:
                self._forget_database()
            return tuple(self._waiting.values())

    def _is_time(self) -> bool:
        return time.monotonic() >= self._next_try

    def _store_or_keep(self, *, force: bool = False) -> None:
        error = self._stored() if force or self._is_time() else None
        if self._unwritten and self._files is not None:
            try:
                self._files.append(self._unwritten)
                self._unwritten.clear()
            except OSError as full:
                reason = f"{self._files.folder}: {full.strerror}"
                self._tell("memory", f"{reason}; results wait in memory only: free some space")
        if error is not None:
            where = "memory" if self._files is None else self.file or self._files.folder
            self._tell("file", f"{error}; results wait in {where}, and follow")

    def _tell(self, what: str, message: str) -> None:
        """Warn when waiting begins, not again for every run."""
        if what not in self._told:
            self._told.add(what)
            warnings.warn(message, stacklevel=5)

    def _stored(self) -> DatabaseError | None:
        """Store all that waits; the reason why it could not be."""
        try:
            if self._database is None:
                self._database = connect(self._url.render_as_string(hide_password=False))
            waiting = self._waiting.values()
            new = [run for run in waiting if not self._already(self._database, run)]
            self._database.add(*new)
        except DatabaseError as error:
            self._next_try = time.monotonic() + _PAUSE
            if self._own:
                self._forget_database()  # a file that comes back may need its tables made
            return error
        self._waiting.clear()
        self._unwritten.clear()
        self._told.clear()
        self._next_try = 0.0
        if self._files is not None:
            self._files.discard()
        return None

    def _forget_database(self) -> None:
        if self._database is not None:
            self._database.close()
        self._database = None


class _Files:
    """The files in which runs wait for one database; those held here are locked against others.

    Each process writes to a file of its own. The lock ends with the process, however that ends,
    and only then another one may take the file over. Writing to it is appending, and removing it
    comes after storing, so at worst a run is stored a second time, which leaves one row.
    """

    def __init__(self, folder: str | Path | None, url: sa.URL) -> None:
        self.folder = Path(folder) if folder is not None else user_data_path("lrbench_hpo")
        self.path: Path | None = None
        self._stem = f"waiting-{_name_of(url)}"
        self._held: list[tuple[Path, io.FileIO]] = []
        self._unreadable: set[Path] = set()

    def append(self, runs: Iterable[Run]) -> None:
        """Write runs to the end of the file, and to the disk."""
        if not self._held:
            self._hold(self.folder / f"{self._stem}-{uuid.uuid4().hex[:12]}.jsonl")
        _, file = self._held[0]
        end = file.seek(0, io.SEEK_END)
        try:
            rest = memoryview(b"".join(map(_line, runs)))
            while rest:
                rest = rest[file.write(rest) or 0 :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise

    def all(self) -> list[Path]:
        """All files for this database, whoever holds them, oldest first."""
        found = []
        for path in self.folder.glob(f"{self._stem}-*.jsonl"):
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def adopted(self) -> list[Run]:
        """The runs in files that nobody holds any more; they are held here from now on."""
        held = {path for path, _ in self._held}
        runs: list[Run] = []
        for path in self.all():
            with contextlib.suppress(OSError):
                if path not in held and path.stat().st_size:
                    runs += self._taken_over(path)
        return runs

    def _taken_over(self, path: Path) -> list[Run]:
        # Not "a+", which would make the file anew where another process has just removed it.
        file = path.open("rb+", buffering=0)
        if not _locked(file) or not _same_file(file, path):
            file.close()
            return []
        self._held.append((path, file))
        self.path = self._held[0][0]
        file.seek(0)
        *lines, torn = file.read().split(b"\n")
        if torn:
            file.truncate(sum(len(line) + 1 for line in lines))
            warnings.warn(f"{path}: dropped a last line that was not finished", stacklevel=6)
        runs = []
        for number, line in enumerate(lines, 1):
            try:
                runs.append(_run(line))
            except (LRBenchError, ValueError, LookupError, TypeError, RecursionError) as error:
                self._unreadable.add(path)
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                warnings.warn(f"{path}: line {number} is left out: {reason}", stacklevel=6)
        return runs

    def discard(self) -> None:
        """All is stored: remove the files, but for one with lines that could not be read."""
        held, self._held, self.path = self._held, [], None
        for path, file in held:
            with contextlib.suppress(OSError):
                if path in self._unreadable:
                    path.rename(path.with_suffix(".unreadable"))
                else:
                    path.unlink()
            file.close()

    def release(self) -> None:
        """Let others have the files."""
        held, self._held = self._held, []
        for _, file in held:
            file.close()

    def _hold(self, path: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = path.open("ab+", buffering=0)
        if not _locked(file):  # somebody looks at it just now, and leaves a file that is empty
            time.sleep(0.05)
            _locked(file)
        self._held.append((path, file))
        self.path = path
        _to_disk(self.folder)


def _to_disk(folder: Path) -> None:
    """Make a folder's list of files last: a file's own fsync does not."""
    with contextlib.suppress(OSError):  # Windows opens no folders, and needs none of this
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _same_file(file: io.FileIO, path: Path) -> bool:
    """Whether an open file is still the one of that name, not one that was removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _locked(file: io.FileIO) -> bool:
    """Whether the file belongs to this process from now on, until it is closed."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows, where nobody can remove a file that is open
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: storing twice leaves one row
        return True
    return True


def _line(run: Run) -> bytes:
    fields = run.to_dict()
    entry = {"checksum": checks.content_hash(fields), "run": fields}
    return json.dumps(entry, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _run(line: bytes) -> Run:
    entry = json.loads(line)
    if checks.content_hash(entry["run"]) != entry["checksum"]:
        raise ValueError("its checksum is wrong")
    return Run.from_dict(entry["run"])


def _impatient(database: str | Path | None) -> sa.URL:
    """The URL of a database, with a short wait for others unless it names one itself."""
    url = database_url(database)
    if in_memory(url):
        return url
    if (file := sqlite_file(url)) is None:
        return _with(url, "connect_timeout", 3)
    if file.is_dir():
        make_room(url)  # which refuses it in one line
    return _with(url, "timeout", _BUSY_SECONDS)


def _with(url: sa.URL, name: str, value: object) -> sa.URL:
    return url if name in url.query else url.update_query_dict({name: str(value)})


def _name_of(url: sa.URL) -> str:
    """A hash of where a database is, the same for all who use it, with password or without."""
    file = sqlite_file(url)
    server: list[object] = [url.get_backend_name(), url.username, url.host, url.port, url.database]
    where = json.dumps([*server, place(url)] if file is None else str(file.absolute()))
    return hashlib.sha256(where.encode()).hexdigest()[:16]
