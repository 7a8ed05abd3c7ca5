"""How a network does per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._metrics import calibration_error, confusion, evaluate_outputs

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


def make_report(outputs: NDArray[np.float32], y: NDArray[np.int64]) -> Report:
    """Everything a report holds, from outputs and labels."""
    counts = confusion(outputs.argmax(axis=1), y, outputs.shape[1])
    return Report(counts, calibration_error(outputs, y), evaluate_outputs(outputs, y, ("accuracy", "loss", "f1")))
