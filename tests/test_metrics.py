"""Figures of merit against scikit-learn and by hand, and what networks of several labels and of targets answer."""

import numpy as np
import pytest

import dynadnn as dn
from dynadnn._metrics import area, evaluate_outputs, label_confusion, sigmoid, softmax

DRAW = np.random.default_rng(0)


def outputs_of(y, classes, noise=2.0):
    """Outputs that know something of the labels, rounded so that there are ties."""
    signal = np.eye(classes)[y] if y.ndim == 1 else y.astype(float)
    return (np.round(2 * (2 * signal - 1 + DRAW.normal(0, noise, signal.shape))) / 2).astype(np.float32)


def one(outputs, y, metric):
    return evaluate_outputs(outputs, y, (metric,))[metric]


def test_figures_of_classes_are_scikit_learns():
    sk = pytest.importorskip("sklearn.metrics")
    for classes in (2, 3, 7):
        y = DRAW.integers(0, classes, 300)
        outputs = outputs_of(y, classes)
        predicted = outputs.argmax(axis=1)
        exact = softmax(outputs)  # rounded the same, so that ties are the same
        assert np.allclose(exact.sum(axis=1), 1) and np.allclose(np.diff(np.log(exact)), np.diff(outputs))
        wanted = {
            "accuracy": sk.accuracy_score(y, predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(y, predicted),
            "f1": sk.f1_score(y, predicted, average="macro"),
            "f1_macro": sk.f1_score(y, predicted, average="macro"),
            "f1_micro": sk.f1_score(y, predicted, average="micro"),
            "loss": sk.log_loss(y, exact),
            "auroc": sk.roc_auc_score(y, outputs[:, 1] - outputs[:, 0] if classes == 2 else exact, multi_class="ovr"),
        }
        got = evaluate_outputs(outputs, y, tuple(wanted))
        for name, value in wanted.items():
            assert np.isclose(got[name], value, rtol=1e-9), (classes, name)


def test_figures_of_several_labels_are_scikit_learns():
    sk = pytest.importorskip("sklearn.metrics")
    y = (DRAW.random((300, 5)) < (0.1, 0.3, 0.5, 0.7, 0.9)).astype(np.uint8)
    outputs = outputs_of(y, 5)
    outputs[:, 0] = -1 - np.abs(outputs[:, 0])  # a label that is never predicted
    predicted = outputs > 0
    wanted = {
        "accuracy": sk.accuracy_score(y, predicted),
        "label_accuracy": 1 - sk.hamming_loss(y, predicted),
        "f1": sk.f1_score(y, predicted, average="macro"),
        "f1_micro": sk.f1_score(y, predicted, average="micro"),
        "auroc": sk.roc_auc_score(y, outputs, average="macro"),
        "loss": np.mean([sk.log_loss(y[:, k], sigmoid(outputs[:, k].astype(float))) for k in range(5)]),
    }
    got = evaluate_outputs(outputs, y, tuple(wanted))
    for name, value in wanted.items():
        assert np.isclose(got[name], value, rtol=1e-9), name
    assert np.array_equal(label_confusion(outputs, y), sk.multilabel_confusion_matrix(y, predicted))
    assert got["accuracy_interval"][0] < got["accuracy"] < got["accuracy_interval"][1]


def test_the_area_counts_a_tie_as_one_half():
    score, positive = np.array([1, 2, 2, 3, 3, 3]), np.array([0, 0, 1, 0, 1, 1], bool)
    pairs = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    assert area(score, positive) == pytest.approx(np.mean(pairs))
    assert area(np.zeros(6), positive) == 0.5 and area(-score, positive) == pytest.approx(1 - np.mean(pairs))


def test_figures_of_targets_are_what_their_names_say():
    outputs, y = np.array([[1, 2], [3, 5]], np.float32), np.array([[1, 0], [0, 5]], np.float32)
    got = evaluate_outputs(outputs, y, ("accuracy", "loss", "mse", "rmse", "mae"))
    assert got == {"loss": 13 / 4, "mse": 13 / 4, "rmse": np.sqrt(13 / 4), "mae": 5 / 4}


@pytest.mark.parametrize(
    ("y", "text"),
    [
        (np.zeros(8, np.int64), "class 0 has 8 of 8"),
        (np.arange(8) % 2, "class 2 has 0 of 8"),
        (np.ones((8, 3), np.uint8), "label 0 has 8 of 8"),
    ],
)
def test_auroc_without_one_of_the_classes_is_an_error_that_names_it(y, text):
    with pytest.raises(ValueError, match=text):
        one(np.zeros((8, 3), np.float32), y, "auroc")


def test_own_functions_are_called_by_their_name_and_must_return_a_number():
    outputs, y = np.ones((4, 2), np.float32), np.zeros((4, 2), np.float32)

    def largest(o, y):
        return np.abs(o - y).max()

    def per_row(o, y):
        return (o - y).sum(axis=1)

    assert evaluate_outputs(outputs, y, (largest,)) == {"largest": 1.0}
    with pytest.raises(TypeError, match=r"per_row\(outputs, y\) must return one number, not float32 of shape \(4,\)"):
        evaluate_outputs(outputs, y, (per_row,))
    with pytest.raises(ValueError, match="'auroc': for regression it may hold loss, mse, rmse, mae"):
        evaluate_outputs(outputs, y, ("auroc",))
    with pytest.raises(TypeError, match=r"such as \('mse',\)"):
        evaluate_outputs(outputs, y, "mse")


def trained(y, loss="auto", **options):
    x = np.random.default_rng(1).standard_normal((300, 5), np.float32)
    data = dn.datasets.from_arrays(x, y(x), rng=0)
    net = dn.nets.mlp(data, width=24, rng=0)
    history = dn.fit(net, data, epochs=8, batch=30, loss=loss, progress=False, rng=0, **options)
    return net, data, history


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32])
def test_a_network_of_several_labels_answers_with_a_matrix_of_0_and_1(kind, tmp_path):
    net, data, history = trained(lambda x: (x[:, :2] > 0).astype(kind), dn.BCE(), metrics=("f1", "auroc"))
    assert net.task == "multilabel" and history.history["val_auroc"][-1] > 0.9
    predicted, probability = net.predict(data.test.x), net.predict_proba(data.test.x)
    assert predicted.shape == (30, 2) and set(np.unique(predicted)) <= {0, 1} and predicted.dtype == np.int64
    assert np.array_equal(predicted == 1, probability > 0.5) and probability.dtype == np.float32
    figures = net.evaluate(data.test, metrics=("accuracy", "label_accuracy", "f1", "f1_micro", "auroc", "loss"))
    assert figures["accuracy"] == (predicted == data.test.y).all(axis=1).mean() > 0.7
    net.save(tmp_path / "net.safetensors")
    for same in (dn.load(tmp_path / "net.safetensors"), net.copy(), dn.quantize(net, data), net.slice()):
        assert same.task == "multilabel" and same.predict(data.test.x).shape == (30, 2)
    report = net.report(data.test)
    assert report.confusion.shape == (2, 2, 2) and report.confusion.sum() == 60
    rows = report.table(("a", "b")).rows
    assert rows[0][0] == "a" and rows[1][-1] == data.test.y[:, 1].sum() and rows[0][4] == report.auroc[0]
    assert "all labels right" in str(report)


def test_a_label_that_nobody_has_is_not_a_number_in_a_report_only():
    net, data, _ = trained(lambda x: x[:, :2] > 0)
    y = data.test.y.copy()
    y[:, 1] = 0
    report = net.report((data.test.x, y))
    assert np.isfinite(report.auroc[0]) and np.isnan(report.auroc[1])
    assert "nan" in str(report)
    with pytest.raises(ValueError, match="label 1 has 0 of 30"):
        net.evaluate((data.test.x, y), metrics=("auroc",))


def test_a_network_of_targets_answers_with_its_outputs():
    net, data, history = trained(lambda x: x[:, :2] * 2, dn.Huber(), metrics=("mae",))
    assert net.task == "regression" and "val_accuracy" not in history.history
    assert history.history["val_mae"][-1] < history.history["val_mae"][0]
    assert np.array_equal(net.predict(data.test.x), net(data.test.x))
    with pytest.raises(ValueError, match="no probabilities"):
        net.predict_proba(data.test.x)
    figures, report = net.evaluate(data.test, metrics=("accuracy", "mse", "rmse", "mae")), net.report(data.test)
    assert "accuracy" not in figures and figures["rmse"] == pytest.approx(figures["mse"] ** 0.5)
    assert report.mae.mean() == pytest.approx(figures["mae"]) and report.r2.shape == (2,)
    d = net(data.test.x).astype(float) - data.test.y
    assert np.allclose(report.bias, d.mean(axis=0)) and np.allclose(report.rmse, np.sqrt((d**2).mean(axis=0)))
    assert np.allclose(report.r2, 1 - (d**2).sum(axis=0) / ((data.test.y - data.test.y.mean(axis=0)) ** 2).sum(axis=0))
    assert "rmse" in str(report) and report.table().columns[0] == "target"


def test_a_network_of_targets_is_measured_by_its_loss():
    net, data, _ = trained(lambda x: x[:, :2] * 2)
    record = dn.measure(net, data.test).records[0]
    assert record.accuracy is None and record.error == record.loss > 0 and record.latency > 0
    with pytest.raises(ValueError, match="max_accuracy_drop needs labels"):
        dn.quantize(net, data, max_accuracy_drop=0.01)


def test_classes_stay_classes():
    net, data, _ = trained(lambda x: (x[:, 0] > 0).astype(np.int64))
    assert net.task == "classification" and net.predict(data.test.x).shape == (30,)
    assert np.allclose(net.predict_proba(data.test.x).sum(axis=1), 1)
    assert 0.8 < net.evaluate(data.test, metrics=("auroc",))["auroc"] <= 1


def test_integers_beyond_0_and_1_in_columns_are_refused():
    with pytest.raises(ValueError, match="integers from 0 to 4 in 2 columns: several labels are 0 and 1"):
        dn.datasets.from_arrays(np.zeros((5, 3), np.float32), np.stack([np.arange(5)] * 2, axis=1), rng=0)
    net, data, _ = trained(lambda x: x[:, :2] > 0)
    with pytest.raises(ValueError, match="integers from 2 to 2"):
        net.evaluate((data.test.x, np.full((30, 2), 2)))
    with pytest.raises(ValueError, match=r"y\.astype\(bool\) for one label"):
        dn.datasets.from_arrays(np.zeros((5, 3), np.float32), np.zeros((5, 1), np.int64), rng=0)
