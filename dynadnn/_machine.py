"""The machine – which CPU this is, at what settings, with which software; recorded beside every measurement."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import msgspec

from ._arguments import available_cores

THERMAL = Path("/sys/class/thermal")


class Machine(msgspec.Struct, frozen=True):
    """What a measurement depends on besides the network.

    Parameters
    ----------
    cpu : str
        Name of the CPU with family, model and stepping where the system says so.
    cores : int
        Cores that the process could use.
    governor : str or None
        Frequency governor of the first core, if readable.
    mhz : float or None
        Frequency of the first core when the record was made, if readable.
    isa : str or None
        Instruction set that the int8 kernels use.
    versions : dict of str
        Of dynadnn, NumPy, Python and the operating system.
    date : str
        When, ISO 8601 with time zone.
    """

    cpu: str
    cores: int = 1
    governor: str | None = None
    mhz: float | None = None
    isa: str | None = None
    versions: dict[str, str] = {}
    date: str = ""


def this_machine() -> Machine:
    """Describe the machine this process runs on, now."""
    import numpy

    isa = core_config().get("isa_used")
    return Machine(
        cpu=cpu_name(),
        cores=available_cores(),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        mhz=_mhz(),
        isa=isa if isinstance(isa, str) else None,
        versions={
            "dynadnn": version(),
            "numpy": numpy.__version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
        },
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def version() -> str:
    """Version of this package."""
    found = core_config().get("version")
    if isinstance(found, str):
        return found
    try:
        return metadata.version("dynadnn")
    except metadata.PackageNotFoundError:
        return "unknown"


def core_config() -> dict[str, object]:
    """Return what the C core says about itself."""
    from . import _core

    return _core.config()


@cache
def cpu_name() -> str:
    """Name of the CPU, precise enough that a latency table of one is not taken for another's."""
    if sys.platform.startswith("linux"):
        fields: dict[str, str] = {}
        for line in (_read("/proc/cpuinfo") or "").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
        if "model name" in fields:
            detail = [f"{k} {fields[k]}" for k in ("cpu family", "model", "stepping") if k in fields]
            return f"{fields['model name']} ({', '.join(detail)})" if detail else fields["model name"]
        if "CPU part" in fields:
            keys = ("CPU implementer", "CPU part", "CPU variant", "CPU revision")
            return f"{platform.machine()} ({', '.join(f'{k} {fields[k]}' for k in keys if k in fields)})"
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return platform.processor() or platform.machine() or "unknown CPU"


def celsius() -> float | None:
    """Temperature of the warmest thermal zone, where one can be read; of zones named after the CPU if there are any."""
    zones: dict[bool, list[float]] = {True: [], False: []}
    for zone in sorted(THERMAL.glob("thermal_zone*")):
        text = _read(str(zone / "temp")) or ""
        if text.lstrip("-").isdigit():
            kind = (_read(str(zone / "type")) or "").lower()
            zones[any(name in kind for name in ("cpu", "pkg", "soc", "core"))].append(int(text) / 1e3)
    return max(zones[True] or zones[False], default=None)


def _mhz() -> float | None:
    khz = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if khz and khz.isdigit():
        return int(khz) / 1e3
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("cpu MHz"):
            try:
                return float(line.partition(":")[2])
            except ValueError:
                return None
    return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
