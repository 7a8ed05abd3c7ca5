"""Networks made from networks: a point cut out, channels put in order of importance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ._graph import GraphSpec, NodeSpec, prune
from ._points import Subnet
from ._tables import Tables

if TYPE_CHECKING:
    from ._network import Network
    from ._ranking import ChannelRanking

Weights = dict[str, NDArray[Any]]


class Channels:
    """Where the channels of one tensor come from: space and number in it, per channel (features after a flatten)."""

    __slots__ = ("index", "space")

    def __init__(self, segments: Sequence[tuple[int, int, int]]) -> None:
        repeat = segments[0][2]
        self.space = np.tile(np.concatenate([np.full(full, space) for space, full, _ in segments]), repeat)
        self.index = np.tile(np.concatenate([np.arange(full) for _, full, _ in segments]), repeat)

    def active(self, active: NDArray[np.int32]) -> NDArray[np.int64]:
        """Numbers of the channels that are active."""
        return np.flatnonzero(self.index < active[self.space])

    def permuted(self, orders: Mapping[int, NDArray[np.int64]]) -> NDArray[np.int64] | None:
        """Old channel at each new place, or None if nothing moves."""
        if not any(int(s) in orders for s in np.unique(self.space)):
            return None
        place = np.arange(len(self.index))
        for space, order in orders.items():
            at = self.space == space
            place[at] += order[self.index[at]] - self.index[at]
        return place


def slice_network(net: Network, subnet: Subnet) -> Network:
    """Return the network of one point alone: only active channels and kept blocks."""
    active, _, _ = net._rules.arrays(subnet)
    groups = net._spec.groups
    elastic = [s for s in net._rules.spaces if s.unit < s.full]
    if groups > 1 and elastic:
        groups = groups * int(active[elastic[0].index]) // elastic[0].full
    return cut_network(net, subnet, [Channels(t["segments"]).active(active) for t in net._tensors], groups)


def cut_network(net: Network, subnet: Subnet, keep: list[NDArray[np.int64]], groups: int) -> Network:
    """Return the network of some channels of every tensor, in `groups` channel groups, at a point's depth and bits."""
    from ._network import Network

    rules, tensors = net._rules, net._tensors
    nodes: list[NodeSpec] = []
    for i, node in enumerate(net._spec.nodes):
        change: dict[str, Any] = {}
        if node.op in ("conv2d", "linear", "shortcut"):
            change["channels"] = len(keep[i])
        if node.op == "conv2d" and node.groups > 1:
            sources = tensors[node.inputs[0]]["channels"]
            change["groups"] = node.groups * len(keep[node.inputs[0]]) // sources
        if node.op == "shortcut" and node.map is not None:
            place = {int(c): k for k, c in enumerate(keep[node.inputs[0]])}
            change["map"] = tuple(place.get(node.map[c], -1) for c in keep[i])
        nodes.append(msgspec.structs.replace(node, **change) if change else node)
    nodes, output = _drop_blocks(net, nodes, subnet)
    spec = prune(GraphSpec(tuple(nodes), output, net._spec.shape, groups))
    kept = {node.name for node in spec.nodes}
    weights = {
        key: value
        for name, i in net._numbers.items()
        if name in kept
        for key, value in _slice_parameters(net, name, i, keep).items()
    }
    weights |= _own_affine(net, subnet, keep, kept)
    bits = tuple(b for b, layer in zip(subnet.bits, rules.layer_names, strict=True) if layer in kept)
    views = tuple(v for v in net.views if v in bits)
    cut = Network(
        spec,
        weights,
        points=(1.0,),
        divisor=net.divisor,
        preprocess=net.preprocess,
        views=views or net.views,
        calibrate=net._calibrate,
        seed=net.seed,
        provenance=net.provenance,
        calibration=net._calibration,
    )
    point = cut.subnet(width=1.0, bits=bits or None)
    cut._set_points({"1.0": point})
    if subnet in net.tables:
        cut._set_tables({point: _slice_tables(net, cut, net.tables[subnet], keep)})
    return cut


def _drop_blocks(net: Network, nodes: list[NodeSpec], subnet: Subnet) -> tuple[list[NodeSpec], int]:
    """Nodes without the dropped blocks, and the output's number."""
    dropped = [n.stage >= 0 and n.block >= subnet.depth[n.stage] for n in nodes]
    alias = list(range(len(nodes)))
    for i, node in enumerate(nodes):
        if dropped[i]:
            outside = [k for k in node.inputs if nodes[k].stage != node.stage or nodes[k].block != node.block]
            same = [k for k in range(i) if dropped[k] and (nodes[k].stage, nodes[k].block) == (node.stage, node.block)]
            alias[i] = alias[outside[0]] if outside else alias[same[-1]]
    number = [-1] * len(nodes)
    left: list[NodeSpec] = []
    for i, node in enumerate(nodes):
        if dropped[i]:
            continue
        number[i] = len(left)
        left.append(msgspec.structs.replace(node, inputs=tuple(number[alias[k]] for k in node.inputs)))
    return left, number[alias[net._spec.output]]


def _slice_parameters(net: Network, name: str, i: int, keep: list[NDArray[np.int64]]) -> Weights:
    node, out = net._spec.nodes[i], keep[i]
    part: Weights = {}
    for kind in ("weight", "codes", "scale", "bias"):
        value = net.weights.get(f"{name}.{kind}")
        if value is None:
            continue
        value = value[out]
        if kind in ("weight", "codes") and node.op in ("conv2d", "linear") and node.groups == 1:
            value = value[..., keep[node.inputs[0]]]
        part[f"{name}.{kind}"] = np.ascontiguousarray(value)
    return part


def _own_affine(net: Network, subnet: Subnet, keep: list[NDArray[np.int64]], kept: set[str]) -> Weights:
    """Scale and shift of a point's own batch norms, as parameters of a network of it alone."""
    tables = net.tables.get(subnet)
    if tables is None or tables.affine is None:
        return {}
    return {
        f"{name}.{kind}": np.ascontiguousarray(tables.affine[row, start + keep[i]])
        for name, i, start, _ in norms(net)
        if name in kept
        for row, kind in enumerate(("weight", "bias"))
    }


def norms(net: Network) -> list[tuple[str, int, int, int]]:
    """Return (name, node, first statistic, channels) of every batch norm."""
    return [
        (node.name, i, net._tensors[i]["norm_offset"], net._tensors[i]["channels"])
        for i, node in enumerate(net._spec.nodes)
        if node.op == "batchnorm"
    ]


def _slice_tables(net: Network, cut: Network, tables: Tables, keep: list[NDArray[np.int64]]) -> Tables:
    old = {name: (i, start) for name, i, start, _ in norms(net)}
    mean, variance = cut._empty_statistics()
    for name, _, start, count in norms(cut):
        i, from_start = old[name]
        mean[start : start + count] = tables.mean[from_start + keep[i]]
        variance[start : start + count] = tables.variance[from_start + keep[i]]
    scale = None
    if tables.scale is not None:
        rows = [net._numbers[node.name] for node in cut._spec.nodes]
        scale = np.ascontiguousarray(tables.scale[rows, : cut._spec.groups])
    return Tables(mean, variance, scale)


# ---- order of importance ----


def importance(net: Network, order: str) -> dict[int, NDArray[np.float64]]:
    """Score every channel of every space that may be permuted: norms summed over layers, each scaled to mean 1."""
    movable = movable_spaces(net)
    scores = {space: np.zeros(full) for space, full in movable.items()}
    for i, node in enumerate(net._spec.nodes):
        weighted = node.op in ("conv2d", "linear")
        if not (weighted if order in ("l1", "l2") else node.op == "batchnorm"):
            continue
        segments = net._tensors[i]["segments"]
        if len(segments) != 1 or segments[0][0] not in scores:
            continue
        w = np.abs(net._float_weight(node.name)).reshape(net._tensors[i]["channels"], -1).astype(np.float64)
        score = np.sqrt(np.square(w).sum(axis=1)) if order == "l2" else w.sum(axis=1)
        total = score.mean()
        scores[segments[0][0]] += score / total if total > 0 else score
    return scores


def movable_spaces(net: Network) -> dict[int, int]:
    """Spaces whose channels may change places (number -> full): elastic, and not part of grouped connections."""
    info = net._graph.spaces
    followers = {lead for i, (_, _, lead, _) in enumerate(info) if lead != i}
    return {
        i: full
        for i, (full, elastic, lead, unit) in enumerate(info)
        if elastic and lead == i and unit == 1 and i not in followers
    }


def permute(
    net: Network, orders: Mapping[int, NDArray[np.int64]]
) -> tuple[GraphSpec, Weights, dict[str, NDArray[np.int64]]]:
    """Return structure and weights with channels in a new order, and each batch norm's old channel at each place."""
    places = [Channels(t["segments"]).permuted(orders) for t in net._tensors]
    nodes, norms = list(net._spec.nodes), {}
    weights: Weights = dict(net.weights)
    for i, node in enumerate(nodes):
        out = places[i]
        source = places[node.inputs[0]] if node.inputs else None
        if node.op == "shortcut" and node.map is not None:
            old = np.array(node.map, np.int64)
            moved = old if out is None else old[out]
            if source is not None:
                back = np.empty(len(source), np.int64)
                back[source] = np.arange(len(source))
                moved = np.where(moved < 0, -1, back[np.maximum(moved, 0)])
            nodes[i] = msgspec.structs.replace(node, map=tuple(int(c) for c in moved))
            continue
        for kind in ("weight", "codes", "scale", "bias"):
            key = f"{node.name}.{kind}"
            if key not in weights:
                continue
            value = weights[key] if out is None else weights[key][out]
            if (
                kind in ("weight", "codes")
                and node.op in ("conv2d", "linear")
                and node.groups == 1
                and source is not None
            ):
                value = value[..., source]
            weights[key] = np.ascontiguousarray(value)
        if node.op == "batchnorm" and out is not None:
            norms[node.name] = out
    return msgspec.structs.replace(net._spec, nodes=tuple(nodes)), weights, norms


def make_dynamic(
    net: Network,
    points: Iterable[Any] | Mapping[str, Any],
    order: str | ChannelRanking | None,
    divisor: int,
    fixed: Iterable[str],
) -> Network:
    """Return the network with channels in order of importance and new points; the widest keeps its statistics."""
    from ._network import Network
    from ._ranking import METHODS, ChannelRanking, noise_order

    if order is not None and order not in METHODS and not isinstance(order, ChannelRanking):
        raise ValueError(
            f"order is {order!r}: it must be 'l1', 'l2', 'bn_gamma', 'noise', a ranking of dn.rank_channels or None"
        )
    if order == "noise":
        order = noise_order(net)
    names = set(fixed)
    producers = {n.name for n in net._spec.nodes if n.op in ("conv2d", "linear", "shortcut")}
    if names - producers:
        raise ValueError(f"fixed names {sorted(names - producers)}: layers that can be fixed are {sorted(producers)}")
    spec = net._spec
    if names:
        nodes = tuple(msgspec.structs.replace(n, fixed=n.fixed or n.name in names) for n in spec.nodes)
        spec = msgspec.structs.replace(spec, nodes=nodes)
    options: dict[str, Any] = {
        "preprocess": net.preprocess,
        "views": net.views,
        "calibrate": net._calibrate,
        "seed": net.seed,
        "provenance": net.provenance,
        "calibration": net._calibration,
    }
    base = Network(spec, dict(net.weights), points=(1.0,), divisor=divisor, **options)
    if order == "bn_gamma" and not norms(base):
        raise ValueError("order is 'bn_gamma' but the network has no batch norm: use 'l1' or 'l2'")
    orders: dict[int, NDArray[np.int64]] = {}
    if order is not None:
        scores = order.of_network(base) if isinstance(order, ChannelRanking) else importance(base, order)
        for space, score in scores.items():
            best_first = np.argsort(-score, kind="stable")
            if not np.array_equal(best_first, np.arange(len(best_first))):
                orders[space] = best_first
    spec, weights, moved = permute(base, orders)
    made = Network(spec, weights, points=points, divisor=divisor, **options)
    full = net.subnet(width=1.0)
    if full in net.tables:
        tables = net.tables[full]
        place = np.arange(net._graph.norm_channels)
        for name, _, start, count in norms(net):
            if name in moved:
                place[start : start + count] = start + moved[name]
        affine = None if tables.affine is None else np.ascontiguousarray(tables.affine[:, place])
        made._set_tables(
            {made.subnet(width=1.0): Tables(tables.mean[place], tables.variance[place], tables.scale, affine)}
        )
    return made
