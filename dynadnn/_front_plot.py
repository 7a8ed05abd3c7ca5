"""Plots of fronts: colours told apart in colour-blind vision, shapes and grey levels told apart without any colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arguments import missing_extra
from ._machine import cpu_name
from ._timing import nondominated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ._front import Front
    from ._record import Record

# Okabe and Ito's palette in an order of falling contrast to white, each with a marker of its own.
STYLES = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#000000", "^", "-."),
    ("#009E73", "v", ":"),
    ("#CC79A7", "D", "-"),
)
WIDE = 8.0  # slowest over fastest from which on the latency axis is logarithmic
REFERENCES = ("P", "X", "d", "<", ">", "p")


def new_axes(ax: Axes | None) -> Axes:
    """Return the axes given, or those of a new figure that belongs to the current backend."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise missing_extra("matplotlib", "plot") from error
    made: Axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")[1]
    return made


def _judged(record: Record) -> bool:
    return record.failure is None and record.stopped is None


def plot_front(front: Front, ax: Axes | None, measured: bool, mark: Record | None) -> Axes:
    """Draw one front; see `Front.plot`."""
    ax = new_axes(ax)
    shown = {r.point for r in front.records}
    others = [r for r in front.evaluated if _judged(r) and r.point not in shown and not r.name]
    cloud = _coordinates(others, False)
    if len(cloud):
        ax.scatter(cloud[:, 0], cloud[:, 1], s=9, color="0.72", linewidths=0, label="evaluated by the search", zorder=1)
    named = [r for r in front.evaluated if r.name and r.point not in shown and r.failure is None]
    _points(ax, named, measured, "#D55E00", "s", "named points", hollow=True)
    _points(
        ax, front.records, measured, *STYLES[0][:2], "points on the front" if named or others else "operating points"
    )
    _line(ax, front.records, measured, STYLES[0][0], "-")
    _label_named(ax, [*named, *front.records], measured)
    chosen = mark
    if chosen is None and len(front.records) > 1:
        chosen = front.knee()
    if chosen is not None:
        xy = _coordinates([chosen], measured)
        if len(xy):
            label = f"{'knee' if mark is None else 'picked'}: {xy[0, 1]:.1f} % in {xy[0, 0]:.3g} ms"
            ax.scatter(
                xy[:, 0],
                xy[:, 1],
                s=190,
                facecolors="none",
                edgecolors="black",
                linewidths=1.6,
                zorder=6,
                label=label,
            )
    _references(ax, front)
    _axes(ax, [front])
    return ax


def plot_fronts(fronts: Mapping[str, Front], ax: Axes | None, measured: bool) -> Axes:
    """Draw several fronts; see `dynadnn.plot_fronts`."""
    ax = new_axes(ax)
    for i, (name, front) in enumerate(fronts.items()):
        colour, marker, style = STYLES[i % len(STYLES)]
        _points(ax, front.records, measured, colour, marker, name)
        _line(ax, front.records, measured, colour, style)
    _axes(ax, list(fronts.values()))
    return ax


def _coordinates(records: Sequence[Record], measured: bool) -> np.ndarray[Any, np.dtype[np.float64]]:
    pairs = [(r.latency if measured else r.latency_ms, r.accuracy) for r in records]
    return np.array([(x, y * 100) for x, y in pairs if x is not None and y is not None]).reshape(-1, 2)


def _points(
    ax: Axes, records: Sequence[Record], measured: bool, colour: str, marker: str, label: str, hollow: bool = False
) -> None:
    known = [r for r in records if (r.latency if measured else r.latency_ms) is not None and r.accuracy is not None]
    if not known:
        return
    xy = _coordinates(known, measured)
    down_up: list[list[float]] = [[], []]
    left_right: list[list[float]] = [[], []]
    for r, (x, y) in zip(known, xy, strict=True):
        low, high = r.accuracy_interval or (y / 100, y / 100)
        down_up[0].append(max(0.0, y - low * 100))
        down_up[1].append(max(0.0, high * 100 - y))
        has = measured and r.latency_ms_p10 is not None and r.latency_ms_p90 is not None
        left_right[0].append(max(0.0, x - (r.latency_ms_p10 or 0.0)) if has else 0.0)
        left_right[1].append(max(0.0, (r.latency_ms_p90 or 0.0) - x) if has else 0.0)
    ax.errorbar(
        xy[:, 0], xy[:, 1], yerr=down_up, xerr=left_right, fmt=marker, color=colour, ecolor=colour, elinewidth=0.8,
        capsize=2, markersize=6, markerfacecolor="white" if hollow else colour, label=label, zorder=3, alpha=0.9,
    )  # fmt: skip


def _line(ax: Axes, records: Sequence[Record], measured: bool, colour: str, style: str) -> None:
    xy = _coordinates(records, measured)
    if len(xy) > 1:
        xy = xy[nondominated(xy * (1, -1))]
        xy = xy[np.argsort(xy[:, 0])]
        ax.step(xy[:, 0], xy[:, 1], where="post", color=colour, linestyle=style, linewidth=1.3, zorder=2)


def _label_named(ax: Axes, records: Sequence[Record], measured: bool) -> None:
    for r in records:
        xy = _coordinates([r], measured)
        if r.name and len(xy):
            at = (float(xy[0, 0]), float(xy[0, 1]))
            ax.annotate(_short(r.label), at, xytext=(7, -9), textcoords="offset points", fontsize="small", zorder=5)


def _references(ax: Axes, front: Front) -> None:
    order = sorted(front.references, key=lambda r: -r.accuracy)
    for i, reference in enumerate(order):
        at = (reference.latency_ms, reference.accuracy * 100)
        marker = REFERENCES[i % len(REFERENCES)]
        ax.scatter([at[0]], [at[1]], marker=marker, s=70, color="#56B4E9", edgecolors="black", linewidths=0.8, zorder=4)
        offset, va = ((0, 8), "bottom") if i % 2 == 0 else ((0, -8), "top")
        ax.annotate(
            reference.name,
            at,
            xytext=offset,
            textcoords="offset points",
            fontsize="small",
            ha="center",
            va=va,
            zorder=5,
        )


def _axes(ax: Axes, fronts: Sequence[Front]) -> None:
    threads = sorted({r.threads for f in fronts for r in f.records}) or [1]
    cpus = list(dict.fromkeys(f.machine.cpu for f in fronts))
    foreign = any(cpu != cpu_name() for cpu in cpus)
    count = f"{threads[0]} thread{'s' if threads[0] > 1 else ''}" if len(threads) == 1 else f"{threads} threads"
    ax.set_xlabel(f"latency of one image (ms, {count})")
    ax.set_ylabel("accuracy (%)")
    text = ", ".join(cpu.split(" (")[0] for cpu in cpus) + (": not measured on this machine" if foreign else "")
    ax.set_title(text, fontsize="small", loc="right", color="0.35")
    ax.grid(True, color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    # Medians decide the range: on a busy machine the bar of one point would squeeze all others together.
    shown = [r.latency or 0.0 for f in fronts for r in [*f.records, *(e for e in f.evaluated if e.name)]]
    shown += [r.latency_ms for f in fronts for r in f.references]
    if shown and max(shown) > 0:
        span, ratio = max(shown) - min(shown), max(shown) / max(min(shown), 1e-9)
        if ratio > WIDE:
            ax.set_xscale("log")
            ax.set_xlim(min(shown) / ratio**0.1, max(shown) * ratio**0.1)
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else "")
        else:
            ax.set_xlim(max(0.0, min(shown) - 0.12 * span), max(shown) + (0.12 * span or 0.5 * max(shown)))
    # Nor do points that the search threw away decide it.
    known = [r for f in fronts for r in [*f.records, *(e for e in f.evaluated if e.name)] if r.accuracy is not None]
    ends = [100 * v for r in known for v in (r.accuracy_interval or (r.accuracy,)) if v is not None]
    ends += [100 * r.accuracy for f in fronts for r in f.references]
    if ends:
        margin = 0.08 * (max(ends) - min(ends)) or 1.0
        ax.set_ylim(min(ends) - margin, max(ends) + margin)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower right", fontsize="small", framealpha=0.9)


def _short(text: str) -> str:
    return text if len(text) <= 32 else text[:15] + "…" + text[-15:]
