"""Comparing fronts: how much each dominates, and what each offers at the same latency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._table import Table

if TYPE_CHECKING:
    from ._front import Front


def compare_fronts(a: Front, b: Front, ref: ArrayLike | None = None) -> Table:
    """Compare two fronts in error and latency.

    Parameters
    ----------
    a, b : Front
        With latencies of the same CPU.
    ref : array_like, shape (2,), optional
        Worst error (fraction) and latency (ms) that count; the worst of both fronts otherwise, 10 % further out.

    Returns
    -------
    Table
        Hypervolume, number of points, share of the points that the other front beats, and the best accuracy within
        three latencies, for both.

    Raises
    ------
    ValueError
        If the latencies are of different CPUs or a front is empty.
    """
    from .search import hypervolume

    if a.machine.cpu != b.machine.cpu:
        raise ValueError(f"latencies of two CPUs cannot be compared: {a.machine.cpu!r} and {b.machine.cpu!r}")
    costs = []
    for name, front in (("a", a), ("b", b)):
        known = [r for r in front.records if r.failure is None and r.error is not None and r.latency is not None]
        if not known:
            raise ValueError(f"front {name} has no point with accuracy and latency")
        costs.append(np.array([(r.error, r.latency) for r in known], dtype=np.float64))
    both = np.concatenate(costs)
    worst = both.max(axis=0) + 0.1 * np.ptp(both, axis=0) if ref is None else np.asarray(ref, dtype=np.float64)
    rows: list[list[Any]] = [
        ["hypervolume", *(float(hypervolume(c, worst)) for c in costs)],
        ["points", *(len(c) for c in costs)],
        ["share beaten by the other", _beaten(costs[0], costs[1]), _beaten(costs[1], costs[0])],
    ]
    for limit in np.quantile(both[:, 1], (0.25, 0.5, 0.75)):
        best = [1.0 - c[c[:, 1] <= limit, 0].min() if (c[:, 1] <= limit).any() else None for c in costs]
        rows.append([f"accuracy within {limit:.3g} ms", *(None if v is None else float(v) for v in best)])
    return Table(("measure", "a", "b"), rows, f"reference point: error {worst[0]:.3g}, {worst[1]:.3g} ms")


def _beaten(mine: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    no_worse = (others[:, None, :] <= mine[None, :, :]).all(axis=2)
    better = (others[:, None, :] < mine[None, :, :]).any(axis=2)
    return float((no_worse & better).any(axis=0).mean())
