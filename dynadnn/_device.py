"""Devices – the latency of operating points on one CPU, measured once and kept.

A search needs the same answer whenever it asks for the same point, and one point's figure must not depend on when its
turn came. So points are predicted by a model that `profile_device` measures what it needs for. Without such a profile a
point is measured on first request, in turns with a probe; its time is scaled to what the probe took when it was
measured first, and kept from then on. The probe is the widest point of the same network: a busy machine
slows different kinds of work differently, but the widest point about as much as the narrower ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ._arguments import positive_int, thread_count
from ._documents import load_document, save_document
from ._energy import MEASURED, MODELLED, UNAVAILABLE, Energy, Found, Power, find_meter, measure_energy
from ._errors import FormatError, PointError
from ._identity import PointDocument, point_document, structure_hash
from ._latency_model import GIVEN, PREDICTED, Latency, Profile
from ._machine import Machine, cpu_name, this_machine
from ._predictions import Predictions
from ._table import Table
from ._timing import Timing, samples, summarise

if TYPE_CHECKING:
    from ._network import Network
    from ._points import Subnet

KIND, VERSION = "dynadnn-device", 1
ROUNDS, CHECK_ROUNDS = 41, 40
# Half the 95 % interval of a median over ROUNDS normal blocks, over the distance of their 10th and 90th percentiles.
MEDIAN_ERROR = 1.96 * 1.2533 / 2.563 / ROUNDS**0.5


class Row(msgspec.Struct, frozen=True):
    """One kept figure of a device."""

    network: str
    point: PointDocument
    threads: int
    latency_ms: float
    p10_ms: float | None = None
    p90_ms: float | None = None
    runs: int = 0
    energy_mj: float | None = None
    energy_mj_error: float | None = None
    energy_source: str = ""
    energy_parts: dict[str, float] = {}


class _Body(msgspec.Struct):
    machine: Machine
    rows: list[Row]
    speed: tuple[float, float] | None = None
    power: Power | None = None
    profiles: list[Profile] = []


_Key = tuple[str, PointDocument, int]


class Device:
    """Latencies of one CPU; make one with `profile_device`, `load`, `from_table` or `from_speed`.

    Attributes
    ----------
    machine : Machine
        The CPU, its settings and the software the figures were taken with.

    Examples
    --------
    >>> import dynadnn as dn
    >>> net = dn.nets.mlp((8, 8, 1), 10, points=(0.5, 1.0), rng=0)
    >>> device = dn.Device.from_speed(gmacs=50, bytes_per_s=1e10)
    >>> device.latency(net, 0.5) < device.latency(net, 1.0)
    True
    """

    def __init__(self, machine: Machine | None = None, *, rows: Iterable[Row] = ()) -> None:
        self.machine = this_machine() if machine is None else machine
        self._table: dict[_Key, Row] = {}
        self._speed: tuple[float, float] | None = None
        self._power: Power | None = None
        self._meter: Found | None = None
        self._path: Path | None = None
        self._predictions = Predictions()
        for row in rows:
            self._keep(row)

    @classmethod
    def from_table(
        cls, net: Network, latencies: Mapping[Any, float], *, threads: int = 1, cpu: str = "given table"
    ) -> Device:
        """Make a device of given figures, for example measured on a board elsewhere.

        Parameters
        ----------
        net : Network
            Whose points these are.
        latencies : mapping from point to float
            Milliseconds.
        threads : int
            Threads the figures were taken with.
        cpu : str
            Name of that CPU; unless it is this one, nothing is ever measured for the device.
        """
        device = cls(Machine(cpu))
        network = structure_hash(net)
        for point, latency in latencies.items():
            if not (np.isfinite(latency) and latency >= 0):
                raise ValueError(f"the latency of {point!r} is {latency}; it must be a finite number of milliseconds")
            device._keep(Row(network, point_document(net._find(point)), threads, float(latency)))
        return device

    @classmethod
    def from_speed(cls, gmacs: float, bytes_per_s: float) -> Device:
        """Make a device whose latency is ``macs / speed + bytes / bandwidth``: a model, not a measurement.

        Parameters
        ----------
        gmacs : float
            10⁹ multiply-accumulates per second and thread.
        bytes_per_s : float
            Weight bytes per second.
        """
        if not (gmacs > 0 and bytes_per_s > 0):
            raise ValueError(f"gmacs and bytes_per_s must be above 0, not {gmacs} and {bytes_per_s}")
        device = cls(Machine(f"model of {gmacs:g} GMAC/s and {bytes_per_s:g} B/s"))
        device._speed = (float(gmacs), float(bytes_per_s))
        return device

    @property
    def is_here(self) -> bool:
        """Whether the figures are of the CPU that this process runs on."""
        return self._speed is None and self.machine.cpu == cpu_name()

    def latency(self, net: Network, point: Any = None, threads: int = 1) -> float:
        """Latency of one inference, batch 1, milliseconds: kept, predicted, or measured now and kept.

        Points that were measured have what was measured. Others are predicted where `profile_device` made a model of
        the network at this number of threads; `estimate` says which, and how far off it may be. Without a model they
        are measured.

        Parameters
        ----------
        net : Network
            The network; only its structure matters.
        point : point, optional
            A name, a fraction, a sub-net or a record; None is the widest.
        threads : int
            Threads of the engine.

        Raises
        ------
        PointError
            If the device has no figure for this point and is of another CPU, so that none can be measured here.
        """
        return self.latencies(net, [point], threads)[0]

    def latencies(self, net: Network, points: Sequence[Any], threads: int = 1) -> list[float]:
        """Latencies of several points, in milliseconds; those neither kept nor predicted are measured in turns.

        Parameters
        ----------
        net, threads
            As in `latency`.
        points : sequence of points
        """
        threads = positive_int(threads, "threads")
        network = structure_hash(net)
        subnets = [net._find(point) for point in points]
        if self._speed is not None:
            gmacs, rate = self._speed
            return [net.macs(s) / (gmacs * 1e6 * threads) + net.bytes(s) / rate * 1e3 for s in subnets]
        keys = [(network, point_document(subnet), threads) for subnet in subnets]
        wanted = {key: subnet for key, subnet in zip(keys, subnets, strict=True) if key not in self._table}
        predicted: dict[_Key, float] = {}
        if wanted and self._predicts(net, network, threads):
            probe_ms = self._table[network, point_document(net._find(None)), threads].latency_ms
            predicted = {key: ratio * probe_ms for key, ratio in self._predictions.ratios(net, wanted).items()}
        else:
            self._add(net, wanted, threads)
        return [self._table[key].latency_ms if key in self._table else predicted[key] for key in keys]

    def estimate(self, net: Network, point: Any = None, threads: int = 1) -> Latency:
        """Return the latency as `latency` does, with where it is from and how far off it may be.

        Parameters
        ----------
        net, point, threads
            As in `latency`.

        Returns
        -------
        Latency
            ``ms``, ``label`` ("measured", "predicted", "modelled" or "given"), ``error_ms``.

        Raises
        ------
        PointError
            As `latency`.

        Examples
        --------
        >>> import dynadnn as dn
        >>> net = dn.nets.mlp((8, 8, 1), 10, points=(0.5, 1.0), rng=0)
        >>> dn.Device.from_table(net, {0.5: 1.25}).estimate(net, 0.5)
        Latency(ms=1.25, label='given', error_ms=None)
        """
        subnet = net._find(point)
        return self._origin(net, subnet, threads, self.latency(net, subnet, threads))

    def _origin(self, net: Network, subnet: Subnet, threads: int, latency: float) -> Latency:
        """Say where a latency is from."""
        network = structure_hash(net)
        if self._speed is not None:
            return Latency(latency, MODELLED)
        row = self._table.get((network, point_document(subnet), threads))
        if row is None:
            error = self._predictions.profiles[network, threads].relative_error
            return Latency(latency, PREDICTED, None if error is None else error * latency)
        if row.p10_ms is None or row.p90_ms is None:
            return Latency(latency, MEASURED if row.runs else GIVEN)
        return Latency(latency, MEASURED, (row.p90_ms - row.p10_ms) * MEDIAN_ERROR)

    def energy(self, net: Network, point: Any = None, threads: int = 1) -> Energy:
        """Energy of one inference: measured and kept where this machine has a meter, else by the power table.

        RAPL counters (package and memory) and INA sensors are read while the point runs for a quarter of a second; all
        that the metered part of the machine does meanwhile is in the figure. A meter that cannot be read makes the
        figure modelled or unavailable, with the reason in ``source``, and never raises.

        Parameters
        ----------
        net, point, threads
            As in `latency`.

        Returns
        -------
        Energy
            ``mj``, ``label`` ("measured", "modelled" or "unavailable"), ``error_mj``, ``source``, ``parts``.

        Raises
        ------
        PointError
            As `latency`, where a power table needs one.

        Examples
        --------
        >>> import dynadnn as dn
        >>> net = dn.nets.mlp((8, 8, 1), 10, points=(0.5, 1.0), rng=0)
        >>> device = dn.Device.from_speed(gmacs=50, bytes_per_s=1e10).set_power({1: 3.5}, source="data sheet")
        >>> device.energy(net, 0.5).label
        'modelled'
        """
        threads = positive_int(threads, "threads")
        subnet = net._find(point)
        key = (structure_hash(net), point_document(subnet), threads)
        row = self._table.get(key)
        reason = ""
        if row is None or row.energy_mj is None:
            row, reason = self._with_energy(net, subnet, key)
        if row is not None and row.energy_mj is not None:
            return Energy(row.energy_mj, MEASURED, row.energy_mj_error, row.energy_source, row.energy_parts)
        if self._power is not None:
            return self._power.energy(self.latency(net, subnet, threads), threads)
        return Energy(None, UNAVAILABLE, None, reason)

    @property
    def energy_source(self) -> str:
        """Where energies of points not measured yet come from, or why they cannot and what would help."""
        meter, reason = self._found()
        if meter is not None:
            return reason
        return f"{reason}; {self._power.source}" if self._power else f"{UNAVAILABLE}: {reason}"

    def set_power(self, watts: float | Mapping[int, float], *, error: float = 0.2, source: str = "") -> Device:
        """State what the machine takes while it infers; energies are power times latency where no meter can be read.

        Parameters
        ----------
        watts : float or mapping from threads to float
            Watts, above 0.
        error : float
            How far that may be off, relative; it becomes the error bar.
        source : str
            Where it is from: a data sheet, a wall meter.

        Returns
        -------
        Device
            This device.
        """
        table = dict(watts) if isinstance(watts, Mapping) else {1: watts}
        if not table or not all(np.isfinite(w) and w > 0 for w in table.values()) or min(table) < 1:
            raise ValueError(f"watts is {watts}; it must be watts above 0, or such by number of threads from 1")
        if not 0 <= error < 1:
            raise ValueError(f"error is {error}; it must be a relative error from 0 to below 1, 0.2 for 20 %")
        known = tuple(sorted((positive_int(n, "threads"), float(w)) for n, w in table.items()))
        self._power = Power(known, float(error), source or "given power table")
        return self

    def check(self, net: Network, n: int = 50, *, rounds: int = CHECK_ROUNDS, seed: int = 0) -> Table:
        """Measure sub-nets and compare with what the device says of them.

        Where there is a latency model, these are sub-nets that no figure of the device is of, drawn as a search draws
        its first ones, and predicted. Without one, points that were measured are measured again.

        Parameters
        ----------
        net : Network
            Whose sub-nets to measure.
        n : int
            At most so many at each number of threads; of measured points spread evenly over them.
        rounds : int
            Blocks of about half a millisecond per sub-net, beside the probe.
        seed : int
            Of the draw.

        Returns
        -------
        Table
            ``point``, ``threads``, ``label`` ("predicted" or "measured"), ``latency_ms`` as the device has it,
            ``measured_ms`` now, at the probe's pace when the device was made, and ``relative_error`` of the former. The
            title sums up the errors. What others do on the machine slows small sub-nets down more than the probe; where
            figures are predicted, a narrow sub-net beside the probe says how much, and it is taken out.

        Raises
        ------
        ValueError
            If the device is of another CPU, or n or rounds below 1.
        """
        n, rounds = positive_int(n, "n"), positive_int(rounds, "rounds")
        if not self.is_here:
            raise ValueError(
                f"the device is of {self.machine.cpu!r} and this is {cpu_name()!r}: nothing can be checked"
            )
        from ._device_check import check_device

        return check_device(self, net, n, rounds, seed)

    def table(self) -> Table:
        """Return the kept figures, measured or given, as a table; its title says what predicts the others."""
        rows = [
            (row.network, row.point.label, row.threads, MEASURED if row.runs else GIVEN, row.latency_ms, row.p10_ms,
             row.p90_ms, row.runs,
             row.energy_mj, row.energy_mj_error)
            for row in self._table.values()
        ]  # fmt: skip
        columns = (
            "network",
            "point",
            "threads",
            "label",
            "latency_ms",
            "p10_ms",
            "p90_ms",
            "runs",
            "energy_mj",
            "energy_mj_error",
        )
        return Table(columns, rows, "; ".join([self.machine.cpu, *self._predictions.titles()]))

    def save(self, path: str | Path) -> None:
        """Write the device as one JSON file; an old file stays if that fails.

        Parameters
        ----------
        path : str or Path
        """
        body = _Body(
            self.machine,
            list(self._table.values()),
            self._speed,
            self._power,
            list(self._predictions.profiles.values()),
        )
        save_document(path, KIND, VERSION, msgspec.structs.asdict(body))

    @classmethod
    def load(cls, path: str | Path) -> Device:
        """Read a device that `save` wrote.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        FormatError
            If the file is something else or damaged.
        """
        body = load_document(path, KIND, VERSION, _Body)
        for profile in body.profiles:
            if fault := profile.fault():
                raise FormatError(f"{path} is damaged: {fault}")
        device = cls(body.machine, rows=body.rows)
        device._speed, device._power = body.speed, body.power
        device._predictions = Predictions(body.profiles)
        return device

    def __len__(self) -> int:
        """Return the number of kept figures."""
        return len(self._table)

    def __repr__(self) -> str:
        models = len(self._predictions.titles())
        return f"Device({self.machine.cpu!r}, {len(self)} figures" + (f", {models} latency models)" if models else ")")

    def _keep(self, row: Row) -> None:
        self._table[row.network, row.point, row.threads] = row

    def _found(self) -> Found:
        """Return the meter of this machine; of devices of another one, why there is none."""
        if not self.is_here:
            return Found(None, f"the device is of {self.machine.cpu!r} and this is {cpu_name()!r}: no meter is read")
        if self._meter is None:
            self._meter = find_meter()
        return self._meter

    def _with_energy(self, net: Network, subnet: Subnet, key: _Key) -> tuple[Row | None, str]:
        """Measure the energy of a point: its row with it, or None and the reason."""
        found = self._found()
        if found.meter is None:
            return None, found.reason
        if key not in self._table:
            self._add(net, {key: subnet}, key[2])
        (energy,) = measure_energy(engine_calls(net, [subnet], key[2]), found)
        if energy.mj is None:  # not tried again for every point
            self._meter = Found(None, energy.source)
            return None, energy.source
        row = msgspec.structs.replace(
            self._table[key], energy_mj=energy.mj, energy_mj_error=energy.error_mj,
            energy_source=energy.source, energy_parts=dict(energy.parts),
        )  # fmt: skip
        self._keep(row)
        return row, energy.source

    def _known(self, net: Network, subnet: Subnet, threads: int) -> float | None:
        """Latency of a point if it need not be measured."""
        network = structure_hash(net)
        key = network, point_document(subnet), threads
        known = self._speed is not None or key in self._table or self._predicts(net, network, threads)
        return self.latency(net, subnet, threads) if known else None

    def _adopt(self, other: Device) -> None:
        """Take over the figures of another device of this CPU that this one lacks."""
        self._table = {**other._table, **self._table}
        self._predictions.adopt(other._predictions)

    def _keep_at(self, path: Path | None) -> None:
        """Write every figure to a file once it is measured; None ends that."""
        self._path = path if self.is_here else None
        if self._path is not None:
            self.save(self._path)

    def _digest(self) -> str:
        """Hash of the latencies."""
        rows = sorted(((r.network, r.point, r.threads, r.latency_ms) for r in self._table.values()), key=repr)
        profiles = self._predictions.figures()
        figures = (rows, self._speed, profiles) if profiles else (rows, self._speed)
        return hashlib.sha256(msgspec.json.encode(figures)).hexdigest()[:16]

    def _predicts(self, net: Network, network: str, threads: int) -> bool:
        """Whether points of a network can be predicted: there is a model, and its probe was measured."""
        probe = (network, point_document(net._find(None)), threads)
        return self._predictions.complete(network, threads) and probe in self._table

    def _add(self, net: Network, wanted: Mapping[_Key, Subnet], threads: int) -> None:
        """Measure points in turns with the probe, and keep them."""
        if not wanted:
            return
        if not self.is_here:
            raise PointError(
                f"the device has no figure for {next(iter(wanted.values()))} at {threads} threads, and its "
                f"{len(self._table)} figures are of {self.machine.cpu!r}; this is {cpu_name()!r}, "
                "so nothing is measured here: profile that CPU, or use dn.profile_device(net) for this one"
            )
        widest = net._find(None)
        probe = (structure_hash(net), point_document(widest), threads)
        rest = {key: subnet for key, subnet in wanted.items() if key != probe}
        timings = self._measure(net, [widest, *rest.values()], threads)
        if probe not in self._table:
            self._keep(_row(probe, timings[0], 1.0))
        scale = self._table[probe].latency_ms / timings[0].median_ms if timings[0].median_ms > 0 else 1.0
        for key, timing in zip(rest, timings[1:], strict=True):
            self._keep(_row(key, timing, scale))
        if self._path is not None:
            self.save(self._path)

    def _measure(self, net: Network, subnets: Sequence[Subnet], threads: int) -> list[Timing]:
        durations, repeats = samples(engine_calls(net, subnets, threads), rounds=ROUNDS, block_ms=0.5, warmup_ms=2.0)
        return [summarise(row, n) for row, n in zip(durations, repeats, strict=True)]


def _row(key: _Key, timing: Timing, scale: float) -> Row:
    return Row(*key, timing.median_ms * scale, timing.p10_ms * scale, timing.p90_ms * scale, timing.runs)


def profile_device(
    net: Network,
    *,
    threads: int | Sequence[int] | None = None,
    path: str | Path | None = None,
    model: bool = True,
) -> Device:
    """Measure a network's named points on this CPU, and what predicts all its other sub-nets.

    Up to 240 sub-nets are run, chosen so that every layer meets every width and number of bits; their layers are timed
    in sequence, and a probe beside them. From these the device has a latency model (`Device.latency`); `Device.check`
    measures how good it is. That takes half a minute for a network of 1 ms. A network of few sub-nets has no model:
    they are measured when they are asked for. No data is needed, and no statistics of the points.

    Parameters
    ----------
    net : Network
        Its structure decides; the values of its weights do not.
    threads : int or sequence of int, optional
        Most threads; 1, 2, 4, … up to this are measured. None is the cores this process may use. A sequence says which
        numbers are measured.
    path : str or Path, optional
        File to continue from, if it exists, and to save to, after every few sub-nets.
    model : bool
        Without, only the named points are measured, and others when they are asked for.

    Returns
    -------
    Device

    Raises
    ------
    ValueError
        If the file is of another CPU, or threads below 1.
    FormatError
        If the file is damaged or something else.

    Examples
    --------
    >>> import dynadnn as dn
    >>> net = dn.nets.mlp((8, 8, 1), 10, width=16, points=(0.5, 1.0), rng=0)
    >>> device = dn.profile_device(net, threads=1)
    >>> len(device)
    2
    """
    counts = _thread_counts(threads)
    device = Device.load(path) if path is not None and Path(path).exists() else Device()
    if not device.is_here:
        raise ValueError(f"{path} is of {device.machine.cpu!r} and this is {cpu_name()!r}: give another path")
    for count in counts:
        device.latencies(net, list(dict.fromkeys(net.points.values())), count)
        if path is not None:
            device.save(path)
        save = (lambda: None) if path is None else partial(device.save, path)
        if not model:
            continue
        device._predictions.profile(net, structure_hash(net), count, save)
    return device


def _thread_counts(threads: int | Sequence[int] | None) -> list[int]:
    if isinstance(threads, Sequence):
        return sorted({positive_int(count, "threads") for count in threads})
    most = thread_count(threads)
    return sorted({2**i for i in range(most.bit_length())} | {most})


def example_input(net: Network) -> NDArray[Any]:
    """One input of a network, of a fixed seed: uint8 where the network preprocesses, else float32; shape (1, …)."""
    draw = np.random.default_rng(0)
    if net.preprocess is not None:
        return draw.integers(0, 256, (1, *net.shape), dtype=np.uint8)
    return draw.standard_normal((1, *net.shape), dtype=np.float32)


def engine_calls(net: Network, subnets: Sequence[Subnet], threads: int) -> list[partial[Any]]:
    """One callable per sub-net that runs a single inference on a common engine.

    Points without statistics get some, on a copy, from random inputs: the time does not depend on them.
    """
    x = example_input(net)
    out = np.empty((1, net.outputs), np.float32)
    try:
        engine = net.compile(threads=threads)
        bound = [engine._bind(subnet) for subnet in subnets]
    except PointError:
        shape = (32, *net.shape)
        draw = np.random.default_rng(1)
        images = draw.integers(0, 256, shape, dtype=np.uint8) if x.dtype == np.uint8 else draw.standard_normal(shape)
        copy = net.copy()
        copy.recalibrate(images.astype(x.dtype), points=list(subnets))
        engine = copy.compile(threads=threads)
        bound = [engine._bind(subnet) for subnet in subnets]
    # An engine keeps few points without a name: bound again for every call, their binding would be timed too.
    names = [f"timed {i}" for i in range(len(bound))]
    engine.points.update(zip(names, bound, strict=True))
    return [partial(engine, x, name, out) for name in names]
