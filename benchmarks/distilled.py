"""What the comparison of halting trains: two sets of images and signals, teachers, and rules that share their runs."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cells import Bench, Waiting
from numpy.typing import NDArray

import dynadnn as dn
from dynadnn import _checkpoint

F32 = NDArray[np.float32]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pretrained networks


@dataclass(frozen=True)
class Half:
    """One data set with its networks; widths are those of student, trainee and teacher."""

    name: str
    widths: tuple[int, int, int]
    epochs: int
    fixed: int  # epoch after which a fixed rule ends distillation
    seeds: int
    lr: float = 0.2
    augmented: bool = True  # a live teacher then sees other images every epoch


def data_of(bench: Bench, half: Half) -> Any:
    return bench.data if half.augmented else dn.datasets.waves(*bench.design.waves, rng=0)


def student_of(data: Any, half: Half, seed: int) -> dn.Network:
    make = dn.nets.resnet20 if half.augmented else dn.nets.cnn1d
    return make(data, width=half.widths[0], rng=seed)


def trainee_of(data: Any, half: Half, seed: int) -> dn.Network:
    make = dn.nets.resnet32 if half.augmented else dn.nets.cnn1d
    return make(data, width=half.widths[1], rng=seed + 1000)


def untrained_teacher(bench: Bench, half: Half, data: Any) -> dn.Network:
    """The pretrained ResNet-56; a wide network to be trained for signals and with --small."""
    if not half.augmented:
        return dn.nets.cnn1d(data, width=half.widths[2], rng=2000)
    if bench.small:
        return dn.nets.resnet20(data, width=half.widths[2], rng=2000)
    if bench.options.teacher is None:
        raise SystemExit("--teacher is needed: the checkpoint of the pretrained ResNet-56")
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from cifar_resnet import load_checkpoint

    module = load_checkpoint(bench.options.teacher)
    return dn.from_torch(module, (32, 32, 3), preprocess=dn.Preprocess(mean=MEAN, std=STD))


def teacher_of(bench: Bench, half: Half, data: Any) -> tuple[dn.Network, dict[str, Any]]:
    """The teacher, trained or fine-tuned on this training set, and its figures before and after."""
    net = untrained_teacher(bench, half, data)
    facts: dict[str, Any] = {}
    pretrained = half.augmented and not bench.small
    if pretrained:
        facts["test as published"] = net.evaluate(data.test, metrics=("accuracy",))["accuracy"]
        net.recalibrate(data.calibration.x)
    epochs, lr = (bench.design.teacher_epochs, 0.01) if pretrained else (half.epochs, half.lr)
    bench.fit(f"base teacher {half.name}", net, data, epochs=epochs, optimizer=dn.SGD(lr=lr), rng=2000)
    return net, {**facts, "epochs": epochs}


class Memo:
    """A teacher that computes every batch of images once and keeps its outputs in a folder.

    Runs of one seed see the same augmented images in the same order, so the second run reads what the first computed:
    the same bits. Their seconds are still those of a teacher that runs in every step.
    """

    def __init__(self, net: dn.Network, folder: Path) -> None:
        self.engine, self.folder = net.compile(threads=1), folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, images: NDArray[Any]) -> F32:
        path = self.folder / f"{hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()[:32]}.npy"
        if path.exists():
            known: F32 = np.load(path)
            return known
        outputs = np.array(self.engine(images))
        passing = path.with_suffix(".part")
        with passing.open("wb") as file:
            np.save(file, outputs)
        os.replace(passing, path)
        return outputs


def logits_of(net: dn.Network, images: NDArray[Any], batch: int) -> F32:
    """A teacher's outputs for all training images as they are."""
    engine = net.compile(threads=1)
    return np.concatenate([np.array(engine(images[i : i + batch])) for i in range(0, len(images), batch)])


@dataclass(frozen=True, repr=False)
class Switched(dn.EarlyHalting):
    """Rules of which only some halt anything.

    Until the first halt a run is the same whichever are switched on. So its description, which says whether a
    checkpoint is of the same run, leaves `active` out, and a halted run can go on from an epoch of the run that
    nothing halts.
    """

    active: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Switched(patience={self.patience}, min_gain={self.min_gain}, cooldown={self.cooldown})"

    def stop_training(self, losses: Any) -> bool:
        return "training" in self.active and super().stop_training(losses)

    def stop_trainee(self, student: Any, trainee: Any) -> bool:
        return "trainee" in self.active and super().stop_trainee(student, trainee)

    def stop_teacher(self, change: Any) -> bool:
        return "teacher" in self.active and super().stop_teacher(change)


def first_halts(rule: dn.EarlyHalting, history: dn.History, checkpoint: Path) -> dict[str, int]:
    """After how many epochs of a run that nothing halted each rule says so first; without what never does."""
    student, trainee = history.history["val_loss"], history.history["trainee_val_loss"]
    change = _checkpoint.read(checkpoint)[0].teaching["change"]
    found = {}
    for epoch in range(1, len(student)):
        says = {
            "trainee": rule.stop_trainee(student[:epoch], trainee[:epoch]),
            "teacher": rule.stop_teacher(change[: epoch - 1]),  # none after the first epoch
            "training": rule.stop_training(student[:epoch]),
        }
        for what, halted in says.items():
            if halted:
                found.setdefault(what, epoch)
    return found


class SoftUntil(dn.Callback):
    """Distillation that ends after an epoch: from then on the student learns from labels alone."""

    def __init__(self, kd: dn.KD, epochs: int) -> None:
        self.kd, self.epochs = kd, epochs

    def on_epoch_begin(self, logs: dict[str, Any]) -> None:
        if logs["epoch"] >= self.epochs:
            object.__setattr__(self.kd, "soft_weight", 0.0)


def phases(history: dn.History, half: Half, steps: int, teacher: int | None, trainee: bool) -> dict[str, int]:
    """Steps of each phase: which of teacher and trainee still worked.

    `steps` is those of an epoch; `teacher` the epochs after which the teacher has no part any more, None if it has to
    the end or to its halt.
    """
    halts = {halt.what: halt.epoch * steps for halt in history.halted}
    total = history.steps
    ends = {
        "teacher": min(total, halts.get("teacher", total), total if teacher is None else teacher * steps),
        "trainee": min(total, halts.get("trainee", total)) if trainee else 0,
    }
    found: dict[str, int] = {}
    edges = sorted({0, total, *ends.values()})
    for first, last in itertools.pairwise(edges):
        who = ["student", *(name for name, end in ends.items() if end >= last)]
        found[f"{half.name} {' + '.join(who)}"] = last - first
    return found


def needed(record: Mapping[str, Any], key: str) -> Any:
    if key not in record:
        raise Waiting(f"it needs a record with {key}")
    return record[key]
