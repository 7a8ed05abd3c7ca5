"""Exploring – search the operating points of a network for those that no other beats.

The search runs on a copy. Whatever was evaluated is kept, so a search that goes on from a checkpoint asks the same
questions again, gets the kept answers, and arrives where it would have arrived: the order of evaluations depends on the
seed and on the answers alone, not on time or on the number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._arguments import Rng, positive_int, seed_of
from ._device import Device, profile_device
from ._errors import PointError
from ._evaluate import Candidate, Evaluator, nearest_miss
from ._front import Front
from ._identity import network_hash
from ._journal import Journal
from ._record import Record
from ._space import Constraint, Genes, Objective, Space, as_constraint, as_objective, cost
from ._timing import nondominated

if TYPE_CHECKING:
    from ._data import Data
    from ._network import Network

__all__ = ["Objective", "Space", "explore"]

STALL_GENERATIONS, STALL_GAIN = 5, 1e-3


class State(NamedTuple):
    """What a termination function is told after each generation."""

    generation: int
    evaluations: int
    hypervolume: float
    seconds: float


def explore(
    net: Network,
    data: Data,
    *,
    objectives: Sequence[str | Objective] = ("error", "latency_ms"),
    constraints: Sequence[str | Callable[[Record], float]] = (),
    space: Space | None = None,
    device: Device | None = None,
    population: int = 64,
    generations: int = 30,
    budget: int | None = None,
    max_seconds: float | None = None,
    termination: str | int | Callable[[State], bool] | None = "stalled",
    init: Iterable[Any] | None = None,
    executor: Any = None,
    checkpoint: str | Path | None = None,
    resume: bool = True,
    progress: bool | str = "auto",
    rng: Rng = None,
) -> Front:
    """Search operating points for the best trade-off of accuracy and cost on this machine.

    Parameters
    ----------
    net : Network
        Trained for several widths; it is not changed.
    data : Data
        Statistics come from ``data.calibration``, figures from ``data.val``; ``data.test`` is never read.
    objectives : sequence of str or Objective
        What to minimise: a column (error, loss, latency_ms, energy_mj, bytes, macs), a metric or an own function.
        ``"accuracy"`` is maximised, and so are metrics of which more is better (``"f1"``, ``"auroc"``, …). The
        ``"error"`` of a regression is the mean squared error.
    constraints : sequence of str or callable
        ``"latency_ms <= 5"``, or functions of a `Record` that are at most 0 where they hold.
    space : Space, optional
        What to vary; widths per channel space, and bits if several are offered.
    device : Device, optional
        Where latencies come from; this CPU otherwise.
    population, generations : int
        Size and number of generations of NSGA-II.
    budget : int, optional
        Most distinct points to evaluate.
    max_seconds : float, optional
        No evaluation starts later than this; the result then depends on the machine's speed.
    termination : "stalled", int, callable or None
        Stop early once the hypervolume gained less than 0.1 % in 5 generations; after so many generations; or once a
        function of `State` is true.
    init : iterable of points, optional
        To start from; the named points otherwise. Half of the first generation is near one width for all layers.
    executor : optional
        Anything with ``submit(f, *args)`` that returns futures, to evaluate accuracies in parallel.
    checkpoint : str or Path, optional
        File to which every evaluation is appended, to go on from after an interruption.
    resume : bool
        Go on from an existing checkpoint; False replaces it.
    progress : bool or "auto"
        Show a progress bar; "auto" where the output is a terminal.
    rng : int, Generator or None
        Seed.

    Returns
    -------
    Front
        The points that no other beats, with latencies measured again in turns; everything evaluated in `evaluated`.

    Raises
    ------
    PointError
        If no point meets all constraints: the message says which one, and by how much the nearest misses it.
    ValueError
        If the checkpoint is of another search, or ``data.val`` is empty.
    KeyboardInterrupt
        On Ctrl-C; the checkpoint can be gone on from.

    Examples
    --------
    >>> import dynadnn as dn
    >>> data = dn.datasets.shapes(200, rng=0)
    >>> net = dn.nets.mlp(data, points=(0.5, 1.0), rng=0)
    >>> front = dn.explore(net, data, device=dn.Device.from_speed(50, 1e10), budget=20, rng=0)
    >>> front.pick(latency_ms=1).latency_ms <= 1
    True
    """
    from .search import NSGA2

    population, generations = positive_int(population, "population"), positive_int(generations, "generations")
    limit = None if budget is None else positive_int(budget, "budget")
    goals = [as_objective(item) for item in _listed(objectives)]
    if not goals:
        raise ValueError("objectives is empty: at least one is needed")
    limits = [as_constraint(item) for item in _listed(constraints)]
    _check_termination(termination)
    for split, why in (("val", "to judge points on"), ("calibration", "for their statistics")):
        if len(getattr(data, split, ())) == 0:
            raise ValueError(f"data.{split} is empty; explore needs images {why}")
    space = Space() if space is None else space
    genes = Genes(net, space)
    if rng is None and checkpoint is not None and resume:
        rng = Journal.seed(checkpoint)
    seed = seed_of(rng)
    device = profile_device(net, threads=1) if device is None else device
    start = time.monotonic()
    journal = None
    if checkpoint is not None:
        options = _options(net, data, goals, limits, space, population, seed, device)
        journal = Journal(checkpoint, options, resume)
    evaluator = Evaluator(
        net,
        data,
        goals,
        limits,
        device,
        executor,
        journal.records if journal else (),
        journal.append if journal else None,
    )
    search = NSGA2(
        genes.lower, genes.upper, integer=True, objectives=len(goals), constraints=len(limits),
        population=population, rng=seed,
    )  # fmt: skip
    seeds = [(net._find(p), t) for p in (net.points.values() if init is None else init) for t in space.threads]
    rows = [row for s, t in seeds if (row := genes.encode(s, t)) is not None]
    near = genes.near_uniform(population // 2, np.random.default_rng([seed, 1]))
    search.start(np.array([*rows, *near][:population]))

    def late() -> bool:
        return max_seconds is not None and time.monotonic() - start > max_seconds

    bar = _bar(progress, limit or population * generations)
    volumes: list[float] = []
    sizes: list[int] = []
    reference: NDArray[np.float64] | None = None
    asked: dict[Candidate, None] = {}  # a checkpoint may hold more than this search, with its budget, asks for
    try:
        for generation in range(1, generations + 1):
            x = np.array(search.ask())
            wanted = [genes.decode(row) for row in x]
            complete = True
            for candidate in [*(seeds if generation == 1 else []), *wanted]:
                if limit is not None and len(asked) >= limit and candidate not in asked:
                    complete = False
                else:
                    asked[candidate] = None
            evaluator.run(list(asked), late)
            records = [evaluator.records[c] for c in asked if c in evaluator.records]
            bar.update(len(records) - bar.n)
            reference, volume = _volume(records, goals, reference)
            volumes.append(volume)
            sizes.append(len(records))
            bar.set_postfix(hypervolume=f"{volume:.4g}")
            if not complete or late() or _ended(termination, volumes, generation, len(records), start):
                break
            told = [evaluator.records[c] for c in wanted]
            f = np.array([[_cost(r, goal) for goal in goals] for r in told])
            g = np.array([[_excess(r, c) for c in limits] for r in told]) if limits else None
            search.tell(x, f, g)
    finally:
        bar.close()
        if journal is not None:
            journal.close()
    records = [evaluator.records[c] for c in asked if c in evaluator.records]
    feasible = [r for r in records if r.feasible]
    if not feasible:
        raise PointError(nearest_miss(records))
    mask = nondominated(np.array([[_cost(r, goal) for goal in goals] for r in feasible]))
    best = _distinct([r for r, m in zip(feasible, mask, strict=True) if m], goals)
    front = Front(
        evaluator.network([*best, *(r for r in records if r.name and r.failure is None)]),
        best,
        evaluated=records,
        machine=None if device.is_here else device.machine,
        objectives=[goal if isinstance(goal, str) else goal.name for goal in goals],
        seed=seed,
        maximize=[goal.name for goal in goals if not isinstance(goal, str) and goal.maximize],
        generations=sizes,
    )
    return front.remeasure() if device.is_here else front


def _listed(items: Any) -> list[Any]:
    """Return the items, or the only one."""
    return list(items) if isinstance(items, Iterable) and not isinstance(items, str) else [items]


def _cost(record: Record, goal: Objective | str) -> float:
    return np.nan if record.failure is not None else cost(record, goal)


def _excess(record: Record, constraint: Constraint) -> float:
    return np.nan if record.failure is not None else record.violations.get(constraint.text, -1.0)


def _distinct(records: Sequence[Record], goals: Sequence[Objective | str]) -> list[Record]:
    """Of points that are equal in every objective, the one with the fewest MACs."""
    kept: dict[tuple[float, ...], Record] = {}
    for record in sorted(records, key=lambda r: (r.macs or 0, r.name is None)):
        kept.setdefault(tuple(_cost(record, goal) for goal in goals), record)
    return list(kept.values())


def _volume(
    records: Sequence[Record], goals: Sequence[Objective | str], reference: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64] | None, float]:
    """Hypervolume of the feasible records, up to a reference fixed when there first are some."""
    from .search import hypervolume

    costs = np.array([[_cost(r, goal) for goal in goals] for r in records if r.feasible]).reshape(-1, len(goals))
    costs = costs[~np.isnan(costs).any(axis=1)]
    if not len(costs):
        return reference, 0.0
    if reference is None:
        worst, spread = costs.max(axis=0), np.ptp(costs, axis=0)
        reference = worst + np.where(spread > 0, 0.1 * spread, np.maximum(np.abs(worst) * 0.1, 1e-12))
    if len(goals) == 1:
        return reference, float(max(0.0, reference[0] - costs.min()))
    return reference, float(hypervolume(costs, reference))


def _check_termination(termination: Any) -> None:
    if termination is None or termination == "stalled" or callable(termination):
        return
    if isinstance(termination, bool) or not isinstance(termination, int) or termination < 1:
        raise ValueError(f'termination is {termination!r}; it must be "stalled", a number of generations or a function')


def _ended(termination: Any, volumes: Sequence[float], generation: int, evaluations: int, start: float) -> bool:
    if termination is None:
        return False
    if callable(termination):
        return bool(termination(State(generation, evaluations, volumes[-1], time.monotonic() - start)))
    if termination == "stalled":
        if len(volumes) <= STALL_GENERATIONS:
            return False
        before = volumes[-1 - STALL_GENERATIONS]
        return before > 0 and volumes[-1] - before < STALL_GAIN * before
    return bool(generation >= termination)


def _bar(progress: bool | str, total: int) -> Any:
    from tqdm import tqdm

    if progress not in (True, False, "auto"):
        raise ValueError(f'progress is {progress!r}; it must be True, False or "auto"')
    disable = None if progress == "auto" else not progress
    return tqdm(total=total, desc="explore", unit="point", disable=disable, dynamic_ncols=True)


def _options(
    net: Network,
    data: Data,
    goals: Sequence[Objective | str],
    limits: Sequence[Constraint],
    space: Space,
    population: int,
    seed: int,
    device: Device,
) -> dict[str, Any]:
    """Return what a checkpoint must agree on; budget and generations may grow."""
    return {
        "network": network_hash(net),
        "data": data.fingerprint,
        "objectives": [goal if isinstance(goal, str) else f"own {goal.name}" for goal in goals],
        "constraints": [limit.text for limit in limits],
        "space": {"widths": space.widths, "bits": space.bits, "depth": space.depth, "threads": space.threads,
                  "uniform": space.uniform},
        "population": population,
        "seed": seed,
        "device": device.machine.cpu,
    }  # fmt: skip
