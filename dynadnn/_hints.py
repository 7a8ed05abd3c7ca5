"""Hints: what layers inside a teacher compute, for layers inside the student to learn.

The student's value comes from the core's last forward pass and the gradient goes into its backward pass (taps of the
trainer); the teacher's comes from the inference engine. Linear maps are trained by trainers of their own, one layer
large, so all sums are the core's and their bits do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _checkpoint, _core
from ._arguments import generator
from ._network import Network
from ._optimizers import Optimizer
from ._points import size_key
from ._surgery import Channels

F32 = NDArray[np.float32]
KINDS = ("features", "attention")
_MAPS = 43  # stream of random numbers


@dataclass(frozen=True)
class Hint:
    """A layer of the student that learns from a layer of the teacher, besides the outputs.

    Both layers must have equal height and width. The loss per image is added to that of the outputs:

    * ``"features"`` (FitNets, Romero et al. 2015): the mean squared difference of the values; where channels differ, of
      a linear map of the student's channels (a 1 x 1 convolution), which is trained along and then left behind;
    * ``"attention"`` (Zagoruyko and Komodakis 2017): the squared distance of the maps of attention, which are the sums
      over channels of squared values, scaled to length 1 per image. Channels need not be equal.

    Parameters
    ----------
    student, teacher : str
        Names of nodes, or what names begin with before a dot, which is the last such node: "stage2" is what the second
        stage gives.
    kind : "features" or "attention", default "features"
    weight : float, default 1
        Factor of the loss.

    Examples
    --------
    >>> Hint("stage2", "stage2", kind="attention", weight=10.0).kind
    'attention'
    """

    student: str
    teacher: str
    kind: str = "features"
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("student", "teacher"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be the name of a layer, not {type(getattr(self, name)).__name__}")
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}: it must be 'features' or 'attention'")
        if isinstance(self.weight, bool) or not 0 < self.weight < float("inf"):
            raise ValueError(f"weight must be above 0 and finite, not {self.weight}")


def check_hints(hints: Any) -> tuple[Hint, ...]:
    """Return the hints that an argument means."""
    found = (hints,) if isinstance(hints, Hint) else tuple(hints or ())
    for hint in found:
        if not isinstance(hint, Hint):
            raise TypeError(f"hints must hold dn.Hint(student, teacher, ...) objects, not {type(hint).__name__}")
    return found


def find_node(net: Network, name: str, owner: str) -> int:
    """Return the number of a named node, or of the last one below a name."""
    hits = [i for i, node in enumerate(net._spec.nodes) if node.name == name or node.name.startswith(f"{name}.")]
    if not hits:
        raise ValueError(f"hints name {name!r} of the {owner}: its nodes are {', '.join(net._numbers)}")
    return net._numbers.get(name, hits[-1])


class LinearMap:
    """A trained linear map of channels: (n, h, w, inputs) to (n, h, w, outputs)."""

    def __init__(self, shape: tuple[int, int], inputs: int, outputs: int, batch: int, threads: int, seed: int) -> None:
        weight = generator(seed, _MAPS).normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32)
        self.shape, self.inputs, self.outputs = shape, inputs, outputs
        self._trainer = self._convolution(weight, batch, threads)
        self._back = self._convolution(np.ascontiguousarray(weight.T), batch, threads)

    def _convolution(self, weight: F32, batch: int, threads: int) -> _core.Trainer:
        height, width = self.shape
        outputs, inputs = weight.shape
        nodes: list[dict[str, object]] = [
            {"op": "input", "name": "x", "height": height, "width": width, "channels": inputs},
            {"op": "conv2d", "name": "map", "inputs": (0,), "channels": outputs, "kernel": (1, 1)},
        ]
        graph = _core.Graph(nodes, 1)
        return _core.Trainer(graph, [None, (weight, None)], batch=batch, threads=threads, stat_slots=0)

    def __call__(self, x: F32) -> F32:
        """Return the map of a batch."""
        out = self._trainer.forward(x, np.array([self.inputs, self.outputs], np.int32))
        return out.reshape(len(x), *self.shape, self.outputs)

    def backward(self, gradient: F32) -> F32:
        """Return the gradient of the input of the last batch; that of the map waits for commit."""
        n = len(gradient)
        self._trainer.backward(gradient.reshape(n, -1))
        weight, _ = self._trainer.get_params(1)
        assert weight is not None
        self._back.set_params(1, np.ascontiguousarray(weight.reshape(self.outputs, self.inputs).T), None)
        back = self._back.forward(gradient, np.array([self.outputs, self.inputs], np.int32))
        return back.reshape(n, *self.shape, self.inputs)

    def commit(self, optimizer: Optimizer, lr: float, momentum: float, clip_norm: float | None) -> None:
        """Apply the gradient."""
        self._trainer.commit(**optimizer.update(lr, momentum), clip_norm=clip_norm or 0.0)

    def discard(self) -> None:
        """Forget the gradient."""
        self._trainer.discard()

    def state(self) -> dict[str, NDArray[Any]]:
        """For checkpoints."""
        weight, _ = self._trainer.get_params(1)
        first, second, _, _ = self._trainer.get_moments(1)
        assert weight is not None and first is not None and second is not None
        steps = np.array([self._trainer.steps], np.int64)
        return {"weight": weight, "first": first, "second": second, "steps": steps}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `state` returned."""
        self._trainer.set_params(1, arrays["weight"], None)
        self._trainer.set_moments(1, arrays["first"], arrays["second"], None, None)
        self._trainer.steps = int(arrays["steps"][0])


class Inside:
    """Values of some nodes of a network, from its inference engine; images are shared out to threads."""

    def __init__(self, net: Network, nodes: Sequence[int], threads: int) -> None:
        plan, point = net._plan(1), net._find(None)
        self._bound = plan.bind(*net._binding(point))
        self._engines = [_core.Engine(plan, input_shape=net.shape, outputs=net.outputs) for _ in range(threads)]
        self.nodes = tuple(dict.fromkeys(nodes))
        macs = net._cost(point)[1]
        self.macs = int(sum(macs[: node + 1].sum() for node in self.nodes))  # per image
        self._net = net

    def __call__(self, x: NDArray[Any]) -> dict[int, F32]:
        """Return the values by node, (n, h, w, channels)."""
        images = self._net._images(x)
        parts = np.array_split(images, min(len(self._engines), len(images)))
        if len(parts) == 1:
            return {node: self._engines[0].activation(images, self._bound, node) for node in self.nodes}

        def run(part: NDArray[Any], engine: _core.Engine) -> list[F32]:
            return [engine.activation(part, self._bound, node) for node in self.nodes]

        with ThreadPoolExecutor(len(parts)) as pool:
            found = list(pool.map(run, parts, self._engines))
        return {node: np.concatenate(values) for node, values in zip(self.nodes, zip(*found, strict=True), strict=True)}


def feature_loss(values: F32, wanted: F32) -> tuple[F32, F32]:
    """(mean squared difference per image, its gradient)."""
    difference = values - wanted
    size = difference[0].size
    loss = np.einsum("nhwc,nhwc->n", difference, difference, dtype=np.float64) / size
    return loss.astype(np.float32), difference * np.float32(2 / size)


def attention_loss(values: F32, wanted: F32) -> tuple[F32, F32]:
    """(squared distance of the attention maps per image, its gradient)."""
    (mine, length), (theirs, _) = _attention(values), _attention(wanted)
    apart = mine - theirs
    loss = np.einsum("nhw,nhw->n", apart, apart)
    along = np.einsum("nhw,nhw->n", apart, mine)[:, None, None]
    slope = 2 * (apart - along * mine) / length[:, None, None]
    return loss.astype(np.float32), (2 * slope[..., None] * values).astype(np.float32)


def _attention(values: F32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return maps of length 1, and the length they had; a map of nothing stays 0."""
    squares = np.einsum("nhwc,nhwc->nhw", values, values, dtype=np.float64)
    length = np.maximum(np.sqrt(np.einsum("nhw,nhw->n", squares, squares)), 1e-12)
    return squares / length[:, None, None], length


class Hints:
    """All hints of a run."""

    def __init__(
        self,
        student: Network,
        teacher: Any,
        hints: tuple[Hint, ...],
        x: NDArray[Any],
        *,
        batch: int,
        threads: int,
        seed: int,
    ) -> None:
        if not isinstance(teacher, Network):
            raise ValueError(
                f"hints look inside the teacher, which must be a Network for that, not {type(teacher).__name__}"
            )
        self.hints = hints
        self.widest = max(student.points.values(), key=size_key)
        nodes = [find_node(student, hint.student, "student") for hint in hints]
        self.taps = np.array(nodes, np.int32)
        self._theirs = [find_node(teacher, hint.teacher, "teacher") for hint in hints]
        self.teacher = Inside(teacher, self._theirs, threads)
        known = self.teacher(x[:1])
        self.maps: list[LinearMap | None] = []
        self.macs = 0  # of the maps, per image
        active, _, _ = student._rules.arrays(self.widest)
        for number, (hint, mine, theirs) in enumerate(zip(hints, nodes, self._theirs, strict=True)):
            tensor = student._tensors[mine]
            channels = len(Channels(tensor["segments"]).active(active))
            shape = (tensor["height"], tensor["width"])
            self._check(hint, shape, known[theirs].shape[1:])
            wanted = known[theirs].shape[3]
            linear = None
            if hint.kind == "features" and channels != wanted:
                linear = LinearMap(
                    shape, channels, wanted, batch, threads, int(generator(seed, _MAPS, number).integers(2**31))
                )
                self.macs += 3 * shape[0] * shape[1] * channels * wanted
            self.maps.append(linear)
        self._wanted: dict[int, F32] | None = None
        self._pending = False

    def _check(self, hint: Hint, mine: tuple[int, int], theirs: tuple[int, ...]) -> None:
        if mine != tuple(theirs[:2]):
            raise ValueError(
                f"hints: {hint.student!r} of the student is {mine[0]} x {mine[1]}, {hint.teacher!r} of the teacher "
                f"{theirs[0]} x {theirs[1]}: height and width must be equal"
            )
        if hint.kind == "attention" and mine == (1, 1):
            raise ValueError(f"hints: {hint.student!r} is 1 x 1, which has no map of attention: use kind='features'")

    def look(self, x: NDArray[Any] | None) -> None:
        """Keep what the teacher computes inside for a batch; None ends the hints."""
        self._wanted = None if x is None else self.teacher(x)

    def add(self, trainer: _core.Trainer, weight: F32 | None) -> tuple[F32, tuple[F32 | None, ...]] | None:
        """(weighted loss per image, gradient per tap) of the pass that the trainer has just made."""
        if self._wanted is None:
            return None
        total, gradients = np.zeros(1, np.float32), []
        for k, (hint, linear) in enumerate(zip(self.hints, self.maps, strict=True)):
            values = trainer.tap(k)
            wanted = self._wanted[self._theirs[k]]
            share = np.full(len(values), hint.weight, np.float32) if weight is None else hint.weight * weight
            seen = values if linear is None else linear(values)
            loss, gradient = (feature_loss if hint.kind == "features" else attention_loss)(seen, wanted)
            gradient = gradient * (share / np.float32(len(values)))[:, None, None, None]
            gradients.append(
                np.ascontiguousarray(gradient if linear is None else linear.backward(gradient), np.float32)
            )
            total = total + np.asarray(loss * share, np.float32)
        self._pending = True
        return total, tuple(gradients)

    def commit(self, optimizer: Optimizer, lr: float, momentum: float, clip_norm: float | None) -> None:
        """Update the maps."""
        for linear in self.maps:
            if linear is not None and self._pending:
                linear.commit(optimizer, lr, momentum, clip_norm)
        self._pending = False

    def discard(self) -> None:
        """Forget the step."""
        self._pending = False
        for linear in self.maps:
            if linear is not None:
                linear.discard()

    def state(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Arrays for checkpoints."""
        return {f"hint{k}": linear.state() for k, linear in enumerate(self.maps) if linear is not None}

    def restore(self, arrays: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Take back what `state` returned."""
        for k, linear in enumerate(self.maps):
            if linear is not None:
                _checkpoint.check_arrays("checkpoint", f"hint{k}", arrays.get(f"hint{k}", {}), linear.state())
                linear.restore(arrays[f"hint{k}"])
