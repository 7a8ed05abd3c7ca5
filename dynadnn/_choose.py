"""Choosing – one point of many within limits, or the knee of their curve."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ._errors import PointError
from ._quality import METRICS, cost_matrix, cost_of, is_better_high, value
from ._record import NUMBERS, Record
from ._timing import nondominated


def pick(records: Sequence[Record], quality: str, limits: Mapping[str, float], maximize: Collection[str]) -> Record:
    """Choose a record within limits; see `Front.pick`.

    Parameters
    ----------
    records : sequence of Record
    quality : str
        What they are judged by.
    limits : mapping of str to float
        At most this, or at least this where more is better.
    maximize : collection of str
        Further names of which more is better.
    """
    names = [*NUMBERS, *dict.fromkeys(name for r in records for name in r.values)]
    for name in limits:
        if name not in names:
            raise TypeError(f"pick has no limit {name!r}; this front has {', '.join(names)}")
    high = {name: is_better_high(name, maximize) for name in limits}
    known = [r for r in records if r.failure is None and value(r, quality) is not None]
    usable = [r for r in known if all(value(r, name) is not None for name in limits)]
    if not usable:
        lacking = [name for name in limits if not any(value(r, name) is not None for r in known)]
        raise PointError(f"no point of this front has a known {' and '.join(lacking) or quality}")

    def excess(record: Record, name: str) -> float:
        """How far a figure is beyond its limit, relative to the limit."""
        beyond = number(value(record, name)) - limits[name]
        return (-beyond if high[name] else beyond) / max(abs(limits[name]), 1e-12)

    missed = [max((excess(r, name) for name in limits), default=0.0) for r in usable]
    within = [r for r, beyond in zip(usable, missed, strict=True) if beyond <= 0]
    if not within:
        nearest = usable[int(np.argmin(missed))]
        have = ", ".join(f"{name} {value(nearest, name):.4g}" for name in limits)
        want = " and ".join(f"{name} {'>=' if high[name] else '<='} {limit:g}" for name, limit in limits.items())
        raise PointError(f"none of {len(usable)} points has {want}; the nearest is {nearest.label} with {have}")
    best_first = [(number(cost_of(r, quality, maximize)), number(r.latency)) for r in within]
    if limits and all(name in METRICS or name == quality for name in limits):
        best_first = [(latency, worst) for worst, latency in best_first]
    return min(zip(best_first, within, strict=True), key=lambda item: item[0])[1]


def knee(records: Sequence[Record], quality: str, maximize: Collection[str]) -> Record:
    """Choose the record furthest from the line between the ends of the curve; see `Front.knee`."""
    costs, known = cost_matrix(records, (quality, "latency_ms"), maximize)
    mask = nondominated(costs)
    if not mask.any():
        raise PointError(f"this front has no point with {quality} and latency")
    chosen = [r for r, m in zip(known, mask, strict=True) if m]
    costs = costs[mask]
    spread = np.ptp(costs, axis=0)
    scaled = (costs - costs.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    gain = 1.0 - scaled.sum(axis=1)  # distance below the line from (0, 1) to (1, 0), times sqrt(2)
    return chosen[int(np.lexsort((costs[:, 0], np.round(-gain, 9)))[0])]


def number(figure: float | None) -> float:
    """Infinity for an unknown figure, so that it is never chosen first."""
    return float("inf") if figure is None else float(figure)
