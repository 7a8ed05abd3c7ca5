"""Data sets: images or signals with labels, split, with what preprocessing and augmentation they need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import Rng, as_array, check_finite, check_images, generator, positive_int, seed_of
from ._augment import Augment
from ._batches import Source, data_of_batches
from ._data import Data, Split, check_sample_weights, check_targets, fraction, split_data
from ._readers import read_cifar10, read_cifar100, read_idx_folder
from ._readers_audio import read_speech_commands
from ._readers_folder import read_image_folder
from ._readers_signals import read_har

__all__ = [
    "Augment",
    "Data",
    "Split",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "from_arrays",
    "from_batches",
    "har",
    "image_folder",
    "mnist",
    "shapes",
    "speech_commands",
    "waves",
]


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


def cifar100(root: str | Path, *, val: float = 0.1) -> Data:
    """CIFAR-100 with its 100 fine labels, from the files of its binary version.

    Parameters
    ----------
    root : path
        The folder with ``train.bin``, ``test.bin`` and ``fine_label_names.txt``, or its parent.
    val : float, default 0.1
        Fraction of the training images kept for validation, always the same ones; 0 leaves ``val`` empty.

    Returns
    -------
    Data
        Augmented by mirroring and crops; names are those of the file.

    Raises
    ------
    FileNotFoundError
        If the files are not there.
    FormatError
        If a file is not what the binary version holds.
    """
    x, y, test_x, test_y, names = read_cifar100(Path(root))
    return split_data(x, y, fraction(val, "val", len(x)), (test_x, test_y), 0, names=names, augment=Augment(True, 4))


def image_folder(
    root: str | Path,
    size: int | tuple[int, int],
    *,
    val: float = 0.1,
    test: float = 0.1,
    rng: Rng = 0,
) -> Data:
    """Images in one folder per class; needs Pillow (``pip install pillow``).

    Parameters
    ----------
    root : path
        Holds a folder per class, or folders ``train``, and ``val`` and ``test`` if there are such, with those inside.
    size : int or (height, width)
        Images are scaled until they cover this, and their middle is cut out; all are kept in memory as RGB.
    val, test : float, default 0.1
        Fractions of the images, classes in proportion; of splits that have folders of their own nothing is taken.
    rng : None, int or Generator, default 0
        Decides the split.

    Returns
    -------
    Data
        uint8 images of shape (height, width, 3), without augmentation.

    Raises
    ------
    FileNotFoundError
        If there are fewer than two classes, or one without images.
    FormatError
        If an image cannot be decoded, or ``val`` or ``test`` hold other classes.
    ImportError
        If Pillow is not installed.
    """
    sides = size if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size must be one side or (height, width), not {size!r}")
    height, width = (positive_int(side, "size") for side in sides)
    splits, names = read_image_folder(Path(root), (height, width))
    x, y = splits["train"]
    parts = [
        splits[name] if name in splits else fraction(share, name, len(x))
        for name, share in (("val", val), ("test", test))
    ]
    return split_data(x, y, parts[0], parts[1], seed_of(rng), names=names)


def speech_commands(root: str | Path, *, classes: int | str = 12, rng: Rng = 0) -> Data:
    """Google Speech Commands (Warden 2018, versions 1 and 2): spoken words of one second, as log-mel spectrograms.

    Parameters
    ----------
    root : path
        The folder with ``validation_list.txt``, ``testing_list.txt`` and one folder of WAV files (16 kHz, mono) per
        word, or its parent. The lists decide the splits, so that no speaker is in two.
    classes : 12 or "all", default 12
        12: "silence" (cut from ``_background_noise_``), "unknown" (other words) and ten commands; of the first two a
        tenth of the number of commands each. "all": every folder of a word is a class.
    rng : None, int or Generator, default 0
        Decides which silences and unknown words are taken.

    Returns
    -------
    Data
        float32 features, shape (49, 40): of 40 ms every 20 ms, ``(ln(power + 1e-6) + 6) / 4`` in 40 mel bands from 20
        to 4,000 Hz (windows as in Zhang et al. 2017, Hello Edge).

    Raises
    ------
    FileNotFoundError
        If a list, a folder or a listed recording is not there.
    FormatError
        If a recording is no mono WAV file of 16 bits and 16 kHz, or truncated.
    """
    if isinstance(classes, bool) or classes not in (12, "all"):
        raise ValueError(f"classes must be 12 or 'all', not {classes!r}")
    seed = seed_of(rng)
    splits, names = read_speech_commands(Path(root), classes == "all", seed)
    return split_data(*splits["train"], splits["val"], splits["test"], seed, names=names)


def har(root: str | Path, *, val: float = 0.1) -> Data:
    """UCI HAR (Anguita et al. 2013): six activities of 30 people, from the inertial signals of a phone.

    Parameters
    ----------
    root : path
        The folder ``UCI HAR Dataset``, or its parent.
    val : float, default 0.1
        About this fraction of the training windows is kept for validation: whole people, always the same ones.

    Returns
    -------
    Data
        float32 signals, shape (128, 9): body acceleration, angular velocity and total acceleration along x, y and z, as
        published (g and rad/s). The test split is the published one; no person is in two splits.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    FormatError
        If a file is truncated, or rows and labels do not go together.
    """
    (x, y, people), (test_x, test_y, _), names = read_har(Path(root))
    return split_data(x, y, fraction(val, "val", len(x)), (test_x, test_y), 0, names=names, groups=people)


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


def from_batches(
    train: Source,
    val: Any,
    *,
    shape: tuple[int, ...],
    outputs: int,
    n: int,
    names: Sequence[str] | None = None,
) -> Data:
    """Make a data set of batches that arrive one after another, for images that do not fit in memory.

    Parameters
    ----------
    train : function of the epoch, or iterable
        ``train(epoch)`` gives batches (x, y) or (x, y, weight) of any sizes, as NumPy arrays or tensors on the CPU, in
        the order in which they are trained on; `fit` cuts them to its own batch size. A ``torch.utils.data.DataLoader``
        does, since it starts anew every time. Training that resumes calls ``train`` for the epoch it was in and leaves
        out what it has seen, so the same epoch should give the same batches.
    val : Split, (x, y), function, iterable or None
        Images for the figures of every epoch, read once and kept in memory.
    shape : tuple of int
        Of one image: (h, w, c), (time, channels) or (features,). Channels come last.
    outputs : int
        Classes, or columns of y.
    n : int
        Images per epoch; what an epoch gives beyond them is not used.
    names : sequence of str, optional
        Names of the classes, or of the columns of y.

    Returns
    -------
    Data
        ``data.train`` holds the first 512 images of epoch 0 only, in memory: statistics for preprocessing and
        calibration come from them, so they should be mixed. ``data.test`` is empty, and images are not augmented.

    Raises
    ------
    TypeError, ValueError
        For batches of another type or shape, and for channels that come first.
    NonFiniteError
        For NaN or infinity in x or y.

    Examples
    --------
    >>> def train(epoch):
    ...     draw = np.random.default_rng(epoch)
    ...     for _ in range(4):
    ...         x = draw.standard_normal((25, 6), np.float32)
    ...         yield x, (x[:, 0] > 0).astype(np.int64)
    >>> from_batches(train, None, shape=(6,), outputs=2, n=100)
    Data(shape=(6,), outputs=2, train=100, val=0, test=0)
    """
    if names is not None and len(names) != outputs:
        raise ValueError(f"names has {len(names)} entries for {outputs} outputs")
    return data_of_batches(train, val, tuple(shape), outputs, n, None if names is None else tuple(map(str, names)))


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
