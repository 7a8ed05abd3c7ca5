"""Ways to train a ResNet-20 with several sub-nets beside networks trained one by one, at equal epochs and seconds.

usage: sampling.py --root DIR [--work DIR] [--time | --table | --dry-run | --small]

Single-path trains one random point per step, multi-path all of them on labels, sandwich the narrower ones on what the
widest answers. Individual networks have the widths of the points and share nothing. Non-uniform sub-nets are found on
the validation split, in the network trained alone, at the multiply-accumulates of the uniform points; at equal seconds
that network is then trained on at all of them. Multi-path sets the seconds; what the individual networks take together
is the same by nature.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cells import (
    Bench,
    Cell,
    Comparison,
    Record,
    base_network,
    by_seed,
    difference,
    judged,
    main,
    mean_of,
    named,
    percent,
    seconds_of,
    seconds_per_call,
    timed,
    timing_data,
)
from drawing import STYLES, figure, save

import dynadnn as dn

EQUAL = ", equal seconds"
JOINT: dict[str, Callable[[], Any]] = {
    "single-path": dn.SinglePath,
    "multi-path": dn.MultiPath,
    "sandwich": partial(dn.Sandwich, random=1),
}
ROWS = (
    "single-path",
    f"single-path{EQUAL}",
    "multi-path",
    "sandwich",
    "individual",
    "non-uniform",
    f"non-uniform{EQUAL}",
)
REFERENCE = "multi-path"


@dataclass(frozen=True)
class Design:
    """Constants of the comparison, fixed before any test image was read."""

    width: int = 16
    points: tuple[float, ...] = (0.25, 0.5, 1.0)
    epochs: int = 10
    seeds: int = 2
    lr: float = 0.2
    batch: int = 128
    tune_lr: float = 0.02  # of non-uniform sub-nets in a network that is trained already
    search_images: int = 1000  # of the validation split


FULL = Design()
SMALL = Design(points=(0.75, 1.0), epochs=1, batch=64, search_images=64)


def names_of(design: Design) -> list[str]:
    return [str(point) for point in design.points]


def options(bench: Bench, epochs: int, seed: int, lr: float | None = None) -> dict[str, Any]:
    design = bench.design
    return {"epochs": epochs, "optimizer": dn.SGD(lr=lr or design.lr), "batch": design.batch, "rng": seed}


def dynamic(bench: Bench, seed: int) -> dn.Network:
    return dn.nets.resnet20(bench.data, width=bench.design.width, points=bench.design.points, rng=seed)


def joint(bench: Bench, seed: int, name: str) -> Record:
    kind = name.removesuffix(EQUAL)
    key, epochs = f"{name}/seed {seed}", bench.design.epochs
    method = JOINT[kind]()
    if kind != name:
        reference = bench.record_of(f"{REFERENCE}/seed {seed}")["phases"]
        epochs = bench.equal_epochs(key, reference, each_epoch(bench, kind))
    net = dynamic(bench, seed)
    history = bench.fit(key, net, method=method, **options(bench, epochs, seed))
    steps = {phase: count * history.epochs for phase, count in each_epoch(bench, kind).items()}
    return {**judged(bench, named(net)), "phases": steps, "epochs": history.epochs, "halts": []}


def each_epoch(bench: Bench, kind: str) -> dict[str, float]:
    """Steps per phase of an epoch; a step of single-path is one of one point, all equally often."""
    steps = bench.steps(1)
    if kind == "single-path":
        return {f"width {name}": steps / len(bench.design.points) for name in names_of(bench.design)}
    return {kind: steps}


def individual(bench: Bench, seed: int) -> Record:
    """A network per point, of its width."""
    design, nets, phases = bench.design, {}, {}
    for point, name in zip(design.points, names_of(design), strict=True):
        if point == 1:
            nets[name] = (base_network(bench, design, seed), None)
        else:
            net = dynamic(bench, seed).slice(point)
            bench.fit(f"individual {name}/seed {seed}", net, **options(bench, design.epochs, seed))
            nets[name] = (net, None)
        phases[f"width {name}"] = bench.steps(design.epochs)
    return {**judged(bench, nets), "phases": phases, "epochs": design.epochs, "halts": []}


def searched(bench: Bench, seed: int) -> tuple[Any, dict[str, float]]:
    """Non-uniform sub-nets of the network trained alone, at the cost of the uniform points; the phases so far."""
    if not hasattr(dn, "nonuniform"):
        raise dn.UnsupportedError("dn.nonuniform is not built")
    design = bench.design
    base, uniform = base_network(bench, design, seed), dynamic(bench, seed)
    shares = [uniform.macs(name) / uniform.macs() for name in names_of(design)[:-1]]
    journal = bench.file(f"search seed {seed}.jsonl")
    found = dn.nonuniform(
        base, bench.data, targets=shares, val=bench.data.val.subset(design.search_images), checkpoint=journal,
        threads=1, rng=seed,
    )  # fmt: skip
    return found, {
        "width 1.0": bench.steps(design.epochs),
        "evaluation": float(len(journal.read_text().splitlines()) - 1),
    }


def nonuniform(bench: Bench, seed: int, name: str) -> Record:
    """Equal epochs: the sub-nets as they were found. Equal seconds: the network is trained on at all of them."""
    found, phases = searched(bench, seed)
    design, key, net = bench.design, f"{name}/seed {seed}", found.network
    epochs = 0
    if name.endswith(EQUAL):
        reference = dict(bench.record_of(f"{REFERENCE}/seed {seed}")["phases"])
        left = {**reference, **{phase: reference.get(phase, 0) - count for phase, count in phases.items()}}
        epochs = bench.equal_epochs(key, left, {"sandwich": bench.steps(1)})
        history = bench.fit(key, net, method=dn.Sandwich(random=1), **options(bench, epochs, seed, design.tune_lr))
        phases["sandwich"] = history.steps
    points = dict(zip(names_of(design), net.points.items(), strict=True))
    record = judged(bench, {uniform: (net, name) for uniform, (name, _) in points.items()})
    widths = {uniform: list(subnet.widths) for uniform, (_, subnet) in points.items()}
    return {**record, "phases": phases, "epochs": design.epochs + epochs, "halts": [], "widths": widths}


def run(bench: Bench, seed: int, name: str) -> Record:
    if name == "individual":
        return individual(bench, seed)
    if name.startswith("non-uniform"):
        return nonuniform(bench, seed, name)
    return joint(bench, seed, name)


def cost(bench: Bench, name: str) -> dict[str, float]:
    steps, design = bench.steps(bench.design.epochs), bench.design
    narrow = {f"width {point}": steps for point in names_of(design)}
    table: dict[str, dict[str, float]] = {
        "single-path": {phase: steps / len(narrow) for phase in narrow},
        f"single-path{EQUAL}": {REFERENCE: steps},
        "individual": narrow,
        "non-uniform": {"evaluation": 250},
        f"non-uniform{EQUAL}": {"sandwich": steps * 0.2},
    }
    return table.get(name, {name: steps})


def cells(design: Design) -> list[Cell]:
    order = [
        (name, seed) for seed in range(design.seeds) for name in ("multi-path", *(n for n in ROWS if n != "multi-path"))
    ]
    return [Cell(name, seed, partial(run, name=name), partial(cost, name=name)) for name, seed in order]


def timers(bench: Bench) -> dict[str, Callable[[], Any]]:
    data, design = timing_data(bench), bench.design
    common = {"optimizer": dn.SGD(lr=0.01), "batch": bench.design.batch}
    found: dict[str, Callable[[], Any]] = {}

    def joint_step(name: str) -> dict[str, list[float]]:
        return timed(name, dn.fit, dynamic(bench, 0), data, method=JOINT[name](), **common)

    def one(name: str) -> dict[str, list[float]]:
        return timed(f"width {name}", dn.fit, dynamic(bench, 0).slice(name), data, **common)

    def evaluation() -> dict[str, list[float]]:
        """What one removal costs: statistics of a sub-net and the outputs of the images that judge it."""
        net, split = dynamic(bench, 0), bench.data.val.subset(design.search_images)

        def once() -> None:
            net.recalibrate(bench.data.calibration.x, points=["1.0"])
            net.evaluate(split, "1.0")

        return {"evaluation": seconds_per_call(once, 2)}

    for name in JOINT:
        if name == "single-path":
            continue
        try:
            JOINT[name]()
        except dn.UnsupportedError as error:
            print(f"{name} is not timed: {error}")
        else:
            found[name] = partial(joint_step, name)
    found |= {f"width {name}": partial(one, name) for name in names_of(bench.design)}
    return {**found, "evaluation": evaluation}


# ---- tables and plot ----


def tables(result: Record) -> list[dn.Table]:
    at = [str(point) for point in result["design"]["points"]]
    seeds = result["design"]["seeds"]
    reference = by_seed(result, "individual")
    rows: list[tuple[Any, ...]] = []
    for name in ROWS:
        records = by_seed(result, name)
        if len(records) < seeds:
            first = result["cells"].get(f"{name}/seed 0", {}).get("unavailable")
            rows.append((name, first or f"{len(records)} of {seeds} seeds", *[None] * (2 * len(at) + 1)))
            continue
        seconds = float(np.mean([seconds_of(result, record["phases"]) for record in records]))
        epochs = "/".join(sorted({str(record["epochs"]) for record in records}))
        accuracies = [percent(mean_of(records, point)) for point in at]
        differences = [difference(records, reference, point) for point in at]
        rows.append((name, epochs, seconds, *accuracies, *differences))
    columns = (
        "row",
        "epochs",
        "seconds",
        *(f"test % at {p}" for p in at),
        *(f"− individual at {p}, points" for p in at),
    )
    title = f"ResNet-20, {seeds} seeds, mean"
    if reference:
        title += "; multiply-accumulates " + ", ".join(f"{p}: {mean_of(reference, p, 'macs') / 1e6:.2f} M" for p in at)
    return [dn.Table(columns, rows, title)]


def plot(result: Record, path: Path) -> None:
    """Accuracy over multiply-accumulates; at equal epochs and at equal seconds."""
    at = [str(point) for point in result["design"]["points"]]
    drawn, axes = figure(2)
    same = {f"single-path{EQUAL}", "multi-path", "sandwich", "individual", f"non-uniform{EQUAL}"}
    equal = {name for name in ROWS if not name.endswith(EQUAL)}
    styles = dict(zip(dict.fromkeys(name.removesuffix(EQUAL) for name in ROWS), STYLES, strict=False))
    for ax, shown, title in zip(axes, (equal, same), ("equal epochs", "equal seconds"), strict=True):
        for name in ROWS:
            records = by_seed(result, name)
            if name in shown and records:
                colour, shape = styles[name.removesuffix(EQUAL)]
                macs = [mean_of(records, point, "macs") / 1e6 for point in at]
                values = [100 * mean_of(records, point) for point in at]
                ax.plot(macs, values, color=colour, marker=shape, label=name.removesuffix(EQUAL), linewidth=1)
        ax.set(xscale="log", xlabel="multiply-accumulates (millions)", ylabel="test accuracy (%)", title=title)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=7)
    save(drawn, path)


COMPARISON = Comparison(
    name="sampling", design=FULL, small=SMALL, cells=cells, timers=timers, tables=tables, plot=plot,
    assumed={
        "width 0.25": 0.03, "width 0.5": 0.12, "width 1.0": 0.35, "multi-path": 0.5, "sandwich": 0.5,
        "evaluation": 1.2,
    },
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(COMPARISON, __doc__))
