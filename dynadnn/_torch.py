"""PyTorch modules as networks: symbolic tracing, then one handler per module, function and method."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import missing_extra, positive_int
from ._errors import UnsupportedError
from ._graph import GraphBuilder, GraphSpec, Tensor, prune
from ._network import Network
from ._preprocess import Preprocess
from ._tables import Tables

F32 = NDArray[np.float32]


class _Batch(int):
    """Size of the first axis, wherever a module asks for it."""


@dataclass(frozen=True)
class _Value:
    """A tensor of the builder, with what PyTorch thinks of it: its rank, and the map a flatten came from."""

    tensor: Tensor
    rank: int
    flat: tuple[int, int, int] | None = None  # height, width, channels


@dataclass(frozen=True)
class _Shortcut:
    """A strided slice and channel padding, in any order, not yet written down."""

    source: _Value
    stride: tuple[int, int]
    map: tuple[int, ...]
    channels_in: int


def from_torch(module: Any, shape: Sequence[int], *, preprocess: Preprocess | None = None) -> Network:
    """Make a network of a PyTorch module, weights and running statistics included.

    Parameters
    ----------
    module : torch.nn.Module
        Convolutional or fully connected; anything `torch.fx` can trace, made of the operations of `GraphBuilder`.
    shape : tuple of int
        One image, channels last: (h, w, c), (time, channels) or (features,).
    preprocess : Preprocess, optional
        What uint8 images go through before what the module expects.

    Returns
    -------
    Network
        One point, "1.0", with the running statistics of the module. `Network.make_dynamic` gives it more.

    Raises
    ------
    UnsupportedError
        For a module, function or option without counterpart, by name.
    GraphError
        If shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(288, 2))
    >>> net = from_torch(module, (8, 8, 3))
    >>> net(np.zeros((1, 8, 8, 3), np.float32)).shape
    (1, 2)
    """
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", "torch") from None
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}")
    size = tuple(positive_int(n, "shape") for n in shape)
    if len(size) == 3 and size[0] in (1, 3) and size[2] not in (1, 3, 4) and size[1] == size[2]:
        raise ValueError(f"shape is {size}, which looks like channels first: give (h, w, c) = {(*size[1:], size[0])}")
    return _Converter(module, size, preprocess).network()


def _pair(value: Any, rank: int) -> tuple[int, int]:
    """Return a size of PyTorch as (height, width)."""
    if isinstance(value, tuple | list):
        numbers = [int(v) for v in value]
        if len(numbers) == 1:
            numbers = numbers * (2 if rank == 4 else 1)
        return (numbers[0], numbers[1]) if rank == 4 else (1, numbers[0])
    return (int(value), int(value)) if rank == 4 else (1, int(value))


def _padding(value: Any, rank: int) -> tuple[int, int, int, int]:
    v, h = _pair(value, rank)
    return (v, v, h, h) if rank == 4 else (0, 0, h, h)


def _array(tensor: Any) -> F32:
    array: F32 = tensor.detach().cpu().float().numpy().astype(np.float32)
    return array


class _Converter:
    def __init__(self, module: Any, shape: tuple[int, ...], preprocess: Preprocess | None) -> None:
        self.module = module
        self.preprocess = preprocess
        self.builder = GraphBuilder(shape)
        self.weights: dict[str, F32] = {}
        self.statistics: dict[str, tuple[F32, F32]] = {}
        self.seen: dict[str, str] = {}
        self.modules = dict(module.named_modules())
        self.handlers = _handlers()

    def network(self) -> Network:
        from torch import fx

        try:
            graph = fx.symbolic_trace(self.module).graph
        except (fx.proxy.TraceError, TypeError, NotImplementedError) as error:
            raise UnsupportedError(f"torch.fx cannot trace this module: {error}") from None
        values: dict[Any, Any] = {}
        output = None
        inputs = 0
        for node in graph.nodes:
            if node.op == "placeholder":
                inputs += 1
                if inputs > 1 and not node.args:
                    raise UnsupportedError(f"{node.name}: a second input; networks have one")
                values[node] = (
                    node.args[0] if inputs > 1 else _Value(self.builder.input, 1 + len(self.builder._input_shape))
                )
            elif node.op == "output":
                output = fx.map_arg(node.args[0], lambda n: values[n])
            else:
                args = fx.map_arg(node.args, lambda n: values[n])
                kwargs = fx.map_arg(node.kwargs, lambda n: values[n])
                values[node] = self._convert(node, args, kwargs)
        if not isinstance(output, _Value | _Shortcut):
            raise UnsupportedError(f"the module returns a {type(output).__name__}: networks have one output")
        out = self._plain(output)
        if out.flat is not None and out.flat[0] * out.flat[1] > 1:
            raise UnsupportedError(
                "the output is a flattened map, whose order would differ: end with a linear layer or pool"
            )
        return self._finish(out.tensor)

    def _finish(self, output: Tensor) -> Network:
        nodes = tuple(self.builder._nodes)
        spec = prune(GraphSpec(nodes, output.node, self.builder._input_shape))
        kept = {node.name for node in spec.nodes}
        weights = {key: value for key, value in self.weights.items() if key.rsplit(".", 1)[0] in kept}
        net = Network(spec, weights, points=(1.0,), preprocess=self.preprocess)
        if net._graph.norm_channels:
            mean, variance = net._empty_statistics()
            for node, tensor in zip(spec.nodes, net._tensors, strict=True):
                if node.op == "batchnorm":
                    start = tensor["norm_offset"]
                    stop = start + tensor["channels"]
                    mean[start:stop], variance[start:stop] = self.statistics[node.name]
            net._set_tables({net._find(None): Tables(mean, variance)})
        return net

    def _convert(self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op == "call_module":
            module = self.modules[node.target]
            kind = type(module).__name__
            handler = getattr(self, f"_module_{kind}", None)
            if handler is None or not type(module).__module__.startswith("torch.nn"):
                raise UnsupportedError(f"{node.target}: {type(module).__module__}.{kind} has no counterpart")
            name = node.target
            if name in self.seen:
                if any(True for _ in module.parameters()):
                    raise UnsupportedError(f"{node.target}: {kind} is used twice; shared weights have no counterpart")
                name = node.name
            self.seen[name] = kind
            return handler(self._name(name), self._plain(args[0]), module)
        if node.op == "get_attr":
            raise UnsupportedError(f"{node.target}: a tensor of the module's own has no counterpart")
        key = node.target if node.op == "call_method" else _function_name(node.target)
        handler = self.handlers.get(key)
        if handler is None:
            raise UnsupportedError(f"{node.name}: {key} has no counterpart")
        return handler(self, self._name(node.name), *args, **kwargs)

    def _name(self, name: str) -> str:
        while name in self.builder._names:
            name += "_"
        return name

    def _plain(self, value: Any) -> _Value:
        """Return a value as a tensor; a pending shortcut is written down."""
        if isinstance(value, _Shortcut):
            g, x = self.builder, value.source
            name = self._name(f"shortcut{len(g._nodes)}")
            return _Value(g.shortcut(x.tensor, len(value.map), value.stride, value.map, name=name), x.rank)
        if not isinstance(value, _Value):
            raise UnsupportedError(
                f"a {type(value).__name__} where a tensor is expected: arithmetic with constants has no counterpart"
            )
        return value

    # ---- modules ----

    def _weighted(self, name: str, weight: F32, bias: Any) -> None:
        self.weights[f"{name}.weight"] = np.ascontiguousarray(weight)
        if bias is not None:
            self.weights[f"{name}.bias"] = _array(bias)

    def _conv(self, name: str, x: _Value, m: Any, rank: int) -> _Value:
        if x.rank != rank:
            raise UnsupportedError(f"{name}: {type(m).__name__} of a tensor of rank {x.rank}")
        if m.padding_mode != "zeros":
            raise UnsupportedError(f"{name}: padding_mode={m.padding_mode!r}; only 'zeros' has a counterpart")
        kernel, dilation = _pair(m.kernel_size, rank), _pair(m.dilation, rank)
        if m.padding == "same":
            (v, h) = ((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
            padding = (v // 2, v - v // 2, h // 2, h - h // 2)
        else:
            padding = (0, 0, 0, 0) if m.padding == "valid" else _padding(m.padding, rank)
        weight = _array(m.weight).reshape(m.out_channels, m.in_channels // m.groups, *kernel)
        self._weighted(name, weight.transpose(0, 2, 3, 1), m.bias)
        window = {"stride": _pair(m.stride, rank), "padding": padding, "dilation": dilation, "groups": m.groups}
        out = self.builder.conv2d(x.tensor, m.out_channels, kernel, bias=m.bias is not None, name=name, **window)
        if self.builder._info(x.tensor.node)["channels"] != m.in_channels:
            channels = self.builder._info(x.tensor.node)["channels"]
            raise ValueError(f"{name} takes {m.in_channels} channels, its input has {channels}: is shape (h, w, c)?")
        return _Value(out, rank)

    def _module_Conv2d(self, name: str, x: _Value, m: Any) -> _Value:
        return self._conv(name, x, m, 4)

    def _module_Conv1d(self, name: str, x: _Value, m: Any) -> _Value:
        return self._conv(name, x, m, 3)

    def _module_Linear(self, name: str, x: _Value, m: Any) -> _Value:
        if x.rank != 2:
            raise UnsupportedError(
                f"{name}: Linear along the last axis of a tensor of rank {x.rank}; flatten or pool first"
            )
        weight = _array(m.weight)
        features = self.builder._info(x.tensor.node)["channels"]
        if features != m.in_features:
            raise ValueError(f"{name} takes {m.in_features} features, its input has {features}: is shape (h, w, c)?")
        if x.flat is not None:
            h, w, c = x.flat
            weight = weight.reshape(-1, c, h, w).transpose(0, 2, 3, 1).reshape(weight.shape)
        self._weighted(name, weight, m.bias)
        return _Value(self.builder.linear(x.tensor, m.out_features, bias=m.bias is not None, name=name), 2)

    def _norm(self, name: str, x: _Value, m: Any) -> _Value:
        if m.running_mean is None or m.running_var is None:
            raise UnsupportedError(f"{name}: batch norm without running statistics")
        ones = np.ones(m.num_features, np.float32)
        self.weights[f"{name}.weight"] = ones if m.weight is None else _array(m.weight)
        self.weights[f"{name}.bias"] = 0 * ones if m.bias is None else _array(m.bias)
        self.statistics[name] = (_array(m.running_mean), _array(m.running_var))
        return _Value(self.builder.batchnorm(x.tensor, eps=m.eps, name=name), x.rank, x.flat)

    _module_BatchNorm1d = _module_BatchNorm2d = _norm

    def _same(self, op: str, name: str, x: Any, **fields: Any) -> _Value:
        x = self._plain(x)
        return _Value(self.builder._add(op, name, x.tensor, **fields), x.rank, x.flat)

    def _module_ReLU(self, name: str, x: _Value, m: Any) -> _Value:
        return self._same("relu", name, x)

    def _module_ReLU6(self, name: str, x: _Value, m: Any) -> _Value:
        return self._same("relu6", name, x)

    def _module_LeakyReLU(self, name: str, x: _Value, m: Any) -> _Value:
        return self._same("leaky_relu", name, x, value=float(m.negative_slope))

    def _module_Hardswish(self, name: str, x: _Value, m: Any) -> _Value:
        return self._same("hardswish", name, x)

    def _module_Hardsigmoid(self, name: str, x: _Value, m: Any) -> _Value:
        return self._same("hardsigmoid", name, x)

    def _module_Sigmoid(self, name: str, x: _Value, m: Any) -> _Value:
        return self._same("sigmoid", name, x)

    def _module_Identity(self, name: str, x: _Value, m: Any) -> _Value:
        return x

    def _module_Dropout(self, name: str, x: _Value, m: Any) -> _Value:
        return self._same("dropout", name, x, value=float(m.p)) if 0 < m.p < 1 else x

    def _module_Flatten(self, name: str, x: _Value, m: Any) -> _Value:
        return self.flatten(name, x, m.start_dim, m.end_dim)

    def _module_MaxPool2d(self, name: str, x: _Value, m: Any) -> _Value:
        return self.max_pool(name, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices)

    _module_MaxPool1d = _module_MaxPool2d

    def _module_AvgPool2d(self, name: str, x: _Value, m: Any) -> _Value:
        divisor = getattr(m, "divisor_override", None)
        return self.avg_pool(name, x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, divisor)

    _module_AvgPool1d = _module_AvgPool2d

    def _module_AdaptiveAvgPool2d(self, name: str, x: _Value, m: Any) -> _Value:
        return self.adaptive(name, x, m.output_size)

    _module_AdaptiveAvgPool1d = _module_AdaptiveAvgPool2d

    # ---- what modules, functions and methods share ----

    def flatten(self, name: str, x: Any, start_dim: int = 0, end_dim: int = -1) -> _Value:
        x = self._plain(x)
        if x.rank == 2 and start_dim in (1, -1):
            return self._plain(x)
        if start_dim not in (1, 1 - x.rank) or end_dim not in (-1, x.rank - 1):
            raise UnsupportedError(f"{name}: flatten from axis {start_dim} to {end_dim}; only all but the first")
        info = self.builder._info(x.tensor.node)
        flat = (info["height"], info["width"], info["channels"])
        if flat[0] * flat[1] == 1:
            return _Value(x.tensor, 2)
        return _Value(self.builder.flatten(x.tensor, name=name), 2, flat)

    def view(self, name: str, x: Any, *shape: Any) -> _Value:
        x = self._plain(x)
        sizes = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        whole = self.size(name, x)
        features = int(np.prod([int(n) for n in whole[1:]]))
        first = isinstance(sizes[0], _Batch) or sizes[0] == -1
        if len(sizes) == 2 and first and sizes[1] in (-1, features) and sizes != (-1, -1):
            return self.flatten(name, x, 1)
        raise UnsupportedError(f"{name}: view or reshape to {sizes}; only to (n, features)")

    def size(self, name: str, x: Any, dim: int | None = None) -> Any:
        x = self._plain(x)
        info = self.builder._info(x.tensor.node)
        h, w, c = info["height"], info["width"], info["channels"]
        whole = {4: (_Batch(1), c, h, w), 3: (_Batch(1), c, w), 2: (_Batch(1), c)}[x.rank]
        return whole if dim is None else whole[dim]

    def getattr(self, name: str, x: Any, attribute: str) -> Any:
        if attribute == "shape":
            return self.size(name, x)
        raise UnsupportedError(f"{name}: attribute {attribute!r} has no counterpart")

    def getitem(self, name: str, x: Any, index: Any) -> Any:
        if not isinstance(x, _Value | _Shortcut):
            return x[index]
        parts = tuple(index) if isinstance(index, tuple) else (index,)
        if Ellipsis in parts:
            rank = x.rank if isinstance(x, _Value) else x.source.rank
            at = parts.index(Ellipsis)
            parts = parts[:at] + (slice(None),) * (rank - len(parts) + 1) + parts[at + 1 :]
        pending = self._pending(name, x)
        rank = pending.source.rank
        parts = parts + (slice(None),) * (rank - len(parts))
        ok = len(parts) == rank and rank in (3, 4) and all(isinstance(p, slice) for p in parts)
        ok = (
            ok
            and all(p.start in (None, 0) and p.stop is None for p in parts)
            and all(p.step in (None, 1) for p in parts[:2])
        )
        if not ok:
            raise UnsupportedError(f"{name}: only slices x[:, :, ::a, ::b] have a counterpart, not {index}")
        steps = tuple(p.step or 1 for p in parts[2:])
        v, h = steps if rank == 4 else (1, steps[0])
        stride = (pending.stride[0] * v, pending.stride[1] * h)
        return _Shortcut(pending.source, stride, pending.map, pending.channels_in)

    def _pending(self, name: str, x: Any) -> _Shortcut:
        if isinstance(x, _Shortcut):
            return x
        x = self._plain(x)
        channels = self.builder._info(x.tensor.node)["channels"]
        return _Shortcut(x, (1, 1), tuple(range(channels)), channels)

    def pad(self, name: str, x: Any, pad: Any, mode: str = "constant", value: float | None = None) -> Any:
        rank = x.source.rank if isinstance(x, _Shortcut) else self._plain(x).rank
        sides = [int(p) for p in pad] + [0] * (2 * (rank - 1) - len(pad))
        if (
            mode != "constant"
            or value not in (None, 0, 0.0)
            or min(sides) < 0
            or len(sides) > 2 * (rank - 1)
            or rank < 3
        ):
            raise UnsupportedError(
                f"{name}: pad {tuple(pad)} with mode {mode!r} and value {value}; only zeros around maps or channels"
            )
        spatial, (before, after) = sides[: 2 * (rank - 2)], sides[2 * (rank - 2) :]
        if any(spatial):
            if before or after:
                raise UnsupportedError(f"{name}: padding of pixels and channels at once")
            plain = self._plain(x)
            left, right, top, bottom = (*spatial, 0, 0)[:4]
            return _Value(self.builder.pad(plain.tensor, (top, bottom, left, right), name=name), rank)
        pending = self._pending(name, x)
        taken = (-1,) * before + pending.map + (-1,) * after
        return _Shortcut(pending.source, pending.stride, taken, pending.channels_in)

    def max_pool(
        self, name: str, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> _Value:  # fmt: skip
        x = self._plain(x)
        if ceil_mode or return_indices or set(_pair(dilation, x.rank)) != {1}:
            raise UnsupportedError(f"{name}: max pooling with ceil_mode, return_indices or dilation")
        return self._pool("max_pool", name, x, kernel_size, stride, padding)

    def avg_pool(
        self, name: str, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: Any = None,
    ) -> _Value:  # fmt: skip
        x = self._plain(x)
        padded = any(_padding(padding, x.rank))
        if ceil_mode or divisor_override or (padded and count_include_pad):
            raise UnsupportedError(f"{name}: average pooling with ceil_mode, divisor_override or padding that counts")
        return self._pool("avg_pool", name, x, kernel_size, stride, padding)

    def _pool(self, op: str, name: str, x: _Value, kernel: Any, stride: Any, padding: Any) -> _Value:
        if x.rank == 2:
            raise UnsupportedError(f"{name}: pooling of flat features")
        step = kernel if stride is None or stride == [] else stride
        window = {"kernel": _pair(kernel, x.rank), "stride": _pair(step, x.rank), "pad": _padding(padding, x.rank)}
        return _Value(self.builder._add(op, name, x.tensor, **window), x.rank)

    def adaptive(self, name: str, x: Any, output_size: Any) -> _Value:
        x = self._plain(x)
        info = self.builder._info(x.tensor.node)
        whole = (info["height"], info["width"])
        wanted = output_size if isinstance(output_size, tuple | list) else (output_size,) * (x.rank - 2)
        sizes = [whole[2 - len(wanted) + i] if s is None else int(s) for i, s in enumerate(wanted)]
        h, w = sizes if x.rank == 4 else (1, sizes[0])
        if (h, w) == whole:
            return self._plain(x)
        if (h, w) == (1, 1):
            return _Value(self.builder.global_avg_pool(x.tensor, name=name), x.rank)
        return _Value(self.builder._add("adaptive_avg_pool", name, x.tensor, height=h, width=w), x.rank)

    def mean(self, name: str, x: Any, dim: Any = None, keepdim: bool = False, **other: Any) -> _Value:
        x = self._plain(x)
        axes = sorted(d % x.rank for d in (dim if isinstance(dim, tuple | list) else (dim,)) if d is not None)
        if axes != list(range(2, x.rank)) or x.rank == 2 or other:
            raise UnsupportedError(f"{name}: mean over {dim}; only over all pixels")
        return _Value(self.builder.global_avg_pool(x.tensor, name=name), x.rank if keepdim else 2)

    def squeeze(self, name: str, x: Any, *dims: Any) -> _Value:
        x = self._plain(x)
        info = self.builder._info(x.tensor.node)
        if x.rank == 2 or info["height"] * info["width"] > 1 or (dims and x.rank == 4):
            raise UnsupportedError(f"{name}: squeeze; only of a map of one pixel, or of one sample, to features")
        return _Value(x.tensor, 2)

    def both(self, op: str, name: str, a: Any, b: Any, alpha: Any = 1) -> _Value:
        left, right = self._plain(a), self._plain(b)
        if alpha != 1 or left.rank != right.rank or (left.flat != right.flat):
            raise UnsupportedError(f"{name}: {op} of tensors of different layouts, or with alpha")
        build = self.builder.mul if op == "mul" else self.builder.add
        return _Value(build(left.tensor, right.tensor, name=name), left.rank, left.flat)

    def cat(self, name: str, tensors: Any, dim: int = 0, axis: int | None = None) -> _Value:
        values = [self._plain(t) for t in tensors]
        at = dim if axis is None else axis
        if at not in (1, 1 - values[0].rank) or len({v.rank for v in values}) > 1:
            raise UnsupportedError(f"{name}: concatenation along axis {at}; only along channels")
        out = self.builder.concat([v.tensor for v in values], name=name)
        return _Value(out, values[0].rank, values[0].flat)

    def dropout(self, name: str, x: Any, p: float = 0.5, training: Any = True, inplace: bool = False) -> _Value:
        return self._same("dropout", name, x, value=float(p)) if 0 < p < 1 else self._plain(x)

    def leaky(self, name: str, x: Any, negative_slope: float = 0.01, inplace: bool = False) -> _Value:
        return self._same("leaky_relu", name, x, value=float(negative_slope))


def _function_name(target: Any) -> str:
    """Name under which a function is looked up: F.max_pool2d and torch.max_pool2d are one."""
    import torch.nn.functional as functional

    for name in ("max_pool1d", "max_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"):
        if target is getattr(functional, name):
            return name
    return str(getattr(target, "__name__", target))


def _handlers() -> dict[str, Callable[..., Any]]:
    """Handlers of functions and methods by name."""

    def same(op: str) -> Callable[..., Any]:
        return lambda self, name, x, inplace=False: self._same(op, name, x)

    def both(op: str) -> Callable[..., Any]:
        return lambda self, name, *args, **kwargs: self.both(op, name, *args, **kwargs)

    c = _Converter
    table: dict[str, Callable[..., Any]] = {
        "leaky_relu": c.leaky,
        "dropout": c.dropout,
        "cat": c.cat,
        "concat": c.cat,
        "mean": c.mean,
        "flatten": c.flatten,
        "view": c.view,
        "reshape": c.view,
        "size": c.size,
        "getattr": c.getattr,
        operator.getitem.__name__: c.getitem,
        "pad": c.pad,
        "_pad": c.pad,
        "squeeze": c.squeeze,
    }
    for op in ("relu", "relu6", "hardswish", "hardsigmoid", "sigmoid"):
        table[op] = same(op)
    table["relu_"] = table["relu"]
    for name in ("add", "iadd", "add_", "__add__"):
        table[name] = both("add")
    for name in ("mul", "imul", "mul_", "multiply"):
        table[name] = both("mul")
    for size in ("1d", "2d"):
        table[f"max_pool{size}"], table[f"avg_pool{size}"] = c.max_pool, c.avg_pool
        table[f"adaptive_avg_pool{size}"] = c.adaptive
    for name in ("contiguous", "clone", "detach", "float"):
        table[name] = lambda self, name, x, **_: self._plain(x)
    return table
