"""What operating points cost in memory: small records and tables, and the same weights for any number of them."""

import numpy as np
import pytest

import dynadnn as dn
from dynadnn import _core

CHANNEL_BYTES, STEP_BYTES = 12, 96
POINTS = (0.25, 0.5, 0.75, 1.0)


def quantised(build, points=POINTS):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    preprocess = dn.Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)
    net = build((32, 32, 3), 10, points=points, divisor=4, preprocess=preprocess, rng=0)
    net.recalibrate(images)
    return dn.quantize(net, images, calibrate="minmax")


def active_channels(model, name, steps):
    """Active outputs of the steps that have tables of their own."""
    active = model._rules.active(model.points[name].widths)
    outputs = [step["output"] for step in steps if step["table_offset"] is not None]
    return sum(int(active[space]) for tensor in outputs for space, *_ in model._tensors[tensor]["segments"])


@pytest.mark.parametrize("build", [dn.nets.resnet20, dn.nets.resnet56, dn.nets.alexnet, dn.nets.mobilenetv2])
def test_a_point_takes_at_most_12_bytes_per_active_channel_and_96_per_step(build):
    model = quantised(build)
    engine = model.compile()
    for name in model.points:
        point = engine.points[name]
        most = CHANNEL_BYTES * active_channels(model, name, point.steps) + STEP_BYTES * len(point.steps)
        assert point.table_bytes <= most, f"{build.__name__} at {name}"
    sizes = [engine.points[name].table_bytes for name in model.points]
    assert engine.memory["tables"] == sum(sizes) + 2 * max(sizes), "two more can be bound on first use"


def test_more_points_take_no_more_weights():
    one, four = (quantised(dn.nets.resnet20, points).compile() for points in ((1.0,), POINTS))
    assert four.memory["weights"] == one.memory["weights"]
    assert four.points["1.0"].table_bytes == one.points["1.0"].table_bytes


def test_an_engine_that_turns_from_point_to_point_gives_what_fresh_engines_give():
    model = quantised(dn.nets.resnet20)
    engine, x = model.compile(), np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    alone = {name: model.compile()(x, name) for name in POINTS}
    for name in (*POINTS, *POINTS[::-1], 0.25, 1.0, 0.25):
        np.testing.assert_array_equal(engine(x, name), alone[name])


def test_a_point_that_gets_the_memory_of_a_freed_one_runs_as_itself():
    model = quantised(dn.nets.resnet20)
    plan, x = model.compile().plan, np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    engine = _core.Engine(plan, input_shape=(32, 32, 3), outputs=10)
    for subnet in 3 * tuple(model.points.values()):
        engine.points["once"] = plan.bind(*model._binding(subnet))
        got = engine(x, "once")
        del engine.points["once"]
        np.testing.assert_array_equal(got, model(x, subnet))


def test_an_engine_keeps_the_last_two_points_bound_on_first_use_and_takes_no_more_memory():
    model = quantised(dn.nets.resnet20)
    full = model.subnet(width=1.0).widths
    some = [model.subnet(widths=[4, *full[1:-1], last]) for last in (4, 8, 16, 32)]
    model.recalibrate(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8), points=some)
    engine = model.compile()
    named, most = set(engine.points), engine.memory["tables"]
    for subnet in some:
        engine.select(subnet)
        assert subnet in engine.points and engine.memory["tables"] <= most
    assert set(engine.points) - named == set(some[-2:])
    x = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(engine(x), model(x, some[-1]))


def test_a_point_without_statistics_leaves_an_engine_as_it_was():
    model = quantised(dn.nets.resnet20)
    engine = model.compile()
    before, active = dict(engine.points), engine.active
    with pytest.raises(dn.PointError, match="no statistics"):
        engine.select(model.subnet(width=0.6))
    assert engine.points == before and engine.active == active
