"""Training images that arrive in batches: read, checked, and cut to the size that training wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._arguments import as_array, check_finite, looks_like_nchw, positive_int
from ._data import Data, Split, calibration_images, check_targets, statistics
from ._weights import check_labels

Source = Callable[[int], Iterable[Any]] | Iterable[Any]
SAMPLE = 512  # images kept in memory, for calibration (which takes 256 of them), preprocessing and checks


class Batch(NamedTuple):
    """Images, labels and weights, as a `Split` holds them."""

    x: NDArray[Any]
    y: Any  # an array, or MixedLabels
    weight: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Stream:
    """Batches of an epoch, checked.

    Parameters
    ----------
    source : function of the epoch, or iterable that starts anew each time
        Gives (x, y) or (x, y, weight).
    n : int
        Images per epoch.
    shape : tuple of int
        Of one image, channels last.
    outputs : int
    name : str
        How messages call it.
    """

    source: Source
    n: int
    shape: tuple[int, ...]
    outputs: int
    name: str = "train"

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Batches of one epoch as they come."""
        if callable(self.source):
            call, given = f"{self.name}({epoch})", self.source(epoch)
        else:
            call, given = self.name, self.source
        try:
            items = iter(given)
        except TypeError:
            raise TypeError(f"{call} must give batches (x, y), not {type(given).__name__}") from None
        for number, item in enumerate(items):
            yield self._checked(item, f"batch {number} of {call}")

    def _checked(self, item: Any, name: str) -> Batch:
        if not isinstance(item, tuple | list) or len(item) not in (2, 3):
            raise TypeError(f"{name} must be (x, y) or (x, y, weight), not {_describe(item)}")
        x = as_array(item[0], f"x of {name}")
        if x.dtype not in (np.uint8, np.float32):
            raise TypeError(f"x of {name} must be uint8 (raw) or float32 (preprocessed), not {x.dtype}")
        if x.shape[1:] != self.shape:
            self._refuse(x.shape, name)
        check_finite(x, f"x of {name}")
        y = check_targets(item[1], f"y of {name}", len(x))
        check_labels(y, self.outputs, f"y of {name}")
        weight = None
        if len(item) == 3:
            weight = as_array(item[2], f"weight of {name}").astype(np.float32)
            if weight.shape != (len(x),) or not (np.isfinite(weight).all() and (weight >= 0).all()):
                raise ValueError(f"weight of {name} must be ({len(x)},) numbers, finite and not below 0")
        return Batch(x, y, weight)

    def _refuse(self, shape: tuple[int, ...], name: str) -> None:
        wanted = f"(n, {', '.join(map(str, self.shape))})"
        if len(shape) == len(self.shape) + 1 and (shape[2:] + shape[1:2]) == self.shape:
            order = (0, *range(2, len(shape)), 1)
            raise ValueError(
                f"x of {name} has shape {tuple(shape)}: axis 1 holds the {shape[1]} channels (NC...), which come last "
                f"here, shape {wanted}: pass np.moveaxis(x, 1, -1), of a tensor x.permute{order}"
            )
        raise ValueError(f"x of {name} must have shape {wanted}, not {tuple(shape)}")

    def steps(self, epoch: int, size: int, skip: int = 0) -> Iterator[Batch]:
        """Batches of exactly `size` images until n are given, after leaving out the first `skip` images.

        Raises
        ------
        ValueError
            If the epoch ends with fewer than n images, or the batches do not go together.
        """
        rest: Batch | None = None
        given = 0
        for batch in self.batches(epoch):
            whole = batch if rest is None else self._joined([rest, batch])
            start = 0
            while len(whole.x) - start >= size:
                if given >= skip:
                    yield _rows(whole, start, start + size)
                given, start = given + size, start + size
                if given + size > self.n:
                    return
            rest = _rows(whole, start, len(whole.x), copy=True)  # who gives batches may write over them
        held = 0 if rest is None else len(rest.x)
        raise ValueError(
            f"{self.name} ended epoch {epoch} after {given + held} images, n is {self.n}: lower n, or let it go on"
        )

    def first(self, most: int) -> Split:
        """Return up to `most` images of epoch 0, copied."""
        kept: list[Batch] = []
        count = 0
        for batch in self.batches(0):
            kept.append(_rows(batch, 0, most - count, copy=True))
            count += len(kept[-1].x)
            if count >= most:
                break
        if not count:
            raise ValueError(f"{self.name} gives no images")
        return Split(*self._joined(kept))

    def _joined(self, parts: list[Batch]) -> Batch:
        if len({(part.x.dtype, part.y.dtype, part.weight is None) for part in parts}) > 1:
            raise ValueError(f"{self.name}: all batches must have x, y and weight of the same types")
        weights = [part.weight for part in parts if part.weight is not None]
        return Batch(
            np.concatenate([part.x for part in parts]),
            np.concatenate([part.y for part in parts]),
            np.concatenate(weights) if weights else None,
        )


def _rows(batch: Batch, start: int, stop: int, copy: bool = False) -> Batch:
    take: Callable[[NDArray[Any]], NDArray[Any]] = np.array if copy else np.ascontiguousarray
    weight = None if batch.weight is None else take(batch.weight[start:stop])
    return Batch(take(batch.x[start:stop]), take(batch.y[start:stop]), weight)


def _describe(item: Any) -> str:
    if isinstance(item, tuple | list):
        return f"{len(item)} parts"
    return f"{type(item).__name__} of shape {tuple(item.shape)}" if hasattr(item, "shape") else type(item).__name__


def data_of_batches(
    train: Source, val: Any, shape: tuple[int, ...], outputs: int, n: int, names: tuple[str, ...] | None
) -> Data:
    """Make the data set of `from_batches`; arguments are checked here."""
    shape = tuple(positive_int(side, "shape") for side in shape)
    if len(shape) not in (1, 2, 3):
        raise ValueError(f"shape must be (features,), (time, channels) or (h, w, c), not {shape}")
    if len(shape) == 3 and looks_like_nchw((1, *shape)):
        raise ValueError(f"shape is {shape}, whose first axis looks like the channels (CHW): they come last, (h, w, c)")
    n, outputs = positive_int(n, "n"), positive_int(outputs, "outputs")
    for name, source in (("train", train), ("val", val)):
        if isinstance(source, Iterator):
            raise TypeError(
                f"{name} is an iterator, which one epoch uses up: pass a function of the epoch that returns one, or "
                "something that starts anew, such as a DataLoader"
            )
    stream = Stream(train, n, shape, outputs)
    sample = stream.first(min(n, SAMPLE))
    return Data(
        train=sample,
        val=_validation(val, sample, shape, outputs),
        test=sample.take([]),
        calibration=calibration_images(sample, None, None),
        outputs=outputs,
        names=tuple(str(k) for k in range(outputs)) if names is None else names,
        preprocess=statistics(sample.x) if sample.x.dtype == np.uint8 else None,
        stream=stream,
    )


def _validation(val: Any, sample: Split, shape: tuple[int, ...], outputs: int) -> Split:
    """All images of val in memory; they are used every epoch."""
    if val is None:
        return sample.take([])
    stream = Stream(val, 0, shape, outputs, "val")
    if isinstance(val, Split):
        split = val
    elif isinstance(val, tuple) and len(val) == 2 and not isinstance(val[0], tuple | list):
        split = Split(*stream._checked(val, "val"))
    else:
        split = stream.first(np.iinfo(np.int64).max)
    if split.x.dtype != sample.x.dtype or split.y.dtype != sample.y.dtype:
        raise TypeError(
            f"val holds {split.x.dtype} images and {split.y.dtype} labels, train {sample.x.dtype} and "
            f"{sample.y.dtype}: they must be equal"
        )
    return split
