"""Splits of a data set, and how arrays are cut into them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import as_array, check_finite, generator, positive_int
from ._augment import Augment, moved
from ._preprocess import Preprocess
from ._weights import check_binary

if TYPE_CHECKING:
    from ._batches import Stream

CALIBRATION_IMAGES = 256


@dataclass(frozen=True, eq=False)
class Split:
    """Images with labels.

    Attributes
    ----------
    x : ndarray of uint8 or float32, shape (n, h, w, c), (n, time, channels) or (n, features)
    y : ndarray of int64, shape (n,), of uint8, shape (n, outputs), or of float32, shape (n, outputs)
        Class labels, 0 and 1 of several labels at once, or targets of a regression.
    weight : ndarray of float32, shape (n,), or None
        Weight of each sample in the loss.
    index : ndarray of int64, shape (n,)
        Row of each sample in the whole set.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    weight: NDArray[np.float32] | None = None
    index: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if len(self.index) != len(self.x):
            object.__setattr__(self, "index", np.arange(len(self.x)))
        for name, value in (("y", self.y), ("weight", self.weight)):
            if value is not None and len(value) != len(self.x):
                raise ValueError(f"{name} has {len(value)} rows, x has {len(self.x)}: they must be equal")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"Split({len(self)} x {self.x.shape[1:]} {self.x.dtype})"

    def take(self, rows: ArrayLike) -> Split:
        """Return the given rows, in that order."""
        at = np.asarray(rows)
        at = at if at.size else at.astype(np.int64)
        weight = None if self.weight is None else self.weight[at]
        return Split(np.asarray(self.x[at]), self.y[at], weight, self.index[at])

    def subset(self, n: int) -> Split:
        """Return at most n rows that keep the proportions of the classes; the same rows every time."""
        positive_int(n, "n")
        return self if n >= len(self) else self.take(np.sort(_balanced_order(self.y, generator(0, n))[:n]))


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three splits.

    Attributes
    ----------
    train, val, test : Split
        For training, for choices, and for the final figure; val and test may be empty.
    calibration : Split
        Images of the training split (256, fewer if it is smaller), flipped, cropped, shifted and cut out of as in
        training, for statistics and quantisation.
    outputs : int
        Classes, or columns of y.
    names : tuple of str
        Names of the classes, or of the columns of y.
    preprocess : Preprocess or None
        For uint8 images, from the mean and deviation of the training split.
    augment : Augment or None
        What ``augment="auto"`` means in training.
    stream : Stream or None
        Where training takes its images from if they arrive in batches (`from_batches`); ``train`` then holds the first
        of them only.
    """

    train: Split
    val: Split
    test: Split
    calibration: Split
    outputs: int
    names: tuple[str, ...]
    preprocess: Preprocess | None = None
    augment: Augment | None = None
    stream: Stream | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image: (h, w, c), (time, channels) or (features,)."""
        return tuple(int(n) for n in self.train.x.shape[1:])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every image, label and weight of the three splits; of batches, what ``train`` holds of them and n."""
        digest = hashlib.sha256() if self.stream is None else hashlib.sha256(str(self.stream.n).encode())
        for split in (self.train, self.val, self.test):
            for array in (split.x, split.y, split.weight, split.index):
                if array is None:
                    digest.update(b"none")
                    continue
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                for start in range(0, len(array), 4096):
                    digest.update(np.ascontiguousarray(array[start : start + 4096]).data)
        return digest.hexdigest()

    def subset(self, n: int) -> Data:
        """Return the set with at most n images per split, classes in proportion; preprocessing stays."""
        train = self.train.subset(n)
        stream = None if self.stream is None else replace(self.stream, n=min(n, self.stream.n))
        return replace(
            self,
            stream=stream,
            train=train,
            val=self.val.subset(n),
            test=self.test.subset(n),
            calibration=calibration_images(train, self.augment, self.preprocess),
        )

    def __repr__(self) -> str:
        n = len(self.train) if self.stream is None else self.stream.n
        sizes = f"train={n}, val={len(self.val)}, test={len(self.test)}"
        return f"Data(shape={self.shape}, outputs={self.outputs}, {sizes})"


def fraction(value: Any, name: str, n: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a fraction from 0 to 1 or (x, y), not {type(value).__name__}")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be a fraction from 0 to below 1, not {value}")
    return round(float(value) * n)


def check_targets(y: Any, name: str, n: int) -> NDArray[Any]:
    y = as_array(y, name)
    if y.ndim == 2 and y.shape[1] == 1 and y.dtype.kind in "iu":
        raise ValueError(
            f"{name} must have shape ({n},), not {y.shape}: pass {name}[:, 0], or {name}.astype(bool) for one label"
        )
    if y.dtype.kind in "iu" and y.ndim == 1:
        if len(y) and int(y.min()) < 0:
            raise ValueError(f"{name} holds the label {int(y.min())}: labels count from 0")
        y = y.astype(np.int64)
    elif y.dtype.kind in "biu" and y.ndim == 2:
        check_binary(y, name)
        y = y.astype(np.uint8)
    elif y.dtype == np.float32 and y.ndim == 2:
        check_finite(y, name)
    else:
        raise TypeError(
            f"{name} must be integers of shape (n,), 0 and 1 of shape (n, outputs) or float32 of shape (n, outputs), "
            f"not {y.dtype} of shape {y.shape}"
        )
    if len(y) != n:
        raise ValueError(f"{name} has {len(y)} rows, x has {n}: they must be equal")
    targets: NDArray[Any] = y
    return targets


def check_sample_weights(weight: Any, n: int) -> NDArray[np.float32]:
    weight = as_array(weight, "weight")
    if weight.shape != (n,) or weight.dtype.kind not in "fiu":
        raise ValueError(f"weight must be numbers of shape ({n},), not {weight.dtype} of shape {weight.shape}")
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ValueError("weight must be finite and not below 0")
    whole: NDArray[np.float32] = weight.astype(np.float32)
    return whole


def _balanced_order(y: NDArray[Any], draw: np.random.Generator) -> NDArray[np.int64]:
    """Random order in which every prefix holds the classes in proportion."""
    order = draw.permutation(len(y))
    if y.ndim != 1 or len(y) == 0:
        return order
    labels = y[order]
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    position = np.empty(len(y))
    ranks = np.arange(len(y)) - starts[labels[by_class]]
    position[by_class] = (ranks + draw.random(len(counts))[labels[by_class]]) / counts[labels[by_class]]
    return order[np.argsort(position, kind="stable")]


def _whole_groups(groups: NDArray[Any], sizes: Sequence[int], draw: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows of each part in which groups stay whole, about the sizes asked for; the last part is the rest."""
    _, code = np.unique(groups, return_inverse=True)
    members = np.bincount(code)
    order = draw.permutation(len(members))
    filled = np.cumsum(members[order])
    parts, start = [], 0
    for end in np.cumsum(sizes):
        stop = int(np.searchsorted(filled, end, side="left")) + 1 if end else start
        stop = start if stop <= start else min(stop, len(order) - 1)
        parts.append(np.flatnonzero(np.isin(code, order[start:stop])))
        start = stop
    return [*parts, np.flatnonzero(np.isin(code, order[start:]))]


def split_data(
    x: NDArray[Any],
    y: NDArray[Any],
    val: int | tuple[NDArray[Any], NDArray[Any]],
    test: int | tuple[NDArray[Any], NDArray[Any]],
    seed: int,
    *,
    names: Sequence[str] | None = None,
    augment: Augment | None = None,
    weight: NDArray[np.float32] | None = None,
    groups: NDArray[Any] | None = None,
    stratify: bool = True,
) -> Data:
    """Cut x and y in three and add what follows from the training part."""
    draw = generator(seed, 0)
    sizes = [0 if isinstance(part, tuple) else part for part in (test, val)]
    if sum(sizes) >= len(x):
        raise ValueError(f"val and test take {sum(sizes)} of {len(x)} images: none are left for training")
    if groups is not None:
        rows = _whole_groups(groups, sizes, draw)
    elif sum(sizes) == 0:
        rows = [np.arange(0), np.arange(0), np.arange(len(x))]
    else:
        order = _balanced_order(y, draw) if stratify else draw.permutation(len(y))
        rows = [np.sort(r) for r in np.split(order, np.cumsum(sizes))]
    whole = Split(x, y, weight)
    splits: dict[str, Split] = {}
    for name, part, at in (("test", test, rows[0]), ("val", val, rows[1])):
        splits[name] = Split(*part) if isinstance(part, tuple) else whole.take(at)
    train = whole if len(rows[2]) == len(x) else whole.take(rows[2])
    if len(train) == 0:
        raise ValueError("the groups leave no images for training: lower val and test")
    outputs, labels = _outputs([train, *splits.values()], names)
    preprocess = statistics(train.x) if x.dtype == np.uint8 else None
    calibration = calibration_images(train, augment, preprocess)
    return Data(train, splits["val"], splits["test"], calibration, outputs, labels, preprocess, augment)


def _outputs(splits: Sequence[Split], names: Sequence[str] | None) -> tuple[int, tuple[str, ...]]:
    shapes_of_y = {s.y.shape[1:] for s in splits if len(s)}
    if len(shapes_of_y) > 1:
        raise ValueError(f"y of the splits must have equal shapes per row, not {sorted(shapes_of_y)}")
    y = splits[0].y
    outputs = int(y.shape[1]) if y.ndim == 2 else max(int(s.y.max()) for s in splits if len(s)) + 1
    if names is None:
        return outputs, tuple(str(k) for k in range(outputs))
    if len(names) < outputs or (y.ndim == 2 and len(names) != outputs):
        largest = f"labels go up to {outputs - 1}" if y.ndim == 1 else f"y has {outputs} columns"
        raise ValueError(f"names has {len(names)} entries but {largest}")
    return len(names), tuple(str(name) for name in names)


def statistics(x: NDArray[Any]) -> Preprocess:
    """Mean and deviation per channel, from exact integer histograms."""
    values = np.arange(256.0) / 255.0
    mean, std = [], []
    for channel in range(x.shape[-1]) if x.ndim > 2 else (slice(None),):
        counts = np.zeros(256)
        for start in range(0, len(x), 4096):
            counts += np.bincount(np.asarray(x[start : start + 4096][..., channel]).ravel(), minlength=256)
        counts /= counts.sum()
        average = float(counts @ values)
        mean.append(average)
        std.append(max(float(np.sqrt(counts @ (values - average) ** 2)), 1 / 255))
    return Preprocess(mean, std)


def calibration_images(train: Split, augment: Augment | None, preprocess: Preprocess | None) -> Split:
    """Training images moved as training moves them: statistics of unchanged images can cost points of accuracy."""
    some = train.subset(CALIBRATION_IMAGES)
    if augment is None or some.x.dtype != np.uint8 or some.x.ndim != 4:
        return some
    return replace(some, x=moved(some.x, np.arange(len(some), dtype=np.int64), augment, preprocess))
