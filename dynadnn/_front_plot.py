"""Plots of fronts: colours told apart in colour-blind vision, shapes and grey levels told apart without any colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import missing_extra
from ._machine import cpu_name
from ._quality import is_better_high, label_of, value
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


def plot_front(front: Front, ax: Axes | None, measured: bool, mark: Record | None) -> Axes:
    """Draw one front; see `Front.plot`."""
    ax = new_axes(ax)
    look = Look(front.quality, measured, front.maximize)
    shown = {r.point for r in front.records}
    others = [r for r in front.evaluated if r.judged and r.point not in shown and not r.name]
    cloud = Look(front.quality, False, front.maximize).coordinates(others)
    if len(cloud):
        ax.scatter(cloud[:, 0], cloud[:, 1], s=9, color="0.72", linewidths=0, label="evaluated by the search", zorder=1)
    named = [r for r in front.evaluated if r.name and r.point not in shown and r.failure is None]
    _points(ax, named, look, "#D55E00", "s", "named points", hollow=True)
    _points(ax, front.records, look, *STYLES[0][:2], "points on the front" if named or others else "operating points")
    _line(ax, front.records, look, STYLES[0][0], "-")
    _tested(ax, [*named, *front.records], look)
    _label_named(ax, [*named, *front.records], look)
    chosen = mark
    if chosen is None and len(front.records) > 1:
        chosen = front.knee()
    xy = look.coordinates([] if chosen is None else [chosen])
    if len(xy):
        figure = f"{xy[0, 1]:.1f} %" if look.quality == "accuracy" else f"{look.quality} {xy[0, 1]:.3g}"
        label = f"{'knee' if mark is None else 'picked'}: {figure} in {xy[0, 0]:.3g} ms"
        ring: dict[str, Any] = {"s": 190, "facecolors": "none", "edgecolors": "black", "linewidths": 1.6, "zorder": 6}
        ax.scatter(xy[:, 0], xy[:, 1], label=label, **ring)
    _references(ax, front, look)
    _axes(ax, [front], look)
    return ax


def plot_fronts(fronts: Mapping[str, Front], ax: Axes | None, measured: bool) -> Axes:
    """Draw several fronts; see `dynadnn.plot_fronts`."""
    if not isinstance(fronts, Mapping):
        raise TypeError(f"fronts must be a dict from names to fronts, not a {type(fronts).__name__}")
    if not fronts:
        raise ValueError("fronts is empty: give a dict from names to fronts")
    qualities = {name: front.quality for name, front in fronts.items()}
    if len(set(qualities.values())) > 1:
        listed = ", ".join(f"{name!r} by {quality}" for name, quality in qualities.items())
        raise ValueError(f"fronts judged by different figures do not go into one plot: {listed}")
    ax = new_axes(ax)
    first = next(iter(fronts.values()))
    look = Look(first.quality, measured, first.maximize)
    for i, (name, front) in enumerate(fronts.items()):
        colour, marker, style = STYLES[i % len(STYLES)]
        _points(ax, front.records, look, colour, marker, name)
        _line(ax, front.records, look, colour, style)
    _axes(ax, list(fronts.values()), look)
    return ax


@dataclass(frozen=True)
class Look:
    """What goes where: the figure upwards, and which latency to the right.

    Parameters
    ----------
    quality : str
        Column or metric; accuracy is drawn in percent.
    measured : bool
        The measured latency where there is one.
    maximize : tuple of str
        Further names of which more is better.
    """

    quality: str
    measured: bool
    maximize: tuple[str, ...] = ()

    @property
    def high(self) -> bool:
        """Whether better is further up."""
        return is_better_high(self.quality, self.maximize)

    def figure(self, record: Record) -> float | None:
        """Return what is drawn upwards."""
        found = value(record, self.quality)
        return None if found is None else found * self.scale

    @property
    def scale(self) -> float:
        """From the value to the axis."""
        return 100.0 if self.quality == "accuracy" else 1.0

    def place(self, record: Record) -> tuple[float, float] | None:
        """Point of a record; None where something is unknown."""
        x, y = record.latency if self.measured else record.latency_ms, self.figure(record)
        return None if x is None or y is None else (x, y)

    def coordinates(self, records: Sequence[Record]) -> NDArray[np.float64]:
        """Points of the records that have one, shape (n, 2)."""
        places = [place for r in records if (place := self.place(r)) is not None]
        return np.array(places, dtype=np.float64).reshape(-1, 2)

    def bars(self, record: Record) -> tuple[float, float, float, float]:
        """Left, right, down and up: percentiles of the latency, interval of the accuracy."""
        x, y = self.place(record) or (0.0, 0.0)
        low, high = (y / self.scale,) * 2
        if self.quality == "accuracy" and record.accuracy_interval is not None:
            low, high = record.accuracy_interval
        left, right = (x, x)
        if self.measured and record.latency_ms_p10 is not None and record.latency_ms_p90 is not None:
            left, right = record.latency_ms_p10, record.latency_ms_p90
        down, up = y - low * self.scale, high * self.scale - y
        return max(0.0, x - left), max(0.0, right - x), max(0.0, down), max(0.0, up)


def _points(
    ax: Axes, records: Sequence[Record], look: Look, colour: str, marker: str, label: str, hollow: bool = False
) -> None:
    known = [r for r in records if look.place(r) is not None]
    if not known:
        return
    xy = look.coordinates(known)
    bars = np.array([look.bars(r) for r in known]).T
    ax.errorbar(
        xy[:, 0], xy[:, 1], xerr=bars[:2], yerr=bars[2:], fmt=marker, color=colour, ecolor=colour, elinewidth=0.8,
        capsize=2, markersize=6, markerfacecolor="white" if hollow else colour, label=label, zorder=3, alpha=0.9,
    )  # fmt: skip


def _tested(ax: Axes, records: Sequence[Record], look: Look) -> None:
    """Crosses where the points are on test data, with intervals."""
    rows = []
    for r in records:
        place = look.place(r)
        test = r.accuracy_test if look.quality == "accuracy" else r.values.get(f"{look.quality}_test")
        if place is None or test is None:
            continue
        low, high = (r.accuracy_test_interval if look.quality == "accuracy" else None) or (test, test)
        rows.append((place[0], test * look.scale, (test - low) * look.scale, (high - test) * look.scale))
    if rows:
        x, y, down, up = np.array(rows).T
        ax.errorbar(
            x, y, yerr=np.maximum([down, up], 0.0), fmt="x", color="#CC79A7", ecolor="#CC79A7", elinewidth=0.8,
            markersize=7, markeredgewidth=1.6, label="on test data", zorder=4,
        )  # fmt: skip


def _line(ax: Axes, records: Sequence[Record], look: Look, colour: str, style: str) -> None:
    xy = look.coordinates(records)
    if len(xy) > 1:
        xy = xy[nondominated(xy * (1, -1 if look.high else 1))]
        xy = xy[np.argsort(xy[:, 0])]
        ax.step(xy[:, 0], xy[:, 1], where="post", color=colour, linestyle=style, linewidth=1.3, zorder=2)


def _label_named(ax: Axes, records: Sequence[Record], look: Look) -> None:
    for r in records:
        xy = look.coordinates([r])
        if r.name and len(xy):
            at = (float(xy[0, 0]), float(xy[0, 1]))
            ax.annotate(_short(r.label), at, xytext=(7, -9), textcoords="offset points", fontsize="small", zorder=5)


def _drawn(front: Front, look: Look) -> list[tuple[str, float, float]]:
    """Name, latency and figure of the references that have what is drawn; the highest first."""
    some = [(r.name, r.latency_ms, r.figure * look.scale) for r in front.references
            if r.metric == look.quality and r.figure is not None]  # fmt: skip
    return sorted(some, key=lambda r: -r[2])


def _references(ax: Axes, front: Front, look: Look) -> None:
    for i, (name, latency, figure) in enumerate(_drawn(front, look)):
        at = (latency, figure)
        marker = REFERENCES[i % len(REFERENCES)]
        ax.scatter([at[0]], [at[1]], marker=marker, s=70, color="#56B4E9", edgecolors="black", linewidths=0.8, zorder=4)
        offset, va = ((0, 8), "bottom") if i % 2 == 0 else ((0, -8), "top")
        ax.annotate(
            _short(name),
            at,
            xytext=offset,
            textcoords="offset points",
            fontsize="small",
            ha="center",
            va=va,
            zorder=5,
        )


def _axes(ax: Axes, fronts: Sequence[Front], look: Look) -> None:
    threads = sorted({r.threads for f in fronts for r in f.records}) or [1]
    cpus = list(dict.fromkeys(f.machine.cpu for f in fronts))
    foreign = any(cpu != cpu_name() for cpu in cpus)
    count = f"{threads[0]} thread{'s' if threads[0] > 1 else ''}" if len(threads) == 1 else f"{threads} threads"
    ax.set_xlabel(f"latency of one image (ms, {count})")
    ax.set_ylabel(label_of(look.quality, [r for f in fronts for r in f.records]))
    text = ", ".join(cpu.split(" (")[0] for cpu in cpus) + (": not measured on this machine" if foreign else "")
    ax.set_title(text, fontsize="small", loc="right", color="0.35")
    ax.grid(True, color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    # Medians decide the range: on a busy machine the bar of one point would squeeze all others together.
    shown = [r.latency or 0.0 for f in fronts for r in [*f.records, *(e for e in f.evaluated if e.name)]]
    shown += [latency for f in fronts for _, latency, _ in _drawn(f, look)]
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
    known = [r for f in fronts for r in [*f.records, *(e for e in f.evaluated if e.name)] if look.place(r) is not None]
    ends = [end for r in known for end in _ends(r, look)] + [y for f in fronts for _, _, y in _drawn(f, look)]
    if ends:
        margin = 0.08 * (max(ends) - min(ends)) or 0.1 * abs(max(ends)) or 1.0
        ax.set_ylim(min(ends) - margin, max(ends) + margin)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower right" if look.high else "upper right", fontsize="small", framealpha=0.9)


def _ends(record: Record, look: Look) -> list[float]:
    """Lowest and highest of what is drawn of a record."""
    y, (_, _, down, up) = look.figure(record) or 0.0, look.bars(record)
    test = (record.accuracy_test_interval or (record.accuracy_test,)) if look.quality == "accuracy" else ()
    tested = [*test, record.values.get(f"{look.quality}_test")]
    return [y - down, y + up, *(t * look.scale for t in tested if t is not None)]


def _short(text: str) -> str:
    return text if len(text) <= 32 else text[:15] + "…" + text[-15:]
