"""Going back to the last good state of a run whose numbers are no longer finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ._checkpoint import CheckpointDoc

MOST = 10  # of one run: the learning rate is then a thousandth of what was asked for
FACTOR = 0.5

Arrays = Mapping[str, Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Rollback:
    """One return to an earlier state.

    Attributes
    ----------
    epoch, step : int
        Where NaN or infinity appeared, counted from 1.
    to_step : int
        Steps that the state had finished to which the run went back.
    factor : float
        What learning rates are multiplied with from there on.
    why : str
    """

    epoch: int
    step: int
    to_step: int
    factor: float
    why: str


@dataclass(frozen=True)
class Good:
    """A state to go back to: what a checkpoint of it would hold."""

    document: CheckpointDoc
    arrays: Arrays


def is_finite(arrays: Arrays) -> bool:
    """Whether networks, maps of hints, their statistics and the optimiser's state hold only finite numbers."""
    parts = [part for owner, part in arrays.items() if owner in ("student", "trainee") or owner.startswith("hint")]
    return all(bool(np.isfinite(value).all()) for part in parts for value in part.values())


def keep(document: CheckpointDoc, arrays: Arrays) -> Good:
    """Return a copy that what happens next does not change."""
    copied = msgspec.json.decode(msgspec.json.encode(document), type=CheckpointDoc)
    return Good(copied, {owner: {k: v.copy() for k, v in part.items()} for owner, part in arrays.items()})


def to_file(good: Good | None, step: int) -> tuple[CheckpointDoc | None, dict[str, NDArray[Any]]]:
    """Return what a checkpoint after `step` steps holds of a good state: nothing if that is the state of this step."""
    if good is None or good.document.step == step:
        return None, {}
    return good.document, {f"{owner}|{name}": v for owner, part in good.arrays.items() for name, v in part.items()}


def from_file(document: CheckpointDoc | None, flat: Mapping[str, NDArray[Any]]) -> Good | None:
    """Return the good state that a checkpoint holds."""
    if document is None:
        return None
    arrays: dict[str, dict[str, NDArray[Any]]] = {}
    for key, value in flat.items():
        owner, _, name = key.partition("|")
        arrays.setdefault(owner, {})[name] = value
    return Good(document, arrays)
