"""A grouped AlexNet trained incrementally, beside networks trained one by one, slimmable and sandwich networks.

usage: incremental.py --root DIR [--work DIR] [--time | --table | --dry-run | --small]

Incremental: four channel groups, group g trained with the groups before it frozen; a width is how many groups run.
Individual: the same grouped network of one, two, three and four groups, each trained alone, all its groups together.
Slimmable and sandwich: an AlexNet without groups whose points have the multiply-accumulates of the four widths. Adding
and dropping groups is checked to be exact, bit for bit, through training, quantisation and engine.
"""

from __future__ import annotations

import hashlib
import json
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
    judged,
    main,
    percent,
    points,
    seconds_of,
    timed,
    timing_data,
)
from common import in_turns, replace_json
from drawing import STYLES, figure, save

import dynadnn as dn

DENSE: dict[str, Callable[[], Any]] = {
    "slimmable": partial(dn.MultiPath, private_affine=True),
    "sandwich": dn.Sandwich,
}
ROWS = ("incremental", "individual", "slimmable", "sandwich")
GOAL = -0.015  # of the two widest points against individual networks


@dataclass(frozen=True)
class Design:
    """Constants of the comparison, fixed before any test image was read."""

    width: int = 32
    groups: int = 4
    dense_width: int = 16  # of the network without groups that has the same multiply-accumulates
    dense_points: tuple[float, ...] = (0.5, 0.7, 0.85, 1.0)
    epochs: int = 10
    seeds: int = 1
    lr: float = 0.1
    batch: int = 128


FULL = Design()
SMALL = Design(width=16, groups=2, dense_width=16, dense_points=(0.5, 1.0), epochs=1, batch=64)


def grouped(bench: Bench, groups: int, seed: int, points: tuple[float, ...] = (1.0,)) -> dn.Network:
    """A network of so many of the groups."""
    width = bench.design.width // bench.design.groups * groups
    return dn.nets.alexnet(bench.data, width=width, groups=groups, points=points, rng=seed)


def elastic(bench: Bench, seed: int) -> dn.Network:
    """A network of all groups, with a point for every number of them."""
    groups = bench.design.groups
    return grouped(bench, groups, seed, tuple(k / groups for k in range(1, groups + 1)))


def dense(bench: Bench, seed: int) -> dn.Network:
    design = bench.design
    return dn.nets.alexnet(bench.data, width=design.dense_width, points=design.dense_points, divisor=4, rng=seed)


def options(bench: Bench, seed: int) -> dict[str, Any]:
    design = bench.design
    return {"epochs": design.epochs, "optimizer": dn.SGD(lr=design.lr), "batch": design.batch, "rng": seed}


def prefix(net: dn.Network, groups: int, of: int) -> dn.Subnet:
    return net.subnet(width=groups / of)


class Unchanged(dn.Callback):
    """Keeps what every width answers before a group is trained, and checks that it answers the same after it."""

    def __init__(self, net: dn.Network, images: Any, groups: int, path: Path) -> None:
        self.net, self.images, self.groups, self.path = net, images, groups, path

    def on_train_begin(self, logs: dict[str, Any]) -> None:
        self.check(logs["group"] - 1)

    def check(self, trained: int) -> None:
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        for groups in range(1, trained + 1):
            outputs = self.net.slice(prefix(self.net, groups, self.groups))(self.images)
            digest = hashlib.sha256(np.ascontiguousarray(outputs).data).hexdigest()
            if known.setdefault(str(groups), digest) != digest:
                raise RuntimeError(f"training group {trained} changed the outputs of {groups} groups")
        replace_json(self.path, known)


def check_engine(net: dn.Network, images: Any, groups: int) -> None:
    """Cutting, dropping and adding groups leave every width's outputs as they are, or RuntimeError."""
    engine = net.compile(threads=1)
    for k in range(1, groups + 1):
        point = prefix(net, k, groups)
        expected = np.array(engine(images, point))
        if not np.array_equal(net.slice(point).compile(threads=1)(images), expected):
            raise RuntimeError(f"{k} groups alone answer otherwise than the whole network at this width")
        for less in range(1, k):
            engine(images, prefix(net, less, groups))
            if not np.array_equal(engine.extend(images, point), expected):
                raise RuntimeError(f"{less} groups extended to {k} answer otherwise than {k} at once")


def incremental(bench: Bench, seed: int) -> Record:
    groups, net = bench.design.groups, elastic(bench, seed)
    images = bench.data.test.x[:64]
    watch = Unchanged(net, images, groups, bench.file(f"unchanged seed {seed}.json"))
    history = bench.fit(f"incremental/seed {seed}", net, callbacks=[watch], **options(bench, seed))
    watch.check(groups)
    int8 = dn.quantize(net, bench.data)
    for one in (net, int8):
        check_engine(one, images, groups)
    record = judged(bench, {str(k): (net, prefix(net, k, groups)) for k in range(1, groups + 1)})
    quantised = judged(bench, {str(k): (int8, prefix(int8, k, groups)) for k in range(1, groups + 1)})
    phases = {f"incremental {k}": bench.steps(bench.design.epochs) for k in range(1, groups + 1)}
    return {
        **record, "int8": {key: quantised[key] for key in ("accuracy", "bytes")}, "phases": phases, "halts": [],
        "epochs": history.epochs, "exact": "training, quantisation, cutting, dropping and adding groups",
    }  # fmt: skip


def individual(bench: Bench, seed: int) -> Record:
    nets, phases = {}, {}
    for k in range(1, bench.design.groups + 1):
        net = grouped(bench, k, seed)
        bench.fit(f"individual {k}/seed {seed}", net, method=dn.MultiPath(), **options(bench, seed))
        nets[str(k)], phases[f"individual {k}"] = (net, None), bench.steps(bench.design.epochs)
    return {**judged(bench, nets), "phases": phases, "epochs": bench.design.epochs, "halts": []}


def without_groups(bench: Bench, seed: int, name: str) -> Record:
    method, net = DENSE[name](), dense(bench, seed)
    history = bench.fit(f"{name}/seed {seed}", net, method=method, **options(bench, seed))
    chosen = {str(k + 1): (net, point) for k, point in enumerate(net.points)}
    return {**judged(bench, chosen), "phases": {name: history.steps}, "epochs": history.epochs, "halts": []}


def cells(design: Design) -> list[Cell]:
    runs: dict[str, Callable[[Bench, int], Record]] = {"incremental": incremental, "individual": individual}
    runs |= {name: partial(without_groups, name=name) for name in DENSE}
    return [Cell(name, seed, runs[name], partial(cost, name=name)) for seed in range(design.seeds) for name in ROWS]


def cost(bench: Bench, name: str) -> dict[str, float]:
    steps = bench.steps(bench.design.epochs)
    if name in DENSE:
        return {name: steps}
    return {f"{name} {k}": steps for k in range(1, bench.design.groups + 1)}


# ---- times ----


def timers(bench: Bench) -> dict[str, Callable[[], Any]]:
    data, groups = timing_data(bench), bench.design.groups
    common = {"optimizer": dn.SGD(lr=0.01), "batch": bench.design.batch}

    def alone(k: int) -> dict[str, list[float]]:
        return timed(f"individual {k}", dn.fit, grouped(bench, k, 0), data, method=dn.MultiPath(), **common)

    def joint(name: str) -> dict[str, list[float]]:
        return timed(name, dn.fit, dense(bench, 0), data, method=DENSE[name](), **common)

    found: dict[str, Callable[[], Any]] = {
        "incremental": lambda: timed("incremental", dn.fit, elastic(bench, 0), data, **common)
    }
    found |= {f"individual {k}": partial(alone, k) for k in range(1, groups + 1)}
    for name in DENSE:
        try:
            DENSE[name]()
        except dn.UnsupportedError as error:
            print(f"{name} is not timed: {error}")
        else:
            found[name] = partial(joint, name)
    return found


def inference(bench: Bench) -> Record:
    """Milliseconds of one image at every width, and bytes in memory; untrained networks take the same time."""
    image, groups = bench.data.calibration.x[:1], bench.design.groups
    widths = [str(k) for k in range(1, groups + 1)]
    nets: dict[str, dn.Network] = {"incremental": elastic(bench, 0), "dense": dense(bench, 0)}
    nets |= {f"individual {k}": grouped(bench, int(k), 0) for k in widths}
    prefixes = [prefix(nets["incremental"], int(k), groups) for k in widths]
    for net in nets.values():
        net.recalibrate(bench.data.calibration.x)
    at = {
        "incremental": dict(zip(widths, prefixes, strict=True)),
        "dense": dict(zip(widths, nets["dense"].points.values(), strict=True)),
    }
    engines = {name: net.compile(threads=1) for name, net in nets.items()}
    calls: dict[str, Callable[[], object]] = {
        f"{name} {k}": partial(engines[name], image, point) for name, row in at.items() for k, point in row.items()
    }
    calls |= {f"individual {k}": partial(engines[f"individual {k}"], image) for k in widths}
    medians, _ = in_turns(calls, "incremental 1", 20 if bench.small else 200)
    memory = {
        f"{name} {k}": used(nets[name].slice(point), image) for name, row in at.items() for k, point in row.items()
    }
    memory |= {f"individual {k}": used(nets[f"individual {k}"], image) for k in widths}
    whole = {name: sum(engines[name].memory.values()) for name in at}
    whole["individual"] = sum(memory[f"individual {k}"] for k in widths)
    return {"inference": {"ms": medians, "memory": memory, "memory_of_all_widths": whole}}


def used(net: dn.Network, image: Any) -> int:
    """Bytes of packed weights, tables and working memory of an engine that has run."""
    engine = net.compile(threads=1)
    engine(image)
    return sum(engine.memory.values())


# ---- tables and plot ----


def graph(row: str) -> str:
    """Whose time and memory a row's networks have."""
    return "dense" if row in DENSE else row


def tables(result: Record) -> list[dn.Table]:
    widths = [str(k) for k in range(1, result["design"]["groups"] + 1)]
    found, timing = [], result.get("inference", {})
    for seed in range(result["design"]["seeds"]):
        alone = result["cells"].get(f"individual/seed {seed}", {}).get("accuracy", {})
        rows: list[tuple[Any, ...]] = []
        for name in ROWS:
            cell = result["cells"].get(f"{name}/seed {seed}", {})
            if "accuracy" not in cell:
                rows.append((name, cell.get("unavailable"), *[None] * 7))
                continue
            rows += [line(cell, name, k, alone.get(k), timing) for k in widths]
        columns = (
            "row",
            "groups",
            "test %",
            "95 % interval",
            "− individual, points",
            "MACs (M)",
            "MB",
            "ms",
            "peak memory MB",
        )
        found.append(dn.Table(columns, rows, f"AlexNet, seed {seed}, float32, one image, one thread"))
        found.append(dn.Table(("question", "answer"), answers(result, seed), f"seed {seed}: what follows"))
    return found


def line(cell: Record, name: str, k: str, alone: float | None, timing: Record) -> tuple[Any, ...]:
    accuracy, (low, high) = cell["accuracy"][k], cell["interval"][k]
    gap = None if alone is None else points(accuracy - alone, (-np.inf, np.inf))
    key = f"{graph(name)} {k}"
    memory = timing.get("memory", {}).get(key)
    return (
        name, k, percent(accuracy), f"{100 * low:.2f} … {100 * high:.2f}", gap, cell["macs"][k] / 1e6,
        cell["bytes"][k] / 1e6, timing.get("ms", {}).get(key), None if memory is None else memory / 1e6,
    )  # fmt: skip


def answers(result: Record, seed: int) -> list[tuple[str, str | None]]:
    cells = {name: result["cells"].get(f"{name}/seed {seed}", {}) for name in ROWS}
    mine, alone = cells["incremental"].get("accuracy"), cells["individual"].get("accuracy")
    found: list[tuple[str, str | None]] = []
    if mine and alone:
        worst = min(mine[k] - alone[k] for k in list(mine)[-2:])
        held = "met" if worst >= GOAL else "NOT met"
        goal = f"the two widest points against individual networks (goal: at least {100 * GOAL:.1f} points)"
        found.append((goal, f"{100 * worst:+.2f}: {held}"))
        int8 = cells["incremental"]["int8"]["accuracy"]
        found.append(("int8 at each width, test %", ", ".join(f"{100 * value:.2f}" for value in int8.values())))
        found.append(("exact, bit for bit, through", cells["incremental"]["exact"]))
    else:
        found.append(("the two widest points against individual networks", None))
    for name in ROWS:
        if "phases" in cells[name]:
            found.append((f"training of '{name}', s", f"{seconds_of(result, cells[name]['phases']):.0f}"))
    whole = result.get("inference", {}).get("memory_of_all_widths", {})
    found += [(f"memory of all widths, '{name}', MB", f"{value / 1e6:.2f}") for name, value in whole.items()]
    ms = result.get("inference", {}).get("ms", {})
    if ms:
        last = result["design"]["groups"]
        found.append(("range of time, widest / narrowest", f"{ms[f'incremental {last}'] / ms['incremental 1']:.2f}"))
    return found


def plot(result: Record, path: Path) -> None:
    """Accuracy with its interval over the time of one image."""
    drawn, axes = figure(1, 6.4)
    ms = result.get("inference", {}).get("ms", {})
    for (colour, shape), name in zip(STYLES, ROWS, strict=False):
        cell = result["cells"].get(f"{name}/seed 0", {})
        if "accuracy" not in cell or not ms:
            continue
        x = [ms[f"{graph(name)} {k}"] for k in cell["accuracy"]]
        y = 100 * np.array(list(cell["accuracy"].values()))
        error = np.abs(100 * np.array(list(cell["interval"].values())).T - y)
        axes[0].errorbar(x, y, error, color=colour, marker=shape, label=name, linewidth=1, capsize=3)
    axes[0].set(xlabel="time of one image (ms, one thread, float32)", ylabel="test accuracy (%), 95 % interval")
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(fontsize=8)
    save(drawn, path)


COMPARISON = Comparison(
    name="incremental", design=FULL, small=SMALL, cells=cells, timers=timers, tables=tables, plot=plot,
    more_times=inference,
    assumed={
        **{f"incremental {k}": 0.04 + 0.01 * k for k in range(1, 5)},
        **{f"individual {k}": 0.04 * k for k in range(1, 5)},
        "slimmable": 0.36, "sandwich": 0.36,
    },
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(COMPARISON, __doc__))
