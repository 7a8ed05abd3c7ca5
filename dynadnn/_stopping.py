"""Stopping – end the evaluation of a point once nothing that can still follow would put it on the front.

A point's cost is known before its accuracy is. Of the points evaluated completely before, those that cost no more say
how many images it may get wrong: with one more it is beaten by one of them, whatever the other images bring. What is
stopped is therefore never on the front, and over the points that were asked for the front is that of full evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._goals import Objective, cost
from ._record import Record

if TYPE_CHECKING:
    from ._data import Split
    from ._network import Network
    from ._points import Subnet

KNOWN = ("latency_ms", "energy_mj", "bytes", "macs", "threads")  # before anything is evaluated
JUDGED = ("error", "accuracy")
BOUNDED = (*KNOWN, *JUDGED)  # what is known of a point that was stopped
STEP = 128  # images between two looks


class Archive:
    """The points that were evaluated completely when the search was told last.

    Parameters
    ----------
    objectives : sequence of str or Objective
        What is minimised.
    y : ndarray
        Labels of the validation images.
    """

    def __init__(self, objectives: Sequence[Objective | str], y: NDArray[Any]) -> None:
        self._columns = [o for o in objectives if isinstance(o, str) and o in KNOWN]
        self._judges = any(isinstance(o, str) and o in JUDGED for o in objectives)
        bounded = all(isinstance(o, str) and o in BOUNDED for o in objectives)
        self.active = bounded and np.ndim(y) == 1
        self._images = len(y)
        self._costs: NDArray[np.float64] = np.zeros((0, len(self._columns)))
        self._wrong: NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def ready(self) -> bool:
        """Whether there is anything to compare with."""
        return len(self._wrong) > 0

    def tell(self, records: Sequence[Record]) -> None:
        """Replace the points to compare with by those of the records that are feasible and complete."""
        some = [r for r in records if r.feasible and r.error is not None]
        if self.active and some:
            self._costs = np.array([self._cost(r) for r in some]).reshape(len(some), -1)
            self._wrong = np.array([round(float(r.error or 0.0) * self._images) for r in some])

    def allowance(self, candidates: Sequence[Record]) -> int | None:
        """How many wrong images rule a sub-net out.

        Parameters
        ----------
        candidates : sequence of Record
            One sub-net at every number of threads there is; their costs are known, their accuracy need not be.

        Returns
        -------
        int or None
            With so many wrong images some point of the archive beats each of them: no objective is worse and one is
            better. None if that cannot happen.
        """
        if not candidates or not self.ready:
            return None
        least = [self._least(np.array(self._cost(c))) for c in candidates]
        return None if None in least else max(n for n in least if n is not None)

    def _least(self, costs: NDArray[np.float64]) -> int | None:
        no_worse = (self._costs <= costs).all(axis=1)
        better = no_worse & (self._costs < costs).any(axis=1)
        if not self._judges:
            return 0 if better.any() else None
        limits = np.concatenate([self._wrong[better], self._wrong[no_worse] + 1])
        return int(limits.min()) if limits.size and limits.min() <= self._images else None

    def _cost(self, record: Record) -> list[float]:
        return [cost(record, column) for column in self._columns]


def outputs_until(net: Network, subnet: Subnet, split: Split, allowance: int) -> tuple[NDArray[np.float32], int]:
    """Compute the outputs of a split, image after image, until so many are wrong.

    Parameters
    ----------
    net : Network
    subnet : Subnet
    split : Split
        With one class per image.
    allowance : int
        Wrong images that end it; 0 ends it at once.

    Returns
    -------
    outputs : ndarray of float32, shape (n, outputs)
        Of the images seen, all of them if it was not ended.
    wrong : int
        How many of these are wrong.
    """
    x, y = net._labelled(split)
    parts = [np.zeros((0, net.outputs), np.float32)]
    wrong = 0
    for start in range(0, len(x), STEP):
        if wrong >= allowance:
            break
        part = net._outputs(x[start : start + STEP], subnet)
        wrong += int(np.count_nonzero(part.argmax(axis=1) != y[start : start + STEP]))
        parts.append(part)
    return np.concatenate(parts), wrong
