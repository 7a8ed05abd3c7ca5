"""Repairing – make candidates smaller until the limits that are known before an evaluation hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._evaluate import Candidate
from ._goals import Constraint
from ._record import Record
from ._space import Genes

REPAIRABLE = ("bytes", "macs", "latency_ms")
STEPS = 32  # of widths between the narrowest and the candidate's own


class Repair:
    """Candidates of vectors; what is over a limit is replaced by the widest of its shape that is not.

    The shape is the line from the least widths to those of the vector. Where even the least are over, bits and depth
    become the least too; where that is not enough, the candidate stays what it was and is evaluated as it is. The
    same vector always gives the same candidate.

    Parameters
    ----------
    genes : Genes
    constraints : sequence of Constraint
        Of which those that cap bytes, MACs or latency are used.
    costs : callable
        ``costs(candidates, latency)`` returns a record with these figures for each.
    """

    def __init__(
        self,
        genes: Genes,
        constraints: Sequence[Constraint],
        costs: Callable[[Sequence[Candidate], bool], list[Record]],
    ) -> None:
        self._genes = genes
        self._limits = [c for c in constraints if c.upper and c.column in REPAIRABLE]
        self._costs = costs

    def __call__(self, rows: NDArray[Any]) -> list[Candidate]:
        """Candidate of each row."""
        made = [self._genes.decode(row) for row in rows]
        if not self._limits:
            return made
        over = [i for i, held in enumerate(self._hold(made)) if not held]
        for cheapest in (False, True):
            found = self._widest(rows, over, cheapest)
            for i, candidate in found.items():
                made[i] = candidate
            over = [i for i in over if i not in found]
        return made

    def _widest(self, rows: NDArray[Any], over: Sequence[int], cheapest: bool) -> dict[int, Candidate]:
        """Bisect the share of the widths for all rows at once; those without any are left out."""
        low = {i: -1 for i in over}  # holds, or nothing is known to
        high = {i: STEPS + (1 if cheapest else 0) for i in over}  # does not hold, or is past the end
        best: dict[int, Candidate] = {}
        while True:
            middle = {i: 0 if low[i] < 0 else (low[i] + high[i]) // 2 for i in low if high[i] - low[i] > 1}
            if not middle:
                return best
            tried = [self._genes.decode(self._genes.shrink(rows[i], k / STEPS, cheapest)) for i, k in middle.items()]
            for (i, k), candidate, held in zip(middle.items(), tried, self._hold(tried), strict=True):
                if held:
                    low[i], best[i] = k, candidate
                else:
                    high[i] = k

    def _hold(self, candidates: Sequence[Candidate]) -> list[bool]:
        records = self._costs(candidates, any(c.column == "latency_ms" for c in self._limits))
        return [
            r.failure is None and all(bool(np.less_equal(c.violation(r), 0)) for c in self._limits) for r in records
        ]
