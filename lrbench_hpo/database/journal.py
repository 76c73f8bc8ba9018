"""The local files in which runs wait for a database that is away: one checksummed line each."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import time
import uuid
import warnings
from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sa
from platformdirs import user_data_path

from lrbench_hpo import checks
from lrbench_hpo.database.location import place, sqlite_file
from lrbench_hpo.errors import LRBenchError, why
from lrbench_hpo.records.run import Run


def user_folder() -> Path:
    """Where runs wait by default."""
    return user_data_path("lrbench_hpo")


def other_files() -> list[Path]:
    """All files of runs that wait, for whichever database."""
    return sorted(path for path in user_folder().glob("waiting-*.jsonl") if path.stat().st_size)


class Journal:
    """The files in which runs wait for one database; those held here are locked.

    Each process writes to a file of its own. The lock ends with the process, however that ends,
    and only then another one may take the file over. Writing to it is appending, and removing it
    comes after storing, so at worst a run is stored a second time, which leaves one row.
    """

    def __init__(self, folder: str | Path | None, url: sa.URL) -> None:
        self.folder = Path(folder) if folder is not None else user_folder()
        self.path: Path | None = None
        self._stem = f"waiting-{name_of(url)}"
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
        """All files for this database, whichever process holds them, oldest first."""
        found = []
        for path in self.folder.glob(f"{self._stem}-*.jsonl"):
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def adopted(self) -> list[Run]:
        """The runs in files that no process holds any more; this process holds them from now on."""
        held = {path for path, _ in self._held}
        runs: list[Run] = []
        for path in self.all():
            with contextlib.suppress(OSError):
                if path not in held and path.stat().st_size:
                    runs += self._taken_over(path)
        return runs

    def _taken_over(self, path: Path) -> list[Run]:
        # Not "a+", which would make the file again where another process has just removed it.
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
                reason = why(error)
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
        """Release the files for other processes."""
        held, self._held = self._held, []
        for _, file in held:
            file.close()

    def _hold(self, path: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = path.open("ab+", buffering=0)
        if not _locked(file):  # another process reads it just now, and leaves a file that is empty
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
    except ModuleNotFoundError:  # Windows, where a file that is open cannot be removed
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


def name_of(url: sa.URL) -> str:
    """A hash of where a database is, the same for all who use it, with password or without."""
    file = sqlite_file(url)
    server: list[object] = [url.get_backend_name(), url.username, url.host, url.port, url.database]
    where = json.dumps([*server, place(url)] if file is None else str(file.absolute()))
    return hashlib.sha256(where.encode()).hexdigest()[:16]
