"""Beginning a new run where another one ended: weights, statistics and the optimiser's state of its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _checkpoint
from ._errors import FormatError
from ._network import Network
from ._optimizers import Optimizer
from ._saving import Checkpoint, as_checkpoint, group_path
from ._session import Session

NETWORK = ("graph", "points", "preprocess")  # of a fingerprint: what makes a network the same
_MOMENTS = ("weight1", "weight2", "bias1", "bias2")
_MOST_LAYERS = 3  # that a message lists
_OWN = ("average/", "qat/")  # arrays that only some runs have: a new run makes its own


@dataclass(frozen=True)
class Source:
    """A checkpoint to begin from."""

    path: str
    document: _checkpoint.CheckpointDoc
    arrays: Mapping[str, Mapping[str, NDArray[Any]]]

    @property
    def digest(self) -> str:
        """Short hash of everything that the new run takes over."""
        parts: list[bytes | NDArray[Any]] = []
        for owner in ("student", "trainee"):
            for key, value in sorted(self.arrays.get(owner, {}).items()):
                parts += [f"{owner}|{key}".encode(), value]
        return _checkpoint.digest(*parts)


def source_path(continue_from: Any, checkpoint: Checkpoint | None, resume: bool) -> str | None:
    """Return the file that `continue_from` names, checked; None without."""
    if continue_from is None:
        return None
    if not isinstance(continue_from, str | os.PathLike | Checkpoint):
        hint = ": pass the network itself as net" if isinstance(continue_from, Network) else ""
        raise TypeError(
            f"continue_from must be the path of a checkpoint, not {type(continue_from).__name__}{hint} "
            "(fit and distill write one where checkpoint= says)"
        )
    found = as_checkpoint(continue_from)
    if found is None:
        raise ValueError("continue_from is empty: it must be the path of a checkpoint")
    path = os.fspath(found.path)
    same = checkpoint is not None and os.path.realpath(checkpoint.path) == os.path.realpath(path)
    if same and resume:
        raise ValueError(
            f"continue_from and checkpoint are both {path!r}: give the new run a checkpoint of its own "
            "(to go on with an interrupted run leave continue_from out; resume=False overwrites the file)"
        )
    return path


def group_source(continue_from: Any, group: int) -> str | None:
    """Return the file of a channel group, from 0; None for a later group that the earlier run never began."""
    if not isinstance(continue_from, str | os.PathLike | Checkpoint):
        return continue_from  # type: ignore[no-any-return]  # None, or what `source_path` refuses
    found = as_checkpoint(continue_from)
    if found is None:
        return ""
    path = group_path(found.path, group)
    return path if group == 0 or Path(path).exists() else None


def read_source(path: str, fingerprint: Mapping[str, str], session: Session) -> Source:
    """Read a checkpoint of the same network, or raise ValueError with what differs."""
    source = Source(path, *_checkpoint.read(path))
    there = source.document.fingerprint
    differences = [
        f"{key}: {there.get(key, 'nothing')} there, {fingerprint[key]} here"
        for key in NETWORK
        if there.get(key) != fingerprint[key]
    ]
    student = source.arrays.get("student", {})
    if differences:
        listed = "; ".join(differences + _layers(student, session))
        raise ValueError(f"continue_from={path!r} is the checkpoint of another network; {listed}")
    wanted = {key: v for key, v in session.state().items() if not key.startswith(_OWN)}
    found = {key: v for key, v in student.items() if not key.startswith(_OWN)}
    _checkpoint.check_arrays(path, "student", found, wanted)
    return source


def _layers(student: Mapping[str, NDArray[Any]], session: Session) -> list[str]:
    """Name the first layers whose weights differ in number."""
    names = [node.name for node in session.net._spec.nodes]
    here = {key: value.size for key, value in session.state().items() if key.endswith("/weight") and key[0].isdigit()}
    there = {key: value.size for key, value in student.items() if key in here}
    found = [
        f"layer {names[int(key.split('/')[0])]}: {there.get(key, 0)} weights there, {size} here"
        for key, size in here.items()
        if there.get(key, 0) != size
    ]
    return found[:_MOST_LAYERS] + (["and more layers"] if len(found) > _MOST_LAYERS else [])


def begin(source: Source, session: Session, optimizer: Optimizer, owner: str = "student") -> str:
    """Give a session what a checkpoint holds; what was taken over, as text."""
    arrays = {key: v for key, v in source.arrays[owner].items() if not key.startswith("qat/")}
    kind = source.document.fingerprint.get("optimizer", "").split("(")[0]
    mine = type(optimizer).__name__
    if kind != mine:
        arrays = {key: v for key, v in arrays.items() if key.split("/")[-1] not in _MOMENTS}
        arrays["steps"] = np.zeros(1, np.int64)
    if session.ema is not None:
        arrays = {**{f"average/{key}": arrays[key] for key in session._average}, **arrays}
    session.restore(arrays)
    taken = "weights, statistics and optimiser state" if kind == mine else "weights and statistics"
    return f"{taken} of {source.path!r} after step {source.document.step}"


def fits(source: Source, session: Session, owner: str) -> bool:
    """Whether a checkpoint holds the state of a network of this structure."""
    try:
        wanted = {key: v for key, v in session.state().items() if not key.startswith(_OWN)}
        found = {key: v for key, v in source.arrays.get(owner, {}).items() if not key.startswith("qat/")}
        _checkpoint.check_arrays(source.path, owner, found, wanted)
    except FormatError:
        return False
    return True
