"""Rankings of channels – which ones a network misses least, by norms or by how much noise they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arguments import Rng, generator, positive_int, seed_of, thread_count
from ._data import Data, Split
from ._errors import NonFiniteError, UnsupportedError
from ._losses import MSE, resolve_loss
from ._surgery import importance, movable_spaces, norms
from ._table import Table

if TYPE_CHECKING:
    from ._network import Network

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
METHODS = ("l1", "l2", "bn_gamma", "noise")
_ORDER, _NOISE = 41, 43  # streams of random numbers
_BETA1, _BETA2, _EPSILON = 0.9, 0.99, 1e-12  # of Adam; gradients of one sample of noise are themselves noisy
_LEAST_STEPS = 120  # that order="noise" trains for on kept calibration images


@dataclass(frozen=True)
class ChannelRanking:
    """How important each channel of each elastic space is; `rank_channels` makes it, `make_dynamic` takes it.

    Attributes
    ----------
    method : str
    scores : mapping of str to ndarray of float64, shape (channels,)
        By the names in ``net.spaces``; more is more important. By noise it is 1 / the trained noise scale.
    """

    method: str
    scores: Mapping[str, F64] = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", MappingProxyType(dict(self.scores)))

    def order(self, space: str) -> NDArray[np.int64]:
        """Channels of a space, the most important first; equal ones in their own order."""
        if space not in self.scores:
            raise KeyError(f"no space {space!r}; there are {', '.join(self.scores)}")
        return np.argsort(-self.scores[space], kind="stable").astype(np.int64)

    def table(self) -> Table:
        """One row per channel: space, channel, score, place (from 1)."""
        rows = []
        for name, score in self.scores.items():
            place = np.empty(len(score), np.int64)
            place[self.order(name)] = np.arange(1, len(score) + 1)
            rows += [(name, c, float(s), int(p)) for c, (s, p) in enumerate(zip(score, place, strict=True))]
        return Table(("space", "channel", "score", "place"), rows, f"channels by {self.method}")

    def of_network(self, net: Network) -> dict[int, F64]:
        """Scores by the number of the space, for every space of a network whose channels may be moved."""
        found = {}
        for number, name, full in _spaces(net):
            score = self.scores.get(name)
            if score is None or len(score) != full:
                have = "none" if score is None else f"{len(score)} channels"
                raise ValueError(
                    f"order ranks {have} of space {name!r}, the network has {full}: "
                    "it must be a ranking of this network, from dn.rank_channels(net, ...)"
                )
            found[number] = score
        return found


def rank_channels(
    net: Network,
    data: Data | Split | Any = None,
    *,
    method: str = "noise",
    epochs: int = 3,
    batch: int = 64,
    lr: float = 0.1,
    level: float = 0.2,
    threads: int | None = None,
    rng: Rng = None,
) -> ChannelRanking:
    """Rank the channels of every elastic space by how little the network would miss them.

    By noise (Yang and Fan 2021, after the parametric noise of He et al. 2019): every channel c has a scale a_c, trained
    while the weights w that produce it stand still and are read as ``w + a_c * N(0, std w)``, a new draw each step; a
    channel whose scale grows stands noise well and is missed least. Two things are decided here: std is that of the
    channel's own weights about zero, so that the scale of a channel before a batch norm does not count; and since any
    loss alone would pull all noise to 0, the geometric mean of the scales of a space stays at `level`, so channels
    share a given amount of noise as the loss wants it shared.

    Parameters
    ----------
    net : Network
        A float network; it is not changed.
    data : Data, Split or array of images, optional
        ``data.train`` or the split, with its labels (cross entropy, or what `fit` takes for such labels); images alone
        are compared with the network's own outputs without noise. Without, calibration images kept from training.
        Norms need none.
    method : "noise", "l1", "l2" or "bn_gamma"
        Norms are those of the weights that produce a channel, or the scale of its batch norms.
    epochs : int
        Of the noise's training.
    batch : int
    lr : float
        Step of the logarithm of the scales (Adam).
    level : float
        Geometric mean of the scales: noise as a share of the weights.
    threads : int, optional
        All cores this process may use without; results do not depend on it.
    rng : None, int or Generator
        Order of images and noise.

    Returns
    -------
    ChannelRanking
        For ``net.make_dynamic(points, order=ranking)``.

    Raises
    ------
    ValueError
        For arguments that do not fit, or if there are no images.
    UnsupportedError
        If the network is quantised.
    NonFiniteError
        If the loss of a step is NaN or infinite.

    Examples
    --------
    >>> import dynadnn as dn
    >>> data = dn.datasets.digits(rng=0).subset(128)
    >>> net = dn.nets.mlp(data, width=16, rng=0)
    >>> ranking = dn.rank_channels(net, data, epochs=1, rng=0)
    >>> net.make_dynamic((0.5, 1.0), order=ranking).points["0.5"].widths
    (8, 8)
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: it must be one of {', '.join(map(repr, METHODS))}")
    if method == "bn_gamma" and not norms(net):
        raise ValueError("method is 'bn_gamma' but the network has no batch norm: use 'l1' or 'l2'")
    spaces = _spaces(net)
    if method != "noise":
        scores = importance(net, method)
        return ChannelRanking(method, {name: scores[number] for number, name, _ in spaces})
    if net.quantised:
        raise UnsupportedError("this network is quantised: rank the channels of the float network")
    for label, value in (("lr", lr), ("level", level)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
            raise ValueError(f"{label} must be above 0 and finite, not {value!r}")
    split = _labelled_images(net, data)
    batch = min(positive_int(batch, "batch"), len(split.x))
    training = _Noise(net, split, batch, float(level), thread_count(threads), seed_of(rng))
    for step, rows in enumerate(training.rows(positive_int(epochs, "epochs"))):
        training.step(step, rows, float(lr))
    return ChannelRanking("noise", training.scores())


def noise_order(net: Network) -> ChannelRanking:
    """Return what order="noise" means: trained on kept calibration images, the same every time."""
    if net._calibration is None:
        raise ValueError(
            "order is 'noise', but this network keeps no images to train the noise on: "
            "pass order=dn.rank_channels(net, data)"
        )
    steps = max(1, len(net._calibration) // min(64, len(net._calibration)))
    return rank_channels(net, epochs=-(-_LEAST_STEPS // steps), rng=0)


@dataclass(frozen=True)
class _Images:
    """What the noise is trained on; without labels the network's own outputs are the targets."""

    x: NDArray[Any]
    y: NDArray[Any] | None
    weight: F32 | None


def _labelled_images(net: Network, data: Any) -> _Images:
    if isinstance(data, Data):
        if data.stream is not None:
            raise ValueError("data arrives in batches: pass a Split or images of it")
        data = data.train
    if isinstance(data, Split):
        net._images(data.x[:1], "data.x")
        _, y = net._labelled(data)
        return _Images(data.x, y, data.weight)
    images = net._calibration if data is None else data
    if images is None:
        raise ValueError("data is missing: this network keeps no calibration images, pass a Data or images")
    return _Images(net._images(images, "data"), None, None)


def _spaces(net: Network) -> list[tuple[int, str, int]]:
    """Return (number, name, channels) of the spaces whose channels may change places."""
    movable = movable_spaces(net)
    return [(s.index, s.name, s.full) for s in net._rules.spaces if s.index in movable]


class _Noise:
    """Scales of the noise of every channel, and their training: gradients from the core, the rest here."""

    def __init__(self, net: Network, split: _Images, batch: int, level: float, threads: int, seed: int) -> None:
        self.net, self.split, self.batch, self.seed, self.level = net, split, batch, seed, level
        self.spaces = _spaces(net)
        known = {number: full for number, _, full in self.spaces}
        self.layers: list[tuple[int, int, F32, F32]] = []  # node, its space, weights (channels, rest), their std
        for i, node in enumerate(net._spec.nodes):
            segments = net._tensors[i]["segments"]
            if node.op in ("conv2d", "linear") and len(segments) == 1 and segments[0][0] in known:
                weight = net.weights[f"{node.name}.weight"].reshape(net._tensors[i]["channels"], -1)
                std = np.sqrt(np.square(weight, dtype=np.float64).mean(axis=1, keepdims=True))
                self.layers.append((i, segments[0][0], weight, std.astype(np.float32)))
        self.log = {number: np.full(full, np.log(level)) for number, full in known.items()}
        self.mean = {number: np.zeros(full) for number, full in known.items()}
        self.square = {number: np.zeros(full) for number, full in known.items()}
        self.loss: Any = MSE() if split.y is None else resolve_loss("auto", split.y, net.outputs)
        self.trainer = _core.Trainer(
            net._graph,
            net._core_params(),
            batch=batch,
            threads=threads,
            seed=seed,
            input_table=net._input_table(),
        )
        self.active, _, self.depth = net._rules.arrays(net.subnet(width=1.0))

    def rows(self, epochs: int) -> Iterator[NDArray[np.int64]]:
        """Rows of every batch; what is left of an epoch is dropped."""
        for epoch in range(epochs):
            order = generator(self.seed, _ORDER, epoch).permutation(len(self.split.x))
            for start in range(0, len(order) - self.batch + 1, self.batch):
                yield order[start : start + self.batch]

    def step(self, number: int, rows: NDArray[np.int64], lr: float) -> None:
        """One draw of noise, its gradient, one step of Adam."""
        x = self.net._images(self.split.x[rows], "data")
        targets = self._targets(x, rows, number)
        draw = generator(self.seed, _NOISE, number)
        drawn = []
        with np.errstate(over="ignore", invalid="ignore"):  # the loss will say so
            for node, space, weight, std in self.layers:
                noise = draw.standard_normal(weight.shape, np.float32) * std
                scale = np.exp(self.log[space]).astype(np.float32)[:, None]
                self.trainer.set_params(node, weight + scale * noise, None)
                drawn.append(noise)
        outputs = self.trainer.forward(x, self.active, -1, number, self.depth)
        weight_of = None if self.split.weight is None else self.split.weight[rows]
        loss, gradient = self.loss(outputs, targets, weight_of)
        if not np.isfinite(loss).all():
            raise NonFiniteError(f"step {number + 1}: the loss under noise is NaN or infinite (a lower level may help)")
        self.trainer.backward(gradient)
        slopes = {space: np.zeros_like(log) for space, log in self.log.items()}
        for (node, space, weight, _), noise in zip(self.layers, drawn, strict=True):
            got = self.trainer.get_grads(node)[0]
            assert got is not None
            slopes[space] += (got.reshape(weight.shape) * noise).sum(axis=1, dtype=np.float64)
        self.trainer.discard()
        for space, slope in slopes.items():
            self._update(space, slope * np.exp(self.log[space]), number, lr)

    def _targets(self, x: NDArray[Any], rows: NDArray[np.int64], number: int) -> NDArray[Any]:
        if self.split.y is not None:
            return self.split.y[rows]
        for node, _, weight, _ in self.layers:
            self.trainer.set_params(node, weight, None)
        return self.trainer.forward(x, self.active, -1, number, self.depth)

    def _update(self, space: int, slope: F64, number: int, lr: float) -> None:
        """Adam on the logarithms, whose mean stays; slopes are those along the logarithms."""
        slope = slope - slope.mean()
        self.mean[space] += (1 - _BETA1) * (slope - self.mean[space])
        self.square[space] += (1 - _BETA2) * (slope**2 - self.square[space])
        mean, square = (
            self.mean[space] / (1 - _BETA1 ** (number + 1)),
            self.square[space] / (1 - _BETA2 ** (number + 1)),
        )
        log = self.log[space] - lr * mean / (np.sqrt(square) + _EPSILON)
        self.log[space] = log - log.mean() + np.log(self.level)

    def scores(self) -> dict[str, F64]:
        """1 / scale of every channel, by the name of its space."""
        return {name: np.exp(-self.log[number]) for number, name, _ in self.spaces}
