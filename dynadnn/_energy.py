"""Energy – what one inference takes, from the meters that a machine has, with an error bar and a word on its source.

Counters are read before and after blocks of inferences; blocks of all calls take turns, as in timing. What a meter
cannot tell is a state with a reason, never an exception: meters vanish, and are often readable by root alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from ._repeat import mean_interval

MEASURED, MODELLED, UNAVAILABLE = "measured", "modelled", "unavailable"
BLOCKS, BLOCK_SECONDS = 5, 0.05  # RAPL counts once per millisecond, board sensors a few hundred times per second
SAMPLE_SECONDS = 0.002


class Energy(NamedTuple):
    """Energy of one inference and where the figure is from.

    Attributes
    ----------
    mj : float or None
        Millijoule; None where unknown.
    label : str
        ``"measured"``, ``"modelled"`` or ``"unavailable"``.
    error_mj : float or None
        Half the width of the 95 % interval of the mean over blocks; of a model, its stated range.
    source : str
        Which meter or model, or why there is no figure and what would help.
    parts : mapping of str to float
        Millijoule per domain or rail of the meter: ``"package-0"``, ``"core"``, ``"dram"``.
    """

    mj: float | None
    label: str
    error_mj: float | None = None
    source: str = ""
    parts: Mapping[str, float] = {}

    def fields(self) -> dict[str, Any]:
        """Return the fields of a record that it fills."""
        return {"energy_mj": self.mj, "energy_label": self.label, "energy_mj_error": self.error_mj}


class Power(msgspec.Struct, frozen=True):
    """A power table: what the machine takes while it infers, by the number of threads.

    Attributes
    ----------
    watts : tuple of (int, float)
        By threads, ascending; between two entries, and beyond the ends, along the line and the nearest entry.
    error : float
        How far it may be off, relative: 0.2 is ± 20 %.
    source : str
        Where it is from, shown with every figure.
    """

    watts: tuple[tuple[int, float], ...]
    error: float = 0.2
    source: str = "given power table"

    def energy(self, latency_ms: float, threads: int) -> Energy:
        """Energy of a busy time: power times latency."""
        watts = float(np.interp(threads, *np.array(self.watts, dtype=np.float64).T))
        mj = watts * latency_ms
        text = (
            f"{self.source}: {watts:.3g} W ± {self.error * 100:.0f} % at {threads} thread{'s' if threads > 1 else ''}"
        )
        return Energy(mj, MODELLED, mj * self.error, f"{text}, times the latency")


class Meter(Protocol):
    """Something that tells energies: begin, infer, ask for the joules since."""

    @property
    def source(self) -> str:
        """What it is, for reading."""

    @property
    def counted(self) -> Sequence[str]:
        """Names whose sum is the energy; others are parts of these."""

    def begin(self) -> Any:
        """Start a window; OSError or ValueError if the meter cannot be read."""

    def joules(self, begun: Any) -> dict[str, float]:
        """End the window: joules by name."""


class Found(NamedTuple):
    """A meter, or why there is none and what would help."""

    meter: Meter | None
    reason: str


class Rapl:
    """Running average power limit counters of Intel and AMD CPUs, read from ``/sys/class/powercap``.

    The package holds the cores; memory is counted besides where the CPU has that domain. Everything the package does
    in the meantime is in the figure, idle power and other processes too.

    Parameters
    ----------
    zones : mapping of str to Path
        Folder by domain: ``package-0``, ``core``, ``dram``, …
    """

    def __init__(self, zones: Mapping[str, Path]) -> None:
        self._zones = dict(zones)
        self._ranges = {name: int((zone / "max_energy_range_uj").read_text()) for name, zone in zones.items()}
        packages = [n for n in zones if n.startswith("package")]
        memory = [n for n in zones if n.startswith("dram")]
        cores = [n for n in zones if n.startswith("core")]
        self.counted: Sequence[str] = [*(packages or cores), *memory] or list(zones)
        self.source = f"RAPL ({' + '.join(self.counted)})"
        self.begin()

    def begin(self) -> dict[str, int]:
        """Microjoules now, by domain."""
        return {name: int((zone / "energy_uj").read_text()) for name, zone in self._zones.items()}

    def joules(self, begun: dict[str, int]) -> dict[str, float]:
        """Joules since; a counter that went past its range began again at 0."""
        now = self.begin()
        return {
            name: (now[name] - begun[name] + (self._ranges[name] + 1 if now[name] < begun[name] else 0)) / 1e6
            for name in now
        }


class Sensors:
    """Power sensors of boards (INA231, INA3221 and the like): read again and again, integrated by trapezoids.

    Parameters
    ----------
    rails : mapping of str to callable
        Functions that read watts, by the rail's name.
    clock : callable
        Seconds.
    """

    def __init__(
        self, rails: Mapping[str, Callable[[], float]], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._rails, self._clock = dict(rails), clock
        whole = [n for n in rails if n.upper().endswith(("_IN", "5V_IN", "VDD_IN"))]
        self.counted: Sequence[str] = whole or list(rails)
        self.source = f"INA sensors ({' + '.join(self.counted)})"
        self._read()

    def _read(self) -> tuple[float, list[float]]:
        return self._clock(), [read() for read in self._rails.values()]

    def begin(self) -> Any:
        """Start reading in the background."""
        samples, stop = [self._read()], threading.Event()

        def sample() -> None:
            while not stop.wait(SAMPLE_SECONDS):
                try:
                    samples.append(self._read())
                except (OSError, ValueError):  # the reading that ends the window tells
                    return

        thread = threading.Thread(target=sample, name="dynadnn-energy", daemon=True)
        thread.start()
        return samples, stop, thread

    def joules(self, begun: Any) -> dict[str, float]:
        """Stop reading and integrate."""
        samples, stop, thread = begun
        stop.set()
        thread.join()
        samples.append(self._read())
        at = np.array([t for t, _ in samples])
        watts = np.array([row for _, row in samples])
        steps = np.diff(at)[:, None]
        return dict(zip(self._rails, ((watts[1:] + watts[:-1]) / 2 * steps).sum(axis=0).tolist(), strict=True))


def find_meter(sys: str | Path = "/sys") -> Found:
    """Look for a meter that can be read.

    Parameters
    ----------
    sys : path
        Where the system's tree is mounted.
    """
    reasons = []
    for look, read_error in ((_rapl, "RAPL"), (_sensors, "INA sensors")):
        try:
            meter = look(Path(sys))
        except PermissionError as error:
            remedy = (
                "sudo chmod a+r /sys/class/powercap/*/energy_uj"
                if look is _rapl
                else f"sudo chmod a+r {error.filename}"
            )
            reasons.append(
                f"{read_error}: {error.filename} may not be read; until the next start, {remedy!r} allows it"
            )
            continue
        except (OSError, ValueError) as error:
            reasons.append(f"{read_error}: cannot be read ({error})")
            continue
        if meter is not None:
            return Found(meter, meter.source)
    return Found(None, "; ".join(reasons) or "no RAPL counters and no INA sensors on this machine")


def _rapl(sys: Path) -> Meter | None:
    zones: dict[str, Path] = {}
    for zone in sorted((sys / "class" / "powercap").glob("intel-rapl:*")):
        name = (zone / "name").read_text().strip()
        if name in zones or name in ("core", "dram", "uncore"):  # one per package
            package = zone.name.split(":")[1]
            name = name if package == "0" and name not in zones else f"{name}-{package}"
        zones[name] = zone
    return Rapl(zones) if zones else None


def _sensors(sys: Path) -> Meter | None:
    rails: dict[str, Callable[[], float]] = {}

    def add(label: Path, fallback: str, scale: float, *files: Path) -> None:
        name = label.read_text().strip() if label.exists() else fallback
        rails[name if name not in rails else fallback] = lambda: scale * float(np.prod([_number(f) for f in files]))

    for monitor in sorted((sys / "class" / "hwmon").glob("hwmon*")):
        if not ((monitor / "name").exists() and (monitor / "name").read_text().startswith("ina")):
            continue
        powers = sorted(monitor.glob("power*_input"))
        for file in powers:
            add(monitor / file.name.replace("_input", "_label"), f"{monitor.name} {file.name[:-6]}", 1e-6, file)
        for file in [] if powers else sorted(monitor.glob("curr*_input")):
            volts = monitor / file.name.replace("curr", "in")
            if volts.exists():
                label = monitor / volts.name.replace("_input", "_label")
                add(label, f"{monitor.name} {volts.name[:-6]}", 1e-6, volts, file)  # mV times mA
    drivers = sys / "bus" / "i2c" / "drivers"
    for file in sorted(drivers.glob("ina3221x/*/iio:device*/in_power*_input")):  # Jetson Nano: mW
        number = file.name[len("in_power") : -len("_input")]
        add(file.parent / f"rail_name_{number}", f"{file.parent.name} {number}", 1e-3, file)
    for file in sorted(drivers.glob("INA231/*/sensor_W")):  # Odroid XU3: W
        add(file.parent / "sensor_name", file.parent.name, 1.0, file)
    return Sensors(rails) if rails else None


def _number(path: Path) -> float:
    return float(path.read_text())


def measure_energy(
    calls: Sequence[Callable[[], object]], found: Found, *, blocks: int = BLOCKS, seconds: float = BLOCK_SECONDS
) -> list[Energy]:
    """Energy of each call, measured in turns; unavailable with the reason if the meter cannot be read.

    Parameters
    ----------
    calls : sequence of callables
    found : Found
        From `find_meter`.
    blocks : int
        Windows per call, at least 2.
    seconds : float
        Least length of a window.
    """
    if found.meter is None:
        return [Energy(None, UNAVAILABLE, None, found.reason)] * len(calls)
    meter, rows = found.meter, np.zeros((len(calls), blocks))
    parts: list[dict[str, float]] = [{} for _ in calls]
    try:
        for block in range(blocks):
            for i, call in enumerate(calls):
                runs, used = _window(meter, call, seconds)
                rows[i, block] = sum(used[name] for name in meter.counted) / runs * 1e3
                for name, joules in used.items():
                    parts[i][name] = parts[i].get(name, 0.0) + joules / runs * 1e3 / blocks
    except (OSError, ValueError) as error:
        return [Energy(None, UNAVAILABLE, None, f"{meter.source} cannot be read any more: {error}")] * len(calls)
    if not rows.any():
        return [Energy(None, UNAVAILABLE, None, f"{meter.source} does not count")] * len(calls)
    halves = [(high - low) / 2 for low, high in map(mean_interval, rows)]
    means = rows.mean(axis=1).tolist()
    return [
        Energy(mean, MEASURED, half, meter.source, shares)
        for mean, half, shares in zip(means, halves, parts, strict=True)
    ]


def _window(meter: Meter, call: Callable[[], object], seconds: float) -> tuple[int, dict[str, float]]:
    """Return runs and joules by name of one window; the meter is asked even if the call fails, so that it stops."""
    call()
    begun = meter.begin()
    runs, end = 0, time.perf_counter() + seconds
    try:
        while not runs or time.perf_counter() < end:
            call()
            runs += 1
    finally:
        used = meter.joules(begun)
    return runs, used
