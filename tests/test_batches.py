"""Data sets whose images arrive in batches."""

import numpy as np
import pytest

import dynadnn as dn

X = np.random.default_rng(0).standard_normal((240, 6, 6, 3), np.float32)
Y = (X[:, 1:3, 1:3, 0].mean(axis=(1, 2)) > 0).astype(np.int64)
QUIET = {"progress": False, "rng": 0}
OPTIONS = {"shape": (6, 6, 3), "outputs": 2, "n": 240}


def parts(size, x=X, y=Y):
    """A function of the epoch that gives the images in the order that fit gives them to itself."""

    def train(epoch):
        order = np.random.default_rng([0, 5, epoch]).permutation(len(x))
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            yield x[rows], y[rows]

    return train


def make(rng=0):
    return dn.nets.mlp((6, 6, 3), 2, width=16, points=(0.5, 1.0), rng=rng)


def same(a, b):
    return all(np.array_equal(a.weights[k], b.weights[k]) for k in a.weights)


def whole(val=(X[:30], Y[:30])):
    return dn.datasets.from_arrays(X, Y, val=val, test=0, rng=0)


@pytest.mark.parametrize("size", [1, 32, 37, 240])
def test_training_on_batches_of_any_size_gives_the_bits_of_training_on_arrays(size):
    data = dn.datasets.from_batches(parts(size), (X[:30], Y[:30]), **OPTIONS)
    assert repr(data) == "Data(shape=(6, 6, 3), outputs=2, train=240, val=30, test=0)"
    nets = [make(), make()]
    histories = [dn.fit(n, d, epochs=3, batch=32, **QUIET) for n, d in zip(nets, (data, whole()), strict=True)]
    assert same(*nets) and histories[0].steps == 3 * 7
    assert histories[0].history["val_loss"] == histories[1].history["val_loss"]


def test_a_pytorch_loader_trains():
    torch = pytest.importorskip("torch")
    utils = torch.utils.data
    loader = utils.DataLoader(utils.TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=50, shuffle=True)
    for train in (loader, lambda epoch: loader):
        data = dn.datasets.from_batches(train, loader, **OPTIONS)
        assert len(data.val) == 240
        net = make()
        dn.fit(net, data, epochs=10, batch=30, optimizer=dn.AdamW(1e-2), **QUIET)
        assert net.evaluate(data.val)["accuracy"] > 0.9
    tensors = torch.tensor(np.moveaxis(X, 3, 1))
    first = utils.DataLoader(utils.TensorDataset(tensors, torch.tensor(Y)), batch_size=50)
    with pytest.raises(ValueError, match=r"axis 1 holds the 3 channels.*x\.permute\(0, 2, 3, 1\)"):
        dn.datasets.from_batches(first, None, **OPTIONS)


def test_a_buffer_that_is_written_over_is_no_trouble():
    def train(epoch):
        x, y = np.empty((37, 6, 6, 3), np.float32), np.empty(37, np.int64)
        for images, labels in parts(37)(epoch):
            n = len(images)
            x[:n], y[:n] = images, labels
            yield x[:n], y[:n]
            x[:], y[:] = 0, 0

    nets = [make(), make()]
    for net, data in zip(nets, (dn.datasets.from_batches(train, None, **OPTIONS), whole(0)), strict=True):
        dn.fit(net, data, epochs=2, batch=32, **QUIET)
    assert same(*nets)


def test_uint8_gets_its_preprocessing_and_calibration_from_the_first_images():
    x = np.clip(X * 40 + 128, 0, 255).astype(np.uint8)
    data = dn.datasets.from_batches(parts(50, x), None, **OPTIONS)
    assert abs(data.preprocess.mean[0] - x[..., 0].mean() / 255) < 1e-3 and len(data.calibration) == 240
    net = dn.nets.mlp(data, width=16, rng=0)
    dn.fit(net, data, epochs=2, batch=40, **QUIET)
    assert dn.quantize(net, data).predict(x).shape == (240,)


def test_weights_arrive_with_the_images():
    def train(epoch):
        for x, y in parts(48)(epoch):
            wrong = np.arange(len(x)) % 2
            yield x, np.where(wrong, 1 - y, y), (1 - wrong).astype(np.float64)

    def clean(epoch):
        for x, y in parts(48)(epoch):
            yield x, y, np.arange(len(x)) % 2 == 0

    nets = [make(), make()]
    for net, source in zip(nets, (train, clean), strict=True):
        dn.fit(net, dn.datasets.from_batches(source, None, **OPTIONS), epochs=2, batch=48, **QUIET)
    assert same(*nets)


class Stop(dn.Callback):
    def on_step_end(self, logs):
        if logs["step"] == 10:
            raise KeyboardInterrupt


def test_a_resumed_run_goes_on_with_the_images_it_had_not_seen(tmp_path):
    data = dn.datasets.from_batches(parts(37), (X[:30], Y[:30]), **OPTIONS)
    options = {**QUIET, "epochs": 3, "batch": 32, "checkpoint": tmp_path / "checkpoint"}
    nets = [make(), make()]
    dn.fit(nets[0], data, epochs=3, batch=32, **QUIET)
    with pytest.raises(KeyboardInterrupt):
        dn.fit(make(), data, callbacks=[Stop()], **options)
    assert dn.fit(nets[1], data, **options).steps == 21 and same(*nets)


def test_a_teacher_runs_on_every_batch_and_nothing_is_kept_per_image():
    data = dn.datasets.from_batches(parts(37), (X[:30], Y[:30]), **OPTIONS)
    teacher, seen = make(3), []
    dn.fit(teacher, data, epochs=3, batch=32, **QUIET)

    def count(x):
        seen.append(len(x))
        return teacher(x)

    dn.distill(make(), count, data, epochs=2, batch=32, **QUIET)
    assert sum(seen) == 2 * 7 * 32 + 30  # and the validation images once
    with pytest.raises(ValueError, match=r"arrive in batches and have no index.*pass a Network or a function"):
        dn.distill(make(), teacher(X), data, epochs=1, **QUIET)
    with pytest.raises(ValueError, match=r"no index.*EarlyHalting\(teacher=False\)"):
        dn.distill(make(), teacher, data, epochs=1, halting=dn.EarlyHalting(), **QUIET)
    dn.distill(make(), teacher, data, epochs=1, batch=32, halting=dn.EarlyHalting(teacher=False), **QUIET)


def test_augmentation_and_too_few_images_are_refused():
    data = dn.datasets.from_batches(parts(37), None, **{**OPTIONS, "n": 241})
    with pytest.raises(ValueError, match="ended epoch 0 after 240 images, n is 241"):
        dn.fit(make(), data, epochs=1, batch=241, **QUIET)
    with pytest.raises(ValueError, match="arrive in batches"):
        dn.fit(make(), data, epochs=1, augment=dn.Augment(flip=True), **QUIET)
    assert dn.fit(make(), data.subset(100), epochs=1, batch=32, **QUIET).steps == 3


BAD = {
    "channels first": (lambda e: [(np.moveaxis(X, 3, 1), Y)], {}, ValueError, r"axis 1 holds the 3 channels \(NC"),
    "a shape with channels first": (parts(9), {"shape": (3, 6, 6)}, ValueError, "first axis looks like the channels"),
    "another shape": (
        lambda e: [(X[:, :5], Y)],
        {},
        ValueError,
        r"batch 0 of train\(0\) must have shape \(n, 6, 6, 3\)",
    ),
    "an iterator": (iter([(X, Y)]), {}, TypeError, "train is an iterator, which one epoch uses up"),
    "images alone": (lambda e: [X], {}, TypeError, r"must be \(x, y\) or \(x, y, weight\), not ndarray of shape"),
    "nothing": (lambda e: [], {}, ValueError, "train gives no images"),
    "no batches": (lambda e: 3, {}, TypeError, r"train\(0\) must give batches \(x, y\), not int"),
    "doubles": (lambda e: [(X.astype(float), Y)], {}, TypeError, "uint8 .* or float32 .* not float64"),
    "NaN": (lambda e: [(X, Y), (X * np.nan, Y)], {"n": 480}, dn.NonFiniteError, r"batch 1 of train\(0\) holds NaN"),
    "labels beyond the outputs": (lambda e: [(X, Y + 5)], {}, ValueError, "labels from 5 to 6"),
    "labels of another length": (lambda e: [(X, Y[:3])], {}, ValueError, "has 3 rows, x has 240"),
    "weights below zero": (lambda e: [(X, Y, -np.ones(240))], {}, ValueError, "finite and not below 0"),
    "types that change": (lambda e: [(X, Y), (X.astype(np.uint8), Y)], {"n": 480}, ValueError, "of the same types"),
    "names of other classes": (parts(9), {"names": ["a"]}, ValueError, "names has 1 entries for 2"),
    "validation of another type": (parts(9), {"val": (X.astype(np.uint8), Y)}, TypeError, "val holds uint8 images"),
    "no images per epoch": (parts(9), {"n": 0}, ValueError, "n must be at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_from_batches_refuses(name):
    train, options, kind, text = BAD[name]
    options = {**OPTIONS, **options}
    with pytest.raises(kind, match=text):
        dn.datasets.from_batches(train, options.pop("val", None), **options)
