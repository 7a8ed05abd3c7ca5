"""Statistics – how sure an accuracy is, and the difference of two on the same images."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ._repeat import mean_interval

Z95 = 1.959963984540054


class Difference(NamedTuple):
    """Difference of two accuracies, or mean squared errors, on the same images.

    Attributes
    ----------
    mean : float
        First minus second; of accuracies a fraction.
    low, high : float
        95 % interval.
    n : int
        Images.
    of : str
        ``"accuracy"`` or ``"squared error"``.
    """

    mean: float
    low: float
    high: float
    n: int
    of: str = "accuracy"

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        if self.of != "accuracy":
            return f"{self.mean:+.4g} (95 % interval {self.low:+.4g} to {self.high:+.4g}, n = {self.n})"
        low, high = self.low * 100, self.high * 100
        return f"{self.mean * 100:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}, n = {self.n})"


def wilson(correct: float, n: int) -> tuple[float, float]:
    """95 % interval of a fraction (Wilson 1927).

    Parameters
    ----------
    correct : float
        Fraction found, 0 to 1.
    n : int
        Of how many.

    Examples
    --------
    >>> low, high = wilson(0.9, 100)
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)
    """
    if n < 1:
        return 0.0, 1.0
    z2 = Z95 * Z95
    centre = (correct + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(correct * (1 - correct) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(a: ArrayLike, b: ArrayLike) -> Difference:
    """Difference of two accuracies from per-image results, with the interval of Bonett and Price (2012).

    Only images that one gets right and the other wrong say anything, so this is much narrower than the difference of
    two separate intervals.

    Parameters
    ----------
    a, b : array of bool, shape (n,)
        Whether each image was classified correctly.

    Raises
    ------
    ValueError
        If the shapes differ or there is nothing to compare.

    Examples
    --------
    >>> paired_difference([1, 1, 1, 0], [1, 0, 0, 0]).mean
    0.5
    """
    first, second = (np.asarray(v, dtype=bool) for v in (a, b))
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise ValueError(f"two rows of the same images are needed, not shapes {first.shape} and {second.shape}")
    n = int(first.size)
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    p, q = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return Difference((only_a - only_b) / n, max(-1.0, p - q - half), min(1.0, p - q + half), n)


def correct(net: Any, split: Any, point: Any = None) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which images of a split a network gets right at a point (all labels, where there are several), shape (n,)."""
    right = np.asarray(net.predict(split.x, point) == split.y)
    return np.asarray(right if right.ndim == 1 else right.all(axis=1), dtype=bool)


def squared_errors(net: Any, split: Any, point: Any = None) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Squared error of each image, its mean over the targets, shape (n,)."""
    errors = np.asarray(net(split.x, point), dtype=np.float64) - np.asarray(split.y)
    return np.asarray(np.square(errors).mean(axis=1))


def paired_errors(a: ArrayLike, b: ArrayLike) -> Difference:
    """Mean difference of two rows of squared errors of the same images, with the interval of the paired t-test."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    low, high = mean_interval(difference)
    return Difference(float(difference.mean()), low, high, len(difference), "squared error")
