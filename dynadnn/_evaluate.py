"""Evaluating candidates of a search: latency from the device, accuracy on copies of the network, nothing twice."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ._device import Device
from ._goals import COMPARISON, Constraint, Objective, evaluate_objectives, name_of
from ._measure import cost_record, figures, names_of
from ._pool import Job, Payload, Pool
from ._record import NUMBERS, Record
from ._stopping import BOUNDED, Archive, outputs_until

if TYPE_CHECKING:
    from ._data import Data, Split
    from ._network import Network
    from ._points import Subnet
    from ._tables import Tables

Candidate = tuple[Any, int]
AT_A_TIME = 8  # candidates whose latencies are measured before they are evaluated, where there is a time limit


def accuracy_record(
    net: Network,
    subnet: Subnet,
    images: Any,
    split: Split,
    objectives: Sequence[Objective | str],
    allowance: int | None = None,
) -> tuple[Record, Tables | None]:
    """Statistics and figures of one sub-net; changes the tables of the network it is given.

    Parameters
    ----------
    net : Network
        Gets statistics for the sub-net.
    subnet : Subnet
    images : array
        Calibration images.
    split : Split
        Labelled images for the figures.
    objectives : sequence
        Whose own functions and further metrics are evaluated too.
    allowance : int, optional
        Wrong images that end the evaluation early.

    Returns
    -------
    record : Record
        With the traceback in `failure` if anything went wrong.
    tables : Tables or None
        The statistics, for engines.
    """
    try:
        outputs = None
        if allowance != 0:
            net.recalibrate(images, points=[subnet])
        if allowance is not None:
            outputs, wrong = outputs_until(net, subnet, split, allowance)
            if len(outputs) < len(split):
                return _bound(net, subnet, len(split), len(outputs), wrong), None
        further = tuple(o for o in objectives if isinstance(o, str) and o not in NUMBERS)
        record, result = figures(net, subnet, split, metrics=further, outputs=outputs)
        values = evaluate_objectives(net, subnet, split, objectives, result)
        record = msgspec.structs.replace(record, values=values)
        bad = [n for n in (*NUMBERS, *values) if isinstance(v := record.column(n), float) and not math.isfinite(v)]
        if bad:
            record = Record(point=subnet, failure=f"{', '.join(bad)} of this point is not finite")
        return record, net.tables.get(subnet)
    except Exception:
        return Record(point=subnet, failure=traceback.format_exc()), None


def _bound(net: Network, subnet: Subnet, images: int, seen: int, wrong: int) -> Record:
    """Record of a sub-net that was stopped: its accuracy if all the other images were right."""
    best = (images - wrong) / images
    return cost_record(net, subnet, accuracy=best, error=1.0 - best, stopped=seen)


class Evaluator:
    """Records of sub-nets and threads; asks for each only once.

    Attributes
    ----------
    records : dict
        All records, by sub-net and threads.
    tables : dict of Subnet to Tables
        Statistics of the sub-nets evaluated in this process.
    archive : Archive
        What candidates are stopped against; `Archive.tell` moves it on.
    """

    def __init__(
        self,
        net: Network,
        data: Data,
        objectives: Sequence[Objective | str],
        constraints: Sequence[Constraint],
        device: Device,
        executor: Any = None,
        known: Sequence[Record] = (),
        on_record: Callable[[Record], None] | None = None,
        threads: Sequence[int] = (1,),
    ) -> None:
        self._net = net
        self._data = data
        own = {name_of(goal) for goal in objectives}
        limited = dict.fromkeys(c.column for c in constraints if c.column not in (None, *NUMBERS, *own))
        self._evaluated = (*objectives, *(name for name in limited if name is not None))
        self._constraints = constraints
        self._device = device
        self._executor = executor
        self._pool: Pool | None = None
        self._on_record = on_record
        self._threads = threads
        self._base = dict(net.tables)
        self._work = net.copy()
        self._names = names_of(net)
        self.archive = Archive(objectives, data.val.y)
        self.tables: dict[Any, Tables] = {}
        self.records: dict[Candidate, Record] = {(r.point, r.threads): r for r in known}
        self._accuracies: dict[Any, Record] = {r.point: r for r in known if r.failure is None}
        self._costs: dict[Candidate, Record] = {}

    def missing(self, wanted: Sequence[Candidate]) -> list[Candidate]:
        """Candidates that are not evaluated yet, each once."""
        return [c for c in dict.fromkeys(wanted) if c not in self.records]

    def run(self, wanted: Sequence[Candidate], late: Callable[[], bool] | None = None) -> None:
        """Evaluate the candidates that are missing.

        Parameters
        ----------
        wanted : sequence of (Subnet, threads)
        late : callable, optional
            Asked before each evaluation; true leaves out the rest. Latencies are then measured for a few candidates
            at a time, so that measuring them all does not use up the time for evaluating any.
        """
        new = self.missing(wanted)
        some = len(new) if late is None else AT_A_TIME
        for first in range(0, len(new), max(some, 1)):
            if late is not None and late():
                return
            self._run(new[first : first + some], late or (lambda: False))

    def _run(self, new: Sequence[Candidate], late: Callable[[], bool]) -> None:
        self.costs(new)
        of: dict[Any, list[Record]] = {}
        for candidate in new:
            record = self._costs[candidate]
            if record.failure is not None:
                self._keep(record)
            elif record.point in self._accuracies:
                self._keep(self._complete(self._accuracies[record.point], record))
            else:
                of.setdefault(record.point, []).append(record)
        for subnet, accuracy in self._accuracy([(s, self._allowance(s)) for s in of], late):
            self._accuracies[subnet] = accuracy
            for record in of[subnet]:
                self._keep(self._complete(accuracy, record))

    def costs(self, candidates: Sequence[Candidate], latency: bool = True) -> list[Record]:
        """Return what is known before an evaluation: bytes, MACs, latency and energy, each asked for once.

        Parameters
        ----------
        candidates : sequence of (Subnet, threads)
        latency : bool
            Without, latency and energy are left out, and nothing is measured.
        """
        if not latency:
            return [self._cost(subnet, threads) for subnet, threads in candidates]
        new = [c for c in dict.fromkeys(candidates) if c not in self._costs]
        for threads in dict.fromkeys(t for _, t in new):
            for record in self._with_latency([self._cost(s, t) for s, t in new if t == threads], threads):
                self._costs[record.point, threads] = record
        return [self._costs[c] for c in candidates]

    def network(self, records: Sequence[Record]) -> Network:
        """Return a copy of the network with statistics for these records."""
        net = self._net.copy()
        wanted = dict.fromkeys(r.point for r in records)
        net._set_tables({**self._base, **{s: self.tables[s] for s in wanted if s in self.tables}})
        rest = [s for s in wanted if s not in self.tables]
        if rest:
            net.recalibrate(self._data.calibration.x, points=rest)
        return net

    def close(self) -> None:
        """Let go of the workers."""
        if self._pool is not None:
            self._pool.close()

    def _cost(self, subnet: Any, threads: int) -> Record:
        return cost_record(self._net, subnet, name=self._names.get(subnet), threads=threads)

    def _with_latency(self, records: Sequence[Record], threads: int) -> Iterator[Record]:
        self._work._set_tables(self._base)
        try:
            found: list[float | str] = [*self._device.latencies(self._work, [r.point for r in records], threads)]
        except Exception:  # one of them cannot be measured: which one?
            found = [self._latency(record, threads) for record in records]
        for record, latency in zip(records, found, strict=True):
            if isinstance(latency, str):
                yield Record(point=record.point, name=record.name, threads=threads, failure=latency)
            else:
                energy = self._device.energy(self._work, record.point, threads)
                figure = self._device._origin(self._work, record.point, threads, latency)
                yield msgspec.structs.replace(record, **figure.fields(), **energy.fields())

    def _latency(self, record: Record, threads: int) -> float | str:
        try:
            return self._device.latency(self._work, record.point, threads)
        except Exception:
            return traceback.format_exc()

    def _allowance(self, subnet: Any) -> int | None:
        """Wrong images that rule a sub-net out, whichever number of threads it would run with."""
        if subnet in self._names:  # shown beside the front
            return None
        costs = self.costs([(subnet, threads) for threads in self._threads]) if self.archive.ready else []
        return None if any(c.failure is not None for c in costs) else self.archive.allowance(costs)

    def _accuracy(self, jobs: Sequence[Job], late: Callable[[], bool]) -> Iterator[tuple[Any, Record]]:
        for subnet, (record, tables) in self._answers(jobs, late):
            if tables is not None:
                self.tables[subnet] = tables
            yield subnet, record

    def _answers(
        self, jobs: Sequence[Job], late: Callable[[], bool]
    ) -> Iterator[tuple[Any, tuple[Record, Tables | None]]]:
        images, split, goals = self._data.calibration.x, self._data.val, self._evaluated
        if self._executor is not None and jobs:
            if self._pool is None:
                self._pool = Pool(self._executor, Payload(self._net, images, split, goals))
            yield from self._pool.run(jobs, late)
            return
        for subnet, allowance in jobs:
            if late():
                return
            self._work._set_tables(self._base)
            yield subnet, accuracy_record(self._work, subnet, images, split, goals, allowance)

    def _complete(self, accuracy: Record, costs: Record) -> Record:
        """Return an accuracy with the costs at one number of threads, and the constraints that it misses."""
        if accuracy.failure is not None:
            return Record(point=costs.point, name=costs.name, threads=costs.threads, failure=accuracy.failure)
        record = msgspec.structs.replace(
            costs,
            accuracy=accuracy.accuracy,
            accuracy_interval=accuracy.accuracy_interval,
            error=accuracy.error,
            loss=accuracy.loss,
            values=accuracy.values,
            stopped=accuracy.stopped,
        )
        try:
            excess = {c.text: c.violation(record) for c in self._constraints if _can_tell(c, record)}
        except Exception:
            return msgspec.structs.replace(record, failure=traceback.format_exc())
        return msgspec.structs.replace(record, violations={k: v for k, v in excess.items() if not v <= 0})

    def _keep(self, record: Record) -> None:
        self.records[record.point, record.threads] = record
        if self._on_record is not None:
            self._on_record(record)


def _can_tell(constraint: Constraint, record: Record) -> bool:
    """Whether a record has what a constraint is about; of one that was stopped only costs and a bound are known."""
    return record.stopped is None or constraint.column in BOUNDED


def nearest_miss(records: Sequence[Record]) -> str:
    """Say what keeps every record from being feasible."""
    failed = [r for r in records if r.failure is not None]
    missed = [r for r in records if r.failure is None and r.violations]
    if not missed:
        last = failed[0].failure.strip().splitlines()[-1] if failed and failed[0].failure else "nothing was evaluated"
        return f"all {len(failed)} evaluations failed, the first with: {last}"
    nearest = min(missed, key=lambda r: sum(math.inf if math.isnan(v) else v for v in r.violations.values()))
    listed = ", ".join(_miss(text, v) for text, v in nearest.violations.items())
    return f"none of {len(records)} points meets all constraints; for the nearest, {nearest.label}, {listed}"


def _miss(text: str, violation: float) -> str:
    if math.isnan(violation):
        return f"{text!r} is unknown there"
    relative = COMPARISON.fullmatch(text) is not None
    return f"{text!r} is missed by {violation:.1%}" if relative else f"{text!r} is {violation:.4g}, which is above 0"
