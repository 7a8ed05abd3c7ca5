"""Random networks for the tests: ops, weights, operating points, tables and images, all a function of a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from reference import F32, Bound, MinMax, Network, Node, Params, Subnet, Tables, UnspecifiedError, calibrate

# The largest code of a weight by its lowest offered bits: what rounds up to the view's largest code and no further.
CODE_LIMIT = {8: 127, 4: 119, 3: 111, 2: 95}


@dataclass
class Case:
    """A random network with everything needed to run it."""

    seed: int
    net: Network
    nodes: list[Node]
    params: list[Params]  # quantised
    float_params: list[Params]
    input_table: Any
    images: Any  # uint8
    offered: list[int]  # bits
    subnets: list[Subnet] = field(default_factory=list)
    tables: list[Tables] = field(default_factory=list)
    specified: bool = True  # whether the oracle knows its integer inference


class Builder:
    def __init__(self, rng: Any) -> None:
        self.rng = rng
        self.nodes: list[Node] = []
        self.shape: list[tuple[int, int, int]] = []  # height, width, channels
        self.joined: list[bool] = []  # made by a concat: its channels belong to several spaces

    def node(self, op: str, inputs: tuple[int, ...], shape: tuple[int, int, int], **fields: Any) -> int:
        self.nodes.append({"op": op, "name": f"{op}_{len(self.nodes)}", "inputs": inputs, **fields})
        self.shape.append(shape)
        own = op in ("conv2d", "linear", "shortcut", "input") and fields.get("groups", 1) == 1
        self.joined.append(op == "concat" or (not own and any(self.joined[i] for i in inputs)))
        return len(self.nodes) - 1

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def conv(self, x: int, channels: int, kernel: int | None = None, stride: int | None = None, **fields: Any) -> int:
        h, w, _ = self.shape[x]
        kernel = self.pick(1, 3, 3, 5) if kernel is None else kernel
        stride = self.pick(1, 1, 1, 1, 2) if stride is None else stride
        kh = 1 if h == 1 else kernel
        strides = (1 if h == 1 else stride, stride)
        dilation = (1, 1)
        if kernel == 3 and h > 4 and w > 4 and self.chance(0.15):
            dilation = (self.pick(1, 2), 2)
        reach = ((kh - 1) * dilation[0], (kernel - 1) * dilation[1])
        if fields.pop("same", False):
            pad = (reach[0] // 2, reach[0] - reach[0] // 2, reach[1] // 2, reach[1] - reach[1] // 2)
        else:
            pad = tuple(int(self.rng.integers(0, r // 2 + 1 + (r > 0))) for r in (reach[0], reach[0], *reach[1:] * 2))
            lack = (max(0, reach[0] + 1 - h - pad[0] - pad[1]), max(0, reach[1] + 1 - w - pad[2] - pad[3]))
            pad = (pad[0] + lack[0], pad[1], pad[2], pad[3] + lack[1])
        oh = (h + pad[0] + pad[1] - reach[0] - 1) // strides[0] + 1
        ow = (w + pad[2] + pad[3] - reach[1] - 1) // strides[1] + 1
        return self.node(
            "conv2d",
            (x,),
            (oh, ow, channels),
            channels=channels,
            kernel=(kh, kernel),
            stride=strides,
            pad=pad,
            dilation=dilation,
            bias=int(self.chance(0.4)),
            **fields,
        )

    def simple(self, op: str, x: int, **fields: Any) -> int:
        return self.node(op, (x,), self.shape[x], **fields)

    def norm(self, x: int, **fields: Any) -> int:
        return self.simple("batchnorm", x, value=self.pick(1e-5, 1e-3), **fields)

    def activation(self, x: int, **fields: Any) -> int:
        op = self.pick("relu", "relu", "relu", "relu6", "hardswish", "leaky_relu", "sigmoid", "hardsigmoid")
        return self.simple(op, x, **({"value": 0.1} if op == "leaky_relu" else {}), **fields)

    def pool(self, x: int) -> int:
        h, w, c = self.shape[x]
        op = self.pick("max_pool", "avg_pool")
        kernel = (min(self.pick(2, 3), h), min(self.pick(2, 3), w))
        stride = (self.pick(1, 2), self.pick(1, 2))
        pad = tuple(int(self.rng.integers(0, k // 2 + 1)) for k in (kernel[0], kernel[0], kernel[1], kernel[1]))
        oh, ow = (h + pad[0] + pad[1] - kernel[0]) // stride[0] + 1, (w + pad[2] + pad[3] - kernel[1]) // stride[1] + 1
        return self.node(op, (x,), (oh, ow, c), kernel=kernel, stride=stride, pad=pad)

    def block(self, x: int, x_channels: int, **fields: Any) -> int:
        """A residual block with an identity shortcut."""
        y = self.conv(x, self.pick(4, 8, 12, 16), stride=1, same=True, **fields)
        y = self.norm(y, **fields) if self.chance(0.8) else y
        y = self.activation(y, **fields)
        y = self.conv(y, x_channels, stride=1, same=True, **fields)
        y = self.norm(y, **fields) if self.chance(0.8) else y
        pair = (y, x) if self.chance(0.5) else (x, y)
        return self.node("add", pair, self.shape[x], **fields)

    def widths(self) -> dict[str, Any]:
        """Channels of a convolution: usually elastic, sometimes an odd fixed number."""
        if self.chance(0.15):
            return {"channels": int(self.rng.integers(1, 20)), "fixed": 1}
        return {"channels": self.pick(4, 8, 8, 12, 16, 16, 20, 24, 32, 36)}


KINDS = (
    *("conv", "conv", "residual", "residual", "project", "shortcut", "depthwise", "grouped"),
    *("pool", "concat", "se", "alone", "alone", "stage", "fork"),
)


def random_nodes(b: Builder, size: int) -> None:
    rng = b.rng
    height = 1 if b.chance(0.2) else int(rng.integers(4, size))
    width = int(rng.integers(4, size if height > 1 else 3 * size))
    channels = int(rng.integers(1, 5))
    x = b.node("input", (), (height, width, channels), height=height, width=width, channels=channels)
    x = b.conv(x, **b.widths())
    x = b.norm(x) if b.chance(0.8) else x
    x = b.activation(x)
    stage = 0
    for _ in range(int(rng.integers(2, 7))):
        h, w, c = b.shape[x]
        kind = b.pick(*KINDS)
        if b.joined[x] and kind in (
            "residual",
            "se",
        ):  # what is added or multiplied has the channels of one convolution
            kind = "conv"
        if kind == "conv":
            x = b.conv(x, **b.widths())
            x = b.norm(x) if b.chance(0.7) else x
            x = b.activation(x) if b.chance(0.8) else x
        elif kind == "residual":
            x = b.block(x, c)
            x = b.activation(x) if b.chance(0.7) else x
        elif kind == "project":  # both sides of the add are convolution chains
            stride, width_out = b.pick(1, 2), b.widths()
            one = b.norm(b.conv(x, kernel=1, stride=stride, same=True, **width_out))
            two = b.conv(x, kernel=b.pick(1, 3), stride=stride, same=True, **width_out)
            two = b.norm(two) if b.chance(0.5) else two
            pair = (one, two) if b.chance(0.5) else (two, one)
            x = b.simple("relu", b.node("add", pair, b.shape[one]))
        elif kind == "shortcut":
            stride = b.pick(1, 2)
            full = b.pick(8, 16, 24)
            start = int(rng.integers(0, full))
            table = [i - start if 0 <= i - start < c else -1 for i in range(full)]
            if b.chance(0.3):
                table = [int(i) for i in rng.integers(-1, c, full)]
            strides = (1 if h == 1 else stride, stride)
            shape = (-(-h // strides[0]), -(-w // stride), full)
            y = b.node("shortcut", (x,), shape, channels=full, stride=strides, map=np.array(table, np.int32))
            z = b.norm(b.conv(x, full, kernel=1, stride=stride, same=True))
            assert b.shape[z] == shape
            x = b.simple("relu", b.node("add", (z, y) if b.chance(0.5) else (y, z), shape))
        elif kind == "depthwise" and c > 1:
            x = b.conv(x, c, kernel=b.pick(3, 3, 5), groups=c)
            x = b.norm(x) if b.chance(0.7) else x
            x = b.activation(x) if b.chance(0.7) else x
        elif kind == "grouped":
            groups = b.pick(2, 4)
            x = b.activation(b.conv(x, groups * b.pick(4, 8), kernel=1, stride=1))
            x = b.conv(x, groups * b.pick(4, 8), kernel=3, groups=groups)
            x = b.activation(b.norm(x))
            x = b.conv(x, kernel=1, **b.widths())  # channels of groups move together: leave that space
        elif kind == "pool" and h * w > 4:
            x = b.pool(x)
        elif kind == "concat":
            one = b.simple("relu", b.conv(x, kernel=1, stride=1, same=True, **b.widths()))
            two = b.conv(x, kernel=3, stride=1, same=True, **b.widths())
            two = b.activation(two) if b.chance(0.5) else two
            parts = (one, two, x) if b.chance(0.3) else (one, two)
            x = b.node("concat", parts, (h, w, sum(b.shape[p][2] for p in parts)))
            if b.chance(0.6):
                x = b.conv(x, **b.widths())
        elif kind == "se":
            y = b.node("global_avg_pool", (x,), (1, 1, c))
            y = b.simple("relu", b.conv(y, kernel=1, stride=1, same=True, **b.widths()))
            y = b.simple(b.pick("hardsigmoid", "sigmoid"), b.conv(y, c, kernel=1, stride=1, same=True))
            x = b.node("mul", (x, y), (h, w, c))
        elif kind == "alone":
            op = b.pick("batchnorm", "pad", "dropout", "identity", "relu", "relu6", "hardswish", "leaky_relu", "add")
            if op == "batchnorm":
                x = b.norm(x)
            elif op == "pad":
                pad = tuple(int(p) for p in rng.integers(0, 3, 4)) if h > 1 else (0, 0, 1, 2)
                x = b.node("pad", (x,), (h + pad[0] + pad[1], w + pad[2] + pad[3], c), pad=pad)
            elif op == "add":
                x = b.node("add", (x, b.simple("relu", x)), (h, w, c))
            else:
                x = b.simple(op, x, **({"value": 0.2} if op in ("dropout", "leaky_relu") else {}))
        elif kind == "stage":
            x = b.simple("relu", b.conv(x, kernel=1, stride=1, same=True, channels=b.pick(8, 16)))
            c = b.shape[x][2]
            for k in range(2):
                x = b.block(x, c, stage=stage, block=k)
                x = b.simple("relu", x, stage=stage, block=k)
            stage += 1
        elif kind == "fork":  # a chain whose middle has two readers
            y = b.conv(x, kernel=1, stride=1, same=True, **b.widths())
            z = b.norm(y)
            x = b.node("add", (z, b.simple("relu", y)), b.shape[y])
    h, w, c = b.shape[x]
    end = b.pick("global", "adaptive", "flat")
    if end == "global":
        x = b.node("global_avg_pool", (x,), (1, 1, c))
    elif end == "adaptive":
        size_out = (min(h, b.pick(1, 2)), min(w, b.pick(1, 2, 3)))
        x = b.node("adaptive_avg_pool", (x,), (*size_out, c), height=size_out[0], width=size_out[1])
    if b.shape[x][:2] != (1, 1) or b.chance(0.3):
        x = b.simple("flatten", x)
    if b.chance(0.4):
        hidden = b.pick(8, 16, 20)
        x = b.simple("relu", b.node("linear", (x,), (1, 1, hidden), channels=hidden, bias=1))
        x = b.simple("dropout", x, value=0.3) if b.chance(0.4) else x
    outputs = int(rng.integers(1, 12))
    x = b.node("linear", (x,), (1, 1, outputs), channels=outputs, bias=int(b.chance(0.8)))
    if b.chance(0.1):
        b.simple(b.pick("sigmoid", "relu", "identity"), x)


def _random_params(net: Network, rng: Any, offered: list[int]) -> tuple[list[Params], list[Params]]:
    top = CODE_LIMIT[min(offered)]
    quantised, floating = [], []
    for number, node in enumerate(net.nodes):
        t = net.tensors[number]
        if node["op"] in ("conv2d", "linear"):
            source = net.tensors[node["inputs"][0]]
            shape: tuple[int, ...] = (node["channels"], source.features)
            if node["op"] == "linear" and not source.flat:
                shape = (node["channels"], source.features * source.height * source.width)
            if node["op"] == "conv2d":
                shape = (node["channels"], *node["kernel"], source.channels // node["groups"])
            fan = float(np.prod(shape[1:]))
            codes = np.clip(np.rint(rng.normal(0, 45, shape)), -127, top).astype(np.int8)
            flat = codes.reshape(shape[0], -1)
            flat[rng.integers(shape[0]), rng.integers(flat.shape[1])] = -127
            flat[rng.integers(shape[0]), rng.integers(flat.shape[1])] = top
            scale = (rng.uniform(0.5, 2, shape[0]) / (45 * math.sqrt(fan))).astype(F32)
            bias = rng.normal(0, 0.2, shape[0]).astype(F32) if node["bias"] else None
            quantised.append(Params(codes=codes, code_scale=scale, bias=bias))
            floating.append(Params(weight=rng.normal(0, 1 / math.sqrt(fan), shape).astype(F32), bias=bias))
        elif node["op"] == "batchnorm":
            gamma = (rng.uniform(0.5, 1.5, t.features) * rng.choice([1, 1, 1, -1], t.features)).astype(F32)
            p = Params(weight=gamma, bias=rng.normal(0, 0.3, t.features).astype(F32))
            quantised.append(p)
            floating.append(p)
        else:
            quantised.append(Params())
            floating.append(Params())
    return quantised, floating


class _Loose(MinMax):
    """Scales that sometimes saturate and sometimes leave room, statistics that are not quite the data's."""

    def __init__(self, rng: Any) -> None:
        self.rng = rng

    def statistics(self, real: Any) -> tuple[Any, Any]:
        mean, variance = super().statistics(real)
        n = len(mean)
        return mean + self.rng.normal(0, 0.05, n), variance * self.rng.uniform(0.8, 1.2, n) + 1e-4

    def scale(self, real: Any, signed: bool) -> float:
        return float(F32(super().scale(real, signed) * self.rng.uniform(0.5, 1.3)))


def random_subnet(
    net: Network, rng: Any, offered: list[int], stages: list[tuple[int, int]] | None = None, step: int = 4
) -> Subnet:
    """Make a random point.

    `stages`: blocks and fewest kept blocks of each; None if every block can be dropped. Widths are multiples of `step`
    where not full: integer kernels take four channels at a time.
    """
    leaders = {}
    for k in range(len(net.full)):
        if net.elastic[k] and net.lead[k] == k:
            unit, full = math.lcm(step, net.unit[k]), net.full[k]
            options = sorted({*range(unit, full + 1, unit), full})
            leaders[k] = int(rng.choice(options))
    bits = [int(rng.choice(offered)) for _ in net.nodes]
    if stages is None:
        count = max((node["stage"] for node in net.nodes), default=-1) + 1
        stages = [(max(n["block"] for n in net.nodes if n["stage"] == k) + 1, 0) for k in range(count)]
    depth = [int(rng.integers(keep, blocks + 1)) for blocks, keep in stages]
    return Subnet(net.active(leaders), bits, depth)


def finish(
    seed: int,
    rng: Any,
    nodes: list[Node],
    groups: int,
    subnets: int,
    output: int | None = None,
    stages: list[tuple[int, int]] | None = None,
    offered: list[int] | None = None,
) -> Case:
    """Give a list of nodes random weights, points, tables and images."""
    net = Network(nodes, output, groups)
    if offered is None:
        offered = [[8], [8, 4], [8, 4, 3], [8, 4, 3, 2]][int(rng.integers(4))]
    params, floating = _random_params(net, rng, offered)
    first = net.tensors[0]
    byte = np.arange(256, dtype=F32)
    mean, std = rng.uniform(0.2, 0.6, first.channels), rng.uniform(0.2, 0.4, first.channels)
    table = np.stack([((byte / 255 - m) / s).astype(F32) for m, s in zip(mean, std, strict=True)])
    images = rng.integers(0, 256, (2, first.height, first.width, first.channels), dtype=np.uint8)
    case = Case(seed, net, nodes, params, floating, table, images, offered)
    case.specified = all(net.live)  # dead code may keep others from fusing
    everything = Subnet(list(net.full), None, None)
    for subnet in [everything, *(random_subnet(net, rng, offered, stages) for _ in range(subnets - 1))]:
        case.subnets.append(subnet)
        try:
            tables = calibrate(net, params, subnet, images, table, _Loose(rng))
        except UnspecifiedError:
            case.specified = False
            shape = (len(nodes), groups)
            tables = Tables(
                np.zeros(net.norm_channels, F32), np.ones(net.norm_channels, F32), np.full(shape, 0.05, F32)
            )
        if rng.random() < 0.5:  # a concat may have the scale of one of its inputs: then it copies
            for number, node in enumerate(net.nodes):
                if node["op"] == "concat":
                    tables.scale[number] = tables.scale[node["inputs"][0]]
        for number in range(len(nodes)):
            tables.scale[number] = tables.scale[Bound(net, subnet).root(number)]
        case.tables.append(tables)
    return case


def random_network(seed: int, subnets: int = 3, size: int = 12) -> Case:
    """Make a small network of random ops with random points (the first is the whole network at 8 bits)."""
    rng = np.random.default_rng([seed, 1])
    builder = Builder(rng)
    random_nodes(builder, size)
    return finish(seed, rng, builder.nodes, 1, subnets)


def random_grouped_network(seed: int, subnets: int = 3) -> Case:
    """Make a network of 2 to 4 incremental channel groups."""
    rng = np.random.default_rng([seed, 2])
    b = Builder(rng)
    groups = b.pick(2, 3, 4)
    height, width, channels = int(rng.integers(5, 10)), int(rng.integers(5, 10)), int(rng.integers(1, 4))
    x = b.node("input", (), (height, width, channels), height=height, width=width, channels=channels)
    x = b.simple("relu", b.norm(b.conv(x, groups * b.pick(4, 8), kernel=3, stride=1, same=True)))
    for _ in range(int(rng.integers(1, 4))):
        kind = b.pick("conv", "residual", "depthwise", "pool")
        c = b.shape[x][2]
        if kind == "conv":
            x = b.conv(x, groups * b.pick(4, 8), kernel=b.pick(1, 3), groups=groups)
            x = b.simple(b.pick("relu", "hardswish", "relu6"), b.norm(x))
        elif kind == "residual":
            y = b.norm(b.conv(x, c, kernel=3, stride=1, same=True, groups=groups))
            x = b.simple("relu", b.node("add", (y, x), b.shape[x]))
        elif kind == "depthwise":
            x = b.simple("relu", b.norm(b.conv(x, c, kernel=3, stride=1, same=True, groups=c)))
        elif b.shape[x][0] > 1 and b.shape[x][1] > 1:
            x = b.pool(x)
    x = b.node("global_avg_pool", (x,), (1, 1, b.shape[x][2]))
    outputs = int(rng.integers(2, 12))
    b.node("linear", (x,), (1, 1, outputs), channels=outputs, bias=1)
    return finish(seed, rng, b.nodes, groups, subnets)


def random_linear_network(seed: int, subnets: int = 4) -> Case:
    """Make a network whose weights stand in linear layers, on whole maps and on one pixel, of 4 bits or fewer."""
    rng = np.random.default_rng([seed, 3])
    b = Builder(rng)
    height, width, channels = int(rng.integers(1, 7)), int(rng.integers(4, 7)), int(rng.integers(1, 4))
    x = b.node("input", (), (height, width, channels), height=height, width=width, channels=channels)
    x = b.simple("relu", b.conv(x, b.pick(4, 12, 20, 32), kernel=3, stride=1))
    if b.chance(0.5):
        y = b.conv(x, b.pick(4, 12), kernel=1, stride=1, same=True)
        x = b.node("concat", (x, y), (*b.shape[x][:2], b.shape[x][2] + b.shape[y][2]))
    hidden = b.pick(8, 36, 100, 160)
    x = b.activation(b.norm(b.node("linear", (b.simple("flatten", x),), (1, 1, hidden), channels=hidden, bias=1)))
    y = b.norm(b.conv(x, hidden, kernel=1, stride=1, same=True))
    x = b.activation(b.node("add", (y, x), b.shape[x]))
    outputs = int(rng.integers(1, 40))
    b.node("linear", (x,), (1, 1, outputs), channels=outputs, bias=int(b.chance(0.8)))
    return finish(seed, rng, b.nodes, 1, subnets, offered=[[8, 4], [8, 4, 3], [8, 4, 3, 2]][int(rng.integers(3))])
