"""Journals – append-only files of what a search evaluated, so that a killed search goes on where it was."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from ._container import atomic_write
from ._errors import FormatError
from ._record import Record, from_document, to_document

VERSION = 1
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
        if resume and path.exists() and path.stat().st_size:
            self._read(path, wanted)
        else:
            head = {"format": self.kind, "version": VERSION, "options": wanted}
            atomic_write(path, msgspec.json.encode(head) + b"\n")
        self._file = open(path, "ab")  # noqa: SIM115 - stays open for the search

    @classmethod
    def seed(cls, path: str | Path) -> int | None:
        """Seed of the search that a file is of; None if there is no file."""
        try:
            with open(path, "rb") as file:
                seed = _head(path, cls.kind, file.readline()).get("seed")
        except FileNotFoundError:
            return None
        return seed if isinstance(seed, int) else None

    def append(self, record: T) -> None:
        """Add an evaluation; it survives the end of this process."""
        self._file.write(msgspec.json.encode(self.encode(record)) + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Make everything so far survive the end of the machine."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Make everything survive the end of the machine."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def _read(self, path: Path, wanted: dict[str, Any]) -> None:
        raw = path.read_bytes()
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
                self.records.append(self.decode(msgspec.json.decode(line, type=dict[str, Any])))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError) as error:
                raise FormatError(f"{path}, line {number}, is damaged: {error}") from None
        if torn:  # the process ended while it wrote this line
            atomic_write(path, raw[: -len(torn)])


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
        head = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path} is no checkpoint of a search: {error}") from None
    options = head.get("options")
    if head.get("format") != kind or not isinstance(options, dict):
        raise FormatError(f"{path} is no checkpoint of a search")
    if head.get("version") != VERSION:
        raise FormatError(f"{path} has version {head.get('version')!r}; this dynadnn reads version {VERSION}")
    return options
