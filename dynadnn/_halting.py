"""Early halting (methods: early-halting distillation): when the trainee, the teacher and training itself stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import _core
from ._arguments import positive_int


@dataclass(frozen=True)
class EarlyHalting:
    """Stop what no longer helps; a pure function of the history.

    Parameters
    ----------
    trainee : bool, default True
        Stop the co-trained network once the student's validation loss reaches its, or once it stops improving.
    teacher : bool, default True
        Replace the teacher's forward pass by the running average of its outputs per image once that hardly changes
        (without augmentation the teacher runs once per image anyway, with flips alone twice).
    training : bool, default True
        Stop training without gain. A schedule tied to the number of epochs then makes its final decay first;
        otherwise the best weights are restored.
    patience : int, default 3
        Epochs without gain.
    min_gain : float, default 0.002
        Relative improvement per epoch that counts as a gain.
    cooldown : float, default 0.15
        Length of the final decay, as a share of the steps taken.
    monitor : "val_loss" or "val_accuracy", default "val_loss"
    point : str, default "mean"
        Name of the point to watch, or "mean" over all named ones.
    """

    trainee: bool = True
    teacher: bool = True
    training: bool = True
    patience: int = 3
    min_gain: float = 0.002
    cooldown: float = 0.15
    monitor: str = "val_loss"
    point: str = "mean"

    def __post_init__(self) -> None:
        positive_int(self.patience, "patience")
        if not 0 <= self.min_gain < 1:
            raise ValueError(f"min_gain must be from 0 to below 1, not {self.min_gain}")
        if not 0 < self.cooldown <= 1:
            raise ValueError(f"cooldown must be above 0 and at most 1, not {self.cooldown}")
        if self.monitor not in ("val_loss", "val_accuracy"):
            raise ValueError(f"monitor is {self.monitor!r}: it must be 'val_loss' or 'val_accuracy'")

    def key(self, points: Sequence[str]) -> str:
        """Column of the history that is watched."""
        if self.point == "mean" or (len(points) == 1 and self.point == points[0]):
            return self.monitor
        if self.point not in points:
            raise ValueError(f"point is {self.point!r}: it must be 'mean' or one of {', '.join(map(repr, points))}")
        return f"{self.monitor}/{self.point}"

    def series(self, history: Mapping[str, Sequence[float]], key: str) -> list[float]:
        """Watched values as losses: lower is better."""
        values = history.get(key, ())
        return [1 - v for v in values] if "accuracy" in key else list(values)

    def stop_training(self, losses: Sequence[float]) -> bool:
        """Whether the last `patience` epochs brought no gain."""
        return bool(_core.halt_training(np.array(losses, np.float64), self.patience, self.min_gain))

    def stop_trainee(self, student: Sequence[float], trainee: Sequence[float]) -> bool:
        """Whether the student has caught up, or the trainee stands still."""
        losses = np.array(student, np.float64), np.array(trainee, np.float64)
        return bool(_core.halt_trainee(*losses, self.patience, self.min_gain))

    def stop_teacher(self, change: Sequence[float]) -> bool:
        """Whether the average of the teacher's outputs has settled."""
        return bool(_core.halt_teacher(np.array(change, np.float64), self.patience, self.min_gain))


@dataclass(frozen=True)
class Halt:
    """Something that was stopped early.

    Attributes
    ----------
    what : str
        "trainee", "teacher" or "training".
    epoch : int
        After how many epochs.
    why : str
    seconds_saved : float
        Estimate: what the rest would have taken at the pace so far.
    macs_saved : float
        Multiply-accumulates that were not done.
    """

    what: str
    epoch: int
    why: str
    seconds_saved: float
    macs_saved: float
