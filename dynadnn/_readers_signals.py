"""Reader of UCI HAR: human activities from a phone's accelerometer and gyroscope, 50 Hz, windows of 128 samples."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._errors import FormatError

SIGNALS = tuple(f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in "xyz")
_LENGTH = 128
_NAMES = 6

Array = NDArray[Any]


def read_har(root: Path) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array], tuple[str, ...]]:
    """Signals (n, 128, 9), labels from 0 and subjects of the training and the test part, and names of the classes."""
    folder = _find(root)
    train, test = _read_part(folder / "train", "train"), _read_part(folder / "test", "test")
    shared = np.intersect1d(train[2], test[2])
    if len(shared):
        raise FormatError(f"subjects {shared.tolist()} are in train and in test: they must not share any")
    return train, test, _read_names(folder / "activity_labels.txt")


def _find(root: Path) -> Path:
    if not root.is_dir():
        raise FileNotFoundError(f"root {str(root)!r} is no folder: give the folder 'UCI HAR Dataset', or its parent")
    for folder in (root, *sorted(p for p in root.iterdir() if p.is_dir())):
        if (folder / "train" / "Inertial Signals").is_dir():
            return folder
    raise FileNotFoundError(
        f"no 'train/Inertial Signals' in {str(root)!r} or directly below it: give the folder 'UCI HAR Dataset'"
    )


def _read_names(path: Path) -> tuple[str, ...]:
    _check_end(path)
    rows = [line.split() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    if [row[0] for row in rows] != [str(k + 1) for k in range(_NAMES)] or any(len(row) != 2 for row in rows):
        raise FormatError(f"{str(path)!r} must hold the numbers 1 to {_NAMES}, each with a name")
    return tuple(row[1].lower() for row in rows)


def _read_part(folder: Path, part: str) -> tuple[Array, Array, Array]:
    labels = _numbers(folder / f"y_{part}.txt", 1)[:, 0]
    subjects = _numbers(folder / f"subject_{part}.txt", 1)[:, 0].astype(np.int64)
    if not np.isin(labels, np.arange(1, _NAMES + 1)).all():
        raise FormatError(f"{str(folder / f'y_{part}.txt')!r} holds labels other than 1 to {_NAMES}")
    x = np.empty((len(labels), _LENGTH, len(SIGNALS)), np.float32)
    for channel, signal in enumerate(SIGNALS):
        path = folder / "Inertial Signals" / f"{signal}_{part}.txt"
        values = _numbers(path, _LENGTH)
        if len(values) != len(labels):
            raise FormatError(f"{str(path)!r} has {len(values)} rows, y_{part}.txt has {len(labels)}")
        x[..., channel] = values
    if len(subjects) != len(labels):
        raise FormatError(f"{part}: {len(subjects)} subjects but {len(labels)} labels")
    return x, labels.astype(np.int64) - 1, subjects


def _check_end(path: Path) -> None:
    """Require the line end that published files end with: what lacks it was cut off, perhaps within a number."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} missing in {str(path.parent)!r}")
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        if file.read() != b"\n":
            raise FormatError(f"{str(path)!r} does not end with a line end: it is empty or truncated")


def _numbers(path: Path, columns: int) -> NDArray[np.float64]:
    """Finite numbers of a text file, one row a line."""
    _check_end(path)
    try:
        with warnings.catch_warnings(), open(path, encoding="ascii", errors="replace") as file:
            warnings.simplefilter("ignore", UserWarning)  # of a file of empty lines
            values = np.loadtxt(file, np.float64, ndmin=2, comments=None)
    except ValueError as error:
        raise FormatError(f"{str(path)!r} is no table of numbers: {error}") from None
    if len(values) == 0 or values.shape[1] != columns:
        raise FormatError(
            f"{str(path)!r} has {len(values)} rows of {values.shape[1]} numbers: rows must have {columns}"
        )
    if not np.isfinite(values).all():
        raise FormatError(f"{str(path)!r} holds NaN or infinity")
    return values
