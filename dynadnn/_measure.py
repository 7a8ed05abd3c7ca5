"""Measuring – accuracy and latency of given points, timed in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ._arguments import positive_int
from ._device import engine_calls
from ._energy import MEASURED, find_meter, measure_energy
from ._metrics import TARGETS, evaluate_outputs, task_of
from ._quality import METRICS
from ._record import Record, key
from ._timing import time_calls

if TYPE_CHECKING:
    from ._data import Split
    from ._front import Front
    from ._network import Network


def measure(
    nets: Any,
    split: Split,
    *,
    points: Sequence[Any] | None = None,
    threads: int = 1,
    metrics: Sequence[str] | None = None,
) -> Front:
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
    metrics : sequence of str, optional
        Further metrics, kept in `Record.values`; of a regression ``("rmse", "mae")`` otherwise.

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
    regression = task_of(np.asarray(split.y)) == TARGETS
    further = tuple(metrics if metrics is not None else ("rmse", "mae") if regression else ())
    for model, net in networks.items():
        names = names_of(net)
        wanted = names if points is None else dict.fromkeys(net._find(point) for point in points)
        for subnet in wanted:
            fields: dict[str, Any] = {"name": names.get(subnet), "model": model or None, "threads": threads}
            record, result = figures(net, subnet, split, further, **fields)
            records.append(msgspec.structs.replace(record, values={m: float(result[m]) for m in further}))
    timed = measure_records(networks, records)
    done = [
        msgspec.structs.replace(r, latency_ms=r.latency_ms_measured, latency_label=MEASURED) for r in timed.values()
    ]
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
    accuracy = result.get("accuracy")  # targets have none: their error is the mean squared error
    record = cost_record(
        net,
        subnet,
        accuracy=accuracy,
        accuracy_interval=None if accuracy is None else interval(result["accuracy_interval"]),
        error=float(result["loss"]) if accuracy is None else 1.0 - accuracy,
        loss=float(result["loss"]),
        **fields,
    )
    return record, result


def cost_record(net: Network, subnet: Any, **fields: Any) -> Record:
    """Record of a point with its bytes and MACs, and further fields."""
    return Record(point=subnet, bytes=int(net.bytes(subnet)), macs=int(net.macs(subnet)), **fields)


def names_of(net: Network) -> dict[Any, str]:
    """Names of the named points, by sub-net; two for one sub-net become one text."""
    names: dict[Any, str] = {}
    for name, subnet in net.points.items():
        names[subnet] = f"{names[subnet]} = {name}" if subnet in names else name
    return names


def with_test(net: Network, record: Record, split: Split, quality: str) -> Record:
    """Return a record with its figure on test data added; see `Front.evaluate`."""
    if quality == "accuracy":
        result = net.evaluate(split, record.point)
        return msgspec.structs.replace(
            record,
            accuracy_test=float(result["accuracy"]),
            accuracy_test_interval=interval(result["accuracy_interval"]),
        )
    metric = "loss" if quality == "error" or quality not in METRICS else quality
    figure = float(net.evaluate(split, record.point, metrics=(metric,))[metric])
    name = "error" if quality == "error" else metric
    return msgspec.structs.replace(record, values={**record.values, f"{name}_test": figure})


def measure_records(
    networks: Mapping[str, Network], records: Sequence[Record], rounds: int = 100, block_ms: float = 0.5
) -> dict[Any, Record]:
    """Time points of several networks in turns; returns the records with measured latencies by key.

    Energies are measured too where this machine has a meter that can be read.
    """
    order: list[Record] = []
    calls: list[partial[Any]] = []
    for model, threads in dict.fromkeys((r.model, r.threads) for r in records):
        some = [r for r in records if (r.model, r.threads) == (model, threads)]
        net = networks[model or ""] if (model or "") in networks else next(iter(networks.values()))
        order += some
        calls += engine_calls(net, [r.point for r in some], threads)
    timings = time_calls(calls, rounds=rounds, block_ms=block_ms)
    done = {}
    for r, t, energy in zip(order, timings, measure_energy(calls, find_meter()), strict=True):
        fields = {"latency_ms_measured": t.median_ms, "latency_ms_p10": t.p10_ms, "latency_ms_p90": t.p90_ms}
        metered = {} if energy.mj is None else energy.fields()
        done[key(r)] = msgspec.structs.replace(r, runs=t.runs, **fields, **metered)
    return done


def as_networks(networks: Any) -> dict[str, Network]:
    """One network under the name "", several under theirs, none as an empty dict."""
    if networks is None:
        return {}
    return dict(networks) if isinstance(networks, Mapping) else {"": networks}


def interval(value: Any) -> tuple[float, float]:
    """Return the two ends of an interval as floats."""
    low, high = value
    return float(low), float(high)
