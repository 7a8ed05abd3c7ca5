"""A network whose accuracy is a formula and whose engine only waits: search and fronts tested without arithmetic."""

import time

import numpy as np

import dynadnn as dn
from dynadnn._network import Network
from dynadnn._statistics import wilson
from dynadnn._tables import Tables

SECONDS_PER_MAC = 5e-11
IMAGES = 1000


class FakePoint:
    def __init__(self, macs):
        self.macs = macs
        self.steps = [{"node": int(node)} for node in np.flatnonzero(macs)]


class FakeEngine:
    def __init__(self, net):
        self._net, self.points, self.plan = net, {}, self

    def bind(self, active, bits, depth, *tables):
        return FakePoint(self._net._graph.cost(active, bits, depth)[0])

    def _bind(self, point):
        subnet = self._net._find(point)
        self._net._binding(subnet)
        return self.bind(*self._net._rules.arrays(subnet))

    def profile_steps(self, x, point, repeats=1):
        return point.macs[point.macs > 0] * SECONDS_PER_MAC * 1e9 * repeats

    def __call__(self, x, point=None, out=None):
        assert x.shape == (1, *self._net.shape)
        bound = self.points[point] if point in self.points else self._bind(point)
        end = time.perf_counter() + bound.macs.sum() * SECONDS_PER_MAC
        while time.perf_counter() < end:
            pass
        return np.zeros((len(x), self._net.outputs), np.float32)


class FakeNetwork(Network):
    """Accuracy rises with the channels, the later layers' more; `breaks` fails for narrow first layers."""

    breaks = None

    def copy(self):
        made = FakeNetwork.__new__(FakeNetwork)
        made.__setstate__(self.__getstate__())
        made.breaks = self.breaks
        return made

    def recalibrate(self, images=None, points=None):
        for point in self.points.values() if points is None else points:
            subnet = self._find(point)
            self._tables[subnet] = Tables(*self._empty_statistics())

    def _accuracy(self, subnet):
        share = [w / s.full for w, s in zip(subnet.widths, self.spaces, strict=True)]
        gain = np.average(share, weights=np.arange(1, len(share) + 1))
        return 0.5 + 0.5 * (1 - np.exp(-3 * gain))

    def predict(self, x, point=None):
        return np.where(np.arange(len(x)) < round(self._accuracy(self._find(point)) * len(x)), 0, 1)

    def _outputs(self, x, point):
        """The images carry their number; those that a sub-net gets wrong are spread over all of them."""
        subnet = self._find(point)
        self._binding(subnet)
        if self.breaks == "error" and subnet.widths[0] == 8:
            raise RuntimeError("a narrow first layer")
        number = x[:, 0, 0, 0].astype(int) + 256 * x[:, 0, 1, 0].astype(int)
        right = number * 617 % IMAGES < round(self._accuracy(subnet) * IMAGES)
        outputs = np.eye(self.outputs, dtype=np.float32)[np.where(right, 0, 1)]
        return outputs * np.nan if self.breaks == "nan" and subnet.widths[0] == 8 else outputs

    def evaluate(self, split, point=None, metrics=("accuracy", "loss")):
        subnet = self._find(point)
        self._binding(subnet)
        if self.breaks is not None and subnet.widths[0] == 8:
            if self.breaks == "nan":
                return {"accuracy": 0.5, "accuracy_interval": (0.4, 0.6), "loss": float("nan")}
            raise RuntimeError("a narrow first layer")
        accuracy = float(np.mean(self.predict(split.x, subnet) == 0))
        interval = wilson(accuracy, len(split.x))
        result = {
            "accuracy": accuracy,
            "accuracy_interval": interval,
            "loss": 1 - accuracy,
            "calibration_error": accuracy / 2,
        }
        return {k: result[k] for k in (*metrics, "accuracy_interval")}

    def compile(self, *, threads=1, isa=None, precision=None):
        return FakeEngine(self)


def fake_network(width=32, points=(0.25, 0.5, 1.0), rng=0):
    net = dn.nets.resnet20((8, 8, 1), 4, width=width, points=points, rng=rng)
    fake = FakeNetwork.__new__(FakeNetwork)
    fake.__setstate__(net.__getstate__())
    fake.recalibrate()
    return fake


def fake_data(n=IMAGES):
    data = dn.datasets.shapes(400, size=8, classes=4, rng=0)
    x = np.zeros((n, 8, 8, 1), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 1, 0] = np.arange(n) % 256, np.arange(n) // 256
    split = dn.Split(x, np.zeros(n, np.int64), None, np.arange(n))
    return dn.Data(data.train, split, split, data.calibration, data.outputs, data.names, data.preprocess, data.augment)


SPEED = dict(gmacs=10, bytes_per_s=1e10)
OPTIONS = dict(population=12, generations=6, budget=60, progress=False, rng=0)


def search(net, data, **options):
    return dn.explore(net, data, **{"device": dn.Device.from_speed(**SPEED), **OPTIONS, **options})
