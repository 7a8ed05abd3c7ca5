"""Measuring – accuracy and latency of given points, timed in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from ._arguments import positive_int
from ._device import engine_calls
from ._metrics import evaluate_outputs
from ._record import Record, key
from ._timing import time_calls

if TYPE_CHECKING:
    from ._data import Split
    from ._front import Front
    from ._network import Network


def measure(nets: Any, split: Split, *, points: Sequence[Any] | None = None, threads: int = 1) -> Front:
    """Evaluate and time named points without a search.

    Parameters
    ----------
    nets : Network or dict of Network
        One network, or several under the names that plots show.
    split : Split
        Labelled images for the accuracy.
    points : sequence of points, optional
        Which; None is all named points of each network.
    threads : int
        Threads of the engines.

    Returns
    -------
    Front
        All these points, timed in turns.

    Examples
    --------
    >>> import dynadnn as dn
    >>> data = dn.datasets.shapes(200, rng=0)
    >>> net = dn.nets.mlp(data, points=(0.5, 1.0), rng=0)
    >>> net.recalibrate(data.calibration.x)
    >>> [record.name for record in dn.measure(net, data.val).records]
    ['0.5', '1.0']
    """
    from ._front import Front

    threads = positive_int(threads, "threads")
    networks = as_networks(nets)
    if not networks:
        raise ValueError("nets is empty: give a Network or a dict of them")
    records = []
    for model, net in networks.items():
        names: dict[Any, str] = {}
        for name, subnet in net.points.items():
            names[subnet] = f"{names[subnet]} = {name}" if subnet in names else name
        wanted = names if points is None else dict.fromkeys(net._find(point) for point in points)
        for subnet in wanted:
            fields: dict[str, Any] = {"name": names.get(subnet), "model": model or None, "threads": threads}
            records.append(figures(net, subnet, split, **fields)[0])
    timed = measure_records(networks, records)
    done = [msgspec.structs.replace(r, latency_ms=r.latency_ms_measured) for r in timed.values()]
    return Front(networks, done)


def figures(
    net: Network, subnet: Any, split: Split, metrics: Sequence[str] = (), outputs: Any = None, **fields: Any
) -> tuple[Record, dict[str, Any]]:
    """Record of a point with everything but its latency, and what `Network.evaluate` returned.

    Parameters
    ----------
    net, subnet, split
        What to evaluate, where, on what.
    metrics : sequence of str
        Further metrics to evaluate.
    outputs : ndarray, optional
        Of the whole split, where they are known.
    **fields
        Further fields of the record.
    """
    wanted = ("accuracy", "loss", *metrics)
    if outputs is None:
        result = net.evaluate(split, subnet, metrics=wanted)
    else:
        result = evaluate_outputs(outputs, net._labelled(split)[1], wanted, net.task)
    accuracy = result.get("accuracy")  # targets have none
    record = Record(
        point=subnet,
        accuracy=accuracy,
        accuracy_interval=None if accuracy is None else interval(result["accuracy_interval"]),
        error=None if accuracy is None else 1.0 - accuracy,
        loss=float(result["loss"]),
        bytes=int(net.bytes(subnet)),
        macs=int(net.macs(subnet)),
        **fields,
    )
    return record, result


def measure_records(
    networks: Mapping[str, Network], records: Sequence[Record], rounds: int = 100, block_ms: float = 0.5
) -> dict[Any, Record]:
    """Time points of several networks in turns; returns the records with measured latencies by key."""
    order: list[Record] = []
    calls: list[partial[Any]] = []
    for model, threads in dict.fromkeys((r.model, r.threads) for r in records):
        some = [r for r in records if (r.model, r.threads) == (model, threads)]
        net = networks[model or ""] if (model or "") in networks else next(iter(networks.values()))
        order += some
        calls += engine_calls(net, [r.point for r in some], threads)
    timings = time_calls(calls, rounds=rounds, block_ms=block_ms)
    return {
        key(r): msgspec.structs.replace(
            r, latency_ms_measured=t.median_ms, latency_ms_p10=t.p10_ms, latency_ms_p90=t.p90_ms, runs=t.runs
        )
        for r, t in zip(order, timings, strict=True)
    }


def as_networks(networks: Any) -> dict[str, Network]:
    """One network under the name "", several under theirs, none as an empty dict."""
    if networks is None:
        return {}
    return dict(networks) if isinstance(networks, Mapping) else {"": networks}


def interval(value: Any) -> tuple[float, float]:
    """Return the two ends of an interval as floats."""
    low, high = value
    return float(low), float(high)
