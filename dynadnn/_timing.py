"""Timing – how long a call takes, measured so that several calls can be compared.

A single mean says little on a machine whose clock wanders by a tenth within seconds. So calls are timed in many short
blocks, and the blocks of all calls take turns, forwards and then backwards: whatever slows the machine down hits all of
them alike. What is reported is the median over blocks with the 10th and 90th percentile. Blocks of half a millisecond
are long against the clock's resolution and short against the time slices of an operating system: on a busy machine
another process falls into some of them, and the median leaves those out.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Timing:
    """Duration of one call.

    Parameters
    ----------
    median_ms, p10_ms, p90_ms : float
        Median, 10th and 90th percentile over blocks of the mean duration of a call in the block, milliseconds.
    runs : int
        Timed calls, warm-up not counted.
    blocks : int
        Blocks these calls were timed in.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    blocks: int


def samples(
    calls: Sequence[Callable[[], object]],
    *,
    rounds: int = 60,
    block_ms: float = 0.5,
    warmup_ms: float = 5.0,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Time several calls in turns.

    Parameters
    ----------
    calls : sequence of callables
        Each is called without arguments.
    rounds : int
        Blocks per call; every second round runs in reverse order.
    block_ms : float
        A block repeats its call until about this long, milliseconds.
    warmup_ms : float
        Each call is repeated for this long before anything is timed, milliseconds.
    clock : callable
        Seconds, monotonic.

    Returns
    -------
    durations : ndarray of float64, shape (calls, rounds)
        Mean duration of a call per block, milliseconds.
    repeats : ndarray of int64, shape (calls,)
        Calls per block.

    Raises
    ------
    ValueError
        If ``rounds`` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least 1 is needed")
    durations = np.empty((len(calls), rounds))
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        repeats = [_repeats(call, block_ms, warmup_ms, clock) for call in calls]
        order = range(len(calls))
        for r in range(rounds):
            for i in order if r % 2 == 0 else reversed(order):
                call, n = calls[i], repeats[i]
                call()  # another call ran last: bring code and weights back into the caches
                start = clock()
                for _ in range(n):
                    call()
                durations[i, r] = (clock() - start) / n * 1e3
    finally:
        if collecting:
            gc.enable()
    return durations, np.array(repeats, dtype=np.int64)


def _repeats(call: Callable[[], object], block_ms: float, warmup_ms: float, clock: Callable[[], float]) -> int:
    """Warm a call up and say how often it fits into a block."""
    start, fastest, ended = clock(), float("inf"), 0.0
    begin = start
    while ended - start < warmup_ms / 1e3:
        call()
        ended = clock()
        fastest = min(fastest, ended - begin)
        begin = ended
        if fastest == 0.0:  # below the clock's resolution
            break
    return max(1, min(1_000_000, int(np.ceil(block_ms / 1e3 / max(fastest, 1e-7)))))


def summarise(durations: NDArray[np.float64], repeats: int) -> Timing:
    """Median and percentiles of the blocks of one call.

    Parameters
    ----------
    durations : ndarray of float64, shape (rounds,)
        Milliseconds per call.
    repeats : int
        Calls per block.
    """
    p10, median, p90 = (float(v) for v in np.percentile(durations, (10, 50, 90)))
    return Timing(median, p10, p90, int(repeats) * len(durations), len(durations))


def time_calls(calls: Sequence[Callable[[], object]], **options: Any) -> list[Timing]:
    """Time several calls in turns and summarise each; options of :func:`samples`.

    Examples
    --------
    >>> fast, slow = time_calls([lambda: sum(range(10)), lambda: sum(range(10_000))], rounds=4)
    >>> fast.median_ms < slow.median_ms
    True
    """
    durations, repeats = samples(calls, **options)
    return [summarise(row, n) for row, n in zip(durations, repeats, strict=True)]


def nondominated(costs: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows that no other row beats (all columns minimised; rows with NaN are dominated; of equal rows each counts).

    Parameters
    ----------
    costs : ndarray, shape (n, objectives)

    Returns
    -------
    ndarray of bool, shape (n,)

    Examples
    --------
    >>> nondominated(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0]])).tolist()
    [True, True, False]
    """
    costs = np.asarray(costs, dtype=np.float64)
    if costs.size == 0:
        return np.zeros(len(costs), dtype=bool)
    finite = ~np.isnan(costs).any(axis=1)
    some = costs[finite]
    no_worse = (some[:, None, :] <= some[None, :, :]).all(axis=2)
    better = (some[:, None, :] < some[None, :, :]).any(axis=2)
    mask = np.zeros(len(costs), dtype=bool)
    mask[finite] = ~(no_worse & better).any(axis=0)
    return mask
