"""The latency model against sub-nets that it was not made of: ResNet-20, AlexNet and MobileNetV2 in int8, one thread.

usage: latency_model.py [--nets resnet20,…] [--subnets N] [--rounds N] [--work DIR] [--out DIR] [--prepare]

Each network is profiled (`dn.profile_device`), then sub-nets are drawn as a search draws them (widths per space, 8 and
4 bits per layer, some with fewer blocks), none of which the profile or a named point had; `Device.check` measures them
beside the probe and a narrow sub-net, whose ratio says what state the machine is in, and brings them to the profile's.
Before that, sums of the layers' times are compared with whole runs, since a model of layers rests on that. Profiles and
finished networks are kept in --work, so a run may be done in parts; it needs the machine for itself, but for --prepare,
which makes the networks. Their weights are random: times do not depend on them. Writes DIR/latency_model.json and .png,
and exits with 1 if a figure misses its goal.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, Goals, environment, pin_to_one_core, replace_json, write_json
from drawing import STYLES, figure, save

import dynadnn as dn
from dynadnn._device_check import errors

NETS = ("resnet20", "alexnet", "mobilenetv2")
SIDE = 32
LEAST = 100  # sub-nets of each network
AGREEMENT = 0.05  # of layer sums with whole runs, once their common factor is out
GOALS = (("median", "median absolute error", 0.025), ("p95", "95th percentile", 0.08), ("spearman", "Spearman", 0.99))


def network(name: str, seed: int, work: Path) -> dn.Network:
    """The network with 8-bit weights and their 4-bit view; made once."""
    path = work / f"{name}.safetensors"
    if not path.exists():
        images = np.random.default_rng(seed).standard_normal((16, SIDE, SIDE, 3), dtype=np.float32)
        net = getattr(dn.nets, name)((SIDE, SIDE, 3), 10, points=(0.25, 0.5, 0.75, 1.0), rng=seed)
        net.recalibrate(images)
        dn.quantize(net, images, bits=(8, 4)).save(path)
    return dn.load(path)


def layer_sums(device: dn.Device) -> dict[str, float]:
    """Sums of the layers' times over whole runs, of the profile's sub-nets."""
    (profile,) = device._predictions.profiles.values()
    ratio = np.array([sum(s.layers) / s.whole for s in profile.samples])
    ratio_of_median = ratio / np.median(ratio)
    return {"factor": float(np.median(ratio)), "median_off": float(np.median(np.abs(ratio_of_median - 1)))}


def states(device: dn.Device) -> list[float]:
    """Time of the narrow sub-net over the probe's: least, median and most beside the profile's sub-nets."""
    (profile,) = device._predictions.profiles.values()
    return [float(f"{v:.4g}") for v in np.quantile([s.narrow for s in profile.samples], (0, 0.5, 1))]


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Profile and check one network; what was done before is kept."""
    done = options.work / f"{name}.result.json"
    if done.exists():
        result: dict[str, Any] = json.loads(done.read_text())
        if all(result[key] == value for key, value in asked(options).items()):
            return result
    net, path = network(name, options.seed, options.work), options.work / f"{name}.device.json"
    start = time.perf_counter()
    device = dn.profile_device(net, threads=1, path=path)
    profiled = time.perf_counter()
    table = device.check(net, options.subnets, rounds=options.rounds, seed=options.seed + 1)
    seconds = {"profile": profiled - start, "check": time.perf_counter() - profiled}
    rows = list(table)
    (profile,) = device._predictions.profiles.values()
    result = {
        "net": name, **asked(options), "named_points": len(device), "profiled_subnets": len(profile.samples),
        "seconds": seconds, "load_average": os.getloadavg(), "layer_sums": layer_sums(device),
        "narrow": states(device),
        "stated_error": profile.relative_error, "checked": len(rows),
        "range_ms": [min(table["measured_ms"]), max(table["measured_ms"])],
        "errors": errors(table["latency_ms"], table["measured_ms"]),
        "points": [[row["point"], row["latency_ms"], row["measured_ms"]] for row in rows],
    }  # fmt: skip
    replace_json(done, result)
    return result


def asked(options: argparse.Namespace) -> dict[str, int]:
    return {"subnets": options.subnets, "rounds": options.rounds, "seed": options.seed}


def judge(row: dict[str, Any], goals: Goals) -> None:
    """Agreement of layers with whole runs first, then the figures beside their goals."""
    name, sums = row["net"], row["layer_sums"]
    held = sums["median_off"] <= AGREEMENT
    print(
        f"{goals.verdict(f'{name} sums', held)} {name}: layers sum up to {sums['factor']:.3f} of a whole run, "
        f"{sums['median_off']:.1%} off that in the median (at most {AGREEMENT:.0%})"
    )
    least, middle, most = row["narrow"]
    print(f"      {name}: a quarter of its channels took {middle:.3f} of the probe, {least:.3f} to {most:.3f}")
    low, high = row["range_ms"]
    enough = goals.verdict(f"{name} sub-nets", row["checked"] >= LEAST)
    print(f"{enough} {name}: {row['checked']} unseen sub-nets of {low:.3f} to {high:.3f} ms (at least {LEAST})")
    for key, text, goal in GOALS:
        value = row["errors"][key]
        held = value >= goal if key == "spearman" else value <= goal
        shown = (f"{value:.4f}", f"{goal:g}") if key == "spearman" else (f"{value:.2%}", f"{goal:.1%}")
        limit = "at least" if key == "spearman" else "at most"
        print(f"{goals.verdict(f'{name} {text}', held)} {name}: {text} {shown[0]} ({limit} {shown[1]})", flush=True)


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Predicted against measured, a panel per network; the lines are exact and 8 % off."""
    from matplotlib.ticker import LogLocator, NullFormatter

    drawn, panels = figure(len(rows), 4.4)
    for axes, row, (colour, marker) in zip(panels, rows, STYLES[1:], strict=False):
        measured, predicted = (np.array([p[k] for p in row["points"]]) for k in (2, 1))
        ends = np.array([min(measured.min(), predicted.min()) * 0.9, max(measured.max(), predicted.max()) * 1.1])
        axes.fill_between(ends, ends * 0.92, ends * 1.08, color="0.9", label="± 8 %")
        axes.plot(ends, ends, color="black", linewidth=0.8)
        axes.scatter(measured, predicted, s=14, color=colour, marker=marker, label=f"{row['checked']} unseen sub-nets")
        found = row["errors"]
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.set(xlim=ends, ylim=ends, xlabel="measured, ms", ylabel="predicted, ms")
        summary = f"median {found['median']:.1%}, 95 % below {found['p95']:.1%}, Spearman {found['spearman']:.4f}"
        axes.set_title(f"{row['net']}\n{summary}", fontsize=9)
        axes.legend(fontsize=8)
    drawn.suptitle(title, fontsize=9)
    save(drawn, path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default=",".join(NETS), help="with commas (default: %(default)s)")
    parser.add_argument("--subnets", type=int, default=120, help="unseen ones of each network (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=60, help="blocks of each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("latency_model"), help="kept parts (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--prepare", action="store_true", help="make the networks, which may be beside other work")
    options = parser.parse_args()
    options.nets = options.nets.split(",")
    if unknown := set(options.nets) - set(NETS):
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(NETS)}")
    return options


def main() -> int:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.prepare:
        for name in options.nets:
            network(name, options.seed, options.work)
        return 0
    pin_to_one_core()
    head = environment(options.seed)
    print(f"{head['cpu']}, {head['isa']}, one thread, load {head['load_average'][0]:.2f}")
    rows, goals = [], Goals()
    for name in options.nets:
        rows.append(run(name, options))
        judge(rows[-1], goals)
    code = goals.finish()
    if options.nets != list(NETS):
        print("not all networks: nothing written")
        return code
    write_json(options.out / "latency_model.json", {"script": "benchmarks/latency_model.py", **head, "nets": rows})
    plot(rows, f"{head['cpu']}, int8, one thread", options.out / "latency_model.png")
    return code


if __name__ == "__main__":
    sys.exit(main())
