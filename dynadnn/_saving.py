"""How often a run is saved, and where."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ._arguments import positive_int

_LONGEST_PREFIX = 64  # of a file's name in the names of temporary files, see `atomic_write`


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is saved and how often; `checkpoint=` of `fit` and `distill` takes it, or a path alone.

    A run is always saved after every epoch, at its end and when an exception (Ctrl-C is one) ends it. `every_steps`
    and `every_seconds` save it more often, whichever comes first. A file is written whole or not at all: after a
    kill, a full disk or a power cut the one before it is still there. Going on from any of them ends with the same
    bits as without the interruption.

    Parameters
    ----------
    path : str or path
        One file, overwritten by every save. A network whose channel groups are trained one after the other
        (`Incremental`) has one per group, ``<path>.group1`` and so on.
    every_steps : int, optional
        Also after every step whose number, counted from 1 through the whole run, is a multiple of this.
    every_seconds : float, optional
        Also after the first step that ends this many seconds after the last save.

    Raises
    ------
    ValueError
        If the path is empty, or a number is not above 0.

    Examples
    --------
    >>> import dynadnn as dn
    >>> dn.Checkpoint("run.safetensors", every_steps=500)
    Checkpoint(path='run.safetensors', every_steps=500, every_seconds=None)
    """

    path: str | os.PathLike[str]
    every_steps: int | None = None
    every_seconds: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"path of a checkpoint must be a str or a path, not {type(self.path).__name__}")
        if not os.fspath(self.path):
            raise ValueError("path of a checkpoint is empty: name a file")
        if self.every_steps is not None:
            positive_int(self.every_steps, "every_steps")
        seconds = self.every_seconds
        if seconds is None:
            return
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"every_seconds must be a number, not {type(seconds).__name__}")
        if not 0 < seconds < math.inf:
            raise ValueError(f"every_seconds must be above 0 and finite, not {seconds}")


def as_checkpoint(checkpoint: Any) -> Checkpoint | None:
    """Return what the argument `checkpoint` means."""
    if checkpoint is None or isinstance(checkpoint, Checkpoint):
        return checkpoint
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(f"checkpoint must be a path or dn.Checkpoint(path, ...), not {type(checkpoint).__name__}")
    return Checkpoint(checkpoint) if os.fspath(checkpoint) else None


def group_path(path: str | os.PathLike[str], group: int) -> str:
    """File of a channel group, from 0."""
    return f"{os.fspath(path)}.group{group + 1}"


def group_checkpoint(checkpoint: Any, group: int) -> Checkpoint | None:
    """Return the checkpoint of a channel group, from 0."""
    whole = as_checkpoint(checkpoint)
    return None if whole is None else replace(whole, path=group_path(whole.path, group))


class Due:
    """Says after which steps a run is saved."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self.checkpoint = checkpoint
        self.saved()

    def saved(self) -> None:
        """Remember that the run has just been saved."""
        self._at = time.monotonic()

    def __call__(self, step: int) -> bool:
        """Whether to save after `step` finished steps."""
        c = self.checkpoint
        if c is None:
            return False
        if c.every_steps is not None and step % c.every_steps == 0:
            return True
        return c.every_seconds is not None and time.monotonic() - self._at >= c.every_seconds


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove temporary files that killed saves of this file left; only what `atomic_write` calls so."""
    target = Path(os.path.realpath(path))
    if len(target.name) > _LONGEST_PREFIX:
        return  # another file may share the prefix
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.tmp")
    with contextlib.suppress(OSError):
        for file in target.parent.iterdir():
            if pattern.fullmatch(file.name):
                file.unlink(missing_ok=True)
