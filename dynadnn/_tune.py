"""Measured tiles: which kernel variant suits each shape of layer on this CPU, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ._arguments import positive_int
from ._device import example_input
from ._documents import load_document, save_document
from ._errors import FormatError
from ._machine import cpu_name, version
from ._table import Table

if TYPE_CHECKING:
    from . import _core
    from ._engine import Engine
    from ._network import Network

KIND, VERSION = "dynadnn-tiles", 1
MOST_BYTES = 1 << 22  # a tile takes some hundred bytes: what is larger is no file of ours
GAIN = 0.03  # of a layer's time: less cannot be told from noise, and the plan's own choice stays
FINALISTS = 5  # alternatives of a shape that are measured with care
BLOCK_NS = 500_000
COLUMNS = ("layer", "point", "tile_before", "tile_after", "ms_before", "ms_after")


class TilesDoc(msgspec.Struct, frozen=True):
    """What a cache file holds: tiles by shape, and the CPU and version they were measured with."""

    cpu: str
    package: str
    tiles: dict[str, str]


# ---- the cache ----


def cache_folder() -> Path:
    """Where measurements of this user's machines are kept.

    ``$XDG_CACHE_HOME/dynadnn`` where that is an absolute path, else ``~/Library/Caches/dynadnn`` on macOS and
    ``~/.cache/dynadnn`` elsewhere.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "dynadnn"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "dynadnn"


def cache_file() -> Path:
    """Return the file of this CPU model; it need not exist."""
    return cache_folder() / f"tiles-{hashlib.sha256(cpu_name().encode()).hexdigest()[:16]}.json"


def load_tiles() -> dict[str, str]:
    """Tiles by shape as measured on this CPU; none, with a warning, if the file is damaged or of another machine."""
    path = cache_file()
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FormatError(f"{path} has {path.stat().st_size} bytes")
        found = load_document(path, KIND, VERSION, TilesDoc)
        if found.cpu != cpu_name():
            raise FormatError(f"{path} was measured on {found.cpu[:80]!r}")
        if found.package != version():
            raise FormatError(f"{path} was measured with dynadnn {found.package[:20]}")
        return found.tiles
    except FileNotFoundError:
        return {}
    except (OSError, FormatError) as error:
        warnings.warn(f"measured tiles are ignored: {error}; dn.tune(net) measures again", RuntimeWarning, stacklevel=4)
        return {}


def tuned_tiles(point: _core.Point, nodes: int, tiles: Mapping[str, str]) -> NDArray[np.int8] | None:
    """Tiles per node as `Plan.bind` takes them, or None if no measured one differs from the point's own."""
    chosen = np.full((nodes, 2), -1, np.int8)
    for step, (shape, offered) in zip(point.steps, point.tiles, strict=True):
        wanted = tiles.get(shape)
        for name, most, rest in offered[1:]:
            if name == wanted:
                chosen[step["node"]] = most, rest
    return chosen if (chosen >= 0).any() else None


# ---- measuring ----


@dataclass(frozen=True)
class Place:
    """A step that has a choice of tiles."""

    step: int
    node: int
    shape: str
    numbers: Mapping[str, tuple[int, int]]  # by the tile's name, the plan's own first

    @property
    def own(self) -> str:
        """Name of the plan's tile."""
        return next(iter(self.numbers))


class Bench:
    """One point of an engine, bound with other tiles and timed step by step."""

    def __init__(self, engine: Engine, name: str, images: NDArray[Any]) -> None:
        self.engine, self.name, self.images = engine, name, images
        own = engine.points[name]
        self.nodes = len(engine._net._spec.nodes)
        rows = zip(own.steps, own.tiles, strict=True)
        self.binding = engine._net._binding(engine._net._find(name))
        self.places = [
            Place(i, row["node"], shape, {tile: (most, rest) for tile, most, rest in offered})
            for i, (row, (shape, offered)) in enumerate(rows)
            if len(offered) > 1
        ]

    def bind(self, wanted: Mapping[str, str]) -> _core.Point:
        """Bind the point with tiles by shape; the plan's own for the others."""
        chosen = np.full((self.nodes, 2), -1, np.int8)
        for place in self.places:
            if wanted.get(place.shape, "") in place.numbers:
                chosen[place.node] = place.numbers[wanted[place.shape]]
        return self.engine.plan.bind(*(*self.binding[:6], chosen, *self.binding[7:]))

    def time(self, points: Sequence[_core.Point], rounds: int) -> NDArray[np.float64]:
        """Milliseconds per step of each point, medians over rounds in which the points take turns."""
        first = self.engine.profile_steps(self.images, points[0], 2)
        repeats = max(1, int(BLOCK_NS / max(1, int(first.sum()) // 2)))
        samples = np.empty((rounds, len(points), len(first)))
        for r in range(rounds):
            for i in range(len(points))[:: 1 if r % 2 == 0 else -1]:
                self.engine.profile_steps(self.images, points[i], 1)
                samples[r, i] = self.engine.profile_steps(self.images, points[i], repeats) / (1e6 * repeats)
        medians: NDArray[np.float64] = np.median(samples, axis=0)
        return medians


Offers = dict[str, list[str]]  # tiles by shape, the plan's own first


def _spent(benches: Sequence[Bench], offers: Offers, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds by shape and tile, over all layers and points of the shape; all layers try their tiles at once."""
    spent: dict[str, dict[str, float]] = {}
    for bench in benches:
        shapes = list(dict.fromkeys(place.shape for place in bench.places))
        most = max((len(offers[shape]) for shape in shapes), default=0)
        turns = [{shape: offers[shape][k % len(offers[shape])] for shape in shapes} for k in range(most)]
        times = bench.time([bench.bind(turn) for turn in turns], rounds) if turns else np.empty((0, 0))
        found: dict[str, dict[str, float]] = {shape: {} for shape in shapes}
        for turn, row in zip(turns, times, strict=True):
            for shape in shapes:
                ms = sum(float(row[place.step]) for place in bench.places if place.shape == shape)
                found[shape][turn[shape]] = min(ms, found[shape].get(turn[shape], np.inf))
        for shape, by_tile in found.items():
            known = spent.setdefault(shape, {})
            for tile, ms in by_tile.items():
                known[tile] = known.get(tile, 0.0) + ms
    return spent


def _search(benches: Sequence[Bench], rounds: int) -> dict[str, str]:
    """Find the fastest tile of each shape where it is not the plan's own: all in brief, then the best few with care."""
    offers: Offers = {place.shape: list(place.numbers) for bench in benches for place in bench.places}
    brief = _spent(benches, offers, 2)
    for shape, names in offers.items():
        offers[shape] = [names[0], *sorted(names[1:], key=brief[shape].__getitem__)[:FINALISTS]]
    found = {}
    for shape, spent in _spent(benches, offers, rounds).items():
        own, best = offers[shape][0], min(spent, key=spent.__getitem__)
        if spent[best] < (1 - GAIN) * spent[own]:
            found[shape] = best
    return found


def _confirm(benches: Sequence[Bench], found: dict[str, str], rounds: int) -> tuple[dict[str, str], list[Any]]:
    """Measure what was found against the plan's own tiles once more: the fastest of many was partly luck."""
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    measured = []
    for bench in benches:
        if not bench.places:
            continue
        times = bench.time([bench.bind({}), bench.bind(found)], rounds)
        for place in bench.places:
            ms = (float(times[0, place.step]), float(times[1, place.step]))
            before[place.shape] = before.get(place.shape, 0.0) + ms[0]
            after[place.shape] = after.get(place.shape, 0.0) + ms[1]
            measured.append((bench, place, ms))
    kept = {shape: tile for shape, tile in found.items() if after[shape] < before[shape]}
    rows = []
    for bench, place, (was, now) in measured:
        tile = place.own
        changed = place.shape in kept
        layer = bench.engine._net._spec.nodes[place.node].name
        rows.append((layer, bench.name, tile, kept.get(place.shape, tile), was, now if changed else was))
    return kept, rows


def tune(net: Network, *, isa: str | None = None, precision: str | None = None, rounds: int = 8) -> Table:
    """Measure which kernel tiles suit a network's layers on this CPU, and keep the result for this user.

    A tile is how many pixels and channels a kernel computes at once. Plans choose it by an estimate; this measures the
    alternatives, one image and one thread, at every named point that has its statistics. ``net.compile(tuned=True)``
    uses what was found, for every network with layers of these shapes; nothing else reads it. Outputs stay the same bit
    for bit, since every tile adds in the same order.

    The result is one JSON file per CPU model in ``$XDG_CACHE_HOME/dynadnn``, ``~/.cache/dynadnn`` or, on macOS,
    ``~/Library/Caches/dynadnn``. It is written at the end: an interrupted call leaves what was there. Layers that run
    by Winograd's method have no tiles.

    Parameters
    ----------
    net : Network
    isa, precision : str, optional
        As for `Network.compile`.
    rounds : int, default 8
        Blocks of about half a millisecond per alternative, of which the medians count.

    Returns
    -------
    Table
        Per layer with a choice and per point: tile_before (the plan's), tile_after, ms_before and ms_after for one
        image, measured once more after the choice. A tile is pixels x channels, ``p`` for scattered pixels, ``c`` for a
        fixed stride, and after the slash the steps it takes at once.

    Raises
    ------
    PointError
        If no point has its statistics.
    OSError
        If the cache folder cannot be made or written; what was there stays.

    Examples
    --------
    >>> import dynadnn as dn
    >>> table = dn.tune(net)  # doctest: +SKIP
    >>> engine = net.compile(tuned=True)  # doctest: +SKIP
    """
    rounds = positive_int(rounds, "rounds")
    path = cache_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = net.compile(isa=isa, precision=precision)
    images = engine._convert(example_input(net))
    if not engine.points:
        net._binding(net._find(None))
    named: dict[int, str] = {}
    for name in net.points:
        if name in engine.points:
            named.setdefault(id(engine.points[name]), name)
    benches = [Bench(engine, name, images) for name in named.values()]
    kept, rows = _confirm(benches, _search(benches, rounds), 2 * rounds)
    measured = {place.shape for bench in benches for place in bench.places}
    tiles = {shape: tile for shape, tile in load_tiles().items() if shape not in measured} | kept
    save_document(path, KIND, VERSION, {"cpu": cpu_name(), "package": version(), "tiles": tiles})
    total = [sum(row[i] for row in rows) for i in (4, 5)]
    return Table(
        COLUMNS, rows, title=f"{len(kept)} of {len(measured)} shapes: {total[0]:.4g} ms before, {total[1]:.4g} ms after"
    )
