"""How far a device's latencies are from what is measured now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._energy import MEASURED
from ._identity import point_document, structure_hash
from ._latency_model import PREDICTED
from ._metrics import mean_ranks
from ._profile_device import measure_unseen
from ._table import Table

if TYPE_CHECKING:
    from ._device import Device
    from ._network import Network

COLUMNS = ("point", "threads", "label", "latency_ms", "measured_ms", "relative_error")


def check_device(device: Device, net: Network, n: int, rounds: int, seed: int) -> Table:
    """Measure unseen sub-nets where they are predicted, else kept points again; see `Device.check`.

    Parameters
    ----------
    device : Device
        Of this CPU.
    net : Network
    n, rounds, seed : int
    """
    network = structure_hash(net)
    predicted = {threads for name, threads in device._predictions.profiles if name == network}
    counts = predicted | {row.threads for row in device._table.values() if row.network == network}
    out: list[tuple[Any, ...]] = []
    for threads in sorted(counts):
        if device._predicts(net, network, threads):
            out += _predicted(device, net, threads, n, rounds, seed)
        else:
            out += _measured(device, net, threads, n)
    return Table(COLUMNS, out, error_summary([row[3] for row in out], [row[4] for row in out]))


def _predicted(device: Device, net: Network, threads: int, n: int, rounds: int, seed: int) -> list[tuple[Any, ...]]:
    network = structure_hash(net)
    known = [r.point.subnet() for r in device._table.values() if (r.network, r.threads) == (network, threads)]
    profile = device._predictions.profiles[network, threads]
    subnets, ratios = measure_unseen(net, profile, known, n, rounds, seed)
    measured = (ratios * device.latency(net, None, threads)).tolist()
    rows = zip(subnets, device.latencies(net, subnets, threads), measured, strict=True)
    return [(point_document(s).label, threads, PREDICTED, ms, m, ms / m - 1) for s, ms, m in rows]


def _measured(device: Device, net: Network, threads: int, n: int) -> list[tuple[Any, ...]]:
    network = structure_hash(net)
    rows = [row for row in device._table.values() if (row.network, row.threads) == (network, threads)]
    rows = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int))] if rows else []
    timings = device._measure(net, [row.point.subnet() for row in rows], threads)
    return [
        (r.point.label, threads, MEASURED, r.latency_ms, t.median_ms, r.latency_ms / t.median_ms - 1)
        for r, t in zip(rows, timings, strict=True)
    ]


def error_summary(predicted: Sequence[float], measured: Sequence[float]) -> str:
    """Say in one line how far figures are from measured ones.

    Parameters
    ----------
    predicted, measured : sequence of float
    """
    if not len(measured):
        return "nothing to check"
    found = errors(predicted, measured)
    text = f"{len(measured)} sub-nets: median error {found['median']:.1%}, 95 % below {found['p95']:.1%}"
    return text if found["spearman"] is None else f"{text}, rank correlation {found['spearman']:.4f}"


def errors(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, float | None]:
    """Median and 95th percentile of absolute relative errors, and Spearman's rank correlation (None below 3 figures).

    Parameters
    ----------
    predicted, measured : sequence of float

    Examples
    --------
    >>> errors([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    {'median': 0.0, 'p95': 0.225, 'spearman': 1.0}
    """
    p, m = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    wrong = np.abs(p / m - 1)
    ranks = [mean_ranks(v) for v in (p, m)]
    varies = len(m) >= 3 and all(np.ptp(r) > 0 for r in ranks)
    rho = round(float(np.ravel(np.corrcoef(np.stack(ranks)))[1]), 6) if varies else None
    median, p95 = (round(float(v), 6) for v in np.quantile(wrong, (0.5, 0.95)))
    return {"median": median, "p95": p95, "spearman": rho}
