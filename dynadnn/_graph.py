"""What a network is made of: the structure document that files hold, and the builder that writes it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arguments import Rng, generator, positive_int, seed_of
from ._errors import GraphError

if TYPE_CHECKING:
    from ._network import Network
    from ._preprocess import Preprocess

Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Pair = tuple[Int32, Int32]
LONGEST_NAME = 200


class NodeSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One operation; the fields of ``dn_node_spec`` by name."""

    op: str
    name: str
    inputs: tuple[Int32, ...] = ()
    height: Int32 = 0
    width: Int32 = 0
    channels: Int32 = 0
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    pad: tuple[Int32, Int32, Int32, Int32] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: Int32 = 1
    bias: bool = False
    fixed: bool = False
    stage: Int32 = -1
    block: Int32 = 0
    value: float = 0.0
    map: tuple[Int32, ...] | None = None


class GraphSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A network's structure. `shape` is what a user calls the input: (h, w, c), (time, c) or (features,)."""

    nodes: tuple[NodeSpec, ...]
    output: Int32
    shape: tuple[Int32, ...]
    groups: Int32 = 1

    def core(self) -> _core.Graph:
        """Have it checked by the core; raises GraphError."""
        return core_graph(self.nodes, self.output, self.groups)


def core_graph(nodes: Sequence[NodeSpec], output: int, groups: int = 1) -> _core.Graph:
    """Return the core's view of some nodes."""
    return _core.Graph([_mapping(node) for node in nodes], output, groups)


def _mapping(node: NodeSpec) -> dict[str, object]:
    fields: dict[str, object] = {"op": node.op, "name": node.name}
    for key in ("inputs", "height", "width", "channels", "kernel", "stride", "pad", "dilation", "groups"):
        fields[key] = getattr(node, key)
    fields |= {"bias": int(node.bias), "fixed": int(node.fixed), "stage": node.stage, "block": node.block}
    fields |= {"value": node.value, "map": node.map}
    return fields


def input_node(shape: tuple[int, ...]) -> NodeSpec:
    """Node 0 of a network for images of this shape."""
    if len(shape) not in (1, 2, 3):
        raise GraphError(f"shape is {shape}: it must be (h, w, c), (time, channels) or (features,)")
    h, w, c = (1,) * (3 - len(shape)) + tuple(shape)
    return NodeSpec("input", "input", height=h, width=w, channels=c)


def check_name(name: str) -> str:
    """Return a name that files and messages can hold, or raise GraphError."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or name[0] == "@":
        raise GraphError(
            f"a node is called {str(name)[:40]!r}: a name has 1 to {LONGEST_NAME} characters, the first not '@'"
        )
    if any(unicodedata.category(ch)[0] in "CZ" and ch != " " for ch in name):
        raise GraphError(f"a node is called {name[:40]!r}: control characters and line breaks cannot be in a name")
    return name


def weight_shapes(spec: GraphSpec, tensors: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter ("node.weight", "node.bias") at full width."""
    shapes: dict[str, tuple[int, ...]] = {}
    for node, tensor in zip(spec.nodes, tensors, strict=True):
        if node.op == "conv2d":
            fan = tensors[node.inputs[0]]["channels"] // node.groups
            shapes[f"{node.name}.weight"] = (node.channels, *node.kernel, fan)
        elif node.op == "linear":
            shapes[f"{node.name}.weight"] = (node.channels, tensors[node.inputs[0]]["channels"])
        elif node.op == "batchnorm":
            shapes[f"{node.name}.weight"] = shapes[f"{node.name}.bias"] = (tensor["channels"],)
        if node.op in ("conv2d", "linear") and node.bias:
            shapes[f"{node.name}.bias"] = (node.channels,)
    return shapes


def initial_weights(spec: GraphSpec, tensors: Sequence[Mapping[str, Any]], seed: int) -> dict[str, NDArray[np.float32]]:
    """He et al. 2015, normal, fan out, for convolutions; uniform of one over the root of fan in for linear layers.

    Every layer has random numbers of its own, so changing one leaves the others as they were.
    """
    weights: dict[str, NDArray[np.float32]] = {}
    numbers = {node.name: i for i, node in enumerate(spec.nodes)}
    for key, shape in weight_shapes(spec, tensors).items():
        name, kind = key.rsplit(".", 1)
        node = spec.nodes[numbers[name]]
        draw = generator(seed, 3, numbers[name], kind == "bias")
        if node.op == "batchnorm":
            value: NDArray[Any] = np.full(shape, kind == "weight", np.float32)
        elif node.op == "conv2d" and kind == "weight":
            fan_out = shape[0] // node.groups * shape[1] * shape[2]
            value = draw.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_out))
        elif node.op == "conv2d":
            value = np.zeros(shape, np.float32)
        else:
            fan_in = tensors[node.inputs[0]]["channels"]
            value = draw.uniform(-1, 1, shape) / np.sqrt(fan_in)
        weights[key] = value.astype(np.float32)
    return weights


class Tensor:
    """What an operation of a `GraphBuilder` returns; only to be passed on."""

    __slots__ = ("_builder", "node")

    def __init__(self, builder: GraphBuilder, node: int) -> None:
        self._builder = builder
        self.node = node

    @property
    def shape(self) -> tuple[int, ...]:
        """(h, w, c), (time, channels) or (features,) at full width."""
        return self._builder._shape(self.node)

    def __repr__(self) -> str:
        return f"Tensor({self._builder._nodes[self.node].name!r})"


IntOrPair = int | tuple[int, int]
Padding = int | tuple[int, int] | tuple[int, int, int, int] | str | None


class GraphBuilder:
    """Builds a network operation by operation.

    Methods take and return tensors; each takes ``name=``. Sizes are ints, or (height, width) for images.

    Parameters
    ----------
    shape : tuple of int
        Input of one image: (h, w, c), (time, channels) or (features,).

    Raises
    ------
    GraphError
        From `build`, naming the operation, for shapes that do not fit.

    Examples
    --------
    >>> g = GraphBuilder((8, 8, 1))
    >>> h = g.relu(g.batchnorm(g.conv2d(g.input, 16, 3, name="stem")))
    >>> h = g.linear(g.global_avg_pool(h), 10, name="head")
    >>> g.build(h, points=(0.5, 1.0), rng=0).shape
    (8, 8, 1)
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._input_shape = tuple(positive_int(n, "shape") for n in shape)
        self._nodes = [input_node(self._input_shape)]
        self._names = {"input"}
        self._counts: dict[str, int] = {}
        self._default_maps: dict[int, int] = {}
        self._stage, self._block = -1, 0
        self._described: list[dict[str, Any]] = []

    @property
    def input(self) -> Tensor:
        """The image."""
        return Tensor(self, 0)

    @contextmanager
    def block(self, stage: int, block: int | None = None) -> Iterator[None]:
        """Mark the operations inside as one block of a stage; blocks with an identity shortcut can be dropped.

        Parameters
        ----------
        stage, block : int
            Counted from 0; without `block` it is the next one of the stage.
        """
        if self._stage >= 0:
            raise GraphError("blocks cannot be inside one another")
        stage = positive_int(stage, "stage", 0)
        if block is None:
            block = 1 + max((n.block for n in self._nodes if n.stage == stage), default=-1)
        self._stage, self._block = stage, positive_int(block, "block", 0)
        try:
            yield
        finally:
            self._stage, self._block = -1, 0

    # ---- layers with weights ----

    def conv2d(
        self,
        x: Tensor,
        channels: int,
        kernel: IntOrPair = 3,
        *,
        stride: IntOrPair = 1,
        padding: Padding = None,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        fixed: bool = False,
        name: str | None = None,
    ) -> Tensor:
        """Convolution; ``groups`` equal to the channels on both sides is depthwise.

        Parameters
        ----------
        padding : None, "same", "valid", int, (vertical, horizontal) or (top, bottom, left, right)
            None and "same" pad with ``(kernel - 1) * dilation`` zeros split on both sides, which keeps the size at
            stride 1 (an even kernel pads one more at the end).
        bias : bool, default True
            Not needed before a batch norm.
        fixed : bool, default False
            Keep all channels at every operating point.
        """
        window = self._window(kernel, stride, padding, dilation)
        return self._add(
            "conv2d",
            name,
            x,
            channels=positive_int(channels, "channels"),
            groups=groups,
            bias=bias,
            fixed=fixed,
            **window,
        )

    def conv1d(self, x: Tensor, channels: int, kernel: int = 3, **options: Any) -> Tensor:
        """Convolution along time; options as in `conv2d`, padding an int or (left, right)."""
        padding = options.pop("padding", None)
        if isinstance(padding, tuple):
            padding = (0, 0, *padding)
        elif isinstance(padding, int):
            padding = (0, 0, padding, padding)
        for key in ("stride", "dilation"):
            options[key] = (1, positive_int(options.get(key, 1), key))
        return self.conv2d(x, channels, (1, positive_int(kernel, "kernel")), padding=padding, **options)

    def linear(
        self, x: Tensor, units: int, *, bias: bool = True, fixed: bool = False, name: str | None = None
    ) -> Tensor:
        """Fully connected layer on features: flatten or pool a map first."""
        return self._add("linear", name, x, channels=positive_int(units, "units"), bias=bias, fixed=fixed)

    def batchnorm(self, x: Tensor, *, eps: float = 1e-5, name: str | None = None) -> Tensor:
        """Batch normalisation with scale and shift."""
        return self._add("batchnorm", name, x, value=float(eps))

    # ---- activations and arithmetic ----

    def relu(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """max(x, 0)."""
        return self._add("relu", name, x)

    def relu6(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """min(max(x, 0), 6)."""
        return self._add("relu6", name, x)

    def leaky_relu(self, x: Tensor, slope: float = 0.01, *, name: str | None = None) -> Tensor:
        """X where positive, slope times x elsewhere."""
        return self._add("leaky_relu", name, x, value=float(slope))

    def hardswish(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """X times hardsigmoid(x)."""
        return self._add("hardswish", name, x)

    def sigmoid(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """1 / (1 + exp(-x))."""
        return self._add("sigmoid", name, x)

    def hardsigmoid(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """min(max(x / 6 + 1 / 2, 0), 1)."""
        return self._add("hardsigmoid", name, x)

    def add(self, a: Tensor, b: Tensor, *, name: str | None = None) -> Tensor:
        """Sum of two tensors of one shape; ties their channels."""
        return self._add("add", name, a, b)

    def mul(self, a: Tensor, b: Tensor, *, name: str | None = None) -> Tensor:
        """Product of two tensors of one shape, or of a map and one value per channel."""
        if self._size(a.node) < self._size(b.node):
            a, b = b, a
        return self._add("mul", name, a, b)

    def concat(self, *tensors: Tensor | Iterable[Tensor], name: str | None = None) -> Tensor:
        """Channels one after the other."""
        flat = [t for item in tensors for t in ((item,) if isinstance(item, Tensor) else item)]
        return self._add("concat", name, *flat)

    # ---- pooling and shapes ----

    def max_pool(
        self,
        x: Tensor,
        kernel: IntOrPair = 2,
        *,
        stride: IntOrPair | None = None,
        padding: Padding = 0,
        name: str | None = None,
    ) -> Tensor:
        """Largest value of each window; the stride is the window's size unless given."""
        return self._add("max_pool", name, x, **self._window(kernel, stride, padding, 1))

    def avg_pool(
        self,
        x: Tensor,
        kernel: IntOrPair = 2,
        *,
        stride: IntOrPair | None = None,
        padding: Padding = 0,
        name: str | None = None,
    ) -> Tensor:
        """Mean of each window; padding does not count."""
        return self._add("avg_pool", name, x, **self._window(kernel, stride, padding, 1))

    def global_avg_pool(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Mean of each channel."""
        return self._add("global_avg_pool", name, x)

    def adaptive_avg_pool(self, x: Tensor, size: IntOrPair, *, name: str | None = None) -> Tensor:
        """Mean of windows that give a map of the size."""
        h, w = self._pair(size, "size")
        return self._add("adaptive_avg_pool", name, x, height=h, width=w)

    def shortcut(
        self,
        x: Tensor,
        channels: int,
        stride: IntOrPair = 1,
        map: int | Sequence[int] | None = None,
        *,
        fixed: bool = False,
        name: str | None = None,
    ) -> Tensor:
        """Parameter-free shortcut (option A of He et al. 2016): every stride-th pixel, channels chosen by a map.

        Parameters
        ----------
        channels : int
            Output channels.
        map : None, int or sequence of int
            Source channel of each output channel, -1 for zeros; an int is the place of source channel 0, None is 0.
        """
        channels = positive_int(channels, "channels")
        if map is None or isinstance(map, int | np.integer):
            offset = int(map or 0)
            sources = self._info(x.node)["channels"]
            taken = tuple(c - offset if 0 <= c - offset < sources else -1 for c in range(channels))
        else:
            offset = -1
            taken = tuple(int(c) for c in map)
            if len(taken) != channels:
                raise GraphError(f"map has {len(taken)} entries for {channels} channels")
        out = self._add(
            "shortcut", name, x, channels=channels, stride=self._pair(stride, "stride"), map=taken, fixed=fixed
        )
        if offset == 0:
            self._default_maps[out.node] = channels
        return out

    def pad(self, x: Tensor, padding: Padding, *, name: str | None = None) -> Tensor:
        """Zeros around a map: int, (vertical, horizontal) or (top, bottom, left, right)."""
        if padding is None or isinstance(padding, str):
            raise TypeError("padding must be an int, (vertical, horizontal) or (top, bottom, left, right)")
        return self._add("pad", name, x, pad=self._sides(padding, (1, 1), (1, 1)))

    def flatten(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Map to features, rows first, channels fastest."""
        return self._add("flatten", name, x)

    def dropout(self, x: Tensor, rate: float = 0.5, *, name: str | None = None) -> Tensor:
        """Zero a fraction of the values in training; nothing otherwise."""
        return self._add("dropout", name, x, value=float(rate))

    def identity(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """X itself, under a name."""
        return self._add("identity", name, x)

    # ---- the network ----

    def build(
        self,
        output: Tensor,
        points: Iterable[Any] | Mapping[str, Any] = (1.0,),
        groups: int = 1,
        *,
        divisor: int = 8,
        preprocess: Preprocess | None = None,
        rng: Rng = None,
    ) -> Network:
        """Check the graph and give it random weights.

        Parameters
        ----------
        output : Tensor
            What the network returns.
        points : sequence or mapping, default (1.0,)
            Operating points: fractions of the width, or dicts with ``width`` (a fraction) or ``widths``, and ``depth``
            (kept blocks per stage); a mapping names them.
        groups : int, default 1
            Incremental channel groups: convolutions that read elastic channels become grouped, the last linear layer
            adds one part per group.
        divisor : int, default 8
            Active channels are multiples of this.
        preprocess : Preprocess, optional
            What uint8 images go through.
        rng : None, int or Generator
            Seed of the weights.

        Returns
        -------
        Network

        Raises
        ------
        GraphError
            If shapes do not fit, or the groups do not divide a layer's channels.
        PointError
            If a point cannot be.
        """
        from ._network import Network

        if not isinstance(output, Tensor) or output._builder is not self:
            raise TypeError("output must be a tensor of this builder")
        groups = positive_int(groups, "groups")
        nodes = tuple(self._nodes)
        if groups > 1:
            nodes = self._grouped(output.node, groups)
        spec = prune(GraphSpec(nodes, output.node, self._input_shape, groups))
        seed = seed_of(rng)
        weights = initial_weights(spec, spec.core().tensors, seed)
        return Network(
            spec, weights, points=points, divisor=positive_int(divisor, "divisor"), preprocess=preprocess, seed=seed
        )

    def _grouped(self, output: int, groups: int) -> tuple[NodeSpec, ...]:
        """Return the nodes with grouped convolutions, so that group g only ever reads group g."""
        graph = core_graph(self._nodes, output)
        elastic = [space[1] for space in graph.spaces]
        reads = [any(elastic[s] for s, _, _ in t["segments"]) for t in graph.tensors]
        nodes = list(self._nodes)
        for i, node in enumerate(nodes):
            if node.op == "conv2d" and node.groups == 1 and reads[node.inputs[0]]:
                nodes[i] = msgspec.structs.replace(node, groups=groups)
            elif node.op == "linear" and reads[node.inputs[0]] and reads[i]:
                raise GraphError(
                    f"linear {node.name!r} reads all of {groups} groups and is not the last layer: "
                    "use conv2d with the whole map as kernel"
                )
            elif i in self._default_maps and reads[i]:
                sources = graph.tensors[node.inputs[0]]["channels"]
                if node.channels % groups or sources % groups:
                    raise GraphError(
                        f"shortcut {node.name!r}: {groups} groups do not divide {sources} and {node.channels}"
                    )
                part, source = node.channels // groups, sources // groups
                taken = tuple(g * source + j if j < source else -1 for g in range(groups) for j in range(part))
                nodes[i] = msgspec.structs.replace(node, map=taken)
        return tuple(nodes)

    def _add(self, op: str, name: str | None, *inputs: Tensor, **fields: Any) -> Tensor:
        for x in inputs:
            if not isinstance(x, Tensor) or x._builder is not self:
                raise TypeError(f"{op} takes tensors of this builder, not {type(x).__name__}")
        if name is None:
            self._counts[op] = self._counts.get(op, 0) + 1
            name = f"{op}{self._counts[op]}"
            while name in self._names:
                name += "_"
        if check_name(name) in self._names:
            raise GraphError(f"two nodes are called {name!r}: names must differ")
        self._names.add(name)
        numbers = tuple(x.node for x in inputs)
        self._nodes.append(NodeSpec(op, name, numbers, stage=self._stage, block=self._block, **fields))
        return Tensor(self, len(self._nodes) - 1)

    def _info(self, node: int) -> dict[str, Any]:
        if node >= len(self._described):
            self._described = core_graph(self._nodes, len(self._nodes) - 1).tensors
        return self._described[node]

    def _size(self, node: int) -> int:
        info = self._info(node)
        return int(info["height"] * info["width"])

    def _shape(self, node: int) -> tuple[int, ...]:
        info = self._info(node)
        whole = (info["height"], info["width"], info["channels"])
        rank = len(self._input_shape)
        return whole[-1:] if rank == 1 or (info["height"] == info["width"] == 1) else whole[3 - rank :]

    def _pair(self, value: IntOrPair, name: str) -> tuple[int, int]:
        if isinstance(value, tuple | list):
            if len(value) != 2:
                raise ValueError(f"{name} must be an int or (height, width), not {value}")
            return positive_int(value[0], name), positive_int(value[1], name)
        size = positive_int(value, name)
        return (size, size) if len(self._input_shape) == 3 else (1, size)

    def _window(
        self, kernel: IntOrPair, stride: IntOrPair | None, padding: Padding, dilation: IntOrPair
    ) -> dict[str, tuple[int, ...]]:
        k, d = self._pair(kernel, "kernel"), self._pair(dilation, "dilation")
        s = k if stride is None else self._pair(stride, "stride")
        return {"kernel": k, "stride": s, "dilation": d, "pad": self._sides(padding, k, d)}

    def _sides(self, padding: Padding, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
        if padding is None or padding == "same":
            v, h = ((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
            return v // 2, v - v // 2, h // 2, h - h // 2
        if padding == "valid":
            return 0, 0, 0, 0
        if isinstance(padding, tuple | list) and len(padding) in (2, 4):
            sides = [positive_int(p, "padding", 0) for p in padding]
            return (
                (sides[0], sides[0], sides[1], sides[1])
                if len(sides) == 2
                else (sides[0], sides[1], sides[2], sides[3])
            )
        if isinstance(padding, str | tuple | list):
            raise ValueError(f"padding must be 'same', 'valid', an int or a tuple of 2 or 4, not {padding!r}")
        p = positive_int(padding, "padding", 0)
        return (p, p, p, p) if len(self._input_shape) == 3 else (0, 0, p, p)


def prune(spec: GraphSpec) -> GraphSpec:
    """Leave out the nodes that the output does not depend on."""
    needed = {0, spec.output}
    for i in range(spec.output, 0, -1):
        if i in needed:
            needed.update(spec.nodes[i].inputs)
    if len(needed) == len(spec.nodes):
        return spec
    order = sorted(needed)
    number = {old: new for new, old in enumerate(order)}
    nodes = tuple(
        msgspec.structs.replace(spec.nodes[i], inputs=tuple(number[k] for k in spec.nodes[i].inputs)) for i in order
    )
    return msgspec.structs.replace(spec, nodes=nodes, output=number[spec.output])
