"""Early halting of distillation beside the ways to train a small network without it, at equal epochs and equal seconds.

usage: halting.py --root DIR --teacher FILE [--work DIR] [--time | --table | --dry-run | --small]

CIFAR-10: a ResNet-20 of half width learns from the pretrained ResNet-56, fine-tuned on this training set, and from a
ResNet-32 that is trained beside it. Signals (`dn.datasets.waves`): a narrow cnn1d learns from wider ones; they need
neither --root nor --teacher (--only 'waves/*'). Every row of a seed begins with the same weights and sees the same
images in the same order.
"""

from __future__ import annotations

import math
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
    KeepEpochs,
    Record,
    after_epoch,
    copy_file,
    judged,
    main,
    named,
    points,
    seconds_of,
    seconds_per_call,
    timed,
    timing_data,
)
from distilled import (
    Half,
    Memo,
    SoftUntil,
    Switched,
    data_of,
    first_halts,
    logits_of,
    phases,
    student_of,
    teacher_of,
    trainee_of,
    untrained_teacher,
)
from drawing import STYLES, figure, save

import dynadnn as dn

HALTS = {
    "halt trainee": ("trainee",),
    "halt teacher": ("teacher",),
    "halt training": ("training",),
    "halt all": ("trainee", "teacher", "training"),
}
EQUAL = ", equal seconds"
WITH_EQUAL = ("alone", "live", "cached", "throughout", "halt all")  # "fixed" is the reference itself
REFERENCE = "fixed"
GOAL_TIME, GOAL_ACCURACY = 0.30, -0.005


@dataclass(frozen=True)
class Design:
    """Constants of the comparison, fixed before any test image was read."""

    halves: tuple[Half, ...]
    waves: tuple[int, int, int, int]  # n, length, channels, classes
    batch: int = 128
    teacher_epochs: int = 1
    patience: int = 3
    min_gain: float = 0.002
    cooldown: float = 0.15

    def rule(self, active: tuple[str, ...]) -> Switched:
        return Switched(patience=self.patience, min_gain=self.min_gain, cooldown=self.cooldown, active=active)


FULL = Design(
    halves=(
        Half("cifar10", widths=(8, 16, 16), epochs=10, fixed=5, seeds=3),
        Half("waves", widths=(8, 32, 64), epochs=20, fixed=10, seeds=5, augmented=False),
    ),
    waves=(20000, 32, 1, 12),
)
SMALL = Design(
    halves=(
        Half("cifar10", widths=(8, 8, 16), epochs=3, fixed=1, seeds=2),
        Half("waves", widths=(8, 16, 16), epochs=3, fixed=1, seeds=2, augmented=False),
    ),
    waves=(600, 16, 1, 4),
    batch=64,
    patience=1,
    min_gain=0.5,
)


# ---- rows ----


@dataclass(eq=False)
class Row:
    """One training of a student: what all rows share."""

    bench: Bench
    half: Half
    seed: int
    epochs: int
    key: str

    def __post_init__(self) -> None:
        self.data = data_of(self.bench, self.half)
        self.net = student_of(self.data, self.half, self.seed)
        self.steps = int(self.bench.steps(1, self.data))

    def options(self) -> dict[str, Any]:
        batch = self.bench.design.batch
        return {"epochs": self.epochs, "optimizer": dn.SGD(lr=self.half.lr), "batch": batch, "rng": self.seed}

    def distill(self, teacher: Any, **more: Any) -> dn.History:
        return self.bench.distill(self.key, self.net, teacher, self.data, **self.options(), **more)

    def checkpoint(self, key: str | None = None) -> Path:
        return self.bench.file(f"{key or self.key}.checkpoint")

    def live(self) -> Any:
        """The teacher as it is used in every step; on augmented images its outputs are kept for the next row."""
        net = tuned(self.bench, self.half)
        return Memo(net, self.bench.file(f"{self.half.name} memo {self.seed}")) if self.half.augmented else net

    def record(self, history: dn.History, steps: dict[str, int]) -> Record:
        halts = [{"what": halt.what, "epoch": halt.epoch, "why": halt.why} for halt in history.halted]
        found = judged(self.bench, named(self.net), self.data)
        return {**found, "phases": steps, "epochs": history.epochs, "planned_epochs": self.epochs, "halts": halts}


def tuned(bench: Bench, half: Half) -> dn.Network:
    """The finished teacher; its cell says how good it is."""
    bench.record_of(f"{half.name}/teacher/seed 0")
    kept = bench.__dict__.setdefault("teachers", {})
    if half.name not in kept:
        kept[half.name] = teacher_of(bench, half, data_of(bench, half))[0]
    net: dn.Network = kept[half.name]
    return net


def teacher(bench: Bench, seed: int, half: Half) -> Record:
    data = data_of(bench, half)
    net, facts = teacher_of(bench, half, data)
    return {**judged(bench, named(net), data), **facts, "phases": {}, "halts": []}


def alone(row: Row) -> Record:
    width = row.half.widths[0]
    name = f"base resnet20 width {width} epochs {row.epochs} seed {row.seed}" if row.half.augmented else row.key
    history = row.bench.fit(name, row.net, row.data, **row.options())
    return row.record(history, {f"{row.half.name} alone": history.steps})


def live(row: Row) -> Record:
    history = row.distill(row.live(), callbacks=[KeepEpochs(row.checkpoint())])
    return row.record(history, phases(history, row.half, row.steps, None, False))


def cached(row: Row) -> Record:
    """Outputs for the images as they are, computed once."""
    known = logits_of(tuned(row.bench, row.half), row.data.train.x, row.bench.design.batch)
    history = row.distill(known)
    once = {f"{row.half.name} teacher": math.ceil(len(known) / row.bench.design.batch)}
    return row.record(history, {**phases(history, row.half, row.steps, 0, False), **once})


def fixed(row: Row) -> Record:
    """The run of `live`, until distillation ends after a fixed epoch: labels alone from there on."""
    until, kd = row.half.fixed, dn.KD()
    begun = after_epoch(row.checkpoint(row.key.replace("fixed", "live")), until)
    if begun.exists() and not row.checkpoint().exists():
        copy_file(begun, row.checkpoint())
    history = row.distill(row.live(), kd=kd, callbacks=[SoftUntil(kd, until)])
    steps = {f"{row.half.name} student + teacher": until * row.steps}
    return row.record(history, {**steps, f"{row.half.name} alone": history.steps - until * row.steps})


def beside(row: Row, active: tuple[str, ...], callbacks: tuple[dn.Callback, ...] = ()) -> tuple[dn.History, Record]:
    """Teacher and trainee, with the halts that are switched on."""
    trainee = trainee_of(row.data, row.half, row.seed)
    rule = row.bench.design.rule(active)
    history = row.distill(row.live(), trainee=trainee, halting=rule, callbacks=callbacks)
    # without augmentation the teacher's first outputs are its last, so that its halt is after one epoch
    until = 1 if "teacher" in active and not row.half.augmented else None
    record = row.record(history, phases(history, row.half, row.steps, until, True))
    if until:
        record["halts"].append({"what": "teacher", "epoch": 1, "why": "the images are not augmented"})
    return history, record


def throughout(row: Row) -> Record:
    history, record = beside(row, (), (KeepEpochs(row.checkpoint()),))
    plain = row.bench.design.rule(HALTS["halt all"])
    return {**record, "first_halts": first_halts(plain, history, row.checkpoint())}


def halted(row: Row, active: tuple[str, ...], prefix: str | None) -> Record:
    """A halted run; with `prefix` it goes on from that run's last epoch before the first halt, the same bits."""
    if prefix is None:
        return beside(row, active)[1]
    whole = row.bench.record_of(prefix)
    first = min((epoch for what, epoch in whole["first_halts"].items() if what in active), default=row.epochs + 1)
    begun = after_epoch(row.checkpoint(prefix), min(first, row.epochs) - 1)
    if begun.exists() and not row.checkpoint().exists():
        copy_file(begun, row.checkpoint())
    return beside(row, active)[1]


ROWS: dict[str, Callable[[Row], Record]] = {
    "alone": alone, "live": live, "cached": cached, "fixed": fixed, "throughout": throughout,
}  # fmt: skip


def run(bench: Bench, seed: int, half: Half, name: str) -> Record:
    key = f"{half.name}/{name}/seed {seed}"
    kind = name.removesuffix(EQUAL)
    equal = kind != name
    epochs = equal_epochs(bench, seed, half, kind, key) if equal else half.epochs
    row = Row(bench, half, seed, epochs, key)
    if kind not in HALTS:
        return ROWS[kind](row)
    return halted(row, HALTS[kind], None if equal else f"{half.name}/throughout/seed {seed}")


def equal_epochs(bench: Bench, seed: int, half: Half, kind: str, key: str) -> int:
    """Epochs that take the seconds of the reference row."""
    reference = dict(bench.record_of(f"{half.name}/{REFERENCE}/seed {seed}")["phases"])
    model = bench.record_of(f"{half.name}/{kind}/seed {seed}")
    once = f"{half.name} teacher"
    if once in model["phases"]:
        reference[once] = reference.get(once, 0) - model["phases"][once]
    each = {phase: count / model["planned_epochs"] for phase, count in model["phases"].items() if phase != once}
    return bench.equal_epochs(key, reference, each)


# ---- cells and times ----


def cost(bench: Bench, half: Half, name: str) -> dict[str, float]:
    """Steps that the accuracy run is expected to compute.

    A guess: the trainee halts after a third. Rows of one seed share the teacher's outputs, and halts go on from the run
    that nothing halts, so they compute less than their seconds say.
    """
    n, f, h, seconds = half.epochs, half.fixed, half.name, bench.assumed_seconds
    student, trainee, plain = f"{h} student", f"{h} student + trainee", f"{h} alone"
    with_teacher, both = f"{h} student + teacher", f"{h} student + teacher + trainee"
    reference = f * seconds(with_teacher) + (n - f) * seconds(plain)  # per step of an epoch
    whole, less = reference / seconds(both), reference / (seconds(both) / 3 + seconds(with_teacher) * 2 / 3)
    rest = {student: 2 * n / 3, trainee: 1}
    table: dict[str, dict[str, float]] = {
        "teacher": {f"{h} tuning": bench.design.teacher_epochs if half.augmented else n},
        "alone": {plain: n},
        "live": {with_teacher if half.augmented else student: n},
        "cached": {student: n},
        "fixed": {plain: n - f},
        "throughout": {trainee: n},
        "halt trainee": rest,
        "halt teacher": {trainee: 2},
        "halt training": {trainee: 3},
        "halt all": rest,
        f"alone{EQUAL}": {plain: reference / seconds(plain)},
        f"live{EQUAL}": {student: reference / seconds(with_teacher)},
        f"cached{EQUAL}": {student: reference / seconds(student)},
        f"throughout{EQUAL}": {trainee: whole},
        f"halt all{EQUAL}": {trainee: less / 3, student: less * 2 / 3},
    }
    each = bench.steps(1, None if half.augmented else data_of(bench, half))
    return {phase: epochs * each for phase, epochs in table[name].items()}


def cells(design: Design) -> list[Cell]:
    found = []
    for half in design.halves:
        rows = [*ROWS, *HALTS, *(name + EQUAL for name in WITH_EQUAL)]
        trained = [(partial(teacher, half=half), "teacher", 0)]
        trained += [(partial(run, half=half, name=name), name, seed) for seed in range(half.seeds) for name in rows]
        for function, name, seed in trained:
            steps = partial(cost, half=half, name=name)
            found.append(Cell(f"{half.name}/{name}", seed, function, steps))
    return found


def timers(bench: Bench) -> dict[str, Callable[[], Any]]:
    """Steps of every phase, each timed on a few batches."""
    found: dict[str, Callable[[], Any]] = {}
    for half in bench.design.halves:
        if half.augmented and not bench.small and bench.options.root is None:
            print(f"--root is not given: {half.name} is not timed")
            continue
        data = timing_data(bench, data_of(bench, half), 6 if half.augmented else 60)
        mentor = untrained_teacher(bench, half, data)
        mentor.recalibrate(data.calibration.x)
        found |= {f"{half.name} {name}": call for name, call in timers_of(bench, half, data, mentor).items()}
    return found


def timers_of(bench: Bench, half: Half, data: Any, mentor: dn.Network) -> dict[str, Callable[[], Any]]:
    few = logits_of(mentor, data.train.x, bench.design.batch)
    common = {"optimizer": dn.SGD(lr=0.01), "batch": bench.design.batch}
    engine, images = mentor.compile(threads=1), np.ascontiguousarray(data.train.x[: bench.design.batch])

    def student() -> dn.Network:
        return student_of(data, half, 0)

    def trainee() -> dict[str, Any]:
        return {"trainee": trainee_of(data, half, 0)}

    def step(name: str, *arguments: Any, **more: Any) -> dict[str, list[float]]:
        return timed(f"{half.name} {name}", *arguments, **common, **more)

    return {
        "alone": lambda: step("alone", dn.fit, student(), data),
        "student": lambda: step("student", dn.distill, student(), few, data),
        "student + teacher": lambda: step("student + teacher", dn.distill, student(), mentor, data),
        "student + trainee": lambda: step("student + trainee", dn.distill, student(), few, data, **trainee()),
        "both": lambda: step("student + teacher + trainee", dn.distill, student(), mentor, data, **trainee()),
        "teacher": lambda: {f"{half.name} teacher": seconds_per_call(lambda: engine(images))},
        "tuning": lambda: step("tuning", dn.fit, mentor.copy(), data),
    }


# ---- tables ----


def figures(result: Record, half: Record, name: str) -> dict[int, Record]:
    """Accuracy, seconds and halts of a row by seed, of the seeds that are there."""
    found = {}
    for seed in range(half["seeds"]):
        cell = result["cells"].get(f"{half['name']}/{name}/seed {seed}", {})
        if "accuracy" in cell:
            accuracy = next(reversed(cell["accuracy"].values()))
            found[seed] = {**cell, "test": accuracy, "seconds": seconds_of(result, cell["phases"])}
    return found


def pairs(a: dict[int, Record], b: dict[int, Record], key: str) -> dn.Runs | None:
    """Differences of two rows by seed; None if none has both."""
    seeds = tuple(sorted(a.keys() & b.keys()))
    return dn.Runs(seeds, {key: np.array([a[s][key] - b[s][key] for s in seeds])}) if seeds else None


def saved(a: dict[int, Record], b: dict[int, Record]) -> dn.Runs | None:
    """Share of b's seconds that a does not take, by seed."""
    seeds = tuple(sorted(a.keys() & b.keys()))
    return (
        dn.Runs(seeds, {"saved": np.array([1 - a[s]["seconds"] / b[s]["seconds"] for s in seeds])}) if seeds else None
    )


def spread(runs: dn.Runs | None, key: str) -> str | None:
    return None if runs is None else points(runs.mean[key], runs.interval[key])


def row_of(result: Record, half: Record, name: str, beside: dict[int, Record]) -> tuple[Any, ...]:
    rows = figures(result, half, name)
    if len(rows) < half["seeds"]:
        return (name.removesuffix(EQUAL), f"{len(rows)} of {half['seeds']} seeds", *[None] * 6)
    values = np.array([row["test"] for row in rows.values()])
    runs = dn.Runs(tuple(rows), {"test": values})
    low, high = runs.interval["test"]
    halts = sorted({f"{halt['what']} {halt['epoch']}" for row in rows.values() for halt in row["halts"]})
    planned = sorted({str(row["planned_epochs"]) for row in rows.values()})
    return (
        name.removesuffix(EQUAL), "/".join(planned), f"{100 * runs.mean['test']:.2f}",
        "–" if math.isinf(low) else f"{100 * low:.2f} … {100 * high:.2f}",
        float(np.mean([row["seconds"] for row in rows.values()])), spread(pairs(rows, beside, "test"), "test"),
        spread(saved(rows, beside), "saved"), ", ".join(halts) or "none",
    )  # fmt: skip


COLUMNS = (
    "row", "epochs", "test accuracy %", "95 % interval", "seconds",
    "accuracy − throughout, points", "time saved against throughout, %", "halted after epoch",
)  # fmt: skip


def tables(result: Record) -> list[dn.Table]:
    found = []
    for half in result["design"]["halves"]:
        whole = figures(result, half, "throughout")
        rows = [row_of(result, half, name, whole) for name in (*ROWS, *HALTS)]
        same = [row_of(result, half, name + EQUAL, whole) for name in WITH_EQUAL]
        same.insert(0, row_of(result, half, REFERENCE, whole))
        title = f"{half['name']}, {half['seeds']} seeds, mean and 95 % interval"
        found.append(dn.Table(COLUMNS, rows, f"{title}: equal epochs{teacher_note(result, half)}"))
        found.append(dn.Table(COLUMNS, same, f"{title}: the seconds of '{REFERENCE}'"))
        found.append(dn.Table(("question", "answer"), verdict(result, half), f"{half['name']}: what follows"))
    return found


def teacher_note(result: Record, half: Record) -> str:
    cell = result["cells"].get(f"{half['name']}/teacher/seed 0", {})
    if "accuracy" not in cell:
        return " (teacher: missing)"
    before = cell.get("test as published")
    first = "" if before is None else f"{100 * before:.2f} % as published, "
    return f" (teacher: {first}{100 * next(iter(cell['accuracy'].values())):.2f} % on these test images)"


def best_halt(result: Record, half: Record) -> str | None:
    """The fastest halting row within half a point of 'throughout', or else the most accurate."""
    whole, found = figures(result, half, "throughout"), []
    for name in HALTS:
        rows = figures(result, half, name)
        runs = pairs(rows, whole, "test")
        if runs is not None and len(rows) == half["seeds"]:
            found.append((name, runs.mean["test"], float(np.mean([row["seconds"] for row in rows.values()]))))
    close = [row for row in found if row[1] >= GOAL_ACCURACY]
    if close:
        return min(close, key=lambda row: row[2])[0]
    return max(found, key=lambda row: row[1])[0] if found else None


def seconds_to_reach(result: Record, half: Record, name: str, seed: int, accuracy: float) -> float | None:
    """Seconds that a row needs for an accuracy: between its two lengths, linear in the logarithm of the seconds.

    The seconds of its shorter run if that reaches it already, None if neither does.
    """
    runs = [figures(result, half, kind).get(seed) for kind in (name, name + EQUAL)]
    known = sorted((row["seconds"], row["test"]) for row in runs if row is not None)
    if not known or max(test for _, test in known) < accuracy:
        return None
    if known[0][1] >= accuracy or len(known) == 1:
        return float(known[0][0])
    (t0, a0), (t1, a1) = known[0], known[-1]
    return float(t0 * (t1 / t0) ** ((accuracy - a0) / (a1 - a0)))


def best_other(result: Record, half: Record, halt: str) -> tuple[str, dict[int, float]] | None:
    """The row without halts that reaches a halting row's accuracy, seed by seed, in the least seconds."""
    wanted = figures(result, half, halt)
    found = []
    for name in ROWS:
        times = {s: seconds_to_reach(result, half, name, s, row["test"]) for s, row in wanted.items()}
        reached = {s: t for s, t in times.items() if t is not None}
        if reached and len(reached) == len(wanted):
            found.append((name, reached))
    return min(found, key=lambda row: sum(row[1].values())) if found else None


def verdict(result: Record, half: Record) -> list[tuple[str, str]]:
    halt = best_halt(result, half)
    if halt is None:
        return [("the best halting row", "missing")]
    rows, whole = figures(result, half, halt), figures(result, half, "throughout")
    time_saved, accuracy = saved(rows, whole), pairs(rows, whole, "test")
    assert time_saved is not None and accuracy is not None
    held = time_saved.mean["saved"] >= GOAL_TIME and accuracy.interval["test"][0] > GOAL_ACCURACY
    goal = f"goal: ≥ {100 * GOAL_TIME:.0f} % and the worse end above {100 * GOAL_ACCURACY:.1f} points"
    found = [
        ("the best halting row", halt),
        ("against 'throughout': time saved, %", spread(time_saved, "saved") or ""),
        ("against 'throughout': accuracy, points", spread(accuracy, "test") or ""),
        (goal, "met" if held else "NOT met"),
    ]
    other = best_other(result, half, halt)
    if other is None:
        found.append(("the best other row at its accuracy", "no other row reaches its accuracy for every seed"))
        return found
    name, times = other
    shares = np.array([1 - rows[s]["seconds"] / t for s, t in times.items()])
    found.append(("the best other row at its accuracy", f"{name}, {np.mean(list(times.values())):.4g} s"))
    runs = dn.Runs(tuple(times), {"saved": shares})
    found.append(("against it: time saved at equal accuracy, %", spread(runs, "saved") or ""))
    return found


# ---- plot ----


def plot(result: Record, path: Path) -> None:
    """Accuracy over seconds: means over the seeds with their 95 % intervals; hollow marks at equal seconds."""
    halves = [h for h in result["design"]["halves"] if any(key.startswith(f"{h['name']}/") for key in result["cells"])]
    drawn, axes = figure(max(len(halves), 1))
    for ax, half in zip(axes, halves, strict=False):
        for style, name in zip(STYLES, (*ROWS, *HALTS), strict=False):
            for kind, hollow in ((name, False), (name + EQUAL, True)):
                rows = list(figures(result, half, kind).values())
                if rows:
                    mark(ax, rows, style, None if hollow else name, hollow)
        ax.set(xscale="log", xlabel="training time of all networks (s, one thread)", ylabel="test accuracy (%)")
        ax.set_title(f"{half['name']}: filled {half['epochs']} epochs, hollow equal seconds", fontsize=9)
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(fontsize=7)
    save(drawn, path)


def mark(ax: Any, rows: list[Record], style: tuple[str, str], label: str | None, hollow: bool) -> None:
    values = np.array([100 * row["test"] for row in rows])
    runs = dn.Runs(tuple(range(len(rows))), {"v": values})
    low, high = runs.interval["v"] if len(rows) > 1 else (values[0], values[0])
    mean, seconds = runs.mean["v"], float(np.mean([row["seconds"] for row in rows]))
    colour, shape = style
    ax.errorbar(
        seconds, mean, [[mean - low], [high - mean]], color=colour, marker=shape, markersize=7, capsize=3, linewidth=1,
        markerfacecolor="none" if hollow else colour, label=label, linestyle="none",
    )  # fmt: skip


def add_options(parser: Any) -> None:
    parser.add_argument("--teacher", type=Path, help="checkpoint of the pretrained ResNet-56")


COMPARISON = Comparison(
    name="halting", design=FULL, small=SMALL, cells=cells, timers=timers, tables=tables, plot=plot, options=add_options,
    assumed={
        "cifar10 alone": 0.12, "cifar10 student": 0.12, "cifar10 student + teacher": 0.40,
        "cifar10 student + trainee": 0.71, "cifar10 student + teacher + trainee": 0.99, "cifar10 teacher": 0.28,
        "cifar10 tuning": 1.1, "waves alone": 0.002, "waves student": 0.002, "waves student + teacher": 0.015,
        "waves student + trainee": 0.011, "waves student + teacher + trainee": 0.024, "waves teacher": 0.013,
        "waves tuning": 0.04,
    },
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(COMPARISON, __doc__))
