"""A search of a dynamic ResNet-20 on CIFAR-10, beside random, greedy and Optuna's, and beside uniform widths.

usage: explore.py --root DIR [--work DIR] [--train | --small]

All searches choose among the same widths per channel space of one int8 network, by error on the validation split and
latency as the device model of this CPU has it, within the same number of distinct evaluations. What each found is
judged once on the test split: the hypervolume of error and latency that its front keeps there, bounded by 1.1 times the
largest of the 8 uniform widths. Intervals are of 1,000 resamplings of the test images, the same for all.

Everything is kept in --work: the training's checkpoint (--train makes only the network, which may be beside other
work), the profile, the searches, and a memo of all evaluations. The searches are timed: they need the machine for
themselves. Writes explore.json and .png, and exits with 1 if a figure misses its goal.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, Goals, environment, replace_json, write_json
from drawing import STYLES, figure, save
from explorers import Choices, Memo, Widths, greedy_search, optuna_search, random_search
from numpy.typing import NDArray

import dynadnn as dn
from dynadnn.search import hypervolume, nondominated_rank

Record = dict[str, Any]
OURS, UNIFORM, WHOLE = "dynadnn", "8 uniform widths", "greedy to its end"
MINUTES, BEYOND_UNIFORM = 15.0, 1.02
RESAMPLED = 1000


@dataclass(frozen=True)
class Design:
    """Constants of the comparison, fixed before any test image was read."""

    width: int = 16
    divisor: int = 4
    epochs: int = 10
    batch: int = 128
    lr: float = 0.3
    budget: int = 400
    population: int = 64
    seeds: int = 3
    sixteenths: tuple[int, ...] = tuple(range(4, 17))  # widths to choose from
    uniform: int = 8
    margin: float = 1.1  # of the reference point over the largest of the uniform widths


FULL = Design()
SMALL = Design(width=8, epochs=1, batch=32, budget=24, population=8, seeds=1, sixteenths=(8, 16), uniform=2)


def data_of(options: argparse.Namespace) -> dn.Data:
    if options.small:
        return dn.datasets.digits(rng=0).subset(96)
    if options.root is None:
        raise SystemExit("--root is needed: the folder of CIFAR-10 in the binary layout")
    return dn.datasets.cifar10(options.root)


# ---- the network ----


def trained(data: dn.Data, design: Design, work: Path) -> dn.Network:
    """The quantised network; training resumes. Steps train the widest, the narrowest and two of random widths."""
    path = work / "model.safetensors"
    if not path.exists():
        net = dn.nets.resnet20(data, width=design.width, points=(0.25, 1.0), divisor=design.divisor, rng=0)
        dn.fit(
            net, data, epochs=design.epochs, batch=design.batch, method=dn.Sandwich(random=2), augment="auto",
            schedule="onecycle", progress=False, rng=0, threads=1,
            optimizer=dn.SGD(lr=design.lr, momentum=0.9, nesterov=True, weight_decay=5e-4),
            checkpoint=dn.Checkpoint(work / "train.checkpoint", every_seconds=300),
        )  # fmt: skip
        dn.quantize(net, data).save(path)
    return dn.load(path)


def choices_of(net: dn.Network, design: Design) -> Choices:
    """Channels to choose from, of every space."""
    rows = [net.subnet(width=n / 16).widths for n in design.sixteenths]
    return [sorted(set(column)) for column in zip(*rows, strict=True)]


def uniform_widths(net: dn.Network, design: Design) -> list[Widths]:
    shares = np.linspace(design.sixteenths[0] / 16, 1, design.uniform)
    return [tuple(net.subnet(width=float(share)).widths) for share in shares]


# ---- searches ----


def explored(net: dn.Network, data: dn.Data, device: dn.Device, design: Design, work: Path, seed: int) -> Record:
    """What `dn.explore` evaluated and found; kept with the seconds it took, which an interrupted search has not."""
    path, journal = work / f"explore.{seed}.json", work / f"explore.{seed}.jsonl"
    if not path.exists():
        fresh = not journal.exists()
        start = time.perf_counter()
        front = dn.explore(
            net, data, space=dn.Space(widths=[n / 16 for n in design.sixteenths], bits=(8,)), device=device,
            population=design.population, generations=1000, budget=design.budget, termination=None, rng=seed,
            executor=lambda: ProcessPoolExecutor(2, multiprocessing.get_context("fork")), checkpoint=journal,
            progress=False,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        front.save(work / f"explore.{seed}.front.json")
        replace_json(path, {
            "seconds": seconds if fresh else None, "ended": front.ended, "load_average": os.getloadavg(),
            "evaluated": [[*r.point.widths] for r in front.evaluated],
            "stopped": [[*r.point.widths] for r in front.evaluated if r.stopped is not None],
            "front": [[[*r.point.widths], r.error, r.latency_ms, r.latency_ms_measured] for r in front.records],
        })  # fmt: skip
        print(f"seed {seed}: {len(front.evaluated)} points in {seconds:.0f} s, {front.ended}", flush=True)
    found: Record = json.loads(path.read_text())
    return found


class Latencies:
    """Latencies of sub-nets as the device has them, each asked for once."""

    def __init__(self, net: dn.Network, device: dn.Device) -> None:
        self.net, self.device = net, device
        self.known: dict[Widths, float] = {}

    def __call__(self, wanted: Sequence[Widths]) -> list[float]:
        new = [w for w in dict.fromkeys(wanted) if w not in self.known]
        if new:
            values = self.device.latencies(self.net, [self.net.subnet(widths=w) for w in new])
            self.known.update(zip(new, values, strict=True))
        return [self.known[w] for w in wanted]


def front_of(evaluated: Sequence[Widths], errors: Sequence[float], costs: Sequence[float]) -> list[Widths]:
    """Those that no other beats, on the validation split."""
    ranks = nondominated_rank(np.array([errors, costs]).T)
    return [w for w, rank in zip(evaluated, ranks, strict=True) if rank == 0]


def searches(
    net: dn.Network, choices: Choices, memo: Memo, costs: Latencies, design: Design, ours: Mapping[int, Record]
) -> dict[str, dict[int, list[Widths]]]:
    """By method and seed, the sub-nets that it evaluated; of ours those that it did not stop early."""
    errors, seeds = memo.errors, range(design.seeds)
    found: dict[str, dict[int, list[Widths]]] = {OURS: {}}
    for seed, record in ours.items():
        stopped = {tuple(w) for w in record["stopped"]}
        found[OURS][seed] = [w for w in map(tuple, record["evaluated"]) if w not in stopped]
    others: dict[str, Callable[[int], list[Widths]]] = {
        "random": lambda seed: random_search(choices, errors, design.budget, seed),
        "Optuna NSGA-II": lambda seed: optuna_search(choices, errors, costs, design.budget, seed),
    }
    for name, search in others.items():
        found[name] = {seed: search(seed) for seed in seeds}
        print(f"{name}: {[len(row) for row in found[name].values()]} points", flush=True)
    found["greedy"] = dict.fromkeys(seeds, greedy_search(choices, errors, design.budget))
    found[WHOLE] = dict.fromkeys(seeds, greedy_search(choices, errors, None))
    found[UNIFORM] = dict.fromkeys(seeds, uniform_widths(net, design))
    return found


def agree(memo: Memo, record: Record) -> None:
    """Errors of the search's front against those of the public calls that judge all others."""
    mine = memo.errors([tuple(w) for w, *_ in record["front"]])
    for (widths, error, *_), other in zip(record["front"], mine, strict=True):
        if abs(error - other) > 1e-12:
            raise SystemExit(f"{widths}: the search has error {error}, recalibrate and predict {other}")


# ---- judging on test ----


def judged(
    evaluated: Mapping[str, Mapping[int, Sequence[Widths]]], memo: Memo, costs: Latencies, design: Design
) -> Record:
    """Fronts chosen on validation (all of the uniform widths), errors on test, and hypervolumes with intervals."""
    chosen = {
        (name, seed): list(dict.fromkeys(row)) if name == UNIFORM else front_of(row, memo.errors(row), costs(row))
        for name, rows in evaluated.items() for seed, row in rows.items()
    }  # fmt: skip
    subnets = list(dict.fromkeys(w for row in chosen.values() for w in row))
    wrong, at = ~memo.right(subnets, "test"), {w: i for i, w in enumerate(subnets)}
    images = wrong.shape[1]
    draws = np.random.default_rng(0).multinomial(images, [1 / images] * images, RESAMPLED)
    weights = np.vstack([np.ones((1, images)), draws]).astype(np.float32)
    errors = wrong.astype(np.float32) @ weights.T / images  # sub-nets × (as it is, resampled)
    uniform = chosen[UNIFORM, 0]
    reference = [
        design.margin * max(float(errors[at[w], 0]) for w in uniform), design.margin * max(costs(uniform))
    ]  # fmt: skip
    volumes: dict[str, NDArray[np.float64]] = {}
    for name, rows in evaluated.items():
        each = []
        for seed in rows:
            row = chosen[name, seed]
            f, latencies = errors[[at[w] for w in row]].astype(np.float64), costs(row)
            each.append([hypervolume(np.array([column, latencies]).T, reference) for column in f.T])
        volumes[name] = np.array(each) / np.prod(reference)
    medians = {name: np.median(value, axis=0) for name, value in volumes.items()}
    return {
        "reference": {"error": reference[0], "latency_ms": reference[1]},
        "rows": {
            name: {
                "evaluated": [len(row) for row in evaluated[name].values()],
                "hypervolume": value[:, 0].tolist(), "median": float(medians[name][0]),
                "ratio": float(medians[OURS][0] / medians[name][0]),
                "ratio_interval": np.quantile(medians[OURS][1:] / medians[name][1:], (0.025, 0.975)).tolist(),
                "fronts": [
                    [[[*w], memo.errors([w])[0], float(errors[at[w], 0]), costs([w])[0]] for w in chosen[name, seed]]
                    for seed in evaluated[name]
                ],
            }
            for name, value in volumes.items()
        },
    }  # fmt: skip


def measured(net: dn.Network, data: dn.Data, rows: Mapping[str, Any]) -> list[Any]:
    """Our first seed's front and the uniform widths, timed in turns: the label, widths, ms predicted and measured."""
    wanted = {tuple(w): (name, ms) for name in (OURS, UNIFORM) for w, _, _, ms in rows[name]["fronts"][0]}
    net = net.copy()
    subnets = [net.subnet(widths=w) for w in wanted]
    net.recalibrate(data.calibration.x, points=subnets)
    front = dn.measure(net, data.val.subset(16), points=subnets)
    by_point = {tuple(r.point.widths): r.latency_ms_measured for r in [*front.records, *front.evaluated]}
    return [[name, [*w], ms, by_point[w]] for w, (name, ms) in wanted.items()]


def judge(result: Record) -> int:
    """Figures beside their goals."""
    goals, rows = Goals(), result["rows"]
    small = result["small"]
    for seed, (count, seconds) in enumerate(zip(result["points"], result["seconds"], strict=True)):
        held = None if small or seconds is None else count >= FULL.budget and seconds <= 60 * MINUTES
        shown = "interrupted" if seconds is None else f"{seconds / 60:.1f} min"
        print(f"{goals.verdict(f'time {seed}', held)} seed {seed}: {count} distinct configurations in {shown} "
              f"(at least {FULL.budget} in {MINUTES:g} min on two cores)")  # fmt: skip
    ours = rows[OURS]
    print(f"      hypervolume of {OURS} on test: {ours['median']:.4f}, seeds {_listed(ours['hypervolume'])}")
    for name, row in rows.items():
        if name == OURS:
            continue
        goal = BEYOND_UNIFORM if name == UNIFORM else 1.0
        held = row["ratio"] >= goal if name == UNIFORM else row["ratio"] > goal
        low, high = row["ratio_interval"]
        print(f"{goals.verdict(name, None if small or name == WHOLE else held)} {OURS} over {name} "
              f"({row['median']:.4f}; {_listed(row['hypervolume'])}; {row['evaluated'][0]} points): "
              f"{row['ratio']:.4f}, 95 % {low:.4f} … {high:.4f} (above {goal:g})", flush=True)  # fmt: skip
    return goals.finish()


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def plot(result: Record, path: Path) -> None:
    """The fronts of the first seed on test, and the hypervolumes of all seeds."""
    drawn, (fronts, volumes) = figure(2, 5.6)
    names = list(result["rows"])
    for k, (name, (colour, marker)) in enumerate(zip(names, STYLES[1:], strict=False)):
        row = result["rows"][name]
        points = sorted((ms, 100 * (1 - error)) for _, _, error, ms in row["fronts"][0])
        fronts.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, linewidth=0.8, label=name)
        values = sorted(set(row["hypervolume"]))
        volumes.plot(values, [k] * len(values), color=colour, marker=marker, linestyle="none")
    fronts.set(xlabel="latency as the device model has it, ms", ylabel="test accuracy, %")
    fronts.set_title("fronts of the first seed, chosen on validation", fontsize=9)
    fronts.legend(fontsize=8)
    volumes.set(xlabel="hypervolume on test, share of the reference box", yticks=range(len(names)), yticklabels=names)
    volumes.invert_yaxis()
    volumes.set_title("all seeds", fontsize=9)
    drawn.suptitle(f"{result['cpu']}: int8, one thread, {result['design']['budget']} evaluations", fontsize=9)
    save(drawn, path)


# ---- running ----


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of CIFAR-10 in the binary layout")
    parser.add_argument("--work", type=Path, default=Path("explore-work"), help="kept parts (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of explore.json and .png (default: results; small: --work)")
    parser.add_argument("--train", action="store_true", help="make the network and stop")
    parser.add_argument("--small", action="store_true", help="a toy of the same shape, in seconds, without goals")
    options = parser.parse_args(arguments)
    options.out = options.out or (options.work if options.small else RESULTS)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    design, work = SMALL if options.small else FULL, options.work
    work.mkdir(parents=True, exist_ok=True)
    data = data_of(options)
    net = trained(data, design, work)
    if options.train:
        return 0
    start = time.perf_counter()
    path = work / "device.json"
    device = dn.Device.from_speed(5, 1e9) if options.small else dn.profile_device(net, threads=1, path=path)
    profiled = time.perf_counter() - start
    ours = {seed: explored(net, data, device, design, work, seed) for seed in range(design.seeds)}
    costs, memo = Latencies(net, device), Memo(net, data, work / "memo.jsonl")
    for record in ours.values():
        agree(memo, record)
    evaluated = searches(net, choices_of(net, design), memo, costs, design, ours)
    found = judged(evaluated, memo, costs, design)
    memo.close()
    result = {
        "script": "benchmarks/explore.py", "small": options.small, **environment(0, ("optuna",)),
        "design": asdict(design), "profile_seconds": profiled,
        "seconds": [record["seconds"] for record in ours.values()],
        "points": [len({tuple(w) for w in record["evaluated"]}) for record in ours.values()],
        "stopped": [len(record["stopped"]) for record in ours.values()],
        "load_average_of_searches": [record["load_average"] for record in ours.values()],
        **found, "measured": measured(net, data, found["rows"]),
    }  # fmt: skip
    write_json(options.out / "explore.json", result)
    plot(result, options.out / "explore.png")
    return judge(result)


if __name__ == "__main__":
    sys.exit(main())
