"""The whole chain on small data: every network of `nets` in integers, a torch module and a built network to a curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dynadnn as dn

POINTS = (0.5, 1.0)
BUILDERS: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("mlp", (20,), {"width": 32}),
    ("lenet", (28, 28, 1), {}),
    ("cnn1d", (64, 3), {"width": 16}),
    ("alexnet", (32, 32, 3), {"width": 16}),
    ("vgg", (32, 32, 3), {"width": 16}),
    ("resnet20", (16, 16, 3), {}),
    ("resnet32", (8, 8, 1), {}),
    ("resnet44", (8, 8, 1), {}),
    ("resnet56", (8, 8, 1), {}),
    ("resnet18", (32, 32, 3), {"width": 16}),
    ("resnet50", (32, 32, 3), {"width": 16}),
    ("mobilenetv1", (32, 32, 3), {"width": 16}),
    ("mobilenetv2", (32, 32, 3), {}),
    ("dscnn", (49, 10, 1), {"width": 16}),
]


@pytest.mark.parametrize(("name", "shape", "options"), BUILDERS, ids=[b[0] for b in BUILDERS])
def test_integers_are_the_same_bits_on_every_level_thread_count_and_slice(
    name: str, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    x = np.random.default_rng(0).standard_normal((4, *shape), dtype=np.float32)
    net = getattr(dn.nets, name)(shape, 5, points=POINTS, rng=0, **options)
    net.recalibrate(x)
    model = dn.quantize(net, x, bits=(8, 4))
    ref, fast = model.compile(isa="ref"), model.compile(threads=3)
    for point in model.points:
        want = ref(x, point)
        assert np.ptp(want) > 0
        for threads in (1, 2, 3):
            fast.threads = threads
            assert np.array_equal(fast(x, point), want), (point, threads)
            assert np.array_equal(fast(x[:1], point), want[:1]), (point, threads)
        assert np.array_equal(model.slice(point).compile()(x), want), f"{point}: the slice differs"


def trained_weights(threads: int) -> Any:
    data = dn.datasets.shapes(96, size=8, classes=3, rng=0)
    net = dn.nets.resnet20(data, width=8, points=POINTS, rng=0)
    dn.fit(net, data, epochs=2, batch=16, method=dn.Sandwich(), augment=None, threads=threads, progress=False, rng=0)
    return net.weights


def test_training_gives_the_same_bits_for_any_number_of_threads() -> None:
    one = trained_weights(1)
    for threads in (2, 3):
        other = trained_weights(threads)
        assert all(np.array_equal(one[key], other[key]) for key in one), threads


def resnet18_module() -> Any:
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, i: int, o: int, stride: int) -> None:
            super().__init__()
            self.c1, self.b1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
            self.c2, self.b2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
            same = stride == 1 and i == o
            self.down = nn.Identity() if same else nn.Sequential(nn.Conv2d(i, o, 1, stride), nn.BatchNorm2d(o))

        def forward(self, x: Any) -> Any:
            y = torch.relu(self.b1(self.c1(x)))
            return torch.relu(self.b2(self.c2(y)) + self.down(x))

    torch.manual_seed(0)
    widths, layers, i = (8, 16, 32, 64), [], 8
    for stage, o in enumerate(widths):
        for block in range(2):
            layers.append(Block(i, o, 2 if stage and not block else 1))
            i = o
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(i, 3)]
    return nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), *layers, *head).eval()


def built_network(data: Any) -> Any:
    g = dn.GraphBuilder(data.shape)
    x = g.relu(g.batchnorm(g.conv2d(g.input, 16, 3)))
    y = g.relu(g.batchnorm(g.conv2d(x, 16, 3)))
    y = g.batchnorm(g.conv2d(y, 16, 3))
    x = g.max_pool(g.relu(g.add(x, y)), 2)
    x = g.hardswish(g.batchnorm(g.conv2d(x, 32, 3, stride=2)))
    return g.build(g.linear(g.global_avg_pool(x), data.outputs), preprocess=data.preprocess, rng=0)


@pytest.mark.parametrize("source", ["torch", "builder"])
def test_own_networks_become_dynamic_train_quantise_and_plot(source: str) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    data = dn.datasets.shapes(400, size=12, classes=3, rng=0)
    if source == "torch":
        net = dn.from_torch(resnet18_module(), data.shape, preprocess=data.preprocess)
    else:
        net = built_network(data)
        net.recalibrate(data.calibration.x)
    dynamic = net.make_dynamic(POINTS)
    full = net.outputs and np.abs(dynamic(data.val.x, 1.0) - net(data.val.x)).max()
    assert full <= 1e-4 * np.abs(net(data.val.x)).max()
    dn.fit(dynamic, data, epochs=6, batch=32, method=dn.Sandwich(), optimizer=dn.SGD(lr=0.05), progress=False, rng=0)
    model = dn.quantize(dynamic, data)
    front = dn.measure(model, data.test)
    assert {r.name for r in front.records} <= {"0.5", "1.0"}
    assert max(r.accuracy for r in front.records) > 0.6  # three classes
    axes = front.plot()
    assert axes.get_xlabel() and axes.get_ylabel()
