"""What a run leaves behind."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._arguments import missing_extra
from ._halting import Halt
from ._rollback import Rollback

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


@dataclass(eq=False)
class History:
    """Figures of every epoch, and what the run cost.

    Attributes
    ----------
    history : dict of str to list of float
        One entry per epoch: loss, accuracy, lr, seconds, val_loss and val_accuracy (mean over the named points), with
        several points also ``val_loss/<point>`` and ``val_accuracy/<point>``.
    halted : list of Halt
        What was stopped early, when, why, and what that saved.
    steps : int
        Updates of the weights.
    seconds, train_seconds : float
        In all, and without validation and calibration.
    macs : int
        Multiply-accumulates of all passes (a backward pass counts twice a forward pass), teachers included.
    seed : int
    skipped : int
        Steps left out because a number was not finite.
    rollbacks : list of Rollback
        Where a number was not finite and the run went back: epoch and step, the step it went back to, what learning
        rates are multiplied with from there on, and why. The cost of what was thrown away stays in `macs` and seconds.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    halted: list[Halt] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    macs: int = 0
    seed: int = 0
    skipped: int = 0
    rollbacks: list[Rollback] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        """Finished epochs."""
        return len(self.history.get("loss", ()))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the losses over epochs.

        Parameters
        ----------
        ax : matplotlib axes, optional

        Returns
        -------
        matplotlib axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise missing_extra("matplotlib", "plot") from None
        if ax is None:
            ax = plt.subplots(layout="constrained")[1]
        epochs = range(1, self.epochs + 1)
        for key, style in (("loss", "-"), ("val_loss", "--"), ("trainee_val_loss", ":")):
            if key in self.history:
                values = self.history[key]
                ax.plot(epochs[: len(values)], values, style, marker="o", markersize=3, label=key.replace("_", " "))
        for halt in self.halted:
            ax.axvline(halt.epoch, color="0.5", linewidth=1, linestyle="-.")
            ax.annotate(
                f"{halt.what} halted", (halt.epoch, 0.98), xycoords=("data", "axes fraction"), rotation=90, va="top"
            )
        ax.set_xlabel("epoch")
        ax.set_ylabel("loss (nats)")
        ax.legend()
        return ax

    def to_frame(self) -> pandas.DataFrame:
        """Return a pandas frame with one row per epoch."""
        try:
            import pandas
        except ImportError:
            raise missing_extra("pandas", "frame") from None
        return pandas.DataFrame(dict(zip(("epoch", *self.history), zip(*self._rows(), strict=True), strict=True)))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per epoch."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("epoch", *self.history))
            writer.writerows(self._rows())

    def _rows(self) -> list[list[Any]]:
        columns = [values + [float("nan")] * (self.epochs - len(values)) for values in self.history.values()]
        return [[i + 1, *(column[i] for column in columns)] for i in range(self.epochs)]

    def __repr__(self) -> str:
        last = {key: round(values[-1], 4) for key, values in self.history.items() if values and "/" not in key}
        return f"History(epochs={self.epochs}, steps={self.steps}, seconds={self.seconds:.1f}, last={last})"
