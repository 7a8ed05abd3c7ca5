"""Progressive shrinking, and points that differ in depth, in every training method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dynadnn as dn
from dynadnn._methods import all_joined

DATA = dn.datasets.digits(rng=0)
FEW = DATA.subset(128)
QUIET: dict[str, Any] = {"progress": False, "rng": 0, "augment": None}
POINTS = {
    "tiny": {"width": 0.5, "depth": (1, 1, 1)},
    "narrow": {"width": 0.5},
    "shallow": {"depth": (1, 2, 1)},
    "1.0": 1.0,
}


def mlp(points: Any = (0.25, 0.5, 0.75, 1.0)) -> dn.Network:
    return dn.nets.mlp(DATA, width=32, points=points, rng=0)


def resnet(points: Any = None) -> dn.Network:
    return dn.nets.resnet20(DATA, width=8, points=POINTS if points is None else points, divisor=4, rng=0)


def trained_at(net: dn.Network, method: dn.Progressive, steps: int) -> list[set[str]]:
    names = {subnet: name for name, subnet in net.points.items()}
    points = list(net.points.values())
    return [{names[c.subnet] for c in method.choose(net._rules, points, 0, step, steps)} for step in range(steps)]


# ---- progressive shrinking ----


def test_smaller_points_join_one_after_the_other() -> None:
    trained = trained_at(mlp(), dn.Progressive(alone=0.2, joining=0.4, random=9), 10)
    assert trained[:2] == [{"1.0"}] * 2
    assert trained[2:4] == [{"0.75", "1.0"}] * 2
    assert trained[4:6] == [{"0.5", "0.75", "1.0"}] * 2
    assert trained[6:] == [{"0.25", "0.5", "0.75", "1.0"}] * 4


def test_shallower_points_join_before_narrower_ones() -> None:
    trained = trained_at(resnet(), dn.Progressive(alone=0.2, joining=0.4, random=9), 10)
    assert [len(t) for t in trained] == [1, 1, 2, 2, 3, 3, 4, 4, 4, 4]
    assert trained[2] == {"1.0", "shallow"} and trained[4] == {"1.0", "shallow", "narrow"}


def test_a_step_trains_the_widest_on_labels_and_one_that_joined_on_its_outputs() -> None:
    net, method = mlp(), dn.Progressive()
    points = list(net.points.values())
    seen = set()
    for step in range(40, 80):
        first, second = method.choose(net._rules, points, 0, step, 80)
        assert first.subnet == net.points["1.0"] and not first.soft and second.soft
        assert method.choose(net._rules, points, 0, step, 80) == [first, second]
        seen.add(second.subnet)
    assert seen == set(points) - {net.points["1.0"]}


def test_progressive_training_learns_every_point() -> None:
    net = dn.nets.mlp(DATA, width=64, points=(0.25, 0.5, 1.0), rng=0)
    dn.fit(net, DATA, epochs=12, method=dn.Progressive(random=2), **QUIET)
    assert min(net.evaluate(DATA.test, point)["accuracy"] for point in net.points) > 0.85


def test_a_resumed_progressive_run_ends_with_the_same_bits(tmp_path: Any) -> None:
    class Stop(dn.Callback):
        def on_step_end(self, logs: Any) -> Any:
            return "stop" if logs["step"] == 11 else None

    whole, part = mlp(), mlp()
    dn.fit(whole, DATA, epochs=3, method=dn.Progressive(), **QUIET)
    options = {**QUIET, "checkpoint": tmp_path / "run"}
    dn.fit(part, DATA, epochs=3, method=dn.Progressive(), callbacks=[Stop()], **options)
    dn.fit(part, DATA, epochs=3, method=dn.Progressive(), **options)
    assert all(np.array_equal(whole.weights[key], part.weights[key]) for key in whole.weights)


def test_halting_ends_no_progressive_training_before_all_points_have_joined() -> None:
    net = mlp()
    halting = dn.EarlyHalting(patience=1, min_gain=0.9)
    history = dn.fit(net, DATA, epochs=10, method=dn.Progressive(), halting=halting, **QUIET)
    assert history.halted and history.steps < 80
    assert history.steps > max(dn.Progressive().joins(4, 80))
    assert not all_joined(dn.Progressive(), list(net.points.values()), 40, 80)
    assert all_joined(dn.Progressive(), list(net.points.values()), 41, 80)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alone": 0.6, "joining": 0.4}, "below 1, so that all points"),
        ({"alone": -0.1}, "alone must be a share"),
        ({"joining": 1.0}, "joining must be a share"),
        ({"random": 0}, "random must be at least 1"),
        ({"targets": "labels"}, "must be 'widest' or 'teacher'"),
    ],
)
def test_a_progressive_method_that_cannot_be_says_why(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        dn.Progressive(**options)


# ---- points that differ in depth ----


def test_points_are_described_by_width_and_depth() -> None:
    net = resnet()
    assert net.points["tiny"] == net.subnet(0.5, depth=(1, 1, 1)) and net.points["shallow"].depth == (1, 2, 1)
    assert list(resnet([{"depth": (1, 1, 1)}, 1.0]).points) == ["8-8-8-8-16-16-16-16-32-32-32-32/depth 1-1-1", "1.0"]
    with pytest.raises(TypeError, match=r"of point 'a' holds \['deep'\]: it may hold width"):
        resnet({"a": {"deep": 1}})
    with pytest.raises(dn.PointError, match="stage 1: it can keep 1 to 3"):
        resnet({"a": {"depth": (1, 0, 1)}})


def test_points_are_named_later_and_keep_their_statistics() -> None:
    net = resnet((0.5, 1.0))
    net.recalibrate(DATA.train.x[:64])
    made = net.with_points({"half": 0.5, "shallow": {"depth": (1, 1, 1)}})
    assert list(made.points) == ["half", "shallow"] and list(net.points) == ["0.5", "1.0"]
    x = DATA.test.x[:8]
    assert np.array_equal(made(x, "half"), net(x, 0.5))
    with pytest.raises(dn.PointError, match="'shallow' has no statistics"):
        made(x, "shallow")


METHODS = [dn.Sandwich(), dn.SinglePath(), dn.MultiPath(), dn.Progressive(alone=0.2, joining=0.2)]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_training_over_depths_gives_points_that_engines_slices_and_int8_agree_on(method: Any, tmp_path: Any) -> None:
    net, x = resnet(), DATA.test.x[:40]
    before = dict(net.weights)
    dn.fit(net, FEW, epochs=5, batch=32, method=method, val=(x, DATA.test.y[:40]), **QUIET)
    dropped = [k for k in net.weights if k.startswith("stage1.block3") and k.endswith("weight")]
    assert all(not np.array_equal(net.weights[k], before[k]) for k in dropped)
    net.save(tmp_path / "net")
    back, engine = dn.load(tmp_path / "net"), net.compile()
    model = dn.quantize(net, FEW)
    int8 = model.compile()
    for name in POINTS:
        outputs = engine(x, name)
        assert np.array_equal(outputs, net.slice(name)(x)) and np.array_equal(outputs, back(x, name))
        assert np.array_equal(int8(x, name), model.slice(name)(x))
        assert np.array_equal(int8(x, name), net_ref(model, x, name))
        scale = np.abs(outputs).max()
        assert np.abs(int8(x, name) - outputs).max() < 0.2 * scale


def net_ref(model: dn.Network, x: Any, name: str) -> Any:
    return model.compile(isa="ref")(x, name)


def test_the_gradient_at_a_shallow_point_is_that_of_its_slice() -> None:
    net = resnet()
    net.recalibrate(DATA.train.x[:64])
    part = net.slice("tiny")
    only = net.with_points({"tiny": POINTS["tiny"]})
    options = {**QUIET, "batch": 64, "schedule": "constant", "optimizer": dn.SGD(lr=0.5, weight_decay=0.0)}
    dn.fit(only, FEW, epochs=1, **options)
    dn.fit(part, FEW, epochs=1, **options)
    again = only.slice("tiny")
    for key, value in part.weights.items():
        assert np.allclose(again.weights[key], value, atol=1e-5), key
    a, b = only.tables[only.points["tiny"]], part.tables[part.points["1.0"]]
    assert np.allclose(again.tables[again.points["1.0"]].mean, b.mean, atol=1e-4) and a.mean.shape != b.mean.shape
    gone = [k for k in net.weights if k.startswith(("stage1.block2", "stage2.block3"))]
    assert gone and all(np.array_equal(only.weights[k], net.weights[k]) for k in gone)


def test_random_draws_of_a_sandwich_cover_depths_between_the_named_points() -> None:
    net = resnet({"tiny": {"width": 0.5, "depth": (1, 1, 1)}, "1.0": 1.0})
    points, depths = list(net.points.values()), set()
    for step in range(40):
        chosen = dn.Sandwich().choose(net._rules, points, 0, step)
        depths |= {c.subnet.depth for c in chosen[2:]}
        assert all(net._rules.check(c.subnet) == c.subnet for c in chosen)
    assert {d[0] for d in depths} == {1, 2, 3} and all(1 <= n <= 3 for d in depths for n in d)
