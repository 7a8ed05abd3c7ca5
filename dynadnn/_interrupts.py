"""Ctrl-C in a long call: the first one is heard, later ones wait until what it interrupted has been put in order."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class OneInterrupt:
    """Lets the first Ctrl-C through and holds the rest back until the block ends.

    Without it a second Ctrl-C could arrive between the first exception and the code that answers it. Blocks may be
    nested; a second one that was held is raised where the outermost block ends.
    """

    def __init__(self) -> None:
        self.heard = False
        self._kept: tuple[int, FrameType | None] | None = None
        self._old: Any = None

    def __enter__(self) -> OneInterrupt:
        if threading.current_thread() is threading.main_thread():
            old = signal.getsignal(signal.SIGINT)
            if callable(old):
                self._old = old
                signal.signal(signal.SIGINT, self._hear)
        return self

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.heard:
            self._kept = (number, frame)
            return
        self.heard = True
        self._old(number, frame)

    def rearm(self) -> None:
        """Hear the next Ctrl-C again: a callback answered the last one itself, and the run goes on."""
        self.heard = False
        outer = getattr(self._old, "__self__", None)
        if isinstance(outer, OneInterrupt):
            outer.rearm()
        self._pass_on()

    def _pass_on(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            self._old(*kept)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._old is None:
            return
        signal.signal(signal.SIGINT, self._old)
        self._pass_on()
