"""Losses: value per sample and gradient of their weighted mean, for labels and for a teacher's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._errors import NonFiniteError
from ._metrics import sigmoid, softplus

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class Loss(Protocol):
    """What a loss can do; all gradients are those of scale times the mean of the weighted losses per sample."""

    def check(self, y: NDArray[Any], outputs: int) -> None:
        """Raise if the loss does not fit the labels."""

    def __call__(self, outputs: F32, y: NDArray[Any], weight: F32 | None, scale: float = 1.0) -> tuple[F32, F32]:
        """(loss per sample, gradient)."""

    def soft(
        self, outputs: F32, teacher: F32, weight: F32 | None, temperature: float, scale: float, into: F32 | None
    ) -> tuple[F32, F32]:
        """(loss per sample against a teacher's outputs, gradient); the gradient is added to `into` if given."""


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy of class labels.

    Its distillation loss is ``temperature**2 * KL(softmax(teacher / temperature) || softmax(outputs / temperature))``
    (Hinton et al. 2015).

    Parameters
    ----------
    label_smoothing : float, default 0
        Share of the target spread over all classes.
    class_weight : sequence of float, optional
        Factor per class; losses are multiplied, then averaged over the batch.
    """

    label_smoothing: float = 0.0
    class_weight: tuple[float, ...] | None = None

    def __init__(self, label_smoothing: float = 0.0, class_weight: Sequence[float] | None = None) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, not {label_smoothing}")
        weights = None if class_weight is None else tuple(float(w) for w in class_weight)
        if weights is not None and not (np.isfinite(weights).all() and min(weights) >= 0):
            raise ValueError(f"class_weight must be finite and not below 0, not {weights}")
        object.__setattr__(self, "label_smoothing", float(label_smoothing))
        object.__setattr__(self, "class_weight", weights)

    def check(self, y: NDArray[Any], outputs: int) -> None:
        """Raise if the loss does not fit the labels."""
        if y.ndim != 1:
            raise ValueError(
                "loss is CrossEntropy, which needs class labels; the data has targets (n, outputs): use dn.MSE(), "
                "dn.Huber(), or dn.BCE() for several labels at once"
            )
        if self.class_weight is not None and len(self.class_weight) != outputs:
            raise ValueError(f"class_weight has {len(self.class_weight)} entries for {outputs} classes")

    def __call__(self, outputs: F32, y: NDArray[Any], weight: F32 | None, scale: float = 1.0) -> tuple[F32, F32]:
        """(loss per sample, gradient)."""
        if self.class_weight is not None:
            by_class = np.array(self.class_weight, np.float32)[y]
            weight = by_class if weight is None else weight * by_class
        loss, gradient = _core.cross_entropy(outputs, y, weight, self.label_smoothing, scale)
        return (loss if weight is None else loss * weight), gradient

    def soft(
        self, outputs: F32, teacher: F32, weight: F32 | None, temperature: float, scale: float, into: F32 | None
    ) -> tuple[F32, F32]:
        """(loss per sample against a teacher's outputs, gradient)."""
        loss, gradient = _core.distillation(outputs, teacher, weight, temperature, scale, into)
        return (loss if weight is None else loss * weight), gradient


@dataclass(frozen=True)
class BCE:
    """Binary cross entropy of several labels at once: float32 or uint8 of 0 and 1, shape (n, outputs).

    From outputs z, before the sigmoid: the mean over outputs of ``pos_weight * y * softplus(-z) + (1 - y) *
    softplus(z)``. Its distillation loss is ``temperature**2 * KL(sigmoid(teacher / temperature) || sigmoid(outputs /
    temperature))``, every output a distribution of its own, their mean.

    Parameters
    ----------
    pos_weight : float or sequence of float, optional
        Factor on the loss of labels that are 1, one for all or one per output: above 1 for rare labels.

    Examples
    --------
    >>> loss, gradient = BCE()(np.zeros((1, 2), np.float32), np.array([[1, 0]], np.uint8), None)
    >>> loss.round(4).tolist(), gradient.tolist()
    ([0.6930999755859375], [[-0.25, 0.25]])
    """

    pos_weight: float | tuple[float, ...] | None = None

    def __init__(self, pos_weight: float | Sequence[float] | None = None) -> None:
        value: float | tuple[float, ...] | None = None
        if pos_weight is not None:
            array = np.asarray(pos_weight, np.float64)
            if array.ndim > 1 or array.size == 0 or not (np.isfinite(array).all() and (array > 0).all()):
                raise ValueError(f"pos_weight must be a finite number above 0, or one per output, not {pos_weight!r}")
            value = tuple(array.tolist()) if array.ndim else float(array)
        object.__setattr__(self, "pos_weight", value)

    def check(self, y: NDArray[Any], outputs: int) -> None:
        """Raise if the loss does not fit the labels."""
        if y.ndim != 2:
            raise ValueError(
                "loss is BCE, which needs labels of 0 and 1, shape (n, outputs); the data has class labels: use "
                "dn.CrossEntropy()"
            )
        bad = np.flatnonzero(~((y == 0) | (y == 1)).all(axis=1))
        if len(bad):
            raise ValueError(
                f"loss is BCE, which needs labels of 0 and 1; row {bad[0]} of y holds {y[bad[0]].tolist()}: use "
                "dn.MSE() or dn.Huber() for targets"
            )
        if isinstance(self.pos_weight, tuple) and len(self.pos_weight) != outputs:
            raise ValueError(f"pos_weight has {len(self.pos_weight)} entries for {outputs} outputs")

    def __call__(self, outputs: F32, y: NDArray[Any], weight: F32 | None, scale: float = 1.0) -> tuple[F32, F32]:
        """(loss per sample, gradient)."""
        z, positive = outputs.astype(np.float64), y.astype(np.float64)
        if self.pos_weight is not None:
            positive = positive * np.asarray(self.pos_weight)
        negative = 1.0 - y
        loss = positive * softplus(-z) + negative * softplus(z)
        slope = negative * sigmoid(z) - positive * sigmoid(-z)
        return _weighted(loss, slope, weight, scale)

    def soft(
        self, outputs: F32, teacher: F32, weight: F32 | None, temperature: float, scale: float, into: F32 | None
    ) -> tuple[F32, F32]:
        """(loss per sample against a teacher's outputs, gradient)."""
        z, u = outputs.astype(np.float64) / temperature, teacher.astype(np.float64) / temperature
        p = sigmoid(u)
        divergence = p * (softplus(-z) - softplus(-u)) + (1 - p) * (softplus(z) - softplus(u))
        loss, gradient = temperature**2 * np.maximum(divergence, 0), temperature * (sigmoid(z) - p)
        return _weighted(loss, gradient, weight, scale, into)


@dataclass(frozen=True)
class MSE:
    """Mean squared error of float32 targets, shape (n, outputs).

    Its distillation loss takes the teacher's outputs as targets; a temperature has no meaning there.
    """

    def check(self, y: NDArray[Any], outputs: int) -> None:
        """Raise if the loss does not fit the targets."""
        _check_targets("MSE", y)

    def __call__(self, outputs: F32, y: NDArray[Any], weight: F32 | None, scale: float = 1.0) -> tuple[F32, F32]:
        """(loss per sample, gradient)."""
        loss, gradient = _core.mse(outputs, np.ascontiguousarray(y, np.float32), weight, scale)
        return (loss if weight is None else loss * weight), gradient

    def soft(
        self, outputs: F32, teacher: F32, weight: F32 | None, temperature: float, scale: float, into: F32 | None
    ) -> tuple[F32, F32]:
        """(loss per sample against a teacher's outputs, gradient)."""
        return _added(*self(outputs, teacher, weight, scale), into)


@dataclass(frozen=True)
class Huber:
    """Squared error near the target and absolute error beyond delta (Huber 1964), which outliers pull less.

    The mean over outputs of ``d**2 / 2`` for ``abs(d) <= delta``, else ``delta * (abs(d) - delta / 2)``, with d the
    output less the float32 target, shape (n, outputs). Its distillation loss takes the teacher's outputs as targets.

    Parameters
    ----------
    delta : float, default 1
        Where squares end, in units of the targets.

    Examples
    --------
    >>> loss, gradient = Huber()(np.array([[3.0]], np.float32), np.array([[0.0]], np.float32), None)
    >>> loss.tolist(), gradient.tolist()
    ([2.5], [[1.0]])
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.delta < float("inf"):
            raise ValueError(f"delta must be above 0 and finite, not {self.delta}")

    def check(self, y: NDArray[Any], outputs: int) -> None:
        """Raise if the loss does not fit the targets."""
        _check_targets("Huber", y)

    def __call__(self, outputs: F32, y: NDArray[Any], weight: F32 | None, scale: float = 1.0) -> tuple[F32, F32]:
        """(loss per sample, gradient)."""
        d = outputs.astype(np.float64) - y
        slope = np.clip(d, -self.delta, self.delta)
        return _weighted(slope * (d - slope / 2), slope, weight, scale)

    def soft(
        self, outputs: F32, teacher: F32, weight: F32 | None, temperature: float, scale: float, into: F32 | None
    ) -> tuple[F32, F32]:
        """(loss per sample against a teacher's outputs, gradient)."""
        return _added(*self(outputs, teacher, weight, scale), into)


@dataclass(frozen=True)
class Custom:
    """A function (outputs, targets) -> (loss per sample, gradient of their mean)."""

    function: Callable[[F32, NDArray[Any]], tuple[Any, Any]]

    def check(self, y: NDArray[Any], outputs: int) -> None:
        """Any targets will do."""

    def __call__(self, outputs: F32, y: NDArray[Any], weight: F32 | None, scale: float = 1.0) -> tuple[F32, F32]:
        """(loss per sample, gradient)."""
        name = f"loss {getattr(self.function, '__name__', type(self.function).__name__)!r}"
        got = f"for outputs of shape {outputs.shape} and targets of shape {y.shape}"
        returned: Any = self.function(outputs, y)
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            raise TypeError(f"{name} must return (loss per sample, gradient) {got}, not {type(returned).__name__}")
        loss, gradient = _numbers(returned[0], name), _numbers(returned[1], name)
        if loss.shape != (len(y),) or gradient.shape != outputs.shape:
            raise ValueError(
                f"{name} must return shapes ({len(y)},) and {outputs.shape} {got}, "
                f"not {loss.shape} and {gradient.shape}"
            )
        for what, value in (("loss per sample", loss), ("gradient", gradient)):
            rows = np.isfinite(value.reshape(len(y), -1)).all(axis=1)
            if not rows.all() and np.isfinite(outputs).all():  # else it is the network that the caller diagnoses
                raise NonFiniteError(
                    f"{name} returned NaN or infinity in its {what}, first in row {rows.argmin()} {got}"
                )
        if weight is not None:
            loss, gradient = loss * weight, gradient * weight[:, None]
        return loss, np.ascontiguousarray(gradient * np.float32(scale))

    def soft(
        self, outputs: F32, teacher: F32, weight: F32 | None, temperature: float, scale: float, into: F32 | None
    ) -> tuple[F32, F32]:
        """Nobody knows what a function does with a teacher's outputs."""
        raise NotImplementedError


def _numbers(value: ArrayLike, name: str) -> F32:
    try:
        return np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must return two arrays of numbers: {error}") from None


def _check_targets(name: str, y: NDArray[Any]) -> None:
    if y.ndim != 2:
        raise ValueError(f"loss is {name}, which needs float32 targets (n, outputs); the data has class labels")


def _weighted(loss: F64, slope: F64, weight: F32 | None, scale: float, into: F32 | None = None) -> tuple[F32, F32]:
    """Mean over outputs, and the gradient of scale times the weighted mean over samples."""
    n, outputs = loss.shape
    value, gradient = loss.mean(axis=1), slope * (scale / (n * outputs))
    if weight is not None:
        value, gradient = value * weight, gradient * weight[:, None]
    return _added(value.astype(np.float32), gradient.astype(np.float32), into)


def _added(loss: F32, gradient: F32, into: F32 | None) -> tuple[F32, F32]:
    if into is None:
        return loss, gradient
    into += gradient
    return loss, into


BUILT = (CrossEntropy, BCE, MSE, Huber)


def resolve_loss(loss: Any, y: NDArray[Any], outputs: int) -> Loss:
    """Return the loss that an argument means, checked against the labels."""
    made: Loss
    if isinstance(loss, str) and loss == "auto":
        made = CrossEntropy() if y.ndim == 1 else MSE() if y.dtype == np.float32 else BCE()
    elif isinstance(loss, (*BUILT, Custom)):
        made = loss
    elif callable(loss) and not isinstance(loss, type):
        made = Custom(loss)
    else:
        names = ", ".join(f"dn.{kind.__name__}()" for kind in BUILT)
        raise TypeError(f"loss must be 'auto', {names} or a function, not {loss!r}")
    made.check(y, outputs)
    return made
