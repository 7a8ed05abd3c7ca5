"""What a search varies, minimises and respects: genes of sub-nets, objectives, constraints."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._errors import PointError
from ._quality import is_better_high
from ._record import NUMBERS, Record

if TYPE_CHECKING:
    from ._data import Split
    from ._network import Network
    from ._points import Subnet

COMPARISON = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Space:
    """What a search may vary.

    Parameters
    ----------
    widths : sequence of float, optional
        Fractions of the channels to choose from; None is every multiple of the network's divisor.
    bits : sequence of int or "per layer", optional
        Bits to choose from for the whole network, or for each layer on its own; None is those the network offers. Where
        no objective and no constraint can gain from fewer bits (of accuracy and MACs alone, say), the most are taken.
    depth : bool
        Also leave out trailing blocks of stages (the network should have been trained for that).
    threads : sequence of int
        Numbers of threads to choose from.
    uniform : bool
        One width for all layers instead of one per channel space.
    """

    widths: Sequence[float] | None = None
    bits: Sequence[int] | str | None = None
    depth: bool = False
    threads: Sequence[int] = (1,)
    uniform: bool = False

    def __post_init__(self) -> None:
        for name in ("widths", "threads"):
            value = getattr(self, name)
            if value is not None:
                if len(value) == 0:
                    raise ValueError(f"{name} is empty: there is nothing to choose from")
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.bits, str) and self.bits != "per layer":
            raise ValueError(f'bits is {self.bits!r}; it must be a list of bits, "per layer" or None')
        if self.bits is not None and not isinstance(self.bits, str):
            object.__setattr__(self, "bits", tuple(self.bits))
        if any(f <= 0 or f > 1 for f in self.widths or ()):
            raise ValueError(f"widths is {self.widths}; fractions are above 0 and at most 1")
        if any(t < 1 for t in self.threads):
            raise ValueError(f"threads is {self.threads}; every number of threads is at least 1")


@dataclass(frozen=True)
class Objective:
    """Something of one's own to minimise.

    Parameters
    ----------
    name : str
        Name of its column.
    function : callable
        ``f(net, point, split) -> float``; the network has statistics for the point.
    maximize : bool
        Larger is better.
    """

    name: str
    function: Callable[[Any, Any, Any], float]
    maximize: bool = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"objective {self.name!r} needs a function f(net, point, split), not {self.function!r}")


@dataclass(frozen=True)
class Constraint:
    """A limit; `violation` is above 0 where it is missed, relative to the limit.

    `column` is what it is about, None for an own function; `upper` says whether it is the most that is allowed.
    """

    text: str
    violation: Callable[[Record], float]
    column: str | None = None
    upper: bool = False


def as_objective(item: Any) -> Objective | str:
    """Check an objective: an `Objective` or the name of a column or metric."""
    if isinstance(item, Objective):
        return item
    if isinstance(item, str):
        return item
    raise TypeError(f"an objective is a column name or dn.Objective(name, f), not {item!r}")


def cost(record: Record, objective: Objective | str) -> float:
    """Value to minimise; NaN where unknown."""
    name = objective if isinstance(objective, str) else objective.name
    value = record.column(name)
    if value is None:
        return math.nan
    better_high = is_better_high(name) if isinstance(objective, str) else objective.maximize
    return -float(value) if better_high else float(value)


def as_constraint(item: Any) -> Constraint:
    """Read ``"latency_ms <= 5"``, or take a function ``f(record) -> float`` that is at most 0 where it holds."""
    if callable(item):
        return Constraint(getattr(item, "__qualname__", repr(item)), lambda record: float(item(record)))
    match = COMPARISON.fullmatch(item) if isinstance(item, str) else None
    if match is None:
        raise ValueError(
            f'constraint {item!r} is neither "column <= number", "column >= number" nor a function of a record; '
            f"columns are {', '.join(NUMBERS)}"
        )
    name, comparison, limit = match[1], match[2], float(match[3])
    sign = 1.0 if comparison[0] == "<" else -1.0
    scale = abs(limit) if limit else 1.0

    def violation(record: Record) -> float:
        value = record.column(name)
        return math.nan if value is None else sign * (float(value) - limit) / scale

    return Constraint(item.strip(), violation, name, comparison[0] == "<")


class Genes:
    """Integer vectors that stand for sub-nets and threads.

    Attributes
    ----------
    lower, upper : ndarray of float64, shape (genes,)
        Bounds, both included.
    """

    def __init__(self, net: Network, space: Space, bits_matter: bool = True) -> None:
        self._net = net
        self._spaces = list(net.spaces)
        widest = net.subnet()
        self._layers = len(widest.bits)
        self._floating = [isinstance(b, str) for b in widest.bits]
        self._widths = [offered_widths(s, space.widths) for s in self._spaces]
        self._uniform = space.uniform and len(self._spaces) > 1
        if self._uniform:
            count = max(map(len, self._widths))
            fractions = space.widths or [(i + 1) / count for i in range(count)]
            rows = dict.fromkeys(tuple(int(s.round(f)) for s in self._spaces) for f in sorted(fractions))
            self._rows = list(rows)
        self._bits, self._per_layer = _bits(net, space)
        if not bits_matter and self._bits != (None,):
            self._bits, self._per_layer = self._bits[-1:], False
        self._depths = [list(range(least, blocks + 1)) for blocks, least in net.stages] if space.depth else []
        self._threads = tuple(space.threads)
        width_genes = [len(self._rows)] if self._uniform else [len(w) for w in self._widths]
        bit_genes = [len(self._bits)] * (sum(not f for f in self._floating) if self._per_layer else 1)
        sizes = [*width_genes, *bit_genes, *(len(d) for d in self._depths), len(self._threads)]
        self._at = np.cumsum([0, len(width_genes), len(bit_genes), len(self._depths), 1])
        self.lower = np.zeros(len(sizes))
        self.upper = np.array(sizes, dtype=np.float64) - 1

    def decode(self, row: NDArray[Any]) -> tuple[Subnet, int]:
        """Sub-net and threads of one vector."""
        genes = [int(g) for g in np.rint(row)]
        w, b, d, t = (genes[i:j] for i, j in zip(self._at[:-1], self._at[1:], strict=True))
        if self._uniform:
            widths: Sequence[int] = self._rows[w[0]]
        else:
            widths = [choices[i] for choices, i in zip(self._widths, w, strict=True)]
        options: dict[str, Any] = {}
        if self._bits != (None,):
            if self._per_layer:
                each = iter(b)
                options["bits"] = ["fp32" if f else self._bits[next(each)] for f in self._floating]
            else:
                options["bits"] = self._bits[b[0]]
        if self._depths:
            options["depth"] = [choices[i] for choices, i in zip(self._depths, d, strict=True)]
        return self._net.subnet(widths=widths, **options), self._threads[t[0]]

    def shrink(self, row: NDArray[Any], share: float, cheapest: bool) -> NDArray[np.float64]:
        """Vector with a share of the way from the least widths to the row's; `cheapest`: least bits, depth too."""
        made = np.array(row, dtype=np.float64)
        w, rest = slice(0, int(self._at[1])), slice(int(self._at[1]), int(self._at[3]))
        made[w] = np.floor(self.lower[w] + share * (made[w] - self.lower[w]))
        if cheapest:
            made[rest] = self.lower[rest]
        return made

    def near_uniform(self, n: int, draw: np.random.Generator) -> list[NDArray[np.float64]]:
        """Vectors whose layers have nearly the same fraction of their widths, from narrow to wide."""
        rows = []
        first = int(self._at[1])
        for share in np.linspace(0, 1, n):
            row = draw.integers(self.lower.astype(np.int64), self.upper.astype(np.int64) + 1).astype(np.float64)
            row[:first] = np.rint(share * self.upper[:first] + draw.integers(-1, 2, first))
            rows.append(np.clip(row, self.lower, self.upper))
        return rows

    def encode(self, subnet: Subnet, threads: int) -> NDArray[np.float64] | None:
        """Vector of a sub-net, or None if the space does not hold it."""
        try:
            if self._uniform:
                w = [self._rows.index(tuple(subnet.widths))]
            else:
                w = [choices.index(n) for choices, n in zip(self._widths, subnet.widths, strict=True)]
            quantised = [bits for bits, f in zip(subnet.bits, self._floating, strict=True) if not f]
            if self._bits == (None,):
                b = [0]
            elif self._per_layer:
                b = [self._bits.index(bits) for bits in quantised]
            elif len(set(quantised)) == 1:
                b = [self._bits.index(quantised[0])]
            else:
                return None
            d = [choices.index(n) for choices, n in zip(self._depths, subnet.depth, strict=False)]
            row = np.array([*w, *b, *d, self._threads.index(threads)], dtype=np.float64)
        except ValueError:
            return None
        return row if self.decode(row) == (subnet, threads) else None


def bits_matter(objectives: Sequence[Objective | str], constraints: Sequence[Constraint]) -> bool:
    """Whether anything can become better with fewer bits: costs that depend on them, or one's own functions."""
    indifferent = {"error", "accuracy", "loss", "macs", "threads"}
    columns = [o if isinstance(o, str) else None for o in objectives] + [c.column for c in constraints]
    return any(column is None or (column in NUMBERS and column not in indifferent) for column in columns)


def offered_widths(space: Any, fractions: Sequence[float] | None = None) -> list[int]:
    """Return the channels to choose from, fewest first: those of fractions, or every multiple of the space's step."""
    if fractions is not None:
        return sorted({int(space.round(f)) for f in fractions})
    return [*range(int(space.step), int(space.full), int(space.step)), int(space.full)]


def _bits(net: Network, space: Space) -> tuple[tuple[Any, ...], bool]:
    """Bits to choose from, fewest first; (None,) where there is no choice."""
    if not net.views:
        if space.bits is not None and space.bits != "per layer":
            raise PointError(f"space.bits is {space.bits}, but the network is not quantised")
        return (None,), False
    if space.bits is None or space.bits == "per layer":
        return tuple(sorted(net.views)), space.bits == "per layer"
    for bits in space.bits:
        if bits not in net.views:
            raise PointError(f"space.bits holds {bits}; the network offers {net.views}")
    return tuple(sorted({int(b) for b in space.bits})), False


def evaluate_objectives(
    net: Network, subnet: Subnet, split: Split, objectives: Sequence[Objective | str], result: dict[str, Any]
) -> dict[str, float]:
    """Values of own objectives and of further metrics that `Network.evaluate` returned."""
    values = {}
    for objective in objectives:
        if isinstance(objective, Objective):
            value = objective.function(net, subnet, split)
            if np.ndim(value) != 0:
                raise TypeError(
                    f"objective {objective.name!r} must return one number, not an array of shape {np.shape(value)}"
                )
            values[objective.name] = float(value)
        elif objective not in NUMBERS:
            values[objective] = float(result[objective])
    return values
