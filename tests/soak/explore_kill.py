"""Searches whose driver is killed at random moments: going on from the checkpoint finds the front of a whole search.

    python tests/soak/explore_kill.py [--kills 20] [--seed 0] [--out FILE]

Each search is drawn at random: network, objectives, limits, executor, and whether latencies come from a table or are
measured. A child runs it and SIGKILL ends the child and its workers at a random moment; the same call is started again
until it ends. After every kill the journal must begin with the whole lines it had before and hold no point twice. At
the end the front and everything evaluated must be those of the same search without kills; where latencies are measured,
which no two runs do alike, they must be those of the journal. Exits with 1 at the first fault, whose trial it prints.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "benchmarks")]

import common  # noqa: E402
import numpy as np  # noqa: E402

import dynadnn as dn  # noqa: E402

EXECUTORS: dict[str, Callable[[], Any] | None] = {
    "serial": None,
    "threads": lambda: ThreadPoolExecutor(2),
    "processes": lambda: ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")),
}
DATA = dn.datasets.digits(rng=0)


def networks() -> list[dn.Network]:
    """Two small quantised networks, briefly trained so that their points differ."""
    made = []
    for net in (
        dn.nets.mlp(DATA, width=48, points=(0.25, 0.5, 1.0), rng=0),
        dn.nets.resnet20(DATA, width=8, divisor=4, points=(0.5, 1.0), rng=0),
    ):
        dn.fit(net, DATA.subset(256), epochs=2, batch=32, progress=False, rng=0)
        made.append(dn.quantize(net, DATA, bits=(8, 4)))
    return made


@dataclass(frozen=True)
class Search:
    """A search, drawn at random."""

    net: int
    executor: str
    measured: bool
    options: dict[str, Any]

    def run(self, nets: list[dn.Network], checkpoint: Path | None) -> str:
        """Search to the end; what it found, as text."""
        front = dn.explore(
            nets[self.net],
            DATA,
            device=None if self.measured else dn.Device.from_speed(5, 1e9),
            executor=EXECUTORS[self.executor] if checkpoint is not None else None,
            checkpoint=checkpoint,
            termination=None,
            progress=False,
            **self.options,
        )
        return json.dumps([[figures(r) for r in some] for some in (front.records, front.evaluated)] + [front.ended])


def figures(r: dn.Record) -> list[Any]:
    return [str(r.point), r.threads, r.accuracy, r.loss, r.latency_ms, r.bytes, r.stopped, sorted(r.violations.items())]


def draw(rng: np.random.Generator) -> Search:
    """Draw a search; everything that changes what is asked for has a chance."""
    options: dict[str, Any] = {
        "objectives": [("error", "latency_ms"), ("error", "bytes"), ("loss", "latency_ms")][int(rng.integers(3))],
        "population": int(rng.choice([8, 12])),
        "generations": int(rng.integers(4, 8)),
        "rng": int(rng.integers(2**31)),
        "stop_early": bool(rng.random() < 0.8),
    }
    if rng.random() < 0.4:
        options["constraints"] = ("bytes <= 20000", "accuracy >= 0.1")
    return Search(int(rng.integers(2)), str(rng.choice(list(EXECUTORS))), bool(rng.random() < 0.25), options)


def attempt(search: Search, nets: list[dn.Network], path: Path, seconds: float) -> str | None:
    """Run a search in a child that is killed after so long; what it found if it ended before."""
    receive, send = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork with threads
        pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            os.close(receive)
            with os.fdopen(send, "w") as pipe:
                pipe.write(search.run(nets, path))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(send)
    parts, end = [], time.monotonic() + seconds
    with os.fdopen(receive, "rb") as pipe:
        while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
            part = os.read(pipe.fileno(), 1 << 16)
            if not part:
                break
            parts.append(part)
        else:
            parts = []
        try:
            os.killpg(pid, signal.SIGKILL)  # its workers with it
        except ProcessLookupError:
            os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return b"".join(parts).decode() or None


def journal_fault(path: Path, before: bytes) -> str | None:
    """What is wrong with a journal that began with these lines."""
    raw = path.read_bytes() if path.exists() else b""
    whole = raw[: raw.rfind(b"\n") + 1]
    if not whole.startswith(before):
        return "lines that were written have changed"
    points = [json.dumps([d["point"], d.get("threads", 1)]) for d in map(json.loads, whole.splitlines()[1:])]
    twice = [p for p, n in Counter(points).items() if n > 1]
    return f"evaluated twice: {twice}" if twice else None


def trial(rng: np.random.Generator, nets: list[dn.Network], folder: Path, most: int, seen: Counter[str]) -> str | None:
    """One search with up to so many kills; a description of the first fault, or None."""
    search = draw(rng)
    path = folder / "search.jsonl"
    start = time.monotonic()
    expected = search.run(nets, None)
    duration = time.monotonic() - start
    before, kills = b"", 0
    while True:
        last = kills >= most
        found = attempt(search, nets, path, 600.0 if last else float(rng.uniform(0.02, 0.7)) * duration)
        raw = path.read_bytes() if path.exists() else b""
        fault = journal_fault(path, before)
        if fault:
            return f"{search}: {fault}"
        if found is not None:
            break
        if last:
            return f"{search}: did not end"
        kills += 1
        seen["kills"] += 1
        seen["kills with a line half written"] += bool(raw) and not raw.endswith(b"\n")
        seen["points in the journal when killed"] += max(0, raw.count(b"\n") - 1)
        before = raw[: raw.rfind(b"\n") + 1]
    seen["searches"] += 1
    seen[f"searches, {search.executor}"] += 1
    if not search.measured:
        seen["fronts compared with a whole search"] += 1
        return None if found == expected else f"{search}: another front\n{found}\n{expected}"
    seen["fronts with measured latencies compared with the journal"] += 1
    again = search.run(nets, path)
    return None if json.loads(found)[1] == json.loads(again)[1] else f"{search}: figures changed\n{found}\n{again}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    nets, seen, start, number = networks(), Counter[str](), time.time(), 0
    while seen["kills"] < arguments.kills:
        rng = np.random.default_rng([arguments.seed, number])
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            os.environ["TMPDIR"], tempfile.tempdir = name, None  # killed processes leave files behind
            fault = trial(rng, nets, Path(name), min(4, arguments.kills - seen["kills"]), seen)
            del os.environ["TMPDIR"]
            tempfile.tempdir = None
        if fault:
            print(f"SHORT seed {arguments.seed}, trial {number}: {fault}")
            return 1
        number += 1
        print(f"trial {number}: {seen['kills']} kills, {time.time() - start:.0f} s", flush=True)
    print(f"ok    {dict(seen)}")
    if arguments.out:
        environment = common.environment(arguments.seed)
        common.write_json(arguments.out, {"environment": environment, "counts": dict(sorted(seen.items()))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
