"""A network in quantisation-aware training: scales of weights, and per point and bits statistics and ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._codes import LIMIT, Trained, best_factor, whole_scale
from ._errors import NonFiniteError, UnsupportedError
from ._network import Network
from ._optimizers import Optimizer
from ._points import Subnet, size_key
from ._qat import QAT
from ._quantize import coded_network, trained_network
from ._session import PASSES, STAT_MOMENTUM, Session
from ._tables import Tables

F32 = NDArray[np.float32]
_SEARCH = 64  # steps after which the best part of a weight's range is looked for again
_LEAST = 2.0**-120  # scale
_MOST_CHANGE = 0.1  # of a learned range, per step


@dataclass
class _Observed:
    """What the passes of one point at some bits have seen: running averages of statistics and largest magnitudes."""

    mean: F32
    variance: F32
    limit: F32  # per node
    passes: int = 0

    def add(self, mean: F32, variance: F32, peaks: F32 | None) -> None:
        """Average with one more pass; the first ones count as much as those before them together."""
        share = np.float32(max(STAT_MOMENTUM, 1 / (1 + self.passes)))
        self.mean = self.mean + share * (mean - self.mean)
        self.variance = self.variance + share * (variance - self.variance)
        if peaks is not None:
            self.limit = self.limit + share * (peaks - self.limit)
        self.passes += 1


class QatSession(Session):
    """One network in quantisation-aware training."""

    def __init__(
        self,
        net: Network,
        qat: QAT,
        images: NDArray[Any],
        *,
        batch: int,
        threads: int,
        seed: int,
        frozen: Iterable[str] | None,
        taps: NDArray[np.int32] | None = None,
    ) -> None:
        self.qat = qat
        self._layers = {i: n.name for i, n in enumerate(net._spec.nodes) if n.op in ("conv2d", "linear")}
        self._factors: dict[int, NDArray[np.float64]] = {}
        self._scaled_at = -1  # step of the weights whose scales the trainer has
        self._code_scales: dict[int, F32] = {}
        flat = {name: net.weights[f"{name}.weight"] for name in self._layers.values()}
        coded = {n: (np.zeros(w.shape, np.int8), np.ones(len(w), np.float32)) for n, w in flat.items()}
        shape, self._origin = coded_network(net, coded, qat.views, "mse", None)
        self._coded = _coded_nodes(shape)
        signed = np.array([tensor["signed"] for tensor in net._tensors])
        self._levels = np.where(signed, 127, 255).astype(np.float32)
        size = np.array([t["height"] * t["width"] * t["channels"] for t in net._tensors], np.float64)
        self._slope_gain = 1 / np.sqrt(size * self._levels)  # Esser et al. 2020, section 2.2
        self._node_bits = {subnet: shape._rules.arrays(subnet)[1] for subnet in self._origin}
        self._seen: list[tuple[Subnet, F32, F32, F32, NDArray[np.float64]]] = []
        super().__init__(net, batch=batch, threads=threads, seed=seed, frozen=frozen, taps=taps)
        self._images = net._images(images[:batch], "images")
        self._start()

    def _more(self) -> dict[str, Any]:
        return {"coded": self._coded.astype(np.uint8), "learns_scales": self.qat.ranges == "learned"}

    def _start(self) -> None:
        """Give every point at all bits ranges and statistics of some images."""
        empty = self.net._empty_statistics()
        self._observed = {subnet: _Observed(*empty, np.zeros_like(self._levels)) for subnet in self._origin}
        self._settle()
        for subnet, observed in self._observed.items():
            self.trainer.set_scales(observed.limit)
            self._run(self._images, subnet, 0)
            observed.limit = self.trainer.peaks()
            self.trainer.set_scales(self._scales(subnet))
            self._run(self._images, subnet, 0)
            observed.add(*self.trainer.batch_stats(), None)

    def _run(self, x: NDArray[Any], subnet: Subnet, step: int) -> F32:
        active, _, depth = self.net._rules.arrays(Subnet(subnet.widths, (), subnet.depth))
        bits = self._node_bits.get(subnet)
        if bits is None:
            bits = self._node_bits[self._nearest(subnet)]
        out: F32 = self.trainer.forward(x, active, -1, step, depth, bits)
        return out

    def _nearest(self, subnet: Subnet) -> Subnet:
        """Return the point whose ranges a point without a name uses: the widest at the same bits."""
        return max((known for known in self._origin if known.bits == subnet.bits), key=size_key)

    def _scales(self, subnet: Subnet) -> F32:
        """Real value of one step of every tensor, per node."""
        limit = self._observed[subnet if subnet in self._observed else self._nearest(subnet)].limit
        scale = np.where(limit > 0, limit, 1) / self._levels
        return np.where(self._coded, np.maximum(scale, np.float32(_LEAST)), 1).astype(np.float32)

    def _settle(self) -> None:
        """Scales of the weights as they are now: the best part, looked for seldom, of what the largest weight needs."""
        steps = self.trainer.steps
        if self._scaled_at == steps:
            return
        views = self.qat.views
        for i in self._layers:
            weight = self.trainer.get_params(i)[0]
            assert weight is not None
            flat = weight.reshape(self.net._tensors[i]["channels"], -1).astype(np.float64)
            if steps % _SEARCH == 0 or i not in self._factors:
                self._factors[i] = best_factor(flat, views)
            self._code_scales[i] = (whole_scale(flat, views) * self._factors[i]).astype(np.float32)
            self.trainer.set_code_scale(i, self._code_scales[i], LIMIT[min(views)])
        self._scaled_at = steps

    # ---- a step ----

    def forward(self, x: NDArray[Any], subnet: Subnet, step: int, number: int = 0) -> F32:
        """Return the outputs of one pass as the integer network would give them, with statistics of the batch."""
        if number == 0:
            self._seen = []
            self._settle()
        self.trainer.set_scales(self._scales(subnet))
        outputs = self._run(x, subnet, step * PASSES + number)
        peaks = self.trainer.peaks()
        if not np.isfinite(peaks).all():
            raise NonFiniteError(f"{self.net._spec.nodes[int(np.argmax(~np.isfinite(peaks)))].name} gives infinity")
        self._last = subnet, *self.trainer.batch_stats(), peaks
        return outputs

    def backward(self, gradient: F32, taps: tuple[F32 | None, ...] | None = None) -> None:
        """Add the gradients of the last pass; what it saw waits for commit."""
        super().backward(gradient, taps)
        if self._last[0] in self._observed:
            self._seen.append((*self._last, self.trainer.slopes()))

    def macs(self, subnet: Subnet) -> int:
        """Multiply-accumulates of one image forward."""
        return super().macs(Subnet(subnet.widths, (), subnet.depth))

    def commit(self, optimizer: Optimizer, lr: float, momentum: float, clip_norm: float | None) -> float:
        """Apply the gradients, and take over statistics and ranges of this step's passes."""
        norm = super().commit(optimizer, lr, momentum, clip_norm)
        learned = self.qat.ranges == "learned"
        for subnet, mean, variance, peaks, slopes in self._seen:
            observed = self._observed[subnet]
            observed.add(mean, variance, None if learned else peaks)
            if learned:
                observed.limit = self._learned(observed.limit, slopes, lr)
        self._seen = []
        return norm

    def _learned(self, limit: F32, slopes: NDArray[np.float64], lr: float) -> F32:
        """Ranges after one step of gradient descent on their scales."""
        scale = limit.astype(np.float64) / self._levels
        moved = scale - lr * slopes * self._slope_gain
        kept = np.clip(moved, scale * (1 - _MOST_CHANGE), scale * (1 + _MOST_CHANGE)) * self._levels
        return np.where(np.isfinite(kept), kept, limit).astype(np.float32)

    # ---- networks ----

    def trained(self) -> Trained:
        """Return what `quantize` needs."""
        self._settle()
        groups = self.net._spec.groups
        tables = {
            subnet: Tables(seen.mean.copy(), seen.variance.copy(), np.repeat(self._scales(subnet)[:, None], groups, 1))
            for subnet, seen in self._observed.items()
        }
        return Trained(self.qat.views, {name: self._code_scales[i] for i, name in self._layers.items()}, tables)

    def export(self) -> None:
        """Give the network its weights, the statistics of 8 bits, and what training found."""
        super().export()
        if self.net._needs_tables:
            self.net._set_tables(
                {
                    origin: Tables(self._observed[made].mean, self._observed[made].variance)
                    for made, origin in self._origin.items()
                    if set(made.bits) == {8}
                }
            )
        self.net._trained = self.trained()

    def finish(self, images: NDArray[Any]) -> None:
        """Measure the statistics of every point on the integer network of the last step; ranges stay."""
        model, checked = self.judged(), self.net._images(images, "images")
        if self.net._graph.norm_channels:
            for subnet, tables in list(model.tables.items()):
                model._recalibrate_point(subnet, checked, scale=tables.scale)
        trained = self.net._trained
        assert trained is not None
        self.net._trained = Trained(trained.views, trained.scales, model.tables)

    def judged(self) -> Network:
        """Return the integer network."""
        assert self.net._trained is not None
        return trained_network(self.net, self.net._trained, self.qat.views, None)

    # ---- checkpoints ----

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything a resumed run needs, as arrays."""
        arrays = super().state()
        arrays |= {f"qat/factor/{i}": factor.copy() for i, factor in self._factors.items()}
        for number, seen in enumerate(self._observed.values()):
            arrays[f"qat/{number}/mean"], arrays[f"qat/{number}/variance"] = seen.mean.copy(), seen.variance.copy()
            arrays[f"qat/{number}/limit"] = seen.limit.copy()
            arrays[f"qat/{number}/passes"] = np.array([seen.passes], np.int64)
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `state` returned; of a run without qat, begin with its weights."""
        super().restore(arrays)
        self._scaled_at, self._seen, self._factors = -1, [], {}
        if not any(key.startswith("qat/") for key in arrays):
            self._start()
            return
        self._factors = {i: np.array(arrays[f"qat/factor/{i}"]) for i in self._layers}
        for number, seen in enumerate(self._observed.values()):
            seen.mean, seen.variance, seen.limit = (
                np.array(arrays[f"qat/{number}/{kind}"]) for kind in ("mean", "variance", "limit")
            )
            seen.passes = int(arrays[f"qat/{number}/passes"][0])


def _coded_nodes(model: Network) -> NDArray[np.bool_]:
    """Which tensors the integer engine stores in codes of their own, as its plan says.

    Tensors that share the scale of another (max pool, pad, shortcut) hold codes already when what they read does.
    """
    n = len(model._spec.nodes)
    arrays = model._rules.arrays(model._find(None))
    point = model._plan(1).bind(*arrays, *model._empty_statistics(), np.ones((n, model._spec.groups), np.float32))
    coded, float_too = np.zeros(n, bool), np.zeros(n, bool)
    for step in point.steps:
        kind = step["kernel"].split()[0].rsplit("_", 1)[0]
        if kind == "dequantize":
            continue
        if kind == "quantize":
            float_too[step["output"]] = True
        coded[step["output"]] = step["is_int8"]
    source, readers = list(range(n)), np.zeros(n, int)
    for i, node in enumerate(model._spec.nodes):
        if node.op in ("flatten", "dropout", "identity"):
            source[i] = source[node.inputs[0]]
        else:
            np.add.at(readers, [source[k] for k in node.inputs], 1)
    readers[source[model._spec.output]] += 1
    mixed = np.flatnonzero(float_too & (readers > 1))
    if len(mixed):
        raise UnsupportedError(
            f"qat: {model._spec.nodes[int(mixed[0])].name!r} is read both in integers and in float, which training "
            "cannot model"
        )
    own = np.array([tensor["scale_from"] == i for i, tensor in enumerate(model._tensors)])
    both: NDArray[np.bool_] = coded & own
    return both
