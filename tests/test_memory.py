"""Failing allocations, references and blocks: nothing leaks, on success or on any error path."""

from __future__ import annotations

import gc
import resource
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from conftest import Seeds
from engines import Compiled, Training, structure
from test_int8_exact import float_tables

import dynadnn as dn

core = pytest.importorskip("dynadnn._core", exc_type=ImportError)
ERRORS = (TypeError, ValueError, LookupError, ArithmeticError, NotImplementedError, RuntimeError, BufferError)


# ---- allocation failure ----


def allocations(call: Callable[[], Any]) -> int:
    """How many blocks of the core a call asks for."""
    core.alloc_fail_at(10**9)
    try:
        call()
    finally:
        left = core.alloc_fail_left()
        core.alloc_fail_at(0)
    return int(10**9 - left)


def fail_everywhere(call: Callable[[], Any], rng: np.random.Generator) -> None:
    """Let the k-th allocation fail: MemoryError, nothing kept, and then the call succeeds."""
    call()
    gc.collect()
    total = allocations(call)
    gc.collect()
    live = core.alloc_live()
    some = rng.choice(np.arange(51, total + 1), min(20, total - 50), replace=False).tolist() if total > 50 else []
    for k in [*range(1, min(50, total) + 1), *some]:
        core.alloc_fail_at(k)
        try:
            call()
        except MemoryError:
            assert core.alloc_fail_left() == 0, f"allocation {k} of {total} did not take place"
        else:
            pytest.fail(f"allocation {k} of {total} failed and nobody said so")
        finally:
            core.alloc_fail_at(0)
        if core.alloc_live() != live:
            gc.collect()
        assert core.alloc_live() == live, f"failing at {k} of {total} keeps {core.alloc_live() - live} blocks"
    call()
    gc.collect()
    assert core.alloc_live() == live


@pytest.mark.parametrize("floating", [False, True], ids=["int8", "float"])
def test_failed_allocation_raises_memory_error_and_then_the_call_succeeds(floating: bool, seeds: Seeds) -> None:
    rng = seeds.rng()
    for seed in seeds.range(3):
        case = networks.random_network(seed)
        fail_everywhere(lambda case=case: core.Graph(case.nodes, case.net.output, case.net.groups), rng)
        compiled = Compiled(case, "ref", threads=2, floating=floating)
        tables = float_tables(case, case.subnets[1]) if floating else case.tables[1]

        def plan(own: Compiled = compiled) -> Any:
            return core.Plan(own.graph, own.params, input_table=own.case.input_table, threads=2)

        def point(own: Compiled = compiled, made: Any = tables) -> Any:
            return own.bind(own.case.subnets[1], made)

        fail_everywhere(plan, rng)
        fail_everywhere(point, rng)
        fail_everywhere(compiled.new_engine, rng)
        bound = point()

        def first_run(own: Compiled = compiled, use: Any = bound) -> Any:
            return own.new_engine()(own.case.images, use)

        fail_everywhere(first_run, rng)
        where = structure(case, compiled.graph, case.subnets[1])
        fail_everywhere(lambda own=compiled, w=where: own.plan.calibrate(*w, own.case.images, threads=2), rng)


def test_failed_allocation_in_training_raises_memory_error_and_then_the_step_succeeds(seeds: Seeds) -> None:
    rng = seeds.rng()
    for seed in seeds.range(2):
        case = networks.random_network(seed)
        training = Training(case, case.images, threads=2)
        fail_everywhere(training.new, rng)

        def first_step(own: Training = training) -> Any:
            trainer = own.new()
            own.step(trainer)

        fail_everywhere(first_step, rng)
        training.step()
        assert training.state() == training.state()


def test_run_on_a_reserved_engine_allocates_nothing(seeds: Seeds) -> None:
    for seed in seeds.range(5):
        case = networks.random_network(seed)
        compiled = Compiled(case, None, threads=2)
        for number in range(3):
            compiled(case.images, number, 2)
        for number in range(3):
            assert allocations(lambda own=compiled, k=number: own(own.case.images, k, 2)) == 0


# ---- references and blocks ----


def bad_values() -> list[Any]:
    reverse = np.arange(12, dtype=np.float32)[::-2]
    return [
        *(None, -1, 2**40, 1.5, "no", b"no", (), [], {}, object()),
        *(np.zeros(0, np.float32), np.zeros((2, 3), np.float64), np.zeros(3, np.int32), np.full(5, np.nan, np.float32)),
        *(reverse, np.zeros(4, ">f4"), np.array([None, 1], object), [None], ({},), [{"op": "none"}]),
    ]


class Calls:
    """Every public function of the extension with good arguments."""

    def __init__(self, case: networks.Case) -> None:
        compiled = Compiled(case, "ref", threads=2)
        graph, plan, engine = compiled.graph, compiled.plan, compiled.engine
        where = structure(case, graph, case.subnets[1])
        tables = case.tables[1]
        point = engine.points[1]
        images = case.images
        out = np.empty((len(images), compiled.outputs), np.float32)
        self.rows: list[tuple[str, Callable[..., Any], list[Any], dict[str, Any]]] = [
            ("config", core.config, [], {}),
            ("probe", core.probe, ["conv_f32 ref"], {}),
            ("alloc_fail_at", core.alloc_fail_at, [0], {}),
            ("alloc_fail_left", core.alloc_fail_left, [], {}),
            ("alloc_live", core.alloc_live, [], {}),
            ("Graph", core.Graph, [case.nodes, case.net.output, 1], {}),
            ("Graph.check", graph.check, list(where), {}),
            ("Graph.cost", graph.cost, list(where), {}),
            (
                "Plan",
                core.Plan,
                [graph, compiled.params],
                {"input_table": case.input_table, "threads": 1, "isa": "ref"},
            ),
            ("Plan.bind", plan.bind, [*where, tables.mean, tables.variance, tables.scale], {}),
            ("Plan.calibrate", plan.calibrate, [*where, images], {"range": "minmax", "percentile": 99.0, "threads": 1}),
            ("Engine", core.Engine, [plan], {"input_shape": images.shape[1:], "outputs": compiled.outputs}),
            ("Engine.select", engine.select, [1], {}),
            ("Engine.__call__", engine, [images, 1, out], {}),
            ("Engine.__call__ Point", engine, [images], {"point": point}),
            ("Engine.profile_steps", engine.profile_steps, [images, point, 1], {}),
            ("Engine.activation", engine.activation, [images, point, 0], {}),
        ]
        for owner, name in [
            *((graph, name) for name in ("tensors", "spaces", "stages", "groups", "norm_channels")),
            *((plan, name) for name in ("weight_bytes", "threads")),
            *((point, name) for name in ("table_bytes", "arena_bytes", "steps")),
            *((engine, name) for name in ("active", "threads", "arena_bytes", "points")),
        ]:
            label = f"{type(owner).__name__}.{name}"
            self.rows.append((label, lambda owner=owner, name=name: getattr(owner, name), [], {}))

    def variants(self) -> list[tuple[str, Callable[..., Any], list[Any], dict[str, Any]]]:
        """The good calls, and each with one argument spoilt, one missing or one too many."""
        out = []
        for label, function, args, kwargs in self.rows:
            out.append((label, function, args, kwargs))
            if "lambda" in getattr(function, "__name__", ""):
                continue
            out.append((f"{label} with one too many", function, [*args, *[None] * 9], kwargs))
            out.append((f"{label} with an unknown name", function, args, {**kwargs, "nonsense": object()}))
            if args:
                out.append((f"{label} with one missing", function, args[:-1], kwargs))
            for value in bad_values():
                for i in range(len(args)):
                    spoilt = [*args[:i], value, *args[i + 1 :]]
                    out.append((f"{label} argument {i} = {value!r:.40}", function, spoilt, kwargs))
                for key in kwargs:
                    out.append((f"{label} {key} = {value!r:.40}", function, args, {**kwargs, key: value}))
        return out


def attempt(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> None:
    try:
        function(*args, **kwargs)
    except (*ERRORS, MemoryError):
        core.alloc_fail_at(0)


def test_no_call_keeps_or_loses_references_to_its_arguments(seeds: Seeds) -> None:
    case = networks.random_network(seeds.note(seeds.base + 3))
    for label, function, args, kwargs in Calls(case).variants():
        attempt(function, args, kwargs)
        watched = [x for x in flat(args, kwargs) if type(x) not in (int, float, str, bytes, bool, type(None))]
        gc.collect(0)
        before = [sys.getrefcount(x) for x in watched]
        for _ in range(20):
            attempt(function, args, kwargs)
        after = [sys.getrefcount(x) for x in watched]
        for x, count, then in zip(watched, before, after, strict=True):
            assert abs(then - count) < 10, f"{label}: references to {x!r:.60} went from {count} to {then}"


def flat(args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Arguments and what is inside them."""
    found: list[Any] = []
    for value in [*args, *kwargs.values()]:
        found.append(value)
        if isinstance(value, (list, tuple)):
            for item in value:
                found.append(item)
                if isinstance(item, tuple):
                    found += item
    return [x for x in found if not (isinstance(x, tuple) and not x)]


def test_no_call_leaves_blocks_behind(seeds: Seeds) -> None:
    case = networks.random_network(seeds.note(seeds.base + 4))
    variants = Calls(case).variants()

    def everything(times: int) -> None:
        for _, function, args, kwargs in variants:
            for _ in range(times):
                attempt(function, args, kwargs)

    everything(2)
    gc.collect()
    live = core.alloc_live()
    tracemalloc.start()
    try:
        everything(1)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        everything(5)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert core.alloc_live() == live, "blocks of the core"
    assert after - before < 20_000, f"{after - before} bytes of Python memory grow in five rounds"


def test_large_blocks_go_back_to_the_system() -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc/self/statm to read the size of the address space from")
    net = dn.nets.mlp((64,), 10, width=2048, points=(0.5, 1.0), rng=0)
    x = np.ones((1, 64), np.float32)
    net.recalibrate(x.repeat(8, axis=0))
    first = net.compile(threads=1)(x)

    def pages(rounds: int) -> int:
        for _ in range(rounds):
            engine = net.compile(threads=1)
            assert engine.plan.weight_bytes > 16_000_000 and np.array_equal(engine(x), first)
            del engine
        gc.collect()
        return int(statm.read_text().split()[0])

    before = pages(3)
    assert (pages(8) - before) * resource.getpagesize() < 16_000_000


def test_handles_free_all_they_own_in_any_order(seeds: Seeds) -> None:
    gc.collect()
    live = core.alloc_live()
    for seed in seeds.range(4):
        case = networks.random_network(seed)
        for order in range(3):
            compiled = Compiled(case, None, threads=2)
            compiled(case.images, 0)
            point = compiled.engine.points[1]
            engine, plan, graph = compiled.engine, compiled.plan, compiled.graph
            compiled.engine = compiled.plan = compiled.graph = None
            if order == 0:  # a point and an engine outlive the names of what they were made from
                del graph, plan
                assert engine(case.images, point).shape[0] == len(case.images)
                del engine, point
            elif order == 1:
                del engine, graph
                assert plan.weight_bytes >= 0 and point.arena_bytes > 0
                del plan, point
            else:
                engine.points["self"] = engine.points[0]
                cycle = [engine]
                cycle.append(cycle)  # type: ignore[arg-type]
                del engine, point, plan, graph, cycle
            del compiled
    gc.collect()
    assert core.alloc_live() == live
