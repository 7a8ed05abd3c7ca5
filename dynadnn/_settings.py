"""What a training run is given: its checked arguments, and what distillation adds to the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ._augment import Augment, Labels
from ._callbacks import Callback
from ._data import Data, Split
from ._halting import EarlyHalting, Halt
from ._losses import Loss
from ._methods import Method
from ._metrics import Metric
from ._optimizers import Optimizer, Schedule
from ._points import Subnet
from ._qat import QAT
from ._saving import Checkpoint

if TYPE_CHECKING:
    from ._continue import Source
    from ._loop import Loop
    from ._session import Session

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """Arguments of `fit`, checked."""

    epochs: int
    method: Method
    loss: Loss
    metrics: tuple[Metric, ...]
    optimizer: Optimizer
    schedule: Schedule
    batch: int
    augment: Augment | None
    clip_norm: float | None
    ema: float | None
    precision: str
    frozen: tuple[str, ...] | None
    halting: EarlyHalting | None
    callbacks: tuple[Callback, ...]
    progress: bool | str
    checkpoint: Checkpoint | None
    resume: bool
    continue_from: str | None
    on_nonfinite: str
    max_seconds: float | None
    threads: int
    seed: int
    fresh: bool  # the seed was drawn, not given
    qat: QAT | None = None


class Teaching(Protocol):
    """What distillation adds to the loop."""

    def targets(self, rows: NDArray[np.int64], x: NDArray[Any], y: Labels, weight: F32 | None, step: int) -> F32:
        """Run teacher and trainee on a batch; the teacher's outputs."""

    def loss(self, outputs: F32, y: Labels, weight: F32 | None, soft: F32 | None) -> tuple[F32, F32]:
        """Loss per sample and gradient of one pass; `soft` replaces the teacher."""

    def taps(self) -> NDArray[np.int32] | None:
        """Nodes of the student that hints are for."""

    def inner(self, session: Session, subnet: Subnet, weight: F32 | None) -> tuple[F32, tuple[F32 | None, ...]] | None:
        """(loss per sample, gradient per tap) of hints, in the pass that a session has just made; None without."""

    def commit(self, lr: float, momentum: float) -> None:
        """Update the trainee, and the maps of hints."""

    def discard(self) -> None:
        """Forget the step."""

    def validate(self) -> None:
        """Measure what `epoch_end` will record."""

    def epoch_end(self, history: dict[str, list[float]], losses: Sequence[float], loop: Loop) -> list[Halt]:
        """Record and halt."""

    def finish(self, data: Data, images: NDArray[Any]) -> None:
        """Export the trainee."""

    def macs(self) -> int:
        """Of the last step, per image."""

    def fingerprint(self) -> dict[str, str]:
        """Return what must be equal to resume."""

    def begin_from(self, source: Source) -> None:
        """Take over the trainee of an earlier run, if it is the same network."""

    def state(self) -> tuple[dict[str, Any], dict[str, dict[str, NDArray[Any]]]]:
        """For checkpoints."""

    def restore(self, document: dict[str, Any], arrays: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Take back what `state` returned."""


def as_split(val: Any, data: Data, shape: Sequence[int]) -> Split | None:
    """Return the validation split that an argument means, or None."""
    if val is None:
        return data.val if len(data.val) else None
    if isinstance(val, Split):
        return val if len(val) else None
    if isinstance(val, tuple) and len(val) == 2:
        return Split(np.asarray(val[0]), np.asarray(val[1]))
    raise TypeError(f"val must be a Split or (x, y), not {type(val).__name__}")
