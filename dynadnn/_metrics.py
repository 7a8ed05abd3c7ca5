"""Figures of merit of outputs against labels or targets, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Metric = str | Callable[[F32, NDArray[Any]], float]
Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution
CLASSES, LABELS, TARGETS = "classification", "multilabel", "regression"


def wilson(correct: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = correct / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def task_of(y: NDArray[Any], known: str | None = None) -> str:
    """Return what labels are for.

    Parameters
    ----------
    y : ndarray
        One axis: classes. Two axes: several labels at once if bytes or booleans, targets if float32.
    known : str, optional
        What a network was trained for, which decides over float32 that holds only 0 and 1.
    """
    if y.ndim == 1:
        return CLASSES
    if y.dtype != np.float32 or (known == LABELS and bool(((y == 0) | (y == 1)).all())):
        return LABELS
    return TARGETS


def softmax(outputs: F32) -> F64:
    """Probabilities, in double."""
    z = outputs.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    return z


def softplus(z: F64) -> F64:
    """log(1 + exp(z)) without overflow."""
    value: F64 = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
    return value


def sigmoid(z: F64) -> F64:
    """1 / (1 + exp(-z)) without overflow."""
    value: F64 = np.exp(-softplus(-z))
    return value


def cross_entropy(outputs: F32, y: NDArray[np.int64]) -> F64:
    """Negative log likelihood of each sample, in double."""
    z = outputs.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    loss: F64 = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]
    return loss


def confusion(predicted: NDArray[np.int64], y: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Count; rows are true classes, columns predicted ones."""
    counts = np.bincount(y * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def label_confusion(outputs: F32, y: NDArray[Any]) -> NDArray[np.int64]:
    """Count per label, shape (outputs, 2, 2); rows are 0 and 1 in truth, columns 0 and 1 predicted."""
    said, true = outputs > 0, y > 0
    cells = [(~true & ~said), (~true & said), (true & ~said), (true & said)]
    return np.stack([cell.sum(axis=0) for cell in cells], axis=1).astype(np.int64).reshape(-1, 2, 2)


def calibration_error(outputs: F32, y: NDArray[np.int64], bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al. 2017): mean gap of confidence and accuracy over bins."""
    probability = softmax(outputs)
    confidence, hit = probability.max(axis=1), probability.argmax(axis=1) == y
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap = np.bincount(place, confidence - hit, bins)
    return float(np.abs(gap).sum() / len(y))


def mean_ranks(values: NDArray[Any]) -> F64:
    """Ranks from 1, shape (n,); equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: F64 = (np.cumsum(counts) - (counts - 1) / 2)[place.ravel()]
    return ranks


def area(score: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve by ranks (Mann and Whitney 1947); ties count one half. Both kinds must be there."""
    rank = mean_ranks(score)
    hits = int(positive.sum())
    return float((rank[positive].sum() - hits * (hits + 1) / 2) / (hits * (len(score) - hits)))


def label_areas(scores: NDArray[Any], positive: NDArray[np.bool_], what: str) -> F64:
    """Area under the ROC curve per column.

    Raises
    ------
    ValueError
        If a column has only positive samples, or none.
    """
    hits = positive.sum(axis=0)
    for column in np.flatnonzero((hits == 0) | (hits == len(positive))):
        raise ValueError(
            f"auroc needs samples with and without every {what}: {what} {column} has {int(hits[column])} of "
            f"{len(positive)} in y"
        )
    return np.array([area(scores[:, k], positive[:, k]) for k in range(scores.shape[1])])


def _auroc(outputs: F32, y: NDArray[np.int64]) -> float:
    classes = outputs.shape[1]
    if classes < 2:
        raise ValueError("auroc needs at least two outputs for class labels; for one output make y (n, 1) of 0 and 1")
    positive = y[:, None] == np.arange(classes)
    if classes == 2:
        scores = outputs[:, 1:].astype(np.float64) - outputs[:, :1]
        return float(label_areas(scores, positive[:, 1:], "class")[0])
    return float(label_areas(softmax(outputs), positive, "class").mean())


def _f1(outputs: F32, y: NDArray[np.int64]) -> float:
    counts = confusion(outputs.argmax(axis=1), y, outputs.shape[1])
    hits, either = np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1)
    seen = either > 0
    return float(np.mean(2 * hits[seen] / either[seen]))


def _balanced(outputs: F32, y: NDArray[np.int64]) -> float:
    counts = confusion(outputs.argmax(axis=1), y, outputs.shape[1])
    there = counts.sum(axis=1) > 0
    return float(np.mean(np.diag(counts)[there] / counts.sum(axis=1)[there]))


def _top5(outputs: F32, y: NDArray[np.int64]) -> float:
    k = min(5, outputs.shape[1])
    best = np.argpartition(-outputs, k - 1, axis=1)[:, :k]
    return float((best == y[:, None]).any(axis=1).mean())


def _hit(outputs: F32, y: NDArray[np.int64]) -> float:
    return float((outputs.argmax(axis=1) == y).mean())


def _exact(outputs: F32, y: NDArray[Any]) -> float:
    return float(((outputs > 0) == (y > 0)).all(axis=1).mean())


def _label_loss(outputs: F32, y: NDArray[Any]) -> float:
    z = outputs.astype(np.float64)
    return float((softplus(z) - y * z).mean())


def _label_f1(outputs: F32, y: NDArray[Any]) -> float:
    """Mean over labels; a label that is neither there nor predicted counts 0."""
    counts = label_confusion(outputs, y)
    either = 2 * counts[:, 1, 1] + counts[:, 0, 1] + counts[:, 1, 0]
    return float(np.mean(2 * counts[:, 1, 1] / np.maximum(either, 1)))


def _label_f1_micro(outputs: F32, y: NDArray[Any]) -> float:
    counts = label_confusion(outputs, y).sum(axis=0)
    return float(2 * counts[1, 1] / max(1, 2 * counts[1, 1] + counts[0, 1] + counts[1, 0]))


def _mse(outputs: F32, y: NDArray[Any]) -> float:
    return float(np.square(outputs.astype(np.float64) - y).mean())


METRICS: dict[str, dict[str, Callable[[F32, NDArray[Any]], float]]] = {
    CLASSES: {
        "accuracy": _hit,
        "error": lambda o, y: 1 - _hit(o, y),
        "loss": lambda o, y: float(cross_entropy(o, y).mean()),
        "top5": _top5,
        "f1": _f1,
        "f1_macro": _f1,
        "f1_micro": _hit,  # one label per sample: every miss is one false positive and one false negative
        "balanced_accuracy": _balanced,
        "auroc": _auroc,
        "calibration_error": calibration_error,
    },
    LABELS: {
        "accuracy": _exact,
        "error": lambda o, y: 1 - _exact(o, y),
        "loss": _label_loss,
        "label_accuracy": lambda o, y: float(((o > 0) == (y > 0)).mean()),
        "f1": _label_f1,
        "f1_macro": _label_f1,
        "f1_micro": _label_f1_micro,
        "auroc": lambda o, y: float(label_areas(o, y > 0, "label").mean()),
    },
    TARGETS: {
        "loss": _mse,
        "mse": _mse,
        "rmse": lambda o, y: math.sqrt(_mse(o, y)),
        "mae": lambda o, y: float(np.abs(o.astype(np.float64) - y).mean()),
    },
}


def evaluate_outputs(
    outputs: F32, y: NDArray[Any], metrics: Sequence[Metric], task: str | None = None
) -> dict[str, float | tuple[float, float]]:
    """Every metric by name; accuracy brings its interval.

    Parameters
    ----------
    outputs : ndarray of float32, shape (n, outputs)
    y : ndarray, shape (n,) or (n, outputs)
    metrics : sequence of str or function
    task : str, optional
        What a network was trained for, see `task_of`.

    Raises
    ------
    ValueError
        For a metric that these labels do not have, or that they do not allow.
    TypeError
        For a function that returns no number.
    """
    if isinstance(metrics, str) or callable(metrics):
        raise TypeError(f"metrics must be a sequence such as ({metrics!r},), not one metric alone")
    task = task_of(y, task)
    known = METRICS[task]
    result: dict[str, float | tuple[float, float]] = {}
    for metric in metrics:
        if callable(metric):
            result[getattr(metric, "__name__", "metric")] = _own(metric, outputs, y)
            continue
        if metric == "accuracy" and task == TARGETS:
            continue  # a default that targets do not have
        if metric not in known:
            raise ValueError(
                f"metrics holds {metric!r}: for {task} it may hold {', '.join(known)} and functions of (outputs, y)"
            )
        value = result[metric] = known[metric](outputs, y)
        if metric == "accuracy":
            result["accuracy_interval"] = wilson(round(value * len(y)), len(y))
    return result


def _own(metric: Callable[[F32, NDArray[Any]], Any], outputs: F32, y: NDArray[Any]) -> float:
    value = np.asarray(metric(outputs, y))
    if value.size != 1 or value.dtype.kind not in "fiub":
        name = getattr(metric, "__name__", "metric")
        raise TypeError(
            f"metrics: {name}(outputs, y) must return one number, not {value.dtype} of shape {value.shape}; "
            f"outputs have shape {outputs.shape}, y {y.shape}"
        )
    return float(value.item())
