"""Checkpoints: everything an interrupted run needs to go on with the same bits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ._container import FORMAT, PathLike, read_container, write_container
from ._errors import FormatError
from ._halting import Halt


class CheckpointDoc(msgspec.Struct, forbid_unknown_fields=True):
    """What of a run's state is no array. Random numbers are keyed by (seed, epoch, step), so they need none."""

    format: int
    kind: str
    version: str
    fingerprint: dict[str, str]
    seed: int
    epoch: int
    step: int
    skipped: int
    sums: dict[str, float]
    counted: int
    history: dict[str, list[float | None]]
    halted: list[tuple[str, int, str, float, float]]
    decay: tuple[int, int, float, float] | None
    best: float | None
    seconds: float
    train_seconds: float
    macs: int
    finished: bool
    callbacks: list[tuple[str, Any]]
    teaching: dict[str, Any]
    in_a_row: int = 0
    rollbacks: list[tuple[int, int, int, float, str]] = []
    good: CheckpointDoc | None = None


def digest(*parts: bytes | NDArray[Any]) -> str:
    """Short hash of bytes and arrays."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data)
    return h.hexdigest()[:16]


def describe(value: Any) -> str:
    """Text that is equal for equal options; functions by their name."""
    if callable(value) and not hasattr(value, "__dataclass_fields__"):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    return repr(value)


def save(path: PathLike, document: CheckpointDoc, arrays: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    """Write a checkpoint; `arrays` by owner and name."""
    flat = {f"{owner}|{name}": value for owner, group in arrays.items() for name, value in group.items()}
    try:
        write_container(path, document, flat)
    except OSError as error:
        raise OSError(
            error.errno,
            f"checkpoint {os.fspath(path)!r} after step {document.step} could not be written: {error.strerror or error}"
            " (what the file held before is still whole, the network holds this step)",
        ) from error


def read(path: PathLike) -> tuple[CheckpointDoc, dict[str, dict[str, NDArray[Any]]]]:
    """Read the checkpoint of any run; arrays by owner and name."""
    document, flat = read_container(path, "checkpoint", CheckpointDoc)
    arrays: dict[str, dict[str, NDArray[Any]]] = {}
    for key, value in flat.items():
        owner, _, name = key.partition("|")
        arrays.setdefault(owner, {})[name] = value
    return document, arrays


def check_arrays(path: PathLike, owner: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Arrays of the names, types and shapes that a network in training has, or FormatError."""
    for key in sorted({*found, *wanted}):
        there, here = found.get(key), wanted.get(key)
        if there is None or here is None or there.dtype != here.dtype or there.shape != here.shape:
            raise FormatError(
                f"{os.path.basename(os.fspath(path))}: {key} of {owner} is {_kind(there)}, it must be {_kind(here)}"
            )


def _kind(array: NDArray[Any] | None) -> str:
    return "missing" if array is None else f"{array.dtype} of shape {array.shape}"


def load(path: PathLike, fingerprint: Mapping[str, str]) -> tuple[CheckpointDoc, dict[str, dict[str, NDArray[Any]]]]:
    """Read a checkpoint of this very run, or ValueError with the differences."""
    document, arrays = read(path)
    keys = sorted({*document.fingerprint, *fingerprint})
    differences = [
        f"{key}: {document.fingerprint.get(key, 'nothing')} there, {fingerprint.get(key, 'nothing')} here"
        for key in keys
        if document.fingerprint.get(key) != fingerprint.get(key)
    ]
    if differences:
        raise ValueError(
            f"checkpoint {os.fspath(path)!r} is of another run; "
            + "; ".join(differences)
            + " (resume=False starts anew)"
        )
    return document, arrays


def document(**fields: Any) -> CheckpointDoc:
    """Document of this version."""
    from . import __version__

    return CheckpointDoc(format=FORMAT, kind="checkpoint", version=__version__, **fields)


def pack_history(history: Mapping[str, list[float]]) -> dict[str, list[float | None]]:
    """NaN as null, which is what JSON has."""
    return {key: [v if np.isfinite(v) else None for v in values] for key, values in history.items()}


def unpack_history(history: Mapping[str, list[float | None]]) -> dict[str, list[float]]:
    """Null as NaN."""
    return {key: [float("nan") if v is None else v for v in values] for key, values in history.items()}


def pack_halts(halts: list[Halt]) -> list[tuple[str, int, str, float, float]]:
    """Halts as tuples."""
    return [(h.what, h.epoch, h.why, h.seconds_saved, h.macs_saved) for h in halts]
