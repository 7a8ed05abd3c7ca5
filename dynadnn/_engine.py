"""Engines: a network lowered for this CPU, with its operating points bound and ready to switch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arguments import positive_int
from ._device import example_input
from ._engine_report import EngineReport, report_engine, share_of_probe
from ._points import Subnet
from ._table import Table
from ._tune import load_tiles, tuned_tiles

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._network import Network


def compile_network(
    net: Network, *, threads: int, isa: str | None, precision: str | None, tuned: bool, compact: bool
) -> Engine:
    """Lower a network and bind every named point that has its tables."""
    if precision not in (None, "fp32", "bf16"):
        raise ValueError(f"precision must be 'fp32' or 'bf16', not {precision!r}")
    if precision and net.quantised:
        raise ValueError(f"precision={precision!r} is for float networks; this one is quantised to {net.views} bits")
    tiles = load_tiles() if tuned else None
    return Engine(net.copy(), threads=threads, isa=isa, precision=precision, tiles=tiles, compact=compact)


class Engine(_core.Engine):
    """Runs a network at any of its operating points from one copy of the weights; `Network.compile` makes it.

    An engine is a snapshot: it keeps the weights, points and statistics the network had. Calls from several threads
    wait for one another; `clone` gives each thread its own activation memory and point, and shares everything else.

    Attributes
    ----------
    points : dict
        Bound points by name, fraction and sub-net.
    active : str, float or Subnet
        The point that calls use, the widest at first.
    threads : int
        Threads a call uses, at most those it was compiled for.
    last_macs : int
        Multiply-accumulates per image that the last call or `extend` computed; 0 before the first.

    Examples
    --------
    >>> import dynadnn as dn, numpy as np
    >>> net = dn.nets.mlp((4,), 3, points=(0.5, 1.0), rng=0)
    >>> x = np.ones((2, 4), np.float32)
    >>> net.recalibrate(x)
    >>> engine = net.compile()
    >>> engine.select(0.5)
    >>> engine(x).shape
    (2, 3)
    """

    _net: Network
    _isa: str | None
    _tiles: Mapping[str, str]
    _spare: list[tuple[Subnet | None, _core.Point]]

    def __new__(
        cls,
        net: Network,
        *,
        threads: int = 1,
        isa: str | None = None,
        precision: str | None = None,
        compact: bool = False,
        plan: _core.Plan | None = None,
        tiles: Mapping[str, str] | None = None,
    ) -> Self:
        """Lower the network, or share an engine's plan."""
        if plan is None:
            plan = _core.Plan(
                net._graph,
                net._core_params(),
                input_table=net._input_table(),
                threads=threads,
                isa=isa,
                least_bits=min(net.views, default=8),
                precision=16 if precision == "bf16" else 32,
                compact=compact,
            )
        self = super().__new__(cls, plan, input_shape=net.shape, outputs=net.outputs)
        self._net, self._isa, self._tiles, self._spare = net, isa, tiles or {}, []
        for name, subnet in net.points.items():
            if subnet in net.tables or not net._needs_tables:
                self._add(name, subnet)
        if self.points:
            widest = net._find(None)
            self.select(widest if widest in self.points else next(iter(self.points)))
            self._reserve()
        return self

    def __init__(self, net: Network, **options: Any) -> None:
        """Nothing is left to do after `__new__`."""

    def _add(self, name: str, subnet: Subnet) -> None:
        point = self.points.get(subnet) or self._make_point(self._net._binding(subnet))
        self.points[name] = self.points[subnet] = point
        with suppress(ValueError):
            self.points[float(name)] = point

    def _make_point(self, binding: tuple[Any, ...]) -> _core.Point:
        point = self.plan.bind(*binding)
        chosen = tuned_tiles(point, len(self._net._spec.nodes), self._tiles) if self._tiles else None
        return point if chosen is None else self.plan.bind(*(*binding[:6], chosen, *binding[7:]))

    def _reserve(self) -> None:
        """Hold memory for two points bound on first use: as much as the largest point takes."""
        known = [subnet for subnet in self.points if isinstance(subnet, Subnet)]
        largest = max(known, key=lambda subnet: self.points[subnet].table_bytes)
        self._spare += [(None, self._make_point(self._net._binding(largest))) for _ in range(2)]

    def _bind(self, key: Any) -> _core.Point:
        """Bind a point that was not bound at compile; the last two such points are kept."""
        subnet = self._net._find(key)
        point = self.points.get(subnet)
        if point is None:
            binding = self._net._binding(subnet)
            if len(self._spare) >= 2:
                self.points.pop(self._spare.pop(0)[0], None)  # the new point gets its memory, which is mapped already
            point = self._make_point(binding)
            self._spare.append((subnet, point))
            self.points[subnet] = point
        return point

    def _convert(self, x: Any) -> NDArray[Any]:
        """Images as the core takes them, or an error that says what is wrong."""
        return self._net._images(x)

    def clone(self) -> Engine:
        """Return an engine that shares weights and bound points, with its own activation memory and active point."""
        made = Engine(self._net, isa=self._isa, plan=self.plan, tiles=self._tiles)
        made.points.update(self.points)
        made._spare = [*self._spare]
        made.threads = self.threads
        made.select(self.active)
        return made

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of packed weights (the same for any number of points), of all bound points and room for two, arena.

        "kept" is what `extend` goes on from: images and outputs of the last call; 0 for networks without groups.
        """
        points = {id(p): p for p in (*self.points.values(), *(p for _, p in self._spare))}.values()
        return {
            "weights": self.plan.weight_bytes,
            "tables": sum(p.table_bytes for p in points),
            "arena": max([self.arena_bytes, *(p.arena_bytes for p in points)]),
            "kept": self.kept_bytes,
        }

    def extend(self, x: Any, point: Any = None, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the outputs of the last call's images at a larger point, computing only the channel groups it adds.

        For networks built with ``groups=``: group g reads group g from the input to the last layer, which adds one
        partial sum per group, so what the smaller point computed stays right and is not computed again (incremental
        training, Xun et al. 2019). The result is bit for bit that of ``engine(x, point)``, in every precision. It can
        be extended in turn. Layers before the first grouped one, if any, are computed again.

        An engine goes on from its own last call or extension; threads need a `clone` each.

        Parameters
        ----------
        x : array, shape (n, *shape)
            The images of the last call, unchanged; they are compared.
        point : str, float, Subnet or record, optional
            A point of more groups; the active point without.
        out : ndarray of float32, shape (n, outputs), optional
            Where to write.

        Returns
        -------
        ndarray of float32, shape (n, outputs)

        Raises
        ------
        UnsupportedError
            If groups meet before the last layer; the message names the layer.
        PointError
            If the point adds no group, or differs from the last one in blocks, bits, statistics or scales of the groups
            they share; `Network.recalibrate` on one set of images makes these agree.
        ValueError
            If nothing was run, or something else than x. After any of these errors the last call can still be extended.

        Examples
        --------
        >>> import dynadnn as dn, numpy as np
        >>> net = dn.nets.cnn1d((16, 2), 3, groups=2, points=(0.5, 1.0), rng=0)
        >>> x = np.random.default_rng(0).normal(size=(4, 16, 2)).astype(np.float32)
        >>> net.recalibrate(x)
        >>> engine = net.compile()
        >>> quick = engine(x, 0.5)
        >>> better = engine.extend(x, 1.0)
        >>> np.array_equal(better, engine(x, 1.0))
        True
        """
        return super().extend(x, point, out)

    def profile(self, x: Any, point: Any = None, *, repeats: int = 20) -> Table:
        """Time each step of a call.

        Parameters
        ----------
        x : array, shape (n, *shape)
        point : optional
            The active point without.
        repeats : int
            Calls to average.

        Returns
        -------
        Table
            Per step: node, kernel, ms per image, share of the time, MACs, GMAC/s, and the speed as a share of the
            probe: what the kernel's dot product does on registers alone, measured once per process. MACs count padding
            as work, which kernels partly leave out. Steps that multiply nothing, or by ``ref`` kernels, have no share.
        """
        bound = self._bind(self.active if point is None else point)
        images = self._convert(x)
        self.profile_steps(images, bound, 1)
        milliseconds = self.profile_steps(images, bound, repeats) / (1e6 * repeats * len(images))
        names = [node.name for node in self._net._spec.nodes]
        rows = []
        for step, ms in zip(bound.steps, milliseconds.tolist(), strict=True):
            rate = step["macs"] / ms / 1e6 if ms else 0.0
            share = ms / max(float(milliseconds.sum()), 1e-12)
            reached = share_of_probe(step["kernel"], step["macs"], ms, self.threads)
            rows.append((names[step["node"]], step["kernel"], ms, share, step["macs"], rate, reached))
        return Table(("node", "kernel", "ms", "share", "macs", "gmacs_per_s", "share_of_probe"), rows)

    def report(self, x: Any = None, point: Any = None, *, rounds: int = 30) -> EngineReport:
        """Measure what each layer costs, and whether int8 pays on this machine.

        A quantised engine is timed in turns with the same network in float (its weights dequantised, at the point's
        bits), with as many threads and the same instruction sets.

        Parameters
        ----------
        x : array, shape (n, *shape), optional
            Images to run; one random image without, since the time does not depend on it.
        point : optional
            The active point without.
        rounds : int
            Blocks of about half a millisecond per engine, of which the medians count.

        Returns
        -------
        EngineReport
            Bytes, kernels and times per layer, and warnings.

        Examples
        --------
        >>> import dynadnn as dn, numpy as np
        >>> net = dn.nets.mlp((4,), 3, rng=0)
        >>> images = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        >>> report = dn.quantize(net, images).compile().report(rounds=4)
        >>> report.layers["node"][0], report.fp32_ms > 0
        ('input', True)
        """
        rounds = positive_int(rounds, "rounds")
        subnet = self._net._find(self.active if point is None else point)
        return report_engine(self, subnet, self._convert(example_input(self._net) if x is None else x), rounds)

    def __repr__(self) -> str:
        used = self._isa or _core.config()["isa_used"]
        return f"Engine(points={list(self._net.points)}, active={self.active!r}, threads={self.threads}, isa={used!r})"


def available_isas() -> list[str]:
    """Instruction sets that kernels can use here."""
    found: list[str] = _core.config()["isa_found"]
    return found
