"""Runs extended by channel groups: the bits of whole runs, only the added groups computed, every refusal harmless."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import networks
import numpy as np
import pytest
from conftest import Seeds
from engines import Compiled
from reference import Subnet
from test_int8_exact import float_tables
from test_interrupt import interrupt
from test_memory import allocations, fail_everywhere

import dynadnn as dn
from dynadnn._tables import Tables

POINTS = (0.25, 0.5, 0.75, 1.0)
PAIRS = [(a, b) for i, a in enumerate(POINTS) for b in POINTS[i + 1 :]]
SHAPE = (12, 12, 3)


def images(n: int = 4, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def same_bits(a: Any, b: Any) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def grouped(name: str, shape: tuple[int, ...] = SHAPE, **options: Any) -> dn.Network:
    net: dn.Network = getattr(dn.nets, name)(shape, 5, groups=4, points=POINTS, rng=0, **options)
    net.recalibrate(images(8, shape))
    return net


def squeeze_net() -> dn.Network:
    """Signed maps, gates, poolings and padding, on a first layer that keeps all channels."""
    g = dn.GraphBuilder(SHAPE)
    x = g.relu(g.conv2d(g.input, 8, 3, name="stem", fixed=True))
    x = g.hardswish(g.batchnorm(g.conv2d(x, 32, 3, name="wide")))
    gate = g.hardsigmoid(g.conv2d(g.global_avg_pool(x), 32, 1, name="gate"))
    x = g.leaky_relu(g.batchnorm(g.conv2d(g.pad(g.mul(x, gate), 1), 48, 3, padding="valid", name="last")))
    x = g.linear(g.flatten(g.adaptive_avg_pool(g.max_pool(x, 2), 2)), 5, name="head")
    net = g.build(x, points=POINTS, groups=4, rng=0)
    net.recalibrate(images(8))
    return net


def odd_net() -> dn.Network:
    """Groups of 5 and 7 channels, which no kernel's step divides; a convolution of twice as many groups."""
    g = dn.GraphBuilder(SHAPE)
    x = g.relu(g.batchnorm(g.conv2d(g.input, 20, 3, name="first")))
    x = g.sigmoid(g.batchnorm(g.conv2d(x, 28, 3, name="second")))
    x = g.relu(g.batchnorm(g.conv2d(x, 40, 1, name="third")))
    x = g.relu(g.batchnorm(g.conv2d(x, 24, 3, groups=8, name="finer")))
    net = g.build(g.linear(g.global_avg_pool(x), 5, name="head"), points=POINTS, groups=4, rng=0)
    net.recalibrate(images(8))
    return net


NETS: dict[str, Callable[[], dn.Network]] = {
    "resnet20": lambda: grouped("resnet20", width=32),
    "alexnet": lambda: grouped("alexnet"),
    "dscnn": lambda: grouped("dscnn"),
    "lenet": lambda: grouped("lenet", width=24, divisor=16),
    "cnn1d": lambda: grouped("cnn1d", (24, 3)),
    "mlp": lambda: grouped("mlp", (7,)),
    "squeeze": squeeze_net,
}


# ---- the same bits ----


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int8 with a float head", "4 bits"])
def test_extension_has_the_bits_of_a_whole_run_at_the_larger_point(name: str, precision: str) -> None:
    net = NETS[name]()
    calibration = images(8, net.shape)
    if precision == "int8 with a float head":
        net = dn.quantize(net, calibration, policy={"head": "fp32"})
    elif precision not in ("fp32", "bf16"):
        net = dn.quantize(net, calibration, bits=(8, 4))
    view = "/4bit" if precision == "4 bits" else ""
    engine = net.compile(threads=3, precision="bf16" if precision == "bf16" else None)
    whole = engine.clone()
    for n in (1, 2, 7):
        x = images(n, net.shape, seed=n)
        for small, large in PAIRS:
            want = whole(x, f"{large}{view}")
            for threads in (1, 2, 3):
                engine.threads = threads
                engine(x, f"{small}{view}")
                got = engine.extend(x, f"{large}{view}")
                assert same_bits(got, want), (n, small, large, threads)


def test_groups_of_odd_sizes_are_extended_too() -> None:
    net, x = odd_net(), images(5)
    for isa in (None, "ref"):
        engine = net.compile(isa=isa)
        for small, large in PAIRS:
            engine(x, small)
            assert same_bits(engine.extend(x, large), engine.clone()(x, large)), (isa, small, large)


def test_random_networks_are_extended_by_any_number_of_groups_on_every_level(seeds: Seeds, isas: list[str]) -> None:
    for seed in seeds.range(10):
        case = networks.random_grouped_network(seed)
        bits = None if seed % 2 else [int(case.offered[-1])] * len(case.nodes)
        for isa in isas:
            for floating in (False, True):
                compiled = Compiled(case, isa, threads=3, floating=floating)
                tables = float_tables(case, case.subnets[0]) if floating else case.tables[0]
                free = [k for k in range(len(case.net.full)) if case.net.elastic[k] and case.net.lead[k] == k]
                for g in range(1, case.net.groups + 1):
                    widths = case.net.active({k: case.net.full[k] // case.net.groups * g for k in free})
                    compiled.add(g, Subnet(widths, None if floating else bits, None), tables)
                for small in range(1, case.net.groups):
                    for large in range(small + 1, case.net.groups + 1):
                        want = compiled(case.images, large)
                        compiled(case.images, small, 2)
                        assert same_bits(compiled.engine.extend(case.images, large), want), (isa, floating, small)


def test_an_extension_can_be_extended() -> None:
    net, x = dn.quantize(squeeze_net(), images(8)), images(3)
    engine, whole = net.compile(threads=2), net.compile()
    engine(x, 0.25)
    for large in POINTS[1:]:
        assert same_bits(engine.extend(x, large), whole(x, large))


def test_extend_takes_the_active_point_and_an_output_like_a_call() -> None:
    net, x = grouped("cnn1d", (24, 3)), images(2, (24, 3))
    engine = net.compile()
    want = engine(x, 1.0)
    engine.select(0.25)
    engine(x)
    engine.select(1.0)
    out = np.empty((2, 5), np.float32)
    assert engine.extend(x, out=out) is out
    assert same_bits(out, want) and engine.active == 1.0


def test_bytes_are_extended_and_one_image_may_lack_its_first_axis() -> None:
    net = grouped("lenet", width=24, divisor=16, preprocess=dn.Preprocess([0.5] * 3, [0.2] * 3))
    x = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    for model in (net, dn.quantize(net, images(8))):
        engine = model.compile()
        want = engine(x, 0.75)
        engine(x, 0.5)
        assert same_bits(engine.extend(x, 0.75), want)


def test_the_returned_output_may_be_changed_before_extending() -> None:
    net, x = grouped("mlp", (7,)), images(2, (7,))
    engine = net.compile()
    want = engine(x, 1.0)
    engine(x, 0.5)[:] = np.nan
    assert same_bits(engine.extend(x, 1.0), want)


# ---- what it costs ----


def test_extension_computes_only_the_added_groups() -> None:
    net, x = grouped("resnet20", width=32), images(3)
    for model in (net, dn.quantize(net, images(8))):
        engine = model.compile()
        assert engine.last_macs == 0
        for small, large in PAIRS:
            engine(x, small)
            assert engine.last_macs == model.macs(small)
            engine.extend(x, large)
            assert engine.last_macs == model.macs(large) - model.macs(small)


def test_layers_that_all_groups_share_are_computed_again() -> None:
    net, x = squeeze_net(), images(1)
    engine = net.compile()
    engine(x, 0.25)
    engine.extend(x, 1.0)
    stem = 12 * 12 * 8 * 9 * 3
    assert engine.last_macs == net.macs(1.0) - net.macs(0.25) + stem


def test_memory_counts_what_is_kept_and_other_networks_keep_nothing() -> None:
    net, x = grouped("cnn1d", (24, 3)), images(6, (24, 3))
    engine = net.compile()
    assert engine.memory["kept"] == 0
    engine(x, 1.0)
    assert engine.memory["kept"] == 0, "after the widest point nothing can follow"
    engine(x, 0.5)
    assert engine.memory["kept"] == x.nbytes + 6 * 5 * 4
    plain = dn.nets.cnn1d((24, 3), 5, points=POINTS, rng=0)
    plain.recalibrate(x)
    other = plain.compile()
    other(x, 0.5)
    assert other.memory["kept"] == 0


def test_nothing_is_allocated_when_a_run_and_its_extension_are_repeated() -> None:
    net, x = dn.quantize(grouped("cnn1d", (24, 3)), images(8, (24, 3))), images(6, (24, 3))
    engine = net.compile(threads=2)

    def both() -> None:
        engine(x, 0.25)
        engine.extend(x, 0.75)

    both()
    assert allocations(both) == 0


def test_failed_allocation_in_an_extended_run_raises_and_then_the_call_succeeds(seeds: Seeds) -> None:
    net, x = grouped("cnn1d", (24, 3)), images(6, (24, 3))
    engine = net.compile()

    def both() -> None:
        fresh = engine.clone()
        fresh(x, 0.25)
        fresh.extend(x, 1.0)

    fail_everywhere(both, seeds.rng())


# ---- refusals ----


@pytest.fixture
def ready() -> tuple[dn.Network, Any, Any]:
    """A grouped network, an engine that ran it at half its groups, and the images."""
    net, x = grouped("cnn1d", (24, 3)), images(2, (24, 3))
    engine = net.compile()
    engine(x, 0.5)
    return net, engine, x


def still_extends(engine: Any, x: Any) -> bool:
    """Nothing was lost: the last run can be extended to the bits of a whole one."""
    return same_bits(engine.extend(x, 1.0), engine.clone()(x, 1.0))


def test_extending_before_any_run_is_refused(ready: Any) -> None:
    _, engine, x = ready
    fresh = engine.clone()
    with pytest.raises(ValueError, match="nothing has been run"):
        fresh.extend(x, 1.0)
    fresh(x, 0.5)
    assert still_extends(fresh, x)


def test_other_images_are_refused(ready: Any) -> None:
    _, engine, x = ready
    changed = x.copy()
    changed[1, 20, 2] = np.nextafter(changed[1, 20, 2], np.float32(9))
    for other, text in ((changed, "not what the engine ran last"), (x[:1], "1 images"), (images(3, (24, 3)), "3 imag")):
        with pytest.raises(ValueError, match=text):
            engine.extend(other, 1.0)
    assert still_extends(engine, x.copy())


def test_images_changed_in_place_since_the_run_are_refused(ready: Any) -> None:
    _, engine, x = ready
    before = x.copy()
    x += 1
    with pytest.raises(ValueError, match="not what the engine ran last"):
        engine.extend(x, 1.0)
    assert still_extends(engine, before)


def test_bytes_after_floats_are_refused() -> None:
    net = grouped("lenet", width=24, divisor=16, preprocess=dn.Preprocess([0.5] * 3, [0.2] * 3))
    x = images(1)
    engine = net.compile()
    engine(x, 0.5)
    with pytest.raises(ValueError, match="x is uint8, the last run's was float32"):
        engine.extend(np.zeros((1, *SHAPE), np.uint8), 1.0)
    assert still_extends(engine, x)


def test_points_that_add_no_group_are_refused(ready: Any) -> None:
    _, engine, x = ready
    with pytest.raises(dn.PointError, match="1 of 4 channel groups, the last run had 2: extending only adds"):
        engine.extend(x, 0.25)
    with pytest.raises(dn.PointError, match="2 of 4 channel groups, and so had the last run"):
        engine.extend(x, 0.5)
    assert still_extends(engine, x)
    with pytest.raises(dn.PointError, match="none to add"):
        engine.extend(x, 1.0)


def test_points_whose_shared_groups_have_other_statistics_are_refused(ready: Any) -> None:
    net, _, x = ready
    net.recalibrate(images(8, (24, 3), seed=9), points=[1.0])
    engine = net.compile()
    engine(x, 0.5)
    with pytest.raises(dn.PointError, match=r"conv1.bn: its first 2 groups have other statistics .* same images"):
        engine.extend(x, 1.0)
    assert same_bits(engine.extend(x, 0.75), engine.clone()(x, 0.75))


def test_points_whose_shared_groups_have_other_scales_are_refused(ready: Any) -> None:
    net, _, x = ready
    model = dn.quantize(net, images(8, (24, 3)))
    widest = model.points["1.0"]
    known = model.tables[widest]
    node = [n.name for n in model._spec.nodes].index("conv2.relu")

    def engine_with(group: int) -> Any:
        scale = known.scale.copy()
        scale[node, group] *= 1.5
        changed = model.copy()
        changed._set_tables({**model.tables, widest: Tables(known.mean, known.variance, scale)})
        engine = changed.compile()
        engine(x, 0.75)
        return engine

    engine = engine_with(3)  # the last group's scale is its own affair
    assert same_bits(engine.extend(x, 1.0), engine.clone()(x, 1.0))
    for group in range(3):
        with pytest.raises(dn.PointError, match="other statistics or scales"):
            engine_with(group).extend(x, 1.0)


def test_points_of_other_bits_or_blocks_are_refused(ready: Any) -> None:
    net, _, x = ready
    model = dn.quantize(net, images(8, (24, 3)), bits=(8, 4))
    engine = model.compile()
    engine(x, "0.5")
    with pytest.raises(dn.PointError, match="conv1: 4 bits at the point, 8 in the last run"):
        engine.extend(x, "1.0/4bit")
    assert still_extends(engine, x)
    deep, y = grouped("resnet20", width=32), images(1)
    shallow = deep.subnet(1.0, depth=(1, 3, 3)) if deep.stages else None
    assert shallow is not None
    deep.recalibrate(images(8), points=[shallow])
    engine = deep.compile()
    engine(y, 0.5)
    with pytest.raises(dn.PointError, match="keeps other blocks"):
        engine.extend(y, shallow)
    assert still_extends(engine, y)


def test_networks_whose_groups_meet_are_refused_and_the_layer_is_named() -> None:
    x = images(2)
    plain = dn.nets.lenet(SHAPE, 5, width=24, points=POINTS, rng=0)
    g = dn.GraphBuilder(SHAPE)
    h = g.relu(g.conv2d(g.input, 16, 3, name="a"))
    h = g.concat([h, g.relu(g.conv2d(h, 16, 3, name="b"))], name="joined")
    joined = g.build(g.linear(g.global_avg_pool(h), 5), points=(0.5, 1.0), groups=2, rng=0)
    for net, text in ((plain, "conv2 reads all channels of its input"), (joined, "joined mixes channel groups")):
        if net._needs_tables:
            net.recalibrate(x)
        engine = net.compile()
        engine(x, 0.5)
        with pytest.raises(dn.UnsupportedError, match=text):
            engine.extend(x, 1.0)
        assert same_bits(engine(x, 0.5), net(x, 0.5))


def test_unknown_points_and_wrong_images_say_what_a_call_says(ready: Any) -> None:
    _, engine, x = ready
    with pytest.raises(dn.PointError, match="no point is called"):
        engine.extend(x, "0.6")
    with pytest.raises(ValueError, match="x"):
        engine.extend(x[:, :5], 1.0)
    with pytest.raises(TypeError):
        engine.extend()
    with pytest.raises(ValueError, match="out must be"):
        engine.extend(x, 1.0, np.empty((3, 5), np.float32))
    assert still_extends(engine, x)


def test_the_point_of_the_last_run_need_not_be_bound_any_more() -> None:
    net, x = grouped("cnn1d", (24, 3)), images(2, (24, 3))
    small = net.copy()
    small._set_points({"1.0": net.points["1.0"]})
    small._set_tables(dict(net.tables))
    engine = small.compile()
    want = engine(x, "1.0")
    engine(x, net.points["0.25"])
    for name in ("0.5", "0.75"):
        engine.select(net.points[name])
    assert net.points["0.25"] not in engine.points
    gc.collect()
    assert same_bits(engine.extend(x, "1.0"), want)


# ---- threads and interrupts ----


def test_a_run_of_another_thread_in_between_is_noticed(ready: Any) -> None:
    _, engine, x = ready
    other = threading.Thread(target=lambda: engine(x + 1, 0.5))
    other.start()
    other.join()
    with pytest.raises(ValueError, match="give every thread its clone"):
        engine.extend(x, 1.0)
    assert still_extends(engine, x + 1)


def test_threads_that_share_an_engine_get_the_right_output_or_an_error() -> None:
    net = dn.quantize(grouped("cnn1d", (24, 3)), images(8, (24, 3)))
    engine = net.compile(threads=2)
    inputs = [images(2, (24, 3), seed=k) for k in range(4)]
    wanted = [engine.clone()(x, 1.0) for x in inputs]

    def work(k: int) -> list[bool]:
        outcomes = []
        for _ in range(200):
            engine(inputs[k], 0.25)
            try:
                outcomes.append(same_bits(engine.extend(inputs[k], 1.0), wanted[k]))
            except (ValueError, dn.PointError):
                continue
        return outcomes

    with ThreadPoolExecutor(4) as pool:
        assert all(all(found) for found in pool.map(work, range(4)))


def test_threads_with_clones_extend_undisturbed() -> None:
    net = grouped("cnn1d", (24, 3))
    engine = net.compile()
    inputs = [images(2, (24, 3), seed=k) for k in range(4)]
    wanted = [engine.clone()(x, 1.0) for x in inputs]

    def work(k: int) -> bool:
        own = engine.clone()
        fine = True
        for _ in range(50):
            own(inputs[k], 0.5)
            fine = fine and same_bits(own.extend(inputs[k], 1.0), wanted[k])
        return fine

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_an_interrupted_extension_can_be_repeated(ready: Any) -> None:
    _, engine, _ = ready
    x = images(20_000, (24, 3))
    want = engine.clone()(x, 1.0)
    engine(x, 0.25)

    def extend() -> None:
        try:
            engine.extend(x, 1.0)
        except dn.PointError:  # it had ended before the signal came
            engine(x, 0.25)

    interrupt(extend, 0.05)
    try:
        got = engine.extend(x, 1.0)
    except (dn.PointError, ValueError):  # the signal came between extensions, or in a run
        engine(x, 0.25)
        got = engine.extend(x, 1.0)
    assert same_bits(got, want)
