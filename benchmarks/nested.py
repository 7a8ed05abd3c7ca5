"""One set of weights at 8, 4, 3 and 2 bits, beside networks trained for each, on CIFAR-10.

usage: nested.py --root DIR [--work DIR] [--time | --table | --dry-run | --small]

All rows begin with the same ResNet-20 trained in float32 and go on with quantisation-aware training. Nested: all bits
of one set of weights, for as many epochs as the others and for as many seconds as all of them together. Separate: a
network for each number of bits. Bits below 8 are views into 8-bit weights, so a network for 4 bits is trained for 8 and
4. After training: the float32 network quantised as it is.
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
    percent,
    seconds_of,
    timed,
    timing_data,
)
from drawing import STYLES, figure, save

import dynadnn as dn

EQUAL = "nested, equal seconds"
ROWS = ("float32", "after training", "separate", "nested", EQUAL)


@dataclass(frozen=True)
class Design:
    """Constants of the comparison, fixed before any test image was read."""

    width: int = 8
    bits: tuple[int, ...] = (8, 4, 3, 2)
    epochs: int = 10
    tuning: int = 2  # epochs of quantisation-aware training
    seeds: int = 2
    lr: float = 0.2
    tune_lr: float = 0.02
    batch: int = 128


FULL = Design()
SMALL = Design(bits=(8, 4), epochs=1, tuning=1, batch=64)


def views(design: Design, bits: int) -> tuple[int, ...]:
    """Bits of the network trained for one number of bits."""
    return (8,) if bits == 8 else (8, bits)


def phase(bits: tuple[int, ...]) -> str:
    return "bits " + "+".join(map(str, bits))


def quantised(bench: Bench, net: dn.Network, bits: tuple[int, ...]) -> dict[str, tuple[dn.Network, Any]]:
    model = dn.quantize(net, bench.data, bits=bits)
    return {str(b): (model, model.subnet(width=1.0, bits=b)) for b in bits}


def float32(bench: Bench, seed: int) -> Record:
    design, net = bench.design, base_network(bench, bench.design, seed)
    phases = {"float32": bench.steps(design.epochs)}
    return {**judged(bench, {"32": (net, None)}), "phases": phases, "epochs": design.epochs, "halts": []}


def after_training(bench: Bench, seed: int) -> Record:
    net = base_network(bench, bench.design, seed)
    return {**judged(bench, quantised(bench, net, bench.design.bits)), "phases": {}, "epochs": 0, "halts": []}


def tuned(
    bench: Bench, seed: int, bits: tuple[int, ...], epochs: int | None = None
) -> tuple[dict[str, tuple[dn.Network, Any]], dict[str, float]]:
    """The networks at these bits after quantisation-aware training, and its steps."""
    design, net = bench.design, base_network(bench, bench.design, seed)
    name = phase(bits) if epochs is None else f"{phase(bits)} in {epochs} epochs"
    history = bench.fit(
        f"{name}/seed {seed}", net, epochs=epochs or design.tuning, optimizer=dn.SGD(lr=design.tune_lr),
        batch=design.batch, rng=seed, qat=bits,
    )  # fmt: skip
    return quantised(bench, net, bits), {phase(bits): history.steps}


def nested(bench: Bench, seed: int, epochs: int | None = None) -> Record:
    nets, phases = tuned(bench, seed, bench.design.bits, epochs)
    return {**judged(bench, nets), "phases": phases, "epochs": epochs or bench.design.tuning, "halts": []}


def nested_longer(bench: Bench, seed: int) -> Record:
    """For as many epochs as take the seconds of the separate networks."""
    each_epoch = {phase(bench.design.bits): bench.steps(1)}
    return nested(bench, seed, bench.equal_epochs(EQUAL, cost(bench, "separate"), each_epoch))


def separate(bench: Bench, seed: int) -> Record:
    nets, phases = {}, {}
    for bits in bench.design.bits:
        made, steps = tuned(bench, seed, views(bench.design, bits))
        nets[str(bits)] = made[str(bits)]
        phases |= steps
    return {**judged(bench, nets), "phases": phases, "epochs": bench.design.tuning, "halts": []}


def cells(design: Design) -> list[Cell]:
    runs: dict[str, Callable[[Bench, int], Record]] = {
        "float32": float32, "after training": after_training, "separate": separate, "nested": nested,
        EQUAL: nested_longer,
    }  # fmt: skip
    return [Cell(name, seed, runs[name], partial(cost, name=name)) for seed in range(design.seeds) for name in ROWS]


def cost(bench: Bench, name: str) -> dict[str, float]:
    design = bench.design
    if name == "float32":
        return {"float32": bench.steps(design.epochs)}
    if name == EQUAL:  # by definition
        return cost(bench, "separate")
    trained = {"separate": [views(design, b) for b in design.bits], "nested": [design.bits]}.get(name, [])
    return {phase(tuple(bits)): bench.steps(design.tuning) for bits in trained}


def timers(bench: Bench) -> dict[str, Callable[[], Any]]:
    data, design = timing_data(bench), bench.design

    def step(name: str, **more: Any) -> dict[str, list[float]]:
        net = dn.nets.resnet20(bench.data, width=design.width, rng=0)
        return timed(name, dn.fit, net, data, optimizer=dn.SGD(lr=0.01), batch=design.batch, **more)

    found: dict[str, Callable[[], Any]] = {"float32": partial(step, "float32")}
    for bits in [*(views(design, b) for b in design.bits), design.bits]:
        found[phase(bits)] = partial(step, phase(bits), qat=bits)
    try:
        found[phase(design.bits)]()
    except dn.UnsupportedError as error:
        print(f"only float32 is timed: {error}")
        return {"float32": found["float32"]}
    return found


def tables(result: Record) -> list[dn.Table]:
    bits, seeds = [str(b) for b in result["design"]["bits"]], result["design"]["seeds"]
    reference, rows = by_seed(result, "separate"), []
    for name in ROWS[1:]:
        records = by_seed(result, name)
        if len(records) < seeds:
            why = result["cells"].get(f"{name}/seed 0", {}).get("unavailable")
            rows.append((name, why or f"{len(records)} of {seeds} seeds", *[None] * (2 * len(bits) + 1)))
            continue
        seconds = float(np.mean([seconds_of(result, record["phases"]) for record in records]))
        size = sum(records[0]["bytes"].values()) if name == "separate" else records[0]["bytes"]["8"]
        accuracies = [percent(mean_of(records, b)) for b in bits]
        rows.append((name, seconds, size / 1e3, *accuracies, *(difference(records, reference, b) for b in bits)))
    columns = (
        "row",
        "tuning s",
        "kB in all",
        *(f"test % at {b} bits" for b in bits),
        *(f"− separate at {b} bits, points" for b in bits),
    )
    base = by_seed(result, "float32")
    whole = f"float32 {100 * mean_of(base, '32'):.2f} %" if len(base) == seeds else "float32 missing"
    return [dn.Table(columns, rows, f"ResNet-20 of width {result['design']['width']}, {seeds} seeds, mean; {whole}")]


def plot(result: Record, path: Path) -> None:
    """Accuracy over bits, a mark per seed and a line through the means."""
    drawn, axes = figure(1, 6.4)
    bits = [str(b) for b in result["design"]["bits"]]
    base = by_seed(result, "float32")
    if base:
        axes[0].axhline(100 * mean_of(base, "32"), color="0.5", linestyle="--", linewidth=1, label="float32")
    for (colour, shape), name in zip(STYLES, ROWS[1:], strict=False):
        records = by_seed(result, name)
        if not records:
            continue
        x = [int(b) for b in bits]
        axes[0].plot(x, [100 * mean_of(records, b) for b in bits], color=colour, marker=shape, label=name, linewidth=1)
        for record in records:
            axes[0].plot(x, [100 * record["accuracy"][b] for b in bits], linestyle="none", marker=shape, markersize=4,
                         markerfacecolor="none", color=colour)  # fmt: skip
    axes[0].set(xlabel="bits of weights", ylabel="test accuracy (%)", xticks=[int(b) for b in bits])
    axes[0].legend(fontsize=8) if axes[0].get_legend_handles_labels()[0] else None
    save(drawn, path)


COMPARISON = Comparison(
    name="nested", design=FULL, small=SMALL, cells=cells, timers=timers, tables=tables, plot=plot,
    assumed={
        "float32": 0.12, "bits 8": 0.2, "bits 8+4": 0.4, "bits 8+3": 0.4, "bits 8+2": 0.4, "bits 8+4+3+2": 0.8,
    },
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(COMPARISON, __doc__))
