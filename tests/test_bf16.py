"""bfloat16 inference: rounded where the definition says and nowhere else, the same bits on every level."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import networks
import numpy as np
import pytest
import reference
from conftest import Seeds
from engines import Compiled, structure
from test_int8_exact import float_tables

import dynadnn as dn

core = pytest.importorskip("dynadnn._core", exc_type=ImportError)
MAKERS = (networks.random_network, networks.random_grouped_network)
SUMS = 2e-5  # what float32 sums and tables may add, relative to a tensor's largest value


def bound_cases(seeds: Seeds, count: int, isa: str, threads: int = 1) -> Iterator[tuple[Compiled, list[Any]]]:
    """Random networks in bfloat16 with their points, and one of any widths, bound."""
    for seed in seeds.range(count):
        for make in MAKERS:
            case = make(seed)
            compiled = Compiled(case, isa, threads=threads, floating=True, precision=16)
            odd = networks.random_subnet(case.net, np.random.default_rng(case.seed), [8], step=1)
            points = [(subnet, float_tables(case, subnet)) for subnet in [*case.subnets, odd]]
            for number, (subnet, tables) in enumerate(points):
                compiled.add(number, subnet, tables)
            yield compiled, points


def stored(compiled: Compiled, number: int, x: Any) -> dict[int, Any]:
    """Every tensor that stands in the arena, as the engine reports it."""
    found = {}
    for tensor in range(len(compiled.case.nodes)):
        try:
            found[tensor] = np.asarray(compiled.engine.activation(x, compiled.engine.points[number], tensor))
        except (ValueError, NotImplementedError):
            continue
    return found


def check_every_tensor(compiled: Compiled, points: list[Any], isa: str) -> None:
    """Each stored tensor against the oracle, which computes it from the tensors that the engine has stored."""
    case, net, x = compiled.case, compiled.case.net, compiled.case.images
    for number, (subnet, tables) in enumerate(points):
        args = (case.float_params, tables, subnet, x, case.input_table)
        shaped = reference.run_float(net, *args).values
        given = {t: v.reshape(shaped[t].shape) for t, v in stored(compiled, number, x).items() if t in shaped}
        bf16 = reference.Bf16(net, given)
        logits = reference.run_float(net, *args, bf16=bf16).logits
        for tensor, own in bf16.own.items():
            if tensor not in given:
                continue
            got, label = given[tensor], (isa, number, tensor, case.nodes[tensor]["op"])
            half = np.ldexp(1.0, np.frexp(own)[1] - 9)  # half a step of 8 significant bits
            if tensor == bf16.wide:
                half = 0.0
            else:
                assert (got.astype(np.float32).view(np.uint32) & 0xFFFF == 0).all(), label
            size = np.abs(own).max(initial=1e-3)
            assert (np.abs(got - own) <= half + SUMS * size).all(), label
        assert len(bf16.own) > 1
        assert (compiled(x, number) == logits.astype(np.float32)).all()


def test_every_stored_tensor_is_what_its_inputs_give_rounded_once(seeds: Seeds, isas: list[str]) -> None:
    for isa in isas:
        for compiled, points in bound_cases(seeds, 25, isa):
            check_every_tensor(compiled, points, isa)


def large_case(seed: int) -> networks.Case:
    """Maps of which a thread widens a few rows at a time: strides, dilations, groups, several blocks of panels."""
    rng = np.random.default_rng(seed)
    same = (1, 1, 1, 1)
    convs: list[dict[str, Any]] = [
        {"channels": 24, "kernel": (3, 3), "pad": same, "bias": 1},
        {"channels": 40, "kernel": (1, 1)},
        {"channels": 40, "kernel": (5, 3), "stride": (2, 1), "pad": (2, 2, 0, 1)},
        {"channels": 24, "kernel": (3, 3), "pad": (2, 3, 2, 2), "dilation": (3, 2), "groups": 2},
        {"channels": 9, "kernel": (7, 1), "stride": (3, 2), "pad": (0, 3, 0, 0), "bias": 1},
    ]
    nodes: list[Any] = [{"op": "input", "name": "image", "height": 61, "width": 47, "channels": 3}]
    for number, conv in enumerate(convs):
        nodes.append({"op": "conv2d", "name": f"conv{number}", "inputs": (len(nodes) - 1,), **conv})
        nodes.append({"op": "relu", "name": f"relu{number}", "inputs": (len(nodes) - 1,)})
    net = reference.Network(nodes)
    params = []
    for node in net.nodes:
        if node["op"] != "conv2d":
            params.append(reference.Params())
            continue
        fan = net.tensors[node["inputs"][0]].channels // node["groups"]
        shape = (node["channels"], *node["kernel"], fan)
        weight = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        bias = rng.normal(size=shape[0]).astype(np.float32) if node["bias"] else None
        params.append(reference.Params(weight=weight, bias=bias))
    table = rng.normal(size=(3, 256)).astype(np.float32)
    images = rng.integers(0, 256, (1, 61, 47, 3), dtype=np.uint8)
    return networks.Case(seed, net, nodes, params, params, table, images, [8])


def test_maps_larger_than_what_is_widened_at_once_are_right(seeds: Seeds, isas: list[str]) -> None:
    for seed in seeds.range(2):
        case = large_case(seed)
        tables = reference.Tables(np.zeros(0, np.float32), np.ones(0, np.float32), None)
        points = [(subnet, tables) for subnet in (reference.Subnet(case.net.full), *odd_widths(case, seed))]
        want: list[Any] = [None] * len(points)
        for isa in isas:
            compiled = Compiled(case, isa, threads=3, floating=True, precision=16)
            for number, (subnet, _) in enumerate(points):
                compiled.add(number, subnet, tables)
            check_every_tensor(compiled, points, isa)
            for number in range(len(points)):
                for threads in (1, 2, 3):
                    got = compiled(case.images, number, threads)
                    want[number] = got if want[number] is None else want[number]
                    assert (got == want[number]).all(), (isa, number, threads)


def odd_widths(case: networks.Case, seed: int) -> list[reference.Subnet]:
    rng = np.random.default_rng(seed)
    return [networks.random_subnet(case.net, rng, [8], step=1) for _ in range(2)]


def test_levels_threads_and_repetition_give_the_same_bits(seeds: Seeds, isas: list[str]) -> None:
    for seed in seeds.range(10):
        for make in MAKERS:
            case = make(seed)
            images = np.random.default_rng(seed).integers(0, 256, (5, *case.images.shape[1:]), dtype=np.uint8)
            runs = [Compiled(case, isa, threads=3, floating=True, precision=16) for isa in isas]
            for number, subnet in enumerate(case.subnets):
                tables, want = float_tables(case, subnet), None
                for isa, run in zip(isas, runs, strict=True):
                    run.add(number, subnet, tables)
                    for threads in (1, 2, 3, 3):
                        got = run(images, number, threads)
                        want = got if want is None else want
                        assert (got == want).all(), (isa, number, threads)
                    alone = np.concatenate([run(images[i : i + 1], number, 3) for i in range(5)])
                    assert (alone == want).all(), (isa, number)


def test_bytes_and_the_floats_they_stand_for_give_the_same_bits(seeds: Seeds, isas: list[str]) -> None:
    for compiled, points in bound_cases(seeds, 5, isas[-1]):
        case = compiled.case
        floats = np.stack([case.input_table[c][case.images[..., c]] for c in range(case.images.shape[-1])], -1)
        for number in range(len(points)):
            assert (compiled(case.images, number) == compiled(floats, number)).all()


DATA = dn.datasets.digits(rng=0)


def make(name: str, **options: Any) -> dn.Network:
    net = getattr(dn.nets, name)(DATA, points=(0.5, 1.0), divisor=4, rng=0, **options)
    noise = np.random.default_rng(1)
    net = net.with_weights({k: v + noise.normal(0, 0.05, v.shape).astype(np.float32) for k, v in net.weights.items()})
    net.recalibrate(DATA.calibration.x)
    return net


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "alexnet", "dscnn"])
def test_a_slice_gives_the_bits_of_the_point(name: str) -> None:
    net = make(name, width=16)
    x = DATA.test.x[:5]
    engine = net.compile(precision="bf16")
    for point in (0.5, 1.0):
        cut = net.slice(point).compile(precision="bf16")
        assert np.array_equal(engine(x, point), cut(x))


@pytest.mark.parametrize(("name", "bound"), [("resnet20", 0.03), ("alexnet", 0.05), ("dscnn", 0.03)])
def test_logits_are_near_those_of_fp32(name: str, bound: float) -> None:
    """The bound is relative to the largest logit, for random weights; deeper ones without training amplify errors."""
    net = make(name, width=16)
    x = DATA.test.x[:20]
    for point in (0.5, 1.0):
        exact = net(x, point)
        error = np.abs(net.compile(precision="bf16")(x, point) - exact).max() / np.abs(exact).max()
        assert 0 < error <= bound


def test_weights_and_activations_take_half_the_bytes() -> None:
    net = make("alexnet", width=16)
    full, half = net.compile(compact=True), net.compile(precision="bf16")  # compact: weights once
    assert 0.5 <= half.memory["weights"] / full.memory["weights"] < 0.52
    for name in net.points:
        ratio = half.points[name].arena_bytes / full.points[name].arena_bytes
        assert 0.5 <= ratio < 0.55, "the table of contents of an arena: activations alone"
    kernels = [step["kernel"] for step in half.points[next(iter(net.points))].steps]
    assert all("_bf16 " in kernel for kernel in kernels)
    twin = half.clone()
    assert np.array_equal(twin(DATA.test.x[:3]), half(DATA.test.x[:3]))


def test_bf16_is_refused_where_it_cannot_be() -> None:
    net = make("mlp")
    model = dn.quantize(net, DATA)
    with pytest.raises(ValueError, match="float networks"):
        model.compile(precision="bf16")
    with pytest.raises(ValueError, match="must be 'fp32' or 'bf16'"):
        net.compile(precision="fp16")
    with pytest.raises(ValueError, match="int8 layers"):
        core.Plan(model._graph, model._core_params(), precision=16)
    with pytest.raises(ValueError, match="precision is 8"):
        core.Plan(net._graph, net._core_params(), precision=8)
    name, weight = next((k, v) for k, v in net.weights.items() if v.ndim > 1)
    large = weight.copy()
    large.flat[0] = 3.4e38
    with pytest.raises(dn.NonFiniteError, match="too large for bf16"):
        net.with_weights({name: large}).compile(precision="bf16")


def test_statistics_through_a_bf16_plan_are_those_of_its_own_layers(seeds: Seeds, isas: list[str]) -> None:
    for seed in seeds.range(8):
        case = networks.random_network(seed)
        compiled = Compiled(case, isas[-1], threads=2, floating=True, precision=16)
        for subnet in case.subnets:
            where = structure(case, compiled.graph, subnet)
            mean, variance, _ = compiled.plan.calibrate(*where, case.images, threads=2)
            tables = reference.Tables(mean, variance, None)
            compiled.add(0, subnet, tables)
            given = stored(compiled, 0, case.images)
            args = (case.float_params, tables, subnet, case.images, case.input_table)
            shaped = reference.run_float(case.net, *args).values
            given = {t: v.reshape(shaped[t].shape) for t, v in given.items() if t in shaped}
            own = reference.Tables(mean.copy(), variance.copy(), None)
            bf16 = reference.Bf16(case.net, given)
            reference.run_float(case.net, case.float_params, own, *args[2:], statistics=True, bf16=bf16)
            spread = np.sqrt(own.variance) + np.abs(own.mean) + 1e-6
            assert (np.abs(mean - own.mean) < 1e-5 * spread).all()
            assert (np.abs(variance - own.variance) < 1e-5 * spread**2).all()
