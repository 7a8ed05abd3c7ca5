"""Any list of operations: refused with a documented error, or it runs, and then as the oracle says."""

from __future__ import annotations

import os
import time
from typing import Any

import networks
import numpy as np
import pytest
import reference
from conftest import Seeds
from engines import Compiled, explain

core = pytest.importorskip("dynadnn._core", exc_type=ImportError)
SECONDS = float(os.environ.get("DYNADNN_FUZZ_SECONDS", "5"))
OPS = (
    *("input", "conv2d", "linear", "batchnorm", "relu", "relu6", "leaky_relu", "hardswish", "sigmoid", "hardsigmoid"),
    *("add", "mul", "concat", "max_pool", "avg_pool", "global_avg_pool", "adaptive_avg_pool", "shortcut", "pad"),
    *("flatten", "dropout", "identity"),
)
EDGES = (0, 1, 2, 3, 4, 5, 7, 8, 16, 17, 64, 255, 256, -1, -2, 2**15, 2**16, 2**30, 2**31 - 1, -(2**31), 2**31, 2**63)
WORK = 2_000_000  # multiply-accumulates and bytes of a network that is worth running here


def small(rng: Any) -> int:
    return int(rng.integers(0, 9)) if rng.random() < 0.85 else int(EDGES[rng.integers(len(EDGES))])


def random_node(rng: Any, number: int) -> dict[str, Any]:
    """A node of any op with any fields, often plausible."""
    op = str(rng.choice(OPS)) if rng.random() < 0.97 else "".join(map(chr, rng.integers(0, 300, 5)))
    count = {"input": 0, "add": 2, "mul": 2, "concat": int(rng.integers(1, 4))}.get(op, 1)
    if rng.random() < 0.03:
        count = small(rng) % 20
    inputs = [int(rng.integers(max(number, 1))) if rng.random() < 0.97 else small(rng) for _ in range(count)]
    node: dict[str, Any] = {"op": op, "name": f"n{number}", "inputs": tuple(inputs)}
    for name, size in (
        *(("height", 0), ("width", 0), ("channels", 0), ("groups", 0), ("bias", 0), ("fixed", 0), ("stage", 0)),
        *(("block", 0), ("kernel", 2), ("stride", 2), ("pad", 4), ("dilation", 2)),
    ):
        if rng.random() < 0.45:
            value = tuple(max(1, small(rng)) if name != "pad" else small(rng) // 3 for _ in range(size))
            node[name] = value if size else small(rng)
    if rng.random() < 0.3:
        node["value"] = float(rng.choice([0.1, 0.0, -1.0, np.nan, np.inf, 1e-45, 1e38]))
    if op == "shortcut" and rng.random() < 0.9:
        channels = node.setdefault("channels", int(rng.integers(1, 9)))
        if 0 < channels < 1000:
            node["map"] = rng.integers(-1, 6, channels).astype(np.int32)
    return node


def mutate(rng: Any, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A good network with a few fields changed, nodes doubled, dropped or exchanged."""
    nodes = [dict(node) for node in nodes]
    for _ in range(int(rng.integers(1, 4))):
        k = int(rng.integers(len(nodes)))
        kind = int(rng.integers(6))
        if kind == 0:
            nodes[k]["op"] = str(rng.choice(OPS))
        elif kind == 1:
            name = str(rng.choice(["channels", "groups", "stage", "block", "fixed", "bias", "height", "width"]))
            nodes[k][name] = small(rng)
        elif kind == 2:
            name = str(rng.choice(["kernel", "stride", "dilation", "pad"]))
            nodes[k][name] = tuple(small(rng) for _ in range(4 if name == "pad" else 2))
        elif kind == 3 and nodes[k].get("inputs"):
            nodes[k]["inputs"] = tuple(int(rng.integers(len(nodes))) for _ in nodes[k]["inputs"])
        elif kind == 4 and len(nodes) > 3:
            del nodes[k]
        else:
            nodes.insert(k, dict(nodes[int(rng.integers(len(nodes)))]))
    return nodes


def accepted(nodes: list[dict[str, Any]], output: int, groups: int) -> Any | None:
    """The graph, or None if it was refused; any other outcome is a fault."""
    try:
        return core.Graph(nodes, output, groups)
    except (ValueError, TypeError, NotImplementedError) as error:  # GraphError and UnsupportedError are among them
        assert str(error), "an error without a message"
        return None


def is_small(graph: Any) -> bool:
    active = np.array([full for full, *_ in graph.spaces], np.int32)
    macs, parameters = graph.cost(active)
    size = sum(int(t["height"]) * int(t["width"]) * int(t["channels"]) for t in graph.tensors)
    return int(macs.sum()) + int(parameters.sum()) + size < WORK


def run_accepted(rng: Any, nodes: list[dict[str, Any]], output: int, graph: Any, seed: int) -> bool:
    """Run a network that the gate let through; compare with the oracle where it is finite."""
    try:
        case = networks.finish(seed, rng, nodes, graph.groups, 2, output, graph.stages)
    except AssertionError as error:
        raise AssertionError("the core accepts what the oracle cannot read") from error
    try:
        compiled = Compiled(case, None, threads=2)
    except (NotImplementedError, LookupError):  # not built, or a width that integer kernels do not cut
        return False
    integer = any(p.codes is not None for p in case.params)
    for number, subnet in enumerate(case.subnets):
        arguments = (case.net, case.params, case.tables[number], subnet, case.images, case.input_table)
        got = compiled(case.images, number, 2)
        if integer and not case.specified:
            continue
        if integer:
            assert (got == reference.run_int8(*arguments).logits).all(), explain(compiled, number, case.images)
        else:
            want = reference.run_float(*arguments).logits
            assert (np.abs(got - want) <= 1e-5 * np.abs(want).max(initial=1)).all(), f"point {number}: {subnet}"
    return True


def test_any_list_of_nodes_is_refused_or_runs_as_the_oracle_says(seeds: Seeds) -> None:
    end = time.monotonic() + SECONDS
    ran = refused = 0
    seed = seeds.base
    while time.monotonic() < end or ran == 0:
        seed += 1
        seeds.used = [str(seed)]
        rng = np.random.default_rng([seed, 9])
        groups = 1
        if rng.random() < 0.5:
            nodes = [{"op": "input", "name": "x", "height": 6, "width": 5, "channels": 3}]
            if rng.random() < 0.05:
                nodes = []
            nodes += [random_node(rng, len(nodes) + k) for k in range(int(rng.integers(0, 9)))]
        else:
            builder = networks.Builder(rng)
            networks.random_nodes(builder, 8)
            nodes = mutate(rng, builder.nodes)
        if rng.random() < 0.05:
            groups = small(rng)
        output = len(nodes) - 1 if rng.random() < 0.97 else small(rng)
        if not -(2**31) <= output < 2**31 or not -(2**31) <= groups < 2**31:
            continue
        for node in nodes:
            if node["op"] == "linear":
                node.pop("groups", None)
        graph = accepted(nodes, output, groups)
        if graph is None:
            refused += 1
        elif is_small(graph):
            ran += run_accepted(rng, nodes, output, graph, seed)
    print(f"{ran} networks ran, {refused} were refused")


def test_random_structures_of_points_are_refused_or_run(seeds: Seeds) -> None:
    errors = (LookupError, ValueError, TypeError)
    for seed in seeds.range(15):
        case = networks.random_network(seed)
        rng = np.random.default_rng([seed, 11])
        compiled = Compiled(case, None)
        tables = case.tables[0]
        good = 0
        for _ in range(30):
            active = np.array([full for full, *_ in compiled.graph.spaces], np.int32)
            k = int(rng.integers(len(active)))
            active[k] = small(rng) % (2**31) if rng.random() < 0.5 else max(1, active[k] - 1)
            bits = rng.choice([8, 4, 3, 2, 1, 0, -8], len(case.nodes), p=[0.4, 0.2, 0.2, 0.17, 0.01, 0.01, 0.01])
            depth = rng.integers(-1, 4, len(compiled.graph.stages)).astype(np.int32)
            where = (active, bits.astype(np.int8), depth)
            try:
                compiled.graph.check(*where)
            except errors:
                with pytest.raises(errors):
                    compiled.plan.bind(*where, tables.mean, tables.variance, tables.scale)
                continue
            try:
                point = compiled.plan.bind(*where, tables.mean, tables.variance, tables.scale)
            except errors:
                continue
            good += 1
            assert compiled.engine(case.images, point).shape == (len(case.images), compiled.outputs)


def test_tables_of_any_numbers_are_refused_or_run(seeds: Seeds) -> None:
    edges = np.array([0, -0.0, 1, -1, np.nan, np.inf, -np.inf, 1e-45, 3.4e38, -3.4e38, 1e-30, 1e30], np.float32)
    errors = (LookupError, ValueError, ArithmeticError)
    for seed in seeds.range(15):
        case = networks.random_network(seed)
        rng = np.random.default_rng([seed, 12])
        compiled = Compiled(case, None)
        for _ in range(20):
            number = int(rng.integers(3))
            made = case.tables[number]
            tables = reference.Tables(made.mean.copy(), made.variance.copy(), made.scale.copy())
            for array in (tables.mean, tables.variance, tables.scale):
                if array.size and rng.random() < 0.6:
                    flat = array.reshape(-1)
                    flat[rng.integers(flat.size)] = rng.choice(edges)
            try:
                point = compiled.bind(case.subnets[number], tables)
            except errors:
                continue
            assert compiled.engine(case.images, point).shape == (len(case.images), compiled.outputs)


def test_images_of_any_floats_run(seeds: Seeds) -> None:
    edges = np.array([0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3.4e38, -3.4e38, 2.0**31, 1e10], np.float32)
    for seed in seeds.range(10):
        case = networks.random_network(seed)
        rng = np.random.default_rng([seed, 13])
        compiled = Compiled(case, None)
        images = rng.normal(0, 1, case.images.shape).astype(np.float32)
        mask = rng.random(images.shape) < 0.2
        images[mask] = rng.choice(edges, int(mask.sum()))
        for number in range(3):
            first = compiled(images, number)
            assert np.isfinite(first).all(), "bytes are finite whatever went in"
            assert (compiled(images, number) == first).all()
