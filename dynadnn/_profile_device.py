"""Profiling – measures whole sub-nets and their layers in sequence, a probe beside each few of them, part by part.

Layers are timed where they run, one after the other in a whole inference, because what a layer takes depends on what
the one before left in the caches. The probe, the widest sub-net, runs before and after every few others, and times
are kept over its mean of both: a clock that drifts cancels, and parts measured on different days go together. A narrow
sub-net runs beside the probe and says how much more than the probe small sub-nets are slowed down at the moment.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._design import design_subnets, draw_subnets
from ._device import example_input
from ._identity import point_document
from ._latency_model import Condition, Profile, Sample, cross_validate, in_state
from ._machine import celsius, this_machine
from ._space import offered_widths

if TYPE_CHECKING:
    from . import _core
    from ._network import Network
    from ._points import Subnet

F64 = NDArray[np.float64]
ROUNDS = 24  # blocks per sub-net and kind, every second round in reverse
BLOCK_MS = 0.5
PART = 16  # sub-nets that are measured, and saved, together
NEAR = 4  # sub-nets between two probes
NARROW = 0.25  # of the channels of every space: the narrow sub-net's


class Bench:
    """Sub-nets of one network bound to an engine, to be timed.

    Statistics are made up, since times do not depend on them.

    Attributes
    ----------
    nodes : list of tuple of int
        Per bound sub-net, the node of each step.
    """

    def __init__(self, net: Network, threads: int) -> None:
        self._net = net
        self._engine = net.compile(threads=threads)
        self._x, self._out = example_input(net), np.empty((1, net.outputs), np.float32)
        self._points: list[_core.Point] = []
        self.nodes: list[tuple[int, ...]] = []

    def add(self, subnet: Subnet) -> int:
        """Bind a sub-net; its number."""
        norms = self._net._graph.norm_channels
        shape = len(self._net._spec.nodes), self._net._graph.groups
        scale = np.ones(shape, np.float32) if self._net.quantised else None
        mean, variance = np.zeros(norms, np.float32), np.ones(norms, np.float32)
        point = self._engine.plan.bind(*self._net._rules.arrays(subnet), mean, variance, scale)
        self._engine.points[self._name(len(self._points))] = point
        self._points.append(point)
        self.nodes.append(tuple(step["node"] for step in point.steps))
        return len(self._points) - 1

    def whole(self, number: int, repeats: int) -> float:
        """Milliseconds of one inference, after one that brings code and weights back into the caches."""
        engine, x, name, out = self._engine, self._x, self._name(number), self._out
        engine(x, name, out)
        start = time.perf_counter()
        for _ in range(repeats):
            engine(x, name, out)
        return (time.perf_counter() - start) / repeats * 1e3

    def layers(self, number: int, repeats: int) -> F64:
        """Milliseconds of each step of one inference."""
        return self._engine.profile_steps(self._x, self._points[number], repeats) / (1e6 * repeats)

    @staticmethod
    def _name(number: int) -> str:
        return f"profiled {number}"


class Beside(NamedTuple):
    """Times of sub-nets over those of the probe beside them.

    Attributes
    ----------
    whole : ndarray of float64, shape (sub-nets, rounds)
    narrow : ndarray of float64, shape (sub-nets, rounds)
        Of the narrow sub-net, beside each.
    steps : list of list of ndarray
        Of the steps, per sub-net and round; empty lists where they were not timed.
    probes : ndarray of float64
        Milliseconds of the probe.
    """

    whole: F64
    narrow: F64
    steps: list[list[F64]]
    probes: F64


def time_beside(bench: Bench, probes: tuple[int, int], numbers: Sequence[int], rounds: int, layers: bool) -> Beside:
    """Time sub-nets in turns, the probe and the narrow sub-net before and after every few.

    Parameters
    ----------
    bench : Bench
    probes : tuple of int
        Numbers of the probe and the narrow sub-net.
    numbers : sequence of int
        Of the sub-nets.
    rounds : int
        Blocks of each.
    layers : bool
        Time the steps as well.
    """
    repeats = {n: _repeats(bench, n) for n in (*probes, *numbers)}
    whole, narrow = np.empty((2, len(numbers), rounds))
    steps: list[list[F64]] = [[] for _ in numbers]
    taken = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        before = np.array([bench.whole(n, repeats[n]) for n in probes])
        for r in range(rounds):
            order = list(range(len(numbers)))[:: 1 if r % 2 == 0 else -1]
            for first in range(0, len(order), NEAR):
                some, fresh = order[first : first + NEAR], []
                for i in some:
                    whole[i, r] = bench.whole(numbers[i], repeats[numbers[i]])
                    fresh.append(bench.layers(numbers[i], repeats[numbers[i]]) if layers else np.empty(0))
                after = np.array([bench.whole(n, repeats[n]) for n in probes])
                probe, beside = ((before + after) / 2).tolist()
                whole[some, r] /= probe
                narrow[some, r] = beside / probe
                for i, step in zip(some, fresh, strict=True):
                    steps[i].append(step / probe)
                taken.append(probe)
                before = after
    finally:
        if collecting:
            gc.enable()
    return Beside(whole, narrow, steps, np.array(taken))


def _repeats(bench: Bench, number: int) -> int:
    fastest = min(bench.whole(number, 1) for _ in range(3))
    return max(1, min(1000, math.ceil(BLOCK_MS / max(fastest, 1e-4))))


def continue_profile(net: Network, profile: Profile, save: Callable[[], None]) -> bool:
    """Measure what a profile lacks, part by part.

    Parameters
    ----------
    net : Network
    profile : Profile
        Gets the samples.
    save : callable
        Called after every part.

    Returns
    -------
    bool
        Whether anything was missing.
    """
    if profile.complete and profile.relative_error is not None:
        return False
    subnets = design_subnets(net)
    done = [s.point for s in profile.samples]
    if done != [point_document(s) for s in subnets[: len(done)]] or profile.rounds != ROUNDS:
        profile.samples, profile.conditions, profile.relative_error = [], [], None  # of another version's design
    profile.size, profile.rounds = len(subnets), ROUNDS
    if len(profile.samples) < len(subnets):
        bench, probes = _bench(net, profile.threads)
        profile.nodes = tuple(dict.fromkeys(bench.nodes[probes[0]]))
        while len(profile.samples) < len(subnets):
            first = len(profile.samples)
            samples, probe_ms = _part(bench, probes, subnets[first : first + PART], profile)
            profile.samples += samples
            profile.conditions.append(_condition(probe_ms))
            save()
    if profile.complete:
        profile.relative_error = cross_validate(net, profile)
        save()
    return True


def _part(
    bench: Bench, probes: tuple[int, int], subnets: Sequence[Subnet], profile: Profile
) -> tuple[list[Sample], float]:
    """Measure some sub-nets; the samples and the milliseconds of the probe."""
    numbers = [bench.add(subnet) for subnet in subnets]
    found = time_beside(bench, probes, numbers, profile.rounds, layers=True)
    samples = []
    for subnet, number, taken, ratios in zip(subnets, numbers, found.steps, _medians(found), strict=True):
        by_node = dict.fromkeys(profile.nodes, 0.0)
        for node, ratio in zip(bench.nodes[number], np.median(taken, axis=0).tolist(), strict=True):
            by_node[node] = by_node.get(node, 0.0) + ratio
        whole, narrow = map(_rounded, ratios)
        layers = tuple(_rounded(by_node[node]) for node in profile.nodes)
        samples.append(Sample(point_document(subnet), whole, layers, narrow))
    return samples, _rounded(float(np.median(found.probes)))


def _medians(found: Beside) -> list[tuple[float, float]]:
    """Of each sub-net and the narrow one beside it."""
    whole, narrow = np.median(found.whole, axis=1), np.median(found.narrow, axis=1)
    return list(zip(whole.tolist(), narrow.tolist(), strict=True))


def measure_unseen(
    net: Network, profile: Profile, measured: Sequence[Subnet], n: int, rounds: int, seed: int
) -> tuple[list[Subnet], F64]:
    """Measure sub-nets that are not in a profile.

    Parameters
    ----------
    net : Network
    profile : Profile
    measured : sequence of Subnet
        Not to be drawn either.
    n, rounds, seed : int
        How many, blocks of each, of the draw.

    Returns
    -------
    subnets : list of Subnet
        As many as there are, at most n.
    ratios : ndarray of float64, shape (sub-nets,)
        Their times over the probe's beside them, in the profile's state of the machine.
    """
    known = {*measured, *(s.point.subnet() for s in profile.samples), net._find(None)}
    drawn = draw_subnets(net, np.random.default_rng([seed, 1]), known)
    subnets = [subnet for _, subnet in zip(range(n), drawn, strict=False)]
    bench, probes = _bench(net, profile.threads)
    numbers = [bench.add(subnet) for subnet in subnets]
    found = time_beside(bench, probes, numbers, rounds, layers=False)
    whole, narrow = np.array(_medians(found)).reshape(-1, 2).T
    return subnets, in_state(whole, narrow, profile.narrow)


def _bench(net: Network, threads: int) -> tuple[Bench, tuple[int, int]]:
    """Make a bench; the numbers of the probe and the narrow sub-net in it."""
    bench = Bench(net, threads)
    widest, narrow = net._find(None), net.subnet(widths=[offered_widths(s, (NARROW,))[0] for s in net.spaces])
    probe = bench.add(widest)
    return bench, (probe, probe if narrow == widest else bench.add(narrow))


def _condition(probe_ms: float) -> Condition:
    now: Any = this_machine()
    return Condition(now.date, now.governor, now.mhz, celsius(), probe_ms)


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
