"""Evaluating candidates of a search: accuracy on a copy of the network, latency from the device, nothing twice."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ._device import Device
from ._measure import figures
from ._record import NUMBERS, Record
from ._space import Constraint, Objective, evaluate_objectives

if TYPE_CHECKING:
    from ._data import Data, Split
    from ._network import Network
    from ._points import Subnet
    from ._tables import Tables

Candidate = tuple[Any, int]


def accuracy_record(
    net: Network, subnet: Subnet, images: Any, split: Split, objectives: Sequence[Objective | str]
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

    Returns
    -------
    record : Record
        With the traceback in `failure` if anything went wrong.
    tables : Tables or None
        The statistics, for engines.
    """
    try:
        net.recalibrate(images, points=[subnet])
        further = tuple(o for o in objectives if isinstance(o, str) and o not in NUMBERS)
        record, result = figures(net, subnet, split, metrics=further)
        values = evaluate_objectives(net, subnet, split, objectives, result)
        record = msgspec.structs.replace(record, values=values)
        bad = [n for n in (*NUMBERS, *values) if isinstance(v := record.column(n), float) and not math.isfinite(v)]
        if bad:
            record = Record(point=subnet, failure=f"{', '.join(bad)} of this point is not finite")
        return record, net.tables.get(subnet)
    except Exception:
        return Record(point=subnet, failure=traceback.format_exc()), None


def accuracy_record_of_copy(
    net: Network, subnet: Subnet, images: Any, split: Split, objectives: Sequence[Objective | str]
) -> tuple[Record, Tables | None]:
    """As `accuracy_record`, for workers that may share the network."""
    return accuracy_record(net.copy(), subnet, images, split, objectives)


class Evaluator:
    """Records of sub-nets and threads; asks for each only once.

    Attributes
    ----------
    records : dict
        All records, by sub-net and threads, in the order they were first asked for.
    tables : dict of Subnet to Tables
        Statistics of the sub-nets evaluated in this process.
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
    ) -> None:
        self._net = net
        self._data = data
        self._objectives = objectives
        self._constraints = constraints
        self._device = device
        self._executor = executor
        self._on_record = on_record
        self._base = dict(net.tables)
        self._work = net.copy()
        self._names: dict[Any, str] = {}
        for name, subnet in net.points.items():
            self._names[subnet] = f"{self._names[subnet]} = {name}" if subnet in self._names else name
        self.tables: dict[Any, Tables] = {}
        self.records: dict[Candidate, Record] = {(r.point, r.threads): r for r in known}
        self._accuracies: dict[Any, Record] = {r.point: r for r in known}

    def missing(self, wanted: Sequence[Candidate]) -> list[Candidate]:
        """Candidates that are not evaluated yet, each once."""
        return [c for c in dict.fromkeys(wanted) if c not in self.records]

    def run(self, wanted: Sequence[Candidate], late: Callable[[], bool] = lambda: False) -> None:
        """Evaluate the candidates that are missing.

        Parameters
        ----------
        wanted : sequence of (Subnet, threads)
        late : callable
            Asked before each evaluation; true leaves out the rest.
        """
        new = self.missing(wanted)
        done = dict(self._accuracy([s for s in dict.fromkeys(s for s, _ in new) if s not in self._accuracies], late))
        self._accuracies.update(done)
        new = [(s, t) for s, t in new if s in self._accuracies]
        for threads in dict.fromkeys(t for _, t in new):
            some = [self._accuracies[s] for s, t in new if t == threads]
            for record in self._with_latency(some, threads):
                judged = self._judge(msgspec.structs.replace(record, threads=threads))
                self.records[judged.point, threads] = judged
                if self._on_record is not None:
                    self._on_record(judged)

    def network(self, records: Sequence[Record]) -> Network:
        """Return a copy of the network with statistics for these records."""
        net = self._net.copy()
        wanted = dict.fromkeys(r.point for r in records)
        net._set_tables({**self._base, **{s: self.tables[s] for s in wanted if s in self.tables}})
        rest = [s for s in wanted if s not in self.tables]
        if rest:
            net.recalibrate(self._data.calibration.x, points=rest)
        return net

    def _accuracy(self, subnets: Sequence[Any], late: Callable[[], bool]) -> Iterator[tuple[Any, Record]]:
        arguments = (self._data.calibration.x, self._data.val, self._objectives)
        futures = []
        if self._executor is not None:
            futures = [self._executor.submit(accuracy_record_of_copy, self._net, s, *arguments) for s in subnets]
        for i, subnet in enumerate(subnets):
            if late():
                for future in futures[i:]:
                    future.cancel()
                return
            if futures:
                record, tables = futures[i].result()
            else:
                self._work._set_tables(self._base)
                record, tables = accuracy_record(self._work, subnet, *arguments)
            if tables is not None:
                self.tables[subnet] = tables
            yield subnet, msgspec.structs.replace(record, name=self._names.get(subnet))

    def _with_latency(self, records: Sequence[Record], threads: int) -> Iterator[Record]:
        fine = [r for r in records if r.failure is None]
        kept = {r.point: self.tables[r.point] for r in fine if r.point in self.tables}
        self._work._set_tables({**self._base, **kept})
        found: dict[Any, float] = {}
        try:
            latencies = self._device.latencies(self._work, [r.point for r in fine], threads)
            found = {r.point: latency for r, latency in zip(fine, latencies, strict=True)}
        except Exception:  # one of them cannot be measured: which one?
            for record in fine:
                try:
                    found[record.point] = self._device.latency(self._work, record.point, threads)
                except Exception:
                    yield Record(point=record.point, name=record.name, failure=traceback.format_exc())
        for record in records:
            if record.failure is not None:
                yield record
            elif record.point in found:
                energy = self._device.energy(self._work, record.point, threads)
                yield msgspec.structs.replace(record, latency_ms=found[record.point], **energy.fields())

    def _judge(self, record: Record) -> Record:
        """Note the constraints that a record misses."""
        if record.failure is not None:
            return record
        try:
            excess = {c.text: c.violation(record) for c in self._constraints}
        except Exception:
            return msgspec.structs.replace(record, failure=traceback.format_exc())
        return msgspec.structs.replace(record, violations={k: v for k, v in excess.items() if not v <= 0})


def nearest_miss(records: Sequence[Record]) -> str:
    """Say what keeps every record from being feasible."""
    failed = [r for r in records if r.failure is not None]
    missed = [r for r in records if r.failure is None and r.violations]
    if not missed:
        last = failed[0].failure.strip().splitlines()[-1] if failed and failed[0].failure else "nothing was evaluated"
        return f"all {len(failed)} evaluations failed, the first with: {last}"
    nearest = min(missed, key=lambda r: sum(math.inf if math.isnan(v) else v for v in r.violations.values()))
    listed = ", ".join(
        f"{text!r} is unknown there" if math.isnan(v) else f"{text!r} is missed by {v:.1%}"
        for text, v in nearest.violations.items()
    )
    return f"none of {len(records)} points meets all constraints; for the nearest, {nearest.label}, {listed}"
