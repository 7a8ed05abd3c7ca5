"""Losses: value per sample and gradient of their weighted mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy of class labels.

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
            raise ValueError("loss is CrossEntropy, which needs class labels; the data has targets: use dn.MSE()")
        if self.class_weight is not None and len(self.class_weight) != outputs:
            raise ValueError(f"class_weight has {len(self.class_weight)} entries for {outputs} classes")

    def __call__(self, outputs: F32, y: NDArray[Any], weight: F32 | None, scale: float = 1.0) -> tuple[F32, F32]:
        """(loss per sample, gradient of scale times the weighted mean)."""
        if self.class_weight is not None:
            by_class = np.array(self.class_weight, np.float32)[y]
            weight = by_class if weight is None else weight * by_class
        loss, gradient = _core.cross_entropy(outputs, y, weight, self.label_smoothing, scale)
        return (loss if weight is None else loss * weight), gradient


@dataclass(frozen=True)
class MSE:
    """Mean squared error of float32 targets, shape (n, outputs)."""

    def check(self, y: NDArray[Any], outputs: int) -> None:
        """Raise if the loss does not fit the targets."""
        if y.ndim != 2:
            raise ValueError("loss is MSE, which needs float32 targets (n, outputs); the data has class labels")

    def __call__(self, outputs: F32, y: NDArray[Any], weight: F32 | None, scale: float = 1.0) -> tuple[F32, F32]:
        """(loss per sample, gradient of scale times the weighted mean)."""
        loss, gradient = _core.mse(outputs, y, weight, scale)
        return (loss if weight is None else loss * weight), gradient


@dataclass(frozen=True)
class Custom:
    """A function (outputs, targets) -> (loss per sample, gradient of their mean)."""

    function: Callable[[F32, NDArray[Any]], tuple[Any, Any]]

    def check(self, y: NDArray[Any], outputs: int) -> None:
        """Any targets will do."""

    def __call__(self, outputs: F32, y: NDArray[Any], weight: F32 | None, scale: float = 1.0) -> tuple[F32, F32]:
        """(loss per sample, gradient of scale times the weighted mean)."""
        loss, gradient = (np.asarray(part, np.float32) for part in self.function(outputs, y))
        if loss.shape != (len(y),) or gradient.shape != outputs.shape:
            raise ValueError(
                f"loss must return shapes ({len(y)},) and {outputs.shape}, not {loss.shape} and {gradient.shape}"
            )
        if weight is not None:
            loss, gradient = loss * weight, gradient * weight[:, None]
        return loss, np.ascontiguousarray(gradient * np.float32(scale))


Loss = CrossEntropy | MSE | Custom


def resolve_loss(loss: Any, y: NDArray[Any], outputs: int) -> Loss:
    """Return the loss that an argument means, checked against the labels."""
    made: Loss
    if loss == "auto":
        made = CrossEntropy() if y.ndim == 1 else MSE()
    elif isinstance(loss, CrossEntropy | MSE | Custom):
        made = loss
    elif callable(loss):
        made = Custom(loss)
    else:
        raise TypeError(f"loss must be 'auto', dn.CrossEntropy(), dn.MSE() or a function, not {loss!r}")
    made.check(y, outputs)
    return made


def distillation(outputs: F32, teacher: F32, weight: F32 | None, temperature: float, scale: float, into: F32) -> F32:
    """Return t**2 * KL(softmax(teacher / t) || softmax(outputs / t)) per sample; `into` gets scale times its slope."""
    loss, _ = _core.distillation(outputs, teacher, weight, temperature, scale, into)
    return loss if weight is None else loss * weight
