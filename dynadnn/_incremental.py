"""Incremental training of channel groups (Xun et al., MLCAD 2019): one after the other, earlier ones frozen.

Group g of a grouped network reads nothing but group g, and the last layer adds up what the groups say. So training
group g while the groups before it are frozen is training a network of that group alone, to whose outputs those of the
frozen groups are added: no other gradient exists, and batch norms see exactly the channels they will see at run time.
The frozen part runs on the inference engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ._arguments import generator, thread_count
from ._continue import group_source
from ._errors import UnsupportedError
from ._history import History
from ._interrupts import OneInterrupt
from ._loop import Loop
from ._network import Network
from ._points import Subnet
from ._saving import group_checkpoint
from ._surgery import Channels, cut_network, norms
from ._tables import Tables

F32 = NDArray[np.float32]
Keep = list[NDArray[np.int64]]
_SEEDS = 29  # stream of random numbers

MakeLoop = Callable[[Network, dict[str, Any]], Loop]


def group_channels(net: Network, group: int) -> Keep:
    """Channels of every tensor that belong to one group, or to all."""
    groups = net._spec.groups
    part = {i: full // groups for i, (full, elastic, _, _) in enumerate(net._graph.spaces) if elastic}
    keep = []
    for tensor in net._tensors:
        channels = Channels(tensor["segments"])
        size = np.array([part.get(int(s), 0) for s in channels.space])
        mine = (size == 0) | ((channels.index >= group * size) & (channels.index < (group + 1) * size))
        keep.append(np.flatnonzero(mine))
    return keep


def cut_group(net: Network, group: int) -> Network:
    """Return the network of one channel group alone; only that of the first group adds the last layer's bias."""
    keep = group_channels(net, group)
    part = cut_network(net, net.subnet(width=1.0), keep, 1)
    if group == 0:
        return part
    last = _adding_layer(net)
    nodes = tuple(msgspec.structs.replace(n, bias=False) if n.name == last else n for n in part._spec.nodes)
    weights = {key: value for key, value in part.weights.items() if key != f"{last}.bias"}
    return Network(
        msgspec.structs.replace(part._spec, nodes=nodes),
        weights,
        divisor=part.divisor,
        preprocess=part.preprocess,
        seed=part.seed,
    )


def _adding_layer(net: Network) -> str:
    """Name of the layer that adds up the groups."""
    elastic = {i for i, space in enumerate(net._graph.spaces) if space[1]}

    def is_elastic(i: int) -> bool:
        return any(s in elastic for s, _, _ in net._tensors[i]["segments"])

    for i, node in enumerate(net._spec.nodes):
        if node.op in ("conv2d", "linear") and node.groups == 1 and is_elastic(node.inputs[0]) and not is_elastic(i):
            return node.name
    raise UnsupportedError("Incremental() needs a last linear layer that adds up the groups; this network has none")


def put_group(net: Network, part: Network, group: int) -> None:
    """Give a network the weights of one of its groups, as `cut_group` cut it out."""
    keep = group_channels(net, group)
    weights = dict(net.weights)
    for key, value in part.weights.items():
        name, _ = key.rsplit(".", 1)
        node, rows = net._spec.nodes[net._numbers[name]], keep[net._numbers[name]]
        whole = weights[key].copy()
        if key.endswith(".weight") and node.op in ("conv2d", "linear") and node.groups == 1:
            block = whole[rows]
            block[..., keep[node.inputs[0]]] = value
            whole[rows] = block
        else:
            whole[rows] = value
        weights[key] = whole
    net._set_weights(weights)


def put_statistics(net: Network, part: Network, group: int, tables: Tables) -> Tables:
    """Return a network's statistics with those of one of its groups filled in."""
    keep = group_channels(net, group)
    mean, variance = tables.mean.copy(), tables.variance.copy()
    known = part.tables.get(part._find(None))
    if known is None:
        return tables
    starts = {name: (i, start) for name, i, start, _ in norms(net)}
    for name, _, start, count in norms(part):
        i, to = starts[name]
        mean[to + keep[i]] = known.mean[start : start + count]
        variance[to + keep[i]] = known.variance[start : start + count]
    return Tables(mean, variance)


def fit_groups(net: Network, make_loop: MakeLoop, options: Mapping[str, Any], seed: int) -> History:
    """Train every group of a network in turn, each for all epochs; the network is changed.

    Parameters
    ----------
    net : Network
        Of several groups.
    make_loop : callable
        From a group's network and the options of `fit` to the loop that trains it.
    options : mapping
        Of `fit`. A checkpoint is one file per group: its path, and the group's number.
    seed : int

    Returns
    -------
    History
        The epochs of all groups one after the other; ``history["group"]`` says whose (from 1), and validation figures
        are those of all groups so far together.
    """
    with OneInterrupt():
        return _fit_groups(net, make_loop, options, seed)


def _fit_groups(net: Network, make_loop: MakeLoop, options: Mapping[str, Any], seed: int) -> History:
    groups = net._spec.groups
    _adding_layer(net)
    whole = History(seed=seed)
    statistics = Tables(*net._empty_statistics())
    prefixes = [net.subnet(width=(g + 1) / groups) for g in range(groups)]
    tables: dict[Subnet, Tables] = {}
    for group in range(groups):
        part = cut_group(net, group)
        loop = make_loop(part, _options_of(options, group, seed, whole.seconds))
        if group:
            loop.offset = net.slice(prefixes[group - 1]).compile(threads=thread_count(options["threads"]))
        loop.callbacks.common = {"group": group + 1}
        loop.progress.say(f"group {group + 1} of {groups}")
        try:
            history = loop.run()
        finally:
            put_group(net, part, group)
            statistics = put_statistics(net, part, group, statistics)
            tables[prefixes[group]] = statistics
            net._set_tables(tables if net._needs_tables else {})
            net._calibration, net.provenance = part._calibration, part.provenance
        _append(whole, history, group)
    return whole


def _options_of(options: Mapping[str, Any], group: int, seed: int, spent: float) -> dict[str, Any]:
    """One group's options: its own random numbers, its own checkpoint, what is left of the time."""
    own = {**options, "rng": seed if group == 0 else int(generator(seed, _SEEDS, group).integers(2**31))}
    own["checkpoint"] = group_checkpoint(options["checkpoint"], group)
    own["continue_from"] = group_source(options["continue_from"], group)
    if options["max_seconds"] is not None:
        own["max_seconds"] = max(1e-9, options["max_seconds"] - spent)
    return own


def _append(whole: History, part: History, group: int) -> None:
    before = whole.epochs
    for key, values in {**part.history, "group": [group + 1.0] * part.epochs}.items():
        whole.history.setdefault(key, [float("nan")] * before).extend(values)
    whole.halted += part.halted
    whole.rollbacks += part.rollbacks
    whole.steps += part.steps
    whole.skipped += part.skipped
    whole.macs += part.macs
    whole.seconds += part.seconds
    whole.train_seconds += part.train_seconds
