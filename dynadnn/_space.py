"""What a search varies, and the genes that stand for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import positive_int
from ._errors import PointError

if TYPE_CHECKING:
    from ._network import Network
    from ._points import Subnet


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
                if isinstance(value, str) or not isinstance(value, Iterable):
                    raise TypeError(f"{name} is {value!r}; it must be a list of what to choose from")
                value = tuple(value)
                if len(value) == 0:
                    raise ValueError(f"{name} is empty: there is nothing to choose from")
                object.__setattr__(self, name, value)
        if isinstance(self.bits, str) and self.bits != "per layer":
            raise ValueError(f'bits is {self.bits!r}; it must be a list of bits, "per layer" or None')
        if self.bits is not None and not isinstance(self.bits, str):
            object.__setattr__(self, "bits", tuple(self.bits))
        if any(f <= 0 or f > 1 for f in self.widths or ()):
            raise ValueError(f"widths is {self.widths}; fractions are above 0 and at most 1")
        object.__setattr__(self, "threads", tuple(positive_int(t, "threads") for t in self.threads))


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
