"""Summaries – the table of a front that is made for reading: intervals in brackets, units in the headings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._quality import label_of, value
from ._record import Record
from ._table import Table, cell


def summary(records: Sequence[Record], quality: str, title: str) -> Table:
    """Table of records; see `Front.summary`."""
    columns = [heading(quality, records), "on test", "latency ms [p10 p90]", "bytes", "MACs", "energy mJ"]
    if quality == "accuracy":
        columns[1] = "on test %"
    rows = [row(r, quality) for r in records]
    keep = [0, *(i for i in range(1, 7) if i not in (2, 6) or any(r[i] for r in rows))]
    names = ["point", *columns]
    return Table([names[i] for i in keep], [[r[i] for i in keep] for r in rows], title)


def row(r: Record, quality: str = "accuracy") -> list[Any]:
    """Cells of a record: label, quality, on test, latency, bytes, MACs, energy."""
    latency = "" if r.latency is None else f"{r.latency:.4f}"
    if r.latency_ms_p10 is not None and r.latency_ms_p90 is not None:
        latency += f" [{r.latency_ms_p10:.4f} {r.latency_ms_p90:.4f}]"
    if quality == "accuracy":
        judged = percent(r.accuracy, r.accuracy_interval)
        test = percent(r.accuracy_test, r.accuracy_test_interval)
    else:
        judged = cell(value(r, quality))
        test = cell(next((r.values[n] for n in (f"{quality}_test", "loss_test") if n in r.values), None))
    return [r.label, judged, test, latency, r.bytes, r.macs, energy(r)]


def energy(r: Record) -> str:
    """Energy with its error bar and where it is from; empty where unknown."""
    if r.energy_mj is None:
        return ""
    bar = "" if r.energy_mj_error is None else f" ± {r.energy_mj_error:.2g}"
    return f"{r.energy_mj:.4g}{bar} ({r.energy_label})"


def percent(figure: float | None, interval: tuple[float, float] | None) -> str:
    """Fraction as a percentage, with its interval in brackets."""
    if figure is None:
        return ""
    text = f"{figure * 100:.1f}"
    return text if interval is None else text + " [{:.1f} {:.1f}]".format(*(v * 100 for v in interval))


def heading(quality: str, records: Sequence[Record]) -> str:
    """Heading of the column of qualities."""
    return "accuracy % [95 %]" if quality == "accuracy" else label_of(quality, records)
