"""Augmentation in training: cutout, mixup, a user's transform, batches made ahead, and a teacher's cached outputs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynadnn as dn
from dynadnn import _core
from dynadnn._augment import MixedLabels, label_loss, mixed, moved, transformed
from dynadnn._distill import _DEFAULTS
from dynadnn._loop import Loop
from dynadnn._train import make_loop

DATA = dn.datasets.digits(rng=0).subset(300)
QUIET: dict[str, Any] = {"progress": False, "rng": 0, "batch": 100, "threads": 1}


def make(points: tuple[float, ...] = (1.0,), width: int = 16, data: dn.Data = DATA) -> dn.Network:
    return dn.nets.mlp(data, width=width, points=points, rng=0)


def loop_for(net: dn.Network, data: dn.Data = DATA, **options: Any) -> Loop:
    return make_loop(net, data, None, {}, **{**_DEFAULTS, "epochs": 1, **QUIET, **options})


def same(a: dn.Network, b: dn.Network) -> bool:
    return all(np.array_equal(a.weights[k], b.weights[k]) for k in a.weights)


def noise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.minimum(x + rng.integers(0, 9, x.shape, dtype=np.uint8), 255).astype(np.uint8)


EVERYTHING = dn.Augment(flip=True, shift=1, cutout=3, transform=noise, mixup=0.4)


class StopAt(dn.Callback):
    def __init__(self, step: int) -> None:
        self.at = step

    def on_step_end(self, logs: dict[str, Any]) -> None:
        if logs["step"] == self.at:
            raise KeyboardInterrupt


# ---- cutout ----


def test_cutout_fills_a_square_with_the_mean_colour_of_the_training_images() -> None:
    data = dn.datasets.shapes(n=60, size=8, rng=0)
    assert data.preprocess is not None
    mean = np.rint(data.train.x.astype(np.float64).mean(axis=(0, 1, 2)))
    out = moved(data.train.x, np.arange(40), dn.Augment(cutout=20), data.preprocess)
    np.testing.assert_array_equal(out, np.broadcast_to(mean, out.shape))
    black = moved(data.train.x, np.arange(40), dn.Augment(cutout=20), None)
    assert not black.any()


def test_cutout_leaves_what_is_outside_the_square() -> None:
    x = np.full((50, 8, 8, 1), 200, np.uint8)
    out = moved(x, np.arange(50), dn.Augment(cutout=3), None, seed=1)
    gone = (out[..., 0] != 200).sum(axis=(1, 2))
    assert set(gone.tolist()) <= {4, 6, 9} and {6, 9} <= set(gone.tolist())


# ---- mixup ----


def numpy_cross_entropy(outputs: np.ndarray, soft: np.ndarray) -> np.ndarray:
    z = outputs.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    return -(soft * (z - np.log(np.exp(z).sum(axis=1, keepdims=True)))).sum(axis=1)


def test_mixup_averages_images_by_the_shares_of_their_labels() -> None:
    x, y = DATA.train.x[:100], np.arange(100)
    images, labels, weight = mixed(x, y, None, 0.4, 0, 0, 3)
    assert weight is None and images.dtype == np.uint8
    assert labels.share.min() >= 0.5 and labels.share.max() > 0.95 and (labels.share < 0.9).any()
    share = labels.share[:, None, None, None].astype(np.float64)
    wanted = share * x[labels.own] + (1 - share) * x[labels.other]
    assert np.abs(images - wanted).max() <= 0.5 + 1e-4
    again = mixed(x, y, None, 0.4, 0, 0, 3)[0]
    other = mixed(x, y, None, 0.4, 0, 0, 4)[0]
    assert np.array_equal(again, images) and not np.array_equal(other, images)


def test_the_loss_of_mixed_class_labels_is_that_of_averaged_labels() -> None:
    rng = np.random.default_rng(0)
    outputs, y = rng.normal(size=(20, 10)).astype(np.float32), rng.integers(0, 10, 20)
    _, labels, _ = mixed(np.zeros((20, 1), np.float32), y, None, 0.8, 0, 0, 0)
    loss, gradient = label_loss(dn.CrossEntropy(), outputs, labels, None)
    soft = labels.share[:, None] * np.eye(10)[labels.own] + (1 - labels.share[:, None]) * np.eye(10)[labels.other]
    np.testing.assert_allclose(loss, numpy_cross_entropy(outputs, soft), rtol=1e-5)
    p = np.exp(outputs.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(gradient, (p - soft) / 20, atol=1e-7)


def test_sample_weights_stay_with_their_labels_in_a_mixed_image() -> None:
    rng = np.random.default_rng(1)
    outputs, y = rng.normal(size=(20, 10)).astype(np.float32), rng.integers(0, 10, 20)
    weight = rng.random(20).astype(np.float32)
    _, labels, whole = mixed(np.zeros((20, 1), np.float32), y, weight, 0.8, 0, 0, 0)
    assert labels.own_weight is not None and labels.other_weight is not None and whole is not None
    loss, _ = label_loss(dn.CrossEntropy(), outputs, labels, whole)
    parts = [numpy_cross_entropy(outputs, np.eye(10)[part]) for part in (labels.own, labels.other)]
    wanted = labels.share * labels.own_weight * parts[0] + (1 - labels.share) * labels.other_weight * parts[1]
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(
        whole, labels.share * labels.own_weight + (1 - labels.share) * labels.other_weight, rtol=1e-6
    )


@pytest.mark.parametrize("loss", [dn.MSE(), dn.Huber(0.5), dn.BCE()], ids=lambda loss: type(loss).__name__)
def test_targets_and_several_labels_are_averaged(loss: Any) -> None:
    rng = np.random.default_rng(2)
    outputs = rng.normal(size=(20, 3)).astype(np.float32)
    y = rng.integers(0, 2, (20, 3)).astype(np.uint8) if isinstance(loss, dn.BCE) else outputs[::-1].copy()
    _, labels, _ = mixed(np.zeros((20, 1), np.float32), y, None, 0.8, 0, 0, 0)
    share = labels.share[:, None].astype(np.float64)
    wanted = loss(outputs, (share * labels.own + (1 - share) * labels.other).astype(np.float32), None)
    for got, value in zip(label_loss(loss, outputs, labels, None), wanted, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["classes", "labels", "targets"])
def test_every_task_trains_with_mixup_and_sample_weights(kind: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)).astype(np.float32)
    above = x[:, :3] > 0
    y: Any = above[:, 0].astype(int) if kind == "classes" else above if kind == "labels" else x[:, :3].copy()
    data = dn.datasets.from_arrays(x, y, val=0.2, test=0, weight=rng.random(200).astype(np.float32), rng=0)
    net = make((0.5, 1.0), data=data)
    options = {**QUIET, "batch": 40, "optimizer": dn.AdamW(lr=0.01), "augment": dn.Augment(mixup=0.3)}
    history = dn.fit(net, data, epochs=6, **options).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]


def test_a_teacher_sees_the_mixed_images() -> None:
    seen: list[np.ndarray] = []

    def teacher(x: np.ndarray) -> np.ndarray:
        seen.append(x.copy())
        return np.zeros((len(x), 10), np.float32)

    dn.distill(make(), teacher, DATA, epochs=1, augment=dn.Augment(mixup=0.4), val=DATA.test.take([]), **QUIET)
    rows = {image.tobytes() for image in DATA.train.x}
    assert len(seen) == 3 and np.mean([image.tobytes() in rows for image in np.concatenate(seen)]) < 0.5


def test_outputs_known_per_image_do_not_go_with_mixup() -> None:
    stored = np.zeros((len(DATA.train), 10), np.float32)
    options = {**QUIET, "augment": dn.Augment(mixup=0.4)}
    with pytest.raises(ValueError, match=r"array of outputs per image, but mixup"):
        dn.distill(make(), stored, DATA, epochs=1, **options)
    with pytest.raises(ValueError, match=r"EarlyHalting\(teacher=False\)"):
        dn.distill(make(), make(), DATA, epochs=1, halting=dn.EarlyHalting(), **options)


# ---- a transform ----


def test_a_transform_gets_each_batch_and_random_numbers_of_its_step() -> None:
    draws: list[tuple[int, ...]] = []

    def watch(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        draws.append((len(x), int(rng.integers(2**31))))
        assert x.dtype == np.uint8 and x.flags.writeable
        x[:] = 0
        return x

    before = DATA.train.x.copy()
    for _ in range(2):
        dn.fit(make(), DATA, epochs=2, augment=dn.Augment(transform=watch), **QUIET)
    assert draws[:6] == draws[6:] and len(set(draws)) == 6 and {n for n, _ in draws} == {100}
    np.testing.assert_array_equal(DATA.train.x, before)


def test_what_a_transform_makes_is_what_the_network_sees() -> None:
    assert DATA.preprocess is not None
    preprocess = DATA.preprocess
    plain, same_again = make(), make()
    dn.fit(plain, DATA, epochs=1, augment=None, **QUIET)
    dn.fit(same_again, DATA, epochs=1, augment=dn.Augment(transform=lambda x, rng: preprocess(x)), **QUIET)
    assert same(plain, same_again)  # float32 is taken as preprocessed


BAD: dict[str, tuple[Any, str]] = {
    "fewer images": (lambda x, rng: x[1:], r"uint8 of shape \(99, 8, 8, 1\) for uint8 of shape \(100, 8, 8, 1\)"),
    "float64": (lambda x, rng: x / 2.0, r"float64 .* must return uint8 or float32 of the same shape"),
    "nothing": (lambda x, rng: None, "what transform returns"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_transform_that_returns_something_else_is_named(name: str, threads: int) -> None:
    transform, text = BAD[name]
    with pytest.raises((ValueError, TypeError), match=text):
        dn.fit(make(), DATA, epochs=1, augment=dn.Augment(transform=transform), **{**QUIET, "threads": threads})


def test_a_transform_of_float32_may_not_return_bytes_or_nan() -> None:
    x = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"must return float32 of the same shape"):
        transformed(x, dn.Augment(transform=lambda x, rng: x.astype(np.uint8)), 0, 0, 0)
    with pytest.raises(dn.NonFiniteError, match="transform"):
        transformed(x, dn.Augment(transform=lambda x, rng: x * np.float32(np.nan)), 0, 0, 0)


def test_values_of_an_augmentation_are_checked_and_shown() -> None:
    for bad in ({"cutout": -1}, {"mixup": -0.1}, {"mixup": True}, {"mixup": np.inf}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            dn.Augment(**bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="transform"):
        dn.Augment(transform=3)  # type: ignore[arg-type]
    shown = str(EVERYTHING)
    assert all(part in shown for part in ("flip", "shift up to 1", "cutout 3", "noise", "mixup 0.4"))
    assert "0x" not in repr(EVERYTHING) and "noise" in repr(EVERYTHING)


def test_signals_take_a_transform_and_mixup_but_no_crops() -> None:
    data = dn.datasets.waves(n=200, length=16, channels=2, classes=3, rng=0)
    net = dn.nets.mlp(data, width=16, rng=0)
    dn.fit(net, data, epochs=1, augment=dn.Augment(transform=lambda x, rng: x[:, ::-1], mixup=0.2), **QUIET)
    with pytest.raises(ValueError, match="transform and mixup alone"):
        dn.fit(net, data, epochs=1, augment=dn.Augment(flip=True), **QUIET)


# ---- batches made ahead ----


def test_batches_made_ahead_give_the_same_bits() -> None:
    nets = []
    for overlap in (False, True):
        net = make((0.5, 1.0))
        loop = loop_for(net, epochs=2, augment=EVERYTHING)
        loop.overlap = overlap
        loop.run()
        nets.append(net)
    assert same(*nets)
    several = make((0.5, 1.0))
    dn.fit(several, DATA, epochs=2, augment=EVERYTHING, **{**QUIET, "threads": 3})
    assert same(nets[0], several)


def test_a_batch_is_made_in_another_thread_that_is_gone_afterwards() -> None:
    names: list[str] = []

    def watch(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        names.append(threading.current_thread().name)
        return x

    before = threading.active_count()
    dn.fit(make(), DATA, epochs=1, augment=dn.Augment(transform=watch), **{**QUIET, "threads": 2})
    assert {name.partition("_")[0] for name in names} == {"dynadnn-batch"}
    assert threading.active_count() == before
    names.clear()
    dn.fit(make(), DATA, epochs=1, augment=dn.Augment(transform=watch), **QUIET)
    assert set(names) == {threading.current_thread().name}  # one thread means one


def test_an_error_of_a_transform_comes_in_its_step_and_leaves_the_steps_before_it() -> None:
    nets: list[dn.Network] = []
    for threads in (1, 2):
        calls: list[int] = []

        def fail(x: np.ndarray, rng: np.random.Generator, calls: list[int] = calls) -> np.ndarray:
            calls.append(1)
            if len(calls) == 3:
                raise ZeroDivisionError("third batch")
            return x

        net = make()
        loop = loop_for(net, augment=dn.Augment(transform=fail), threads=threads)
        with pytest.raises(ZeroDivisionError, match="third batch"):
            loop.run()
        assert loop.step == 2
        nets.append(net)
    assert same(*nets) and threading.active_count() < 20


def test_a_run_with_everything_resumes_with_the_same_bits(tmp_path: Path) -> None:
    path, options = tmp_path / "run.safetensors", {**QUIET, "epochs": 2, "augment": EVERYTHING, "threads": 2}
    whole, broken, again = make(), make(), make()
    dn.fit(whole, DATA, **options)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        dn.fit(broken, DATA, checkpoint=path, callbacks=(StopAt(2),), **options)
    assert threading.active_count() == before
    dn.fit(again, DATA, checkpoint=path, **options)
    assert same(whole, again)
    with pytest.raises(ValueError, match=r"augment: .*noise"):
        dn.fit(make(), DATA, checkpoint=path, **{**options, "augment": dn.Augment(flip=True)})


def test_going_back_within_an_epoch_makes_the_same_batches_with_and_without_a_thread() -> None:
    def once(calls: list[int]) -> Any:
        def loss(outputs: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            calls.append(1)
            p = outputs - np.eye(10, dtype=np.float32)[y]
            return np.square(p).sum(axis=1) * (np.nan if len(calls) == 5 else 1), p / len(y)

        return loss

    seen: list[list[bytes]] = []
    nets = []
    for overlap in (False, True):
        images: list[bytes] = []
        seen.append(images)

        def watch(x: np.ndarray, rng: np.random.Generator, images: list[bytes] = images) -> np.ndarray:
            out = noise(x, rng)
            images.append(out.tobytes())
            return out

        net = make()
        how = dn.Augment(flip=True, transform=watch)
        loop = loop_for(net, epochs=3, augment=how, loss=once([]), on_nonfinite="rollback")
        loop.overlap = overlap
        history = loop.run()
        assert [(r.epoch, r.step, r.to_step) for r in history.rollbacks] == [(2, 5, 3)]
        nets.append(net)
    assert same(*nets)
    plain, ahead = seen
    assert len(plain) == 11 and plain[3:5] == plain[5:7]  # steps 4 and 5 are made twice
    assert set(plain) == set(ahead)  # one more was made ahead, and it is that of the next step


# ---- a teacher's outputs with flips alone ----


class Counting:
    """A teacher that counts the images it is shown and looks at left and right differently."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.images += len(x)
        columns = x.reshape(len(x), 8, 8).astype(np.float32).sum(axis=1)
        return np.ascontiguousarray(np.concatenate([columns, columns[:, :2]], axis=1) / 100)


def test_with_flips_alone_the_teacher_sees_each_form_of_an_image_once() -> None:
    teacher, options = Counting(), {**QUIET, "augment": dn.Augment(flip=True), "val": DATA.test.take([])}
    dn.distill(make(), teacher, DATA, epochs=12, **options)
    assert len(DATA.train) < teacher.images <= 2 * len(DATA.train)


def test_cached_outputs_of_flipped_images_are_those_of_the_flipped_images() -> None:
    options = {**QUIET, "val": DATA.test.take([]), "epochs": 4}
    cached, live = make(), make()
    dn.distill(cached, Counting(), DATA, augment=dn.Augment(flip=True), **options)
    # a transform that does nothing: the teacher sees every batch
    dn.distill(live, Counting(), DATA, augment=dn.Augment(flip=True, transform=lambda x, rng: x), **options)
    assert same(cached, live)


def test_which_images_are_mirrored_is_what_the_core_says() -> None:
    rows = np.arange(len(DATA.train))
    out = moved(DATA.train.x, rows, dn.Augment(flip=True), None, seed=5, epoch=3)
    mirrored = _core.augment_flips(rows, seed=5, epoch=3)
    np.testing.assert_array_equal(out, np.where(mirrored[:, None, None, None], DATA.train.x[:, :, ::-1], DATA.train.x))
    assert 0.4 < mirrored.mean() < 0.6


def test_cached_outputs_of_both_forms_survive_an_interruption(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    options = {**QUIET, "augment": dn.Augment(flip=True), "val": DATA.test.take([]), "epochs": 3}
    whole, broken, again = make(), make(), make()
    dn.distill(whole, Counting(), DATA, **options)
    with pytest.raises(KeyboardInterrupt):
        dn.distill(broken, Counting(), DATA, checkpoint=path, callbacks=(StopAt(4),), **options)
    late = Counting()
    dn.distill(again, late, DATA, checkpoint=path, **options)
    assert same(whole, again) and late.images < 2 * len(DATA.train) - 300


def test_mixed_labels_are_told_apart_from_plain_ones() -> None:
    y = np.array([0, 1])
    outputs = np.zeros((2, 2), np.float32)
    plain = label_loss(dn.CrossEntropy(), outputs, y, None)
    alone = MixedLabels(y, y[::-1].copy(), np.ones(2, np.float32), None, None)
    for a, b in zip(plain, label_loss(dn.CrossEntropy(), outputs, alone, None), strict=True):
        np.testing.assert_array_equal(a, b)
