"""Random networks run by the C core: what the tests of inference share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from networks import Case
from reference import Params, Subnet, Tables

core = pytest.importorskip("dynadnn._core", exc_type=ImportError)


class Engine(core.Engine):  # type: ignore[misc, name-defined]
    """The core's engine with the smallest Python half: points are given bound, images as they are."""

    def _convert(self, x: Any) -> Any:
        return np.ascontiguousarray(x)

    def _bind(self, point: Any) -> Any:
        return point


def core_params(params: list[Params]) -> list[tuple[Any, ...] | None]:
    """Parameters as _core.Plan wants them."""
    out: list[tuple[Any, ...] | None] = []
    for p in params:
        if p.codes is not None:
            out.append((p.codes, p.code_scale, p.bias))
        else:
            out.append(None if p.weight is None else (p.weight, p.bias))
    return out


def space_map(case: Case, graph: Any) -> dict[int, int]:
    """From the oracle's channel spaces to the core's."""
    found: dict[int, int] = {}
    for number, info in enumerate(graph.tensors):
        t = case.net.tensors[number]
        repeat = {r for _, _, r in info["segments"]}
        assert len(repeat) == 1
        spaces = np.concatenate([np.full(full, space) for space, full, _ in info["segments"]])
        positions = np.concatenate([np.arange(full) for _, full, _ in info["segments"]])
        times = repeat.pop()
        assert times == (t.height * t.width if t.flat else 1)
        assert (np.tile(positions, times) == t.position).all()
        for mine, theirs in zip(t.space.tolist(), np.tile(spaces, times).tolist(), strict=True):
            assert found.setdefault(mine, theirs) == theirs, f"tensor {number}"
    assert len(set(found.values())) == len(found)
    return found


def structure(case: Case, graph: Any, subnet: Subnet) -> tuple[Any, Any, Any]:
    """Arrays active, bits, depth of a point."""
    where = space_map(case, graph)
    active = np.zeros(len(where), np.int32)
    for mine, theirs in where.items():
        active[theirs] = subnet.active[mine]
    bits = None if subnet.bits is None else np.array(subnet.bits, np.int8)
    depth = None if subnet.depth is None else np.array(subnet.depth, np.int32)
    return active, bits, depth


class Compiled:
    """A case as an engine whose points are numbered like the case's sub-nets."""

    def __init__(
        self, case: Case, isa: str | None = "ref", threads: int = 1, floating: bool = False, precision: int = 32
    ) -> None:
        self.case = case
        net = case.net
        self.graph = core.Graph(case.nodes, net.output, net.groups)
        self.params = core_params(case.float_params if floating else case.params)
        options = {"threads": threads, "isa": isa, "precision": precision}
        options["least_bits"] = min(case.offered)
        self.plan = core.Plan(self.graph, self.params, input_table=case.input_table, **options)
        last = net.tensors[net.output]
        self.outputs = last.features * (1 if last.flat else last.height * last.width)
        self.input_shape = case.images.shape[1:]
        self.engine = self.new_engine()
        if not floating:
            for number, (subnet, tables) in enumerate(zip(case.subnets, case.tables, strict=True)):
                self.add(number, subnet, tables)

    def new_engine(self) -> Any:
        return Engine(self.plan, input_shape=self.input_shape, outputs=self.outputs)

    def bind(self, subnet: Subnet, tables: Tables) -> Any:
        return self.plan.bind(*structure(self.case, self.graph, subnet), tables.mean, tables.variance, tables.scale)

    def add(self, name: Any, subnet: Subnet, tables: Tables) -> None:
        self.engine.points[name] = self.bind(subnet, tables)

    def __call__(self, x: Any, point: Any, threads: int = 1) -> Any:
        self.engine.threads = threads
        return self.engine(x, point)


class Training:
    """A case's float network with a trainer and what one step needs."""

    def __init__(self, case: Case, images: Any, threads: int = 1) -> None:
        self.case, self.images, self.threads = case, images, threads
        self.graph = core.Graph(case.nodes, case.net.output, case.net.groups)
        self.active, _, self.depth = structure(case, self.graph, case.subnets[0])
        last = case.net.tensors[case.net.output]
        outputs = last.features * (1 if last.flat else last.height * last.width)
        rng = np.random.default_rng(case.seed)
        self.d_logits = rng.normal(0, 0.01, (len(images), outputs)).astype(np.float32)
        self.trainer = self.new()

    def new(self) -> Any:
        params = core_params(self.case.float_params)
        options = {"batch": len(self.images), "threads": self.threads, "input_table": self.case.input_table}
        return core.Trainer(self.graph, params, **options)

    def step(self, trainer: Any = None) -> Any:
        trainer = self.trainer if trainer is None else trainer
        logits = trainer.forward(self.images, self.active, slot=0, step=trainer.steps)
        trainer.backward(self.d_logits)
        trainer.commit("sgd", lr=0.01, momentum=0.9)
        return logits

    def state(self, trainer: Any = None) -> list[bytes]:
        """All weights and statistics, to compare to the bit."""
        trainer = self.trainer if trainer is None else trainer
        arrays = [a for i in range(len(self.case.nodes)) for a in trainer.get_params(i) if a is not None]
        return [a.tobytes() for a in (*arrays, *trainer.get_stats(0))]


def explain(compiled: Compiled, number: int, x: Any) -> str:
    """Where engine and oracle first differ."""
    case = compiled.case
    run = reference.run_int8(case.net, case.params, case.tables[number], case.subnets[number], x, case.input_table)
    lines = [f"point {number}: {case.subnets[number]}"]
    for i, node in enumerate(case.nodes):
        t = case.net.tensors[i]
        lines.append(f"  {i} {node['op']} {node.get('inputs', ())} {t.height}x{t.width}x{t.channels}")
    for tensor in sorted(run.codes):
        try:
            got = compiled.engine.activation(x, compiled.engine.points[number], tensor)
        except (ValueError, NotImplementedError) as error:
            lines.append(f"tensor {tensor}: {error}")
            continue
        want = run.real(tensor)
        wrong = np.argwhere(np.asarray(got).reshape(want.shape) != want)
        if len(wrong):
            where = tuple(int(i) for i in wrong[0])
            scale = float(run.bound.scale(tensor, case.tables[number])[where[-1]])
            values = (float(np.asarray(got).reshape(want.shape)[where]) / scale, float(want[where]) / scale)
            op = case.nodes[tensor]["op"]
            lines.append(
                f"first difference: tensor {tensor} ({op}) at {where}, {len(wrong)} of {want.size} values; "
                f"in steps: engine {values[0]:.3f}, oracle {values[1]:.3f}; chain {case.net.chains.get(tensor)}"
            )
            break
    return "\n".join(lines)
