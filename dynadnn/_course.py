"""The course of a search – generation after generation until something ends it, and what that was."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._evaluate import Candidate, Evaluator
from ._goals import Constraint, Objective, cost
from ._record import Record
from ._repair import Repair
from ._space import Genes
from .search import NSGA2, hypervolume

STALL_GENERATIONS, STALL_GAIN = 5, 1e-3


class State(NamedTuple):
    """What a termination function is told after each generation."""

    generation: int
    evaluations: int
    hypervolume: float
    seconds: float


class Options(NamedTuple):
    """What ends a search, and what happens between generations."""

    generations: int
    budget: int | None
    seconds: float | None
    termination: Any
    stop_early: bool
    save: Callable[[], None]


class Course:
    """A search under way.

    Attributes
    ----------
    sizes : list of int
        How many points were evaluated at the end of each generation.
    """

    def __init__(
        self,
        search: NSGA2,
        genes: Genes,
        evaluator: Evaluator,
        goals: Sequence[Objective | str],
        limits: Sequence[Constraint],
        seeds: Sequence[Candidate],
        options: Options,
    ) -> None:
        self._search, self._evaluator, self._goals, self._limits = search, evaluator, goals, limits
        self._repair = Repair(genes, limits, evaluator.costs)
        self._seeds, self._options = seeds, options
        self._start = time.monotonic()
        # In order; a checkpoint may hold more than this search, with its budget, asks for.
        self._asked: dict[Candidate, None] = {}
        self.sizes: list[int] = []

    def late(self) -> bool:
        """Whether no evaluation may start any more."""
        seconds = self._options.seconds
        return seconds is not None and time.monotonic() - self._start >= seconds

    def records(self) -> list[Record]:
        """Everything that was asked for and is evaluated, in the order it was asked for."""
        known = self._evaluator.records
        return [known[c] for c in self._asked if c in known]

    def run(self, bar: Any) -> str:
        """Search until something ends it, and return what."""
        o = self._options
        volumes: list[float] = []
        reference: NDArray[np.float64] | None = None
        for generation in range(1, o.generations + 1):
            x = np.array(self._search.ask())
            wanted = self._repair(x)
            within = self._ask_for([*(self._seeds if generation == 1 else []), *wanted])
            self._evaluator.run(list(self._asked), None if o.seconds is None else self.late)
            o.save()
            records = self.records()
            self.sizes.append(len(records))
            bar.update(len(records) - bar.n)
            reference, volume = _volume(records, self._goals, reference)
            volumes.append(volume)
            bar.set_postfix(hypervolume=f"{volume:.4g}")
            if self._evaluator.missing(list(self._asked)):
                return f"max_seconds: {o.seconds:g} s are over"
            if not within:
                return f"budget: {o.budget} points are evaluated"
            ended = _ended(o.termination, volumes, generation, len(records), self._start)
            if ended is not None:
                return ended
            self._tell(x, [self._evaluator.records[c] for c in wanted])
        return f"generations: all {o.generations} are done"

    def _ask_for(self, candidates: Sequence[Candidate]) -> bool:
        """Note candidates as far as the budget goes; False if it does not go far enough."""
        within, budget = True, self._options.budget
        for candidate in candidates:
            if budget is not None and len(self._asked) >= budget and candidate not in self._asked:
                within = False
            else:
                self._asked[candidate] = None
        return within

    def _tell(self, x: NDArray[Any], told: Sequence[Record]) -> None:
        f = np.array([[cost_of(r, goal) for goal in self._goals] for r in told])
        g = np.array([[_excess(r, c) for c in self._limits] for r in told]) if self._limits else None
        self._search.tell(x, f, g)
        if self._options.stop_early:
            self._evaluator.archive.tell(self.records())


def cost_of(record: Record, goal: Objective | str) -> float:
    """Value to minimise; NaN where the evaluation failed."""
    return np.nan if record.failure is not None else cost(record, goal)


def _excess(record: Record, constraint: Constraint) -> float:
    return np.nan if record.failure is not None else record.violations.get(constraint.text, -1.0)


def _volume(
    records: Sequence[Record], goals: Sequence[Objective | str], reference: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64] | None, float]:
    """Hypervolume of the feasible records, up to a reference fixed when there first are some."""
    costs = np.array([[cost_of(r, goal) for goal in goals] for r in records if r.feasible]).reshape(-1, len(goals))
    costs = costs[~np.isnan(costs).any(axis=1)]
    if not len(costs):
        return reference, 0.0
    if reference is None:
        worst, spread = costs.max(axis=0), np.ptp(costs, axis=0)
        reference = worst + np.where(spread > 0, 0.1 * spread, np.maximum(np.abs(worst) * 0.1, 1e-12))
    if len(goals) == 1:
        return reference, float(max(0.0, reference[0] - costs.min()))
    return reference, float(hypervolume(costs, reference))


def check_termination(termination: Any) -> None:
    """Raise ValueError for what cannot end a search."""
    if termination is None or termination == "stalled" or callable(termination):
        return
    if isinstance(termination, bool) or not isinstance(termination, int) or termination < 1:
        raise ValueError(f'termination is {termination!r}; it must be "stalled", a number of generations or a function')


def _ended(termination: Any, volumes: Sequence[float], generation: int, evaluations: int, start: float) -> str | None:
    """Why a search ends after this generation, or None if it goes on."""
    if termination is None:
        return None
    if callable(termination):
        stop = termination(State(generation, evaluations, volumes[-1], time.monotonic() - start))
        return f"termination: {getattr(termination, '__name__', 'the function')} said so" if stop else None
    if termination == "stalled":
        if len(volumes) <= STALL_GENERATIONS:
            return None
        before = volumes[-1 - STALL_GENERATIONS]
        if before > 0 and volumes[-1] - before < STALL_GAIN * before:
            return f"stalled: the hypervolume gained less than {STALL_GAIN:.1%} in {STALL_GENERATIONS} generations"
        return None
    return f"termination: {termination} generations are done" if generation >= termination else None
