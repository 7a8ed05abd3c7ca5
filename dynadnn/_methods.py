"""Training methods: which operating points a step trains, and on what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._arguments import generator, positive_int
from ._errors import UnsupportedError
from ._points import PointRules, Subnet, size_key

_STREAM = 17  # of random numbers


@dataclass(frozen=True)
class Choice:
    """One pass of a step: a sub-net, and whether the widest pass of this step teaches it."""

    subnet: Subnet
    soft: bool = False


@dataclass(frozen=True)
class Plain:
    """The widest point, every step."""

    def choose(self, rules: PointRules, points: Sequence[Subnet], seed: int, step: int) -> list[Choice]:
        """Return the passes of a step."""
        return [Choice(max(points, key=size_key))]


@dataclass(frozen=True)
class Sandwich:
    """The widest, the narrowest and some random points in one step, their losses summed (Yu and Huang 2019).

    Parameters
    ----------
    random : int, default 2
        Points besides the widest and the narrowest: named points without repetition while there are any, then random
        widths per channel space.
    targets : "widest" or "teacher", default "widest"
        What narrower points learn from: the outputs of the widest in the same step, or what the widest itself
        learns from (labels, and the teacher where there is one). `fit` by MSE, Huber or a function takes targets for
        all points, since the widest knows no more than they do.
    """

    random: int = 2
    targets: str = "widest"

    def __post_init__(self) -> None:
        positive_int(self.random, "random", 0)
        if self.targets not in ("widest", "teacher"):
            raise ValueError(f"targets is {self.targets!r}: it must be 'widest' or 'teacher'")

    def choose(self, rules: PointRules, points: Sequence[Subnet], seed: int, step: int) -> list[Choice]:
        """Return the passes of a step, the widest first."""
        ordered = sorted(dict.fromkeys(points), key=size_key)
        widest, narrowest, between = ordered[-1], ordered[0], ordered[1:-1]
        draw = generator(seed, _STREAM, step)
        soft = self.targets == "widest"
        others = [narrowest] if narrowest != widest else []
        others += [between[i] for i in draw.permutation(len(between))[: self.random]]
        while len(others) < self.random + 1 and rules.spaces and narrowest != widest:
            others.append(_random_widths(rules, narrowest, widest, draw))
        return [Choice(widest), *(Choice(s, soft) for s in others)]


@dataclass(frozen=True)
class SinglePath:
    """One named point per step, drawn at random, trained on labels (Yang and Fan 2021)."""

    def choose(self, rules: PointRules, points: Sequence[Subnet], seed: int, step: int) -> list[Choice]:
        """Return the passes of a step."""
        distinct = list(dict.fromkeys(points))
        return [Choice(distinct[int(generator(seed, _STREAM, step).integers(len(distinct)))])]


@dataclass(frozen=True)
class MultiPath:
    """All named points in every step, each on labels, losses summed (Yang and Fan 2021)."""

    private_affine: bool = False

    def __post_init__(self) -> None:
        if self.private_affine:
            raise UnsupportedError("private_affine=True (scale and shift of batch norms per point) is not built")

    def choose(self, rules: PointRules, points: Sequence[Subnet], seed: int, step: int) -> list[Choice]:
        """Return the passes of a step, the widest first."""
        return [Choice(s) for s in sorted(dict.fromkeys(points), key=size_key, reverse=True)]


@dataclass(frozen=True)
class Incremental:
    """The channel groups of a grouped network one after the other, earlier ones frozen (Xun et al. 2019).

    Every group is trained for all epochs, alone: its layers read no other group, so a step costs what one group costs,
    and the frozen groups' outputs are added. Batch norms belong to the groups, and groups that come and go leave the
    outputs of the others as they are, bit for bit.
    """

    def choose(self, rules: PointRules, points: Sequence[Subnet], seed: int, step: int) -> list[Choice]:
        """Return the passes of a step, which trains one group's network."""
        return Plain().choose(rules, points, seed, step)


Method = Plain | Sandwich | SinglePath | MultiPath | Incremental


def default_method(groups: int, points: Sequence[Subnet]) -> Method:
    """Return what method=None means."""
    if groups > 1:
        return Incremental()
    return Sandwich() if len(set(points)) > 1 else Plain()


def check_method(method: Any) -> Method:
    """Return a method that is built, or raise."""
    if not isinstance(method, Plain | Sandwich | SinglePath | MultiPath | Incremental):
        raise TypeError(
            f"method must be dn.Sandwich(), dn.SinglePath(), dn.MultiPath() or dn.Incremental(), not {method!r}"
        )
    return method


def _random_widths(rules: PointRules, low: Subnet, high: Subnet, draw: np.random.Generator) -> Subnet:
    widths = []
    for space, least, most in zip(rules.spaces, low.widths, high.widths, strict=True):
        choices = [w for w in range(space.step, space.full, space.step) if least <= w <= most] + [most]
        widths.append(choices[int(draw.integers(len(choices)))])
    return Subnet(tuple(widths), high.bits, high.depth)
