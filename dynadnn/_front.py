"""Fronts – operating points with their accuracy and cost, to plot, to choose from, to keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from ._choose import knee, number, pick
from ._documents import load_document, save_document
from ._errors import FormatError
from ._identity import network_hash
from ._machine import Machine, cpu_name, this_machine
from ._measure import as_networks, measure_records, with_test
from ._metrics import TARGETS, task_of
from ._quality import cost_matrix, cost_of, is_better_high, quality_of
from ._record import Record, from_document, key, to_document
from ._statistics import Difference, correct, paired_difference, paired_errors, squared_errors
from ._summary import summary
from ._table import Table

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
    accuracy : float or None
        Fraction; None where the figure is another one.
    latency_ms : float
        Milliseconds.
    metric : str
        What `value` is of.
    value : float or None
        The figure where it is not the accuracy.
    """

    name: str
    accuracy: float | None
    latency_ms: float
    metric: str = "accuracy"
    value: float | None = None

    @property
    def figure(self) -> float | None:
        """The accuracy or the value."""
        return self.accuracy if self.metric == "accuracy" else self.value


class _Body(msgspec.Struct):
    networks: dict[str, str]
    records: list[dict[str, Any]]
    evaluated: list[dict[str, Any]]
    references: list[Reference]
    machine: Machine
    objectives: tuple[str, ...] = ("error", "latency_ms")
    seed: int | None = None
    maximize: tuple[str, ...] = ()
    generations: tuple[int, ...] = ()
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
    maximize : tuple of str
        Own objectives of which more is better.
    generations : tuple of int
        How many points were evaluated at the end of each generation of the search.
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
        maximize: Iterable[str] = (),
        generations: Iterable[int] = (),
    ) -> None:
        self._networks = as_networks(networks)
        self.maximize = tuple(maximize)
        self.objectives = tuple(objectives)
        self.generations = tuple(generations)
        self.records = self._sorted(records)
        self.evaluated = self.records if evaluated is None else tuple(evaluated)
        self.references = tuple(references)
        self.machine = this_machine() if machine is None else machine
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

    @property
    def quality(self) -> str:
        """What points are judged by beside their cost.

        The accuracy where points have one; for regressions the first objective that is no cost (``"error"``, the mean
        squared error, unless the search had another).
        """
        return quality_of(self.records, self.objectives)

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
        **further: float,
    ) -> Record:
        """Choose a point within limits.

        Parameters
        ----------
        latency_ms, energy_mj, bytes : float, optional
            At most this; the measured latency counts where there is one.
        accuracy : float, optional
            At least this, a fraction.
        **further : float
            Limits of other columns and metrics by name, such as ``error=0.1`` or ``mae=0.5``: at least this where more
            is better (``f1``, ``auroc``, …), else at most this.

        Returns
        -------
        Record
            The best by `quality` (the most accurate) within all limits; the fastest if the limits are of quality
            alone: accuracy, error, loss, a metric.

        Raises
        ------
        LookupError
            If no point is within the limits; the message names the nearest.
        TypeError
            If nothing is called as a limit is.

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
        limits = {"latency_ms": latency_ms, "energy_mj": energy_mj, "bytes": bytes, "accuracy": accuracy, **further}
        wanted = {name: float(limit) for name, limit in limits.items() if limit is not None}
        return pick(self.records, self.quality, wanted, self.maximize)

    def knee(self) -> Record:
        """Choose the point furthest from the straight line between the fastest and the best by `quality`.

        Both axes are scaled to their range first; of two points, the better is taken.

        Raises
        ------
        LookupError
            If the front has no point with both figures.
        """
        return knee(self.records, self.quality, self.maximize)

    def hypervolume(self, ref: ArrayLike) -> float:
        """Area that the points dominate, up to a reference point.

        Parameters
        ----------
        ref : array_like, shape (2,)
            Worst error (fraction) and worst latency (ms) that count; without accuracies the worst `quality` instead
            of the error.
        """
        from .search import hypervolume

        costs, records = cost_matrix(self.records, (self.quality, "latency_ms"), self.maximize)
        corner = np.array(ref, dtype=np.float64)
        if self.quality != "accuracy" and is_better_high(self.quality, self.maximize):
            corner[0] = -corner[0]
        return float(hypervolume(costs, corner)) if records else 0.0

    def evaluate(self, split: Split) -> Front:
        """Add `accuracy_test` with its interval to every point, from data that was not used to choose.

        Points without accuracies get the value of their `quality`, or of the loss where that is an own function's, in
        `values` instead, as ``mae_test`` for example.

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
            found[key(record)] = with_test(self._network_of(record), record, split, self.quality)
        self._replace(found)
        return self

    def compare(self, a: Any, b: Any, split: Split) -> Difference:
        """Difference of the accuracies of two points on the same images, of a regression of the squared errors.

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
        nets = [self._network_of(point) for point in (a, b)]
        if task_of(np.asarray(split.y), nets[0].task) == TARGETS:
            return paired_errors(*(squared_errors(net, split, p) for net, p in zip(nets, (a, b), strict=True)))
        return paired_difference(*(correct(net, split, p) for net, p in zip(nets, (a, b), strict=True)))

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
        if not self._networks:
            raise ValueError("the front has no network to measure: load it with the network, Front.load(path, network)")
        some = {key(r): r for r in [*self.evaluated, *self.records] if r.failure is None}
        kept = {key(r) for r in self.records}
        wanted = [r for k, r in some.items() if k in kept or r.name]
        self._replace(measure_records(self._networks, wanted, rounds, block_ms))
        self.machine = this_machine()
        return self

    def add(self, name: str, *, latency_ms: float, accuracy: float | None = None, **figure: float) -> Front:
        """Add a figure from elsewhere, drawn beside the points: a teacher, another library, a paper.

        Parameters
        ----------
        name : str
            Its label.
        latency_ms : float
            Milliseconds.
        accuracy : float
            Fraction, 0 to 1.
        **figure : float
            Instead of the accuracy, one value by its name: ``error=0.2``, ``mae=0.4``.

        Returns
        -------
        Front
            This front.
        """
        if (accuracy is None) == (len(figure) == 0) or len(figure) > 1:
            raise TypeError(f"add takes accuracy= or one figure by name such as error=, not {accuracy} and {figure}")
        if accuracy is not None and not 0 <= accuracy <= 1:
            raise ValueError(f"accuracy is {accuracy}; it must be a fraction from 0 to 1")
        if not (np.isfinite(latency_ms) and latency_ms >= 0):
            raise ValueError(f"latency_ms is {latency_ms}; it must be a finite number of milliseconds")
        if accuracy is not None:
            made = Reference(name, float(accuracy), float(latency_ms))
        else:
            ((metric, number),) = figure.items()
            if not np.isfinite(number):
                raise ValueError(f"{metric} is {number}; it must be a finite number")
            made = Reference(name, None, float(latency_ms), metric, float(number))
        self.references = (*self.references, made)
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
            maximize=dict.fromkeys([*self.maximize, *other.maximize]),
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
            maximize=self.maximize,
            generations=self.generations,
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
            maximize=body.maximize,
            generations=body.generations,
        )

    def table(self) -> Table:
        """Return the points as a table, one row each, full precision."""
        columns = (
            "point", "threads", "accuracy", "accuracy_low", "accuracy_high", "error", "loss", "latency_ms",
            "latency_label", "latency_ms_measured", "latency_ms_p10", "latency_ms_p90", "energy_mj", "energy_mj_error",
            "energy_label", "bytes", "macs", "accuracy_test",
        )  # fmt: skip
        rows = [
            [
                r.label, r.threads, r.accuracy, *(r.accuracy_interval or (None, None)), r.error, r.loss,
                r.latency_ms, r.latency_label, r.latency_ms_measured, r.latency_ms_p10, r.latency_ms_p90, r.energy_mj,
                r.energy_mj_error, r.energy_label, r.bytes, r.macs, r.accuracy_test,
            ]
            for r in self.records
        ]  # fmt: skip
        extra = list(dict.fromkeys(name for r in self.records for name in r.values))
        for row, record in zip(rows, self.records, strict=True):
            row += [record.values.get(name) for name in extra]
        return Table((*columns, *extra), rows)

    def summary(self, records: Iterable[Record] | None = None) -> Table:
        """Return a table for reading: quality with its interval, latency with percentiles, bytes, MACs, energy.

        Parameters
        ----------
        records : iterable of Record, optional
            Other points than the front's.
        """
        chosen = self.records if records is None else list(records)
        return summary(chosen, quality_of(chosen, self.objectives), self._title())

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
        """Plot accuracy, or what else points are judged by (`quality`), against latency.

        Accuracies carry their 95 % intervals; figures on test data are crosses beside their points.

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

    def importances(self, objectives: Sequence[str] | None = None) -> Table:
        """Say which genes the objectives depend on: widths per channel space, bits, depth, threads.

        A kernel ridge regression is fitted to everything that was evaluated, and each gene is permuted (Breiman 2001).
        The figure is the mean squared change of its answers over twice their variance: for independent genes the share
        of the variance that the gene takes part in (Jansen 1999), so that shares add up to 1 or, where genes act
        together, to more. A search evaluates good points more often than others: the shares are of these.

        Parameters
        ----------
        objectives : sequence of str, optional
            Columns or metrics; the objectives of the search and the front's `quality` otherwise.

        Returns
        -------
        Table
            A row per gene that was varied, the most important for the first objective first. The title says how well
            the regression predicts points left out (R²): little means that the shares say little.

        Raises
        ------
        ValueError
            If fewer than 12 points were evaluated, they are all the same, or are of several networks.

        Examples
        --------
        >>> import dynadnn as dn
        >>> data = dn.datasets.shapes(200, rng=0)
        >>> net = dn.nets.mlp(data, points=(0.5, 1.0), rng=0)
        >>> front = dn.explore(net, data, device=dn.Device.from_speed(50, 1e10), budget=20, rng=0)
        >>> sorted(front.importances(["macs"])["gene"])
        ['width fc1', 'width fc2']
        """
        from ._importance import importances

        return importances(self, objectives)

    def history(self, ref: ArrayLike | None = None) -> Table:
        """Hypervolume of what was evaluated up to the end of each generation of the search.

        Parameters
        ----------
        ref : array_like, shape (objectives,), optional
            Worst values that count, as they are minimised (the negative where more is better); those of the first
            generation otherwise, 10 % of their range further out.

        Returns
        -------
        Table
            ``generation``, ``evaluations``, ``hypervolume``.

        Raises
        ------
        ValueError
            If the front is not from a search, or nothing it evaluated has all objectives.
        """
        from ._history_plot import history

        return history(self, ref)

    def plot_history(self, ax: Axes | None = None) -> Axes:
        """Plot the hypervolume over the generations of the search.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to; a new figure otherwise.
        """
        from ._history_plot import plot_history

        return plot_history(self, ax)

    def plot_parallel(self, ax: Axes | None = None, columns: Sequence[str] | None = None) -> Axes:
        """Plot the points in parallel coordinates: one axis per column, one line per point, better further up.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to; a new figure otherwise.
        columns : sequence of str, optional
            Columns and metrics; the objectives, `quality`, latency, energy, bytes and MACs where known otherwise.
        """
        from ._history_plot import plot_parallel

        return plot_parallel(self, ax, columns)

    def explorer(self, path: str | Path, *, model: str | Mapping[str, str] = "model.safetensors") -> Path:
        """Write a page to look at the points with: one HTML file that needs no network.

        It shows two columns of choice against each other, details under the pointer, and the points within limits; a
        click chooses a point, and the code that ships it is shown.

        Parameters
        ----------
        path : str or Path
            The HTML file, 5 MB of it Plotly; replaced if it exists.
        model : str or mapping of str to str
            What the shown code loads: where ``front.network.save(…)`` wrote the network, or the networks by name.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ImportError
            If plotly is not installed (extra ``explorer``).
        LookupError
            If the front has no points.
        """
        from ._explorer import write_explorer

        return write_explorer(self, path, model)

    # ---- inside ----

    def _title(self) -> str:
        foreign = "" if self.machine.cpu == cpu_name() else ", not measured here"
        return f"{self.machine.cpu}, {self.machine.isa or 'unknown kernels'}{foreign}"

    def _sorted(self, records: Iterable[Record]) -> tuple[Record, ...]:
        some = list(records)
        quality = quality_of(some, self.objectives)
        return tuple(sorted(some, key=lambda r: (number(r.latency), number(cost_of(r, quality, self.maximize)))))

    def _network_of(self, record: Any) -> Network:
        model = getattr(record, "model", None)
        if model is None:
            return self.network
        if model not in self._networks:
            raise ValueError(f"this front was loaded without its network {model!r}")
        return self._networks[model]

    def _replace(self, found: Mapping[Any, Record]) -> None:
        self.records = self._sorted(found.get(key(r), r) for r in self.records)
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
