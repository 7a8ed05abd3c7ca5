"""Data sets: images or signals with labels, split, with what preprocessing and augmentation they need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import Rng, as_array, check_finite, check_images, generator, positive_int, seed_of
from ._data import Augment, Data, Split, check_sample_weights, check_targets, fraction, split_data
from ._readers import read_cifar10, read_idx_folder

__all__ = ["Augment", "Data", "Split", "cifar10", "digits", "fashion_mnist", "from_arrays", "mnist", "shapes", "waves"]


def digits(*, rng: Rng = None) -> Data:
    """Handwritten digits of the UCI repository, 8 x 8 grey pixels, 1,097 / 200 / 500 images; part of the package.

    Parameters
    ----------
    rng : None, int or Generator
        Decides the split.

    Returns
    -------
    Data

    Examples
    --------
    >>> digits(rng=0)
    Data(shape=(8, 8, 1), outputs=10, train=1097, val=200, test=500)
    """
    with np.load(Path(__file__).parent / "_data" / "digits.npz", allow_pickle=False) as stored:
        x, y = stored["x"], stored["y"].astype(np.int64)
    return split_data(x, y, 200, 500, seed_of(rng), augment=Augment(shift=1))


def cifar10(root: str | Path, *, val: float = 0.1) -> Data:
    """CIFAR-10 from the files of its binary version.

    Parameters
    ----------
    root : path
        The folder with ``data_batch_1.bin`` ... ``test_batch.bin``, or its parent.
    val : float, default 0.1
        Fraction of the training images kept for validation, always the same ones; 0 leaves ``val`` empty.

    Returns
    -------
    Data

    Raises
    ------
    FileNotFoundError
        If the files are not there.
    FormatError
        If a file is not what the binary version holds.
    """
    x, y, test_x, test_y, names = read_cifar10(Path(root))
    return split_data(x, y, fraction(val, "val", len(x)), (test_x, test_y), 0, names=names, augment=Augment(True, 4))


def mnist(root: str | Path, *, val: float = 0.1) -> Data:
    """MNIST from its four IDX files (``train-images-idx3-ubyte`` ..., also with ``.gz``).

    Parameters
    ----------
    root : path
        The folder with the files, or its parent.
    val : float, default 0.1
        Fraction of the training images kept for validation, always the same ones.

    Returns
    -------
    Data

    Raises
    ------
    FileNotFoundError
        If the files are not there.
    FormatError
        If a file is not IDX or its sizes do not fit.
    """
    return _idx(root, val, tuple("0123456789"), Augment(shift=2))


def fashion_mnist(root: str | Path, *, val: float = 0.1) -> Data:
    """Fashion-MNIST; files and arguments as in `mnist`, augmented by mirroring and shifts."""
    names = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    return _idx(root, val, names, Augment(flip=True, shift=2))


def from_arrays(
    x: Any,
    y: Any,
    *,
    val: float | tuple[Any, Any] = 0.1,
    test: float | tuple[Any, Any] = 0.1,
    stratify: bool = True,
    groups: Any = None,
    weight: Any = None,
    names: Sequence[str] | None = None,
    rng: Rng = None,
) -> Data:
    """Make a data set of your own arrays.

    Parameters
    ----------
    x : array of uint8 or float32, shape (n, h, w, c), (n, time, channels) or (n, features)
        Raw images (uint8) or values that need no preprocessing (float32).
    y : array of integers, shape (n,), of 0 and 1, shape (n, outputs), or of float32, shape (n, outputs)
        Class labels from 0, several labels at once (integers or booleans), or targets.
    val, test : float or (x, y)
        A fraction of x, arrays of their own, or 0.
    stratify : bool, default True
        Keep the proportions of the classes in each split.
    groups : array, shape (n,), optional
        Samples of one group (a person, a device) stay in one split.
    weight : array of float, shape (n,), optional
        Weight of each sample in the loss.
    names : sequence of str, optional
        Names of the classes, or of the columns of y.
    rng : None, int or Generator
        Decides the split.

    Returns
    -------
    Data
        Without augmentation.

    Raises
    ------
    TypeError, ValueError
        For another type, rank or axis order, and for labels out of range.
    NonFiniteError
        For NaN or infinity in x or y.

    Examples
    --------
    >>> from_arrays(np.zeros((20, 4, 4, 1), np.uint8), np.arange(20) % 2, rng=0)
    Data(shape=(4, 4, 1), outputs=2, train=16, val=2, test=2)
    """
    x = check_images(x, "x")
    check_finite(x, "x")
    y = check_targets(y, "y", len(x))
    if weight is not None:
        weight = check_sample_weights(weight, len(x))
    parts: list[int | tuple[NDArray[Any], NDArray[Any]]] = []
    for name, part in (("val", val), ("test", test)):
        if isinstance(part, tuple):
            if len(part) != 2:
                raise ValueError(f"{name} must be a fraction or (x, y), not a tuple of {len(part)}")
            images = check_images(part[0], f"{name}[0]", tuple(x.shape[1:]))
            if images.dtype != x.dtype:
                raise TypeError(f"{name}[0] is {images.dtype}, x is {x.dtype}: they must be equal")
            parts.append((images, check_targets(part[1], f"{name}[1]", len(images))))
        else:
            parts.append(fraction(part, name, len(x)))
    keys = None if groups is None else as_array(groups, "groups")
    if keys is not None and keys.shape != (len(x),):
        raise ValueError(f"groups must have shape ({len(x)},), not {keys.shape}")
    return split_data(
        x, y, parts[0], parts[1], seed_of(rng), names=names, weight=weight, groups=keys, stratify=stratify
    )


def shapes(n: int = 2000, size: int = 16, classes: int = 4, *, rng: Rng = 0) -> Data:
    """Grey images of a regular polygon (class k has k + 3 corners) at random place, size and angle, with noise.

    Parameters
    ----------
    n : int
        Images in all; 80 % for training, 10 % each for validation and test.
    size : int
        Side in pixels, at least 8.
    classes : int
        From 2.
    rng : None, int or Generator, default 0

    Returns
    -------
    Data
    """
    n, size, classes = positive_int(n, "n", 10), positive_int(size, "size", 8), positive_int(classes, "classes", 2)
    seed = seed_of(rng)
    draw = generator(seed, 1)
    y = np.arange(n) % classes
    corners = (y + 3)[:, None, None]
    radius = draw.uniform(0.28, 0.42, (n, 1, 1)) * size
    centre = draw.uniform(0.42, 0.58, (2, n, 1, 1)) * size
    turn = draw.uniform(0, 2 * np.pi, (n, 1, 1))
    rows, columns = np.mgrid[:size, :size] + 0.5
    dy, dx = rows - centre[0], columns - centre[1]
    sector = np.pi / corners
    angle = np.mod(np.arctan2(dy, dx) + turn, 2 * sector) - sector
    inside = radius * np.cos(sector) - np.hypot(dy, dx) * np.cos(angle)
    image = 60 + 120 * np.clip(inside + 0.5, 0, 1) + draw.normal(0, 12, inside.shape)
    x = np.clip(np.rint(image), 0, 255).astype(np.uint8)[..., None]
    names = [f"{k + 3} corners" for k in range(classes)]
    return split_data(x, y.astype(np.int64), n // 10, n // 10, seed, names=names)


def waves(n: int = 2000, length: int = 64, channels: int = 2, classes: int = 4, *, rng: Rng = 0) -> Data:
    """Signals of two tones in noise; class k decides the pair of frequencies, phase and strength are random.

    Parameters
    ----------
    n : int
        Signals in all; 80 % for training, 10 % each for validation and test.
    length, channels, classes : int
        Samples per signal, channels, and classes.
    rng : None, int or Generator, default 0

    Returns
    -------
    Data
        float32 signals of mean 0, shape (length, channels).
    """
    n, length = positive_int(n, "n", 10), positive_int(length, "length", 8)
    channels, classes = positive_int(channels, "channels"), positive_int(classes, "classes", 2)
    seed = seed_of(rng)
    draw = generator(seed, 2)
    y = np.arange(n) % classes
    time = np.arange(length)[None, :, None]
    base = (1 + y)[:, None, None] * (length / (4.0 * (classes + 1)))
    x = draw.normal(0, 0.7, (n, length, channels))
    for harmonic in (1.0, 1.5):
        phase = draw.uniform(0, 2 * np.pi, (n, 1, channels))
        strength = draw.uniform(0.5, 1.2, (n, 1, channels))
        x += strength * np.sin(2 * np.pi * base * harmonic * time / length + phase)
    return split_data(x.astype(np.float32), y.astype(np.int64), n // 10, n // 10, seed)


def _idx(root: str | Path, val: float, names: tuple[str, ...], augment: Augment) -> Data:
    x, y, test_x, test_y = read_idx_folder(Path(root))
    return split_data(x, y, fraction(val, "val", len(x)), (test_x, test_y), 0, names=names, augment=augment)
