"""Quality – what the points of a front are judged by beside their cost: accuracy, or the objective of a regression."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ._record import NUMBERS, Record

COSTS = ("latency_ms", "energy_mj", "bytes", "macs", "threads")
MORE_IS_BETTER = frozenset(
    ("accuracy", "label_accuracy", "balanced_accuracy", "top5", "f1", "f1_macro", "f1_micro", "auroc")
)
METRICS = MORE_IS_BETTER | {"error", "loss", "mse", "rmse", "mae", "calibration_error"}


def value(record: Record, name: str) -> float | None:
    """Value of a column or metric, None where unknown; the measured latency counts where there is one."""
    if name == "latency_ms":
        return record.latency
    if name in NUMBERS:
        found: float | None = getattr(record, name)
        return found
    return record.values.get(name)


def quality_of(records: Iterable[Record], objectives: Sequence[str]) -> str:
    """Name of what records are judged by beside their cost.

    Parameters
    ----------
    records : iterable of Record
    objectives : sequence of str
        What was minimised.

    Returns
    -------
    str
        ``"accuracy"`` where any record has one; else the first objective that is no cost and that any record has;
        else ``"error"`` or ``"loss"``.
    """
    known = [r for r in records if r.judged]
    names = ("accuracy", *(name for name in objectives if name not in COSTS), "error", "loss")
    return next((name for name in names if any(value(r, name) is not None for r in known)), "accuracy")


def cost_of(record: Record, name: str, maximize: Collection[str] = ()) -> float | None:
    """Value to minimise: 1 - accuracy, the negative of what is better when larger, else the value itself.

    Parameters
    ----------
    record : Record
    name : str
        Column or metric.
    maximize : collection of str
        Further names of which more is better.
    """
    found = value(record, name)
    if found is None:
        return None
    if name == "accuracy":
        return 1.0 - found if record.error is None else record.error
    return -found if is_better_high(name, maximize) else float(found)


def is_better_high(name: str, maximize: Collection[str] = ()) -> bool:
    """Whether more of it is better."""
    return name in MORE_IS_BETTER or name in maximize


def cost_matrix(
    records: Iterable[Record], names: Sequence[str], maximize: Collection[str] = ()
) -> tuple[NDArray[np.float64], list[Record]]:
    """Values to minimise, shape (n, names), of those records that have all of them, and these records."""
    rows, kept = [], []
    for record in records:
        row = [cost_of(record, name, maximize) for name in names]
        if record.judged and None not in row:
            rows.append(row)
            kept.append(record)
    return np.array(rows, dtype=np.float64).reshape(-1, len(names)), kept


def label_of(name: str, records: Iterable[Record]) -> str:
    """Name for an axis, with its unit."""
    units = {
        "accuracy": "accuracy (%)",
        "latency_ms": "latency of one image (ms)",
        "energy_mj": "energy of one image (mJ)",
        "bytes": "weights read (bytes)",
        "macs": "multiply-accumulates of one image",
    }
    if name == "error" and (some := [r for r in records if r.error is not None]):
        if all(r.accuracy is None and r.error == r.loss for r in some):
            return "mean squared error"
        if all(r.accuracy is not None for r in some):
            return "error (fraction)"
    return units.get(name, name)
