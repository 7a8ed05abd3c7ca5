"""Losses: values and gradients against PyTorch, against finite differences, and what they refuse."""

import dataclasses
import doctest

import numpy as np
import pytest

import dynadnn as dn
from dynadnn import _losses
from dynadnn._losses import Custom, resolve_loss

DRAW = np.random.default_rng(0)
OUTPUTS = DRAW.normal(0, 3, (17, 5)).astype(np.float32)
TEACHER = DRAW.normal(0, 3, (17, 5)).astype(np.float32)
TARGETS = DRAW.normal(0, 2, (17, 5)).astype(np.float32)
BITS = (DRAW.random((17, 5)) < 0.4).astype(np.uint8)
CLASSES = DRAW.integers(0, 5, 17)
WEIGHT = DRAW.uniform(0, 2, 17).astype(np.float32)
KINDS = {
    "CrossEntropy": (dn.CrossEntropy(0.1, (1, 2, 3, 0.5, 1)), CLASSES),
    "BCE": (dn.BCE(), BITS),
    "BCE with pos_weight": (dn.BCE((1, 2, 3, 0.5, 1)), BITS),
    "MSE": (dn.MSE(), TARGETS),
    "Huber": (dn.Huber(0.7), TARGETS),
}


def slope(function, at, step=1e-2):
    """Central differences of a scalar function; several 0.01 apart are what float32 losses allow."""
    found = np.zeros(at.shape)
    for place in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[place] += step
        down[place] -= step
        found[place] = (function(up) - function(down)) / (float(up[place]) - float(down[place]))
    return found


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_slope_of_the_weighted_mean(kind, weighted):
    loss, y = KINDS[kind]
    weight = WEIGHT if weighted else None
    _, gradient = loss(OUTPUTS, y, weight, 0.6)
    wanted = slope(lambda z: 0.6 * loss(z, y, weight)[0].mean(dtype=np.float64), OUTPUTS)
    assert np.allclose(gradient, wanted, atol=3e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_against_a_teacher_is_its_slope_and_adds_up(kind):
    loss, _ = KINDS[kind]
    into = np.ones_like(OUTPUTS)
    value, same = loss.soft(OUTPUTS, TEACHER, WEIGHT, 3.0, 0.6, into)
    wanted = slope(lambda z: 0.6 * loss.soft(z, TEACHER, WEIGHT, 3.0, 1.0, None)[0].mean(dtype=np.float64), OUTPUTS)
    assert same is into and np.allclose(into - 1, wanted, atol=3e-4)
    assert value.shape == (17,) and np.allclose(value, loss.soft(OUTPUTS, TEACHER, WEIGHT, 3.0, 1.0, None)[0])
    assert np.abs(loss.soft(TEACHER, TEACHER, None, 3.0, 1.0, None)[0]).max() < 1e-6


def test_losses_are_pytorchs():
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    z = torch.tensor(OUTPUTS, requires_grad=True)
    positive = (1, 2, 3, 0.5, 1)
    cases = [
        (dn.BCE(positive), BITS, lambda: f.binary_cross_entropy_with_logits(
            z, torch.tensor(BITS).float(), pos_weight=torch.tensor(positive))),
        (dn.BCE(2.5), BITS, lambda: f.binary_cross_entropy_with_logits(
            z, torch.tensor(BITS).float(), pos_weight=torch.tensor(2.5))),
        (dn.Huber(0.7), TARGETS, lambda: f.huber_loss(z, torch.tensor(TARGETS), delta=0.7)),
        (dn.MSE(), TARGETS, lambda: f.mse_loss(z, torch.tensor(TARGETS))),
        (dn.CrossEntropy(0.1), CLASSES, lambda: f.cross_entropy(z, torch.tensor(CLASSES), label_smoothing=0.1)),
    ]  # fmt: skip
    for mine, y, theirs in cases:
        z.grad = None
        wanted = theirs()
        wanted.backward()
        loss, gradient = mine(OUTPUTS, y, None)
        assert np.isclose(loss.mean(), float(wanted.detach()), rtol=1e-5), mine
        assert np.allclose(gradient, z.grad.numpy(), rtol=1e-4, atol=1e-7), mine


def test_bce_is_finite_and_exact_for_outputs_of_any_size():
    z = np.array([[1e30, -1e30, 0.0], [-1e30, 1e30, 200.0]], np.float32)
    y = np.array([[1, 0, 1], [0, 1, 0]], np.uint8)
    with np.errstate(all="raise", under="ignore"):
        loss, gradient = dn.BCE()(z, y, None)
        soft, _ = dn.BCE().soft(z, -z[::-1].copy(), None, 2.0, 1.0, None)
    assert np.allclose(loss, [np.log(2) / 3, 200 / 3]) and np.isfinite(gradient).all() and np.isfinite(soft).all()


def test_auto_follows_from_the_labels():
    assert resolve_loss("auto", CLASSES, 5) == dn.CrossEntropy()
    assert resolve_loss("auto", BITS, 5) == dn.BCE()
    assert resolve_loss("auto", TARGETS, 5) == dn.MSE()


REFUSED = {
    "BCE of class labels": (dn.BCE(), CLASSES, ValueError, r"use dn\.CrossEntropy\(\)"),
    "BCE of targets": (dn.BCE(), TARGETS, ValueError, r"row 0 of y holds .* use dn\.MSE\(\) or dn\.Huber\(\)"),
    "BCE with weights for other outputs": (dn.BCE((1, 2)), BITS, ValueError, "2 entries for 5 outputs"),
    "Huber of class labels": (dn.Huber(), CLASSES, ValueError, "loss is Huber, which needs float32 targets"),
    "CrossEntropy of several labels": (dn.CrossEntropy(), BITS, ValueError, r"dn\.BCE\(\) for several labels"),
    "a loss class": (dn.BCE, BITS, TypeError, r"dn\.BCE\(\), dn\.MSE\(\), dn\.Huber\(\) or a function"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_loss_refuses_labels_that_do_not_fit(name):
    loss, y, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        resolve_loss(loss, y, 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: dn.BCE(0),
        lambda: dn.BCE((1, -1)),
        lambda: dn.BCE(np.nan),
        lambda: dn.BCE(()),
        lambda: dn.Huber(0),
        lambda: dn.Huber(float("inf")),
    ],
)
def test_parameters_of_losses_are_checked(make):
    with pytest.raises(ValueError, match="must be"):
        make()


BROKEN = {
    "one value for all": (lambda o, y: (np.float32(1), o), ValueError, r"\(17,\) and \(17, 5\) for outputs of shape"),
    "a gradient turned round": (lambda o, y: (o[:, 0], o.T), ValueError, r"not \(17,\) and \(5, 17\)"),
    "no gradient": (lambda o, y: o[:, 0], TypeError, r"must return \(loss per sample, gradient\).*not ndarray"),
    "text": (lambda o, y: ("a", o), TypeError, "arrays of numbers"),
    "NaN in the loss": (lambda o, y: (np.full(17, np.nan), o), dn.NonFiniteError, "loss per sample, first in row 0"),
    "NaN in the gradient": (
        lambda o, y: (o[:, 0], np.where(np.arange(17)[:, None] == 3, np.inf, o)),
        dn.NonFiniteError,
        r"gradient, first in row 3 for outputs of shape \(17, 5\)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_function_that_returns_nonsense_is_named_with_the_shapes(name):
    function, kind, text = BROKEN[name]
    with pytest.raises(kind, match=text) as caught:
        Custom(function)(OUTPUTS, TARGETS, None)
    assert "loss '<lambda>'" in str(caught.value)


def test_a_function_is_multiplied_by_sample_weights_and_scale():
    def square(o, y):
        return np.square(o - y).mean(axis=1), 2 * (o - y) / o.size

    for got, wanted in zip(
        Custom(square)(OUTPUTS, TARGETS, WEIGHT, 0.5), dn.MSE()(OUTPUTS, TARGETS, WEIGHT, 0.5), strict=True
    ):
        assert np.allclose(got, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("loss", "kind"), [("auto", np.uint8), (dn.Huber(), np.float32), (dn.MSE(), np.float32)])
def test_samples_of_weight_zero_teach_nothing(loss, kind):
    draw = np.random.default_rng(1)
    x = draw.standard_normal((200, 6), np.float32)
    y = (x[:, :2] > 0).astype(kind)
    weight = (np.arange(200) % 2).astype(np.float32)
    wrong = np.where(weight[:, None] > 0, y, 1 - y).astype(kind)
    nets = []
    for labels in (y, wrong):
        data = dn.datasets.from_arrays(x, labels, val=0, test=0, weight=weight, rng=0)
        net = dn.nets.mlp((6,), 2, width=16, rng=0)
        dn.fit(net, data, epochs=2, batch=50, loss=loss, progress=False, rng=0)
        nets.append(net)
    assert all(np.array_equal(nets[0].weights[key], nets[1].weights[key]) for key in nets[0].weights)


def test_distilling_takes_every_loss_and_refuses_functions():
    draw = np.random.default_rng(2)
    x = draw.standard_normal((240, 6), np.float32)
    for loss, y in (("auto", x[:, :3] > 0), (dn.Huber(), x[:, :3] * 2), (dn.MSE(), x[:, :3] * 2)):
        data = dn.datasets.from_arrays(x, y, rng=0)
        options = {"epochs": 2, "batch": 40, "loss": loss, "progress": False, "rng": 0}
        teacher, student, trainee = (dn.nets.mlp(data, width=w, rng=0) for w in (32, 16, 24))
        dn.fit(teacher, data, **options)
        history = dn.distill(student, teacher, data, trainee=trainee, halting=dn.EarlyHalting(), **options)
        assert history.epochs == 2 and len(history.history["trainee_val_loss"]) == 2
        assert student.task == trainee.task == teacher.task
        alone, stored = dn.nets.mlp(data, width=16, rng=0), teacher(data.train.x)
        dn.distill(alone, stored, data, kd=dn.KD(soft_weight=1.0), **options)
        assert np.isfinite(alone.evaluate(data.test)["loss"])
    with pytest.raises(ValueError, match=r"loss is a function: .*dn\.BCE"):
        dn.distill(student, teacher, data, **{**options, "loss": lambda o, y: (o[:, 0], o)})


def test_a_teacher_alone_teaches_several_labels_and_targets():
    draw = np.random.default_rng(3)
    x = draw.standard_normal((600, 6), np.float32)
    for kind in (bool, np.float32):
        y = (x[:, :3] > 0) if kind is bool else x[:, :3] * 2
        data = dn.datasets.from_arrays(x, y, rng=0)
        right = (np.where(y, 6, -6) if kind is bool else y).astype(np.float32)[data.train.index]
        noise = dataclasses.replace(data.train, y=data.train.y[::-1].copy())  # labels of other samples
        options = {"kd": dn.KD(2.0, 1.0), "batch": 50, "optimizer": dn.AdamW(1e-2), "progress": False, "rng": 0}
        student = dn.nets.mlp(data, width=32, rng=0)
        dn.distill(student, right, dataclasses.replace(data, train=noise), epochs=12, **options)
        found = student.evaluate(data.test, metrics=("loss",))["loss"]
        assert found < (0.35 if kind is bool else 0.6)


def test_points_of_a_network_of_several_labels_learn_from_the_widest():
    draw = np.random.default_rng(4)
    x = draw.standard_normal((600, 6), np.float32)
    data = dn.datasets.from_arrays(x, x[:, :3] > 0, rng=0)
    net = dn.nets.mlp(data, width=32, points=(0.5, 1.0), rng=0)
    history = dn.fit(net, data, epochs=10, batch=50, progress=False, rng=0)
    assert min(net.evaluate(data.test, p, metrics=("label_accuracy",))["label_accuracy"] for p in net.points) > 0.9
    assert history.history["accuracy"][-1] > 0.7 and history.history["val_accuracy"][-1] > 0.7


def test_examples_of_losses_are_right():
    assert doctest.testmod(_losses, extraglobs={"np": np}).failed == 0
