"""Comparing fronts: how much each dominates, what each misses of the other, and what each offers at one latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._front import Front
from ._quality import cost_matrix, is_better_high
from ._repeat import mean_interval
from ._table import Table

if TYPE_CHECKING:
    from ._repeat import F64

Costs = NDArray[np.float64]


def compare_fronts(a: Front | Sequence[Front], b: Front | Sequence[Front], ref: ArrayLike | None = None) -> Table:
    """Compare two fronts, or two ways to search over several seeds, in error and latency.

    Without accuracies, fronts are compared in what they are judged by (`Front.quality`).

    Parameters
    ----------
    a, b : Front or sequence of Front
        With latencies of the same CPU; of several seeds, one front per seed in the same order.
    ref : array_like, shape (2,), optional
        Worst error (fraction) and latency (ms) that count; the worst of all fronts otherwise, 10 % further out.

    Returns
    -------
    Table
        Hypervolume (more is better), number of points, IGD+ to the best of all fronts (less is better), additive ε (how
        much worse than some point of the other front the nearest is, at most; less is better), share of the points that
        the other front beats, and the best quality within three latencies, for both. IGD+ and ε are in units of the
        range that all fronts have together. Of several seeds the means, and the paired difference a - b with its 95 %
        interval (Student 1908).

    Raises
    ------
    ValueError
        If the latencies are of different CPUs, a front is empty, the fronts are judged by different figures, or a and b
        have different numbers of seeds.

    References
    ----------
    Zitzler, Thiele, Laumanns, Fonseca, da Fonseca: Performance assessment of multiobjective optimizers. IEEE
    Transactions on Evolutionary Computation 7(2), 2003 (ε, coverage). Ishibuchi et al., EMO 2015 (IGD+).

    Examples
    --------
    >>> import dynadnn as dn
    >>> data = dn.datasets.shapes(200, rng=0)
    >>> net = dn.nets.mlp(data, points=(0.25, 0.5, 1.0), rng=0)
    >>> net.recalibrate(data.calibration.x)
    >>> wide, narrow = (dn.measure(net, data.val, points=p) for p in ([0.5, 1.0], [0.25, 0.5]))
    >>> dn.compare_fronts(wide, narrow)["measure"][:2]
    ['hypervolume', 'points']
    """
    sides = [[s] if isinstance(s, Front) else list(s) for s in (a, b)]
    if len(sides[0]) != len(sides[1]) or not sides[0]:
        raise ValueError(f"a has {len(sides[0])} fronts and b {len(sides[1])}: one per seed is needed, the same seeds")
    quality, high = _common(sides)
    costs = [[_costs(name, front, quality) for front in side] for name, side in zip("ab", sides, strict=True)]
    both = np.concatenate([c for side in costs for c in side])
    worst = both.max(axis=0) + 0.1 * np.ptp(both, axis=0) if ref is None else np.array(ref, dtype=np.float64)
    if ref is not None and high and quality != "accuracy":
        worst[0] = -worst[0]
    limits = np.quantile(both[:, 1], (0.25, 0.5, 0.75))
    measures = _measures(both, worst, [float(v) for v in limits], quality, high)
    figures = [(name, [(f(x, y), f(y, x)) for x, y in zip(*costs, strict=True)]) for name, f in measures]
    unit = "" if quality != "accuracy" else "error "
    title = f"reference point: {unit or quality + ' '}{abs(worst[0]) if high else worst[0]:.3g}, {worst[1]:.3g} ms"
    if isinstance(a, Front) and isinstance(b, Front):
        return Table(("measure", "a", "b"), [[name, *pairs[0]] for name, pairs in figures], title)
    columns = ("measure", "a", "b", "a - b", "low", "high")
    return Table(columns, [_over_seeds(name, pairs) for name, pairs in figures], f"{len(sides[0])} seeds, {title}")


def _common(sides: Sequence[Sequence[Front]]) -> tuple[str, bool]:
    """Check that all can be compared: what they are judged by, and whether more of it is better."""
    fronts = [f for side in sides for f in side]
    first = fronts[0]
    for front in fronts:
        if front.machine.cpu != first.machine.cpu:
            raise ValueError(
                f"latencies of two CPUs cannot be compared: {first.machine.cpu!r} and {front.machine.cpu!r}"
            )
    for name, side in zip("ab", sides, strict=True):
        for front in side:
            if not len(_costs(name, front, front.quality)) or front.quality != first.quality:
                raise ValueError(f"fronts are judged by different figures: {first.quality} and {front.quality}")
    return first.quality, is_better_high(first.quality, first.maximize)


def _costs(name: str, front: Front, quality: str) -> Costs:
    costs = cost_matrix(front.records, (quality, "latency_ms"), front.maximize)[0]
    if not len(costs):
        raise ValueError(f"front {name} has no point with {quality} and latency")
    return costs


def _measures(
    both: Costs, worst: Costs, limits: Sequence[float], quality: str, high: bool
) -> list[tuple[str, Callable[[Costs, Costs], Any]]]:
    """Measures by name: functions of a front's costs and the other's."""
    from .search import hypervolume, igd_plus, nondominated_rank

    low, spread = both.min(axis=0), np.ptp(both, axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    best = (both[nondominated_rank(both) == 0] - low) / spread

    def within(limit: float) -> Callable[[Costs, Costs], float | None]:
        def figure(mine: Costs, _: Costs) -> float | None:
            some = mine[mine[:, 1] <= limit, 0]
            if not len(some):
                return None
            return float(1.0 - some.min() if quality == "accuracy" else -some.min() if high else some.min())

        return figure

    return [
        ("hypervolume", lambda mine, _: float(hypervolume(mine, worst))),
        ("points", lambda mine, _: len(mine)),
        ("IGD+", lambda mine, _: float(igd_plus((mine - low) / spread, best))),
        ("ε", lambda mine, other: _epsilon((mine - low) / spread, (other - low) / spread)),
        ("share beaten by the other", _beaten),
        *((f"{quality} within {limit:.3g} ms", within(limit)) for limit in limits),
    ]


def _epsilon(mine: Costs, others: Costs) -> float:
    """Least shift of all my points that makes each of the others' weakly dominated."""
    return float((mine[:, None, :] - others[None, :, :]).max(axis=2).min(axis=0).max())


def _beaten(mine: Costs, others: Costs) -> float:
    no_worse = (others[:, None, :] <= mine[None, :, :]).all(axis=2)
    better = (others[:, None, :] < mine[None, :, :]).any(axis=2)
    return float((no_worse & better).any(axis=0).mean())


def _over_seeds(name: str, pairs: Sequence[tuple[Any, Any]]) -> list[Any]:
    """Means and paired difference; empty where a seed has no figure."""
    if any(v is None for pair in pairs for v in pair):
        return [name, None, None, None, None, None]
    rows: F64 = np.array(pairs, dtype=np.float64)
    difference = rows[:, 0] - rows[:, 1]
    low, high = mean_interval(difference)
    return [name, *(float(v) for v in rows.mean(axis=0)), float(difference.mean()), low, high]
