"""Reader of image folders: one folder per class, decoded by Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._errors import FormatError

KINDS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}

Array = NDArray[Any]


def read_image_folder(root: Path, size: tuple[int, int]) -> tuple[dict[str, tuple[Array, Array]], tuple[str, ...]]:
    """Images and labels by split, and class names.

    Parameters
    ----------
    root : path
        Holds a folder per class, or ``train`` (and ``val``, ``test``) with such folders.
    size : (height, width)

    Returns
    -------
    splits : dict of (x, y)
        "train", and "val" and "test" where they have folders of their own.
    names : tuple of str
        Folders of the classes, in order of their names.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"root {str(root)!r} is no folder: give the folder that holds one folder per class")
    folders = {
        split: next((root / name for name in names if _classes(root / name)), None) for split, names in _SPLITS.items()
    }
    train = folders.pop("train")
    if train is None:
        train, folders = root, {}
    names = _classes(train)
    if len(names) < 2:
        raise FileNotFoundError(
            f"{str(train)!r} holds {len(names)} folders: image_folder needs one per class, at least two"
        )
    pillow = import_pillow()
    splits = {"train": _read_split(pillow, train, names, size)}
    for split, folder in folders.items():
        if folder is not None:
            splits[split] = _read_split(pillow, folder, names, size)
    return splits, names


def _classes(folder: Path) -> tuple[str, ...]:
    """Folders inside, by name; those of "train" tell a split from a class that is called so."""
    if not folder.is_dir():
        return ()
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."))


def import_pillow() -> ModuleType:
    """Return ``PIL.Image`` with ``PIL.ImageOps`` loaded."""
    try:
        from PIL import Image, ImageOps  # noqa: F401
    except ImportError:
        raise ImportError('Pillow is not installed: pip install pillow (or "dynadnn[images]")') from None
    return Image


def _read_split(pillow: ModuleType, folder: Path, names: Sequence[str], size: tuple[int, int]) -> tuple[Array, Array]:
    extra = {*_classes(folder)} - {*names}
    if extra:
        raise FormatError(f"{str(folder)!r} holds {sorted(extra)}: the training folder has {', '.join(names)}")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        inside = folder / name
        found = sorted(p for p in inside.rglob("*") if p.suffix.lower() in KINDS and p.is_file())
        if not found and inside.is_dir():
            raise FileNotFoundError(f"no image in {str(inside)!r}: looked for {', '.join(KINDS)}")
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise FileNotFoundError(f"no folder of a class in {str(folder)!r}: looked for {', '.join(names)}")
    x = np.empty((len(paths), *size, 3), np.uint8)
    for row, path in enumerate(paths):
        x[row] = _read_image(pillow, path, size)
    return x, np.array(labels, np.int64)


def _read_image(pillow: ModuleType, path: Path, size: tuple[int, int]) -> Array:
    """RGB of the wanted size: turned as the camera says, scaled until it covers it, the middle cut out."""
    from PIL import ImageOps

    try:
        with pillow.open(path) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"it has more than 8 bits per channel (mode {image.mode}), convert it first")
            turned = ImageOps.exif_transpose(image).convert("RGB")
            fitted = ImageOps.fit(turned, (size[1], size[0]), pillow.Resampling.BILINEAR)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise what they like on damaged files
        raise FormatError(f"{str(path)!r} cannot be read as an image: {error}") from None
    return np.asarray(fitted, np.uint8)
