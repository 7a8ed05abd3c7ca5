"""Figures of a run for TensorBoard, through the optional package tensorboardX."""

from __future__ import annotations

import math
import os
from typing import Any

from ._arguments import missing_extra, positive_int
from ._callbacks import Callback, Logs


class TensorBoard(Callback):
    """Writes event files that TensorBoard shows: scalars over finished steps.

    Needs tensorboardX: ``pip install "dynadnn[log]"``. Figures of an epoch have their names, those of single steps
    begin with ``step/``, those of a channel group with ``group1/`` and so on, whose steps follow one another. A resumed
    run purges what was written after its checkpoint.

    Parameters
    ----------
    folder : str or path
        A folder of this run alone, for example ``runs/first``; it is made.
    every_steps : int, optional
        Also loss, accuracy and learning rate after every step whose number is a multiple of this.

    Raises
    ------
    ImportError
        If tensorboardX is not installed.

    Examples
    --------
    >>> import dynadnn as dn
    >>> log = dn.TensorBoard("runs/first")  # doctest: +SKIP
    >>> history = dn.fit(net, data, epochs=2, callbacks=[log])  # doctest: +SKIP
    """

    _recorder = True

    def __init__(self, folder: str | os.PathLike[str], *, every_steps: int | None = None) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise missing_extra("tensorboardX", "log") from None
        if not isinstance(folder, str | os.PathLike):
            raise TypeError(f"folder must be a str or a path, not {type(folder).__name__}")
        self.folder = os.fspath(folder)
        self.every_steps = None if every_steps is None else positive_int(every_steps, "every_steps")
        self._make = SummaryWriter
        self._writer: Any = None
        self._purge: int | None = None
        self._before = 0  # steps of earlier channel groups
        self._last = 0  # step of what was written last

    def on_train_begin(self, logs: Logs) -> None:
        """Begin a run of its own, unless this one goes on."""
        if logs.get("resumed"):
            return
        if logs.get("group", 1) == 1:
            self._close()
            self._purge, self._before, self._last = None, 0, 0
        else:
            self._before = self._last

    def on_step_end(self, logs: Logs) -> None:
        """Write the figures of every n-th step."""
        if self.every_steps is not None and logs["step"] % self.every_steps == 0:
            self._add("step/", logs)

    def on_epoch_end(self, logs: Logs) -> None:
        """Write the figures of an epoch."""
        self._add("", logs)

    def on_train_end(self, logs: Logs) -> None:
        """Close the file."""
        self._close()

    def state(self) -> dict[str, int]:
        """Flush; the steps themselves are the place to go on from."""
        if self._writer is not None:
            self._writer.flush()
        return {"last": self._last, "before": self._before}

    def load_state(self, state: dict[str, int]) -> None:
        """Purge what was written after this step."""
        self._close()
        self._last, self._before = int(state["last"]), int(state["before"])
        self._purge = self._last + 1

    def _add(self, prefix: str, logs: Logs) -> None:
        if self._writer is None:
            self._writer = self._make(self.folder, purge_step=self._purge)
        group = f"group{logs['group']}/" if "group" in logs else ""
        self._last = self._before + int(logs["step"])
        for key, value in logs.items():
            if key not in ("epoch", "step", "group") and math.isfinite(value):
                self._writer.add_scalar(f"{group}{prefix}{key}", float(value), self._last)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
