"""Training killed at random moments: what was saved is whole, and going on gives the bits of a run without kills.

    python tests/soak/kill.py [--kills 500] [--resumes 100] [--seed 0] [--out FILE]

Kills: a child trains and saves after every step; SIGKILL ends it at a random moment, again and again until the run is
over, and the next run begins. After every kill the checkpoint must load and must not be older than the last step whose
save the child had acknowledged. Resumes: a run is killed one to four times and resumed until its end; weights and
history (times excepted) must be those of the same run without kills. Methods, optimisers, averages, rollbacks, threads
and how often is saved are drawn at random. Started again with the same --out it goes on where it was. Exits with 1 at
the first fault, whose trial it prints.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "benchmarks")]

import common  # noqa: E402
import numpy as np  # noqa: E402

import dynadnn as dn  # noqa: E402
from dynadnn import _checkpoint  # noqa: E402

HANG = 120.0  # seconds without a word from a child
ACK = struct.Struct("<ii")  # channel group (0: none), steps finished and saved
OFTEN: tuple[dict[str, Any], ...] = ({"every_steps": 1}, {"every_steps": 3}, {"every_seconds": 0.01}, {})
FAMILIES = ("plain", "sandwich", "single path", "distillation", "incremental")

DATA = dn.datasets.digits(rng=0).subset(160)
IMAGES = dn.datasets.shapes(n=160, size=8, rng=0)


def fragile(outputs: Any, y: Any) -> tuple[Any, Any]:
    """Cross-entropy that breaks where outputs are large: what a rollback answers."""
    if np.abs(outputs).max() > 6:
        return np.full(len(y), np.nan, np.float32), np.zeros_like(outputs)
    return dn.CrossEntropy()(outputs, y, None)


@dataclass(frozen=True)
class Run:
    """A training run, drawn at random."""

    family: str
    options: dict[str, Any]
    seed: int

    def networks(self) -> list[dn.Network]:
        """Make the networks that are trained: one, and a trainee where there is one."""
        if self.family == "incremental":
            return [dn.nets.resnet20(IMAGES, width=16, groups=2, points=(0.5, 1.0), rng=self.seed)]
        points = (1.0,) if self.family == "plain" else (0.25, 0.5, 1.0)
        nets = [dn.nets.mlp(DATA, width=32, points=points, rng=self.seed)]
        if self.family == "distillation":
            nets.append(dn.nets.mlp(DATA, width=24, rng=self.seed + 1))
        return nets

    def train(self, nets: list[dn.Network], teacher: dn.Network, **more: Any) -> dn.History | str:
        """Train to the end; the history, or what the run says that went back too often."""
        options = {"progress": False, "rng": self.seed, **self.options, **more}
        data = IMAGES if self.family == "incremental" else DATA
        try:
            if self.family == "distillation":
                return dn.distill(nets[0], teacher, data, trainee=nets[1], **options)
            return dn.fit(nets[0], data, **options)
        except dn.NonFiniteError as error:
            return str(error)


def draw(rng: np.random.Generator, rollbacks: bool) -> Run:
    """Draw a family and its options; every one of them that changes the numbers has a chance."""
    family = FAMILIES[int(rng.integers(len(FAMILIES)))]
    options: dict[str, Any] = {
        "epochs": 2 if family == "incremental" else int(rng.integers(3, 6)),
        "batch": 30 if family == "incremental" else 40,
        "optimizer": dn.AdamW(lr=1e-2) if rng.random() < 0.4 else dn.SGD(lr=float(rng.choice([0.1, 0.4]))),
        "schedule": str(rng.choice(["onecycle", "cosine", "constant"])),
        "precision": "bf16" if rng.random() < 0.2 else "fp32",
        "ema": 0.9 if rng.random() < 0.4 else None,
        "augment": dn.Augment(shift=1) if rng.random() < 0.4 else None,
    }
    if family == "sandwich":
        options["method"] = dn.Sandwich(random=int(rng.integers(0, 4)))
    elif family == "single path":
        options["method"] = dn.SinglePath()
    elif family == "distillation":
        options["halting"] = dn.EarlyHalting(patience=1, min_gain=float(rng.choice([0.002, 0.2])))
    if rollbacks and family in ("plain", "sandwich", "single path") and rng.random() < 0.4:
        options |= {"loss": fragile, "on_nonfinite": "rollback", "optimizer": dn.SGD(lr=1.0)}
    return Run(family, options, int(rng.integers(2**31)))


# ---- children ----


class Acknowledge(dn.Callback):
    """Tells the parent how many steps are finished and saved, if every step is saved: the next one begins."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_step_begin(self, logs: dict[str, Any]) -> None:
        os.write(self.pipe, ACK.pack(logs.get("group", 0), logs["step"]))


def result(nets: list[dn.Network], history: dn.History | str) -> str:
    """Everything a run leaves behind but times, as text."""
    digests = []
    for net in nets:
        digest = hashlib.sha256()
        for key in sorted(net.weights):
            digest.update(net.weights[key].tobytes())
        for tables in net.tables.values():
            digest.update(tables.mean.tobytes() + tables.variance.tobytes())
        digests.append(digest.hexdigest())
    if isinstance(history, str):
        return json.dumps([digests, history, [], [history], []])
    figures = {key: values for key, values in history.history.items() if key != "seconds"}
    halted = [(h.what, h.epoch, h.why) for h in history.halted]
    rollbacks = [(r.epoch, r.step, r.to_step, r.factor) for r in history.rollbacks]
    cost = history.steps, history.skipped, history.macs
    return json.dumps([digests, figures, halted, rollbacks, cost])


class Child:
    """A forked child in training, and what it says."""

    def __init__(self, body: Callable[[int], None]) -> None:
        self.acknowledged: list[tuple[int, int]] = []
        self.rest = b""
        self.pipe, inner = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork with threads
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self.pipe)
                body(inner)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(inner)

    def listen(self, count: float = float("inf")) -> bool:
        """Wait for so many acknowledgements in all; False if the child ended first."""
        while len(self.acknowledged) < count:
            if not select.select([self.pipe], [], [], HANG)[0]:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"a child said nothing for {HANG:g} s")
            data = os.read(self.pipe, 1 << 16)
            if not data:
                return False
            self.rest += data
            whole = len(self.rest) // ACK.size * ACK.size
            self.acknowledged += ACK.iter_unpack(self.rest[:whole])
            self.rest = self.rest[whole:]
        return True

    def end(self, kill: bool) -> bool:
        """Kill it or let it end; whether it was killed before it ended by itself."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        self.listen()
        os.close(self.pipe)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert status in (0, -signal.SIGKILL), f"a child failed with {status}"
        return status != 0


def kill_somewhere(child: Child, rng: np.random.Generator, most: int) -> bool:
    """Kill a child some steps after it began to train, and a random while later; False if it ended before that."""
    alive = child.listen(1 + int(rng.integers(most)))
    if alive:
        time.sleep(float(rng.uniform(0, 0.012)))
    return child.end(kill=alive)


# ---- trials ----


class Campaign:
    """Counts, and where the files are."""

    def __init__(self, seed: int, out: Path | None) -> None:
        self.seed, self.out = seed, out
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0
        if out is not None and out.exists():
            known = json.loads(out.read_text())
            if known["environment"]["seed"] == seed:
                self.counts.update(known["counts"])
                self.seconds = known["seconds"]
        self.started = time.monotonic()
        self.teacher = dn.nets.mlp(DATA, width=48, rng=9)
        dn.fit(self.teacher, DATA, epochs=4, batch=40, progress=False, threads=1, rng=0)

    def write(self) -> None:
        """Record how far the campaign is."""
        if self.out is not None:
            seconds = self.seconds + time.monotonic() - self.started
            head = {"environment": common.environment(self.seed), "seconds": round(seconds, 1)}
            with contextlib.redirect_stdout(None):
                common.write_json(self.out, {**head, "counts": dict(self.counts)})

    def kills(self, count: int, work: Path) -> None:
        """Kill a child that saves after every step, until so many kills are counted."""
        run, path = None, work / "run"
        for _ in range(20 * count):
            if self.counts["kills"] >= count:
                return
            number = self.counts["kills"] + self.counts["runs that ended before the kill"]
            rng = np.random.default_rng([self.seed, 1, number])
            if run is None:
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir(parents=True)
                run = draw(rng, rollbacks=False)  # with them the last step saved may be earlier than one before it
            checkpoint = dn.Checkpoint(path, every_steps=1)
            child = self.train(run, work / "out.json", checkpoint, 1)
            if kill_somewhere(child, rng, 8):
                self.counts["kills"] += 1
                self.counts[f"kills: {run.family}"] += 1
                self.check(path, run, child.acknowledged, f"kill {number}")
            else:
                self.counts["runs that ended before the kill"] += 1
                run = None
            if number % 25 == 24:
                print(f"{self.counts['kills']} kills, {time.monotonic() - self.started:.0f} s", flush=True)
                self.write()

    def check(self, path: Path, run: Run, acknowledged: list[tuple[int, int]], what: str) -> None:
        """What a kill left: every file loads, the last is not older than what was acknowledged."""
        self.counts["kills in the middle of a write"] += any(path.parent.glob(".*.tmp"))
        group, step = acknowledged[-1] if acknowledged else (0, 0)
        last = path if run.family != "incremental" else path.with_name(f"{path.name}.group{group}")
        assert step == 0 or last.exists(), f"{what}, {run}: step {step} was acknowledged, and there is no checkpoint"
        for file in path.parent.glob(f"{path.name}*"):
            try:
                document, _ = _checkpoint.read(file)
            except Exception as error:
                raise AssertionError(f"{what}, {run}: {file.name} cannot be read: {error!r}") from error
            self.counts["checkpoints read"] += 1
            if file == last:
                assert document.step >= step, f"{what}, {run}: step {step} was acknowledged, {document.step} is saved"

    def resumes(self, count: int, work: Path) -> None:
        """Compare so many runs that are killed and resumed with the same runs left alone."""
        while self.counts["runs resumed"] < count:
            number = self.counts["runs resumed"]
            rng = np.random.default_rng([self.seed, 2, number])
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            run = draw(rng, rollbacks=True)
            want, got = work / "want.json", work / "got.json"
            self.train(run, want, None, 1).end(kill=False)
            killed = 0
            for _ in range(int(rng.integers(1, 5))):
                often = OFTEN[int(rng.integers(len(OFTEN)))]
                child = self.train(run, got, dn.Checkpoint(work / "run", **often), int(rng.integers(1, 3)))
                killed += kill_somewhere(child, rng, 12)
            self.train(run, got, dn.Checkpoint(work / "run"), 1).end(kill=False)
            self.counts["kills before a resumption"] += killed
            fault = difference(want, got)
            assert fault is None, f"resume {number}, {run}, killed {killed} times: {fault}"
            self.counts["runs resumed"] += 1
            self.counts[f"resumed: {run.family}"] += 1
            self.counts["resumed: with rollbacks"] += bool(json.loads(want.read_text())[3])
            self.counts["resumed: with something halted"] += bool(json.loads(want.read_text())[2])
            if number % 10 == 9:
                print(f"{number + 1} runs resumed, {time.monotonic() - self.started:.0f} s", flush=True)
                self.write()

    def train(self, run: Run, out: Path, checkpoint: dn.Checkpoint | None, threads: int) -> Child:
        """Start a child that trains to the end and writes what came out."""

        def body(pipe: int) -> None:
            warnings.simplefilter("ignore", UserWarning)  # of a teacher that is weaker
            nets, more = run.networks(), {"checkpoint": checkpoint, "threads": threads}
            history = run.train(nets, self.teacher, callbacks=[Acknowledge(pipe)], **more)
            out.write_text(result(nets, history))

        return Child(body)


def difference(want: Path, got: Path) -> str | None:
    """Where two results differ, or None."""
    names = ("weights and statistics", "history", "halted", "rollbacks", "cost")
    for name, a, b in zip(names, json.loads(want.read_text()), json.loads(got.read_text()), strict=True):
        if repr(a) != repr(b):  # NaN is equal to itself here
            return f"{name}: {a} without kills, {b} with them"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--resumes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=common.RESULTS / "kill.json")
    arguments = parser.parse_args()
    campaign = Campaign(arguments.seed, arguments.out)
    with tempfile.TemporaryDirectory(prefix="dynadnn-kill-") as folder:
        try:
            campaign.kills(arguments.kills, Path(folder) / "kills")
            campaign.resumes(arguments.resumes, Path(folder) / "resumes")
        except AssertionError as error:
            print(f"SHORT {error}")
            return 1
    campaign.write()
    short = campaign.counts["kills"] < arguments.kills
    print(f"{'SHORT' if short else 'ok   '} {json.dumps(campaign.counts)}")
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
