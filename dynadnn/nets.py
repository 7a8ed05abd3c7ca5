"""Published small networks, with the shape and classes of a data set and any operating points.

Every function takes a `Data` (shape, outputs and preprocessing come from it) or a shape and ``outputs``. ``width`` is
the number of channels of the first stage; None is the published one, other layers follow in proportion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._arguments import Rng
from ._data import Data
from ._graph import Tensor
from ._nets import Compounds, Points, make
from ._preprocess import Preprocess

if TYPE_CHECKING:
    from ._network import Network

__all__ = [
    "alexnet",
    "cnn1d",
    "dscnn",
    "lenet",
    "mlp",
    "mobilenetv1",
    "mobilenetv2",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet50",
    "resnet56",
    "vgg",
]

_SMALL = 64  # maps up to this side keep their size in the first layers of networks made for 224 x 224


def mlp(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """Two hidden layers of `width` units (128) with batch norm and ReLU; any shape of input.

    Examples
    --------
    >>> mlp((16,), 3, rng=0).outputs
    3
    """

    def body(net: Compounds, h: Tensor) -> Tensor:
        info = net._info(0)
        if info["height"] * info["width"] > 1:
            h = net.flatten(h, name="flatten")
        units = width or 128
        h = net.relu(net.batchnorm(net.linear(h, units, bias=False, name="fc1"), name="fc1.bn"), name="fc1.relu")
        return net.head(net.dense(h, units, "fc2"), pool=False)

    return make(data, outputs, 128, None, points, groups, divisor, preprocess, rng, body, (1, 2, 3))


def lenet(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """LeNet-5 (LeCun et al. 1998) with padding, max pooling, batch norm and ReLU; first stage 6 channels.

    Points need more channels to choose from: give ``width=16`` or more.
    """

    def body(net: Compounds, h: Tensor) -> Tensor:
        for i, channels in enumerate((6, 16)):
            h = net.pool(net.unit(h, net.channels(channels), 5, f"conv{i + 1}"), f"pool{i + 1}")
        h = net.dense(h, net.channels(120), "fc1")
        return net.head(net.dense(h, net.channels(84), "fc2"), pool=False)

    return make(data, outputs, 6, width, points, groups, divisor, preprocess, rng, body)


def cnn1d(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """Three convolutions along time (32, 64, 128 channels; 7, 5 and 3 samples) with pooling between; for signals."""

    def body(net: Compounds, h: Tensor) -> Tensor:
        for i, (channels, kernel) in enumerate(((32, 7), (64, 5), (128, 3))):
            h = net.unit(h, net.channels(channels), kernel, f"conv{i + 1}")
            h = net.pool(h, f"pool{i + 1}") if i < 2 else h
        return net.head(h)

    return make(data, outputs, 32, width, points, groups, divisor, preprocess, rng, body, (2,))


def alexnet(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """AlexNet for small images: convolutions of 64, 192, 384, 256, 256 channels, three poolings, 512 hidden units.

    Layers have batch norm, unlike Krizhevsky et al. 2012: the statistics of every width differ, and batch norm is
    what adapts a narrower point to them.
    """

    def body(net: Compounds, h: Tensor) -> Tensor:
        for i, channels in enumerate((64, 192, 384, 256, 256)):
            h = net.unit(h, net.channels(channels), 3, f"conv{i + 1}")
            h = net.pool(h, f"pool{i + 1}") if i in (0, 1, 4) else h
        return net.head(net.dense(h, net.channels(512), "fc1"), pool=False)

    return make(data, outputs, 64, width, points, groups, divisor, preprocess, rng, body)


def vgg(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """VGG-16 (Simonyan and Zisserman 2015) with batch norm, global pooling and one linear layer, as used for CIFAR."""

    def body(net: Compounds, h: Tensor) -> Tensor:
        for stage, (channels, layers) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
            for i in range(layers):
                h = net.unit(h, net.channels(channels), 3, f"conv{stage + 1}_{i + 1}")
            h = net.pool(h, f"pool{stage + 1}")
        return net.head(h)

    return make(data, outputs, 64, width, points, groups, divisor, preprocess, rng, body)


def _cifar_resnet(net: Compounds, h: Tensor, blocks: int) -> Tensor:
    """ResNet of 6 * blocks + 2 layers with option-A shortcuts (He et al. 2016, section 4.2)."""
    h = net.unit(h, net.channels(16), 3, "stem")
    for stage, published in enumerate((16, 32, 64)):
        channels = net.channels(published)
        for i in range(blocks):
            name, stride = f"stage{stage + 1}.block{i + 1}", 2 if stage and i == 0 and net.side(h) > 1 else 1
            with net.block(stage, i):
                y = net.unit(h, channels, 3, f"{name}.conv1", stride)
                y = net.unit(y, channels, 3, f"{name}.conv2", act=None)
                if stage and i == 0:
                    h = net.shortcut(h, channels, (1, stride) if net.signal else stride, name=f"{name}.shortcut")
                h = net.relu(net.add(y, h, name=f"{name}.add"), name=f"{name}.relu")
    return net.head(h)


def resnet20(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """ResNet-20 for small images (He et al. 2016): three stages of 16, 32 and 64 channels, option-A shortcuts.

    Parameters
    ----------
    data : Data or shape
        With a shape, ``outputs`` is needed.
    width : int, optional
        Channels of the first stage; 16 as published.
    points : sequence or mapping
        Operating points: fractions of the width, or dicts with ``width`` and ``depth`` (kept blocks per stage); a
        mapping names them, for example ``{"shallow": {"depth": (1, 1, 1)}, "1.0": 1.0}``.
    groups : int
        Incremental channel groups.
    divisor : int
        Active channels are multiples of this.
    preprocess : Preprocess, optional
        For uint8 images; comes from the data.
    rng : None, int or Generator
        Seed of the weights.

    Returns
    -------
    Network

    Raises
    ------
    GraphError
        If the groups do not divide the channels.

    Examples
    --------
    >>> resnet20((8, 8, 1), 10, points=(0.5, 1.0), rng=0).outputs
    10
    """
    return make(
        data,
        outputs,
        16,
        width,
        points,
        groups,
        divisor,
        preprocess,
        rng,
        lambda net, h: _cifar_resnet(net, h, 3),
        (2, 3),
    )


def resnet32(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """ResNet-32 for small images; see `resnet20`."""
    return make(
        data,
        outputs,
        16,
        width,
        points,
        groups,
        divisor,
        preprocess,
        rng,
        lambda net, h: _cifar_resnet(net, h, 5),
        (2, 3),
    )


def resnet44(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """ResNet-44 for small images; see `resnet20`."""
    return make(
        data,
        outputs,
        16,
        width,
        points,
        groups,
        divisor,
        preprocess,
        rng,
        lambda net, h: _cifar_resnet(net, h, 7),
        (2, 3),
    )


def resnet56(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """ResNet-56 for small images; see `resnet20`."""
    return make(
        data,
        outputs,
        16,
        width,
        points,
        groups,
        divisor,
        preprocess,
        rng,
        lambda net, h: _cifar_resnet(net, h, 9),
        (2, 3),
    )


def _stem(net: Compounds, h: Tensor, channels: int) -> Tensor:
    """7 x 7 with stride 2 and pooling; 3 x 3 without either on small images."""
    if net.side(h) <= _SMALL:
        return net.unit(h, channels, 3, "stem")
    return net.max_pool(net.unit(h, channels, 7, "stem", 2), 3, stride=2, padding=1, name="stem.pool")


def _projection_resnet(net: Compounds, h: Tensor, layers: Sequence[int], bottleneck: bool) -> Tensor:
    h = _stem(net, h, net.channels(64))
    for stage, (published, blocks) in enumerate(zip((64, 128, 256, 512), layers, strict=True)):
        inner = net.channels(published)
        channels = 4 * inner if bottleneck else inner
        for i in range(blocks):
            name, stride = f"stage{stage + 1}.block{i + 1}", 2 if stage and i == 0 and net.side(h) > 1 else 1
            with net.block(stage, i):
                if bottleneck:
                    y = net.unit(h, inner, 1, f"{name}.conv1")
                    y = net.unit(y, inner, 3, f"{name}.conv2", stride)
                    y = net.unit(y, channels, 1, f"{name}.conv3", act=None)
                else:
                    y = net.unit(h, channels, 3, f"{name}.conv1", stride)
                    y = net.unit(y, channels, 3, f"{name}.conv2", act=None)
                if i == 0 and (stage or bottleneck):
                    h = net.unit(h, channels, 1, f"{name}.shortcut", stride, act=None)
                h = net.relu(net.add(y, h, name=f"{name}.add"), name=f"{name}.relu")
    return net.head(h)


def resnet18(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """ResNet-18 (He et al. 2016); images up to 64 pixels get a 3 x 3 first layer without stride and pooling."""
    return make(
        data,
        outputs,
        64,
        width,
        points,
        groups,
        divisor,
        preprocess,
        rng,
        lambda net, h: _projection_resnet(net, h, (2, 2, 2, 2), False),
    )


def resnet50(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """ResNet-50 with the stride in the 3 x 3 layers; the first layer as in `resnet18`."""
    return make(
        data,
        outputs,
        64,
        width,
        points,
        groups,
        divisor,
        preprocess,
        rng,
        lambda net, h: _projection_resnet(net, h, (3, 4, 6, 3), True),
    )


def mobilenetv1(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """MobileNetV1 (Howard et al. 2017), first stage 32 channels; images up to 64 pixels skip the first two strides."""

    def body(net: Compounds, h: Tensor) -> Tensor:
        small = net.side(h) <= _SMALL
        h = net.unit(h, net.channels(32), 3, "stem", 1 if small else 2)
        plan = [
            (64, 1),
            (128, 1 if small else 2),
            (128, 1),
            (256, 2),
            (256, 1),
            (512, 2),
            *[(512, 1)] * 5,
            (1024, 2),
            (1024, 1),
        ]
        for i, (channels, stride) in enumerate(plan):
            stride = stride if net.side(h) > 1 else 1
            h = net.depthwise(h, 3, f"block{i + 1}.depthwise", stride)
            h = net.unit(h, net.channels(channels), 1, f"block{i + 1}.pointwise")
        return net.head(h)

    return make(data, outputs, 32, width, points, groups, divisor, preprocess, rng, body)


def mobilenetv2(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """MobileNetV2 (Sandler et al. 2018), first stage 32 channels; images up to 64 pixels skip the first two strides."""

    def body(net: Compounds, h: Tensor) -> Tensor:
        small = net.side(h) <= _SMALL
        h = net.unit(h, net.channels(32), 3, "stem", 1 if small else 2, "relu6")
        plan = (
            (1, 16, 1, 1),
            (6, 24, 2, 1 if small else 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        before = net.channels(32)
        for stage, (expand, published, blocks, first) in enumerate(plan):
            channels = net.channels(published)
            for i in range(blocks):
                name, stride = f"stage{stage + 1}.block{i + 1}", first if i == 0 and net.side(h) > 1 else 1
                with net.block(stage, i):
                    y = h
                    if expand > 1:
                        y = net.unit(y, before * expand, 1, f"{name}.expand", act="relu6")
                    y = net.depthwise(y, 3, f"{name}.depthwise", stride, "relu6")
                    y = net.unit(y, channels, 1, f"{name}.project", act=None)
                    h = net.add(y, h, name=f"{name}.add") if i else y
                before = channels
        return net.head(net.unit(h, net.channels(1280), 1, "last", act="relu6"))

    return make(data, outputs, 32, width, points, groups, divisor, preprocess, rng, body)


def dscnn(
    data: Data | Sequence[int],
    outputs: int | None = None,
    *,
    width: int | None = None,
    points: Points = (1.0,),
    groups: int = 1,
    divisor: int = 8,
    preprocess: Preprocess | None = None,
    rng: Rng = None,
) -> Network:
    """Depthwise separable network for keyword spotting (Zhang et al. 2017, size S): 64 channels, four blocks.

    Spectrograms (h, w, c) get the published 10 x 4 first layer where they are large enough, signals (time, channels)
    9 samples, both with stride 2.
    """

    def body(net: Compounds, h: Tensor) -> Tensor:
        channels = net.channels(64)
        if not net.signal and net.side(h) >= 10:
            h = net.conv2d(h, channels, (10, 4), stride=2, bias=False, name="stem")
            h = net.relu(net.batchnorm(h, name="stem.bn"), name="stem.relu")
        else:
            h = net.unit(h, channels, 9 if net.signal else 3, "stem", 2 if net.side(h) > 8 else 1)
        for i in range(4):
            h = net.depthwise(h, 3, f"block{i + 1}.depthwise")
            h = net.unit(h, channels, 1, f"block{i + 1}.pointwise")
        return net.head(h)

    return make(data, outputs, 64, width, points, groups, divisor, preprocess, rng, body, (2, 3))
