"""Comparisons as lists of cells: one result per row and seed, written as soon as it is known.

A script hands a `Comparison` to `main`. Trainings inside a cell go on from their checkpoints in --work, finished cells
are never run again, and tables and plots are made from the JSON alone. Accuracy runs may be slow and interrupted:
seconds in a table are steps of every phase times the time of a step of that phase, which --time measures on a quiet
machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, environment, pin_to_one_core, replace_json

import dynadnn as dn

Record = dict[str, Any]
Steps = Mapping[str, float]
ROUNDS = 7
QUIET = 1.5  # load average up to which times count as measured on a quiet machine


class OutOfTime(Exception):
    """--seconds is over; checkpoints are written."""


class Waiting(Exception):
    """A cell needs something that is not there yet."""


@dataclass(frozen=True)
class Cell:
    """One row of a comparison for one seed; `cost` are the steps per phase that its run is expected to compute."""

    name: str
    seed: int
    run: Callable[[Bench, int], Record]
    cost: Callable[[Bench], Steps]

    @property
    def key(self) -> str:
        return f"{self.name}/seed {self.seed}"


@dataclass(frozen=True)
class Comparison:
    """What one script compares.

    `cells(design)` lists the cells; `timers(bench)` gives, by name, functions that train a few steps and return seconds
    per phase; `tables(result)` and `plot(result, path)` read nothing but the JSON. `assumed` are rough seconds per step
    for estimates before --time has run.
    """

    name: str
    design: Any
    small: Any
    cells: Callable[[Any], list[Cell]]
    timers: Callable[[Bench], dict[str, Callable[[], Mapping[str, Sequence[float]]]]]
    tables: Callable[[Record], list[dn.Table]]
    plot: Callable[[Record, Path], None]
    assumed: Steps
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    more_times: Callable[[Bench], Record] = lambda bench: {}


class Clock(dn.Callback):
    """Ends a run at the first epoch that begins after the time is over; its checkpoint is written."""

    def __init__(self, seconds: float | None) -> None:
        self.end = math.inf if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        if time.monotonic() > self.end:
            raise OutOfTime

    def on_epoch_begin(self, logs: dict[str, Any]) -> None:
        self.check()


class KeepEpochs(dn.Callback):
    """Keeps a copy of the checkpoint of every epoch, for runs that branch off there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_epoch_begin(self, logs: dict[str, Any]) -> None:
        kept = after_epoch(self.path, logs["epoch"])
        if logs["epoch"] and not kept.exists():
            copy_file(self.path, kept)


def after_epoch(path: Path, epoch: int) -> Path:
    """Copy of a checkpoint that `KeepEpochs` made after so many finished epochs."""
    return path.with_name(f"{path.name}.epoch{epoch}")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file whole or not at all."""
    passing = target.with_name(target.name + ".part")
    shutil.copyfile(source, passing)
    os.replace(passing, target)


class Stopwatch(dn.Callback):
    """Seconds of every step, by channel group where there are several.

    Processor time: of one thread on a quiet machine it is the time on the clock, and on another what others take is
    left out, though not that they empty the caches.
    """

    def __init__(self) -> None:
        self.taken: dict[Any, list[float]] = {}

    def on_step_begin(self, logs: dict[str, Any]) -> None:
        self.started = time.process_time()

    def on_step_end(self, logs: dict[str, Any]) -> None:
        self.taken.setdefault(logs.get("group"), []).append(time.process_time() - self.started)

    def of(self, name: str) -> dict[str, list[float]]:
        """Seconds per phase; the first step of each is left out."""
        return {name if group is None else f"{name} {group}": row[1:] for group, row in self.taken.items()}


@dataclass
class Bench:
    """What a cell is given: design, data, and trainings that resume."""

    comparison: Comparison
    options: argparse.Namespace
    clock: Clock
    result: Record = field(default_factory=dict)

    @property
    def small(self) -> bool:
        return bool(self.options.small)

    @property
    def design(self) -> Any:
        return self.comparison.small if self.small else self.comparison.design

    @cached_property
    def data(self) -> Any:
        """CIFAR-10, or the digits with --small."""
        if self.small:
            return dn.datasets.digits(rng=0).subset(128)
        if self.options.root is None:
            raise SystemExit("--root is needed: the folder of CIFAR-10 in the binary layout")
        return dn.datasets.cifar10(self.options.root)

    def file(self, name: str) -> Path:
        """A file of this comparison in --work; names that begin with 'base' are shared by all comparisons."""
        kind = "small" if self.small else "full"
        owner = "shared" if name.startswith("base") else self.comparison.name
        path = Path(self.options.work, kind, owner, name.replace("/", ".").replace(" ", "_"))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    # ---- trainings ----

    def fit(self, name: str, net: dn.Network, data: Any = None, **options: Any) -> dn.History:
        return dn.fit(net, self.data if data is None else data, **self.own(name, options))

    def distill(self, name: str, net: dn.Network, teacher: Any, data: Any = None, **options: Any) -> dn.History:
        return dn.distill(net, teacher, self.data if data is None else data, **self.own(name, options))

    def own(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a training that resumes and stops in time."""
        self.clock.check()
        checkpoint = dn.Checkpoint(self.file(f"{name}.checkpoint"), every_seconds=300)
        calls = [*options.get("callbacks", ()), self.clock]
        return {"threads": 1, "progress": False, **options, "checkpoint": checkpoint, "callbacks": calls}

    def steps(self, epochs: float, data: Any = None) -> float:
        """Steps of so many epochs, by the size of the training set; before it is read, that of CIFAR-10."""
        if data is None and "data" not in self.__dict__ and not self.small:
            return epochs * (45000 // self.design.batch)
        return epochs * (len((self.data if data is None else data).train) // self.design.batch)

    # ---- step times ----

    def step_seconds(self, phase: str) -> float:
        return step_seconds(self.result, phase)

    def assumed_seconds(self, phase: str) -> float:
        """Measured if it is, for estimates else assumed."""
        times = self.result.get("step_seconds", {})
        return float(times[phase]["median"]) if phase in times else float(self.comparison.assumed.get(phase, math.nan))

    def equal_epochs(self, key: str, reference: Steps, per_epoch: Steps) -> int:
        """Epochs, rounded, that take the seconds of a reference; fixed when first asked for."""
        known = self.result.setdefault("equal_epochs", {})
        if key not in known:
            known[key] = max(1, round(seconds_of(self.result, reference) / seconds_of(self.result, per_epoch)))
        return int(known[key])

    def record_of(self, key: str) -> Record:
        """The finished record of another cell."""
        record: Record = self.result["cells"].get(key, {})
        if "accuracy" not in record:
            raise Waiting(f"it needs {key}")
        return record


# ---- what records hold ----


def step_seconds(result: Record, phase: str) -> float:
    times = result.get("step_seconds", {})
    if phase not in times:
        raise Waiting(f"the step time of '{phase}' is not measured: run --time on a quiet machine")
    return float(times[phase]["median"])


def seconds_of(result: Record, steps: Steps) -> float:
    """Steps of every phase times that phase's step time."""
    return sum(count * step_seconds(result, phase) for phase, count in steps.items())


def base_network(bench: Bench, design: Any, seed: int) -> dn.Network:
    """A ResNet-20 of a design's width trained alone; trained once for all comparisons that share --work."""
    net = dn.nets.resnet20(bench.data, width=design.width, rng=seed)
    name = f"base resnet20 width {design.width} epochs {design.epochs} seed {seed}"
    bench.fit(name, net, epochs=design.epochs, optimizer=dn.SGD(lr=design.lr), batch=design.batch, rng=seed)
    return net


def judged(bench: Bench, nets: Mapping[str, tuple[dn.Network, Any]], data: Any = None) -> Record:
    """Figures per point, each of a network and a point of it: accuracy on test with interval, on validation, cost."""
    data = bench.data if data is None else data
    found: Record = {"accuracy": {}, "interval": {}, "val_accuracy": {}, "macs": {}, "bytes": {}}
    for name, (net, point) in nets.items():
        figures = net.evaluate(data.test, point, metrics=("accuracy",))
        found["accuracy"][name] = figures["accuracy"]
        found["interval"][name] = [float(v) for v in figures["accuracy_interval"]]
        found["val_accuracy"][name] = net.evaluate(data.val, point, metrics=("accuracy",))["accuracy"]
        found["macs"][name], found["bytes"][name] = net.macs(point), net.bytes(point)
    return found


def named(net: dn.Network) -> dict[str, tuple[dn.Network, Any]]:
    """All named points of a network, as `judged` takes them."""
    return {name: (net, name) for name in net.points}


# ---- step times ----


def measure_steps(bench: Bench, rounds: int) -> Record:
    """Seconds per step of every phase: all timers in turns, the median of each turn, then least and median of turns."""
    turns: dict[str, list[float]] = {}
    timers = bench.comparison.timers(bench)
    for turn in range(rounds):
        for name, timer in timers.items():
            for phase, taken in timer().items():
                turns.setdefault(phase, []).append(float(np.median(taken)))
            print(f"turn {turn + 1} of {rounds}: {name}", flush=True)
    head = {
        "threads": 1,
        "rounds": rounds,
        **{key: environment(0)[key] for key in ("cpu", "isa", "date", "load_average")},
    }
    return {phase: {"median": float(np.median(row)), "least": min(row), **head} for phase, row in turns.items()}


def timed(name: str, train: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, list[float]]:
    """Train a few steps of a copy of the data's first images and time them."""
    watch = Stopwatch()
    train(*arguments, epochs=1, threads=1, progress=False, rng=0, callbacks=[watch], **options)
    return watch.of(name)


def seconds_per_call(call: Callable[[], object], times: int = 5) -> list[float]:
    """Processor time of calls; the first is left out."""
    taken = []
    for _ in range(times + 1):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return taken[1:]


def timing_data(bench: Bench, data: Any = None, steps: int = 6) -> Any:
    """A few batches, and hardly any validation."""
    few = (bench.data if data is None else data).subset(bench.design.batch * steps)
    return dataclasses.replace(few, val=few.val.subset(16))


# ---- running ----


def parse(comparison: Comparison, text: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of CIFAR-10 in the binary layout")
    parser.add_argument("--work", type=Path, default=Path("comparisons-work"), help="checkpoints; safe to keep, large")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"folder of {comparison.name}.json and .png (default: results, or in --work with --small)",
    )
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cells whose key matches, as in a shell")
    parser.add_argument("--seconds", type=float, metavar="LIMIT", help="stop after the cell or epoch that passes this")
    parser.add_argument("--small", action="store_true", help="a toy of the same shape, in seconds; kept apart")
    parser.add_argument(
        "--dry-run", action="store_true", help="list the cells, what is missing, and how long it will take"
    )
    parser.add_argument(
        "--time", action="store_true", help="measure the step times, alone on a quiet machine, and stop"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of --time (default: %(default)s)")
    parser.add_argument(
        "--table", action="store_true", help="print tables and draw the plot of what is there, and stop"
    )
    comparison.options(parser)
    options = parser.parse_args(arguments)
    options.out = options.out or (options.work / "small" if options.small else RESULTS)
    return options


def read(comparison: Comparison, options: argparse.Namespace) -> Record:
    """The JSON as it stands, or the beginning of one; of the same design and size."""
    path = options.out / f"{comparison.name}.json"
    design = dataclasses.asdict(comparison.small if options.small else comparison.design)
    fresh: Record = {
        "script": f"benchmarks/{comparison.name}.py",
        "small": options.small,
        "design": design,
        "cells": {},
    }
    fresh = json.loads(json.dumps(fresh))
    if not path.exists():
        return fresh
    found: Record = json.loads(path.read_text())
    for key in ("small", "design"):
        if found.get(key) != fresh[key]:
            raise SystemExit(
                f"{path} has {key} {found.get(key)}, this script {fresh[key]}: move it away, or pass another --out"
            )
    return found


def write(comparison: Comparison, options: argparse.Namespace, result: Record) -> None:
    result["expected"] = [
        cell.key for cell in comparison.cells(comparison.small if options.small else comparison.design)
    ]
    replace_json(options.out / f"{comparison.name}.json", {**result, **environment(0)})


def done(result: Record, cell: Cell) -> bool:
    """Whether a cell has its result; one that was not available is tried again."""
    return "accuracy" in result["cells"].get(cell.key, {})


def missing(result: Record) -> list[str]:
    """Cells without a result."""
    return [key for key in result.get("expected", ()) if "accuracy" not in result["cells"].get(key, {})]


def dry_run(bench: Bench, cells: Sequence[Cell]) -> None:
    total = left = 0.0
    for cell in cells:
        seconds = sum(count * bench.assumed_seconds(phase) for phase, count in cell.cost(bench).items())
        total += seconds
        left += 0 if done(bench.result, cell) else seconds
        print(f"{'done   ' if done(bench.result, cell) else 'missing'} {seconds / 3600:6.2f} h  {cell.key}")
    print(f"{len(cells)} cells, {total / 3600:.1f} h of machine time in all, {left / 3600:.1f} h of it left")


def run_cell(bench: Bench, cell: Cell) -> None:
    """One cell; its record is in the JSON before the next begins."""
    print(f"begins: {cell.key}", flush=True)
    try:
        record = cell.run(bench, cell.seed)
    except dn.UnsupportedError as error:
        record = {"unavailable": str(error)}
    except Waiting as error:
        print(f"not run: {cell.key}: {error}")
        return
    head = environment(cell.seed)
    bench.result["cells"][cell.key] = {**record, **{key: head[key] for key in ("seed", "date", "commit", "cpu")}}
    write(bench.comparison, bench.options, bench.result)
    shown = record.get("unavailable") or {name: round(value, 4) for name, value in record["accuracy"].items()}
    print(f"done: {cell.key}: {shown}", flush=True)


def show(bench: Bench) -> int:
    """Tables as Markdown and the plot; 1 if a cell is missing."""
    result, options = bench.result, bench.options
    lacking = missing({**result, "expected": [cell.key for cell in bench.comparison.cells(bench.design)]})
    try:
        for table in bench.comparison.tables(result):
            print(f"\n**{table.title}**\n\n{markdown(table)}")
        bench.comparison.plot(result, options.out / f"{bench.comparison.name}.png")
    except Waiting as error:
        print(f"no table: {error}")
    for key in lacking:
        print(f"missing: {key}")
    return 1 if lacking else 0


def main(comparison: Comparison, text: str, arguments: Sequence[str] | None = None) -> int:
    """Run what a command line asks for; 0 if every cell has its result."""
    options = parse(comparison, text, arguments)
    bench = Bench(comparison, options, Clock(options.seconds), read(comparison, options))
    cells = [cell for cell in comparison.cells(bench.design) if fnmatch.fnmatch(cell.key, options.only)]
    if not cells:
        print(f"--only {options.only}: no cell has such a key")
        return 2
    if options.dry_run:
        dry_run(bench, cells)
        return 0
    if options.time:
        pin_to_one_core()
        if os.getloadavg()[0] > QUIET:
            print(
                f"the load average is {os.getloadavg()[0]:.1f}: these times are not of a quiet machine", file=sys.stderr
            )
        bench.result.setdefault("step_seconds", {}).update(measure_steps(bench, options.rounds))
        bench.result.update(comparison.more_times(bench))
        write(comparison, options, bench.result)
        return 0
    if not options.table:
        try:
            for cell in cells:
                if not done(bench.result, cell):
                    bench.clock.check()
                    run_cell(bench, cell)
        except OutOfTime:
            print("the time is over; the same command goes on from here")
    return show(bench)


# ---- tables ----


def markdown(table: dn.Table) -> str:
    """A table as Markdown."""
    rows = [table.columns, ["---"] * len(table.columns), *([_text(v) for v in row] for row in table.rows)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def _text(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.2f}"


def points(mean: float, interval: tuple[float, float]) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    low, high = interval
    if math.isinf(low):
        return f"{100 * mean:+.2f}"
    return f"{100 * mean:+.2f} ({100 * low:+.2f} … {100 * high:+.2f})"


def mean_of(records: Sequence[Record], point: str, key: str = "accuracy") -> float:
    """Mean over the seeds of a figure of a point; NaN without seeds."""
    return float(np.mean([record[key][point] for record in records])) if records else math.nan


def by_seed(result: Record, name: str) -> list[Record]:
    """Finished cells of a row, in the order of the seeds."""
    cells = [result["cells"].get(f"{name}/seed {seed}", {}) for seed in range(result["design"]["seeds"])]
    return [cell for cell in cells if "accuracy" in cell]


def difference(records: Sequence[Record], reference: Sequence[Record], point: str) -> str | None:
    """Paired difference of the accuracies of a point, as text; None unless both have every seed."""
    if len(records) != len(reference):
        return None
    values = np.array([a["accuracy"][point] - b["accuracy"][point] for a, b in zip(records, reference, strict=True)])
    runs = dn.Runs(tuple(range(len(values))), {"d": values})
    return points(runs.mean["d"], runs.interval["d"])
