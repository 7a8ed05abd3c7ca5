"""A network while it is trained: the core's trainer, and the statistics of every named point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Mapping
from types import FrameType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._errors import UnsupportedError
from ._network import Network
from ._optimizers import Optimizer
from ._points import Subnet
from ._surgery import norms
from ._tables import Tables

F32 = NDArray[np.float32]
STAT_MOMENTUM = 0.1
_MOMENTS = ("weight1", "weight2", "bias1", "bias2")
PASSES = 256  # most passes of one step; numbers the random numbers of dropout


class Uninterrupted:
    """Holds Ctrl-C back until the block ends, so that what belongs together happens together."""

    def __enter__(self) -> None:
        self._caught: tuple[int, FrameType | None] | None = None
        self._old: Any = None
        if threading.current_thread() is threading.main_thread():
            self._old = signal.getsignal(signal.SIGINT)
            if callable(self._old):
                signal.signal(signal.SIGINT, self._keep)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self._caught = (number, frame)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if callable(self._old):
            signal.signal(signal.SIGINT, self._old)
            if self._caught is not None:
                self._old(*self._caught)


class Session:
    """One network in training."""

    def __init__(
        self,
        net: Network,
        *,
        batch: int,
        threads: int,
        seed: int,
        frozen: Iterable[str] | None,
        ema: float | None = None,
        bf16: bool = False,
        taps: NDArray[np.int32] | None = None,
        private_affine: bool = False,
    ) -> None:
        if net.quantised:
            raise UnsupportedError("this network is quantised: train the float network, then dn.quantize it again")
        self.net = net
        self.points = list(dict.fromkeys(net.points.values()))
        self.private = private_affine or any(s in net.tables and net.tables[s].affine is not None for s in self.points)
        self.private = self.private and len(self.points) > 1 and net._graph.norm_channels > 0
        if self.private:  # slot 0 is whose scale and shift the weights hold, and passes of nobody use
            self.points.sort(key=lambda s: s != net._find(None))
        self._slots = {subnet: i for i, subnet in enumerate(self.points)}
        self._arrays: dict[Subnet, tuple[Any, Any, Any]] = {}
        self._macs: dict[Subnet, int] = {}
        self.trainer = _core.Trainer(
            net._graph,
            net._core_params(),
            batch=batch,
            threads=threads,
            stat_slots=len(self.points),
            stat_momentum=STAT_MOMENTUM,
            seed=seed,
            frozen=frozen_nodes(net, frozen),
            input_table=net._input_table(),
            bf16=bf16,
            taps=taps,
            private_affine=self.private,
            **self._more(),
        )
        self._norms = norms(net)
        for subnet, slot in self._slots.items():
            if subnet in net.tables:
                self.trainer.set_stats(slot, net.tables[subnet].mean, net.tables[subnet].variance)
                self._set_affine(slot, net.tables[subnet].affine)
        self._nodes = [i for i, node in enumerate(net._spec.nodes) if f"{node.name}.weight" in net.weights]
        self.ema = ema
        self._average = self._params() if ema is not None else {}

    def _more(self) -> dict[str, Any]:
        """Return further arguments of the trainer."""
        return {}

    def judged(self) -> Network:
        """Return the network that validation judges, as exported."""
        return self.net

    def finish(self, images: NDArray[Any]) -> None:
        """After the last step, once exported: what is to be computed from calibration images."""

    def forward(self, x: NDArray[Any], subnet: Subnet, step: int, number: int = 0) -> F32:
        """Return the outputs of one pass in training mode."""
        if subnet not in self._arrays:
            self._arrays[subnet] = self.net._rules.arrays(subnet)
        active, _, depth = self._arrays[subnet]
        out: F32 = self.trainer.forward(x, active, self._slots.get(subnet, -1), step * PASSES + number, depth)
        return out

    def backward(self, gradient: F32, taps: tuple[F32 | None, ...] | None = None) -> None:
        """Add the gradients of the last pass; taps: of the values of tapped nodes."""
        self.trainer.backward(gradient, taps)

    def macs(self, subnet: Subnet) -> int:
        """Multiply-accumulates of one image forward."""
        if subnet not in self._macs:
            self._macs[subnet] = self.net.macs(subnet)
        return self._macs[subnet]

    def commit(self, optimizer: Optimizer, lr: float, momentum: float, clip_norm: float | None) -> float:
        """Apply the gradients; the norm they had."""
        norm = float(self.trainer.commit(**optimizer.update(lr, momentum), clip_norm=clip_norm or 0.0))
        if self.ema is not None:
            steps = self.trainer.steps
            share = np.float32(1 - min(self.ema, (1 + steps) / (10 + steps)))  # the first steps count less
            for key, value in self._params().items():
                average = self._average[key]
                average += share * (value - average)
        return norm

    def _params(self) -> dict[str, F32]:
        """Weights of the last finished step."""
        found: dict[str, F32] = {}
        for i in self._nodes:
            for kind, value in zip(("weight", "bias"), self.trainer.get_params(i), strict=True):
                if value is not None:
                    found[f"{i}/{kind}"] = value
        for slot in self._own:
            self.trainer.affine = slot
            for _, i, _, _ in self._norms:
                found[f"{i}/weight@{slot}"], found[f"{i}/bias@{slot}"] = _both(self.trainer.get_params(i))
        self.trainer.affine = 0
        return found

    @property
    def _own(self) -> range:
        """Slots of points with a scale and shift of their own."""
        return range(1, len(self.points) if self.private else 1)

    def _set_affine(self, slot: int, affine: F32 | None) -> None:
        """Start a point from its own scale and shift; that of slot 0 is then the weights'."""
        if affine is None:
            return
        self.trainer.affine = slot
        for _, i, start, count in self._norms:
            self.trainer.set_params(i, *np.ascontiguousarray(affine[:, start : start + count]))
        self.trainer.affine = 0

    def _affine(self, slot: int, params: Mapping[str, F32]) -> F32 | None:
        """Scale and shift of a point, as tables hold them; None where they are the weights'."""
        if slot not in self._own:
            return None
        affine = np.zeros((2, self.net._graph.norm_channels), np.float32)
        for _, i, start, count in self._norms:
            for row, kind in enumerate(("weight", "bias")):
                affine[row, start : start + count] = params[f"{i}/{kind}@{slot}"]
        return affine

    def diagnose(self) -> str:
        """First layer with a value that is not finite, as text."""
        return str(self.trainer.diagnose() or "no layer of the last pass holds NaN or infinity")

    def export(self) -> None:
        """Give the network the weights of the last finished step, or their average, and the running statistics."""
        net, weights = self.net, {}
        params = self._params() if self.ema is None else self._average
        for place, value in params.items():
            number, kind = place.split("/")
            key = f"{net._spec.nodes[int(number)].name}.{kind}"
            if key in net.weights:
                weights[key] = value.reshape(net.weights[key].shape).copy()
        net._set_weights(weights)
        net._set_tables(
            {
                s: Tables(*self.trainer.get_stats(slot), affine=self._affine(slot, params))
                for s, slot in self._slots.items()
            }
            if net._needs_tables
            else {}
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything a resumed run needs, as arrays."""
        arrays: dict[str, NDArray[Any]] = {"steps": np.array([self.trainer.steps], np.int64)}
        arrays |= self._params()
        arrays |= {f"average/{key}": value.copy() for key, value in self._average.items()}
        for i in self._nodes:
            for kind, value in zip(_MOMENTS, self.trainer.get_moments(i), strict=True):
                if value is not None:
                    arrays[f"{i}/{kind}"] = value
        for slot in self._own:
            self.trainer.affine = slot
            for _, i, _, _ in self._norms:
                moments = zip(_MOMENTS, self.trainer.get_moments(i), strict=True)
                arrays |= {f"{i}/{kind}@{slot}": value for kind, value in moments if value is not None}
        self.trainer.affine = 0
        for slot in range(len(self.points)):
            arrays[f"mean/{slot}"], arrays[f"variance/{slot}"] = self.trainer.get_stats(slot)
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `state` returned."""
        for i in self._nodes:
            self.trainer.set_params(i, arrays.get(f"{i}/weight"), arrays.get(f"{i}/bias"))
            self.trainer.set_moments(i, *(arrays.get(f"{i}/{kind}") for kind in _MOMENTS))
        for slot in self._own:
            self.trainer.affine = slot
            for _, i, _, _ in self._norms:
                self.trainer.set_params(i, arrays[f"{i}/weight@{slot}"], arrays[f"{i}/bias@{slot}"])
                self.trainer.set_moments(i, *(arrays[f"{i}/{kind}@{slot}"] for kind in _MOMENTS))
        self.trainer.affine = 0
        for slot in range(len(self.points)):
            self.trainer.set_stats(slot, arrays[f"mean/{slot}"], arrays[f"variance/{slot}"])
        self.trainer.steps = int(arrays["steps"][0])
        self._average = {key: np.array(arrays[f"average/{key}"]) for key in self._average}


def _both(pair: tuple[F32 | None, F32 | None]) -> tuple[F32, F32]:
    """Scale and shift of a batch norm, which always has both."""
    first, second = pair
    assert first is not None and second is not None
    return first, second


def frozen_nodes(net: Network, frozen: Iterable[str] | None) -> NDArray[np.uint8] | None:
    """One per node that is not updated: named, or below a name ("stage1" freezes "stage1.block1.conv1")."""
    if frozen is None:
        return None
    names = [frozen] if isinstance(frozen, str) else list(frozen)
    mask = np.zeros(len(net._spec.nodes), np.uint8)
    for name in names:
        hits = [i for i, n in enumerate(net._spec.nodes) if n.name == name or n.name.startswith(f"{name}.")]
        if not hits:
            raise ValueError(f"frozen names {name!r}: no layer is called so, or begins so before a dot")
        mask[hits] = 1
    return mask
