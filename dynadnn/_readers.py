"""Readers of data set files: CIFAR's binary layouts and IDX. Sizes are checked before anything is allocated."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._errors import FormatError

_CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR_PIXELS = 3 * 32 * 32
_LARGEST_IDX = 1 << 30  # bytes; MNIST's largest file has 47 MB

Array = NDArray[Any]


def find_folder(root: Path, wanted: str, what: str) -> Path:
    """Find the folder with a file whose name starts with `wanted`: root itself or one directly below it."""
    if not root.is_dir():
        raise FileNotFoundError(f"root {str(root)!r} is no folder: give the folder with {what}, or its parent")
    for folder in (root, *sorted(p for p in root.iterdir() if p.is_dir())):
        if any(folder.glob(wanted + "*")):
            return folder
    raise FileNotFoundError(f"no {wanted} in {str(root)!r} or directly below it: give the folder with {what}")


def read_cifar10(root: Path) -> tuple[Array, Array, Array, Array, tuple[str, ...]]:
    """Training images and labels, test images and labels, class names."""
    folder = find_folder(root, "data_batch_1.bin", "CIFAR-10's binary version (data_batch_1.bin ...)")
    batches = [folder / f"data_batch_{k}.bin" for k in range(1, 6)]
    test = folder / "test_batch.bin"
    _need([*batches, test])
    return *_read_cifar(batches, 1, 10), *_read_cifar([test], 1, 10), _CIFAR10_NAMES


def read_cifar100(root: Path) -> tuple[Array, Array, Array, Array, tuple[str, ...]]:
    """Training images and fine labels, test images and fine labels, names of the fine labels."""
    folder = find_folder(root, "train.bin", "CIFAR-100's binary version (train.bin, test.bin, fine_label_names.txt)")
    train, test, listed = folder / "train.bin", folder / "test.bin", folder / "fine_label_names.txt"
    _need([train, test, listed])
    names = tuple(listed.read_text(errors="replace").split())
    if len(names) != 100:
        raise FormatError(f"{listed.name} in {str(folder)!r} holds {len(names)} names: CIFAR-100 has 100")
    return *_read_cifar([train], 2, 100), *_read_cifar([test], 2, 100), names


def _need(paths: Sequence[Path]) -> None:
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} missing in {str(paths[0].parent)!r}")


def _read_cifar(paths: Sequence[Path], labels: int, classes: int) -> tuple[Array, Array]:
    """Images and labels of some files of rows: label bytes, of which the last counts, then three planes of 32 x 32."""
    row = labels + _CIFAR_PIXELS
    sizes = [path.stat().st_size for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        if size == 0 or size % row:
            raise FormatError(f"{path.name} has {size} bytes: CIFAR-{classes}'s binary files are multiples of {row}")
    total = sum(sizes) // row
    x, y = np.empty((total, 32, 32, 3), np.uint8), np.empty(total, np.int64)
    start = 0
    for path, size in zip(paths, sizes, strict=True):
        raw = np.fromfile(path, np.uint8)
        if raw.size != size:
            raise FormatError(f"{path.name} changed while it was read")
        rows = raw.reshape(-1, row)
        here = slice(start, start + len(rows))
        y[here] = rows[:, labels - 1]
        if y[here].max() >= classes:
            raise FormatError(
                f"{path.name} holds the label {int(y[here].max())}: CIFAR-{classes} has 0 to {classes - 1}"
            )
        x[here] = rows[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        start += len(rows)
    return x, y


def read_idx_folder(root: Path) -> tuple[Array, Array, Array, Array]:
    """Training images and labels, test images and labels of an MNIST-like folder."""
    folder = find_folder(root, "train-images", "train-images-idx3-ubyte and the other three IDX files")
    parts = []
    for part in ("train", "t10k"):
        images = read_idx(_idx_path(folder, f"{part}-images", "idx3-ubyte"), 3)
        labels = read_idx(_idx_path(folder, f"{part}-labels", "idx1-ubyte"), 1)
        if len(images) != len(labels):
            raise FormatError(f"{part}: {len(images)} images but {len(labels)} labels in {str(folder)!r}")
        parts += [images[..., None], labels.astype(np.int64)]
    return parts[0], parts[1], parts[2], parts[3]


def _idx_path(folder: Path, stem: str, kind: str) -> Path:
    for name in (f"{stem}-{kind}", f"{stem}.{kind}"):
        for suffix in ("", ".gz"):
            path = folder / (name + suffix)
            if path.is_file():
                return path
    raise FileNotFoundError(f"{stem}-{kind}[.gz] missing in {str(folder)!r}")


def read_idx(path: Path, ndim: int) -> Array:
    """Bytes of an IDX file (magic 0, 0, 8, rank, then big-endian sizes), plain or gzip."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(4 + 4 * ndim)
            if len(head) != 4 + 4 * ndim or head[:3] != b"\0\0\x08" or head[3] != ndim:
                raise FormatError(f"{path.name} is no IDX file of {ndim} byte axes")
            sizes = struct.unpack(f">{ndim}I", head[4:])
            total = 1
            for size in sizes:
                total *= size
            if not 0 < total <= _LARGEST_IDX:
                raise FormatError(f"{path.name} claims axes {sizes}: empty, or beyond {_LARGEST_IDX} bytes")
            if path.suffix != ".gz" and path.stat().st_size != len(head) + total:
                raise FormatError(f"{path.name} has {path.stat().st_size} bytes, axes {sizes} need {len(head) + total}")
            body = file.read(total)
            if len(body) != total or file.read(1):
                raise FormatError(f"{path.name} does not hold the {total} bytes that its axes {sizes} need")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FormatError(f"{path.name} is no complete gzip file: {error}") from None
    return np.frombuffer(body, np.uint8).reshape(sizes)
