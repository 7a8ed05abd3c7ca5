"""Training methods: which operating points a step trains, and on what.

`choose` is a pure function of the seed and of the number of the step, so a resumed run trains what it would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._arguments import generator, positive_int
from ._losses import BCE, CrossEntropy
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

    def choose(self, rules: PointRules, points: Sequence[Subnet], seed: int, step: int, steps: int = 0) -> list[Choice]:
        """Return the passes of a step."""
        return [Choice(max(points, key=size_key))]


@dataclass(frozen=True)
class Sandwich:
    """The widest, the narrowest and some random points in one step, their losses summed (Yu and Huang 2019).

    Parameters
    ----------
    random : int, default 2
        Points besides the widest and the narrowest: named points without repetition while there are any, then random
        widths per channel space and, where the two differ in depth, random numbers of blocks per stage.
    targets : "widest" or "teacher", default "widest"
        What narrower points learn from: the outputs of the widest in the same step, or what the widest itself
        learns from (labels, and the teacher where there is one). `fit` by MSE, Huber or a function takes targets for
        all points, since the widest knows no more than they do.
    """

    random: int = 2
    targets: str = "widest"

    def __post_init__(self) -> None:
        positive_int(self.random, "random", 0)
        _check_targets(self.targets)

    def choose(self, rules: PointRules, points: Sequence[Subnet], seed: int, step: int, steps: int = 0) -> list[Choice]:
        """Return the passes of a step, the widest first."""
        ordered = sorted(dict.fromkeys(points), key=size_key)
        widest, narrowest, between = ordered[-1], ordered[0], ordered[1:-1]
        draw = generator(seed, _STREAM, step)
        soft = self.targets == "widest"
        others = [narrowest] if narrowest != widest else []
        others += [between[i] for i in draw.permutation(len(between))[: self.random]]
        while len(others) < self.random + 1 and narrowest != widest:
            others.append(_random_widths(rules, narrowest, widest, draw))
        return [Choice(widest), *(Choice(s, soft) for s in others)]


@dataclass(frozen=True)
class SinglePath:
    """One named point per step, drawn at random, trained on labels (Yang and Fan 2021)."""

    def choose(self, rules: PointRules, points: Sequence[Subnet], seed: int, step: int, steps: int = 0) -> list[Choice]:
        """Return the passes of a step."""
        distinct = list(dict.fromkeys(points))
        return [Choice(distinct[int(generator(seed, _STREAM, step).integers(len(distinct)))])]


@dataclass(frozen=True)
class MultiPath:
    """All named points in every step, each on labels, losses summed (Yang and Fan 2021).

    Parameters
    ----------
    private_affine : bool, default False
        Every named point gets its own scale and shift of the batch norms, as it has its own statistics (slimmable
        networks, Yu et al. 2019). ``net.weights`` hold those of the widest point, and points without a name use them;
        the others are in ``net.tables``. They stay with the network: later training by any method goes on with them,
        and recalibration, quantisation, slices and files keep them.
    """

    private_affine: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.private_affine, bool):
            raise TypeError(f"private_affine must be True or False, not {self.private_affine!r}")

    def choose(self, rules: PointRules, points: Sequence[Subnet], seed: int, step: int, steps: int = 0) -> list[Choice]:
        """Return the passes of a step, the widest first."""
        return [Choice(s) for s in sorted(dict.fromkeys(points), key=size_key, reverse=True)]


@dataclass(frozen=True)
class Progressive:
    """The widest point alone at first; smaller ones join, one after the other (progressive shrinking, Cai et al. 2020).

    Named points join in order of size: shallower ones of a width before narrower ones, as once-for-all networks shrink
    in depth before width. A step trains the widest on labels, and some of the points that have joined on the outputs
    of the widest in the same step. It is a function of the step's number alone, of the steps that ``epochs`` asks for,
    so a run that is resumed goes on exactly; `EarlyHalting` ends no training before all points have joined.

    Parameters
    ----------
    alone : float, default 0.25
        Share of the steps that train the widest alone.
    joining : float, default 0.25
        Share of the steps over which the others join, at equal distances, the first at its start, the last at its end.
    random : int, default 1
        Points besides the widest in one step, drawn from those that have joined without repetition.
    targets : "widest" or "teacher", default "widest"
        As for `Sandwich`.
    """

    alone: float = 0.25
    joining: float = 0.25
    random: int = 1
    targets: str = "widest"

    def __post_init__(self) -> None:
        positive_int(self.random, "random")
        for name, value in (("alone", self.alone), ("joining", self.joining)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise ValueError(f"{name} must be a share of the steps from 0 to below 1, not {value!r}")
        if self.alone + self.joining >= 1:
            raise ValueError(
                f"alone + joining is {self.alone + self.joining:g}: it must be below 1, so that all points are trained"
            )
        _check_targets(self.targets)

    def joins(self, points: int, steps: int) -> list[int]:
        """Return the step at which each point trains first, the widest first."""
        others = points - 1
        gap = self.joining / (others - 1) if others > 1 else 0.0
        last = max(0, steps - 1)
        return [0, *(min(last, int(steps * (self.alone + gap * i) + 1e-9)) for i in range(others))]

    def choose(self, rules: PointRules, points: Sequence[Subnet], seed: int, step: int, steps: int = 0) -> list[Choice]:
        """Return the passes of a step, the widest first."""
        ordered = sorted(dict.fromkeys(points), key=size_key, reverse=True)
        joined = [s for s, first in zip(ordered, self.joins(len(ordered), steps), strict=True) if first <= step][1:]
        drawn = generator(seed, _STREAM, step).permutation(len(joined))[: self.random]
        soft = self.targets == "widest"
        return [Choice(ordered[0]), *(Choice(joined[i], soft) for i in sorted(drawn.tolist()))]


@dataclass(frozen=True)
class Incremental:
    """The channel groups of a grouped network one after the other, earlier ones frozen (Xun et al. 2019).

    Every group is trained for all epochs, alone: its layers read no other group, so a step costs what one group costs,
    and the frozen groups' outputs are added. Batch norms belong to the groups, and groups that come and go leave the
    outputs of the others as they are, bit for bit.

    Parameters
    ----------
    own_loss : float, optional
        Share, 0 to 1, of what a group's loss takes from its own outputs; the rest is of all groups' so far together.
        Where earlier groups are right already the loss of all together has little to teach, and what is added to it
        later gains less than groups that learned the whole task; their summed outputs are more confident, though.
        None is 1 for cross-entropy and `BCE`, and 0 for targets and functions, whose groups add up to the result.
    """

    own_loss: float | None = None

    def __post_init__(self) -> None:
        if self.own_loss is not None and not 0 <= self.own_loss <= 1:
            raise ValueError(f"own_loss is {self.own_loss}; it must be None or from 0 to 1")

    def share(self, loss: Any) -> float:
        """Share of a group's own outputs in its loss."""
        if self.own_loss is not None:
            return float(self.own_loss)
        return 1.0 if isinstance(loss, CrossEntropy | BCE) else 0.0

    def choose(self, rules: PointRules, points: Sequence[Subnet], seed: int, step: int, steps: int = 0) -> list[Choice]:
        """Return the passes of a step, which trains one group's network."""
        return Plain().choose(rules, points, seed, step)


Method = Plain | Sandwich | SinglePath | MultiPath | Progressive | Incremental


def default_method(groups: int, points: Sequence[Subnet]) -> Method:
    """Return what method=None means."""
    if groups > 1:
        return Incremental()
    return Sandwich() if len(set(points)) > 1 else Plain()


def check_method(method: Any) -> Method:
    """Return a method that is built, or raise."""
    if not isinstance(method, Method):
        raise TypeError(
            "method must be dn.Sandwich(), dn.SinglePath(), dn.MultiPath(), dn.Progressive() or dn.Incremental(), "
            f"not {method!r}"
        )
    return method


def all_joined(method: Method, points: Sequence[Subnet], step: int, steps: int) -> bool:
    """Whether every named point takes part in training by this step."""
    return not isinstance(method, Progressive) or step > max(method.joins(len(set(points)), steps))


def _check_targets(targets: str) -> None:
    if targets not in ("widest", "teacher"):
        raise ValueError(f"targets is {targets!r}: it must be 'widest' or 'teacher'")


def _random_widths(rules: PointRules, low: Subnet, high: Subnet, draw: np.random.Generator) -> Subnet:
    widths = []
    for space, least, most in zip(rules.spaces, low.widths, high.widths, strict=True):
        choices = [w for w in range(space.step, space.full, space.step) if least <= w <= most] + [most]
        widths.append(choices[int(draw.integers(len(choices)))])
    depth = [
        a if a == b else int(draw.integers(min(a, b), max(a, b) + 1))
        for a, b in zip(low.depth, high.depth, strict=True)
    ]
    return Subnet(tuple(widths), high.bits, tuple(depth))
