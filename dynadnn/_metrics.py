"""Figures of merit of outputs against labels, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Metric = str | Callable[[NDArray[np.float32], NDArray[Any]], float]
Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


def wilson(correct: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = correct / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def softmax(outputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities, in double."""
    z = outputs.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    return z


def cross_entropy(outputs: NDArray[np.float32], y: NDArray[np.int64]) -> NDArray[np.float64]:
    """Negative log likelihood of each sample, in double."""
    z = outputs.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    loss: NDArray[np.float64] = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]
    return loss


def confusion(predicted: NDArray[np.int64], y: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Count; rows are true classes, columns predicted ones."""
    counts = np.bincount(y * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def calibration_error(outputs: NDArray[np.float32], y: NDArray[np.int64], bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al. 2017): mean gap of confidence and accuracy over bins."""
    probability = softmax(outputs)
    confidence, hit = probability.max(axis=1), probability.argmax(axis=1) == y
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap = np.bincount(place, confidence - hit, bins)
    return float(np.abs(gap).sum() / len(y))


def _f1(outputs: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    counts = confusion(outputs.argmax(axis=1), y, outputs.shape[1])
    hits, either = np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1)
    seen = either > 0
    return float(np.mean(2 * hits[seen] / either[seen]))


def _balanced(outputs: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    counts = confusion(outputs.argmax(axis=1), y, outputs.shape[1])
    there = counts.sum(axis=1) > 0
    return float(np.mean(np.diag(counts)[there] / counts.sum(axis=1)[there]))


def _top5(outputs: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    k = min(5, outputs.shape[1])
    best = np.argpartition(-outputs, k - 1, axis=1)[:, :k]
    return float((best == y[:, None]).any(axis=1).mean())


_OF_LABELS: dict[str, Callable[[NDArray[np.float32], NDArray[Any]], float]] = {
    "accuracy": lambda o, y: float((o.argmax(axis=1) == y).mean()),
    "error": lambda o, y: 1 - float((o.argmax(axis=1) == y).mean()),
    "loss": lambda o, y: float(cross_entropy(o, y).mean()),
    "top5": _top5,
    "f1": _f1,
    "balanced_accuracy": _balanced,
    "calibration_error": calibration_error,
}
_OF_TARGETS: dict[str, Callable[[NDArray[np.float32], NDArray[Any]], float]] = {
    "loss": lambda o, y: float(np.square(o.astype(np.float64) - y).mean()),
    "mse": lambda o, y: float(np.square(o.astype(np.float64) - y).mean()),
    "mae": lambda o, y: float(np.abs(o.astype(np.float64) - y).mean()),
}


def evaluate_outputs(
    outputs: NDArray[np.float32], y: NDArray[Any], metrics: Sequence[Metric]
) -> dict[str, float | tuple[float, float]]:
    """Every metric by name; accuracy brings its interval."""
    known = _OF_LABELS if y.ndim == 1 else _OF_TARGETS
    result: dict[str, float | tuple[float, float]] = {}
    for metric in metrics:
        if callable(metric):
            result[getattr(metric, "__name__", "metric")] = float(metric(outputs, y))
            continue
        if metric == "accuracy" and y.ndim == 2:
            continue  # a default that targets do not have
        if metric not in known:
            raise ValueError(f"metrics holds {metric!r}: it may hold {', '.join(known)} and functions of (outputs, y)")
        result[metric] = known[metric](outputs, y)
        if metric == "accuracy":
            result["accuracy_interval"] = wilson(round(known[metric](outputs, y) * len(y)), len(y))
    return result
