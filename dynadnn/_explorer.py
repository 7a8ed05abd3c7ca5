"""The explorer – one HTML file that shows a front, filters it by limits and names the code that ships a point."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ._arguments import missing_extra
from ._container import atomic_write
from ._errors import PointError
from ._machine import cpu_name
from ._quality import is_better_high, label_of, value
from ._record import Record, key

if TYPE_CHECKING:
    from ._front import Front

PERCENT = ("accuracy", "accuracy_test")
LABELS = {
    "accuracy_test": "accuracy on test data (%)",
    "error_test": "error on test data",
    "loss_test": "loss on test data",
}


def write_explorer(front: Front, path: str | Path, model: str | Mapping[str, str]) -> Path:
    """Write the page; see `Front.explorer`."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise missing_extra("plotly", "explorer") from error
    if not front.records:
        raise PointError("this front has no points to look at")
    page = files("dynadnn").joinpath("_data/explorer.html").read_text(encoding="utf-8")
    before, rest = page.split("@DATA@")
    between, after = rest.split("@PLOTLY@")
    atomic_write(path, "".join([before, as_script(describe(front, model)), between, get_plotlyjs(), after]).encode())
    return Path(path)


def as_script(body: Any) -> str:
    """JSON that ends no script element and opens no comment, whatever names it holds."""
    text = msgspec.json.encode(body).decode()
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def describe(front: Front, model: str | Mapping[str, str]) -> dict[str, Any]:
    """Return what the page knows of a front."""
    kept = {key(r) for r in front.records}
    rest = [r for r in front.evaluated if r.judged and key(r) not in kept]
    points = [*front.records, *rest]
    names = columns(front, points)
    test = "accuracy_test" if front.quality == "accuracy" else f"{front.quality}_test"
    try:
        knee: int | None = front.records.index(front.knee())
    except PointError:
        knee = None
    return {
        "about": about(front),
        "quality": front.quality,
        "test": test,
        "knee": knee,
        "columns": [
            {
                "key": name,
                "label": LABELS.get(name) or label_of(name, points),
                "high": name == "accuracy_test" or is_better_high(name.removesuffix("_test"), front.maximize),
                "test": name.endswith("_test"),  # shown, and never a limit to choose by
                "scale": 100 if name in PERCENT else 1,
            }
            for name in names
        ],
        "points": [describe_record(r, names, i < len(front.records), model) for i, r in enumerate(points)],
        "references": [
            {"name": r.name, "metric": r.metric, "figure": r.figure, "latency_ms": r.latency_ms}
            for r in front.references
        ],
    }


def about(front: Front) -> str:
    """One line on what the figures are of."""
    here = "" if front.machine.cpu == cpu_name() else ", not the machine that this page was written on"
    seed = "" if front.seed is None else f" Seed {front.seed}."
    count = f"{len(front.records)} points of {len(front.evaluated)} evaluated."
    bars = "Bars: 10th to 90th percentile of measured latencies, 95 % intervals of accuracies and measured energies."
    return f"Latencies of {front.machine.cpu}{here}, one image at a time. {count}{seed} {bars}"


def columns(front: Front, points: list[Record]) -> list[str]:
    """Names of the columns that any point has, latency and quality first."""
    further = dict.fromkeys(name for r in points for name in r.values)
    wanted = ["latency_ms", front.quality, "accuracy_test", "energy_mj", "bytes", "macs", "threads", "error", "loss"]
    known = [n for n in dict.fromkeys([*wanted, *further]) if any(figure(r, n) is not None for r in points)]
    says_nothing = {
        "error": "accuracy" in known,
        "threads": len({r.threads for r in points}) < 2,
        "loss": all(r.loss == r.error for r in points),
    }
    return [n for n in known if n == front.quality or not says_nothing.get(n, False)]


def figure(record: Record, name: str) -> float | None:
    """Value of a column, that on test data included."""
    return record.accuracy_test if name == "accuracy_test" else value(record, name)


def describe_record(record: Record, names: list[str], on_front: bool, model: str | Mapping[str, str]) -> dict[str, Any]:
    """Return what the page knows of one point."""
    ranges: dict[str, Any] = {}
    if record.latency_ms_p10 is not None and record.latency_ms_p90 is not None:
        ranges["latency_ms"] = (record.latency_ms_p10, record.latency_ms_p90)
    if record.energy_mj is not None and record.energy_mj_error is not None:
        ranges["energy_mj"] = (record.energy_mj - record.energy_mj_error, record.energy_mj + record.energy_mj_error)
    ranges |= {"accuracy": record.accuracy_interval, "accuracy_test": record.accuracy_test_interval}
    point = record.point
    structure = [("widths", point.widths), ("bits", tuple(dict.fromkeys(point.bits))), ("depth", point.depth)]
    return {
        "label": record.label,
        "name": record.name,
        "front": on_front,
        "values": {name: figure(record, name) for name in names},
        "ranges": {name: ends for name, ends in ranges.items() if ends is not None},
        "energy_label": record.energy_label,
        "structure": [(name, ", ".join(map(str, item))) for name, item in structure if item],
        "code": code(record, on_front, model),
    }


def code(record: Record, on_front: bool, model: str | Mapping[str, str]) -> str:
    """Lines that write a file of this point alone, and that select it in an engine."""
    path = model if isinstance(model, str) else model.get(record.model or "", f"{record.model}.safetensors")
    point = record.point
    named = record.name is not None and " = " not in record.name
    wanted = repr(record.name) if named else f"dn.Subnet({point.widths}, {point.bits}, {point.depth})"
    lines = ["import dynadnn as dn", f"net, point = dn.load({path!r}), {wanted}"]
    if not (on_front or record.name):  # the file has statistics of the front's points and of the named ones
        lines.append("net.recalibrate(data.calibration.x, points=[point])")
    lines += [
        'net.slice(point).save("shipped.safetensors")  # a file of this point alone',
        f"engine = net.compile(threads={record.threads})  # or all points, and this one selected",
        "engine.select(point)",
    ]
    return "\n".join(lines)
