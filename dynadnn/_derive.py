"""A student cut out of a teacher: filters are removed where the least importance buys the most, until limits are met.

Mishra and Gupta (TMC 2024) leave open how the small network follows from the large one and the limits; here it is:
while a limit is passed, the layer with the best (importance lost) / (cost saved) loses its least important filters
(Li et al. 2017, the sum of absolute weights). Layers whose channels are tied, by an addition for example, are cut
together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._data import Data
from ._device import Device, example_input
from ._errors import UnsupportedError
from ._network import Network, remember
from ._surgery import Channels, make_dynamic
from ._timing import samples

if TYPE_CHECKING:
    from ._points import Subnet

_TIMED = 6  # candidates of a cut whose latency is asked for, the best by multiply-accumulates: timing all takes minutes
_ROUNDS, _BLOCK_MS, _WARMUP_MS = 9, 0.5, 1.0  # of one candidate


def derive_student(
    teacher: Network,
    data: Data,
    *,
    max_bytes: int | None = None,
    max_latency_ms: float | None = None,
    max_macs: int | None = None,
    device: Device | None = None,
) -> Network:
    """Cut a smaller network out of a teacher, within limits; it keeps the teacher's remaining weights.

    While a limit is passed, the channels (as many as the network's divisor) that cost the least importance for what
    they save are removed. The result is meant to be distilled: its accuracy is that of a pruned network.

    Parameters
    ----------
    teacher : Network
        In float; it is not changed. Blocks are all kept.
    data : Data
        Its calibration images give the statistics of the result.
    max_bytes : int, optional
        Of `Network.bytes`, float32.
    max_latency_ms : float, optional
        Of one inference, batch 1, one thread, milliseconds. At every cut, the six candidates that lose the least
        importance per multiply-accumulate saved are compared by it.
    max_macs : int, optional
        Multiply-accumulates of one image.
    device : Device, optional
        Whose latencies count. None times every candidate on this machine, the least of several runs: a figure that
        noise may move, so the result may differ from run to run. Without a limit of the latency it never does.

    Returns
    -------
    Network
        With one point, "1.0".

    Raises
    ------
    ValueError
        Without any limit, or if one is below what the smallest network reaches.

    Examples
    --------
    >>> import dynadnn as dn
    >>> data = dn.datasets.digits(rng=0)
    >>> teacher = dn.nets.mlp(data, width=64, rng=0)
    >>> student = dn.derive_student(teacher, data, max_macs=teacher.macs() // 3)
    >>> student.macs() <= teacher.macs() // 3, student.outputs
    (True, 10)
    """
    _check(teacher, data)
    whole = make_dynamic(teacher, (1.0,), "l1", teacher.divisor, ())
    limits = _limits(teacher, max_bytes, max_macs, max_latency_ms, device)
    point = _reduce(whole, limits)
    student = whole.slice(point)
    images = data.calibration.x
    remember(student, data, images)
    student.recalibrate(images)
    return student


def _check(teacher: Any, data: Any) -> None:
    if not isinstance(teacher, Network):
        raise TypeError(f"teacher must be a Network, not {type(teacher).__name__}")
    if not isinstance(data, Data):
        raise TypeError(f"data must be a Data, not {type(data).__name__}")
    if teacher.quantised:
        raise UnsupportedError(
            "this teacher is quantised: derive a student from the float network, then dn.quantize it"
        )
    teacher._images(data.calibration.x[:1], "data.calibration.x")


Cut = tuple[int, "Subnet"]


@dataclass(frozen=True)
class Limit:
    """One limit and how candidates are judged by it: figures of several sub-nets at once."""

    name: str
    most: float
    costs: Callable[[Sequence[Subnet]], list[float]]


def _limits(teacher: Network, most_bytes: Any, most_macs: Any, most_ms: Any, device: Device | None) -> list[Limit]:
    def each(figure: Callable[[Subnet], int], subnets: Sequence[Subnet]) -> list[float]:
        return [float(figure(subnet)) for subnet in subnets]

    timed: Callable[[Sequence[Subnet]], list[float]]
    timed = Timer(teacher) if device is None else partial(device.latencies, teacher)
    offered = (
        ("max_bytes", most_bytes, partial(each, teacher.bytes)),
        ("max_macs", most_macs, partial(each, teacher.macs)),
        ("max_latency_ms", most_ms, timed),
    )
    found = []
    for name, most, costs in offered:
        if most is None:
            continue
        if isinstance(most, bool) or not isinstance(most, int | float | np.integer | np.floating) or not most > 0:
            raise ValueError(f"{name} must be a number above 0, not {most!r}")
        found.append(Limit(name, float(most), costs))
    if not found:
        raise ValueError("no limit is given: pass max_bytes, max_latency_ms or max_macs")
    return found


class Timer:
    """Latency of sub-nets on this machine: the least of several runs, in turns."""

    def __init__(self, net: Network) -> None:
        self._net, self._x = net, example_input(net)
        self._out = np.empty((1, net.outputs), np.float32)

    def __call__(self, subnets: Sequence[Subnet]) -> list[float]:
        """Milliseconds of one inference each."""
        net = self._net
        plan, statistics = net._plan(1), net._empty_statistics()  # the time does not depend on their values
        engine = _core.Engine(plan, input_shape=net.shape, outputs=net.outputs)
        for number, subnet in enumerate(subnets):
            engine.points[number] = plan.bind(*net._rules.arrays(subnet), *statistics, None)
        calls = [partial(engine, self._x, number, self._out) for number in range(len(subnets))]
        durations, _ = samples(calls, rounds=_ROUNDS, block_ms=_BLOCK_MS, warmup_ms=_WARMUP_MS)
        return [float(ms) for ms in durations.min(axis=1)]


# ---- importance ----


def channel_scores(net: Network) -> list[list[NDArray[np.float64]]]:
    """Sum absolute weights by unit of channels: for every elastic space, one array per layer that produces it."""
    info = net._graph.spaces
    units = {space.index: space.full // space.unit for space in net.spaces}
    found: dict[int, list[NDArray[np.float64]]] = {index: [] for index in units}
    for i, node in enumerate(net._spec.nodes):
        if node.op not in ("conv2d", "linear"):
            continue
        channels = Channels(net._tensors[i]["segments"])
        size = np.abs(net._float_weight(node.name)).reshape(len(channels.space), -1).sum(axis=1, dtype=np.float64)
        for space in np.unique(channels.space):
            full, elastic, lead, _ = info[int(space)]
            if elastic:
                at = channels.space == space
                unit = channels.index[at] * units[lead] // full
                found[lead].append(np.bincount(unit, size[at], units[lead]).astype(np.float64))
    return [found[space.index] for space in net.spaces]


def lost(scores: Sequence[NDArray[np.float64]], before: int, after: int) -> float:
    """Return the importance of units `after` to `before`: the share of what is left, summed over layers."""
    total = 0.0
    for score in scores:
        left = score[:before].sum()
        total += float(score[after:before].sum() / left) if left > 0 else 0.0
    return total


# ---- the search ----


def _lower(width: int, step: int) -> int:
    """Return the next smaller width, or the same if there is none."""
    return max(step, (width - 1) // step * step) if width > step else width


def _reduce(net: Network, limits: Sequence[Limit]) -> Subnet:
    """Remove channels until every limit holds."""
    point = net.subnet(width=1.0)
    scores = channel_scores(net)
    figures = [limit.costs([point])[0] for limit in limits]
    smallest = net.subnet(widths=[min(space.step, space.full) for space in net.spaces])
    for limit, figure in zip(limits, figures, strict=True):
        if figure > limit.most:
            _check_reachable(limit, limit.costs([smallest])[0])
    while True:
        passed = [k for k, limit in enumerate(limits) if figures[k] > limit.most]
        if not passed:
            return point
        candidates = _candidates(net, point)
        if not candidates:
            _check_reachable(limits[passed[0]], figures[passed[0]])
        if any(limit.name == "max_latency_ms" for limit in limits):
            order = np.argsort(
                _ratios(net, scores, point, candidates, _macs_saved(net, point, candidates)), kind="stable"
            )
            candidates = [candidates[i] for i in order[:_TIMED]]
        subnets = [subnet for _, subnet in candidates]
        costs = np.array([limit.costs(subnets) for limit in limits])
        saved = np.sum([(figures[k] - costs[k]) / limits[k].most for k in passed], axis=0)
        best = int(np.argmin(_ratios(net, scores, point, candidates, saved)))
        point, figures = subnets[best], [float(c) for c in costs[:, best]]


def _macs_saved(net: Network, point: Subnet, candidates: Sequence[Cut]) -> NDArray[np.float64]:
    return np.array([net.macs(point) - net.macs(subnet) for _, subnet in candidates], np.float64)


def _ratios(
    net: Network,
    scores: Sequence[Sequence[NDArray[np.float64]]],
    point: Subnet,
    candidates: Sequence[Cut],
    saved: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the importance lost per cost saved of every candidate; infinite where nothing is saved."""
    found = np.full(len(candidates), np.inf)
    for i, (k, subnet) in enumerate(candidates):
        unit = net.spaces[k].unit
        if saved[i] > 0:
            found[i] = lost(scores[k], point.widths[k] // unit, subnet.widths[k] // unit) / saved[i]
    return found


def _check_reachable(limit: Limit, least: float) -> None:
    if least > limit.most:
        raise ValueError(
            f"{limit.name}={limit.most:g} is below what the smallest network that can be cut out reaches: {least:.6g}"
        )


def _candidates(net: Network, point: Subnet) -> list[Cut]:
    """(space, sub-net) of every single cut."""
    found = []
    for k, space in enumerate(net.spaces):
        width = _lower(point.widths[k], space.step)
        if width < point.widths[k]:
            widths = (*point.widths[:k], width, *point.widths[k + 1 :])
            found.append((k, net.subnet(widths=widths)))
    return found
