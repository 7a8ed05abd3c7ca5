"""Which sub-nets to measure: few, so that every layer is met with every width and bits, most pairs of them too."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._points import Bits, Subnet
from ._space import offered_widths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._network import Network

LEAST, MOST = 12, 240  # sub-nets of a design: fewer say nothing of other sub-nets, more are hardly better
CANDIDATES = 6  # of which the one with most that is new is taken
SPREADS = (0.03, 0.1, 0.2)  # of widths around a common fraction; every fourth sub-net's widths have none in common
TRIES = 40  # draws in a row that bring nothing new: there is nothing left

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Facts:
    """What the time of each layer depends on, per sub-net and node.

    Attributes
    ----------
    inputs, outputs : ndarray of float64, shape (sub-nets, nodes)
        Active channels; of flattened maps times their pixels.
    macs, weights : ndarray of int64, shape (sub-nets, nodes)
        Multiply-accumulates and active parameters.
    bits : ndarray of int64, shape (sub-nets, nodes)
        32 for float layers, 0 for nodes without weights.
    runs : ndarray of bool, shape (sub-nets, nodes)
        False in blocks that are left out.
    """

    inputs: NDArray[np.float64]
    outputs: NDArray[np.float64]
    macs: I64
    weights: I64
    bits: I64
    runs: NDArray[np.bool_]


def facts_of(net: Network, subnets: Sequence[Subnet]) -> Facts:
    """Collect the facts of sub-nets; the arrays hold all nodes of the network.

    Parameters
    ----------
    net : Network
    subnets : sequence of Subnet
    """
    nodes, rules, graph = net._spec.nodes, net._rules, net._graph
    share = np.zeros((len(graph.spaces), len(nodes)))
    for k, tensor in enumerate(graph.tensors):
        for space, full, pixels in tensor["segments"]:
            share[space, k] += full * pixels / graph.spaces[space][0]
    active = np.array([rules.active(s.widths) for s in subnets]).reshape(len(subnets), len(graph.spaces))
    outputs = active @ share
    first = [node.inputs[0] if node.inputs else k for k, node in enumerate(nodes)]
    macs, weights, bits = (np.zeros(outputs.shape, np.int64) for _ in range(3))
    runs = np.ones(outputs.shape, np.bool_)
    stage, block = np.array([n.stage for n in nodes]), np.array([n.block for n in nodes])
    for row, subnet in enumerate(subnets):
        macs[row], weights[row] = graph.cost(*rules.arrays(subnet))
        bits[row, list(rules._layers)] = [32 if isinstance(b, str) else b for b in subnet.bits]
        if subnet.depth:
            runs[row] = (stage < 0) | (block < np.array((*subnet.depth, 0))[stage])
    return Facts(outputs[:, first], outputs, macs, weights, bits, runs)


def draw_subnets(net: Network, rng: np.random.Generator, known: Collection[Subnet] = ()) -> Iterator[Subnet]:
    """Draw different sub-nets, as searches ask for them: near one width for all layers, and all over the place.

    Parameters
    ----------
    net : Network
    rng : Generator
    known : collection of Subnet
        Not to be drawn.

    Yields
    ------
    Subnet
        Until the network seems to have no further one.
    """
    seen = set(known)
    number = misses = 0
    while misses < TRIES:
        subnet = net.subnet(**_drawn(net, rng, number))
        number += 1
        misses = misses + 1 if subnet in seen else 0
        if not misses:
            seen.add(subnet)
            yield subnet


def _drawn(net: Network, rng: np.random.Generator, number: int) -> dict[str, Any]:
    """Draw the arguments of `Network.subnet`."""
    centre, kind = rng.uniform(), number % 4
    widths = []
    for space in net.spaces:
        offered = offered_widths(space)
        place = rng.uniform(-0.5, len(offered) - 0.5)
        if kind < len(SPREADS):
            place = centre * (len(offered) - 1) + rng.normal() * max(0.5, SPREADS[kind] * len(offered))
        widths.append(offered[int(np.clip(round(place), 0, len(offered) - 1))])
    made: dict[str, Any] = {"widths": widths}
    if net.views:
        # the same for all layers, mixed about evenly, or mostly one of them
        weights = rng.dirichlet([[0.1, 1.0, 5.0][number // 4 % 3]] * len(net.views))
        drawn = rng.choice(np.array(net.views), size=len(net.layers), p=weights).tolist()
        bits: list[Bits] = [b if layer.quantised else "fp32" for b, layer in zip(drawn, net.layers, strict=True)]
        made["bits"] = bits
    if net.stages and number % 8 == 7:
        made["depth"] = [int(rng.integers(least, blocks + 1)) for blocks, least in net.stages]
    return made


def design_subnets(net: Network) -> list[Subnet]:
    """Choose the sub-nets to measure for a network; always the same ones.

    One after the other, of several drawn the one with most pairs of widths and bits that no layer had before.

    Parameters
    ----------
    net : Network

    Returns
    -------
    list of Subnet
        Twice as many as the layer with most such pairs has, at most 240; none if the network has few sub-nets.
    """
    drawn = draw_subnets(net, np.random.default_rng(0))
    few = [subnet for subnet, _ in zip(drawn, range(2 * LEAST), strict=False)]
    if len(few) < LEAST:
        return []
    wanted = min(MOST, max(2 * LEAST, 2 * _most_pairs(net)))
    chosen: list[Subnet] = []
    covered: set[tuple[int, ...]] = set()
    waiting, pairs = few, _pairs(net, few)
    while waiting and len(chosen) < wanted:
        while len(waiting) < CANDIDATES and (more := next(drawn, None)) is not None:
            waiting, pairs = [*waiting, more], [*pairs, *_pairs(net, [more])]
        best = max(range(min(CANDIDATES, len(waiting))), key=lambda i: len(pairs[i] - covered))
        covered |= pairs.pop(best)
        chosen.append(waiting.pop(best))
    return chosen


def _pairs(net: Network, subnets: Sequence[Subnet]) -> list[set[tuple[int, ...]]]:
    """(node, inputs, outputs, bits) of every layer with weights that runs."""
    f = facts_of(net, subnets)
    layers = [k for k in net._rules._layers]
    columns = (f.inputs[:, layers].astype(int), f.outputs[:, layers].astype(int), f.bits[:, layers])
    found = []
    for runs, *row in zip(f.runs[:, layers], *columns, strict=True):
        numbers = zip(layers, *(values.tolist() for values in row), strict=True)
        found.append({pair for pair, there in zip(numbers, runs, strict=True) if there})
    return found


def _most_pairs(net: Network) -> int:
    """Pairs of widths, times bits, of the layer with the most."""
    sizes = {space.index: len(offered_widths(space)) for space in net.spaces}
    graph = net._graph
    levels = []
    for tensor in graph.tensors:
        leads = {graph.spaces[space][2] for space, _, _ in tensor["segments"]}
        levels.append(int(np.prod([sizes.get(lead, 1) for lead in leads])))
    nodes = net._spec.nodes
    most = max(
        (levels[k] * levels[nodes[k].inputs[0]] if leads_apart(net, k) else levels[k] for k in net._rules._layers),
        default=1,
    )
    return most * max(1, len(net.views))


def leads_apart(net: Network, node: int) -> bool:
    """Whether a layer's inputs and outputs have widths of their own."""
    spaces, tensors = net._graph.spaces, net._graph.tensors
    ends = [{spaces[s][2] for s, _, _ in tensors[k]["segments"]} for k in (net._spec.nodes[node].inputs[0], node)]
    return ends[0] != ends[1]
