"""What the networks of `nets` are built with: a builder with their compounds, and what is common to all functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._arguments import Rng, positive_int
from ._data import Data
from ._graph import GraphBuilder, Tensor
from ._preprocess import Preprocess

if TYPE_CHECKING:
    from ._network import Network

Points = Iterable[Any] | Mapping[str, Any]
Body = Callable[["Compounds", Tensor], Tensor]


class Compounds(GraphBuilder):
    """Builder with the few compounds that the networks share."""

    def __init__(self, shape: Sequence[int], outputs: int, groups: int, divisor: int, scale: float) -> None:
        super().__init__(shape)
        self.outputs = outputs
        self.groups = groups
        self.scale = scale
        self.multiple = divisor * groups // math.gcd(divisor, groups)
        self.signal = len(self._input_shape) < 3

    def channels(self, published: int) -> int:
        """Scale published channels with the width; other than as published they are multiples of the divisor."""
        if self.scale == 1:
            return published
        return max(self.multiple, round(published * self.scale / self.multiple) * self.multiple)

    def side(self, x: Tensor) -> int:
        """Smallest side of a map that can be pooled."""
        info = self._info(x.node)
        return int(info["width"] if self.signal else min(info["height"], info["width"]))

    def unit(
        self,
        x: Tensor,
        channels: int,
        kernel: int,
        name: str,
        stride: int = 1,
        act: str | None = "relu",
        **options: Any,
    ) -> Tensor:
        """Convolution, batch norm, activation."""
        window = {"kernel": (1, kernel), "stride": (1, stride)} if self.signal else {"kernel": kernel, "stride": stride}
        x = self.conv2d(x, channels, bias=False, name=name, **window, **options)
        x = self.batchnorm(x, name=f"{name}.bn")
        return x if act is None else self._add(act, f"{name}.{act}", x)

    def depthwise(self, x: Tensor, kernel: int, name: str, stride: int = 1, act: str | None = "relu") -> Tensor:
        """Depthwise convolution, batch norm, activation."""
        channels = self._info(x.node)["channels"]
        return self.unit(x, channels, kernel, name, stride, act, groups=channels)

    def pool(self, x: Tensor, name: str) -> Tensor:
        """Halve a map, unless it is one pixel already."""
        return self.max_pool(x, 2, name=name) if self.side(x) > 1 else x

    def dense(self, x: Tensor, units: int, name: str) -> Tensor:
        """Linear layer with batch norm and ReLU on a map or on features; grouped in a network of groups."""
        info = self._info(x.node)
        if self.groups > 1:
            window = (info["height"], info["width"])
            x = self.conv2d(x, units, window, padding="valid", bias=False, name=name)
        else:
            if info["height"] * info["width"] > 1:
                x = self.flatten(x, name=f"{name}.flatten")
            x = self.linear(x, units, bias=False, name=name)
        return self.relu(self.batchnorm(x, name=f"{name}.bn"), name=f"{name}.relu")

    def head(self, x: Tensor, pool: bool = True) -> Tensor:
        """Global pooling and the last layer."""
        return self.linear(self.global_avg_pool(x, name="pool") if pool else x, self.outputs, name="head")


def make(
    data: Data | Sequence[int],
    outputs: int | None,
    published: int,
    width: int | None,
    points: Points,
    groups: int,
    divisor: int,
    preprocess: Preprocess | None,
    rng: Rng,
    body: Body,
    ranks: tuple[int, ...] = (3,),
) -> Network:
    if isinstance(data, Data):
        if outputs is not None and outputs != data.outputs:
            raise ValueError(f"outputs is {outputs}, the data has {data.outputs}: leave it out")
        shape, outputs = data.shape, data.outputs
        preprocess = preprocess or data.preprocess
    else:
        shape = tuple(int(n) for n in data)
        if outputs is None:
            raise TypeError("outputs is missing: how many classes, for a network made from a shape")
    if len(shape) not in ranks:
        kinds = {1: "(features,)", 2: "(time, channels)", 3: "(h, w, c)"}
        raise ValueError(f"shape is {shape}: this network takes {' or '.join(kinds[r] for r in ranks)}")
    scale = 1.0 if width is None else positive_int(width, "width") / published
    net = Compounds(
        shape, positive_int(outputs, "outputs"), positive_int(groups, "groups"), positive_int(divisor, "divisor"), scale
    )
    h = body(net, net.input)
    return net.build(h, points, groups, divisor=divisor, preprocess=preprocess, rng=rng)
