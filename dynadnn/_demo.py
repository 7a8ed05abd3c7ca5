"""The demo – the whole chain on this machine within a minute, and an honest word on how it went."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ._record import Record
from ._statistics import Difference
from ._table import Table

if TYPE_CHECKING:
    from ._data import Data
    from ._front import Front
    from ._history import History
    from ._network import Network

POINTS = (0.25, 0.5, 0.75, 1.0)
# Shares of the time; what is left over goes to loading, quantising, measuring and drawing.
TEACHER, STUDENT, SEARCH = 0.26, 0.44, 0.18
LEAST_SEARCH = 5.0  # seconds: what a few points take on a machine that is busy
LEAST_EPOCHS, BUDGET = 3, 96


class Recipe(NamedTuple):
    """Sizes that suit a data set; the numbers of epochs are the most."""

    teacher_width: int
    student_width: int
    batch: int
    teacher_epochs: int
    student_epochs: int
    lr: float
    adam: bool


RECIPES = {"digits": Recipe(32, 16, 32, 12, 14, 0.003, True), "cifar10": Recipe(32, 16, 128, 100, 100, 0.2, False)}


class Check(NamedTuple):
    """Something the demo promises, and whether it came true."""

    promise: str
    held: bool
    figure: str


def run_demo(name: str, root: Path | None, out: Path, seconds: float, start: float) -> dict[str, Any]:
    """Run the demo and write its files.

    Parameters
    ----------
    name : str
        ``"digits"`` or ``"cifar10"``.
    root : Path or None
        Folder of CIFAR-10.
    out : Path
        Folder for model.safetensors, front.json, front.png and history.csv.
    seconds : float
        How long all of it may take, roughly; training and search are sized to fit.
    start : float
        When it started, ``time.monotonic()``.

    Returns
    -------
    dict
        The result, as ``--json`` prints it.
    """
    from . import datasets, nets
    from ._distill import distill
    from ._explore import explore
    from ._halting import EarlyHalting
    from ._measure import measure
    from ._optimizers import SGD, AdamW
    from ._quantize import quantize
    from ._train import fit

    out.mkdir(parents=True, exist_ok=True)
    recipe = RECIPES[name]
    data = datasets.digits(rng=0) if name == "digits" else datasets.cifar10(str(root))
    say(f"data      {name}: {len(data.train)} training, {len(data.val)} validation, {len(data.test)} test images")

    teacher = nets.resnet20(data, width=recipe.teacher_width, rng=0)
    optimizer = AdamW(lr=recipe.lr) if recipe.adam else SGD(lr=recipe.lr)
    options: dict[str, Any] = {"batch": recipe.batch, "optimizer": optimizer, "rng": 0}

    def teach(net: Network, some: Data, epochs: int, **further: Any) -> History:
        return fit(net, some, epochs=epochs, **options, **further)

    epochs = affordable(teach, teacher, data, TEACHER * seconds, recipe.teacher_epochs)
    teacher_history = teach(teacher, data, epochs)
    say(f"teacher   {describe(teacher)}, {epochs} epochs, {elapsed(start)}")

    student = nets.resnet20(data, width=recipe.student_width, points=POINTS, divisor=4, rng=0)

    def distil(net: Network, some: Data, epochs: int, **further: Any) -> History:
        halting = EarlyHalting() if epochs > 1 else None
        return distill(net, teacher, some, epochs=epochs, halting=halting, **options, **further)

    epochs = affordable(distil, student, data, STUDENT * seconds, recipe.student_epochs)
    student_history = distil(student, data, epochs)
    say(f"student   {describe(student)}, {len(POINTS)} widths in one, up to {epochs} epochs, {elapsed(start)}")

    model = quantize(student, data, bits=8)
    say(f"int8      {model.bytes():,} bytes instead of {student.bytes():,}, {elapsed(start)}")

    useful = model.evaluate(data.val, POINTS[0])["accuracy"] - 0.02  # less than the narrowest offers is no use
    front = explore(
        model,
        data,
        constraints=f"accuracy >= {useful:.3f}",
        budget=BUDGET,
        max_seconds=max(SEARCH * seconds, LEAST_SEARCH),
        population=16,
        rng=0,
    )
    say(f"search    {len(front.evaluated)} operating points evaluated, {len(front)} on the front, {elapsed(start)}")

    others = measure({"teacher fp32": teacher, "student fp32": student}, data.val, points=[1.0])
    front.evaluate(data.test)
    others.evaluate(data.test)
    for record in others.records:
        front.add(str(record.model), accuracy=record.accuracy or 0.0, latency_ms=record.latency or 0.0)

    shown = shown_points(front)
    slowest = max(shown, key=lambda r: r.latency or 0.0)
    limit = rounded(0.5 * ((slowest.latency or 0.0) + min(r.latency or 0.0 for r in shown)))
    picked = front.pick(latency_ms=limit)
    checks = verify(front, others, teacher, data, limit)

    files = write_files(out, front, picked, {"teacher": teacher_history, "student": student_history})
    rows = [*shown, *others.records]
    code = ship_line(out, limit)
    say("")
    say(str(front.summary(rows)))
    say("")
    say(
        f"Accuracy is on {len(data.val)} validation images, which the search used to choose; test images were not used."
    )
    say(recommendation(picked, slowest, limit))
    say(f"Ship it with\n    {code}")
    say("")
    for check in checks:
        say(f"{'as promised' if check.held else 'NOT reached'}: {check.promise}: {check.figure}")
    if not all(check.held for check in checks):
        say("What was not reached may be the short training, or other work on this machine: try a larger --seconds.")
    say("")
    say(f"wrote {', '.join(files)} to {out} in {time.monotonic() - start:.0f} s")
    return {
        "data": name,
        "seconds": time.monotonic() - start,
        "machine": front.machine,
        "points": rows_of(rows),
        "limit_ms": limit,
        "picked": picked.label,
        "widths": picked.point.widths,
        "code": code,
        "checks": [check._asdict() for check in checks],
        "files": [str(out / file) for file in files],
    }


def say(text: str) -> None:
    """Print a line now."""
    print(text, flush=True)


def elapsed(start: float) -> str:
    """Return how far we are."""
    return f"at {time.monotonic() - start:.0f} s"


def affordable(train: Callable[..., Any], net: Network, data: Data, seconds: float, most: int) -> int:
    """Epochs that fit into a time, from one epoch over a part of the data on a copy."""
    part = data.subset(min(len(data.train), 512))
    begin = time.monotonic()
    train(net.copy(), part, 1, progress=False)
    took = (time.monotonic() - begin) * len(data.train) / len(part.train)
    return max(LEAST_EPOCHS, min(most, int((seconds - (time.monotonic() - begin)) / took)))


def describe(net: Network) -> str:
    """Return the size of a network."""
    return f"{net.macs() / 1e6:.1f} million MACs, {net.params():,} parameters"


def shown_points(front: Front) -> list[Record]:
    """Return the front and the named points, by latency."""
    named = [r for r in front.evaluated if r.name and r.failure is None]
    both = {(r.point, r.threads): r for r in [*named, *front.records]}
    return sorted(both.values(), key=lambda r: r.latency or 0.0)


def rounded(value: float) -> float:
    """Two significant digits: a limit as people write it."""
    return float(f"{value:.2g}")


def verify(front: Front, others: Front, teacher: Network, data: Data, limit: float) -> list[Check]:
    """Hold the result against what a curve is for."""
    named = {r.name: r for r in front.evaluated if r.name}
    narrow, wide = named["0.25"], named["1.0"]
    ratio = (wide.latency or 0.0) / max(narrow.latency or 0.0, 1e-9)
    gain: Difference = front.compare(wide, narrow, data.test)
    slower = [r for r in shown_points(front) if (r.latency or 0.0) > limit]
    of = {r.model: r for r in others.records}
    tutor = of["teacher fp32"]
    times = (tutor.latency or 0.0) / max(wide.latency or 0.0, 1e-9)
    better = (tutor.accuracy_test or 0.0) - (wide.accuracy_test or 0.0)
    return [
        Check("the widest point takes at least twice as long as the narrowest", ratio >= 2, f"{ratio:.1f} times"),
        Check(
            "the widest point is clearly more accurate than the narrowest on the test images", gain.low > 0, str(gain)
        ),
        Check(
            f"the limit of {limit:g} ms rules points out", bool(slower), f"{len(slower)} of {len(shown_points(front))}"
        ),
        Check("the teacher is slower than the student", times > 1, f"{times:.1f} times"),
        Check(
            "the teacher is more accurate than the student",
            better > 0,
            f"{better * 100:+.1f} points on test",
        ),
    ]


def recommendation(picked: Record, slowest: Record, limit: float) -> str:
    """Return the sentence that names the point."""
    low, high = picked.accuracy_interval or (0.0, 1.0)
    faster = (slowest.latency or 0.0) / max(picked.latency or 0.0, 1e-9)
    accuracy = f"{(picked.accuracy or 0) * 100:.1f} % [{low * 100:.1f} {high * 100:.1f}]"
    return (
        f"Within {limit:g} ms, take point {picked.label}: {accuracy} in {picked.latency or 0:.4f} ms, "
        f"{faster:.1f} times as fast as the slowest."
    )


def ship_line(out: Path, limit: float) -> str:
    """Return the code that runs the recommended point."""
    model, front = str(out / "model.safetensors"), str(out / "front.json")
    return (
        f"import dynadnn as dn; net = dn.load({model!r}); engine = net.compile(); "
        f"engine.select(dn.Front.load({front!r}, net).pick(latency_ms={limit:g}))"
    )


def write_files(out: Path, front: Front, picked: Record, histories: dict[str, History]) -> list[str]:
    """Write model, front, plot and history; return what was written."""
    files = ["model.safetensors", "front.json", "history.csv"]
    front.network.save(out / files[0])
    front.save(out / files[1])
    history_table(histories).to_csv(out / files[2])
    try:
        ax = front.plot(mark=picked)
    except ImportError as error:
        say(f"front.png  not drawn: {error}")
        return files
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(out / "front.png", dpi=150)
    return [*files, "front.png"]


def history_table(histories: dict[str, History]) -> Table:
    """Return the training histories one below the other."""
    columns = list(dict.fromkeys(name for h in histories.values() for name in h.history if name != "epoch"))
    rows = []
    for run, history in histories.items():
        for epoch in range(max(map(len, history.history.values()), default=0)):
            values = [history.history.get(name, []) for name in columns]
            rows.append([run, epoch, *(v[epoch] if epoch < len(v) else None for v in values)])
    return Table(("run", "epoch", *columns), rows)


def rows_of(records: list[Record]) -> list[dict[str, Any]]:
    """Return the records as ``--json`` prints them."""
    names = (
        "accuracy", "accuracy_interval", "accuracy_test", "accuracy_test_interval", "latency_ms",
        "latency_ms_measured", "latency_ms_p10", "latency_ms_p90", "runs", "bytes", "macs",
    )  # fmt: skip
    return [{"point": r.label, **{name: getattr(r, name) for name in names}} for r in records]
