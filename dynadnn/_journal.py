"""Journals – append-only files of what a search evaluated, so that a killed search goes on where it was.

Every line is a JSON object that begins with the CRC-32 of the rest, and one process at a time writes.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from ._errors import FormatError
from ._record import Record, from_document, to_document

VERSION = 2
T = TypeVar("T")


class Lines(ABC, Generic[T]):
    """One line of JSON with the search's options, then one per evaluation; closed by `close`."""

    kind: str

    @staticmethod
    @abstractmethod
    def encode(record: T) -> Any:
        """Return what JSON holds of an evaluation."""

    @staticmethod
    @abstractmethod
    def decode(document: dict[str, Any]) -> T:
        """Return the evaluation of a line; TypeError or a msgspec error for anything else."""

    def __init__(self, path: str | Path, options: Mapping[str, Any], resume: bool) -> None:
        self.records: list[T] = []
        path = Path(path)
        wanted = msgspec.json.decode(msgspec.json.encode(options))
        head = _line({"format": self.kind, "version": VERSION, "options": wanted})
        self._file = open(path, "a+b")  # noqa: SIM115 - stays open for the search
        try:
            _lock(self._file, path)
            self._file.seek(0)
            raw = self._file.read() if resume else b""
            end = 0 if _holds_nothing(raw) else self._read(path, raw, wanted)
            self._file.truncate(end)
            if end == 0:
                self._file.write(head)
                self._file.flush()
        except BaseException:
            self._file.close()
            raise

    @classmethod
    def seed(cls, path: str | Path) -> int | None:
        """Seed of the search that a file is of; None if there is no file, or not even a whole line."""
        try:
            with open(path, "rb") as file:
                line = file.readline()
        except FileNotFoundError:
            return None
        if _holds_nothing(line):
            return None
        seed = _head(path, cls.kind, line).get("seed")
        return seed if isinstance(seed, int) else None

    def append(self, record: T) -> None:
        """Add an evaluation; it survives the end of this process."""
        self._file.write(_line(self.encode(record)))
        self._file.flush()

    def sync(self) -> None:
        """Make everything so far survive the end of the machine."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Make everything survive the end of the machine."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def _read(self, path: Path, raw: bytes, wanted: dict[str, Any]) -> int:
        """Take over the evaluations of a file, and return where its whole lines end."""
        lines = raw.split(b"\n")
        whole, torn = lines[:-1], lines[-1]
        if not whole:
            raise FormatError(f"{path} is no checkpoint of a search: delete it, or give another path")
        found = _head(path, self.kind, whole[0])
        differ = [k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k)]
        if differ:
            listed = "; ".join(f"{k}: {found.get(k)!r} there, {wanted.get(k)!r} here" for k in sorted(differ))
            raise ValueError(f"{path} is of another search ({listed}): delete it, give another path or resume=False")
        for number, line in enumerate(whole[1:], 2):
            try:
                self.records.append(self.decode(msgspec.json.decode(_checked(line), type=dict[str, Any])))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError) as error:
                raise FormatError(f"{path}, line {number}, is damaged: {error}") from None
        return len(raw) - len(torn)  # of the line that the process wrote when it ended


class Journal(Lines[Record]):
    """The journal of `explore`."""

    kind = "dynadnn-search"

    @staticmethod
    def encode(record: Record) -> Any:
        """Return what JSON holds of a record."""
        return to_document(record)

    @staticmethod
    def decode(document: dict[str, Any]) -> Record:
        """Return the record of a line."""
        return from_document(document)


def _head(path: str | Path, kind: str, line: bytes) -> dict[str, Any]:
    try:
        head = msgspec.json.decode(_checked(line.rstrip(b"\n")), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path} is no checkpoint of a search: {error}") from None
    options = head.get("options")
    if head.get("format") != kind or not isinstance(options, dict):
        raise FormatError(f"{path} is no checkpoint of a search")
    if head.get("version") != VERSION:
        raise FormatError(f"{path} has version {head.get('version')!r}; this dynadnn reads version {VERSION}")
    return options


def _lock(file: Any, path: Path) -> None:
    """Keep other processes from writing; the lock ends with this process, whatever its workers do."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise RuntimeError(f"{path} belongs to a search that is running: wait for it, or give another path") from None
    except OSError:  # a file system without locks
        pass


def _holds_nothing(raw: bytes) -> bool:
    """Whether this is the beginning of a head that was cut off while it was written."""
    return b"\n" not in raw and _PREFIX.startswith(raw[: len(_PREFIX)])


def _line(document: Any) -> bytes:
    rest = msgspec.json.encode(document)[1:]
    return _checksum(rest) + rest + b"\n"


def _checked(line: bytes) -> bytes:
    """Return the JSON of a line without its checksum; ValidationError if that is wrong."""
    head, rest = line[:_CHECKED], line[_CHECKED:]
    if head != _checksum(rest):
        raise msgspec.ValidationError("its checksum is wrong")
    return b"{" + rest


def _checksum(rest: bytes) -> bytes:
    """Return what a line begins with, before the rest."""
    return _PREFIX + b'%08x",' % zlib.crc32(rest)


_PREFIX = b'{"crc":"'
_CHECKED = len(_checksum(b""))
