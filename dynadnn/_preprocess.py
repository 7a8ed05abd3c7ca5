"""What happens to a byte before the first layer sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import as_array


@dataclass(frozen=True)
class Preprocess:
    """Maps raw uint8 values to what a network was trained on: ``(x / scale - mean) / std``.

    It is part of the network: uint8 input goes through it, float32 input is taken as already preprocessed.

    Parameters
    ----------
    mean, std : float or sequence of float
        One value for all channels or one per channel, in units of ``x / scale``.
    scale : float, default 255
        Divisor of the raw value.

    Raises
    ------
    ValueError
        If a value is not finite, a standard deviation or the scale is not above zero, or lengths differ.

    Examples
    --------
    >>> Preprocess(mean=0.5, std=0.25)(np.array([[[[0], [255]]]], np.uint8)).ravel().tolist()
    [-2.0, 2.0]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    def __init__(self, mean: ArrayLike, std: ArrayLike, scale: float = 255.0) -> None:
        means = np.atleast_1d(np.asarray(mean, np.float64)).ravel()
        stds = np.atleast_1d(np.asarray(std, np.float64)).ravel()
        if len(means) != len(stds) and 1 not in (len(means), len(stds)):
            raise ValueError(f"mean has {len(means)} values and std {len(stds)}: one per channel each, or one for all")
        length = max(len(means), len(stds))
        means, stds = np.broadcast_to(means, length), np.broadcast_to(stds, length)
        if not np.isfinite(means).all():
            raise ValueError(f"mean must be finite, not {means.tolist()}")
        if not (np.isfinite(stds).all() and (stds > 0).all()):
            raise ValueError(f"std must be finite and above 0, not {stds.tolist()}")
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be finite and above 0, not {scale}")
        object.__setattr__(self, "mean", tuple(float(v) for v in means))
        object.__setattr__(self, "std", tuple(float(v) for v in stds))
        object.__setattr__(self, "scale", float(scale))

    def table(self, channels: int) -> NDArray[np.float32]:
        """Preprocessed value of every byte, computed in double and rounded once.

        Parameters
        ----------
        channels : int
            Channels of the images.

        Returns
        -------
        ndarray of float32, shape (channels, 256)

        Raises
        ------
        ValueError
            If mean and std are given for another number of channels.
        """
        return np.ascontiguousarray(np.broadcast_to(self._rows(channels), (channels, 256)))

    def _rows(self, channels: int) -> NDArray[np.float32]:
        """One row for all channels, or one each."""
        if len(self.mean) not in (1, channels):
            raise ValueError(f"preprocess has mean and std for {len(self.mean)} channels, the images have {channels}")
        mean, std = np.array(self.mean)[:, None], np.array(self.std)[:, None]
        with np.errstate(over="ignore"):
            rows = ((np.arange(256.0) / self.scale - mean) / std).astype(np.float32)
        if not np.isfinite(rows).all():
            raise ValueError(f"preprocess gives values beyond float32: mean {self.mean}, std {self.std}")
        table: NDArray[np.float32] = rows
        return table

    def __call__(self, images: ArrayLike) -> NDArray[np.float32]:
        """Preprocess uint8 images, channels last.

        Parameters
        ----------
        images : array of uint8, shape (..., channels)

        Returns
        -------
        ndarray of float32, same shape
        """
        x = as_array(images, "images")
        if x.dtype != np.uint8:
            raise TypeError(f"images must be uint8, not {x.dtype}: float32 counts as preprocessed already")
        channels = x.shape[-1]
        mapped: NDArray[np.float32] = self.table(channels)[np.arange(channels), x]
        return mapped
