"""Fronts – operating points with their accuracy and cost, to plot, to choose from, to keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._documents import load_document, save_document
from ._errors import FormatError, PointError
from ._identity import network_hash
from ._machine import Machine, cpu_name, this_machine
from ._measure import as_networks, interval, measure_records
from ._record import Record, from_document, key, to_document
from ._statistics import Difference, correct, paired_difference
from ._table import Table
from ._timing import nondominated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ._data import Split
    from ._network import Network

KIND, VERSION = "dynadnn-front", 1


class Reference(msgspec.Struct, frozen=True):
    """A figure from elsewhere, drawn beside the front.

    Attributes
    ----------
    name : str
    accuracy : float
        Fraction.
    latency_ms : float
        Milliseconds.
    """

    name: str
    accuracy: float
    latency_ms: float


class _Body(msgspec.Struct):
    networks: dict[str, str]
    records: list[dict[str, Any]]
    evaluated: list[dict[str, Any]]
    references: list[Reference]
    machine: Machine
    objectives: tuple[str, ...] = ("error", "latency_ms")
    seed: int | None = None
    ended: str | None = None


class Front:
    """Operating points of one or several networks with accuracy, latency and size.

    Made by `explore`, `measure` or `load`.

    Attributes
    ----------
    records : tuple of Record
        The points to choose from, fastest first: after a search those that no other beats, from `measure` all.
    evaluated : tuple of Record
        Everything that was evaluated, including failures.
    references : tuple of Reference
        Figures added by `add`.
    machine : Machine
        The CPU that the latencies are of.
    objectives : tuple of str
        What was minimised.
    seed : int or None
        Seed of the search.
    ended : str or None
        Why the search stopped where it did.
    """

    def __init__(
        self,
        networks: Any,
        records: Iterable[Record],
        *,
        evaluated: Iterable[Record] | None = None,
        references: Iterable[Reference] = (),
        machine: Machine | None = None,
        objectives: Sequence[str] = ("error", "latency_ms"),
        seed: int | None = None,
        ended: str | None = None,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        self._networks = as_networks(networks)
        self.records = _sorted(records)
        self.evaluated = self.records if evaluated is None else tuple(evaluated)
        self.references = tuple(references)
        self.machine = this_machine() if machine is None else machine
        self.objectives = tuple(objectives)
        self.seed = seed
        self.ended = ended
        self._hashes = dict(hashes) if hashes is not None else {k: network_hash(n) for k, n in self._networks.items()}

    @property
    def network(self) -> Network:
        """The network whose points these are, with statistics for each of them.

        Raises
        ------
        ValueError
            If the front is of several networks, or was loaded without its network.
        """
        if len(self._networks) == 1 and len(self._hashes) == 1:
            return next(iter(self._networks.values()))
        if len(self._hashes) > 1:
            raise ValueError(f"this front is of {len(self._hashes)} networks: {', '.join(self._hashes)}")
        raise ValueError("this front was loaded without its network: dn.Front.load(path, network)")

    def __len__(self) -> int:
        """Return the number of points to choose from."""
        return len(self.records)

    def pick(
        self,
        *,
        latency_ms: float | None = None,
        energy_mj: float | None = None,
        bytes: float | None = None,
        accuracy: float | None = None,
    ) -> Record:
        """Choose a point within limits.

        Parameters
        ----------
        latency_ms, energy_mj, bytes : float, optional
            At most this; the measured latency counts where there is one.
        accuracy : float, optional
            At least this, a fraction.

        Returns
        -------
        Record
            The most accurate point within all limits; the fastest if `accuracy` is the only limit.

        Raises
        ------
        LookupError
            If no point is within the limits; the message names the nearest.

        Examples
        --------
        >>> import dynadnn as dn
        >>> data = dn.datasets.shapes(200, rng=0)
        >>> net = dn.nets.mlp(data, points=(0.5, 1.0), rng=0)
        >>> net.recalibrate(data.calibration.x)
        >>> front = dn.measure(net, data.val)
        >>> front.pick(latency_ms=1000).point in front.network.points.values()
        True
        """
        limits = {"latency_ms": latency_ms, "energy_mj": energy_mj, "bytes": bytes, "accuracy": accuracy}
        wanted = {name: float(limit) for name, limit in limits.items() if limit is not None}
        known = [r for r in self.records if r.failure is None and r.accuracy is not None]
        usable = [r for r in known if all(_figure(r, name) is not None for name in wanted)]
        if not usable:
            lacking = [name for name in wanted if not any(_figure(r, name) is not None for r in known)]
            raise PointError(f"no point of this front has a known {' and '.join(lacking) or 'accuracy'}")
        missed = [max((_excess(r, name, limit) for name, limit in wanted.items()), default=0.0) for r in usable]
        within = [r for r, excess in zip(usable, missed, strict=True) if excess <= 0]
        if not within:
            nearest = usable[int(np.argmin(missed))]
            have = ", ".join(f"{name} {_figure(nearest, name):.4g}" for name in wanted)
            want = " and ".join(f"{name} {'>=' if name == 'accuracy' else '<='} {v:g}" for name, v in wanted.items())
            raise PointError(f"none of {len(usable)} points has {want}; the nearest is {nearest.label} with {have}")
        if set(wanted) == {"accuracy"}:
            return min(within, key=lambda r: (_number(r.latency), -_number(r.accuracy)))
        return min(within, key=lambda r: (-_number(r.accuracy), _number(r.latency)))

    def knee(self) -> Record:
        """Choose the point furthest from the straight line between the fastest and the most accurate.

        Both axes are scaled to their range first; of two points, the more accurate is taken.

        Raises
        ------
        LookupError
            If the front has no point with accuracy and latency.
        """
        costs, records = self._costs()
        if not records:
            raise PointError("this front has no point with accuracy and latency")
        mask = nondominated(costs)
        chosen = [r for r, m in zip(records, mask, strict=True) if m]
        costs = costs[mask]
        spread = np.ptp(costs, axis=0)
        scaled = (costs - costs.min(axis=0)) / np.where(spread > 0, spread, 1.0)
        gain = 1.0 - scaled.sum(axis=1)  # distance below the line from (0, 1) to (1, 0), times sqrt(2)
        return min(zip(gain, chosen, strict=True), key=lambda item: (-round(float(item[0]), 9), item[1].error))[1]

    def hypervolume(self, ref: ArrayLike) -> float:
        """Area that the points dominate, up to a reference point.

        Parameters
        ----------
        ref : array_like, shape (2,)
            Worst error (fraction) and worst latency (ms) that count.
        """
        from .search import hypervolume

        costs, records = self._costs()
        return float(hypervolume(costs, np.asarray(ref, dtype=np.float64))) if records else 0.0

    def evaluate(self, split: Split) -> Front:
        """Add `accuracy_test` with its interval to every point, from data that was not used to choose.

        Parameters
        ----------
        split : Split
            Usually ``data.test``.

        Returns
        -------
        Front
            This front.
        """
        found: dict[Any, Record] = {}
        for record in [*self.records, *(r for r in self.evaluated if r.name and r.failure is None)]:
            if key(record) in found:
                continue
            result = self._network_of(record).evaluate(split, record.point)
            found[key(record)] = msgspec.structs.replace(
                record,
                accuracy_test=float(result["accuracy"]),
                accuracy_test_interval=interval(result["accuracy_interval"]),
            )
        self._replace(found)
        return self

    def compare(self, a: Any, b: Any, split: Split) -> Difference:
        """Difference of the accuracies of two points on the same images.

        Parameters
        ----------
        a, b : Record, or any point of the network
        split : Split
            The images.

        Returns
        -------
        Difference
            Mean, 95 % interval, number of images.
        """
        rows = [correct(self._network_of(point), split, point) for point in (a, b)]
        return paired_difference(*rows)

    def remeasure(self, *, rounds: int = 100, block_ms: float = 0.5) -> Front:
        """Measure the latency of all points now, in turns, on this machine; the table's figures are kept beside.

        Parameters
        ----------
        rounds : int
            Blocks per point.
        block_ms : float
            Length of a block, milliseconds.

        Returns
        -------
        Front
            This front.
        """
        some = {key(r): r for r in [*self.evaluated, *self.records] if r.failure is None}
        kept = {key(r) for r in self.records}
        wanted = [r for k, r in some.items() if k in kept or r.name]
        self._replace(measure_records(self._networks, wanted, rounds, block_ms))
        self.machine = this_machine()
        return self

    def add(self, name: str, *, accuracy: float, latency_ms: float) -> Front:
        """Add a figure from elsewhere, drawn beside the points: a teacher, another library, a paper.

        Parameters
        ----------
        name : str
            Its label.
        accuracy : float
            Fraction, 0 to 1.
        latency_ms : float
            Milliseconds.

        Returns
        -------
        Front
            This front.
        """
        if not 0 <= accuracy <= 1:
            raise ValueError(f"accuracy is {accuracy}; it must be a fraction from 0 to 1")
        if not (np.isfinite(latency_ms) and latency_ms >= 0):
            raise ValueError(f"latency_ms is {latency_ms}; it must be a finite number of milliseconds")
        self.references = (*self.references, Reference(name, float(accuracy), float(latency_ms)))
        return self

    def merge(self, other: Front) -> Front:
        """Return a front with the points of both.

        Parameters
        ----------
        other : Front
            Of the same network or of networks with other names, measured on the same CPU.

        Raises
        ------
        ValueError
            If the fronts are of different networks of one name, or of different CPUs.
        """
        if self.machine.cpu != other.machine.cpu:
            raise ValueError(f"fronts of two CPUs cannot be merged: {self.machine.cpu!r} and {other.machine.cpu!r}")
        for name in self._hashes.keys() & other._hashes.keys():
            if self._hashes[name] != other._hashes[name]:
                raise ValueError(
                    f"the fronts are of two different networks{f' called {name!r}' if name else ''}: "
                    "measure them together, dn.measure({'one': net, 'other': net})"
                )
        if ("" in self._hashes) != ("" in other._hashes):
            raise ValueError("a front of one network and a front of several named ones cannot be merged")
        records = {key(r): r for r in [*other.records, *self.records]}
        evaluated = {key(r): r for r in [*other.evaluated, *self.evaluated]}
        networks = {**other._networks, **self._networks}
        for name in self._networks.keys() & other._networks.keys():  # statistics of both fronts' points
            mine, theirs = self._networks[name], other._networks[name]
            networks[name] = mine.copy()
            networks[name]._set_tables({**theirs.tables, **mine.tables})
        return Front(
            networks,
            records.values(),
            evaluated=evaluated.values(),
            references=dict.fromkeys([*self.references, *other.references]),
            machine=self.machine,
            objectives=self.objectives,
            seed=self.seed,
            hashes={**other._hashes, **self._hashes},
        )

    def save(self, path: str | Path) -> None:
        """Write the front as one JSON file, without its network: keep that with ``front.network.save(path)``.

        Parameters
        ----------
        path : str or Path
        """
        body = _Body(
            networks=self._hashes,
            records=[to_document(r) for r in self.records],
            evaluated=[to_document(r) for r in self.evaluated],
            references=list(self.references),
            machine=self.machine,
            objectives=self.objectives,
            seed=self.seed,
            ended=self.ended,
        )
        save_document(path, KIND, VERSION, msgspec.structs.asdict(body))

    @classmethod
    def load(cls, path: str | Path, network: Any = None) -> Front:
        """Read a front that `save` wrote.

        Parameters
        ----------
        path : str or Path
        network : Network or dict of Network, optional
            The network it is of; needed to evaluate or to run, not to plot or to pick.

        Raises
        ------
        FormatError
            If the file is something else or damaged.
        ValueError
            If the network is another one.
        """
        body = load_document(path, KIND, VERSION, _Body)
        networks = as_networks(network)
        for name, net in networks.items():
            if body.networks.get(name) != network_hash(net):
                raise ValueError(
                    f"{path} was made with another network{f' than {name!r}' if name else ''}: weights differ"
                )
        try:
            records = [from_document(d) for d in body.records]
            evaluated = [from_document(d) for d in body.evaluated]
        except (msgspec.ValidationError, TypeError) as error:
            raise FormatError(f"{path} holds a record that is none: {error}") from None
        return cls(
            networks,
            records,
            evaluated=evaluated,
            references=body.references,
            machine=body.machine,
            objectives=body.objectives,
            seed=body.seed,
            ended=body.ended,
            hashes=body.networks,
        )

    def table(self) -> Table:
        """Return the points as a table, one row each, full precision."""
        columns = (
            "point", "threads", "accuracy", "accuracy_low", "accuracy_high", "error", "loss", "latency_ms",
            "latency_ms_measured", "latency_ms_p10", "latency_ms_p90", "energy_mj", "bytes", "macs", "accuracy_test",
        )  # fmt: skip
        rows = [
            [
                r.label, r.threads, r.accuracy, *(r.accuracy_interval or (None, None)), r.error, r.loss,
                r.latency_ms, r.latency_ms_measured, r.latency_ms_p10, r.latency_ms_p90, r.energy_mj,
                r.bytes, r.macs, r.accuracy_test,
            ]
            for r in self.records
        ]  # fmt: skip
        extra = list(dict.fromkeys(name for r in self.records for name in r.values))
        for row, record in zip(rows, self.records, strict=True):
            row += [record.values.get(name) for name in extra]
        return Table((*columns, *extra), rows)

    def summary(self, records: Iterable[Record] | None = None) -> Table:
        """Return a table for reading: accuracy with its interval, measured latency with percentiles, bytes, MACs.

        Parameters
        ----------
        records : iterable of Record, optional
            Other points than the front's.
        """
        rows = [summary_row(r) for r in (self.records if records is None else records)]
        tested = any(r[2] for r in rows)
        columns = ("point", "accuracy % [95 %]", "on test %", "latency ms [p10 p90]", "bytes", "MACs")
        keep = [i for i in range(6) if tested or i != 2]
        return Table([columns[i] for i in keep], [[row[i] for i in keep] for row in rows], self._title())

    def to_frame(self) -> Any:
        """Return the points as a ``pandas.DataFrame``."""
        return self.table().to_frame()

    def to_csv(self, path: str | Path) -> None:
        """Write the points as comma-separated values."""
        self.table().to_csv(path)

    def to_latex(self) -> str:
        """Return the points as a LaTeX table for reading."""
        return self.summary().to_latex()

    def __str__(self) -> str:
        return str(self.summary())

    def __repr__(self) -> str:
        return f"Front({len(self.records)} points of {len(self.evaluated)} evaluated, {self.machine.cpu!r})"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def plot(self, ax: Axes | None = None, measured: bool = True, *, mark: Record | None = None) -> Axes:
        """Plot accuracy against latency.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to; a new figure otherwise.
        measured : bool
            Show measured latencies with their 10th to 90th percentile where there are any, else the table's.
        mark : Record, optional
            The point to mark; the knee otherwise.

        Returns
        -------
        Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed (extra ``plot``).
        """
        from ._front_plot import plot_front

        return plot_front(self, ax, measured, mark)

    # ---- inside ----

    def _title(self) -> str:
        foreign = "" if self.machine.cpu == cpu_name() else ", not measured here"
        return f"{self.machine.cpu}, {self.machine.isa or 'unknown kernels'}{foreign}"

    def _costs(self) -> tuple[NDArray[np.float64], list[Record]]:
        known = [r for r in self.records if r.error is not None and r.latency is not None and r.failure is None]
        return np.array([(_number(r.error), _number(r.latency)) for r in known]).reshape(-1, 2), known

    def _network_of(self, record: Any) -> Network:
        model = getattr(record, "model", None)
        if model is None:
            return self.network
        if model not in self._networks:
            raise ValueError(f"this front was loaded without its network {model!r}")
        return self._networks[model]

    def _replace(self, found: Mapping[Any, Record]) -> None:
        self.records = _sorted(found.get(key(r), r) for r in self.records)
        self.evaluated = tuple(found.get(key(r), r) for r in self.evaluated)


def plot_fronts(fronts: Mapping[str, Front], ax: Axes | None = None, measured: bool = True) -> Axes:
    """Plot several fronts into one diagram.

    Parameters
    ----------
    fronts : dict of Front
        By the names that the legend shows.
    ax : matplotlib Axes, optional
        Where to; a new figure otherwise.
    measured : bool
        As in `Front.plot`.
    """
    from ._front_plot import plot_fronts as draw

    return draw(fronts, ax, measured)


def summary_row(r: Record) -> list[Any]:
    """Cells of a record in `Front.summary`."""
    accuracy = "" if r.accuracy is None else f"{r.accuracy * 100:.1f}"
    if r.accuracy is not None and r.accuracy_interval is not None:
        accuracy += " [{:.1f} {:.1f}]".format(*(v * 100 for v in r.accuracy_interval))
    test = "" if r.accuracy_test is None else f"{r.accuracy_test * 100:.1f}"
    if r.accuracy_test is not None and r.accuracy_test_interval is not None:
        test += " [{:.1f} {:.1f}]".format(*(v * 100 for v in r.accuracy_test_interval))
    latency = "" if r.latency is None else f"{r.latency:.4f}"
    if r.latency_ms_p10 is not None and r.latency_ms_p90 is not None:
        latency += f" [{r.latency_ms_p10:.4f} {r.latency_ms_p90:.4f}]"
    return [r.label, accuracy, test, latency, r.bytes, r.macs]


def _sorted(records: Iterable[Record]) -> tuple[Record, ...]:
    return tuple(sorted(records, key=lambda r: (_number(r.latency), _number(r.error))))


def _number(value: float | None) -> float:
    return float("inf") if value is None else value


def _figure(record: Record, name: str) -> float | None:
    value: float | None = record.latency if name == "latency_ms" else getattr(record, name)
    return value


def _excess(record: Record, name: str, limit: float) -> float:
    """How far a figure is beyond a limit, relative to the limit."""
    beyond = _number(_figure(record, name)) - limit
    return (-beyond if name == "accuracy" else beyond) / max(abs(limit), 1e-12)
