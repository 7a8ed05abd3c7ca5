"""Incremental training of channel groups: each alone, earlier ones frozen, bit for bit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dynadnn as dn
from dynadnn._incremental import _options_of, cut_group, fit_groups, put_group
from dynadnn._loop import Loop

DATA = dn.datasets.shapes(n=400, size=8, rng=0)
GROUPS = 2


def make(groups: int = GROUPS, name: str = "resnet20", seed: int = 0) -> dn.Network:
    points = tuple((g + 1) / groups for g in range(groups))
    return getattr(dn.nets, name)(DATA, width=8 * groups, groups=groups, points=points, rng=seed)


def train(net: dn.Network, **options: Any) -> dn.History:
    options = {"epochs": 2, "batch": 40, "progress": False, "rng": 0, "augment": None, **options}
    return dn.fit(net, DATA, **options)


def second_group(own_loss: float | None) -> dict[str, np.ndarray]:
    net = make()
    train(net, epochs=1, method=dn.Incremental(own_loss))
    return dict(cut_group(net, 1).weights)


def test_a_group_that_learns_from_its_own_outputs_is_trained_as_if_it_were_alone() -> None:
    alone = cut_group(make(), 1)
    train(
        alone,
        epochs=1,
        rng=_options_of({"checkpoint": None, "continue_from": None, "max_seconds": None}, 1, 0, 0)["rng"],
    )
    together = second_group(None)
    assert all(np.array_equal(together[key], value) for key, value in alone.weights.items())
    some = second_group(0.5)
    assert any(not np.array_equal(some[key], value) for key, value in together.items())


def test_groups_of_a_regression_learn_what_is_missing_and_others_the_whole_task() -> None:
    huber = dn.Huber()
    assert dn.Incremental().share(huber) == 0 and dn.Incremental(0.25).share(huber) == 0.25
    assert dn.Incremental().share(dn.CrossEntropy()) == dn.Incremental().share(dn.BCE()) == 1
    with pytest.raises(ValueError, match="own_loss is 2"):
        dn.Incremental(own_loss=2)


def test_the_gradient_of_a_group_is_mixed_from_its_own_and_that_of_all_together() -> None:
    gradients = []
    loop: Any = SimpleNamespace(teaching=None)
    loop._loss = lambda *arguments: Loop._loss(loop, *arguments)
    for share in (0, 0.25, 1):
        loop.settings = SimpleNamespace(method=dn.Incremental(share), loss=dn.CrossEntropy())
        own, rest = np.ones((2, 4), np.float32), np.full((2, 4), 3, np.float32)
        rest[:, 0] = -2
        gradients.append(Loop._group_loss(loop, own, own + rest, np.array([0, 1]), None, None)[1])
    np.testing.assert_allclose(gradients[1], 0.75 * gradients[0] + 0.25 * gradients[2], rtol=1e-6)


@pytest.mark.parametrize("name", ["resnet20", "alexnet", "mobilenetv2", "lenet"])
def test_outputs_are_the_sum_of_those_of_the_groups(name: str) -> None:
    net = make(name=name)
    images = DATA.train.x[:32]
    net.recalibrate(images)
    parts = [cut_group(net, g) for g in range(GROUPS)]
    for part in parts:
        part.recalibrate(images)
    summed = sum(part(images).astype(np.float64) for part in parts)
    np.testing.assert_allclose(net(images), summed, rtol=1e-4, atol=1e-4)


def test_a_group_cut_out_and_put_back_leaves_the_network_as_it_was() -> None:
    net = make()
    before = {key: value.copy() for key, value in net.weights.items()}
    for g in range(GROUPS):
        put_group(net, cut_group(net, g), g)
    for key, value in net.weights.items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)


def test_training_a_later_group_leaves_the_outputs_of_earlier_ones_alone() -> None:
    after_one: list[np.ndarray] = []

    class Watch(dn.Callback):
        def on_train_end(self, logs: Any) -> None:
            after_one.append(net(DATA.val.x, 0.5) if net.tables else np.empty(0))

    net = make()
    train(net, callbacks=(Watch(),))
    assert len(after_one) == GROUPS
    np.testing.assert_array_equal(net(DATA.val.x, 0.5), after_one[1])


def test_every_group_lowers_the_loss_of_those_before_it_if_that_is_what_it_learns() -> None:
    net = make()
    history = train(net, epochs=4, method=dn.Incremental(own_loss=0))
    assert history.history["group"] == [1.0] * 4 + [2.0] * 4
    losses = [net.evaluate(DATA.train, point)["loss"] for point in net.points]
    assert losses[1] < losses[0] < np.log(DATA.outputs)
    assert history.history["val_loss"][-1] == pytest.approx(net.evaluate(DATA.val, 1.0)["loss"], rel=0.2)


def test_groups_come_and_go_bit_for_bit_through_quantisation_and_engine() -> None:
    net = make(3)
    train(net, epochs=1)
    model = dn.quantize(net, DATA)
    for made in (net, model):
        engine = made.compile()
        images = DATA.test.x[:5]
        points = list(made.points)
        alone = [engine(images, point).copy() for point in points]
        engine(images, points[0])
        for point, expected in zip(points[1:], alone[1:], strict=True):
            np.testing.assert_array_equal(engine.extend(images, point), expected)
        np.testing.assert_array_equal(engine(images, points[0]), alone[0])


def test_no_method_means_incremental_for_a_network_of_groups(capsys: pytest.CaptureFixture[str]) -> None:
    net, same = make(), make()
    train(net, epochs=1)
    train(same, epochs=1, method=dn.Incremental())
    for key, value in net.weights.items():
        np.testing.assert_array_equal(value, same.weights[key], err_msg=key)


def test_a_network_without_groups_is_refused() -> None:
    net = dn.nets.mlp(DATA, rng=0)
    with pytest.raises(ValueError, match="one channel group"):
        train(net, method=dn.Incremental())


def test_a_network_whose_groups_nothing_adds_up_is_refused() -> None:
    builder = dn.GraphBuilder((8, 8, 3))
    x = builder.conv2d(builder.input, 8, 3)
    net = builder.build(builder.global_avg_pool(builder.conv2d(x, 8, 3)), points=(0.5, 1.0), groups=2, rng=0)
    with pytest.raises(dn.UnsupportedError, match="adds up the groups"):
        fit_groups(net, lambda part, own: None, {"checkpoint": None}, 0)  # type: ignore[arg-type, return-value]


def test_a_run_interrupted_in_the_second_group_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, broken = make(), make()
    history = train(whole, epochs=2)

    class Stop(dn.Callback):
        calls = 0

        def on_step_end(self, logs: Any) -> None:
            Stop.calls += 1
            if Stop.calls == 2 * (len(DATA.train) // 40) + 3:  # in the second group
                raise KeyboardInterrupt

    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(broken, epochs=2, checkpoint=path, callbacks=(Stop(),))
    again = make()
    resumed = train(again, epochs=2, checkpoint=path)
    assert resumed.steps == history.steps
    for key, value in whole.weights.items():
        np.testing.assert_array_equal(again.weights[key], value, err_msg=key)
    np.testing.assert_array_equal(again(DATA.test.x), whole(DATA.test.x))


def test_distillation_trains_groups_in_turn() -> None:
    teacher = dn.nets.resnet20(DATA, width=8, rng=3)
    dn.fit(teacher, DATA, epochs=6, batch=40, augment=None, progress=False, rng=0)
    net = make()
    method = dn.Incremental(own_loss=0)
    history = dn.distill(net, teacher, DATA, epochs=3, method=method, batch=40, augment=None, progress=False, rng=0)
    assert history.history["group"] == [1.0] * 3 + [2.0] * 3
    assert net.evaluate(DATA.train, 1.0)["loss"] < net.evaluate(DATA.train, 0.5)["loss"]
