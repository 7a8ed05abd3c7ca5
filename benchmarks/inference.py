"""Inference of the same networks, in turns: dynadnn against OpenVINO, ONNX Runtime and PyTorch.

usage: inference.py [--nets resnet20,…] [--bits int8,fp32,bf16] [--batch N] [--threads N] [--out DIR] [--name NAME]

Outputs are compared before anything is timed: float within 0.1 % of the largest output, integers at most twice as far
from the float network as the best other engine. Then all engines take turns, there and back, and the median ratio of
neighbouring rounds counts. Batch 1 is always timed, --batch N besides. Engines that are not installed are left out and
said to be. Writes DIR/NAME.json and DIR/NAME.png; exits with 1 if outputs differ.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, Goals, environment, in_turns, pin_to_one_core, write_json
from numpy.typing import NDArray
from peers import CALLS, OFFERED, PEERS, Call, Exported, missing

import dynadnn as dn

F32 = NDArray[np.float32]
# Name: maker, width, side of the images.
NETS: dict[str, tuple[str, int | None, int]] = {
    "resnet20": ("resnet20", None, 32),
    "resnet56": ("resnet56", None, 32),
    "resnet20-wide": ("resnet20", 64, 32),
    "alexnet": ("alexnet", None, 32),
    "mobilenetv2-32": ("mobilenetv2", None, 32),
    "mobilenetv2-224": ("mobilenetv2", None, 224),
    "resnet18-224": ("resnet18", None, 224),
    "resnet50-224": ("resnet50", None, 224),
}
LABELS = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "torch": "PyTorch"}


class Subject:
    """One network in float and int8, with images and its exports."""

    def __init__(self, name: str, seed: int, folder: Path) -> None:
        maker, width, side = NETS[name]
        draw = np.random.default_rng(seed)
        self.calibration = draw.standard_normal((16, side, side, 3), dtype=np.float32)
        self.draw, self.side, self.name = draw, side, name
        self.net: dn.Network = getattr(dn.nets, maker)((side, side, 3), 10, width=width, rng=seed)
        self.net.recalibrate(self.calibration)
        self.model = dn.quantize(self.net, self.calibration)
        folder.mkdir()
        self.exported = None if missing("torch") or missing("onnx") else Exported(self.net, self.calibration, folder)

    def images(self, batch: int) -> F32:
        return self.draw.standard_normal((batch, self.side, self.side, 3), dtype=np.float32)

    def ours(self, precision: str, x: F32, threads: int) -> Call:
        """Our call; UnsupportedError where the precision is not to be had."""
        if precision == "int8":
            engine = self.model.compile(threads=threads)
        else:
            engine = self.net.compile(threads=threads, precision=precision)
        out = np.empty((len(x), self.net.outputs), np.float32)
        return lambda: engine(x, out=out)

    def expected(self, x: F32) -> F32:
        """Outputs of the float network, by PyTorch where it is installed."""
        if self.exported is None:
            return self.net(x)
        import torch

        with torch.inference_mode():
            return self.exported.module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


def distance(outputs: F32, expected: F32) -> float:
    """Largest difference over the largest output."""
    return float(np.abs(outputs - expected).max() / np.abs(expected).max())


def allowed_error(precision: str, errors: dict[str, float]) -> float:
    """How far our outputs may be from the float network's: other engines quantise and round too."""
    if precision == "fp32":
        return 1e-3
    # CPUs without bfloat16 instructions: an engine that then computes in fp32 sets no measure for rounding.
    others = [error for name, error in errors.items() if name != "dynadnn" and (precision == "int8" or error > 1e-4)]
    return max(0.02, 2 * min(others, default=0.05))


def compare(subject: Subject, precision: str, batch: int, options: argparse.Namespace, goals: Goals) -> dict[str, Any]:
    """One row: errors first, then times and ratios."""
    x = subject.images(batch)
    row: dict[str, Any] = {"net": subject.name, "precision": precision, "batch": batch, "threads": options.threads}
    try:
        calls = {"dynadnn": subject.ours(precision, x, options.threads)}
    except dn.UnsupportedError as error:
        print(f"      {subject.name} {precision}: left out: {error}")
        return {**row, "left_out": str(error)}
    if subject.exported is not None:
        for peer in OFFERED[precision]:
            unable = missing(peer) or (precision == "int8" and missing("onnxruntime"))
            if not unable:
                calls[peer] = CALLS[peer](subject.exported, x, precision, options.threads)
    expected = subject.expected(x)
    errors = {name: distance(call(), expected) for name, call in calls.items()}
    limit = allowed_error(precision, errors)
    held = errors["dynadnn"] <= limit
    label = f"{subject.name} {precision} batch {batch} threads {options.threads}"
    print(f"{goals.verdict(label, held)} {label}: output error {errors['dynadnn']:.2g} (at most {limit:.2g})")
    row |= {"errors": errors, "allowed_error": limit, "agrees": held}
    if not held:
        return row
    medians, ratio = in_turns(calls, "dynadnn", options.rounds)
    for name in calls:
        beside = "" if name == "dynadnn" else f"  ratio {ratio[name]:.3f}"
        print(f"        {LABELS.get(name, name):<14}{medians[name]:9.4f} ms{beside}", flush=True)
    return {**row, "ms": medians, "ratio_to": {name: r for name, r in ratio.items() if name != "dynadnn"}}


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Our time over each engine's, a bar per engine; left of the line is faster."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    styles = dict(zip(PEERS, (("#0072B2", ""), ("#E69F00", "//"), ("#999999", "..")), strict=True))
    shown = [row for row in rows if row.get("ratio_to")]
    figure, axes = plt.subplots(figsize=(8, 1.5 + 0.5 * max(1, len(shown))), layout="constrained")
    for peer, (colour, hatch) in styles.items():
        bars = [(y, row["ratio_to"][peer]) for y, row in enumerate(shown) if peer in row["ratio_to"]]
        places = [y + 0.25 * (PEERS.index(peer) - 1) for y, _ in bars]
        widths = [value for _, value in bars]
        axes.barh(places, widths, 0.23, color=colour, hatch=hatch, edgecolor="white", label=LABELS[peer])
    axes.axvline(1.0, color="black", linewidth=1)
    names = [f"{r['net']} {r['precision']}" + (f", batch {r['batch']}" if r["batch"] > 1 else "") for r in shown]
    axes.set(yticks=range(len(shown)), yticklabels=names, xlabel="time of dynadnn / time of the other engine")
    axes.set_title(title, fontsize=9)
    axes.invert_yaxis()
    if shown:
        axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default=",".join(NETS), help="with commas (default: %(default)s)")
    parser.add_argument("--bits", default="int8,fp32,bf16", help="precisions with commas (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="a second batch size besides 1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200, help="blocks of each engine (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--name", default="inference", help="of the files (default: %(default)s)")
    options = parser.parse_args()
    options.nets, options.bits = options.nets.split(","), options.bits.split(",")
    for known, asked in ((NETS, options.nets), (OFFERED, options.bits)):
        if unknown := set(asked) - set(known):
            parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(known)}")
    return options


def main() -> int:
    options = parse()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before the others are imported
    if options.threads == 1:
        pin_to_one_core()
    head = environment(options.seed, ("openvino", "onnxruntime", "onnx", "torch"))
    print(f"{head['cpu']}, {head['compiler']}, {head['isa']}")
    for name in (*PEERS, "onnx"):
        if missing(name):
            needed = " (PyTorch and onnx make the files that the others read)" if name in ("torch", "onnx") else ""
            print(f"      {name} is not installed: left out{needed}")
    rows, goals = [], Goals()
    with tempfile.TemporaryDirectory() as folder:
        for net in options.nets:
            subject = Subject(net, options.seed, Path(folder) / net)
            for precision in options.bits:
                for batch in sorted({1, options.batch}):
                    rows.append(compare(subject, precision, batch, options, goals))
                    if "left_out" in rows[-1]:
                        break
    code = goals.finish()
    script = {"script": "benchmarks/inference.py", "rounds": options.rounds}
    write_json(options.out / f"{options.name}.json", {**script, **head, "rows": rows})
    if missing("matplotlib"):
        print("matplotlib is not installed: no plot")
    else:
        threads = f"{options.threads} thread" + "s" * (options.threads > 1)
        plot(rows, f"{head['cpu']}, {threads}", options.out / f"{options.name}.png")
    return code


if __name__ == "__main__":
    sys.exit(main())
