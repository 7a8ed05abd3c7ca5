"""What the benchmarks share: goals, the record of the machine, timing in turns."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from dynadnn import _core
from dynadnn._machine import this_machine
from dynadnn._timing import samples

RESULTS = Path(__file__).parent / "results"


class Goals:
    """Figures beside their goals; counts those that fall short."""

    def __init__(self) -> None:
        self.short: list[str] = []

    def verdict(self, name: str, held: bool | None) -> str:
        """The word for a figure: ok, SHORT, or nothing where there is no goal."""
        if held is False:
            self.short.append(name)
        return {True: "ok   ", False: "SHORT", None: "     "}[held]

    def finish(self) -> int:
        """Print how many fall short; the exit code."""
        print(f"{len(self.short)} short")
        return 1 if self.short else 0


def commit() -> str:
    """The commit of this checkout, with "+" after it if code is changed since; "unknown" outside of one."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        folder = Path(__file__).parents[1]
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20)

    try:
        head, changed = (
            git("rev-parse", "--short=12", "HEAD"),
            git("diff", "--quiet", "HEAD", "--", "*.py", "*.c", "*.h"),
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return "unknown" if head.returncode else head.stdout.strip() + "+" * (changed.returncode == 1)


def environment(seed: int, packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """CPU, compiler, versions and date: the head of every result."""
    machine = this_machine()
    versions = dict(machine.versions)
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return {
        "cpu": machine.cpu, "cores": machine.cores, "governor": machine.governor, "mhz": machine.mhz,
        "isa": machine.isa, "compiler": _core.config()["compiler"], "versions": versions, "date": machine.date,
        "load_average": os.getloadavg(), "seed": seed, "commit": commit(),
    }  # fmt: skip


def pin_to_one_core() -> None:
    """Stay on one core where the system lets a process choose."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def write_json(path: Path, result: dict[str, Any]) -> None:
    replace_json(path, result)
    print(f"wrote {path}")


def replace_json(path: Path, result: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    passing = path.with_name(path.name + ".part")
    passing.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(passing, path)


Figures = dict[str, float]


def in_turns(calls: dict[str, Callable[[], object]], first: str, rounds: int) -> tuple[Figures, Figures]:
    """Time calls in turns, there and back: the median milliseconds of each, and the median ratio of `first` to each.

    A ratio is taken over two rounds, one there and one back, so that a drifting clock cancels.
    """
    durations, _ = samples(list(calls.values()), rounds=2 * max(1, rounds // 2), block_ms=1.0, warmup_ms=50.0)
    pairs = dict(zip(calls, durations[:, 0::2] + durations[:, 1::2], strict=True))
    medians = {name: float(np.median(row)) for name, row in zip(calls, durations, strict=True)}
    return medians, {name: float(np.median(pairs[first] / row)) for name, row in pairs.items()}
