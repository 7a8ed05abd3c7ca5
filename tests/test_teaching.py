"""What distillation leaves behind: records of halts, the layer where a run broke, a PyTorch model as teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dynadnn as dn

DATA = dn.datasets.digits(rng=0).subset(300)
QUIET: dict[str, Any] = {"progress": False, "rng": 0, "batch": 100, "threads": 1}


def make(width: int = 16, rng: int = 1) -> dn.Network:
    return dn.nets.mlp(DATA, width=width, rng=rng)


@pytest.fixture(scope="module")
def teacher() -> dn.Network:
    net = make(64, 0)
    dn.fit(net, DATA, epochs=8, augment=None, **QUIET)
    return net


def halt_of(history: dn.History, what: str) -> Any:
    (halt,) = [halt for halt in history.halted if halt.what == what]
    return halt


RULE = {"patience": 1, "min_gain": 0.9}  # no epoch gains as much: halts at once


def test_a_halted_teacher_says_why_and_what_that_saved(teacher: dn.Network) -> None:
    options = {**QUIET, "augment": dn.Augment(shift=1), "epochs": 6}
    rule = dn.EarlyHalting(trainee=False, training=False, **RULE)
    history = dn.distill(make(), teacher, DATA, halting=rule, **options)
    halt = halt_of(history, "teacher")
    assert "settled" in halt.why and 0 < halt.epoch < 6 and halt.seconds_saved > 0
    assert halt.macs_saved == pytest.approx(teacher.macs() * 300 * (6 - halt.epoch))
    assert history.macs < dn.distill(make(), teacher, DATA, **options).macs


def test_a_halted_trainee_says_why_and_what_that_saved(teacher: dn.Network) -> None:
    rule = dn.EarlyHalting(teacher=False, training=False, **RULE)
    trainee = make(32, 2)
    history = dn.distill(make(), teacher, DATA, trainee=trainee, halting=rule, epochs=6, augment=None, **QUIET)
    halt = halt_of(history, "trainee")
    assert halt.why in ("the student has caught up", "no gain in 1 epochs") and halt.seconds_saved > 0
    assert halt.macs_saved == pytest.approx(3 * trainee.macs() * 300 * (6 - halt.epoch))


def test_halted_training_says_why_and_what_that_saved(teacher: dn.Network) -> None:
    rule = dn.EarlyHalting(teacher=False, trainee=False, **RULE)
    history = dn.distill(make(), teacher, DATA, halting=rule, epochs=30, augment=None, schedule="constant", **QUIET)
    halt = halt_of(history, "training")
    assert halt.why == "no gain of 0.9 per epoch in 1 epochs; best weights restored"
    left = 90 - history.steps
    assert left > 0 and halt.seconds_saved > 0
    assert halt.macs_saved == pytest.approx(history.macs / history.steps * left)


@pytest.mark.parametrize("optimizer", [dn.SGD(lr=1e20), dn.SGD(lr=1e30), dn.AdamW(lr=1e30)], ids=str)
def test_a_learning_rate_that_explodes_is_reported_with_step_and_layer(optimizer: Any) -> None:
    net = dn.nets.lenet(DATA, width=4, rng=0)
    before = {key: value.copy() for key, value in net.weights.items()}
    layers = "|".join(node.name for node in net._spec.nodes)
    with pytest.raises(dn.NonFiniteError, match=rf"epoch 1, step \d: .*\b({layers})\b") as caught:
        dn.fit(net, DATA, epochs=3, augment=None, optimizer=optimizer, schedule="constant", **QUIET)
    assert "lower learning rate" in str(caught.value)
    assert all(np.isfinite(value).all() for value in net.weights.values()) and before.keys() == net.weights.keys()


def test_a_pytorch_model_is_a_teacher_in_two_lines() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    shown: list[Any] = []

    def teacher(images: np.ndarray) -> Any:
        shown.append(images)
        with torch.no_grad():
            return model(torch.from_numpy(images).float() / 255)

    student, live, again = make(), make(), make()
    options = {**QUIET, "epochs": 2, "val": DATA.val.take([])}
    dn.distill(student, teacher, DATA, augment=dn.Augment(shift=1, mixup=0.2), **options)
    assert all(x.dtype == np.uint8 and x.shape == (100, 8, 8, 1) for x in shown) and len(shown) == 6
    shown.clear()
    dn.distill(live, teacher, DATA, augment=None, **options)
    stored = model(torch.from_numpy(DATA.train.x).float() / 255).detach().numpy()
    dn.distill(again, stored, DATA, augment=None, **options)
    assert sum(map(len, shown)) == len(DATA.train)  # without augmentation every image is shown once
    for key, value in live.weights.items():
        np.testing.assert_allclose(again.weights[key], value, rtol=1e-3, atol=1e-4, err_msg=key)
