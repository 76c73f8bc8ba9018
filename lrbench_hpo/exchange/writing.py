"""Files that are there wholly or not at all."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO, cast

from lrbench_hpo.checks import printable
from lrbench_hpo.exchange.rows import ExchangeError


@contextmanager
def new_file(path: Path, *, force: bool = False, packed: bool = False) -> Iterator[TextIO]:
    """A file to write text to, which takes its name when the block ends without an error.

    Args:
        path: the file.
        force: whether it may take the place of one that is there.
        packed: whether to write gzip; the same text gives the same bytes.

    Raises:
        ExchangeError: for a file that is there, or cannot be written.
    """
    target = path.resolve() if force else path  # a link stays, and what it names is replaced
    check_free(target, force=force)
    part = target.with_name(f".{target.name[:100]}-{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("xb") as raw:
            with _text(raw, packed=packed) as text:
                yield text
            raw.flush()
            os.fsync(raw.fileno())
        _take_name(part, target, force=force)
    except OSError as error:
        raise ExchangeError(_why(path, target, error)) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _why(path: Path, target: Path, error: OSError) -> str:
    """What went wrong with a file, and what to do."""
    shown = printable(str(path))
    try:
        missing = not target.parent.is_dir()
    except OSError:
        missing = False
    if missing:
        return f"{shown}: there is no folder {printable(str(target.parent))}: make it first"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space, or name another file"
    else:
        hint = "name another file"
    return f"{shown}: {error.strerror}: nothing was written: {hint}"


@contextmanager
def _text(raw: IO[bytes], *, packed: bool) -> Iterator[TextIO]:
    with contextlib.ExitStack() as stack:
        binary: IO[bytes] = raw
        if packed:
            unnamed = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6)
            binary = cast("IO[bytes]", stack.enter_context(unnamed))
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="", write_through=False)
        yield text
        text.flush()
        text.detach()


def check_free(path: Path, *, force: bool) -> None:
    """Refuse a file that is there, or that must not be replaced.

    Raises:
        ExchangeError: for such a file.
    """
    shown = printable(str(path))
    try:
        there = os.path.lexists(path)
        plain = path.is_file() or path.is_symlink()
    except (OSError, ValueError):
        raise ExchangeError(f"{shown}: this names no file") from None
    if there and not plain:
        raise ExchangeError(f"{shown}: this is a folder or a device: name a file")
    if there and not force:
        raise ExchangeError(f"{shown}: there is such a file: --force replaces it")


def _take_name(part: Path, target: Path, *, force: bool) -> None:
    if not force:
        try:
            os.link(part, target)  # unlike a replacement, it fails if another one was quicker
        except FileExistsError:
            check_free(target, force=False)
            raise
        except OSError:  # a file system without links
            check_free(target, force=False)
        else:
            return
    part.replace(target)
