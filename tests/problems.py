"""The test problems ZDT1-4, ZDT6 and DTLZ1-7, with the fronts they are known to have.

Zitzler, Deb, Thiele: Evolutionary Computation 8(2), 2000 (ZDT5 is one of bit strings). Deb, Thiele, Laumanns, Zitzler:
TIK report 112, 2001 (three objectives here). Tests and benchmarks read the same functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """Bounds, objectives of rows, and points that lie evenly on the whole front (at least about `n` of them)."""

    name: str
    lower: Floats
    upper: Floats
    objectives: int
    evaluate: Callable[[Floats], Floats]
    front: Callable[[int], Floats]

    @property
    def variables(self) -> int:
        return len(self.lower)


def records(values: Floats) -> NDArray[np.bool_]:
    """Where a value is above all before it."""
    return np.r_[True, values[1:] > np.maximum.accumulate(values)[:-1]]


# ---- ZDT: the first variable is the place on the front, g of the others the distance from it ----


def zdt(
    g: Callable[[Floats], Floats], f1: Callable[[Floats], Floats], h: Callable[[Floats, Floats], Floats]
) -> Callable[[Floats], Floats]:
    def evaluate(x: Floats) -> Floats:
        first, distance = f1(x[:, 0]), g(x[:, 1:])
        return np.stack([first, distance * h(first, distance)], 1)

    return evaluate


def same(t: Floats) -> Floats:
    return t


def mean_distance(rest: Floats) -> Floats:
    return 1 + 9 * rest.mean(1)


def hills(rest: Floats) -> Floats:
    """Of ZDT4: 21 to the power of 9 local fronts."""
    return 1 + 10 * rest.shape[1] + (rest**2 - 10 * np.cos(4 * np.pi * rest)).sum(1)


def uneven(t: Floats) -> Floats:
    """Of ZDT6: few variables lead to small values."""
    return 1 - np.exp(-4 * t) * np.sin(6 * np.pi * t) ** 6


def convex(f1: Floats, g: Floats | float) -> Floats:
    return 1 - np.sqrt(f1 / g)


def concave(f1: Floats, g: Floats | float) -> Floats:
    return 1 - (f1 / g) ** 2


def broken(f1: Floats, g: Floats | float) -> Floats:
    return 1 - np.sqrt(f1 / g) - f1 / g * np.sin(10 * np.pi * f1)


def curve(h: Callable[[Floats, float], Floats], f1: Callable[[Floats], Floats] = same) -> Callable[[int], Floats]:
    """The front where g is 1: all of the curve above the least first objective that is not dominated."""

    def front(n: int) -> Floats:
        least = f1(np.linspace(0, 1, 100_001)).min()
        t = np.linspace(least, 1, 2 * n)
        f2 = h(t, 1.0)
        kept = records(-f2)
        return np.stack([t[kept], f2[kept]], 1)

    return front


# ---- DTLZ with three objectives: two variables are the place on the front ----


def product(place: Floats, other: Floats) -> Floats:
    """Columns p0 p1, p0 o1, o0."""
    return np.stack([place[:, 0] * place[:, 1], place[:, 0] * other[:, 1], other[:, 0]], 1)


def sphere(angles: Floats) -> Floats:
    return product(np.cos(angles), np.sin(angles))


def near(rest: Floats) -> Floats:
    return ((rest - 0.5) ** 2).sum(1)


def rough(rest: Floats) -> Floats:
    """Of DTLZ1 and 3: 11 to the power of the number of variables local fronts, less one."""
    return 100 * (rest.shape[1] + ((rest - 0.5) ** 2 - np.cos(20 * np.pi * (rest - 0.5))).sum(1))


def dtlz1(x: Floats) -> Floats:
    return 0.5 * (1 + rough(x[:, 2:]))[:, None] * product(x[:, :2], 1 - x[:, :2])


def spherical(g: Callable[[Floats], Floats], power: float = 1.0) -> Callable[[Floats], Floats]:
    return lambda x: (1 + g(x[:, 2:]))[:, None] * sphere(x[:, :2] ** power * np.pi / 2)


def degenerate(g: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    """Of DTLZ5 and 6: on the front the second angle is 45 degrees, whatever its variable."""

    def evaluate(x: Floats) -> Floats:
        distance = g(x[:, 2:])
        second = (1 + 2 * distance * x[:, 1]) / (2 * (1 + distance))
        return (1 + distance)[:, None] * sphere(np.stack([x[:, 0], second], 1) * np.pi / 2)

    return evaluate


def bumps(t: Floats, g: Floats | float) -> Floats:
    return t / (1 + g) * (1 + np.sin(3 * np.pi * t))


def dtlz7(x: Floats) -> Floats:
    g = 1 + 9 * x[:, 2:].mean(1)
    height = 3 - bumps(x[:, :2], g[:, None]).sum(1)
    return np.c_[x[:, :2], (1 + g) * height]


def simplex(n: int) -> Floats:
    """Rows of three shares, evenly spread, that sum to one."""
    steps = int(np.ceil(np.sqrt(2 * n)))
    a, b = np.triu_indices(steps + 1)
    return np.stack([a, b - a, steps - b], 1) / steps


def sphere_front(n: int) -> Floats:
    rows = simplex(n)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def arc_front(n: int) -> Floats:
    return sphere(np.stack([np.linspace(0, np.pi / 2, n), np.full(n, np.pi / 4)], 1))


def patches_front(n: int) -> Floats:
    """Four patches: the third objective falls by a sum over the others, so each of them must be a record of its own."""
    t = np.linspace(0, 1, 5 * int(np.ceil(np.sqrt(n))))
    t = t[records(bumps(t, 1.0))]
    place = np.stack(np.meshgrid(t, t), -1).reshape(-1, 2)
    return np.c_[place, 2 * (3 - bumps(place, 1.0).sum(1))]


def box(
    name: str,
    variables: int,
    objectives: int,
    evaluate: Callable[[Floats], Floats],
    front: Callable[[int], Floats],
    side: float = 0,
) -> Problem:
    """All variables in 0 .. 1; with a side all but the first in -side .. side."""
    lower, upper = np.zeros(variables), np.ones(variables)
    if side:
        lower[1:], upper[1:] = -side, side
    return Problem(name, lower, upper, objectives, evaluate, front)


PROBLEMS = {
    p.name: p
    for p in (
        box("ZDT1", 30, 2, zdt(mean_distance, same, convex), curve(convex)),
        box("ZDT2", 30, 2, zdt(mean_distance, same, concave), curve(concave)),
        box("ZDT3", 30, 2, zdt(mean_distance, same, broken), curve(broken)),
        box("ZDT4", 10, 2, zdt(hills, same, convex), curve(convex), side=5),
        box("ZDT6", 10, 2, zdt(lambda rest: 1 + 9 * rest.mean(1) ** 0.25, uneven, concave), curve(concave, uneven)),
        box("DTLZ1", 7, 3, dtlz1, lambda n: simplex(n) / 2),
        box("DTLZ2", 12, 3, spherical(near), sphere_front),
        box("DTLZ3", 12, 3, spherical(rough), sphere_front),
        box("DTLZ4", 12, 3, spherical(near, 100.0), sphere_front),
        box("DTLZ5", 12, 3, degenerate(near), arc_front),
        box("DTLZ6", 12, 3, degenerate(lambda rest: (rest**0.1).sum(1)), arc_front),
        box("DTLZ7", 22, 3, dtlz7, patches_front),
    )
}  # fmt: skip
