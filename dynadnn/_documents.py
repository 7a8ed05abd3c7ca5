"""Documents – JSON files with a kind, a version and a hash, written so that a file is old or new, never broken."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ._container import atomic_write
from ._errors import FormatError

T = TypeVar("T")


def save_document(path: str | Path, kind: str, version: int, body: Mapping[str, Any]) -> None:
    """Write a document.

    Parameters
    ----------
    path : str or Path
        The file; replaced if it exists.
    kind : str
        What it is, for example ``"dynadnn-front"``.
    version : int
        Version of this kind's layout.
    body : mapping
        What msgspec can encode as JSON.

    Raises
    ------
    OSError
        If the file cannot be written; an old one is still there.
    """
    content = {"format": kind, "version": version, **body}
    digest = hashlib.sha256(_canonical(content)).hexdigest()
    atomic_write(path, msgspec.json.format(msgspec.json.encode({**content, "sha256": digest}), indent=1) + b"\n")


def load_document(path: str | Path, kind: str, version: int, type_: type[T]) -> T:
    """Read a document that :func:`save_document` wrote.

    Parameters
    ----------
    path : str or Path
        The file.
    kind, version : str, int
        What it must be; an older version is read too.
    type_ : type
        A msgspec struct for the body (unknown fields are ignored).

    Raises
    ------
    FormatError
        If it is something else, newer, truncated or changed.
    OSError
        If it cannot be read.
    """
    raw = Path(path).read_bytes()
    try:
        content = msgspec.json.decode(raw, type=dict[str, Any])
        if content.get("format") != kind:
            raise FormatError(f"{path} is {content.get('format', 'no document of dynadnn')!r}, not {kind!r}")
        found = content.get("version")
        if not isinstance(found, int) or found < 1:
            raise FormatError(f"{path} has version {found!r}; versions 1 to {version} can be read")
        if found > version:
            raise FormatError(f"{path} has version {found}; this dynadnn reads up to {version}: upgrade it")
        if content.pop("sha256", None) != hashlib.sha256(_canonical(content)).hexdigest():
            raise FormatError(f"{path} was changed or damaged: its sha256 does not match")
        return msgspec.convert(content, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path} is not a {kind} file: {error}") from None


def _canonical(content: Mapping[str, Any]) -> bytes:
    # Decoded and encoded again, so that what is hashed when writing (tuples, structs) is what is hashed when reading.
    return msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(content)), order="sorted")
