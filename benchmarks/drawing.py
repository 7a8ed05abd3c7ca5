"""What the plots of the comparisons share: marks told apart by colour and by shape, also without any colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Okabe and Ito's palette, each colour with a shape of its own
STYLES = (
    ("#000000", "o"),
    ("#0072B2", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "v"),
    ("#D55E00", "D"),
    ("#E69F00", "P"),
    ("#56B4E9", "X"),
    ("#7F7F7F", "*"),
    ("#8B4513", "h"),
)


def figure(panels: int, width: float = 5.2, height: float = 4.4) -> tuple[Any, list[Any]]:
    """A figure of some panels beside each other, drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width * panels, height), layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn, list(drawn.subplots(1, panels, squeeze=False)[0])


def save(drawn: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=120)
    print(f"wrote {path}")
