"""Repeating an experiment over seeds: means with intervals, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._table import Table

if TYPE_CHECKING:
    import pandas

F64 = NDArray[np.float64]
_LEVEL = 0.95
_SINGLE = "value"  # what a figure is called that comes without a name


@dataclass(frozen=True, eq=False)
class Runs:
    """Figures of an experiment, one value per seed.

    Attributes
    ----------
    seeds : tuple of int
    values : mapping of str to ndarray of float64, shape (seeds,)

    Examples
    --------
    >>> import dynadnn as dn
    >>> runs = dn.repeat(lambda seed: {"accuracy": 0.9 + 0.01 * seed}, seeds=3)
    >>> round(runs.mean["accuracy"], 3), [round(v, 3) for v in runs.interval["accuracy"]]
    (0.91, [0.885, 0.935])
    """

    seeds: tuple[int, ...]
    values: Mapping[str, F64]

    @property
    def mean(self) -> dict[str, float]:
        """Mean over the seeds."""
        return {name: float(row.mean()) for name, row in self.values.items()}

    @property
    def interval(self) -> dict[str, tuple[float, float]]:
        """95 % interval of the mean (Student 1908); infinite for one seed."""
        return {name: mean_interval(row) for name, row in self.values.items()}

    def minus(self, other: Runs) -> Table:
        """Paired differences: what two experiments of the same seeds share (data, order) cancels.

        Parameters
        ----------
        other : Runs
            Of the same seeds.

        Returns
        -------
        Table
            Per figure both have: mean difference, its 95 % interval, and the p-value of a two-sided paired t-test.

        Raises
        ------
        ValueError
            If the seeds differ or no figure is in both.
        """
        if self.seeds != other.seeds:
            raise ValueError(f"pairs need the same seeds, not {self.seeds} and {other.seeds}")
        shared = [name for name in self.values if name in other.values]
        if not shared:
            raise ValueError(f"no figure is in both: {', '.join(self.values)} against {', '.join(other.values)}")
        rows = []
        for name in shared:
            d = self.values[name] - other.values[name]
            rows.append((name, float(d.mean()), *mean_interval(d), paired_p(d)))
        return Table(("figure", "difference", "low", "high", "p"), rows, f"{len(self.seeds)} paired seeds")

    def table(self) -> Table:
        """Means, intervals and extremes."""
        rows = [
            (name, self.mean[name], *self.interval[name], float(row.min()), float(row.max()))
            for name, row in self.values.items()
        ]
        return Table(("figure", "mean", "low", "high", "least", "most"), rows, f"{len(self.seeds)} seeds")

    def to_frame(self) -> pandas.DataFrame:
        """Return a row per figure, as a pandas data frame."""
        return self.table().to_frame()

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def repeat(f: Callable[[int], float | Mapping[str, float]], seeds: int | Sequence[int] = 5) -> Runs:
    """Run an experiment once per seed.

    Parameters
    ----------
    f : callable
        Takes a seed; returns a number, or numbers by name.
    seeds : int or sequence of int, default 5
        How many (0, 1, …), or which.

    Returns
    -------
    Runs

    Raises
    ------
    ValueError
        If there are no seeds, runs name different figures, or a figure is not finite.
    TypeError
        If f returns something else.
    """
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(s) for s in seeds)
    if not chosen:
        raise ValueError("seeds is empty: at least one is needed")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds holds a seed twice: {chosen}")
    rows = [_figures(f(seed), seed) for seed in chosen]
    for seed, row in zip(chosen, rows, strict=True):
        if row.keys() != rows[0].keys():
            raise ValueError(f"seed {seed} gave {sorted(row)}, seed {chosen[0]} gave {sorted(rows[0])}")
    return Runs(chosen, {name: np.array([row[name] for row in rows]) for name in rows[0]})


def _figures(result: Any, seed: int) -> dict[str, float]:
    named = result if isinstance(result, Mapping) else {_SINGLE: result}
    figures = {}
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise TypeError(f"f must return a number or numbers by name, not {type(value).__name__} for {name!r}")
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value} for seed {seed}")
        figures[str(name)] = float(value)
    return figures


# ---- Student's distribution ----


def _within(t: float, freedom: int) -> float:
    """Probability of a value between -t and t."""
    angle = math.atan(t / math.sqrt(freedom))  # the density becomes a power of the cosine, which has no long tail
    x = np.linspace(0, angle, 2001)
    y = np.cos(x) ** (freedom - 1)
    area = float((y[:-1:2] + 4 * y[1::2] + y[2::2]).sum() * (x[1] - x[0]) / 3)
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(math.pi)
    return min(1.0, 2 * math.exp(log_scale) * area)


def _quantile(freedom: int) -> float:
    """Value that 95 % lie within."""
    low, high = 0.0, 1000.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < _LEVEL else (low, middle)
    return (low + high) / 2


def mean_interval(row: F64) -> tuple[float, float]:
    """95 % interval of the mean of independent values."""
    n = len(row)
    if n < 2:
        return -math.inf, math.inf
    half = _quantile(n - 1) * float(row.std(ddof=1)) / math.sqrt(n)
    return float(row.mean()) - half, float(row.mean()) + half


def paired_p(differences: F64) -> float | None:
    """Two-sided p-value of a mean difference of 0; None for one pair."""
    n = len(differences)
    if n < 2:
        return None
    spread = float(differences.std(ddof=1))
    if spread == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return max(0.0, 1 - _within(abs(float(differences.mean())) / spread * math.sqrt(n), n - 1))
