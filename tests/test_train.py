import csv
import dataclasses
import sys
import warnings

import numpy as np
import pytest

import dynadnn as dn
from dynadnn._distill import _DEFAULTS
from dynadnn._methods import Sandwich
from dynadnn._optimizers import Rate
from dynadnn._train import make_loop

DATA = dn.datasets.digits(rng=0)
QUIET = {"progress": False, "rng": 0, "augment": None}


def make(points=(0.5, 1.0), width=32, rng=0):
    return dn.nets.mlp(DATA, width=width, points=points, rng=rng)


def same(a, b):
    return all(np.array_equal(a.weights[k], b.weights[k]) for k in a.weights)


def figures(history):
    return {k: v for k, v in history.history.items() if k != "seconds"}


@pytest.fixture(scope="module")
def teacher():
    net = make((1.0,), 64)
    dn.fit(net, DATA, epochs=8, **QUIET)
    return net


class StopAt(dn.Callback):
    """Raise or stop after a step; count what was called."""

    def __init__(self, step=None, error=KeyboardInterrupt):
        self.at, self.error, self.calls = step, error, []

    def on_step_end(self, logs):
        self.calls.append(logs["step"])
        if logs["step"] == self.at:
            if self.error is None:
                return "stop"
            raise self.error
        return None

    def on_epoch_end(self, logs):
        self.calls.append(("epoch", logs["epoch"]))

    def state(self):
        return len(self.calls)

    def load_state(self, state):
        self.calls = ["before"] * state


# ---- fit ----


def test_training_learns_every_named_point():
    net = make((0.25, 0.5, 1.0), 64)
    history = dn.fit(net, DATA, epochs=6, **QUIET)
    assert history.epochs == 6 and history.steps == 6 * 8 and history.seed == 0
    assert history.history["loss"][-1] < history.history["loss"][0] / 2
    for point in net.points:
        assert net.evaluate(DATA.test, point)["accuracy"] > 0.88
        assert len(history.history[f"val_accuracy/{point}"]) == 6
    assert net.provenance["data"] == DATA.fingerprint and net.provenance["steps"] == 48
    assert 0 < history.train_seconds <= history.seconds and history.macs > 0


def test_the_seed_decides_everything_and_threads_nothing():
    a, b, c = make(), make(), make()
    ha = dn.fit(a, DATA, epochs=2, threads=1, **{**QUIET, "augment": "auto"})
    hb = dn.fit(b, DATA, epochs=2, threads=2, **{**QUIET, "augment": "auto"})
    dn.fit(c, DATA, epochs=2, **{**QUIET, "augment": "auto", "rng": 1})
    assert same(a, b) and figures(ha) == figures(hb) and not same(a, c)


@pytest.mark.parametrize(
    "method", [dn.SinglePath(), dn.MultiPath(), dn.Sandwich(random=0), dn.Sandwich(targets="teacher")]
)
def test_methods_train(method):
    net = make((0.25, 0.5, 1.0), 64)
    dn.fit(net, DATA, epochs=4, method=method, **QUIET)
    assert min(net.evaluate(DATA.test, p)["accuracy"] for p in net.points) > 0.6


def test_a_signal_set_and_targets_train():
    waves = dn.datasets.waves(600, 32, 2, 3, rng=0)
    net = dn.nets.cnn1d(waves, width=8, rng=0)
    dn.fit(net, waves, epochs=4, batch=32, progress=False, rng=0)
    assert net.evaluate(waves.test)["accuracy"] > 0.6
    x = np.random.default_rng(0).standard_normal((400, 6), np.float32)
    data = dn.datasets.from_arrays(x, x[:, :2] * 2, rng=0)
    net = dn.nets.mlp(data, width=32, rng=0)
    history = dn.fit(net, data, epochs=15, batch=32, optimizer=dn.AdamW(lr=1e-2), progress=False, rng=0)
    assert history.history["val_loss"][-1] < 0.5 and net.evaluate(data.test)["loss"] < 0.5


def test_a_loss_may_be_a_function():
    def hinge(outputs, y):
        sign = np.where(np.arange(outputs.shape[1]) == y[:, None], 1, -1).astype(np.float32)
        slack = np.maximum(0, 1 - sign * outputs)
        return slack.mean(axis=1), -sign * (slack > 0) / outputs.size

    net = make((1.0,))
    dn.fit(net, DATA, epochs=4, loss=hinge, **QUIET)
    assert net.evaluate(DATA.test)["accuracy"] > 0.6


def test_frozen_layers_stay_as_they_are():
    net = make((1.0,))
    before = dict(net.weights)
    dn.fit(net, DATA, epochs=1, frozen=["fc1"], **QUIET)
    assert np.array_equal(before["fc1.weight"], net.weights["fc1.weight"])
    assert np.array_equal(before["fc1.bn.weight"], net.weights["fc1.bn.weight"])
    assert not np.array_equal(before["fc2.weight"], net.weights["fc2.weight"])


def test_the_last_partial_batch_is_dropped_and_a_large_batch_is_what_there_is(capsys):
    small = DATA.subset(100)
    assert dn.fit(make(), small, epochs=2, batch=30, **QUIET).steps == 6
    history = dn.fit(make(), small, epochs=2, batch=128, **{**QUIET, "progress": True})
    assert history.steps == 2
    out = capsys.readouterr().out
    assert "batch: 100" in out and "method: Sandwich" in out and "epoch 2/2" in out


def test_what_augment_auto_means_is_said_and_quiet_is_quiet(capsys):
    dn.fit(make(), DATA.subset(64), epochs=1, batch=32, rng=0, progress=True)
    assert "augment: shift up to 1" in capsys.readouterr().out
    dn.fit(make(), DATA.subset(64), epochs=1, batch=32, rng=0, progress=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_weights_of_samples_count():
    weight = np.where(DATA.train.y < 5, 0, 1).astype(np.float32)
    split = dn.Split(DATA.train.x, DATA.train.y, weight, DATA.train.index)
    net = make((1.0,))
    dn.fit(net, dataclasses.replace(DATA, train=split), epochs=4, **QUIET)
    assert set(np.unique(net.predict(DATA.test.x))) <= set(range(5, 10))


# ---- schedules and methods ----


@pytest.mark.parametrize("steps", [40, 41, 123])
def test_onecycle_is_pytorchs(steps):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=steps, pct_start=0.25)
    rate = Rate("onecycle", dn.SGD(lr=0.4), steps)
    for step in range(steps):
        group = optimizer.param_groups[0]
        assert np.allclose(rate.at(step), (group["lr"], group["momentum"]), rtol=1e-9)
        optimizer.step()
        if step < steps - 1:
            theirs.step()


def test_other_schedules():
    assert Rate("constant", dn.SGD(lr=0.2), 10).at(9) == (0.2, 0.9)
    cosine = Rate("cosine", dn.SGD(lr=0.2), 10)
    assert cosine.at(0)[0] == 0.2 and abs(cosine.at(5)[0] - 0.1) < 1e-12
    assert Rate(lambda step, steps: step / steps, dn.AdamW(), 10).at(3) == (0.3, 0.9)
    assert [Rate("onecycle", dn.SGD(), n).at(0)[0] > 0 for n in (1, 2, 3, 4, 5)] == [True] * 5


def test_a_halted_schedule_decays_to_its_end():
    rate = Rate("onecycle", dn.SGD(lr=0.4), 100)
    before = rate.at(49)[0]
    rate.halt(50, 0.2)
    lrs = [rate.at(s)[0] for s in range(50, rate.last)]
    assert rate.last == 60 and before > lrs[0] and (np.diff(lrs) < 0).all() and abs(lrs[-1] - 0.4 / 25e4) < 1e-12


def test_sandwich_takes_widest_narrowest_and_named_points_without_repetition():
    net = dn.nets.mlp((4,), 3, points=(0.25, 0.5, 0.75, 1.0), rng=0)
    points = list(net.points.values())
    for step in range(5):
        chosen = Sandwich().choose(net._rules, points, 0, step)
        assert chosen[0].subnet == points[-1] and chosen[1].subnet == points[0]
        assert {c.subnet for c in chosen} == set(points) and [c.soft for c in chosen] == [False, True, True, True]
    assert Sandwich(random=5).choose(net._rules, points, 0, 1) == Sandwich(random=5).choose(net._rules, points, 0, 1)
    assert len(Sandwich(random=5).choose(net._rules, points, 0, 1)) == 7


# ---- interruption ----


def test_ctrl_c_leaves_the_last_finished_step():
    a, b = make(), make()
    with pytest.raises(KeyboardInterrupt):
        dn.fit(a, DATA, epochs=4, callbacks=[StopAt(11)], **QUIET)
    dn.fit(b, DATA, epochs=4, callbacks=[StopAt(11, None)], **QUIET)
    assert same(a, b) and np.isfinite(a.evaluate(DATA.test, 0.5)["loss"])


def test_a_callback_may_stop_and_sees_every_mark():
    callback = StopAt(11, None)
    history = dn.fit(make(), DATA, epochs=4, callbacks=[callback], **QUIET)
    assert history.steps == 11 and callback.calls[:9] == [*range(1, 9), ("epoch", 0)]


def test_time_may_run_out():
    history = dn.fit(make(), DATA, epochs=500, max_seconds=0.2, **QUIET)
    assert history.seconds < 20 and history.halted[0].what == "training" and "max_seconds" in history.halted[0].why


@pytest.mark.parametrize("step", [5, 8, 9, 13, 31])
def test_a_resumed_run_ends_with_the_same_bits(step, tmp_path):
    options = {**QUIET, "augment": "auto"}
    whole, part = make(), make()
    ha = dn.fit(whole, DATA, epochs=4, **options)
    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        dn.fit(part, DATA, epochs=4, checkpoint=path, callbacks=[StopAt(step)], **options)
    again, callback = make(), StopAt()
    hb = dn.fit(again, DATA, epochs=4, checkpoint=path, callbacks=[callback], **options)
    assert same(whole, again) and figures(ha) == figures(hb) and ha.steps == hb.steps and ha.macs == hb.macs
    assert callback.calls[0] == "before"
    assert dn.fit(make(), DATA, epochs=4, checkpoint=path, callbacks=[StopAt()], **options).steps == ha.steps


def test_a_resumed_distillation_ends_with_the_same_bits(teacher, tmp_path):
    runs = []
    for stop in (None, 13):
        student, trainee = make(), make((1.0,), 48, rng=5)
        options = {**QUIET, "augment": dn.Augment(shift=1), "halting": dn.EarlyHalting(), "trainee": trainee}
        path = tmp_path / f"checkpoint{stop}"
        if stop:
            with pytest.raises(KeyboardInterrupt):
                dn.distill(student, teacher, DATA, epochs=4, checkpoint=path, callbacks=[StopAt(stop)], **options)
            student, options["trainee"] = make(), make((1.0,), 48, rng=5)
        history = dn.distill(student, teacher, DATA, epochs=4, checkpoint=path, **options)
        runs.append((student, options["trainee"], figures(history)))
    assert same(runs[0][0], runs[1][0]) and same(runs[0][1], runs[1][1]) and runs[0][2] == runs[1][2]


def test_a_checkpoint_of_another_run_is_an_error_that_lists_the_differences(tmp_path):
    path = tmp_path / "checkpoint"
    dn.fit(make(), DATA, epochs=1, checkpoint=path, **QUIET)
    with pytest.raises(ValueError, match="batch: 128 there, 64 here"):
        dn.fit(make(), DATA, epochs=1, batch=64, checkpoint=path, **QUIET)
    with pytest.raises(ValueError, match="graph: "):
        dn.fit(make(width=16), DATA, epochs=1, checkpoint=path, **QUIET)
    with pytest.raises(ValueError, match="data: "):
        dn.fit(make(), dn.datasets.digits(rng=1), epochs=1, checkpoint=path, **QUIET)
    dn.fit(make(width=16), DATA, epochs=1, checkpoint=path, resume=False, **QUIET)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(dn.FormatError):
        dn.fit(make(width=16), DATA, epochs=1, checkpoint=path, **QUIET)


# ---- halting ----


def test_halting_training_makes_the_final_decay_of_a_tied_schedule():
    history = dn.fit(make(), DATA, epochs=60, halting=dn.EarlyHalting(patience=2, min_gain=0.05), **QUIET)
    assert [h.what for h in history.halted] == ["training"] and "final decay" in history.halted[0].why
    assert history.steps < 60 * 8 and history.history["lr"][-1] < 1e-5 and history.halted[0].macs_saved > 0


def test_halting_training_restores_the_best_weights_of_a_free_schedule():
    net = make((1.0,))
    halting = dn.EarlyHalting(patience=2, min_gain=0.05)
    options = {**QUIET, "schedule": "constant", "optimizer": dn.SGD(lr=0.3)}
    history = dn.fit(net, DATA, epochs=60, halting=halting, **options)
    assert "best weights restored" in history.halted[0].why
    best = make((1.0,))
    dn.fit(best, DATA, epochs=int(np.argmin(history.history["val_loss"])) + 1, **options)
    assert same(net, best)


def test_halting_needs_validation_and_a_point_that_is_there():
    data = dn.datasets.from_arrays(DATA.train.x, DATA.train.y, val=0, test=0, rng=0)
    with pytest.raises(ValueError, match="needs validation"):
        dn.fit(make(), data, epochs=1, halting=dn.EarlyHalting(), **QUIET)
    with pytest.raises(ValueError, match="'mean' or one of"):
        dn.fit(make(), DATA, epochs=1, halting=dn.EarlyHalting(point="0.3"), **QUIET)
    assert "val_loss" not in dn.fit(make(), data, epochs=1, **QUIET).history


# ---- distillation ----


def test_a_student_learns_from_a_teacher_at_every_point(teacher):
    student = make((0.25, 0.5, 1.0), 32, rng=3)
    history = dn.distill(student, teacher, DATA, epochs=6, method=dn.Sandwich(), **QUIET)
    assert min(student.evaluate(DATA.test, p)["accuracy"] for p in student.points) > 0.8
    assert history.epochs == 6


def test_the_three_kinds_of_teacher_teach_the_same(teacher):
    logits = teacher(DATA.train.x)
    students = [make(rng=3) for _ in range(3)]
    for student, kind in zip(students, (teacher, logits, lambda x: teacher(x)), strict=True):
        dn.distill(student, kind, DATA, epochs=1, **QUIET)
    assert same(students[0], students[1]) and same(students[0], students[2])


def test_the_teacher_runs_once_per_image_without_augmentation(teacher):
    seen = []

    def count(x):
        seen.append(len(x))
        return teacher(x)

    data = dataclasses.replace(DATA, val=DATA.val.take([]))
    dn.distill(make(), count, data, epochs=4, **QUIET)
    assert sum(seen) <= len(DATA.train)


def test_a_trainee_is_trained_and_halted_once_the_student_has_caught_up(teacher):
    trainee = make((1.0,), 8, rng=7)
    student = make((1.0,), 64)
    history = dn.distill(
        student, teacher, DATA, epochs=8, trainee=trainee, halting=dn.EarlyHalting(training=False), **QUIET
    )
    assert history.halted and history.halted[0].what == "trainee"
    assert len(history.history["trainee_val_loss"]) == history.halted[0].epoch < 8
    assert np.isfinite(trainee.evaluate(DATA.test)["loss"])
    frozen = dict(trainee.weights)
    assert all(np.isfinite(v).all() for v in frozen.values())


def test_a_settled_teacher_is_replaced_by_its_average(teacher):
    halting = dn.EarlyHalting(training=False, patience=1, min_gain=0.9)
    options = {**QUIET, "augment": dn.Augment(shift=1)}
    history = dn.distill(make((1.0,)), teacher, DATA, epochs=6, halting=halting, **options)
    assert [h.what for h in history.halted] == ["teacher"] and history.halted[0].epoch < 6


def test_a_weaker_teacher_is_warned_of(teacher):
    weak = make((1.0,), 8, rng=9)
    weak.recalibrate(DATA.calibration.x)
    student = teacher.copy()
    with pytest.warns(UserWarning, match="teacher is weaker"):
        dn.distill(student, weak, DATA, epochs=1, kd=dn.KD(soft_weight=0.1), **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dn.distill(make(width=8), teacher, DATA, epochs=1, **QUIET)


def test_teachers_that_do_not_fit_are_refused(teacher):
    with pytest.raises(ValueError, match=r"\(1097, 10\)"):
        dn.distill(make(), np.zeros((5, 10), np.float32), DATA, epochs=1, **QUIET)
    with pytest.raises(ValueError, match="must return float32"):
        dn.distill(make(), lambda x: np.zeros((len(x), 10)), DATA, epochs=1, **QUIET)
    with pytest.raises(ValueError, match="7 outputs"):
        dn.distill(make(), dn.nets.mlp((8, 8, 1), 7, rng=0), DATA, epochs=1, **QUIET)
    with pytest.raises(dn.PointError, match="no statistics"):
        dn.distill(make(), make(), DATA, epochs=1, **QUIET)
    with pytest.raises(dn.NonFiniteError):
        dn.distill(make(), np.full((1097, 10), np.nan, np.float32), DATA, epochs=1, **QUIET)
    with pytest.raises(ValueError, match="of its own"):
        dn.distill(make(), teacher, DATA, epochs=1, trainee=teacher, **QUIET)
    with pytest.raises(TypeError, match="no option 'epoch'"):
        dn.distill(make(), teacher, DATA, epochs=1, epoch=2, **QUIET)


# ---- errors ----


def test_a_loss_that_is_not_finite_names_step_and_keeps_the_weights():
    net = make((1.0,))
    with pytest.raises(dn.NonFiniteError, match=r"epoch 1, step \d"):
        dn.fit(net, DATA, epochs=2, optimizer=dn.SGD(lr=1e30), schedule="constant", **QUIET)
    assert all(np.isfinite(v).all() for v in net.weights.values())


def test_steps_that_are_not_finite_may_be_skipped():
    calls = []

    def broken(outputs, y):
        calls.append(1)
        loss = np.full(len(y), np.nan if len(calls) == 3 else 1.0, np.float32)
        return loss, np.zeros_like(outputs)

    history = dn.fit(make((1.0,)), DATA, epochs=1, loss=broken, on_nonfinite="skip", **QUIET)
    assert history.skipped == 1 and history.steps == 7


UNSUPPORTED = {"arithmetic": "swalp"}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_built_is_named(name):
    with pytest.raises(dn.UnsupportedError, match=name):
        dn.fit(make(), DATA, epochs=1, **{name: UNSUPPORTED[name]}, **QUIET)


def test_a_moving_average_is_that_of_the_weights_of_every_step():
    seen = []

    class Watch(dn.Callback):
        def on_step_end(self, logs):
            seen.append(loop.session._params())

    net = make()
    loop = make_loop(
        net, DATA, None, {}, **{**_DEFAULTS, "epochs": 1, "batch": 100, "ema": 0.5, "callbacks": (Watch(),), **QUIET}
    )
    start = {key: value.copy() for key, value in loop.session._average.items()}
    loop.run()
    for key, average in start.items():
        for step, params in enumerate(seen, start=1):
            average = average + np.float32(1 - min(0.5, (1 + step) / (10 + step))) * (params[key] - average)
        number, kind = key.split("/")
        name = f"{net._spec.nodes[int(number)].name}.{kind}"
        if name in net.weights:
            np.testing.assert_allclose(net.weights[name].ravel(), average, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_run_with_a_moving_average_resumes_with_the_same_bits(tmp_path):
    path, options = tmp_path / "run.safetensors", {"batch": 100, "ema": 0.9, **QUIET, "rng": 3}
    whole, broken = make(), make()
    dn.fit(whole, DATA, epochs=2, **options)
    with pytest.raises(KeyboardInterrupt):
        dn.fit(broken, DATA, epochs=2, checkpoint=path, callbacks=(StopAt(5),), **options)
    again = make()
    dn.fit(again, DATA, epochs=2, checkpoint=path, **options)
    for key, value in whole.weights.items():
        np.testing.assert_array_equal(again.weights[key], value, err_msg=key)


@pytest.mark.parametrize("decay", [0, 1, -0.5, 2, "0.9", True])
def test_a_moving_average_that_cannot_be_is_refused(decay):
    with pytest.raises(ValueError, match="ema must be above 0"):
        dn.fit(make(), DATA, epochs=1, ema=decay, **QUIET)


def test_training_a_quantised_network_is_not_built():
    net = make()
    net.recalibrate(DATA.calibration.x)
    with pytest.raises(dn.UnsupportedError, match="quantised"):
        dn.fit(dn.quantize(net, DATA), DATA, epochs=1, **QUIET)


BAD = {
    "epochs": ({"epochs": 0}, ValueError, "epochs must be at least 1"),
    "a batch of nothing": ({"batch": 0}, ValueError, "batch"),
    "a schedule nobody knows": ({"schedule": "linear"}, ValueError, "onecycle"),
    "an optimiser by name": ({"optimizer": "sgd"}, TypeError, r"dn.SGD"),
    "a method by name": ({"method": "sandwich"}, TypeError, r"dn.Sandwich"),
    "an augmentation by name": ({"augment": "flip"}, TypeError, r"dn.Augment"),
    "a loss by another name": ({"loss": "mse"}, TypeError, r"dn.MSE"),
    "a loss for targets": ({"loss": dn.MSE()}, ValueError, "class labels"),
    "a frozen layer that is not there": ({"frozen": ["conv9"]}, ValueError, "conv9"),
    "no threads": ({"threads": 0}, ValueError, "threads"),
    "a seed below zero": ({"rng": -1}, ValueError, "rng"),
    "a class callback": ({"callbacks": [StopAt]}, TypeError, r"dn.Callback"),
    "validation labels out of range": (
        {"val": (DATA.val.x[:3], np.array([0, 1, 10]))},
        ValueError,
        "labels from 0 to 10",
    ),
    "validation images of another shape": (
        {"val": (np.zeros((3, 9, 9, 1), np.uint8), np.zeros(3, int))},
        ValueError,
        "val",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_fit_refuses(name):
    options, kind, text = BAD[name]
    with pytest.raises(kind, match=text):
        dn.fit(make(), DATA, **{"epochs": 1, **QUIET, **options})


def test_labels_beyond_the_outputs_are_refused():
    net = dn.nets.mlp((8, 8, 1), 5, preprocess=DATA.preprocess, rng=0)
    with pytest.raises(ValueError, match="labels from 0 to 9: the network has outputs 0 to 4"):
        dn.fit(net, DATA, epochs=1, **QUIET)


def test_uint8_without_preprocess_is_refused():
    with pytest.raises(TypeError, match="no Preprocess"):
        dn.fit(dn.nets.mlp((8, 8, 1), 10, rng=0), DATA, epochs=1, **QUIET)


def test_values_of_options_are_checked():
    for make_one in (
        lambda: dn.SGD(lr=-1),
        lambda: dn.SGD(momentum=1.0),
        lambda: dn.AdamW(betas=(0.9, 1.0)),
        lambda: dn.KD(temperature=0),
        lambda: dn.KD(soft_weight=1.5),
        lambda: dn.EarlyHalting(patience=0),
        lambda: dn.EarlyHalting(cooldown=0),
        lambda: dn.EarlyHalting(monitor="loss"),
        lambda: dn.Sandwich(targets="labels"),
        lambda: dn.Sandwich(random=-1),
        lambda: dn.CrossEntropy(label_smoothing=1.0),
        lambda: dn.Augment(crop=-1),
    ):
        with pytest.raises(ValueError):
            make_one()


# ---- history ----


def test_a_history_plots_and_writes_rows(tmp_path, monkeypatch):
    history = dn.fit(make(), DATA.subset(128), epochs=2, batch=64, **QUIET)
    history.to_csv(tmp_path / "history.csv")
    rows = list(csv.reader((tmp_path / "history.csv").read_text().splitlines()))
    assert rows[0][:2] == ["epoch", "loss"] and len(rows) == 3
    pytest.importorskip("pandas")
    assert list(history.to_frame()["epoch"]) == [1, 2]
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    axes = history.plot()
    assert axes.get_xlabel() == "epoch" and len(axes.get_lines()) == 2
    assert history.plot(axes) is axes
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "dynadnn\[plot\]"'):
        history.plot()
