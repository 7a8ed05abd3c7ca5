"""How a search went and what it found: hypervolume over generations, and points in parallel coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ._front_plot import STYLES, new_axes
from ._importance import by_table
from ._quality import cost_matrix, is_better_high, label_of, value
from ._table import Table, cell
from ._timing import nondominated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ._front import Front


def history(front: Front, ref: ArrayLike | None) -> Table:
    """Hypervolume after each generation; see `Front.history`."""
    from .search import hypervolume

    if not front.generations:
        raise ValueError("this front knows no generations: it is not from a search, or was merged")
    names, rows = front.objectives, []
    corner = None if ref is None else np.asarray(ref, dtype=np.float64)
    if corner is not None and corner.shape != (len(names),):
        raise ValueError(f"ref has shape {corner.shape}; it needs one value for each of {', '.join(names)}")
    best = np.zeros((0, len(names)))
    before = 0
    for generation, count in enumerate(front.generations, 1):
        some = [r for r in by_table(front.evaluated[before:count]) if r.feasible]
        best = np.concatenate([best, cost_matrix(some, names, front.maximize)[0]])
        best, before = best[nondominated(best)], count
        if corner is None and len(best):
            first = cost_matrix([r for r in by_table(front.evaluated[:count]) if r.feasible], names, front.maximize)[0]
            spread = np.ptp(first, axis=0)
            corner = first.max(axis=0) + np.where(spread > 0, 0.1 * spread, np.abs(first).max(axis=0) * 0.1 + 1e-12)
        rows.append((generation, count, 0.0 if corner is None else float(hypervolume(best, corner))))
    if corner is None:
        raise ValueError(f"nothing that was evaluated has {' and '.join(names)} within the constraints")
    at = ", ".join(f"{name} {c:.4g}" for name, c in zip(names, corner, strict=True))
    return Table(("generation", "evaluations", "hypervolume"), rows, f"reference point: {at}")


def plot_history(front: Front, ax: Axes | None) -> Axes:
    """Hypervolume over generations; see `Front.plot_history`."""
    table = history(front, None)
    ax = new_axes(ax)
    best = max(table["hypervolume"]) or 1.0
    colour, marker, _ = STYLES[0]
    ax.plot(
        table["evaluations"], [100 * v / best for v in table["hypervolume"]], color=colour, marker=marker,
        markersize=4, drawstyle="steps-post",
    )  # fmt: skip
    ax.set_xlabel("points evaluated (a mark per generation)")
    ax.set_ylabel("hypervolume (% of the last)")
    ax.set_title(
        f"{', '.join(front.objectives)}: {len(table)} generations", fontsize="small", loc="right", color="0.35"
    )
    ax.grid(True, color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    return ax


def plot_parallel(front: Front, ax: Axes | None, columns: Sequence[str] | None) -> Axes:
    """Points in parallel coordinates; see `Front.plot_parallel`."""
    wanted = [front.quality, *front.objectives, "latency_ms", "energy_mj", "bytes", "macs"]
    if columns is None:
        both = {"error"} if front.quality == "accuracy" else set()
        columns = [
            n for n in dict.fromkeys(wanted) if n not in both and any(value(r, n) is not None for r in front.records)
        ]
    costs, records = cost_matrix(front.records, columns, front.maximize)
    if len(columns) < 2 or not records:
        raise ValueError(f"columns is {list(columns)}; at least two that some point of the front has are needed")
    ax = new_axes(ax)
    low, spread = costs.min(axis=0), np.ptp(costs, axis=0)
    heights = 1 - (costs - low) / np.where(spread > 0, spread, 1.0)
    heights[:, spread == 0] = 0.5
    knee = front.knee() if len(records) > 1 and {front.quality, "latency_ms"} <= set(wanted) else None
    places = np.arange(len(columns))
    shades = np.linspace(0.0, 0.75, len(records))  # the fastest is the darkest
    for record, line, shade in zip(records, heights, shades, strict=True):
        chosen = record == knee
        ax.plot(
            places, line, color=STYLES[1][0] if chosen else str(shade), linewidth=2.4 if chosen else 1.0, marker="o",
            markersize=3, zorder=3 if chosen else 2, linestyle="--" if chosen else "-",
            label=f"knee: {record.label}" if chosen else None,
        )  # fmt: skip
    for i, name in enumerate(columns):
        ax.axvline(i, color="0.6", linewidth=0.8, zorder=1)
        figures = sorted(v for r in records if (v := value(r, name)) is not None)
        ends = figures if is_better_high(name, front.maximize) else figures[::-1]
        scale, unit = (100, " %") if name == "accuracy" else (1, "")
        for y, figure, va in ((0.0, ends[0], "top"), (1.0, ends[-1], "bottom")):
            ax.annotate(
                cell(figure * scale) + unit, (i, y), xytext=(0, -5 if va == "top" else 5), textcoords="offset points",
                ha="center", va=va, fontsize="small",
            )  # fmt: skip
    ax.set_xticks(
        places, [label_of(name, records).replace(" of one image", "").replace(" (%)", "") for name in columns]
    )
    ax.tick_params(axis="x", length=0, pad=14, labelsize="small")
    ax.set_yticks([])
    ax.set_ylim(-0.08, 1.12)
    ax.set_ylabel("better →")
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(False)
    if knee is not None:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), fontsize="small", frameon=False)
    return ax
