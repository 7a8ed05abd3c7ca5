"""What a user hears of and adds to a run: callbacks and progress."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

Logs = dict[str, Any]


class Callback:
    """Called at the marks of training; override what you need. Returning ``"stop"`` ends it after the step.

    `logs` hold what is known: epoch, step, loss, lr, validation figures at the end of an epoch. What `state` returns
    (anything JSON can hold) is kept in checkpoints and handed to `load_state`.
    """

    def on_train_begin(self, logs: Logs) -> str | None:
        """Before the first step."""
        return None

    def on_train_end(self, logs: Logs) -> str | None:
        """After the last step."""
        return None

    def on_epoch_begin(self, logs: Logs) -> str | None:
        """Before an epoch."""
        return None

    def on_epoch_end(self, logs: Logs) -> str | None:
        """After an epoch and its validation."""
        return None

    def on_step_begin(self, logs: Logs) -> str | None:
        """Before a step."""
        return None

    def on_step_end(self, logs: Logs) -> str | None:
        """After a step."""
        return None

    def state(self) -> Any:
        """Return what a resumed run needs."""
        return None

    def load_state(self, state: Any) -> None:
        """Take back what `state` returned."""


class Callbacks:
    """All callbacks of a run as one."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.all = list(callbacks)
        for callback in self.all:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must hold dn.Callback objects, not {type(callback).__name__}")

    def __call__(self, mark: str, logs: Logs) -> bool:
        """Call one mark everywhere; True if anyone says stop."""
        answers = [getattr(callback, f"on_{mark}")(dict(logs)) for callback in self.all]
        return "stop" in answers


def in_notebook() -> bool:
    """Whether output goes to a notebook."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


class Progress:
    """A bar on a terminal or in a notebook, one line per epoch elsewhere, or nothing."""

    def __init__(self, progress: bool | str, epochs: int, steps: int) -> None:
        if progress not in (True, False, "auto"):
            raise ValueError(f"progress is {progress!r}: it must be 'auto', True or False")
        self.on = bool(progress)
        self.epochs, self.steps = epochs, steps
        self.bar: Any = None
        self.wants_bar = self.on and (in_notebook() or sys.stderr.isatty())

    def say(self, text: str) -> None:
        """One line, unless quiet."""
        if self.on:
            if self.bar is not None:
                self.bar.write(text)
            else:
                print(text, flush=True)

    def begin_epoch(self, epoch: int, done: int) -> None:
        """Start the bar of an epoch."""
        if self.wants_bar:
            if in_notebook():
                from tqdm.auto import tqdm
            else:
                from tqdm import tqdm
            self.bar = tqdm(
                total=self.steps, initial=done, desc=f"epoch {epoch + 1}/{self.epochs}", unit="step", leave=False
            )

    def step(self, loss: float) -> None:
        """Advance the bar."""
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            self.bar.update()

    def end_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Close the bar and say what came out."""
        self.close()
        shown = "  ".join(f"{key} {value:.4g}" for key, value in figures.items() if "/" not in key)
        self.say(f"epoch {epoch + 1}/{self.epochs}  {shown}")

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
