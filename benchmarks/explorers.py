"""Searches of sub-nets beside NSGA-II, each within a number of distinct evaluations, and the memo that they share.

A sub-net is a tuple of channels, one number per space. Every search asks a `Memo` for errors on the validation split
and keeps to it in what it returns: all sub-nets that it evaluated, in order.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dynadnn as dn

Widths = tuple[int, ...]
Choices = Sequence[Sequence[int]]  # channels to choose from, fewest first, of every space
Errors = Callable[[Sequence[Widths]], list[float]]

_held: dict[str, Any] = {}  # network and data, in workers


def right(net: dn.Network, data: dn.Data, split: str, widths: Widths) -> NDArray[np.bool_]:
    """Which images of a split a sub-net gets right, with statistics of its own."""
    net, images = net.copy(), getattr(data, split)
    point = net.subnet(widths=widths)
    net.recalibrate(data.calibration.x, points=[point])
    return np.asarray(net.predict(images.x, point) == images.y)


def _hold(net: dn.Network, data: dn.Data) -> None:
    _held.update(net=net, data=data)


def _right(split: str, widths: Widths) -> str:
    return np.packbits(right(_held["net"], _held["data"], split, widths)).tobytes().hex()


class Memo:
    """What every sub-net gets right, computed once by worker processes and kept in a file that is only appended to."""

    def __init__(self, net: dn.Network, data: dn.Data, path: Path, workers: int = 2) -> None:
        self.net, self.data, self.workers = net, data, workers
        self.known: dict[tuple[str, Widths], str] = {}
        if path.exists():
            text = path.read_text()
            whole = text[: text.rfind("\n") + 1]  # a killed writer leaves part of a line
            path.write_text(whole)
            for line in whole.splitlines():
                row = json.loads(line)
                self.known[row["split"], tuple(row["widths"])] = row["right"]
        self.file = path.open("a")
        self.pool: ProcessPoolExecutor | None = None

    def right(self, wanted: Sequence[Widths], split: str) -> NDArray[np.bool_]:
        """Shape (sub-nets, images)."""
        new = [w for w in dict.fromkeys(wanted) if (split, w) not in self.known]
        if new and self.pool is None:
            context = multiprocessing.get_context("fork")
            self.pool = ProcessPoolExecutor(self.workers, context, _hold, (self.net, self.data))
        for widths, packed in zip(new, self._computed(split, new), strict=True):
            self.known[split, widths] = packed
            print(json.dumps({"split": split, "widths": widths, "right": packed}), file=self.file, flush=True)
        images = len(getattr(self.data, split))
        rows = [np.frombuffer(bytes.fromhex(self.known[split, w]), np.uint8) for w in wanted]
        return np.unpackbits(np.array(rows), axis=1, count=images).astype(bool)

    def _computed(self, split: str, new: Sequence[Widths]) -> Iterator[str]:
        return self.pool.map(_right, [split] * len(new), new) if self.pool is not None else iter(())

    def errors(self, wanted: Sequence[Widths]) -> list[float]:
        """Errors on the validation split."""
        return [float(e) for e in 1 - self.right(wanted, "val").mean(axis=1)] if wanted else []

    def close(self) -> None:
        self.file.close()
        if self.pool is not None:
            self.pool.shutdown()


def random_search(choices: Choices, errors: Errors, budget: int, seed: int) -> list[Widths]:
    """Distinct sub-nets, each space's channels drawn alike."""
    draw, seen = np.random.default_rng(seed), dict[Widths, None]()
    while len(seen) < budget:
        seen[tuple(int(draw.choice(row)) for row in choices)] = None
    errors(list(seen))
    return list(seen)


def greedy_search(choices: Choices, errors: Errors, budget: int | None) -> list[Widths]:
    """From the widest, an eighth of the channels at a time, of the space that loses least by it (Yang et al. 2022).

    Without a budget it goes on to the narrowest.
    """
    at: Widths = tuple(row[-1] for row in choices)
    seen: dict[Widths, float] = {at: errors([at])[0]}
    while steps := [s for i in range(len(choices)) if (s := narrower(choices, at, i)) is not None]:
        new = [s for s in steps if s not in seen]
        left = len(new) if budget is None else budget - len(seen)
        if new and left <= 0:
            break
        seen.update(zip(new[:left], errors(new[:left]), strict=True))
        at = min((s for s in steps if s in seen), key=lambda s: seen[s])
    return list(seen)


def narrower(choices: Choices, widths: Widths, space: int) -> Widths | None:
    """With an eighth of a space's channels fewer, or as near to that as it can; None if it is the narrowest."""
    row = choices[space]
    fewer = [n for n in row if n < widths[space]]
    if not fewer:
        return None
    wanted = widths[space] - row[-1] / 8
    nearest = min(fewer, key=lambda n: (abs(n - wanted), n))
    return (*widths[:space], nearest, *widths[space + 1 :])


def optuna_search(
    choices: Choices, errors: Errors, costs: Callable[[Sequence[Widths]], list[float]], budget: int, seed: int
) -> list[Widths]:
    """Optuna's NSGA-II with its own options; asking again for what it has seen costs nothing."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    population = 50  # its default
    sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    seen: dict[Widths, None] = {}
    for _ in range(100):  # generations: enough to stop one that has converged
        trials = [study.ask() for _ in range(population)]
        asked = [
            tuple(row[t.suggest_int(f"space {i}", 0, len(row) - 1)] for i, row in enumerate(choices)) for t in trials
        ]
        allowed = set(islice((w for w in dict.fromkeys(asked) if w not in seen), budget - len(seen)))
        judged = [w for w in asked if w in seen or w in allowed]
        values = dict(zip(judged, zip(errors(judged), costs(judged), strict=True), strict=True))
        seen.update(dict.fromkeys(judged))
        for trial, widths in zip(trials, asked, strict=True):
            if widths in values:
                study.tell(trial, values[widths])
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if len(seen) == budget:
            break
    return list(seen)
