"""What a user hears of and adds to a run: callbacks and progress."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

Logs = dict[str, Any]


class Callback:
    """Called at the marks of training; override what you need. Returning ``"stop"`` ends it after the step.

    `logs` hold what is known: epoch (from 0), step, loss, lr, validation figures at the end of an epoch, the group
    (from 1) where channel groups are trained one after the other; before the first step epochs, steps and whether the
    run is resumed. What `state` returns (anything JSON can hold) is kept in checkpoints and handed to `load_state` of
    the callback of the same class, before training goes on and when a run goes back to an earlier state.
    """

    _recorder = False  # whether its row belongs to the step or epoch itself, so that Ctrl-C cannot come between

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
        self.common: Logs = {}  # what all logs hold
        for callback in self.all:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must hold dn.Callback objects, not {type(callback).__name__}")

    def __call__(self, mark: str, logs: Logs) -> bool:
        """Call one mark everywhere; True if anyone says stop."""
        ends = mark in ("step_end", "epoch_end")
        return self._call(mark, logs, [c for c in self.all if not (ends and c._recorder)])

    def record(self, mark: str, logs: Logs) -> None:
        """Call the end of a step or an epoch of those who keep a record of it; the others follow."""
        self._call(mark, logs, [c for c in self.all if c._recorder])

    def _call(self, mark: str, logs: Logs, callbacks: list[Callback]) -> bool:
        answers = [getattr(callback, f"on_{mark}")({**self.common, **logs}) for callback in callbacks]
        return "stop" in answers

    def states(self) -> list[tuple[str, Any]]:
        """Class and state of each."""
        return [(type(callback).__qualname__, callback.state()) for callback in self.all]

    def load(self, states: Iterable[tuple[str, Any]]) -> None:
        """Hand out what `states` returned: to each the next state of its class."""
        waiting = list(states)
        for callback in self.all:
            for i, (kind, state) in enumerate(waiting):
                if kind == type(callback).__qualname__:
                    callback.load_state(state)
                    del waiting[i]
                    break


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
