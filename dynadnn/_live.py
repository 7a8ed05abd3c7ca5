"""Loss and accuracy of a run as it goes on, redrawn in place in a notebook."""

from __future__ import annotations

import io
import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._arguments import missing_extra
from ._callbacks import Callback, Logs, in_notebook

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = tuple[str, str, str, str, str]  # key, label, colour, marker, line
_LOSSES: tuple[Curve, ...] = (
    ("loss", "training", "#0072B2", "o", "-"),
    ("val_loss", "validation", "#D55E00", "s", "--"),
    ("trainee_val_loss", "trainee, validation", "#009E73", "v", ":"),
)
_ACCURACIES: tuple[Curve, ...] = (
    ("accuracy", "training", "#0072B2", "o", "-"),
    ("val_accuracy", "validation", "#D55E00", "s", "--"),
    ("trainee_val_accuracy", "trainee, validation", "#009E73", "v", ":"),
)
_KEYS = tuple(curve[0] for curve in _LOSSES + _ACCURACIES)


class LivePlot(Callback):
    """Draws loss and accuracy over epochs after every epoch, in a notebook always in the same place.

    Outside notebooks nothing is shown; the figure is there all the same. Needs matplotlib:
    ``pip install "dynadnn[plot]"``. No setting of matplotlib is changed, and pyplot does not know the figure, so that a
    notebook shows it once. A resumed run draws the epochs before it as well.

    Attributes
    ----------
    figure : matplotlib Figure or None
        None before the first epoch has ended. Losses are means per image (with several points in a step, of their
        sum; validation: the mean over the named points), accuracies are in per cent.

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import dynadnn as dn
    >>> data = dn.datasets.digits(rng=0)
    >>> net, live = dn.nets.mlp(data, rng=0), dn.LivePlot()
    >>> history = dn.fit(net, data, epochs=2, callbacks=[live], progress=False, rng=0)
    >>> [axes.get_ylabel() for axes in live.figure.axes]
    ['loss (mean per image)', 'accuracy (%)']
    """

    def __init__(self) -> None:
        try:
            import matplotlib.figure  # noqa: F401
        except ImportError:
            raise missing_extra("matplotlib", "plot") from None
        self.figure: Figure | None = None
        self._series: dict[str, list[float]] = {}
        self._groups: list[int] = []  # of every epoch, where there are groups
        self._handle: Any = None

    def on_train_begin(self, logs: Logs) -> None:
        """Begin a new plot, unless the run goes on from a checkpoint or an earlier channel group."""
        if not logs.get("resumed") and logs.get("group", 1) == 1:
            self.figure, self._series, self._groups, self._handle = None, {}, [], None

    def on_epoch_end(self, logs: Logs) -> None:
        """Add an epoch and draw."""
        epochs = self._epochs()
        for key in _KEYS:
            if key in logs or key in self._series:
                values = self._series.setdefault(key, [math.nan] * epochs)
                values.append(float(logs.get(key, math.nan)))
        self._groups.append(int(logs.get("group", 0)))
        self._draw()
        self._show()

    def state(self) -> dict[str, Any]:
        """Return the curves so far."""
        series = {key: [v if math.isfinite(v) else None for v in values] for key, values in self._series.items()}
        return {"series": series, "groups": self._groups}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take curves back."""
        self._series = {key: [math.nan if v is None else v for v in row] for key, row in state["series"].items()}
        self._groups = list(state["groups"])

    def _epochs(self) -> int:
        return len(self._groups)

    def _draw(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        accuracies = any(curve[0] in self._series for curve in _ACCURACIES)
        if self.figure is None:
            self.figure = Figure(figsize=(8.0 if accuracies else 5.0, 3.4), layout="constrained")
            FigureCanvasAgg(self.figure)
        self.figure.clear()
        axes = self.figure.subplots(1, 2 if accuracies else 1, squeeze=False)[0]
        self._curves(axes[0], _LOSSES, 1.0, "loss (mean per image)")
        if accuracies:
            self._curves(axes[1], _ACCURACIES, 100.0, "accuracy (%)")

    def _curves(self, ax: Axes, curves: tuple[Curve, ...], scale: float, label: str) -> None:
        from matplotlib.ticker import MaxNLocator

        epochs = range(1, self._epochs() + 1)
        for key, name, colour, marker, line in curves:
            if key in self._series:
                values = [scale * v for v in self._series[key]]
                ax.plot(epochs, values, line, color=colour, marker=marker, markersize=3, label=name)
        for i in range(1, self._epochs()):
            if self._groups[i] != self._groups[i - 1]:
                ax.axvline(i + 0.5, color="0.5", linewidth=1, linestyle="-.")
                ax.annotate(f"group {self._groups[i]}", (i + 0.5, 0.98), xycoords=("data", "axes fraction"), va="top")
        ax.set_xlabel("epoch")
        ax.set_ylabel(label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(color="0.9")
        ax.legend()

    def _show(self) -> None:
        """Display the figure, or put it where it was displayed before."""
        if not in_notebook() or self.figure is None:
            return
        shown: Any = import_module("IPython.display")
        picture = io.BytesIO()
        self.figure.savefig(picture, format="png", dpi=110)
        image = shown.Image(data=picture.getvalue(), format="png")
        if self._handle is None:
            self._handle = shown.display(image, display_id=True)
        else:
            self._handle.update(image)
