"""The latency model – what sub-nets take that were not measured, from the times of the layers of some that were.

A layer's time is linear in a few numbers that its kernels' loops are over (channels, panels of 16 of them, products,
and what odd widths leave over), for all bits together and then what each number of bits adds; what that leaves is
interpolated between measured widths by a Gaussian process. A sub-net takes about the sum of its layers: the factor and
the overhead per call are fitted to whole runs, which are measured beside the layers.

All times are relative to the probe, the widest sub-net, that ran beside them. What others do on a machine slows small
sub-nets down more than large ones: a quarter of MobileNetV2's channels took 0.156 to 0.194 of the probe within one
profile (benchmarks/results/latency_model.json). So a narrow sub-net runs beside them too, and times are brought to the
median of its ratio to the probe (`in_state`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ._design import LEAST, Facts, facts_of
from ._errors import PointError
from ._identity import PointDocument
from ._points import Subnet

if TYPE_CHECKING:
    from ._network import Network

F64 = NDArray[np.float64]

PREDICTED, GIVEN = "predicted", "given"  # measured and modelled, as energies are: see _energy
PANEL = 16  # output channels that kernels compute together
RIDGE, RIDGE_OF_BITS = 0.1, 1.0
REACH, NUGGET = 0.3, 1.0  # of the Gaussian process: relative width over which layers are alike; noise over signal
FOLDS = 5


class Latency(NamedTuple):
    """Latency of one inference and where the figure is from.

    Attributes
    ----------
    ms : float
        Milliseconds.
    label : str
        ``"measured"``, ``"predicted"`` (by the latency model of this CPU), ``"modelled"`` (from a stated speed) or
        ``"given"``.
    error_ms : float or None
        Half the width of the 95 % interval; of a prediction, what 95 % of the sub-nets in the profile stayed below when
        they were predicted from the others; None where unknown.
    """

    ms: float
    label: str
    error_ms: float | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields of a record that it fills."""
        return {"latency_ms": self.ms, "latency_label": self.label, "latency_ms_error": self.error_ms}


class Condition(msgspec.Struct, frozen=True):
    """What the machine was like during a part of a profile.

    Attributes
    ----------
    date : str
    governor : str or None
    mhz, celsius : float or None
        Frequency and temperature, where readable.
    probe_ms : float
        What the probe took.
    """

    date: str
    governor: str | None
    mhz: float | None
    celsius: float | None
    probe_ms: float


class Sample(msgspec.Struct, frozen=True):
    """One measured sub-net.

    Attributes
    ----------
    point : PointDocument
    whole : float
        Time of one inference over the probe's.
    layers : tuple of float
        Times of its nodes over the probe's; 0 where a node is left out.
    narrow : float
        Time of the narrow sub-net over the probe's, beside it; 1 where there is none.
    """

    point: PointDocument
    whole: float
    layers: tuple[float, ...]
    narrow: float = 1.0


class Profile(msgspec.Struct):
    """What was measured of a network at one number of threads.

    Attributes
    ----------
    network : str
        Hash of its structure.
    threads : int
    nodes : tuple of int
        Whose times samples hold.
    size : int
        Samples of a complete profile.
    rounds : int
        Blocks that a sample is the median of.
    samples : list of Sample
    conditions : list of Condition
        One per part.
    relative_error : float or None
        Of a complete profile, what `cross_validate` found.
    """

    network: str
    threads: int
    nodes: tuple[int, ...] = ()
    size: int = 0
    rounds: int = 0
    samples: list[Sample] = []
    conditions: list[Condition] = []
    relative_error: float | None = None

    @property
    def complete(self) -> bool:
        """Whether everything was measured."""
        return 0 < self.size == len(self.samples)

    @property
    def narrow(self) -> float:
        """The narrow sub-net's time over the probe's in the state of the machine that times are for."""
        return float(np.median([s.narrow for s in self.samples]))

    def fault(self) -> str:
        """Say what cannot be right in a profile from a file; nothing if all can."""
        if len(self.samples) > self.size or (self.complete and self.size < LEAST):
            return f"a profile has {len(self.samples)} samples of {self.size}"
        if any(len(s.layers) != len(self.nodes) for s in self.samples):
            return f"a profile of {len(self.nodes)} nodes has a sample of another number"
        times = [(min(s.layers, default=0.0), s.whole, s.narrow) for s in self.samples]
        finite = all(math.isfinite(t) for s in self.samples for t in (s.whole, s.narrow, *s.layers))
        if not finite or any(least < 0 or min(rest) <= 0 for least, *rest in times):
            return "a profile has times that are not finite and above 0"
        return ""


def in_state(ratio: F64, narrow: F64, reference: float) -> F64:
    """Bring times over the probe's to one state of the machine.

    A sub-net is as far on the way from the probe to the narrow sub-net, by logarithms, in any state.

    Parameters
    ----------
    ratio, narrow : ndarray of float64
        Times of sub-nets, and of the narrow one beside them, over the probe's.
    reference : float
        The narrow one's in the state wanted.

    Examples
    --------
    >>> in_state(np.array([1.0, 0.5, 0.25, 0.125]), np.full(4, 0.25), 0.16).tolist()
    [1.0, 0.4, 0.16, 0.08]
    """
    way = np.log(ratio) / np.minimum(np.log(narrow), -1e-9)
    found: F64 = ratio * np.where(narrow < 1, reference / narrow, 1.0) ** np.clip(way, 0, 1)
    return found


class LatencyModel:
    """Predicts the time of any sub-net of a network over the probe's.

    Parameters
    ----------
    net : Network
    profile : Profile
        Complete, and of this network.
    """

    def __init__(self, net: Network, profile: Profile) -> None:
        self._net = net
        self._sum = _Sum(net, profile.nodes, *_arrays(net, profile))

    def predict(self, subnets: Sequence[Subnet]) -> list[float]:
        """Return times over the probe's, rounded to six digits.

        Parameters
        ----------
        subnets : sequence of Subnet
        """
        found = self._sum.predict(facts_of(self._net, subnets)).tolist() if subnets else []
        return [float(f"{ratio:.6g}") for ratio in found]


def cross_validate(net: Network, profile: Profile) -> float:
    """Bound that 95 % of a profile's sub-nets keep when they are predicted from the others.

    Parameters
    ----------
    net, profile
        As for `LatencyModel`.

    Returns
    -------
    float
        Relative error; the noise of measuring these sub-nets is in it.
    """
    facts, times, whole = _arrays(net, profile)
    fold = np.arange(len(whole)) % FOLDS
    found = np.empty(len(whole))
    for k in range(FOLDS):
        rest = _Sum(net, profile.nodes, _rows(facts, fold != k), times[fold != k], whole[fold != k])
        found[fold == k] = rest.predict(_rows(facts, fold == k))
    return float(f"{np.quantile(np.abs(found / whole - 1), 0.95):.4g}")


def _arrays(net: Network, profile: Profile) -> tuple[Facts, F64, F64]:
    samples = profile.samples
    if not all(0 <= k < len(net._spec.nodes) for k in profile.nodes):
        raise PointError(f"the profile of {profile.network} names nodes that the network has not")
    facts = facts_of(net, [net._find(s.point.subnet()) for s in samples])
    whole = np.array([s.whole for s in samples])
    brought = in_state(whole, np.array([s.narrow for s in samples]), profile.narrow)
    return facts, np.array([s.layers for s in samples]) * (brought / whole)[:, None], brought


class _Sum:
    """Models of the layers, and what their sum makes of a whole run."""

    def __init__(self, net: Network, nodes: Sequence[int], facts: Facts, times: F64, whole: F64) -> None:
        self._net, self._nodes = net, nodes
        self._layers: list[_Layer | None] = []
        floor = 1e-4 * float(np.median(whole))  # below the clock's resolution
        for k, column in zip(nodes, times.T, strict=True):
            there = facts.runs[:, k]
            x, cell, bits = _numbers(net, facts, k)
            known = np.maximum(column[there], floor)
            self._layers.append(_Layer(x[there], cell[there], bits[there], known) if there.any() else None)
        self._scale = np.array([1.0, 0.0])
        self._scale = _line(self._layer_sum(facts), whole)

    def predict(self, facts: Facts) -> F64:
        total: F64 = self._scale[0] * self._layer_sum(facts) + self._scale[1]
        return np.maximum(total, 1e-9)

    def _layer_sum(self, facts: Facts) -> F64:
        total = np.zeros(len(facts.runs))
        for k, layer in zip(self._nodes, self._layers, strict=True):
            there = facts.runs[:, k]
            if layer is not None and there.any():
                x, cell, bits = _numbers(self._net, facts, k)
                total[there] += layer.predict(x[there], cell[there], bits[there])
        return total


class _Layer:
    """Time of one node."""

    def __init__(self, x: F64, cell: F64, bits: NDArray[np.int64], time: F64) -> None:
        self._range = 0.3 * float(time.min()), 3 * float(time.max())
        self._size = np.maximum(np.abs(x).mean(axis=0), 1e-12)
        x = x / self._size
        self._common = _ridge(x, time, time, RIDGE)
        left = time - x @ self._common
        self._own, self._process = {}, {}
        for b in np.unique(bits).tolist():
            some = bits == b
            self._own[b] = _ridge(x[some], left[some], time[some], RIDGE_OF_BITS)
            linear = np.clip(x[some] @ (self._common + self._own[b]), *self._range)
            ratio = np.clip(time[some] / linear - 1, -0.5, 0.5)
            kernel = _likeness(cell[some], cell[some]) + NUGGET * np.eye(int(some.sum()))
            self._process[b] = cell[some], np.linalg.solve(kernel, ratio)

    def predict(self, x: F64, cell: F64, bits: NDArray[np.int64]) -> F64:
        x = x / self._size
        made: F64 = x @ self._common
        for b, own in self._own.items():
            some = bits == b
            linear = np.clip(made[some] + x[some] @ own, *self._range)
            known, weights = self._process[b]
            made[some] = linear * (1 + np.clip(_likeness(cell[some], known) @ weights, -0.5, 0.5))
        clipped: F64 = np.clip(made, *self._range)
        return clipped


def _numbers(net: Network, facts: Facts, k: int) -> tuple[F64, F64, NDArray[np.int64]]:
    """Return what a node's time is linear in, its relative widths, and its bits."""
    node = net._spec.nodes[k]
    i, o = facts.inputs[:, k], facts.outputs[:, k]
    panels, one = np.ceil(o / PANEL), np.ones_like(o)
    full = net._graph.tensors
    cell = np.stack([i / _full(full, node.inputs[0] if node.inputs else k), o / _full(full, k)], axis=1)
    if node.op not in ("conv2d", "linear") or node.groups > 1:
        return np.stack([one, i, o, panels], axis=1), cell, facts.bits[:, k]
    macs = facts.macs[:, k].astype(np.float64)
    work = macs * panels * PANEL / np.maximum(o, 1)
    odd, rest = [i % n != 0 for n in (16, 32)], panels % 4
    weights = facts.weights[:, k].astype(np.float64)
    crowd = weights * facts.weights.sum(axis=1)  # weights are fetched from farther away the more others there are
    columns = [one, i, panels, o, work, macs, weights, crowd, panels * odd[0], work * odd[0], work * odd[1]]
    return np.stack([*columns, *(work * (rest == n) for n in (1, 2, 3))], axis=1), cell, facts.bits[:, k]


def _full(tensors: Sequence[dict[str, object]], k: int) -> float:
    """Channels at full width, of flattened maps times their pixels."""
    segments: Sequence[tuple[int, int, int]] = tensors[k]["segments"]  # type: ignore[assignment]
    return float(sum(full * pixels for _, full, pixels in segments))


def _ridge(x: F64, y: F64, size: F64, strength: float) -> F64:
    """Least squares of relative errors."""
    rows = x / size[:, None]
    products = rows.T @ rows
    held = np.diag(strength * np.diag(products) / len(x) + 1e-12)
    solved: NDArray[Any] = np.linalg.solve(products + held, rows.T @ (y / size))
    return solved


def _likeness(a: F64, b: F64) -> F64:
    """How alike a layer is at two pairs of widths; half of it only at the very same."""
    squares = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    found: F64 = 0.5 * np.exp(-squares / (2 * REACH**2)) + 0.5 * (squares < 1e-12)
    return found


def _line(x: F64, y: F64) -> F64:
    """Factor and overhead, by relative errors; far ones are left out of a second fit."""
    rows = np.stack([x, np.ones_like(x)], axis=1)
    kept = np.ones(len(x), np.bool_)
    for _ in range(2):
        found = np.linalg.lstsq(rows[kept] / y[kept, None], np.ones(int(kept.sum())), rcond=None)[0]
        wrong = np.abs(rows @ found / y - 1)
        kept = wrong <= 4 * np.median(wrong) + 1e-12
    line: NDArray[Any] = found
    return line


def _rows(facts: Facts, some: NDArray[np.bool_]) -> Facts:
    return Facts(
        facts.inputs[some],
        facts.outputs[some],
        facts.macs[some],
        facts.weights[some],
        facts.bits[some],
        facts.runs[some],
    )
