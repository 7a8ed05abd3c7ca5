"""Files on disk: written whole or not at all, read with every byte verified.

A file is a safetensors container whose ``__metadata__["dynadnn"]`` is one JSON document. Its last field is a SHA-256
over the document without that field and over names, types, shapes and bytes of all tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ._errors import FormatError

T = TypeVar("T", bound=msgspec.Struct)
PathLike = str | os.PathLike[str]

FORMAT = 1
_KEY = "dynadnn"
_LARGEST_HEADER = 32 << 20
_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\Z')
_TYPES = {"F32": np.float32, "F64": np.float64, "I8": np.int8, "U8": np.uint8, "I32": np.int32, "I64": np.int64}


class _Head(msgspec.Struct):
    """What every version of the document begins with."""

    format: int
    kind: str


def atomic_write(path: PathLike, data: bytes) -> None:
    """Write a file so that after any failure the old one is still there.

    Parameters
    ----------
    path : path
    data : bytes

    Raises
    ------
    OSError
        If the folder cannot be written to, the disk is full, or anything else fails.
    """
    target = Path(os.path.realpath(path))
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:64]}.", suffix=".tmp", dir=target.parent)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            os.fchmod(handle, _mode(target))
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _mode(target: Path) -> int:
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _digest(document: bytes, tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(document)
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\0{name}\0{value.dtype.str}\0{value.shape}\0".encode())
        digest.update(np.ascontiguousarray(value).data if value.size else b"")
    return digest.hexdigest()


def write_container(path: PathLike, document: msgspec.Struct, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Seal a document and its tensors and write them."""
    from safetensors.numpy import save

    text = msgspec.json.encode(document)
    sealed = text[:-1] + b',"sha256":"' + _digest(text, tensors).encode() + b'"}'
    whole = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    atomic_write(path, save(whole, {_KEY: sealed.decode()}))


def read_container(path: PathLike, kind: str, document: type[T], sha256: str | None = None) -> tuple[T, dict[str, Any]]:
    """Document and tensors of a file, verified; FormatError for anything else."""
    name = os.path.basename(os.fspath(path)) or os.fspath(path)
    _check_outside(path, name, sha256)
    try:
        text, tensors = _read(path, name)
        seal = _SEAL.search(text)
        if not seal:
            raise FormatError(f"{name}: its document has no sha256 at the end")
        body = text[: seal.start()] + b"}"
        head = msgspec.json.decode(body, type=_Head)
        if head.format > FORMAT:
            raise FormatError(f"{name} has format {head.format}, this version knows up to {FORMAT}: update dynadnn")
        if head.format < 1 or head.kind != kind:
            raise FormatError(f"{name} holds a {head.kind[:40]!r} of format {head.format}, not a {kind!r}")
        if _digest(body, tensors) != seal.group(1).decode():
            raise FormatError(f"{name} is damaged: its sha256 does not fit its content")
        return msgspec.json.decode(body, type=document), tensors
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FormatError(f"{name}: its document is not what it should be: {error}") from None


def _check_outside(path: PathLike, name: str, sha256: str | None) -> None:
    """Check what can be said before a container is opened: file type, header, expected hash."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{name} is no regular file")
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or not 2 <= length <= min(status.st_size - 8, _LARGEST_HEADER):
            raise FormatError(f"{name} is no safetensors file, or is truncated ({status.st_size} bytes)")
        if sha256 is not None:
            file.seek(0)
            digest = hashlib.sha256()
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
            if digest.hexdigest() != sha256.lower():
                raise FormatError(f"{name} has sha256 {digest.hexdigest()}, not {sha256}")


def _read(path: PathLike, name: str) -> tuple[bytes, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise FormatError(f"{name} is a safetensors file, but not one of dynadnn's")
            tensors: dict[str, Any] = {}
            for key in file.keys():  # noqa: SIM118 - not a mapping
                kind = file.get_slice(key).get_dtype()
                if kind not in _TYPES:
                    raise FormatError(f"{name}: tensor {key[:80]!r} has type {kind}")
                tensors[key] = file.get_tensor(key)
            return metadata[_KEY].encode(), tensors
    except (SafetensorError, ValueError, OverflowError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{name} is no safetensors file, or is damaged: {error}") from None
