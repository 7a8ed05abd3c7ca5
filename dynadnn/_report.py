"""How a network does per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._metrics import (
    CLASSES,
    LABELS,
    calibration_error,
    confusion,
    evaluate_outputs,
    label_areas,
    label_confusion,
)

if TYPE_CHECKING:
    from ._table import Table


@dataclass(frozen=True, eq=False)
class Report:
    """How a point does per class.

    Attributes
    ----------
    confusion : ndarray of int64, shape (classes, classes)
        Rows are true classes, columns predicted ones.
    calibration_error : float
        Expected gap of confidence and accuracy, 15 bins.
    metrics : dict
        Accuracy with interval, loss, macro F1.
    """

    confusion: NDArray[np.int64]
    calibration_error: float
    metrics: dict[str, Any]

    def table(self, names: Sequence[str] | None = None) -> Table:
        """Precision, recall, F1 and count per class."""
        from ._table import Table

        hits = np.diag(self.confusion).astype(float)
        true, predicted = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        labels = names or [str(k) for k in range(len(hits))]
        with np.errstate(invalid="ignore"):
            precision = (hits / np.where(predicted, predicted, np.nan)).tolist()
            recall = (hits / np.where(true, true, np.nan)).tolist()
            f1 = (2 * hits / np.where(true + predicted, true + predicted, np.nan)).tolist()
        rows = list(zip(labels, precision, recall, f1, true.tolist(), strict=False))
        return Table(("class", "precision", "recall", "f1", "count"), rows)

    def __str__(self) -> str:
        lines = [f"{'class':>8} {'precision':>10} {'recall':>8} {'count':>8}"]
        for k, row in enumerate(self.confusion):
            predicted, true = self.confusion[:, k].sum(), row.sum()
            precision = row[k] / predicted if predicted else float("nan")
            recall = row[k] / true if true else float("nan")
            lines.append(f"{k:>8} {precision:>10.4f} {recall:>8.4f} {true:>8}")
        low, high = self.metrics["accuracy_interval"]
        lines.append(f"accuracy {self.metrics['accuracy']:.4f} (95 %: {low:.4f} to {high:.4f})")
        lines.append(f"calibration error {self.calibration_error:.4f}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class LabelReport:
    """How a point does per label, of several at once.

    Attributes
    ----------
    confusion : ndarray of int64, shape (labels, 2, 2)
        Rows are 0 and 1 in truth, columns 0 and 1 predicted.
    auroc : ndarray of float64, shape (labels,)
        Area under the ROC curve; NaN for labels that all images have, or none.
    metrics : dict
        Accuracy (all labels right) with interval, loss, macro and micro F1.
    """

    confusion: NDArray[np.int64]
    auroc: NDArray[np.float64]
    metrics: dict[str, Any]

    def table(self, names: Sequence[str] | None = None) -> Table:
        """Precision, recall, F1, area under the ROC curve and count per label."""
        from ._table import Table

        (_, extra), (lost, hits) = self.confusion.transpose(1, 2, 0).astype(float)
        with np.errstate(invalid="ignore"):
            precision = hits / np.where(hits + extra, hits + extra, np.nan)
            recall = hits / np.where(hits + lost, hits + lost, np.nan)
            f1 = 2 * hits / np.where(2 * hits + extra + lost, 2 * hits + extra + lost, np.nan)
        columns = [precision, recall, f1, self.auroc, (hits + lost).astype(int)]
        labels = names or [str(k) for k in range(len(hits))]
        rows = list(zip(labels, *(column.tolist() for column in columns), strict=False))
        return Table(("label", "precision", "recall", "f1", "auroc", "count"), rows)

    def __str__(self) -> str:
        low, high = self.metrics["accuracy_interval"]
        return (
            f"{self.table()}\nall labels right {self.metrics['accuracy']:.4f} (95 %: {low:.4f} to {high:.4f})\n"
            f"f1 macro {self.metrics['f1_macro']:.4f}, micro {self.metrics['f1_micro']:.4f}"
        )


@dataclass(frozen=True, eq=False)
class TargetReport:
    """How a point does per target of a regression.

    Attributes
    ----------
    mae, rmse, bias : ndarray of float64, shape (targets,)
        Mean absolute error, root of the mean squared error, mean of output less target, in units of the target.
    r2 : ndarray of float64, shape (targets,)
        Share of the target's variance that is explained; NaN for a constant target.
    metrics : dict
        Mean squared error, its root, and mean absolute error over all targets.
    """

    mae: NDArray[np.float64]
    rmse: NDArray[np.float64]
    bias: NDArray[np.float64]
    r2: NDArray[np.float64]
    metrics: dict[str, Any]

    def table(self, names: Sequence[str] | None = None) -> Table:
        """Errors per target."""
        from ._table import Table

        columns = (self.mae, self.rmse, self.bias, self.r2)
        labels = names or [str(k) for k in range(len(self.mae))]
        rows = list(zip(labels, *(column.tolist() for column in columns), strict=False))
        return Table(("target", "mae", "rmse", "bias", "r2"), rows)

    def __str__(self) -> str:
        return f"{self.table()}\nrmse {self.metrics['rmse']:.6g}, mae {self.metrics['mae']:.6g}"


def make_report(
    outputs: NDArray[np.float32], y: NDArray[Any], task: str = CLASSES
) -> Report | LabelReport | TargetReport:
    """Everything a report holds, from outputs and labels of a task (see `task_of`)."""
    if task == CLASSES:
        counts = confusion(outputs.argmax(axis=1), y, outputs.shape[1])
        return Report(counts, calibration_error(outputs, y), evaluate_outputs(outputs, y, ("accuracy", "loss", "f1")))
    if task == LABELS:
        both = np.ptp(y, axis=0) > 0
        auroc = np.full(y.shape[1], np.nan)
        auroc[both] = label_areas(outputs[:, both], y[:, both] > 0, "label")
        metrics = evaluate_outputs(outputs, y, ("accuracy", "loss", "f1_macro", "f1_micro"), task)
        return LabelReport(label_confusion(outputs, y), auroc, metrics)
    d = outputs.astype(np.float64) - y
    square, spread = np.square(d).mean(axis=0), y.var(axis=0, dtype=np.float64)
    r2 = 1 - square / np.where(spread > 0, spread, np.nan)
    metrics = evaluate_outputs(outputs, y, ("mse", "rmse", "mae"), task)
    return TargetReport(np.abs(d).mean(axis=0), np.sqrt(square), d.mean(axis=0), r2, metrics)
