"""Exploring – search the operating points of a network for those that no other beats.

The search runs on a copy. Whatever was evaluated is kept, so a search that goes on from a checkpoint asks the same
questions again, gets the kept answers, and arrives where it would have arrived: the order of evaluations depends on the
seed and on the answers alone, not on time or on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arguments import Rng, positive_int, seed_of
from ._course import Course, Options, State, check_termination, cost_of
from ._device import Device, profile_device
from ._errors import InfeasibleError
from ._evaluate import Evaluator, nearest_miss
from ._front import Front
from ._goals import Constraint, Objective, bits_matter, identity_of, name_of, read_constraints, read_objectives
from ._identity import network_hash
from ._journal import Journal
from ._metrics import METRICS, task_of
from ._record import Record
from ._space import Genes, Space
from ._timing import nondominated
from .search import NSGA2

if TYPE_CHECKING:
    from ._data import Data
    from ._network import Network

__all__ = ["Objective", "Space", "explore"]

WORTH_A_MODEL = 240  # evaluations: as many sub-nets as a profile measures


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
    stop_early: bool = True,
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
        ``"latency_ms <= 5"``, or functions of a `Record` that are at most 0 where they hold. Candidates over a limit
        of latency, bytes or MACs are made narrower before they are evaluated.
    space : Space, optional
        What to vary; widths per channel space, and bits if several are offered.
    device : Device, optional
        Where latencies come from. This CPU otherwise: by a latency model if the search may evaluate 240 sub-nets or
        more, by measuring each if it may not; at each of ``space.threads``.
    population, generations : int
        Size and number of generations of NSGA-II.
    budget : int, optional
        Most distinct points to evaluate.
    max_seconds : float, optional
        No evaluation starts later than this; the result then depends on the machine's speed. 0 with a checkpoint gives
        the best of what it holds.
    termination : "stalled", int, callable or None
        Stop early once the hypervolume gained less than 0.1 % in 5 generations; after so many generations; or once a
        function of `State` is true.
    init : iterable of points, optional
        To start from; the named points otherwise. Half of the first generation is near one width for all layers.
    executor : executor or function that makes one, optional
        Evaluates accuracies in parallel: threads, ``ProcessPoolExecutor``, loky, a ``dask.distributed.Client``, or
        anything else with ``submit(f, *args)`` that returns futures. Network and images travel to each worker once. If
        workers die, others are started and the evaluations are tried again, each at most 3 times.
    checkpoint : str or Path, optional
        File to which every evaluation is appended, to go on from after an interruption; the latencies that were
        measured are beside it, in ``checkpoint + ".device.json"``.
    resume : bool
        Go on from an existing checkpoint; False replaces it.
    stop_early : bool
        End an evaluation once the point is beaten by others whatever the images that are left bring. Its record holds
        the best that was possible, is marked (`Record.stopped`), and is never on the front, which stays the same over
        the points evaluated. Takes effect if the objectives are error or accuracy and costs.
    progress : bool or "auto"
        Show a progress bar; "auto" where the output is a terminal.
    rng : int, Generator or None
        Seed.

    Returns
    -------
    Front
        The points that no other beats, with latencies measured again in turns; everything evaluated in `evaluated`,
        and why the search stopped in `ended`.

    Whatever ends a search early, Ctrl-C too, leaves the records so far in the exception's ``evaluated``.

    Raises
    ------
    PointError
        If no point meets all constraints: the message says which one, and by how much the nearest misses it.
    ValueError
        If the checkpoint is of another search or holds other latencies than the device, ``data.val`` is empty, the
        population is odd or below 4, max_seconds is below 0, a name is unknown or there twice, or energies are asked
        for and cannot be had.
    TypeError
        If an objective, the space or the device is of another type.
    RuntimeError
        If another process writes the checkpoint, or workers die again and again without finishing anything, or cannot
        be replaced.
    ConnectionError
        If a Dask cluster has no workers or its scheduler is gone.
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
    population, generations = positive_int(population, "population"), positive_int(generations, "generations")
    limit = None if budget is None else positive_int(budget, "budget")
    metrics = METRICS[task_of(data.val.y, net.task)]
    goals = read_objectives(objectives, metrics)
    limits = read_constraints(constraints, metrics, goals)
    check_termination(termination)
    if max_seconds is not None and not max_seconds >= 0:
        raise ValueError(f"max_seconds must be None or at least 0, not {max_seconds}")
    for split, why in (("val", "to judge points on"), ("calibration", "for their statistics")):
        if len(getattr(data, split, ())) == 0:
            raise ValueError(f"data.{split} is empty; explore needs images {why}")
    space = Space() if space is None else space
    for name, value, kind in (("space", space, Space), ("device", device, Device | None)):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a dn.{name.capitalize()}, not {value!r}")
    genes = Genes(net, space, bits_matter(goals, limits))
    if rng is None and checkpoint is not None and resume:
        rng = Journal.seed(checkpoint)
    seed = seed_of(rng)
    search = NSGA2(
        genes.lower, genes.upper, integer=True, objectives=len(goals), constraints=len(limits),
        population=population, rng=seed,
    )  # fmt: skip
    seeds = [(net._find(p), t) for p in (net.points.values() if init is None else init) for t in space.threads]
    rows = [row for s, t in seeds if (row := genes.encode(s, t)) is not None]
    near = genes.near_uniform(population // 2, np.random.default_rng([seed, 1]))
    search.start(np.array([*rows, *near][:population]))
    many = min(population * generations, limit or population * generations) >= WORTH_A_MODEL
    device = _device_of(net, device, checkpoint, resume, space.threads, many)
    journal = None
    if checkpoint is not None:
        options = _options(net, data, goals, limits, space, population, seed, device, stop_early)
        journal = Journal(checkpoint, options, resume)
    try:
        if journal is not None and checkpoint is not None:
            _check_latencies(device, net, journal.records, checkpoint)
            device._keep_at(_device_path(checkpoint))
        _check_energy(device, net, goals, limits)
        evaluator = Evaluator(
            net,
            data,
            goals,
            limits,
            device,
            executor,
            journal.records if journal else (),
            journal.append if journal else None,
            space.threads,
        )
        save = journal.sync if journal is not None else lambda: None
        ends = Options(generations, limit, max_seconds, termination, stop_early, save)
        course = Course(search, genes, evaluator, goals, limits, seeds, ends)
        ended = _run(course, evaluator, _bar(progress, limit or population * generations))
    finally:
        if journal is not None:
            journal.close()
            device._keep_at(None)
    with _carrying(course):
        return _front(course, goals, evaluator, device, seed, ended)


@contextmanager
def _carrying(course: Course) -> Iterator[None]:
    """Give whatever ends a search early, or its measurements afterwards, the records so far."""
    try:
        yield
    except BaseException as error:
        error.evaluated = course.records()  # type: ignore[attr-defined]
        raise


def _run(course: Course, evaluator: Evaluator, bar: Any) -> str:
    try:
        with _carrying(course):
            return course.run(bar)
    finally:
        bar.close()
        evaluator.close()


def _device_of(
    net: Network,
    device: Device | None,
    checkpoint: str | Path | None,
    resume: bool,
    threads: Sequence[int],
    many: bool,
) -> Device:
    """Return the device with the latencies that an earlier part of the search measured."""
    if checkpoint is None:
        return profile_device(net, threads=threads, model=many) if device is None else device
    path = _device_path(checkpoint)
    earlier = Device.load(path) if resume and path.exists() and Path(checkpoint).exists() else None
    if device is None:
        if earlier is not None and earlier.is_here:
            return earlier
        return profile_device(net, threads=threads, model=many)
    if earlier is not None and device.is_here and earlier.machine.cpu == device.machine.cpu:
        device._adopt(earlier)
    return device


def _device_path(checkpoint: str | Path) -> Path:
    return Path(f"{checkpoint}.device.json")


def _check_latencies(device: Device, net: Network, records: Sequence[Record], checkpoint: str | Path) -> None:
    """Raise ValueError if a checkpoint holds other latencies than the device."""
    for record in records:
        known = device._known(net, record.point, record.threads) if record.latency_ms is not None else None
        if known is not None and known != record.latency_ms:
            raise ValueError(
                f"{checkpoint} has {record.latency_ms:.4g} ms for {record.label} and the device {known:.4g}: pass the "
                f"device of that search ({_device_path(checkpoint)}), another checkpoint or resume=False"
            )


def _check_energy(device: Device, net: Network, goals: Sequence[Objective | str], limits: Sequence[Constraint]) -> None:
    """Raise ValueError before anything is evaluated if energies are asked for and cannot be had."""
    if "energy_mj" not in (*goals, *(limit.column for limit in limits)):
        return
    energy = device.energy(net)
    if energy.mj is None:
        raise ValueError(
            f"energy_mj is not to be had here ({energy.source}); device.set_power(watts) makes it modelled"
        )


def _front(
    course: Course,
    goals: Sequence[Objective | str],
    evaluator: Evaluator,
    device: Device,
    seed: int,
    ended: str,
) -> Front:
    """Return the front of what was evaluated, measured again if it is of this CPU."""
    records = course.records()
    feasible = [r for r in records if r.feasible]
    if not feasible:
        raise InfeasibleError(nearest_miss(records))
    mask = nondominated(np.array([[cost_of(r, goal) for goal in goals] for r in feasible]))
    best = _distinct([r for r, m in zip(feasible, mask, strict=True) if m], goals)
    front = Front(
        evaluator.network([*best, *(r for r in records if r.name and r.failure is None)]),
        best,
        evaluated=records,
        machine=None if device.is_here else device.machine,
        objectives=[name_of(goal) for goal in goals],
        seed=seed,
        maximize=[goal.name for goal in goals if not isinstance(goal, str) and goal.maximize],
        generations=course.sizes,
        ended=ended,
    )
    return front.remeasure() if device.is_here else front


def _distinct(records: Sequence[Record], goals: Sequence[Objective | str]) -> list[Record]:
    """Of points that are equal in every objective, the one with the fewest MACs."""
    kept: dict[tuple[float, ...], Record] = {}
    for record in sorted(records, key=lambda r: (r.macs or 0, r.name is None)):
        kept.setdefault(tuple(cost_of(record, goal) for goal in goals), record)
    return list(kept.values())


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
    stop_early: bool,
) -> dict[str, Any]:
    """Return what a checkpoint must agree on; budget and generations may grow."""
    return {
        "network": network_hash(net),
        "data": data.fingerprint,
        "objectives": [identity_of(goal) for goal in goals],
        "constraints": [f"{limit.text} {limit.mark}".rstrip() for limit in limits],
        "space": {"widths": space.widths, "bits": space.bits, "depth": space.depth, "threads": space.threads,
                  "uniform": space.uniform},
        "population": population,
        "seed": seed,
        "device": device.machine.cpu,
        "latencies": None if device.is_here else device._digest(),
        "stop_early": stop_early,
    }  # fmt: skip
