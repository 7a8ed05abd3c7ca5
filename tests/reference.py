"""The oracle: what a network computes, written from the specification in plain NumPy, slowly and readably.

A network is a list of node dictionaries with the fields of ``dn_node_spec``; missing fields have the defaults of
``_core.Graph``. ``run_int8`` follows the number rules of the architecture to the last bit, ``run_float`` is ordinary
arithmetic in a type of choice, and ``calibrate`` fills the tables of an operating point from images. ``networks.py``
makes networks to try it on.

Two facts carry the exactness. Integer sums are formed in float64, where every partial sum below 2**53 is exact. And
``fma`` rounds once: the product of two float32 is exact in float64, the sum with the third is split by TwoSum into a
rounded sum and its exact error, and the sum is then *rounded to odd* with that error, so that the final rounding to
float32 cannot round twice (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).

Where the specification leaves an order of operations or a case open, this file decides:

1.  Table entries are products and quotients of the float32 inputs taken in double and rounded to float32 once: ``s =
    s_in * s_w * (gamma / sqrt(var + eps)) / s_out``.
2.  The sum of ``b`` in double: ``(beta - mean*g + bias*g) / s_out + zp_out - zp_in * sum(codes) * s - zp_res * s_res /
    s_out`` with the unrounded double ``s``. Other orders differ by about 2**-52 of the largest term, so practically
    never after rounding to float32.
3.  ``relu6``: ``hi = min(255, rint(6 / s_out))`` with the quotient in double; fused or not. It is a clamp after the
    residual, as for relu.
4.  Tables (leaky_relu, sigmoid, hardsigmoid): ``clamp(rint(f((q - zp_in) * s_in) / s_out + zp_out), 0, 255)`` in
    double; hardsigmoid is ``min(max(x / 6 + 1/2, 0), 1)``.
5.  hardswish with a residual: the residual is added, in real units (``rs = s_res``), before the activation; ``1/6``
    and ``1/s_out`` are correctly rounded float32.
6.  A batch norm or an add that no convolution takes in takes the activation behind it in, but a batch norm no add.
    Such an add has its first input as the accumulator and its second as the residual; such a batch norm has ``s = g *
    s_in / s_out``, as in 1 with ``s_w = 1`` and one "weight" of 1, so ``b`` holds ``- zp_in * s``.
7.  In a fused add the residual is the other input, whichever side of the add it stands on. Where both inputs end
    convolution chains, the higher tensor number fuses. An add of a tensor to itself does not fuse (the tensor has two
    consumers). The network's output counts as a consumer; what does not lead to it does not.
8.  A chain does not cross the border of a block, for the block may be dropped. It looks through dropout, identity and
    flatten.
9.  The chain (convolution or linear, batch norm, add) that makes the network's output, directly or through identity,
    dropout and flatten, writes float32 ``v`` without clamp and rounding, with ``s`` and ``b`` in real units. Any other
    output is dequantised: ``float32(q - zp) * s``.
10. Average pools divide by the pixels inside the image; ``fma(sum, float32(s_in / (n * s_out)), float32(zp_out - zp_in
    * s_in / s_out))``. adaptive_avg_pool windows run from ``floor(i * size / out)`` to ``ceil((i + 1) * size / out)``.
    max_pool ignores padding.
11. A concat copies an input whose scale and zero point (after following shared scales and dropped blocks) equal its
    own and requantises the others.
12. A dropped block's output is its input, scale and zero point included; what shares a scale with it follows.
13. Channel groups: the last linear layer does ``v = fma(acc_0, s_0, b)``, then ``v = fma(acc_g, s_g, v + b_g)`` for
    the active groups in order. ``b`` holds the compensation of group 0 alone and ``b_g`` that of group g, so that a
    prefix of the groups has the same sums whichever follow. Fixed spaces (the image, the outputs) have group 0 only.
14. Input: float32 ``fma(x, 1/s, 128)``, clamped and rounded to nearest even; bytes go through ``input_table`` first.
15. batch-norm statistics are those of the convolution's real output (exact integer accumulator times scales plus
    bias), in float64, biased variance.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Node = dict[str, Any]
F32 = np.float32

DEFAULTS: Node = {
    "inputs": (),
    "height": 0,
    "width": 0,
    "channels": 0,
    "kernel": (1, 1),
    "stride": (1, 1),
    "pad": (0, 0, 0, 0),
    "dilation": (1, 1),
    "groups": 1,
    "bias": 0,
    "fixed": 0,
    "stage": -1,
    "block": 0,
    "value": 0.0,
    "map": None,
}
SHARES_SCALE = ("max_pool", "flatten", "dropout", "identity", "pad", "shortcut")
NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "hardsigmoid")
PASSES = ("identity", "dropout", "flatten")
FUSED_ACTIVATIONS = ("relu", "relu6", "hardswish")
PLAIN: Node = {"stride": (1, 1), "pad": (0, 0, 0, 0), "dilation": (1, 1)}  # how a linear layer convolves
TABLE_ACTIVATIONS = ("leaky_relu", "sigmoid", "hardsigmoid")


class UnspecifiedError(Exception):
    """The specification does not say what this network computes."""


# ---- arithmetic ----


def fma32(a: Any, b: Any, c: Any) -> Any:
    """Return ``a * b + c`` of float32 values, rounded to float32 once."""
    a, b, c = (np.asarray(x, F32).astype(np.float64) for x in (a, b, c))
    p = a * b  # exact: 24 + 24 bits
    s = p + c
    t = s - p  # TwoSum (Knuth): s + error is p + c exactly
    error = (p - (s - t)) + (c - t)
    even = (np.asarray(s).view(np.int64) & 1) == 0
    away = np.nextafter(s, np.where(error > 0, np.inf, -np.inf))
    return np.where((error != 0) & even, away, s).astype(F32)


def round_to_byte(v: Any) -> Any:
    """Round float values that are already clamped to 0..255, ties to even."""
    return np.rint(v).astype(np.uint8)


def view(codes: Any, bits: int) -> Any:
    """Return the nested ``bits``-bit view of 8-bit codes, still on the 8-bit grid."""
    q = np.asarray(codes, np.int64)
    if bits == 8:
        return q
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return np.clip((q + 2 ** (7 - bits)) >> (8 - bits), low, high) * 2 ** (8 - bits)


def sigmoid(x: Any) -> Any:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def activate(op: str, x: Any, slope: float = 0.0) -> Any:
    """Activations on real numbers, in the type of ``x``."""
    if op == "relu":
        return np.maximum(x, 0)
    if op == "relu6":
        return np.clip(x, 0, 6)
    if op == "leaky_relu":
        return np.where(x >= 0, x, x * x.dtype.type(slope))
    if op == "hardswish":
        return x * np.clip(x / 6 + x.dtype.type(0.5), 0, 1)
    if op == "sigmoid":
        return sigmoid(x)
    if op == "hardsigmoid":
        return np.clip(x / 6 + x.dtype.type(0.5), 0, 1)
    raise ValueError(op)


def convolve(x: Any, w: Any, node: Node, groups: int, fill: float | Any) -> Any:
    """Convolve x [n, h, w, c] with w [o, kh, kw, c / groups]; outside the image there is ``fill``."""
    n, height, width, channels = x.shape
    outputs, kh, kw, per_group = w.shape
    top, bottom, left, right = node["pad"]
    padded = np.empty((n, height + top + bottom, width + left + right, channels), x.dtype)
    padded[:] = fill
    padded[:, top : top + height, left : left + width] = x
    (sh, sw), (dh, dw) = node["stride"], node["dilation"]
    out_h = (padded.shape[1] - (kh - 1) * dh - 1) // sh + 1
    out_w = (padded.shape[2] - (kw - 1) * dw - 1) // sw + 1
    out = np.zeros((n, out_h, out_w, outputs), x.dtype)
    if groups == 0:
        return out
    step = outputs // groups
    for i in range(kh):
        for j in range(kw):
            tap = padded[:, i * dh : i * dh + (out_h - 1) * sh + 1 : sh, j * dw : j * dw + (out_w - 1) * sw + 1 : sw]
            if per_group == 1 and step == 1:
                out += tap * w[:, i, j, 0]
                continue
            for g in range(groups):
                part = slice(g * step, (g + 1) * step)
                out[..., part] += tap[..., g * per_group : (g + 1) * per_group] @ w[part, i, j].T
    return out


# ---- structure ----


@dataclass
class Tensor:
    height: int
    width: int
    channels: int  # of the map; features = height * width * channels after a flatten
    flat: bool
    space: Any  # per channel (per feature when flat): which space, and where in it
    position: Any
    signed: bool
    scale_from: int
    norm_offset: int = -1

    @property
    def features(self) -> int:
        return len(self.space)


class Network:
    """Shapes, channel spaces and fusion of a list of nodes. Trusts its input."""

    def __init__(self, nodes: list[Node], output: int | None = None, groups: int = 1) -> None:
        self.nodes = [{**DEFAULTS, **node} for node in nodes]
        self.output = len(nodes) - 1 if output is None else output
        self.groups = groups
        self.tensors: list[Tensor] = []
        self._parent: list[int] = []
        self._full: list[int] = []
        self._fixed: list[bool] = []
        self._links: list[tuple[int, int, int]] = []  # space, the space that leads it, channels per step of the leader
        self._frozen: list[int] = []
        self.norm_channels = 0
        for number, node in enumerate(self.nodes):
            self.tensors.append(self._infer(number, node))
        self._settle_spaces()
        self.live = live = [False] * len(
            self.nodes
        )  # what no way leads from to the output is not computed and consumes nothing
        live[self.output] = True
        self.consumers: list[list[int]] = [[] for _ in self.nodes]
        for number in reversed(range(len(self.nodes))):
            if live[number]:
                for source in self.nodes[number]["inputs"]:
                    live[source] = True
                    self.consumers[source].append(number)
        self.consumers[self.output].append(-1)
        self.chains = self._fuse()
        self.float_tail = self.output  # the tensor that is written as float logits, if a chain makes it
        while len(self.consumers[self.float_tail]) == 1 and self.nodes[self.float_tail]["op"] in PASSES:
            self.float_tail = self.nodes[self.float_tail]["inputs"][0]
        if len(self.consumers[self.float_tail]) > 1:
            self.float_tail = -1

    # -- shapes

    def _open(self, full: int, fixed: bool) -> int:
        self._parent.append(len(self._parent))
        self._full.append(full)
        self._fixed.append(fixed)
        return self._parent[-1]

    def _find(self, space: int) -> int:
        while self._parent[space] != space:
            space = self._parent[space]
        return space

    def _merge(self, a: Tensor, b: Tensor) -> None:
        assert a.features == b.features and (a.position == b.position).all()
        for one, other in {(int(x), int(y)) for x, y in zip(a.space, b.space, strict=True)}:
            low, high = sorted((self._find(one), self._find(other)))
            self._parent[high] = low
            self._fixed[low] = self._fixed[low] or self._fixed[high]

    def _infer(self, number: int, node: Node) -> Tensor:
        op = node["op"]
        source = [self.tensors[i] for i in node["inputs"]]
        signed = op not in NEVER_NEGATIVE
        if op in (*SHARES_SCALE, "avg_pool", "global_avg_pool", "adaptive_avg_pool"):
            signed = source[0].signed
        elif op in ("add", "mul", "concat"):
            signed = any(t.signed for t in source)
        scale_from = node["inputs"][0] if op in SHARES_SCALE else number

        def make(height: int, width: int, channels: int, space: Any, position: Any, flat: bool = False) -> Tensor:
            return Tensor(height, width, channels, flat, np.asarray(space), np.asarray(position), signed, scale_from)

        def new(height: int, width: int, channels: int, fixed: bool) -> Tensor:
            space = self._open(channels, fixed)
            return make(height, width, channels, np.full(channels, space), np.arange(channels))

        if op == "input":
            return new(node["height"], node["width"], node["channels"], True)
        first = source[0]
        if op == "conv2d":
            (kh, kw), (dh, dw), (sh, sw) = node["kernel"], node["dilation"], node["stride"]
            top, bottom, left, right = node["pad"]
            height = (first.height + top + bottom - (kh - 1) * dh - 1) // sh + 1
            width = (first.width + left + right - (kw - 1) * dw - 1) // sw + 1
            if node["groups"] == first.channels == node["channels"] and node["groups"] > 1:
                return make(height, width, first.channels, first.space, first.position)
            out = new(height, width, node["channels"], bool(node["fixed"]))
            if node["groups"] > 1:
                leaders = {self._find(int(s)) for s in first.space}
                if len(leaders) > 1:  # groups across a concat: nothing can be left out
                    self._frozen += [*leaders, int(out.space[0])]
                else:
                    self._links.append((int(out.space[0]), leaders.pop(), first.channels // node["groups"]))
            return out
        if op == "linear":
            return new(1, 1, node["channels"], bool(node["fixed"]))
        if op == "shortcut":
            (sh, sw) = node["stride"]
            return new(-(-first.height // sh), -(-first.width // sw), node["channels"], bool(node["fixed"]))
        if op == "flatten":
            times = 1 if first.flat else first.height * first.width
            return make(
                first.height,
                first.width,
                first.channels,
                np.tile(first.space, times),
                np.tile(first.position, times),
                True,
            )
        if op in ("max_pool", "avg_pool"):
            (kh, kw), (sh, sw) = node["kernel"], node["stride"]
            top, bottom, left, right = node["pad"]
            height = (first.height + top + bottom - kh) // sh + 1
            width = (first.width + left + right - kw) // sw + 1
            return make(height, width, first.channels, first.space, first.position)
        if op == "global_avg_pool":
            return make(1, 1, first.channels, first.space, first.position)
        if op == "adaptive_avg_pool":
            return make(node["height"], node["width"], first.channels, first.space, first.position)
        if op == "pad":
            top, bottom, left, right = node["pad"]
            height, width = first.height + top + bottom, first.width + left + right
            return make(height, width, first.channels, first.space, first.position)
        if op == "concat":
            space = np.concatenate([t.space for t in source])
            position = np.concatenate([t.position for t in source])
            channels = len(space) if first.flat else sum(t.channels for t in source)
            height, width = (1, 1) if first.flat else (first.height, first.width)
            return make(height, width, channels, space, position, first.flat)
        if op in ("add", "mul"):
            for other in source[1:]:
                self._merge(first, other)
            large = max(source, key=lambda t: t.height * t.width)
            return make(large.height, large.width, first.channels, first.space, first.position, first.flat)
        same = make(first.height, first.width, first.channels, first.space, first.position, first.flat)
        if op == "batchnorm":
            same.norm_offset = self.norm_channels
            self.norm_channels += same.features
        return same

    def _settle_spaces(self) -> None:
        """Number the spaces by first use and find out who leads whom."""
        for space in {int(s) for s in self.tensors[self.output].space}:
            self._fixed[self._find(space)] = True
        for space in self._frozen:
            self._fixed[self._find(space)] = True
        roots: list[int] = []
        for tensor in self.tensors:
            tensor.space = np.array([self._find(int(s)) for s in tensor.space])
            for root in tensor.space[: tensor.features // (tensor.height * tensor.width) if tensor.flat else None]:
                if root not in roots:
                    roots.append(int(root))
        number = {root: k for k, root in enumerate(roots)}
        for tensor in self.tensors:
            tensor.space = np.array([number[int(s)] for s in tensor.space])
        self.full = [self._full[root] for root in roots]
        self.elastic = [not self._fixed[root] for root in roots]
        self.lead = list(range(len(roots)))
        self.unit = [1] * len(roots)  # active channels of a leader are a multiple of this, or all
        for child, leader, size in self._links:
            child, leader = number[self._find(child)], number[self._find(leader)]
            while self.lead[leader] != leader:
                size = size * self.full[self.lead[leader]] // self.full[leader]
                leader = self.lead[leader]
            if child != leader:
                self.lead[child] = leader
            self.unit[leader] = math.lcm(self.unit[leader], size)
            # A fixed space does not move, so what it leads, or what leads it, cannot either.
            if not (self.elastic[child] and self.elastic[leader]):
                self.elastic[child] = self.elastic[leader] = False
        if self.groups > 1:
            free = [k for k in range(len(roots)) if self.elastic[k]]
            for k in free:
                self.lead[k] = free[0]
            if free:
                self.unit[free[0]] = max(1, self.full[free[0]] // self.groups)

    def active(self, leaders: dict[int, int]) -> list[int]:
        """Active channels of every space, given those of the leading elastic ones."""
        out = []
        for k, full in enumerate(self.full):
            lead = self.lead[k]
            out.append(leaders.get(lead, self.full[lead]) * full // self.full[lead] if self.elastic[k] else full)
        return out

    # -- fusion

    def quantised_head(self, number: int) -> bool:
        return self.nodes[number]["op"] in ("conv2d", "linear")

    def _follow(self, tensor: int, ops: tuple[str, ...]) -> int | None:
        """The only reader of a tensor, behind ops that only pass values on, if it is one of `ops` in the same block."""
        while True:
            users = self.consumers[tensor]
            if len(users) != 1 or users[0] < 0:
                return None
            here, there = (
                self.nodes[n]["stage"] >= 0 and (self.nodes[n]["stage"], self.nodes[n]["block"])
                for n in (tensor, users[0])
            )
            if here != there:
                return None
            if self.nodes[users[0]]["op"] in ops:
                return users[0]
            if self.nodes[users[0]]["op"] not in PASSES:
                return None
            tensor = users[0]

    def _fuse(self) -> dict[int, dict[str, int | None]]:
        """Map the last tensor of every chain to its parts; head is None where no convolution begins it."""
        chains: dict[int, dict[str, int | None]] = {}
        fused_adds = set()
        for number, node in enumerate(self.nodes):
            if node["op"] in ("conv2d", "linear"):
                norm = self._follow(number, ("batchnorm",))
                tail = number if norm is None else norm
                chains[tail] = {"head": number, "norm": norm, "add": None, "residual": None, "activation": None}
        behind = {tail: self._follow(tail, ("add",)) for tail in chains}
        for number, node in enumerate(self.nodes):
            tails = [tail for tail, add in behind.items() if add == number]
            if node["op"] == "add" and tails:
                tail = max(tails)
                chain = chains.pop(tail)
                first = node["inputs"][0]
                while first != tail and self.nodes[first]["op"] in PASSES:
                    first = self.nodes[first]["inputs"][0]
                residual = node["inputs"][1 if first == tail else 0]
                chains[number] = chain | {"add": number, "residual": residual}
                fused_adds.add(number)
        norms = {chain["norm"] for chain in chains.values()}
        for number, node in enumerate(self.nodes):
            if (node["op"] == "add" and number not in fused_adds) or (
                node["op"] == "batchnorm" and number not in norms
            ):
                key = "add" if node["op"] == "add" else "norm"
                residual = node["inputs"][1] if key == "add" else None
                chains[number] = {"head": None, "norm": None, "add": None, "activation": None}
                chains[number] |= {key: number, "residual": residual}
        for tail in list(chains):
            activation = self._follow(tail, FUSED_ACTIVATIONS)
            if activation is not None:
                chains[activation] = chains.pop(tail) | {"activation": activation}
        return chains

    def inside_chains(self) -> set[int]:
        """Tensors that a chain computes on the way to its last one: they are never stored."""
        inside = set()
        for parts in self.chains.values():
            along = [v for k, v in parts.items() if k != "residual" and v is not None]
            for number, following in itertools.pairwise(along):
                while number != following:
                    inside.add(number)
                    number = self.consumers[number][0]
        return inside

    # -- depth

    def resolve(self, depth: Any | None) -> tuple[list[int], list[bool]]:
        """Which tensor to read in place of each, and which nodes are in dropped blocks."""
        alias = list(range(len(self.nodes)))
        skip = [False] * len(self.nodes)
        if depth is None:
            return alias, skip
        for number, node in enumerate(self.nodes):
            stage = node["stage"]
            skip[number] = 0 <= stage < len(depth) and node["block"] >= depth[stage]
        blocks: dict[tuple[int, int], list[int]] = {}
        for number, node in enumerate(self.nodes):
            if skip[number]:
                blocks.setdefault((node["stage"], node["block"]), []).append(number)
        for _, members in sorted(blocks.items(), key=lambda item: item[1][0]):
            inside = set(members)
            sources = {i for m in members for i in self.nodes[m]["inputs"]} - inside
            results = [m for m in members if set(self.consumers[m]) - inside]
            if not results:  # nothing reads it: it is dead code
                continue
            assert len(sources) == 1 and len(results) == 1
            alias[results[0]] = alias[sources.pop()]
        return alias, skip


@dataclass
class Subnet:
    active: list[int]  # per space of Network
    bits: list[int] | None = None  # per node
    depth: list[int] | None = None  # per stage


@dataclass
class Tables:
    mean: Any
    variance: Any
    scale: Any  # [nodes][groups]


@dataclass
class Params:
    """Parameters of one node; codes and code_scale only if quantised."""

    weight: Any = None
    codes: Any = None
    code_scale: Any = None
    bias: Any = None


class Bound:
    """A network at an operating point: who is active, who reads whom."""

    def __init__(self, net: Network, subnet: Subnet) -> None:
        self.net, self.subnet = net, subnet
        self.alias, self.skip = net.resolve(subnet.depth)
        limit = np.asarray(subnet.active)
        self.kept = [np.flatnonzero(t.position < limit[t.space]) for t in net.tensors]

    def root(self, tensor: int) -> int:
        """Whose scale and zero point a tensor has."""
        while True:
            tensor = self.alias[tensor]
            following = self.net.tensors[tensor].scale_from
            if following == tensor:
                return tensor
            tensor = following

    def zero(self, tensor: int) -> int:
        return 128 if self.net.tensors[self.root(tensor)].signed else 0

    def channel_group(self, tensor: int) -> Any:
        """Group of each active channel."""
        net, t = self.net, self.net.tensors[tensor]
        kept = self.kept[tensor]
        full = np.asarray(net.full)[t.space[kept]]
        elastic = np.asarray(net.elastic)[t.space[kept]]
        return np.where(elastic, t.position[kept] * net.groups // full, 0)

    def scale(self, tensor: int, tables: Tables) -> Any:
        """Scale of each active channel, in double."""
        rows = np.asarray(tables.scale, F32).astype(np.float64)[self.root(tensor)]
        return rows[self.channel_group(tensor)]

    def weights(self, number: int, full: Any) -> tuple[Any, int]:
        """Return the active part of a weight tensor as [out][kh][kw][in per group] and its active groups."""
        node = self.net.nodes[number]
        source = node["inputs"][0]
        inputs, outputs = self.kept[source], self.kept[number]
        t = self.net.tensors[source]
        if node["op"] == "linear":
            return full.reshape(node["channels"], -1)[np.ix_(outputs, inputs)][:, None, None, :], 1
        if node["groups"] == 1:
            return full[outputs][..., inputs], 1
        return full[outputs], len(inputs) * node["groups"] // t.channels


def flatten_map(x: Any) -> Any:
    return x.reshape(x.shape[0], 1, 1, -1)


def windows(node: Node, t: Tensor, out: Tensor) -> Any:
    """Yield (y, x, rows, columns) of every pool window, clipped to the image."""
    for y in range(out.height):
        for x in range(out.width):
            if node["op"] == "global_avg_pool":
                rows, columns = slice(0, t.height), slice(0, t.width)
            elif node["op"] == "adaptive_avg_pool":
                rows = slice(y * t.height // out.height, -(-(y + 1) * t.height // out.height))
                columns = slice(x * t.width // out.width, -(-(x + 1) * t.width // out.width))
            else:
                top, left = y * node["stride"][0] - node["pad"][0], x * node["stride"][1] - node["pad"][2]
                rows = slice(max(top, 0), min(top + node["kernel"][0], t.height))
                columns = slice(max(left, 0), min(left + node["kernel"][1], t.width))
            yield y, x, rows, columns


def rearrange(bound: Bound, number: int, x: Any, zero: Any) -> Any:
    """The ops that only move values: the same for codes (zero = zero point) and for real numbers."""
    net, node = bound.net, bound.net.nodes[number]
    op, source = node["op"], node["inputs"][0]
    out = net.tensors[number]
    if op in ("dropout", "identity"):
        return x
    if op == "flatten":
        return flatten_map(x)
    if op == "pad":
        top, _, left, _ = node["pad"]
        y = np.empty((x.shape[0], out.height, out.width, x.shape[3]), x.dtype)
        y[:] = zero
        y[:, top : top + x.shape[1], left : left + x.shape[2]] = x
        return y
    if op == "max_pool":
        y = np.empty((x.shape[0], out.height, out.width, x.shape[3]), x.dtype)
        for i, j, rows, columns in windows(node, net.tensors[source], out):
            y[:, i, j] = x[:, rows, columns].max((1, 2))
        return y
    if op == "shortcut":
        x = x[:, :: node["stride"][0], :: node["stride"][1]]
        where = {int(channel): k for k, channel in enumerate(bound.kept[source])}
        y = np.empty((*x.shape[:3], len(bound.kept[number])), x.dtype)
        y[:] = zero
        for k, channel in enumerate(bound.kept[number]):
            if int(node["map"][channel]) in where:
                y[..., k] = x[..., where[int(node["map"][channel])]]
        return y
    raise ValueError(op)


# ---- integers ----


def quantize_input(x: Any, scale: Any, input_table: Any | None) -> Any:
    if x.dtype == np.uint8:
        assert input_table is not None
        x = np.stack([input_table[c][x[..., c]] for c in range(x.shape[-1])], -1)
    inverse = (1 / np.asarray(scale, F32).astype(np.float64)).astype(F32)
    return round_to_byte(np.clip(fma32(x, inverse, F32(128)), F32(0), F32(255)))


def epilogue(
    acc: Any,
    s: Any,
    b: Any,
    residual: Any = None,
    rs: Any = None,
    hardswish: tuple[Any, Any] | None = None,
    lo: Any = 0,
    hi: Any = 255,
) -> Any:
    v = fma32(acc.astype(np.int64).astype(F32), s.astype(F32), b.astype(F32))
    if residual is not None:
        v = fma32(residual.astype(F32), rs.astype(F32), v)
    if hardswish is not None:
        t = np.minimum(np.maximum(fma32(v, F32(1 / 6), F32(0.5)), F32(0)), F32(1))
        v = fma32(v * t, hardswish[0].astype(F32), np.asarray(hardswish[1], F32))
    return round_to_byte(np.minimum(np.maximum(v, np.asarray(lo, F32)), np.asarray(hi, F32)))


@dataclass
class Int8Run:
    logits: Any
    codes: dict[int, Any]  # tensor -> uint8 [n, h, w, active]
    bound: Bound
    tables: Tables

    def real(self, tensor: int) -> Any:
        """The dequantised values of a tensor, as the engine reports them."""
        tensor = self.bound.alias[tensor]
        q = self.codes[tensor].astype(np.int32) - self.bound.zero(tensor)
        return q.astype(F32) * self.bound.scale(tensor, self.tables).astype(F32)


class _Int8:
    """One integer forward pass. With a chooser, statistics and scales are made on the way."""

    def __init__(self, bound: Bound, params: list[Params], tables: Tables, chooser: Any = None) -> None:
        self.bound, self.params, self.tables, self.chooser = bound, params, tables, chooser
        self.net = bound.net
        self.codes: dict[int, Any] = {}
        self.logits: Any = None
        self.seen: Any = None  # where to note statistics

    def read(self, tensor: int) -> tuple[Any, int, Any]:
        """Codes, zero point and scale per channel."""
        tensor = self.bound.alias[tensor]
        return self.codes[tensor], self.bound.zero(tensor), self.bound.scale(tensor, self.tables)

    def real(self, tensor: int) -> Any:
        q, zero, scale = self.read(tensor)
        return (q.astype(np.float64) - zero) * scale

    def out_scale(self, tensor: int, real: Any) -> Any:
        """The scale of a step's output; chosen from its real values when calibrating."""
        if self.chooser is not None:
            group = self.bound.channel_group(tensor)
            for g in range(self.net.groups):
                part = real[..., group == g]
                if part.size:
                    self.tables.scale[tensor, g] = self.chooser.scale(part, self.net.tensors[tensor].signed)
        return self.bound.scale(tensor, self.tables)

    def norm(self, number: int, real: Any) -> tuple[Any, Any]:
        """The factor and the shift of a batch norm, in double; made from its real input when calibrating."""
        kept = self.bound.kept[number]
        where = self.net.tensors[number].norm_offset + kept
        if self.chooser is not None:
            mean, variance = self.chooser.statistics(real)
            self.tables.mean[where], self.tables.variance[where] = mean, variance
        if self.seen is not None:
            self.seen[0, where], self.seen[1, where] = MinMax().statistics(real)
        mean, variance = (
            np.asarray(a, F32).astype(np.float64)[where] for a in (self.tables.mean, self.tables.variance)
        )
        epsilon = float(F32(self.net.nodes[number]["value"]))
        p = self.params[number]
        factor = p.weight.astype(np.float64)[kept] / np.sqrt(variance + epsilon)
        return factor, p.bias.astype(np.float64)[kept] - mean * factor

    def chain(self, tail: int, parts: dict[str, int | None]) -> None:
        bound, net = self.bound, self.net
        head = parts["head"]
        if head is None:
            self.affine(tail, parts)
            return
        node, p = dict(net.nodes[head]), self.params[head]
        kept = bound.kept[head]
        bits = 8 if bound.subnet.bits is None else bound.subnet.bits[head]
        w, groups = bound.weights(head, view(p.codes, bits).astype(np.float64))
        q, zero, s_in = self.read(node["inputs"][0])
        s_w = p.code_scale.astype(np.float64)[kept]
        bias = np.zeros(len(kept)) if p.bias is None else p.bias.astype(np.float64)[kept]
        x = q.astype(np.float64)
        if node["op"] == "linear":
            x = flatten_map(x)
            node |= PLAIN

        # One accumulator per input scale: one, except where a linear layer reads several channel groups.
        if node["op"] == "linear" and net.groups > 1:
            group = bound.channel_group(node["inputs"][0])
            members = [np.flatnonzero(group == g) for g in sorted(set(group.tolist()))]
            sums = [convolve(x[..., m], w[..., m], node, 1, zero) for m in members]
            codes = [w[..., m].sum((1, 2, 3)) for m in members]
            steps = [s_in[m[0]] * s_w for m in members]
        else:
            if groups == 1 and len(set(s_in.tolist())) > 1:
                raise UnspecifiedError("a convolution reads several channel groups at once")
            per_output = s_in[:1] if groups == 1 else np.repeat(s_in[:: w.shape[3]], len(kept) // groups)
            sums = [convolve(x, w, node, groups, zero)]
            codes = [w.sum((1, 2, 3))]
            steps = [per_output * s_w]
        assert all(np.abs(a).max(initial=0) < 2**31 for a in sums)

        real = sum((a - zero * c) * s for a, c, s in zip(sums, codes, steps, strict=True)) + bias
        factor, shift = np.ones(len(kept)), np.zeros(len(kept))
        if parts["norm"] is not None:
            factor, shift = self.norm(parts["norm"], real)
        offset = shift + bias * factor
        real = real * factor + shift
        residual = None
        if parts["residual"] is not None:
            residual, zero_res, s_res = self.read(parts["residual"])
            real = real + self.real(parts["residual"]).reshape(real.shape)
        activation = None if parts["activation"] is None else net.nodes[parts["activation"]]["op"]
        if activation is not None:
            real = activate(activation, real)

        if tail == net.float_tail and activation is None:
            s = [step * factor for step in steps]
            shifts = [-zero * c * each for c, each in zip(codes, s, strict=True)]
            shifts[0] = shifts[0] + offset
            if residual is not None:
                shifts[0] = shifts[0] - zero_res * s_res
            v = np.zeros(sums[0].shape, F32)
            for a, b, each in zip(sums, shifts, s, strict=True):
                v = fma32(a.astype(np.int64).astype(F32), each.astype(F32), v + b.astype(F32))
            if residual is not None:
                v = fma32(residual.astype(F32), s_res.astype(F32), v)
            self.logits = v
            return

        if len(sums) > 1:
            raise UnspecifiedError("a layer with integer output reads several channel groups")
        self.write(tail, activation, real, sums[0], steps[0] * factor, offset, zero * codes[0], parts["residual"])

    def affine(self, tail: int, parts: dict[str, int | None]) -> None:
        """A batch norm or an add that no convolution takes in, and the activation behind it."""
        first = parts["norm"] if parts["norm"] is not None else parts["add"]
        assert first is not None
        source = self.net.nodes[first]["inputs"][0]
        q, zero, s_in = self.read(source)
        real = self.real(source)
        factor, shift = np.ones(len(s_in)), np.zeros(len(s_in))
        if parts["norm"] is not None:
            factor, shift = self.norm(parts["norm"], real)
        real = real * factor + shift
        if parts["residual"] is not None:
            real = real + self.real(parts["residual"]).reshape(real.shape)
        activation = None if parts["activation"] is None else self.net.nodes[parts["activation"]]["op"]
        if activation is not None:
            real = activate(activation, real)
        self.write(tail, activation, real, q, s_in * factor, shift, np.full(len(s_in), zero), parts["residual"])

    def write(
        self,
        tail: int,
        activation: str | None,
        real: Any,
        acc: Any,
        step: Any,
        offset: Any,
        compensation: Any,
        residual: int | None,
    ) -> None:
        """The epilogue: acc counts `step` real units each, of which `compensation` counts stand for zero."""
        flat = self.net.tensors[tail].flat and acc.shape[3] != len(self.bound.kept[tail])
        s_out, zero_out = self.out_scale(tail, flatten_map(real) if flat else real), self.bound.zero(tail)
        s_out = s_out[: acc.shape[3]]  # pixel by pixel the same
        unit = np.ones(len(s_out)) if activation == "hardswish" else s_out
        s = step / unit
        b = offset / unit - compensation * s
        r = rs = None
        if residual is not None:
            r, zero_res, s_res = self.read(residual)
            r, s_res = r.reshape(acc.shape), s_res[: acc.shape[3]]
            b = b - zero_res * s_res / unit
            rs = s_res / unit
        if activation == "hardswish":
            y = epilogue(acc, s, b, r, rs, (1 / s_out, zero_out))
        else:
            hi = np.minimum(255, np.rint(6 / s_out)) if activation == "relu6" else 255
            y = epilogue(acc, s, b + zero_out, r, rs, None, 0, hi)
        self.codes[tail] = flatten_map(y) if flat else y

    def alone(self, number: int) -> None:
        bound, net = self.bound, self.net
        node = net.nodes[number]
        op = node["op"]
        if op in SHARES_SCALE:
            q, zero, _ = self.read(node["inputs"][0])
            self.codes[number] = rearrange(bound, number, q, zero)
            return
        q, zero, s_in = self.read(node["inputs"][0])
        if op in FUSED_ACTIVATIONS:
            real = activate(op, self.real(node["inputs"][0]))
            none = np.zeros(len(s_in))
            self.write(number, op, real, q, s_in, none, none + zero, None)
        elif op in TABLE_ACTIVATIONS:
            slope = float(F32(node["value"]))
            s_out = self.out_scale(number, activate(op, self.real(node["inputs"][0]), slope))
            y = activate(op, (np.arange(256)[:, None] - zero) * s_in, slope) / s_out + bound.zero(number)
            table = round_to_byte(np.clip(y, 0, 255))
            self.codes[number] = np.stack([table[q[..., c], c] for c in range(q.shape[-1])], -1)
        elif op == "mul":
            r, zero_res, s_res = self.read(node["inputs"][1])
            real = self.real(node["inputs"][0]) * self.real(node["inputs"][1])
            s_out, zero_out = self.out_scale(number, real), bound.zero(number)
            product = (q.astype(np.int64) - zero) * (r.astype(np.int64) - zero_res)
            self.codes[number] = epilogue(product, s_in * s_res / s_out, np.full(len(s_out), float(zero_out)))
        elif op == "concat":
            real = np.concatenate([self.real(i) for i in node["inputs"]], -1)
            s_out, zero_out = self.out_scale(number, real), bound.zero(number)
            pieces, begin = [], 0
            for i in node["inputs"]:
                q, zero, s_in = self.read(i)
                s = s_out[begin : begin + len(s_in)]
                begin += len(s_in)
                same = zero == zero_out and (s_in == s).all()
                pieces.append(q if same else epilogue(q, s_in / s, zero_out - zero * s_in / s))
            self.codes[number] = np.concatenate(pieces, -1)
        elif op in ("avg_pool", "global_avg_pool", "adaptive_avg_pool"):
            t, out = net.tensors[node["inputs"][0]], net.tensors[number]
            real = self.real(node["inputs"][0])
            means = np.empty((q.shape[0], out.height, out.width, q.shape[3]))
            for i, j, rows, columns in windows(node, t, out):
                means[:, i, j] = real[:, rows, columns].mean((1, 2))
            s_out, zero_out = self.out_scale(number, means), bound.zero(number)
            y = np.empty(means.shape, np.uint8)
            for i, j, rows, columns in windows(node, t, out):
                part = q[:, rows, columns].astype(np.int64)
                n = part.shape[1] * part.shape[2]
                y[:, i, j] = epilogue(part.sum((1, 2)), s_in / (n * s_out), zero_out - zero * s_in / s_out)
            self.codes[number] = y
        else:
            raise ValueError(op)

    def run(self, x: Any, input_table: Any | None) -> None:
        net = self.net
        inside = net.inside_chains()
        for number, node in enumerate(net.nodes):
            if self.bound.skip[number] or not net.live[number] or self.logits is not None:
                continue
            if node["op"] == "input":
                if any(n < 0 or net.nodes[n]["op"] not in ("conv2d", "linear") for n in net.consumers[number]):
                    raise UnspecifiedError("what reads the image before the first integer layer computes in float")
                if self.chooser is not None:
                    real = x
                    if x.dtype == np.uint8:
                        assert input_table is not None
                        real = np.stack([input_table[c][x[..., c]] for c in range(x.shape[-1])], -1)
                    self.out_scale(0, real)
                self.codes[0] = quantize_input(x, self.bound.scale(0, self.tables), input_table)
            elif number in net.chains and number not in inside:
                self.chain(number, net.chains[number])
            elif number not in inside:
                self.alone(number)
        if self.logits is None:
            q, zero, scale = self.read(net.output)
            self.logits = (q.astype(np.int32) - zero).astype(F32) * scale.astype(F32)
        self.logits = self.logits.reshape(len(x), -1)


def run_int8(
    net: Network, params: list[Params], tables: Tables, subnet: Subnet, x: Any, input_table: Any | None = None
) -> Int8Run:
    """Integer inference of images x [n, h, w, c] (uint8 or preprocessed float32)."""
    work = _Int8(Bound(net, subnet), params, tables)
    work.run(x, input_table)
    return Int8Run(work.logits, work.codes, work.bound, tables)


class MinMax:
    """Statistics as they are, scales that cover every value."""

    def statistics(self, real: Any) -> tuple[Any, Any]:
        flat = real.reshape(-1, real.shape[-1])
        return flat.mean(0), flat.var(0)

    def scale(self, real: Any, signed: bool) -> float:
        top = float(np.abs(real).max())
        return top / (127 if signed else 255) if top > 0 else 1.0


def calibrate(
    net: Network,
    params: list[Params],
    subnet: Subnet,
    images: Any,
    input_table: Any | None = None,
    chooser: Any = None,
) -> Tables:
    """Make tables layer by layer from the integer network's own outputs."""
    tables = Tables(
        np.zeros(net.norm_channels, F32), np.ones(net.norm_channels, F32), np.ones((len(net.nodes), net.groups), F32)
    )
    work = _Int8(Bound(net, subnet), params, tables, chooser or MinMax())
    work.run(images, input_table)
    for number in range(len(net.nodes)):  # tensors that share a scale carry it too
        if not work.bound.skip[number]:
            tables.scale[number] = tables.scale[work.bound.root(number)]
    return tables


def statistics(
    net: Network, params: list[Params], tables: Tables, subnet: Subnet, images: Any, input_table: Any | None = None
) -> tuple[Any, Any]:
    """Mean and variance that each batch norm meets when the network runs with these tables, in float64."""
    found = np.zeros((2, net.norm_channels))
    work = _Int8(Bound(net, subnet), params, tables)
    work.seen = found
    work.run(images, input_table)
    return found[0], found[1]


# ---- real numbers ----


class Bf16:
    """Where a bfloat16 network rounds: its weights, and every tensor that is stored.

    The last convolution's results stay float32 if only the output reads them; any other output is stored like the
    rest. `given` are values to go on with in place of one's own, so that errors do not add up: `own` keeps these.
    """

    def __init__(self, net: Network, given: dict[int, Any] | None = None) -> None:
        self.net, self.given, self.inside = net, given or {}, net.inside_chains()
        self.own: dict[int, Any] = {}
        parts = net.chains.get(net.float_tail, {"head": None, "activation": None})
        last = parts["head"] is not None and parts["activation"] is None
        self.wide = net.float_tail if last else None

    @staticmethod
    def round(x: Any) -> Any:
        """Nearest bfloat16, ties to even, in the type of ``x``, of finite numbers; float64 does not round twice."""
        x = np.asarray(x)
        exponent = np.maximum(np.frexp(x.astype(np.float64))[1], -125)  # subnormals: steps of 2**-133
        return np.ldexp(np.rint(np.ldexp(x.astype(np.float64), 8 - exponent)), exponent - 8).astype(x.dtype)

    def store(self, number: int, y: Any) -> Any:
        if number in self.inside or self.net.nodes[number]["op"] in PASSES:
            return y
        self.own[number] = y
        return self.given.get(number, y if number == self.wide else self.round(y))


@dataclass
class FloatRun:
    logits: Any
    values: dict[int, Any]


def run_float(
    net: Network,
    params: list[Params],
    tables: Tables,
    subnet: Subnet,
    x: Any,
    input_table: Any | None = None,
    dtype: Any = np.float64,
    statistics: bool = False,
    bf16: Bf16 | None = None,
) -> FloatRun:
    """Ordinary inference in `dtype`, op by op. `statistics`: fill the batch-norm tables from x on the way.

    `bf16`: weights and what is stored are rounded to bfloat16, all else is done in `dtype`.
    """
    bound = Bound(net, subnet)
    values: dict[int, Any] = {}
    if x.dtype == np.uint8:
        assert input_table is not None
        x = np.stack([input_table[c][x[..., c]] for c in range(x.shape[-1])], -1)
    for number, node in enumerate(net.nodes):
        if bound.skip[number] or not net.live[number]:
            continue
        op, kept, p = node["op"], bound.kept[number], params[number]
        source = [values[bound.alias[i]] for i in node["inputs"]]
        if op == "input":
            y = x.astype(dtype)
        elif op in ("conv2d", "linear"):
            full = p.weight
            if full is None:
                bits = 8 if subnet.bits is None else subnet.bits[number]
                full = view(p.codes, bits) * p.code_scale.astype(dtype).reshape(-1, *[1] * (p.codes.ndim - 1))
            if bf16 is not None:
                full = bf16.round(full)
            w, groups = bound.weights(number, full.astype(dtype))
            if op == "linear":
                y = convolve(flatten_map(source[0]), w, PLAIN, 1, 0)
            else:
                y = convolve(source[0], w, node, groups, 0)
            if p.bias is not None:
                y = y + p.bias[kept].astype(dtype)
        elif op == "batchnorm":
            where = net.tensors[number].norm_offset + kept
            if statistics:
                tables.mean[where], tables.variance[where] = MinMax().statistics(source[0])
            mean, variance = tables.mean[where].astype(dtype), tables.variance[where].astype(dtype)
            factor = p.weight[kept].astype(dtype) / np.sqrt(variance + dtype(F32(node["value"])))
            y = (source[0] - mean) * factor + p.bias[kept].astype(dtype)
        elif op == "add":
            y = source[0] + source[1]
        elif op == "mul":
            y = source[0] * source[1]
        elif op == "concat":
            y = np.concatenate(source, -1)
        elif op in ("avg_pool", "global_avg_pool", "adaptive_avg_pool"):
            t, out = net.tensors[node["inputs"][0]], net.tensors[number]
            y = np.empty((len(x), out.height, out.width, source[0].shape[3]), dtype)
            for i, j, rows, columns in windows(node, t, out):
                y[:, i, j] = source[0][:, rows, columns].mean((1, 2))
        elif op in SHARES_SCALE:
            y = rearrange(bound, number, source[0], 0)
        else:
            y = activate(op, source[0], float(F32(node["value"])))
        values[number] = y if bf16 is None else bf16.store(number, y)
    return FloatRun(values[bound.alias[net.output]].reshape(len(x), -1), values)
