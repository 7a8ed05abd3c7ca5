"""Operating points: which channels, bits and blocks are active, what they are called, how the core is told."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._errors import PointError

FLOAT_BITS = "fp32"
Bits = int | str
PointArrays = tuple[NDArray[np.int32], NDArray[np.int8] | None, NDArray[np.int32] | None]
REMEMBERED = 256


@dataclass(frozen=True)
class Subnet:
    """Structure of an operating point: a value, equal to every other with the same numbers.

    Attributes
    ----------
    widths : tuple of int
        Active leading channels per elastic channel space, in the order of ``net.spaces``.
    bits : tuple of int or str
        Per layer with weights, in the order of the network: 8, 4, 3 or 2, and ``"fp32"`` for layers left in float.
    depth : tuple of int
        Kept leading blocks per stage; empty for a network without stages.
    """

    widths: tuple[int, ...]
    bits: tuple[Bits, ...] = ()
    depth: tuple[int, ...] = ()
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.widths, self.bits, self.depth)))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[Subnet], tuple[Any, ...]]:
        return Subnet, (self.widths, self.bits, self.depth)  # hashes of strings differ between processes


@dataclass(frozen=True)
class ChannelSpace:
    """Channels that can be narrowed together.

    Attributes
    ----------
    name : str
        The first layer that produces them.
    full : int
        Channels at full width.
    unit : int
        Active channels are a multiple of this, or full.
    step : int
        What fractions are rounded to.
    index : int
        Number of the space inside the core's graph.
    """

    name: str
    full: int
    unit: int
    step: int
    index: int

    def round(self, fraction: float) -> int:
        """Active channels of a fraction: the nearest multiple of `step`, at least one step, at most full."""
        if fraction >= 1:
            return self.full
        return min(self.full, max(self.step, self.step * math.floor(fraction * self.full / self.step + 0.5)))


def fraction_name(fraction: float) -> str:
    """Name of a fraction: 0.25 is ``"0.25"``, 1 is ``"1.0"``."""
    text = f"{float(fraction):g}"
    return text if "." in text or "e" in text else text + ".0"


def point_name(fraction: float, bits: int | None = None) -> str:
    """Name of a fraction with bits: ``"0.25/4bit"``; without bits the fraction alone."""
    return fraction_name(fraction) + (f"/{bits}bit" if bits else "")


def check_fraction(value: Any, name: str = "points") -> float:
    """Return the value as a float, or raise PointError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must hold fractions of the width from above 0 to 1, not {type(value).__name__}")
    if not 0 < value <= 1:
        raise PointError(f"{name} holds {value}: a fraction of the width is above 0 and at most 1")
    return float(value)


class PointRules:
    """What sub-nets of one graph can be."""

    def __init__(
        self,
        graph: _core.Graph,
        node_names: Sequence[str],
        layers: Sequence[int],
        quantised: Sequence[bool],
        views: tuple[int, ...],
        divisor: int,
    ) -> None:
        self._graph = graph
        self._layers = tuple(layers)
        self._layer_names = tuple(node_names[i] for i in layers)
        self._quantised = tuple(quantised)
        self._views = views
        info = graph.spaces
        self._node_count = len(node_names)
        owner: dict[int, str] = {}
        for node, tensor in zip(node_names, graph.tensors, strict=True):
            for space, _, _ in tensor["segments"]:
                owner.setdefault(space, node)
        free = [i for i, (_, elastic, lead, _) in enumerate(info) if elastic and lead == i]
        self.spaces = tuple(
            ChannelSpace(owner[i], info[i][0], info[i][3], _step(divisor, info[i][3], graph.groups), i) for i in free
        )
        place = {space: k for k, space in enumerate(free)}
        # active[s] = (*widths, 1)[source[s]] * base[s] // lead_full[s]; where a space is fixed, source is the 1
        self._source = np.array([place[lead] if elastic else len(free) for _, elastic, lead, _ in info], np.int64)
        self._base = np.array([full for full, _, _, _ in info], np.int64)
        self._lead_full = np.array([info[lead][0] if elastic else 1 for _, elastic, lead, _ in info], np.int64)
        self.stages = tuple(graph.stages)
        self._arrays: dict[Subnet, PointArrays] = {}

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Layers with weights, in order."""
        return self._layer_names

    @property
    def views(self) -> tuple[int, ...]:
        """Bits offered by quantised layers, most first; empty for a float network."""
        return self._views

    def subnet(
        self,
        width: float | None = None,
        *,
        widths: Iterable[int] | None = None,
        bits: Bits | Iterable[Bits] | None = None,
        depth: Iterable[int] | None = None,
    ) -> Subnet:
        """Make a sub-net of a fraction or of counts, and check it."""
        if width is not None and widths is not None:
            raise TypeError("give width (a fraction) or widths (channels per space), not both")
        if widths is None:
            fraction = 1.0 if width is None else check_fraction(width, "width")
            counts = tuple(space.round(fraction) for space in self.spaces)
        else:
            counts = self._check_widths(widths)
        made = Subnet(counts, self._check_bits(bits), self._check_depth(depth))
        return made

    def check(self, subnet: Subnet) -> Subnet:
        """Return the sub-net with its defaults filled in, or raise PointError."""
        return self.subnet(
            widths=subnet.widths,
            bits=subnet.bits if subnet.bits else None,
            depth=subnet.depth if subnet.depth else None,
        )

    def _check_widths(self, widths: Iterable[int]) -> tuple[int, ...]:
        counts = tuple(int(w) for w in widths)
        if len(counts) != len(self.spaces):
            raise PointError(f"widths has {len(counts)} entries, the network has {len(self.spaces)} elastic spaces")
        for space, count in zip(self.spaces, counts, strict=True):
            if not 1 <= count <= space.full:
                raise PointError(f"widths: {count} channels of {space.name!r}: it has 1 to {space.full}")
            if count != space.full and count % space.unit:
                raise PointError(f"widths: {count} channels of {space.name!r} are no multiple of its {space.unit}")
        return counts

    def _check_bits(self, bits: Bits | Iterable[Bits] | None) -> tuple[Bits, ...]:
        most: Bits = self._views[0] if self._views else FLOAT_BITS
        if bits is None or bits == FLOAT_BITS:
            if bits == FLOAT_BITS and any(self._quantised):
                raise PointError(f"bits is 'fp32', but this network is quantised: it offers {self._views}")
            return tuple(most if q else FLOAT_BITS for q in self._quantised)
        if isinstance(bits, int | np.integer):
            wanted: tuple[Bits, ...] = tuple(int(bits) if q else FLOAT_BITS for q in self._quantised)
            if not any(self._quantised):
                raise PointError(
                    f"bits is {bits}, but this network is not quantised: dn.quantize makes {bits}-bit views"
                )
        elif isinstance(bits, str):
            raise PointError(f"bits is {bits!r}: it must be one of {self._views or (FLOAT_BITS,)}")
        else:
            wanted = tuple(b if isinstance(b, str) else int(b) for b in bits)
        if len(wanted) != len(self._quantised):
            raise PointError(
                f"bits has {len(wanted)} entries, the network has {len(self._quantised)} layers with weights"
            )
        for name, quantised, value in zip(self._layer_names, self._quantised, wanted, strict=True):
            offered: tuple[Bits, ...] = self._views if quantised else (FLOAT_BITS,)
            if value not in offered:
                raise PointError(f"bits: {value} of {name!r}: it offers {', '.join(map(str, offered))}")
        return wanted

    def _check_depth(self, depth: Iterable[int] | None) -> tuple[int, ...]:
        if depth is None:
            return tuple(blocks for blocks, _ in self.stages)
        kept = tuple(int(d) for d in depth)
        if len(kept) != len(self.stages):
            raise PointError(f"depth has {len(kept)} entries, the network has {len(self.stages)} stages")
        for i, (keep, (blocks, least)) in enumerate(zip(kept, self.stages, strict=True)):
            if not least <= keep <= blocks:
                raise PointError(f"depth: {keep} blocks of stage {i}: it can keep {least} to {blocks}")
        return kept

    def active(self, widths: Sequence[int]) -> NDArray[np.int32]:
        """Active channels of every space of the graph."""
        chosen = np.array((*widths, 1), np.int64)[self._source] * self._base // self._lead_full
        return chosen.astype(np.int32)

    def arrays(self, subnet: Subnet) -> PointArrays:
        """(active per space, bits per node, depth per stage) as the core takes them.

        The last ones are remembered: a point is calibrated before it is bound, and binding must not take long.
        """
        known = self._arrays.get(subnet)
        if known is None:
            if len(self._arrays) >= REMEMBERED:
                self._arrays.clear()
            known = self._arrays[subnet] = self._make_arrays(subnet)
        return known

    def share_arrays(self, other: PointRules) -> None:
        """Remember what the rules of an equal graph remember."""
        self._arrays = other._arrays

    def _make_arrays(self, subnet: Subnet) -> PointArrays:
        bits = None
        if any(self._quantised):
            bits = np.full(self._node_count, 8, np.int8)
            bits[list(self._layers)] = [8 if isinstance(b, str) else b for b in subnet.bits]
        depth = np.array(subnet.depth, np.int32) if subnet.depth else None
        return self.active(subnet.widths), bits, depth

    def named(self, points: Iterable[Any] | Mapping[str, Any]) -> dict[str, Subnet]:
        """Ordered names and sub-nets of fractions, sub-nets, dicts of what `subnet` takes, or a mapping from names."""
        if isinstance(points, int | float | str | Subnet):
            points = (points,)
        named: dict[str, Subnet] = {}
        items = points.items() if isinstance(points, Mapping) else ((None, p) for p in points)
        for name, point in items:
            if isinstance(point, Subnet | Mapping):
                subnet = self.check(point) if isinstance(point, Subnet) else self._described(point, name)
                label = name or self._label(subnet)
            else:
                if isinstance(point, str):
                    raise TypeError(f"points holds {point!r}: give fractions of the width, for example {point.strip()}")
                fraction = check_fraction(point)
                subnet, label = self.subnet(fraction), name or point_name(fraction)
            if not isinstance(label, str) or not label:
                raise TypeError(f"a point's name must be a non-empty string, not {label!r}")
            if named.get(label, subnet) != subnet:
                raise PointError(f"two different points are called {label!r}")
            named[label] = subnet
        if not named:
            raise PointError("points is empty: at least one is needed, for example (1.0,)")
        return named

    def _described(self, point: Mapping[str, Any], name: str | None) -> Subnet:
        unknown = sorted(set(point) - {"width", "widths", "bits", "depth"})
        if unknown:
            where = f"of point {name!r} " if name else ""
            raise TypeError(f"points: a description {where}holds {unknown}: it may hold width, widths, bits and depth")
        return self.subnet(**point)

    def _label(self, subnet: Subnet) -> str:
        text = "-".join(map(str, subnet.widths)) or "full"
        if self._views and subnet.bits != self._check_bits(None):
            text += "/" + "-".join(map(str, subnet.bits)) + "bit"
        if subnet.depth != self._check_depth(None):
            text += "/depth " + "-".join(map(str, subnet.depth))
        return text


def _step(divisor: int, unit: int, groups: int) -> int:
    """Smallest multiple of the unit that is not below the divisor; incremental groups are steps themselves."""
    if groups > 1 or divisor <= unit:
        return unit
    return unit * math.ceil(divisor / unit)


def size_key(subnet: Subnet) -> tuple[int, int, int]:
    """Order of sub-nets: wider first, then deeper, then more bits."""
    return sum(subnet.widths), sum(subnet.depth), sum(32 if isinstance(b, str) else b for b in subnet.bits)
