"""What each layer of an engine costs, and whether integers pay on this machine."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._codes import view_codes
from ._points import Subnet
from ._table import Table
from ._tables import Tables

if TYPE_CHECKING:
    from ._engine import Engine
    from ._network import Network

PANEL = 16  # output channels that a kernel computes together
SHORTEST_MS = 0.001  # below it reading the clock is a tenth of what is measured: no verdict
COLUMNS = ("node", "kernel", "bytes", "int8_ms", "fp32_ms", "speedup", "idle_channels")


@dataclass(frozen=True, eq=False)
class EngineReport:
    """Cost of each layer of an engine at one point.

    Attributes
    ----------
    layers : Table
        Per layer in the order of computing: node, kernel, bytes of its parameters (of fused batch norms too), int8_ms
        and fp32_ms for one image, speedup (fp32_ms over int8_ms), and idle_channels: the share of the channels its
        kernels compute that nobody reads, because they compute 16 at a time for each group. int8_ms is the time of the
        quantised engine, for layers it leaves in float too; a float network has none.
    int8_ms, fp32_ms : float
        Sums over the layers; int8_ms is None for a float network.
    warnings : tuple of str
        Where int8 does not pay on this machine (of layers that take a microsecond or more), and which groups waste
        work.
    """

    layers: Table
    int8_ms: float | None
    fp32_ms: float
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([str(self.layers), *(f"warning: {text}" for text in self.warnings)])

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{html.escape(text)}</li>" for text in self.warnings)
        return self.layers._repr_html_() + (f"<ul>{notes}</ul>" if notes else "")


@dataclass(frozen=True)
class Step:
    """One step of a bound point, as far as a report needs it."""

    node: str
    kernel: str
    ms: float


@dataclass(frozen=True)
class Layer:
    """What a report knows of a node besides its time.

    Attributes
    ----------
    bytes : int
    quantised : bool
        Whether it has integer codes.
    groups, width : int
        Groups whose channels are computed apart, and channels of each; 0 groups where nothing is computed in panels.
    """

    bytes: int = 0
    quantised: bool = False
    groups: int = 0
    width: int = 0

    @property
    def idle(self) -> float | None:
        """Share of the computed channels that do not exist."""
        return 1 - self.width / (-(-self.width // PANEL) * PANEL) if self.groups else None


def make_report(layers: Mapping[str, Layer], int8: Sequence[Step] | None, fp32: Sequence[Step]) -> EngineReport:
    """Report of measured steps.

    Parameters
    ----------
    layers : mapping of str to Layer
        By node; those without steps are not shown.
    int8, fp32 : sequence of Step
        Of the quantised engine (None for a float network) and of the same network in float.
    """
    shown = fp32 if int8 is None else int8
    kernels: dict[str, list[str]] = {}
    for step in shown:
        kernels.setdefault(step.node, []).append(step.kernel)
    int8_ms, fp32_ms = _sums(int8 or ()), _sums(fp32)
    for node in fp32_ms:
        kernels.setdefault(node, [])
    rows, warnings = [], []
    for node, names in kernels.items():
        layer = layers.get(node, Layer())
        here, there = int8_ms.get(node), fp32_ms.get(node)
        speedup = there / here if here and there is not None else None
        rows.append((node, " + ".join(names), layer.bytes, here, there, speedup, layer.idle))
        if layer.quantised and speedup is not None and speedup <= 1 and here is not None and here >= SHORTEST_MS:
            warnings.append(
                f"{node}: int8 takes {here:.4g} ms and fp32 {there:.4g} ms on this machine: int8 does not pay here "
                f"(quantize(..., policy={{{node!r}: 'fp32'}}) leaves the layer in float)"
            )
        if layer.groups > 1 and layer.width < PANEL:
            warnings.append(
                f"{node}: {layer.groups} groups of {layer.width} channels: kernels compute {PANEL} channels of a "
                f"group at a time, {layer.idle:.0%} of them for nobody"
            )
    total, float_total = sum(int8_ms.values()), sum(fp32_ms.values())
    if int8 is not None and total >= float_total:
        warnings.append(
            f"the whole network: int8 takes {total:.4g} ms and fp32 {float_total:.4g} ms on this machine: int8 saves "
            "memory here, not time"
        )
    title = f"int8 {total:.4g} ms, fp32 {float_total:.4g} ms" if int8 is not None else f"fp32 {float_total:.4g} ms"
    table = Table(COLUMNS, rows, title=title)
    return EngineReport(table, total if int8 is not None else None, float_total, tuple(warnings))


def _sums(steps: Sequence[Step]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for step in steps:
        sums[step.node] = sums.get(step.node, 0.0) + step.ms
    return sums


def float_twin(net: Network, subnet: Subnet) -> tuple[Network, Subnet]:
    """Return the float network of a quantised one's weights at a point's bits, with its statistics, and the point."""
    from ._network import Network

    weights: dict[str, NDArray[Any]] = {}
    bits = dict(zip((layer.name for layer in net.layers), subnet.bits, strict=True))
    for key, value in net.weights.items():
        name, kind = key.rsplit(".", 1)
        if kind == "codes":
            scale = net.weights[f"{name}.scale"].reshape(-1, *(1,) * (value.ndim - 1))
            weights[f"{name}.weight"] = view_codes(value, int(bits[name])).astype(np.float32) * scale
        elif kind != "scale" or f"{name}.codes" not in net.weights:
            weights[key] = value
    point = Subnet(subnet.widths, ("fp32",) * len(net.layers), subnet.depth)
    twin = Network(net._spec, weights, points={"twin": point}, divisor=net.divisor, preprocess=net.preprocess)
    point = twin.points["twin"]
    known = net.tables[subnet]
    twin._set_tables({point: Tables(known.mean, known.variance, affine=known.affine)})
    return twin, point


def describe_layers(net: Network, subnet: Subnet, shown: set[str]) -> dict[str, Layer]:
    """Bytes and groups of the nodes that have steps; parameters of fused nodes count where they are fused."""
    nodes, active = net._spec.nodes, net._rules.active(subnet.widths)
    sizes: dict[str, int] = {}
    for name, size in net._node_bytes(subnet).items():
        node = nodes[net._numbers[name]]
        while node.name not in shown and node.inputs:
            node = nodes[node.inputs[0]]
        sizes[node.name] = sizes.get(node.name, 0) + size
    found = {}
    quantised = {layer.name for layer in net.layers if layer.quantised}
    for node, tensor in zip(nodes, net._tensors, strict=True):
        groups = width = 0
        depthwise = node.groups > 1 and node.groups == node.channels
        if node.op in ("conv2d", "linear") and not depthwise:
            space = tensor["segments"][0][0]
            groups = node.groups
            if groups == 1 and net._graph.spaces[space][1]:
                groups = net._spec.groups  # an incremental network computes the parts of a dense layer apart
            width = int(active[space]) if groups == 1 else tensor["channels"] // groups
        found[node.name] = Layer(sizes.get(node.name, 0), node.name in quantised, groups, width)
    return found


def measured_steps(engines: Sequence[tuple[Engine, _core.Point]], x: NDArray[Any], rounds: int) -> list[list[Step]]:
    """Time the steps of several engines in turns, there and back; the median of each step over the rounds."""
    repeats = [_repeats(engine, point, x) for engine, point in engines]
    taken: list[list[NDArray[np.float64]]] = [[] for _ in engines]
    for r in range(rounds):
        order = range(len(engines))
        for i in order if r % 2 == 0 else reversed(order):
            engine, point = engines[i]
            engine.profile_steps(x, point, 1)  # another engine ran last
            taken[i].append(engine.profile_steps(x, point, repeats[i]) / (1e6 * repeats[i] * len(x)))
    found = []
    for (engine, point), rows in zip(engines, taken, strict=True):
        names = [node.name for node in engine._net._spec.nodes]
        medians = np.median(rows, axis=0).tolist()
        found.append([Step(names[s["node"]], s["kernel"], ms) for s, ms in zip(point.steps, medians, strict=True)])
    return found


def _repeats(engine: Engine, point: _core.Point, x: NDArray[Any]) -> int:
    """Return how many calls take about half a millisecond."""
    engine.profile_steps(x, point, 1)
    return max(1, int(5e5 / max(int(engine.profile_steps(x, point, 1).sum()), 1)))


def report_engine(engine: Engine, subnet: Subnet, x: NDArray[Any], rounds: int) -> EngineReport:
    """Measure an engine at a point, a quantised one beside its float twin."""
    net = engine._net
    timed = [(engine, engine._bind(subnet))]
    if net.quantised:
        twin, point = float_twin(net, subnet)
        other = twin.compile(threads=engine.threads, isa=engine._isa)
        timed.append((other, other._bind(point)))
    steps = measured_steps(timed, x, rounds)
    shown = {step.node for row in steps for step in row}
    layers = describe_layers(net, subnet, shown)
    return make_report(layers, steps[0] if net.quantised else None, steps[-1])


@cache
def probe(family: str) -> float:
    """1e9 multiply-accumulates per second of a kernel's dot product on registers alone, measured once per process."""
    return _core.probe(family) / 1e9


def share_of_probe(kernel: str, macs: int, ms: float, threads: int) -> float | None:
    """Speed of a step over what its dot product could do on as many cores; None where there is nothing to compare."""
    best = probe(" ".join(kernel.split()[:2])) * threads if macs else 0.0
    return macs / ms / 1e6 / best if best and ms else None
