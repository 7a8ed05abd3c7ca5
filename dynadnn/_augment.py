"""Random changes of training images: moved and cut out in the core, changed by a user's function, mixed in pairs.

Everything is a function of the seed and of where a batch stands (epoch, step, row), never of what came before it: so a
resumed run sees the same images, and a batch can be made in another thread while the step before it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arguments import as_array, check_finite, generator, positive_int
from ._losses import Loss
from ._preprocess import Preprocess

F32 = NDArray[np.float32]
Transform = Callable[[NDArray[Any], np.random.Generator], Any]
_TRANSFORM, _MIXUP = 37, 41  # streams of random numbers


@dataclass(frozen=True, repr=False)
class Augment:
    """Random changes of training images, drawn anew in every epoch, in the order of the parameters.

    `flip`, `crop`, `shift` and `cutout` are drawn per image and take uint8 images (n, h, w, c); `transform` and `mixup`
    take whatever the network takes. Statistics of the finished network come from training images that were flipped,
    cropped, shifted and cut out of, but neither transformed nor mixed.

    Parameters
    ----------
    flip : bool
        Mirror left and right with probability one half.
    crop : int
        Pixels of border (value 0) added on each side before a random crop back to size.
    shift : int
        Largest shift along both axes, in pixels; what enters is 0.
    cutout : int
        Side, in pixels, of a square that takes the mean colour of the training images (``data.preprocess``; black
        without). Its middle is any pixel, so it may reach over the border (DeVries and Taylor 2017).
    transform : function (x, rng) -> x, optional
        Called once per batch: x is uint8 or float32 of the data's shape, (n, h, w, c) for images, and may be written
        to; rng is a NumPy Generator of this seed, epoch and step. Returns the same shape, in the same type or, of
        uint8, in float32, which is then taken as preprocessed. It may run in another thread, one batch ahead: let it
        depend on nothing but x and rng.
    mixup : float
        Images and labels of random pairs in a batch are averaged, with shares drawn from Beta(mixup, mixup); 0 is
        none, 0.2 to 0.4 is usual (Zhang et al. 2018). The larger share is called the image's own, and accuracies while
        training are of its label. uint8 images are rounded. The loss of class labels is the average of the losses,
        which is that of the averaged labels; targets, and several labels at once, are averaged themselves.

    Examples
    --------
    >>> Augment(flip=True, crop=4, mixup=0.2)
    Augment(flip=True, crop=4, mixup=0.2)
    """

    flip: bool = False
    crop: int = 0
    shift: int = 0
    cutout: int = 0
    transform: Transform | None = None
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop", "shift", "cutout"):
            positive_int(getattr(self, name), name, 0)
        if isinstance(self.mixup, bool) or not isinstance(self.mixup, int | float) or not 0 <= self.mixup < np.inf:
            raise ValueError(f"mixup must be a finite number from 0, for example 0.2, not {self.mixup!r}")
        if self.transform is not None and not callable(self.transform):
            raise TypeError(f"transform must be a function (x, rng) -> x, not {type(self.transform).__name__}")

    @property
    def moves(self) -> bool:
        """Whether the core changes images, for which they must be uint8 (n, h, w, c)."""
        return bool(self.flip or self.crop or self.shift or self.cutout)

    @property
    def only_flips(self) -> bool:
        """Whether an image comes in two forms, plain and mirrored."""
        return self == Augment(flip=self.flip)

    def __repr__(self) -> str:  # part of a checkpoint's fingerprint: the same in every process
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        if self.transform is not None:
            given["transform"] = _name_of(self.transform)
        return f"Augment({', '.join(f'{key}={value}' for key, value in given.items())})"

    def __str__(self) -> str:
        parts = ["flip"] if self.flip else []
        parts += [f"pad-crop {self.crop}"] if self.crop else []
        parts += [f"shift up to {self.shift}"] if self.shift else []
        parts += [f"cutout {self.cutout}"] if self.cutout else []
        parts += [f"transform {_name_of(self.transform)}"] if self.transform is not None else []
        parts += [f"mixup {self.mixup:g}"] if self.mixup else []
        return ", ".join(parts) or "none"


def _name_of(function: Transform) -> str:
    kind = type(function)
    module = getattr(function, "__module__", kind.__module__)
    return f"{module}.{getattr(function, '__qualname__', kind.__qualname__)}"


def mean_colour(preprocess: Preprocess | None, channels: int) -> NDArray[np.uint8] | None:
    """Mean of the training images per channel, as bytes; None if nobody knows."""
    if preprocess is None:
        return None
    colour = np.clip(np.rint(np.asarray(preprocess.mean, np.float64) * preprocess.scale), 0, 255).astype(np.uint8)
    return np.array(np.broadcast_to(colour, (channels,)))


def moved(
    x: NDArray[Any],
    rows: NDArray[np.int64],
    how: Augment,
    preprocess: Preprocess | None,
    *,
    seed: int = 0,
    epoch: int = 0,
    threads: int = 1,
) -> NDArray[Any]:
    """Rows of x, flipped, cropped, shifted and cut out of; a copy."""
    if not how.moves:
        return np.ascontiguousarray(x[rows])
    images = np.ascontiguousarray(x)
    batch: NDArray[Any] = _core.augment(
        images,
        rows,
        flip=how.flip,
        crop=how.crop,
        shift=how.shift,
        cutout=how.cutout,
        cutout_fill=mean_colour(preprocess, images.shape[-1]) if how.cutout else None,
        seed=seed,
        epoch=epoch,
        threads=threads,
    )
    return batch


def transformed(x: NDArray[Any], how: Augment, seed: int, epoch: int, step: int) -> NDArray[Any]:
    """Return what the user's function makes of a batch, checked."""
    if how.transform is None:
        return x
    shape, dtype = x.shape, x.dtype
    out = as_array(how.transform(x, generator(seed, _TRANSFORM, epoch, step)), "what transform returns")
    types = ("uint8", "float32") if dtype == np.uint8 else ("float32",)
    if out.shape != shape or out.dtype.name not in types:
        raise ValueError(
            f"transform {_name_of(how.transform)} returned {out.dtype} of shape {out.shape} for {dtype} of shape "
            f"{shape}: it must return {' or '.join(types)} of the same shape"
        )
    check_finite(out, f"what transform {_name_of(how.transform)} returned")
    return np.ascontiguousarray(out)


@dataclass(frozen=True, eq=False)
class MixedLabels:
    """Labels of a batch of mixed images: `share` of each image's own, the rest of another one's."""

    own: NDArray[Any]
    other: NDArray[Any]
    share: F32
    own_weight: F32 | None
    other_weight: F32 | None

    def weights(self) -> tuple[F32, F32]:
        """Shares times sample weights."""
        rest = 1 - self.share
        first = self.share if self.own_weight is None else self.share * self.own_weight
        return first, rest if self.other_weight is None else rest * self.other_weight

    def targets(self) -> F32:
        """Targets, or several labels, averaged."""
        share = self.share[:, None]
        return np.asarray(share * self.own + (1 - share) * self.other, np.float32)


Labels = NDArray[Any] | MixedLabels


def mixed(
    x: NDArray[Any], y: NDArray[Any], weight: F32 | None, alpha: float, seed: int, epoch: int, step: int
) -> tuple[NDArray[Any], MixedLabels, F32 | None]:
    """Images, labels and weights of a batch, each averaged with another one of the batch."""
    draw = generator(seed, _MIXUP, epoch, step)
    partner = draw.permutation(len(x))
    part = draw.beta(alpha, alpha, len(x))
    share = np.maximum(part, 1 - part).astype(np.float32)
    wide = share.reshape(-1, *(1,) * (x.ndim - 1))
    blend = x.astype(np.float32) * wide + x[partner].astype(np.float32) * (1 - wide)
    images = np.rint(blend).astype(np.uint8) if x.dtype == np.uint8 else blend
    others = None if weight is None else weight[partner]
    labels = MixedLabels(y, y[partner], share, weight, others)
    return images, labels, None if weight is None else np.add(*labels.weights())


def own_labels(y: Labels) -> NDArray[Any]:
    """Labels for figures of a batch."""
    return y.own if isinstance(y, MixedLabels) else y


def label_loss(loss: Loss, outputs: F32, y: Labels, weight: F32 | None, scale: float = 1.0) -> tuple[F32, F32]:
    """(loss per sample, gradient) for labels that may be mixed."""
    if not isinstance(y, MixedLabels):
        return loss(outputs, y, weight, scale)
    if y.own.ndim == 2:
        return loss(outputs, y.targets(), weight, scale)
    first, second = y.weights()
    values, gradient = loss(outputs, y.own, first, scale)
    more, added = loss(outputs, y.other, second, scale)
    return values + more, gradient + added
