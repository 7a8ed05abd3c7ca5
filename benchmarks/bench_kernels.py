"""Kernels against what this CPU can do: multiply-accumulates per second beside those of their dot product alone.

usage: bench_kernels [--isa avx2,…] [--only TEXT] [--seconds S] [--json FILE] [--seed N]

Every kernel of every instruction set that this CPU has runs typical layers with the tiles that a plan chooses, in turns
with a probe: the kernel's own dot product on registers, nothing loaded or stored. Issued multiply-accumulates count,
with the columns that pad a map. Pooling and sums count elements and have no probe. Exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import cbuild
from common import Goals, environment, pin_to_one_core, write_json

from dynadnn import _core

HERE = Path(__file__).parent
MOST_MACS = 500e6  # larger layers say nothing new and take seconds


class Case(NamedTuple):
    """One layer: square maps, padded to the same size; `inputs` and `outputs` are channels."""

    type: str
    op: str
    side: int
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1

    @property
    def name(self) -> str:
        stride = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.type} {self.op} {self.kernel}x{self.kernel}{stride} {self.inputs}->{self.outputs} on {self.side}"

    @property
    def goal(self) -> float | None:
        """Share of the int8 probe, from the loads and the epilogue that such a layer cannot do without."""
        if self.type != "s8":
            return None
        narrow = min(self.inputs, self.outputs)
        if self.op == "conv" and self.kernel == 3:
            return next((goal for least, goal in ((64, 0.93), (32, 0.90), (16, 0.80)) if narrow >= least), None)
        if self.op == "conv" and self.kernel == 1 and narrow >= 64:
            return 0.77
        return 0.35 if self.op == "dwconv" and self.kernel == 3 and self.stride == 1 else None


# 1x1 layers of MobileNetV2: side, inputs, outputs.
POINTWISE = (
    *((112, 32, 16), (112, 16, 96), (56, 96, 24), (56, 24, 144), (28, 144, 32), (28, 32, 192), (14, 192, 64)),
    *((14, 64, 384), (14, 384, 96), (14, 96, 576), (7, 576, 160), (7, 160, 960), (7, 960, 320), (7, 320, 1280)),
    *((32, 16, 96), (16, 192, 64), (8, 384, 96)),
)
DEPTHWISE = ((112, 32), (56, 144), (28, 192), (14, 384), (14, 576), (7, 960), (32, 96), (16, 192), (8, 384))


def layers(type: str) -> Iterator[Case]:
    """Typical layers of inference in one arithmetic."""
    for side in (32, 16, 8, 56, 28, 14, 7):
        for channels in (4, 8, 16, 32, 64, 128, 256, 512):
            if side * side * channels * channels * 9 <= MOST_MACS:
                yield Case(type, "conv", side, channels, channels, 3)
    for side, inputs, outputs in ((32, 16, 32), (16, 32, 64), (56, 64, 128), (28, 128, 256)):
        yield Case(type, "conv", side, inputs, outputs, 3, 2)
    for side, inputs, outputs in POINTWISE:
        yield Case(type, "conv", side, inputs, outputs)
    for side, outputs, kernel, stride in ((32, 16, 3, 1), (32, 64, 3, 1), (224, 32, 3, 2), (224, 64, 7, 2)):
        yield Case(type, "first", side, 3, outputs, kernel, stride)
    for side, channels in DEPTHWISE:
        for kernel in (3, 5):
            for stride in (1, 2):
                yield Case(type, "dwconv", side, channels, channels, kernel, stride)
    for inputs, outputs in ((64, 10), (512, 10), (256, 256), (1024, 1024), (4096, 1024), (4096, 512), (1280, 1000)):
        yield Case(type, "linear", 1, inputs, outputs)
        if type == "s8":  # the same in a plan that offers 4 bits: 8 bits read both planes of its weights, 4 bits one
            yield Case(type, "planes8", 1, inputs, outputs)
            yield Case(type, "planes4", 1, inputs, outputs)
    for side, channels in ((32, 16), (112, 64), (14, 256)):
        yield Case(type, "max_pool", side, channels, channels, 2, 2)
        yield Case(type, "avg_pool", side, channels, channels, 2, 2)
        yield Case(type, "add", side, channels, channels)


def training() -> Iterator[Case]:
    """Passes of training on the maps of a ResNet-20, and of one four times as wide."""
    for side, channels in ((32, 16), (16, 32), (8, 64), (32, 64), (8, 256)):
        for op in ("convgrad", "norm", "actgrad", "normgrad", "sums"):
            yield Case("train", op, side, channels, channels)


class Harness:
    """The compiled program that times one case a line."""

    def __init__(self, seed: int) -> None:
        build = cbuild.Build(HERE.parent / "build" / "benchmarks", cbuild.RELEASE)
        command = [str(build.program(HERE / "kernels.c")), str(seed)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def time(self, isa: str, case: Case, seconds: float) -> tuple[str, float, float] | None:
        """Kernel, 1e9 operations per second, share of the probe; None where this ISA has no such kernel."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(isa, *case, seconds, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the harness ended with {self.process.wait()} at {isa} {case.name}")
        if answer.strip() == "-":
            return None
        if answer.strip() == "differs":
            raise RuntimeError(f"{isa} {case.name}: the outputs are not those of the reference kernels")
        kernel, giga, share = answer.rstrip("\n").split("\t")
        return kernel, float(giga), float(share)


def judge(case: Case, isa: str, kernel: str, giga: float, share: float, goals: Goals) -> dict[str, Any]:
    """Print one figure beside its goal, and return it as a row of the result."""
    goal = case.goal if share else None
    word = goals.verdict(f"{isa} {case.name}", share >= goal if goal else None)
    multiplies = case.op in ("conv", "first", "dwconv", "linear", "planes8", "planes4", "convgrad")
    figure = f"{giga:8.2f} {'GMAC/s' if multiplies else 'G/s   '}" + (f"  {share:5.3f} of the probe" if share else "")
    aim = f" (goal >= {goal:.2f})" if goal else ""
    print(f"{word} {isa:<8} {case.name:<36} {figure}{aim}  {kernel}", flush=True)
    row = {"isa": isa, **case._asdict(), "kernel": kernel, "giga_per_s": giga}
    return {**row, "share": share or None, "goal": goal}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", help="instruction sets, with commas; all of this CPU but ref without")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--seconds", type=float, default=0.05, help="time for each case (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> int:
    options = parse()
    found = _core.config()["isa_found"]
    isas = options.isa.split(",") if options.isa else [isa for isa in found if isa != "ref"]
    pin_to_one_core()
    head, harness, goals = environment(options.seed), Harness(options.seed), Goals()
    print(f"{head['cpu']}, {head['compiler']}")
    rows = []
    for isa in isas:
        for case in (*layers("s8"), *layers("f32"), *training()):
            if options.only not in case.name:
                continue
            timed = harness.time(isa, case, options.seconds)
            if timed is not None:
                rows.append(judge(case, isa, *timed, goals))
    if not rows:
        print(f"nothing was timed: this CPU has {', '.join(found)}, and --only is {options.only!r}")
        return 2
    code = goals.finish()
    if options.json:
        write_json(options.json, {"script": "benchmarks/bench_kernels.py", **head, "rows": rows})
    return code


if __name__ == "__main__":
    sys.exit(main())
