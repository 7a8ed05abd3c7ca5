"""The chain on real images: pretrained teacher, dynamic student distilled with early halting, int8, search, curve.

usage: cifar10.py --root DIR --teacher FILE [--epochs N] [--work DIR]

Teacher: the pretrained CIFAR ResNet-56 in FILE (option-A shortcuts) through `from_torch`, fine-tuned on this training
set until it beats the student trained alone. Student: a dynamic ResNet-20 at four widths, distilled with early halting.
Both are judged on the test split, which nothing else reads. Prints a line for each promise, exits with 1 if one fails.
Trained networks are kept in --work, so that an interrupted run goes on where it stopped.
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

import dynadnn as dn
from dynadnn._machine import this_machine
from dynadnn._measure import measure_records
from dynadnn._record import Record
from dynadnn._timing import nondominated

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from cifar_resnet import load_checkpoint

WIDTHS = (0.25, 0.5, 0.75, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HERE = Path(__file__).parent / "results"


class Stages:
    """Networks and notes of the finished stages, one file each."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.notes: dict[str, Any] = {}

    def network(self, name: str, make: Any) -> dn.Network:
        """The network of a stage: from its file, or made, timed and kept."""
        path, note = self.folder / f"{name}.safetensors", self.folder / f"{name}.json"
        if not (path.exists() and note.exists()):
            start = time.perf_counter()
            net, facts = make()
            facts["seconds"] = round(time.perf_counter() - start, 1)
            net.save(path, calibration=True)
            note.write_text(json.dumps(facts))
        self.notes[name] = json.loads(note.read_text())
        print(f"{name}: {self.notes[name]}", flush=True)
        return dn.load(path)


def accuracy(net: dn.Network, split: Any, point: Any = None) -> float:
    return round(float(net.evaluate(split, point, metrics=("accuracy",))["accuracy"]), 4)


def train_alone(data: Any, options: argparse.Namespace) -> tuple[dn.Network, dict[str, Any]]:
    net = dn.nets.resnet20(data, width=16, rng=options.seed)
    history = dn.fit(net, data, epochs=options.epochs, optimizer=dn.SGD(lr=0.2), rng=options.seed)
    return net, {"val": accuracy(net, data.val), "test": accuracy(net, data.test), "epochs": history.epochs}


def tune_teacher(data: Any, options: argparse.Namespace, to_beat: float) -> tuple[dn.Network, dict[str, Any]]:
    module = load_checkpoint(options.teacher)
    net = dn.from_torch(module, (32, 32, 3), preprocess=dn.Preprocess(mean=MEAN, std=STD))
    facts: dict[str, Any] = {"epochs": 0, "test_as_published": accuracy(net, data.test)}
    net.recalibrate(data.calibration.x)
    while facts["epochs"] < 1 or accuracy(net, data.val) <= to_beat:
        dn.fit(net, data, epochs=1, optimizer=dn.SGD(lr=0.01), rng=options.seed + facts["epochs"])
        facts["epochs"] += 1
        if facts["epochs"] == 20:
            raise RuntimeError(f"the teacher does not beat {to_beat}, the student alone, within 20 epochs")
    return net, {**facts, "val": accuracy(net, data.val), "test": accuracy(net, data.test)}


def distil_student(data: Any, teacher: dn.Network, options: argparse.Namespace) -> tuple[dn.Network, dict[str, Any]]:
    net = dn.nets.resnet20(data, width=16, points=WIDTHS, rng=options.seed)
    history = dn.distill(
        net, teacher, data, epochs=options.epochs, optimizer=dn.SGD(lr=0.2), method=dn.Sandwich(),
        halting=dn.EarlyHalting(), rng=options.seed, checkpoint=options.work / "student.checkpoint",
    )  # fmt: skip
    halted = [str(halt) for halt in history.halted]
    return net, {"epochs": history.epochs, "halted": halted, "val": {p: accuracy(net, data.val, p) for p in net.points}}


def time_twins(front: Any, student: dn.Network, data: Any) -> list[dict[str, Any]]:
    """Every int8 point of the front beside the fp32 network at the same widths, all timed in turns."""
    twins, pairs = student.copy(), []
    subnets = [student.subnet(widths=r.point.widths) for r in front.records]
    twins.recalibrate(data.calibration.x, [s for s in subnets if s not in twins.tables])
    int8 = [Record(point=r.point, model="int8", name=r.name) for r in front.records]
    fp32 = [Record(point=s, model="fp32") for s in subnets]
    timed = list(measure_records({"int8": front.network, "fp32": twins}, int8 + fp32).values())
    by_key = {(t.model, t.point): t.latency_ms_measured for t in timed}
    for record, subnet in zip(front.records, subnets, strict=True):
        pair = {"int8_ms": by_key["int8", record.point], "fp32_ms": by_key["fp32", subnet]}
        pairs.append({"point": record.label, **pair})
    return pairs


def plot(front: Any, teacher: tuple[float, float], alone: tuple[float, float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    front.add("teacher ResNet-56, fp32", accuracy=teacher[0], latency_ms=teacher[1])
    front.add("ResNet-20 trained alone, fp32", accuracy=alone[0], latency_ms=alone[1])
    figure, axes = plt.subplots(figsize=(8, 5))
    front.plot(ax=axes)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of CIFAR-10 in the binary layout")
    parser.add_argument("--teacher", type=Path, required=True, help="checkpoint of the pretrained ResNet-56")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--budget", type=int, default=256, help="sub-nets evaluated by the search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("cifar10-work"))
    parser.add_argument("--out", type=Path, default=HERE)
    return parser.parse_args()


def main() -> int:
    options = parse()
    data = dn.datasets.cifar10(options.root)
    stages = Stages(options.work)
    alone = stages.network("alone", lambda: train_alone(data, options))
    teacher = stages.network("teacher", lambda: tune_teacher(data, options, stages.notes["alone"]["val"]))
    student = stages.network("student", lambda: distil_student(data, teacher, options))
    model = stages.network("model", lambda: (dn.quantize(student, data), {}))
    start = time.perf_counter()
    front = dn.explore(model, data, budget=options.budget, rng=options.seed, progress=False)
    searched = time.perf_counter() - start
    front.evaluate(data.test)
    twins = time_twins(front, student, data)
    others = dn.measure({"teacher": teacher, "alone": alone}, data.test).records
    latency = {r.model: r.latency_ms_measured for r in others}
    measured = np.array([[1 - r.accuracy, r.latency_ms_measured] for r in front.records])
    points = int(nondominated(measured).sum())
    slower = [t["point"] for t in twins if t["int8_ms"] >= t["fp32_ms"]]
    notes = stages.notes
    promises = [
        (points >= 8, f"non-dominated points on measured latency: {points} (goal >= 8)"),
        (not slower, f"int8 points slower than their fp32 twin: {len(slower)} of {len(twins)} {slower} (goal 0)"),
        (notes["teacher"]["val"] > notes["alone"]["val"], "the teacher beats the student trained alone on validation: "
         f"{notes['teacher']['val']} against {notes['alone']['val']}"),
    ]  # fmt: skip
    for held, text in promises:
        print("ok   " if held else "SHORT", text)
    options.out.mkdir(parents=True, exist_ok=True)
    machine = this_machine()
    result = {
        "script": "benchmarks/cifar10.py", "epochs": options.epochs, "seed": options.seed, "budget": options.budget,
        "cpu": machine.cpu, "cores": machine.cores, "isa": machine.isa, "versions": machine.versions,
        "date": machine.date, "load_average": os.getloadavg(), "stages": notes, "search_seconds": round(searched, 1), "reference_ms": latency,
        "twins": twins,
        "front": [
            {"point": r.label, "widths": r.point.widths, "val": r.accuracy, "val_interval": r.accuracy_interval,
             "test": r.accuracy_test, "ms": r.latency_ms_measured, "ms_p10": r.latency_ms_p10,
             "ms_p90": r.latency_ms_p90, "bytes": r.bytes, "macs": r.macs}
            for r in front.records
        ],
    }  # fmt: skip
    (options.out / "cifar10.json").write_text(json.dumps(result, indent=1) + "\n")
    references = [(notes[name]["test"], latency[name]) for name in ("teacher", "alone")]
    plot(front, *references, options.out / "cifar10.png")
    return 0 if all(held for held, _ in promises) else 1


if __name__ == "__main__":
    sys.exit(main())
