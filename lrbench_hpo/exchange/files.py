"""Lines of an input file: plain or gzip, within limits, each with its number."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from lrbench_hpo.checks import printable
from lrbench_hpo.exchange.rows import MAX_TEXT, ExchangeError, Rejected

STANDARD = "-"  # standard input or output instead of a file
MAX_LINE = 8 * 2**20  # bytes
MAX_BYTES = 2 * 2**30  # of a file, unpacked
_CHUNK = 2**16
_GZIP = b"\x1f\x8b"
_TOO_LONG = f"longer than {MAX_LINE // 2**20} MiB: a row with a curve is a few KiB"

# Files often given by mistake, by their first bytes, and what to do instead.
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip file or spreadsheet: unpack it, or save it as CSV",
    b"BZh": "a bzip2 file: unpack it first",
    b"\xfd7zXZ": "an xz file: unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd file: unpack it first",
    b"\xff\xfe": "text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "text in UTF-16: save it as UTF-8",
    b"PAR1": "a Parquet file: save it as CSV",
    b"SQLite format 3\0": "an SQLite database: take its runs with `lrbench-hpo db merge`",
}


@dataclass(frozen=True)
class Line:
    """A line without its end; the first one has the number 1.

    Args:
        number: which one it is.
        text: its text.
        header: the line that names its columns, without which a row of CSV has no meaning.
    """

    number: int
    text: str
    header: str | None = None

    @property
    def place(self) -> str:
        """Where it is, in the form of `Rejected.place`."""
        return f"line {self.number}"

    def rejected(self, file: str, reason: str) -> Rejected:
        """This line as a bad row, below its header if it has one."""
        text = self.text if self.header is None else f"{self.header}\n{self.text}"
        return Rejected(file, self.place, reason, text)


class _CutError(Exception):
    """Nothing after this place can be read."""


@dataclass
class InputFile:
    """A file that is open for reading; made by `open_input`.

    Attributes:
        name: as it was given.
        checksum: SHA-256 of its bytes, in hexadecimal; None for a pipe, which is read only once.
        size: in bytes; None for a pipe.
        max_bytes: how many bytes are read at most, unpacked.
        position: bytes read so far, of `size`.
    """

    name: str
    checksum: str | None
    size: int | None
    max_bytes: int
    _file: BinaryIO = field(repr=False)
    position: int = 0

    def lines(self) -> Iterator[Line | Rejected]:
        """All lines that are not blank; those that are no text, or too long, as bad rows.

        What is cut off or damaged ends with a bad row that says so.

        Raises:
            ExchangeError: for a file that holds no lines of text.
        """
        number, rest, too_long = 1, bytearray(), False
        try:
            for chunk in self._checked(self._unpacked()):
                *ends, begun = chunk.split(b"\n")
                for end in ends:
                    rest += end
                    yield from self._line(number, bytes(rest), too_long)
                    number, too_long = number + 1, False
                    rest.clear()
                rest += begun
                if len(rest) > MAX_LINE:
                    too_long = True
                    del rest[MAX_TEXT:]
        except _CutError as cut:
            yield Rejected(self.name, f"line {number}", str(cut), _decoded(bytes(rest[:MAX_TEXT])))
            return
        yield from self._line(number, bytes(rest), too_long)

    def _line(self, number: int, raw: bytes, too_long: bool) -> Iterator[Line | Rejected]:
        place = f"line {number}"
        if too_long or len(raw) > MAX_LINE:
            yield Rejected(self.name, place, _TOO_LONG, _decoded(raw[:MAX_TEXT]))
            return
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if not (raw := raw.removesuffix(b"\r")).strip():
            return
        try:
            text = text_of(raw)
        except ValueError as error:
            yield Rejected(self.name, place, str(error), _decoded(raw[:MAX_TEXT]))
            return
        yield Line(number, text)

    def _checked(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same, as long as it is text and not too much."""
        seen = 0
        for chunk in chunks:
            if not seen:
                for sign, kind in _OTHER_KINDS.items():
                    if chunk.startswith(sign):
                        raise ExchangeError(f"{printable(self.name)}: this is {kind}")
            if (seen := seen + len(chunk)) > self.max_bytes:
                yield chunk[: self.max_bytes - seen]
                raise _CutError(
                    f"more than {self.max_bytes:,} bytes unpacked: the rest is left out; "
                    "--max-bytes allows more"
                )
            yield chunk

    def _unpacked(self) -> Iterator[bytes]:
        chunks = self._chunks()
        first = next(chunks, b"")
        if not first.startswith(_GZIP):
            yield first
            yield from chunks
            return
        unpack, data = zlib.decompressobj(wbits=31), first
        while data := data or next(chunks, b""):
            if unpack.eof:  # another member follows, or zeros that fill a block
                if not (data := data.lstrip(b"\0")):
                    continue
                unpack = zlib.decompressobj(wbits=31)
            try:
                yield unpack.decompress(data, _CHUNK)
            except zlib.error as error:
                raise _CutError(f"damaged gzip: the rest is left out ({error})") from None
            data = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
        if not unpack.eof:
            raise _CutError("the gzip file is cut off here: copy it again for the rest")

    def _chunks(self) -> Iterator[bytes]:
        while True:
            try:
                chunk = self._file.read(_CHUNK)
            except OSError as error:
                raise _CutError(f"cannot be read from here on: {error.strerror}") from None
            if not chunk:
                return
            self.position += len(chunk)
            yield chunk


def text_of(raw: bytes) -> str:
    """The text of a line.

    Raises:
        ValueError: for bytes that are no text, and why.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} is not UTF-8: save the file as UTF-8"
        raise ValueError(reason) from None
    if "\0" in text:
        raise ValueError("expected text, got a NUL byte")
    return text


def _decoded(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


@contextmanager
def open_input(file: str | Path, max_bytes: int = MAX_BYTES) -> Iterator[InputFile]:
    """Open a file to read rows from.

    Args:
        file: its name; ``-`` for standard input.
        max_bytes: how many bytes may be read, unpacked.

    Raises:
        ExchangeError: for something that is no file, or a file that cannot be read or is too long.
    """
    name = str(file)
    if name == STANDARD:
        yield InputFile("stdin", None, None, max_bytes, sys.stdin.buffer)
        return
    opened, size = _opened(name)
    with opened:
        if size is None:
            yield InputFile(name, None, None, max_bytes, opened)
            return
        checksum = _checksum(name, opened, max_bytes)
        yield InputFile(name, checksum, size, max_bytes, opened)


def _opened(name: str) -> tuple[BinaryIO, int | None]:
    """The file and its size; None for a pipe."""
    shown = printable(name)
    try:
        kind = os.stat(name)
        if stat.S_ISDIR(kind.st_mode):
            raise ExchangeError(f"{shown}: this is a folder: name a file in it")
        if not stat.S_ISREG(kind.st_mode) and not stat.S_ISFIFO(kind.st_mode):
            raise ExchangeError(f"{shown}: this is a device: expected a file, or - for stdin")
        opened = open(name, "rb")  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        raise ExchangeError(f"{shown}: {error.strerror}: expected a file to read") from None
    except ValueError:
        raise ExchangeError(f"{shown}: this names no file") from None
    return opened, kind.st_size if stat.S_ISREG(kind.st_mode) else None


def _checksum(name: str, file: BinaryIO, max_bytes: int) -> str:
    digest, seen = hashlib.sha256(), 0
    try:
        if file.seek(0, io.SEEK_END) <= max_bytes:  # a sparse file has no end of zeros
            file.seek(0)
            while (chunk := file.read(_CHUNK)) and (seen := seen + len(chunk)) <= max_bytes:
                digest.update(chunk)
        if file.tell() > max_bytes:
            raise ExchangeError(
                f"{printable(name)}: more than {max_bytes:,} bytes: --max-bytes allows more"
            )
        file.seek(0)
    except OSError as error:
        raise ExchangeError(f"{printable(name)}: {error.strerror}: cannot be read") from None
    return digest.hexdigest()
