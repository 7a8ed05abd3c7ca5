"""Two whole problems, from data to int8: several labels at once, and a regression."""

import numpy as np
import pytest

import dynadnn as dn


def chords(n, length=64, tones=5, seed=0):
    """Signals that hold a random choice of tones in noise, phase and strength random; y says which are there."""
    draw = np.random.default_rng(seed)
    y = draw.random((n, tones)) < 0.4
    turns = (np.arange(tones) + 1) * (length / (2 * (tones + 1)))
    phase = draw.uniform(0, 2 * np.pi, (n, tones, 1))
    strength = draw.uniform(0.7, 1.3, (n, tones, 1)) * y[..., None]
    wave = strength * np.sin(2 * np.pi * turns[:, None] * np.arange(length) / length + phase)
    x = wave.sum(axis=1) + draw.normal(0, 0.5, (n, length))
    return x[..., None].astype(np.float32), y


def discs(n, size=16, seed=0):
    """Grey images of a disc in noise; y is its place down and across and its radius, in parts of the side."""
    draw = np.random.default_rng(seed)
    y = draw.uniform((0.3, 0.3, 0.12), (0.7, 0.7, 0.28), (n, 3))
    down, across, radius = (y * size).T[:, :, None, None]
    rows, columns = np.mgrid[:size, :size] + 0.5
    inside = np.clip(radius - np.hypot(rows - down, columns - across) + 0.5, 0, 1)
    x = np.clip(np.rint(60 + 120 * inside + draw.normal(0, 10, inside.shape)), 0, 255).astype(np.uint8)
    return x[..., None], y.astype(np.float32)


def test_several_labels_are_learned_and_int8_keeps_them():
    data = dn.datasets.from_arrays(*chords(2000), val=0.1, test=0.2, rng=0)
    net = dn.nets.cnn1d(data, width=16, points=(0.5, 1.0), rng=0)
    history = dn.fit(net, data, epochs=6, batch=64, metrics=("f1",), progress=False, rng=0)
    model = dn.quantize(net, data)
    wanted = ("accuracy", "label_accuracy", "f1", "f1_micro", "auroc")
    for point, least in (("0.5", 0.95), ("1.0", 0.97)):
        whole, int8 = (n.evaluate(data.test, point, wanted) for n in (net, model))
        assert whole["f1"] > least and whole["auroc"] > 0.98
        assert abs(whole["f1"] - int8["f1"]) < 0.01 and abs(whole["auroc"] - int8["auroc"]) < 0.005
        agree = (net.predict(data.test.x, point) == model.predict(data.test.x, point)).mean()
        assert agree > 0.985
    assert len(history.history["val_f1/0.5"]) == 6


@pytest.mark.parametrize("loss", [dn.MSE(), dn.Huber(0.1)])
def test_a_regression_is_learned_and_int8_keeps_it(loss):
    data = dn.datasets.from_arrays(*discs(2000), val=0.1, test=0.2, rng=0)
    net = dn.nets.lenet(data, width=8, rng=0)
    options = {"batch": 64, "optimizer": dn.AdamW(lr=5e-3), "progress": False, "rng": 0}
    dn.fit(net, data, epochs=12, loss=loss, **options)
    model = dn.quantize(net, data)
    whole, int8 = (n.evaluate(data.test, metrics=("rmse", "mae")) for n in (net, model))
    spread = float(data.test.y.std(axis=0).mean())
    assert whole["rmse"] < 0.25 * spread and (net.report(data.test).r2 > 0.8).all()
    assert int8["rmse"] < 1.1 * whole["rmse"] and int8["mae"] < 1.1 * whole["mae"]
